"""The table of performance: every model at every horizon, and the Brier score over all horizons at once."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sscct_lib.horizons.bootstrap import interval
from sscct_lib.horizons.evaluation import Evaluation, measure_together, not_estimable
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.study.schemas import PERFORMANCE


def evaluate(evaluation: Evaluation, metrics: Sequence[str] = tuple(METRICS)) -> pd.DataFrame:
    """Judge every model at every horizon on the scans that it predicted.

    Returns
    -------
    pandas.DataFrame
        Schema `PERFORMANCE`: one row per model, horizon and metric (of `METRICS`).
    """
    rows = []
    for horizon in evaluation.settings.horizons_years:  # outside, since models share its outcome, which is large
        at_horizon = [evaluation.at(model, horizon) for model in evaluation.models]
        measure_together(at_horizon, metrics)
        for model, judged in zip(evaluation.models, at_horizon, strict=True):
            n, n_all = len(judged.risk), len(evaluation.cohort)
            coverage = f"judged on {n} of {n_all} scans" if 0 < n < n_all else ""
            for metric in metrics:
                found = judged.estimate(metric)
                note = "; ".join(filter(None, [found["note"], coverage]))
                where = {"model": model, "horizon_years": horizon, "metric": metric}
                rows.append({**where, **found, **judged.counts, "note": note, **evaluation.identity(model)})
    table = pd.DataFrame(rows, columns=list(PERFORMANCE.columns))
    by_model = table["model"].map(evaluation.models.index).argsort(kind="stable")
    return PERFORMANCE.validate(table.iloc[by_model].reset_index(drop=True))


def integrated_brier(evaluation: Evaluation) -> pd.DataFrame:
    """Average the Brier score over the time from the first to the last horizon, by the trapezoidal rule.

    Returns
    -------
    pandas.DataFrame
        Schema `PERFORMANCE`: one row per model, `metric` is `integrated_brier`, `horizon_years` and the counts are
        those of the last horizon. Only scans predicted at every horizon count; no estimate where a horizon has none.
        No rows for a study of one horizon.

    References
    ----------
    Graf E, Schmoor C, Sauerbrei W, Schumacher M. Assessment and comparison of prognostic classification schemes
    for survival data. Stat Med 1999;18:2529-45.
    """
    years = np.array(evaluation.settings.horizons_years)
    rows = []
    for model in evaluation.models if len(years) > 1 else ():
        risks = np.array([evaluation.risk(model, horizon) for horizon in years])
        at_all = np.isfinite(risks).all(axis=0)
        judged = [evaluation.at(model, horizon, at_all) for horizon in years]
        last = judged[-1]
        why = next(filter(None, (not_estimable(each.outcome) for each in judged)), "")
        estimate, low, high, note = np.nan, np.nan, np.nan, f"not estimable: {why}"
        if not why:
            scores = np.array([each.measure("brier") for each in judged])
            samples = np.trapezoid(scores, years, axis=0) / (years[-1] - years[0])
            estimate = float(samples[0])
            fewest = min(each.outcome.degrees_of_freedom for each in judged)
            low, high, note = interval(samples, fewest, "logit")
        rows.append(
            {
                "model": model, "horizon_years": last.horizon_years, "metric": "integrated_brier",
                "estimate": estimate, "ci_low": low, "ci_high": high, **last.counts, "note": note,
                **evaluation.identity(model),
            }
        )  # fmt: skip
    return PERFORMANCE.validate(pd.DataFrame(rows, columns=list(PERFORMANCE.columns)))


def best(performance: pd.DataFrame, horizon_years: float, metric: str = "auc") -> pd.Series | None:
    """Give the row of the model with the highest value of a metric; None where none can be estimated.

    The choice flatters the model, so show the others too.
    """
    rows = performance[(performance["metric"] == metric) & (performance["horizon_years"] == horizon_years)]
    rows = rows.dropna(subset="estimate")
    return None if rows.empty else rows.iloc[int(rows["estimate"].argmax())]
