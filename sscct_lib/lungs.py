"""Lung masks: found in the CT, or taken from the manifest; labelled right and left, and judged.

Labels are 1 in the right lung and 2 in the left one, whole lungs with their vessels and disease, without
trachea, main bronchi and mediastinum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.airspace import find_lungs, look
from sscct_lib.images import read_scan, read_volume, resample, resample_mask, write_image
from sscct_lib.interpolation import axis_weights, interpolate
from sscct_lib.lung_qa import measure
from sscct_lib.lung_verdict import DECISIONS_FILE, apply_decisions, compare_visits, judge
from sscct_lib.morphology import bounding_box
from sscct_lib.scans import Record, ScanError, process
from sscct_lib.study import Study
from sscct_lib.tables import LUNGS

RIGHT, LEFT = 1, 2
WORK_SPACING_MM = 2.0
"""Anatomy is found on voxels of at least this side; a finer scan then gets its mask refined at the surface."""

SAME_GRID_MM = 0.1


def segment_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Find and judge the lungs of prepared scans.

    Parameters
    ----------
    study
        The study and run; the section `lungs` matters. Writes `study.mask(scan_id)`, uint8, on the grid of the
        prepared scan: 0 outside, 1 right lung, 2 left lung.
    rows
        `scan_id`, `patient_id` and, for the method `provided`, `lung_mask`: path relative to the study folder.
        Their scans went through `images.prepare_scans`.
    n_jobs
        Processes that share the scans.

    Returns
    -------
    pandas.DataFrame
        Schema `LUNGS`, one row a scan: measures, `verdict` (pass, review or fail) and `findings` in words. A scan
        without a prepared image or with an unusable mask has status "failed" and its reason.
    """
    provided = study.settings.lungs.method == "provided"
    names = ["scan_id", "patient_id", *(["lung_mask", "image"] if provided else [])]
    done = process(
        study,
        "lungs",
        _segment,
        rows.reindex(columns=names),
        study.settings.lungs,
        lambda row: [study.image(row["scan_id"]), *_mask_files(study, row)],
        n_jobs,
        outputs=lambda row: [study.mask(row["scan_id"])],
    )
    table = LUNGS.validate(done.reindex(columns=list(LUNGS.columns)))
    return apply_decisions(compare_visits(table, study.settings.lungs), study.folder / DECISIONS_FILE)


def _mask_files(study: Study, row: Mapping[str, Any]) -> list[Any]:
    return [study.folder / row["lung_mask"]] if isinstance(row.get("lung_mask"), str) else []


def _segment(study: Study, row: Mapping[str, Any]) -> Record:
    scan_id, settings = row["scan_id"], study.settings.lungs
    if not study.image(scan_id).is_file():
        raise ScanError("no prepared image: the scan was set aside when it was read, or `images` has not run.")
    image = read_volume(study.image(scan_id))
    work = _work_grid(image)
    hu = sitk.GetArrayFromImage(work).astype(np.float32)
    anatomy = look(hu, work.GetSpacing()[0])
    if settings.method == "provided":
        mask = _provided(study, row, image)
        labels = sitk.GetArrayFromImage(resample_mask(mask, work))
    else:
        labels = find_lungs(hu, anatomy)
        mask = _on_grid(labels, work, image)
    write_image(mask, study.mask(scan_id))
    found = measure(hu, labels, anatomy)
    judgement = judge(found, settings)
    words = {"verdict": judgement.verdict, "findings": judgement.findings, "flags": judgement.flags}
    return {**found.measures, **words, "place_mm": _in_patient(judgement.place, work)}


def _in_patient(place: tuple[int, int, int] | None, image: sitk.Image) -> str | None:
    """Write a voxel [z, y, x] as a position in the patient, x y z in mm."""
    if place is None:
        return None
    return " ".join(f"{value:.1f}" for value in image.TransformIndexToPhysicalPoint(place[::-1]))


def threshold_mask(image: sitk.Image) -> sitk.Image:
    """Find the lungs of a scan from its densities alone.

    Parameters
    ----------
    image
        Prepared scan: LPS, isotropic, int16 HU.

    Returns
    -------
    SimpleITK.Image
        uint8 on the grid of `image`: 0 outside, 1 right lung, 2 left lung.

    Raises
    ------
    ScanError
        If there is no body, or no lung in it.
    """
    work = _work_grid(image)
    hu = sitk.GetArrayFromImage(work).astype(np.float32)
    return _on_grid(find_lungs(hu, look(hu, work.GetSpacing()[0])), work, image)


def _work_grid(image: sitk.Image) -> sitk.Image:
    return image if image.GetSpacing()[0] >= 0.75 * WORK_SPACING_MM else resample(image, WORK_SPACING_MM)


def _on_grid(labels: NDArray[np.uint8], work: sitk.Image, image: sitk.Image) -> sitk.Image:
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(work)
    return mask if work is image else _refine(mask, image)


def _refine(mask: sitk.Image, image: sitk.Image) -> sitk.Image:
    """Carry a mask to a finer grid with smooth surfaces: each label's share of a voxel, interpolated."""
    coarse = sitk.GetArrayViewFromImage(mask)
    start = np.array(mask.TransformPhysicalPointToContinuousIndex(image.GetOrigin()))
    step = np.array(image.GetSpacing()) / mask.GetSpacing()
    labels = np.zeros(image.GetSize()[::-1], np.uint8)
    # Only where there is lung: voxels of the coarse box with one more on each side.
    box = bounding_box(coarse > 0, margin=1)
    sides = zip(box[::-1], start, step, image.GetSize(), strict=True)
    fine = [_within(side, at, by, n) for side, at, by, n in sides][::-1]
    axes = [
        axis_weights(side.stop - side.start, at + by * np.arange(new.start, new.stop) - side.start)
        for side, new, at, by in zip(box, fine, start[::-1], step[::-1], strict=True)
    ]
    right, left = (interpolate(coarse[box] == label, (axes[0], axes[1], axes[2])) for label in (RIGHT, LEFT))
    labels[tuple(fine)] = np.where(right + left >= 0.5, np.where(left > right, LEFT, RIGHT), 0)
    refined = sitk.GetImageFromArray(labels)
    refined.CopyInformation(image)
    return refined


def _within(side: slice, start: float, step: float, n: int) -> slice:
    """Find the fine voxels (the first at `start`, `step` apart, n of them) whose centres lie in a coarse side."""
    first, last = np.ceil((side.start - start) / step), np.floor((side.stop - 1 - start) / step)
    return slice(max(0, int(first)), min(n, int(last) + 1))


def _provided(study: Study, row: Mapping[str, Any], image: sitk.Image) -> sitk.Image:
    """Read the manifest's mask, compare its grid with the scan's, and bring it to the study's grid."""
    if not isinstance(row["lung_mask"], str):
        raise ScanError("lungs.method is `provided`, and the manifest's lung_mask is empty for this scan.")
    path = study.folder / row["lung_mask"]
    mask = read_volume(path)
    scan = read_scan(study.folder / row["image"])
    mask = sitk.DICOMOrient(mask, "LPS")
    if mask.GetSize() != scan.GetSize():
        raise ScanError(
            f"{path.name} has {_sides(mask)} voxels, its scan has {_sides(scan)} (x, y, z in LPS order): the mask "
            "must lie on the grid of the scan."
        )
    if not np.allclose(mask.GetOrigin(), scan.GetOrigin(), atol=SAME_GRID_MM) or not np.allclose(
        mask.GetSpacing(), scan.GetSpacing(), rtol=1e-3
    ):
        raise ScanError(f"{path.name} lies elsewhere in space than its scan: origin or voxel sides differ.")
    values = np.unique(sitk.GetArrayViewFromImage(mask))
    if not np.isin(values, (0, RIGHT, LEFT)).all():
        shown = ", ".join(f"{value:g}" for value in values[:10])
        raise ScanError(f"{path.name} has values {shown}; expected 0 outside, 1 right lung, 2 left lung.")
    return resample_mask(mask, image)


def _sides(image: sitk.Image) -> str:
    return " x ".join(str(side) for side in image.GetSize())


def load_lungs(study: Study, scan_id: str) -> tuple[sitk.Image, sitk.Image]:
    """Load a prepared scan with its lung mask.

    Parameters
    ----------
    study
        The study and run.
    scan_id
        The scan.

    Returns
    -------
    image : SimpleITK.Image
        LPS, isotropic, int16 HU.
    mask : SimpleITK.Image
        uint8 on the same grid: 0 outside, 1 right lung, 2 left lung.

    Raises
    ------
    ScanError
        If either file is missing or damaged, the two differ in size, or the mask is empty.
    """
    image, mask = read_volume(study.image(scan_id)), read_volume(study.mask(scan_id))
    if image.GetSize() != mask.GetSize():
        raise ScanError(
            f"the mask has {_sides(mask)} voxels, the scan {_sides(image)}. Run `02_segmentation_qa` again."
        )
    if not sitk.GetArrayViewFromImage(mask).any():
        raise ScanError("the lung mask is empty.")
    return image, mask


def lung_values(image: sitk.Image, mask: sitk.Image) -> NDArray[np.int16]:
    """Give the densities inside the lungs, HU, shape (n_voxels,)."""
    inside = sitk.GetArrayViewFromImage(mask) > 0
    return np.asarray(sitk.GetArrayViewFromImage(image)[inside])


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the scans whose lungs the models may see.

    Parameters
    ----------
    table
        Schema `LUNGS`.

    Returns
    -------
    pandas.DataFrame
        Rows with verdict `pass` or `review`: a scan to be reviewed stays until a person decides otherwise.
    """
    return table[table["verdict"].isin(["pass", "review"])]


def worst_first(table: pd.DataFrame) -> pd.DataFrame:
    """Order the flagged scans of a table (schema `LUNGS`): failures first, then those with most flags."""
    flagged = table[table["verdict"].isin(["review", "fail"])]
    order = flagged.assign(passed=flagged["verdict"] != "fail", n=-flagged["flags"].fillna("").str.count(" "))
    return flagged.loc[order.sort_values(["passed", "n", "scan_id"]).index]


def spread(table: pd.DataFrame, name: str, n: int) -> pd.DataFrame:
    """Choose `n` rows of a table at even ranks of a measure, from the least to the greatest."""
    ordered = table.sort_values([name, "scan_id"])
    return ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, min(n, len(ordered))).astype(int))]


@dataclass(frozen=True)
class Overlay:
    """A scan and its lung mask, cut in three planes.

    Attributes
    ----------
    scan_id, verdict, findings
        From the table of lungs.
    planes
        By plane (`axial`, `coronal`, `sagittal`): densities (HU), labels, and the flagged place (column, row) or
        None. Images are upright: the patient's right is on the left, the head or the front is up.
    """

    scan_id: str
    verdict: str
    findings: str
    planes: dict[str, tuple[NDArray[np.int16], NDArray[np.uint8], tuple[int, int] | None]]


def overlay(study: Study, row: Mapping[str, Any]) -> Overlay:
    """Cut a scan and its mask through the flagged place, or through the middle of the lungs when nothing is flagged.

    Parameters
    ----------
    study
        The study and run.
    row
        A row of the table of lungs: `scan_id`, `verdict`, `findings`, `place_mm`.

    Returns
    -------
    Overlay

    Raises
    ------
    ScanError
        If the scan or its mask is missing or damaged.
    """
    image, mask = read_volume(study.image(row["scan_id"])), read_volume(study.mask(row["scan_id"]))
    hu, labels = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask)
    flagged = isinstance(row["place_mm"], str)
    if flagged:
        x, y, z = image.TransformPhysicalPointToIndex([float(value) for value in row["place_mm"].split()])
    else:
        where = np.argwhere(labels == RIGHT) if (labels == RIGHT).any() else np.argwhere(np.ones_like(labels))
        z, y, x = where.mean(axis=0).astype(int)
    z, y, x = (int(np.clip(at, 0, n - 1)) for at, n in zip((z, y, x), hu.shape, strict=True))
    top = hu.shape[0] - 1

    def cut(plane: tuple[Any, ...], place: tuple[int, int]) -> Any:
        return hu[plane], labels[plane], place if flagged else None

    upright = slice(None, None, -1)
    planes = {
        "axial": cut((z,), (x, y)),
        "coronal": cut((upright, y), (x, top - z)),
        "sagittal": cut((upright, slice(None), x), (y, top - z)),
    }
    return Overlay(row["scan_id"], row["verdict"], row["findings"], planes)
