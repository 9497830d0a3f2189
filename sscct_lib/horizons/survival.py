"""Survival of scans when a patient has several: follow-up, log-rank test, hazard ratios, competing causes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2
from scipy.stats import t as student_t

from sscct_lib.horizons.bootstrap import (
    Counts,
    Flags,
    Floats,
    at_risk,
    blocks,
    curve_interval,
    kaplan_meier,
    resample_patients,
)
from sscct_lib.horizons.evaluation import COUNTS, FEWEST_PATIENTS, Evaluation, study_resamples
from sscct_lib.study.schemas import CAUSES
from sscct_lib.study.settings import Settings

TRANSPLANT = "transplant"
RATIO_COUNTS = ("n_scans", "n_patients", "n_events", "n_patients_died")
"""Counts in a table of hazard ratios."""


def followup_curve(cohort: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 2026) -> pd.DataFrame:
    """Share of scans still followed, by the reverse Kaplan-Meier method: death ends the chance to be followed.

    Returns
    -------
    pandas.DataFrame
        A step curve at each end of follow-up and each whole year: `years`, `still_followed`, `ci_low`, `ci_high`
        (95 %), `at_risk` (scans followed to that time), their `patients_at_risk`, `n_scans`, `n_patients`, `n_events`
        (scans followed by death). No rows for an empty cohort.

    References
    ----------
    Schemper M, Smith TL. A note on quantifying follow-up in studies of failure time. Control Clin Trials
    1996;17:343-6.
    """
    followup = cohort["followup_years"].to_numpy(dtype=float)
    years, samples = followup, np.ones((n_bootstrap + 1, 0))
    if len(followup):
        years = np.unique(np.concatenate([followup, np.arange(np.floor(followup.max()) + 1)]))
        ended = ~cohort["event_observed"].to_numpy(dtype=bool)
        counts = resample_patients(cohort["patient_id"], n_bootstrap, seed).counts
        samples = kaplan_meier(followup, ended, counts, years)
    low, high = curve_interval(samples)
    return pd.DataFrame(
        {
            "years": years,
            "still_followed": samples[0],
            "ci_low": low,
            "ci_high": high,
            **at_risk(followup, cohort["patient_id"], years),
            "n_scans": len(cohort),
            "n_patients": cohort["patient_id"].nunique(),
            "n_events": int(cohort["event_observed"].sum()),
            "n_patients_died": cohort.loc[cohort["event_observed"], "patient_id"].nunique(),
        }
    )


class LogRank(NamedTuple):
    """Test of equal survival in all groups: the statistic, its degrees of freedom, and the p value."""

    chi2: float
    degrees_of_freedom: int
    p: float


def clustered_logrank(time: Floats, event: Flags, group: ArrayLike, patient_id: ArrayLike) -> LogRank:
    """Compare survival between groups, with a variance that lets the scans of a patient belong together.

    The score of a Cox model with one indicator a group, at no effect: observed less expected deaths of each group. Its
    variance is the sum over patients of the squared sums of their scans' parts. NaN where fewer than two groups have
    scans, or the variance has no inverse (no deaths, too few patients).

    References
    ----------
    Lee EW, Wei LJ, Amato DA. Cox-type regression analysis for large numbers of small groups of correlated failure
    time observations. In: Survival analysis: state of the art. Kluwer 1992:237-47. Lin DY, Wei LJ. The robust inference
    for the Cox proportional hazards model. J Am Stat Assoc 1989;84:1074-8.
    """
    names, index = np.unique(np.asarray(group), return_inverse=True)
    member = np.eye(len(names))[index][:, 1:]
    if len(names) < 2 or not event.any():
        return LogRank(np.nan, max(len(names) - 1, 0), np.nan)
    sums = _by_patient(score_residuals(time, event, member, np.ones(len(time))), patient_id)
    variance, score = sums.T @ sums, sums.sum(axis=0)
    if np.linalg.matrix_rank(variance) < len(score):
        return LogRank(np.nan, len(score), np.nan)
    statistic = float(score @ np.linalg.solve(variance, score))
    return LogRank(statistic, len(score), float(chi2.sf(statistic, len(score))))


def score_residuals(time: Floats, event: Flags, covariates: Floats, relative_hazard: Floats) -> Floats:
    """Parts of each scan in the score of a Cox model, shape (n, n_covariates); deaths of the same time as one.

    References
    ----------
    Lin DY, Wei LJ. J Am Stat Assoc 1989;84:1074-8, eq. 2.3.
    """
    order = np.argsort(-time, kind="stable")  # the longest followed first: who is at risk is then a beginning
    death_times, position = np.unique(time[event], return_inverse=True)
    ends = np.searchsorted(-time[order], -death_times, side="right") - 1
    at_risk = relative_hazard[order]
    exposed = np.cumsum(at_risk)[ends]
    mean = np.cumsum(covariates[order] * at_risk[:, None], axis=0)[ends] / exposed[:, None]
    hazard = np.bincount(position, minlength=len(death_times)) / exposed
    # What a scan passes of the hazard until its own end, and of the hazard times the mean.
    passed = np.concatenate([np.zeros((1, 1 + mean.shape[1])), np.column_stack([hazard, mean * hazard[:, None]])])
    sums = np.cumsum(passed, axis=0)[np.searchsorted(death_times, time, side="right")] * relative_hazard[:, None]
    parts = sums[:, 1:] - covariates * sums[:, :1]
    parts[event] += covariates[event] - mean[position]
    return np.asarray(parts)


def _by_patient(parts: Floats, patient_id: ArrayLike) -> Floats:
    patients = np.unique(np.asarray(patient_id), return_inverse=True)[1]
    sums = np.zeros((patients.max() + 1, parts.shape[1]))
    np.add.at(sums, patients, parts)
    return sums


def hazard_ratios(
    time: Floats, event: Flags, patient_id: ArrayLike, covariates: Mapping[str, ArrayLike]
) -> pd.DataFrame:
    """Hazard ratios of a Cox model whose errors are robust to several scans of a patient.

    Robust errors of few clusters are too small, and a normal quantile makes it worse: with 10 to 35 deaths, a marker
    without effect has p < .05 in 8 to 9 % of cohorts. The quantile is that of Student's t with as many degrees of
    freedom as patients who died, less one.

    Returns
    -------
    pandas.DataFrame
        One row per covariate: `hazard_ratio`, `ci_low`, `ci_high` (95 %), `p` (Wald).

    References
    ----------
    Lin DY, Wei LJ. The robust inference for the Cox proportional hazards model. J Am Stat Assoc 1989;84:1074-8. Bell
    RM, McCaffrey DF. Bias reduction in standard errors for linear regression with multi-stage samples. Surv Methodol
    2002;28:169-81 (few clusters).
    """
    frame = pd.DataFrame({"time": time, "event": event, **covariates})
    # By default lifelines stops where the fifth digit may still change.
    fitted = CoxPHFitter().fit(frame, "time", "event", fit_options={"precision": 1e-12, "r_precision": 1e-14})
    x = frame[list(covariates)].to_numpy(dtype=float)
    log_ratio, inverse = fitted.params_.to_numpy(), fitted.variance_matrix_.to_numpy()
    # Not lifelines' own robust errors, which depend on the order of scans with the same time.
    relative_hazard = np.exp(x @ log_ratio - (x @ log_ratio).max())
    influence = _by_patient(score_residuals(time, event, x, relative_hazard), patient_id) @ inverse
    error = np.sqrt((influence**2).sum(axis=0))
    degrees_of_freedom = len(np.unique(np.asarray(patient_id)[event])) - 1
    half = student_t.ppf(0.975, degrees_of_freedom) * error
    ends = {"ci_low": np.exp(log_ratio - half), "ci_high": np.exp(log_ratio + half)}
    p = 2 * student_t.sf(np.abs(log_ratio) / error, degrees_of_freedom)
    return pd.DataFrame({"hazard_ratio": np.exp(log_ratio), **ends, "p": p}, index=list(covariates))


def aalen_johansen(time: Floats, event: Flags, of_cause: Flags, counts: Counts, at: ArrayLike) -> Floats:
    """Cumulative incidence of death from one cause at k times, in every sample at once, shape (n_samples, k).

    Over all causes these sum to one minus the Kaplan-Meier survival.

    References
    ----------
    Aalen OO, Johansen S. An empirical transition matrix for nonhomogeneous Markov chains based on censored
    observations. Scand J Stat 1978;5:141-50.
    """
    order = np.argsort(time, kind="stable")
    unique, starts = np.unique(time[order], return_index=True)
    place = np.searchsorted(unique, np.asarray(at, dtype=float), side="right")
    return np.concatenate(
        [
            _incidence(counts[some], time, event, (event & of_cause)[order], order, unique, starts)[:, place]
            for some in blocks(*counts.shape)
        ]
    )


def _incidence(
    counts: Counts, time: Floats, event: Flags, of_cause: Flags, order: Any, unique: Floats, starts: Any
) -> Floats:
    """Cumulative incidence before the first time and at each, in some samples; `of_cause` in the order of time."""
    sorted_counts = counts[:, order]
    at_risk = sorted_counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, starts]
    deaths = np.add.reduceat(sorted_counts * of_cause, starts, axis=1)
    hazard = np.divide(deaths, at_risk, out=np.zeros(deaths.shape), where=at_risk > 0)
    # Who dies at a time was alive until then, of whatever cause.
    just_before = kaplan_meier(time, event, counts, np.nextafter(unique, -np.inf))
    return np.concatenate([np.zeros((len(counts), 1)), np.cumsum(just_before * hazard, axis=1)], axis=1)


def event_causes(cohort: pd.DataFrame) -> NDArray[np.str_]:
    """What ended each follow-up, shape (n,): one of `CAUSES`, `TRANSPLANT`, or empty where the patient was alive."""
    died = cohort["event_observed"].to_numpy(bool)
    transplanted = cohort.get("transplanted", pd.Series(False, index=cohort.index)).to_numpy(bool)
    named = cohort.get("cause_of_death", pd.Series(None, index=cohort.index, dtype=object))
    cause = named.fillna("unknown").to_numpy(dtype=str)
    return np.where(transplanted, TRANSPLANT, np.where(died, cause, ""))


def cumulative_incidence(cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Cumulative incidence of death by cause, and of lung transplant, after a scan, up to the longest horizon.

    A death without a cause counts as `unknown`; a lung transplant is an event of its own.

    Returns
    -------
    pandas.DataFrame
        A step curve a cause that occurs, at each death and each whole year: `group` (the cause), `years`,
        `incidence`, `ci_low`, `ci_high` (95 % by bootstrap of patients), `at_risk` (scans followed to that time), their
        `patients_at_risk`, `n_scans`, `n_patients`, `n_events` (of the cause by the longest horizon) and
        `n_patients_with_event`. No rows when there was none.
    """
    columns = ["group", "years", "incidence", "ci_low", "ci_high", "at_risk", "n_scans", "n_patients", "n_events"]
    columns += ["n_patients_with_event", "patients_at_risk"]
    until = max(settings.horizons_years)
    time, cause = cohort["followup_years"].to_numpy(float), event_causes(cohort)
    event = cause != ""
    within = event & (time <= until)
    if not within.any():
        return pd.DataFrame(columns=columns)
    end = min(until, time.max())
    at = np.unique(np.concatenate([time[within], np.arange(np.floor(end) + 1), [end]]))
    counts = study_resamples(cohort, settings).counts
    frames = []
    for name in (*CAUSES, TRANSPLANT):
        of_cause = within & (cause == name)
        if not of_cause.any():
            continue
        samples = aalen_johansen(time, event, cause == name, counts, at)
        low, high = curve_interval(samples)
        frame = pd.DataFrame({"years": at, "incidence": samples[0], "ci_low": low, "ci_high": high})
        frames.append(
            frame.assign(
                group=name,
                **at_risk(time, cohort["patient_id"], at),
                n_scans=len(cohort),
                n_patients=cohort["patient_id"].nunique(),
                n_events=int(of_cause.sum()),
                n_patients_with_event=cohort.loc[of_cause, "patient_id"].nunique(),
            )
        )
    return pd.concat(frames, ignore_index=True)[columns]


def cause_specific_hazards(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Tell of which cause patients with a higher risk die faster: a Cox model a cause, the other causes censored.

    Returns
    -------
    pandas.DataFrame
        One row per cause that occurs: `cause`, `hazard_ratio` (of one standard deviation of `Judged.standing` at the
        model's longest horizon), `ci_low`, `ci_high` (95 %) and `p` (Wald) with errors robust to several scans of a
        patient, `n_scans`, `n_patients`, `n_events` (scans followed by the event within the horizon),
        `n_patients_with_event`. No ratio where fewer than five patients had the event.

    References
    ----------
    Austin PC, Lee DS, Fine JP. Introduction to the analysis of survival data in the presence of competing risks.
    Circulation 2016;133:601-9. Lin DY, Wei LJ. J Am Stat Assoc 1989;84:1074-8 (robust errors).
    """
    judged = evaluation.horizons_of(model)[-1]
    scans, horizon = judged.scans, judged.horizon_years
    cause = event_causes(scans)
    within = scans["followup_years"].to_numpy() <= horizon
    standing = judged.standing
    patients = scans["patient_id"].to_numpy()
    years = scans["followup_years"].clip(upper=horizon).to_numpy()
    rows = []
    for name in (*CAUSES, TRANSPLANT):
        event = (cause == name) & within
        if not event.any():
            continue
        n_with_event = len(np.unique(patients[event]))
        row = dict.fromkeys(["hazard_ratio", "ci_low", "ci_high", "p"], np.nan)
        if n_with_event >= FEWEST_PATIENTS and np.ptp(standing) > 0:
            ratio = hazard_ratios(years, event, patients, {"risk": standing / standing.std()})
            row = dict(zip(row, ratio.to_numpy(dtype=float)[0], strict=True))
        counted = {"n_scans": len(scans), "n_patients": len(np.unique(patients)), "n_events": int(event.sum())}
        rows.append({"cause": name, **row, **counted, "n_patients_with_event": n_with_event})
    columns = ["cause", "hazard_ratio", "ci_low", "ci_high", "p", "n_scans", "n_patients", "n_events"]
    return pd.DataFrame(rows, columns=[*columns, "n_patients_with_event"])


def transplant_free(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Judge a model by overall survival and by transplant-free survival, whichever the study's outcome is.

    Overall, a lung transplant ends follow-up, alive; transplant-free, it is an event as death is.

    Returns
    -------
    pandas.DataFrame
        One row an outcome and horizon, with the columns of `subgroups.evaluate_parts`. No rows where nobody had a
        transplant.
    """
    cohort = evaluation.cohort
    transplanted = cohort.get("transplanted", pd.Series(False, index=cohort.index)).astype(bool)
    died = cohort["event_observed"].astype(bool) & ~transplanted
    columns = ["kind", "part", "horizon_years", "estimate", "ci_low", "ci_high", "note"]
    rows = []
    outcomes = {"death": died, "death or lung transplant": died | transplanted} if transplanted.any() else {}
    for name, event in outcomes.items():
        judged = Evaluation(cohort.assign(event_observed=event), evaluation.predictions, evaluation.settings)
        rows += [
            {"kind": "outcome", "part": name, "horizon_years": at.horizon_years, **at.estimate("auc"), **at.counts}
            for at in judged.horizons_of(model)
        ]
    return pd.DataFrame(rows, columns=[*columns, *COUNTS])
