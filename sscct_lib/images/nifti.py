"""Volumes from files that nobody vouches for: what a header announces is judged before memory is taken for it."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from isal import igzip
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from sscct_lib.study.results import ScanError
from sscct_lib.study.settings import SPACING_MM

READERS = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".nrrd": "NrrdImageIO"}
SIDE_VOXELS = (8, 4096)
MOST_VOXELS = 1_500_000_000
HIGHEST_COMPRESSION = 1100  # deflate reaches 1,032
LONGEST_NRRD_HEADER = 65_536
NRRD_ENCODINGS = ("raw", "gzip", "gz")
MOST_SURPLUS_BYTES = 65_536
CHUNK_BYTES = 1 << 22
GZIP_MAGIC = b"\x1f\x8b"
NIFTI2_BYTES = 540
PLACE: Any = {
    "names": ["n_bytes", "n_axes", "qform_code", "sform_code", "qform", "sform"],
    "formats": ["i4", "i2", "i2", "i2", "6f4", "(3,4)f4"],
    "offsets": [0, 40, 252, 254, 256, 280],
    "itemsize": 348,
}
"""Where the header of a NIfTI-1 file says how the volume lies."""
LEAST_ANGLE = 0.1  # least determinant of the axes: 1 where they are at right angles, 0 in a plane


def read_volume(path: Path) -> sitk.Image:
    """Read a whole 3-D volume of any pixel type, as stored, from NIfTI (`.nii`, `.nii.gz`) or NRRD (`.nrrd`).

    Only the readers of these two are used, each for its own suffix, and only for files that hold their voxels
    themselves.

    Raises
    ------
    ScanError
        If the file is missing, empty, of another format, truncated or damaged; if it refers to another file; if it
        announces a volume that no chest CT has, or that cannot be in a file of its size; or if it has more or less
        content than it announces.
    """
    if not path.is_file():
        raise ScanError(f"{path.name} is missing. Put the file there, or correct its path in the manifest.")
    if path.stat().st_size == 0:
        raise ScanError(f"{path.name} is empty (0 bytes). Copy the file again from its source.")
    suffix = next((one for one in READERS if path.name.lower().endswith(one)), None)
    if suffix is None:
        raise ScanError(f"{path.name} is no NIfTI or NRRD image: expected a name that ends in {', '.join(READERS)}.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(READERS[suffix])
    try:
        if suffix == ".nrrd":
            _check_nrrd(path)
        else:
            _check_place(path)
        reader.ReadImageInformation()
    except (RuntimeError, OverflowError) as error:
        raise ScanError(f"{path.name} is damaged, or no NIfTI or NRRD image. Copy it again from its source.") from error
    _check_header(reader, path)
    if suffix != ".nrrd":
        _check_nifti(reader, path)
    try:
        image: sitk.Image = reader.Execute()
    except RuntimeError as error:
        raise ScanError(f"{path.name} is truncated or damaged. Copy it again from its source.") from error
    return image


def _check_nrrd(path: Path) -> None:
    """Refuse a NRRD header that names other files (voxels of any place would be read) or an unusual compression."""
    with path.open("rb") as file:
        header, blank, _ = file.read(LONGEST_NRRD_HEADER).replace(b"\r", b"").partition(b"\n\n")
    if not header.startswith(b"NRRD") or not blank:
        raise ScanError(f"{path.name} is damaged, or no NIfTI or NRRD image. Copy it again from its source.")
    fields = dict(line.partition(b":")[::2] for line in header.lower().split(b"\n") if not line.startswith(b"#"))
    names = {name.strip().replace(b" ", b"") for name in fields}
    if names & {b"datafile", b"lineskip", b"byteskip"}:
        raise ScanError(f"{path.name} refers to another file for its voxels; expected one file that holds them.")
    encoding = fields.get(b"encoding", b"").strip().decode("ascii", "replace")
    if encoding not in NRRD_ENCODINGS:
        raise ScanError(f"{path.name} has the encoding {encoding!r}; expected {' or '.join(NRRD_ENCODINGS)}.")


def _check_place(path: Path) -> None:
    """Refuse a NIfTI header that puts the volume nowhere: ITK searches such a place for ever, or takes another one."""
    name = path.name
    head = next(_pieces(path), b"")[: PLACE["itemsize"]]
    layout = np.dtype(PLACE).newbyteorder(">" if head[:1] == b"\x00" else "<")
    place = np.frombuffer(head.ljust(layout.itemsize, b"\x00"), layout)[0]
    if place["n_bytes"] == NIFTI2_BYTES:
        raise ScanError(f"{name} is NIfTI-2, expected NIfTI-1 or NRRD. Write it in one of these.")
    if place["n_bytes"] != layout.itemsize or not 1 <= place["n_axes"] <= 7:
        raise ScanError(f"{name} is damaged, or no NIfTI or NRRD image. Copy it again from its source.")
    numbers = [*(place["sform"].flat if place["sform_code"] > 0 else ())]
    numbers += [*(place["qform"] if place["qform_code"] > 0 else ())]
    if not np.isfinite(numbers).all():
        raise ScanError(f"{name} lies at no finite place: check the sform and qform of its header.")
    if place["sform_code"] > 0:
        axes = place["sform"][:, :3].astype(float)
        sides_mm = np.linalg.norm(axes, axis=0)
        _check_sides(name, sides_mm)
        _check_axes(name, axes / sides_mm)


def _check_sides(name: str, sides_mm: Sequence[float] | NDArray[np.float64]) -> None:
    low, high = SPACING_MM
    if not all(low <= side <= high for side in sides_mm):
        sides = " x ".join(f"{side:g}" for side in sides_mm)
        raise ScanError(f"{name} has voxels of {sides} mm, expected {low:g} to {high:g}: check its header.")


def _check_axes(name: str, axes: NDArray[np.float64]) -> None:
    if not abs(np.linalg.det(axes)) > LEAST_ANGLE:
        raise ScanError(f"{name} lies in a plane, or at no finite place: check its header.")


def _check_header(reader: sitk.ImageFileReader, path: Path) -> None:
    name, size, spacing = path.name, reader.GetSize(), reader.GetSpacing()
    found = " x ".join(str(side) for side in size)
    if len(size) != 3:
        raise ScanError(f"{name} has {len(size)} dimensions ({found}), expected 3: one volume a file.")
    if reader.GetNumberOfComponents() != 1:
        raise ScanError(f"{name} has {reader.GetNumberOfComponents()} values a voxel, expected 1.")
    low, high = SIDE_VOXELS
    if min(size) < low or max(size) > high or math.prod(size) > MOST_VOXELS:
        raise ScanError(f"{name} has {found} voxels, expected {low} to {high} a side: no chest CT volume.")
    _check_sides(name, spacing)
    if not np.isfinite([*reader.GetOrigin(), *reader.GetDirection()]).all():
        raise ScanError(f"{name} lies at no finite place: check its header.")
    _check_axes(name, np.reshape(reader.GetDirection(), (3, 3)))
    if math.prod(size) > path.stat().st_size * HIGHEST_COMPRESSION:
        raise ScanError(
            f"{name} announces {found} voxels in {path.stat().st_size:,} bytes, more than any compression can hold: "
            "truncated or damaged. Copy it again from its source."
        )


def _check_nifti(reader: sitk.ImageFileReader, path: Path) -> None:
    """Look at a NIfTI file's bytes: ITK reads missing voxels, and those that are no number, as 0."""
    try:
        start, bits = int(float(reader.GetMetaData("vox_offset"))), int(reader.GetMetaData("bitpix"))
    except (RuntimeError, ValueError, OverflowError) as error:
        raise ScanError(f"{path.name} has a damaged header. Copy it again from its source.") from error
    expected = start + math.prod(reader.GetSize()) * bits // 8
    is_float = reader.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64) and bits in (32, 64)
    n_bytes, n_bad, order, rest = 0, 0, "<", b""
    for piece in _pieces(path):
        if n_bytes == 0 and piece[:1] == b"\x00":
            order = ">"  # the first bytes hold the number 348
        if is_float:
            voxels = rest + piece[max(start - n_bytes, 0) : max(expected - n_bytes, 0)]
            whole = len(voxels) // (bits // 8) * (bits // 8)
            rest, values = voxels[whole:], np.frombuffer(voxels[:whole], f"{order}f{bits // 8}")
            n_bad += int(values.size - np.isfinite(values).sum())
        n_bytes += len(piece)
        if n_bytes > expected + MOST_SURPLUS_BYTES:
            raise ScanError(f"{path.name} holds more than the {expected:,} bytes that its header announces.")
    if n_bytes < expected:
        raise ScanError(
            f"{path.name} is truncated: {n_bytes:,} bytes of content, its header announces {expected:,}. "
            "Copy it again from its source."
        )
    refuse_not_finite(n_bad, path.name)


def _pieces(path: Path) -> Iterator[bytes]:
    """Give a file's content piece by piece, decompressed; the checksum of gzip is compared at its end."""
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
        opened: Any = igzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[no-untyped-call]
        with opened as content:
            while piece := content.read(CHUNK_BYTES):
                yield piece
    except (EOFError, OSError, IsalError) as error:  # type: ignore[misc]
        raise ScanError(f"{path.name} is truncated or damaged ({error}). Copy it again from its source.") from error


def check_finite(values: NDArray[Any], name: str) -> None:
    """Raise ScanError where values are no finite numbers; `name` is what the message calls the file."""
    refuse_not_finite(int(values.size - np.isfinite(values).sum()), name)


def refuse_not_finite(n_bad: int, name: str) -> None:
    """Raise ScanError when a file has voxels that are no finite numbers."""
    if n_bad:
        raise ScanError(f"{name} has {n_bad:,} voxels that are not finite numbers, expected none.")
