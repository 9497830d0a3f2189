"""Volumes from files that nobody vouches for: NIfTI, NRRD and MetaImage.

What a header announces is judged before memory is taken for it. The text headers of NRRD and MetaImage may name any
file of the machine for their voxels: only one beside them is accepted, by the name that it must have.

How a volume lies in the body is told by the header's own words, which are judged, and never guessed. A volume is placed
by axes at right angles. Affines here are (3, 4): three axes in mm for a step of one voxel, and the centre of the first
voxel, in LPS.

References
----------
NIfTI-1 (https://nifti.nimh.nih.gov), section "Orientation and location in space": qform (method 2), sform (method 3).
Nearest rotation: Schönemann, Psychometrika 1966;31:1-10.
"""

import math
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk
from isal import igzip
from isal.igzip_lib import IsalError
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sscct_lib.images.reasons import Told, UnusableError, told
from sscct_lib.study.settings import SPACING_MM

READERS = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}
"""Readers of ITK by the end of a name: files that hold their voxels themselves."""
PAIRS = {".hdr": "NiftiImageIO", ".nhdr": "NrrdImageIO", ".mhd": "MetaImageIO"}
"""Headers whose voxels lie in a second file beside them; `sscct ingest` alone takes these."""
VOXELS = {".hdr": (".img", ".img.gz"), ".nhdr": (".raw", ".raw.gz"), ".mhd": (".raw", ".zraw")}
SIDE_VOXELS = (8, 4096)
MOST_VOXELS = 1_500_000_000
HIGHEST_COMPRESSION = 1100  # deflate reaches 1,032
MOST_SURPLUS_BYTES = 65_536
CHUNK_BYTES = 1 << 22
GZIP_MAGIC = b"\x1f\x8b"
NIFTI2_BYTES = 540
MAGIC_HDR = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")  # the number 348
MAGIC = {".nii": b"n+1", ".hdr": b"ni1"}
HEADER: Any = {
    "names": ["n_bytes", "n_axes", "pixdim", "units", "qform_code", "sform_code", "qform", "sform", "magic"],
    "formats": ["i4", "i2", "4f4", "u1", "i2", "i2", "6f4", "(3,4)f4", "S3"],
    "offsets": [0, 40, 76, 123, 252, 254, 256, 280, 344],
    "itemsize": 348,
}
"""Where the header of a NIfTI-1 file says how the volume lies."""
LONGEST_HEADER = 65_536
NRRD_ENCODINGS = ("raw", "gzip", "gz")
NRRD_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
"""Spaces of a patient that ITK's reader knows; in others it takes the axes for LPS."""
META_MATRIX = {"transformmatrix", "rotation", "orientation"}
META_LAST = "elementdatafile"
LOCAL = "LOCAL"
LENIENT = "ITK_NIFTI_SFORM_PERMISSIVE"
LEAST_ANGLE = 0.1  # least determinant of the axes: 1 where they are at right angles, 0 in a plane

Affine = NDArray[np.float64]

ROUNDING_DEGREES = 0.02  # of four-byte numbers: a quaternion near half a turn is this far off
MOST_SHEAR_DEGREES = 1.0
MOST_TURN_DEGREES = 0.1  # between qform and sform: 0.6 mm at the edge of a chest
MOST_SHIFT_MM = 0.5
MOST_SCALE = 1e-3
TO_LPS = np.array([[-1.0], [-1.0], [1.0]])  # from the RAS of NIfTI
LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
FORMS = ("sform", "qform")
UNIT_MM = {1: 1000.0, 3: 0.001}  # metres and micrometres; millimetres else


def is_volume(path: Path, pairs: bool = True) -> bool:
    """Tell by its name whether a file is a volume, or (with `pairs`) the header of one in two files."""
    return _suffix(path.name) in (READERS | PAIRS if pairs else READERS)


def without_suffix(name: str) -> str:
    """Give the name of a volume's file without what says its format."""
    return name[: len(name) - len(_suffix(name))]


def voxels_of(path: Path) -> Path | None:
    """Find the file beside a header that holds its voxels; None for a volume in one file, or where it is missing."""
    bare = without_suffix(path.name)
    ends = VOXELS.get(_suffix(path.name), ())
    beside = [path.with_name(bare + end) for one in ends for end in (one, one.upper())]
    return next((one for one in beside if one.is_file()), None)


def read_volume(path: Path) -> sitk.Image:
    """Read a whole 3-D volume of any pixel type, as stored: NIfTI, NRRD or MetaImage (`.mha`), in one file.

    Only the readers of these are used, each for its own suffix, and only for files that hold their voxels themselves.

    Raises
    ------
    ScanError
        If the file is missing, empty, of another format, truncated or damaged; if it refers to another file; if it
        announces a volume that no chest CT has, or that cannot be in a file of its size; if it has more or less
        content than it announces; or if it does not say, or says in two ways, how the body lies in it.
    """
    return read_placed(path, path.name)[0]


def read_placed(
    path: Path, name: str, orientation: str | None = None, pairs: bool = False
) -> tuple[sitk.Image, list[Told]]:
    """Read a volume as `read_volume` does, and say what was done to its place; messages call the file `name`.

    `orientation` (see `check_orientation`) is what a user says where the header does not, or contradicts
    itself; with `pairs`, voxels may lie in a second file beside the header, under the same name.
    """
    if not path.is_file():
        raise UnusableError("missing", name=name)
    if path.stat().st_size == 0:
        raise UnusableError("empty_file", name=name)
    suffix = _suffix(path.name)
    if suffix not in READERS and not (pairs and suffix in PAIRS):
        raise UnusableError("no_volume", name=name, expected=", ".join(READERS))
    voxels = voxels_of(path)
    if suffix in PAIRS and voxels is None:
        raise UnusableError("no_voxels", name=name, expected=" or ".join(VOXELS[suffix]))
    with unnamed(path, voxels) as plain, _lenient_and_quiet():
        return _read(path, plain, name, orientation, voxels)


def _read(
    path: Path, plain: Path, name: str, orientation: str | None, voxels: Path | None
) -> tuple[sitk.Image, list[Told]]:
    kind = (READERS | PAIRS)[_suffix(path.name)]
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(plain))
    reader.SetImageIO(kind)
    try:
        if kind == "NrrdImageIO":
            says_place = _check_nrrd(path, name, voxels)
        elif kind == "MetaImageIO":
            says_place, start, is_compressed = _check_meta(path, name, voxels)
        else:
            header = _nifti_header(path, name)
        reader.ReadImageInformation()
    except (RuntimeError, OverflowError) as error:
        raise UnusableError("damaged", name=name) from error
    _check_header(reader, voxels or path, name)
    if kind != "NiftiImageIO":
        if kind == "MetaImageIO":
            expected = math.prod(reader.GetSize()) * sitk.Image(1, 1, 1, reader.GetPixelID()).GetSizeOfPixelComponent()
            _check_meta_voxels(voxels or path, name, start, is_compressed, expected)
        found = {"header": affine_of(reader)} if says_place else {}
        sides = np.array(reader.GetSpacing())
    else:
        order = ">" if header.dtype["n_bytes"].byteorder == ">" else "<"
        _check_nifti(reader, voxels or path, name, order)
        found, sides = nifti_affines(header), np.abs(header["pixdim"][1:4].astype(float))
    place, remarks = _placed(found, orientation, name, reader.GetSize(), sides)
    try:
        image: sitk.Image = reader.Execute()
    except RuntimeError as error:
        raise UnusableError("truncated_or_damaged", name=name, error="") from error
    set_place(image, place)
    return image, remarks


def _placed(
    found: dict[str, Affine], orientation: str | None, name: str, size: tuple[int, ...], sides: NDArray[np.float64]
) -> tuple[Affine, list[Told]]:
    """Take the place that the header states, or else the orientation that the user states."""
    for affine in found.values():
        if not np.isfinite(affine).all():
            raise UnusableError("nowhere", name=name)
        _check_sides(name, np.linalg.norm(affine[:, :3], axis=0))
    if found:
        return place_of(found, orientation, name)
    if orientation is None or orientation in FORMS:
        raise UnusableError("no_orientation", name=name)
    _check_sides(name, sides)
    return placed_by_letters(orientation, size, sides), [told("orientation_said", sides=orientation)]


def _suffix(name: str) -> str:
    """Give the end of a name that says its format, in small letters; empty for another."""
    return next((one for one in (".nii.gz", *READERS, *PAIRS) if name.lower().endswith(one)), "")


@contextmanager
def unnamed(path: Path, voxels: Path | None = None) -> Iterator[Path]:
    """Read a volume by a link that ITK can take, whose name says nothing: readers write names into warnings."""
    # A second file with the voxels keeps its name where the header says it.
    suffix = _suffix(path.name)
    with tempfile.TemporaryDirectory(prefix="sscct-") as folder:
        link = Path(folder) / f"volume{suffix}"
        link.symlink_to(path.resolve())
        if voxels is not None:
            of_voxels = ".img.gz" if voxels.name.lower().endswith(".gz") else ".img"
            link.with_name(f"volume{of_voxels}" if suffix == ".hdr" else voxels.name).symlink_to(voxels.resolve())
        yield link


@contextmanager
def _lenient_and_quiet() -> Iterator[None]:
    """Have ITK read sheared axes, which are judged here, and silence its warnings, which name files."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay(), os.environ.get(LENIENT)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    os.environ[LENIENT] = "YES"
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before[0])
        del os.environ[LENIENT]
        os.environ.update({} if before[1] is None else {LENIENT: before[1]})


def _nifti_header(path: Path, name: str) -> Any:
    """Read a NIfTI header, and refuse one that puts the volume nowhere: ITK searches such a place for ever."""
    head = next(_pieces(path, name), b"")[: HEADER["itemsize"]]
    layout = np.dtype(HEADER).newbyteorder(">" if head[:1] == b"\x00" else "<")
    header = np.frombuffer(head.ljust(layout.itemsize, b"\x00"), layout)[0].copy()
    if header["n_bytes"] == NIFTI2_BYTES:
        raise UnusableError("nifti_2", name=name)
    if header["n_bytes"] != layout.itemsize or not 1 <= header["n_axes"] <= 7:
        raise UnusableError("damaged", name=name)
    magic = MAGIC[".hdr" if _suffix(path.name) == ".hdr" else ".nii"]
    if _suffix(path.name) == ".hdr" and header["magic"] not in MAGIC.values():  # Analyze 7.5, which knows no place
        header["qform_code"] = header["sform_code"] = 0
    elif header["magic"] != magic:
        raise UnusableError("damaged", name=name)
    if not all(np.isfinite(header[form]).all() for form in FORMS if header[f"{form}_code"] > 0):
        raise UnusableError("nowhere_forms", name=name)
    if header["sform_code"] > 0:
        axes = header["sform"][:, :3].astype(float)
        sides_mm = np.linalg.norm(axes, axis=0)
        _check_sides(name, sides_mm)
        _check_axes(name, axes / sides_mm)
    return header


def _check_nrrd(path: Path, name: str, voxels: Path | None) -> bool:
    """Tell whether a NRRD header says how the volume lies; `voxels`: the file with its voxels, None: itself."""
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


def _check_meta(path: Path, name: str, voxels: Path | None) -> tuple[bool, int, bool]:
    """Tell whether a MetaImage header says how the volume lies, at which byte voxels begin, and if compressed."""
    with path.open("rb") as file:
        lines = file.read(LONGEST_HEADER).split(b"\n")
    fields: dict[str, str] = {}
    n_bytes = 0
    for line in lines:
        written, equals, value = line.decode("latin-1").partition("=")
        key = written.strip().lower()
        n_bytes += len(line) + 1
        if not equals or key in fields:
            raise UnusableError("damaged", name=name)
        fields[key] = value.strip()
        if key == META_LAST:
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


def _check_meta_voxels(path: Path, name: str, start: int, is_compressed: bool, expected: int) -> None:
    """Compare the bytes of voxels with what a header announces: the reader takes what is missing for 0."""
    with path.open("rb") as file:
        file.seek(start)
        if not is_compressed:
            n_bytes = path.stat().st_size - start
        else:
            try:
                n_bytes = inflated_bytes(file, 47, expected)  # zlib or gzip
            except zlib.error as error:
                raise UnusableError("truncated_or_damaged", name=name, error="") from error
    if n_bytes < expected:
        raise UnusableError("truncated", name=name, n_bytes=n_bytes, expected=expected)
    if n_bytes > expected:
        raise UnusableError("too_long", name=name, expected=expected)


def inflated_bytes(file: BinaryIO, wbits: int, most: int) -> int:
    """Count to how many bytes the rest of a file inflates, until there are more than `most`."""
    inflate, n_bytes, waiting = zlib.decompressobj(wbits), 0, file.read(CHUNK_BYTES)
    while waiting and n_bytes <= most:
        n_bytes += len(inflate.decompress(waiting, CHUNK_BYTES))
        waiting = inflate.unconsumed_tail or file.read(CHUNK_BYTES)
    return n_bytes


def _check_sides(name: str, sides_mm: Iterable[float]) -> None:
    low, high = SPACING_MM
    if not all(low <= side <= high for side in sides_mm):
        raise UnusableError("voxel_sides", name=name, sides=by(sides_mm, "g"), low=low, high=high)


def by(sides: Iterable[float], form: str = "") -> str:
    """Write the sides of a volume, such as `512 x 512 x 60`."""
    return " x ".join(format(side, form) for side in sides)


def _check_axes(name: str, axes: NDArray[np.float64]) -> None:
    if not abs(np.linalg.det(axes)) > LEAST_ANGLE:
        raise UnusableError("in_a_plane", name=name)


def _check_header(reader: sitk.ImageFileReader, voxels: Path, name: str) -> None:
    size, spacing = reader.GetSize(), reader.GetSpacing()
    found = by(size)
    if len(size) != 3:
        raise UnusableError("dimensions", name=name, n=len(size), found=found)
    if reader.GetNumberOfComponents() != 1:
        raise UnusableError("components", name=name, n=reader.GetNumberOfComponents())
    low, high = SIDE_VOXELS
    if min(size) < low or max(size) > high or math.prod(size) > MOST_VOXELS:
        raise UnusableError("no_chest_size", name=name, found=found, low=low, high=high)
    _check_sides(name, spacing)
    if not np.isfinite([*reader.GetOrigin(), *reader.GetDirection()]).all():
        raise UnusableError("nowhere", name=name)
    _check_axes(name, np.reshape(reader.GetDirection(), (3, 3)))
    n_bytes = voxels.stat().st_size
    if math.prod(size) > n_bytes * HIGHEST_COMPRESSION:
        raise UnusableError("announces_too_much", name=name, found=found, n_bytes=n_bytes)


def _check_nifti(reader: sitk.ImageFileReader, path: Path, name: str, order: str) -> None:
    """Look at a NIfTI file's bytes: ITK reads missing voxels, and those that are no number, as 0."""
    try:
        start, bits = int(float(reader.GetMetaData("vox_offset"))), int(reader.GetMetaData("bitpix"))
    except (RuntimeError, ValueError, OverflowError) as error:
        raise UnusableError("damaged_header", name=name) from error
    expected = start + math.prod(reader.GetSize()) * bits // 8
    is_float = reader.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64) and bits in (32, 64)
    n_bytes, n_bad, rest = 0, 0, b""
    for piece in _pieces(path, name):
        if is_float:
            voxels = rest + piece[max(start - n_bytes, 0) : max(expected - n_bytes, 0)]
            whole = len(voxels) // (bits // 8) * (bits // 8)
            rest, values = voxels[whole:], np.frombuffer(voxels[:whole], f"{order}f{bits // 8}")
            n_bad += int(values.size - np.isfinite(values).sum())
        n_bytes += len(piece)
        if n_bytes > expected + MOST_SURPLUS_BYTES:
            raise UnusableError("too_long", name=name, expected=expected)
    if n_bytes < expected:
        raise UnusableError("truncated", name=name, n_bytes=n_bytes, expected=expected)
    if n_bad:
        raise UnusableError("not_finite", name=name, n=n_bad)


def _pieces(path: Path, name: str) -> Iterator[bytes]:
    """Give a file's content piece by piece, decompressed; the checksum of gzip is compared at its end."""
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
        opened: Any = igzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[no-untyped-call]
        with opened as content:
            while piece := content.read(CHUNK_BYTES):
                yield piece
    except (EOFError, OSError, IsalError) as error:  # type: ignore[misc]
        words = getattr(error, "strerror", None) or str(error)  # without the path that errors of the system hold
        raise UnusableError("truncated_or_damaged", name=name, error=f" ({words})") from error


# How a volume lies in the body.


def check_orientation(text: str) -> str:
    """Give what a user says of an orientation as `sform`, `qform` or three letters; ValueError for anything else."""
    given = text.strip()
    if given.lower() in FORMS:
        return given.lower()
    if sorted(LETTERS.get(letter, (9, 0))[0] for letter in given.upper()) != [0, 1, 2]:
        raise ValueError(
            f"{text}: expected sform or qform, or three letters that say to which side of the patient the voxel axes "
            "run, such as LPS (left, posterior, superior) or RAS."
        )
    return given.upper()


def nifti_affines(header: Mapping[str, Any]) -> dict[str, Affine]:
    """Give the places that a NIfTI-1 header states, by `sform` and `qform`; without those whose code is 0."""
    unit = UNIT_MM.get(int(header["units"]) & 7, 1.0)
    found = {}
    if header["sform_code"] > 0:
        found["sform"] = header["sform"].astype(float) * TO_LPS * unit
    if header["qform_code"] > 0:
        *vector, x, y, z = header["qform"].astype(float)
        scalar = np.sqrt(max(0.0, 1 - np.square(vector).sum()))
        turn = Rotation.from_quat([*vector, scalar]).as_matrix()
        sides = np.abs(header["pixdim"][1:4].astype(float)) * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
        found["qform"] = np.column_stack([turn * sides, (x, y, z)]) * TO_LPS * unit
    return found


def place_of(found: Mapping[str, Affine], orientation: str | None, name: str) -> tuple[Affine, list[Told]]:
    """Choose between the places that a header says (not empty), by what the user says where they differ; straighten it.

    UnusableError where qform and sform differ and nothing was said, or the axes are far from right angles.
    """
    remarks: list[Told] = []
    if len(found) > 1 and (differs := _difference(found["qform"], found["sform"])):
        if orientation not in FORMS:
            raise UnusableError("forms_disagree", name=name, differs=differs)
        remarks.append(told("form_said", form=orientation, differs=differs))
    straight, degrees = nearest_rotation(found.get(orientation or "", next(iter(found.values()))))
    if degrees > MOST_SHEAR_DEGREES:
        raise UnusableError("sheared", name=name, degrees=degrees)
    if degrees > ROUNDING_DEGREES:
        remarks.append(told("shear_straightened", degrees=degrees))
    return straight, remarks


def placed_by_letters(letters: str, size: tuple[int, ...], sides_mm: NDArray[np.float64]) -> Affine:
    """Place a volume of unknown orientation: its voxel axes run to the sides that are said, its centre is at 0."""
    axes = np.zeros((3, 3))
    for column, letter in enumerate(letters):
        row, sign = LETTERS[letter]
        axes[row, column] = sign * sides_mm[column]
    return np.column_stack([axes, -axes @ (np.array(size) - 1) / 2])


def nearest_rotation(affine: Affine) -> tuple[Affine, float]:
    """Turn axes to the nearest ones at right angles, each of its length; also gives the largest angle, degrees."""
    sides = np.linalg.norm(affine[:, :3], axis=0)
    axes = affine[:, :3] / sides
    left, _, right = np.linalg.svd(axes)
    turned = left @ right
    # By the sine, which is exact for small angles.
    degrees = np.degrees(np.arcsin(np.clip(np.linalg.norm(np.cross(axes.T, turned.T), axis=1).max(), 0, 1)))
    return np.column_stack([turned * sides, affine[:, 3]]), float(degrees)


def set_place(image: sitk.Image, affine: Affine) -> None:
    """Give an image a place, unless it is there already but for rounding."""
    sides = np.linalg.norm(affine[:, :3], axis=0)
    directions = affine[:, :3] / sides
    is_there = (
        np.allclose(image.GetSpacing(), sides, rtol=1e-5)
        and np.allclose(image.GetOrigin(), affine[:, 3], atol=1e-2)
        and np.allclose(np.reshape(image.GetDirection(), (3, 3)), directions, atol=2e-4)
    )
    if not is_there:
        image.SetSpacing(sides.tolist())
        image.SetDirection(directions.ravel().tolist())
        image.SetOrigin(affine[:, 3].tolist())


def affine_of(image: Any) -> Affine:
    """Give the place of an image, or of the header that was read of one."""
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.column_stack([axes, image.GetOrigin()])


def sides_of(affine: Affine) -> str:
    """Name the sides to which the voxel axes run, such as LPS."""
    letters = {place: letter for letter, place in LETTERS.items()}
    rows = np.abs(affine[:, :3]).argmax(axis=0)
    return "".join(letters[int(row), int(np.sign(affine[row, column])) or 1] for column, row in enumerate(rows))


def _difference(qform: Affine, sform: Affine) -> str:
    """Say in what two places differ beyond rounding; empty where they do not."""
    (one, _), (other, _) = nearest_rotation(qform), nearest_rotation(sform)
    sides, others = (np.linalg.norm(affine[:, :3], axis=0) for affine in (one, other))
    turn = (one[:, :3] / sides).T @ (other[:, :3] / others)
    degrees = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    if (np.linalg.det(turn) < 0 or degrees > MOST_TURN_DEGREES) and sides_of(one) != sides_of(other):
        return f"by the qform the voxel axes run to {sides_of(one)}, by the sform to {sides_of(other)}"
    if np.linalg.det(turn) < 0 or degrees > MOST_TURN_DEGREES:
        return f"they are turned against each other by {degrees:.1f} degrees"
    if not np.allclose(sides, others, rtol=MOST_SCALE):
        return "their voxels have different sides"
    shift = np.linalg.norm(one[:, 3] - other[:, 3])
    return f"they lie {shift:.1f} mm apart" if shift > MOST_SHIFT_MM else ""
