"""The tables that readers see."""

import pandas as pd
import pytest

from sscct_lib import plain_tables, summary
from sscct_lib.comparison import differences
from sscct_lib.horizons import evaluate
from sscct_lib.summary import estimate_text, years_text
from tests.test_horizons import FEW, make_cohort, make_predictions


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(60)


@pytest.fixture(scope="module")
def predictions(cohort):
    return pd.concat([make_predictions(cohort, 0.1, "A"), make_predictions(cohort, 2.0, "B")], ignore_index=True)


@pytest.fixture(scope="module")
def performance(predictions, cohort):
    return evaluate(predictions, cohort, FEW)


def test_texts():
    assert estimate_text(0.774, 0.701, 0.829) == "0.77 (0.70 to 0.83)"
    assert estimate_text(-0.001, -0.2, 0.1) == "0.00 (-0.20 to 0.10)"  # there is no -0.00
    assert estimate_text(float("nan"), 0.1, 0.2) == "not estimable"
    assert estimate_text(0.5, float("nan"), float("nan"), decimals=3) == "0.500 (no interval)"
    assert estimate_text(2.43, 0.0, 2699.24) == "2.43 (0.00 to above 100)"
    assert estimate_text(240, 110, 300, decimals=0) == "240 (110 to 300)"
    assert [years_text(1.0), years_text(0.5), years_text(5.0)] == ["1 year", "0.5 years", "5 years"]


def test_side_by_side_has_models_horizons_and_denominators(performance, cohort):
    table = summary.side_by_side(performance)
    assert table.index.tolist() == [summary.DENOMINATORS, "A", "B"]
    assert table.columns.tolist() == ["1 year", "3 years", "5 years"]
    row = performance.query("metric == 'auc' and model == 'B' and horizon_years == 3").iloc[0]
    assert table.loc["B", "3 years"] == estimate_text(row["estimate"], row["ci_low"], row["ci_high"])
    died = (cohort["event_observed"] & (cohort["followup_years"] <= 3)).sum()
    unknown = (~cohort["event_observed"] & (cohort["followup_years"] < 3)).sum()
    assert table.loc[summary.DENOMINATORS, "3 years"] == f"{died} of {len(cohort)} ({unknown} unknown)"


def test_numbers_for_prose(performance, cohort):
    numbers = summary.headline_numbers(performance, cohort, FEW)
    assert numbers["n_scans"] == len(cohort)
    assert numbers["study_title"] == FEW.title
    assert numbers["deaths"].startswith(f"{numbers['n_deaths_1y']} within 1 year ({numbers['n_unknown_1y']} unknown), ")
    assert numbers["n_deaths_5y"] == (cohort["event_observed"] & (cohort["followup_years"] <= 5)).sum()
    assert numbers["best_model_5y"] == "A"
    assert numbers["best_auc_5y"] == summary.side_by_side(performance).loc["A", "5 years"]


def test_numbers_when_nothing_can_be_estimated(predictions, cohort):
    alive = cohort.assign(event_observed=False)
    performance = evaluate(predictions, alive, FEW)
    numbers = summary.headline_numbers(performance, alive, FEW)
    assert (numbers["best_model_1y"], numbers["best_auc_1y"]) == ("no model", "not estimable")
    assert summary.beside_published(performance)["best AUC here"].eq("not estimable").all()
    assert plain_tables.remarks(performance)["note"].str.startswith("not estimable").all()


def test_beside_published_shows_the_published_values(performance):
    table = summary.beside_published(performance)
    assert table["AUC there: best of three networks"].tolist() == ["0.769", "0.801", "0.709"]
    assert table.loc["5 years", "deaths there"] == "428 of 2,125 scans"


def test_nothing_to_remark(performance):
    assert plain_tables.remarks(performance).empty


def test_differences_side_by_side(predictions, cohort):
    table = summary.differences_side_by_side(differences(predictions, cohort, "A", FEW))
    assert table.index.tolist() == ["B"]
    assert table.columns.tolist()[:2] == ["1 year", "1 year, p (Holm)"]
