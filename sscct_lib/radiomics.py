"""Radiomic features of every scan: PyRadiomics under its own names, and quantitative CT beside it."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage

from sscct_lib.lungs import load_lungs
from sscct_lib.quantitative import quantitative_ct
from sscct_lib.scans import ScanError, process
from sscct_lib.study import RadiomicsSettings, Study, fingerprint
from sscct_lib.tables import RADIOMICS
from sscct_lib.texture import Hu, Mask, pyradiomics_features
from sscct_lib.wording import in_words


def extract_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Compute the features of every scan that has none yet under these settings.

    Parameters
    ----------
    study
        The study and run; `study.image` and `study.mask` hold the scans and their lungs.
    rows
        One row a scan: `scan_id`, `patient_id`.
    n_jobs
        Processes that share the scans; -1 for all cores.

    Returns
    -------
    pandas.DataFrame
        Schema `RADIOMICS`, one row a scan. A scan that cannot be used has `status` "failed", a reason, and
        empty features.
    """
    rows = rows[["scan_id", "patient_id"]]

    def inputs(row: Mapping[str, Any]) -> list[Path]:
        return [study.image(row["scan_id"]), study.mask(row["scan_id"])]

    settings = [study.settings.radiomics, study.settings.images]
    done = process(study, "radiomics", _extract_one, rows, settings, inputs, n_jobs)
    return RADIOMICS.validate(done if "settings_hash" in done else done.assign(settings_hash=None))


def _extract_one(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    image, lungs = load_lungs(study, row["scan_id"])
    return {"settings_hash": settings_hash(study), **extract(image, lungs, study.settings.radiomics)}


def settings_hash(study: Study) -> str:
    """Hash everything on which a feature's value rests besides the scan.

    Parameters
    ----------
    study
        The study; its sections `images` and `radiomics` matter.

    Returns
    -------
    str
        Features may be compared, or given to a model, only when their hashes are equal.
    """
    return fingerprint(study.settings.images, study.settings.radiomics, version("pyradiomics"))


def extract(image: sitk.Image, lungs: sitk.Image, settings: RadiomicsSettings) -> dict[str, float]:
    """Compute every feature of one scan.

    Parameters
    ----------
    image
        Chest CT in HU, LPS orientation.
    lungs
        Mask on the same grid: 0 outside, 1 right lung, 2 left lung.
    settings
        Spacing, bin width, HU range and depth of the peel.

    Returns
    -------
    dict
        `original_*`: 107 PyRadiomics features of both lungs together, under PyRadiomics' names.
        `qct_*`: see `quantitative_ct`.

    Raises
    ------
    ScanError
        If the grids differ, a voxel is not a number, or the lungs are empty, one voxel, flat in two
        dimensions, or of one grey level.
    """
    check_grid(image, lungs)
    image, lungs = resample(image, lungs, settings.spacing_mm)
    hu = np.clip(sitk.GetArrayFromImage(image), *settings.hu_range).astype(np.int16)
    labels = sitk.GetArrayFromImage(lungs)
    check_region(hu, labels > 0, settings.bin_width)
    box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    hu, labels = hu[box], labels[box]
    spacing_zyx = image.GetSpacing()[::-1]
    return {
        **pyradiomics_features(hu, labels > 0, spacing_zyx, settings.bin_width),
        **quantitative_ct(hu, labels, spacing_zyx, settings.peel_mm),
    }


def check_grid(image: sitk.Image, lungs: sitk.Image) -> None:
    """Refuse an image and mask that do not lie on one three-dimensional grid.

    Parameters
    ----------
    image, lungs
        The scan and its mask.

    Raises
    ------
    ScanError
        If dimension, size, spacing, origin or direction differ, or a voxel of the image is not finite.
    """
    if image.GetDimension() != 3 or lungs.GetDimension() != 3:
        raise ScanError(f"expected 3-D volumes, found {image.GetDimension()}-D and {lungs.GetDimension()}-D")
    for what in ("Size", "Spacing", "Origin", "Direction"):
        of_image, of_mask = getattr(image, f"Get{what}")(), getattr(lungs, f"Get{what}")()
        if not np.allclose(of_image, of_mask, atol=1e-3):
            raise ScanError(f"image and lung mask differ in {what.lower()}: {of_image} and {of_mask}")
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise ScanError("the image holds voxels that are not a number; export the scan again")


def check_region(hu: Hu, region: Mask, bin_width: float) -> None:
    """Refuse a region in which texture has no meaning.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x).
    region
        The region, shape (z, y, x).
    bin_width
        Width of a grey-level bin, HU.

    Raises
    ------
    ScanError
        If the region is empty, one voxel, flat in two dimensions, or within one grey-level bin.
    """
    if not region.any():
        raise ScanError("the lung mask is empty; look at the scan in the gallery of `02_segmentation_qa`")
    if region.sum() == 1:
        raise ScanError("the lung mask is one voxel; look at the scan in the gallery of `02_segmentation_qa`")
    if sum(len(np.unique(axis)) > 1 for axis in np.nonzero(region)) < 2:
        raise ScanError("the lung mask is a line of voxels, expected a volume")
    values = hu[region]
    if np.floor(values.min() / bin_width) == np.floor(values.max() / bin_width):
        raise ScanError(
            f"the lungs hold one grey level ({values.min()} to {values.max()} HU in bins of {bin_width:g}); "
            "the image may be empty or badly scaled"
        )


def resample(image: sitk.Image, lungs: sitk.Image, spacing_mm: float) -> tuple[sitk.Image, sitk.Image]:
    """Bring a scan and its mask to an isotropic spacing, both linearly; a voxel gets the label that weighs most.

    Parameters
    ----------
    image, lungs
        The scan and its mask, on one grid.
    spacing_mm
        Voxel side, mm.

    Returns
    -------
    image, lungs : SimpleITK.Image
        On the new grid, which has the old one's first corner; the same images where the spacing fits already.
    """
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


def describe(features: pd.DataFrame) -> pd.DataFrame:
    """Summarise the quantitative CT measures of a feature table.

    Parameters
    ----------
    features
        Schema `RADIOMICS`.

    Returns
    -------
    pandas.DataFrame
        One row a measure: `measure` in words, `median`, `p10` and `p90` over scans, `n_scans` that have it.
    """
    measures = features[features["status"] == "ok"].filter(regex="^qct_")
    return pd.DataFrame(
        {
            "measure": [in_words(str(name)) for name in measures],
            "median": measures.median().to_numpy(),
            "p10": measures.quantile(0.1).to_numpy(),
            "p90": measures.quantile(0.9).to_numpy(),
            "n_scans": measures.notna().sum().to_numpy(),
        }
    )
