"""A scan judged from outside gets the risks that the models give it inside; pages and refusals."""

import json
import re
import tarfile

import numpy as np
import pandas as pd
import pytest

from sscct_lib.deep import cross_validation
from sscct_lib.horizons.models import pictured_model
from sscct_lib.radiomics import saved
from sscct_lib.report.page import Prediction
from sscct_lib.study.schemas import COHORT, RADIOMICS
from sscct_lib.study.tables import read_predictions, read_table
from tests.notebooks.test_real_scan import ARCHIVE
from tests.tiny_study import sscct

pytestmark = pytest.mark.slow
KNOWN = ("age_years", "sex", "ssc_subtype", "fvc_percent", "dlco_percent")


def predict(study, source, out, *more):
    return sscct("predict", source, "--study", study.folder, "--out", out, *more)


@pytest.fixture(scope="module")
def scan(finished):
    """A scan of the cohort with all clinical values."""
    cohort = read_table(finished, "cohort", COHORT)
    return cohort.dropna(subset=list(KNOWN)).iloc[0]


@pytest.fixture(scope="module")
def predicted(finished, scan, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    manifest = pd.read_csv(finished.manifest_path).set_index("scan_id")
    words = ",".join(f"{name}={scan[name]}" for name in (*KNOWN, "manufacturer", "kernel", "slice_thickness_mm"))
    ran = predict(finished, finished.folder / manifest.loc[scan["scan_id"], "image"], out, "--clinical", words)
    assert ran.exit_code == 0, ran.output
    return out, ran.output


def test_risks_are_those_of_the_same_models_inside_the_study(finished, scan, predicted):
    found = Prediction.model_validate_json((predicted[0] / "prediction.json").read_text())
    outside = pd.DataFrame([one.model_dump() for one in found.risks]).set_index(["model", "horizon_years"])["risk"]
    features = read_table(finished, "radiomics", RADIOMICS)
    row = features[features["scan_id"] == scan["scan_id"]]
    known = pd.DataFrame([scan]).drop(columns=["patient_id", "scan_day"])
    inside = [saved.predict_risks(finished.models, row.drop(columns="patient_id").merge(known, on="scan_id"))]
    rows = pd.DataFrame([scan])
    inside += [
        cross_validation.predict_risks(finished, name, finished, rows) for name in ("resnet18", "densenet121", "swin")
    ]
    expected = pd.concat(inside).set_index(["model", "horizon_years"])["risk"]
    np.testing.assert_allclose(outside[expected.index], expected, atol=1e-6)
    assert set(outside.index.get_level_values(0)) - set(expected.index.get_level_values(0)) == {"Equal-weight ensemble"}
    assert found.synthetic
    assert found.missing == []
    # The few patients leave the book "Age and sex" to picture; it is not asked of a new scan, so the rule looks on.
    assert pictured_model(read_predictions(finished)) == "Age and sex"
    assert found.shown_model == "ResNet-18 (from scratch)"


def test_the_files_say_what_they_are_for_and_name_nobody(finished, scan, predicted):
    out, said = predicted
    assert "Research use, not for care" in said
    text = (out / "prediction.json").read_text()
    assert "may guide the treatment" in text
    for secret in (scan["scan_id"], scan["patient_id"], str(finished.folder)):
        assert secret not in text
    page = (out / "prediction.pdf").read_bytes()
    assert page.startswith(b"%PDF")
    assert page.count(b"/Type /Page\n") + page.count(b"/Type /Page ") == 1
    assert b"CreationDate" not in page


def test_missing_clinical_values_are_said_and_no_stacked_risk_is_made_up(finished, scan, tmp_path):
    manifest = pd.read_csv(finished.manifest_path).set_index("scan_id")
    ran = predict(finished, finished.folder / manifest.loc[scan["scan_id"], "image"], tmp_path)
    assert ran.exit_code == 0, ran.output
    assert "Not known: age, sex, subtype, FVC, DLCO" in ran.output
    assert "No ensemble risk: it needs clinical risks" in ran.output
    found = json.loads((tmp_path / "prediction.json").read_text())
    assert "Clinical" not in {one["model"] for one in found["risks"]}
    assert found["shown_model"] == "ResNet-18 (from scratch)"  # it needs no clinical values


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"the public CT {ARCHIVE.name} is not beside this project")
def test_a_real_examination_in_dicom_is_judged_and_called_unlike_or_not(finished, tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "dicom", filter="data")
    ran = predict(finished, tmp_path / "dicom", tmp_path)
    assert ran.exit_code == 0, ran.output
    found = json.loads((tmp_path / "prediction.json").read_text())
    assert found["lungs"]["volume_l"] == pytest.approx(2.9, abs=0.25)
    assert "LIDC" not in json.dumps(found)


def test_other_settings_are_refused_by_name(copied, tmp_path):
    settings = copied.folder / "study.yaml"
    settings.write_text(settings.read_text().replace("images: {spacing_mm: 6.0}", "images: {spacing_mm: 4.0}"))
    refused = predict(copied, next((copied.folder / "scans").glob("*.nii.gz")), tmp_path)
    assert refused.exit_code == 1
    assert re.search(r"made before a change of .*images in study\.yaml", refused.output)
    assert not (tmp_path / "prediction.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("notes.txt", b"x", "expected a NIfTI"), ("scan.nii.gz", b"x", "cannot be used")],
)
def test_what_is_no_scan_is_refused(finished, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused = predict(finished, tmp_path / name, tmp_path / "out")
    assert refused.exit_code == 1
    assert words in refused.output


def test_report_writes_one_page_and_names_scans_that_exist(finished, scan, tmp_path):
    made = sscct("report", finished.folder, scan["scan_id"], "--out", tmp_path / "page.pdf")
    assert made.exit_code == 0, made.output
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    refused = sscct("report", finished.folder, "../x", "--out", tmp_path / "other.pdf")
    assert refused.exit_code == 1
    assert "There is no scan '../x'" in refused.output
