"""Looking for identifiers in the files of a study: tables, records, notebooks, pages, pictures, headers and models.

Voxels are not looked at; neither is text drawn into a picture.
"""

import csv
import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sscct_lib.privacy import Finding, Identifiers, find, is_identifying_field
from sscct_lib.privacy_texts import (
    LONGEST_DATE_NUMBER,
    READERS,
    read_json,
    read_nifti,
    read_notebook,
    read_picture,
    read_text,
)

if TYPE_CHECKING:
    import pandas as pd

PROJECT_FILES = {
    "sscct_lib", "tests", "benchmarks", "workflow", "book", "README.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "pyproject.toml", "constraints.txt", "environment.yml", "_config.yml",
}  # fmt: skip
"""In a copy of this project that is a study too, its own code and chapters are no study data."""
BINARY = {".npy", ".npz", ".so", ".pyc", ".woff", ".woff2", ".ttf", ".eot", ".ico", ".mo", ".inv", ".map"}
COPIED = {".ipynb", ".png", ".svg", ".md", ".html"}
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".webp"}
MOST_SHOWN = 50


@dataclass
class Search:
    """What was found, and in how much.

    Attributes
    ----------
    findings
        In the order of the files.
    n_files
        Files that were looked into.
    unread
        Files that could not be looked into.
    """

    findings: list[Finding] = field(default_factory=list)
    n_files: int = 0
    unread: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Write the findings as a list, the first 50 of them, and the files that could not be looked into."""
        shown = [str(one) for one in self.findings[:MOST_SHOWN]]
        if len(self.findings) > MOST_SHOWN:
            shown.append(f"and {len(self.findings) - MOST_SHOWN} more")
        return shown + self.unread


def search_study(
    folder: Path,
    known: Identifiers | None = None,
    parts: tuple[str, ...] = ("",),
    clean: dict[str, list[int]] | None = None,
) -> Search:
    """Look for identifiers in a study.

    Parameters
    ----------
    folder
        The study folder. Hidden files and folders are left out, and, where the study is a copy of this project, its
        code and chapters (what a book made of them is looked at).
    known
        The hospital's identifiers, from `source_identifiers.read_identifiers`; None: patterns only.
    parts
        Which files or folders of the study, relative to it; by default all.
    clean
        State (`_state`) of files in which nothing was found before, by the same search; they are not read again while
        it is the same. Files that are found clean are added.

    Returns
    -------
    Search
    """
    search, seen = Search(), set[bytes]()
    clean = {} if clean is None else clean
    for part in parts:
        for path in _files(folder, folder / part):
            place, state = path.relative_to(folder).as_posix(), _state(path)
            if clean.get(place) == state:
                search.n_files += 1
                continue
            n_before = len(search.findings)
            search.findings += [Finding(f"{place} (its name)", one.kind, one.masked) for one in find(place, known)]
            if path.suffix.lower() in BINARY:
                continue
            if path.suffix.lower() in COPIED:  # the book keeps copies of notebooks, pages and pictures
                digest = hashlib.sha256(path.read_bytes()).digest()
                if digest in seen:
                    continue
                seen.add(digest)
            try:
                found = search_file(path, known)
            except (OSError, ValueError, EOFError, KeyError, struct.error, zipfile.BadZipFile) as error:
                search.unread.append(f"{place}: not looked into ({type(error).__name__})")
                continue
            search.n_files += 1
            search.findings += [Finding(f"{place}, {one.place}", one.kind, one.masked) for one in found]
            if len(search.findings) == n_before:
                clean[place] = state
    return search


def _state(path: Path) -> list[int]:
    """Tell whether a file is the same: its number, size, and times, one of which no program can set back."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _files(root: Path, start: Path) -> Iterator[Path]:
    if start.is_file():
        yield start
    is_project = (root / "sscct_lib").is_dir()
    for folder, inner, names in os.walk(start):
        skipped = PROJECT_FILES if is_project and Path(folder) == root else set()
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__")) and name not in skipped)
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith(".") and name not in skipped)


def search_file(path: Path, known: Identifiers | None = None) -> list[Finding]:
    """Look for identifiers in one file.

    Parameters
    ----------
    path
        The file; how it is read follows from its name.
    known
        The hospital's identifiers.

    Returns
    -------
    list of Finding
        `place` is the place in the file.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _search_table(path, known)
    if suffix == ".csv":
        return _search_csv(path, known)
    if suffix == ".key":
        return [Finding("the whole file", "key", "from which study ids are made: keep it outside the study")]
    if _is_dicom(path):
        return [Finding("the whole file", "DICOM file", "with the header of a hospital")]
    special: list[Finding] = []
    if suffix in (".json", ".ipynb"):
        texts = read_notebook(path, special) if suffix == ".ipynb" else read_json(path, special)
    elif suffix in PICTURES:
        texts = read_picture(path.read_bytes())
    elif path.name.endswith((".nii", ".nii.gz")):
        texts = read_nifti(path, special)
    else:
        texts = READERS.get(suffix, read_text)(path)
    for place, text in texts:
        special += [Finding(_line(place, text, one.start), one.kind, one.masked) for one in find(text, known)]
    return special


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _line(place: str, text: str, start: int) -> str:
    return f"{place}line {text.count(chr(10), 0, start) + 1}" if place == "" or place.endswith(", ") else place


def _search_csv(path: Path, known: Identifiers | None) -> list[Finding]:
    text = path.read_text(encoding="utf-8-sig")
    rows = csv.reader(io.StringIO(text))
    names = next(rows, [])
    found = [Finding(f"column {name}", "field", "") for name in names if is_identifying_field(name)]
    found += [Finding("row 1", one.kind, one.masked) for name in names for one in find(name, known)]
    if not find(text, known):
        return found
    for number, row in enumerate(rows, start=2):
        for index, cell in enumerate(row):
            name = names[index] if index < len(names) else str(index + 1)
            # The day on which a person judged a mask is no date of a patient.
            decided = path.name == "qa_decisions.csv" and name == "when"
            found += [
                Finding(f"row {number}, column {name}", one.kind, one.masked)
                for one in find(cell, known)
                if not (decided and one.kind == "date")
            ]
    return found


def _search_table(path: Path, known: Identifiers | None) -> list[Finding]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    found = []
    for key, value in (table.schema.metadata or {}).items():
        found += [
            Finding(f"metadata {key.decode()}", one.kind, one.masked) for one in find(value.decode("utf-8"), known)
        ]
    for name in table.column_names:
        found += [Finding(f"column {name} (its name)", one.kind, one.masked) for one in find(name, known)]
        if is_identifying_field(name):
            found.append(Finding(f"column {name}", "field", ""))
        found += _search_column(name, table.column(name).to_pandas(), known)
    return found


def _search_column(name: str, cells: "pd.Series", known: Identifiers | None) -> list[Finding]:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(cells):
        return [Finding(f"column {name}", "date", f"in {cells.notna().sum()} rows")] if cells.notna().any() else []
    if pd.api.types.is_integer_dtype(cells):
        cells = cells[cells.abs() >= 10 ** (LONGEST_DATE_NUMBER - 1)]
    elif pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells):
        return []
    texts = cells.dropna().astype(str)
    once = texts[~texts.duplicated()]
    if not find("\n".join(once), known):
        return []
    return [
        Finding(f"row {int(str(row)) + 1}, column {name}", one.kind, one.masked)
        for row, text in once.items()
        for one in find(text, known)
    ]
