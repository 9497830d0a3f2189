"""Features of slightly changed scans: what a feature worth using should not notice."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from sscct_lib.lungs import load_lungs
from sscct_lib.radiomics import extract, resample
from sscct_lib.scans import process
from sscct_lib.study import Study, fingerprint

ROTATION_DEGREES = 3.0
NOISE_HU = 25.0

Scan = tuple[sitk.Image, sitk.Image]


def versions_of_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Compute the features of changed versions of some scans, the first of as many patients.

    Parameters
    ----------
    study
        The study; `tabular.n_stability_scans` says how many.
    rows
        One row a scan: `scan_id`, `patient_id`.
    n_jobs
        Processes that share the scans; -1 for all cores.

    Returns
    -------
    pandas.DataFrame
        One row a scan and version: `scan_id`, `patient_id`, `version` and features, as `agreement` takes them.
        Scans of which a version failed are not in it.
    """
    first = rows[["scan_id", "patient_id"]].sort_values("scan_id").drop_duplicates("patient_id")
    rng = np.random.default_rng(study.settings.seed)
    n_scans = min(study.settings.tabular.n_stability_scans, len(first))
    chosen = first.iloc[np.sort(rng.permutation(len(first))[:n_scans])]

    def inputs(row: Mapping[str, Any]) -> list[Path]:
        return [study.image(row["scan_id"]), study.mask(row["scan_id"])]

    settings = [study.settings.radiomics, study.settings.images, study.settings.seed]
    done = process(study, "stability", _versions_of_scan, chosen, settings, inputs, n_jobs)
    return pd.DataFrame(
        [
            {"scan_id": scan["scan_id"], "patient_id": scan["patient_id"], "version": version, **features}
            for scan in done[done["status"] == "ok"].to_dict("records")
            for version, features in scan["versions"].items()
        ]
    )


def _versions_of_scan(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    settings = study.settings.radiomics
    scan = resample(*load_lungs(study, row["scan_id"]), settings.spacing_mm)
    seed = int(fingerprint(study.settings.seed, row["scan_id"]), 16)
    return {"versions": {name: extract(*changed, settings) for name, changed in versions(*scan, seed)}}


def versions(image: sitk.Image, lungs: sitk.Image, seed: int) -> Iterator[tuple[str, Scan]]:
    """Yield a scan as it is, and changed in five ways that leave the patient the same.

    Parameters
    ----------
    image
        Densities, HU.
    lungs
        0 outside, 1 right lung, 2 left lung, on the same grid.
    seed
        Of the noise.

    Yields
    ------
    name : str
        `original`; `grown` and `shrunken`, the mask by one voxel; `rotated` by 3 degrees about the body's axis;
        `noisy`, by 25 HU; `thick`, of slices twice as thick.
    scan : tuple of SimpleITK.Image
        Densities and mask.

    References
    ----------
    Zwanenburg A, et al. Assessing robustness of radiomic features by image perturbation. Sci Rep 2019;9:614.
    """
    yield "original", (image, lungs)
    grown = sitk.GrayscaleDilate(lungs, [1, 1, 1], sitk.sitkCross)
    yield "grown", (image, sitk.Mask(grown, lungs == 0) + lungs)
    # Eroded as one, so that the lungs shrink only where they end, not where they touch.
    yield "shrunken", (image, sitk.Mask(lungs, sitk.BinaryErode(lungs > 0, [1, 1, 1], sitk.sitkCross)))
    yield "rotated", _rotated(image, lungs)
    hu = sitk.GetArrayFromImage(image)
    noisy = sitk.GetImageFromArray(hu + np.random.default_rng(seed).normal(0, NOISE_HU, hu.shape).astype(hu.dtype))
    noisy.CopyInformation(image)
    yield "noisy", (noisy, lungs)
    thick = sitk.BinShrink(image, [1, 1, 2])
    # Beyond the middle of the first and last slice there is nothing to interpolate: the nearest voxel counts.
    back = sitk.Resample(thick, image, sitk.Transform(), sitk.sitkLinear, -1024, image.GetPixelID(), True)
    yield "thick", (back, lungs)


def _rotated(image: sitk.Image, lungs: sitk.Image) -> Scan:
    centre = image.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in image.GetSize()])
    turn = sitk.Euler3DTransform(centre, 0.0, 0.0, np.deg2rad(ROTATION_DEGREES))
    return (
        sitk.Resample(image, image, turn, sitk.sitkLinear, -1024.0),
        sitk.Resample(lungs, lungs, turn, sitk.sitkLabelLinear, 0.0),
    )
