"""ComBat: features brought to one scale over scanners and kernels, learned from the training scans alone.

`ComBat` is the first step of a pipeline. The batch is a column of the table, like the features, and every column is
handed on, so that later steps choose by name what the model sees. What is learned in `fit` rests on the rows given to
it: any cross-validation by patient keeps it in the training folds.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

OUTCOME = ("event_observed", "followup_years", "cause_of_death", "transplanted", "label_")  # beginnings of names
BATCH, PATIENT = "scanner", "patient_id"  # columns; the second is needed in `fit` alone
TOLERANCE = 1e-10
MAX_ROUNDS = 1000
Floats = NDArray[np.float64]


class ComBat(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Shift and scale the features of each batch to the mean and spread of all, beyond what preserved columns explain.

    Shift and scale are drawn towards their mean over the features of the batch (empirical Bayes), so that a small batch
    is not over-corrected. A patient's scans are not independent: in each batch every patient counts once, shared among
    the scans there. The outcome is never looked at.

    Johnson WE, Li C, Rabinovic A. Adjusting batch effects in microarray expression data using empirical Bayes methods.
    Biostatistics 2007;8:118-27. With preserved columns: Fortin JP, et al. Harmonization of cortical thickness
    measurements across scanners and sites. NeuroImage 2018;167:104-20.
    """

    centre_: Floats  # of the preserved columns, and their spread
    unit_: Floats

    def __init__(self, features: Sequence[str], preserve: Sequence[str] = (), min_patients: int = 5) -> None:
        self.features = features  # missing values stay missing and are left out of the estimates
        # Numbers, or categories such as sex. One that tells of the disease, such as lung function, keeps disease from
        # being taken for the scanner where the two go together. A missing value counts as the mean.
        self.preserve = preserve
        self.min_patients = min_patients  # a batch of fewer is not estimated

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: N803  scikit-learn's own name
        """Estimate shift and scale of each batch from rows of features, batch, patient and preserved columns."""
        outcome = [name for name in self.preserve if name.startswith(OUTCOME)]
        if outcome:
            raise ValueError(f"the outcome must not steer the features; leave {', '.join(outcome)} out of `preserve`")
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        patients = X.groupby(BATCH)[PATIENT].nunique()
        self.batches_ = [str(name) for name in patients.index[patients >= self.min_patients]]
        if len(self.batches_) < 2:  # nothing to compare: `transform` changes nothing
            self.batches_ = []
            return self
        table = X[X[BATCH].isin(self.batches_)]
        self._learn_covariates(table)
        weights = 1.0 / table.groupby([BATCH, PATIENT])[PATIENT].transform("size").to_numpy(dtype=float)
        values, covariates = table[list(self.features)].to_numpy(dtype=float), self._covariates(table)
        member = (table[BATCH].to_numpy()[:, None] == self.batches_).astype(float)
        self._estimate(values, member, covariates, weights)
        return self

    def _estimate(self, values: Floats, member: Floats, covariates: Floats, weights: Floats) -> None:
        known = np.isfinite(values)
        counts = (member * weights[:, None]).T @ known
        design = np.hstack([member, covariates])
        slopes = _least_squares(design, values, weights)
        n_batches = member.shape[1]
        total = np.maximum(counts.sum(axis=0), 1e-300)
        self.mean_ = (counts * slopes[:n_batches]).sum(axis=0) / total
        self.slopes_ = slopes[n_batches:]
        rest = np.where(known, values - design @ slopes, 0.0)
        spread = np.sqrt(weights @ rest**2 / total)
        # What rounding leaves of a feature that is the same in all scans of a batch is no spread.
        self.scale_ = np.where(spread > 1e-9 * np.abs(self.mean_), spread, 1.0)
        standard = (values - self.mean_ - covariates @ self.slopes_) / self.scale_
        # Both of shape (n_batches, n_features), in standard deviations.
        posterior = [_shrunken(standard, weights * inside) for inside in member.T]
        self.gamma_, self.delta_ = (np.array(part) for part in zip(*posterior, strict=True))

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """Harmonise each scan by its batch; other columns, and rows that `unharmonised` flags, stay as they are."""
        check_is_fitted(self, "batches_")
        if not self.batches_:
            return X
        names = list(self.features)
        values = X[names].to_numpy(dtype=float, copy=True)
        expected = self.mean_ + self._covariates(X) @ self.slopes_
        for batch, gamma, delta in zip(self.batches_, self.gamma_, self.delta_, strict=True):
            rows = (X[BATCH] == batch).to_numpy()
            standard = (values[rows] - expected[rows]) / self.scale_
            values[rows] = (standard - gamma) / np.sqrt(delta) * self.scale_ + expected[rows]
        harmonised = X.copy()
        harmonised[names] = values
        return harmonised

    def unharmonised(self, X: pd.DataFrame) -> NDArray[np.bool_]:  # noqa: N803
        """Flag scans (n,) that pass as they are: their batch is unknown, unseen in `fit`, or was too small there."""
        check_is_fitted(self, "batches_")
        return ~X[BATCH].isin(self.batches_).to_numpy()

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The columns that `transform` returns: those of its input."""
        return self.feature_names_in_

    def _learn_covariates(self, table: pd.DataFrame) -> None:
        numbers = [name for name in self.preserve if pd.api.types.is_numeric_dtype(table[name])]
        # One level is left out, for the batches already add up to 1.
        self.levels_ = {
            name: sorted(str(level) for level in table[name].dropna().unique())[1:]
            for name in self.preserve
            if name not in numbers
        }
        raw = self._raw_covariates(table)
        known = np.isfinite(raw)
        self.centre_ = np.where(known, raw, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        spread = np.sqrt(np.where(known, (raw - self.centre_) ** 2, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
        self.unit_ = np.where(spread > 0, spread, 1.0)

    def _raw_covariates(self, table: pd.DataFrame) -> Floats:
        columns = []
        for name in self.preserve:
            if name not in self.levels_:
                columns.append(table[name].to_numpy(dtype=float))
                continue
            missing = table[name].isna().to_numpy()
            columns += [np.where(missing, np.nan, table[name].astype(str) == level) for level in self.levels_[name]]
        return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0))

    def _covariates(self, table: pd.DataFrame) -> Floats:
        return np.nan_to_num((self._raw_covariates(table) - self.centre_) / self.unit_)


def _least_squares(design: Floats, values: Floats, weights: Floats) -> Floats:
    """Fit each column of values by weighted least squares, over the rows that have it; shape (n_terms, n_columns)."""
    slopes = np.zeros((design.shape[1], values.shape[1]))
    patterns, pattern_of = np.unique(np.isfinite(values), axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        columns = pattern_of == number
        root = np.sqrt(weights[rows])[:, None]
        if rows.any():
            slopes[:, columns] = np.linalg.lstsq(design[rows] * root, values[np.ix_(rows, columns)] * root)[0]
    return slopes


def _shrunken(standard: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Shift and squared scale of one batch, each (n_features,): posterior means, Johnson's equations 3 to 5."""
    known = np.isfinite(standard) & (weights > 0)[:, None]
    weights = known * weights[:, None]
    n = weights.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = (weights * np.where(known, standard, 0.0)).sum(axis=0) / n
        square = (weights * np.where(known, standard - shift, 0.0) ** 2).sum(axis=0) / (n - 1)
    # A feature that fewer than two patients have is left alone; one without spread in the batch is shifted only.
    gamma, delta = np.where(n >= 2, shift, 0.0), np.ones(len(n))
    usable = (n >= 2) & (square > 1e-12)
    n, shift, square = n[usable], shift[usable], square[usable]
    if len(n) < 2 or shift.var() == 0 or square.var() == 0:
        delta[usable] = square  # nothing to learn from other features
        return gamma, delta
    centre, width = shift.mean(), shift.var(ddof=1)
    mean, variance = square.mean(), square.var(ddof=1)
    shape, rate = mean**2 / variance + 2, mean**3 / variance + mean
    new_shift, new_square = shift, square
    for _ in range(MAX_ROUNDS):
        old_shift, old_square = new_shift, new_square
        new_shift = (width * n * shift + old_square * centre) / (width * n + old_square)
        deviation = (n - 1) * square + n * (shift - new_shift) ** 2
        new_square = (deviation / 2 + rate) / (n / 2 + shape - 1)
        if max(np.abs(new_shift - old_shift).max(), np.abs(new_square / old_square - 1).max()) < TOLERANCE:
            break
    gamma[usable], delta[usable] = new_shift, new_square
    return gamma, delta
