"""Of a run that somebody else made, data are taken over when they are sound and asked for; nothing that acts is."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from sscct_lib.cli.app import run_shard
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.study import seals
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import fingerprint
from sscct_lib.study.results import process
from tests.tiny_study import sscct


@pytest.fixture
def study(study_of, manifest_frame, write_image, tmp_path, monkeypatch):
    """Return a study of four scans, prepared, with masks, a model, a notebook and a page: all made with another key."""
    study = study_of(manifest_frame)
    rng = np.random.default_rng(0)
    for name in manifest_frame["image"]:
        write_image(study.folder / name, rng.normal(-500, 300, (12, 12, 12)))
    monkeypatch.setenv(seals.KEY_VARIABLE, str(tmp_path / "theirs.key"))
    rows = read_manifest(study)
    run_shard(study, rows, "images", 0)

    def segment(study, row):
        image = sitk.ReadImage(study.image(row["scan_id"]))
        with atomic(study.mask(row["scan_id"])) as partial:
            sitk.WriteImage(sitk.Cast(image < 0, sitk.sitkUInt8), partial)
        return {"verdict": "pass"}

    process(study, "lungs", segment, rows[["scan_id", "patient_id"]], "", lambda row: [])
    for name in ("models/tabular/a.skops", "notebooks/01_cohort.ipynb", "book/index.html", "tables/cohort.parquet"):
        with atomic(study.run / name) as partial:
            partial.write_text("theirs")
    monkeypatch.setenv(seals.KEY_VARIABLE, str(tmp_path / "mine.key"))
    return study


def test_it_is_shown_first_and_taken_when_asked_for(study):
    n = len(seals.unsealed(study.run))
    shown = sscct("adopt", study.folder)
    assert shown.exit_code == 0
    assert "4 prepared scans, 4 lung masks, 4 rows on scans, 4 rows on lungs." in shown.output
    assert len(seals.unsealed(study.run)) == n
    assert sscct("run", study.folder, "--until", "01_cohort").exit_code == 1
    assert sscct("adopt", study.folder, "--accept").exit_code == 0
    left = seals.unsealed(study.run)
    assert {name.split("/")[0] for name in left} == {"book", "models", "notebooks", "provenance", "shards", "tables"}


def test_what_was_taken_is_not_made_again(study, monkeypatch):
    sscct("adopt", study.folder, "--accept")
    monkeypatch.setattr("sscct_lib.images.prepare.read_placed", lambda *_: pytest.fail("made again"))
    assert (run_shard(study, read_manifest(study), "images", 0)["status"] == "ok").all()


@pytest.mark.parametrize("fault", ["grid", "labels", "text", "of another", "no row", "check", "no scan"])
def test_what_is_not_sound_is_named_and_left(study, fault):
    mask, record = study.mask("a1"), study.run / "records" / "lungs" / "a1.json"
    content = json.loads(record.read_text())
    if fault == "grid":
        sitk.WriteImage(sitk.Image(12, 12, 13, sitk.sitkUInt8), mask)
    elif fault == "labels":
        sitk.WriteImage(sitk.ReadImage(mask) * 3, mask)
    elif fault == "text":
        mask.write_text("no image")
    elif fault == "of another":
        shutil.copy(record.with_name("b1.json"), record)
    elif fault == "no row":
        content["record"]["verdict"] = "splendid"
        record.write_text(json.dumps(content | {"check": fingerprint(content["record"])}))
    elif fault == "check":
        content["record"]["verdict"] = "fail"
        record.write_text(json.dumps(content))
    else:
        study.image("a1").unlink()
    shown = sscct("adopt", study.folder, "--accept")
    assert shown.exit_code == 0, shown.output
    wrong = f"masks/{mask.name}" if fault in ("grid", "labels", "text", "no scan") else "records/lungs/a1.json"
    assert f"{wrong}: " in shown.output
    assert wrong in seals.unsealed(study.run)


def test_scans_that_the_manifest_does_not_name_are_no_data_of_the_study(study):
    shutil.copy(study.image("a1"), study.image("zz"))
    sscct("adopt", study.folder, "--accept")
    assert "images/zz.nii.gz" in seals.unsealed(study.run)


def test_there_may_be_nothing_to_take(study_of, manifest_frame):
    study = study_of(manifest_frame)
    assert "0 files are not yours. Sound data among them: nothing." in sscct("adopt", study.folder, "--accept").output


def test_without_a_key_it_says_so(study, monkeypatch):
    monkeypatch.setenv(seals.KEY_VARIABLE, "/dev/null/none")
    said = sscct("adopt", study.folder)
    assert said.exit_code == 1
    assert (
        "runs/main cannot be looked at: the key by which your results are known cannot be read or made" in said.output
    )
