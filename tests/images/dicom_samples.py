"""Small DICOM series, written with pydicom."""

import io
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
    generate_uid,
)

from sscct_lib.images.dicom import Series
from sscct_lib.images.dicom_pixels import read_frames, volumes_of
from sscct_lib.study.results import ScanError

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
STEP_MM = 7.0
SECRET = "Müller^Erika"


def hounsfield(n: int = 24, seed: int = 0) -> np.ndarray:
    """Values that all differ from slice to slice, air among them, shape (n, 24, 32)."""
    return np.random.default_rng(seed).integers(-1000, 600, (n, 24, 32)).astype(np.int16)


def slice_of(values: np.ndarray, number: int, z_mm: float, **header) -> Dataset:
    """Make one DICOM slice; `header` changes its fields, None deletes one."""
    slope, intercept = header.get("RescaleSlope", 1), header.get("RescaleIntercept", -1024)
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SpecificCharacterSet = "ISO_IR 192"
    item.SOPClassUID, item.Modality, item.ImageType = CT, "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    item.PatientName, item.PatientID, item.PatientSex, item.PatientAge = SECRET, "MRN-4711", "F", "063Y"
    item.PatientBirthDate, item.StudyDate, item.InstitutionName = "19600102", "20150304", "Klinikum Nord"
    item.PatientPosition, item.StudyInstanceUID, item.SeriesInstanceUID = "HFS", "1.2.3.100", "1.2.3.100.1"
    item.SOPInstanceUID = generate_uid()
    item.Manufacturer, item.ConvolutionKernel, item.SliceThickness = "SIEMENS", "B30f", STEP_MM
    item.InstanceNumber, item.AcquisitionNumber, item.SeriesNumber = number, 1, 2
    item.ImageOrientationPatient, item.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-50.0, -40.0, z_mm]
    item.PixelSpacing = [3.0, 2.5]
    item.Rows, item.Columns, item.SamplesPerPixel = *values.shape, 1
    item.PhotometricInterpretation = "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
    item.RescaleSlope, item.RescaleIntercept = slope, intercept
    for name, value in header.items():
        if value is None:
            delattr(item, name)
        else:
            setattr(item, name, value)
    item.PixelData = np.rint((values - intercept) / slope).astype("<i2").tobytes()
    return item


def series(values: np.ndarray, **header) -> list[Dataset]:
    """Make a series from feet to head."""
    return [slice_of(plane, i + 1, 100 + STEP_MM * i, **header) for i, plane in enumerate(values)]


def save(slices: list[Dataset], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(1).permutation(len(slices))  # the order of file names means nothing
    for item, name in zip(slices, names, strict=True):
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
        item.save_as(folder / f"{SECRET}_{name:04d}.dcm", enforce_file_format=True)
    return folder


def enhanced(values: np.ndarray) -> Dataset:
    """Make one multi-frame file, its frames out of order."""
    order = np.random.default_rng(3).permutation(len(values))
    item = slice_of(values[0], 1, 0.0, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    del item.RescaleSlope, item.RescaleIntercept
    item.SOPClassUID, item.NumberOfFrames = ENHANCED_CT, len(values)
    shared, orientation, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [3.0, 2.5], STEP_MM
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = -1024, 1, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [rescale]
    item.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for i in order:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [-50.0, -40.0, 100 + STEP_MM * float(i)]
        group.PlanePositionSequence = [position]
        groups.append(group)
    item.PerFrameFunctionalGroupsSequence = groups
    item.PixelData = (values[order] + 1024).astype("<i2").tobytes()
    return item


def by_gdcm(item: Dataset, compressor: str, folder) -> bytes:
    """Compress the pixels of a slice with the encoder of GDCM."""
    path = folder / "encoded.dcm"
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(np.frombuffer(item.PixelData, "<i2").reshape(item.Rows, item.Columns)))
    return pydicom.dcmread(path).PixelData


def by_openjpeg(item: Dataset) -> bytes:
    """Compress the pixels of a slice with loss (JPEG 2000, 4:1), with the OpenJPEG of Pillow."""
    stored = np.frombuffer(item.PixelData, "<u2").reshape(item.Rows, item.Columns)
    stream = io.BytesIO()
    Image.fromarray(stored).save(
        stream, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[4], no_jp2=True
    )
    return encapsulate([stream.getvalue()])


def compress(item: Dataset, syntax: UID, folder) -> None:
    """Compress a slice in place."""
    if syntax in (JPEGLossless, JPEGLosslessSV1):  # process 14 may use any predictor, so also the first
        item.PixelData = by_gdcm(item, "JPEG", folder)
    elif syntax == JPEG2000Lossless:
        item.PixelData = by_gdcm(item, "JPEG2000", folder)
    elif syntax == JPEG2000:
        item.PixelData = by_openjpeg(item)
    elif syntax.is_encapsulated:
        options = {"jls_error": 3} if syntax == JPEGLSNearLossless else {}
        item.compress(syntax, generate_instance_uid=False, **options)
    item.file_meta.TransferSyntaxUID = syntax


def why_unusable(found: Series) -> str:
    """Say why a series is no chest CT; empty where it may be one."""
    return volumes_of(found)[0].fault or ""


def read_series(found: Series) -> tuple[sitk.Image, list[str]]:
    """Read the volume of a series that has most slices."""
    volume = volumes_of(found)[0]
    if volume.fault:
        raise ScanError(volume.fault)
    image, notes = read_frames(volume.frames)
    return image, [*volume.told, *notes]
