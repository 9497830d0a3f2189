"""What an earlier version of the project made is refused in words, or made again; never believed."""

import json

import pytest
from typer.testing import CliRunner

from sscct_lib.book.chapters import write_provenance
from sscct_lib.cli.app import app
from sscct_lib.study.folder import StudyError
from sscct_lib.study.recovery import refuse_earlier, set_damaged_aside


@pytest.fixture
def study(study_of, manifest_frame):
    """A run with an executed notebook of this version."""
    study = study_of(manifest_frame)
    executed = study.run / "notebooks" / "02_segmentation_qa.ipynb"
    executed.parent.mkdir(parents=True)
    executed.write_text(json.dumps({"cells": []}))
    write_provenance(study, "02_segmentation_qa", "code", {})
    return study


def make_earlier(study):
    record = study.run / "provenance" / "02_segmentation_qa.json"
    content = json.loads(record.read_text())
    del content["keys"]
    record.write_text(json.dumps(content))


def test_what_this_version_made_stays(study):
    refuse_earlier(study)
    assert set_damaged_aside(study) == []


def test_what_an_earlier_version_made_is_refused_and_a_run_makes_it_again(study):
    make_earlier(study)
    with pytest.raises(StudyError, match=r"02_segmentation_qa was made by an earlier version .* `sscct run`"):
        refuse_earlier(study)
    told = set_damaged_aside(study)
    assert told == [
        "runs/main/notebooks/02_segmentation_qa.ipynb: made by an earlier version of this project. "
        "Set aside in damaged/."
    ]
    assert not (study.run / "notebooks" / "02_segmentation_qa.ipynb").exists()


def test_a_damaged_record_vouches_for_nothing(study):
    (study.run / "provenance" / "02_segmentation_qa.json").write_text("{")
    with pytest.raises(StudyError, match="earlier version"):
        refuse_earlier(study)


@pytest.mark.parametrize(
    "words", [["book"], ["report", "STUDY", "a1"], ["predict", "a.nii", "--study"], ["pretrain"]], ids=lambda w: w[0]
)
def test_no_command_that_reads_a_run_believes_it(study, words):
    make_earlier(study)
    arguments = [str(study.folder) if word == "STUDY" else word for word in words]
    ran = CliRunner().invoke(app, arguments if "STUDY" in words else [*arguments, str(study.folder)])
    assert ran.exit_code == 1
    assert "made by an earlier version" in ran.output
