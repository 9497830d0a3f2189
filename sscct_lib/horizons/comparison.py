"""Models against each other on the same scans and resamples, and against the true risk that a simulation knows."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sscct_lib.horizons.bootstrap import interval, percentile_interval
from sscct_lib.horizons.evaluation import COUNTS, Evaluation, Judged, measure_together
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Settings

TRUE_RISK = "True risk (unknowable)"


def differences(evaluation: Evaluation, reference: str, metrics: tuple[str, ...] = ("auc", "brier")) -> pd.DataFrame:
    """Compare every model with a reference model on the scans that both predicted, in the same bootstrap samples.

    Parameters
    ----------
    reference
        Name of the model that the others are compared with.
    metrics
        Names in `metrics.METRICS`.

    Returns
    -------
    pandas.DataFrame
        One row per metric, horizon and model: `difference` (model minus reference) with `ci_low` and `ci_high`
        (95 %), and the counts of `COUNTS`. No p values: these are explorations (see `planned`).

    Raises
    ------
    StudyError
        If the reference has no predictions.
    """
    if reference not in evaluation.models:
        raise StudyError(f"No model named {reference!r} to compare with; there are {', '.join(evaluation.models)}.")
    rows = []
    for judged, known in _paired(evaluation, reference):
        measure_together([judged, known], metrics)
        for metric in metrics:
            # In the same samples: what both models find hard cancels out, so the interval is that of the difference.
            samples = judged.measure(metric) - known.measure(metric)
            low, high, _ = interval(samples, judged.outcome.degrees_of_freedom)
            row = {"metric": metric, "model": judged.model, "horizon_years": judged.horizon_years, **judged.counts}
            rows.append({**row, "difference": samples[0], "ci_low": low, "ci_high": high})
    order = ["metric", "model", "horizon_years", "difference", "ci_low", "ci_high"]
    table = pd.DataFrame(rows, columns=[*order, *COUNTS])
    return table.sort_values(["metric", "horizon_years"], kind="stable", ignore_index=True)


def _paired(evaluation: Evaluation, reference: str) -> Iterator[tuple[Judged, Judged]]:
    """Give every other model and the reference on the scans that both predicted, horizon by horizon."""
    for horizon in evaluation.settings.horizons_years:
        for model in evaluation.models:
            if model != reference:
                yield evaluation.pair(model, reference, horizon)


def attained(evaluation: Evaluation, truth: pd.DataFrame) -> pd.DataFrame:
    """Tell how much of what could be told each model tells: its distance from chance over that of the true risk.

    Returns
    -------
    pandas.DataFrame
        One row per horizon and model, as in a table of performance: `metric` is `attained`, `estimate` is
        `(AUC - 0.5) / (AUC of the true risk - 0.5)` on the same scans, with `ci_low` and `ci_high` (95 %, percentiles
        over the same resampled patients for both).
    """
    both = evaluation.with_predictions(pd.concat([evaluation.predictions, truth], ignore_index=True))
    rows = []
    for judged, true_risk in _paired(both, TRUE_RISK):
        ceiling = true_risk.measure("auc") - 0.5  # in a sample of few deaths chance may do better
        share = np.full(len(ceiling), np.nan)
        share = np.divide(judged.measure("auc") - 0.5, ceiling, out=share, where=ceiling > 0)
        low, high = percentile_interval(share)
        row = {"metric": "attained", "model": judged.model, "horizon_years": judged.horizon_years, **judged.counts}
        rows.append({**row, "estimate": share[0], "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def reference_model(predictions: pd.DataFrame, settings: Settings) -> tuple[str, str]:
    """Name the model to compare with, the study's reference or the first model where it has no risks; and say so."""
    names, wanted = predictions["model"].unique(), settings.horizons.reference
    if wanted in names:
        return wanted, f"Reference: **{wanted}**"
    return str(names[0]), (
        f"Reference: **{names[0]}**, the first model of this run, since {wanted} (`horizons.reference`) made no "
        "predictions in it."
    )


def true_risks(study: Study, cohort: pd.DataFrame) -> pd.DataFrame:
    """Read the risks with which the patients of a simulated study really died; no model can do better.

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
            columns = {"model": TRUE_RISK, "horizon_years": horizon, "repeat": 0, "risk": risk, "score": risk}
            frames.append(cohort[["scan_id", "patient_id", "fold"]].assign(**columns))
    return PREDICTIONS.validate(pd.concat(frames, ignore_index=True)) if frames else none
