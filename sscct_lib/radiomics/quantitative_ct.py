"""Quantitative CT: density of the lungs, their zones, peel and core, in measures that a reader knows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

HIGH_ATTENUATION_HU = (-600.0, -250.0)
LOW_ATTENUATION_HU = -950.0
PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
LOBES = {"rul": 1, "rml": 2, "rll": 3, "lul": 4, "lll": 5}  # right upper to left lower, as the masks number them

Hu = NDArray[np.int16]
Region = NDArray[np.bool_]


def lung_regions(
    labels: NDArray[np.uint8], spacing_zyx: tuple[float, ...], peel_mm: float, lobes: NDArray[np.uint8] | None = None
) -> dict[str, Region]:
    """Divide the lungs (0 outside, 1 right, 2 left; z grows towards the head) into named regions, each (z, y, x)."""
    lungs = labels > 0
    # Both lungs are cut at the same two levels into thirds of equal volume, as the Chest Imaging Platform does.
    by_slice = lungs.sum(axis=(1, 2))
    middle_of_slice = (np.cumsum(by_slice) - by_slice / 2) / max(by_slice.sum(), 1)
    third = np.minimum(3 * middle_of_slice, 2).astype(np.uint8)[:, None, None]
    depth = ndimage.distance_transform_edt(np.pad(lungs, 1), sampling=spacing_zyx)[1:-1, 1:-1, 1:-1]
    peel = lungs & (depth <= peel_mm)
    parts = {} if lobes is None else {name: lungs & (lobes == number) for name, number in LOBES.items()}
    return {
        "right": labels == 1,
        "left": labels == 2,
        "upper": lungs & (third == 2),
        "middle": lungs & (third == 1),
        "lower": lungs & (third == 0),
        "peel": peel,
        "core": lungs & ~peel,
        **parts,
    }


def quantitative_ct(
    hu: Hu, labels: NDArray[np.uint8], spacing_zyx: tuple[float, ...], regions: Mapping[str, Region]
) -> dict[str, float]:
    """Density of both lungs and of each region, as `qct_<measure>` and `qct_<measure>_<region>`; NaN where empty.

    Best AC, et al. Idiopathic pulmonary fibrosis: physiologic tests, quantitative CT indexes, and CT visual scores as
    predictors of mortality. Radiology 2008;246:935-40. Dense areas: Lederer DJ, et al. Cigarette smoking is associated
    with subclinical parenchymal lung disease: the MESA-lung study. Am J Respir Crit Care Med 2009;180:407-14.
    """
    values = hu[labels > 0].astype(float)
    features = {
        "volume_l": values.size * float(np.prod(spacing_zyx)) / 1e6,
        "sd_hu": float(values.std()),
        "skewness": float(stats.skew(values)),
        "kurtosis": float(stats.kurtosis(values)),  # excess: 0 for a normal distribution
        **{f"p{q:02d}_hu": float(np.percentile(values, q)) for q in PERCENTILES},
        **_density(values),
    }
    densities = {name: _density(hu[region]) for name, region in regions.items()}
    for name, density in densities.items():
        features |= {f"{measure}_{name}": value for measure, value in density.items()}
    for first, second in (("lower", "upper"), ("peel", "core")):
        for measure, value in densities[first].items():
            features[f"{measure}_{first}_minus_{second}"] = value - densities[second][measure]
    return {f"qct_{name}": value for name, value in features.items()}


def _density(values: NDArray[Any]) -> dict[str, float]:
    if values.size == 0:  # as the core of a very small lung
        return dict.fromkeys(("mean_hu", "high_attenuation_share", "low_attenuation_share"), float("nan"))
    low, high = HIGH_ATTENUATION_HU
    return {
        "mean_hu": float(values.mean()),
        "high_attenuation_share": float(((values >= low) & (values <= high)).mean()),
        "low_attenuation_share": float((values < LOW_ATTENUATION_HU).mean()),
    }
