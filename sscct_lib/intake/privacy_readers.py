"""What a file says, by its kind: texts of tables, pages, notebooks, archives, databases, headers and pictures.

A reader gives the place in a file and the text that stands there; a place that ends with a comma is completed by the
line. UnreadError where nothing can be said of a file. Voxels are not looked at; neither is text drawn into a picture.
"""

import base64
import binascii
import gzip
import io
import json
import re
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sscct_lib.intake.privacy import Finding, is_identifying_field, mask

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
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".webp"}
EMBEDDED = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,\s*([A-Za-z0-9+/=\s]+)")
OUTLINE = re.compile(r"\s(?:d|points)=\"[MmZzLlHhVvCcSsQqTtAaEe0-9\s.,+-]*\"")
"""Of vector graphics: a picture inside, and the course of a line."""
LONGEST_TEXT = 50_000_000
MOST_MEMBERS, MOST_INFLATED = 10_000, 100  # of an archive, and how many times its size they may have together
HEADER_BYTES = 1_000_000
LONGEST_DATE_NUMBER = 8
NOT_OF_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
MARKUP = re.compile("<[^<>]*>")
STREAM = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)
STRING = re.compile(rb"\(((?:\\.|[^\\()])*)\)")
"""Of PDF: what may be compressed, and a text in it."""

Texts = Iterator[tuple[str, str]]  # where in the file, and what stands there


class UnreadError(ValueError):
    """A file cannot be looked into; the message says why, and nothing of what it holds."""


def decoded(content: bytes) -> str:
    """Give a text, whatever its encoding: UTF-8, UTF-16, or one byte a letter as in Western Europe.

    UnreadError where it is none.
    """
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    if "\x00" in text and len(content) % 2 == 0:  # every second byte of Latin letters in UTF-16 is 0
        is_little = content[1::2].count(0) > content[::2].count(0)
        text = content.decode("utf-16-le" if is_little else "utf-16-be", errors="surrogateescape")
    if NOT_OF_TEXT.search(text):
        raise UnreadError("of no kind that is looked into")
    return text


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
        yield from _pdf(content)
    elif content.startswith(b"\x93NUMPY"):
        yield from _array(content)
    elif content.startswith(b"PK\x03\x04"):
        yield from _archive(content)
    elif content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as file:
            inner = file.read(LONGEST_TEXT + 1)
        yield from read_content(name.removesuffix(".gz"), inner)
    elif suffix in PICTURES:
        yield from read_picture(content)
    elif suffix == ".svg":
        yield from svg_texts(decoded(content))
    elif suffix in (".xml", ".rels"):  # of a spreadsheet: a cell may be cut into pieces by markup
        yield "", MARKUP.sub("\n", decoded(content))
    else:
        yield "", decoded(content)


def _archive(content: bytes) -> Texts:
    """Give the names and the texts in an archive: a spreadsheet, a model of skops, arrays."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        most = min(max(MOST_INFLATED * len(content), HEADER_BYTES), LONGEST_TEXT)
        if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > most:
            raise UnreadError("an archive of more than can be looked into")
        yield "names in the archive", "\n".join(member.filename for member in members)
        for member in members:
            for place, text in read_content(member.filename, archive.read(member)):
                yield f"{member.filename}, {place}", text


def _array(content: bytes) -> Texts:
    """Give the words of an array; numbers say nothing of a patient but as a table's column, and that has a name."""
    yield from _words(np.load(io.BytesIO(content), allow_pickle=False))  # ValueError for one of objects


def read_array(path: Path) -> Texts:
    """Give the words of an array, of which numbers are not even read."""
    yield from _words(np.load(path, mmap_mode="r", allow_pickle=False))


def _words(array: NDArray[Any]) -> Texts:
    if array.dtype.kind in "US":
        yield "", "\n".join(str(word) for word in array.astype(str).ravel())
    elif array.dtype.names:
        yield "names of columns", "\n".join(array.dtype.names)


def _pdf(content: bytes) -> Texts:
    """Give the words of a PDF whose letters are letters; in many they are numbers of drawings."""
    streams = [content]
    for stream in STREAM.findall(content):
        try:
            streams.append(zlib.decompressobj().decompress(stream, LONGEST_TEXT // 10))
        except zlib.error:
            continue  # a picture
    words = [b"".join(STRING.findall(line)) for stream in streams for line in stream.splitlines()]
    if not any(re.search(rb"[A-Za-z]{3}", word) for word in words[1:]):
        raise UnreadError("a PDF whose letters cannot be read")
    yield "", "\n".join(word.decode("latin-1") for word in words if word)


def read_database(path: Path) -> Texts:
    """Give all cells of a SQLite database; its file is not changed."""
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\x00":
            yield from read_text(path)
            return
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with sqlite3.connect(address, uri=True) as database:
        database.text_factory = lambda content: content.decode("utf-8", errors="replace")
        names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for name in names:
            quoted = name.replace('"', '""')
            for row in database.execute(f'select * from "{quoted}"'):
                yield f"table {name}, ", "\n".join(str(cell) for cell in row if cell is not None)


def read_json(path: Path, special: list[Finding]) -> Texts:
    """Give the names and values of all fields; those with a name for an identifier are added to `special`."""
    content = json.loads(decoded(path.read_bytes()))
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


READERS: dict[str, Callable[[Path], Texts]] = {
    ".db": read_database,
    ".npy": read_array,
    ".nrrd": read_nrrd,
    ".safetensors": read_safetensors,
    ".sqlite": read_database,
    ".sqlite3": read_database,
}
"""By the ending of a file's name; of another file, what it holds says what it is."""
