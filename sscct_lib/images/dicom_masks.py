"""Lung masks in DICOM: segmentations (SEG) and contours of radiotherapy (RTSTRUCT), brought onto the grid of a scan."""

import math
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from sscct_lib.images.dicom import UNREADABLE, quiet_pydicom, refuse_bomb
from sscct_lib.images.dicom_pixels import refuse_other_size
from sscct_lib.images.masks import split_sides
from sscct_lib.images.nifti import by, set_place
from sscct_lib.images.prepare import on_grid_of, resample_mask
from sscct_lib.study.results import ScanError

SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"
RIGHT, LEFT, BOTH = 1, 2, 3

# SNOMED CT, and the older SNOMED RT that files before 2020 carry.
SIDE_OF_CODE = {
    "3341006": RIGHT, "T-28100": RIGHT, "42400003": RIGHT, "72481006": RIGHT, "T-28300": RIGHT, "266005": RIGHT,
    "44029006": LEFT, "T-28500": LEFT, "44714003": LEFT, "41224006": LEFT,
}  # fmt: skip
LUNG_CODES = {"39607008", "T-28000", "45653009", "T-28820", "90572001", "T-28830", "31094006"}  # lung, lobes
SIDE_OF_MODIFIER = {"24028007": RIGHT, "G-A100": RIGHT, "7771000": LEFT, "G-A101": LEFT}
SIDE_WORDS = {"r": RIGHT, "rt": RIGHT, "re": RIGHT, "right": RIGHT, "l": LEFT, "lt": LEFT, "li": LEFT, "left": LEFT}
LUNG_WORDS = {"lung", "lungs"}
BOTH_WORDS = {"both", "total", "whole", "bilateral"}
LOBE_WORDS = {"upper", "middle", "lower", "lobe"}

SAME_PLACE_MM = 0.1
SAME_DIRECTION = 1e-3
BETWEEN_SLICES = 0.3  # of the step: a contour is written to tenths of a millimetre
WIDEST_GAP_MM = 10.0
MOST_OVERLAP = 0.01
SPLIT_SPACING_MM = 2.0


@quiet_pydicom()
def referred_series(path: Path) -> tuple[str, ...]:
    """Give the SeriesInstanceUID of the series on which a segmentation or contours were drawn."""
    names = ["ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"]
    try:
        item = pydicom.dcmread(path, specific_tags=names, stop_before_pixels=True)
        series = list(item.get(names[0], None) or [])
        for frame in item.get(names[1], None) or []:
            for examination in frame.get("RTReferencedStudySequence", None) or []:
                series += examination.get("RTReferencedSeriesSequence", None) or []
        return tuple(str(one.SeriesInstanceUID) for one in series)
    except UNREADABLE:
        return ()


@quiet_pydicom()
def read_dicom_mask(path: Path, scan: sitk.Image, frame_uid: str = "") -> sitk.Image:
    """Read the lungs of a segmentation (SEG) or of contours (RTSTRUCT).

    Right and left lung are told by SNOMED code, lobes among them, or by name: `Lung_R`, `right lung`, `Lungs` and the
    like, in either order. A mask of both lungs in one is split as the threshold method does. Slices that the mask
    leaves out between others take the nearest, since lungs have no gaps.

    Parameters
    ----------
    scan
        In LPS, from `prepare.read_scan`.
    frame_uid
        FrameOfReferenceUID of the scan; empty: not compared.

    Returns
    -------
    SimpleITK.Image
        uint8 on the grid of `scan`: 0 outside, 1 right lung, 2 left lung.

    Raises
    ------
    ScanError
        If the file is damaged or of another kind, holds no lungs, belongs to another frame of reference, or its slices
        and pixels are not those of the scan.

    References
    ----------
    DICOM PS3.3, Segmentation IOD (A.51), RT Structure Set IOD (A.19). Names: Mayo et al., AAPM Task Group 263, Int J
    Radiat Oncol Biol Phys 2018;100:1057-66.
    """
    try:
        refuse_bomb(path)
        item = pydicom.dcmread(path)
        kind = str(item.SOPClassUID)
        if kind in SEGMENTATION:
            labels = _from_segments(item, scan, frame_uid)
        elif kind == CONTOURS:
            labels = _from_contours(item, scan, frame_uid)
        else:
            raise ScanError(
                f"the mask is DICOM, but {pydicom.uid.UID(kind).name}; expected a segmentation or contours."
            )
    except ScanError:
        raise
    except (RuntimeError, sqlite3.Error, *UNREADABLE) as error:  # highdicom keeps an index of the frames in SQLite
        raise ScanError(f"the mask is damaged, or lacks what DICOM demands of it ({type(error).__name__}).") from error
    return on_grid_of(scan, _without_gaps(labels, scan.GetSpacing()[2]))


def _check_frame(found: str, expected: str) -> None:
    if expected and found and found != expected:
        raise ScanError("the mask belongs to another frame of reference than the scan: it was drawn on other images.")


def _from_segments(item: pydicom.Dataset, scan: sitk.Image, frame_uid: str) -> NDArray[np.uint8]:
    import highdicom as hd

    _check_frame(str(item.get("FrameOfReferenceUID", "")), frame_uid)
    sides = {int(one.SegmentNumber): _side_of_segment(one) for one in item.SegmentSequence}
    chosen = _choose(sides, "segments")
    refuse_other_size(item)
    segmentation = hd.seg.Segmentation.from_dataset(item, copy=False)
    try:
        _check_extent(segmentation.get_volume_geometry(), scan)
        volume = segmentation.get_volume(segment_numbers=list(chosen))
    except RuntimeError as error:
        raise ScanError("the slices of the segmentation have uneven steps: it cannot be placed on the scan.") from error
    array, affine = np.asarray(volume.array) >= 0.5, np.asarray(volume.affine)
    parts: dict[int, NDArray[np.bool_]] = {}
    for index, side in enumerate(chosen.values()):
        image = sitk.GetImageFromArray(array[..., index].astype(np.uint8))
        set_place(image, affine[:3, [2, 1, 0, 3]])  # steps along columns, rows and slices
        placed = sitk.GetArrayFromImage(onto_grid(sitk.DICOMOrient(image, "LPS"), scan)) > 0
        parts[side] = parts[side] | placed if side in parts else placed
    return _labels(parts, scan)


def _check_extent(geometry: Any, scan: sitk.Image) -> None:
    """Compare the voxels that slices of a segmentation span, gaps between them filled, before memory is taken."""
    if geometry is not None and math.prod(geometry.spatial_shape) > math.prod(scan.GetSize()):
        raise ScanError("the segmentation reaches beyond the scan: it was drawn on other images.")


def onto_grid(mask: sitk.Image, scan: sitk.Image) -> sitk.Image:
    """Bring a segmentation onto the grid of the scan, of which its voxels must be a part."""
    spacing, own = np.array(scan.GetSpacing()), np.array(mask.GetSpacing())
    if not np.allclose(mask.GetDirection(), scan.GetDirection(), atol=SAME_DIRECTION):
        raise ScanError("the segmentation is turned against the scan.")
    ratio = own / spacing
    if not np.allclose(ratio, [1, 1, max(1, round(ratio[2]))], rtol=1e-3):
        raise ScanError(f"the segmentation has voxels of {by(own, '.4g')} mm, the scan of {by(spacing, '.4g')} mm.")
    offset = np.array(scan.TransformPhysicalPointToContinuousIndex(mask.GetOrigin()))
    if np.abs((offset - np.rint(offset)) * spacing).max() > SAME_PLACE_MM:
        raise ScanError("the voxels of the segmentation lie between those of the scan: it was drawn on other images.")
    first, last = np.rint(offset), np.rint(offset) + (np.array(mask.GetSize()) - 1) * np.rint(ratio)
    if first.min() < 0 or (last >= scan.GetSize()).any():
        raise ScanError("the segmentation reaches beyond the scan: it was drawn on other images.")
    return resample_mask(mask, scan)


def _from_contours(item: pydicom.Dataset, scan: sitk.Image, frame_uid: str) -> NDArray[np.uint8]:
    rois = {int(one.ROINumber): one for one in item.StructureSetROISequence}
    chosen = _choose({number: side_of_name(str(one.get("ROIName", ""))) for number, one in rois.items()}, "ROIs")
    parts: dict[int, NDArray[np.bool_]] = {}
    for roi in item.ROIContourSequence:
        number = int(roi.ReferencedROINumber)
        if number in chosen:
            _check_frame(str(rois[number].get("ReferencedFrameOfReferenceUID", "")), frame_uid)
            filled = _fill(roi.get("ContourSequence", None) or [], scan)
            side = chosen[number]
            parts[side] = parts[side] | filled if side in parts else filled
    return _labels(parts, scan)


def _fill(contours: Any, scan: sitk.Image) -> NDArray[np.bool_]:
    """Fill closed contours of a region; where they overlap, inside and outside take turns, so that holes stay."""
    columns, rows, slices = scan.GetSize()
    to_index = np.linalg.inv(np.reshape(scan.GetDirection(), (3, 3)) * np.array(scan.GetSpacing()))
    by_slice: dict[int, list[NDArray[np.float64]]] = {}
    for contour in contours:
        if not str(contour.ContourGeometricType).startswith("CLOSED"):
            continue
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        index = (points - scan.GetOrigin()) @ to_index.T
        k = round(float(index[:, 2].mean()))
        if np.abs(index[:, 2] - k).max() > BETWEEN_SLICES:
            raise ScanError("contours lie between the slices of the scan: they were drawn on other images.")
        if not 0 <= k < slices or index[:, :2].min() < -1 or (index[:, :2].max(axis=0) > (columns, rows)).any():
            raise ScanError("contours reach beyond the scan: they were drawn on other images.")
        by_slice.setdefault(k, []).append(index[:, :2])
    filled = np.zeros((slices, rows, columns), dtype=bool)
    for k, polygons in by_slice.items():
        filled[k] = fill_polygons(polygons, (rows, columns))
    return filled


def fill_polygons(polygons: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (rows, columns) with their centre in an odd number of polygons; corners (column, row), (n, 2) each."""
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), dtype=np.int32)
    for corners in polygons:
        x0, y0 = corners.T
        x1, y1 = np.roll(corners, -1, axis=0).T
        first = np.clip(np.ceil(np.minimum(y0, y1)), 0, rows).astype(int)
        n = np.clip(np.ceil(np.maximum(y0, y1)), 0, rows).astype(int) - first
        edge = np.repeat(np.arange(len(n)), n)
        row = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + first[edge]
        x = x0[edge] + (row - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
        np.add.at(crossings, (row, np.clip(np.ceil(x), 0, columns).astype(int)), 1)
    return np.asarray(np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1)


def side_of_name(name: str) -> int | None:
    """Tell from a name which lung is meant: 1 right, 2 left, 3 both; None when it is no lung or lobe."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    sides = [SIDE_WORDS[word] for word in words if word in SIDE_WORDS]
    if not set(words) & LUNG_WORDS or len(sides) > 1:
        return None
    if set(words) - LUNG_WORDS - BOTH_WORDS - LOBE_WORDS - SIDE_WORDS.keys():
        return None  # a name of something else, such as `Lung_L-PTV`
    is_lobe = bool(set(words) & LOBE_WORDS)
    return sides[0] if sides else None if is_lobe else BOTH


def _side_of_segment(segment: Any) -> int | None:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    code = str(kind.get("CodeValue", ""))
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence", None) or []
    side = next((SIDE_OF_MODIFIER.get(str(one.get("CodeValue", ""))) for one in modifiers), None)
    named = side_of_name(str(segment.get("SegmentLabel", "")))
    if code in SIDE_OF_CODE:
        return SIDE_OF_CODE[code]
    if code in LUNG_CODES:
        return side or named or BOTH
    return named


def _choose(sides: dict[int, int | None], what: str) -> dict[int, int]:
    """Choose what makes up right and left lung, or else both in one."""
    lungs = {number: side for number, side in sides.items() if side is not None}
    if not lungs:
        raise ScanError(
            f"the mask has {len(sides)} {what}, none of them a lung by code or name (Lung_R, Lung_L, Lungs)."
        )
    apart = {number: side for number, side in lungs.items() if side != BOTH}
    return apart or lungs


def _labels(parts: dict[int, NDArray[np.bool_]], scan: sitk.Image) -> NDArray[np.uint8]:
    if not any(part.any() for part in parts.values()):
        raise ScanError("the mask is empty.")
    if BOTH in parts:
        return _split(parts[BOTH], np.array(scan.GetSpacing())[::-1])
    labels = np.zeros(next(iter(parts.values())).shape, np.uint8)
    for side, part in parts.items():
        overlap = np.count_nonzero(part & (labels > 0))
        if overlap > MOST_OVERLAP * max(int(np.count_nonzero(part)), 1):
            raise ScanError(f"right and left lung of the mask overlap in {overlap:,} voxels.")
        labels[part & (labels == 0)] = side
    return labels


def _split(lungs: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Tell right from left in a mask of both, on a coarser grid."""
    size = np.maximum(np.rint(np.array(lungs.shape) * spacing_mm / SPLIT_SPACING_MM), 1).astype(int)
    to_coarse, from_fine = [], []  # along each axis, the voxel in which the centre of another grid's lies
    for n, side, m in zip(lungs.shape, spacing_mm, size, strict=True):
        to_coarse.append(np.minimum(((np.arange(n) + 0.5) * side / SPLIT_SPACING_MM).astype(int), m - 1))
        from_fine.append(np.minimum(((np.arange(m) + 0.5) * SPLIT_SPACING_MM / side).astype(int), n - 1))
    coarse = split_sides(lungs[np.ix_(*from_fine)], SPLIT_SPACING_MM)
    nearest = ndimage.distance_transform_edt(coarse == 0, return_distances=False, return_indices=True)
    return np.asarray(np.where(lungs, coarse[tuple(nearest)][np.ix_(*to_coarse)], 0), dtype=np.uint8)


def _without_gaps(labels: NDArray[np.uint8], step_mm: float) -> NDArray[np.uint8]:
    """Give each empty slice between others the labels of the nearest; a wider gap is refused."""
    full = np.flatnonzero(labels.any(axis=(1, 2)))
    if np.diff(full).max(initial=1) * step_mm > max(WIDEST_GAP_MM, step_mm):
        raise ScanError(f"the mask leaves out {np.diff(full).max() - 1} slices in a row between others.")
    between = np.arange(full[0], full[-1] + 1)
    nearest = full[np.abs(between[:, None] - full).argmin(axis=1)]
    labels[between] = labels[nearest]
    return labels
