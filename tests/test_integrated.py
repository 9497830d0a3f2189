"""The integrated Brier score against scikit-survival and a closed form."""

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import integrated_brier_score

from sscct_lib.integrated import integrated_brier
from sscct_lib.study import HorizonSettings, Settings
from tests.test_horizons import FEW, make_cohort, make_predictions, survival


def test_it_equals_scikit_survival():
    cohort = make_cohort()
    predictions = make_predictions(cohort)
    found = integrated_brier(predictions, cohort, FEW).iloc[0]
    risk = predictions.pivot(index="scan_id", columns="horizon_years", values="risk").loc[cohort["scan_id"]]
    known = survival(cohort)
    expected = integrated_brier_score(known, known, 1 - risk.to_numpy(), [1.0, 3.0, 5.0])
    assert found["estimate"] == pytest.approx(expected, abs=1e-9)
    assert found["ci_low"] < expected < found["ci_high"]
    assert (found["horizon_years"], found["metric"]) == (5.0, "integrated_brier")


def test_constant_risk_of_uncensored_exponential_lives_has_its_closed_form():
    n, rate, p = 40_000, 0.2, 0.3
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(n)]
    cohort = pd.DataFrame(
        {"scan_id": names, "patient_id": names, "scan_day": 0, "fold": 0,
         "followup_years": rng.exponential(1 / rate, n), "event_observed": True}
    )  # fmt: skip
    rows = cohort[["scan_id", "patient_id", "fold"]]
    predictions = pd.concat(
        [rows.assign(model="Constant", horizon_years=years, risk=p, risk_sd=np.nan) for years in (1.0, 3.0, 5.0)]
    )
    found = integrated_brier(predictions, cohort, Settings(horizons=HorizonSettings(n_bootstrap=2))).iloc[0]
    died = 1 - np.exp(-rate * np.array([1.0, 3.0, 5.0]))
    brier = died * (1 - p) ** 2 + (1 - died) * p**2
    assert found["estimate"] == pytest.approx(np.trapezoid(brier, [1, 3, 5]) / 4, abs=0.003)


def test_a_horizon_without_predictions_gives_no_estimate():
    cohort = make_cohort()
    found = integrated_brier(make_predictions(cohort).query("horizon_years < 5"), cohort, FEW).iloc[0]
    assert np.isnan(found["estimate"])
    assert "no predictions" in found["note"]


def test_one_horizon_has_nothing_to_integrate():
    cohort = make_cohort()
    one = Settings(horizons_years=(3.0,))
    assert integrated_brier(make_predictions(cohort).query("horizon_years == 3"), cohort, one).empty
