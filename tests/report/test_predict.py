"""Sources that hold no single scan are refused, and what lies outside the study keeps its place."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from sscct_lib.cli import studies
from sscct_lib.cli.app import app
from sscct_lib.report import predict
from sscct_lib.report.page import Prediction
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import Settings


@pytest.fixture
def trained(tmp_path):
    return Study(tmp_path / "study", Settings())


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


class ReachedError(Exception):
    """The models were asked."""


class TestFailedMask:
    @pytest.fixture
    def failed(self, trained, monkeypatch, tmp_path):
        """A scan whose mask fails, and models that say when they are asked."""

        def ask(*_):
            raise ReachedError

        record = {"status": "ok", "verdict": "fail", "findings": "lung volume 0.5 L"}
        monkeypatch.setattr(predict.page, "read_tables", lambda trained: None)
        monkeypatch.setattr(predict, "prepare_scans", lambda study, rows: pd.DataFrame([{"status": "ok"}]))
        monkeypatch.setattr(predict, "segment_scans", lambda study, rows: pd.DataFrame([record]))
        monkeypatch.setattr(predict, "extract_scans", ask)
        (tmp_path / "Doe_Jane.nii.gz").touch()
        return trained, tmp_path / "Doe_Jane.nii.gz", {}, tmp_path / "work"

    def test_gives_no_risk(self, failed):
        with pytest.raises(StudyError, match=r"No risk: the lung mask failed its checks: lung volume 0.5 L.*--anyway"):
            predict.predict_scan(*failed)

    def test_is_judged_anyway_where_that_is_said(self, failed):
        with pytest.raises(ReachedError):
            predict.predict_scan(*failed, anyway=True)


def test_warnings_are_printed_before_the_risks(study_of, manifest_frame, monkeypatch, tmp_path):
    study = study_of(manifest_frame)
    risk = {"model": "A", "horizon_years": 1.0, "risk": 0.2, "risk_sd": None, "n_missing": 0}
    lungs = {"verdict": "pass", "findings": "", "volume_l": 4.0, "mean_hu": -800.0}
    content = {
        "study": "s", "run": "main", "synthetic": False, "shown_model": "A", "risks": [risk], "lower_share": 0.5,
        "similar": [], "lungs": lungs, "likeness": {"nearer": 1.0, "n_scans": 5, "findings": []}, "clinical": {},
        "missing": [], "warnings": ["The scan is unlike all others."], "models": {},
    }  # fmt: skip
    given = []
    made = Prediction.model_validate(content)
    monkeypatch.setattr(predict, "predict_scan", lambda *arguments: given.append(arguments[-1]) or (made, None))
    monkeypatch.setattr(studies, "_write_page", lambda found, path: None)
    for more in ([], ["--anyway"]):
        ran = CliRunner().invoke(
            app, ["predict", str(tmp_path), "--study", str(study.folder), "--out", str(tmp_path / "out"), *more]
        )
        assert ran.exit_code == 0, ran.output
        assert ran.output.index("unlike all others") < ran.output.index("Risk of death within 1 year")
    assert given == [False, True]
