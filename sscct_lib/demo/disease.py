"""Lung disease of systemic sclerosis, drawn on the lung voxels of a synthetic thorax.

Where disease sits is a score that belongs to the patient: high at the bases, under the pleura and posteriorly, with
patches. A pattern covers the voxels with the highest scores, as many as its share of the lungs asks for, so that
disease at a later scan holds all of the disease at an earlier one, and honeycombing lies in the fibrosis, which lies
in the ground-glass.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sscct_lib.demo.anatomy import Thorax
from sscct_lib.demo.geometry import Floats

LESIONS = {"ground_glass": 1, "reticulation": 2, "honeycombing": 3, "emphysema": 4}
GROUND_GLASS, RETICULATION, HONEYCOMBING, EMPHYSEMA = LESIONS.values()
LOBULE_MM, CYST_MM = 9.0, 6.5


@dataclass(frozen=True)
class DiseaseMaps:
    """Where disease comes first in a patient: scores on the coarse grid, higher where it comes earlier."""

    interstitial: Floats
    emphysema: Floats
    in_lungs: Floats  # both scores of the points of the coarse grid that lie in the lungs, (2, n)
    lobules: cKDTree  # middles of lung lobules, the same at every scan
    cysts: cKDTree  # middles of honeycomb cysts, likewise
    tissue: float  # in healthy lung, 1 on average


@dataclass(frozen=True)
class LungVoxels:
    """The n voxels of a scan's lungs and their rim."""

    hu: Floats  # healthy parenchyma, HU
    positions: Floats  # x, y, z in the patient, mm, (n, 3)
    interstitial: Floats
    emphysema: Floats
    texture: Floats  # fine noise of unit variance
    spacing_mm: float  # voxel side; walls thinner than it fade


def map_disease(thorax: Thorax, seed: int, number: int) -> DiseaseMaps:
    """Decide how basal, subpleural and patchy a patient's disease is."""
    rng = np.random.default_rng([seed, number, 3])
    basal, rim, back, patchy = rng.uniform((1.0, 0.9, 0.3, 0.18), (2.2, 1.6, 0.9, 0.45))
    # In a third the lung right under the pleura is spared, as in non-specific interstitial pneumonia.
    spared = 1.2 * rim * (rng.random() < 0.33)
    tissue = float(np.clip(rng.lognormal(0, 0.12), 0.75, 1.35))
    grid = thorax.z, thorax.y, thorax.x
    depth = np.clip(-np.minimum(thorax.fields["lung_right"], thorax.fields["lung_left"]), 0, None)
    height, posterior = thorax.fields["height"], thorax.y[None, :, None] / thorax.build.half_depth
    mottled = thorax.noise["mottled"](*grid)
    patches = patchy * (thorax.noise["patchy"](*grid) + 0.6 * mottled)
    interstitial = rim * np.exp(-depth / 14.0) - spared * np.exp(-depth / 4.0)
    interstitial = interstitial - basal * height + back * posterior + patches
    emphysema = 1.5 * height + 0.6 * mottled + 0.3 * np.clip(depth / 15.0, 0, 1)
    lungs = (depth > 0) & (thorax.fields["central_airway"] > 1.0)
    return DiseaseMaps(
        interstitial.astype(np.float32),
        emphysema.astype(np.float32),
        np.stack([interstitial[lungs], emphysema[lungs]]).astype(np.float32),
        _cells(thorax, np.random.default_rng([seed, number, 4, 0]), LOBULE_MM),
        _cells(thorax, np.random.default_rng([seed, number, 4, 1]), CYST_MM),
        tissue,
    )


def _cells(thorax: Thorax, rng: np.random.Generator, length_mm: float) -> cKDTree:
    """Scatter points over the lungs, about `length_mm` apart."""
    build = thorax.build
    width, depth = build.half_width + 15, build.half_depth + 20
    box = ((-width, width), (-depth, depth + 10), (-15.0, build.height + 15))
    ticks = [np.arange(low, high, length_mm) for low, high in box]
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    return cKDTree(points + rng.uniform(-0.45, 0.45, points.shape) * length_mm)


def threshold(scores: Floats, share: float) -> float:
    """The score above which lies a share of the points; infinite for a share of 0."""
    n = min(round(share * len(scores)), len(scores) - 1)
    return float(np.partition(scores, len(scores) - 1 - n)[len(scores) - 1 - n]) if n > 0 else np.inf


def ramp(values: Floats, threshold: float, width: float) -> Floats:
    """Rise from 0 to 1 over `width` around a threshold."""
    if not np.isfinite(threshold):
        return np.zeros_like(values)
    return np.asarray(np.clip((values - threshold) / width + 0.5, 0, 1))


def draw_lesions(
    lung: LungVoxels, extent: Mapping[str, float], maps: DiseaseMaps
) -> tuple[Floats, NDArray[np.uint8], float]:
    """Add disease to healthy parenchyma; `extent`: share of the whole lungs that each pattern of `LESIONS` covers.

    Gives the densities (HU), labels (0 none, else the numbers of `LESIONS`), and the score above which the lung is
    fibrotic, infinite where there is no fibrosis.
    """
    score = lung.interstitial
    fibrosis = extent["honeycombing"] + extent["reticulation"]
    nested = (extent["honeycombing"], fibrosis, fibrosis + extent["ground_glass"])
    honey_cut, fibrosis_cut, disease_cut = (threshold(maps.in_lungs[0], share) for share in nested)
    labels = np.zeros(len(score), dtype=np.uint8)
    labels[score > disease_cut] = GROUND_GLASS
    labels[score > fibrosis_cut] = RETICULATION
    labels[score > honey_cut] = HONEYCOMBING
    hu = lung.hu.copy()
    free = maps.in_lungs[1][maps.in_lungs[0] <= disease_cut]
    wanted = min(extent["emphysema"] * maps.in_lungs.shape[1] / max(len(free), 1), 1.0)
    _emphysema(hu, lung, threshold(free, wanted), labels, maps.lobules)
    fibrous = ramp(score, fibrosis_cut, 0.15)
    hu += ramp(score, disease_cut, 0.22) * (185 + 45 * lung.texture) + fibrous * (85 + 35 * lung.texture)
    _septa(hu, lung, fibrous, maps)
    _honeycomb(hu, lung, ramp(score, honey_cut, 0.10), maps.cysts)
    return np.minimum(hu, 40), labels, fibrosis_cut


def _septa(hu: Floats, lung: LungVoxels, share: Floats, maps: DiseaseMaps) -> None:
    """Thicken the walls between lobules, and finer lines within them: reticulation."""
    at = np.flatnonzero(share > 0)
    if len(at):
        uneven = share[at] * np.clip(0.8 + 0.4 * lung.texture[at], 0.1, 1.4)
        lines = np.maximum(_walls(lung, at, maps.lobules, 1.1), 0.6 * _walls(lung, at, maps.cysts, 0.9))
        hu[at] += uneven * lines * 400


def _honeycomb(hu: Floats, lung: LungVoxels, share: Floats, cysts: cKDTree) -> None:
    """Replace lung by air cysts with thick walls."""
    at = np.flatnonzero(share > 0)
    if len(at):
        hu[at] += share[at] * (-930 + 830 * _walls(lung, at, cysts, 2.0) - hu[at])


def _walls(lung: LungVoxels, at: NDArray[np.int64], cells: cKDTree, thickness_mm: float) -> Floats:
    """Share of each voxel that the walls between cells fill."""
    # Walls are wavy, not flat: the fine noise of the lung bends them.
    bent = lung.positions[at] + lung.texture[at, None] * np.array([0.9, -0.9, 0.9], dtype=np.float32)
    nearest = np.asarray(cells.query(bent, k=2)[0])
    width = max(thickness_mm, lung.spacing_mm)
    filled = np.clip(1.2 - (nearest[:, 1] - nearest[:, 0]) / width, 0, 1) * min(1.0, 1.3 * thickness_mm / width)
    return np.asarray(filled, dtype=np.float32)


def _emphysema(hu: Floats, lung: LungVoxels, cut: float, labels: NDArray[np.uint8], lobules: cKDTree) -> None:
    """Hollow out the middles of lobules in lung that is free of other disease."""
    at = np.flatnonzero((labels == 0) & (lung.emphysema > cut))
    labels[at] = EMPHYSEMA
    if len(at):
        near = np.asarray(lobules.query(lung.positions[at], k=1)[0], dtype=np.float32)
        hu[at] += np.clip(1.6 - near / 5.0, 0.25, 1) * (-1000 - hu[at])
