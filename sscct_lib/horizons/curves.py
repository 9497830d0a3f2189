"""The tables behind the curves of notebook 05: ROC, calibration in risk groups, survival by risk group."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sscct_lib.horizons.bootstrap import (
    Flags,
    Floats,
    Outcome,
    Resamples,
    curve_interval,
    kaplan_meier,
    proportion_interval,
    resample_patients,
)
from sscct_lib.horizons.calibration import smooth_observed
from sscct_lib.horizons.evaluate import aligned_risk, best, cohort_outcome, judged_risks, not_estimable, study_resamples
from sscct_lib.horizons.metrics import observed_risk
from sscct_lib.study.settings import Settings

TERTILES = ("low risk", "middle risk", "high risk")


def roc_curve(risk: Floats, outcome: Outcome, n_points: int = 101) -> pd.DataFrame:
    """Sensitivity at each false-positive share, weighted for censoring, with a pointwise band.

    Parameters
    ----------
    risk
        Predicted risk of each scan, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.
    n_points
        False-positive shares from 0 to 1 at which the curve is given.

    Returns
    -------
    pandas.DataFrame
        `false_positive`, `sensitivity`, `ci_low`, `ci_high` (95 % by bootstrap of patients).

    References
    ----------
    Hung H, Chiang CT. Estimation methods for time-dependent AUC models with survival data. Can J Stat
    2010;38:8-26.
    """
    grid = np.linspace(0, 1, n_points)
    order = np.argsort(-risk, kind="stable")
    # Only the last scan of a group with equal risk is a point that a threshold can reach.
    ends = np.append(np.flatnonzero(np.diff(risk[order])), len(risk) - 1)
    died = (outcome.weights * outcome.died)[:, order].cumsum(axis=1)[:, ends]
    alive = (outcome.weights * outcome.alive)[:, order].cumsum(axis=1)[:, ends]
    samples = np.full((len(died), n_points), np.nan)
    for sample, (above, falsely_above) in enumerate(zip(died, alive, strict=True)):
        if above[-1] > 0 and falsely_above[-1] > 0:
            x = np.append(0.0, falsely_above / falsely_above[-1])
            samples[sample] = np.interp(grid, x, np.append(0.0, above / above[-1]))
    low, high = curve_interval(samples)
    return pd.DataFrame({"false_positive": grid, "sensitivity": samples[0], "ci_low": low, "ci_high": high})


def roc_curves(
    predictions: pd.DataFrame, cohort: pd.DataFrame, performance: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    """ROC curves of every model at every horizon; the best of a horizon has a band.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    performance
        From `horizons.evaluate` with the same predictions; says which AUC is best.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        As `roc_curve`, with `model` and `horizon_years`; `ci_low` and `ci_high` are NaN without a band.
    """
    resamples = study_resamples(cohort, settings)
    frames = []
    for horizon in settings.horizons_years:
        top = best(performance, horizon)
        for model in dict.fromkeys(predictions["model"]):
            risk = aligned_risk(predictions, cohort, model, horizon)
            judged = np.isfinite(risk)
            samples = resamples if top is not None and top["model"] == model else resamples.study_only()
            outcome = cohort_outcome(cohort[judged], horizon, samples.of(judged), settings.labels)
            if not not_estimable(outcome):
                curve = roc_curve(risk[judged], outcome)
                frames.append(curve.assign(model=model, horizon_years=horizon))
    columns = ["false_positive", "sensitivity", "ci_low", "ci_high", "model", "horizon_years"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns, dtype=float)


def quantile_groups(risk: Floats, n_groups: int) -> np.ndarray:
    """Split scans into groups of about equal size by risk; equal risks stay together.

    Parameters
    ----------
    risk
        Predicted risk of each scan, shape (n,).
    n_groups
        Groups wanted; there are fewer when many risks are equal.

    Returns
    -------
    numpy.ndarray
        Group of each scan, 0 the lowest risk, shape (n,).
    """
    cuts = np.quantile(risk, np.arange(1, n_groups) / n_groups)
    return np.unique(np.searchsorted(cuts, risk, side="left"), return_inverse=True)[1]


def calibration_groups(risk: Floats, outcome: Outcome, n_groups: int = 4) -> pd.DataFrame:
    """Compare predicted with observed risk in groups of rising risk.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.
    n_groups
        Groups of about equal size.

    Returns
    -------
    pandas.DataFrame
        One row a group: `predicted` (mean risk), `observed` (Kaplan-Meier within the group; NaN when nobody is
        followed that long) with `ci_low` and `ci_high` (95 %, see `bootstrap.proportion_interval`), `n_scans`,
        `n_patients`, `n_events`.
    """
    groups = quantile_groups(risk, n_groups)
    rows = []
    for group in np.unique(groups):
        inside = groups == group
        within = outcome.of(inside)
        samples = observed_risk(within)
        if not within.reaches_horizon:
            samples = np.full_like(samples, np.nan)
        patient = within.resamples.patient
        low, high = proportion_interval(samples, len(np.unique(patient[~within.unknown])))
        rows.append(
            {
                "predicted": risk[inside].mean(),
                "observed": samples[0],
                "ci_low": low,
                "ci_high": high,
                "n_scans": int(inside.sum()),
                "n_patients": len(np.unique(patient)),
                "n_events": int(within.died.sum()),
            }
        )
    return pd.DataFrame(rows)


def survival_by_group(
    groups: Sequence[str] | np.ndarray,
    cohort: pd.DataFrame,
    resamples: Resamples,
    until_years: float,
    order: Sequence[str],
) -> pd.DataFrame:
    """Kaplan-Meier curves of groups of scans, with bands by bootstrap of patients.

    Parameters
    ----------
    groups
        Name of each scan's group, shape (n,).
    cohort
        Schema `COHORT`, the same scans in the same order.
    resamples
        Bootstrap samples of the same scans.
    until_years
        Where the curves end.
    order
        Names of the groups in the order of the table; a name without scans is left out.

    Returns
    -------
    pandas.DataFrame
        A step curve a group, at each death and each whole year: `group`, `years`, `survival`, `ci_low`,
        `ci_high` (95 %; all three NaN after the end of the group's follow-up), `at_risk` (scans followed to
        that time), `n_scans`, `n_patients`, `n_events` (deaths up to `until_years`).
    """
    names = np.asarray(groups)
    frames = []
    for name in order:
        inside = names == name
        if not inside.any():
            continue
        rows = cohort[inside]
        followup = rows["followup_years"].to_numpy(dtype=float)
        event = rows["event_observed"].to_numpy(dtype=bool)
        at = _curve_times(followup, event, until_years)
        samples = kaplan_meier(followup, event, resamples.counts[:, inside], at)
        samples[:, at > followup.max()] = np.nan
        low, high = _survival_band(samples, at, followup, rows["patient_id"])
        frames.append(
            pd.DataFrame(
                {
                    "group": name,
                    "years": at,
                    "survival": samples[0],
                    "ci_low": low,
                    "ci_high": high,
                    "at_risk": [int((followup >= years).sum()) for years in at],
                    "n_scans": len(rows),
                    "n_patients": rows["patient_id"].nunique(),
                    "n_events": int((event & (followup <= until_years)).sum()),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _survival_band(samples: Floats, at: Floats, followup: Floats, patient_id: pd.Series) -> tuple[Floats, Floats]:
    """Pointwise intervals; where nobody died, as wide as the patients still followed allow."""
    bounds = []
    for column, years in zip(samples.T, at, strict=True):
        resamples_agree = np.ptp(column) == 0
        behind = patient_id[followup >= years] if resamples_agree else patient_id
        bounds.append(proportion_interval(column, behind.nunique()))
    low, high = np.array(bounds).T
    return low, high


def _curve_times(followup: Floats, event: Flags, until_years: float) -> Floats:
    end = min(until_years, followup.max())
    deaths = followup[event & (followup <= end)]
    return np.unique(np.concatenate([deaths, np.arange(np.floor(until_years) + 1), [end]]))


def tertile_names(risk: Floats) -> np.ndarray:
    """Name each scan's third of the risks.

    Parameters
    ----------
    risk
        Predicted risk of each scan, shape (n,).

    Returns
    -------
    numpy.ndarray
        One of `TERTILES` a scan, shape (n,); only `middle risk` when all risks are equal.
    """
    cuts = np.quantile(risk, [1 / 3, 2 / 3])
    return np.array(TERTILES)[np.where(cuts[0] == cuts[1], 1, np.searchsorted(cuts, risk, side="left"))]


def calibration(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.DataFrame:
    """Predicted and observed risk of a model in groups of rising risk, at every horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    settings
        Of the study; `horizons.n_risk_groups` says how many groups.

    Returns
    -------
    pandas.DataFrame
        As `calibration_groups`, with `horizon_years`; no rows for a horizon without predictions.
    """
    resamples = study_resamples(cohort, settings)
    frames = []
    for horizon, risk, judged in judged_risks(predictions, cohort, model, settings):
        outcome = cohort_outcome(cohort[judged], horizon, resamples.of(judged), settings.labels)
        groups = calibration_groups(risk[judged], outcome, settings.horizons.n_risk_groups)
        frames.append(groups.assign(horizon_years=horizon))
    return pd.concat(frames, ignore_index=True)


def smooth_calibration(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.DataFrame:
    """Observed risk as a smooth function of predicted risk, with a band, at every horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        `horizon_years`, `predicted` (from the 2nd to the 98th percentile of the risks), `observed`, `ci_low`,
        `ci_high` (95 %, by bootstrap of patients); no rows at a horizon at which nothing can be estimated.
    """
    resamples = study_resamples(cohort, settings)
    frames = [pd.DataFrame(columns=["horizon_years", "predicted", "observed", "ci_low", "ci_high"], dtype=float)]
    for horizon, risk, judged in judged_risks(predictions, cohort, model, settings):
        outcome = cohort_outcome(cohort[judged], horizon, resamples.of(judged), settings.labels)
        lowest, highest = np.quantile(risk[judged], [0.02, 0.98])
        at = np.linspace(lowest, highest, 40)
        if not_estimable(outcome) or at[0] == at[-1]:
            continue
        samples = smooth_observed(risk[judged], outcome, at)
        low, high = curve_interval(samples)
        columns = {"predicted": at, "observed": samples[0], "ci_low": low, "ci_high": high}
        frames.append(pd.DataFrame({"horizon_years": horizon, **columns}))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def risk_states(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.DataFrame:
    """Predicted risks of a model beside what happened, at every horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    settings
        Of the study: horizons and labels.

    Returns
    -------
    pandas.DataFrame
        One row a scan and horizon: `horizon_years`, `scan_id`, `risk`, `state` (`died`, `alive`, `unknown`).
    """
    frames = []
    resamples = resample_patients(cohort["patient_id"], 0, 0)
    for horizon, risk, judged in judged_risks(predictions, cohort, model, settings):
        outcome = cohort_outcome(cohort[judged], horizon, resamples.of(judged), settings.labels)
        state = np.select([outcome.died, outcome.alive], ["died", "alive"], "unknown")
        scan_id = cohort["scan_id"][judged].to_numpy()
        frames.append(
            pd.DataFrame({"horizon_years": horizon, "scan_id": scan_id, "risk": risk[judged], "state": state})
        )
    return pd.concat(frames, ignore_index=True)


def survival_by_tertile(
    predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings
) -> pd.DataFrame:
    """Kaplan-Meier curves of thirds of the scans by a model's risk at its longest horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    settings
        Of the study; the curves end at the longest horizon.

    Returns
    -------
    pandas.DataFrame
        As `survival_by_group`, with the groups `TERTILES`.
    """
    horizon, risk, judged = judged_risks(predictions, cohort, model, settings)[-1]
    resamples = study_resamples(cohort, settings).of(judged)
    return survival_by_group(tertile_names(risk[judged]), cohort[judged], resamples, horizon, TERTILES)
