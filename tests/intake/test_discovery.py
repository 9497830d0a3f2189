"""The walk over an export: links, what systems leave behind, formats, masks; and the whole way to a manifest.

Whose scan a file is, and of which day, as its path says, is written down by hand for each layout.
"""

import os
import unicodedata
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import SimpleITK as sitk

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.intake import discovery
from sscct_lib.intake.discovery import Tree, find_volumes, look
from sscct_lib.intake.ingest import ingest
from sscct_lib.study.folder import StudyError, load_study
from tests.images.dicom_samples import hounsfield, save, series


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    return folder


def scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(hounsfield(seed=seed))
    image.SetSpacing((2.5, 3.0, 5.0))
    sitk.WriteImage(image, str(path))
    return path


def inside(tree: Tree, source: Path) -> list[str]:
    return [str(path.relative_to(source)) for path in tree.volumes]


def told(tree: Tree) -> dict[str, str]:
    return {words.code: words for _, _, words in tree.told()}


class TestLinks:
    def test_a_folder_behind_a_link_is_read(self, source, tmp_path):
        scan(tmp_path / "elsewhere" / "ct.nii")
        (source / "P2").symlink_to(tmp_path / "elsewhere")
        tree = look(source)
        assert inside(tree, source) == ["P2/ct.nii"]
        assert told(tree)["linked_folders"].startswith("1 folder(s)")

    def test_loops_end(self, source):
        scan(source / "P1" / "ct.nii")
        (source / "P1" / "up").symlink_to(source)
        (source / "P1" / "here").symlink_to(source / "P1")
        (source / "itself").symlink_to(source / "itself")
        (source / "a").symlink_to(source / "b")
        (source / "b").symlink_to(source / "a")
        tree = look(source)
        assert inside(tree, source) == ["P1/ct.nii"]
        assert tree.counts == {"read_once": 2, "broken_links": 3}

    def test_what_lies_there_itself_goes_before_what_is_linked(self, source):
        scan(source / "z" / "ct.nii")
        (source / "a").symlink_to(source / "z")
        (source / "b.nii").symlink_to(source / "z" / "ct.nii")
        tree = look(source)
        assert inside(tree, source) == ["z/ct.nii"]
        assert tree.counts["read_once"] == 2

    def test_two_links_to_one_folder_are_one_patient(self, source, tmp_path):
        scan(tmp_path / "elsewhere" / "ct.nii")
        for name in ("a", "b"):
            (source / name).symlink_to(tmp_path / "elsewhere")
        assert inside(look(source), source) == ["a/ct.nii"]

    def test_linked_files_as_data_stores_keep_them(self, source, tmp_path):
        real = scan(tmp_path / "store" / "8f3a.nii")
        (source / "P1").mkdir()
        (source / "P1" / "ct.nii").symlink_to(real)
        (source / "P1" / "gone.nii").symlink_to(tmp_path / "nowhere")
        tree = look(source)
        assert inside(tree, source) == ["P1/ct.nii"]
        assert "broken_links" in told(tree)

    def test_a_linked_patient_reaches_the_manifest(self, source, tmp_path):
        save(series(hounsfield()), source / "P1")
        other = {"PatientID": "P2", "StudyInstanceUID": "1.2.3.5", "SeriesInstanceUID": "1.2.3.5.1"}
        (source / "P2").symlink_to(save(series(hounsfield(seed=2), **other), tmp_path / "elsewhere"))
        report = ingest(source, None, tmp_path / "study")
        assert (report["status"] == "scan").sum() == 2
        assert report["patient_id"].replace("", None).nunique() == 2


class TestWhatIsNoImage:
    def test_leftovers_of_systems(self, source):
        scan(source / "P1" / "ct.nii")
        for name in ("._ct.nii", "._ct.nii.gz", ".DS_Store", "Thumbs.db", "desktop.ini", "DESKTOP.INI"):
            (source / "P1" / name).write_bytes(b"\x00\x05\x16\x07" + bytes(200))
        scan(source / "__MACOSX" / "P1" / "ct.nii")
        scan(source / ".Trash" / "old.nii")
        tree = look(source)
        assert inside(tree, source) == ["P1/ct.nii"]
        assert set(told(tree)) == {"system_files", "hidden_folders"}
        assert told(tree)["system_files"].startswith("6 file(s)")

    def test_a_leftover_is_no_second_scan(self, source, tmp_path):
        path = scan(source / "P1" / "ct.nii.gz")
        (path.parent / "._ct.nii.gz").write_bytes(b"\x00\x05\x16\x07" + bytes(4092))
        report = ingest(source, None, tmp_path / "study")
        assert report["status"].tolist() == ["scan", "passed over"]

    def test_other_kinds_are_counted(self, source):
        scan(source / "P1.nii")
        with zipfile.ZipFile(source / "P2.zip", "w") as archive:
            archive.writestr("ct.nii", b"x")
        for name in ("P3.7z", "P4.tar.gz", "a.mgz", "a.npy", "b.raw", "c.img", "a.png", "a.csv", "Meier", "a.meier"):
            (source / name).write_bytes(b"anything")
        words = told(look(source))
        assert words["archives"].startswith("3 archive(s) (.7z, .gz, .zip)")
        assert words["other_formats"].startswith("4 file(s) of other image formats (.img, .mgz, .npy, .raw)")
        assert words["pictures"].startswith("1 picture(s)")
        assert words["other_files"] == "3 other file(s)"
        assert "meier" not in " ".join(words.values()).lower()

    def test_masks_are_no_scans(self, source):
        for name in (
            "s0001/ct.nii", "s0001/segmentations/lung_left.nii", "imagesTr/lung_001.nii", "labelsTr/lung_001.nii",
            "P1.nii", "P1_seg.nii", "P2-label.nrrd", "lung_mask_P3.nii", "masks/P4.nii", "derivatives/sub-01/ct.nii",
        ):  # fmt: skip
            (source / name).parent.mkdir(exist_ok=True, parents=True)
            (source / name).write_bytes(b"x")
        tree = look(source)
        assert inside(tree, source) == ["P1.nii", "imagesTr/lung_001.nii", "s0001/ct.nii"]
        assert told(tree)["masks_beside"].startswith("7 file(s)")

    def test_the_first_channel_alone_is_the_ct(self, source):
        for name in ("lung_001_0000.nii", "lung_001_0001.nii", "lung_0002.nii"):
            (source / name).write_bytes(b"x")
        tree = look(source)
        assert inside(tree, source) == ["lung_0002.nii", "lung_001_0000.nii"]
        assert "second_channels" in told(tree)

    def test_another_kind_of_header_is_no_volume(self, source):
        (source / "a.hdr").write_text("ENVI\nsamples = 3\n")
        assert look(source).volumes == []

    def test_folders_and_files_without_permission(self, source, monkeypatch):
        scan(source / "P1.nii")
        (source / "closed").mkdir()
        listed = os.scandir

        def scandir(path):
            if Path(path).name == "closed":
                raise PermissionError(13, "Permission denied", str(path))
            return listed(path)

        monkeypatch.setattr(discovery.os, "scandir", scandir)
        tree = look(source)
        assert inside(tree, source) == ["P1.nii"]
        assert "may not be read" in told(tree)["closed"]

    def test_a_study_inside_the_source_is_not_ingested_again(self, source):
        scan(source / "P1" / "2019-03-01.nii.gz")
        ingest(source, None, source / "study")
        tree = look(source)
        assert inside(tree, source) == ["P1/2019-03-01.nii.gz"]
        assert "studies_inside" in told(tree)

    def test_dicom_is_known_by_its_content_whatever_its_name(self, source, tmp_path):
        folder = save(series(hounsfield()), source / "P1")
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{number}.{('zip', 'txt', 'jpg', 'nrrd0')[number % 4]}")
        report = ingest(source, None, tmp_path / "study")
        assert report["n_slices"].dropna().tolist() == [24]

    def test_files_of_dicom_without_a_series(self, source, tmp_path):
        save(series(hounsfield()), source / "P1")
        (source / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
        report = ingest(source, None, tmp_path / "study")
        assert report.loc[report["status"] == "passed over", "reason"].str.contains("without a series").all()

    def test_nothing_but_other_kinds_says_so(self, source, tmp_path):
        (source / "a.zip").write_bytes(b"PK")
        with pytest.raises(StudyError, match=r"found 1 archive\(s\) \(\.zip\) not opened: unpack"):
            ingest(source, None, tmp_path / "study")


class TestVolumes:
    @pytest.mark.parametrize("name", ["P1.mha", "P1.mhd", "P1.nhdr", "P1.hdr", "P1.NII.GZ", "P1.nrrd", "P1.NRRD"])
    def test_each_format_reaches_the_study_to_the_voxel(self, source, tmp_path, name):
        scan(source / f"P1{name[2:].lower()}").rename(source / name)
        report = ingest(source, None, tmp_path / "study")
        assert report["status"].tolist() == ["scan"]
        (written,) = (tmp_path / "study" / "scans").iterdir()
        image = sitk.ReadImage(str(written))
        assert (sitk.GetArrayFromImage(image) == hounsfield()).all()
        assert image.GetSpacing() == pytest.approx((2.5, 3.0, 5.0))

    def test_an_orientation_that_is_said_goes_to_those_that_say_none(self, source, tmp_path):
        path = scan(source / "P1.nii")
        content = bytearray(path.read_bytes())
        content[252:256] = bytes(4)
        path.write_bytes(content)
        scan(source / "P2.nii", seed=1)
        report = ingest(source, None, tmp_path / "refused")
        assert sorted(report["status"]) == ["scan", "set aside"]
        report = ingest(source, None, tmp_path / "taken", orientation="RAS")
        assert report["reason"].str.contains("run to RAS, as --orientation says").sum() == 1
        values = [sitk.GetArrayFromImage(sitk.ReadImage(str(one))) for one in (tmp_path / "taken" / "scans").iterdir()]
        for truth in (hounsfield()[:, ::-1, ::-1], hounsfield(seed=1)):
            assert any((found == truth).all() for found in values)
        with pytest.raises(StudyError, match="--orientation LPP: expected sform or qform, or three letters"):
            ingest(source, None, tmp_path / "other", orientation="LPP")

    def test_three_patients_in_one_folder(self, source, tmp_path):
        for number in (1, 2, 3):
            scan(source / "CT" / f"PAT{number}_2019-03-0{number}.nii.gz", seed=number)
        ingest(source, None, tmp_path / "study")
        manifest = read_manifest(load_study(tmp_path / "study"))
        assert manifest["patient_id"].nunique() == 3
        assert manifest["scan_day"].tolist() == [0, 0, 0]

    def test_names_of_all_sorts_become_patients(self, source, tmp_path):
        for name in (
            "Mu\u0308ller 1.nii",
            "日本.nii",
            f"{'x' * 200}.nii",
            os.fsdecode(b"M\xfcller.nii"),
            "a'b;$(c).nii",
        ):
            path = scan(tmp_path / "one.nii")
            path.rename(source / name)
        report = ingest(source, None, tmp_path / "study")
        assert (report["status"] == "scan").sum() == 5


class TestHeaders:
    def test_a_placeholder_makes_no_follow_up(self, source, tmp_path):
        save(series(hounsfield(), AcquisitionDate="19000101"), source)
        (tmp_path / "clinical.csv").write_text("patient_id,last_contact_date,event_observed\nMRN-4711,2018-03-04,1\n")
        report = ingest(source, tmp_path / "clinical.csv", tmp_path / "study")
        manifest = read_manifest(load_study(tmp_path / "study"))
        assert manifest["last_contact_day"].tolist() == [1096]
        assert "1 date(s) of the header can be no day of a CT" in report["reason"][0]

    def test_a_scan_without_a_date_keeps_no_follow_up_and_says_so(self, source, tmp_path):
        save(series(hounsfield(), StudyDate="19000101"), source)
        (tmp_path / "clinical.csv").write_text("patient_id,last_contact_date,event_observed\nMRN-4711,2018-03-04,1\n")
        report = ingest(source, tmp_path / "clinical.csv", tmp_path / "study")
        assert read_manifest(load_study(tmp_path / "study"))["event_observed"].isna().all()
        assert report["reason"].str.contains(r"follow-up of 1 scan\(s\) not used").any()

    def test_one_number_for_a_man_and_a_woman(self, source, tmp_path):
        save(series(hounsfield()), source / "a")
        other = {"StudyInstanceUID": "1.2.3.5", "SeriesInstanceUID": "1.2.3.5.1", "StudyDate": "20160304"}
        save(series(hounsfield(seed=1), PatientSex="M", **other), source / "b")
        report = ingest(source, None, tmp_path / "study")
        assert read_manifest(load_study(tmp_path / "study"))["sex"].isna().all()
        assert report["reason"].str.contains("differ in sex").sum() == 2

    def test_an_age_in_months_reaches_the_manifest(self, source, tmp_path):
        save(series(hounsfield(), PatientAge="720M"), source)
        ingest(source, None, tmp_path / "study")
        assert read_manifest(load_study(tmp_path / "study"))["age_years"].tolist() == [60]


LAYOUTS = {
    "ids of eight digits before the date": {
        "10023456_20190301.nii.gz": ("10023456", "2019-03-01"),
        "10023456_20200301.nii.gz": ("10023456", "2020-03-01"),
    },
    "one of the ids looks like a date": {
        "10023456_x.nii.gz": ("10023456_x", None),
        "20110512_x.nii.gz": ("20110512_x", None),
        "77777777_x.nii.gz": ("77777777_x", None),
    },
    "digits that hang on letters": {
        "pat20110512_a.nii.gz": ("pat20110512_a", None),
        "pat20130617_a.nii.gz": ("pat20130617_a", None),
    },
    "letters and eight digits, then a date": {
        "MRN10023456_2019-03-01.nii.gz": ("MRN10023456", "2019-03-01"),
        "MRN10034567_2018-05-02.nii.gz": ("MRN10034567", "2018-05-02"),
    },
    "Medical Segmentation Decathlon": {
        "Task06_Lung/imagesTr/lung_001.nii.gz": ("lung_001", None),
        "Task06_Lung/imagesTr/lung_003.nii.gz": ("lung_003", None),
        "Task06_Lung/imagesTs/lung_002.nii.gz": ("lung_002", None),
    },
    "nnU-Net": {"Dataset006_Lung/imagesTr/lung_001_0000.nii.gz": ("lung_001", None)},
    "TotalSegmentator": {"s0001/ct.nii.gz": ("s0001", None), "data/s0002/ct.nii.gz": ("s0002", None)},
    "BIDS": {
        "sub-01/ses-20190301/ct/sub-01_ses-20190301_ct.nii.gz": ("sub-01", "2019-03-01"),
        "sub-01/ses-20200301/ct/sub-01_ses-20200301_ct.nii.gz": ("sub-01", "2020-03-01"),
        "sub-002/ct/sub-002_ct.nii.gz": ("sub-002", None),
    },
    "a folder a patient": {
        "P1/2015-03-04.nii.gz": ("P1", "2015-03-04"),
        "P1/20160304_ct.nii.gz": ("P1", "2016-03-04"),
        "P2_2015-01-01.nii.gz": ("P2", "2015-01-01"),
    },
    "visits of one patient": {"P1/visit1.nii.gz": ("P1", None), "P1/visit2.nii.gz": ("P1", None)},
    "numbered scans of one patient": {
        "MRN12345/001_2019-03-01.nii.gz": ("MRN12345", "2019-03-01"),
        "MRN12345/002_2020-03-02.nii.gz": ("MRN12345", "2020-03-02"),
    },
    "files that repeat their folder": {
        "MRN12345/MRN12345_001.nii.gz": ("MRN12345", None),
        "MRN12345/MRN12345_002.nii.gz": ("MRN12345", None),
    },
    "three patients in one folder": {
        "CT/PAT1_2019-03-01.nii.gz": ("PAT1", "2019-03-01"),
        "CT/PAT2_2019-03-02.nii.gz": ("PAT2", "2019-03-02"),
    },
    "three patients in a folder with a name": {
        "Siena/0001_2019-03-01.nii.gz": ("0001", "2019-03-01"),
        "Siena/0002_2019-03-02.nii.gz": ("0002", "2019-03-02"),
    },
    "a cohort's folder above": {
        "cohortA/P1/2019-03-01.nii.gz": ("P1", "2019-03-01"),
        "cohortA/P2/2019-03-01.nii.gz": ("P2", "2019-03-01"),
    },
    "folders of days": {
        "2019-03-01/P1.nii.gz": ("P1", "2019-03-01"),
        "20190302/P2.nii.gz": ("P2", "2019-03-02"),
    },
    "a folder a visit": {
        "P1_20190301/ct.nii.gz": ("P1", "2019-03-01"),
        "P1_20200301/ct.nii.gz": ("P1", "2020-03-01"),
    },
    "a patient whose number could be a date": {
        "20110512/20190301.nii.gz": ("20110512", "2019-03-01"),
        "20130617/ct.nii.gz": ("20130617", None),
    },
    "date and time, as converters write them": {
        "P1_20190301_101500.nii.gz": ("P1", "2019-03-01"),
        "P1_2020-03-01T09-10-11.nii.gz": ("P1", "2020-03-01"),
    },
    "words that every scan has": {
        "PAT1_chest_2019-03-01.nii.gz": ("PAT1", "2019-03-01"),
        "PAT1_2020-03-01_ct.mha": ("PAT1", "2020-03-01"),
    },
    "sites are no patients": {
        "Bern_ST01_2019-03-01.nii.gz": ("Bern_ST01", "2019-03-01"),
        "Bern_ST02_2019-03-01.nii.gz": ("Bern_ST02", "2019-03-01"),
    },
}  # fmt: skip


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(files):
    found = find_volumes(Path("/source"), [Path("/source", name) for name in files])
    said = {one.visit: (one.patient, None if one.date is None else f"{one.date:%Y-%m-%d}") for one in found}
    assert said == files


def codes(*names: str) -> list[list[str]]:
    found = find_volumes(Path("/s"), [Path("/s", name) for name in names])
    return [[one.code for one in volume.told] for volume in found]


def test_what_was_not_certain_is_told():
    assert codes("imagesTr/lung_001.nii.gz") == [["patient_from_name"]]
    assert codes("a/P1/x.nii.gz", "a/P2/x.nii.gz") == [["patient_from_folder"]] * 2
    assert codes("P1_03-04-2019.nii.gz") == [["date_ambiguous"]]
    assert codes("P1_19800312_20190301.nii.gz") == [["several_dates"]]
    assert codes("pat20110512_a.nii.gz") == codes("20110512/ct.nii.gz") == [["digits_of_id"]]
    assert codes("P1_19000101.nii.gz") == codes("P1_20990101.nii.gz") == [["digits_of_id"]]
    assert codes("P1/2019-03-01.nii.gz") == [[]]
    assert codes("P1/2019-03-01.nii", "P1/2019-03-01.nii.gz", "P2/2019-03-01.nii") == [["same_day"]] * 2 + [[]]


def test_one_name_in_two_forms_of_unicode_is_one_patient():
    forms = [unicodedata.normalize(form, "Müller_1") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    found = find_volumes(Path("/s"), [Path("/s", f"{name}_{2019 + i}-03-01.nii.gz") for i, name in enumerate(forms)])
    assert {one.patient for one in found} == {"Müller_1"}


def test_a_name_that_is_no_text_has_a_patient_all_the_same():
    name = os.fsdecode(b"M\xfcller_2019-03-01.nii.gz")
    (found,) = find_volumes(Path("/s"), [Path("/s", name)])
    assert found.date == pd.Timestamp("2019-03-01")
    assert found.patient.encode() + found.visit.encode()


@pytest.mark.parametrize("letters", ["P" * 230, "P1_" * 76 + "P", "1" * 230, "-" * 115 + "a" * 115, "a1-" * 76 + "b"])
def test_long_names_are_read_at_once(letters):
    (found,) = find_volumes(Path("/s"), [Path("/s", f"{letters}_2019-03-01.nii.gz")])
    assert found.date == pd.Timestamp("2019-03-01")
    assert found.patient == letters.strip("-")
