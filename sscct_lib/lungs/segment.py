"""Lung masks: found in the CT, or taken from the manifest; labelled right and left, and judged.

Labels are 1 in the right lung and 2 in the left one, whole lungs with their vessels and disease, without trachea, main
bronchi and mediastinum. Masks are uint8 on the grid of the prepared scan (LPS, isotropic, int16 HU).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.images.dicom import is_dicom
from sscct_lib.images.dicom_masks import read_dicom_mask
from sscct_lib.images.masks import bounding_box
from sscct_lib.images.nifti import by, read_volume
from sscct_lib.images.prepare import (
    axis_weights,
    interpolate,
    on_grid_of,
    read_result,
    read_scan,
    resample,
    resample_mask,
    write_image,
)
from sscct_lib.lungs.decisions import apply_decisions
from sscct_lib.lungs.quality import measure
from sscct_lib.lungs.threshold import Anatomy, find_lungs, look
from sscct_lib.lungs.trained import Found, apply_method, check_method, chosen_methods
from sscct_lib.lungs.verdict import chest_shape, compare_visits, judge, write_shape
from sscct_lib.study.folder import DECISIONS_FILE, Study
from sscct_lib.study.results import Record, ScanError, process
from sscct_lib.study.schemas import LUNGS
from sscct_lib.study.settings import LungSettings

RIGHT, LEFT = 1, 2
WORK_SPACING_MM = 2.0
"""Anatomy is found on voxels of at least this side; a finer scan then gets its mask refined at the surface."""

SAME_GRID_MM = 0.1


def segment_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Find and judge the lungs of prepared scans.

    Parameters
    ----------
    study
        Its section `lungs` matters. Receives `study.mask(scan_id)`, and `study.lobes(scan_id)` where lobes are known.
    rows
        `scan_id`, `patient_id` and, for the method `provided`, `image` and `lung_mask`: paths relative to the study
        folder. Their scans went through `prepare.prepare_scans`.
    n_jobs
        Processes that share the scans.

    Returns
    -------
    pandas.DataFrame
        Schema `LUNGS`, one row per scan: measures, `verdict` (pass, review or fail) and `findings` in words. A scan
        without a prepared image or with an unusable mask has status "failed" and its reason.

    Raises
    ------
    StudyError
        If a method's package or weights are not there.
    """
    settings = study.settings.lungs
    methods = chosen_methods(settings)
    for method in methods:
        check_method(method, settings, study.folder)
    names = ["scan_id", "patient_id", *(["lung_mask", "image"] if "provided" in methods else [])]
    done = process(
        study,
        "lungs",
        _segment,
        rows.reindex(columns=names),
        settings,
        lambda row: [study.image(row["scan_id"]), *_mask_files(study, row)],
        n_jobs,
        outputs=lambda row: [study.mask(row["scan_id"])],
    )
    table = compare_visits(done.reindex(columns=list(LUNGS.columns)), settings)
    return LUNGS.validate(apply_decisions(table, study.folder / DECISIONS_FILE))


def load_lungs(study: Study, scan_id: str) -> tuple[sitk.Image, sitk.Image]:
    """Load a prepared scan with its lung mask.

    Returns
    -------
    image, mask : SimpleITK.Image
        On the same grid.

    Raises
    ------
    ScanError
        If either file is missing, the two differ in size, or the mask is empty.
    StudyError
        If either file is damaged; it is removed, so that the next run makes it again.
    """
    image, mask = read_result(study.image(scan_id)), read_result(study.mask(scan_id))
    if image.GetSize() != mask.GetSize():
        raise ScanError(
            f"the mask has {by(mask.GetSize())} voxels, the scan {by(image.GetSize())}. Run `02_segmentation_qa` again."
        )
    if not sitk.GetArrayViewFromImage(mask).any():
        raise ScanError("the lung mask is empty.")
    return image, mask


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the scans whose lungs the models may see: rows of schema `LUNGS` with verdict `pass` or `review`."""
    # A scan to be reviewed stays until a person decides otherwise.
    return table[table["verdict"].isin(["pass", "review"])]


def removed(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the scans that quality assurance keeps from the models though they have a mask: verdict `fail`."""
    return table[table["verdict"].eq("fail")]


def examine(image: sitk.Image, mask: sitk.Image | None, settings: LungSettings) -> Record:
    """Judge the lungs of one prepared scan that belongs to no study; without a mask they are found from the densities.

    Measures, verdict and findings, as in a row of schema `LUNGS`; no comparison with other scans of the patient.
    ScanError where there is no body, or no mask is given and there is no lung.
    """
    scan = _look(image)
    return _judged(scan, Found(_by_threshold(scan) if mask is None else mask), None, settings)


def threshold_mask(image: sitk.Image) -> sitk.Image:
    """Find the lungs of a prepared scan from its densities alone; `ScanError` where there is no body or no lung."""
    return _by_threshold(_look(image))


def _mask_files(study: Study, row: Mapping[str, Any]) -> list[Any]:
    """The files of people on which a mask rests: one that was mended goes before all others."""
    if (mended := study.mended(row["scan_id"])).is_file():
        return [mended]
    return [study.folder / row["lung_mask"]] if isinstance(row.get("lung_mask"), str) else []


@dataclass(frozen=True)
class _Scan:
    """A prepared scan, the coarser grid on which anatomy is found, its densities, and body and airway."""

    image: sitk.Image
    work: sitk.Image
    hu: NDArray[np.float32]
    anatomy: Anatomy


def _look(image: sitk.Image) -> _Scan:
    work = image if image.GetSpacing()[0] >= 0.75 * WORK_SPACING_MM else resample(image, WORK_SPACING_MM)
    hu = sitk.GetArrayFromImage(work).astype(np.float32)
    return _Scan(image, work, hu, look(hu, work.GetSpacing()[0]))


def _segment(study: Study, row: Mapping[str, Any]) -> Record:
    scan_id, settings = row["scan_id"], study.settings.lungs
    if not study.image(scan_id).is_file():
        raise ScanError("no prepared image: the scan was set aside when it was read, or `images` has not run.")
    scan = _look(read_result(study.image(scan_id)))
    mended = study.mended(scan_id)
    lungs = Found(read_mended(mended, scan.image)) if mended.is_file() else _find(settings.method, study, row, scan)
    _write(study, scan_id, lungs)
    second = _find_second(settings.compare_with, study, row, scan) if settings.compare_with else None
    return _judged(scan, lungs, second, settings)


def _find(method: str, study: Study, row: Mapping[str, Any], scan: _Scan) -> Found:
    if method == "threshold":
        return Found(_by_threshold(scan))
    if method == "provided":
        return Found(_provided(study, row, scan.image))
    return apply_method(method, scan.image, study.settings.lungs, study.folder)


def read_mended(path: Path, image: sitk.Image) -> sitk.Image:
    """Read a mask that a person mended, onto the grid of the prepared scan; `ScanError` where it is damaged."""
    mask = read_volume(path)
    if not np.isin(np.unique(sitk.GetArrayViewFromImage(mask)), (0, RIGHT, LEFT)).all():
        raise ScanError(f"{path.name}: a mended mask has labels 0, 1 and 2. `sscct masks import` makes such files.")
    return resample_mask(mask, image)


def _find_second(method: str, study: Study, row: Mapping[str, Any], scan: _Scan) -> sitk.Image:
    """Find the lungs by the method to compare with; empty where it finds none, which is no agreement."""
    try:
        return _find(method, study, row, scan).mask
    except ScanError:
        nothing: sitk.Image = sitk.Cast(scan.image * 0, sitk.sitkUInt8)
        return nothing


def _write(study: Study, scan_id: str, lungs: Found) -> None:
    write_image(lungs.mask, study.mask(scan_id))
    if lungs.lobes is None:
        study.lobes(scan_id).unlink(missing_ok=True)
    else:
        write_image(lungs.lobes, study.lobes(scan_id))


def _judged(scan: _Scan, lungs: Found, second: sitk.Image | None, settings: LungSettings) -> Record:
    labels = _labels_on(scan.work, lungs.mask)
    lobes, others = (None if image is None else _labels_on(scan.work, image) for image in (lungs.lobes, second))
    found = measure(scan.hu, labels, scan.anatomy, lobes, others)
    words, place = judge(found, settings)
    shape = write_shape(chest_shape(scan.hu, labels, scan.anatomy.body, scan.anatomy.spacing_mm))
    return {**found.measures, **words, "place_mm": _in_patient(place, scan.work), "chest_shape_mm": shape}


def _labels_on(work: sitk.Image, mask: sitk.Image) -> NDArray[np.uint8]:
    return np.asarray(sitk.GetArrayFromImage(resample_mask(mask, work)))


def _in_patient(place: tuple[int, int, int] | None, image: sitk.Image) -> str | None:
    """A voxel [z, y, x] as a position in the patient, x y z in mm."""
    if place is None:
        return None
    return " ".join(f"{value:.1f}" for value in image.TransformIndexToPhysicalPoint(place[::-1]))


def _by_threshold(scan: _Scan) -> sitk.Image:
    mask = on_grid_of(scan.work, find_lungs(scan.hu, scan.anatomy))
    return mask if scan.work is scan.image else _refine(mask, scan.image)


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
    return on_grid_of(image, labels)


def _within(side: slice, start: float, step: float, n: int) -> slice:
    """The fine voxels (the first at `start`, `step` apart, n of them) whose centres lie in a coarse side."""
    first, last = np.ceil((side.start - start) / step), np.floor((side.stop - 1 - start) / step)
    return slice(max(0, int(first)), min(n, int(last) + 1))


def _provided(study: Study, row: Mapping[str, Any], image: sitk.Image) -> sitk.Image:
    """Read the manifest's mask, compare its grid with the scan's, and bring it to the study's grid."""
    if not isinstance(row["lung_mask"], str):
        raise ScanError("lungs.method is `provided`, and the manifest's lung_mask is empty for this scan.")
    path = study.folder / row["lung_mask"]
    scan = read_scan(study.folder / row["image"])
    if is_dicom(path):
        return resample_mask(read_dicom_mask(path, scan), image)
    mask = sitk.DICOMOrient(read_volume(path), "LPS")
    if mask.GetSize() != scan.GetSize():
        raise ScanError(
            f"the mask has {by(mask.GetSize())} voxels, its scan has {by(scan.GetSize())} (x, y, z in LPS order): it "
            "must lie on the grid of the scan."
        )
    if not np.allclose(mask.GetOrigin(), scan.GetOrigin(), atol=SAME_GRID_MM) or not np.allclose(
        mask.GetSpacing(), scan.GetSpacing(), rtol=1e-3
    ):
        raise ScanError("the mask lies elsewhere in space than its scan: origin or voxel sides differ.")
    values = np.unique(sitk.GetArrayViewFromImage(mask))
    if not np.isin(values, (0, RIGHT, LEFT)).all():
        shown = ", ".join(f"{value:g}" for value in values[:10])
        raise ScanError(f"the mask has values {shown}; expected 0 outside, 1 right lung, 2 left lung.")
    return resample_mask(mask, image)
