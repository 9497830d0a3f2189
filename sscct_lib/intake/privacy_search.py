"""Looking for identifiers in the files of a study: tables, records, notebooks, pages, pictures, headers and models.

Voxels are not looked at; neither is text drawn into a picture. A reader gives the place in a file and the text that
stands there; a place that ends with a comma is completed by the line.
"""

import base64
import binascii
import csv
import gzip
import hashlib
import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from sscct_lib.images.dicom import is_dicom
from sscct_lib.intake.privacy import Finding, Identifiers, Match, find, find_in_name, is_identifying_field, mask

if TYPE_CHECKING:
    import pandas as pd

RUN_TIMES = {
    "finished", "start_time", "end_time", "iopub.execute_input", "iopub.status.busy", "iopub.status.idle",
    "shell.execute_reply",
}  # fmt: skip
"""Fields in which a run writes its own time, which is no date of a patient."""
NIFTI_TEXTS = {
    348: {
        "data_type": (4, 14), "db_name": (14, 32), "descrip": (148, 228), "aux_file": (228, 252),
        "intent_name": (328, 344),
    },
    540: {"descrip": (240, 320), "aux_file": (320, 344), "intent_name": (508, 524)},
}  # fmt: skip
"""Text fields of a header, by its size: NIfTI-1 and NIfTI-2."""
EMBEDDED = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,\s*([A-Za-z0-9+/=\s]+)")
OUTLINE = re.compile(r"\s(?:d|points)=\"[MmZzLlHhVvCcSsQqTtAaEe0-9\s.,+-]*\"")
"""Of vector graphics: a picture inside, and the course of a line."""
LONGEST_TEXT = 50_000_000
HEADER_BYTES = 1_000_000
LONGEST_DATE_NUMBER = 8

Texts = Iterator[tuple[str, str]]  # where in the file, and what stands there

PROJECT_FILES = {
    "sscct_lib", "tests", "benchmarks", "workflow", "book", "README.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "pyproject.toml", "requirements", "environment.yml", "_config.yml",
}  # fmt: skip
"""In a copy of this project that is a study too, its own code and chapters are no study data."""
BINARY = {".npy", ".npz", ".so", ".pyc", ".woff", ".woff2", ".ttf", ".eot", ".ico", ".mo", ".inv", ".map"}
COPIED = {".ipynb", ".png", ".svg", ".md", ".html"}
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".webp"}
MOST_SHOWN = 50


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
        The study folder. Hidden files and folders are left out, and, where the study is a copy of this project, its
        code and chapters (what a book made of them is looked at).
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
            search.findings += [Finding(f"{shown} (its name)", one.kind, one.masked) for one in in_name]
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
                search.unread.append(f"{shown}: not looked into ({type(error).__name__})")
                continue
            search.n_files += 1
            search.findings += [Finding(f"{shown}, {one.place}", one.kind, one.masked) for one in found]
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
    elif suffix in PICTURES:
        texts = read_picture(path.read_bytes())
    elif path.name.endswith((".nii", ".nii.gz")):
        texts = read_nifti(path, special)
    else:
        texts = READERS.get(suffix, read_text)(path)
    for place, text in texts:
        special += [Finding(_line(place, text, one.start), one.kind, one.masked) for one in find(text, known)]
    return special


def _found(place: str, text: str, known: Identifiers | None) -> list[Finding]:
    return [Finding(place, one.kind, one.masked) for one in find(text, known)]


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
    text = path.read_text(encoding="utf-8-sig")
    rows = csv.reader(io.StringIO(text))
    names = next(rows, [])
    found = [Finding(f"column {name}", "field", "") for name in names if is_identifying_field(name)]
    found += [one for name in names for one in _found("row 1", name, known)]
    if not find(text, known):
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
    elif pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells):
        return []
    texts = cells.dropna().astype(str)
    once = texts[~texts.duplicated()]
    if not find("\n".join(once), known):
        return []
    return [one for row, text in once.items() for one in _found(f"row {int(str(row)) + 1}, column {name}", text, known)]


def read_text(path: Path) -> Texts:
    """Give all of a text in UTF-8."""
    with path.open("rb") as file:
        yield "", file.read(LONGEST_TEXT).decode("utf-8")


def read_json(path: Path, special: list[Finding]) -> Texts:
    """Give the names and values of all fields; those with a name for an identifier are added to `special`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield from _strings(content, "", special, RUN_TIMES if path.parent.name == "provenance" else set())


def _strings(value: Any, place: str, special: list[Finding], skipped: set[str]) -> Texts:
    """Walk through JSON; fields that are named for an identifier are findings by themselves."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in skipped:
                continue
            if is_identifying_field(str(name)) and inner not in (None, "", [], {}):
                special.append(Finding(f"field {name}", "field", mask(str(inner))))
            yield f"field {place}{name}", str(name)
            yield from _strings(inner, f"{place}{name}.", special, skipped)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, place, special, skipped)
    elif isinstance(value, str):
        yield f"field {place.rstrip('.')}", value
    elif isinstance(value, int) and len(str(value)) >= LONGEST_DATE_NUMBER:
        yield f"field {place.rstrip('.')}", str(value)


def read_notebook(path: Path, special: list[Finding]) -> Texts:
    """Give sources, outputs and metadata of the cells, without the times of the run."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield from _strings(content.get("metadata", {}), "metadata.", special, RUN_TIMES)
    for number, cell in enumerate(content.get("cells", []), start=1):
        yield f"cell {number}, source, ", "".join(cell.get("source", ""))
        yield from _strings(cell.get("metadata", {}), f"cell {number} metadata.", special, RUN_TIMES)
        bundles = [output.get("data", {}) for output in cell.get("outputs", [])]
        for data in [*bundles, *cell.get("attachments", {}).values()]:
            for kind, value in data.items():
                if kind.endswith("image/svg+xml"):
                    yield from ((f"cell {number}, {place}", text) for place, text in svg_texts("".join(value)))
                elif kind.startswith("image/"):
                    yield from ((f"cell {number}, {place}", text) for place, text in _encoded_picture(value))
                elif isinstance(value, str | list):
                    yield f"cell {number}, output, ", "".join(map(str, value))
                else:
                    yield from _strings(value, f"cell {number} output.", special, set())
        for output in cell.get("outputs", []):
            yield f"cell {number}, output, ", "".join(output.get("text", ""))
            yield f"cell {number}, output, ", "\n".join([output.get("evalue", ""), *output.get("traceback", [])])


def _encoded_picture(value: str | list[str]) -> Texts:
    try:
        yield from read_picture(base64.b64decode("".join(value)))
    except binascii.Error:
        yield "picture, ", "".join(value)


def read_picture(content: bytes) -> Texts:
    """Give the texts that a picture carries beside its pixels."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()  # text may stand behind the pixels
            texts = {**picture.info, **getattr(picture, "text", {}), **dict(picture.getexif())}
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError("no picture") from error
    for name, value in texts.items():
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, str):
            yield f"picture's text {name}", value


def read_svg(path: Path) -> Texts:
    """Give what a file of vector graphics says."""
    with path.open("rb") as file:
        yield from svg_texts(file.read(LONGEST_TEXT).decode("utf-8"))


def svg_texts(text: str) -> Texts:
    """Give the words, names and comments of vector graphics, and the texts that pictures inside carry."""
    for encoded in EMBEDDED.findall(text):
        yield from _encoded_picture(encoded)
    yield "drawing, ", OUTLINE.sub(lambda one: "\n" * one[0].count("\n"), text)


def read_nifti(path: Path, special: list[Finding]) -> Texts:
    """Give the texts of a NIfTI header: its fields, its extensions, and the name that gzip keeps."""
    with path.open("rb") as raw:
        begin = raw.read(1000)
        compressed = begin[:2] == b"\x1f\x8b"
        if compressed and begin[3] & 8:
            yield "name in the gzip header", begin[10:].split(b"\0", 1)[0].decode("latin-1")
        raw.seek(0)
        file: Any = gzip.GzipFile(fileobj=raw) if compressed else raw
        header = file.read(544)
        order = "<" if header[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
        (size,) = struct.unpack_from(order + "i", header)
        fields = NIFTI_TEXTS[size]
        start = struct.unpack_from(order + ("f" if size == 348 else "q"), header, 108 if size == 348 else 168)[0]
        rest = header[size:] + file.read(min(max(0, int(start) - len(header)), HEADER_BYTES))
    for name, (low, high) in fields.items():
        text = header[low:high].split(b"\0", 1)[0].decode("latin-1").strip()
        if text and name == "db_name":  # converters have put the patient's name here
            special.append(Finding("header, db_name", "free text", mask(text)))
        yield f"header, {name}", text
    if rest[:1] not in (b"", b"\0") and int(start) > size + 4:
        yield "header, extension", rest[: int(start) - size].replace(b"\0", b" ").decode("latin-1")


def read_nrrd(path: Path) -> Texts:
    """Give the header of an NRRD file."""
    with path.open("rb") as file:
        yield "header, ", file.read(HEADER_BYTES).split(b"\n\n", 1)[0].decode("latin-1")


def read_safetensors(path: Path) -> Texts:
    """Give what is written about the tensors, and their names."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content = json.loads(file.read(min(length, LONGEST_TEXT)))
    yield "metadata", json.dumps(content.get("__metadata__", {}), ensure_ascii=False)
    yield "names of tensors", "\n".join(content)


def read_zip(path: Path) -> Texts:
    """Give the names and the texts in an archive, such as a model of skops."""
    with zipfile.ZipFile(path) as archive:
        yield "names in the archive", "\n".join(archive.namelist())
        for name in archive.namelist():
            if name.endswith((".json", ".md", ".txt", ".csv")):
                yield f"{name}, ", archive.read(name).decode("utf-8")


READERS: dict[str, Callable[[Path], Texts]] = {
    ".nrrd": read_nrrd,
    ".safetensors": read_safetensors,
    ".skops": read_zip,
    ".svg": read_svg,
    ".zip": read_zip,
}
"""By the ending of a file's name; another file is read as text."""
