"""Ingest: DICOM series written here with pydicom, one for each fault, and a public chest CT."""

import re
import stat
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import RLELossless

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.images.scanners import is_sharp, known_kernel, known_manufacturer
from sscct_lib.intake.ingest import ingest
from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.recovery import alone_in
from sscct_lib.study.seals import config_folder, write_secret
from tests.images.dicom_samples import CT, SECRET, STEP_MM, enhanced, hounsfield, save, series, slice_of

LETTERS = "gq0WzX7cRk2mVbT9yNs4LhPe8JdFuA1x"
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def source(tmp_path) -> Path:
    return tmp_path / "export"


@pytest.fixture
def study_folder(tmp_path) -> Path:
    return tmp_path / "study"


def only_scan(study_folder: Path) -> sitk.Image:
    (path,) = (study_folder / "scans").glob("*.nii.gz")
    return sitk.ReadImage(str(path))


def ingested(slices: list[Dataset], source: Path, study_folder: Path) -> tuple[np.ndarray, str]:
    """Ingest one series; returns its values in HU, and what the report says of it."""
    report = ingest(save(slices, source / "a" / "b" / "c"), None, study_folder)
    (row,) = report.to_dict("records")
    assert row["status"] == "scan"
    return sitk.GetArrayFromImage(only_scan(study_folder)), row["reason"]


class TestRoundTrip:
    @pytest.mark.parametrize("rescale", [(1, -1024), (1, 0), (2, -1024), (0.5, -1000)])
    def test_hounsfield_units_are_exact(self, source, study_folder, rescale):
        slope, intercept = rescale
        truth = hounsfield() // 2 * 2
        found, _ = ingested(series(truth, RescaleSlope=slope, RescaleIntercept=intercept), source, study_folder)
        assert (found == truth).all()

    def test_slope_that_changes_from_slice_to_slice(self, source, study_folder):
        truth = hounsfield() // 4 * 4
        slices = series(truth[:20], RescaleSlope=2) + [
            slice_of(plane, i + 1, 100 + STEP_MM * i, RescaleSlope=4) for i, plane in enumerate(truth) if i >= 20
        ]
        found, _ = ingested(slices, source, study_folder)
        assert (found == truth).all()

    def test_geometry(self, source, study_folder):
        ingested(series(hounsfield()), source, study_folder)
        image = only_scan(study_folder)
        assert image.GetSpacing() == pytest.approx((2.5, 3.0, 7.0), abs=0.01)
        assert image.GetOrigin() == pytest.approx((-50, -40, 100), abs=0.01)
        assert np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-4)

    def test_slices_from_head_to_feet(self, source, study_folder):
        truth = hounsfield()
        slices = [slice_of(plane, len(truth) - i, 100 + STEP_MM * i) for i, plane in enumerate(truth)]
        found, _ = ingested(slices[::-1], source, study_folder)
        assert (found == truth).all()

    def test_prone_patient_is_turned_to_lps(self, source, study_folder):
        truth = hounsfield()
        turned = truth[:, ::-1, ::-1]
        header = {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0], "PatientPosition": "HFP"}
        slices = [
            slice_of(plane, i + 1, 0, **header, ImagePositionPatient=[27.5, 29.0, 100 + STEP_MM * i])
            for i, plane in enumerate(turned)
        ]
        found, _ = ingested(slices, source, study_folder)
        assert (found == truth).all()
        assert only_scan(study_folder).GetOrigin() == pytest.approx((-50, -40, 100), abs=0.01)

    def test_padding_becomes_air(self, source, study_folder):
        truth = hounsfield()
        padded = truth.copy()
        padded[:, 0, :] = -3000
        found, _ = ingested(series(padded, RescaleIntercept=-1000, PixelPaddingValue=-2000), source, study_folder)
        assert (found[:, 0] == -1024).all()
        assert (found[:, 1:] == truth[:, 1:]).all()

    def test_compressed_transfer_syntax(self, source, study_folder):
        truth = hounsfield()
        slices = series(truth)
        for item in slices:
            item.compress(RLELossless, generate_instance_uid=False)
        found, _ = ingested(slices, source, study_folder)
        assert (found == truth).all()

    def test_enhanced_multi_frame(self, source, study_folder):
        truth = hounsfield()
        found, _ = ingested([enhanced(truth)], source, study_folder)
        assert (found == truth).all()
        assert only_scan(study_folder).GetSpacing() == pytest.approx((2.5, 3.0, 7.0), abs=0.01)


class TestFaults:
    def test_duplicate_files(self, source, study_folder):
        truth = hounsfield()
        slices = series(truth)
        save(slices[:5], source / "again")
        found, reason = ingested(slices, source, study_folder)
        assert (found == truth).all()
        assert "no follow-up" in reason

    def test_copies_of_files_are_left_out(self, source, study_folder):
        truth = hounsfield()
        slices = series(truth)
        save(slices[:5], source / "again")
        save(slices, source / "first")
        report = ingest(source, None, study_folder)
        assert "5 duplicate file(s) left out" in report["reason"][0]
        assert (sitk.GetArrayFromImage(only_scan(study_folder)) == truth).all()

    def test_missing_slice_is_interpolated_and_told(self, source, study_folder):
        truth = hounsfield()
        slices = series(truth)
        del slices[17]
        found, reason = ingested(slices, source, study_folder)
        between = np.rint((truth[16].astype(float) + truth[18]) / 2)
        assert "uneven or missing slices: interpolated to steps of 7 mm (+1 slices, missing: image 18)" in reason
        assert len(found) == 24
        assert (found[17] == between).all()
        assert (np.delete(found, 17, axis=0) == np.delete(truth, 17, axis=0)).all()

    def test_truncated_slice_is_treated_as_missing(self, source, study_folder):
        truth = hounsfield()
        slices = series(truth)
        slices[17].PixelData = slices[17].PixelData[:-100]
        found, reason = ingested(slices, source, study_folder)
        assert "1 slice(s) truncated or damaged" in reason
        assert (found[18] == truth[18]).all()
        assert len(found) == 24

    def test_wide_gap_is_refused(self, source, study_folder):
        slices = series(hounsfield(30))
        del slices[10:16]
        with pytest.raises(StudyError, match=r"about 6 slices are missing, the widest gap is 49\.0 mm"):
            ingest(save(slices, source), None, study_folder)

    def test_gantry_tilt_is_straightened(self, source, study_folder):
        """A straight bar along the patient's axis, seen by tilted slices, comes out straight."""
        angle = np.radians(15)
        axes = [1, 0, 0, 0, np.cos(angle), np.sin(angle)]
        y = np.arange(48) * 3.0
        slices = []
        for i in range(24):
            # A point at distance t down the slice lies at y = -40 + t cos(angle).
            bar = np.abs(-40 + y * np.cos(angle) - 25.0) < 12
            plane = np.where(bar[:, None], 40, -1000) * np.ones((48, 32))
            slices.append(slice_of(plane, i + 1, 100 + STEP_MM * i, ImageOrientationPatient=[float(v) for v in axes]))
        found, reason = ingested(slices, source, study_folder)
        assert "gantry tilt of 15 degrees straightened" in reason
        image = only_scan(study_folder)
        bar_y = [
            np.mean([image.TransformIndexToPhysicalPoint((16, int(row), k))[1] for row in rows])
            for k in range(3, 21)
            if len(rows := np.flatnonzero(found[k, :, 16] > -480))
        ]
        assert len(bar_y) == 18
        assert np.ptp(bar_y) < 3.0

    def test_several_acquisitions_in_a_series(self, source, study_folder):
        truth, other = hounsfield(), hounsfield(21, seed=5)
        slices = series(other, AcquisitionNumber=1) + series(truth, AcquisitionNumber=2)
        found, reason = ingested(slices, source, study_folder)
        assert "21 slice(s) of another acquisition left out (image 1 to 21)" in reason
        assert (found == truth).all()

    def test_scout_inside_the_series(self, source, study_folder):
        truth = hounsfield()
        scout = slice_of(np.zeros((50, 60)), 99, 0, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
        found, reason = ingested([*series(truth), scout], source, study_folder)
        assert "1 slice(s) of another size or orientation" in reason
        assert (found == truth).all()

    def test_burned_in_annotation_is_flagged(self, source, study_folder):
        _, reason = ingested(series(hounsfield(), BurnedInAnnotation="YES"), source, study_folder)
        assert "burned into the pixels" in reason


class TestChoice:
    def test_thin_soft_axial_series_wins(self, source, study_folder):
        thin = hounsfield(64)
        spec = {"SeriesInstanceUID": "1.2.3.100.2", "SliceThickness": 2.5}
        save([slice_of(p, i, 2.5 * i, **spec) for i, p in enumerate(thin)], source / "soft")
        spec = {"SeriesInstanceUID": "1.2.3.100.3", "SliceThickness": 2.5, "ConvolutionKernel": "B70f"}
        save([slice_of(p, i, 2.5 * i, **spec) for i, p in enumerate(thin)], source / "sharp")
        save(series(hounsfield()), source / "thick")
        coronal = {"SeriesInstanceUID": "1.2.3.100.4", "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
        save(
            [
                slice_of(p, i, 0, **coronal, ImagePositionPatient=[0, STEP_MM * i, 0])
                for i, p in enumerate(hounsfield(25))
            ],
            source / "coronal",
        )
        scout = {"SeriesInstanceUID": "1.2.3.100.5", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
        save(series(hounsfield(2), **scout), source / "scout")
        save(series(hounsfield(10), SeriesInstanceUID="1.2.3.100.6"), source / "few")
        report = ingest(source, None, study_folder)
        told = {
            (row["n_slices"], row["kernel"], row["kind"]): (row["status"], row["reason"])
            for row in report.to_dict("records")
        }
        assert told[64, "B30f", "CT"][0] == "scan"
        assert told[64, "B70f", "CT"] == ("not chosen", "another kernel than configured")
        assert told[24, "B30f", "CT"] == ("not chosen", "thicker slices")
        assert told[2, "B30f", "localizer"] == ("set aside", "localizer, not a CT volume")
        assert told[10, "B30f", "CT"] == ("set aside", "10 slices, expected at least 20")
        assert told[25, "B30f", "CT"][1].startswith("not axial")
        assert (report["status"] == "scan").sum() == 1
        assert (sitk.GetArrayFromImage(only_scan(study_folder)) == thin).all()

    def test_next_best_is_taken_when_the_best_cannot_be_read(self, source, study_folder):
        best = series(hounsfield(30), SeriesInstanceUID="1.2.3.100.2")
        for item in best:
            item.PixelData = item.PixelData[:-100]
        save(best, source / "best")
        truth = hounsfield()
        save(series(truth), source / "second")
        report = ingest(source, None, study_folder)
        assert sorted(report["status"]) == ["scan", "set aside"]
        assert (sitk.GetArrayFromImage(only_scan(study_folder)) == truth).all()

    @pytest.mark.parametrize(
        ("kernel", "sharp"),
        [("B30f", False), ("Br40d", False), ("B70f", True), ("Bl57d", True), ("FC08", False), ("FC51", True),
         ("LUNG", True), ("STANDARD", False), ("unheard of", None)],
    )  # fmt: skip
    def test_kernels(self, kernel, sharp):
        assert is_sharp(kernel) is sharp

    def test_free_text_is_no_kernel_or_maker(self):
        assert known_kernel("Frau Meier prone") is None
        assert [known_kernel(name) for name in ("Meier", "DOE", "Jane", "P12", "K55a1", "JD", "Meier55")] == [None] * 7
        assert known_kernel("Br40d") == "Br40d"
        assert known_manufacturer("GE MEDICAL SYSTEMS") == "GE"
        assert known_manufacturer("Dr. Georg Meier") is None


NUMBERS = {
    "SliceThickness": 6.789, "RescaleSlope": 1.234, "PixelSpacing": 3.456, "KVP": 123.5, "ImagePositionPatient": -50.25
}  # fmt: skip


def with_number(name: str, is_enhanced: bool) -> list[Dataset]:
    """A series of a patient of its own, in which a number of the header can be found again."""
    number, uid = NUMBERS[name], f"1.2.3.{[*NUMBERS].index(name) + 1}.{int(is_enhanced)}"
    slices = [enhanced(hounsfield())] if is_enhanced else series(hounsfield())
    for item in slices:
        item.PatientID, item.StudyInstanceUID, item.SeriesInstanceUID = name + uid[-1], uid, f"{uid}.1"
        if is_enhanced:
            del item.SliceThickness
            shared = item.SharedFunctionalGroupsSequence[0]
            groups = [shared.PixelMeasuresSequence[0], shared.PixelValueTransformationSequence[0]]
            groups += [one.PlanePositionSequence[0] for one in item.PerFrameFunctionalGroupsSequence]
            for group in groups:
                if name in group:
                    value = group[name].value
                    setattr(group, name, number if not isinstance(value, MultiValue) else [number, *value[1:]])
            if name == "KVP":
                item.KVP = number
        else:
            value = item.get(name)
            setattr(item, name, [number, *value[1:]] if isinstance(value, MultiValue) else number)
    return slices


@pytest.mark.parametrize("bad", [b"nan", b"inf", b"x.y", b"1e999", b"-1", b"0", b"\xff\xfe", b"1\\2", b""])
def test_a_number_that_is_none_never_stops_the_others(tmp_path, bad):
    save(series(hounsfield()), tmp_path / "export" / "sound")
    for name, number in NUMBERS.items():
        for is_enhanced in (False, True):
            folder = save(with_number(name, is_enhanced), tmp_path / "export" / f"{name}{is_enhanced}")
            for path in folder.iterdir():
                content, written = path.read_bytes(), str(number).encode()
                assert written in content
                path.write_bytes(content.replace(written, bad.ljust(len(written))))
    report = ingest(tmp_path / "export", None, tmp_path / "study")
    assert len(report) == 1 + 2 * len(NUMBERS)
    assert report["status"].isin(["scan", "set aside"]).all()
    assert (report.loc[report["status"] == "set aside", "reason"] != "").all()
    manifest = read_manifest(load_study(tmp_path / "study"))
    assert len(manifest) == (report["status"] == "scan").sum() >= 1
    assert (manifest["slice_thickness_mm"].dropna() > 0).all()


class TestNothingToUse:
    def test_no_ct(self, source, study_folder):
        for i in range(3):
            save(series(hounsfield(3), Modality="MR", SeriesInstanceUID=f"1.2.{i}", SOPClassUID=CT), source / str(i))
        save(series(hounsfield(1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), source / "scout")
        (source / "notes.txt").write_text("hello")
        expected = r"no chest CT series; found 3 MR series, 1 localizer, 1 other file\(s\)"
        with pytest.raises(StudyError, match=expected):
            ingest(source, None, study_folder)
        assert not (study_folder / "data_manifest.csv").exists()

    def test_ct_of_something_else(self, source, study_folder):
        save(series(hounsfield(20)), source)
        with pytest.raises(StudyError, match="133 mm long, expected at least 150 mm for a whole thorax"):
            ingest(source, None, study_folder)

    def test_empty_folder(self, source, study_folder):
        source.mkdir()
        with pytest.raises(StudyError, match="found no files"):
            ingest(source, None, study_folder)

    def test_no_folder(self, source, study_folder):
        with pytest.raises(StudyError, match="is no folder"):
            ingest(source, None, study_folder)

    def test_one_bad_series_does_not_stop_the_others(self, source, study_folder):
        save(series(hounsfield()), source / "good")
        bad = series(hounsfield(), StudyInstanceUID="1.2.3.200", SeriesInstanceUID="1.2.3.200.1")
        save(bad[:10] + bad[16:], source / "bad")
        lost = series(hounsfield(), StudyInstanceUID="1.2.3.300", SeriesInstanceUID="1.2.3.300.1", PixelSpacing=None)
        save(lost, source / "lost")
        report = ingest(source, None, study_folder)
        assert sorted(report["status"]) == ["scan", "set aside", "set aside"]
        assert report["reason"].str.contains("without position, orientation or pixel spacing").any()


CLINICAL = (
    "patient_id,scan_date,last_contact_date,event_observed,age_years,sex,fvc_percent,comment\n"
    "MRN-4711,,2018-03-04,1,63,female,80,Frau Müller\n"
    "MRN-4711,2016-03-10,2018-03-04,1,,female,71,worse\n"
    "MRN-9999,,2018-03-04,0,50,male,,never scanned\n"
)


@pytest.fixture(scope="module")
def three_visits(tmp_path_factory) -> Path:
    """Write two scans of a patient of the table, and one of a patient whom it lacks."""
    folder = tmp_path_factory.mktemp("visits")
    save(series(hounsfield()), folder / "2015")
    later = {"StudyInstanceUID": "1.2.3.200", "SeriesInstanceUID": "1.2.3.200.1", "StudyDate": "20160304"}
    save(series(hounsfield(seed=2), **later, PatientAge="064Y"), folder / "2016")
    other = {"StudyInstanceUID": "1.2.3.300", "SeriesInstanceUID": "1.2.3.300.1", "PatientID": "MRN-1"}
    save(series(hounsfield(seed=3), **other), folder / "other")
    return folder


class TestClinical:
    def test_values_reach_the_scans_that_they_belong_to(self, three_visits, tmp_path, study_folder):
        clinical = tmp_path / "clinical.csv"
        clinical.write_text(CLINICAL)
        report = ingest(three_visits, clinical, study_folder)
        manifest = read_manifest(load_study(study_folder))
        followed = manifest[manifest["event_observed"].notna()].sort_values("scan_day")
        assert followed["scan_day"].tolist() == [0, 366]
        assert followed["last_contact_day"].tolist() == [1096, 1096]
        assert followed["fvc_percent"].tolist() == [80, 71]
        assert followed["age_years"].tolist() == [63, 64]
        unfollowed = manifest[manifest["event_observed"].isna()]
        assert unfollowed["age_years"].tolist() == [63]
        assert unfollowed["last_contact_day"].isna().all()
        assert report["reason"].str.contains("no follow-up").sum() == 1
        assert (report["status"] == "no scans").sum() == 1

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("2018-03-04,1,63", "4.3.2018,1,63", "row 2, column last_contact_date: expected a date as YYYY-MM-DD"),
            ("2018-03-04,1,63", "2018-03-04,dead,63", "row 2, column event_observed: expected a whole number"),
            ("2018-03-04,1,63", "2018-03-04,2,63", r"row 2, column event_observed: expected 0 \(alive\) or 1"),
            ("1,63,female", "1,63,f", "row 2, column sex: expected female or male"),
            ("2018-03-04,1,,", "2019-03-04,1,,", "row 3, column last_contact_date: expected the same in all rows"),
            ("2018-03-04,0,50", ",0,50", "row 4: expected last_contact_date and event_observed both"),
            ("2018-03-04,1", "2014-03-04,1", r"row\(s\) 2, 3, column last_contact_date: lies before a scan"),
            ("patient_id", "patient", "has no column patient_id; found patient"),
        ],
    )
    def test_violations_name_row_and_column_and_no_patient(self, three_visits, tmp_path, old, new, expected):
        clinical = tmp_path / "clinical.csv"
        clinical.write_text(CLINICAL.replace(old, new))
        with pytest.raises(StudyError, match=expected) as caught:
            ingest(three_visits, clinical, tmp_path / "study")
        assert "MRN" not in str(caught.value)


class TestPrivacy:
    def test_no_identifier_in_any_file_of_the_study(self, tmp_path, source, study_folder):
        save(series(hounsfield(), BurnedInAnnotation="YES", SeriesDescription=SECRET), source / SECRET)
        save(series(hounsfield(2), Modality="MR", SeriesInstanceUID="1.2.9"), source / "mr")
        clinical = tmp_path / "clinical.csv"
        clinical.write_text(CLINICAL)
        report = ingest(source, clinical, study_folder)
        texts = [report.to_string()]
        for path in study_folder.rglob("*"):
            texts.append(path.name)
            if path.suffix != ".gz" and path.is_file():
                texts.append(path.read_text())
        everything = " ".join(texts)
        for secret in (SECRET, "Müller", "4711", "MRN", "9999", "1.2.3", "2015", "2018", "1960", "Klinikum"):
            assert secret not in everything
        assert str(source) not in everything

    def test_each_study_has_a_key_of_its_own_with_its_user_alone(self, source, tmp_path):
        save(series(hounsfield()), source)
        ids = [ingest(source, None, tmp_path / name)["scan_id"][0] for name in ("study.v1", "study.v2")]
        assert ids[0] != ids[1]
        keys = sorted((config_folder() / "keys").iterdir())
        assert len(keys) == 2
        for key in keys:
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
            assert re.fullmatch(r"[0-9a-f]{64}\s", key.read_text())
        (tmp_path / "study.v1").rename(tmp_path / "moved")
        assert ingest(source, None, tmp_path / "moved")["scan_id"][0] == ids[0]
        assert not list(tmp_path.glob("*.key"))
        for key in keys:
            key.unlink()
        with pytest.raises(StudyError, match="is missing: this study was made with a key"):
            ingest(source, None, tmp_path / "moved")

    def test_ids_depend_on_the_key_and_nothing_else(self, tmp_path, source):
        save(series(hounsfield()), source)
        ids = []
        for name, secret in (("one", LETTERS), ("two", LETTERS), ("three", LETTERS[::-1])):
            write_secret(tmp_path / f"{name}.key", secret.encode())
            ids.append(ingest(source, None, tmp_path / name, tmp_path / f"{name}.key")["scan_id"][0])
        assert ids[0] == ids[1] != ids[2]

    def test_unfit_keys(self, source, study_folder, tmp_path):
        ingest(save(series(hounsfield()), source), None, study_folder)
        other = tmp_path / "other.key"
        write_secret(other, b"")
        for secret, words in (
            ("short", "has 5 characters"),
            (LETTERS, "not the key"),
            ("z" * 40, "could be guessed"),
            ("0123456789" * 5, "could be guessed"),
            ("our registry of patients in Basel, since 2004", "is a sentence, and could be guessed"),
            ("OurRegistryOfPatientsInBaselSince2004", "is made of words, and could be guessed"),
            ("ABC123DEF456GHI789JKL012MNO345PQR678", "goes through the alphabet, and could be guessed"),
            ("83920174659201836475019283746501", "is too short for what it is made of"),
        ):
            other.write_text(secret)
            with pytest.raises(StudyError, match=words):
                ingest(source, None, study_folder, other)
        other.write_text(LETTERS)
        other.chmod(0o640)
        with pytest.raises(StudyError, match=r"may be read by others, .*: chmod 600 mends it"):
            ingest(source, None, study_folder, other)

    def test_key_inside_the_study_is_refused(self, source, study_folder):
        save(series(hounsfield()), source)
        with pytest.raises(StudyError, match="lies inside the study"):
            ingest(source, None, study_folder, study_folder / "key")


class TestResuming:
    def test_finished_scans_are_not_read_again(self, source, study_folder):
        save(series(hounsfield()), source)
        first = ingest(source, None, study_folder)
        (scan,) = (study_folder / "scans").glob("*")
        written = scan.stat().st_mtime_ns
        pd.testing.assert_frame_equal(ingest(source, None, study_folder), first)
        assert scan.stat().st_mtime_ns == written
        scan.unlink()
        ingest(source, None, study_folder)
        assert scan.is_file()

    def test_scans_of_another_source_are_not_dropped(self, tmp_path, source, study_folder):
        ingest(save(series(hounsfield()), source), None, study_folder)
        other = save(series(hounsfield(), StudyInstanceUID="1.2.3.9"), tmp_path / "other")
        with pytest.raises(StudyError, match=r"lists 1 scan\(s\) that are not in the source"):
            ingest(other, None, study_folder)

    @pytest.fixture
    def followed(self, tmp_path, source, study_folder):
        """A study of one scan with follow-up; gives its clinical table."""
        save(series(hounsfield(), PatientID="P1", StudyDate="20150304"), source)
        clinical = tmp_path / "clinical.csv"
        clinical.write_text("patient_id,last_contact_date,event_observed,fvc_percent\nP1,2018-03-04,0,71.5\n")
        ingest(source, clinical, study_folder)
        return clinical

    def test_what_stays_or_is_added_needs_no_word(self, tmp_path, source, study_folder, followed):
        before = (study_folder / "data_manifest.csv").read_bytes()
        ingest(source, followed, study_folder)
        assert (study_folder / "data_manifest.csv").read_bytes() == before
        save(series(hounsfield(), PatientID="P2", StudyDate="20150304", StudyInstanceUID="1.2.3.9"), source / "more")
        followed.write_text(
            "patient_id,last_contact_date,event_observed,fvc_percent,dlco_percent\n"
            "P1,2018-03-04,0,71.5,40\nP2,2018-03-04,1,,\n"
        )
        ingest(source, followed, study_folder)
        assert len(pd.read_csv(study_folder / "data_manifest.csv")) == 2

    @pytest.mark.parametrize(
        ("row", "columns"),
        [
            (None, r"last_contact_day \(1\), event_observed \(1\).*fvc_percent \(1\)"),
            ("P1,2018-03-05,0,71.5", r"by column: last_contact_day \(1\)\."),
            ("P1,2018-03-04,1,71.5", r"by column: event_observed \(1\)\."),
            ("P1,2018-03-04,0,", r"by column: fvc_percent \(1\)\."),
        ],
    )
    def test_follow_up_is_not_lost_without_a_word(self, source, study_folder, followed, row, columns):
        before = (study_folder / "data_manifest.csv").read_bytes()
        if row is not None:
            followed.write_text(f"patient_id,last_contact_date,event_observed,fvc_percent\n{row}\n")
        with pytest.raises(StudyError, match=columns):
            ingest(source, followed if row is not None else None, study_folder)
        assert (study_folder / "data_manifest.csv").read_bytes() == before
        ingest(source, followed if row is not None else None, study_folder, replace=True)
        assert (study_folder / "data_manifest.csv").read_bytes() != before

    def test_a_scan_that_cannot_be_read_any_more_is_not_dropped(self, source, study_folder, followed):
        before = (study_folder / "data_manifest.csv").read_bytes()
        save(series(hounsfield(), PatientID="P2", StudyInstanceUID="1.2.3.9"), source / "more")
        with_both = "patient_id,last_contact_date,event_observed,fvc_percent\nP1,2018-03-04,0,71.5\n"
        followed.write_text(with_both)
        for path in source.glob("*.dcm"):
            path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(StudyError, match=r"lists 1 scan\(s\) that are not in the source"):
            ingest(source, followed, study_folder)
        assert (study_folder / "data_manifest.csv").read_bytes() == before

    def test_one_at_a_time(self, source, study_folder, followed):
        with alone_in(load_study(study_folder)), pytest.raises(StudyError, match="Another run works on this study"):
            ingest(source, followed, study_folder)


class TestVolumes:
    def test_nifti_files_by_folder_and_by_name(self, tmp_path, source, study_folder):
        image = sitk.GetImageFromArray(hounsfield())
        image.SetMetaData("descrip", SECRET)
        for name in ("P1/2015-03-04.nii.gz", "P1/20160304_ct.nii.gz", "P2_2015-01-01.nii.gz"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(source / name))
        clinical = tmp_path / "clinical.csv"
        clinical.write_text(
            "patient_id,last_contact_date,event_observed,transplant_date\n"
            "P1,2018-03-04,1,2016-03-14\nP2,2018-01-01,0,\n"
        )
        report = ingest(source, clinical, study_folder)
        assert report["status"].tolist() == ["scan"] * 3
        manifest = read_manifest(load_study(study_folder))
        assert sorted(manifest["scan_day"]) == [0, 0, 366]
        assert sorted(manifest["last_contact_day"]) == [1096, 1096, 1096]
        assert sorted(manifest["transplant_day"].dropna()) == [376, 376]
        for path in (study_folder / "scans").glob("*"):
            stored = sitk.ReadImage(str(path))
            assert (sitk.GetArrayFromImage(stored) == hounsfield()).all()
            assert SECRET not in " ".join(stored.GetMetaData(key) for key in stored.GetMetaDataKeys())

    def test_two_scans_without_dates_are_set_aside(self, source, study_folder):
        for name in ("P1/a.nii.gz", "P1/b.nii.gz", "P2/c.nii.gz"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(hounsfield()), str(source / name))
        report = ingest(source, None, study_folder)
        assert sorted(report["status"]) == ["scan", "set aside", "set aside"]
        assert report["reason"].str.contains("no scan date").sum() == 2


@pytest.mark.slow
def test_public_chest_ct(tmp_path):
    """LIDC-IDRI-0314, 275 slices, one of them cut short: the others are as a plain SimpleITK read gives them."""
    archive = DATA / "lidc-idri-0314-dicom.tar.xz"
    if not archive.is_file():
        pytest.skip("the public chest CT is not here")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "export", filter="data")
    report = ingest(tmp_path / "export", None, tmp_path / "study")
    assert report["status"].tolist() == ["scan"]
    assert "1 slice(s) truncated or damaged" in report["reason"][0]
    image = only_scan(tmp_path / "study")
    assert image.GetSize() == (512, 512, 275)
    found, n_whole = sitk.GetArrayFromImage(image), 0
    for path in sorted((tmp_path / "export").rglob("*.dcm")):
        if path.stat().st_size < 526_000:
            continue  # the one that is cut short
        plain = sitk.ReadImage(str(path))
        k = round(image.TransformPhysicalPointToContinuousIndex(plain.GetOrigin())[2])
        assert np.allclose(image.TransformIndexToPhysicalPoint((0, 0, k)), plain.GetOrigin(), atol=0.01)
        assert np.allclose(plain.GetSpacing()[:2], image.GetSpacing()[:2], atol=1e-5)
        assert np.allclose(plain.GetDirection(), image.GetDirection(), atol=1e-6)
        assert (found[k] == sitk.GetArrayViewFromImage(plain)[0]).all()
        n_whole += 1
    assert n_whole == 274
