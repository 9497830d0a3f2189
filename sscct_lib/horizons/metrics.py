"""How good risks at a horizon are: discrimination, calibration, accuracy, each in all bootstrap samples at once.

Every measure takes the predicted risks of n scans, shape (n,), and their `bootstrap.Outcome`, and gives one value a
sample, shape (n_samples + 1,), the study itself first; NaN in a sample in which it cannot be estimated, for example
without a death or without a survivor, or where a fit has no finite solution.

Measures of order also take the number of the fit that made each risk, shape (n,), and compare scans of the same fit
alone. In a cross-validation, a fold that by chance holds more deaths leaves fewer for training, so that its risks are
lower just where more die: compared over folds, risks that know nothing have an AUC below 0.5.

References
----------
Parker BJ, Gunter S, Bedo J. Stratification bias in low signal microarray studies. BMC Bioinformatics 2007;8:326. Airola
A, Pahikkala T, Waegeman W, De Baets B, Salakoski T. An experimental comparison of cross-validation techniques for
estimating the area under the ROC curve. Comput Stat Data Anal 2011;55:1828-44.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numba import njit
from scipy.stats import rankdata

from sscct_lib.horizons.bootstrap import Counts, Flags, Floats, Outcome, Scale, kaplan_meier
from sscct_lib.horizons.calibration import (
    Fits,
    calibration_error,
    calibration_intercept,
    calibration_slope,
    error_if_right,
)


def within_fits(
    pairs: Callable[[Floats, Outcome], tuple[Floats, Floats]], risk: Floats, outcome: Outcome, fit: Fits | None
) -> Floats:
    """Share of concordant pairs among all pairs of scans of the same fit; `pairs` counts both of one fit's scans."""
    if fit is None:
        return _ratio(*pairs(risk, outcome))
    sums = [pairs(risk[fit == one], outcome.kept(fit == one)) for one in np.unique(fit)]
    concordant, all_pairs = (np.sum(parts, axis=0) for parts in zip(*sums, strict=True))
    return _ratio(concordant, all_pairs)


def places(risk: Floats, fit: Fits | None = None) -> Floats:
    """Share of the scans of the same fit with a lower risk, ties counting half, shape (n,)."""
    share = np.empty(len(risk))
    for one in [None] if fit is None else np.unique(fit):
        same = np.ones(len(risk), dtype=bool) if one is None else fit == one
        share[same] = (rankdata(risk[same]) - 0.5) / same.sum()
    return share


def horizon_auc(risk: Floats, outcome: Outcome, fit: Fits | None = None) -> Floats:
    """Cumulative/dynamic AUC: the chance that a scan followed by death within the horizon has the higher risk.

    Pairs are a scan followed by death within the horizon and one known to be followed by life beyond it, both judged by
    the same fit; a tie in risk counts half. Deaths are weighted by the inverse probability of remaining uncensored,
    which removes the bias of leaving out unknown scans when censoring does not depend on the risk.

    References
    ----------
    Uno H, Cai T, Tian L, Wei LJ. Evaluating prediction rules for t-year survivors with censored regression models.
    J Am Stat Assoc 2007;102:527-37. Hung H, Chiang CT. Estimation methods for time-dependent AUC models with
    survival data. Can J Stat 2010;38:8-26.
    """
    return within_fits(_pairs_at_horizon, risk, outcome, fit)


def _pairs_at_horizon(risk: Floats, outcome: Outcome) -> tuple[Floats, Floats]:
    known = np.flatnonzero(outcome.died | outcome.alive)
    order = known[np.argsort(risk[known], kind="stable")]
    is_last = np.append(np.diff(risk[order]) > 0, True)  # of those with the same risk
    return _pairs_by_rank(order, is_last, outcome.died[order], np.ascontiguousarray(outcome.weights))


@njit(cache=True)
def _pairs_by_rank(order: Fits, is_last: Flags, died: Flags, weights: Floats) -> tuple[Floats, Floats]:
    """Sum pairs in one walk from the lowest risk to the highest, for one sample after another."""
    concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for sample in range(len(weights)):
        below, tied, tied_died, all_died = 0.0, 0.0, 0.0, 0.0
        for place in range(len(order)):
            if died[place]:
                tied_died += weights[sample, order[place]]
            else:
                tied += weights[sample, order[place]]
            if is_last[place]:
                concordant[sample] += tied_died * (below + tied / 2)
                below, all_died = below + tied, all_died + tied_died
                tied, tied_died = 0.0, 0.0
        pairs[sample] = all_died * below
    return concordant, pairs


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
    if outcome.given_weights is None and not outcome.presumed:  # the same as by the weights, which need not be made
        survival = kaplan_meier(
            outcome.followup_years, outcome.event_observed, outcome.counts, [outcome.horizon_years]
        )[:, 0]
        return np.where(outcome.counts.any(axis=1), 1 - survival, np.nan)
    return _ratio(outcome.weights[:, outcome.died].sum(axis=1), outcome.counts.sum(axis=1))


def observed_expected(risk: Floats, outcome: Outcome) -> Floats:
    """Observed over expected deaths: above 1 the model predicts too few, below 1 too many."""
    mean_risk = _ratio(outcome.counts @ risk, outcome.counts.sum(axis=1))
    return _ratio(observed_risk(outcome), mean_risk)


def _ratio(numerator: Floats, denominator: Counts) -> Floats:
    """Quotient, NaN where the denominator is not positive."""
    missing = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=missing, where=denominator > 0)
    return missing


def complete_case_auc(risk: Floats, outcome: Outcome, fit: Fits | None = None) -> Floats:
    """AUC of the scans whose state at the horizon is known, unweighted: biased, shown for comparison."""
    return horizon_auc(risk, replace(outcome, given_weights=outcome.counts.astype(float)), fit)


def presumed_alive_auc(risk: Floats, outcome: Outcome, fit: Fits | None = None) -> Floats:
    """AUC when every unknown scan counts as alive, as presumably in the published study: biased, for comparison."""
    return horizon_auc(risk, replace(outcome, alive=~outcome.died, given_weights=outcome.counts.astype(float)), fit)


def average_precision(risk: Floats, outcome: Outcome, fit: Fits | None = None) -> Floats:
    """Area under the precision-recall curve, weighted for censoring; compare it with the observed risk.

    Scans of several fits are put in one order by their `places` among the scans of their own.

    References
    ----------
    Yuan Y, Zhou QM, Li B, Cai H, Chow EJ, Armstrong GT. A threshold-free summary index of prediction accuracy for
    censored time to event data. Stat Med 2018;37:1671-81.
    """
    place = places(risk, fit)
    order = np.argsort(-place, kind="stable")
    is_last = np.append(np.diff(place[order]) != 0, True)
    return _ratio(*_precision_by_rank(order, is_last, outcome.died[order], np.ascontiguousarray(outcome.weights)))


@njit(cache=True)
def _precision_by_rank(order: Fits, is_last: Flags, died: Flags, weights: Floats) -> tuple[Floats, Floats]:
    """Sum precision over deaths in one walk from the highest risk to the lowest, for one sample after another."""
    precision, deaths = np.zeros(len(weights)), np.zeros(len(weights))
    for sample in range(len(weights)):
        above, newly = 0.0, 0.0
        for place in range(len(order)):
            weight = weights[sample, order[place]]
            above += weight
            if died[place]:
                newly += weight
            if is_last[place]:
                deaths[sample] += newly
                if above > 0:
                    precision[sample] += deaths[sample] / above * newly
                newly = 0.0
    return precision, deaths


def uno_c(risk: Floats, outcome: Outcome, fit: Fits | None = None) -> Floats:
    """Uno's C: concordance of risk and time of death up to the horizon, weighted for censoring.

    References
    ----------
    Uno H, Cai T, Pencina MJ, D'Agostino RB, Wei LJ. On the C-statistics for evaluating overall adequacy of risk
    prediction procedures with censored survival data. Stat Med 2011;30:1105-17.
    """
    return within_fits(_pairs_of_uno, risk, outcome, fit)


def _pairs_of_uno(risk: Floats, outcome: Outcome) -> tuple[Floats, Floats]:
    return _concordance(risk, outcome, _ratio(outcome.weights**2, outcome.counts))


def harrell_c(risk: Floats, outcome: Outcome, fit: Fits | None = None) -> Floats:
    """Harrell's C up to the horizon: the same concordance without weights; it depends on who was censored.

    References
    ----------
    Harrell FE, Califf RM, Pryor DB, Lee KL, Rosati RA. Evaluating the yield of medical tests. JAMA 1982;247:2543-6.
    """
    return within_fits(_pairs_of_harrell, risk, outcome, fit)


def _pairs_of_harrell(risk: Floats, outcome: Outcome) -> tuple[Floats, Floats]:
    return _concordance(risk, outcome, outcome.counts)


def _concordance(risk: Floats, outcome: Outcome, of_deaths: Counts) -> tuple[Floats, Floats]:
    """Concordant and all pairs of a death and a scan known to be alive then; weights of deaths (n_samples + 1, n)."""
    # From the last followed to the first; who is censored on the day of a death is alive at it.
    order = np.lexsort((outcome.event_observed, -outcome.followup_years))
    day = np.stack([outcome.followup_years, outcome.event_observed])[:, order]
    starts = np.flatnonzero(np.append(True, (np.diff(day) != 0).any(axis=0))) if len(risk) else np.zeros(0, dtype=int)
    n_later = np.repeat(starts, np.diff(np.append(starts, len(risk))))
    place = np.unique(risk[order], return_inverse=True)[1] + 1
    weights = np.where(outcome.died, of_deaths, 0)[:, order].T.astype(float, order="C")
    counts = outcome.counts[:, order].T.astype(float, order="C")
    return _pairs_of_deaths(place, n_later, outcome.died[order], counts, np.nan_to_num(weights))


@njit(cache=True)
def _pairs_of_deaths(place: Fits, n_later: Fits, died: Flags, counts: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Sum pairs over deaths by a tree of counts over the places of risks, in n log n steps for all samples at once.

    References
    ----------
    Fenwick PM. A new data structure for cumulative frequency tables. Softw Pract Exp 1994;24:327-36.
    """
    n_scans, n_samples = counts.shape
    n_places = 0
    for scan in range(n_scans):
        n_places = max(n_places, place[scan])
    tree = np.zeros((n_places + 1, n_samples))
    concordant, pairs, alive = np.zeros(n_samples), np.zeros(n_samples), np.zeros(n_samples)
    added = 0
    for death in range(n_scans):
        if not died[death]:
            continue
        while added < n_later[death]:
            for i in range(n_samples):
                alive[i] += counts[added, i]
            node = place[added]
            while node <= n_places:
                for i in range(n_samples):
                    tree[node, i] += counts[added, i]
                node += node & -node
            added += 1
        for last in (place[death] - 1, place[death]):  # those with a lower risk, and those with at most the same
            while last > 0:
                for i in range(n_samples):
                    concordant[i] += 0.5 * weights[death, i] * tree[last, i]
                last -= last & -last
        for i in range(n_samples):
            pairs[i] += weights[death, i] * alive[i]
    return concordant, pairs


@dataclass(frozen=True)
class Metric:
    """A column of the evaluation: the measure, the scale on which its interval is made, and what is good, in words.

    `kind`: of the size of risks; of their rank, which only scans of the same fit share; or the slope, likewise.
    """

    measure: Callable[..., Floats]  # (risk, outcome), and for a rank or slope also the fits
    scale: Scale
    meaning: str
    kind: Literal["size", "rank", "slope"] = "size"
    needs_both: bool = True  # whether it needs deaths and survivors, and enough of both
    column: int | None = None  # of what `measure` gives, where that is several metrics, shape (n_samples + 1, k)


METRICS: dict[str, Metric] = {
    "auc": Metric(
        horizon_auc, "logit", "cumulative/dynamic AUC, weighted for censoring; 0.5 useless, 1 perfect", "rank"
    ),
    "auc_complete_cases": Metric(complete_case_auc, "logit", "AUC of the scans with known state; biased", "rank"),
    "auc_presumed_alive": Metric(presumed_alive_auc, "logit", "AUC with unknown counted as alive; biased", "rank"),
    "uno_c": Metric(uno_c, "logit", "Uno's concordance up to the horizon", "rank"),
    "harrell_c": Metric(harrell_c, "logit", "Harrell's concordance up to the horizon", "rank"),
    "average_precision": Metric(
        average_precision, "logit", "area under the precision-recall curve; useless: the observed risk", "rank"
    ),
    "observed_risk": Metric(
        lambda _, outcome: observed_risk(outcome), "logit", "Kaplan-Meier risk of death", needs_both=False
    ),
    "brier": Metric(brier_score, "logit", "Brier score, weighted for censoring; 0 perfect", needs_both=False),
    "scaled_brier": Metric(scaled_brier_score, "below one", "1 - Brier / Brier of the same risk for all; 1 perfect"),
    "observed_expected": Metric(observed_expected, "log", "observed over predicted deaths; 1 right"),
    "calibration_intercept": Metric(calibration_intercept, "plain", "shift of the logit; 0 right"),
    "calibration_slope": Metric(
        calibration_slope, "plain", "slope of the logit; 1 right, below 1 too extreme", "slope"
    ),
    "ici": Metric(calibration_error, "error", "mean distance of risk and smooth observed risk; 0 right", column=0),
    "ici_if_right": Metric(error_if_right, "draws", "the same of a right model in this cohort, and 95 % of its values"),
    "e50": Metric(calibration_error, "error", "median of that distance; 0 right", column=1),
    "e90": Metric(calibration_error, "error", "90th percentile of it; 0 right", column=2),
}
"""Every metric of the performance table."""
