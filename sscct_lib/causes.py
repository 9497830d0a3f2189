"""Deaths by cause: one cause keeps patients from dying of another, so causes compete."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sscct_lib.bootstrap import Flags, Floats, curve_interval, kaplan_meier
from sscct_lib.calibration import logit
from sscct_lib.horizons import judged_risks, study_resamples
from sscct_lib.logrank import hazard_ratios
from sscct_lib.schemas import CAUSES
from sscct_lib.study import Settings

TRANSPLANT = "transplant"
FEWEST_PATIENTS = 5  # with the event: robust errors of fewer clusters are far too small


def aalen_johansen(time: Floats, event: Flags, of_cause: Flags, counts: Floats, at: ArrayLike) -> Floats:
    """Probability of death from one cause, in every sample at once.

    Parameters
    ----------
    time
        Time to death or to the end of follow-up, shape (n,).
    event
        Whether a death from any cause was seen, shape (n,).
    of_cause
        Whether it was from the cause in question, shape (n,).
    counts
        How often each row counts in each sample, shape (n_samples, n).
    at
        Times at which the probability is wanted, shape (k,).

    Returns
    -------
    numpy.ndarray
        Cumulative incidence up to and including each time, shape (n_samples, k). Over all causes these sum to one
        minus the Kaplan-Meier survival.

    References
    ----------
    Aalen OO, Johansen S. An empirical transition matrix for nonhomogeneous Markov chains based on censored
    observations. Scand J Stat 1978;5:141-50.
    """
    order = np.argsort(time, kind="stable")
    sorted_counts = counts[:, order]
    unique, starts = np.unique(time[order], return_index=True)
    at_risk = sorted_counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, starts]
    deaths = np.add.reduceat(sorted_counts * (event & of_cause)[order], starts, axis=1)
    hazard = np.divide(deaths, at_risk, out=np.zeros_like(deaths), where=at_risk > 0)
    just_before = kaplan_meier(time, event, counts, np.nextafter(unique, -np.inf))
    incidence = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(just_before * hazard, axis=1)], axis=1)
    return incidence[:, np.searchsorted(unique, np.asarray(at, dtype=float), side="right")]


def event_causes(cohort: pd.DataFrame) -> NDArray[np.str_]:
    """Name what ended each follow-up.

    Parameters
    ----------
    cohort
        Schema `COHORT`.

    Returns
    -------
    numpy.ndarray
        One of `schemas.CAUSES`, `TRANSPLANT`, or empty where the patient was alive, shape (n,).
    """
    died = cohort["event_observed"].to_numpy(bool)
    transplanted = cohort.get("transplanted", pd.Series(False, index=cohort.index)).to_numpy(bool)
    named = cohort.get("cause_of_death", pd.Series(None, index=cohort.index, dtype=object))
    cause = named.fillna("unknown").to_numpy(dtype=str)
    return np.where(transplanted, TRANSPLANT, np.where(died, cause, ""))


def cumulative_incidence(cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Cumulative incidence of death by cause, and of lung transplant, after a scan, up to the longest horizon.

    Parameters
    ----------
    cohort
        Schema `COHORT`; `cause_of_death` may be absent. A death without a cause counts as `unknown`; a lung transplant
        is an event of its own.
    settings
        Of the study: horizons, bootstrap and seed.

    Returns
    -------
    pandas.DataFrame
        A step curve a cause that occurs, at each death and each whole year: `group` (the cause), `years`,
        `incidence`, `ci_low`, `ci_high` (95 % by bootstrap of patients), `at_risk` (scans followed to that time),
        `n_scans`, `n_patients`, `n_events` (of the cause by the longest horizon). No rows when there was none.
    """
    columns = ["group", "years", "incidence", "ci_low", "ci_high", "at_risk", "n_scans", "n_patients", "n_events"]
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
                at_risk=[int((time >= years).sum()) for years in at],
                n_scans=len(cohort),
                n_patients=cohort["patient_id"].nunique(),
                n_events=int(of_cause.sum()),
            )
        )
    return pd.concat(frames, ignore_index=True)[columns]


def cause_specific_hazards(
    predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings
) -> pd.DataFrame:
    """Tell of which cause patients with a higher risk die faster: a Cox model a cause, the other causes censored.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model; its risk at its longest horizon.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        One row a cause that occurs: `cause`, `hazard_ratio` (of one standard deviation of the logit of the risk),
        `ci_low`, `ci_high` (95 %) and `p` (Wald) with errors robust to several scans of a patient, `n_scans`,
        `n_patients`, `n_events` (scans followed by the event within the horizon), `n_patients_with_event`. No ratio
        where fewer than five patients had the event.

    References
    ----------
    Austin PC, Lee DS, Fine JP. Introduction to the analysis of survival data in the presence of competing risks.
    Circulation 2016;133:601-9. Lin DY, Wei LJ. J Am Stat Assoc 1989;84:1074-8 (robust errors).
    """
    horizon, risk, judged = judged_risks(predictions, cohort, model, settings)[-1]
    scans, cause = cohort[judged], event_causes(cohort)[judged]
    within = scans["followup_years"].to_numpy() <= horizon
    centred = logit(risk[judged]) - logit(risk[judged]).mean()
    patients = scans["patient_id"].to_numpy()
    years = scans["followup_years"].clip(upper=horizon).to_numpy()
    rows = []
    for name in (*CAUSES, TRANSPLANT):
        event = (cause == name) & within
        if not event.any():
            continue
        n_with_event = len(np.unique(patients[event]))
        row = dict.fromkeys(["hazard_ratio", "ci_low", "ci_high", "p"], np.nan)
        if n_with_event >= FEWEST_PATIENTS and np.ptp(centred) > 0:
            ratio = hazard_ratios(years, event, patients, {"risk": centred / centred.std()})
            row = dict(zip(row, ratio.to_numpy(dtype=float)[0], strict=True))
        counted = {"n_scans": len(scans), "n_patients": len(np.unique(patients)), "n_events": int(event.sum())}
        rows.append({"cause": name, **row, **counted, "n_patients_with_event": n_with_event})
    columns = ["cause", "hazard_ratio", "ci_low", "ci_high", "p", "n_scans", "n_patients", "n_events"]
    return pd.DataFrame(rows, columns=[*columns, "n_patients_with_event"])
