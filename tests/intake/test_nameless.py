"""No name of a patient, file or folder leaves the source, whatever is wrong with it, but in the list asked for."""

import gzip
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from sscct_lib.cli.app import app
from sscct_lib.images import nifti
from sscct_lib.intake import ingest as module
from sscct_lib.intake.ingest import ingest, wordless
from sscct_lib.study.folder import StudyError
from sscct_lib.study.results import ScanError
from sscct_lib.study.seals import checksum
from tests.images.dicom_samples import hounsfield, save, series

CANARY = "Zzcanary"
WORDS = ("zzcanary", "19530412", "1953-04-12")


def leaks(folder: Path) -> list[str]:
    """Name files of a study, by number, that hold a word of the source, also inside gzip, in any case."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        content += gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""
        text = (path.relative_to(folder).as_posix() + content.decode("latin-1")).lower()
        found += [f"{path.name}: {word}" for word in WORDS if word in text]
    return found


def dicom(folder: Path, **header) -> None:
    """Write a series whose header says the name wherever there is room for text."""
    slices = series(hounsfield(), SeriesDescription=f"Chest of {CANARY}", StudyDescription=CANARY, **header)
    for item in slices:
        item.PatientName = item.ReferringPhysicianName = item.OperatorsName = f"{CANARY}^Jane"
        item.PatientID, item.AccessionNumber, item.PatientComments = f"{CANARY}-1", CANARY, CANARY
        item.PatientBirthDate, item.ProtocolName, item.StationName = "19530412", CANARY, CANARY
        item.ConvolutionKernel, item.Manufacturer = f"B30f {CANARY}", CANARY
        block = item.private_block(0x0029, CANARY, create=True)
        block.add_new(0x01, "LO", CANARY)
        nested = Dataset()
        nested.PatientName = CANARY
        item.RequestAttributesSequence = [nested]
    save(slices, folder)


def volume(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hu = np.random.default_rng(0).integers(-1000, 600, (20, 24, 24)).astype(np.int16)
    image = sitk.GetImageFromArray(hu if kind != "mask" else (hu > 0).astype(np.uint8))
    image.SetSpacing((8.0, 8.0, 9.0))
    image.SetMetaData("descrip", f"of {CANARY}")
    image.SetMetaData("aux_file", CANARY)
    image.SetMetaData("intent_name", CANARY)
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(b"\x1f\x8b" + CANARY.encode() * 20)


KINDS = ("whole", "mask", "cut", "empty", "garbage")
NAMES = (
    f"{CANARY}_Jane_19530412",
    f"1953-04-12 {CANARY}^J",
    f"{CANARY.upper()}, J (1953-04-12)",
    f"x{{y}} {CANARY} %s",
)


def check_no_word_leaves(top: Path, capfd, name: str, endings: list[tuple[str, str]], header: dict, extra: str) -> None:
    source, study, table = top / "source", top / "study", top / "clinical.csv"
    dicom(source / name / "a" / name)
    if header:
        dicom(source / name / "b", SeriesInstanceUID="1.2.3.100.7", StudyInstanceUID="1.2.3.101", **header)
    for number, (kind, ending) in enumerate(endings):
        volume(source / f"{name}_{number}{ending}", kind)
    (source / f"notes.{CANARY}").write_text(CANARY)
    table.write_text(f"patient_id,last_contact_date,event_observed,{extra}\n{CANARY}-1,2019-01-01,1,{CANARY}\n")
    capfd.readouterr()
    done = CliRunner().invoke(app, ["ingest", str(source), str(study), "--clinical", str(table)])
    said = done.output + "".join(capfd.readouterr()) + str(done.exception or "")
    assert done.exit_code == 0, said
    assert [word for word in WORDS if word in said.lower()] == []
    assert leaks(study) == []


def test_no_word_of_a_broken_export_reaches_study_or_screen(tmp_path, capfd):
    endings = [(kind, ".nii.gz") for kind in KINDS] + [("cut", ".nii"), ("cut", ".nrrd")]
    check_no_word_leaves(tmp_path, capfd, NAMES[0], endings, {"BitsAllocated": 8}, CANARY)
    report = pd.read_csv(tmp_path / "study" / "ingest" / "report.csv")
    assert not report["reason"].str.contains("unexpected").any()


@pytest.mark.slow
@settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],  # to shrink would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(NAMES),
    endings=st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([".nii.gz", ".nii", ".nrrd"])), max_size=3),
    header=st.sampled_from([{}, {"Modality": "MR"}, {"ImagePositionPatient": None}, {"BitsAllocated": 8}]),
    extra=st.sampled_from(["note", CANARY, "patient_name"]),
)
def test_no_word_of_any_export_reaches_study_or_screen(tmp_path_factory, capfd, name, endings, header, extra):
    check_no_word_leaves(tmp_path_factory.mktemp("export"), capfd, name, endings, header, extra)


def test_an_error_that_nobody_foresaw_tells_its_kind_and_place_only(tmp_path, monkeypatch, caplog):
    def broken(path, orientation):
        raise RuntimeError(f"cannot read {path} of {CANARY}")

    monkeypatch.setattr(module, "read_source", broken)
    volume(tmp_path / "source" / f"{CANARY}.nii.gz", "whole")
    dicom(tmp_path / "source" / "b")
    report = ingest(tmp_path / "source", None, tmp_path / "study")
    reason = report.loc[report["kind"] == "NIfTI", "reason"].iloc[0]
    assert reason.startswith("unexpected RuntimeError: RuntimeError in intake/ingest.py, line ")
    assert CANARY.lower() not in (caplog.text + reason).lower()
    assert "Traceback" in caplog.text
    assert leaks(tmp_path / "study") == []


def test_our_own_errors_keep_their_words_and_others_lose_them():
    for error in (StudyError("a"), ScanError("b")):
        with pytest.raises(type(error), match=str(error)), wordless():
            raise error
    with pytest.raises(RuntimeError) as caught, wordless():
        nifti.is_volume(None)  # type: ignore[arg-type]
    assert str(caught.value).startswith("AttributeError in images/nifti.py, line ")
    assert caught.value.__suppress_context__


@given(
    stem=st.from_regex(r"[A-Za-z0-9 {}%'\"#äö_^-][A-Za-z0-9 {}%'\"#äö_^.-]{0,19}", fullmatch=True),
    ending=st.sampled_from([".nii", ".nii.gz", ".NII.GZ", ".nrrd", ".mha"]),
)
def test_a_volume_is_read_under_a_name_that_says_nothing(tmp_path_factory, stem, ending):
    file = tmp_path_factory.mktemp("any") / f"{stem}{ending}"
    file.write_text("content")
    with nifti.unnamed(file) as link:
        assert link.name == f"volume{ending.lower()}"
        assert link.read_text() == "content"
    assert not link.exists()
    assert file.read_text() == "content"


@pytest.mark.parametrize("voxels", [".img", ".IMG", ".img.gz"])
def test_the_voxels_lie_beside_their_header(tmp_path, voxels):
    for ending in (".HDR", voxels):
        (tmp_path / f"{CANARY}{ending}").write_text(ending.lower())
    with nifti.unnamed(tmp_path / f"{CANARY}.HDR", tmp_path / f"{CANARY}{voxels}") as link:
        assert sorted(path.name for path in link.parent.iterdir()) == ["volume.hdr", f"volume{voxels.lower()}"]
        assert nifti.voxels_of(link).read_text() == voxels.lower()


class TestSourceList:
    def test_it_says_who_is_who_to_its_owner_alone(self, tmp_path):
        volume(tmp_path / "source" / "007" / "2019-03-01.nii.gz", "whole")
        volume(tmp_path / "source" / "=1+1" / f"{CANARY}.nii.gz", "cut")
        target = tmp_path / "kept" / "list.csv"
        report = ingest(tmp_path / "source", None, tmp_path / "study", source_list=target)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        listed = pd.read_csv(target, dtype=str, keep_default_na=False)
        assert listed["source"].astype(int).tolist() == report["source"].tolist() == [1, 2]
        assert dict(zip(listed["patient_of_source"], listed["status"], strict=True)) == {
            "'007": "scan", "'=1+1": "set aside"
        }  # fmt: skip
        assert set(listed["file"]) == {"007/2019-03-01.nii.gz", f"'=1+1/{CANARY}.nii.gz"}
        (scan,) = listed.loc[listed["status"] == "scan", "scan_id"]
        assert (tmp_path / "study" / "scans" / f"{scan}.nii.gz").is_file()
        ingest(tmp_path / "source", None, tmp_path / "study", source_list=target)  # again: replaced
        assert stat.S_IMODE(target.stat().st_mode) == 0o600

    @pytest.mark.parametrize("place", ["study/list.csv", "study/ingest/list.csv", "link/list.csv", "other/../study/a"])
    def test_inside_the_study_it_is_refused(self, tmp_path, place):
        volume(tmp_path / "source" / "a.nii.gz", "whole")
        (tmp_path / "study").mkdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "study")
        with pytest.raises(StudyError, match="lies inside the study, and it names patients"):
            ingest(tmp_path / "source", None, tmp_path / "study", source_list=tmp_path / place)
        assert list((tmp_path / "study").iterdir()) == []

    def test_without_it_nothing_is_listed(self, tmp_path):
        volume(tmp_path / "source" / "a.nii.gz", "whole")
        before = {path: checksum(path) for path in (tmp_path / "source").iterdir()}
        ingest(tmp_path / "source", None, tmp_path / "study")
        assert {path.name for path in tmp_path.iterdir()} == {"source", "study"}
        assert {path: checksum(path) for path in (tmp_path / "source").iterdir()} == before
