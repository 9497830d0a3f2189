"""Features of every scan: PyRadiomics' under its own names, and quantitative CT, in measures that a reader knows."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage, stats

from sscct_lib.images.masks import bounding_box
from sscct_lib.images.prepare import read_result
from sscct_lib.lungs.segment import load_lungs
from sscct_lib.radiomics.filters import image_types
from sscct_lib.radiomics.texture import Hu, Mask, pyradiomics_features
from sscct_lib.study.files import write_if_changed
from sscct_lib.study.folder import Study, fingerprint
from sscct_lib.study.results import ScanError, process
from sscct_lib.study.schemas import RADIOMICS
from sscct_lib.study.settings import RadiomicsSettings

FILTER_MARGIN = 5  # voxels
HIGH_ATTENUATION_HU = (-600.0, -250.0)
LOW_ATTENUATION_HU = -950.0
PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
LOBES = {"rul": 1, "rml": 2, "rll": 3, "lul": 4, "lll": 5}  # right upper to left lower, as the masks number them


def extract_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Compute the features of every scan that has none yet under these settings, and write their `provenance`.

    Parameters
    ----------
    rows
        One row per scan: `scan_id`, `patient_id`.
    n_jobs
        Processes that share the scans; -1 for all cores.

    Returns
    -------
    pandas.DataFrame
        Schema `RADIOMICS`, one row per scan. A scan that cannot be used has `status` "failed", a reason, and empty
        features.
    """

    def inputs(row: Mapping[str, Any]) -> list[Path]:
        return [path(row["scan_id"]) for path in (study.image, study.mask, study.lobes)]

    write_if_changed(study.table("radiomics").with_suffix(".json"), json.dumps(provenance(study), indent=1) + "\n")
    settings = [study.settings.radiomics, study.settings.images]
    done = process(study, "radiomics", _extract_one, rows[["scan_id", "patient_id"]], settings, inputs, n_jobs)
    done = done.drop(columns="codes", errors="ignore")  # of reasons; every other column is a feature
    return RADIOMICS.validate(done if "settings_hash" in done else done.assign(settings_hash=None))


def _extract_one(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    image, lungs = load_lungs(study, row["scan_id"])
    path = study.lobes(row["scan_id"])
    lobes = read_result(path) if path.is_file() else None
    return {"settings_hash": settings_hash(study), **extract(image, lungs, study.settings.radiomics, lobes)}


def settings_hash(study: Study) -> str:
    """Hash of everything but the scan on which a feature's value rests: only features of one hash may be compared."""
    return fingerprint(study.settings.images, study.settings.radiomics, version("pyradiomics"))


def provenance(study: Study) -> dict[str, Any]:
    """The exact settings and versions behind a table of features."""
    return {
        "settings_hash": settings_hash(study),
        "images": study.settings.images.model_dump(mode="json"),
        "radiomics": study.settings.radiomics.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("sscct", "pyradiomics", "simpleitk", "pywavelets", "numpy")},
    }


def extract(
    image: sitk.Image, lungs: sitk.Image, settings: RadiomicsSettings, lobes: sitk.Image | None = None
) -> dict[str, float]:
    """Compute every feature of a scan in HU and its mask (0 outside, 1 right lung, 2 left lung) on the same grid.

    Parameters
    ----------
    lobes
        Numbered as in `LOBES`, on the same grid; None: a lobe among the regions has no features.

    Returns
    -------
    dict
        PyRadiomics' features under its own names: `original_*`, 107 of both lungs together, then those of the
        filtered images, `log-sigma-*` and `wavelet-*`. The same of a further region end in its name, as
        `original_firstorder_Mean_lower`. `qct_*`: see `quantitative_ct`. A region without texture, as the core of
        a very small lung, has no features.

    Raises
    ------
    ScanError
        If the grids differ, a voxel is not a number, or the lungs have no texture.
    """
    check_grid(image, lungs)
    if lobes is not None:
        check_grid(image, lobes)
        lobes = resample(image, lobes, settings.spacing_mm)[1]
    image, lungs = resample(image, lungs, settings.spacing_mm)
    hu = np.clip(sitk.GetArrayFromImage(image), *settings.hu_range).astype(np.int16)
    labels = sitk.GetArrayFromImage(lungs)
    check_region(hu, labels > 0, settings.bin_width)
    # What PyRadiomics keeps around the region when it resamples; its filters see no further.
    wide = bounding_box(labels > 0, margin=FILTER_MARGIN)
    hu, labels = hu[wide], labels[wide]
    box = bounding_box(labels > 0)
    filtered = image_types(hu, image.GetSpacing(), settings)
    labels, spacing_zyx = labels[box], image.GetSpacing()[::-1]
    in_lobes = None if lobes is None else sitk.GetArrayFromImage(lobes)[wide][box]
    parts = lung_regions(labels, spacing_zyx, settings.peel_mm, in_lobes)
    regions = {"": labels > 0} | {f"_{name}": parts[name] for name in settings.regions if name in parts}
    features: dict[str, float] = {}
    for image_type, values in filtered:
        for suffix, region in regions.items():
            if suffix and not has_texture(values[box], region, settings.bin_width):
                continue
            found = pyradiomics_features(values[box], region, spacing_zyx, settings.bin_width, image_type)
            features |= {f"{name}{suffix}": value for name, value in found.items()}
    return features | quantitative_ct(hu[box], labels, spacing_zyx, parts)


def resample(image: sitk.Image, lungs: sitk.Image, spacing_mm: float) -> tuple[sitk.Image, sitk.Image]:
    """Bring a scan and its mask to voxels of one side (mm), both linearly; a voxel gets the label that weighs most."""
    if np.allclose(image.GetSpacing(), spacing_mm, rtol=1e-4):
        return image, lungs
    old = np.array(image.GetSpacing())
    size = np.maximum(1, np.round(np.array(image.GetSize()) * old / spacing_mm)).astype(int)
    # Grids share the corner of their first voxel, not its centre, so that nothing shifts.
    shift = np.array(image.GetDirection()).reshape(3, 3) @ ((spacing_mm - old) / 2)
    filt = sitk.ResampleImageFilter()
    filt.SetSize(size.tolist())
    filt.SetOutputSpacing([spacing_mm] * 3)
    filt.SetOutputOrigin((np.array(image.GetOrigin()) + shift).tolist())
    filt.SetOutputDirection(image.GetDirection())
    filt.SetDefaultPixelValue(-1024)
    filt.SetInterpolator(sitk.sitkLinear)
    resampled = filt.Execute(image)
    filt.SetDefaultPixelValue(0)
    filt.SetInterpolator(sitk.sitkLabelLinear)
    return resampled, filt.Execute(lungs)


def check_grid(image: sitk.Image, lungs: sitk.Image) -> None:
    """Refuse an image and mask that do not lie on one three-dimensional grid, and an image that is not finite."""
    if image.GetDimension() != 3 or lungs.GetDimension() != 3:
        raise ScanError(f"expected 3-D volumes, found {image.GetDimension()}-D and {lungs.GetDimension()}-D")
    for what in ("Size", "Spacing", "Origin", "Direction"):
        of_image, of_mask = getattr(image, f"Get{what}")(), getattr(lungs, f"Get{what}")()
        if not np.allclose(of_image, of_mask, atol=1e-3):
            raise ScanError(f"image and mask differ in {what.lower()}: {of_image} and {of_mask}")
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise ScanError("the image holds voxels that are not a number; export the scan again")


def check_region(hu: Hu, region: Mask, bin_width: float) -> None:
    """Refuse lungs without texture: empty, one voxel, a line of voxels, or within one grey-level bin."""
    look = "look at the scan in the gallery of `02_segmentation_qa`"
    if not region.any():
        raise ScanError(f"the lung mask is empty; {look}")
    if region.sum() == 1:
        raise ScanError(f"the lung mask is one voxel; {look}")
    if _is_line(region):
        raise ScanError(f"the lung mask is a line of voxels, expected a volume; {look}")
    if not has_texture(hu, region, bin_width):
        values = hu[region]
        raise ScanError(
            f"the lungs hold one grey level ({values.min()} to {values.max()} HU in bins of {bin_width:g}); "
            "the image may be empty or badly scaled"
        )


def has_texture(values: NDArray[Any], region: Mask, bin_width: float) -> bool:
    """Whether a region is more than a line of voxels, and holds more than one grey level."""
    if not region.any() or _is_line(region):
        return False
    inside = values[region]
    return bool(inside.min() // bin_width != inside.max() // bin_width)


def _is_line(region: Mask) -> bool:
    extents = [int(region.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))]
    return sum(extent > 1 for extent in extents) < 2


def lung_regions(
    labels: NDArray[np.uint8], spacing_zyx: tuple[float, ...], peel_mm: float, lobes: NDArray[np.uint8] | None = None
) -> dict[str, Mask]:
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
    hu: Hu, labels: NDArray[np.uint8], spacing_zyx: tuple[float, ...], regions: Mapping[str, Mask]
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
