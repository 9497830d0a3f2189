"""A prepared scan and its lung mask as DICOM: CT slices, and a segmentation (SEG) that refers to them.

No one is named in them but by the study's own id of the scan, and no date is that of an examination.

References
----------
DICOM PS3.3, CT Image IOD (A.3), Segmentation IOD (A.51).
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from sscct_lib.study.files import atomic

SIDES = {1: Code("3341006", "SCT", "Right lung"), 2: Code("44029006", "SCT", "Left lung")}
MAKER = "sscct"


def frame_of(identity: str) -> str:
    """Give the FrameOfReferenceUID of a scan that is written under an identity, such as a hash of its voxels."""
    return str(generate_uid(entropy_srcs=[MAKER, identity, "frame"]))


def write_dicom(image: sitk.Image, mask: sitk.Image, scan_id: str, identity: str, folder: Path, seg: Path) -> None:
    """Write a scan (int16 HU, LPS, axes along the patient) into a folder, a file a slice, and its mask (1 and 2).

    Parameters
    ----------
    scan_id
        Stands for patient, name and study.
    identity
        Of what the UIDs are made, so that they are the same again for the same scan, and for no other.
    """
    slices = _slices(image, scan_id, identity)
    for number, one in enumerate(slices, start=1):
        with atomic(folder / f"{number:04d}.dcm") as partial:
            one.save_as(partial, enforce_file_format=True)
    _write_segmentation(mask, slices, seg)


def _slices(image: sitk.Image, scan_id: str, identity: str) -> list[Dataset]:
    common = Dataset()
    empty = [
        "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
        "PositionReferenceIndicator", "KVP", "Manufacturer", "AcquisitionNumber",
    ]  # fmt: skip
    x, y, step = (f"{side:.6g}" for side in image.GetSpacing())
    fields = {
        **dict.fromkeys(empty, None),
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "PatientID": scan_id,
        "PatientName": f"{scan_id}^",
        "StudyID": scan_id,
        "SeriesDescription": f"{scan_id}, prepared",
        "SeriesNumber": 1,
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "sscct ingest",
        "StudyInstanceUID": generate_uid(entropy_srcs=[MAKER, identity, "study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[MAKER, identity, "series"]),
        "FrameOfReferenceUID": frame_of(identity),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [y, x],
        "SliceThickness": step,
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "HU",
        "WindowCenter": "-600",
        "WindowWidth": "1500",
        "BurnedInAnnotation": "NO",
        "PatientPosition": "HFS",
    }
    for name, value in fields.items():
        setattr(common, name, value)
    made = []
    for index, plane in enumerate(sitk.GetArrayFromImage(image).astype("<i2")):
        one = deepcopy(common)
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPInstanceUID = generate_uid(entropy_srcs=[common.SeriesInstanceUID, str(index)])
        one.InstanceNumber = index + 1
        one.ImagePositionPatient = [f"{at:.6f}"[:16] for at in image.TransformIndexToPhysicalPoint((0, 0, index))]
        one.set_pixel_data(plane, "MONOCHROME2", 16, generate_instance_uid=False)
        made.append(one)
    return made


def _write_segmentation(mask: sitk.Image, slices: list[Dataset], path: Path) -> None:
    import highdicom as hd

    labels = sitk.GetArrayViewFromImage(mask)
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=code.meaning.lower(), segmented_property_type=code,
            segmented_property_category=codes.SCT.AnatomicalStructure, algorithm_type="SEMIAUTOMATIC",
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name=MAKER, family=codes.DCM.ArtificialIntelligence, version="1"
            ),
        )
        for number, code in SIDES.items()
    ]  # fmt: skip
    made = hd.seg.Segmentation(
        source_images=slices, pixel_array=np.stack([labels == side for side in SIDES], axis=-1).astype(np.uint8),
        segmentation_type="BINARY", segment_descriptions=segments, series_instance_uid=generate_uid(), series_number=2,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer=MAKER, manufacturer_model_name=MAKER,
        software_versions="1", device_serial_number="1", omit_empty_frames=bool(labels.any()),
    )  # fmt: skip
    with atomic(path) as partial:
        made.save_as(partial)
