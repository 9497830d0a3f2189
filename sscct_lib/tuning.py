"""One model tuned and fitted: inner folds by patient, weights for censoring and for repeat scans."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline

from sscct_lib.agreement import MIN_PATIENTS, feature_agreement
from sscct_lib.cohort import patient_weights
from sscct_lib.feature_sets import NotEstimableError
from sscct_lib.pipelines import design, make_estimator, make_pipeline_of
from sscct_lib.risk_models import known_outcomes, survival_outcome
from sscct_lib.study import Study
from sscct_lib.wording import years_text

Floats = NDArray[np.float64]
LEAST_RISK = 1e-4  # a risk of 0 or 1 would make one surprise count without limit
FEWEST_PATIENTS = 2  # who died, and who lived, behind a horizon; a model of one patient is that patient's portrait


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes
    ----------
    pipeline
        Fitted; `predict` gives risks, one column each of `horizons_years`.
    horizons_years
        The horizons at which it can be estimated, years.
    columns
        The features that it was given.
    harmonised
        Whether it begins with ComBat.
    chosen
        The settings that tuning chose.
    counts
        Of each horizon: training scans of known state and their patients, deaths among these scans, scans of unknown
        state (`n_scans`, `n_patients`, `n_events`, `n_unknown`).
    notes
        By horizon, what a reader must know; a horizon that is not in `horizons_years` says why.
    """

    pipeline: Pipeline
    horizons_years: tuple[float, ...]
    columns: list[str]
    harmonised: bool
    chosen: dict[str, Any]
    counts: dict[float, dict[str, int]]
    notes: dict[float, str] = field(default_factory=dict)

    def risks(self, table: pd.DataFrame) -> Floats:
        """Give the risk of each scan at each of `horizons_years`, shape (n, n_horizons)."""
        return np.asarray(self.pipeline.predict(design(table, self.columns, self.harmonised)))


def training_agreement(versions: pd.DataFrame | None, patients: "pd.Series[str]") -> "pd.Series[float] | None":
    """Tell how well features agree between versions of the training patients' scans.

    Parameters
    ----------
    versions
        From `stability.versions_of_scans`, of any patients; None: not known.
    patients
        The training patients; no other is looked at.

    Returns
    -------
    pandas.Series or None
        ICC by feature, NaN where some scan lacks the feature. None where fewer than ten training patients have
        versions: agreement would be a guess.
    """
    if versions is None or versions.empty:
        return None
    known = versions[versions["patient_id"].isin(set(patients))]
    if known["patient_id"].nunique() < MIN_PATIENTS:
        return None
    icc = feature_agreement(known).set_index("feature")["icc"]
    return icc.reindex(known.columns.drop(["scan_id", "patient_id", "version"]))


def fit(
    table: pd.DataFrame,
    columns: Sequence[str],
    estimator: str,
    study: Study,
    agreement: "pd.Series[float] | None" = None,
    harmonised: bool = False,
) -> Fit:
    """Tune and fit a model.

    Parameters
    ----------
    table
        Training scans: the columns of schema `COHORT` and the features.
    columns
        The features that the model sees.
    estimator
        Name of the estimator, see `pipelines.make_estimator`.
    study
        The study: horizons, labels, inner folds and seed.
    agreement
        From `training_agreement`.
    harmonised
        Whether the pipeline begins with ComBat.

    Returns
    -------
    Fit
        The settings with the least log loss on held-out training patients, fitted on all scans given.

    Raises
    ------
    NotEstimableError
        If no horizon has patients who died within it and patients known to live beyond it, or no feature is usable.
    """
    settings = study.settings
    outcome = survival_outcome(table["followup_years"].to_numpy(float), table["event_observed"].to_numpy(bool))
    states = {horizon: known_outcomes(outcome, horizon, settings.labels) for horizon in settings.horizons_years}
    patients = table["patient_id"]
    notes = {horizon: _why_not(*states[horizon], patients, horizon) for horizon in states}
    horizons = tuple(horizon for horizon in states if not notes[horizon])
    if not horizons:
        raise NotEstimableError("; ".join(notes.values()))
    pipeline = make_pipeline_of(columns, make_estimator(estimator, horizons, settings), settings, harmonised)
    data, weight = design(table, columns, harmonised), patient_weights(patients)
    chosen, note = _tune(
        data, outcome, weight, patients, [states[each] for each in horizons], pipeline, agreement, study
    )
    pipeline["model"].set_params(**chosen)
    pipeline.fit(data, outcome, stable__agreement=agreement, model__sample_weight=weight)
    return Fit(
        pipeline, horizons, list(columns), harmonised, chosen,
        {horizon: _counts(*states[horizon], patients) for horizon in states},
        notes | (dict.fromkeys(horizons, note) if note else {}),
    )  # fmt: skip


def _why_not(died: NDArray[np.int64], weight: Floats, patients: "pd.Series[str]", horizon: float) -> str:
    for state, words in ((1, "died within"), (0, "is known to be alive after")):
        n_patients = patients[(weight > 0) & (died == state)].nunique()
        if n_patients < FEWEST_PATIENTS:
            found = "no training patient" if n_patients == 0 else f"only {n_patients} training patient"
            return f"{found} {words} {years_text(horizon)}"
    return ""


def _counts(died: NDArray[np.int64], weight: Floats, patients: "pd.Series[str]") -> dict[str, int]:
    known = weight > 0
    return {
        "n_scans": int(known.sum()),
        "n_patients": int(patients[known].nunique()),
        "n_events": int(died[known].sum()),
        "n_unknown": int((~known).sum()),
    }


def _tune(
    data: pd.DataFrame,
    outcome: NDArray[np.void],
    weight: Floats,
    patients: "pd.Series[str]",
    states: list[tuple[NDArray[np.int64], Floats]],
    pipeline: Pipeline,
    agreement: "pd.Series[float] | None",
    study: Study,
) -> tuple[dict[str, Any], str]:
    """Choose an estimator's settings by the log loss on held-out training patients, summed over horizons.

    An estimator of separate horizons is tuned at each.
    """
    ever = states[-1][0].astype(bool)
    ever = pd.Series(ever).groupby(patients.to_numpy()).transform("any").to_numpy()
    fewest = min(patients[ever].nunique(), patients[~ever].nunique())
    n_folds = min(study.settings.tabular.n_inner_folds, fewest)
    if n_folds < 2:
        return {}, "too few patients to tune: the plainest settings were used"
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=study.settings.seed)
    tried: list[dict[str, Any]] = []
    losses: Any = 0.0
    for train, test in splitter.split(data, ever, patients):
        steps = clone(pipeline[:-1])
        known = steps.fit_transform(data.iloc[train], outcome[train], stable__agreement=agreement)
        held_out = steps.transform(data.iloc[test])
        results = list(pipeline["model"].tuning_risks(known, outcome[train], weight[train], held_out))
        tried = [settings for settings, _ in results]
        losses = losses + np.array(
            [[_log_loss(risk[:, i], *state, weight, test) for i, state in enumerate(states)] for _, risk in results]
        )
    if pipeline["model"].per_horizon:
        best = [tried[i] for i in losses.argmin(axis=0)]
        return {name: tuple(settings[name] for settings in best) for name in best[0]}, ""
    return tried[int(losses.sum(axis=1).argmin())], ""


def _log_loss(
    risk: Floats, died: NDArray[np.int64], censoring: Floats, weight: Floats, rows: NDArray[np.int64]
) -> float:
    risk = np.clip(risk, LEAST_RISK, 1 - LEAST_RISK)
    loss = np.where(died[rows] == 1, -np.log(risk), -np.log1p(-risk))
    return float((censoring * weight)[rows] @ loss)
