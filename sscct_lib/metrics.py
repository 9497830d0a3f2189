"""Measures of how good risks at a horizon are, each in all bootstrap samples at once."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sscct_lib.bootstrap import Floats, Outcome


def horizon_auc(risk: Floats, outcome: Outcome) -> Floats:
    """Cumulative/dynamic AUC: the chance that a scan followed by death within the horizon has the higher risk.

    Pairs are a scan followed by death within the horizon and one known to be followed by life beyond it; a tie in
    risk counts half. Deaths are weighted by the inverse probability of remaining uncensored, which removes the
    bias of leaving out unknown scans when censoring does not depend on the risk.

    Parameters
    ----------
    risk
        Predicted risk of each scan, shape (n,); only its order matters.
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    numpy.ndarray
        AUC in each sample, shape (n_samples + 1,); NaN in a sample without a death or without a survivor.

    References
    ----------
    Uno H, Cai T, Tian L, Wei LJ. Evaluating prediction rules for t-year survivors with censored regression models.
    J Am Stat Assoc 2007;102:527-37. Hung H, Chiang CT. Estimation methods for time-dependent AUC models with
    survival data. Can J Stat 2010;38:8-26.
    """
    died = outcome.weights[:, outcome.died]
    order = np.argsort(risk[outcome.alive], kind="stable")
    alive = outcome.weights[:, outcome.alive][:, order]
    below = np.concatenate([np.zeros((len(alive), 1)), alive.cumsum(axis=1)], axis=1)
    sorted_risk = risk[outcome.alive][order]
    lower = np.searchsorted(sorted_risk, risk[outcome.died], side="left")
    upper = np.searchsorted(sorted_risk, risk[outcome.died], side="right")
    concordant = (died * (below[:, lower] + below[:, upper])).sum(axis=1) / 2
    return _ratio(concordant, died.sum(axis=1) * below[:, -1])


def brier_score(risk: Floats, outcome: Outcome) -> Floats:
    """Mean squared difference between risk and outcome, weighted for censoring; 0 is perfect.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    numpy.ndarray
        Score in each sample, shape (n_samples + 1,).

    References
    ----------
    Graf et al., Stat Med 1999;18:2529-45.
    """
    return _ratio(outcome.weights @ (risk - outcome.died) ** 2, outcome.counts.sum(axis=1))


def scaled_brier_score(risk: Floats, outcome: Outcome) -> Floats:
    """Share of the Brier score of "the same risk for everybody" that the model removes; 1 is perfect, 0 useless.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    numpy.ndarray
        1 - Brier / Brier of the Kaplan-Meier risk of the same sample, shape (n_samples + 1,).

    References
    ----------
    Kattan MW, Gerds TA. The index of prediction accuracy. Diagn Progn Res 2018;2:7.
    """
    observed = observed_risk(outcome)
    total = outcome.counts.sum(axis=1)
    died, alive = (outcome.weights[:, known].sum(axis=1) for known in (outcome.died, outcome.alive))
    same_for_all = _ratio(died * (1 - observed) ** 2 + alive * observed**2, total)
    return 1 - _ratio(brier_score(risk, outcome), same_for_all)


def observed_risk(outcome: Outcome) -> Floats:
    """Kaplan-Meier estimate of death within the horizon.

    Parameters
    ----------
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    numpy.ndarray
        In each sample, shape (n_samples + 1,).
    """
    return _ratio(outcome.weights[:, outcome.died].sum(axis=1), outcome.counts.sum(axis=1))


def observed_expected(risk: Floats, outcome: Outcome) -> Floats:
    """Observed over expected deaths: above 1 the model predicts too few, below 1 too many.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    numpy.ndarray
        Kaplan-Meier risk / mean predicted risk in each sample, shape (n_samples + 1,).
    """
    mean_risk = _ratio(outcome.counts @ risk, outcome.counts.sum(axis=1))
    return _ratio(observed_risk(outcome), mean_risk)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    missing = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=missing, where=denominator > 0)
    return missing


Metric = Callable[[Floats, Outcome], Floats]

METRICS: dict[str, Metric] = {
    "auc": horizon_auc,
    "brier": brier_score,
    "scaled_brier": scaled_brier_score,
    "observed_expected": observed_expected,
}
"""Every metric of the performance table: (risk, outcome) to one value a sample."""


def estimate_text(estimate: float, low: float, high: float, decimals: int = 2) -> str:
    """Write an estimate with its interval, for example `0.77 (0.70 to 0.83)`.

    Parameters
    ----------
    estimate, low, high
        The estimate and its interval; NaN when there is none.
    decimals
        Digits after the point.

    Returns
    -------
    str
        `not estimable` without an estimate.
    """
    if pd.isna(estimate):
        return "not estimable"
    if pd.isna(low):
        return f"{estimate:.{decimals}f} (no interval)"
    return f"{estimate:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"


def years_text(horizon: float) -> str:
    """Write a horizon.

    Parameters
    ----------
    horizon
        Years after the scan.

    Returns
    -------
    str
        For example `1 year` or `3 years`.
    """
    return "1 year" if horizon == 1 else f"{horizon:g} years"
