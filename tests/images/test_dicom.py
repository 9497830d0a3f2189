"""DICOM files of every kind that a hospital sends: compressed, bare, damaged, mixed up. Each is made here."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from sscct_lib.images.dicom import find_series, numbered, read_headers
from sscct_lib.images.dicom_pixels import read_frames, volumes_of
from sscct_lib.intake.series import CRITERIA, find_candidates
from sscct_lib.study.folder import StudyError
from sscct_lib.study.results import ScanError
from tests.images import chest
from tests.images.dicom_samples import (
    STEP_MM,
    compress,
    enhanced,
    hounsfield,
    read_series,
    save,
    series,
    slice_of,
    why_unusable,
)


def volume(folder) -> tuple[np.ndarray, list[str]]:
    """Read the only series of a folder: its values in HU, and the notes."""
    (files,), _ = find_series(folder)
    image, notes = read_series(read_headers(files))
    return sitk.GetArrayFromImage(image), notes


def smooth(n: int = 24) -> np.ndarray:
    """Values as a lossy encoder expects them, shape (n, 24, 32)."""
    z, y, x = np.ogrid[:n, :24, :32]
    return (-400 + 300 * np.sin(z / 7) + 10 * y - 8 * x).astype(np.int16)


LOSSLESS = (
    RLELossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1, JPEG2000Lossless, DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)  # fmt: skip


class TestTransferSyntaxes:
    @pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
    def test_lossless_ones_keep_every_hounsfield_unit(self, tmp_path, syntax):
        truth = hounsfield()
        slices = series(truth)
        for item in slices:
            compress(item, syntax, tmp_path)
        found, _ = volume(save(slices, tmp_path / "series"))
        assert (found == truth).all()

    def test_big_endian(self, tmp_path):
        truth = hounsfield()
        slices = save(series(truth), tmp_path / "little")
        (tmp_path / "big").mkdir()
        for path in slices.iterdir():
            item = pydicom.dcmread(path)
            item.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            item.PixelData = np.frombuffer(item.PixelData, "<u2").astype(">u2").tobytes()
            pydicom.dcmwrite(tmp_path / "big" / path.name, item, little_endian=False, implicit_vr=False)
        found, _ = volume(tmp_path / "big")
        assert (found == truth).all()

    @pytest.mark.parametrize(("syntax", "error_hu"), [(JPEGLSNearLossless, 3), (JPEG2000, 12)], ids=["LS", "2000"])
    def test_lossy_ones_are_read_told_and_ranked_behind(self, tmp_path, syntax, error_hu):
        truth = smooth()
        lossy = series(truth, RescaleIntercept=-1024, PixelRepresentation=0)
        for item in lossy:
            compress(item, syntax, tmp_path)
        found, _ = volume(save(lossy, tmp_path / "source" / "lossy"))
        assert 0 < np.abs(found - truth).max() <= error_hu
        exact = series(truth, SeriesInstanceUID="1.2.3.100.9", SliceThickness=9.0)
        save(exact, tmp_path / "source" / "exact")
        candidates = find_candidates(tmp_path / "source", "soft")
        assert [one.header["lossy"] for one in sorted(candidates, key=lambda one: one.preference)] == [False, True]

    def test_loss_that_only_the_header_tells(self, tmp_path):
        save(series(hounsfield(), LossyImageCompression="01"), tmp_path)
        (candidate,) = find_candidates(tmp_path, "soft")
        assert candidate.header["lossy"]

    def test_compression_that_cannot_be_read_is_named(self, tmp_path):
        slices = series(hounsfield())
        for item in slices:
            item.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(200)])
            item.file_meta.TransferSyntaxUID = HTJ2KLossless
        with pytest.raises(ScanError, match=r"none of the 24 slices.*High-Throughput JPEG 2000"):
            volume(save(slices, tmp_path))

    @pytest.mark.parametrize("syntax", LOSSLESS[:5], ids=lambda syntax: syntax.name)
    def test_compressed_slice_cut_short_is_treated_as_missing(self, tmp_path, syntax):
        truth = hounsfield()
        slices = series(truth)
        for item in slices:
            compress(item, syntax, tmp_path)
        folder = save(slices, tmp_path / "series")
        victim = next(path for path in folder.iterdir() if pydicom.dcmread(path).InstanceNumber == 18)
        victim.write_bytes(victim.read_bytes()[:-300])
        found, notes = volume(folder)
        assert "1 slice(s) truncated or damaged: treated as missing (image 18)" in notes
        assert (np.delete(found, 17, axis=0) == np.delete(truth, 17, axis=0)).all()

    def test_files_without_preamble(self, tmp_path):
        truth = hounsfield()
        slices = series(truth)
        for item in slices:
            item.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        for path in save(slices, tmp_path).iterdir():
            content = path.read_bytes()
            length = int.from_bytes(content[140:144], "little")  # of group 2, which ends where group 8 begins
            path.write_bytes(content[144 + length :])
            assert path.read_bytes()[:2] == b"\x08\x00"
        found, _ = volume(tmp_path)
        assert (found == truth).all()


class TestFoundByFuzzing:
    def test_a_transfer_syntax_of_many_values(self, tmp_path):
        slices = series(hounsfield())
        path = sorted(save(slices, tmp_path).iterdir())[0]
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"063Y\\063Y\\063Y\\063Y ", 1))
        (candidate,) = find_candidates(tmp_path, "soft")
        assert candidate.status == "not chosen"
        _, notes = volume(tmp_path)
        assert any(note.startswith("1 slice(s) truncated or damaged: treated as missing") for note in notes)

    @pytest.mark.parametrize("changed", [{"ImagePositionPatient": ["1e308"] * 3}, {"PixelSpacing": [0, 3]}])
    def test_geometry_that_no_scanner_writes(self, tmp_path, changed):
        save(series(hounsfield(), **changed), tmp_path)
        with pytest.raises(StudyError, match="no volume can be made"):
            find_candidates(tmp_path, "soft")

    def test_a_file_of_many_frames_that_names_none(self, tmp_path):
        item = enhanced(hounsfield())
        item.PerFrameFunctionalGroupsSequence = []
        save([item], tmp_path)
        with pytest.raises(StudyError, match="no slices: its files name no frame"):
            find_candidates(tmp_path, "soft")

    def test_a_series_of_which_one_slice_can_be_decoded(self, tmp_path):
        slices = series(hounsfield())
        for item in slices[1:]:
            item.PixelData = item.PixelData[:100]
        with pytest.raises(ScanError, match="only one of 24 slices can be decoded"):
            volume(save(slices, tmp_path))


class TestEnhanced:
    def test_rescale_that_changes_from_frame_to_frame(self, tmp_path):
        truth = hounsfield() // 4 * 4
        item = enhanced(truth)
        del item.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        stored = np.frombuffer(item.PixelData, "<i2").reshape(truth.shape).copy()
        for i, group in enumerate(item.PerFrameFunctionalGroupsSequence):
            rescale = Dataset()
            rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = -1024, (2, 4, 1)[i % 3], "HU"
            group.PixelValueTransformationSequence = [rescale]
            stored[i] //= (2, 4, 1)[i % 3]
        item.PixelData = stored.tobytes()
        found, _ = volume(save([item], tmp_path))
        assert (found == truth).all()

    def test_padding(self, tmp_path):
        truth = hounsfield()
        truth[:, 0] = -2024
        item = enhanced(truth)
        item.PixelPaddingValue = -1000
        found, _ = volume(save([item], tmp_path))
        assert (found[:, 0] == -1024).all()
        assert (found[:, 1:] == truth[:, 1:]).all()

    def test_compressed(self, tmp_path):
        truth = hounsfield()
        item = enhanced(truth)
        item.compress(RLELossless, generate_instance_uid=False)
        found, _ = volume(save([item], tmp_path))
        assert (found == truth).all()


POSITIONS = {
    "HFS": ("L", "P"), "HFP": ("R", "A"), "HFDR": ("P", "R"), "HFDL": ("A", "L"),
    "FFS": ("R", "P"), "FFP": ("L", "A"), "FFDR": ("A", "R"), "FFDL": ("P", "L"),
}  # fmt: skip
"""To which side of the patient the rows and the columns of a picture run, DICOM PS3.3, C.7.3.1.1.2."""
SIDES = {"L": (1.0, 0.0, 0.0), "R": (-1.0, 0.0, 0.0), "P": (0.0, 1.0, 0.0), "A": (0.0, -1.0, 0.0)}


@pytest.mark.parametrize("position", POSITIONS)
def test_a_patient_in_any_position_is_where_the_phantom_is(tmp_path, position):
    axes = tuple(SIDES[side] for side in POSITIONS[position])
    slices = chest.chest(axes=axes, PatientPosition=position)
    (files,), _ = find_series(chest.save(slices if position[0] == "H" else slices[::-1], tmp_path))
    image, notes = read_series(read_headers(files))
    assert notes == []
    assert not chest.wrong(image).any()
    assert image.GetSize() == (chest.COLUMNS, chest.ROWS, chest.N)
    assert image.GetSpacing() == (chest.PIXEL_MM, chest.PIXEL_MM, chest.STEP_MM)


def test_oblique_slices_keep_their_place(tmp_path):
    """Slices turned by 10 degrees about the body's axis and 8 degrees forward: a stack along their normal."""
    a, b = np.radians(10), np.radians(8)
    across = np.array([np.cos(a), np.sin(a), 0])
    down = np.array([-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)])
    normal = np.cross(across, down)
    first = np.array([-50.0, -40.0, 100.0])
    truth = hounsfield()
    axes = [float(value) for value in (*across, *down)]
    slices = [
        slice_of(
            plane, i + 1, 0.0,
            ImageOrientationPatient=axes, ImagePositionPatient=[float(v) for v in first + STEP_MM * i * normal],
        )
        for i, plane in enumerate(truth)
    ]  # fmt: skip
    (files,), _ = find_series(save(slices, tmp_path))
    image, notes = read_series(read_headers(files))
    assert notes == []
    assert (sitk.GetArrayFromImage(image) == truth).all()
    for column, row, k in ((0, 0, 0), (31, 23, 23), (10, 5, 20)):
        expected = first + 2.5 * column * across + 3.0 * row * down + STEP_MM * k * normal
        assert np.allclose(image.TransformIndexToPhysicalPoint((column, row, k)), expected, atol=0.01)


class TestDamage:
    def test_a_file_cut_anywhere_never_stops_the_others(self, tmp_path):
        good = save(series(hounsfield()), tmp_path / "source" / "good")
        whole = next(good.iterdir()).read_bytes()
        cut = tmp_path / "source" / "cut"
        cut.mkdir()
        for n in range(0, len(whole), 97):
            (cut / f"{n}.dcm").write_bytes(whole[:n].replace(b"1.2.3.100", b"1.2.3.200"))
        candidates = find_candidates(tmp_path / "source", "soft")
        assert [one.uid for one in candidates if one.kind == "CT" and one.status == "not chosen"] == ["1.2.3.100.1"]

    def test_random_damage_of_headers_never_raises(self, tmp_path):
        good = save(series(hounsfield()), tmp_path / "source" / "good")
        whole = next(good.iterdir()).read_bytes()
        rng = np.random.default_rng(4)
        for k in range(400):
            damaged = bytearray(whole.replace(b"1.2.3.100", b"1.2.3.200"))
            for place in rng.integers(132, 1500, 3):
                damaged[place] = rng.integers(0, 256)
            (tmp_path / "source" / f"{k}.dcm").write_bytes(bytes(damaged))
        candidates = find_candidates(tmp_path / "source", "soft")
        assert "1.2.3.100.1" in [one.uid for one in candidates if one.status == "not chosen"]

    def test_one_damaged_header_costs_one_slice(self, tmp_path):
        truth = hounsfield()
        folder = save(series(truth), tmp_path)
        victim = next(path for path in folder.iterdir() if pydicom.dcmread(path).InstanceNumber == 18)
        victim.write_bytes(
            victim.read_bytes().replace(b"\x18\x00\x50\x00DS\x04\x007.0 ", b"\x18\x00\x50\x00DS\x04\x00five")
        )
        found, notes = volume(folder)
        assert notes[0] == "1 file(s) with a damaged header left out"
        assert (np.delete(found, 17, axis=0) == np.delete(truth, 17, axis=0)).all()

    @pytest.mark.parametrize("content", [b"", b"text", b"\x08\x00" + bytes(200), bytes(128) + b"DICM"])
    def test_other_files_are_counted(self, tmp_path, content):
        save(series(hounsfield()), tmp_path / "good")
        (tmp_path / "other").write_bytes(content)
        found, n_other = find_series(tmp_path)
        assert (len(found), n_other) == (1, 1)


class TestRefused:
    def why(self, folder) -> str:
        (files,), _ = find_series(folder)
        return why_unusable(read_headers(files))

    def test_colour(self, tmp_path):
        assert "colour" in self.why(save(series(hounsfield(), SamplesPerPixel=3), tmp_path))

    def test_modality_that_could_be_free_text_is_not_repeated(self, tmp_path):
        assert "unknown modality" in self.why(save(series(hounsfield(), Modality="Meier"), tmp_path / "a"))
        for other in ("MEIER", "DOEJANE", "JANE DOE", "P1"):
            why = self.why(save(series(hounsfield(), Modality=other), tmp_path / other))
            assert why == "another modality, not a CT volume"
        assert self.why(save(series(hounsfield(), Modality="PT"), tmp_path / "pt")).startswith("PT, ")

    def test_a_number_that_may_be_somebodys_is_not_repeated(self):
        assert numbered([3, 4, 4711004, 19530412]) == "image 3 to 4"
        assert numbered([4711004]) == "without a number"


def test_range_of_padding_becomes_air(tmp_path):
    truth = hounsfield()
    padded = truth.copy()
    padded[:, 0, ::2], padded[:, 0, 1::2] = 4000, 4090
    slices = series(padded, PixelPaddingValue=5000, PixelPaddingRangeLimit=5114)
    for item in slices:
        for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
            item[tag].VR = "SS"
    found, _ = volume(save(slices, tmp_path))
    assert (found[:, 0] == -1024).all()
    assert (found[:, 1:] == truth[:, 1:]).all()


def test_two_passes_that_cannot_be_told_apart_are_refused(tmp_path):
    """Two passes with the same acquisition number and the same image numbers would be mixed."""
    save(series(hounsfield()) + series(hounsfield(seed=8)), tmp_path)
    (candidate,) = _candidates_of(tmp_path)
    assert candidate.told[0].code == "indistinct"
    assert "different images at one place, at 24 places" in candidate.reason


def test_two_passes_with_running_numbers_are_told_apart(tmp_path):
    truth, other = hounsfield(), hounsfield(seed=8)
    second = [slice_of(p, 25 + i, 100 + STEP_MM * i) for i, p in enumerate(other)]
    (files,), _ = find_series(save(series(truth) + second, tmp_path))
    found = volumes_of(read_headers(files))
    assert [one.apart for one in found] == ["order of images"] * 2
    read = [sitk.GetArrayFromImage(read_frames(one.frames)[0]) for one in found]
    assert (read[0] == truth).all()
    assert (read[1] == other).all()


def _candidates_of(folder):
    save(series(hounsfield(), StudyInstanceUID="1.2.3.900", SeriesInstanceUID="1.2.3.900.1"), folder / "other")
    return [one for one in find_candidates(folder, "soft") if one.uid != "1.2.3.900.1"]


@pytest.mark.parametrize(
    ("description", "expiratory"),
    [
        ("Thorax EXP 1.0", True),
        ("chest_expiration", True),
        ("Expiratory", True),
        ("EXPERT lung", False),
        ("Inspir", False),
    ],
)
def test_expiratory_scans_come_behind(tmp_path, description, expiratory):
    save(series(hounsfield(), SeriesDescription=description), tmp_path)
    (candidate,) = find_candidates(tmp_path, "soft")
    assert ("expiratory" in [one.code for one in candidate.told]) is expiratory
    assert candidate.preference[CRITERIA.index("expiratory")] is expiratory


def test_values_without_rescale_are_no_hounsfield_units(tmp_path):
    """The stored values of a series that lost its rescale lie above 0: no air is among them."""
    from sscct_lib.intake.ingest import ingest
    from sscct_lib.study.folder import StudyError

    save(series(hounsfield() + 1024, RescaleIntercept=0), tmp_path / "source")
    with pytest.raises(StudyError, match="expected air near -1000 HU: were rescale slope"):
        ingest(tmp_path / "source", None, tmp_path / "study")
