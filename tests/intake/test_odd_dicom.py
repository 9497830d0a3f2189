"""Odd exports of DICOM: each a kind that people have reported, and what must become of it, voxel by voxel."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from sscct_lib.intake.ingest import ingest
from sscct_lib.intake.series import is_expiratory, is_part_of_body, is_projection
from sscct_lib.study.folder import StudyError
from tests.images import chest
from tests.images.chest import HEIGHTS, RING, STEP_MM, N, alter, capture, change, changed, save, slice_at, wrong

CT, ENHANCED, LEGACY = (f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2"))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
HALF = STEP_MM / 2


@dataclass
class Result:
    """What became of an export with one examination."""

    image: sitk.Image
    codes: list[str]
    notes: str
    report: pd.DataFrame
    manifest: pd.DataFrame


def ingested(slices: list[Dataset], folder: Path) -> Result:
    report = ingest(save(slices, folder / "source"), None, folder / "study")
    (scan,) = (folder / "study" / "scans").iterdir()
    (row,) = report[report["status"] == "scan"].to_dict("records")
    codes = [code for code in row["codes"].split() if code != "no_follow_up"]
    manifest = pd.read_csv(folder / "study" / "data_manifest.csv")
    return Result(sitk.ReadImage(str(scan)), codes, row["reason"], report, manifest)


def scout(number: int, **header) -> Dataset:
    return slice_at(90.0, number, axes=CORONAL, **header)


def two_breaths(shift: float, of_second: dict, of_first: dict | None = None, first: int = N + 1) -> list[Dataset]:
    """Inspiration, and expiration a part of a step higher."""
    second = chest.chest([height + shift for height in HEIGHTS], first, breath_mm=40.0, **of_second)
    return chest.chest(**(of_first or {})) + second


def one_by_one(slices: list[Dataset], name: str, value: Callable[[int], object]) -> list[Dataset]:
    for index, item in enumerate(slices):
        change(item, **{name: value(index)})
    return slices


def mixed(one: list[Dataset], other: list[Dataset]) -> list[Dataset]:
    """Files of two in turn."""
    return [item for pair in zip(one, other, strict=True) for item in pair]


def numbered(slices: list[Dataset]) -> list[Dataset]:
    return one_by_one(slices, "InstanceNumber", lambda index: index + 1)


def one_in_five(kinds: Iterable) -> list:
    """Leave every fifth kind among the quick tests: each is a whole export."""
    each = (kind if isinstance(kind, tuple) else (kind,) for kind in kinds)
    return [pytest.param(*values, marks=[pytest.mark.slow] if i % 5 else []) for i, values in enumerate(each)]


LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
STRAYS: dict[str, tuple[Callable[[], list[Dataset]], str]] = {
    "scout that sorts first": (lambda: [scout(1, ImageType=LOCALIZER), *chest.chest(first=2)], "localizers_left_out"),
    "scout that sorts last": (lambda: [*chest.chest(), scout(99, ImageType=LOCALIZER)], "localizers_left_out"),
    "scout that is not called so": (lambda: [scout(1), *chest.chest(first=2)], "others_left_out"),
    "axial scout": (
        lambda: [slice_at(10.0, 1, ImageType=LOCALIZER, SliceThickness=1), *chest.chest(first=2)], "localizers_left_out"
    ),
    "capture that sorts last": (
        lambda: [*chest.chest(), capture(99, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")], "captures_left_out"
    ),
    "capture that sorts first": (
        lambda: [capture(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), *chest.chest(first=2)], "captures_left_out"
    ),
    "capture of CT class": (lambda: [capture(1), *chest.chest(first=2)], "unplaced_left_out"),
    "capture of another modality": (lambda: [capture(1, Modality="OT"), *chest.chest(first=2)], "captures_left_out"),
    "dose report without pixels": (
        lambda: [
            capture(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Rows=None, Columns=None, PixelData=None),
            *chest.chest(first=2),
        ],
        "captures_left_out",
    ),
    "picture in colour": (
        lambda: [*chest.chest(), slice_at(10.0, 99, SamplesPerPixel=3, PhotometricInterpretation="RGB")],
        "colour_left_out",
    ),
    "huge capture with a place": (lambda: [slice_at(8.0, 99, rows=700), *chest.chest()], "others_left_out"),
    "slice of a head scan": (lambda: [*chest.chest(), slice_at(11.0, 99, PatientID="P2")], "others_left_out"),
    "sections of another direction": (
        lambda: [slice_at(60.0 + i, i + 1, axes=CORONAL) for i in range(6)] + chest.chest(first=7), "others_left_out"
    ),
    "bolus tracking at one place": (
        lambda: [slice_at(81.0, i + 1, AcquisitionNumber=i + 2, SliceThickness=10) for i in range(9)]
        + chest.chest(first=10, AcquisitionNumber=20),
        "others_left_out",
    ),
    "bolus tracking as thick as the scan": (
        lambda: [slice_at(81.0, i + 1, AcquisitionNumber=i + 2) for i in range(9)]
        + chest.chest(first=10, AcquisitionNumber=20),
        "others_left_out",
    ),
    "a wrong picture at the place of a slice": (
        lambda: [*chest.chest(), slice_at(HEIGHTS[9], 10, breath_mm=60.0)], "doubles_left_out"
    ),
    "copies": (lambda: [*(whole := chest.chest()), *whole[3:9]], "duplicate"),
    "copies under other numbers": (
        lambda: chest.chest() + one_by_one(chest.chest(HEIGHTS[5:15]), "InstanceNumber", lambda i: 100 + i), "duplicate"
    ),
    "a copy cut short": (
        lambda: [change(item := chest.chest()[4], PixelData=item.PixelData[:-400]), *chest.chest()], "duplicate"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", one_in_five(STRAYS))
def test_a_file_that_is_no_slice_costs_nothing(tmp_path, kind):
    make, code = STRAYS[kind]
    result = ingested(make(), tmp_path)
    assert result.image.GetSize() == (chest.COLUMNS, chest.ROWS, N)
    assert not wrong(result.image).any()
    assert result.codes == [code]
    assert code == "duplicate" or "(image " in result.notes


HARMLESS: dict[str, Callable[[], list[Dataset]]] = {
    "nothing odd": chest.chest,
    "direction that differs in the last digits": lambda: [
        slice_at(height, i + 1, axes=((1, e, 0), (-e, 1, 0)))
        for i, height in enumerate(HEIGHTS)
        for e in [0.0005 + 1e-5 * (-1) ** (i // 3)]
    ],
    "spacing that differs in the last digits": lambda: one_by_one(
        chest.chest(), "PixelSpacing", lambda i: [6.00005 + 1e-7 * (-1) ** i] * 2
    ),
    "thickness that differs in the last digits": lambda: one_by_one(
        chest.chest(), "SliceThickness", lambda i: 7.5 + 1e-4 * (i % 3)
    ),
    "one image number for all": lambda: chest.chest(SOPInstanceUID="1.2.3.4"),
    "no image number": lambda: chest.chest(SOPInstanceUID=""),
    "a frame of reference for each file": lambda: one_by_one(
        chest.chest(), "FrameOfReferenceUID", lambda i: generate_uid()
    ),
    "an acquisition for each slice": lambda: one_by_one(chest.chest(), "AcquisitionNumber", lambda i: i + 1),
    "an acquisition for each slab": lambda: one_by_one(chest.chest(), "AcquisitionNumber", lambda i: i // 5),
    "slabs from head to feet": lambda: one_by_one(chest.chest(), "AcquisitionNumber", lambda i: 9 - i // 5),
    "times that grow": lambda: one_by_one(chest.chest(), "AcquisitionTime", lambda i: f"1200{i:02d}.5"),
    "times of the images in any order": lambda: one_by_one(
        chest.chest(), "ContentTime", lambda i: f"1200{i * 7 % N:02d}"
    ),
    "numbers in the order of names": lambda: one_by_one(
        chest.chest(), "InstanceNumber", lambda i: sorted(range(1, N + 1), key=str)[i]
    ),
    "one number out of order": lambda: changed(chest.chest(), [17], InstanceNumber=99),
    "no numbers": lambda: chest.chest(InstanceNumber=None, AcquisitionNumber=None),
    "no kernel in two slices": lambda: changed(chest.chest(), [4, 15], ConvolutionKernel=None),
    "no thickness in the first slices": lambda: changed(chest.chest(), range(5), SliceThickness=None),
    "no patient in one slice": lambda: changed(chest.chest(), [7], PatientID=""),
    "no modality or class in one slice": lambda: changed(chest.chest(), [7], Modality=None, AcquisitionNumber=None),
    "no description in the upper half": lambda: changed(
        chest.chest(SeriesDescription="Thorax"), range(12, N), SeriesDescription=None
    ),
    "half a turn in the numbers of slabs": lambda: one_by_one(
        chest.chest(), "AcquisitionNumber", lambda i: (i + 12) % N
    ),
    "tube current that follows the body": lambda: one_by_one(chest.chest(), "XRayTubeCurrent", lambda i: 100 + i),
    "enhanced": lambda: [chest.frames(chest.chest(), ENHANCED)],
    "legacy converted": lambda: [chest.frames(chest.chest(), LEGACY)],
    "many frames of CT class": lambda: [chest.frames(chest.chest(), CT)],
    "many frames of CT class without a rescale of the file": lambda: [
        chest.frames(chest.chest(), CT, RescaleSlope=None, RescaleIntercept=None)
    ],
    "classic frames one behind the other": lambda: [
        chest.frames(chest.chest(), CT, groups=False, SpacingBetweenSlices=STEP_MM)
    ],
    "enhanced in two files": lambda: [
        chest.frames(chest.chest()[:12], ENHANCED), chest.frames(chest.chest()[12:], ENHANCED)
    ],
    "air that is exactly -1024": lambda: alter(chest.chest(), range(N), lambda v: np.where(v < 30, 0, v)),
}  # fmt: skip


@pytest.mark.parametrize("kind", one_in_five(HARMLESS))
def test_what_a_sound_series_may_bring(tmp_path, kind):
    result = ingested(HARMLESS[kind](), tmp_path)
    assert result.image.GetSize() == (chest.COLUMNS, chest.ROWS, N)
    assert wrong(result.image).mean() < 1e-3  # where 0.1 micrometres decide on which side of a surface a pixel lies
    assert result.codes == []
    assert result.report["status"].tolist() == ["scan"]


LOST: dict[str, tuple[Callable[[], list[Dataset]], int, set[str]]] = {
    "no position": (lambda: changed(chest.chest(), [17], ImagePositionPatient=None), 17, {"unplaced_left_out"}),
    "no direction": (lambda: changed(chest.chest(), [17], ImageOrientationPatient=None), 17, {"unplaced_left_out"}),
    "no spacing": (lambda: changed(chest.chest(), [17], PixelSpacing=None), 17, {"unplaced_left_out"}),
    "another patient": (lambda: changed(chest.chest(), [17], PatientID="P2"), 17, {"others_left_out"}),
    "another kernel": (lambda: changed(chest.chest(), [17], ConvolutionKernel="B70f"), 17, {"others_left_out"}),
    "another thickness": (lambda: changed(chest.chest(), [17], SliceThickness=1), 17, {"others_left_out"}),
    "another size": (
        lambda: [slice_at(HEIGHTS[17], 18, rows=40) if i == 17 else one for i, one in enumerate(chest.chest())],
        17, {"others_left_out"},
    ),
    "missing": (lambda: [one for i, one in enumerate(chest.chest()) if i != 17], 17, set()),
    "cut short": (
        lambda: changed(chest.chest(), [17], PixelData=chest.chest(HEIGHTS[17:18])[0].PixelData[:-100]),
        17, {"undecodable"},
    ),
    "densities of nothing": (lambda: alter(chest.chest(), [17], lambda v: v * 0 + 3000), 17, {"density_left_out"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", one_in_five(LOST))
def test_a_slice_that_cannot_be_used_is_named_and_filled(tmp_path, kind):
    make, index, codes = LOST[kind]
    result = ingested(make(), tmp_path)
    found = sitk.GetArrayFromImage(result.image)
    assert len(found) == N
    assert not np.delete(wrong(result.image), index, axis=0).any()
    assert (found[index] == np.rint((found[index - 1].astype(float) + found[index + 1]) / 2)).all()
    assert set(result.codes) == {*codes, "uneven"}
    assert f"image {index + 1})" in result.notes


BREATHS: dict[str, Callable[[], list[Dataset]]] = {
    "acquisition, half a step apart": lambda: two_breaths(HALF, {"AcquisitionNumber": 2}),
    "acquisition, at the same places": lambda: two_breaths(0.0, {"AcquisitionNumber": 2}),
    "acquisition, close together": lambda: two_breaths(0.4, {"AcquisitionNumber": 2}),
    "acquisition, files in turn": lambda: numbered(
        mixed(chest.chest(), chest.chest([h + HALF for h in HEIGHTS], breath_mm=40.0, AcquisitionNumber=2))
    ),
    "acquisition, numbers from 1 again": lambda: two_breaths(HALF, {"AcquisitionNumber": 2}, first=1),
    "acquisition that one of them lacks": lambda: two_breaths(HALF, {"AcquisitionNumber": None}),
    "acquisition, from head to feet": lambda: chest.chest() + chest.chest(
        [h + HALF for h in HEIGHTS][::-1], N + 1, breath_mm=40.0, AcquisitionNumber=2
    ),
    "slabs of two passes": lambda: one_by_one(
        two_breaths(HALF, {}), "AcquisitionNumber", lambda i: 1 + i // 5
    ),
    "temporal position": lambda: two_breaths(
        HALF, {"TemporalPositionIdentifier": 2}, {"TemporalPositionIdentifier": 1}, first=1
    ),
    "time of acquisition": lambda: two_breaths(HALF, {"AcquisitionTime": "120100"}, {"AcquisitionTime": "120000"}, 1),
    "time that grows": lambda: one_by_one(
        two_breaths(HALF, {}, first=1), "AcquisitionTime", lambda i: f"12{i // 60:02d}{i % 60:02d}"
    ),
    "date and time": lambda: two_breaths(
        HALF, {"AcquisitionDateTime": "20190301120100"}, {"AcquisitionDateTime": "20190301120000"}, 1
    ),
    "order of the numbers": lambda: two_breaths(HALF, {}),
    "order of the numbers, from head to feet": lambda: chest.chest() + chest.chest(
        [h + HALF for h in HEIGHTS][::-1], N + 1, breath_mm=40.0
    ),
    "odd and even numbers at the same places": lambda: numbered(mixed(chest.chest(), chest.chest(breath_mm=40.0))),
    "places alone": lambda: two_breaths(2.0, {}, first=1),
    "places alone, close together": lambda: two_breaths(0.3, {}, first=1),
    "nothing but the pixels": lambda: two_breaths(HALF, {}, first=1),
    "description": lambda: two_breaths(HALF, {"SeriesDescription": "Exspiration"}, {"SeriesDescription": "Thorax"}, 1),
    "number of the series": lambda: two_breaths(HALF, {"SeriesNumber": 3}, first=1),
    "contrast agent that one lacks": lambda: two_breaths(HALF, {"ContrastBolusAgent": "Iomeprol"}, first=1),
    "tube voltage": lambda: two_breaths(HALF, {"KVP": 80}, {"KVP": 120}, 1),
    "frame of reference": lambda: two_breaths(HALF, {"FrameOfReferenceUID": "1.2.9.8"}, first=1),
    "one image number for all": lambda: two_breaths(
        0.0, {"AcquisitionNumber": 2, "SOPInstanceUID": "1.2.3"}, {"SOPInstanceUID": "1.2.3"}
    ),
    "frames of one file": lambda: [chest.frames(two_breaths(HALF, {"AcquisitionNumber": 2}), ENHANCED)],
}  # fmt: skip


@pytest.mark.parametrize("kind", one_in_five(BREATHS))
def test_two_breaths_are_never_one_volume(tmp_path, kind):
    """The one with more air is taken, whole and alone; the other is named, or the halves of the series are told."""
    result = ingested(BREATHS[kind](), tmp_path)
    assert result.image.GetSize() == (chest.COLUMNS, chest.ROWS, N)
    assert result.image.GetSpacing()[2] == pytest.approx(STEP_MM)
    assert not wrong(result.image).any()
    assert {"several_volumes", "takes_turns"} & set(result.codes)
    if "several_volumes" in result.codes:
        assert sorted(result.report["status"]) == ["not chosen", "scan"]
        assert result.report["reason"].str.startswith("another volume of the series that was taken").sum() == 1


@pytest.mark.parametrize("header", [{"AcquisitionNumber": 2}, {}], ids=["acquisition", "places alone"])
def test_stations_that_overlap_are_not_joined(tmp_path, header):
    upper = chest.chest([90 + HALF + STEP_MM * i for i in range(20)], 1 if not header else 22, breath_mm=25.0, **header)
    result = ingested(chest.chest([STEP_MM * i for i in range(21)]) + upper, tmp_path)
    assert result.image.GetSize()[2] == 21
    assert not wrong(result.image).any()
    assert "cuts_lungs" in result.codes


def reconstructions(soft_first: bool) -> list[Dataset]:
    soft = {"ConvolutionKernel": "B30f", "SliceThickness": 15}
    sharp = {"ConvolutionKernel": "B70f", "SliceThickness": 7.5}
    one = chest.chest([15.0 * i - 60 for i in range(20)], 1 if soft_first else 101, **soft)
    fine = chest.chest([STEP_MM * i - 15 for i in range(30)], 41 if soft_first else 1, **sharp)
    other = alter(fine, range(30), lambda v: v + 3)
    return one + other if soft_first else other + one


@pytest.mark.parametrize("soft_first", [True, False])
def test_the_manifest_says_what_the_slices_are(tmp_path, soft_first):
    result = ingested(reconstructions(soft_first), tmp_path)
    found = sitk.GetArrayFromImage(result.image)
    assert (found == np.rint(chest.density(chest.places_of(result.image))) + 3).all()
    assert result.manifest["kernel"].tolist() == ["B70f"]
    assert result.manifest["slice_thickness_mm"].tolist() == [7.5]


def test_two_patients_under_one_number_are_two_scans(tmp_path):
    slices = two_breaths(HALF, {"PatientID": "P2"}, first=1)
    report = ingest(save(slices, tmp_path / "source"), None, tmp_path / "study")
    assert report["status"].tolist() == ["scan", "scan"]
    assert report["patient_id"].nunique() == 2
    read = [sitk.ReadImage(str(path)) for path in (tmp_path / "study" / "scans").iterdir()]
    assert (
        sorted(not wrong(image, breath).any() for image in read for breath in (0.0, 40.0)) == [False] * 2 + [True] * 2
    )


class TestDensity:
    @pytest.mark.parametrize(
        "which", one_in_five([[17], range(5, 9), range(0, N, 2), range(12), [0], [N - 1]]), ids=str
    )
    @pytest.mark.parametrize("value", [None, 0])
    def test_rescale_lost_in_some_slices_is_that_of_the_others(self, tmp_path, which, value):
        result = ingested(changed(chest.chest(), which, RescaleIntercept=value, RescaleSlope=value and 1), tmp_path)
        assert not wrong(result.image).any()
        assert result.codes == ["rescale_mended"]

    def test_pixels_that_were_rescaled_before_are_left_out(self, tmp_path):
        """Stored as HU in two slices whose header still has the intercept: which were shifted stands nowhere."""
        slices = alter(chest.chest(RescaleIntercept=-2000), range(N), lambda v: v + 976)
        alter(slices, [12, 20], lambda v: v - 1000)
        result = ingested(slices, tmp_path)
        assert not np.delete(wrong(result.image), [12, 20], axis=0).any()
        assert set(result.codes) == {"density_left_out", "uneven"}

    @pytest.mark.parametrize("padding", one_in_five([None, -2000, -1024]))
    def test_rescale_lost_in_all_slices_is_refused(self, tmp_path, padding):
        slices = chest.chest(RescaleIntercept=None, RescaleSlope=None, PixelRepresentation=1)
        for item in slices:
            values = chest.pixels(item).astype("<i2")
            item.PixelData = (values if padding is None else np.where(RING, padding, values)).astype("<i2").tobytes()
        with pytest.raises(StudyError, match="were rescale slope and intercept applied"):
            ingested(slices, tmp_path)

    def test_rescale_applied_twice_is_refused(self, tmp_path):
        slices = chest.chest(RescaleIntercept=-2048)
        with pytest.raises(StudyError, match="nearly no voxel with the density of fat"):
            ingested(slices, tmp_path)

    @pytest.mark.parametrize("tag", [{}, {"PixelPaddingValue": 63536}])
    @pytest.mark.parametrize("padding", one_in_five([63536, 32768 + 1100, 65535]))
    def test_padding_that_wrapped_is_air(self, tmp_path, padding, tag):
        result = ingested(alter(chest.chest(**tag), range(N), lambda v: np.where(RING, padding, v)), tmp_path)
        assert not wrong(result.image).any()
        assert sitk.GetArrayFromImage(result.image)[:, RING].max() <= -1000

    @pytest.mark.parametrize("padding", one_in_five([1024, 2096, 4095]))
    def test_an_even_ring_is_air(self, tmp_path, padding):
        """Padding of 0 HU, of -2000 in twelve bits, and at the upper end."""
        result = ingested(alter(chest.chest(), range(N), lambda v: np.where(RING, padding, v)), tmp_path)
        assert not wrong(result.image).any()
        assert result.codes == ["padding_untagged"]

    def test_the_same_holds_for_a_volume_in_one_file(self, tmp_path):
        result = ingested(chest.chest(), tmp_path / "sound")
        values = sitk.GetArrayFromImage(result.image)
        for name, changed_to in {
            "lost": np.where(RING, -2000, values + 1024),
            "ring": np.where(RING, 0, values),
        }.items():
            image = sitk.GetImageFromArray(changed_to.astype(np.int16))
            image.CopyInformation(result.image)
            (tmp_path / name / "P1").mkdir(parents=True)
            sitk.WriteImage(image, str(tmp_path / name / "P1" / "2019-03-01.nii.gz"))
        with pytest.raises(StudyError, match="were rescale slope and intercept applied"):
            ingest(tmp_path / "lost", None, tmp_path / "lost study")
        report = ingest(tmp_path / "ring", None, tmp_path / "ring study")
        assert "an even value of 0 HU round the field of view: read as air" in report["reason"][0]
        (scan,) = (tmp_path / "ring study" / "scans").iterdir()
        assert not wrong(sitk.ReadImage(str(scan))).any()


class TestPlaces:
    @pytest.mark.parametrize("degrees", one_in_five([20, -20, 5]))
    def test_a_tilted_gantry_cuts_nothing_off(self, tmp_path, degrees):
        angle = np.radians(degrees)
        axes = ((1.0, 0.0, 0.0), (0.0, float(np.cos(angle)), float(np.sin(angle))))
        slices = [slice_at(height, i + 1, axes=axes) for i, height in enumerate(HEIGHTS)]
        result = ingested(slices, tmp_path)
        assert result.codes == ["tilt"]
        found, at = sitk.GetArrayFromImage(result.image).astype(float), chest.places_of(result.image)
        corners = [(row, column) for row in (0, chest.ROWS - 1) for column in (0, chest.COLUMNS - 1)]
        for item in (slices[0], slices[-1]):
            first = np.array(item.ImagePositionPatient, float)
            at_corners = [
                first + 6.0 * (column * np.array(axes[0]) + row * np.array(axes[1])) for row, column in corners
            ]
            index = np.array([result.image.TransformPhysicalPointToContinuousIndex(one.tolist()) for one in at_corners])
            assert (index > -0.51).all()
            assert (index < np.array(result.image.GetSize()) - 0.49).all()
        steps = [
            6.0 * (down * np.array(axes[1]) + across * np.array(axes[0]))
            for down in (-1, 0, 1)
            for across in (-1, 0, 1)
        ]
        around = np.array([chest.density(at + step) for step in steps])
        # Away from surfaces every voxel that a slice covers has the density of its place.
        away = (np.ptp(around, axis=0) < 10) & (around[4] > -1000) & (found > -1024)
        assert (np.abs(found - around[4])[away] < 5).mean() > 0.999  # a corner may be smaller than a pixel
        assert (found + 1024).sum() == pytest.approx(sum(chest.pixels(item).sum() for item in slices), rel=2e-3)

    def test_slices_at_intervals_are_told(self, tmp_path):
        result = ingested(chest.chest([20.0 * i - 100 for i in range(20)], SliceThickness=1), tmp_path)
        assert not wrong(result.image).any()
        assert "at_intervals" in result.codes
        assert "slices of 1 mm every 20 mm: 95 % of the lungs lie between them, not imaged" in result.notes

    def test_slices_at_intervals_come_behind(self, tmp_path):
        wide = chest.chest([20.0 * i - 100 for i in range(20)], SliceThickness=1, SeriesInstanceUID="1.2.9.1.2")
        save(chest.chest(SliceThickness=7.5), tmp_path / "source" / "whole")
        result = ingested(wide, tmp_path)
        assert result.image.GetSize()[2] == N
        assert result.report["reason"].tolist().count("slices at intervals") == 1

    def test_steps_that_vary_with_an_even_part(self, tmp_path):
        fine = [2.5 * i for i in range(33)]
        slices = chest.chest(fine + [fine[-1] + 7.5 * (i + 1) for i in range(20)])
        result = ingested(slices, tmp_path)
        assert result.image.GetSpacing()[2] == pytest.approx(7.5)
        assert not wrong(result.image).any()
        assert "steps vary from 2.5 to 7.5 mm: read in even steps of 7.5 mm" in result.notes

    @pytest.mark.parametrize("steps", [(4.0, 7.0), (5.0, 8.0)])
    def test_steps_that_vary_are_called_so(self, tmp_path, steps):
        heights = np.cumsum([steps[0]] * 24 + [steps[1]] * 22)
        with pytest.raises(StudyError, match=f"vary from {steps[0]:g} to {steps[1]:g} mm"):
            ingested(chest.chest(heights.tolist()), tmp_path)

    def test_classic_frames_without_a_distance_have_no_place(self, tmp_path):
        with pytest.raises(StudyError, match="slices without position, orientation or pixel spacing"):
            ingested([chest.frames(chest.chest(), CT, groups=False)], tmp_path)


class TestTheCauseIsTheCause:
    @pytest.mark.parametrize(
        ("make", "words"),
        one_in_five([
            (lambda: [capture(i) for i in range(30)], "slices without position, orientation or pixel spacing"),
            (lambda: [scout(i, ImageType=LOCALIZER) for i in range(3)], "found 1 localizer"),
            (lambda: [capture(i, SOPClassUID="1.2.840.10008.5.1.4.1.1.7") for i in range(30)], "but no CT images"),
            (lambda: chest.chest(SamplesPerPixel=3), "CT in colour"),
            (lambda: chest.chest(PatientID=""), "no PatientID"),
            (lambda: [slice_at(3.0 * i, i, axes=CORONAL) for i in range(60)], "29[0-9] mm|not axial"),
            (lambda: chest.chest(HEIGHTS[:12]), "12 slices, expected at least 20"),
            (lambda: chest.chest([2.0 * i for i in range(30)], SliceThickness=2), "58 mm long, expected at least 150"),
        ]),
    )  # fmt: skip
    def test_when_nothing_is_left(self, tmp_path, make, words):
        with pytest.raises(StudyError, match=words):
            ingested(make(), tmp_path)


@dataclass
class Said:
    """A header with a description alone."""

    text: str

    def get(self, name: str) -> str:
        return self.text if name == "SeriesDescription" else ""

    def values(self, name: str) -> list[str]:
        return []


EXPIRATORY = (
    "Thorax Exspiration 1.0", "THORAX EXPI 1.0", "Torace espirazione", "Ausatmung", "ausgeatmet", "Tórax espiración",
    "TORAX ESP", "uitademing", "expiratie", "TC tórax expiração", "wydech 1mm", "poumon expiration",
    "temps expiratoire", "LungExp 1.0", "in Exsp.", "low dose exhalation", "CHEST_EXP_1.0", "end-expiratory",
)  # fmt: skip
NOT_EXPIRATORY = (
    "expert lung", "inexpensive", "respiratory gated", "Hospital Espírito Santo", "expired 2020", "expanded field",
    "exposure low", "Inspiration/Expiration", "Inspiration", "wdech", "inademing", "Einatmung", "espectral",
)  # fmt: skip
PROJECTIONS = (
    "Thorax MIP 8/2",
    "MinIP Lunge",
    "MIPs cor",
    "Proiezione max",
    "maximum intensity",
    "thick slab",
    "AIP 5",
)
NO_PROJECTIONS = ("Projekt ILD", "project 7", "tip", "Thorax 1.0", "MPR ax")
PARTS = ("Lunge rechts", "poumon gauche", "hemi-thorax", "polmone destro", "right lung", "pulmón derecho", "lewe płuco")
NO_PARTS = ("bright", "Lungen", "Thorax re-read", "thorax", "cleft")


@pytest.mark.parametrize(
    ("function", "yes", "no"),
    [
        (is_expiratory, EXPIRATORY, NOT_EXPIRATORY),
        (is_projection, PROJECTIONS, NO_PROJECTIONS),
        (is_part_of_body, PARTS, NO_PARTS),
    ],
)
def test_what_descriptions_say(function, yes, no):
    assert [text for text in yes if not function(Said(text))] == []
    assert [text for text in no if function(Said(text))] == []


@pytest.mark.parametrize(
    ("text", "criterion"),
    one_in_five(
        [("Exspiration", "expiratory"), ("MIP 8/2", "projection of slabs"), ("links", "only a part of the chest")]
    ),
)
def test_what_the_description_says_comes_behind(tmp_path, text, criterion):
    """The two series are equal, and the number of the worse one is smaller."""
    save(chest.chest(SeriesDescription=text, SeriesInstanceUID="1.2.9.1.0"), tmp_path / "source" / "a")
    result = ingested(chest.chest(SeriesDescription="Thorax 1.0 Inspiration"), tmp_path)
    assert result.report.set_index("status")["reason"]["not chosen"] == criterion


@pytest.mark.parametrize(
    ("header", "code"),
    one_in_five(
        [
            ({"SeriesDescription": "Exspiration"}, "expiratory"),
            ({"ProtocolName": "Thorax exp"}, "expiratory"),
            ({"ImageComments": "espiratoria"}, "expiratory"),
            ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "projection"),
            ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "derived"),
            ({"PatientPosition": "HFP"}, "prone"),
        ]
    ),
)
def test_it_is_taken_and_told_where_nothing_better_is_there(tmp_path, header, code):
    result = ingested(chest.chest(**header), tmp_path)
    assert not wrong(result.image).any()
    assert code in result.codes


def test_without_a_word_the_breath_with_more_air_is_taken(tmp_path):
    save(chest.chest(breath_mm=40.0, SeriesInstanceUID="1.2.9.1.0"), tmp_path / "source" / "a")
    result = ingested(chest.chest(), tmp_path)
    assert not wrong(result.image).any()
    assert result.report.set_index("status")["reason"]["not chosen"] == "less air in the lungs"


def test_no_free_text_of_the_header_is_kept(tmp_path):
    secret = "Frau Lungenmeier exp"
    result = ingested(chest.chest(SeriesDescription=secret, ProtocolName=secret, ImageComments=secret), tmp_path)
    assert "expiratory" in result.codes
    texts = [path.read_text() for path in (tmp_path / "study").rglob("*") if path.suffix in (".csv", ".json", ".yaml")]
    assert not any("meier" in text for text in [*texts, result.report.to_string()])
