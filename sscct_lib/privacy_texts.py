"""Reading the texts that the files of a study carry: fields of JSON, cells of notebooks, headers, metadata of pictures.

Each function gives the place in the file, and the text that stands there. A place that ends with a comma is completed
by the line.
"""

import base64
import binascii
import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sscct_lib.privacy import Finding, is_identifying_field, mask

RUN_TIMES = {
    "finished", "start_time", "end_time", "iopub.execute_input", "iopub.status.busy", "iopub.status.idle",
    "shell.execute_reply",
}  # fmt: skip
"""Fields in which a run writes its own time, which is no date of a patient."""
NIFTI_TEXTS = {
    348: {
        "data_type": (4, 14),
        "db_name": (14, 32),
        "descrip": (148, 228),
        "aux_file": (228, 252),
        "intent_name": (328, 344),
    },
    540: {"descrip": (240, 320), "aux_file": (320, 344), "intent_name": (508, 524)},
}
"""Text fields of a header, by its size: NIfTI-1 and NIfTI-2."""
EMBEDDED = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,\s*([A-Za-z0-9+/=\s]+)")
OUTLINE = re.compile(r"\s(?:d|points)=\"[MmZzLlHhVvCcSsQqTtAaEe0-9\s.,+-]*\"")
"""Of vector graphics: a picture inside, and the course of a line."""
LONGEST_TEXT = 50_000_000
HEADER_BYTES = 1_000_000
LONGEST_DATE_NUMBER = 8

Texts = Iterator[tuple[str, str]]  # where in the file, and what stands there


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
    """Give the words, names and comments of vector graphics, and the texts that pictures inside carry.

    The numbers that say where lines go are left out: dates would be seen in them.
    """
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
