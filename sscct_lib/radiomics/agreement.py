"""How well each feature agrees between versions of the same scans: intraclass correlation."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

MIN_PATIENTS = 10
Floats = NDArray[np.float64]


def intraclass_correlation(values: Floats, confidence: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """ICC(2,1) of values (n_subjects, n_measurements, n_features): estimate, low and high, each (n_features,).

    Two-way random effects, absolute agreement, single measurement (Shrout PE, Fleiss JL. Psychol Bull 1979;86:420-8)
    with the interval of McGraw KO, Wong SP. Psychol Methods 1996;1:30-46. NaN for a feature that never changes.
    """
    n, k, _ = values.shape
    grand = values.mean(axis=(0, 1))
    by_subject, by_measurement = values.mean(axis=1), values.mean(axis=0)
    between = k * ((by_subject - grand) ** 2).sum(axis=0) / (n - 1)
    raters = n * ((by_measurement - grand) ** 2).sum(axis=0) / (k - 1)
    residual = values - by_subject[:, None] - by_measurement[None] + grand
    error = (residual**2).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        icc = (between - error) / (between + (k - 1) * error + k * (raters - error) / n)
        ratio = raters / error
        spread = n * (1 + (k - 1) * icc) - k * icc
        freedom = (k - 1) * (n - 1) * (k * icc * ratio + spread) ** 2
        freedom /= (n - 1) * k**2 * icc**2 * ratio**2 + spread**2
        upper_f = stats.f.ppf((1 + confidence) / 2, n - 1, freedom)
        lower_f = stats.f.ppf((1 + confidence) / 2, freedom, n - 1)
        rest = k * raters + (k * n - k - n) * error
        low = n * (between - upper_f * error) / (upper_f * rest + n * between)
        high = n * (lower_f * between - error) / (rest + n * lower_f * between)
    perfect = (error == 0) & (icc == 1)
    return icc, np.where(perfect, 1.0, low), np.where(perfect, 1.0, high)


def feature_agreement(versions: pd.DataFrame) -> pd.DataFrame:
    """Estimate how well each feature agrees between versions of the same scans.

    Parameters
    ----------
    versions
        One row a scan and version: `scan_id`, `patient_id`, `version` and features; every scan has each version.

    Returns
    -------
    pandas.DataFrame
        One row a feature that no scan lacks: `feature`, `icc`, `ci_low`, `ci_high`, `n_scans`.
    """
    features = versions.drop(columns=["scan_id", "patient_id", "version"]).dropna(axis=1).columns
    ordered = versions.sort_values(["scan_id", "version"])
    n_scans = ordered["scan_id"].nunique()
    values = ordered[features].to_numpy(dtype=float).reshape(n_scans, -1, len(features))
    icc, low, high = intraclass_correlation(values)
    return pd.DataFrame({"feature": features, "icc": icc, "ci_low": low, "ci_high": high, "n_scans": n_scans})


def stable_columns(
    columns: Iterable[str], versions: pd.DataFrame, patients: Iterable[str], min_icc: float
) -> list[str]:
    """Leave out the features that do not agree between versions of the training patients' scans.

    Parameters
    ----------
    columns
        Of a model.
    versions
        As in `feature_agreement`, of any patients.
    patients
        The training patients; no other is looked at.
    min_icc
        A feature below it is left out, and its rate of change with it.

    Returns
    -------
    list of str
        Columns that are stable, or are no feature of the image. All, where fewer than ten training patients have
        such versions: agreement would be a guess.
    """
    known = versions[versions["patient_id"].isin(set(patients))]
    if known["patient_id"].nunique() < MIN_PATIENTS:
        return list(columns)
    agreement = feature_agreement(known)
    unstable = set(versions.columns) - set(agreement.loc[agreement["icc"] >= min_icc, "feature"])
    return [name for name in columns if name.removeprefix("change_") not in unstable]
