"""Risks put right by what happened to the patients of the other folds."""

import numpy as np
import pandas as pd

from sscct_lib.bootstrap import Floats, Outcome
from sscct_lib.calibration import calibration_line, logit
from sscct_lib.horizons import aligned_risk, check_predictions, cohort_outcome, not_estimable, study_resamples
from sscct_lib.schemas import PREDICTIONS
from sscct_lib.study import Settings
from sscct_lib.summary import side_by_side


def recalibrated(predictions: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Shift and stretch the logit of every risk as the other folds ask for.

    For each model, horizon and fold a logistic line of death on the logit of the risk, weighted for censoring, is
    learned from the scans of all other folds, and applied to the fold. A patient's own outcome never enters. Where the
    line falls, or has no finite solution, only its shift is used. Risks of a scan are then made to rise with the
    horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    settings
        Of the study: horizons and labels.

    Returns
    -------
    pandas.DataFrame
        Schema `PREDICTIONS`, the same models and scans; `risk_sd` is empty.

    References
    ----------
    Steyerberg EW. Clinical prediction models. Springer 2019, ch. 20 (logistic recalibration). Cox DR. Two further
    applications of a model for binary regression. Biometrika 1958;45:562-5.
    """
    valid = check_predictions(predictions, cohort)
    alone = study_resamples(cohort, settings).study_only()
    fold = cohort["fold"].to_numpy()
    frames = []
    for model in dict.fromkeys(valid["model"]):
        so_far = np.zeros(len(cohort))
        for horizon in settings.horizons_years:
            risk = aligned_risk(valid, cohort, model, horizon)
            judged = np.isfinite(risk)
            moved = risk.copy()
            for tested in np.unique(fold[judged]):
                learn = judged & (fold != tested)
                outcome = cohort_outcome(cohort[learn], horizon, alone.of(learn), settings.labels)
                here = judged & (fold == tested)
                moved[here] = _moved(risk[here], risk[learn], outcome)
            moved = np.fmax(moved, so_far)
            so_far = np.fmax(so_far, moved)
            columns = {"model": model, "horizon_years": horizon, "risk": moved[judged], "risk_sd": np.nan}
            frames.append(cohort.loc[judged, ["scan_id", "patient_id", "fold"]].assign(**columns))
    return PREDICTIONS.validate(pd.concat(frames, ignore_index=True)[list(PREDICTIONS.columns)])


def beside_recalibrated(performance: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Put slope, observed over expected deaths and Brier score at the longest horizon beside those after recalibration.

    Parameters
    ----------
    performance, after
        Schema `PERFORMANCE`, of the risks as predicted and as put right.

    Returns
    -------
    pandas.DataFrame
        Estimates with intervals as text: a row a model, two columns a metric.
    """
    metrics = {
        "calibration_slope": ("slope", 2),
        "observed_expected": ("observed / expected", 2),
        "brier": ("Brier", 3),
    }
    columns = {}
    for metric, (words, decimals) in metrics.items():
        for when, table in (("as predicted", performance), ("put right", after)):
            columns[(words, when)] = side_by_side(table, metric, decimals).iloc[:, -1]
    return pd.DataFrame(columns)


def _moved(risk: Floats, learned_on: Floats, outcome: Outcome) -> Floats:
    if not_estimable(outcome):
        return risk
    intercept, slope = (float(values[0]) for values in calibration_line(learned_on, outcome))
    if not slope > 0:
        shift = float(calibration_line(learned_on, outcome, fixed_slope=True)[0][0])
        intercept, slope = (shift if np.isfinite(shift) else 0.0), 1.0
    return np.asarray(1 / (1 + np.exp(-(intercept + slope * logit(risk)))))
