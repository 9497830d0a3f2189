"""The Brier score over all horizons at once."""

import numpy as np
import pandas as pd

from sscct_lib.bootstrap import interval
from sscct_lib.horizons import aligned_risk, check_predictions, cohort_outcome, not_estimable, study_resamples
from sscct_lib.metrics import brier_score
from sscct_lib.schemas import PERFORMANCE
from sscct_lib.study import Settings


def integrated_brier(predictions: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Average the Brier score over the time from the first to the last horizon, by the trapezoidal rule.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    settings
        Of the study: horizons, labels, bootstrap and seed.

    Returns
    -------
    pandas.DataFrame
        Schema `PERFORMANCE`: one row a model, `metric` is `integrated_brier`, `horizon_years` and the counts are those
        of the last horizon. Only scans predicted at every horizon count; no estimate where a horizon has none. No rows
        for a study of one horizon.

    References
    ----------
    Graf E, Schmoor C, Sauerbrei W, Schumacher M. Assessment and comparison of prognostic classification schemes
    for survival data. Stat Med 1999;18:2529-45.
    """
    valid = check_predictions(predictions, cohort)
    years = np.array(settings.horizons_years)
    resamples = study_resamples(cohort, settings)
    rows = []
    for model in dict.fromkeys(valid["model"]) if len(years) > 1 else ():
        risks = np.array([aligned_risk(valid, cohort, model, horizon) for horizon in years])
        judged = np.isfinite(risks).all(axis=0)
        drawn = resamples.of(judged)
        outcomes = [cohort_outcome(cohort[judged], horizon, drawn, settings.labels) for horizon in years]
        why = next(filter(None, map(not_estimable, outcomes)), "")
        estimate, low, high, note = np.nan, np.nan, np.nan, f"not estimable: {why}"
        if not why:
            scores = [brier_score(risk[judged], outcome) for risk, outcome in zip(risks, outcomes, strict=True)]
            samples = np.trapezoid(np.array(scores), years, axis=0) / (years[-1] - years[0])
            estimate = float(samples[0])
            low, high, note = interval(samples, outcomes[0].degrees_of_freedom, "logit")
        rows.append(
            {
                "model": model, "horizon_years": years[-1], "metric": "integrated_brier",
                "estimate": estimate, "ci_low": low, "ci_high": high,
                "n_scans": int(judged.sum()), "n_patients": cohort["patient_id"][judged].nunique(),
                "n_events": int(outcomes[-1].died.sum()), "n_unknown": int(outcomes[-1].unknown.sum()), "note": note,
            }
        )  # fmt: skip
    return PERFORMANCE.validate(pd.DataFrame(rows, columns=list(PERFORMANCE.columns)))
