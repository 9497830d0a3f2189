"""Counts in eight bits and work in blocks of samples change no number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw

from sscct_lib.horizons import bootstrap
from sscct_lib.horizons.bootstrap import Outcome, horizon_outcome, kaplan_meier, resample_patients
from sscct_lib.horizons.metrics import METRICS, harrell_c, uno_c
from sscct_lib.horizons.survival import aalen_johansen


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
