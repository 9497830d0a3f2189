"""Measures of how good risks at a horizon are, each in all bootstrap samples at once.

Every measure takes the predicted risks of n scans, shape (n,), and their `bootstrap.Outcome`, and gives one value a
sample, shape (n_samples + 1,), the study itself first; NaN in a sample in which it cannot be estimated, for example
without a death or without a survivor.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sscct_lib.horizons.bootstrap import Floats, Outcome, Scale
from sscct_lib.horizons.calibration import (
    calibration_error_quantile,
    calibration_intercept,
    calibration_slope,
    integrated_calibration_index,
)

_MOST_PAIRS = 4_000_000  # of scans that a concordance holds in memory at once


def horizon_auc(risk: Floats, outcome: Outcome) -> Floats:
    """Cumulative/dynamic AUC: the chance that a scan followed by death within the horizon has the higher risk.

    Pairs are a scan followed by death within the horizon and one known to be followed by life beyond it; a tie in
    risk counts half. Deaths are weighted by the inverse probability of remaining uncensored, which removes the
    bias of leaving out unknown scans when censoring does not depend on the risk.

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

    References
    ----------
    Graf et al., Stat Med 1999;18:2529-45.
    """
    return _ratio(outcome.weights @ (risk - outcome.died) ** 2, outcome.counts.sum(axis=1))


def scaled_brier_score(risk: Floats, outcome: Outcome) -> Floats:
    """Share of the Brier score of "the same risk for everybody" that the model removes; 1 is perfect, 0 useless.

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
    """Kaplan-Meier estimate of death within the horizon, in each sample."""
    return _ratio(outcome.weights[:, outcome.died].sum(axis=1), outcome.counts.sum(axis=1))


def observed_expected(risk: Floats, outcome: Outcome) -> Floats:
    """Observed over expected deaths: above 1 the model predicts too few, below 1 too many."""
    mean_risk = _ratio(outcome.counts @ risk, outcome.counts.sum(axis=1))
    return _ratio(observed_risk(outcome), mean_risk)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is not positive."""
    missing = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=missing, where=denominator > 0)
    return missing


def complete_case_auc(risk: Floats, outcome: Outcome) -> Floats:
    """AUC of the scans whose state at the horizon is known, unweighted: biased, shown for comparison."""
    return horizon_auc(risk, replace(outcome, weights=outcome.counts))


def presumed_alive_auc(risk: Floats, outcome: Outcome) -> Floats:
    """AUC when every unknown scan counts as alive, as presumably in the published study: biased, for comparison."""
    return horizon_auc(risk, replace(outcome, alive=~outcome.died, weights=outcome.counts))


def average_precision(risk: Floats, outcome: Outcome) -> Floats:
    """Area under the precision-recall curve, weighted for censoring; compare it with the observed risk.

    References
    ----------
    Yuan Y, Zhou QM, Li B, Cai H, Chow EJ, Armstrong GT. A threshold-free summary index of prediction accuracy for
    censored time to event data. Stat Med 2018;37:1671-81.
    """
    order = np.argsort(-risk, kind="stable")
    died = (outcome.weights * outcome.died)[:, order]
    above = outcome.weights[:, order].cumsum(axis=1)
    ends = np.append(np.flatnonzero(np.diff(risk[order])), len(risk) - 1)
    found = died.cumsum(axis=1)[:, ends]
    precision = np.divide(found, above[:, ends], out=np.zeros_like(found), where=above[:, ends] > 0)
    newly = np.diff(found, axis=1, prepend=0)
    return _ratio((precision * newly).sum(axis=1), found[:, -1])


def uno_c(risk: Floats, outcome: Outcome) -> Floats:
    """Uno's C: concordance of risk and time of death up to the horizon, weighted for censoring.

    References
    ----------
    Uno H, Cai T, Pencina MJ, D'Agostino RB, Wei LJ. On the C-statistics for evaluating overall adequacy of risk
    prediction procedures with censored survival data. Stat Med 2011;30:1105-17.
    """
    inverse = np.divide(outcome.weights, outcome.counts, out=np.zeros_like(outcome.weights), where=outcome.counts > 0)
    return _concordance(risk, outcome, inverse[:, outcome.died] ** 2)


def harrell_c(risk: Floats, outcome: Outcome) -> Floats:
    """Harrell's C up to the horizon: the same concordance without weights; it depends on who was censored.

    References
    ----------
    Harrell FE, Califf RM, Pryor DB, Lee KL, Rosati RA. Evaluating the yield of medical tests. JAMA 1982;247:2543-6.
    """
    return _concordance(risk, outcome, np.ones((len(outcome.counts), int(outcome.died.sum()))))


def _concordance(risk: Floats, outcome: Outcome, pair_weights: Floats) -> Floats:
    """Concordance over pairs of a death and a scan known to be alive at that time; weights (n_samples + 1, n_died)."""
    died = np.flatnonzero(outcome.died)
    each = outcome.counts[:, died] * pair_weights
    concordant, pairs = np.zeros(len(each)), np.zeros(len(each))
    n_at_once = max(1, _MOST_PAIRS // max(len(risk), 1))
    for start in range(0, len(died), n_at_once):
        some = slice(start, start + n_at_once)
        time, dead_risk = outcome.followup_years[died[some]][:, None], risk[died[some]][:, None]
        # Alive at the time of a death: followed longer, or censored on the day of the death.
        later = (outcome.followup_years > time) | ((outcome.followup_years == time) & ~outcome.event_observed)
        agreeing = later * ((dead_risk > risk) + 0.5 * (dead_risk == risk))
        concordant += (each[:, some] * (outcome.counts @ agreeing.T)).sum(axis=1)
        pairs += (each[:, some] * (outcome.counts @ later.T.astype(float))).sum(axis=1)
    return _ratio(concordant, pairs)


@dataclass(frozen=True)
class Metric:
    """A column of the evaluation: the measure, the scale on which its interval is made, and what is good, in words."""

    measure: Callable[[Floats, Outcome], Floats]
    scale: Scale
    meaning: str


METRICS: dict[str, Metric] = {
    "auc": Metric(horizon_auc, "logit", "cumulative/dynamic AUC, weighted for censoring; 0.5 useless, 1 perfect"),
    "auc_complete_cases": Metric(complete_case_auc, "logit", "AUC of the scans with known state; biased"),
    "auc_presumed_alive": Metric(presumed_alive_auc, "logit", "AUC with unknown counted as alive; biased"),
    "uno_c": Metric(uno_c, "logit", "Uno's concordance up to the horizon"),
    "harrell_c": Metric(harrell_c, "logit", "Harrell's concordance up to the horizon"),
    "average_precision": Metric(
        average_precision, "logit", "area under the precision-recall curve; useless: the observed risk"
    ),
    "observed_risk": Metric(lambda _, outcome: observed_risk(outcome), "logit", "Kaplan-Meier risk of death"),
    "brier": Metric(brier_score, "logit", "Brier score, weighted for censoring; 0 perfect"),
    "scaled_brier": Metric(scaled_brier_score, "plain", "1 - Brier / Brier of the same risk for all; 1 perfect"),
    "observed_expected": Metric(observed_expected, "log", "observed over predicted deaths; 1 right"),
    "calibration_intercept": Metric(calibration_intercept, "plain", "shift of the logit; 0 right"),
    "calibration_slope": Metric(calibration_slope, "plain", "slope of the logit; 1 right, below 1 too extreme"),
    "ici": Metric(integrated_calibration_index, "log", "mean distance of risk and smooth observed risk; 0 right"),
    "e50": Metric(partial(calibration_error_quantile, quantile=0.5), "log", "median of that distance; 0 right"),
    "e90": Metric(partial(calibration_error_quantile, quantile=0.9), "log", "90th percentile of it; 0 right"),
}
"""Every metric of the performance table."""
