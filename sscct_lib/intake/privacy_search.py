"""Looking for identifiers in the files of a study: tables, records, notebooks, pages, pictures, headers and models."""

import csv
import hashlib
import io
import os
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sscct_lib.images.dicom import is_dicom
from sscct_lib.intake.privacy import Finding, Identifiers, Match, find, find_in_name, is_identifying_field, mask, plain
from sscct_lib.intake.privacy_readers import (
    LONGEST_DATE_NUMBER,
    READERS,
    UnreadError,
    decoded,
    read_json,
    read_nifti,
    read_notebook,
    read_text,
)

if TYPE_CHECKING:
    import pandas as pd

PROJECT_FILES = {
    "sscct_lib", "tests", "benchmarks", "workflow", "book", "README.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "pyproject.toml", "requirements", "environment.yml", "_config.yml",
}  # fmt: skip
"""In a copy of this project that is a study too, its own code and chapters are no study data."""
OF_PAGES = {".woff", ".woff2", ".ttf", ".eot", ".ico", ".mo", ".inv", ".map"}
"""Of the pages of every book: none is of a patient."""
PRINTED = "/_build/html/book.pdf"  # from pages that are looked at; its letters are numbers of drawings
MEMORY = ".doctrees"  # of Sphinx: what the pages say, which are looked at
WORK_FOLDER = ".snakemake/"  # whose logs tell the days of runs
COPIED = {".ipynb", ".png", ".svg", ".md", ".html"}
MOST_SHOWN = 50
FIRST_DAY, LAST_DAY = 19000101, 20991231  # as numbers


UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile,
    zlib.error, sqlite3.Error, RecursionError,
)  # fmt: skip
"""What readers raise of a damaged file, or of one under a password."""


@dataclass
class Search:
    """What was found, in the order of the files, and the files that could not be looked into."""

    findings: list[Finding] = field(default_factory=list)
    n_files: int = 0  # that were looked into
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
        The study folder. Where it is a copy of this project too, its code, chapters and hidden files are left out (what
        a book made of them is looked at).
    known
        The hospital's identifiers, from `pseudonyms.read_identifiers`; None: patterns only.
    parts
        Which files or folders of the study, relative to it; by default all.
    clean
        State (`_state`) of files in which nothing was found before, by the same search; they are not read again while
        it is the same. Files that are found clean are added.
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
            shown, in_name = _look_at_name(place, known)
            own_time = place.startswith(WORK_FOLDER)
            in_name = [one for one in in_name if not (own_time and one.kind == "date")]
            search.findings += [Finding(f"{shown} (its name)", one.kind, one.masked) for one in in_name]
            if "book" in path.parts and (_is_of_every_book(path) or place.endswith(PRINTED)):
                continue
            if path.suffix.lower() in COPIED:  # the book keeps copies of notebooks, pages and pictures
                digest = hashlib.sha256(path.read_bytes()).digest()
                if digest in seen:
                    continue
                seen.add(digest)
            try:
                found = search_file(path, known)
            except UNREADABLE as error:
                why = str(error) if isinstance(error, UnreadError) else type(error).__name__
                search.unread.append(f"{shown}: not looked into ({why})")
                continue
            search.n_files += 1
            found = [one for one in found if not (own_time and one.kind == "date")]
            search.findings += [Finding(f"{shown}, {one.place}", one.kind, one.masked) for one in found]
            if len(search.findings) == n_before:
                clean[place] = state
    return search


def _is_of_every_book(path: Path) -> bool:
    """Tell whether a file of a book comes from a package; among the numbers of their drawings, days seem to stand."""
    return path.suffix.lower() in OF_PAGES or "_static" in path.parts


def _state(path: Path) -> list[int]:
    """Tell whether a file is the same: its number, size, and times, one of which no program can set back."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _files(root: Path, start: Path) -> Iterator[Path]:
    if start.is_file():
        yield start
    is_project = (root / "sscct_lib").is_dir()
    for folder, inner, names in os.walk(start):
        if is_project and Path(folder) == root:
            inner[:] = [name for name in inner if not name.startswith(".") and name not in PROJECT_FILES]
            names = [name for name in names if not name.startswith(".") and name not in PROJECT_FILES]
        inner[:] = sorted(name for name in inner if name not in (MEMORY, "__pycache__"))
        yield from (Path(folder) / name for name in sorted(names))


def search_file(path: Path, known: Identifiers | None = None) -> list[Finding]:
    """Look for identifiers in one file, read as its name says; a finding's `place` is the place in the file."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _search_table(path, known)
    if suffix == ".csv":
        return _search_csv(path, known)
    if suffix == ".key":
        return [Finding("the whole file", "key", "from which study ids are made: keep it outside the study")]
    if is_dicom(path):
        return [Finding("the whole file", "DICOM file", "with the header of a hospital")]
    special: list[Finding] = []
    if suffix in (".json", ".ipynb"):
        texts = read_notebook(path, special) if suffix == ".ipynb" else read_json(path, special)
    elif path.name.endswith((".nii", ".nii.gz")):
        texts = read_nifti(path, special)
    else:
        texts = READERS.get(suffix, read_text)(path)
    for place, said in texts:
        text = plain(said)
        special += [Finding(_line(place, text, one.start), one.kind, one.masked) for one in find(text, known)]
    return special


def _found(place: str, text: str, known: Identifiers | None) -> list[Finding]:
    return [Finding(place, one.kind, one.masked) for one in find(plain(text), known)]


def _look_at_name(place: str, known: Identifiers | None) -> tuple[str, list[Match]]:
    """Look at the names of a file and its folders; also gives the place without those that point to a patient."""
    parts, found = place.split("/"), list[Match]()
    is_page = "_build" in parts  # the files of a web page are named by programs
    for number, part in enumerate(parts):
        here = find(part, known) or ([] if is_page else find_in_name(part))
        if here:
            parts[number], found = mask(part), found + here
    return "/".join(parts), found


def _line(place: str, text: str, start: int) -> str:
    return f"{place}line {text.count(chr(10), 0, start) + 1}" if place == "" or place.endswith(", ") else place


def _search_csv(path: Path, known: Identifiers | None) -> list[Finding]:
    text = decoded(path.read_bytes())
    rows = csv.reader(io.StringIO(text))
    names = next(rows, [])
    found = [Finding(f"column {name}", "field", "") for name in names if is_identifying_field(name)]
    found += [one for name in names for one in _found("row 1", name, known)]
    if not find(plain(text), known):
        return found
    for number, row in enumerate(rows, start=2):
        for index, cell in enumerate(row):
            name = names[index] if index < len(names) else str(index + 1)
            # The day on which a person judged a mask is no date of a patient.
            decided = path.name == "qa_decisions.csv" and name == "when"
            here = _found(f"row {number}, column {name}", cell, known)
            found += [one for one in here if not (decided and one.kind == "date")]
    return found


def _search_table(path: Path, known: Identifiers | None) -> list[Finding]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    found = []
    for key, value in (table.schema.metadata or {}).items():
        found += _found(f"metadata {key.decode()}", value.decode("utf-8"), known)
    for name in table.column_names:
        found += _found(f"column {name} (its name)", name, known)
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
    elif pd.api.types.is_float_dtype(cells):
        cells = _whole_days(cells)
    elif pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells):
        return []
    texts = cells.dropna().astype(str)
    once = texts[~texts.duplicated()]
    if not find(plain("\n".join(once)), known):
        return []
    return [one for row, text in once.items() for one in _found(f"row {int(str(row)) + 1}, column {name}", text, known)]


def _whole_days(cells: "pd.Series") -> "pd.Series":
    """Give the numbers of a column of days such as 20200131.0; among measures a few may look like one by chance."""
    known = cells.dropna()
    whole = known[(known % 1 == 0) & known.between(FIRST_DAY, LAST_DAY)]
    return whole.astype("int64") if 2 * len(whole) >= len(known) else whole.iloc[:0]
