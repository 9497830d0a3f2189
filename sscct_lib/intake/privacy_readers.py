"""What a file says, by its kind: texts of tables, pages, notebooks, archives, databases, headers and pictures.

A reader gives places in a file and the texts that stand there; a place that ends with a comma is completed by the line.
UnreadError where nothing more can be said of a file. Voxels are not looked at; neither is text drawn into a picture.
"""

import base64
import csv
import gzip
import io
import json
import re
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from sscct_lib.intake.privacy import FEWEST_DIGITS, Finding, find_in_name, is_identifying_field, mask
from sscct_lib.intake.privacy_words import LONGEST_TEXT, UnreadError, decoded, pdf_texts

RUN_TIMES = {
    "finished", "start_time", "end_time", "iopub.execute_input", "iopub.status.busy", "iopub.status.idle",
    "shell.execute_reply",
}  # fmt: skip
"""Fields in which a run writes its own time, which is no date of a patient."""
TIME = re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.]+(Z|[+-]\d\d:?\d\d)?)?")
NIFTI_TEXTS = {
    348: {
        "data_type": (4, 14), "db_name": (14, 32), "descrip": (148, 228), "aux_file": (228, 252),
        "intent_name": (328, 344),
    },
    540: {"descrip": (240, 320), "aux_file": (320, 344), "intent_name": (508, 524)},
}  # fmt: skip
"""Text fields of a header, by its size: NIfTI-1 and NIfTI-2."""
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".webp"}
PAGES = {".html", ".htm", ".md"}
EMBEDDED = re.compile(r"data:(image|text)/([\w.+-]+);base64,\s*([A-Za-z0-9+/=\s]+)")
READ_BY_PILLOW = {"APP0", "APP1", "APP2", "APP14", "COM"}  # of JPEG
TAGS: dict[Any, str] = ExifTags.TAGS
OUTLINE = re.compile(r"\s(?:d|points)=\"[MmZzLlHhVvCcSsQqTtAaEe0-9\s.,+-]*\"")
"""Of vector graphics: a picture inside, and the course of a line."""
MOST_MEMBERS, MOST_INFLATED = 10_000, 100  # of an archive, and how many times its size they may have together
HEADER_BYTES = 1_000_000
FIRST_DAY, LAST_DAY = 19000101, 20991231  # as numbers
LARGEST_NUMBER = 9e18  # that is kept whole
MOST_COLUMNS, NUMBERS_AT_ONCE = 1000, 10_000_000  # of an array
MARKUP = re.compile("<([^<>]*)>")
VALUE = re.compile('"([^"]*)"')


@dataclass(frozen=True)
class Cells:
    """Texts side by side, as in a row: the parts of a name may stand apart in them."""

    place: str
    texts: list[str]


Texts = Iterator[dict[str, str] | Cells | Finding]
"""Texts by place in the file; texts side by side; and what is found by the name of its field."""


def texts_of(path: Path) -> Texts:
    """Give all that a file says."""
    if path.name.endswith((".nii", ".nii.gz")):
        yield from read_nifti(path)
    else:
        yield from READERS.get(path.suffix.lower(), read_text)(path)


def read_text(path: Path) -> Texts:
    """Give all of a text."""
    with path.open("rb") as file:
        content = file.read(LONGEST_TEXT + 1)
    yield from read_content(path.name, content)


def read_content(name: str, content: bytes) -> Texts:
    """Give the texts of what a file, or a member of an archive, holds."""
    if len(content) > LONGEST_TEXT:
        raise UnreadError("longer than any text")
    suffix = Path(name).suffix.lower()
    if content.startswith(b"%PDF"):
        yield from ({"": text} for text in pdf_texts(content))
    elif content.startswith(b"\x93NUMPY"):
        yield from _numbers_and_words(np.load(io.BytesIO(content), allow_pickle=False))  # ValueError for objects
    elif content.startswith(b"PK\x03\x04"):
        yield from _archive(content)
    elif content.startswith(b"\x1f\x8b"):
        yield {"name in the gzip header": gzip_name(content)}
        with gzip.open(io.BytesIO(content)) as file:
            inner = file.read(LONGEST_TEXT + 1)
        yield from read_content(name.removesuffix(".gz"), inner)
    elif suffix in PICTURES:
        yield from read_picture(content)
    elif suffix == ".svg":
        yield from svg_texts(decoded(content))
    elif suffix in (".xml", ".rels"):  # of a spreadsheet: a cell may be cut into pieces by markup
        text = MARKUP.sub(lambda one: "\n".join(["", *VALUE.findall(one[1]), ""]), decoded(content))
        yield {"": re.sub(r"\s*\n\s*", "\n", text)}
    else:
        text = decoded(content)
        if suffix in PAGES:
            yield from _embedded(text)
        yield {"": text}


def gzip_name(begin: bytes) -> str:
    """Give the name and the comment that gzip keeps (RFC 1952)."""
    flags, place = begin[3], 10
    if flags & 4:
        place += 2 + int.from_bytes(begin[10:12], "little")
    n_texts = bool(flags & 8) + bool(flags & 16)
    return b"\n".join(begin[place:].split(b"\0", n_texts)[:n_texts]).decode("latin-1")


def _archive(content: bytes) -> Texts:
    """Give the names and the texts in an archive: a spreadsheet, a model of skops, arrays."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        most = min(max(MOST_INFLATED * len(content), HEADER_BYTES), LONGEST_TEXT)
        if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > most:
            raise UnreadError("an archive of more than can be looked into")
        yield {"comment of the archive": archive.comment.decode("latin-1")}
        for member in archive.infolist():
            yield {"name in the archive": member.filename, "comment in the archive": member.comment.decode("latin-1")}
            for part in member.filename.split("/"):
                yield from (Finding("name in the archive", one.kind, one.masked) for one in find_in_name(part))
        for member in members:
            for said in read_content(member.filename, archive.read(member)):
                yield _within(f"{member.filename}, ", said)


def _within(place: str, said: dict[str, str] | Cells | Finding) -> dict[str, str] | Cells | Finding:
    if isinstance(said, dict):
        return {place + inner: text for inner, text in said.items()}
    return replace(said, place=place + said.place)


def read_array(path: Path) -> Texts:
    """Give the words and the numbers of an array."""
    yield from _numbers_and_words(np.load(path, mmap_mode="r", allow_pickle=False))


def _numbers_and_words(array: NDArray[Any], name: str = "") -> Texts:
    if array.dtype.names:
        for field in array.dtype.names:
            yield from _field(field)
            yield from _numbers_and_words(array[field], f"column {field}")
    elif array.dtype.kind in "USM":
        yield {f"{name}, " if name else "": "\n".join(str(word) for word in array.astype(str).ravel())}
    elif array.dtype.kind in "iuf":
        columns = array.T if array.ndim == 2 and array.shape[1] <= MOST_COLUMNS else [array.reshape(-1)]
        for number, column in enumerate(columns, start=1):
            for part in np.array_split(column, 1 + len(column) // NUMBERS_AT_ONCE):
                yield {f"{name or f'column {number}'}, ": "\n".join(long_numbers(pd.Series(np.array(part))))}


def long_numbers(cells: "pd.Series[Any]") -> "pd.Series[str]":
    """Give those whole numbers of a column that may be ids or days, each once, as text.

    Among measures a few may look like a day by chance: of floats, days are given only where half are such.
    """
    cells = cells.dropna()
    if pd.api.types.is_float_dtype(cells):
        cells = cells.astype("float64")
        whole = cells[(cells % 1 == 0) & (cells.abs() < LARGEST_NUMBER)]
        days = whole.between(FIRST_DAY, LAST_DAY)
        cells = (whole if 2 * days.sum() >= len(cells) else whole[~days]).astype("int64")
    long: pd.Series[str] = cells[cells.abs() >= 10 ** (FEWEST_DIGITS - 1)].drop_duplicates().astype(str)
    return long


def read_parquet(path: Path) -> Texts:
    """Give metadata, names of columns, words, days and long numbers of a table."""
    table = pq.read_table(path)
    for about in (table.schema, *table.schema):
        for key, value in (about.metadata or {}).items():
            yield {f"metadata {key.decode()}": value.decode("utf-8"), "metadata (its name)": key.decode()}
    beside = []
    for number, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        yield from _field(name)
        nested = pa.types.is_nested(column.type)
        cells = pd.Series(
            [json.dumps(one, default=str) for one in column.to_pylist()] if nested else column.to_pandas()
        )
        if pd.api.types.is_datetime64_any_dtype(cells):
            yield from (
                [Finding(f"column {name}", "date", f"in {cells.notna().sum()} rows")] if any(cells.notna()) else []
            )
        elif pd.api.types.is_bool_dtype(cells):
            continue
        elif pd.api.types.is_numeric_dtype(cells):
            yield _by_row(name, long_numbers(cells))
        else:
            beside.append(number)
            yield _by_row(name, cells.dropna().astype(str).drop_duplicates())
    rows = table.select(beside).to_pandas().astype(str).drop_duplicates()
    yield from (Cells(f"row {row + 1}", [*map(str, cells)]) for row, *cells in rows.itertuples(name=None))


def _by_row(name: str, texts: "pd.Series[str]") -> dict[str, str]:
    return {f"row {int(str(row)) + 1}, column {name}": text for row, text in texts.items()}


def _field(name: str) -> Texts:
    """Give the name of a column."""
    yield {f"column {name} (its name)": name}
    if is_identifying_field(name):
        yield Finding(f"column {name}", "field", "")


def read_csv(path: Path) -> Texts:
    """Give the cells of a table with commas, semicolons or tabs between them."""
    text = decoded(path.read_bytes())
    rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count))
    names = next(rows, [])
    for name in names:
        yield from _field(name)
    for number, row in enumerate(rows, start=2):
        cells = {f"row {number}, column {name}": cell for name, cell in zip(names, row, strict=False)}
        cells |= {f"row {number}, column {len(names) + 1 + at}": cell for at, cell in enumerate(row[len(names) :])}
        # The day on which a person judged a mask is no date of a patient.
        if path.name == "qa_decisions.csv" and TIME.fullmatch(cells.get(f"row {number}, column when", "")):
            del cells[f"row {number}, column when"]
        yield cells
        yield Cells(f"row {number}", row)


def read_database(path: Path) -> Texts:
    """Give all cells of a SQLite database; its file is not changed."""
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\x00":
            yield from read_text(path)
            return
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with sqlite3.connect(address, uri=True) as database:
        database.text_factory = lambda content: content.decode("utf-8", errors="replace")
        for name, said in database.execute("select name, sql from sqlite_master").fetchall():
            yield {"what is made there": f"{name}\n{said or ''}"}
        for (name,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            quoted = name.replace('"', '""')
            rows = database.execute(f'select * from "{quoted}"')
            names = [column[0] for column in rows.description]
            for column in names:
                yield from _field(column)
            for number, row in enumerate(rows, start=1):
                place = f"table {name}, row {number}"
                cells = [(column, str(cell)) for column, cell in zip(names, row, strict=True) if cell is not None]
                yield {f"{place}, column {column}": cell for column, cell in cells}
                yield Cells(place, [cell for _, cell in cells])


def read_json(path: Path) -> Texts:
    """Give the names and values of all fields; those with a name for an identifier are findings by themselves."""
    content = json.loads(decoded(path.read_bytes()), object_pairs_hook=_fields)
    yield from _strings(content, "", RUN_TIMES if path.parent.name == "provenance" else set())


def _strings(value: Any, place: str, skipped: set[str]) -> Texts:
    """Walk through JSON."""
    if isinstance(value, dict):
        yield Cells(f"field {place.rstrip('.')}", [inner for inner in value.values() if isinstance(inner, str)])
        for name, inner in value.items():
            if name in skipped and isinstance(inner, str) and TIME.fullmatch(inner):
                continue
            if is_identifying_field(name) and inner not in (None, "", [], {}):
                yield Finding(f"field {name}", "field", mask(str(inner)))
            yield {f"field {place}{name}": name}
            yield from _strings(inner, f"{place}{name}.", skipped)
    elif isinstance(value, list):
        yield Cells(f"field {place.rstrip('.')}", [inner for inner in value if isinstance(inner, str)])
        for inner in value:
            yield from _strings(inner, place, skipped)
    elif isinstance(value, str):
        yield {f"field {place.rstrip('.')}": value}
    elif isinstance(value, int | float) and value % 1 == 0 and len(str(int(value))) >= FEWEST_DIGITS:
        yield {f"field {place.rstrip('.')}": str(int(value))}


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary of fields; of two with one name, the first would not be seen."""
    if len(fields := dict(pairs)) < len(pairs):
        raise UnreadError("it has two fields of one name")
    return fields


def read_notebook(path: Path) -> Texts:
    """Give sources, outputs and metadata of the cells, without the times of the run."""
    content = json.loads(decoded(path.read_bytes()), object_pairs_hook=_fields)
    if not isinstance(content, dict):
        raise UnreadError("no notebook")
    yield from _strings({name: inner for name, inner in content.items() if name != "cells"}, "", RUN_TIMES)
    for number, cell in enumerate(content.get("cells", []), start=1):
        place = f"cell {number}"
        yield {f"{place}, source, ": "".join(cell.get("source", ""))}
        rest = {name: inner for name, inner in cell.items() if name not in ("source", "outputs", "attachments")}
        yield from _strings(rest, f"{place} ", RUN_TIMES)
        for name, data in cell.get("attachments", {}).items():
            yield {f"{place}, attachment": name}
            yield from _bundle(data, place)
        for output in cell.get("outputs", []):
            yield from _bundle(output.get("data", {}), place)
            yield {f"{place}, output, ": "".join(output.get("text", ""))}
            yield {f"{place}, output, ": "\n".join([output.get("evalue", ""), *output.get("traceback", [])])}
            read = ("data", "text", "evalue", "traceback")
            yield from _strings({name: inner for name, inner in output.items() if name not in read}, f"{place} ", set())


def _bundle(data: dict[str, Any], place: str) -> Texts:
    """Give what is shown of a cell, by the kind of it."""
    for kind, value in data.items():
        yield {f"{place}, kind of output": kind}
        if kind.endswith("image/svg+xml"):
            yield from (_within(f"{place}, ", said) for said in svg_texts("".join(value)))
        elif kind.startswith("image/"):
            yield from (_within(f"{place}, ", said) for said in read_picture(base64.b64decode("".join(value))))
        elif isinstance(value, str | list):
            yield from _embedded(text := "".join(map(str, value)))
            yield {f"{place}, output, ": text}
        else:
            yield from _strings(value, f"{place} output.", set())


def read_picture(content: bytes) -> Texts:
    """Give the texts that a picture carries beside its pixels."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            exif = picture.getexif()
            inner = [exif.get_ifd(one) for one in ExifTags.IFD]  # TIFF is closed when it is loaded
            picture.load()  # text may stand behind the pixels
            parts = [picture.info, getattr(picture, "text", {}), dict(exif), *inner]
            for kind, value, *_ in [*getattr(picture, "applist", ()), *getattr(picture, "private_chunks", ())]:
                parts.append({kind: value} if kind not in READ_BY_PILLOW else {})
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError("no picture") from error
    for part in parts:
        for name, value in part.items():
            if isinstance(value, bytes | tuple):
                with suppress(ValueError, TypeError):  # a tuple of other numbers than bytes
                    value = bytes(value).replace(b"\0", b"").decode("latin-1")  # also of UTF-16
            if isinstance(value, str):
                yield {"picture's text (its name)": str(name)}
                yield {f"picture's text {TAGS.get(name, name)}": value}


def _embedded(text: str) -> Texts:
    """Give the texts of pictures and files that are written into a text."""
    for of, kind, encoded in EMBEDDED.findall(text) if ";base64," in text else []:
        name = "a.txt" if of == "text" else "a.svg" if kind == "svg+xml" else "a.png"
        yield from read_content(name, base64.b64decode(encoded))


def svg_texts(text: str) -> Texts:
    """Give the words, names and comments of vector graphics, and the texts that pictures inside carry."""
    yield from _embedded(text)
    yield {"drawing, ": OUTLINE.sub(lambda one: "\n" * one[0].count("\n"), text)}


def read_nifti(path: Path) -> Texts:
    """Give the texts of a NIfTI header: its fields, its extensions, and the name that gzip keeps."""
    with path.open("rb") as raw:
        begin = raw.read(1000)
        compressed = begin[:2] == b"\x1f\x8b"
        if compressed:
            yield {"name in the gzip header": gzip_name(begin)}
        raw.seek(0)
        file: Any = gzip.GzipFile(fileobj=raw) if compressed else raw
        header = file.read(544)
        order = "<" if header[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
        (size,) = struct.unpack_from(order + "i", header)
        for name, (low, high) in NIFTI_TEXTS[size].items():
            text = header[low:high].split(b"\0", 1)[0].decode("latin-1").strip()
            if text and name == "db_name":  # converters have put the patient's name here
                yield Finding("header, db_name", "free text", mask(text))
            yield {f"header, {name}": text}
        start = struct.unpack_from(order + ("f" if size == 348 else "q"), header, 108 if size == 348 else 168)[0]
        if not 0 <= start <= HEADER_BYTES:
            raise UnreadError("its voxels begin where no header ends")
        rest = header[size:] + file.read(max(0, int(start) - len(header)))
    if rest[:1] not in (b"", b"\0") and int(start) > size + 4:
        yield {"header, extension": rest[: int(start) - size].replace(b"\0", b" ").decode("latin-1")}


def read_nrrd(path: Path) -> Texts:
    """Give the header of an NRRD file."""
    with path.open("rb") as file:
        header, _, voxels = file.read(HEADER_BYTES).partition(b"\n\n")
    yield {"header, ": header.decode("latin-1")}
    if not voxels and len(header) == HEADER_BYTES:
        raise UnreadError("its header does not end")


def read_safetensors(path: Path) -> Texts:
    """Give what is written about the tensors, and their names."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content = json.loads(file.read(min(length, LONGEST_TEXT)))
    yield {"metadata": json.dumps(content.get("__metadata__", {}), ensure_ascii=False)}
    yield {"names of tensors": "\n".join(content)}


READERS: dict[str, Callable[[Path], Texts]] = {
    ".csv": read_csv,
    ".db": read_database,
    ".ipynb": read_notebook,
    ".json": read_json,
    ".npy": read_array,
    ".nrrd": read_nrrd,
    ".parquet": read_parquet,
    ".safetensors": read_safetensors,
    ".sqlite": read_database,
    ".sqlite3": read_database,
    ".tsv": read_csv,
}
"""By the ending of a file's name; of another file, what it holds says what it is."""
