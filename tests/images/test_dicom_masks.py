"""Lung masks in DICOM: written with highdicom and pydicom from a phantom whose lungs are known, and read back."""

import shutil
from functools import cache, cached_property
from pathlib import Path

import contourpy
import highdicom as hd
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.demo import make
from sscct_lib.images.dicom_masks import fill_polygons, read_dicom_mask, referred_series, side_of_name
from sscct_lib.images.prepare import prepare_scans, read_scan
from sscct_lib.intake.ingest import ingest
from sscct_lib.lungs.segment import segment_scans
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.results import ScanError
from sscct_lib.study.settings import DemoSettings, Settings

RIGHT_CODE = Code("3341006", "SCT", "Right lung")
LEFT_CODE = Code("44029006", "SCT", "Left lung")


class Sample:
    """A phantom's series in DICOM, its scan, and its true lungs: 1 right, 2 left."""

    def __init__(self, folder: Path) -> None:
        study = Study(folder / "demo", Settings(demo=DemoSettings(n_patients=1, n_scans=1, spacing_mm=5.0)))
        make.write_demo(study)
        make.write_dicom_demo(study, folder / "export")
        row = pd.read_csv(study.manifest_path).iloc[0]
        self.folder, self.scan_id = folder / "export", row["scan_id"]
        self.scan = read_scan(study.folder / row["image"])
        truth = sitk.ReadImage(str(make.scan_files(study, self.scan_id)["lungs"]))
        self.truth = sitk.GetArrayFromImage(truth)
        files = sorted(self.folder.rglob("*.dcm"))
        self.headers = [pydicom.dcmread(path) for path in files]

    @cached_property
    def seg(self) -> Path:
        """A segmentation of both lungs; tests that change it copy it."""
        return write_seg(self, self.folder.parent / "seg.dcm", both_sides(self))

    @cached_property
    def contours(self) -> Path:
        """Contours of both lungs and of the body; tests that change them copy them."""
        return write_rtstruct(self, self.folder.parent / "rt.dcm", two_rois(self))

    @property
    def frame(self) -> str:
        return self.headers[0].FrameOfReferenceUID

    @property
    def series(self) -> str:
        return self.headers[0].SeriesInstanceUID


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Sample:
    return Sample(tmp_path_factory.mktemp("masks"))


def described(number: int, label: str, code: Code) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number, segment_label=label, segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=code, algorithm_type="MANUAL",
    )  # fmt: skip


def write_seg(sample: Sample, path: Path, parts: dict[str, tuple[Code, np.ndarray]], kind="BINARY") -> Path:
    """Write a segmentation with highdicom; `parts`: label to code and mask."""
    seg = hd.seg.Segmentation(
        source_images=sample.headers,
        pixel_array=np.stack([mask for _, mask in parts.values()], axis=-1).astype("u1" if kind == "BINARY" else "f4"),
        segmentation_type=kind,
        segment_descriptions=[described(i, name, code) for i, (name, (code, _)) in enumerate(parts.items(), start=1)],
        series_instance_uid=generate_uid(), series_number=9, sop_instance_uid=generate_uid(), instance_number=1,
        manufacturer="Test", manufacturer_model_name="Test", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)
    return path


def both_sides(sample: Sample) -> dict[str, tuple[Code, np.ndarray]]:
    return {"left lung": (LEFT_CODE, sample.truth == 2), "right lung": (RIGHT_CODE, sample.truth == 1)}


def contours_of(mask: np.ndarray, scan: sitk.Image, every: int = 1) -> list[Dataset]:
    """Draw around a mask, slice by slice, with contourpy."""
    found = []
    for k in range(0, len(mask), every):
        padded = np.pad(mask[k].astype(float), 1)
        for line in contourpy.contour_generator(z=padded).lines(0.5):
            index = np.column_stack([line[:-1] - 1, np.full(len(line) - 1, k)])  # the phantom lies along the axes
            points = np.array(scan.GetOrigin()) + index * scan.GetSpacing()
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = [f"{value:.2f}" for point in points for value in point]
            found.append(item)
    return found


def write_rtstruct(sample: Sample, path: Path, rois: dict[str, list[Dataset]], frame: str | None = None) -> Path:
    """Write contours; `rois`: name to contours."""
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    first = sample.headers[0]
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    item.Modality, item.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    item.PatientID, item.PatientName, item.StudyInstanceUID = first.PatientID, "Meier^Hans", first.StudyInstanceUID
    series, examination, reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = sample.series
    examination.RTReferencedSeriesSequence = [series]
    reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = sample.frame, [examination]
    item.ReferencedFrameOfReferenceSequence = [reference]
    item.StructureSetROISequence, item.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame or sample.frame
        drawn.ReferencedROINumber, drawn.ContourSequence = number, contours
        item.StructureSetROISequence.append(roi)
        item.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    item.save_as(path, enforce_file_format=True)
    return path


@cache
def two_rois(sample: Sample, every: int = 1) -> dict[str, list[Dataset]]:
    names = {"External": sample.truth >= 0, "Lung_L": sample.truth == 2, "Lung_R": sample.truth == 1}
    return {name: contours_of(mask, sample.scan, every) for name, mask in names.items()}


def dice(mask: sitk.Image, truth: np.ndarray, label: int) -> float:
    found = sitk.GetArrayFromImage(mask) == label
    return 2 * np.count_nonzero(found & (truth == label)) / (found.sum() + (truth == label).sum())


class TestSegmentation:
    @pytest.mark.parametrize("values", [[1, 2, 3, 4, 5], None])
    @pytest.mark.parametrize("place", [None, []])
    def test_frames_that_highdicom_cannot_place(self, sample, tmp_path, values, place):
        path = tmp_path / "seg.dcm"
        item = pydicom.dcmread(sample.seg)
        frame = item.PerFrameFunctionalGroupsSequence[3]
        if values is None:
            frame.PlanePositionSequence[0].ImagePositionPatient = place
        else:
            frame.FrameContentSequence[0].DimensionIndexValues = values
        item.save_as(path)
        with pytest.raises(ScanError, match="the mask is damaged"):
            read_dicom_mask(path, sample.scan)

    @pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
    def test_round_trip_is_exact(self, sample, tmp_path, kind):
        path = write_seg(sample, tmp_path / "seg.dcm", both_sides(sample), kind)
        mask = read_dicom_mask(path, sample.scan, sample.frame)
        assert (sitk.GetArrayFromImage(mask) == sample.truth).all()
        assert mask.GetOrigin() == sample.scan.GetOrigin()

    def test_lobes_make_up_a_lung(self, sample, tmp_path):
        upper = np.arange(len(sample.truth))[:, None, None] > np.argwhere(sample.truth == 1)[:, 0].mean()
        parts = {
            "lung upper lobe right": (codes.SCT.UpperLobeOfLung, (sample.truth == 1) & upper),
            "lung_lower_lobe_right": (codes.SCT.LowerLobeOfLung, (sample.truth == 1) & ~upper),
            "left": (LEFT_CODE, sample.truth == 2),
            "heart": (codes.SCT.Heart, sample.truth == 0),
        }
        mask = read_dicom_mask(write_seg(sample, tmp_path / "seg.dcm", parts), sample.scan)
        assert (sitk.GetArrayFromImage(mask) == sample.truth).all()

    def test_both_lungs_in_one_are_split(self, sample, tmp_path):
        path = write_seg(sample, tmp_path / "seg.dcm", {"lungs": (codes.SCT.Lung, sample.truth > 0)})
        mask = read_dicom_mask(path, sample.scan)
        assert ((sitk.GetArrayFromImage(mask) > 0) == (sample.truth > 0)).all()
        assert dice(mask, sample.truth, 1) > 0.99
        assert dice(mask, sample.truth, 2) > 0.99

    def test_no_lung(self, sample, tmp_path):
        path = write_seg(sample, tmp_path / "seg.dcm", {"Meier's heart": (codes.SCT.Heart, sample.truth > 0)})
        with pytest.raises(ScanError, match="1 segments, none of them a lung by code or name") as caught:
            read_dicom_mask(path, sample.scan)
        assert "Meier" not in str(caught.value)

    def test_empty(self, sample, tmp_path):
        empty = {"right lung": (RIGHT_CODE, np.zeros_like(sample.truth))}
        with pytest.raises(ScanError, match="empty"):
            read_dicom_mask(write_seg(sample, tmp_path / "seg.dcm", empty), sample.scan)

    def test_overlap(self, sample, tmp_path):
        parts = {"left": (LEFT_CODE, sample.truth > 0), "right": (RIGHT_CODE, sample.truth == 1)}
        with pytest.raises(ScanError, match=r"right and left lung of the mask overlap in [\d,]+ voxels"):
            read_dicom_mask(write_seg(sample, tmp_path / "seg.dcm", parts), sample.scan)


class TestContours:
    def test_round_trip(self, sample):
        mask = read_dicom_mask(sample.contours, sample.scan, sample.frame)
        assert dice(mask, sample.truth, 1) >= 0.98
        assert dice(mask, sample.truth, 2) >= 0.98

    def test_every_second_slice_drawn(self, sample, tmp_path):
        mask = read_dicom_mask(write_rtstruct(sample, tmp_path / "rt.dcm", two_rois(sample, every=2)), sample.scan)
        found = sitk.GetArrayFromImage(mask)
        full = np.flatnonzero(found.any(axis=(1, 2)))
        assert (np.diff(full) == 1).all()
        assert dice(mask, sample.truth, 1) > 0.9

    def test_wide_gap_is_refused(self, sample, tmp_path):
        contours = contours_of(sample.truth == 1, sample.scan)
        del contours[len(contours) // 2 : len(contours) // 2 + 8]
        with pytest.raises(ScanError, match=r"leaves out \d+ slices in a row"):
            read_dicom_mask(write_rtstruct(sample, tmp_path / "rt.dcm", {"Lung_R": contours}), sample.scan)

    def test_contours_inside_others_are_holes(self):
        outer = np.array([[1, 1], [1, 18], [18, 18], [18, 1]], float)
        inner = np.array([[5.5, 5.5], [9.5, 5.5], [9.5, 9.5], [5.5, 9.5]])
        filled = fill_polygons([outer, inner], (20, 20))
        assert filled[2, 2]
        assert not filled[7, 7]
        assert filled.sum() == 17 * 17 - 16

    def test_filling_agrees_with_matplotlib(self):
        rng = np.random.default_rng(3)
        rows, columns = np.mgrid[:40, :50]
        centres = np.column_stack([columns.ravel(), rows.ravel()])
        for _ in range(20):
            angles = np.sort(rng.uniform(0, 2 * np.pi, 30))
            radius = rng.uniform(4, 30, 30)
            corners = np.column_stack([25 + radius * np.cos(angles), 20 + radius * np.sin(angles)])
            expected = Polygon(np.vstack([corners, corners[:1]]), closed=True).contains_points(centres)
            assert (fill_polygons([corners], (40, 50)) == expected.reshape(40, 50)).all()


class TestWrongPlace:
    def test_other_frame_of_reference(self, sample):
        for path in (sample.seg, sample.contours):
            with pytest.raises(ScanError, match="another frame of reference"):
                read_dicom_mask(path, sample.scan, "1.2.3")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("shift", "lie between"),
            ("far", "reach(es)? beyond"),
            ("spacing", "has voxels of|lie between"),
            ("turn", "turned|lie|reach"),
        ],
    )
    def test_other_grid(self, sample, change, words):
        scan = sitk.Image(sample.scan)
        x, y, z = scan.GetOrigin()
        if change == "shift":
            scan.SetOrigin((x + 1, y, z + 2))
        elif change == "far":
            scan.SetOrigin((x + 500, y, z))
        elif change == "spacing":
            scan.SetSpacing((5, 5, 3))
        else:
            scan.SetDirection((0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, 1))
        with pytest.raises(ScanError, match=words):
            read_dicom_mask(sample.seg, scan)
        if change != "turn":  # contours have no axes of their own
            with pytest.raises(ScanError, match=words):
                read_dicom_mask(sample.contours, scan)

    def test_other_object_and_damage(self, sample, tmp_path):
        slices = sorted(sample.folder.rglob("*.dcm"))
        with pytest.raises(ScanError, match="but CT Image Storage"):
            read_dicom_mask(slices[0], sample.scan)
        seg = tmp_path / "seg.dcm"
        seg.write_bytes(sample.seg.read_bytes()[:3000])
        with pytest.raises(ScanError, match="damaged"):
            read_dicom_mask(seg, sample.scan)


@pytest.mark.parametrize(
    ("name", "side"),
    [("Lung_R", 1), ("Lung_L", 2), ("Lungs", 3), ("right lung", 1), ("LungLeft", 2), ("LUNG LT", 2), ("rt_lung", 1),
     ("both lungs", 3), ("lung_upper_lobe_left", 2), ("Lung_L-PTV", None), ("Lungs-GTV", None), ("Heart", None),
     ("lung nodule right", None), ("Lung R L", None), ("", None), ("lung_middle_lobe", None)],
)  # fmt: skip
def test_names(name, side):
    assert side_of_name(name) == side


class TestIngest:
    @pytest.fixture
    def source(self, sample, tmp_path) -> Path:
        shutil.copytree(sample.folder, tmp_path / "source")
        return tmp_path / "source"

    def scans(self, study_folder: Path) -> tuple[Study, pd.DataFrame]:
        (study_folder / "study.yaml").write_text("images: {spacing_mm: 5.0}\nlungs: {method: provided}\n")
        study = load_study(study_folder)
        manifest = read_manifest(study)
        prepare_scans(study, manifest)
        return study, segment_scans(study, manifest)

    def test_segmentation_becomes_the_mask_of_the_scan(self, sample, source, tmp_path):
        (source / "other").mkdir()
        shutil.copy(sample.seg, source / "other")
        report = ingest(source, None, tmp_path / "study")
        assert sorted(set(report["status"])) == ["lung mask", "passed over", "scan"]  # passed over: the table beside it
        assert report.loc[0, "scan_id"] == report.loc[1, "scan_id"] != ""
        study, lungs = self.scans(tmp_path / "study")
        assert lungs["status"].tolist() == ["ok"]
        mask = sitk.ReadImage(str(study.mask(lungs["scan_id"].item())))
        assert (sitk.GetArrayFromImage(mask) == sample.truth).all()

    def test_contours_when_the_segmentation_has_no_lungs(self, sample, source, tmp_path):
        write_seg(sample, source / "seg.dcm", {"heart": (codes.SCT.Heart, sample.truth > 0)})
        shutil.copy(sample.contours, source)
        report = ingest(source, None, tmp_path / "study").set_index("kind")
        assert report.loc["RTSTRUCT", "status"] == "lung mask"
        assert report.loc["SEG", "status"] == "set aside"
        assert "none of them a lung" in report.loc["SEG", "reason"]
        _, lungs = self.scans(tmp_path / "study")
        assert lungs["status"].tolist() == ["ok"]
        again = ingest(source, None, tmp_path / "study").set_index("kind")
        pd.testing.assert_frame_equal(again, report)

    def test_mask_of_other_images_is_left_out(self, sample, source, tmp_path):
        path = source / "rt.dcm"
        item = pydicom.dcmread(sample.contours)
        reference = item.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        reference.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"
        item.save_as(path)
        assert referred_series(path) == ("1.2.3.4",)
        report = ingest(source, None, tmp_path / "study").set_index("kind")
        assert report.loc["RTSTRUCT", "reason"] == "refers to no series that was taken"
        assert "lung_mask" not in pd.read_csv(tmp_path / "study" / "data_manifest.csv")

    def test_dicom_file_named_in_the_manifest(self, sample, source, tmp_path):
        ingest(source, None, tmp_path / "study")
        shutil.copy(sample.seg, tmp_path / "study")
        manifest = pd.read_csv(tmp_path / "study" / "data_manifest.csv").assign(lung_mask="seg.dcm")
        manifest.to_csv(tmp_path / "study" / "data_manifest.csv", index=False)
        study, lungs = self.scans(tmp_path / "study")
        mask = sitk.ReadImage(str(study.mask(lungs["scan_id"].item())))
        assert (sitk.GetArrayFromImage(mask) == sample.truth).all()
