"""Lung disease of systemic sclerosis, drawn on the lung voxels of a synthetic thorax.

Where disease sits is a score that belongs to the patient: high at the bases, under the pleura and posteriorly, with
patches. A pattern covers the voxels with the highest scores, as many as its share of the lungs asks for, so that
disease at a later scan holds all of the disease at an earlier one, and honeycombing lies in the fibrosis, which lies
in the ground-glass.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sscct_lib.anatomy import REGION, Floats, Thorax

GROUND_GLASS, RETICULATION, HONEYCOMBING, EMPHYSEMA = 1, 2, 3, 4
LESIONS = {
    "ground_glass": GROUND_GLASS,
    "reticulation": RETICULATION,
    "honeycombing": HONEYCOMBING,
    "emphysema": EMPHYSEMA,
}


@dataclass(frozen=True)
class Extent:
    """Shares of the lungs that each pattern covers; the patterns do not overlap."""

    ground_glass: float
    reticulation: float
    honeycombing: float
    emphysema: float


def disease_scores(thorax: Thorax, seed: int, number: int) -> tuple[Floats, Floats]:
    """Map where disease comes first.

    Parameters
    ----------
    thorax
        The patient's anatomy.
    seed, number
        Of the study and the patient; they decide how basal, subpleural and patchy this patient's disease is.

    Returns
    -------
    interstitial, emphysema : numpy.ndarray
        Scores on the coarse grid, higher where disease comes earlier.
    """
    rng = np.random.default_rng([seed, number, 3])
    basal, rim, back, patchy = rng.uniform((1.0, 0.9, 0.3, 0.15), (2.2, 1.6, 0.9, 0.45))
    grid = thorax.z, thorax.y, thorax.x
    depth = -np.minimum(thorax.fields["lung_right"], thorax.fields["lung_left"])
    height, posterior = thorax.fields["height"], thorax.y[None, :, None] / thorax.build.half_depth
    patches = patchy * thorax.noise["patchy"](*grid) + 0.6 * patchy * thorax.noise["mottled"](*grid)
    interstitial = rim * np.exp(-np.clip(depth, 0, None) / 14.0) - basal * height + back * posterior + patches
    emphysema = 1.5 * height + 0.6 * thorax.noise["mottled"](*grid) + 0.3 * np.clip(depth / 15.0, 0, 1)
    return interstitial.astype(np.float32), emphysema.astype(np.float32)


def thresholds(score: Floats, shares: list[float]) -> list[float]:
    """Scores above which lie the given shares (nested, of all voxels in `score`); infinite for a share of 0."""
    counts = [min(round(share * len(score)), len(score) - 1) for share in shares]
    ordered = np.partition(score, [len(score) - 1 - n for n in counts]) if len(score) else score
    return [float(ordered[len(score) - 1 - n]) if n else np.inf for n in counts]


def cells(seed: int, number: int, length_mm: float) -> cKDTree:
    """Scatter the middles of lung lobules or cysts, about `length_mm` apart, the same at every scan of a patient."""
    rng = np.random.default_rng([seed, number, 4, int(length_mm * 10)])
    low = np.array([-150.0, -120.0, -10.0])
    high = np.array([150.0, 120.0, REGION["z"][1] - 40])
    ticks = [np.arange(a, b, length_mm) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    return cKDTree(points + rng.uniform(-0.45, 0.45, points.shape) * length_mm)


def ramp(values: Floats, threshold: float, width: float) -> Floats:
    """Rise from 0 to 1 over `width` around a threshold."""
    if not np.isfinite(threshold):
        return np.zeros_like(values)
    return np.asarray(np.clip((values - threshold) / width + 0.5, 0, 1))


@dataclass(frozen=True)
class Lesions:
    """Disease on the lung voxels.

    Attributes
    ----------
    hu
        Parenchyma with disease, HU, shape (n,).
    labels
        0 none, else the numbers of `LESIONS`, shape (n,).
    fibrosis_score
        Score above which the lung is fibrotic.
    """

    hu: Floats
    labels: NDArray[np.uint8]
    fibrosis_score: float


def draw_lesions(
    hu: Floats, positions: Floats, scores: tuple[Floats, Floats], extent: Extent, trees: dict[str, cKDTree],
    spacing_mm: float, texture: Floats, in_mask: NDArray[np.bool_],
) -> Lesions:  # fmt: skip
    """Add disease to healthy parenchyma.

    Parameters
    ----------
    hu
        Healthy parenchyma, HU, shape (n,).
    positions
        Of the voxels in the patient, x, y, z in mm, shape (n, 3).
    scores
        Interstitial and emphysema scores of the voxels, each of shape (n,).
    extent
        How much of each pattern.
    trees
        `lobules` and `cysts`, from `cells`.
    spacing_mm
        Voxel side; walls thinner than a voxel fade.
    texture
        Fine noise of unit variance, shape (n,).
    in_mask
        Voxels that count as lung, of which the shares are taken; the others are its rim, shape (n,).

    Returns
    -------
    Lesions
        Densities and labels; each pattern covers exactly its share of the voxels, to the nearest voxel.
    """
    interstitial, emphysema = scores
    honey = extent.honeycombing
    fibrosis = honey + extent.reticulation
    disease = fibrosis + extent.ground_glass
    cuts = thresholds(interstitial[in_mask], [honey, fibrosis, disease])
    labels = np.zeros(len(hu), dtype=np.uint8)
    for cut, label in zip(reversed(cuts), (GROUND_GLASS, RETICULATION, HONEYCOMBING), strict=True):
        labels[interstitial > cut] = label
    hu = _emphysema(hu.copy(), positions, emphysema, extent.emphysema, (labels == 0) & in_mask, labels, trees)
    glass = ramp(interstitial, cuts[2], 0.22)
    fibrous = ramp(interstitial, cuts[1], 0.15)
    hu += glass * (185 + 45 * texture) + fibrous * (90 + 35 * texture)
    near = np.flatnonzero(fibrous > 0)
    if len(near):
        gaps = np.asarray(trees["lobules"].query(positions[near], k=2)[0])
        wall = _wall(gaps[:, 1] - gaps[:, 0], 1.5, spacing_mm)
        hu[near] += fibrous[near] * wall * 330
    combed = np.flatnonzero(ramp(interstitial, cuts[0], 0.1) > 0)
    if len(combed):
        gaps = np.asarray(trees["cysts"].query(positions[combed], k=2)[0])
        wall = _wall(gaps[:, 1] - gaps[:, 0], 2.0, spacing_mm)
        share = ramp(interstitial, cuts[0], 0.1)[combed]
        hu[combed] += share * (-930 + 830 * wall - hu[combed])
    return Lesions(np.minimum(hu, 40), labels, cuts[1])


def _wall(gap: NDArray[np.float64], thickness_mm: float, spacing_mm: float) -> Floats:
    """Share of a voxel that a wall between two cells fills; `gap` is the difference of distances to the two."""
    width = max(thickness_mm, spacing_mm)
    return np.asarray(np.clip(1.2 - gap / width, 0, 1) * min(1.0, 1.3 * thickness_mm / width), dtype=np.float32)


def _emphysema(
    hu: Floats, positions: Floats, score: Floats, share: float, free_voxels: NDArray[np.bool_],
    labels: NDArray[np.uint8], trees: dict[str, cKDTree],
) -> Floats:  # fmt: skip
    free = np.flatnonzero(free_voxels)
    wanted = min(share * len(hu) / max(len(free), 1), 1.0)
    (cut,) = thresholds(score[free], [wanted])
    inside = free[score[free] > cut]
    if len(inside):
        labels[inside] = EMPHYSEMA
        near = trees["lobules"].query(positions[inside], k=1)[0]
        hu[inside] += np.clip(1.4 - near / 6.0, 0.25, 1).astype(np.float32) * (-985 - hu[inside])
    return hu
