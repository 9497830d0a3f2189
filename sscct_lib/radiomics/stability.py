"""Features of slightly changed scans: what a feature worth using should not notice."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage

from sscct_lib.images.prepare import on_grid_of
from sscct_lib.lungs.segment import load_lungs
from sscct_lib.radiomics.extract import extract, resample
from sscct_lib.study.folder import Study, fingerprint
from sscct_lib.study.results import process

MASK_SHIFT_MM = 1.0
PATCH_VOXELS = 3.0
ROTATION_DEGREES = 3.0
NOISE_HU = 10.0

Scan = tuple[sitk.Image, sitk.Image]


def versions_of_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Compute the features of changed versions of some scans (`scan_id`, `patient_id`), one of as many patients.

    One row per scan and version: `scan_id`, `patient_id`, `version` and features. Scans of which a version failed are
    not in it. `n_jobs` processes share the scans, -1 for all cores.
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
    """Yield a scan and its mask as they are, and changed in five ways that leave the patient the same."""
    # Zwanenburg A, et al. Assessing robustness of radiomic features by image perturbation. Sci Rep 2019;9:614.
    yield "original", (image, lungs)
    rng = np.random.default_rng(seed)
    # One voxel in patches of the surface: a millimetre on average, as one good lung mask differs from another.
    yield "grown", (image, _moved(lungs, rng, outwards=True))
    yield "shrunken", (image, _moved(lungs, rng, outwards=False))
    # About the body's axis.
    centre = image.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in image.GetSize()])
    turn = sitk.Euler3DTransform(centre, 0.0, 0.0, np.deg2rad(ROTATION_DEGREES))
    yield "rotated", _transformed(image, lungs, turn)
    hu = sitk.GetArrayFromImage(image)
    yield "noisy", (on_grid_of(image, hu + rng.normal(0, NOISE_HU, hu.shape).astype(hu.dtype)), lungs)
    # Resampled on slices half a voxel further.
    shift = sitk.TranslationTransform(3, [0.0, 0.0, image.GetSpacing()[2] / 2])
    yield "shifted", _transformed(image, lungs, shift)


def _moved(lungs: sitk.Image, rng: np.random.Generator, outwards: bool) -> sitk.Image:
    labels = sitk.GetArrayFromImage(lungs)
    cross = ndimage.generate_binary_structure(3, 1)
    if outwards:
        new = ndimage.grey_dilation(labels, footprint=cross)
        shell = (labels == 0) & (new > 0)
    else:
        new = np.zeros_like(labels)
        # Eroded as one, so that the lungs shrink where they end, not where they touch.
        shell = (labels > 0) & ~ndimage.binary_erosion(labels > 0, cross)
    share = min(1.0, MASK_SHIFT_MM / lungs.GetSpacing()[0])
    patches = ndimage.gaussian_filter(rng.normal(size=labels.shape), PATCH_VOXELS)
    chosen = shell & (patches >= np.quantile(patches[shell], 1 - share)) if shell.any() else shell
    return on_grid_of(lungs, np.where(chosen, new, labels))


def _transformed(image: sitk.Image, lungs: sitk.Image, transform: sitk.Transform) -> Scan:
    return (
        sitk.Resample(image, image, transform, sitk.sitkLinear, -1024.0),
        sitk.Resample(lungs, lungs, transform, sitk.sitkLabelLinear, 0.0),
    )
