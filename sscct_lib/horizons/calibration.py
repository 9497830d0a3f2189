"""Whether risks are right in size: recalibration and smooth calibration, in all bootstrap samples at once.

Risks are probabilities of death within the horizon, shape (n,), with their `bootstrap.Outcome`; as in `metrics`, a
measure gives one value a sample, shape (n_samples + 1,), NaN where a fit has no finite solution.
"""

import numpy as np

from sscct_lib.horizons.bootstrap import Floats, Outcome

SMALLEST_RISK = 1e-4
"""Risks nearer to 0 or 1 than this are moved to it before the logit, which has no value at 0 and 1."""

_MOST_STEPS = 60
_CONVERGED = 1e-8
_ABSURD = 50.0  # a coefficient beyond this comes from samples that the risk separates perfectly


def calibration_slope(risk: Floats, outcome: Outcome) -> Floats:
    """Slope of the outcome on the logit of the risk: 1 is right, below 1 the risks are too extreme.

    References
    ----------
    Cox DR. Two further applications of a model for binary regression. Biometrika 1958;45:562-5.
    Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med 2019;17:230.
    """
    return calibration_line(risk, outcome)[1]


def calibration_intercept(risk: Floats, outcome: Outcome) -> Floats:
    """Shift of the logit that makes the risks right on average, the slope held at 1; below 0 they are too high.

    References
    ----------
    Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med 2019;17:230.
    """
    return calibration_line(risk, outcome, fixed_slope=True)[0]


def calibration_line(risk: Floats, outcome: Outcome, fixed_slope: bool = False) -> tuple[Floats, Floats]:
    """Fit logit P(died) = intercept + slope * logit(risk), weighted for censoring, by Newton's method."""
    known = outcome.died | outcome.alive
    weights, died = outcome.weights[:, known], outcome.died[known]
    x = logit(risk[known])
    spread = max(1.0, float(x.std()) if len(x) else 1.0)
    x = x / spread  # so that a step of 1 moves no scan far, and Newton's method cannot overshoot
    intercept, slope = np.zeros(len(weights)), np.full(len(weights), spread * fixed_slope)
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
            # No step is long enough to overshoot.
            shrink = np.minimum(1, 1 / np.maximum(np.abs(d0), np.maximum(np.abs(d1), 1e-300)))
            intercept, slope = intercept + shrink * d0, slope + shrink * d1
        step = np.abs(d0) + np.abs(d1)
        if np.nanmax(step, initial=0.0) < _CONVERGED:
            break
    slope = slope / spread
    failed = ~(step < _CONVERGED * 1e4) | (np.abs(slope) > _ABSURD) | (np.abs(intercept) > _ABSURD)
    return np.where(failed, np.nan, intercept), np.where(failed, np.nan, slope)


def logit(risk: Floats) -> Floats:
    """Log odds of risks, which are first moved away from 0 and 1 by `SMALLEST_RISK`."""
    inside = np.clip(risk, SMALLEST_RISK, 1 - SMALLEST_RISK)
    return np.asarray(np.log(inside / (1 - inside)), dtype=float)


def smooth_observed(risk: Floats, outcome: Outcome, at: Floats) -> Floats:
    """Observed risk as a smooth function of the predicted risk at k points, shape (n_samples + 1, k), 0 to 1.

    Local linear regression of death on the logit of the risk, weighted for censoring, with a Gaussian kernel of
    Silverman's width for the number of patients in the rarer state, who limit what can be seen.

    References
    ----------
    Austin PC, Harrell FE, van Klaveren D. Graphical calibration curves and the integrated calibration index (ICI)
    for survival models. Stat Med 2020;39:2714-42 (there with a Cox model instead). Silverman BW. Density estimation
    for statistics and data analysis. Chapman & Hall 1986, eq. 3.28.
    """
    x, centre = logit(risk), logit(at)
    width = max(1.06 * x.std() * max(outcome.degrees_of_freedom + 1, 1) ** -0.2, 1e-3)
    distance = x - centre[:, None]
    kernel = np.exp(-0.5 * (distance / width) ** 2)
    moments = [outcome.weights @ (kernel * distance**power).T for power in (0, 1, 2)]
    died = outcome.weights * outcome.died
    level, trend = (died @ (kernel * distance**power).T for power in (0, 1))
    determinant = moments[0] * moments[2] - moments[1] ** 2
    # Where a sample has (nearly) one risk only, there is no trend to fit: the local mean remains.
    flat = determinant <= 1e-9 * moments[0] ** 2 * width**2
    mean = np.divide(level, moments[0], out=np.full_like(level, np.nan), where=moments[0] > 0)
    linear = (moments[2] * level - moments[1] * trend) / np.where(flat, 1, determinant)
    return np.asarray(np.clip(np.where(flat, mean, linear), 0, 1), dtype=float)


def calibration_errors(risk: Floats, outcome: Outcome) -> Floats:
    """Distance between each scan's risk and the smooth observed risk at that risk, shape (n_samples + 1, n)."""
    order = np.unique(np.quantile(risk, np.linspace(0, 1, 60)))
    if len(order) == 1:
        return np.abs(smooth_observed(risk, outcome, order) - risk)
    curve = smooth_observed(risk, outcome, order)
    left = np.clip(np.searchsorted(order, risk, side="right") - 1, 0, len(order) - 2)
    share = (risk - order[left]) / (order[left + 1] - order[left])
    return np.abs(curve[:, left] * (1 - share) + curve[:, left + 1] * share - risk)


def integrated_calibration_index(risk: Floats, outcome: Outcome) -> Floats:
    """Mean distance between predicted and smooth observed risk (ICI); 0 is right.

    References
    ----------
    Austin PC, Steyerberg EW. The integrated calibration index (ICI) and related metrics for quantifying the
    calibration of logistic regression models. Stat Med 2019;38:4051-65.
    """
    errors = calibration_errors(risk, outcome)
    return np.asarray((errors * outcome.counts).sum(axis=1) / outcome.counts.sum(axis=1), dtype=float)


def calibration_error_quantile(risk: Floats, outcome: Outcome, quantile: float) -> Floats:
    """Quantile of the distance between predicted and smooth observed risk (0.5 for E50, 0.9 for E90); 0 is right."""
    errors = calibration_errors(risk, outcome)
    order = np.argsort(errors, axis=1)
    below = np.take_along_axis(outcome.counts, order, axis=1).cumsum(axis=1)
    first = (below >= quantile * below[:, -1:]).argmax(axis=1)
    rows = np.arange(len(errors))
    return np.asarray(errors[rows, order[rows, first]], dtype=float)
