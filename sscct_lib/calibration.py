"""Whether risks are right in size: recalibration by logistic regression, in all bootstrap samples at once."""

import numpy as np

from sscct_lib.bootstrap import Floats, Outcome

SMALLEST_RISK = 1e-4
"""Risks nearer to 0 or 1 than this are moved to it before the logit, which has no value at 0 and 1."""

_MOST_STEPS = 30
_CONVERGED = 1e-8
_ABSURD = 50.0  # a coefficient beyond this comes from samples that the risk separates perfectly


def calibration_slope(risk: Floats, outcome: Outcome) -> Floats:
    """Slope of the outcome on the logit of the risk: 1 is right, below 1 the risks are too extreme.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    numpy.ndarray
        In each sample, shape (n_samples + 1,); NaN where the fit has no finite solution.

    References
    ----------
    Cox DR. Two further applications of a model for binary regression. Biometrika 1958;45:562-5.
    Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med 2019;17:230.
    """
    return _logistic(risk, outcome, fixed_slope=False)[1]


def calibration_intercept(risk: Floats, outcome: Outcome) -> Floats:
    """Shift of the logit of the risk that makes the risks right on average: 0 is right, below 0 they are too high.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    numpy.ndarray
        Intercept with the slope held at 1 (calibration in the large) in each sample, shape (n_samples + 1,).

    References
    ----------
    Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med 2019;17:230.
    """
    return _logistic(risk, outcome, fixed_slope=True)[0]


def _logistic(risk: Floats, outcome: Outcome, fixed_slope: bool) -> tuple[Floats, Floats]:
    """Newton's method for logit P(died) = intercept + slope * logit(risk), weighted for censoring."""
    known = outcome.died | outcome.alive
    weights, died = outcome.weights[:, known], outcome.died[known]
    x = logit(risk[known])
    intercept, slope = np.zeros(len(weights)), np.full(len(weights), float(fixed_slope))
    step = np.full(len(weights), np.inf)
    for _ in range(_MOST_STEPS):
        p = 1 / (1 + np.exp(-np.clip(intercept[:, None] + slope[:, None] * x, -30, 30)))
        score, information = weights * (died - p), weights * p * (1 - p)
        u0, i00 = score.sum(axis=1), information.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            if fixed_slope:
                d0, d1 = u0 / i00, np.zeros_like(u0)
            else:
                u1, i01, i11 = score @ x, information @ x, information @ x**2
                determinant = i00 * i11 - i01**2
                d0, d1 = (i11 * u0 - i01 * u1) / determinant, (i00 * u1 - i01 * u0) / determinant
        # Steps of at most 2 keep the first ones from overshooting.
        shrink = np.minimum(1, 2 / np.maximum(np.abs(d0), np.maximum(np.abs(d1), 1e-300)))
        intercept, slope = intercept + shrink * d0, slope + shrink * d1
        step = np.abs(d0) + np.abs(d1)
        if np.nanmax(step, initial=0.0) < _CONVERGED:
            break
    failed = ~(step < _CONVERGED * 1e4) | (np.abs(slope) > _ABSURD) | (np.abs(intercept) > _ABSURD)
    return np.where(failed, np.nan, intercept), np.where(failed, np.nan, slope)


def logit(risk: Floats) -> Floats:
    """Log odds of risks, which are first moved away from 0 and 1 by `SMALLEST_RISK`.

    Parameters
    ----------
    risk
        Probabilities.

    Returns
    -------
    numpy.ndarray
        The same shape.
    """
    inside = np.clip(risk, SMALLEST_RISK, 1 - SMALLEST_RISK)
    return np.asarray(np.log(inside / (1 - inside)), dtype=float)
