"""Counts in eight bits and work in blocks of samples change no number."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw

from sscct_lib.horizons import bootstrap, censoring, comparison, curves
from sscct_lib.horizons.bootstrap import Outcome, horizon_outcome, kaplan_meier, resample_patients
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.metrics import METRICS, harrell_c, uno_c
from sscct_lib.horizons.survival import aalen_johansen
from sscct_lib.study.settings import HorizonSettings, Settings
from tests.horizons.cohorts import make_cohort, make_predictions


def _cohort(n_scans: int, seed: int, days: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    risk = rng.integers(1, 15, n_scans) / 20  # with ties, of risk and of day
    return risk, rng.integers(1, days, n_scans) / 4.0, rng.random(n_scans) < 0.5, rng.integers(0, n_scans // 2, n_scans)


def _outcome(seed: int, n_scans: int = 60, horizon_years: float = 6.0) -> tuple[np.ndarray, Outcome]:
    risk, time, event, patient = _cohort(n_scans, seed)
    return risk, horizon_outcome(time, event, horizon_years, resample_patients(patient, 20, seed))


def test_more_than_255_on_a_day_are_counted():
    counts = np.full((1, 600), 3, dtype=np.uint8)
    time, event = np.repeat([1.0, 2.0], 300), np.repeat([True, False], [450, 150])
    np.testing.assert_allclose(kaplan_meier(time, event, counts, [1.0, 2.0]), [[0.5, 0.25]])
    np.testing.assert_allclose(aalen_johansen(time, event, event, counts, [1.0, 2.0]), [[0.5, 0.75]])


@pytest.mark.parametrize("metric", METRICS)
def test_bits_of_counts_and_blocks_of_samples_change_no_measure(metric: str, monkeypatch):
    risk, outcome = _outcome(seed=1)
    whole = METRICS[metric].measure(risk, outcome)
    assert outcome.counts.dtype == np.uint8
    wide = resample_patients(outcome.resamples.patient, 20, 1)
    wide = bootstrap.Resamples(wide.patient, wide.counts.astype(float))
    monkeypatch.setattr(bootstrap, "_MOST_AT_ONCE", 3 * len(risk))
    again = horizon_outcome(outcome.followup_years, outcome.event_observed, outcome.horizon_years, wide)
    np.testing.assert_allclose(again.weights, outcome.weights, rtol=1e-14)
    some_at_once = [slice(None)]  # where the samples are draws of the measure itself
    if METRICS[metric].scale != "draws":
        some_at_once = list(bootstrap.blocks(*again.counts.shape))
    parts = [METRICS[metric].measure(risk, again.samples(some)) for some in some_at_once]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-7)


def _tables(cohort: pd.DataFrame, predictions: pd.DataFrame) -> list[pd.DataFrame]:
    settings = Settings(horizons_years=(3.0,), horizons=HorizonSettings(n_bootstrap=20))
    evaluation = Evaluation(cohort, predictions, settings)
    found = evaluate(evaluation, ("auc", "uno_c", "average_precision", "brier", "calibration_slope", "ici", "e90"))
    return [
        found,
        comparison.differences(evaluation, "Clinical"),
        curves.roc_curves(evaluation, found),
        curves.smooth_calibration(evaluation, "Clinical"),
        censoring.other_ways(evaluation, "Clinical"),
    ]


def test_blocks_of_samples_change_no_table(cohort, predictions, monkeypatch):
    whole = _tables(cohort, predictions)
    monkeypatch.setattr(bootstrap, "_MOST_AT_ONCE", 6 * len(cohort))
    for table, in_blocks in zip(whole, _tables(cohort, predictions), strict=True):
        assert len(table)
        pd.testing.assert_frame_equal(table, in_blocks, rtol=1e-9)


@pytest.mark.slow
def test_no_array_of_samples_and_scans_has_64_bits(monkeypatch):
    cohort = make_cohort(1500)
    predictions = make_predictions(cohort, 0.2, "Clinical")
    settings = Settings(horizons_years=(3.0,), horizons=HorizonSettings(n_bootstrap=400))
    monkeypatch.setattr(bootstrap, "_MOST_AT_ONCE", 5 * len(cohort))

    def judge() -> None:
        evaluate(Evaluation(cohort, predictions, settings), ("auc", "brier", "observed_expected", "e50"))

    judge()  # what is compiled and loaded at the first use takes memory too
    tracemalloc.start()
    judge()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 401 * len(cohort)


@given(st.integers(0, 10_000))
def test_concordance_equals_scikit_survival_in_every_sample(seed: int):
    risk, outcome = _outcome(seed)
    until = outcome.event_observed & outcome.died
    for sample in (0, 1, 7):
        rows = np.repeat(np.arange(len(risk)), outcome.counts[sample])
        if not until[rows].any():
            continue
        # Beyond the horizon nobody's death counts, and who is followed longer is alive at each of the deaths.
        expected = concordance_index_censored(until[rows], outcome.followup_years[rows], risk[rows], tied_tol=0)[0]
        np.testing.assert_allclose(harrell_c(risk, outcome)[sample], expected, rtol=1e-12)


def test_uno_equals_scikit_survival():
    risk, time, event, patient = _cohort(80, seed=3, days=60)
    time = time + np.arange(80) / 1000  # since a death and a censoring of one day are taken in another order there
    outcome = horizon_outcome(time, event, 9.1, resample_patients(patient, 5, 0))
    state = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
    expected = concordance_index_ipcw(state, state, risk, tau=9.1, tied_tol=0)[0]
    np.testing.assert_allclose(uno_c(risk, outcome)[0], expected, rtol=1e-12)
