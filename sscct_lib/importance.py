"""What a model would lose without a kind of feature, measured on patients that it has not seen."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib import elastic_net
from sscct_lib.bootstrap import interval
from sscct_lib.horizons import cohort_outcome, not_estimable, study_resamples
from sscct_lib.metrics import horizon_auc
from sscct_lib.study import Study
from sscct_lib.tabular import CrossValidation
from sscct_lib.wording import kind_in_words

# Of a fold: which scans it tests, their columns as its model sees them, the kind of each column, and the model.
Prepared = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.str_], Any]


def held_out_importance(
    result: CrossValidation, table: pd.DataFrame, model: str, horizon_years: float, study: Study, n_repeats: int = 10
) -> pd.DataFrame:
    """Measure by how much the out-of-fold AUC falls when a kind of feature is shuffled among the tested scans.

    All columns of a kind are shuffled together, by whole scans, for features that say nearly the same cover for
    each other when only one of them is. What two kinds share, either can lose without harm: small losses do not
    add up to the loss of both.

    Parameters
    ----------
    result
        From `tabular.cross_validate`.
    table
        The scans that were cross-validated, from `feature_sets.join`.
    model
        A name in `feature_sets.MODELS`.
    horizon_years
        Years after the scan.
    study
        The study: labels, bootstrap and seed.
    n_repeats
        Shuffles over which the loss is averaged.

    Returns
    -------
    pandas.DataFrame
        One row a kind, the largest loss first: `kind` in words, `n_features`, `loss` of AUC, `ci_low`, `ci_high` (95 %,
        by bootstrap of patients), `n_scans`, `n_events`. Empty where the AUC cannot be estimated, or a fold has no
        model.

    References
    ----------
    Breiman L. Random forests. Mach Learn 2001;45:5-32. Gregorutti B, Michel B, Saint-Pierre P. Grouped variable
    importance with random forests. Comput Stat Data Anal 2015;90:15-35.
    """
    columns = ["kind", "n_features", "loss", "ci_low", "ci_high", "n_scans", "n_events"]
    fits = {
        fold: fitted.pipeline
        for (name, horizon, fold), fitted in result.fits.items()
        if name == model and horizon == horizon_years
    }
    outcome = cohort_outcome(table, horizon_years, study_resamples(table, study.settings), study.settings.labels)
    if set(fits) != set(table["fold"]) or not_estimable(outcome):
        return pd.DataFrame(columns=columns)
    prepared = {
        fold: (
            (table["fold"] == fold).to_numpy(),
            pipeline["prepare"].transform(elastic_net.design(table[table["fold"] == fold], pipeline.feature_names_in_)),
            np.array([kind_in_words(name) for name in pipeline["prepare"].get_feature_names_out()]),
            pipeline["model"],
        )
        for fold, pipeline in fits.items()
    }
    rng = np.random.default_rng(study.settings.seed)
    whole = horizon_auc(_out_of_fold(prepared, len(table), None, rng), outcome)
    names = {str(name) for pipeline in fits.values() for name in pipeline.feature_names_in_}
    rows = []
    for kind, n_features in pd.Series([kind_in_words(name) for name in sorted(names)]).value_counts().items():
        shuffled = [horizon_auc(_out_of_fold(prepared, len(table), kind, rng), outcome) for _ in range(n_repeats)]
        loss = whole - np.mean(shuffled, axis=0)
        bounds = interval(loss, outcome.degrees_of_freedom)
        counts = int((outcome.died | outcome.alive).sum()), int(outcome.died.sum())
        rows.append((kind, n_features, float(loss[0]), bounds.low, bounds.high, *counts))
    return pd.DataFrame(rows, columns=columns).sort_values("loss", ascending=False, ignore_index=True)


def _out_of_fold(
    prepared: dict[int, Prepared], n_scans: int, kind: Hashable | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Predict each scan by the model of its fold, after shuffling columns of a kind among the fold's scans."""
    risk = np.full(n_scans, np.nan)
    for tested, columns, kinds, model in prepared.values():
        chosen = kinds == kind
        shuffled = columns.copy()
        shuffled[:, chosen] = columns[rng.permutation(len(columns))][:, chosen]
        risk[tested] = model.predict_proba(shuffled)[:, 1]
    return risk
