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
    """Divide the lungs into right and left, into zones, into peel and core, and into lobes.

    Parameters
    ----------
    labels
        0 outside, 1 right lung, 2 left lung, shape (z, y, x); z grows towards the head.
    spacing_zyx
        Voxel sides, mm.
    peel_mm
        Depth of the peel below the surface of the lungs, mm.
    lobes
        0 outside, 1 to 5 as in `LOBES`, shape (z, y, x); None: lobes are not known.

    Returns
    -------
    dict
        Region by name: `right`, `left`, `upper`, `middle`, `lower` (both lungs cut at the same two levels into
        thirds of equal volume, as the Chest Imaging Platform does), `peel` and `core`, and the names of `LOBES` where
        they are known; shape (z, y, x).
    """
    lungs = labels > 0
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
    """Measure lung density as quantitative CT does.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x).
    labels
        0 outside, 1 right lung, 2 left lung, shape (z, y, x).
    spacing_zyx
        Voxel sides, mm.
    regions
        From `lung_regions`.

    Returns
    -------
    dict
        Of both lungs: `qct_volume_l`, `qct_mean_hu`, `qct_sd_hu`, `qct_skewness`, `qct_kurtosis` (excess: 0
        for a normal distribution), `qct_p05_hu` to `qct_p95_hu`, `qct_high_attenuation_share` (-600 to -250 HU)
        and `qct_low_attenuation_share` (below -950 HU). The mean and both shares again for each region, and
        their gradients `_lower_minus_upper` and `_peel_minus_core`. Not a number where a region is empty, as the
        core of a very small lung.

    References
    ----------
    Best AC, et al. Idiopathic pulmonary fibrosis: physiologic tests, quantitative CT indexes, and CT visual
    scores as predictors of mortality. Radiology 2008;246:935-40 (mean, skewness, kurtosis).
    Lederer DJ, et al. Cigarette smoking is associated with subclinical parenchymal lung disease: the
    MESA-lung study. Am J Respir Crit Care Med 2009;180:407-14 (high-attenuation areas).
    """
    values = hu[labels > 0].astype(float)
    features = {
        "volume_l": values.size * float(np.prod(spacing_zyx)) / 1e6,
        "sd_hu": float(values.std()),
        "skewness": float(stats.skew(values)),
        "kurtosis": float(stats.kurtosis(values)),
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
    if values.size == 0:
        return dict.fromkeys(("mean_hu", "high_attenuation_share", "low_attenuation_share"), float("nan"))
    low, high = HIGH_ATTENUATION_HU
    return {
        "mean_hu": float(values.mean()),
        "high_attenuation_share": float(((values >= low) & (values <= high)).mean()),
        "low_attenuation_share": float((values < LOW_ATTENUATION_HU).mean()),
    }
