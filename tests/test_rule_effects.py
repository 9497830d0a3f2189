"""Results without a rule: counted by hand, and judged by the same function on the scans that come back."""

import numpy as np
import pandas as pd
import pytest

from sscct_lib.horizons import evaluate
from sscct_lib.rule_effects import ALL_RULES, effects_of_rules, returning
from sscct_lib.study import Settings
from sscct_lib.summary import estimate_text


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
    return pd.concat(
        [scans.assign(model="CT", horizon_years=horizon, risk=risk, risk_sd=np.nan) for horizon in (1.0, 3.0)]
    )


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
    assert np.flatnonzero(returning(lungs, "heart_hu")).tolist() == [0]
    assert np.flatnonzero(returning(lungs, ALL_RULES)).tolist() == [0, 1]
    assert not returning(lungs, "noise_hu").any()


def test_auc_without_a_rule_is_that_of_the_scans_with_those_that_come_back(cohort, all_risks, lungs, settings):
    is_kept = all_risks["scan_id"].isin(lungs.loc[lungs["verdict"] != "fail", "scan_id"])
    table = effects_of_rules(all_risks[is_kept], all_risks[~is_kept], lungs, cohort, "CT", settings)
    assert table[["flagged", "removed"]].loc["heart_hu"].tolist() == [3, 1]
    assert table[["flagged", "removed"]].loc["noise_hu"].tolist() == [5, 0]
    assert table[["flagged", "removed"]].loc[ALL_RULES].tolist() == [7, 2]
    assert table.loc["noise_hu", "removed put back"] == "the same"

    def auc(scans) -> str:
        judged = evaluate(all_risks[all_risks["scan_id"].isin(scans)], cohort, settings, ["auc"])
        row = judged[judged["horizon_years"] == 3].iloc[0]
        return f"{estimate_text(row['estimate'], row['ci_low'], row['ci_high'])}; {row['n_scans']} scans"

    kept = lungs.loc[lungs["verdict"] != "fail", "scan_id"]
    assert table.loc["heart_hu", "as analysed"] == auc(kept)
    assert table.loc["heart_hu", "removed put back"] == auc([*kept, "s0"])
    assert table.loc[ALL_RULES, "removed put back"] == auc([*kept, "s0", "s1"])
    assert table.loc["noise_hu", "flagged left out"] == auc(kept[4:])
