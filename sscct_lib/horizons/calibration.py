"""Whether risks are of the right size: the line and the smooth curve of outcomes on the logit of the risk.

Arguments and values are those of `metrics`.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sscct_lib.horizons.bootstrap import Flags, Floats, Outcome, blocks

Fits = NDArray[np.int64]

SMALLEST_RISK = 1e-4
"""Risks nearer to 0 or 1 than this are moved to it before the logit, which has no value at 0 and 1."""

_MOST_STEPS = 60
_CONVERGED = 1e-8
_FLAT = 1e-20  # information on the slope when all scans of each fit have the same risk, and what rounding makes of it
_ABSURD = 50.0  # a coefficient beyond this comes from samples that the risk separates perfectly


def calibration_slope(risk: Floats, outcome: Outcome, fit: Fits | None = None) -> Floats:
    """Slope of the outcome on the logit of the risk: 1 is right, below 1 the risks are too extreme.

    Each fit has an intercept of its own, so that only scans of one fit are compared.

    References
    ----------
    Cox DR. Two further applications of a model for binary regression. Biometrika 1958;45:562-5.
    Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med 2019;17:230.
    """
    return calibration_line(risk, outcome, fit)[1]


def calibration_intercept(risk: Floats, outcome: Outcome) -> Floats:
    """Shift of the logit that makes the risks right on average, the slope held at 1; below 0 they are too high.

    References
    ----------
    Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med 2019;17:230.
    """
    return calibration_line(risk, outcome, fixed_slope=True)[0][:, 0]


def calibration_line(
    risk: Floats, outcome: Outcome, fit: Fits | None = None, fixed_slope: bool = False
) -> tuple[Floats, Floats]:
    """Fit logit P(died) = intercept of the fit + slope * logit(risk), weighted for censoring, by Newton's method.

    Gives the intercepts, shape (n_samples + 1, n_fits), and the slope. A fit whose scans all died, or all lived, in a
    sample says nothing of the slope there.
    """
    known = outcome.died | outcome.alive
    names, place = np.unique(np.zeros(len(risk)) if fit is None else fit, return_inverse=True)
    place, x = place[known], logit(risk[known])
    centre = np.bincount(place, x, len(names)) / np.maximum(np.bincount(place, minlength=len(names)), 1)
    x = x - centre[place]
    spread = max(1.0, float(x.std()) if len(x) else 1.0)
    x = x / spread  # so that a step of 1 moves no scan far, and Newton's method cannot overshoot
    weights = np.ascontiguousarray(outcome.weights[:, known])  # one layout in memory: it is compiled for each
    intercept, slope, converged = _newton(x, place, len(names), outcome.died[known], weights, spread, fixed_slope)
    failed = ~converged | (np.abs(slope) > _ABSURD * spread)
    failed |= np.abs(intercept).max(axis=1, initial=0) > _ABSURD
    slope = np.where(failed, np.nan, slope / spread)
    return intercept - slope[:, None] * centre, slope


@njit(cache=True)
def _newton(
    x: Floats, place: Fits, n_fits: int, died: Flags, weights: Floats, spread: float, fixed_slope: bool
) -> tuple[Floats, Floats, Flags]:
    """Intercepts and slope of each sample, and whether they were found; x is centred within fits and scaled."""
    # Loops over numbers alone: operations of whole arrays take numba four times as long to compile.
    n_samples = len(weights)
    intercept, slope = np.zeros((n_samples, n_fits)), np.zeros(n_samples)
    converged = np.zeros(n_samples, dtype=np.bool_)
    for sample in range(n_samples):
        w = weights[sample]
        slope[sample] = spread if fixed_slope else 0.0
        n_died, n_alive = np.zeros(n_fits), np.zeros(n_fits)
        for scan in range(len(x)):
            if died[scan]:
                n_died[place[scan]] += w[scan]
            else:
                n_alive[place[scan]] += w[scan]
        step = np.nan
        for one in range(n_fits):
            if n_died[one] > 0 and n_alive[one] > 0:
                step = np.inf
        for _ in range(_MOST_STEPS):
            if not step >= _CONVERGED:
                break
            u0, i00, i01 = np.zeros(n_fits), np.zeros(n_fits), np.zeros(n_fits)
            u1, i11, d1, shared_i, shared_u = 0.0, 0.0, 0.0, 0.0, 0.0
            for scan in range(len(x)):
                one = place[scan]
                if w[scan] == 0 or not (n_died[one] > 0 and n_alive[one] > 0):
                    continue
                eta = min(max(intercept[sample, one] + slope[sample] * x[scan], -30.0), 30.0)
                p = 1 / (1 + np.exp(-eta))
                score, information = w[scan] * (died[scan] - p), w[scan] * p * (1 - p)
                u0[one] += score
                i00[one] += information
                i01[one] += information * x[scan]
                u1 += score * x[scan]
                i11 += information * x[scan] ** 2
            if not fixed_slope:  # the intercepts eliminated
                for one in range(n_fits):
                    if i00[one] > 0:
                        shared_i += i01[one] ** 2 / i00[one]
                        shared_u += i01[one] * u0[one] / i00[one]
                d1 = (u1 - shared_u) / (i11 - shared_i) if i11 - shared_i > _FLAT else np.nan
            step = abs(d1)
            for one in range(n_fits):
                u0[one] = (u0[one] - i01[one] * d1) / i00[one] if i00[one] > 0 else 0.0
                if abs(u0[one]) > step:
                    step = abs(u0[one])
            shrink = min(1.0, 1 / max(step, 1e-300))  # no step is long enough to overshoot
            for one in range(n_fits):
                intercept[sample, one] += shrink * u0[one]
            slope[sample] += shrink * d1
        converged[sample] = step < _CONVERGED * 1e4
    return intercept, slope, converged


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
    return _smooth(risk, at, _width(risk, outcome), outcome.weights, outcome.weights * outcome.died)


def _width(risk: Floats, outcome: Outcome) -> float:
    return float(max(1.06 * logit(risk).std() * max(outcome.degrees_of_freedom + 1, 1) ** -0.2, 1e-3))


def _smooth(risk: Floats, at: Floats, width: float, weights: Floats, died: Floats) -> Floats:
    """The curve at k points, from the weights of all scans and those of the scans followed by death, (n_samples, n)."""
    distance = logit(risk) - logit(at)[:, None]
    kernel = np.exp(-0.5 * (distance / width) ** 2)
    moments = [weights @ (kernel * distance**power).T for power in (0, 1, 2)]
    level, trend = (died @ (kernel * distance**power).T for power in (0, 1))
    determinant = moments[0] * moments[2] - moments[1] ** 2
    # Where a sample has (nearly) one risk only, there is no trend to fit: the local mean remains.
    flat = determinant <= 1e-9 * moments[0] ** 2 * width**2
    mean = np.divide(level, moments[0], out=np.full_like(level, np.nan), where=moments[0] > 0)
    linear = (moments[2] * level - moments[1] * trend) / np.where(flat, 1, determinant)
    return np.asarray(np.clip(np.where(flat, mean, linear), 0, 1), dtype=float)


def calibration_errors(risk: Floats, outcome: Outcome) -> Floats:
    """Distance between each scan's risk and the smooth observed risk at that risk, shape (n_samples + 1, n)."""
    return _errors(risk, _width(risk, outcome), outcome.weights, outcome.weights * outcome.died)


def _errors(risk: Floats, width: float, weights: Floats, died: Floats) -> Floats:
    order = np.unique(np.quantile(risk, np.linspace(0, 1, 60)))
    curve = _smooth(risk, order, width, weights, died)
    if len(order) == 1:
        return np.abs(curve - risk)
    left = np.clip(np.searchsorted(order, risk, side="right") - 1, 0, len(order) - 2)
    share = (risk - order[left]) / (order[left + 1] - order[left])
    return np.abs(curve[:, left] * (1 - share) + curve[:, left + 1] * share - risk)


N_DRAWS = 400


def error_if_right(risk: Floats, outcome: Outcome) -> Floats:
    """Mean distance (ICI) that a right model would have in this cohort: its mean, then `N_DRAWS` draws of it.

    The risks are first put right by the line of this very cohort. Outcomes are then drawn from them for the scans whose
    state is known, with the weights that they have; one draw per patient, since the scans of a patient share a fate.
    """
    outcome = outcome.samples(slice(1))
    intercept, slope = calibration_line(risk, outcome)
    right = 1 / (1 + np.exp(-(intercept[0, 0] + slope[0] * logit(risk))))
    if not np.isfinite(right).all() or slope[0] <= 0:
        return np.full(N_DRAWS + 1, np.nan)
    patient = outcome.resamples.patient
    rng, n_patients = np.random.default_rng(0), patient.max() + 1
    width, weights = _width(right, outcome), outcome.weights
    errors = np.concatenate(
        [
            _errors(right, width, weights, weights * (fate[:, patient] < right)).mean(axis=1)
            for fate in (rng.random((len(range(N_DRAWS)[some]), n_patients)) for some in blocks(N_DRAWS, len(risk)))
        ]
    )
    return np.append(errors.mean(), errors)


def calibration_error(risk: Floats, outcome: Outcome) -> Floats:
    """Distance between predicted and smooth observed risk, shape (n_samples + 1, 3): mean (ICI), median, 90th centile.

    References
    ----------
    Austin PC, Steyerberg EW. The integrated calibration index (ICI) and related metrics for quantifying the
    calibration of logistic regression models. Stat Med 2019;38:4051-65.
    """
    errors, counts = calibration_errors(risk, outcome), outcome.counts
    mean = (errors * counts).sum(axis=1) / counts.sum(axis=1)
    order = np.argsort(errors, axis=1)
    below = np.take_along_axis(counts, order, axis=1).cumsum(axis=1)
    rows = np.arange(len(errors))
    firsts = [(below >= quantile * below[:, -1:]).argmax(axis=1) for quantile in (0.5, 0.9)]
    return np.column_stack([mean, *(errors[rows, order[rows, first]] for first in firsts)])
