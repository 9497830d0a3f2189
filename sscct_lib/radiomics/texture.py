"""PyRadiomics' features without its overhead: its formulas, given our matrices and surface measures.

PyRadiomics' feature classes each bin the image again, and hold tables as large as their largest possible entry. Here
a region is binned once, its matrices are counted in compiled loops over the grey levels that occur, and the classes of
PyRadiomics compute the features from them.

The loops see a padded, flattened volume of grey *ranks*: 0 outside, 1 to L inside, one rank for each grey level that
occurs. The layer of zeros around it gives every voxel its 26 neighbours, so that no loop asks where the volume ends.
`voxels` are the places that are not 0, ascending; `steps` lead to thirteen neighbours, one of each opposite pair: the
thirteen directions of three-dimensional texture.
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk
from numba import njit
from numpy.typing import NDArray
from radiomics import imageoperations
from radiomics.firstorder import RadiomicsFirstOrder
from radiomics.glcm import RadiomicsGLCM
from radiomics.gldm import RadiomicsGLDM
from radiomics.glrlm import RadiomicsGLRLM
from radiomics.glszm import RadiomicsGLSZM
from radiomics.ngtdm import RadiomicsNGTDM
from radiomics.shape import RadiomicsShape

from sscct_lib.images.masks import bounding_box
from sscct_lib.radiomics import shape

Hu = NDArray[np.int16]
Mask = NDArray[np.bool_]
Ranks = NDArray[np.uint16]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Spacing = tuple[float, float, float]

# One of each opposite pair of neighbours, shape (13, 3), axes z, y, x.
DIRECTIONS = np.array([d for d in product((1, 0, -1), repeat=3) if d > (0, 0, 0)], dtype=np.int64)


def pyradiomics_features(
    image: NDArray[Any], mask: Mask, spacing_zyx: Spacing, bin_width: float, image_type: str = "original"
) -> dict[str, float]:
    """PyRadiomics' features of a region, equal to about 1e-12: `<image_type>_<class>_<feature>`.

    107 of the original image and 93 of another, for the shape of a region is described with `original` alone. van
    Griethuysen JJM, et al. Computational radiomics system to decode the radiographic phenotype. Cancer Res
    2017;77:e104-7.
    """
    # PyRadiomics' classes, and ours that inherit from them, log every fallback; a user hears of bad scans otherwise.
    for logger in ("radiomics", __name__):
        logging.getLogger(logger).setLevel(logging.ERROR)
    region = make_region(image, mask, spacing_zyx, bin_width)
    return {
        f"{image_type}_{name}_{feature}": float(value)
        for name, cls in CLASSES.items()
        if name != "shape" or image_type == "original"
        for feature, value in cls(region).execute().items()  # type: ignore[attr-defined]
    }


@dataclass(frozen=True)
class Region:
    """A region of an image, binned."""

    values: NDArray[Any]  # densities of its voxels, shape (n_voxels,)
    mask: Mask  # cut to its bounding box, with a layer of zeros around, shape (z, y, x)
    ranks: Ranks  # of each voxel on the same grid, 0 outside
    grey: Counts  # level of each rank, 1 for the lowest bin that occurs, shape (L,)
    spacing_zyx: Spacing  # mm

    @cached_property
    def voxels(self) -> Counts:
        """Where in the flattened volume the voxels are, shape (n_voxels,)."""
        return np.flatnonzero(self.mask)

    @cached_property
    def counts(self) -> Counts:
        """Voxels of each rank, shape (n_ranks,)."""
        return np.bincount(self.ranks.ravel()[self.voxels], minlength=len(self.grey) + 1)[1:]

    @cached_property
    def steps(self) -> Counts:
        """Steps to neighbours in the flattened volume, shape (13,)."""
        return offsets(self.ranks.shape)

    @cached_property
    def neighbours(self) -> tuple[NDArray[Any], ...]:
        """What `neighbours` gives: pairs, dependence, difference."""
        return tuple(neighbours(self.ranks.ravel(), self.voxels, self.steps, self.grey.astype(float)))


def make_region(hu: NDArray[Any], mask: Mask, spacing_zyx: Spacing, bin_width: float) -> Region:
    """Cut out a region (z, y, x), not empty, and bin it in steps of `bin_width` HU that are aligned with 0 HU."""
    box = bounding_box(mask)
    mask = mask[box]
    values = hu[box][mask]
    grey, rank = _ranks(values, bin_width)
    padded = np.pad(mask, 1)
    ranks = np.zeros(padded.shape, dtype=np.uint16)
    ranks[padded] = rank
    return Region(values, padded, ranks, grey, spacing_zyx)


def _ranks(values: NDArray[Any], bin_width: float) -> tuple[Counts, Counts]:
    low, high = values.min(), values.max()
    # PyRadiomics' own edges, which need only the extremes; it hands all voxels to Python's slow min and max.
    edges = imageoperations.getBinEdges(np.array([low, high]), binWidth=bin_width)
    if np.issubdtype(values.dtype, np.integer):
        # Whole numbers between the extremes are few: they are binned once, and each voxel looks its own up.
        index = (values - low).astype(np.intp)
        occurs = np.bincount(index, minlength=int(high) - int(low) + 1) > 0
        level = np.digitize(np.arange(int(low), int(high) + 1), edges)
        grey = np.unique(level[occurs])
        return grey, (np.searchsorted(grey, level) + 1)[index]
    level = levels(values, np.asarray(edges, dtype=float))
    occurs = np.bincount(level) > 0
    return np.flatnonzero(occurs), occurs.cumsum()[level]


class _OnRegion:
    """Gives a class of PyRadiomics a `Region` in place of images that it would crop, pad and bin itself."""

    def __init__(self, region: Region) -> None:
        self.region = region
        # The voxel counts only for its spacing; everything else comes from the region.
        voxel = sitk.Image(1, 1, 1, sitk.sitkUInt8)
        voxel.SetSpacing(region.spacing_zyx[::-1])
        super().__init__(voxel, voxel)  # type: ignore[call-arg]

    def _initSegmentBasedCalculation(self) -> None:  # noqa: N802  PyRadiomics' own names
        """Nothing is to be prepared."""

    def _applyBinning(self, matrix: Any) -> Any:  # noqa: N802
        self.coefficients: dict[str, Any] = {
            "grayLevels": self.region.grey,
            "Ng": int(self.region.grey[-1]),
        }
        return matrix


class _FirstOrder(_OnRegion, RadiomicsFirstOrder):  # type: ignore[misc]
    def _initCalculation(self, voxelCoordinates: None = None) -> None:  # noqa: N802, N803
        # Sorted, for PyRadiomics asks for seven percentiles, each anew.
        self.targetVoxelArray = np.sort(self.region.values).astype(float).reshape(1, -1)
        self.coefficients["p_i"] = (self.region.counts / self.region.counts.sum()).reshape(1, -1)

    @staticmethod
    def _moment(a: Floats, moment: int = 1) -> Floats:
        # As PyRadiomics' own, by products where it takes numpy's slow general power.
        deviation = a - a.mean(axis=1, keepdims=True)
        power = deviation * deviation
        if moment > 2:
            power *= deviation if moment == 3 else power
        return np.asarray(power.mean(axis=1))


class _GLCM(_OnRegion, RadiomicsGLCM):  # type: ignore[misc]
    def _calculateMatrix(self, voxelCoordinates: None = None) -> Floats:  # noqa: N802, N803
        pairs = self.region.neighbours[0].astype(float)
        pairs += pairs.transpose(0, 2, 1)
        pairs = pairs[pairs.any(axis=(1, 2))]
        pairs /= pairs.sum(axis=(1, 2), keepdims=True)
        return np.ascontiguousarray(pairs.transpose(1, 2, 0))[None]


class _GLDM(_OnRegion, RadiomicsGLDM):  # type: ignore[misc]
    def _calculateMatrix(self, voxelCoordinates: None = None) -> Floats:  # noqa: N802, N803
        dependence = self.region.neighbours[1].astype(float)
        occurs = dependence.any(axis=0)
        dependence = dependence[None, :, occurs]
        self.coefficients |= {
            "Nz": dependence.sum(axis=(1, 2)),
            "pd": dependence.sum(axis=1),
            "pg": dependence.sum(axis=2),
            "ivector": self.region.grey.astype(float),
            "jvector": np.flatnonzero(occurs) + 1.0,
        }
        return dependence


class _NGTDM(_OnRegion, RadiomicsNGTDM):  # type: ignore[misc]
    def _calculateMatrix(self, voxelCoordinates: None = None) -> Floats:  # noqa: N802, N803
        columns = self.region.counts, self.region.neighbours[2], self.region.grey
        return np.stack(columns, axis=1).astype(float)[None]


class _GLRLM(_OnRegion, RadiomicsGLRLM):  # type: ignore[misc]
    def _calculateMatrix(self, voxelCoordinates: None = None) -> Floats:  # noqa: N802, N803
        region = self.region
        longest = max(region.ranks.shape) - 2
        counts = runs(region.ranks.ravel(), region.voxels, region.steps, len(region.grey), longest).transpose(1, 2, 0)
        counts = counts[:, :, [_shares_lines(region, direction) for direction in range(len(region.steps))]]
        self.coefficients["Nr"] = counts.sum(axis=(0, 1))[None].astype(float)
        return counts[None].astype(float)


class _GLSZM(_OnRegion, RadiomicsGLSZM):  # type: ignore[misc]
    def _calculateMatrix(self, voxelCoordinates: None = None) -> Floats:  # noqa: N802, N803
        rank, size = zones(self.region.ranks.ravel(), self.region.voxels, self.region.steps)
        n_ranks = len(self.region.grey)
        self.sizes = np.flatnonzero(np.bincount(size))  # most sizes up to the largest do not occur
        cell = np.searchsorted(self.sizes, size) * n_ranks + rank - 1
        counts = np.bincount(cell, minlength=n_ranks * len(self.sizes)).reshape(len(self.sizes), n_ranks)
        return np.ascontiguousarray(counts.T, dtype=float)[None]

    def _calculateCoefficients(self) -> None:  # noqa: N802
        by_size = self.P_glszm.sum(axis=1)
        self.coefficients |= {
            "Np": (by_size * self.sizes).sum(axis=1),
            "Nz": by_size.sum(axis=1),
            "ps": by_size,
            "pg": self.P_glszm.sum(axis=2),
            "ivector": self.region.grey.astype(float),
            "jvector": self.sizes.astype(float),
        }


class _Shape(_OnRegion, RadiomicsShape):  # type: ignore[misc]
    def _initSegmentBasedCalculation(self) -> None:  # noqa: N802
        mask, sides = self.region.mask, self.region.spacing_zyx
        self.pixelSpacing = np.array(sides)
        self.labelledVoxelCoordinates = (self.region.values,)  # only their number is asked for
        self.SurfaceArea, self.Volume = shape.area_and_volume(mask, sides)
        self.diameters = shape.diameters(mask, sides)
        self.eigenValues = shape.principal_variances(mask, sides)


CLASSES = {
    "firstorder": _FirstOrder,
    "glcm": _GLCM,
    "gldm": _GLDM,
    "glrlm": _GLRLM,
    "glszm": _GLSZM,
    "ngtdm": _NGTDM,
    "shape": _Shape,
}


def _shares_lines(region: Region, direction: int) -> bool:
    """Whether two voxels of the region lie on one line of a direction; PyRadiomics leaves it out if not."""
    if region.neighbours[0][direction].any():
        return True
    step = DIRECTIONS[direction]
    axis = int(np.flatnonzero(step)[0])
    voxels = np.argwhere(region.mask)
    starts = voxels - voxels[:, [axis]] * step[axis] * step
    return len(np.unique(starts, axis=0)) < len(starts)


def offsets(volume_shape: tuple[int, ...]) -> Counts:
    """The thirteen directions as steps in a flattened volume of this shape (z, y, x), padding included; shape (13,)."""
    _, height, width = volume_shape
    return DIRECTIONS @ np.array([height * width, width, 1], dtype=np.int64)


@njit(cache=True)
def levels(values: NDArray[Any], edges: Floats) -> Counts:
    """`numpy.digitize` for ascending, evenly spaced edges and values none of which lies below the first."""
    found = np.empty(len(values), np.int64)
    per_unit = (len(edges) - 1) / (edges[-1] - edges[0])
    for i in range(len(values)):
        value = np.float64(values[i])
        # A good guess, put right by the edges themselves.
        level = min(max(int((value - edges[0]) * per_unit) + 1, 1), len(edges))
        while level > 1 and value < edges[level - 1]:
            level -= 1
        while level < len(edges) and value >= edges[level]:
            level += 1
        found[i] = level
    return found


@njit(cache=True)
def neighbours(ranks: Ranks, voxels: Counts, steps: Counts, grey: Floats) -> tuple[Counts, Counts, Floats]:
    """Pairs, dependence and difference of neighbouring grey levels in one pass; `grey` (L,) is the level of a rank."""
    n_ranks = len(grey)
    # GLCM: how often a voxel of rank i has a voxel of rank j one step ahead.
    pairs = np.zeros((len(steps), n_ranks, n_ranks), np.int64)
    # GLDM: how many voxels of rank i have k neighbours of the same rank.
    dependence = np.zeros((n_ranks, 2 * len(steps) + 1), np.int64)
    # NGTDM: the sum over voxels of rank i of how far their grey level is from the mean of their neighbours inside.
    difference = np.zeros(n_ranks, np.float64)
    for here in voxels:
        rank = ranks[here]
        n_same, n_inside, total = 0, 0, 0.0
        for direction in range(len(steps)):
            ahead = ranks[here + steps[direction]]
            if ahead:
                pairs[direction, rank - 1, ahead - 1] += 1
                n_inside += 1
                total += grey[ahead - 1]
                n_same += ahead == rank
            behind = ranks[here - steps[direction]]
            if behind:
                n_inside += 1
                total += grey[behind - 1]
                n_same += behind == rank
        dependence[rank - 1, n_same] += 1
        if n_inside:
            difference[rank - 1] += abs(grey[rank - 1] - total / n_inside)
    return pairs, dependence, difference


@njit(cache=True)
def runs(ranks: Ranks, voxels: Counts, steps: Counts, n_ranks: int, longest: int) -> Counts:
    """Count runs (GLRLM) along each direction, shape (13, L, longest): of rank i with length k + 1."""
    # Each voxel takes its place in a run from the voxel behind, which the ascending order has met before; a run counts
    # where the voxel ahead has another rank. No step depends on a guess of what comes next: processors need not wait.
    counts = np.zeros((len(steps), n_ranks, longest), np.int64)
    place = np.zeros(len(ranks), np.uint16)
    for direction in range(len(steps)):
        step, table = steps[direction], counts[direction]
        for here in voxels:
            rank = ranks[here]
            length = place[here - step] * (ranks[here - step] == rank)
            place[here] = length + 1
            table[rank - 1, length] += ranks[here + step] != rank
    return counts


@njit(cache=True)
def zones(ranks: Ranks, voxels: Counts, steps: Counts) -> tuple[Counts, Counts]:
    """Rank and size (n_zones,) of connected zones of one grey level (GLSZM), touching by face, edge or corner."""
    open_voxels = ranks.copy()
    waiting = np.empty(len(voxels), np.int64)
    zone_rank, zone_size = [], []
    for start in voxels:
        rank = open_voxels[start]
        if rank == 0:
            continue
        open_voxels[start] = 0
        waiting[0] = start
        n_waiting, size = 1, 0
        while n_waiting:
            n_waiting -= 1
            here = waiting[n_waiting]
            size += 1
            for step in steps:
                for there in (here + step, here - step):
                    if open_voxels[there] == rank:
                        open_voxels[there] = 0
                        waiting[n_waiting] = there
                        n_waiting += 1
        zone_rank.append(np.int64(rank))
        zone_size.append(np.int64(size))
    return np.array(zone_rank), np.array(zone_size)
