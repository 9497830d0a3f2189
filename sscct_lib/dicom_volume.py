"""A DICOM series as a volume in Hounsfield units: pixels are decoded with SimpleITK (GDCM), geometry is made even."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import AllTransferSyntaxes
from scipy import ndimage

from sscct_lib.codestreams import refuse_other_size, syntax_of
from sscct_lib.dicom import UNREADABLE, Series, quiet_pydicom
from sscct_lib.dicom_frames import Frame, first_rescale, stack, step_mm
from sscct_lib.images import AIR_HU
from sscct_lib.scans import ScanError

LOWEST_TISSUE_HU, HIGHEST_TISSUE_HU = -900, 3071
WIDEST_GAP_MM = 10.0
MOST_MISSING_SHARE = 0.1
SAME_STEP_MM = 0.05
ITEM_HEADER = struct.Struct("<4sL")  # tag and length of a piece of compressed pixels
TILT_MM = 0.1  # drift of the slices across their normal that is still called straight


def read_series(series: Series) -> tuple[sitk.Image, list[str]]:
    """Read a series as a volume.

    Rescale slope and intercept are applied slice by slice; padding becomes -1024 HU. Slices that are missing or
    cannot be decoded are filled by linear interpolation along the stack, and a tilted gantry is straightened by
    moving each slice in its plane; all other voxels keep their value exactly.

    Parameters
    ----------
    series
        Of axial CT images, for which `why_unusable` found nothing.

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
