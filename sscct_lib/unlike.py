"""Whether a scan is like those that the models learned from: in its measures, its patient and its scanner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from sscct_lib.wording import in_words, unit_of

FAR = 0.99  # share of training scans that must lie nearer before a scan counts as far
MARGIN = 0.1  # how far outside the training range a value may lie, as a share of that range
FEWEST_SCANS = 30
MOST_NAMED = 3
PLAIN = {"age_years": "age", "fvc_percent": "FVC", "dlco_percent": "DLCO", "slice_thickness_mm": "slice thickness"}
UNITS = {"slice_thickness_mm": "mm"}
CATEGORIES = {"manufacturer": "scanners by", "kernel": "the kernel", "sex": "sex", "ssc_subtype": "the subtype"}


@dataclass(frozen=True)
class Likeness:
    """How like the training scans a scan is.

    Attributes
    ----------
    nearer
        Share of training scans that lie nearer to the others than this scan does to them, 0 to 1; NaN when it cannot be
        told.
    n_scans
        Training scans that were compared.
    findings
        What is unlike, in words; empty when nothing is.
    """

    nearer: float
    n_scans: int
    findings: tuple[str, ...]


def likeness(scan: Mapping[str, Any], training: pd.DataFrame) -> Likeness:
    """Hold a scan against the training scans.

    The measures of quantitative CT together give a Mahalanobis distance, with a shrunken covariance (Ledoit and Wolf);
    those of the training scans are computed out of fold, so that they are comparable with a scan never seen. Each
    measure, age, lung function and slice thickness is also held against its range, and scanner, kernel, sex and
    subtype against what the training scans have.

    Parameters
    ----------
    scan
        `qct_*` and clinical and scanner columns, as far as they are known.
    training
        The same columns of the training scans, with `fold`.

    Returns
    -------
    Likeness

    References
    ----------
    Ledoit O, Wolf M. A well-conditioned estimator for large-dimensional covariance matrices. J Multivar Anal
    2004;88:365-411. Lee K et al. A simple unified framework for detecting out-of-distribution samples. NeurIPS 2018
    (Mahalanobis distance for scans unlike the training data).
    """
    measures = [name for name in map(str, training) if name.startswith("qct_") and training[name].notna().all()]
    findings = [*_unseen(scan, training), *_outside(scan, training, [*PLAIN, *measures])]
    nearer = np.nan
    known = all(pd.notna(scan.get(name)) for name in measures)
    if measures and known and len(training) >= FEWEST_SCANS:
        values = training[measures].to_numpy(dtype=float)
        own = np.array([[float(scan[name]) for name in measures]])
        among = _out_of_fold(values, training["fold"].to_numpy())
        nearer = float(np.mean(among < _distances(values, own)[0]))
        if nearer >= FAR:
            findings.insert(0, f"its measures together lie farther out than those of {nearer:.0%} of the scans")
    return Likeness(nearer, len(training), tuple(findings))


def _distances(training: NDArray[np.float64], scans: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, sd = training.mean(axis=0), training.std(axis=0)
    varies = sd > 0
    scaled = (training[:, varies] - mean[varies]) / sd[varies]
    fitted = LedoitWolf(assume_centered=True).fit(scaled)
    found: NDArray[np.float64] = np.sqrt(fitted.mahalanobis((scans[:, varies] - mean[varies]) / sd[varies]))
    return found


def _out_of_fold(values: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    if len(np.unique(folds)) < 2:
        return _distances(values, values)
    distances = np.empty(len(values))
    for fold in np.unique(folds):
        tested = folds == fold
        distances[tested] = _distances(values[~tested], values[tested])
    return distances


def _outside(scan: Mapping[str, Any], training: pd.DataFrame, names: list[str]) -> list[str]:
    """Name values beyond the training range."""
    said = []
    for name in names:
        value = scan.get(name)
        if name not in training or pd.isna(value) or training[name].notna().sum() < FEWEST_SCANS:
            continue
        low, high = float(training[name].min()), float(training[name].max())
        margin = MARGIN * (high - low)
        if not low - margin <= float(value) <= high + margin:
            unit = UNITS.get(name) or unit_of(name)
            words = f"{PLAIN.get(name) or in_words(name)} {float(value):.3g} {unit}".strip()
            said.append(f"{words}, outside the {low:.3g} to {high:.3g} of the training scans")
    more = len(said) - MOST_NAMED
    return said[:MOST_NAMED] + ([f"{more} more measures outside their range"] if more > 0 else [])


def _unseen(scan: Mapping[str, Any], training: pd.DataFrame) -> list[str]:
    """Name categories that no training scan has."""
    said = []
    for name, words in CATEGORIES.items():
        value = scan.get(name)
        if name in training and pd.notna(value) and training[name].notna().any() and value not in set(training[name]):
            said.append(f"no training scan is of {words} {value}")
    return said
