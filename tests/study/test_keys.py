"""A result is believed only when it was made of what is asked for now; everything else is refused in words."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from sscct_lib.cli.app import app, run_shard
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.cohort.selection import build_cohort, select
from sscct_lib.study import keys
from sscct_lib.study.folder import Study, StudyError, load_study
from sscct_lib.study.runs import open_run
from sscct_lib.study.schemas import COHORT, LUNGS, PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.stages import NOTEBOOKS, executed, shard_path
from sscct_lib.study.tables import read_predictions, read_table, write_table
from tests.horizons.cohorts import make_cohort, make_predictions
from tests.study.on_paper import finish_on_paper, named

SHOWN_ONLY = {"title", "shard_size", "book", "disclosure"}  # change no number of a table


@pytest.fixture
def study(study_of, manifest_frame) -> Study:
    """A run with one table."""
    study = study_of(manifest_frame)
    write_table(cohort_of(study), study, "cohort", COHORT)
    return study


def cohort_of(study: Study) -> pd.DataFrame:
    manifest = read_manifest(study)
    read = pd.DataFrame({"scan_id": manifest["scan_id"], "status": "ok"})
    return build_cohort(select(manifest, read)[0], study)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where the first test that needs a whole run leaves a copy for the others."""
    return tmp_path_factory.mktemp("whole") / "study"


@pytest.fixture
def whole(kept, tmp_path, study_of, manifest_frame, write_image) -> tuple[Study, pd.DataFrame]:
    """A run of which every shard and notebook was made, as far as records and files tell; and its manifest."""
    if kept.exists():
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    else:
        study = study_of(manifest_frame, "cohort: {n_folds: 2}\nshard_size: 3\n")
        for name in manifest_frame["image"]:
            write_image(study.folder / name, pd.DataFrame([[0.0]] * 8).to_numpy().reshape(2, 2, 2))
        finish_on_paper(study, read_manifest(study))
        shutil.copytree(tmp_path, kept)
    study = load_study(tmp_path)
    return study, read_manifest(study)


def with_settings(study: Study, **sections: object) -> Study:
    return Study(study.folder, Settings.model_validate(study.settings.model_dump() | sections), study.run_name)


def test_every_setting_is_of_a_stage_or_changes_no_number():
    of_stages = {name for names in keys.SETTINGS_OF.values() for name in names}
    assert of_stages | SHOWN_ONLY == set(Settings.model_fields)
    assert not of_stages & SHOWN_ONLY


def test_a_table_is_read_as_it_was_written(study):
    read, made = read_table(study, "cohort", COHORT), COHORT.validate(cohort_of(study))
    assert read.dtypes.equals(made.dtypes)
    pd.testing.assert_frame_equal(read.astype(object).where(read.notna()), made.astype(object).where(made.notna()))
    assert read_table(study, "cohort", COHORT).attrs == {}
    assert read_table(with_settings(study, title="Another", shard_size=7), "cohort", COHORT) is not None


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"cohort": {"n_folds": 3}}, "cohort"),
        ({"horizons_years": (2.0,)}, "horizons_years"),
        ({"seed": 1, "labels": "as_published"}, "labels, seed"),
        ({"images": {"spacing_mm": 1.0}}, "images"),
    ],
)
def test_a_table_of_other_settings_is_refused_by_their_names(study, sections, named):
    with pytest.raises(StudyError, match=rf"cohort\.parquet was made before a change of {named} in study\.yaml"):
        read_table(with_settings(study, **sections), "cohort", COHORT)


def test_a_table_of_other_code_data_or_maker_is_refused(study, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keys, "code_hash", lambda _: "other")
        with pytest.raises(StudyError, match="made before a change of the code"):
            read_table(study, "cohort", COHORT)
    lungs = pd.DataFrame(columns=list(LUNGS.columns))
    write_table(lungs, study, "lungs", LUNGS)
    study.manifest_path.write_text(study.manifest_path.read_text() + "\n")
    with pytest.raises(StudyError, match=r"made before a change of data_manifest\.csv"):
        read_table(study, "cohort", COHORT)
    with pytest.raises(StudyError, match="made before a change of 01_cohort, on which it rests"):
        read_table(study, "lungs", LUNGS)
    write_table(lungs, study, "lungs", LUNGS)
    (study.folder / "qa_decisions.csv").write_text("scan_id\n")
    with pytest.raises(StudyError, match=r"made before a change of qa_decisions\.csv"):
        read_table(study, "lungs", LUNGS)


def test_a_table_that_does_not_say_of_what_it_is_made_is_refused(study):
    cohort_of(study).to_parquet(study.table("cohort"))
    with pytest.raises(StudyError, match="made by an earlier version of this project"):
        read_table(study, "cohort", COHORT)


def test_a_table_of_another_run_is_refused(study):
    other = with_settings(study, cohort={"n_folds": 4})
    other = Study(other.folder, other.settings, "other")
    write_table(cohort_of(study), other, "cohort", COHORT)
    shutil.copy(other.table("cohort"), study.table("cohort"))
    with pytest.raises(StudyError, match=r"cohort in study\.yaml"):
        read_table(study, "cohort", COHORT)


def test_risks_of_somebody_else_say_nothing_of_their_making_and_are_judged_with_the_rest(study):
    before = keys.ingredients(study, "05_horizons")
    risks = make_predictions(make_cohort(20), model="From elsewhere")
    study.table("predictions/x").parent.mkdir()
    risks.to_parquet(study.table("predictions/elsewhere"))
    assert set(read_predictions(study)["model"]) == {"From elsewhere"}
    assert "predictions/elsewhere.parquet" in keys.difference(keys.ingredients(study, "05_horizons"), before)
    write_table(risks.assign(model="Ours"), study, "predictions/03_radiomics", PREDICTIONS)
    assert set(read_predictions(study)["model"]) == {"From elsewhere", "Ours"}


def test_what_was_made_so_is_not_made_again(whole):
    study, manifest = whole
    assert not keys.to_make(study, manifest)
    keys.refuse_out_of_date(study)


@pytest.mark.parametrize(
    ("damage", "made"),
    [
        ("a list of a shard is gone", {"lungs_0001", "radiomics_0001", *NOTEBOOKS[1:]}),
        ("a record of a shard is damaged", {"lungs_0001", "radiomics_0001", *NOTEBOOKS[1:]}),
        ("a scan changed", {"images_0000", "lungs_0000", "radiomics_0000", *NOTEBOOKS}),
        ("a scan's row changed", {"images_0001", "lungs_0001", "radiomics_0001", *NOTEBOOKS}),
        ("a table is gone", {"02_segmentation_qa", "03_radiomics", "04_deep_models", "05_horizons"}),
        ("a table was made otherwise", {"05_horizons"}),
        ("a table is damaged", {"05_horizons"}),
        ("a table was written by hand", {"02_segmentation_qa", "03_radiomics", "04_deep_models", "05_horizons"}),
        ("a notebook is gone", {"04_deep_models", "05_horizons"}),
        ("a record of a notebook is gone", {"03_radiomics", "05_horizons"}),
        ("other settings", {"03_radiomics", "05_horizons"}),
        ("another title", set(NOTEBOOKS)),
    ],
)
def test_what_is_made_again(whole, damage, made):
    study, manifest = whole
    match damage:
        case "a list of a shard is gone":
            shard_path(study, "lungs", 1).unlink()
        case "a record of a shard is damaged":
            (study.run / "provenance" / "lungs_0001.json").write_text("{")
        case "a scan changed":
            (study.folder / manifest["image"].iloc[0]).write_bytes(b"another")
        case "a scan's row changed":
            text = study.manifest_path.read_text().splitlines()
            study.manifest_path.write_text("\n".join([*text[:-1], text[-1].replace("c1.nii.gz", "d1.nii.gz")]))
            manifest = read_manifest(study)
        case "a table is gone":
            study.table("lungs").unlink()
        case "a table was made otherwise":
            pd.DataFrame({"a": [1]}).to_parquet(study.table("performance"))
        case "a table is damaged":
            study.table("stacked").write_bytes(b"PAR1")
        case "a table was written by hand":
            frame = pd.read_parquet(study.table("lungs")).assign(a=2)
            frame.attrs = {"ingredients": keys.ingredients(study, "02_segmentation_qa")}
            frame.to_parquet(study.table("lungs"))
        case "a notebook is gone":
            executed(study, "04_deep_models").unlink()
        case "a record of a notebook is gone":
            (study.run / "provenance" / "03_radiomics.json").unlink()
        case "other settings":
            study = with_settings(study, tabular={"n_repeats": 1})
        case "another title":
            study = with_settings(study, title="Another")
    assert named(keys.to_make(study, manifest)) == made


def test_times_and_the_workflows_memory_say_nothing(whole):
    import os

    study, manifest = whole
    for number, path in enumerate(sorted(study.run.rglob("*"))):
        os.utime(path, (number * 1e6, number * 1e6))
    assert not keys.to_make(study, manifest)


@pytest.mark.parametrize(
    "words", [["book"], ["report", "STUDY", "a1"], ["predict", "a.nii", "--study"], ["pretrain"]], ids=lambda w: w[0]
)
def test_no_command_believes_a_run_that_is_not_what_is_asked_for(whole, words):
    study, _ = whole
    (study.folder / "study.yaml").write_text("cohort: {n_folds: 3}\n")
    arguments = [str(study.folder) if word == "STUDY" else word for word in words]
    ran = CliRunner().invoke(app, arguments if "STUDY" in words else [*arguments, str(study.folder)])
    assert ran.exit_code == 1
    assert "cohort in study.yaml" in ran.output or "earlier" in ran.output
    assert "sscct run" in ran.output


@pytest.mark.parametrize(
    "words",
    [["book"], ["report", "STUDY", "a1"], ["predict", "a.nii", "--study"], ["pretrain"], ["run", "STUDY"]],
    ids=lambda w: w[0],
)
@pytest.mark.parametrize("made_by", ["somebody else", "its user, and one file by somebody else"])
def test_no_command_believes_what_somebody_else_made(whole, words, made_by, monkeypatch, tmp_path):
    study, _ = whole
    if made_by == "somebody else":
        monkeypatch.setenv("SSCCT_KEY", str(tmp_path / "key"))
    elif words[0] == "run":
        pytest.skip("It sets such files aside, and goes on.")
    else:
        (study.run / "notebooks" / "01_cohort.ipynb").write_text('{"cells": [{}]}')
    arguments = [str(study.folder) if word == "STUDY" else word for word in words]
    ran = CliRunner().invoke(app, arguments if "STUDY" in words else [*arguments, str(study.folder)])
    assert ran.exit_code == 1
    assert "not made by you" in ran.output or "not as you made them" in ran.output


def test_a_notebook_by_hand_believes_no_run_of_somebody_else(whole, monkeypatch, tmp_path):
    monkeypatch.setenv("SSCCT_KEY", str(tmp_path / "key"))
    with pytest.raises(StudyError, match="not made by you"):
        open_run(whole[0].folder)


def test_a_chapter_that_does_not_show_its_tables_is_refused(whole):
    study, _ = whole
    frame = pd.read_parquet(study.table("performance")).assign(a=2)
    frame.attrs = {"ingredients": keys.ingredients(study, "05_horizons")}
    frame.to_parquet(study.table("performance"))  # as a notebook does that is run by hand with another line in a cell
    with pytest.raises(StudyError, match="05_horizons was made before its tables were written anew"):
        keys.refuse_out_of_date(study)


def test_a_record_of_an_earlier_version_vouches_for_nothing(whole):
    study, manifest = whole
    record = study.run / "provenance" / "02_segmentation_qa.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({"stage": content["stage"], "keys": 2, "code": "x"}))
    with pytest.raises(StudyError, match="02_segmentation_qa was made by an earlier version of this project"):
        keys.refuse_out_of_date(study)
    assert "02_segmentation_qa" in keys.to_make(study, manifest).notebooks


def test_a_shard_that_was_made_is_recorded_with_what_it_was_made_of(study_of, manifest_frame, write_image):
    study = study_of(manifest_frame)
    for name in manifest_frame["image"]:
        write_image(study.folder / name, pd.DataFrame([[0.0]] * 8).to_numpy().reshape(2, 2, 2))
    ran = CliRunner().invoke(app, ["shard", str(study.folder), "--index", "0", "--until", "01_cohort"])
    assert ran.exit_code == 0, ran.output
    manifest = read_manifest(load_study(study.folder))
    made = named(keys.to_make(study, manifest, "01_cohort"))
    assert made == {"01_cohort"}
    assert len(run_shard(study, read_manifest(study), "images", 0)) == len(manifest)
