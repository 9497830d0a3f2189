"""Measures of a lung mask and of the scan below it, from which `verdict` judges both.

Densities `hu` (HU), `labels` (0 outside, 1 right lung, 2 left lung) and masks have shape (z, y, x) in LPS order, with
isotropic voxels.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sscct_lib.images.masks import Mask, bounding_box, centre_column, erode, millilitres
from sscct_lib.lungs.threshold import BONE_HU, Anatomy

SMALLEST_PIECE_ML = 1.0
N_LOBES = 5
THICK_HU, THICK_MM = -150, 4.0
CONTRAST_HU = 80  # blood without contrast medium is denser in no patient

AERATED_RANGE_HU = (-960, -500)  # lung that holds air; gas in the bowel is darker
Place = tuple[int, int, int]


@dataclass
class Measured:
    """Measures of one scan, and where in the scan the conspicuous ones lie."""

    measures: dict[str, Any] = field(default_factory=dict)  # of schema `LUNGS`; None: cannot be taken
    places: dict[str, Place] = field(default_factory=dict)  # voxel [z, y, x] by measure


def measure(
    hu: NDArray[Any],
    labels: NDArray[np.uint8],
    anatomy: Anatomy,
    lobes: NDArray[np.uint8] | None = None,
    others: NDArray[np.uint8] | None = None,
) -> Measured:
    """Measures of a mask and its scan; of an empty mask only `volume_l` and `n_components`."""
    lungs = labels > 0
    found = Measured({"volume_l": millilitres(lungs, anatomy.spacing_mm) / 1000, "n_components": 0})
    if lungs.any():
        _mask_measures(found, hu, labels, lungs, anatomy)
        _scan_measures(found, hu, labels, anatomy)
        if lobes is not None:
            sizes = np.bincount(lobes.ravel(), minlength=1 + N_LOBES)[1:]
            found.measures["smallest_lobe_share"] = float(sizes.min() / np.count_nonzero(lungs))
        if others is not None:
            _compare_methods(found, labels, others)
    return found


def _compare_methods(found: Measured, labels: NDArray[np.uint8], others: NDArray[np.uint8]) -> None:
    """Overlap of two methods, side by side: a voxel on which they name different lungs is no agreement."""
    both = np.count_nonzero((labels == others) & (labels > 0))
    found.measures["agreement_dice"] = 2 * both / (np.count_nonzero(labels) + np.count_nonzero(others))
    differs = _largest_piece(labels != others)
    if differs.any():
        found.places["agreement_dice"] = _middle_voxel(differs)


def _mask_measures(found: Measured, hu: NDArray[Any], labels: NDArray[np.uint8], lungs: Mask, anatomy: Anatomy) -> None:
    """Volume, sides, density, and signs that the mask holds too much or too little."""
    spacing_mm = anatomy.spacing_mm
    n_voxels = np.count_nonzero(lungs)
    pieces = np.bincount(ndimage.label(lungs)[0].ravel())[1:]
    values = hu[lungs]
    cut = lungs.copy()
    cut[1:-1, 1:-1, 1:-1] = False
    solid = lungs & (hu > 0)
    outside = lungs & ~anatomy.body
    low, high = AERATED_RANGE_HU
    aerated = anatomy.body & ~anatomy.airway & (hu > low) & (hu < high)
    n_aerated = np.count_nonzero(aerated)
    missed = _largest_piece(erode(aerated & ~lungs, spacing_mm / 2, spacing_mm))
    solid_core = _solid_core(hu, lungs, spacing_mm)
    rows, columns = (np.flatnonzero(lungs.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    found.measures |= {
        "left_share": float(np.count_nonzero(labels == 2) / n_voxels),
        "n_components": int((pieces * spacing_mm**3 / 1000 >= SMALLEST_PIECE_ML).sum()),
        **_sides(labels, anatomy),
        "aerated_share": float(np.count_nonzero(aerated & lungs) / n_aerated) if n_aerated else None,
        "mean_hu": float(values.mean()),
        "high_attenuation_share": float(((values >= -600) & (values <= -250)).mean()),
        "low_attenuation_share": float((values < -950).mean()),
        "cut_area_cm2": float(np.count_nonzero(cut) * spacing_mm**2 / 100),
        "solid_share": float(np.count_nonzero(solid) / n_voxels),
        "solid_core_ml": millilitres(solid_core, spacing_mm),
        "outside_share": float(np.count_nonzero(outside) / n_voxels),
        "missed_air_l": millilitres(missed, spacing_mm) / 1000,
        "chest_width_mm": float((np.ptp(columns) + 1) * spacing_mm),
        "chest_depth_mm": float((np.ptp(rows) + 1) * spacing_mm),
    }
    suspects = {"cut_area_cm2": cut, "solid_share": solid, "solid_core_ml": solid_core, "outside_share": outside,
                "missed_air_l": missed}  # fmt: skip
    found.places |= {name: _middle_voxel(mask) for name, mask in suspects.items() if mask.any()}


def _sides(labels: NDArray[np.uint8], anatomy: Anatomy) -> dict[str, float | None]:
    """Where the labels lie: columns grow to the left of the patient, so label 2 must have the larger ones."""
    columns = np.arange(labels.shape[2])
    right, left = (np.count_nonzero(labels == label, axis=(0, 1)) for label in (1, 2))
    if right.any() and left.any():
        apart = np.average(columns, weights=left) - np.average(columns, weights=right)
        return {"lefts_side_mm": float(apart * anatomy.spacing_mm), "other_side_share": None}
    middle = centre_column(anatomy.body)
    lacking = columns < middle if left.any() else columns > middle
    return {"lefts_side_mm": None, "other_side_share": float((right + left)[lacking].sum() / (right + left).sum())}


def _solid_core(hu: NDArray[Any], lungs: Mask, spacing_mm: float) -> Mask:
    """The middle of thick solid parts: a leak into heart, liver or chest wall, or consolidated lung."""
    # Vessels, septa and honeycombing are too thin to have a voxel left.
    box = bounding_box(lungs)
    smooth = ndimage.uniform_filter(hu[box].astype(np.float32), 3)
    core = np.zeros_like(lungs)
    core[box] = erode(lungs[box] & (smooth > THICK_HU), THICK_MM, spacing_mm)
    return core


def _largest_piece(mask: Mask) -> Mask:
    """The largest connected piece, the first of several of a size; empty where the mask is."""
    pieces, n = ndimage.label(mask)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if n else np.zeros_like(mask)


def _middle_voxel(mask: Mask) -> Place:
    """The voxel of a mask that is nearest to its centre."""
    where = np.argwhere(mask)
    nearest = where[np.argmin(((where - where.mean(axis=0)) ** 2).sum(axis=1))]
    return int(nearest[0]), int(nearest[1]), int(nearest[2])


def _scan_measures(found: Measured, hu: NDArray[Any], labels: NDArray[np.uint8], anatomy: Anatomy) -> None:
    """Calibration, noise, missing slices, and whether the patient lies as the header says."""
    spacing_mm, lungs = anatomy.spacing_mm, labels > 0
    lumen = erode(anatomy.airway, 4, spacing_mm)
    air = hu[lumen].astype(float) if np.count_nonzero(lumen) >= 10 else None
    heights = np.flatnonzero(lungs.any(axis=(1, 2)))
    ratio, gap = _widest_step(hu, anatomy.body, heights)
    found.measures |= {
        "trachea_hu": None if air is None else float(np.median(air)),
        "noise_hu": None if air is None else float(air.std()),
        "step_ratio": ratio,
        **_posture(hu, labels, heights, anatomy),
    }
    heart_hu = found.measures["heart_hu"]
    found.measures["contrast_medium"] = None if heart_hu is None else heart_hu > CONTRAST_HU
    _, rows, columns = (round(float(index.mean())) for index in np.nonzero(lungs))
    found.places["step_ratio"] = (gap, rows, columns)


def _widest_step(hu: NDArray[Any], body: Mask, heights: NDArray[np.intp]) -> tuple[float, int]:
    """The greatest change from slice to slice, as a multiple of that of the slices near it; and its slice."""
    low, high = int(heights[0]), int(heights[-1]) + 1
    part, within = hu[low:high].astype(np.float32), body[low:high]
    both = within[1:] & within[:-1]
    change = np.abs(np.diff(part, axis=0)) * both
    mean = change.sum(axis=(1, 2)) / np.maximum(both.sum(axis=(1, 2)), 1)
    usual = ndimage.median_filter(mean, size=7, mode="nearest")
    ratio = mean / np.maximum(usual, 1)
    worst = int(np.argmax(ratio))
    return float(ratio[worst]), low + worst


def _posture(
    hu: NDArray[Any], labels: NDArray[np.uint8], heights: NDArray[np.intp], anatomy: Anatomy
) -> dict[str, float | None]:
    """Where trachea, spine and heart lie, seen from the lungs; what swapped or mirrored axes disturb."""
    spacing_mm, low, height = anatomy.spacing_mm, heights[0], np.ptp(heights) + 1
    lungs = labels > 0
    _, rows, columns = (float(index.mean()) for index in np.nonzero(lungs))
    if not ((labels == 1).any() and (labels == 2).any()):  # a single lung does not lie around the midline
        columns = centre_column(anatomy.body)
    near_middle = np.abs(np.arange(hu.shape[2]) - columns) < 30 / spacing_mm
    beside_lungs = np.isin(np.arange(len(hu)), heights)[:, None, None]
    bone = (hu > BONE_HU) & anatomy.body & near_middle & beside_lungs
    airway_z = np.flatnonzero(anatomy.airway.any(axis=(1, 2)))
    behind = bone[:, int(rows) :]
    spine = behind.sum(axis=(0, 1))
    # Above the domes of the diaphragm and below the arch of the aorta, in front: the heart lies between the lungs.
    heart = slice(int(low + 0.3 * height), int(low + 0.5 * height) + 1), slice(0, int(rows))
    between = _middle_of_gap(labels[heart])
    shift = None
    if spine.any() and between is not None:
        shift = (between - float(np.average(np.arange(len(spine)), weights=spine))) * spacing_mm
    return {
        "trachea_height": float((airway_z.mean() - low) / height) if len(airway_z) else None,
        "spine_behind_mm": float((np.nonzero(bone)[1].mean() - rows) * spacing_mm) if bone.any() else None,
        "spine_share": float(np.isin(heights, np.flatnonzero(behind.any(axis=(1, 2)))).mean()),
        "heart_left_mm": shift,
        "heart_hu": _soft_tissue(hu[heart], lungs[heart], anatomy.body[heart], near_middle, spacing_mm),
    }


def _middle_of_gap(labels: NDArray[np.uint8]) -> float | None:
    """Mean column half way between the two lungs, over the lines that meet both."""
    right, left = labels == 1, labels == 2
    both = right.any(axis=2) & left.any(axis=2)
    if not both.any():
        return None
    right_end = labels.shape[2] - 1 - np.argmax(right[:, :, ::-1], axis=2)
    left_begin = np.argmax(left, axis=2)
    return float(((right_end + left_begin) / 2)[both].mean())


def _soft_tissue(
    hu: NDArray[Any], lungs: Mask, body: Mask, near_middle: NDArray[np.bool_], spacing_mm: float
) -> float | None:
    """Median density of what is neither lung nor fat nor bone near the midline."""
    tissue = erode(body & ~lungs & (hu > -50) & (hu < 2 * BONE_HU), 4, spacing_mm) & near_middle
    return float(np.median(hu[tissue])) if tissue.any() else None
