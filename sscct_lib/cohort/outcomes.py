"""Outcomes of scans: labels at a horizon; weights, so that known scans stand for unknown ones too."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DAYS_PER_YEAR = 365.25


def label_name(horizon_years: float) -> str:
    """Name the cohort's label column of a horizon, for example `label_3y`."""
    return f"label_{horizon_years:g}y"


def horizon_labels(
    followup_years: NDArray[np.float64],
    event_observed: NDArray[np.bool_],
    horizon_years: float,
    labels: str = "censored_unknown",
) -> pd.arrays.IntegerArray:
    """Tell who died within a horizon, shape (n,): 1, 0 alive then, missing when unknown (0 under `as_published`)."""
    died = event_observed & (followup_years <= horizon_years)
    unknown = ~event_observed & (followup_years < horizon_years)
    if labels == "as_published":
        unknown = np.zeros_like(unknown)
    return pd.arrays.IntegerArray(died.astype(np.int8), mask=unknown)


def censoring_weights(
    followup_years: NDArray[np.float64], event_observed: NDArray[np.bool_], horizon_years: float
) -> NDArray[np.float64]:
    """Weigh scans whose state at the horizon is known, so that they stand for the unknown ones too.

    Inverse probability of censoring weights: 1 / G(t) for a death at t within the horizon, 1 / G(horizon) for a scan
    followed to it or beyond, 0 for an unknown one; G is the Kaplan-Meier estimate of remaining uncensored, with deaths
    before censorings of the same day.

    Parameters
    ----------
    followup_years
        From the scan to death or last contact, years, shape (n,).
    event_observed
        Whether the follow-up ends with death, shape (n,).
    horizon_years
        Years after the scan.

    Returns
    -------
    numpy.ndarray
        Weights, shape (n,); their sum is near n.

    References
    ----------
    Graf E, Schmoor C, Sauerbrei W, Schumacher M. Assessment and comparison of prognostic classification schemes for
    survival data. Stat Med 1999;18:2529-45.
    """
    from sksurv.nonparametric import kaplan_meier_estimator

    # On a day with a death and a censoring the death comes first, so that weighted deaths equal Kaplan-Meier's.
    days, share = kaplan_meier_estimator(np.asarray(event_observed, dtype=bool), followup_years, reverse=True)
    died = event_observed & (followup_years <= horizon_years)
    beyond = (followup_years >= horizon_years) & ~died  # alive on the very day counts as alive, as in judging
    times = np.where(died, followup_years, horizon_years)
    uncensored = np.append(1.0, share)[np.searchsorted(days, times)]  # before that day's censorings
    weights = np.zeros(len(times))
    np.divide(1.0, uncensored, out=weights, where=(died | beyond) & (uncensored > 0))
    return weights


def patient_weights(patients: "pd.Series[str]") -> NDArray[np.float64]:
    """Let every patient count once, shared among the scans, with a mean weight of 1; shape (n,).

    References
    ----------
    Williamson JM, Datta S, Satten GA. Marginal analyses of clustered data when cluster size is informative. Biometrics
    2003;59:36-42.
    """
    weight = 1.0 / patients.groupby(patients).transform("size").to_numpy(dtype=float)
    return np.asarray(weight * len(weight) / weight.sum())


Floats = NDArray[np.float64]


def survival_outcome(followup_years: Floats, event_observed: NDArray[np.bool_]) -> NDArray[np.void]:
    """Put follow-up (years) and whether it ended with death in one array, as scikit-survival does; shape (n,)."""
    outcome = np.empty(len(followup_years), dtype=[("event", bool), ("years", float)])
    outcome["event"], outcome["years"] = event_observed, followup_years
    return outcome


def known_outcomes(
    outcome: NDArray[np.void], horizon_years: float, labels: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give each scan its state at a horizon, and the weight with which it counts.

    Parameters
    ----------
    outcome
        From `survival_outcome`. The weights rest on the follow-up of these scans alone.
    horizon_years
        Years after the scan.
    labels
        The study's rule for short follow-up; under `as_published` no scan is unknown and every weight is 1.

    Returns
    -------
    died : numpy.ndarray
        1 died within the horizon, 0 not or unknown, shape (n,).
    weight : numpy.ndarray
        Inverse probability of censoring weight, 0 for an unknown scan, shape (n,).
    """
    label = horizon_labels(outcome["years"], outcome["event"], horizon_years, labels)
    died = label.to_numpy(dtype=np.int64, na_value=0)
    if labels == "as_published":
        return died, np.ones(len(died))
    return died, np.where(label.isna(), 0.0, censoring_weights(outcome["years"], outcome["event"], horizon_years))
