"""A DICOM series as a volume: which slices form one, whether it is a chest CT, and Hounsfield units on an even grid.

Pixels are decoded with SimpleITK (GDCM). Messages never name a file, since file names of an export may hold names of
patients.
"""

import math
import struct
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import AllTransferSyntaxes
from scipy import ndimage

from sscct_lib.images.dicom import UNREADABLE, Series, quiet_pydicom, refuse_other_size, syntax_of
from sscct_lib.images.nifti import HIGHEST_COMPRESSION
from sscct_lib.images.prepare import AIR_HU
from sscct_lib.study.results import ScanError

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"
FEWEST_SLICES = 20
THORAX_MM = 150.0  # a shorter stack holds no whole thorax
AXIAL_COSINE = 0.85  # a gantry tilts by up to 30 degrees
SAME_POSITION_MM = 0.01
SIDE_PIXELS = (8, 4096)
MOST_PIXELS = 1_500_000_000
LARGEST_NUMBER = 1e6  # millimetres, or a slope

LOWEST_TISSUE_HU, HIGHEST_TISSUE_HU = -900, 3071
WIDEST_GAP_MM = 10.0
MOST_MISSING_SHARE = 0.1
SAME_STEP_MM = 0.05
ITEM_HEADER = struct.Struct("<4sL")  # tag and length of a piece of compressed pixels
TILT_MM = 0.1  # drift of the slices across their normal that is still called straight


@dataclass(frozen=True)
class Frame:
    """One slice: where its pixels are, and where it lies in the patient."""

    path: Path
    index: int  # in the file, from 0
    header: Any  # of the file
    position: NDArray[np.float64]  # centre of the first pixel, LPS mm, shape (3,)
    axes: NDArray[np.float64]  # directions along a row and along a column, shape (2, 3)
    pixel_mm: tuple[float, float]  # distance of pixels along a row and along a column
    rescale: tuple[float, float]  # slope and intercept to Hounsfield units

    @property
    def normal(self) -> NDArray[np.float64]:
        """Direction across the slice."""
        return np.cross(*self.axes)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What all slices of one volume have in common."""
        plane = tuple(np.round(self.axes.ravel(), 3) + 0.0)
        pixel = tuple(round(side, 4) for side in self.pixel_mm)
        return int(self.header.Rows), int(self.header.Columns), plane, pixel


def why_unusable(series: Series) -> str:
    """Say from the headers why a series is no chest CT; empty when it may be one."""
    if not series.headers:
        return f"damaged headers in all {series.n_damaged} file(s)"
    if series.kind != "CT":
        return f"{series.kind}, not a CT volume"
    if series.get("SOPClassUID") not in (CT_IMAGE, ENHANCED_CT_IMAGE):
        return "CT, but no CT images (a report, a screenshot or a dose sheet)"
    if series.get("SamplesPerPixel") not in ("", "1"):
        return "CT in colour: a picture, no Hounsfield units"
    if len({str(header.get("PatientID", "")) for header, _ in series.headers}) > 1:
        return "files of several patients under one SeriesInstanceUID"
    if too_large := _too_large(series):
        return too_large
    try:
        frames, _ = stack(series)
    except ScanError as error:
        return str(error)
    if abs(frames[0].normal[2]) < AXIAL_COSINE:
        return "not axial: a coronal or sagittal reformation"
    if len(frames) < FEWEST_SLICES:
        return f"{len(frames)} slices, expected at least {FEWEST_SLICES}"
    if (length := length_mm(frames)) < THORAX_MM:
        return f"{length:.0f} mm long, expected at least {THORAX_MM:.0f} mm for a whole thorax"
    return ""


def _too_large(series: Series) -> str:
    """Say where the headers announce more pixels than any chest CT has; nothing is decoded for them then."""
    sides = [int(header.get(name, None) or 0) for header, _ in series.headers for name in ("Rows", "Columns")]
    n_pixels = max(sides[::2]) * max(sides[1::2]) * series.n_slices
    if min(sides) < SIDE_PIXELS[0] or max(sides) > SIDE_PIXELS[1] or n_pixels > MOST_PIXELS:
        return f"slices of up to {max(sides)} pixels a side, {series.n_slices} of them: no chest CT"
    n_bytes = sum(path.stat().st_size for _, path in series.headers)
    if n_pixels > HIGHEST_COMPRESSION * n_bytes:
        return f"{n_pixels:,} pixels announced in {n_bytes:,} bytes, more than any compression can hold"
    return ""


def length_mm(frames: list[Frame]) -> float:
    """Distance from the first slice to the last, mm."""
    return float(abs((frames[-1].position - frames[0].position) @ frames[0].normal))


def step_mm(frames: list[Frame]) -> float:
    """Median distance between neighbouring slices, mm."""
    positions = np.array([frame.position @ frames[0].normal for frame in frames])
    return float(np.median(np.diff(positions)))


def stack(series: Series) -> tuple[list[Frame], list[str]]:
    """Choose the slices of a series of CT images that form one volume, and order them along their normal.

    Returns
    -------
    frames : list of Frame
        From the first to the last along the normal of the slices; for axial ones from feet to head.
    notes : list of str
        What was left out, in words.

    Raises
    ------
    ScanError
        If there are no slices, or none with a geometry, or two of them cannot be told apart.
    """
    frames, notes = _distinct(series)
    if not frames:
        raise ScanError("no slices: its files name no frame")
    common, n_common = Counter(frame.shape for frame in frames).most_common(1)[0]
    if n_common < len(frames):
        notes.append(f"{len(frames) - n_common} slice(s) of another size or orientation left out")
        frames = [frame for frame in frames if frame.shape == common]
    normal = frames[0].normal

    def along(frame: Frame) -> float:
        return round(float(frame.position @ normal) / SAME_POSITION_MM) * SAME_POSITION_MM

    if len({along(frame) for frame in frames}) < len(frames):
        frames = _one_acquisition(frames, notes)

    def place(frame: Frame) -> tuple[float, int, int]:
        return along(frame), int(frame.header.get("InstanceNumber", None) or 0), frame.index

    ordered = sorted(frames, key=place)
    if len({place(frame) for frame in frames}) < len(frames):
        raise ScanError("two images at one place with one number: it cannot be told which of them belong together")
    single = [next(same) for _, same in groupby(ordered, key=along)]
    if len(single) < len(ordered):
        notes.append(f"{len(ordered) - len(single)} slice(s) at the place of another left out")
    return single, notes


def read_series(series: Series) -> tuple[sitk.Image, list[str]]:
    """Read a series, for which `why_unusable` found nothing, as a volume.

    Rescale slope and intercept are applied slice by slice; padding becomes -1024 HU. Slices that are missing or cannot
    be decoded are filled by linear interpolation along the stack, and a tilted gantry is straightened by moving each
    slice in its plane; all other voxels keep their value exactly.

    Returns
    -------
    image : SimpleITK.Image
        int16 HU with the direction, origin and spacing of the slices; from feet to head.
    notes : list of str
        What was left out, filled or straightened, in words.

    Raises
    ------
    ScanError
        If no slice can be decoded, or a gap is too wide to be filled.
    """
    ordered, notes = stack(series)
    step = step_mm(ordered)
    frames, volume = _decoded(ordered)
    if len(frames) < len(ordered):
        notes.append(f"{len(ordered) - len(frames)} slice(s) truncated or damaged: treated as missing")
    if len(frames) < 2:
        raise ScanError(f"only one of {len(ordered)} slices can be decoded. Export the series again.")
    first = frames[0]
    offsets = np.array([frame.position - first.position for frame in frames])
    heights = offsets @ first.normal
    _check_gaps(heights, step)
    if np.abs(drift := offsets @ first.axes.T).max() > TILT_MM:
        notes.append(f"gantry tilt of {_tilt_degrees(drift, heights):.0f} degrees straightened")
        volume = _straighten(volume, drift / np.array(first.pixel_mm))
    if np.abs(np.diff(heights) - step).max() > SAME_STEP_MM:
        volume, n_added = _even_steps(volume, heights, step)
        notes.append(f"uneven or missing slices: interpolated to steps of {step:.3g} mm ({n_added:+d} slices)")
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing([*first.pixel_mm, step])
    image.SetOrigin(first.position.tolist())
    image.SetDirection(np.column_stack([*first.axes, first.normal]).ravel().tolist())
    return image, notes


def _distinct(series: Series) -> tuple[list[Frame], list[str]]:
    by_uid = {str(header.get("SOPInstanceUID", path)): (header, path) for header, path in reversed(series.headers)}
    files = list(reversed(by_uid.values()))
    n_duplicates = len(series.headers) - len(files)
    notes = [f"{n_duplicates} duplicate file(s) left out"] if n_duplicates else []
    if series.n_damaged:
        notes.append(f"{series.n_damaged} file(s) with a damaged header left out")
    return [frame for header, path in files for frame in _frames(header, path)], notes


def _frames(header: Any, path: Path) -> list[Frame]:
    """List the slices of a file: one, or one for each frame of an enhanced multi-frame file."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence", None)
    try:
        if per_frame is None:
            return [_frame(path, 0, header, header, header, header, header)]
        shared = header.SharedFunctionalGroupsSequence[0]
        return [_enhanced_frame(path, index, header, groups, shared) for index, groups in enumerate(per_frame)]
    except UNREADABLE as error:
        raise ScanError("slices without position, orientation or pixel spacing: no volume can be made") from error


def first_rescale(header: Any) -> tuple[float, float]:
    """Give slope and intercept of the first frame of a file, from its header."""
    return _frames(header, Path())[0].rescale


def _enhanced_frame(path: Path, index: int, header: Any, groups: Any, shared: Any) -> Frame:
    def group(name: str) -> Any:
        return (groups if name in groups else shared)[name].value[0]

    transformation = "PixelValueTransformationSequence"
    rescale = group(transformation) if transformation in groups or transformation in shared else header
    position, orientation = group("PlanePositionSequence"), group("PlaneOrientationSequence")
    return _frame(path, index, header, position, orientation, group("PixelMeasuresSequence"), rescale)


def _frame(path: Path, index: int, header: Any, position: Any, orientation: Any, measures: Any, rescale: Any) -> Frame:
    axes = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    between_rows, between_columns = (float(side) for side in measures.PixelSpacing)
    place = np.array(position.ImagePositionPatient, dtype=float).reshape(3)
    values = (float(rescale.get("RescaleSlope", None) or 1), float(rescale.get("RescaleIntercept", None) or 0))
    numbers = [*place, *axes.ravel(), between_rows, between_columns, *values]
    if (
        not np.isfinite(numbers).all()
        or np.abs(numbers).max() > LARGEST_NUMBER
        or min(between_rows, between_columns) <= 0
    ):
        raise ValueError("a number of the geometry is not finite, or none that a scanner writes")
    return Frame(path, index, header, place, axes, (between_columns, between_rows), values)


def _one_acquisition(frames: list[Frame], notes: list[str]) -> list[Frame]:
    """Where a series passes over the thorax more than once, keep the pass with most slices."""
    passes: dict[str, list[Frame]] = {}
    for frame in frames:
        passes.setdefault(str(frame.header.get("AcquisitionNumber", None)), []).append(frame)
    if len(passes) == 1:
        return frames
    longest = max(passes.values(), key=len)
    notes.append(f"{len(passes)} acquisitions in one series; the one with most slices ({len(longest)}) was taken")
    return longest


def _check_gaps(heights: NDArray[np.float64], step: float) -> None:
    gaps = np.diff(heights)
    widest = int(np.argmax(gaps))
    missing = round(float((gaps / step).sum())) - len(gaps)
    if gaps[widest] > max(WIDEST_GAP_MM, 1.5 * step) or missing > MOST_MISSING_SHARE * len(heights):
        raise ScanError(
            f"about {missing} slices are missing; the widest gap is {gaps[widest]:.1f} mm between slices {widest + 1} "
            f"and {widest + 2} of {len(heights)}, the usual step {step:.3g} mm. Export the series again."
        )


def _decoded(frames: list[Frame]) -> tuple[list[Frame], NDArray[np.int16]]:
    """Decode slices to Hounsfield units, shape (n, rows, columns); those that cannot be decoded are left out."""
    good, planes = [], []
    path, values = Path(), None
    applied = (1.0, 0.0)
    for frame in frames:
        if frame.path != path:  # a multi-frame file is decoded once
            path, values, applied = frame.path, _decode(frame.path), first_rescale(frame.header)
        if values is not None and values.shape[1:] == frame.shape[:2] and frame.index < len(values):
            good.append(frame)
            planes.append(_without_padding(_rescaled(values[frame.index], applied, frame.rescale), frame))
    if not good:
        syntax = syntax_of(frames[0].header)
        name = syntax.name if syntax in AllTransferSyntaxes else "unknown"  # a damaged one may be any text
        raise ScanError(
            f"none of the {len(frames)} slices can be decoded: truncated, damaged, or in a compression that GDCM does "
            f"not read ({name}). Export them again, uncompressed."
        )
    return good, np.stack(planes)


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
        levels = [
            _stored(one, frame) * frame.rescale[0] + frame.rescale[1]
            for one in (padding, limit)
            if isinstance(one, int)
        ]
        # A padding value inside the range of tissue would erase tissue: then it is not used as such.
        if max(levels) < LOWEST_TISSUE_HU or min(levels) > HIGHEST_TISSUE_HU:
            values = np.where((values >= round(min(levels))) & (values <= round(max(levels))), AIR_HU, values)
    return np.asarray(np.clip(values, AIR_HU, np.iinfo(np.int16).max), dtype=np.int16)


def _stored(value: int, frame: Frame) -> int:
    """Give a padding value the sign of the pixels; its own field may be unsigned."""
    return value - 65536 if frame.header.PixelRepresentation == 1 and value > 32767 else value


def _tilt_degrees(drift: NDArray[np.float64], heights: NDArray[np.float64]) -> float:
    return math.degrees(math.atan2(float(np.linalg.norm(drift[-1] - drift[0])), float(heights[-1] - heights[0])))


def _straighten(volume: NDArray[np.int16], drift: NDArray[np.float64]) -> NDArray[np.int16]:
    """Move each slice by its drift (columns, rows; pixels), so that the stack stands upright on the first."""
    moved = [
        ndimage.shift(plane.astype(np.float32), (down, across), order=1, cval=AIR_HU)
        for plane, (across, down) in zip(volume, drift, strict=True)
    ]
    return np.asarray(np.rint(moved), dtype=np.int16)


def _even_steps(volume: NDArray[np.int16], heights: NDArray[np.float64], step: float) -> tuple[NDArray[np.int16], int]:
    """Interpolate linearly between neighbouring slices to even steps; also tells how many slices were added."""
    wanted = np.arange(round(heights[-1] / step) + 1) * step
    upper = np.clip(np.searchsorted(heights, wanted), 1, len(heights) - 1)
    share = np.clip((wanted - heights[upper - 1]) / (heights[upper] - heights[upper - 1]), 0, 1)
    share = np.where(np.abs(share - np.rint(share)) * step < SAME_STEP_MM, np.rint(share), share)
    planes = [
        np.rint((1 - weight) * volume[above - 1] + weight * volume[above]).astype(np.int16)
        for above, weight in zip(upper, share, strict=True)
    ]
    return np.stack(planes), len(wanted) - len(heights)
