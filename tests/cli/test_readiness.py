"""What a later stage would refuse is refused before the first."""

import pandas as pd
import pytest

from sscct_lib.cli.readiness import check_ready
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.study.folder import StudyError, load_study
from tests.tiny_study import sscct

MISSING = {
    "lungs": ("lungs: {method: lungmask}", "needs lungmask_weights", "02_segmentation_qa"),
    "lungs compared": ("lungs: {compare_with: lungmask}", "needs lungmask_weights", "02_segmentation_qa"),
    "published": ("deep: {preset: published}", "sscct weights fetch medicalnet STUDY", "04_deep_models"),
    "own": ("deep: {swin: {weights: swin.pt}}", r"swin\.pt is missing", "04_deep_models"),
}
BEFORE = {"02_segmentation_qa": "01_cohort", "04_deep_models": "03_radiomics"}
MADE = {"02_segmentation_qa": "lungs", "04_deep_models": "predictions/04_deep_models"}


def studied(study_of, manifest_frame, settings=""):
    died = manifest_frame.assign(event_observed="1")
    return study_of(died, f"title: test\ncohort: {{n_folds: 2}}\n{settings}\n")


@pytest.mark.parametrize(("settings", "words", "stage"), MISSING.values(), ids=MISSING.keys())
def test_weights_are_asked_for_before_any_work_by_the_runs_that_need_them(
    study_of, manifest_frame, settings, words, stage
):
    study = studied(study_of, manifest_frame, settings)
    manifest = read_manifest(study)
    for last in (None, stage):
        with pytest.raises(StudyError, match=words):
            check_ready(study, manifest, last)
    check_ready(study, manifest, BEFORE[stage])
    study.table(MADE[stage]).parent.mkdir(parents=True)
    study.table(MADE[stage]).touch()
    check_ready(study, manifest)  # what is finished needs them no more


def test_a_file_with_another_checksum_is_refused(study_of, manifest_frame):
    study = studied(study_of, manifest_frame, f"deep: {{swin: {{weights: swin.pt, weights_sha256: {'f' * 64}}}}}")
    (study.folder / "swin.pt").write_bytes(b"weights")
    with pytest.raises(StudyError, match=r"swin\.pt has SHA-256 .*; expected ffff"):
        check_ready(study, read_manifest(study))


def test_a_planned_comparison_of_a_model_that_is_not_made_is_refused_at_once(study_of, manifest_frame):
    made = "horizons: {planned: [[ResNet-18, Goh stage], ['Clinical + quantitative CT, logistic', From elsewhere]]}"
    study = studied(study_of, manifest_frame, made)
    with pytest.raises(StudyError, match="'From elsewhere', which this study does not make"):
        check_ready(study, read_manifest(study))
    given = study.table("predictions/elsewhere")
    given.parent.mkdir(parents=True)
    pd.DataFrame({"model": ["From elsewhere"]}).to_parquet(given)
    check_ready(study, read_manifest(study))


def test_networks_that_learn_without_a_file_need_none(study_of, manifest_frame):
    study = studied(study_of, manifest_frame, "deep: {swin: {weights: self-supervised}}")
    check_ready(study, read_manifest(study))


def test_the_command_line_asks_for_the_networks_that_it_names(study_of, manifest_frame):
    study = studied(study_of, manifest_frame, "deep: {networks: [resnet18], swin: {weights: swin.pt}}")
    check_ready(load_study(study.folder), read_manifest(study))
    refused = sscct("run", study.folder, "-p", "deep.networks=[swin]")
    assert refused.exit_code == 1
    assert "swin.pt is missing" in "".join(refused.output.split("\n"))
    refused = sscct("run", study.folder, "-p", "deep.networks=[vit]")
    assert refused.exit_code == 1
    assert "networks" in refused.output
    refused = sscct("run", study.folder, "-p", "horizons.reference=Clinicl")
    assert refused.exit_code == 1
    assert "horizons.reference names the model 'Clinicl'" in " ".join(refused.output.split())
    assert not study.run.exists()
