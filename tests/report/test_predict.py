"""Models that were trained with other settings are refused; sources that hold no single scan too."""

import json

import pytest

from sscct_lib.book.chapters import write_provenance
from sscct_lib.report import predict
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import Settings


@pytest.fixture
def trained(tmp_path):
    study = Study(tmp_path / "study", Settings())
    for stage in predict.STAGES:
        write_provenance(study, stage, "code", {})
    return study


def changed(study, **sections):
    return Study(study.folder, Settings(**sections), study.run_name)


def test_the_same_settings_are_accepted(trained):
    predict.check_settings(trained)
    predict.check_settings(changed(trained, title="Another title", seed=1, horizons={"n_bootstrap": 5}))


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"images": {"spacing_mm": 1.0}}, "images"),
        ({"lungs": {"method": "provided"}}, "lungs"),
        ({"radiomics": {"bin_width": 10.0}}, "radiomics"),
        ({"horizons_years": (2.0,)}, "horizons_years"),
        ({"labels": "as_published"}, "labels"),
    ],
)
def test_other_settings_are_refused_by_name(trained, sections, named):
    with pytest.raises(StudyError, match=f"trained with other settings: {named} in study.yaml"):
        predict.check_settings(changed(trained, **sections))


def test_parameters_that_the_study_does_not_have_are_refused(trained):
    write_provenance(trained, "02_segmentation_qa", "code", {"method": "provided"})
    with pytest.raises(StudyError, match=r"`02_segmentation_qa` of run main was run with parameters .*method"):
        predict.check_settings(trained)


def test_provenance_records_every_section(trained):
    record = json.loads((trained.run / "provenance" / "01_cohort.json").read_text())
    assert set(record["sections"]) == set(Settings.model_fields)


@pytest.mark.parametrize(("name", "words"), [("none", "neither a file nor a folder"), ("a.txt", "expected a NIfTI")])
def test_what_is_no_scan_is_named(trained, tmp_path, name, words):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(StudyError, match=words):
        predict._read(trained, tmp_path / name)


def test_weights_of_a_lung_method_keep_their_place(tmp_path):
    study = Study(tmp_path / "study", Settings(lungs={"lungmask_weights": "weights/r231.pth"}, demo={}))
    one = predict._study_for_one(study, tmp_path / "work")
    assert one.settings.lungs.lungmask_weights == (tmp_path / "study" / "weights" / "r231.pth").resolve()
    assert one.settings.demo is None
    assert one.settings.images == study.settings.images
