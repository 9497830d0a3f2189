"""The tables behind the curves of notebook 05: ROC, calibration in risk groups, survival by risk group.

Bands and intervals are 95 %, by bootstrap of patients.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sscct_lib.horizons.bootstrap import (
    Flags,
    Floats,
    Outcome,
    Resamples,
    at_risk,
    curve_interval,
    kaplan_meier,
    proportion_interval,
)
from sscct_lib.horizons.calibration import smooth_observed
from sscct_lib.horizons.evaluate import best
from sscct_lib.horizons.evaluation import Evaluation, Judged
from sscct_lib.horizons.metrics import observed_risk
from sscct_lib.study.words import against_text

TERTILES = ("low risk", "middle risk", "high risk")


def roc_curve(judged: Judged, n_points: int = 101) -> pd.DataFrame:
    """Sensitivity at each false-positive share from 0 to 1, weighted for censoring, with a pointwise band.

    The curve of each fit, averaged by the pairs of scans behind it, so that the area is the AUC within fits.

    References
    ----------
    Hung H, Chiang CT. Estimation methods for time-dependent AUC models with survival data. Can J Stat
    2010;38:8-26. Fawcett T. An introduction to ROC analysis. Pattern Recognit Lett 2006;27:861-74 (vertical averaging).
    """
    grid = np.linspace(0, 1, n_points)
    parts = [replace(judged, outcome=block) for block in judged.outcome.in_blocks()]
    samples = np.concatenate([part.over_fits(lambda risk, outcome: _roc(risk, outcome, grid)) for part in parts])
    low, high = curve_interval(samples)
    return pd.DataFrame({"false_positive": grid, "sensitivity": samples[0], "ci_low": low, "ci_high": high})


def _roc(risk: Floats, outcome: Outcome, grid: Floats) -> tuple[Floats, Floats]:
    """The curve of one fit times its pairs of scans, in every sample, and these pairs."""
    order = np.argsort(-risk, kind="stable")
    # Only the last scan of a group with equal risk is a point that a threshold can reach.
    ends = np.append(np.flatnonzero(np.diff(risk[order])), len(risk) - 1)
    died = (outcome.weights * outcome.died)[:, order].cumsum(axis=1)[:, ends]
    alive = (outcome.weights * outcome.alive)[:, order].cumsum(axis=1)[:, ends]
    samples = np.zeros((len(died), len(grid)))
    for sample, (above, falsely_above) in enumerate(zip(died, alive, strict=True)):
        if above[-1] > 0 and falsely_above[-1] > 0:
            x = np.append(0.0, falsely_above)
            samples[sample] = np.interp(grid * x[-1], x, np.append(0.0, above)) * x[-1]
    return samples, (died[:, -1] * alive[:, -1])[:, None]


def roc_curves(evaluation: Evaluation, performance: pd.DataFrame) -> pd.DataFrame:
    """ROC curves of every model at every horizon; the one with the best AUC of a horizon has a band.

    Returns
    -------
    pandas.DataFrame
        `model`, `horizon_years`, `false_positive`, `sensitivity`; `ci_low` and `ci_high`, NaN without a band.
    """
    without_band = evaluation.without_resamples()
    frames = []
    for horizon in evaluation.settings.horizons_years:
        top = best(performance, horizon)
        for model in evaluation.models:
            # A band each would hide the curves, and costs as many curves as there are samples.
            has_band = top is not None and top["model"] == model
            judged = (evaluation if has_band else without_band).at(model, horizon)
            if judged.estimable:
                curve = roc_curve(judged)
                frames.append(curve.assign(model=model, horizon_years=horizon))
    columns = ["false_positive", "sensitivity", "ci_low", "ci_high", "model", "horizon_years"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns, dtype=float)


def quantile_groups(risk: Floats, n_groups: int) -> np.ndarray:
    """Split scans into groups of about equal size by risk, 0 the lowest; fewer where many risks are equal."""
    cuts = np.quantile(risk, np.arange(1, n_groups) / n_groups)
    return np.unique(np.searchsorted(cuts, risk, side="left"), return_inverse=True)[1]


def calibration_groups(risk: Floats, outcome: Outcome, n_groups: int = 4) -> pd.DataFrame:
    """Compare predicted with observed risk in groups of rising risk; for the columns see `calibration`."""
    groups = quantile_groups(risk, n_groups)
    rows = []
    for group in np.unique(groups):
        inside = groups == group
        within = outcome.of(inside)
        samples = observed_risk(within)
        if not within.reaches_horizon:  # its last value would pass for the risk at the horizon
            samples = np.full_like(samples, np.nan)
        counts = within.denominators
        known = within.resamples.patient[~within.unknown]
        low, high = proportion_interval(samples, len(np.unique(known)))
        row = {"predicted": risk[inside].mean(), "observed": samples[0], "ci_low": low, "ci_high": high}
        rows.append(row | {name: counts[name] for name in ("n_scans", "n_patients", "n_events")})
    return pd.DataFrame(rows)


def survival_by_group(
    groups: Sequence[str] | np.ndarray,
    cohort: pd.DataFrame,
    resamples: Resamples,
    until_years: float,
    order: Sequence[str],
) -> pd.DataFrame:
    """Kaplan-Meier curves of groups of scans, with bands; for the columns see `survival_by_tertile`."""
    names = np.asarray(groups)
    frames = []
    for name in order:
        inside = names == name
        if not inside.any():
            continue
        rows = cohort[inside]
        followup = rows["followup_years"].to_numpy(dtype=float)
        event = rows["event_observed"].to_numpy(dtype=bool)
        died = event & (followup <= until_years)
        at = _curve_times(followup, event, until_years)
        samples = kaplan_meier(followup, event, resamples.of(inside).counts, at)
        samples[:, at > followup.max()] = np.nan  # Kaplan-Meier would go on as if nobody died any more
        low, high = _survival_band(samples, at, followup, rows["patient_id"])
        frames.append(
            pd.DataFrame(
                {
                    "group": name,
                    "years": at,
                    "survival": samples[0],
                    "ci_low": low,
                    "ci_high": high,
                    **at_risk(followup, rows["patient_id"], at),
                    "n_scans": len(rows),
                    "n_patients": rows["patient_id"].nunique(),
                    "n_events": int(died.sum()),
                    "n_patients_died": rows.loc[died, "patient_id"].nunique(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _survival_band(samples: Floats, at: Floats, followup: Floats, patient_id: pd.Series) -> tuple[Floats, Floats]:
    """Pointwise intervals; where nobody died, as wide as the patients still followed allow."""
    bounds, everyone = [], patient_id.nunique()
    for column, years in zip(samples.T, at, strict=True):
        resamples_agree = np.ptp(column) == 0
        behind = patient_id[followup >= years].nunique() if resamples_agree else everyone
        bounds.append(proportion_interval(column, behind))
    low, high = np.array(bounds).T
    return low, high


def _curve_times(followup: Floats, event: Flags, until_years: float) -> Floats:
    """Each death, each whole year, and the end of the curve."""
    end = min(until_years, followup.max())
    deaths = followup[event & (followup <= end)]
    return np.unique(np.concatenate([deaths, np.arange(np.floor(until_years) + 1), [end]]))


def tertile_names(standing: Floats) -> np.ndarray:
    """Name each scan's third by `Judged.standing`, one of `TERTILES`; only `middle risk` when all stand alike."""
    cuts = np.quantile(standing, [1 / 3, 2 / 3])
    return np.array(TERTILES)[np.where(cuts[0] == cuts[1], 1, np.searchsorted(cuts, standing, side="left"))]


def calibration(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Predicted and observed risk of a model in groups of rising risk (the mean over repeats), at every horizon.

    Returns
    -------
    pandas.DataFrame
        One row per horizon and group: `predicted` (mean risk), `observed` (Kaplan-Meier within the group; NaN when
        nobody is followed that long) with `ci_low` and `ci_high` (`bootstrap.proportion_interval`), `n_scans`,
        `n_patients`, `n_events`, `horizon_years`; of all groups of a horizon, `all_scans` in words and `too_small`. No
        rows for a horizon without predictions.
    """
    frames = []
    for judged in evaluation.horizons_of(model):
        groups = calibration_groups(judged.risk, judged.outcome, evaluation.settings.horizons.n_risk_groups)
        groups = groups.assign(horizon_years=judged.horizon_years, too_small=not judged.estimable)
        frames.append(groups.assign(all_scans=against_text(pd.Series(judged.counts))))
    return pd.concat(frames, ignore_index=True)


def smooth_calibration(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Observed risk as a smooth function of predicted risk (the mean over repeats), with a band, at every horizon.

    Returns
    -------
    pandas.DataFrame
        `horizon_years`, `predicted` (from the 2nd to the 98th percentile of the risks), `observed`, `ci_low`,
        `ci_high`; no rows at a horizon at which nothing can be estimated.
    """
    frames = [pd.DataFrame(columns=["horizon_years", "predicted", "observed", "ci_low", "ci_high"], dtype=float)]
    for judged in evaluation.horizons_of(model):
        lowest, highest = np.quantile(judged.risk, [0.02, 0.98])
        at = np.linspace(lowest, highest, 40)
        if not judged.estimable or at[0] == at[-1]:
            continue
        samples = np.concatenate([smooth_observed(judged.risk, block, at) for block in judged.outcome.in_blocks()])
        low, high = curve_interval(samples)
        columns = {"predicted": at, "observed": samples[0], "ci_low": low, "ci_high": high}
        frames.append(pd.DataFrame({"horizon_years": judged.horizon_years, **columns}))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def risk_states(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Predicted risks of a model beside what happened, at every horizon.

    Returns
    -------
    pandas.DataFrame
        One row per scan and horizon: `horizon_years`, `scan_id`, `patient_id`, `risk`, `state` (`died`, `alive`,
        `unknown`).
    """
    frames = []
    for judged in evaluation.without_resamples().horizons_of(model):
        state = np.select([judged.outcome.died, judged.outcome.alive], ["died", "alive"], "unknown")
        named = {name: judged.scans[name].to_numpy() for name in ("scan_id", "patient_id")}
        columns = {"horizon_years": judged.horizon_years, **named, "risk": judged.risk, "state": state}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def instability(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """What a model's risks might have been, had it learned from another sample of as many patients.

    Each repeat of the cross-validation learned from other patients, m of the n. Its distance from the mean risk of the
    scan, times the root of m / (n - m), which is k - 1 of k folds, is spread as that of models of bootstrap samples.

    Returns
    -------
    pandas.DataFrame
        One row per scan, horizon and repeat: `horizon_years`, `scan_id`, `risk` (the mean), `other` (0 to 1). No rows
        for a model without repeats.

    References
    ----------
    Riley RD, Collins GS. Stability of clinical prediction models developed using statistical or machine learning
    methods. Biom J 2023;65:2200302. Shao J, Wu CFJ. A general theory for jackknife variance estimation. Ann Stat
    1989;17:1176-97 (the scale of what samples without replacement differ by).
    """
    frames = []
    for judged in evaluation.without_resamples().horizons_of(model):
        n_repeats, n_folds = len(judged.risks), len(np.unique(judged.fits[0]))
        if n_repeats < 2 or n_folds < 2:
            continue
        scale = np.sqrt((n_folds - 1) * n_repeats / (n_repeats - 1))  # the mean of few repeats is near each of them
        mean = judged.risks.mean(axis=0)
        for risk in judged.risks:
            other = np.clip(mean + scale * (risk - mean), 0, 1)
            columns = {"scan_id": judged.scans["scan_id"].to_numpy(), "risk": mean, "other": other}
            frames.append(pd.DataFrame({"horizon_years": judged.horizon_years, **columns}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["horizon_years"])


def survival_by_tertile(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Kaplan-Meier curves of thirds of the scans by a model's risk at its longest horizon, up to that horizon.

    Risks of several fits are put in one order by `Judged.standing`.

    Returns
    -------
    pandas.DataFrame
        A step curve a group of `TERTILES`, at each death and each whole year: `group`, `years`, `survival`, `ci_low`,
        `ci_high` (all three NaN after the end of the group's follow-up), `at_risk` (scans followed to that time),
        their `patients_at_risk`, `n_scans`, `n_patients`, `n_events` (deaths up to the horizon), `n_patients_died`.
    """
    judged = evaluation.horizons_of(model)[-1]
    thirds = tertile_names(judged.standing)
    return survival_by_group(thirds, judged.scans, judged.outcome.resamples, judged.horizon_years, TERTILES)
