"""A chest as a function of place, and DICOM series of it: what was read can be compared with the truth everywhere.

Places are LPS, mm. Each slice of a series is drawn where its header says, whatever its orientation.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS, PIXEL_MM, STEP_MM, N = 48, 56, 6.0, 7.5, 25
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
HEIGHTS = [STEP_MM * i for i in range(N)]
RING = np.hypot(*np.meshgrid(*(np.linspace(-1, 1, n) for n in (ROWS, COLUMNS)), indexing="ij")) > 1.0


def density(places: np.ndarray, breath_mm: float = 0.0) -> np.ndarray:
    """HU at places (..., 3): a body with fat, lungs, spine and a ball; in expiration the lungs end higher."""
    x, y, z = np.moveaxis(places, -1, 0)
    lungs = [((x - 65 * side) / 46) ** 2 + (y / 70) ** 2 + ((z - 92) / 84) ** 2 < 1 for side in (-1, 1)]
    parts = [
        ((x - 65) ** 2 + (y - 30) ** 2 + (z - 70 - breath_mm) ** 2 < 15**2, 250.0),
        ((np.abs(x) < 14) & (np.abs(y - 75) < 14), 500.0),
        ((lungs[0] | lungs[1]) & (z > 20 + breath_mm), -850 + 0.4 * z),
        ((x / 132) ** 2 + (y / 98) ** 2 < 1, 40.0),
        ((x / 140) ** 2 + (y / 106) ** 2 < 1, -100.0),
    ]
    return np.select([where for where, _ in parts], [np.broadcast_to(value, x.shape) for _, value in parts], -1000.0)


def corner(height: float, axes=AXIAL, rows: int = ROWS, centre=(0.0, 0.0)) -> np.ndarray:
    """Place of the first pixel of a slice whose centre lies at `centre` and a height."""
    across, down = np.array(axes)
    return np.array([*centre, height]) - (COLUMNS - 1) / 2 * PIXEL_MM * across - (rows - 1) / 2 * PIXEL_MM * down


def places(first: np.ndarray, axes=AXIAL, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Places of the pixels of a slice, shape (rows, columns, 3)."""
    down, across = np.mgrid[:rows, :columns][..., None] * PIXEL_MM
    return first + across * np.array(axes[0]) + down * np.array(axes[1])


def stored(hu: np.ndarray, intercept: float = -1024) -> bytes:
    return np.rint(hu - intercept).astype("<i4").astype("<u2").tobytes()


def pixels(item: Dataset) -> np.ndarray:
    return np.frombuffer(item.PixelData, "<u2").reshape(item.Rows, item.Columns).copy()


def slice_at(height: float, number: int, breath_mm=0.0, axes=AXIAL, rows=ROWS, centre=(0.0, 0.0), **header) -> Dataset:
    """Draw one slice; `header` changes its fields, None deletes one."""
    first = corner(height, axes, rows, centre)
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, generate_uid()
    item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = "1.2.9.1", "1.2.9.1.1", "1.2.9.1.7"
    item.PatientID, item.PatientName, item.PatientSex, item.PatientAge = "P1", "Chest^Test", "F", "060Y"
    item.StudyDate = item.SeriesDate = item.AcquisitionDate = item.ContentDate = "20190301"
    item.Modality, item.ImageType, item.PatientPosition = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS"
    item.Manufacturer, item.ConvolutionKernel, item.SliceThickness = "SIEMENS", "B30f", STEP_MM
    item.SeriesNumber, item.AcquisitionNumber, item.InstanceNumber = 2, 1, number
    item.ImagePositionPatient = [f"{value:.6f}"[:16] for value in first]
    item.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in np.ravel(axes)]
    item.PixelSpacing, item.Rows, item.Columns = [PIXEL_MM, PIXEL_MM], rows, COLUMNS
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
    item.RescaleSlope, item.RescaleIntercept = 1, -1024
    item.PixelData = stored(density(places(first, axes, rows), breath_mm))
    return change(item, **header)


def change(item: Dataset, **header) -> Dataset:
    for name, value in header.items():
        if value is None:
            item.pop(name, None)
        else:
            setattr(item, name, value)
    return item


def chest(heights: Iterable[float] = HEIGHTS, first: int = 1, breath_mm: float = 0.0, **header) -> list[Dataset]:
    """Draw an axial series from feet to head, numbered from `first`."""
    return [slice_at(height, first + i, breath_mm, **header) for i, height in enumerate(heights)]


def changed(slices: list[Dataset], which: Iterable[int], **header) -> list[Dataset]:
    """Change header fields of some slices, in place."""
    for index in which:
        change(slices[index], **header)
    return slices


def alter(slices: list[Dataset], which: Iterable[int], function: Callable[[np.ndarray], np.ndarray]) -> list[Dataset]:
    """Change the stored pixels of some slices, in place."""
    for index in which:
        slices[index].PixelData = function(pixels(slices[index])).astype("<u2").tobytes()
    return slices


def capture(number: int, **header) -> Dataset:
    """A screenshot or dose sheet: no place, no rescale."""
    nothing = dict.fromkeys(
        ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"]
    )
    return slice_at(0.0, number, **{**nothing, "ImageType": ["DERIVED", "SECONDARY"], **header})


def save(slices: list[Dataset], folder: Path) -> Path:
    """Write files whose names sort as the list does."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = len(list(folder.iterdir()))
    for index, item in enumerate(slices):
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.get("SOPClassUID", CTImageStorage)
        item.file_meta.MediaStorageSOPInstanceUID = item.get("SOPInstanceUID", "1.2.3") or "1.2.3"
        item.save_as(folder / f"{begin + index:04d}.dcm", enforce_file_format=True)
    return folder


def frames(slices: list[Dataset], sop_class: str, groups: bool = True, **header) -> Dataset:
    """Put slices into one multi-frame file, with a place for each frame or (classic) for the first alone."""
    first, one = slices[0], Dataset()
    one.update({element.tag: element for element in first})
    change(one, SOPClassUID=sop_class, NumberOfFrames=len(slices), InstanceNumber=1)
    one.PixelData = b"".join(item.PixelData for item in slices)
    if groups:
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "AcquisitionNumber"):
            del one[name]
        one.PerFrameFunctionalGroupsSequence = Sequence([_groups(item) for item in slices])
        one.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    return change(one, **header)


def _groups(item: Dataset) -> Dataset:
    fields = {
        "PlanePositionSequence": {"ImagePositionPatient": item.ImagePositionPatient},
        "PlaneOrientationSequence": {"ImageOrientationPatient": item.ImageOrientationPatient},
        "PixelMeasuresSequence": {"PixelSpacing": item.PixelSpacing, "SliceThickness": item.SliceThickness},
        "FrameContentSequence": {"FrameAcquisitionNumber": item.AcquisitionNumber},
        "CTReconstructionSequence": {"ConvolutionKernel": item.ConvolutionKernel},
        "PixelValueTransformationSequence": {
            "RescaleSlope": item.RescaleSlope, "RescaleIntercept": item.RescaleIntercept, "RescaleType": "HU",
        },
    }  # fmt: skip
    groups = Dataset()
    for name, values in fields.items():
        setattr(groups, name, Sequence([change(Dataset(), **values)]))
    return groups


def places_of(image: sitk.Image) -> np.ndarray:
    """Places of the voxels of a volume, shape (z, y, x, 3)."""
    size = image.GetSize()
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1) * np.array(image.GetSpacing())
    turned = index @ np.array(image.GetDirection()).reshape(3, 3).T + np.array(image.GetOrigin())
    return np.moveaxis(turned, (0, 1, 2), (2, 1, 0))


def wrong(image: sitk.Image, breath_mm: float = 0.0) -> np.ndarray:
    """Where a volume differs from the truth by more than a rounding, air outside counting as air; shape (z, y, x)."""
    found, truth = sitk.GetArrayFromImage(image).astype(float), density(places_of(image), breath_mm)
    both_air = (found <= -1000) & (truth <= -1000)
    return (np.abs(found - truth) > 1.5) & ~both_air
