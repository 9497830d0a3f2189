"""What shortcuts do: on patients whose features identify them and say nothing.

Results without a rule: counted by hand, and judged by the same function on the scans that come back.
"""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sscct_lib.horizons import sensitivity
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.sensitivity import (
    ALL_RULES,
    HONEST,
    WAYS,
    compare_shortcuts,
    effects_of_rules,
    expected_auc,
    returning,
    shortcuts_side_by_side,
)
from sscct_lib.lungs.verdict import SEVERE
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import estimate_text


@pytest.fixture(scope="module")
def table():
    """Noise that belongs to the patient, five scans each: only a model that has seen the patient can use it."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(120), 5)
    death = np.repeat(rng.exponential(6, 120), 5) + 2
    ahead = np.tile(np.linspace(0, 1.5, 5), 120)
    end = np.repeat(rng.uniform(2, 12, 120), 5)
    cohort = pd.DataFrame(
        {"patient_id": patient, "followup_years": np.minimum(death, end) - ahead, "event_observed": death <= end}
    )
    features = pd.DataFrame(np.repeat(rng.normal(size=(120, 4)), 5, axis=0) + rng.normal(0, 0.05, (600, 4)))
    features.iloc[::7, 0] = np.nan
    truth = {years: np.full(600, 0.3) for years in (3.0, 5.0)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sensitivity, "N_TREES", 40)
        found = compare_shortcuts(cohort, features, (3.0, 5.0), 4, 100, 0, truth)
    return found.set_index(["horizon_years", "way"])


def test_every_way_is_there_with_its_counts(table):
    assert list(table.loc[5.0].index) == list(WAYS)
    assert (table["n_scans"] == 600).all()
    assert (table["n_patients"] == 120).all()
    assert (table.loc[5.0]["n_unknown"] > 0).tolist() == [True, True, False, True, False]


def test_splitting_by_scan_finds_what_is_not_there(table):
    for years in (3.0, 5.0):
        by_scan = table.loc[(years, "folds split by scan, not by patient"), "auc"]
        assert by_scan > 0.8
        assert table.loc[(years, HONEST), "auc"] < by_scan - 0.15


def test_intervals_of_scans_as_if_independent_are_too_narrow(table):
    wide, narrow = (table.loc[(5.0, way), "width"] for way in (HONEST, "interval as if scans were independent"))
    assert narrow < 0.75 * wide


def test_all_scans_at_equal_true_risk_leave_nothing_to_tell(table):
    assert table["true_auc"].to_numpy() == pytest.approx(0.5)


def test_table_for_readers_has_a_row_a_way_and_the_truth(table):
    shown = shortcuts_side_by_side(table.reset_index())
    assert list(shown.columns) == ["3 years", "5 years"]
    assert shown.index[1:-1].tolist() == list(WAYS)
    died, of_died, alive, of_alive, unknown = map(int, re.findall(r"\d+", shown.iloc[0, 0]))
    assert died + alive + unknown == 600
    assert (of_died < died / 3, of_alive < alive / 3) == (True, True)  # five scans of each patient
    assert shown.iloc[-1].tolist() == ["0.50", "0.50"]
    assert "width" in shown.loc[HONEST, "5 years"]


def test_expected_auc_equals_scikit_learn_with_each_scan_dead_and_alive():
    rng = np.random.default_rng(1)
    risk = rng.uniform(0, 1, 200)
    score = np.round(risk + rng.normal(0, 0.3, 200), 1)
    died = np.repeat([1, 0], 200)
    reference = roc_auc_score(died, np.tile(score, 2), sample_weight=np.concatenate([risk, 1 - risk]))
    one = np.zeros(len(score), dtype=int)
    assert expected_auc(score, one, risk) == pytest.approx(reference, abs=1e-12)
    # Of a second fit, whose scores are all higher and whose scans are the same: nothing changes.
    both, twice = np.append(score, score + 100), np.append(risk, risk)
    assert expected_auc(both, np.append(one, one + 1), twice) == pytest.approx(reference, abs=1e-12)


def test_too_few_deaths_give_no_estimate(monkeypatch):
    monkeypatch.setattr(sensitivity, "N_TREES", 2)
    cohort = pd.DataFrame({"patient_id": range(30), "followup_years": 4.0, "event_observed": [True] + [False] * 29})
    found = compare_shortcuts(cohort, pd.DataFrame({"x": range(30)}), (5.0,), 3, 10, 0)
    assert found["auc"].isna().all()
    assert (found["n_events"] == 1).all()


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.model_validate({"horizons_years": [1.0, 3.0], "horizons": {"n_bootstrap": 40}})


@pytest.fixture(scope="module")
def cohort() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 80
    years, died = rng.exponential(3, n).round(3) + 0.01, rng.random(n) < 0.6
    return pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(n)], "patient_id": [f"p{i // 2}" for i in range(n)], "scan_day": 0,
            "followup_years": years, "event_observed": died, "fold": np.arange(n) // 2 % 2,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def all_risks(cohort) -> pd.DataFrame:
    scans = cohort[["scan_id", "patient_id", "fold"]]
    risk = np.clip(0.5 - 0.1 * cohort["followup_years"] + np.random.default_rng(1).normal(0, 0.1, len(cohort)), 0, 1)
    return pd.concat([scans.assign(model="CT", horizon_years=horizon, repeat=0, risk=risk) for horizon in (1.0, 3.0)])


@pytest.fixture(scope="module")
def lungs(cohort) -> pd.DataFrame:
    table = cohort[["scan_id", "patient_id"]].assign(verdict="pass", flags="", decision=None)
    table.loc[:2, "verdict"] = "fail"
    table.loc[0, "flags"] = "heart_hu noise_hu"
    table.loc[1, "flags"] = "heart_hu trachea_hu"
    table.loc[2, ["flags", "decision"]] = "heart_hu", "review changed to fail by KM: x"
    table.loc[3:6, ["verdict", "flags"]] = "review", "noise_hu"
    return table


def test_scans_that_come_back(lungs):
    assert np.flatnonzero(returning(lungs, "heart_hu", SEVERE)).tolist() == [0]
    assert np.flatnonzero(returning(lungs, ALL_RULES, SEVERE)).tolist() == [0, 1]
    assert not returning(lungs, "noise_hu", SEVERE).any()


def test_auc_without_a_rule_is_that_of_the_scans_with_those_that_come_back(cohort, all_risks, lungs, settings):
    is_kept = all_risks["scan_id"].isin(lungs.loc[lungs["verdict"] != "fail", "scan_id"])
    table = effects_of_rules(Evaluation(cohort, all_risks[is_kept], settings), all_risks[~is_kept], lungs, "CT", SEVERE)
    assert table[["flagged", "removed"]].loc["heart_hu"].tolist() == ["<5", "<5"]
    assert table[["flagged", "removed"]].loc["noise_hu"].tolist() == ["hidden", "0"]  # of fewer patients
    assert table[["flagged", "removed"]].loc[ALL_RULES].tolist() == ["hidden", "<5"]
    assert table.loc["noise_hu", "removed put back"] == "the same"

    def auc(scans) -> str:
        judged = evaluate(Evaluation(cohort, all_risks[all_risks["scan_id"].isin(scans)], settings), ["auc"])
        row = judged[judged["horizon_years"] == 3].iloc[0]
        return estimate_text(row["estimate"], row["ci_low"], row["ci_high"])

    kept = lungs.loc[lungs["verdict"] != "fail", "scan_id"]
    n_patients = all_risks.loc[is_kept, "patient_id"].nunique()
    assert table.loc["heart_hu", "as analysed"] == f"{auc(kept)}; {len(kept)} scans of {n_patients} patients"
    assert table.loc["heart_hu", "removed put back"] == auc([*kept, "s0"])
    assert table.loc[ALL_RULES, "removed put back"] == auc([*kept, "s0", "s1"])
    assert table.loc["noise_hu", "flagged left out"] == auc(kept[4:])
