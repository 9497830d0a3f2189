"""A DICOM series as a volume: whether it is a chest CT, and Hounsfield units on an even grid.

Pixels are decoded with SimpleITK (GDCM). A decoder takes memory for the size that stands in the compressed data itself,
where a few bytes can announce gigabytes, whatever the header says: what compressed pixels announce is compared with the
header first. Messages never name a file, since file names of an export may hold names of patients.
"""

import math
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.config import IGNORE
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLETransferSyntaxes,
)
from scipy import ndimage

from sscct_lib.images.density import (
    AIR_HU,
    SLICES_FOR_AIR,
    aerated,
    agrees,
    shifted_slices,
    takes_turns,
    without_padding,
)
from sscct_lib.images.dicom import (
    STRAYS,
    UNREADABLE,
    Frame,
    Series,
    heights,
    n_frames,
    numbered,
    quiet_pydicom,
    read_headers,
    rescale_of_decoder,
    slices_of,
    told_strays,
    too_large,
)
from sscct_lib.images.reasons import Told, UnusableError, told
from sscct_lib.images.reconstructions import FEWEST_SLICES, MOST_MISSING_SHARE, Volume, split, step_mm

THORAX_MM = 150.0  # a shorter stack holds no whole thorax
AXIAL_COSINE = 0.85  # a gantry tilts by up to 30 degrees
LOWEST_TISSUE_HU, HIGHEST_TISSUE_HU = -900, 3071
WIDEST_GAP_MM = 10.0
ONE_MISSING = 2.1  # steps: one slice never costs a scan
SAME_STEP_MM = 0.05
ITEM_HEADER = struct.Struct("<4sL")  # tag and length of a piece of compressed pixels
TILT_MM = 0.1  # drift of the slices across their normal that is still called straight

MOST_TILES = 1024  # a decoder keeps some kilobytes for each tile of JPEG 2000
HIGHEST_RLE = 64  # two bytes of PackBits become 128
CODESTREAM, BOXES = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "  # how JPEG 2000 begins: bare, and as a file
SIZE_2000 = struct.Struct(">4x2x2x8LH")  # image and tiles, each with its offset, and the components
DEPTH_2000 = 0x7F  # of a component, the bits less one; the eighth bit says that it has a sign
SIZE_JPEG = struct.Struct(">B2HB")  # after the length: bits, rows, columns, components
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END = 0xDA, 0xD9
LARGER_SIZE = b"\xff\xf8", b"\x04"  # JPEG-LS may give a size that does not fit its frame header


def volumes_of(series: Series) -> list[Volume]:
    """Tell from the headers which volumes of a chest a series of CT holds.

    Returns
    -------
    list of Volume
        Those that may be a scan, the one with most slices first; what else was found is told with it. Where there is
        none, one volume whose `fault` says why.
    """
    found, strays = slices_of(series)
    said = [told("damaged_headers", n=series.n_damaged)] if series.n_damaged else []
    said += told_strays(strays)
    if not found:
        return [Volume([], fault=_why_nothing(series, strays))]
    volumes = split(found, plane_of)
    _decode_once.cache_clear()
    for volume in volumes:
        volume.fault = volume.fault or _fault(volume)
    usable = [volume for volume in volumes if not volume.fault]
    best, *others = usable or volumes
    best.told[:0] = said
    left = [volume for volume in volumes if volume.fault and volume is not best]
    for what in dict.fromkeys(volume.apart for volume in left):
        numbers = [frame.number for volume in left if volume.apart == what for frame in volume.frames]
        best.told.append(told("others_left_out", n=len(numbers), what=what, which=numbered(numbers)))
    if not usable:
        return [best]
    if others:
        for volume in usable:
            apart = " and ".join(sorted({one.apart for one in usable}))
            volume.told.append(told("several_volumes", n=len(usable), what=apart))
    return usable


def _why_nothing(series: Series, strays: dict[str, list[int | None]]) -> Told:
    if not series.headers:
        return told("all_damaged", n=series.n_damaged)
    if series.kind != "CT":
        return told("no_ct" if series.kind != "localizer" else "localizer", kind=series.kind)
    if not strays:
        return told("no_frames")
    return told(STRAYS[max(strays, key=lambda kind: len(strays[kind]))][1])


def _fault(volume: Volume) -> Told | None:
    """Say from the headers why slices are no volume of a chest."""
    frames = volume.frames
    if large := too_large(volume.headers):
        return large
    if not volume.get("PatientID"):
        return told("no_patient")
    if abs(frames[0].normal[2]) < AXIAL_COSINE:
        return told("not_axial")
    if len(frames) < FEWEST_SLICES:
        return told("few_slices", n=len(frames), least=FEWEST_SLICES)
    if (length := length_mm(frames)) < THORAX_MM:
        return told("short", length=length, least=THORAX_MM)
    return None


def length_mm(frames: list[Frame]) -> float:
    """Distance from the first slice to the last, mm."""
    return float(abs((frames[-1].position - frames[0].position) @ frames[0].normal))


def read_slices(slices: Iterable[tuple[str, int]]) -> tuple[sitk.Image, list[Told]]:
    """Read slices, given by file and number of the frame in it, as a volume; see `read_frames`."""
    return read_frames(_frames_of(slices))


def _frames_of(slices: Iterable[tuple[str, int]]) -> list[Frame]:
    wanted = {(Path(file), index) for file, index in slices}
    found, _ = slices_of(read_headers(sorted({path for path, _ in wanted})))
    frames = [frame for frame in found if (frame.path, frame.index) in wanted]
    if not frames:
        raise UnusableError("no_frames")
    return [frames[place] for place in np.argsort(heights(frames), kind="stable")]


def read_frames(ordered: list[Frame]) -> tuple[sitk.Image, list[Told]]:
    """Read the slices of one `Volume`, in order along their normal: from feet to head, int16 HU, and what was done.

    Rescale slope and intercept are applied slice by slice; padding becomes -1024 HU. Slices that are missing or cannot
    be decoded are filled by linear interpolation along the stack, and a tilted gantry is straightened by moving each
    slice in its plane, on a grid that holds all of them; all other voxels keep their value exactly. UnusableError
    where no slice can be decoded, or a gap is too wide to be filled.
    """
    step = step_mm(ordered)
    frames, volume, notes = _decoded(ordered)
    frames, volume = _even_density(frames, volume, notes)
    volume, said = without_padding(volume)
    notes += said
    if takes_turns(volume):
        volume, frames, step = *_one_of_two(volume, frames), 2 * step
        notes.append(told("takes_turns", step=step))
    first = frames[0]
    offsets = np.array([frame.position - first.position for frame in frames])
    along, origin = offsets @ first.normal, first.position
    _check_gaps(along, step)
    if np.abs(drift := offsets @ first.axes.T).max() > TILT_MM:
        across = float(np.linalg.norm(drift[-1] - drift[0]))
        notes.append(told("tilt", degrees=math.degrees(math.atan2(across, float(along[-1] - along[0])))))
        volume, moved = _straighten(volume, drift / np.array(first.pixel_mm))
        origin = origin + (moved * np.array(first.pixel_mm)) @ first.axes
    if np.abs(np.diff(along) - step).max() > SAME_STEP_MM:
        volume, n_added = _even_steps(volume, along, step)
        notes.append(told("uneven", step=step, n=n_added, which=_between(frames)))
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing([*first.pixel_mm, step])
    image.SetOrigin(origin.tolist())
    image.SetDirection(np.column_stack([*first.axes, first.normal]).ravel().tolist())
    return image, notes


def _between(frames: list[Frame]) -> str:
    """Name the slices that are not there by the numbers that are left out between neighbours."""
    missing: list[int | None] = []
    for one, other in pairwise(frames):
        if one.number is not None and other.number is not None and one.path != other.path:
            missing += range(min(one.number, other.number) + 1, max(one.number, other.number))
    return f", missing: {numbered(missing)}" if 0 < len(missing) <= len(frames) else ""


def _even_density(
    frames: list[Frame], volume: NDArray[np.int16], notes: list[Told]
) -> tuple[list[Frame], NDArray[np.int16]]:
    """Give slices that lost their rescale that of the others where this mends them, and leave them out where not."""
    shifted = shifted_slices(volume)
    if shifted is None:
        return frames, volume
    mended, lost = [], []
    for index in shifted.wrong:
        nearest = min(shifted.right, key=lambda other: abs(other - index))
        alike = _rescaled(volume[index], frames[index].rescale, frames[nearest].rescale)
        if agrees(alike, volume[nearest]):
            volume[index] = np.clip(np.rint(alike), AIR_HU, np.iinfo(np.int16).max)
            mended.append(index)
        else:
            lost.append(index)
    for code, which in (("rescale_mended", mended), ("density_left_out", lost)):
        if which:
            notes.append(told(code, n=len(which), which=numbered(frames[index].number for index in which)))
    kept = [index for index in range(len(frames)) if index not in set(lost)]
    return [frames[index] for index in kept], volume[kept] if lost else volume


def _one_of_two(volume: NDArray[np.int16], frames: list[Frame]) -> tuple[NDArray[np.int16], list[Frame]]:
    """Of two volumes, slice by slice in turn, take the one with more air in the lungs."""
    halves = [(volume[begin::2], frames[begin::2]) for begin in (0, 1)]
    return max(halves, key=lambda half: sum(aerated(plane) for plane in half[0]) / len(half[1]))


def air_ml(slices: list[tuple[str, int]]) -> float:
    """Estimate the volume of aerated lung from some slices, given as for `read_slices`; ml, NaN if none is decoded."""
    places = np.unique(np.linspace(0, len(slices) - 1, SLICES_FOR_AIR).round().astype(int))
    frames = _frames_of(slices[place] for place in places)
    planes = [(height, plane) for frame, height in zip(frames, heights(frames), strict=True)
              if (plane := plane_of(frame)) is not None]  # fmt: skip
    _decode_once.cache_clear()
    if not planes:
        return math.nan
    sections = [aerated(plane) * plane.size for _, plane in planes]
    return float(np.trapezoid(sections, [height for height, _ in planes]) * math.prod(frames[0].pixel_mm) / 1000)


def _check_gaps(along: NDArray[np.float64], step: float) -> None:
    gaps = np.diff(along)
    widest = int(np.argmax(gaps))
    missing = round(float((gaps / step).sum())) - len(gaps)
    if gaps[widest] > max(WIDEST_GAP_MM, ONE_MISSING * step) or missing > MOST_MISSING_SHARE * len(along):
        raise UnusableError(
            "gap", n=missing, gap=gaps[widest], after=widest + 1, before=widest + 2, slices=len(along), step=step
        )


def _decoded(frames: list[Frame]) -> tuple[list[Frame], NDArray[np.int16], list[Told]]:
    """Decode slices to Hounsfield units, shape (n, rows, columns); those that cannot be decoded are left out."""
    good, planes = [], []
    for frame in frames:
        plane = plane_of(frame)
        if plane is not None:
            good.append(frame)
            planes.append(plane)
    _decode_once.cache_clear()
    if len(good) > 1:
        lost = [frame.number for frame in frames if not any(frame is one for one in good)]
        notes = [told("undecodable", n=len(lost), which=numbered(lost))] if lost else []
        return good, np.stack(planes), notes
    if good:
        raise UnusableError("one_decodable", n=len(frames))
    syntax = syntax_of(frames[0].header)
    name = syntax.name if syntax in AllTransferSyntaxes else "unknown"  # a damaged one may be any text
    raise UnusableError("none_decodable", n=len(frames), syntax=name)


def plane_of(frame: Frame) -> NDArray[np.int16] | None:
    """Decode one slice to Hounsfield units, shape (rows, columns); None when it is cut short or damaged."""
    values = None if too_large([(frame.header, frame.path)]) else _decode_once(frame.path)
    size = int(frame.header.Rows), int(frame.header.Columns)
    if values is None or values.shape[1:] != size or frame.index >= len(values):
        return None
    return _without_padding(_rescaled(values[frame.index], rescale_of_decoder(frame.header), frame.rescale), frame)


@lru_cache(maxsize=1)
def _decode_once(path: Path) -> NDArray[Any] | None:
    """Decode a file; a multi-frame file is asked for once for each of its frames."""
    return _decode(path)


def _is_whole(item: pydicom.Dataset) -> bool:
    """Tell whether all bytes of the pixels are there: GDCM fills in for those that are not, or searches for long."""
    pixels = item.PixelData
    if not syntax_of(item).is_encapsulated:
        return len(pixels) >= get_expected_length(item)
    place = 0
    while place + ITEM_HEADER.size <= len(pixels):
        _, length = ITEM_HEADER.unpack_from(pixels, place)
        place += ITEM_HEADER.size + length
    return bool(place == len(pixels))


def _rescaled(plane: NDArray[Any], applied: tuple[float, float], own: tuple[float, float]) -> NDArray[Any]:
    """Give each frame its own rescale: GDCM applies that of the first frame of a file to all of them."""
    if applied == own:
        return plane
    stored = np.rint((plane - applied[1]) / applied[0])
    return np.asarray(stored * own[0] + own[1])


@quiet_pydicom()
def _decode(path: Path) -> NDArray[Any] | None:
    """Decode a file to Hounsfield units, shape (frames, rows, columns); None when it is cut short or damaged."""
    try:
        item = pydicom.dcmread(path, force=True)
        if not _is_whole(item):
            return None
        refuse_other_size(item)
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    except (RuntimeError, *UNREADABLE):
        return None
    return np.asarray(values if values.ndim == 3 else values[None])


def _without_padding(plane: NDArray[Any], frame: Frame) -> NDArray[np.int16]:
    values = plane if plane.dtype.kind in "iu" else np.rint(plane)
    padding = frame.header.get("PixelPaddingValue", None)
    limit = frame.header.get("PixelPaddingRangeLimit", None)
    if isinstance(padding, int):
        given = [_stored(one, frame) for one in (padding, limit) if isinstance(one, int)]
        levels = [one * frame.rescale[0] + frame.rescale[1] for one in given]
        # A padding value inside the range of tissue would erase tissue: then it is not used as such.
        if max(levels) < LOWEST_TISSUE_HU or min(levels) > HIGHEST_TISSUE_HU:
            values = np.where((values >= round(min(levels))) & (values <= round(max(levels))), AIR_HU, values)
    return np.asarray(np.clip(values, AIR_HU, np.iinfo(np.int16).max), dtype=np.int16)


def _stored(value: int, frame: Frame) -> int:
    """Give a padding value the sign of the pixels; its own field may be unsigned."""
    return value - 65536 if frame.header.get("PixelRepresentation", 0) == 1 and value > 32767 else value


def _straighten(volume: NDArray[np.int16], drift: NDArray[np.float64]) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Move each slice by its drift (columns, rows; pixels), so that the stack stands upright, on a grid that holds all.

    Also gives where the first pixel of that grid lies, in pixels (columns, rows) from that of the first slice.
    """
    before, after = np.floor(drift.min(axis=0)).astype(int), np.ceil(drift.max(axis=0)).astype(int)
    (left, right), (top, bottom) = zip(-before, after, strict=True)
    moved = [
        ndimage.shift(
            np.pad(plane.astype(np.float32), ((top, bottom), (left, right)), constant_values=AIR_HU),
            (down, across), order=1, cval=AIR_HU,
        )
        for plane, (across, down) in zip(volume, drift, strict=True)
    ]  # fmt: skip
    return np.asarray(np.rint(moved), dtype=np.int16), before.astype(float)


def _even_steps(volume: NDArray[np.int16], along: NDArray[np.float64], step: float) -> tuple[NDArray[np.int16], int]:
    """Interpolate linearly between neighbouring slices to even steps; also tells how many slices were added."""
    wanted = np.arange(round(along[-1] / step) + 1) * step
    upper = np.clip(np.searchsorted(along, wanted), 1, len(along) - 1)
    share = np.clip((wanted - along[upper - 1]) / (along[upper] - along[upper - 1]), 0, 1)
    share = np.where(np.abs(share - np.rint(share)) * step < SAME_STEP_MM, np.rint(share), share)
    planes = [
        np.rint((1 - weight) * volume[above - 1] + weight * volume[above]).astype(np.int16)
        for above, weight in zip(upper, share, strict=True)
    ]
    return np.stack(planes), len(wanted) - len(along)


# What compressed pixels announce.


def syntax_of(item: Any) -> UID:
    """Give a file's transfer syntax; one without preamble has the first that there was."""
    # Without validation, whose warning would repeat a damaged value.
    return UID(str(item.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)), IGNORE)


def refuse_other_size(item: Any) -> None:
    """Raise ValueError where compressed pixels announce another size, depth or number than their header.

    ITU-T T.81 (JPEG), T.87 (JPEG-LS) and T.800 (JPEG 2000); DICOM PS3.5, annex G (RLE).
    """
    syntax = syntax_of(item)
    if not syntax.is_encapsulated:
        return
    expected = int(item.Rows), int(item.Columns), int(item.get("SamplesPerPixel", None) or 1)
    found = 0
    for frame in generate_frames(item.PixelData, number_of_frames=n_frames(item)):
        found += 1
        if syntax in RLETransferSyntaxes:
            n_bytes = expected[0] * expected[1] * expected[2] * int(item.BitsAllocated) // 8
            if n_bytes > HIGHEST_RLE * len(frame):
                raise ValueError("the compressed pixels cannot hold what the header announces")
            continue
        announced = _announced(frame, syntax)
        sizes = {one[:3] for one in announced}
        if sizes != {expected}:
            raise ValueError(f"the compressed pixels announce {sizes}, the header {expected}")
        n_bits = max(one[3] for one in announced)
        if n_bits > int(item.BitsAllocated):  # a decoder may write beyond the pixels that it made
            raise ValueError(f"the compressed pixels announce {n_bits} bits, the header {item.BitsAllocated}")
    if found != n_frames(item):
        raise ValueError(f"{found} compressed frames, the header announces {n_frames(item)}")


def _announced(frame: bytes, syntax: UID) -> set[tuple[int, int, int, int]]:
    """Rows, columns, components and bits that a frame announces; more than one such set where it has several."""
    if syntax in JPEG2000TransferSyntaxes:
        return {_announced_2000(frame, place) for place in _headers_2000(frame)}
    if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        return {_announced_jpeg(frame)}
    raise ValueError(f"{syntax.name} is not read")


def _headers_2000(frame: bytes) -> list[int]:
    if frame.startswith(CODESTREAM):
        return [0]
    if not frame.startswith(BOXES):
        raise ValueError("no JPEG 2000")
    # A box may hold a second image, before or after the one that is decoded.
    return [found.start() for found in re.finditer(re.escape(CODESTREAM), frame)]


def _announced_2000(frame: bytes, place: int) -> tuple[int, int, int, int]:
    right, bottom, left, top, tile_width, tile_height, _, _, components = SIZE_2000.unpack_from(frame, place)
    if right <= left or bottom <= top or not tile_width or not tile_height:
        raise ValueError("JPEG 2000 without pixels")
    if -(-right // tile_width) * -(-bottom // tile_height) > MOST_TILES:
        raise ValueError("JPEG 2000 with more tiles than any CT")
    depths = frame[place + SIZE_2000.size :][: 3 * components : 3]
    if len(depths) < components or not components:
        raise ValueError("JPEG 2000 without components")
    return bottom - top, right - left, components, max(depth & DEPTH_2000 for depth in depths) + 1


def _announced_jpeg(frame: bytes) -> tuple[int, int, int, int]:
    if not frame.startswith(b"\xff\xd8"):
        raise ValueError("no JPEG")
    place = 2
    while place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        (length,) = struct.unpack_from(">H", frame, place + 2)
        if marker in START_OF_FRAME:
            bits, rows, columns, components = SIZE_JPEG.unpack_from(frame, place + 4)
            return rows, columns, components, bits
        other_size = (frame[place : place + 2], frame[place + 4 : place + 5]) == LARGER_SIZE
        if marker in (START_OF_SCAN, END) or other_size:
            break
        place += 2 + length
    raise ValueError("JPEG without a size")
