"""Curves against scikit-learn, lifelines and closed forms."""

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from scipy.stats import binomtest
from sklearn.metrics import roc_curve as sklearn_roc_curve

from sscct_lib.horizons import curves, figures, tables
from sscct_lib.horizons.bootstrap import horizon_outcome, proportion_interval, resample_patients
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation, Judged
from sscct_lib.study.folder import StudyError
from tests.horizons.cohorts import FEW, make_cohort, make_predictions


def test_roc_without_censoring_equals_scikit_learn():
    rng = np.random.default_rng(0)
    risk = rng.integers(0, 12, 300) / 12
    followup = rng.exponential(5 - 3 * risk)
    outcome = horizon_outcome(followup, np.ones(300, bool), 3.0, resample_patients(np.arange(300), 0, 0))
    x, y, _ = sklearn_roc_curve(outcome.died, risk, drop_intermediate=False)
    scans = np.ones(300, bool), pd.DataFrame(), risk, risk[None], np.zeros((1, 300), int), None
    curve = curves.roc_curve(Judged("Model", 3.0, *scans, outcome), n_points=1001)
    np.testing.assert_allclose(curve["sensitivity"], np.interp(curve["false_positive"], x, y), atol=1e-12)


def test_area_under_the_weighted_roc_is_the_auc():
    cohort = make_cohort()
    predictions = make_predictions(cohort)
    performance = evaluate(Evaluation(cohort, predictions, FEW))
    table = curves.roc_curves(Evaluation(cohort, predictions, FEW), performance)
    for years, rows in table.groupby("horizon_years"):
        area = np.trapezoid(rows["sensitivity"], rows["false_positive"])
        at = (performance["metric"] == "auc") & (performance["horizon_years"] == years)
        known = performance.loc[at, "estimate"].item()
        assert area == pytest.approx(known, abs=0.01)
        assert (rows["ci_low"] <= rows["sensitivity"] + 1e-12).all()
        assert (rows["ci_high"] >= rows["sensitivity"] - 1e-12).all()


def test_survival_by_group_equals_lifelines():
    cohort = make_cohort()
    groups = curves.tertile_names(cohort["marker"].to_numpy())
    resamples = resample_patients(cohort["patient_id"], 50, seed=0)
    table = curves.survival_by_group(groups, cohort, resamples, 5.0, curves.TERTILES)
    assert table["group"].unique().tolist() == list(curves.TERTILES)
    for name, rows in table.groupby("group"):
        inside = cohort[groups == name]
        fitted = KaplanMeierFitter().fit(inside["followup_years"], inside["event_observed"])
        known = rows.dropna(subset="survival")
        expected = fitted.survival_function_at_times(known["years"]).to_numpy()
        np.testing.assert_allclose(known["survival"], expected, atol=1e-12)
        at_risk = [(inside["followup_years"] >= years).sum() for years in rows["years"]]
        assert rows["at_risk"].tolist() == at_risk


def test_at_risk_at_the_end_of_follow_up_is_not_zero():
    """All are followed to exactly 5 years: 5 years is where they are all still at risk."""
    cohort = make_cohort(20).assign(followup_years=5.0, event_observed=False)
    resamples = resample_patients(cohort["patient_id"], 5, seed=0)
    table = curves.survival_by_group(["all"] * len(cohort), cohort, resamples, 5.0, ["all"])
    assert table.set_index("years").loc[5.0, "at_risk"] == len(cohort)


def outcome_of(cohort, years=3.0, n_samples=100):
    resamples = resample_patients(cohort["patient_id"], n_samples, seed=0)
    followup, event = cohort["followup_years"].to_numpy(float), cohort["event_observed"].to_numpy(bool)
    return horizon_outcome(followup, event, years, resamples)


def test_calibration_of_the_true_risk_is_on_the_line():
    cohort = make_cohort(4000, seed=3)
    cohort = cohort[cohort["scan_id"].str.endswith("-1")].reset_index(drop=True)
    risk = 1 - np.exp(-0.15 * 3 * np.exp(cohort["marker"].to_numpy()))
    table = curves.calibration_groups(risk, outcome_of(cohort), n_groups=5)
    assert (table["observed"] - table["predicted"]).abs().max() < 0.05
    inside = (table["ci_low"] <= table["predicted"]) & (table["predicted"] <= table["ci_high"])
    assert inside.sum() >= 4
    assert table["n_scans"].sum() == len(cohort)


def test_a_group_without_deaths_has_an_interval_with_width():
    cohort = make_cohort(30).assign(event_observed=False, followup_years=4.0)
    row = curves.calibration_groups(np.full(len(cohort), 0.1), outcome_of(cohort), n_groups=4).iloc[0]
    assert row["observed"] == 0
    # Wilson's upper bound of 0 of n: z^2 / (n + z^2)
    assert row["ci_high"] == pytest.approx(3.8415 / (30 + 3.8415), abs=1e-4)


def test_a_group_not_followed_to_the_horizon_is_unknown():
    cohort = make_cohort(30).assign(event_observed=False, followup_years=2.0)
    row = curves.calibration_groups(np.full(len(cohort), 0.1), outcome_of(cohort)).iloc[0]
    assert np.isnan([row["observed"], row["ci_low"], row["ci_high"]]).all()


def test_proportion_interval_of_independent_patients_is_wilsons():
    died = np.arange(200) < 30
    samples = resample_patients(np.arange(200), 4000, seed=0).counts @ died / 200
    expected = binomtest(30, 200).proportion_ci(method="wilson")
    assert proportion_interval(samples, 200) == pytest.approx((expected.low, expected.high), abs=0.003)


@pytest.mark.filterwarnings("error")
def test_proportion_interval_without_a_resample_that_can_be_judged_is_wilsons_of_the_patients():
    expected = binomtest(3, 10).proportion_ci(method="wilson")
    found = proportion_interval(np.array([0.3, np.nan, np.nan]), 10)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_equal_risks_stay_in_one_group():
    assert len(np.unique(curves.quantile_groups(np.full(10, 0.3), 4))) == 1
    assert set(curves.tertile_names(np.full(10, 0.3))) == {"middle risk"}


def test_risk_states_and_unknown_model():
    cohort = make_cohort(30)
    predictions = make_predictions(cohort)
    table = curves.risk_states(Evaluation(cohort, predictions, FEW), "Model")
    at = table[table["horizon_years"] == 3]["state"].to_numpy()
    followup, event = cohort["followup_years"], cohort["event_observed"]
    expected = np.where(event & (followup <= 3), "died", np.where(followup > 3, "alive", "unknown"))
    np.testing.assert_array_equal(at, expected)
    with pytest.raises(StudyError, match="No model named 'Nobody'"):
        curves.calibration(Evaluation(cohort, predictions, FEW), "Nobody")


def test_a_model_with_one_horizon_is_drawn_at_that_horizon():
    cohort = make_cohort(60)
    predictions = make_predictions(cohort).query("horizon_years == 3")
    assert curves.calibration(Evaluation(cohort, predictions, FEW), "Model")["horizon_years"].unique().tolist() == [3.0]
    assert isinstance(curves.survival_by_tertile(Evaluation(cohort, predictions, FEW), "Model"), pd.DataFrame)


def test_proportion_interval_ignores_rounding_at_the_bounds():
    above = np.array([1 + 1e-15, 1.0, 1 - 1e-15])
    low, high = proportion_interval(above, 20)
    assert high == pytest.approx(1)
    assert low == pytest.approx(20 / (20 + 3.8415), abs=1e-4)


def test_survival_of_a_group_without_deaths_has_a_band():
    cohort = make_cohort(20).assign(followup_years=5.0, event_observed=False)
    resamples = resample_patients(cohort["patient_id"], 20, seed=0)
    table = curves.survival_by_group(["all"] * len(cohort), cohort, resamples, 5.0, ["all"])
    np.testing.assert_allclose(table["ci_low"], 20 / (20 + 3.8415), atol=1e-4)
    np.testing.assert_allclose(table["ci_high"], 1)


def test_risks_from_other_patients_are_spread_as_those_of_bootstrap_samples():
    """A model that gives everybody the share of deaths it has seen: its spread over bootstrap samples is binomial."""
    rng, n, k, n_repeats = np.random.default_rng(0), 120, 4, 60
    names = [f"p{i}" for i in range(n)]
    died = rng.random(n) < 0.3
    cohort = pd.DataFrame({"scan_id": names, "patient_id": names, "scan_day": 0, "fold": np.arange(n) % k,
                           "followup_years": np.where(died, 1.0, 9.0), "event_observed": died})  # fmt: skip
    frames = []
    for repeat in range(n_repeats):
        fold = cohort["fold"].to_numpy() if repeat == 0 else rng.permutation(cohort["fold"])
        risk = np.array([died[fold != one].mean() for one in range(k)])[fold]
        frames.append(cohort[["scan_id", "patient_id"]].assign(repeat=repeat, fold=fold, risk=risk))
    predictions = pd.concat(frames).assign(model="Share", horizon_years=3.0, risk_sd=np.nan, score=np.nan)
    found = curves.instability(Evaluation(cohort, predictions, FEW), "Share")
    spread = np.sqrt(((found["other"] - found["risk"]) ** 2).mean() * (n_repeats - 1) / n_repeats)
    assert spread == pytest.approx(np.sqrt(died.mean() * (1 - died.mean()) / n), rel=0.1)
    written = tables.instability({"Share": found}).loc["Share", "3 years"]
    mean_distance = np.sqrt(2 / np.pi) * spread  # of a normal distribution
    assert float(written.split(",")[0]) == pytest.approx(100 * mean_distance, rel=0.2)
    figure = figures.instability(found, "Share")
    assert len(figure.axes[0].collections[0].get_offsets()) == n * n_repeats


def test_a_model_of_one_split_tells_nothing_of_other_patients():
    cohort = make_cohort()
    assert curves.instability(Evaluation(cohort, make_predictions(cohort), FEW), "Model").empty
    assert tables.instability({}).empty
