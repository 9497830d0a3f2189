"""Elastic-net logistic regression of death within a horizon, with censored scans weighted, tuned by patient."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from sscct_lib.cohort import censoring_weights, label_name
from sscct_lib.study import Study
from sscct_lib.tables import SEXES, SUBTYPES

CLINICAL_NUMBERS = ["age_years", "fvc_percent", "dlco_percent"]
CLINICAL_CATEGORIES = {"sex": SEXES, "ssc_subtype": SUBTYPES}
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # per unit of weight; the strongest first
L1_RATIOS = (0.1, 0.5)


class NotEstimableError(ValueError):
    """A model cannot be fitted on these patients; the message says why."""


@dataclass(frozen=True)
class Fit:
    """A fitted model of one horizon.

    Attributes
    ----------
    pipeline
        Imputation, scaling and logistic regression; `predict_proba` gives the risk in its second column.
    penalty, l1_ratio
        The regularisation that tuning chose: the objective is the weighted mean log loss plus `penalty` times
        the elastic net.
    n_scans, n_patients, n_events, n_unknown
        Scans of known state on which it was fitted, their patients, deaths among them, and scans that were left
        out because their state is unknown.
    note
        What a reader must know of this fit; empty when nothing.
    """

    pipeline: Pipeline
    penalty: float
    l1_ratio: float
    n_scans: int
    n_patients: int
    n_events: int
    n_unknown: int
    note: str


def design(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Take a model's columns in the types that its pipeline expects.

    Parameters
    ----------
    table
        Columns of features; one that is absent counts as missing.
    columns
        The model's columns.

    Returns
    -------
    pandas.DataFrame
        Numbers as float, categories as objects with NaN for missing.
    """
    frame = table.reindex(columns=list(columns))
    kinds = {name: object if name in CLINICAL_CATEGORIES else float for name in columns}
    frame = frame.astype(kinds)
    return frame.where(frame.notna(), np.nan)


def make_model(columns: Sequence[str], seed: int) -> Pipeline:
    """Build the pipeline of one horizon, not yet fitted.

    Missing numbers become the median and a column says so; missing categories are a category of their own. A
    value beyond the range of the training scans counts as the end of that range, so that an unusual scan is not
    extrapolated. Everything is learned from the scans given to `fit`.

    Parameters
    ----------
    columns
        The model's columns.
    seed
        Of the solver.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Steps `prepare` and `model`.
    """
    # Rates of change are missing together, where there is no earlier scan; `change_years` says so for all.
    rates = [name for name in columns if name.startswith("change_") and name != "change_years"]
    numbers = [name for name in columns if name not in CLINICAL_CATEGORIES and name not in rates]
    categories = [name for name in columns if name in CLINICAL_CATEGORIES]
    scale = make_pipeline(MinMaxScaler(clip=True), StandardScaler())
    encode = OneHotEncoder(
        categories=[[*CLINICAL_CATEGORIES[name], "missing"] for name in categories],
        handle_unknown="ignore",
        sparse_output=False,
    )
    prepare = ColumnTransformer(
        [
            ("numbers", make_pipeline(_median(add_indicator=True), scale), numbers),
            ("rates", make_pipeline(_median(add_indicator=False), scale), rates),
            (
                "categories",
                make_pipeline(SimpleImputer(strategy="constant", fill_value="missing"), encode, StandardScaler()),
                categories,
            ),
        ],
        verbose_feature_names_out=False,
    )
    logistic = LogisticRegression(solver="saga", max_iter=3000, tol=1e-3, warm_start=True, random_state=seed)
    return Pipeline([("prepare", prepare), ("model", logistic)])


def _median(add_indicator: bool) -> SimpleImputer:
    return SimpleImputer(strategy="median", add_indicator=add_indicator, keep_empty_features=True)


def known_outcomes(
    table: pd.DataFrame, horizon_years: float, labels: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give each scan its outcome at a horizon, and the weight with which it counts.

    Parameters
    ----------
    table
        Training scans, with the columns of schema `COHORT`. The weights rest on their follow-up alone.
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
    label = table[label_name(horizon_years)]
    died = label.fillna(0).to_numpy(dtype=np.int64)
    if labels == "as_published":
        return died, np.ones(len(table))
    followup = table["followup_years"].to_numpy(dtype=float)
    event = table["event_observed"].to_numpy(dtype=bool)
    return died, np.where(label.notna(), censoring_weights(followup, event, horizon_years), 0.0)


def fit(table: pd.DataFrame, columns: Sequence[str], horizon_years: float, study: Study) -> Fit:
    """Tune and fit a model of one horizon.

    Every scan counts with its censoring weight, whoever's it is: the model speaks of scans as they come, as its
    evaluation does. Patients with many scans do not leak, for they are tuned and tested as a whole.

    Parameters
    ----------
    table
        Training scans: the columns of schema `COHORT` and the features.
    columns
        The features that the model sees.
    horizon_years
        Years after the scan.
    study
        The study: labels, inner folds and seed.

    Returns
    -------
    Fit
        Fitted on all scans of known state.

    Raises
    ------
    NotEstimableError
        If there is no death, or no survivor, among scans of known state.

    References
    ----------
    Zou H, Hastie T. Regularization and variable selection via the elastic net. J R Stat Soc B 2005;67:301-20.
    Vock DM, et al. Adapting machine learning techniques to censored time-to-event health record data: a
    general-purpose approach using inverse probability of censoring weighting. J Biomed Inform 2016;61:119-31.
    """
    died, weight = known_outcomes(table, horizon_years, study.settings.labels)
    known = weight > 0
    table, died, weight = table[known], died[known], weight[known]
    for state, word in ((1, "died within"), (0, "is known to be alive after")):
        if not (died == state).any():
            raise NotEstimableError(f"no training scan {word} {horizon_years:g} years")
    patients = table["patient_id"].to_numpy()
    data, pipeline = design(table, columns), make_model(columns, study.settings.seed)
    (penalty, l1_ratio), note = _tune(data, died, weight, patients, pipeline, study)
    _set_penalty(pipeline["model"], penalty, l1_ratio, weight)
    pipeline["model"].set_params(max_iter=20_000, warm_start=False)
    pipeline.fit(data, died, model__sample_weight=weight)
    return Fit(
        pipeline,
        penalty,
        l1_ratio,
        len(table),
        len(set(patients)),
        int(died.sum()),
        int((~known).sum()),
        note,
    )


def _set_penalty(model: LogisticRegression, penalty: float, l1_ratio: float, weight: NDArray[np.float64]) -> None:
    # scikit-learn's C multiplies the sum of losses; dividing by the weight makes the penalty the same for any n.
    model.set_params(C=1 / (penalty * weight.sum()), l1_ratio=l1_ratio)


def _tune(
    data: pd.DataFrame,
    died: NDArray[np.int64],
    weight: NDArray[np.float64],
    patients: NDArray[Any],
    pipeline: Pipeline,
    study: Study,
) -> tuple[tuple[float, float], str]:
    """Choose penalty and l1 ratio by the log loss on held-out training patients."""
    fewest = min(len(set(patients[died == state])) for state in (0, 1))
    n_folds = min(study.settings.tabular.n_inner_folds, fewest)
    losses: dict[tuple[float, float], float] = {}
    splits = (
        StratifiedGroupKFold(n_folds, shuffle=True, random_state=study.settings.seed).split(data, died, patients)
        if n_folds >= 2
        else []
    )
    for train, test in splits:
        if len(set(died[train])) == 2:
            for chosen, loss in _losses(data, died, weight, train, test, pipeline).items():
                losses[chosen] = losses.get(chosen, 0.0) + loss
    if not losses:
        return (PENALTIES[0], L1_RATIOS[0]), "too few patients to tune: the strongest penalty was used"
    return min(losses, key=lambda chosen: losses[chosen]), ""


def _losses(
    data: pd.DataFrame,
    died: NDArray[np.int64],
    weight: NDArray[np.float64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    pipeline: Pipeline,
) -> dict[tuple[float, float], float]:
    # A fresh copy: a warm start from other patients' fit may have other columns.
    prepare, model = clone(pipeline["prepare"]), clone(pipeline["model"])
    known = prepare.fit_transform(data.iloc[train])
    held_out = prepare.transform(data.iloc[test])
    losses = {}
    for l1_ratio in L1_RATIOS:
        for penalty in PENALTIES:
            _set_penalty(model, penalty, l1_ratio, weight[train])
            with warnings.catch_warnings():
                # A weak penalty that has not quite converged is judged by its risks like the others.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(known, died[train], sample_weight=weight[train])
            risk = model.predict_proba(held_out)[:, 1]
            loss = log_loss(died[test], risk, sample_weight=weight[test], normalize=False, labels=[0, 1])
            losses[penalty, l1_ratio] = float(loss)
    return losses
