"""Headers in text, of NRRD and MetaImage: which other file they name, and whether they say how the volume lies.

Such a header may name any file of the machine for its voxels. Only one beside it is accepted, by the name that it must
have.
"""

import zlib
from pathlib import Path

from sscct_lib.images.reasons import UnusableError

LONGEST_HEADER = 65_536
NRRD_ENCODINGS = ("raw", "gzip", "gz")
NRRD_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
"""Spaces of a patient that ITK's reader knows; in others it takes the axes for LPS."""
META_MATRIX = {"transformmatrix", "rotation", "orientation"}
META_LAST = "elementdatafile"
LOCAL = "LOCAL"
CHUNK_BYTES = 1 << 22


def check_nrrd(path: Path, name: str, voxels: Path | None) -> bool:
    """Judge the header of a NRRD file; `voxels`: the file beside it that holds its voxels, None: itself.

    Returns
    -------
    bool
        Whether it says how the volume lies.
    """
    with path.open("rb") as file:
        header, blank, _ = file.read(LONGEST_HEADER).replace(b"\r", b"").partition(b"\n\n")
    if not header.startswith(b"NRRD") or not (blank or voxels):
        raise UnusableError("damaged", name=name)
    lines = header.decode("latin-1").split("\n")
    fields = {key.lower().replace(" ", ""): value.strip(" =") for key, colon, value in
              (line.partition(":") for line in lines if not line.startswith("#")) if colon}  # fmt: skip
    named = fields.get("datafile")
    if {"lineskip", "byteskip"} & fields.keys() or named != (None if voxels is None else voxels.name):
        raise UnusableError("other_file", name=name)
    encoding = fields.get("encoding", "").lower()
    if encoding not in NRRD_ENCODINGS:
        raise UnusableError("encoding", name=name, encoding=repr(encoding), expected=" or ".join(NRRD_ENCODINGS))
    return fields.get("space", "").lower() in NRRD_SPACES and "spacedirections" in fields


def check_meta(path: Path, name: str, voxels: Path | None) -> tuple[bool, int, bool]:
    """Judge the header of a MetaImage file; `voxels` as in `check_nrrd`.

    Returns
    -------
    says_place : bool
        Whether it says how the volume lies.
    start : int
        Byte of the file that holds the voxels at which these begin.
    is_compressed : bool
    """
    with path.open("rb") as file:
        lines = file.read(LONGEST_HEADER).split(b"\n")
    fields: dict[str, str] = {}
    n_bytes = 0
    for line in lines:
        key, equals, value = line.decode("latin-1").partition("=")
        n_bytes += len(line) + 1
        if not equals:
            raise UnusableError("damaged", name=name)
        if key.strip().lower() in fields:
            raise UnusableError("damaged", name=name)
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == META_LAST:
            break
    if META_LAST not in fields:
        raise UnusableError("damaged", name=name)
    named = fields[META_LAST]
    if fields.get("headersize", "0") != "0" or named != (LOCAL if voxels is None else voxels.name):
        raise UnusableError("other_file", name=name)
    if fields.get("binarydata", "True").lower() != "true":
        raise UnusableError("encoding", name=name, encoding="'text'", expected="binary")
    is_compressed = fields.get("compresseddata", "False").lower() == "true"
    return bool(META_MATRIX & fields.keys()), n_bytes if voxels is None else 0, is_compressed


def check_meta_voxels(path: Path, name: str, start: int, is_compressed: bool, expected: int) -> None:
    """Compare the bytes of voxels with what a header announces: the reader takes what is missing for 0."""
    with path.open("rb") as file:
        file.seek(start)
        if not is_compressed:
            n_bytes = path.stat().st_size - start
        else:
            inflate, n_bytes, waiting = zlib.decompressobj(wbits=47), 0, file.read(CHUNK_BYTES)  # zlib or gzip
            try:
                while waiting and n_bytes <= expected:
                    n_bytes += len(inflate.decompress(waiting, CHUNK_BYTES))
                    waiting = inflate.unconsumed_tail or file.read(CHUNK_BYTES)
            except zlib.error as error:
                raise UnusableError("truncated_or_damaged", name=name, error="") from error
    if n_bytes < expected:
        raise UnusableError("truncated", name=name, n_bytes=n_bytes, expected=expected)
    if n_bytes > expected:
        raise UnusableError("too_long", name=name, expected=expected)
