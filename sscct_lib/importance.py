"""What a model would lose without a kind of feature, measured on patients that it has not seen."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.bootstrap import interval
from sscct_lib.horizons import cohort_outcome, not_estimable, study_resamples
from sscct_lib.metrics import horizon_auc
from sscct_lib.pipelines import design, prepared
from sscct_lib.study import Study
from sscct_lib.tabular import CrossValidation
from sscct_lib.wording import kind_in_words

# Of a fit: which scans it never saw, their columns as its model sees them, the kind of each column, the model, and the
# place of the horizon among its risks.
HeldOut = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.str_], Any, int]


def held_out_importance(
    result: CrossValidation, table: pd.DataFrame, model: str, horizon_years: float, study: Study, n_shuffles: int = 10
) -> pd.DataFrame:
    """Measure by how much the out-of-fold AUC falls when a kind of feature is shuffled among the tested scans.

    All columns of a kind are shuffled together, by whole scans, for features that say nearly the same cover for
    each other when only one of them is. What two kinds share, either can lose without harm: small losses do not
    add up to the loss of both. As in the predictions, the risks of a scan are averaged over the repeats.

    Parameters
    ----------
    result
        From `tabular.cross_validate`.
    table
        The scans that were cross-validated, from `feature_sets.join`.
    model
        Name of an elastic-net Cox model, that of its feature set.
    horizon_years
        Years after the scan.
    study
        The study: labels, bootstrap and seed.
    n_shuffles
        Shuffles over which the loss is averaged.

    Returns
    -------
    pandas.DataFrame
        One row a kind, the largest loss first: `kind` in words, `n_features`, `loss` of AUC, `ci_low`, `ci_high` (95 %,
        by bootstrap of patients), `n_scans`, `n_events`. Empty where the AUC cannot be estimated, or a scan
        has no risk.

    References
    ----------
    Breiman L. Random forests. Mach Learn 2001;45:5-32. Gregorutti B, Michel B, Saint-Pierre P. Grouped variable
    importance with random forests. Comput Stat Data Anal 2015;90:15-35.
    """
    columns = ["kind", "n_features", "loss", "ci_low", "ci_high", "n_scans", "n_events"]
    outcome = cohort_outcome(table, horizon_years, study_resamples(table, study.settings), study.settings.labels)
    tests = [
        _held_out(fitted, table, tested, horizon_years)
        for fitted, tested, _ in result.held_out(model)
        if horizon_years in fitted.horizons_years
    ]
    covered = np.sum([tested for tested, *_ in tests], axis=0)
    if not np.all(covered) or not_estimable(outcome):
        return pd.DataFrame(columns=columns)
    rng = np.random.default_rng(study.settings.seed)
    whole = horizon_auc(_out_of_fold(tests, "", rng), outcome)
    names = {name for fitted, *_ in result.held_out(model) for name in fitted.columns}
    seen = {kind for _, _, kinds, *_ in tests for kind in kinds}
    rows = []
    for kind, n_features in pd.Series([kind_in_words(name) for name in sorted(names)]).value_counts().items():
        shuffles = n_shuffles if kind in seen else 1  # of a kind that no model uses, one shuffle tells all
        shuffled = [horizon_auc(_out_of_fold(tests, str(kind), rng), outcome) for _ in range(shuffles)]
        loss = whole - np.mean(shuffled, axis=0)
        bounds = interval(loss, outcome.degrees_of_freedom)
        counts = int((outcome.died | outcome.alive).sum()), int(outcome.died.sum())
        rows.append((kind, n_features, float(loss[0]), bounds.low, bounds.high, *counts))
    return pd.DataFrame(rows, columns=columns).sort_values("loss", ascending=False, ignore_index=True)


def _held_out(fitted: Any, table: pd.DataFrame, tested: NDArray[np.bool_], horizon_years: float) -> HeldOut:
    columns = prepared(fitted.pipeline, design(table[tested], fitted.columns, fitted.harmonised))
    kinds = np.array([kind_in_words(str(name)) for name in columns])
    place = fitted.horizons_years.index(horizon_years)
    return tested, columns.to_numpy(), kinds, fitted.pipeline["model"], place


def _out_of_fold(tests: list[HeldOut], kind: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Predict each scan by the models that never saw it, after shuffling columns of a kind among the tested scans."""
    total, n_times = np.zeros(len(tests[0][0])), np.zeros(len(tests[0][0]))
    for tested, columns, kinds, model, place in tests:
        chosen = kinds == kind
        shuffled = columns.copy()
        shuffled[:, chosen] = columns[rng.permutation(len(columns))][:, chosen]
        total[tested] += model.predict(shuffled)[:, place]
        n_times[tested] += 1
    return np.asarray(total / n_times)
