"""The demo study as a hospital would export it: CT series in DICOM and a table of follow-up, for `sscct ingest`."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import SimpleITK as sitk
from joblib import Parallel, delayed
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from sscct_lib.demo.make import scan_files, write_tables
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, StudyError

LOWEST_HU = -1024
CLINICAL_COLUMNS = [
    "patient_id", "scan_date", "last_contact_date", "event_observed", "age_years", "sex", "ssc_subtype",
    "fvc_percent", "dlco_percent", "cause_of_death",
]  # fmt: skip


def write_dicom_demo(study: Study, folder: Path, n_jobs: int = 1) -> None:
    """Export a demo study, whose scans are made, as DICOM: `<patient>/<date>/`, one file a slice, and `clinical.csv`.

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
    """Write a volume (int16 HU, LPS) as CT Image objects, one file a slice from the feet (DICOM PS3.3, A.3)."""
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
    date = f"{row['scan_date']:%Y%m%d}"
    scan, patient = str(row["scan_id"]), str(row["patient_id"])
    out = Dataset()
    out.SpecificCharacterSet = "ISO_IR 100"
    out.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    out.SOPClassUID = CTImageStorage
    out.StudyDate = out.SeriesDate = out.AcquisitionDate = out.ContentDate = date
    out.StudyTime = out.SeriesTime = out.AcquisitionTime = out.ContentTime = "120000"
    out.AccessionNumber = ""
    out.Modality = "CT"
    out.Manufacturer = row["manufacturer"]
    out.ManufacturerModelName = "Synthetic"
    out.ReferringPhysicianName = ""
    out.StudyDescription = "Synthetic chest CT"
    out.SeriesDescription = f"Chest {row['slice_thickness_mm']:g} mm {row['kernel']}"
    out.PatientName = f"{patient}^Synthetic"
    out.PatientID = patient
    out.PatientBirthDate = ""
    out.PatientSex = {"female": "F", "male": "M"}[row["sex"]]
    out.PatientAge = f"{int(row['age_years']):03d}Y"
    out.BodyPartExamined = "CHEST"
    out.SliceThickness = f"{row['slice_thickness_mm']:g}"
    out.KVP = "120"
    out.ConvolutionKernel = row["kernel"]
    out.PatientPosition = "HFS"
    out.StudyInstanceUID = _uid(scan, "study")
    out.SeriesInstanceUID = _uid(scan, "series")
    out.FrameOfReferenceUID = _uid(scan, "frame")
    out.StudyID = scan.rsplit("-", 1)[-1]
    out.SeriesNumber = 1
    out.AcquisitionNumber = 1
    out.PositionReferenceIndicator = ""
    out.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = "MONOCHROME2"
    out.Columns, out.Rows = image.GetSize()[:2]
    out.PixelSpacing = [_ds(image.GetSpacing()[1]), _ds(image.GetSpacing()[0])]
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 16, 12, 11, 0
    out.WindowCenter, out.WindowWidth = "-600", "1500"
    out.RescaleIntercept, out.RescaleSlope, out.RescaleType = str(LOWEST_HU), "1", "HU"
    out.BurnedInAnnotation = "NO"
    out.LossyImageCompression = "00"
    return out


def _ds(value: float) -> str:
    """Write a length as a DICOM decimal string, to a tenth of a micrometre."""
    return f"{value:.4f}"


def _slice(common: Dataset, image: sitk.Image, plane: Any, index: int) -> FileDataset:
    """One slice: what is common, its place and its pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[common.SeriesInstanceUID, str(index)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    out.update(common)
    out.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    out.InstanceNumber = index + 1
    x, y, z = image.TransformIndexToPhysicalPoint((0, 0, index))
    out.ImagePositionPatient = [_ds(x), _ds(y), _ds(z)]
    out.SliceLocation = _ds(z)
    out.PixelData = plane.tobytes()
    out["PixelData"].VR = "OW"
    return out
