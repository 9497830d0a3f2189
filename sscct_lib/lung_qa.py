"""Is a lung mask plausible? Measures of each scan, and the verdict that they lead to."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from sscct_lib.study import LungSettings

FAIL_AT = 0.3  # litres: less than this is no pair of lungs, whatever the patient
SMALLEST_PIECE_ML = 1.0


def measure(image: sitk.Image, mask: sitk.Image) -> dict[str, Any]:
    """Measure a mask and the lungs in it.

    Parameters
    ----------
    image
        Prepared scan: LPS, isotropic, int16 HU.
    mask
        On the same grid: 0 outside, 1 right lung, 2 left lung.

    Returns
    -------
    dict
        The measures of schema `LUNGS`; those that need a lung are None when the mask is empty.
    """
    hu, labels = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(mask)
    inside = labels > 0
    n_voxels = int(inside.sum())
    voxel_l = float(np.prod(image.GetSpacing())) / 1e6
    if n_voxels == 0:
        return {"volume_l": 0.0, "n_components": 0}
    pieces = np.bincount(ndimage.label(inside)[0].ravel())[1:]
    values = hu[inside]
    return {
        "volume_l": n_voxels * voxel_l,
        "left_share": float((labels == 2).sum() / n_voxels),
        "n_components": int((pieces * voxel_l * 1000 >= SMALLEST_PIECE_ML).sum()),
        "border_share": _border_share(inside, n_voxels),
        "mean_hu": float(values.mean()),
        "high_attenuation_share": float(((values >= -600) & (values <= -250)).mean()),
        "low_attenuation_share": float((values < -950).mean()),
    }


def _border_share(inside: Any, n_voxels: int) -> float:
    core = inside[1:-1, 1:-1, 1:-1]
    return float(1 - core.sum() / n_voxels)


def judge(measures: dict[str, Any], settings: LungSettings) -> tuple[str, str]:
    """Turn measures into a verdict.

    Parameters
    ----------
    measures
        From `measure`.
    settings
        The section `lungs` of the study, with the plausible ranges.

    Returns
    -------
    verdict : str
        `pass`; `review` when a measure is unusual and a person should look; `fail` when the mask cannot be used.
    findings : str
        The reasons in words, separated by "; "; empty for `pass`.
    """
    if measures["volume_l"] < FAIL_AT:
        return "fail", f"hardly any lung was found ({measures['volume_l']:.2f} L)"
    findings = [
        *_outside(measures["volume_l"], settings.volume_l, "lung volume {:.1f} L", 1),
        *_outside(measures["left_share"], settings.left_share, "left lung {:.0f} % of the volume", 100),
        *_outside(measures["mean_hu"], settings.mean_hu, "mean density {:.0f} HU", 1),
    ]
    if measures["border_share"] > settings.max_border_share:
        findings.append(f"lungs cut by the edge of the scan ({100 * measures['border_share']:.1f} % of voxels on it)")
    if measures["left_share"] in (0, 1):
        findings.append("only one lung was found")
    return ("review" if findings else "pass"), "; ".join(findings)


def _outside(value: float, limits: tuple[float, float], words: str, factor: float) -> list[str]:
    low, high = limits
    if low <= value <= high:
        return []
    return [f"{words.format(factor * value)}, expected {factor * low:g} to {factor * high:g}"]
