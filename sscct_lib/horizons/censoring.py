"""What loss to follow-up does to an estimate: weights that depend on the risk, and what if the lost died, or lived.

The estimates of this book weigh scans alike for everybody (Kaplan-Meier), which is right when those who leave would
have fared as those who stay. Here that is asked, and undone in other ways.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.horizons.bootstrap import Counts, Flags, Floats, Outcome, Resamples, interval, kaplan_meier
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.evaluation import FEWEST_PATIENTS, Evaluation, Judged
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.survival import clustered_logrank, hazard_ratios
from sscct_lib.horizons.tables import by_horizon
from sscct_lib.images.scanners import scanner
from sscct_lib.study.words import METRIC_WORDS, estimate_text, years_text

SAME_FOR_ALL, BY_RISK = "weights the same for everybody", "weights by the risk"
FATES = {
    "every lost patient lived": 0.0,
    "the lost die half as fast as those who stay": 0.5,
    "the lost die twice as fast": 2.0,
    "every lost patient died": np.inf,
}
"""How many times as fast the lost are supposed to die as those of the same third of risk who stay."""
WEIGHED = ("observed_expected", "auc", "brier")
TESTED = {  # a column of the cohort, and the step of it that a hazard ratio is of
    "age_years": ("age, 10 years more", 10.0),
    "fvc_percent": ("FVC, 10 % less", -10.0),
    "dlco_percent": ("DLCO, 10 % less", -10.0),
    "scan_year": ("first scan 5 years later", 5.0),
}
_STEPS, _STEEPEST = 15, 5.0  # of Newton's method; the largest log hazard ratio of one standard deviation


def hazards_of_loss(cohort: pd.DataFrame) -> pd.DataFrame:
    """Ask whether loss to follow-up depends on age, lung function, year or scanner.

    Cox models of the time from a patient's first scan to loss, with deaths censored, each with one covariate; for
    scanners the score test of equal loss.

    Returns
    -------
    pandas.DataFrame
        One row per covariate of which enough is known: `covariate`, `hazard_ratio` of being lost, `ci_low`, `ci_high`
        (95 %; NaN for scanners), `p`, `n_patients` of whom it is known, `n_lost`.

    References
    ----------
    Robins JM, Finkelstein DM. Correcting for noncompliance and dependent censoring in an AIDS clinical trial with
    inverse probability of censoring weighted (IPCW) log-rank tests. Biometrics 2000;56:779-88.
    """
    first = cohort.sort_values("scan_day", kind="stable").drop_duplicates("patient_id")
    first = first.assign(scanner=scanner(first).to_numpy())
    rows = []
    for column, (words, step) in {**TESTED, "scanner": ("scanner and kernel", 1.0)}.items():
        known = first[first[column].notna()] if column in first else first[:0]
        years, lost = known["followup_years"].to_numpy(float), ~known["event_observed"].to_numpy(bool)
        if lost.sum() < FEWEST_PATIENTS or known[column].nunique() < 2:
            continue
        row: dict[Any, Any] = {"covariate": words, "hazard_ratio": np.nan, "ci_low": np.nan, "ci_high": np.nan}
        if column == "scanner":
            row["p"] = clustered_logrank(years, lost, known[column], known["patient_id"]).p
        else:
            values = known[column].to_numpy(float) / step
            row |= hazard_ratios(years, lost, known["patient_id"], {words: values}).to_dict("records")[0]
        rows.append(row | {"n_patients": len(known), "n_lost": int(lost.sum())})
    columns = ["covariate", "hazard_ratio", "ci_low", "ci_high", "p", "n_patients", "n_lost"]
    return pd.DataFrame(rows, columns=columns)


def log_hazard_ratio(time: Floats, event: Flags, covariate: Floats, counts: Counts) -> Floats:
    """Coefficient of a Cox model of one covariate in every sample, shape (n_samples,); events of one time as one."""
    order = np.argsort(time, kind="stable")
    time, event, x, counts = time[order], event[order], covariate[order], counts[:, order]
    first = np.searchsorted(time, time[event])
    slope = np.zeros(len(counts))
    for _ in range(_STEPS):
        relative = counts * np.exp(slope[:, None] * x)
        at_risk, mean, square = (
            (relative * x**power)[:, ::-1].cumsum(axis=1)[:, ::-1][:, first] for power in (0, 1, 2)
        )
        inside = at_risk > 0
        mean, square = (np.divide(part, at_risk, out=np.zeros_like(part), where=inside) for part in (mean, square))
        score = (counts[:, event] * (x[event] - mean)).sum(axis=1)
        information = (counts[:, event] * (square - mean**2)).sum(axis=1)
        step = np.divide(score, information, out=np.zeros_like(score), where=information > 1e-9)
        slope = np.clip(slope + np.clip(step, -1, 1), -_STEEPEST, _STEEPEST)
        if np.abs(step).max(initial=0) < 1e-9:
            break
    return slope


def weighed_by(covariate: Floats, outcome: Outcome) -> tuple[Outcome, Floats]:
    """Weigh known scans by the inverse probability of not being lost given a covariate, in every sample anew.

    The probability comes from a Cox model of the time to loss before the horizon. Weights add up to the number of
    scans, as Kaplan-Meier's do by themselves; without an effect of the covariate they are Kaplan-Meier's.

    Parameters
    ----------
    covariate
        Of each scan, shape (n,).
    outcome
        Of the same scans.

    Returns
    -------
    outcome : Outcome
        With these weights.
    log_ratio : numpy.ndarray
        Log hazard ratio of being lost of one standard deviation of the covariate, shape (n_samples + 1,).

    References
    ----------
    Robins JM, Finkelstein DM. Biometrics 2000;56:779-88. Gerds TA, Schumacher M. Consistent estimation of the expected
    Brier score in general survival models with right-censored event times. Biom J 2006;48:1029-40.
    """
    lost, counts = outcome.unknown, outcome.counts
    x = (covariate - covariate.mean()) / (covariate.std() or 1.0)
    until = np.minimum(outcome.followup_years, outcome.horizon_years)
    # As in `horizon_outcome`: who is lost leaves just after the deaths of that day.
    leaves = np.where(lost, np.nextafter(until, np.inf), until)
    log_ratio = log_hazard_ratio(leaves, lost, x, counts)
    relative = np.exp(log_ratio[:, None] * x)
    known = ~lost
    stays = kaplan_meier(leaves, lost, counts, until[known], relative) ** relative[:, known]
    weights = np.zeros(counts.shape)
    weights[:, known] = np.divide(counts[:, known], stays, out=np.zeros_like(stays), where=stays > 0)
    total = weights.sum(axis=1, keepdims=True)
    scale = np.divide(counts.sum(axis=1, keepdims=True), total, out=np.zeros_like(total), where=total > 0)
    return replace(outcome, given_weights=weights * scale), log_ratio


def shared_by_fate(outcome: Outcome, group: Any, times: float) -> tuple[Any, Outcome]:
    """Count each unknown scan in part as died and in part as alive, by Kaplan-Meier of its group from its loss on.

    With `times` 1 the share of deaths in a group is Kaplan-Meier's (Efron's redistribution to the right); with 0 the
    unknown live, with infinity they die, and else they die so many times as fast.

    Returns
    -------
    rows : numpy.ndarray
        The scan behind each row of the outcome: the unknown ones stand there twice.
    outcome : Outcome
        Without unknown scans; nothing is left to weigh.

    References
    ----------
    Efron B. The two sample problem with censored data. Proc 5th Berkeley Symp 1967;4:831-53. Jackson D, et al.
    Relaxing the independent censoring assumption in the Cox proportional hazards model using multiple imputation. Stat
    Med 2014;33:4681-94 (delta adjustment).
    """
    unknown, counts = np.flatnonzero(outcome.unknown), outcome.counts
    survives = np.ones((len(counts), len(unknown)))
    for one in np.unique(group[unknown]) if 0 < times < np.inf else ():
        inside, of = group == one, group[unknown] == one
        years, event = outcome.followup_years[inside], outcome.event_observed[inside]
        at = np.append(outcome.followup_years[unknown[of]], outcome.horizon_years)
        alive = kaplan_meier(years, event, counts[:, inside], at)
        then, at_horizon = alive[:, :-1], alive[:, -1:]
        survives[:, of] = np.divide(at_horizon, then, out=np.ones_like(then), where=then > 0)
    died = np.ones_like(survives) if times == np.inf else 1 - survives**times
    known = np.flatnonzero(~outcome.unknown)
    rows = np.concatenate([known, unknown, unknown])
    shared = np.concatenate([counts[:, known], counts[:, unknown] * died, counts[:, unknown] * (1 - died)], axis=1)
    dead = np.concatenate([outcome.died[known], np.ones(len(unknown), bool), np.zeros(len(unknown), bool)])
    resamples = Resamples(outcome.resamples.patient[rows], shared)
    return rows, Outcome(
        outcome.followup_years[rows], dead, outcome.horizon_years, dead, ~dead, resamples, outcome.presumed, shared
    )


def _ways(judged: Judged, by_risk: Outcome) -> Iterator[tuple[str, Judged]]:
    yield SAME_FOR_ALL, judged
    yield BY_RISK, replace(judged, outcome=by_risk)
    third = np.searchsorted(np.quantile(judged.standing, [1 / 3, 2 / 3]), judged.standing)
    for words, times in FATES.items():
        rows, outcome = shared_by_fate(judged.outcome, third, times)
        score = None if judged.score is None else judged.score[rows]
        yield words, replace(
            judged, scans=judged.scans.iloc[rows], risk=judged.risk[rows], risks=judged.risks[:, rows],
            fits=judged.fits[:, rows], score=score, outcome=outcome,
        )  # fmt: skip


def other_ways(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Judge a model with weights that depend on its risk, and under suppositions on the fate of the lost.

    Returns
    -------
    pandas.DataFrame
        One row per horizon, way and metric of `WEIGHED`: `estimate`, `ci_low`, `ci_high` (95 %), and of the weights
        `n_effective`, the number of equally weighted scans that would be worth as much (Kish), and `largest`, what the
        heaviest scan counts; the counts of the scans; `loss_ratio`, `loss_low`, `loss_high`: hazard ratio of being lost
        of one standard deviation of the risk's logit. No rows at horizons where nothing is unknown or estimable.
    """
    rows = []
    for judged in evaluation.horizons_of(model):
        if not judged.estimable or not judged.outcome.unknown.any():
            continue
        lost = len(np.unique(judged.outcome.resamples.patient[judged.outcome.unknown]))
        ratio, samples, weights = _in_blocks(judged)
        loss = dict(zip(("loss_low", "loss_high"), interval(ratio, lost - 1, "log")[:2], strict=True))
        for (way, metric), found in samples.items():
            of_way = weights[way]
            low, high, _ = interval(found, judged.outcome.degrees_of_freedom, METRICS[metric].scale)
            rows.append(
                {
                    "horizon_years": judged.horizon_years, "way": way, **judged.counts, "loss_ratio": float(ratio[0]),
                    **loss, "n_effective": of_way.sum() ** 2 / (of_way**2).sum(), "largest": of_way.max(),
                    "metric": metric, "estimate": found[0], "ci_low": low, "ci_high": high,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _in_blocks(judged: Judged) -> tuple[Floats, dict[tuple[str, str], Floats], dict[str, Floats]]:
    """Hazard ratio of loss, each metric of each way, and the weights of each way in the study's own sample."""
    ratios: list[Floats] = []
    samples: dict[tuple[str, str], list[Floats]] = {}
    weights: dict[str, Floats] = {}
    for block in judged.outcome.in_blocks():
        by_risk, log_ratio = weighed_by(logit(judged.risk), block)
        ratios.append(np.exp(log_ratio))
        for way, other in _ways(replace(judged, outcome=block), by_risk):
            weights.setdefault(way, other.outcome.weights[0])
            for metric in WEIGHED:
                samples.setdefault((way, metric), []).append(other.measure(metric))
    return np.concatenate(ratios), {key: np.concatenate(parts) for key, parts in samples.items()}, weights


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Lay `other_ways` out: a row per metric and way, a column per horizon."""
    in_order = table.sort_values("metric", key=lambda names: names.map(WEIGHED.index), kind="stable")
    named = in_order.assign(measure=in_order["metric"].map(METRIC_WORDS))
    return by_horizon(named, ["measure", "way"], lambda row: estimate_text(row.estimate, row.ci_low, row.ci_high))


def in_words(table: pd.DataFrame) -> str:
    """Say at each horizon whether loss depends on the risk, and what that does to O:E."""
    ratios = table[table["metric"] == "observed_expected"].set_index(["horizon_years", "way"])
    lines = []
    for years in table["horizon_years"].unique():
        same, by_risk = ratios.loc[(years, SAME_FOR_ALL)], ratios.loc[(years, BY_RISK)]
        low, high = same["loss_low"], same["loss_high"]
        depends = "sooner than others" if low > 1 else "later than others" if high < 1 else ""
        found = (
            f"patients at higher risk are lost {depends}: believe the second figure rather than the first"
            if depends
            else "no sign that loss depends on the risk"
        )
        lines.append(
            f"- **{years_text(years)}**: {found}. Hazard ratio of being lost, one standard deviation of the risk: "
            f"{estimate_text(same['loss_ratio'], low, high)}. Died : expected is {same['estimate']:.2f} with weights "
            f"the same for everybody, {by_risk['estimate']:.2f} by the risk; the known scans are then worth "
            f"{by_risk['n_effective']:.0f} equal ones, and the heaviest counts as {by_risk['largest']:.1f}."
        )
    return "\n".join(lines)
