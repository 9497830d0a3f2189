"""Models against each other on the same scans and resamples, and against the true risk that a simulation knows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from sscct_lib.horizons.bootstrap import (
    Floats,
    Outcome,
    interval,
    percentile_interval,
)
from sscct_lib.horizons.evaluate import (
    aligned_risk,
    check_predictions,
    cohort_outcome,
    not_estimable,
    study_resamples,
)
from sscct_lib.horizons.metrics import METRICS, horizon_auc
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Settings

TRUE_RISK = "True risk (unknowable)"


def differences(
    predictions: pd.DataFrame,
    cohort: pd.DataFrame,
    reference: str,
    settings: Settings,
    metrics: tuple[str, ...] = ("auc", "brier"),
) -> pd.DataFrame:
    """Compare every model with a reference model on the scans that both predicted, in the same bootstrap samples.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    reference
        Name of the model that the others are compared with.
    settings
        Of the study: horizons, labels, number of bootstrap samples and seed.
    metrics
        Names in `metrics.METRICS`.

    Returns
    -------
    pandas.DataFrame
        One row a metric, horizon and model: `difference` (model minus reference) with `ci_low` and `ci_high`
        (95 %), `p` (two-sided, of the same t statistic), `p_holm` (over all rows of the metric),
        `n_scans`, `n_patients`, `n_events`, `n_unknown`.

    Raises
    ------
    StudyError
        If the reference has no predictions; see also `horizons.check_predictions`.

    References
    ----------
    Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65-70.
    """
    valid = check_predictions(predictions, cohort)
    names = list(dict.fromkeys(valid["model"]))
    if reference not in names:
        raise StudyError(f"No model named {reference!r} to compare with; there are {', '.join(names)}.")
    rows = []
    for where, outcome, risk, known in _paired(valid, cohort, reference, settings):
        for metric in metrics:
            samples = np.full(len(outcome.counts), np.nan)
            if not not_estimable(outcome):
                samples = METRICS[metric].measure(risk, outcome) - METRICS[metric].measure(known, outcome)
            low, high, _ = interval(samples, outcome.degrees_of_freedom)
            p = two_sided_p(samples, outcome.degrees_of_freedom)
            rows.append({"metric": metric, **where, "difference": samples[0], "ci_low": low, "ci_high": high, "p": p})
    order = ["metric", "model", "horizon_years", "difference", "ci_low", "ci_high", "p"]
    table = pd.DataFrame(rows, columns=[*order, "n_scans", "n_patients", "n_events", "n_unknown"])
    table.insert(len(order), "p_holm", table.groupby("metric")["p"].transform(holm))
    return table.sort_values(["metric", "horizon_years"], kind="stable", ignore_index=True)


def _paired(
    valid: pd.DataFrame, cohort: pd.DataFrame, reference: str, settings: Settings
) -> Iterator[tuple[dict[str, Any], Outcome, Floats, Floats]]:
    """Give, for each horizon and model, counts, outcome and both risks of the scans that both predicted."""
    resamples = study_resamples(cohort, settings)
    outcomes: dict[tuple[float, bytes], Outcome] = {}
    for horizon in settings.horizons_years:
        known = aligned_risk(valid, cohort, reference, horizon)
        for model in dict.fromkeys(valid["model"]):
            if model == reference:
                continue
            risk = aligned_risk(valid, cohort, model, horizon)
            both = np.isfinite(risk) & np.isfinite(known)
            key = (horizon, both.tobytes())
            if key not in outcomes:
                outcomes[key] = cohort_outcome(cohort[both], horizon, resamples.of(both), settings.labels)
            outcome = outcomes[key]
            where = {
                "model": model, "horizon_years": horizon,
                "n_scans": int(both.sum()), "n_patients": cohort["patient_id"][both].nunique(),
                "n_events": int(outcome.died.sum()), "n_unknown": int(outcome.unknown.sum()),
            }  # fmt: skip
            yield where, outcome, risk[both], known[both]


def attained(predictions: pd.DataFrame, truth: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Tell how much of what could be told each model tells: its distance from chance over that of the true risk.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    truth
        From `true_risks`, with rows.
    cohort
        Schema `COHORT`.
    settings
        Of the study: horizons, labels, number of bootstrap samples and seed.

    Returns
    -------
    pandas.DataFrame
        One row a horizon and model, as in a table of performance: `metric` is `attained`, `estimate` is
        `(AUC - 0.5) / (AUC of the true risk - 0.5)` on the same scans, with `ci_low` and `ci_high` (95 %, percentiles
        over the same resampled patients for both).
    """
    both = check_predictions(pd.concat([predictions, truth], ignore_index=True), cohort)
    rows = []
    for where, outcome, risk, true_risk in _paired(both, cohort, TRUE_RISK, settings):
        share = np.full(len(outcome.counts), np.nan)
        if not not_estimable(outcome):
            ceiling = horizon_auc(true_risk, outcome) - 0.5
            share = np.divide(horizon_auc(risk, outcome) - 0.5, ceiling, out=share, where=ceiling > 0)
        low, high = percentile_interval(share)
        rows.append({"metric": "attained", **where, "estimate": share[0], "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def two_sided_p(samples: Floats, degrees_of_freedom: float) -> float:
    """Two-sided p value of "no difference": the level at which `bootstrap.interval` just reaches 0.

    Parameters
    ----------
    samples
        The difference in row 0 and its resamples, shape (n_samples + 1,).
    degrees_of_freedom
        As for the interval.

    Returns
    -------
    float
        NaN where `bootstrap.interval` gives none.
    """
    if not np.isfinite(interval(samples, degrees_of_freedom).low):
        return np.nan
    spread = np.nanstd(samples[1:])
    return float(2 * student_t.sf(abs(samples[0]) / spread, degrees_of_freedom))


def holm(p: pd.Series) -> pd.Series:
    """Correct p values for their number, by Holm's step-down method.

    Parameters
    ----------
    p
        p values; missing ones are not counted.

    Returns
    -------
    pandas.Series
        Corrected values with the same index.
    """
    ordered = p.dropna().sort_values()
    factors = np.arange(len(ordered), 0, -1)
    return (ordered * factors).cummax().clip(upper=1).reindex(p.index)


def reference_model(predictions: pd.DataFrame, settings: Settings) -> str:
    """Name the model to compare with: the study's reference, or the first model when that made no predictions.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    settings
        Of the study; `horizons.reference` names it.

    Returns
    -------
    str
    """
    names = predictions["model"].unique()
    return settings.horizons.reference if settings.horizons.reference in names else str(names[0])


def true_risks(study: Study, cohort: pd.DataFrame) -> pd.DataFrame:
    """Read the risks with which the patients of a simulated study really died; no model can do better.

    Parameters
    ----------
    study
        The study and run; a simulated one has `truth/truth.csv`.
    cohort
        Schema `COHORT`.

    Returns
    -------
    pandas.DataFrame
        Schema `PREDICTIONS`, under the model name `TRUE_RISK`; no rows for a study of real patients.

    Raises
    ------
    StudyError
        If the file lacks a scan of the cohort.
    """
    path = study.folder / "truth" / "truth.csv"
    none = pd.DataFrame(columns=list(PREDICTIONS.columns))
    if not path.is_file():
        return none
    truth = pd.read_csv(path).set_index("scan_id")
    missing = cohort.loc[~cohort["scan_id"].isin(truth.index), "scan_id"]
    if len(missing):
        raise StudyError(f"{path} lacks {len(missing)} scan(s) of the cohort, for example {missing.iloc[0]}.")
    frames = []
    for horizon in study.settings.horizons_years:
        name = f"true_risk_{horizon:g}y"
        if name in truth:
            risk = truth.loc[cohort["scan_id"], name].to_numpy()
            columns = {"model": TRUE_RISK, "horizon_years": horizon, "risk": risk, "risk_sd": np.nan}
            frames.append(cohort[["scan_id", "patient_id", "fold"]].assign(**columns))
    return PREDICTIONS.validate(pd.concat(frames, ignore_index=True)) if frames else none
