"""Deaths by cause: one cause keeps patients from dying of another, so causes compete."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sscct_lib.bootstrap import Flags, Floats, curve_interval, kaplan_meier
from sscct_lib.horizons import study_resamples
from sscct_lib.study import Settings
from sscct_lib.tables import CAUSES


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


def cumulative_incidence(cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Cumulative incidence of death by cause after a scan, up to the longest horizon.

    Parameters
    ----------
    cohort
        Schema `COHORT`; `cause_of_death` may be absent. A death without a cause counts as `unknown`.
    settings
        Of the study: horizons, bootstrap and seed.

    Returns
    -------
    pandas.DataFrame
        A step curve a cause that occurs, at each death and each whole year: `group` (the cause), `years`,
        `incidence`, `ci_low`, `ci_high` (95 % by bootstrap of patients), `at_risk` (scans followed to that time),
        `n_scans`, `n_patients`, `n_events` (deaths from the cause by the longest horizon). No rows when nobody died.
    """
    columns = ["group", "years", "incidence", "ci_low", "ci_high", "at_risk", "n_scans", "n_patients", "n_events"]
    until = max(settings.horizons_years)
    time, event = cohort["followup_years"].to_numpy(float), cohort["event_observed"].to_numpy(bool)
    within = event & (time <= until)
    if not within.any():
        return pd.DataFrame(columns=columns)
    named = cohort.get("cause_of_death", pd.Series(None, index=cohort.index, dtype=object))
    cause = named.fillna("unknown").to_numpy(dtype=str)
    end = min(until, time.max())
    at = np.unique(np.concatenate([time[within], np.arange(np.floor(end) + 1), [end]]))
    counts = study_resamples(cohort, settings).counts
    frames = []
    for name in CAUSES:
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
