"""Log-rank test and hazard ratios for groups of scans, when a patient has several."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from numpy.typing import ArrayLike
from scipy.stats import chi2

from sscct_lib.bootstrap import Flags, Floats


class LogRank(NamedTuple):
    """Test of equal survival in all groups: the statistic, its degrees of freedom, and the p value."""

    chi2: float
    degrees_of_freedom: int
    p: float


def clustered_logrank(time: Floats, event: Flags, group: ArrayLike, patient_id: ArrayLike) -> LogRank:
    """Compare survival between groups, with a variance that lets the scans of a patient belong together.

    The score of a Cox model with one indicator a group, at no effect: observed less expected deaths of each group. Its
    variance is the sum over patients of the squared sums of their scans' parts.

    Parameters
    ----------
    time
        To death or end of follow-up, shape (n,).
    event
        Whether a death was seen, shape (n,).
    group
        Of each scan, shape (n,).
    patient_id
        Of each scan, shape (n,).

    Returns
    -------
    LogRank
        NaN where fewer than two groups have scans, or the variance has no inverse (no deaths, too few patients).

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
    death_times, position = np.unique(time[event], return_inverse=True)
    at_risk = (time[:, None] >= death_times).astype(float)
    n_at_risk = at_risk.sum(axis=0)
    share = (member.T @ at_risk / n_at_risk).T
    hazard = np.bincount(position) / n_at_risk
    parts = -(member * (at_risk @ hazard)[:, None] - at_risk @ (share * hazard[:, None]))
    parts[event] += member[event] - share[position]
    patients = np.unique(np.asarray(patient_id), return_inverse=True)[1]
    sums = np.zeros((patients.max() + 1, member.shape[1]))
    np.add.at(sums, patients, parts)
    variance, score = sums.T @ sums, sums.sum(axis=0)
    if np.linalg.matrix_rank(variance) < len(score):
        return LogRank(np.nan, len(score), np.nan)
    statistic = float(score @ np.linalg.solve(variance, score))
    return LogRank(statistic, len(score), float(chi2.sf(statistic, len(score))))


def hazard_ratios(
    time: Floats, event: Flags, patient_id: ArrayLike, covariates: Mapping[str, ArrayLike]
) -> pd.DataFrame:
    """Hazard ratios of a Cox model whose errors are robust to several scans of a patient.

    Parameters
    ----------
    time
        Time to the event or to the end of follow-up, shape (n,).
    event
        Whether the event was seen, shape (n,).
    patient_id
        Patient of each scan, shape (n,).
    covariates
        Name and values of each, shape (n,).

    Returns
    -------
    pandas.DataFrame
        One row a covariate: `hazard_ratio`, `ci_low`, `ci_high` (95 %), `p` (Wald).

    References
    ----------
    Lin DY, Wei LJ. The robust inference for the Cox proportional hazards model. J Am Stat Assoc 1989;84:1074-8.
    """
    frame = pd.DataFrame({"time": time, "event": event, "patient_id": patient_id, **covariates})
    fitted = CoxPHFitter().fit(frame, "time", "event", cluster_col="patient_id", robust=True)
    shown: pd.DataFrame = fitted.summary[["exp(coef)", "exp(coef) lower 95%", "exp(coef) upper 95%", "p"]]
    return shown.set_axis(["hazard_ratio", "ci_low", "ci_high", "p"], axis=1)
