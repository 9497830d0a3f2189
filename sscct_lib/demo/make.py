"""The demo study: synthetic patients with systemic sclerosis, their CT scans, and the truth about both.

`patients` decides who they are, `render` what their chests look like; here they become the files of a study, and what a
hospital would export of it: CT series in DICOM and a table of follow-up, for `sscct ingest`. What no real registry
knows lies apart in `truth/`.
"""

import os
import shutil
from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import SimpleITK as sitk
from joblib import Parallel, delayed
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, generate_uid

from sscct_lib.demo.disease import LESIONS
from sscct_lib.demo.patients import demo_cohort
from sscct_lib.demo.render import Protocol, Volume, render
from sscct_lib.study import results
from sscct_lib.study.files import atomic, write_if_changed
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import DemoSettings

LOWEST_HU = -1024
CLINICAL_COLUMNS = [
    "patient_id", "scan_date", "last_contact_date", "event_observed", "age_years", "sex", "ssc_subtype",
    "fvc_percent", "dlco_percent", "cause_of_death",
]  # fmt: skip


def write_demo(study: Study, n_jobs: int = 1) -> None:
    """Make the whole demo study: manifest, truth and every scan that is not there yet.

    The files are the same for any number of processes. StudyError where the study has no `demo` section, or a scan
    could not be made.
    """
    manifest, _ = write_tables(study)
    make_scans(study, manifest, n_jobs)


def make_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Make the scans of some rows (`scan_id`) of the manifest, and their true masks.

    Returns
    -------
    pandas.DataFrame
        One row per scan: `scan_id`, `patient_id`, `status`, `reason`, and what was drawn: `lung_l` (litres) and the
        shares of the lungs per pattern in the masks.

    Raises
    ------
    StudyError
        If the study has no `demo` section, a row is not one of its scans, or a scan could not be made.
    """
    _, truth = demo_cohort(_demo_settings(study), study.demo_seed)
    unknown = sorted(set(rows["scan_id"]) - set(truth["scan_id"]))
    if unknown:
        raise StudyError(
            f"{study.manifest_path} has scans that are not in the demo cohort of these settings, for example "
            f"{unknown[0]}. Run `sscct demo` again to make the manifest anew."
        )
    wanted = truth.set_index("scan_id", drop=False).loc[list(rows["scan_id"])]
    folder = study.folder / "truth" / "records"
    settings = [study.demo_seed, _demo_settings(study).model_dump(exclude={"seed"})]
    made = results.process(
        study,
        "phantom",
        make_scan,
        wanted,
        settings,
        lambda row: [],
        n_jobs,
        folder,
        outputs=lambda row: list(scan_files(study, row["scan_id"]).values()),
    )
    failed = made[made["status"] != "ok"]
    if len(failed):
        first = failed.iloc[0]
        raise StudyError(
            f"{len(failed)} synthetic scan(s) could not be made; the first is {first.scan_id}: {first.reason}"
        )
    return made


def write_tables(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write manifest and `truth/truth.csv`, both from `demo_cohort`, each only when its content differs."""
    manifest, truth = demo_cohort(_demo_settings(study), study.demo_seed)
    for frame, path in ((manifest, study.manifest_path), (truth, study.folder / "truth" / "truth.csv")):
        write_if_changed(path, frame.to_csv(index=False, lineterminator="\n"))
    return manifest, truth


def scan_files(study: Study, scan_id: str) -> dict[str, Path]:
    """The files of a synthetic scan: `hu`, and its true masks `lungs`, `lobes` and `lesions`, as in `Volume`."""
    name = f"{scan_id}.nii.gz"
    truth = study.folder / "truth"
    return {
        "hu": study.folder / "scans" / name,
        "lungs": truth / "masks" / name,
        "lobes": truth / "lobes" / name,
        "lesions": truth / "lesions" / name,
    }


def make_scan(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    """Make one scan of the truth table and write its files; tells `lung_l` and the shares of the lungs in the masks."""
    volume = draw_scan(row, study.demo_seed, _demo_settings(study).spacing_mm)
    for name, path in scan_files(study, row["scan_id"]).items():
        write_volume(getattr(volume, name), volume, path)
    return _measured(volume)


def draw_scan(row: Mapping[str, Any], seed: int, spacing_mm: float) -> Volume:
    """Draw one scan of the truth table; `seed` is `Study.demo_seed`."""
    protocol = Protocol(**{field.name: row[field.name] for field in fields(Protocol)})
    number, nth = int(row["patient_number"]), int(str(row["scan_id"]).rsplit("-", 1)[1])
    return render((seed, number, row["sex"] == "female"), row, protocol, spacing_mm, [seed, number, 6, nth])


def write_volume(array: NDArray[Any], volume: Volume, path: Path) -> None:
    """Write an array [z, y, x] on the grid of a volume as NIfTI."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([volume.spacing_mm] * 3)
    image.SetOrigin(volume.origin)
    with atomic(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True, compressionLevel=1)


def _measured(volume: Volume) -> dict[str, Any]:
    n_lung = int((volume.lungs > 0).sum())
    counts = np.bincount(volume.lesions.ravel(), minlength=5)
    shares = {f"{name}_share": round(int(counts[label]) / n_lung, 5) for name, label in LESIONS.items()}
    return {"lung_l": round(n_lung * volume.spacing_mm**3 / 1e6, 4), **shares}


def _demo_settings(study: Study) -> DemoSettings:
    if study.settings.demo is None:
        raise StudyError(
            f"{study.folder} is not a demo study: its study.yaml has no `demo:` section, so its manifest and scans "
            "are left alone. To make a demo study, name another folder."
        )
    return study.settings.demo


# As a hospital would export it.


def write_dicom_demo(study: Study, folder: Path, n_jobs: int = 1) -> None:
    """Export a demo study, whose scans are made, as DICOM: `<patient>/<date>/`, one file per slice, and `clinical.csv`.

    A series that is there is kept; one appears whole or not at all. StudyError where the study has no `demo` section,
    or a scan is missing.
    """
    manifest, truth = write_tables(study)
    missing = [row for row in manifest["scan_id"] if not scan_files(study, row)["hu"].is_file()]
    if missing:
        raise StudyError(
            f"{study.folder}: {len(missing)} scan(s) are missing, the first is {missing[0]}. Make them with "
            f"`sscct demo {study.folder}` before they are written as DICOM."
        )
    visits = _with_dates(manifest, truth)
    Parallel(n_jobs=n_jobs)(
        delayed(_export)(study, row, folder / row["patient_id"] / f"{row['scan_date']:%Y-%m-%d}")
        for row in visits.to_dict("records")
    )
    with atomic(folder / "clinical.csv") as partial:
        visits[CLINICAL_COLUMNS].to_csv(partial, index=False, date_format="%Y-%m-%d", lineterminator="\n")


def _with_dates(manifest: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Give visits the calendar dates that the registry left out."""
    first_year = truth.groupby("patient_id")["scan_year"].transform("min").to_numpy()
    start = pd.to_datetime(np.floor(first_year).astype(int).astype(str), format="%Y")
    first = (start + pd.to_timedelta((first_year % 1) * 365, unit="D")).floor("D")
    return manifest.assign(
        scan_date=first + pd.to_timedelta(manifest["scan_day"].to_numpy(), unit="D"),
        last_contact_date=first + pd.to_timedelta(manifest["last_contact_day"].to_numpy(), unit="D"),
    )


def _export(study: Study, row: Mapping[str, Any], folder: Path) -> None:
    if folder.is_dir():
        return
    partial = folder.with_name(f".partial-{uuid4().hex[:8]}-{folder.name}")
    try:
        write_dicom_series(sitk.ReadImage(str(scan_files(study, row["scan_id"])["hu"])), partial, row)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_dicom_series(image: sitk.Image, folder: Path, row: Mapping[str, Any]) -> None:
    """Write a volume (int16 HU, LPS) as CT Image objects, one file per slice from the feet (DICOM PS3.3, A.3)."""
    hu = sitk.GetArrayFromImage(image)
    if not np.allclose(image.GetDirection(), np.eye(3).ravel()):
        raise StudyError(f"{row['scan_id']}: rotated volume; DICOM export expects axes along the patient (LPS).")
    if hu.min() < LOWEST_HU or hu.max() > LOWEST_HU + 4095:
        raise StudyError(
            f"{row['scan_id']}: values from {hu.min()} to {hu.max()} HU; 12-bit DICOM holds -1024 to 3071 HU."
        )
    folder.mkdir(parents=True)
    common = _common(image, row)
    stored = (hu.astype(np.int32) - LOWEST_HU).astype("<u2")
    for index, plane in enumerate(stored):
        _slice(common, image, plane, index).save_as(folder / f"{index + 1:04d}.dcm", enforce_file_format=True)


def _uid(*names: str) -> str:
    return generate_uid(entropy_srcs=["sscct demo", *names])


def _common(image: sitk.Image, row: Mapping[str, Any]) -> Dataset:
    """Everything that the slices of a series share."""
    scan, patient = str(row["scan_id"]), str(row["patient_id"])
    empty = ["AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PositionReferenceIndicator"]
    fields = {
        "SpecificCharacterSet": "ISO_IR 100", "SOPClassUID": CTImageStorage, "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "StudyDescription": "Synthetic chest CT",
        "SeriesDescription": f"Chest {row['slice_thickness_mm']:g} mm {row['kernel']}",
        **dict.fromkeys(["StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"], f"{row['scan_date']:%Y%m%d}"),
        **dict.fromkeys(["StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"], "120000"),
        **dict.fromkeys(empty, ""),
        "PatientID": patient, "PatientName": f"{patient}^Synthetic", "PatientAge": f"{int(row['age_years']):03d}Y",
        "PatientSex": {"female": "F", "male": "M"}[row["sex"]], "PatientPosition": "HFS", "BodyPartExamined": "CHEST",
        "Manufacturer": row["manufacturer"], "ManufacturerModelName": "Synthetic", "ConvolutionKernel": row["kernel"],
        "KVP": "120", "SliceThickness": f"{row['slice_thickness_mm']:g}", "SeriesNumber": 1, "AcquisitionNumber": 1,
        "StudyID": scan.rsplit("-", 1)[-1], "StudyInstanceUID": _uid(scan, "study"),
        "SeriesInstanceUID": _uid(scan, "series"), "FrameOfReferenceUID": _uid(scan, "frame"),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": _ds(*image.GetSpacing()[1::-1]),
        "RescaleIntercept": str(LOWEST_HU), "RescaleSlope": "1", "RescaleType": "HU", "WindowCenter": "-600",
        "WindowWidth": "1500", "BurnedInAnnotation": "NO", "LossyImageCompression": "00",
    }  # fmt: skip
    shared = Dataset()
    for name, value in fields.items():
        setattr(shared, name, value)
    return shared


def _ds(*lengths: float) -> list[str]:
    """Write lengths as DICOM decimal strings, to a tenth of a micrometre."""
    return [f"{length:.4f}" for length in lengths]


def _slice(common: Dataset, image: sitk.Image, plane: NDArray[np.uint16], index: int) -> Dataset:
    """One slice: what is common, its place and its pixels."""
    one = copy(common)
    one.file_meta = FileMetaDataset()
    one.SOPInstanceUID = generate_uid(entropy_srcs=[common.SeriesInstanceUID, str(index)])
    one.InstanceNumber = index + 1
    one.ImagePositionPatient = _ds(*image.TransformIndexToPhysicalPoint((0, 0, index)))
    one.SliceLocation = one.ImagePositionPatient[2]
    one.set_pixel_data(plane, "MONOCHROME2", 12, generate_instance_uid=False)
    return one
