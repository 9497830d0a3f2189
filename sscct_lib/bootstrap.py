"""Resampling whole patients, and what every resample needs: survival curves and censoring weights.

All samples are worked on at once. An array of weights has one row a sample and one column a scan; its first row
is all ones, so that the estimate and its resamples come from the same lines of code.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MIN_ESTIMABLE_SHARE = 0.9
"""Share of resamples in which a quantity must be estimable for its interval to be shown."""


def patient_weights(patient_id: ArrayLike, n_samples: int, seed: int) -> Floats:
    """Draw patients with replacement, each with all of his or her scans.

    Parameters
    ----------
    patient_id
        The patient of each scan, shape (n,).
    n_samples
        Bootstrap samples.
    seed
        Of the random numbers; the same seed and patients give the same samples.

    Returns
    -------
    numpy.ndarray
        How often each scan is in each sample, shape (n_samples + 1, n). Row 0 is the study itself: all ones.

    References
    ----------
    Davison AC, Hinkley DV. Bootstrap methods and their application. Cambridge University Press 1997, ch. 3.8.
    """
    patients, position = np.unique(np.asarray(patient_id), return_inverse=True)
    weights = np.ones((n_samples + 1, len(position)))
    if len(patients):
        shares = np.full(len(patients), 1 / len(patients))
        weights[1:] = np.random.default_rng(seed).multinomial(len(patients), shares, n_samples)[:, position]
    return weights


def kaplan_meier(time: Floats, event: Flags, weights: Floats, at: ArrayLike) -> Floats:
    """Estimate survival in every sample at once.

    Parameters
    ----------
    time
        Time to the event or to the end of follow-up, shape (n,).
    event
        Whether the event was seen, shape (n,).
    weights
        How often each row counts in each sample, shape (n_samples, n).
    at
        Times at which survival is wanted, shape (k,).

    Returns
    -------
    numpy.ndarray
        Probability of no event up to and including each time, shape (n_samples, k). After the last time at which
        a sample holds anybody, its last value goes on.
    """
    order = np.argsort(time, kind="stable")
    sorted_weights = weights[:, order]
    unique, starts = np.unique(time[order], return_index=True)
    at_risk = sorted_weights[:, ::-1].cumsum(axis=1)[:, ::-1][:, starts]
    events = np.add.reduceat(sorted_weights * event[order], starts, axis=1)
    hazard = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
    survival = np.cumprod(1 - hazard, axis=1)
    survival = np.concatenate([np.ones((len(survival), 1)), survival], axis=1)
    return survival[:, np.searchsorted(unique, np.asarray(at, dtype=float), side="right")]


@dataclass(frozen=True)
class Outcome:
    """Who died within a horizon, and for how many each scan stands.

    Attributes
    ----------
    died, alive
        Whether a scan is known to be followed by death within the horizon, or by life beyond it, shape (n,).
        Neither: unknown.
    counts
        How often each scan is in each sample, shape (n_samples + 1, n).
    weights
        `counts` times the inverse probability of remaining uncensored; 0 for an unknown scan, same shape.
    """

    died: Flags
    alive: Flags
    counts: Floats
    weights: Floats

    @property
    def events_and_survivors(self) -> bool:
        """Whether the study itself holds both, without which nothing can be discriminated."""
        return bool(self.died.any() and self.alive.any())


def horizon_outcome(
    followup_years: Floats, event_observed: Flags, horizon_years: float, counts: Floats, presumed: bool = False
) -> Outcome:
    """Weigh the scans whose state at a horizon is known, in every sample with its own censoring distribution.

    Weights are 1 / G(t-) for a death at t within the horizon and 1 / G(horizon) for a scan known to be followed by
    life beyond it, with G the Kaplan-Meier estimate of remaining uncensored. Where a death and a censoring fall on
    the same day, the death comes first. With these weights the mean of `died` is the Kaplan-Meier estimate of death
    within the horizon.

    Parameters
    ----------
    followup_years
        From the scan to death or last contact, years, shape (n,).
    event_observed
        Whether the follow-up ends with death, shape (n,).
    horizon_years
        Years after the scan.
    counts
        From `patient_weights`, shape (n_samples + 1, n).
    presumed
        Count an unknown scan as alive, each scan once, as the published study did.

    Returns
    -------
    Outcome

    References
    ----------
    Graf E, Schmoor C, Sauerbrei W, Schumacher M. Assessment and comparison of prognostic classification schemes
    for survival data. Stat Med 1999;18:2529-45.

    Satten GA, Datta S. The Kaplan-Meier estimator as an inverse-probability-of-censoring weighted average.
    Am Stat 2001;55:207-10.
    """
    died = event_observed & (followup_years <= horizon_years)
    if presumed:
        return Outcome(died, ~died, counts, counts)
    alive = (followup_years > horizon_years) | (~event_observed & (followup_years == horizon_years))
    # A censored scan leaves just after the deaths of its day, so it is still at risk for them.
    leaves = np.where(event_observed, followup_years, np.nextafter(followup_years, np.inf))
    needed = died | alive
    times = np.minimum(followup_years[needed], horizon_years)
    uncensored = kaplan_meier(leaves, ~event_observed, counts, times)
    weights = np.zeros_like(counts)
    weights[:, needed] = np.divide(counts[:, needed], uncensored, out=np.zeros_like(uncensored), where=uncensored > 0)
    return Outcome(died, alive, counts, weights)


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Take the percentile interval of an estimate.

    Parameters
    ----------
    samples
        The estimate in row 0 and its resamples, shape (n_samples + 1,).
    level
        Coverage.

    Returns
    -------
    low, high : float
        NaN where the estimate is NaN, or fewer than `MIN_ESTIMABLE_SHARE` of the resamples are estimable.

    References
    ----------
    Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall 1993, ch. 13.
    """
    resamples = samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(samples[0]) or len(resamples) < MIN_ESTIMABLE_SHARE * len(samples[1:]) or not len(resamples):
        return np.nan, np.nan
    low, high = np.quantile(resamples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def curve_interval(samples: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Take the pointwise percentile interval of a curve.

    Parameters
    ----------
    samples
        The curve in row 0 and its resamples, shape (n_samples + 1, k).
    level
        Coverage at each point.

    Returns
    -------
    low, high : numpy.ndarray
        Shape (k,).
    """
    bounds = [interval(column, level) for column in samples.T]
    low, high = np.array(bounds, dtype=float).reshape(-1, 2).T
    return low, high
