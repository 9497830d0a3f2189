"""How well each feature agrees between versions of the same scans: intraclass correlation."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

MIN_PATIENTS = 10  # with versions of a scan; the agreement of fewer would be a guess
UPPER = 0.975  # where a 95 % interval ends

Floats = NDArray[np.float64]


def feature_agreement(versions: pd.DataFrame) -> pd.DataFrame:
    """Estimate how well each feature agrees between versions of the same scans.

    Versions are from `stability.versions_of_scans`; every scan has each. One row a feature that no scan lacks:
    `feature`, `icc`, `ci_low`, `ci_high`, `n_scans`.
    """
    features = versions.drop(columns=["scan_id", "patient_id", "version"]).dropna(axis=1).columns
    ordered = versions.sort_values(["scan_id", "version"])
    n_scans = ordered["scan_id"].nunique()
    values = ordered[features].to_numpy(dtype=float).reshape(n_scans, -1, len(features))
    icc, low, high = intraclass_correlation(values)
    return pd.DataFrame({"feature": features, "icc": icc, "ci_low": low, "ci_high": high, "n_scans": n_scans})


def training_agreement(versions: pd.DataFrame | None, patients: "pd.Series[str]") -> "pd.Series[float] | None":
    """ICC by feature over versions of the training patients' scans; NaN where some scan lacks the feature."""
    if versions is None or versions.empty:
        return None
    known = versions[versions["patient_id"].isin(set(patients))]
    if known["patient_id"].nunique() < MIN_PATIENTS:
        return None
    icc = feature_agreement(known).set_index("feature")["icc"]
    return icc.reindex(known.columns.drop(["scan_id", "patient_id", "version"]))


def intraclass_correlation(values: Floats) -> tuple[Floats, Floats, Floats]:
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
        upper_f, lower_f = stats.f.ppf(UPPER, n - 1, freedom), stats.f.ppf(UPPER, freedom, n - 1)
        rest = k * raters + (k * n - k - n) * error
        low = n * (between - upper_f * error) / (upper_f * rest + n * between)
        high = n * (lower_f * between - error) / (rest + n * lower_f * between)
    perfect = (error == 0) & (icc == 1)
    return icc, np.where(perfect, 1.0, low), np.where(perfect, 1.0, high)
