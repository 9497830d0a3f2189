"""Recalibration and smooth calibration against scikit-learn, statsmodels' idea of a local fit, and closed forms."""

import numpy as np
import pytest

from sscct_lib.horizons.bootstrap import horizon_outcome, kaplan_meier, resample_patients
from sscct_lib.horizons.calibration import (
    calibration_error,
    calibration_intercept,
    calibration_slope,
    logit,
    smooth_observed,
)


def outcome_with_risk(true_risk, n_samples=0, seed=0):
    """Deaths within 1 year with the given probabilities, no censoring."""
    rng = np.random.default_rng(seed)
    followup = np.where(rng.random(len(true_risk)) < true_risk, 0.5, 2.0)
    resamples = resample_patients(np.arange(len(true_risk)), n_samples, seed)
    return horizon_outcome(followup, followup < 1, 1.0, resamples)


def test_smooth_curve_equals_weighted_least_squares():
    rng = np.random.default_rng(1)
    risk = rng.uniform(0.05, 0.9, 80)
    outcome = outcome_with_risk(risk, n_samples=1)
    at = np.array([0.1, 0.4, 0.7])
    x = logit(risk)
    width = 1.06 * x.std() * min(outcome.died.sum(), outcome.alive.sum()) ** -0.2
    for sample in (0, 1):
        for point, found in zip(logit(at), smooth_observed(risk, outcome, at)[sample], strict=True):
            root = np.sqrt(outcome.counts[sample] * np.exp(-0.5 * ((x - point) / width) ** 2))
            design = np.column_stack([np.ones(80), x - point]) * root[:, None]
            expected = np.linalg.lstsq(design, outcome.died * root, rcond=None)[0][0]
            assert found == pytest.approx(np.clip(expected, 0, 1), abs=1e-9)


def test_true_risks_are_calibrated_and_distorted_ones_as_distorted():
    risk = np.random.default_rng(2).uniform(0.02, 0.95, 20_000)
    outcome = outcome_with_risk(risk)
    assert calibration_slope(risk, outcome)[0] == pytest.approx(1, abs=0.05)
    assert calibration_intercept(risk, outcome)[0] == pytest.approx(0, abs=0.05)
    assert calibration_error(risk, outcome)[0, 0] < 0.02
    extreme = 1 / (1 + np.exp(-(0.5 + 2 * logit(risk))))
    assert calibration_slope(extreme, outcome)[0] == pytest.approx(0.5, abs=0.03)
    truly = np.abs(extreme - risk)
    assert calibration_error(extreme, outcome)[0, 0] == pytest.approx(truly.mean(), abs=0.015)
    for quantile, found in zip((0.5, 0.9), calibration_error(extreme, outcome)[0, 1:], strict=True):
        assert found == pytest.approx(np.quantile(truly, quantile), abs=0.02)


def test_one_risk_for_all_has_the_distance_to_the_observed_share():
    risk = np.full(500, 0.5)
    outcome = outcome_with_risk(np.full(500, 0.2))
    share = outcome.died.mean()
    assert calibration_error(risk, outcome)[0, 0] == pytest.approx(abs(0.5 - share))
    assert np.isnan(calibration_slope(risk, outcome)[0])


def test_risks_of_zero_and_one_are_allowed():
    risk = np.repeat([0.0, 0.3, 1.0], 50)
    outcome = outcome_with_risk(np.repeat([0.1, 0.3, 0.9], 50), n_samples=20)
    slopes = calibration_slope(risk, outcome)
    separated = [
        (outcome.counts[i] * outcome.died)[risk < 1].sum() == 0 for i in range(len(slopes))
    ]  # then no finite slope exists
    np.testing.assert_array_equal(np.isnan(slopes), separated)
    assert np.isfinite(calibration_error(risk, outcome)).all()


def test_smooth_curve_agrees_with_one_through_pseudo_values():
    """Jackknife pseudo-values of the risk (Andersen, Perme 2010) in place of weights: the same curve."""
    rng = np.random.default_rng(8)
    n = 600
    marker = rng.normal(size=n)
    death, end = rng.exponential(1 / (0.15 * np.exp(marker))), rng.exponential(1 / 0.1, n)
    time, event = np.minimum(death, end), death <= end
    risk = 1 - np.exp(-0.15 * 3 * np.exp(0.8 * marker))
    outcome = horizon_outcome(time, event, 3.0, resample_patients(np.arange(n), 1, 0))
    left_out = np.vstack([np.ones(n), np.ones((n, n)) - np.eye(n)])
    survival = kaplan_meier(time, event, left_out, [3.0])[:, 0]
    pseudo = 1 - (n * survival[0] - (n - 1) * survival[1:])
    at = np.quantile(risk, [0.1, 0.3, 0.5, 0.7, 0.9])
    x, centre = logit(risk), logit(at)
    width = 1.06 * x.std() * (outcome.degrees_of_freedom + 1) ** -0.2
    for point, found in zip(centre, smooth_observed(risk, outcome, at)[0], strict=True):
        weights = np.exp(-0.5 * ((x - point) / width) ** 2)
        design = np.column_stack([np.ones(n), x - point])
        expected = np.linalg.solve(design.T @ (weights[:, None] * design), design.T @ (weights * pseudo))[0]
        assert found == pytest.approx(expected, abs=0.025)
