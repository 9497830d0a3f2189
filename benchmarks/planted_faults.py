"""Faults planted in good scans and masks, to see which of them quality assurance finds.

Arrays are [z, y, x] in LPS order with isotropic voxels. Each fault is what a registry meets: a converter that swaps
axes, a rescale slope that was lost, a transfer that broke off, a field of view that was too small, a mask that leaks.
"""

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.images.masks import depth_inside
from sscct_lib.images.prepare import AIR_HU

Hu = NDArray[np.int16]
Labels = NDArray[np.uint8]


def swapped_axis(hu: Hu, labels: Labels, spacing_mm: float, rng: np.random.Generator) -> Hu:
    """Exchange two axes, or turn one of them round."""
    turned = [
        hu.transpose(0, 2, 1), hu.transpose(1, 0, 2), hu.transpose(2, 1, 0), hu[::-1], hu[:, ::-1], hu[:, :, ::-1]
    ]  # fmt: skip
    return turned[rng.integers(len(turned))]


def wrong_slope(hu: Hu, labels: Labels, spacing_mm: float, rng: np.random.Generator) -> Hu:
    """Halve or double the rescale slope, or apply the intercept twice."""
    stored = hu.astype(np.float64) + 1024
    scaled = [stored * 0.5 - 1024, stored * 2 - 1024, stored - 2048]
    return np.clip(scaled[rng.integers(len(scaled))], AIR_HU, 3071).astype(np.int16)


def missing_slices(hu: Hu, labels: Labels, spacing_mm: float, rng: np.random.Generator) -> Hu:
    """Take out 15 to 45 mm of slices from the middle of the lungs."""
    heights = np.flatnonzero((labels > 0).any(axis=(1, 2)))
    n = round(rng.uniform(15, 45) / spacing_mm)
    first = heights[0] + round(rng.uniform(0.2, 0.8) * len(heights)) - n // 2
    return np.delete(hu, slice(first, first + n), axis=0)


def cut_lungs(hu: Hu, labels: Labels, spacing_mm: float, rng: np.random.Generator) -> Hu:
    """End the scan 10 to 40 % of the lungs too early: above, below, to the right or to the left."""
    axis, from_end = ((0, True), (0, False), (2, True), (2, False))[rng.integers(4)]
    along = np.flatnonzero((labels > 0).any(axis=(1, 2) if axis == 0 else (0, 1)))
    lost = round(rng.uniform(0.1, 0.4) * len(along))
    kept = slice(None, along[-1] + 1 - lost) if from_end else slice(along[0] + lost, None)
    return hu[kept] if axis == 0 else hu[:, :, kept]


def leaked_mask(hu: Hu, labels: Labels, spacing_mm: float, rng: np.random.Generator) -> Labels:
    """Let a ball of 20 to 35 mm radius run out of the lung, wherever its surface is."""
    surface = np.argwhere((labels > 0) & (depth_inside(labels > 0) <= 1))
    centre = surface[rng.integers(len(surface))]
    offsets = np.indices(labels.shape).T - centre[None, None, None, :]
    ball = np.sqrt((offsets**2).sum(axis=-1)).T * spacing_mm < rng.uniform(20, 35)
    return np.where(ball & (labels == 0), labels[tuple(centre)], labels)


def empty_mask(hu: Hu, labels: Labels, spacing_mm: float, rng: np.random.Generator) -> Labels:
    """Find nothing."""
    return np.zeros_like(labels)


def one_lung_only(hu: Hu, labels: Labels, spacing_mm: float, rng: np.random.Generator) -> Labels:
    """Lose the right lung, or the left one."""
    return np.where(labels == rng.integers(1, 3), 0, labels).astype(np.uint8)


Plant = Callable[[Hu, Labels, float, np.random.Generator], NDArray[np.int16] | NDArray[np.uint8]]

SCAN_FAULTS: dict[str, Plant] = {
    "swapped axis": swapped_axis,
    "wrong slope": wrong_slope,
    "missing slices": missing_slices,
    "cut lungs": cut_lungs,
}
"""Faults of a scan; its lungs are then found anew."""

MASK_FAULTS: dict[str, Plant] = {
    "leaked mask": leaked_mask,
    "empty mask": empty_mask,
    "one lung only": one_lung_only,
}
"""Faults of a mask that somebody provides with a good scan."""

WRONG_PATIENT = "wrong patient's scan"
"""The scan is good and another patient's: nothing is planted in it, it is exchanged."""


def as_image(array: NDArray[np.int16] | NDArray[np.uint8], spacing_mm: float) -> sitk.Image:
    """Make an image with isotropic voxels of an array [z, y, x]."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([spacing_mm] * 3)
    return image
