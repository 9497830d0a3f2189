"""Judging every model at every horizon: the performance table, and how long scans were followed.

Models against a reference model, and against the true risk where a simulated study knows it.

The Brier score over all horizons at once.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pandera.pandas as pa

from sscct_lib.horizons.bootstrap import (
    Flags,
    Floats,
    Outcome,
    Resamples,
    horizon_outcome,
    interval,
    resample_patients,
)
from sscct_lib.horizons.metrics import METRICS, brier_score
from sscct_lib.study.folder import StudyError
from sscct_lib.study.schemas import PERFORMANCE, PREDICTIONS
from sscct_lib.study.settings import Settings


def check_predictions(predictions: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """Hold predictions against the cohort before anything is computed from them.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.

    Returns
    -------
    pandas.DataFrame
        The validated predictions.

    Raises
    ------
    StudyError
        If a risk is missing or not in 0..1, a scan is not in the cohort or belongs to another patient there, or
        was tested in another fold than the cohort's.
    """
    try:
        valid = PREDICTIONS.validate(predictions, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise StudyError(_violations(predictions, error)) from error
    known = cohort.set_index("scan_id")
    strangers = valid[~valid["scan_id"].isin(known.index)]
    if len(strangers):
        raise StudyError(
            f"Predictions for {_some(strangers, 'scan_id')}, which the cohort lacks. The cohort changed after the "
            "models were fitted, or the file is another study's: run the model stages again."
        )
    for column in ("patient_id", "fold"):
        expected = known.loc[valid["scan_id"], column].to_numpy()
        wrong = valid[valid[column].to_numpy() != expected]
        if len(wrong):
            raise StudyError(
                f"Predictions have another {column} than the cohort for {_some(wrong, 'scan_id')}. A scan must be "
                "tested in its cohort fold, by a model that never saw its patient: run the model stages again."
            )
    return valid


def _violations(predictions: pd.DataFrame, error: pa.errors.SchemaErrors) -> str:
    lines = []
    for case in error.failure_cases.head(10).itertuples():
        row = predictions.loc[case.index] if case.index in predictions.index else None
        where = "" if row is None else f"{row.get('model')}, scan {row.get('scan_id')}: "
        lines.append(f"  {where}{case.column}: expected {case.check}; found {case.failure_case!r}")
    n_more = len(error.failure_cases) - len(lines)
    more = f"\n  and {n_more} more" if n_more else ""
    return "Predictions cannot be judged; correct the table of the model that wrote them.\n" + "\n".join(lines) + more


def _some(rows: pd.DataFrame, column: str) -> str:
    names = list(dict.fromkeys(rows[column]))
    shown = ", ".join(map(str, names[:5]))
    return f"{len(names)} scan(s) ({shown}{', ...' if len(names) > 5 else ''})"


def evaluate(
    predictions: pd.DataFrame,
    cohort: pd.DataFrame,
    settings: Settings,
    metrics: Sequence[str] = tuple(METRICS),
) -> pd.DataFrame:
    """Judge every model at every horizon on the scans that it predicted.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    settings
        Of the study: `horizons_years`, `labels` (`as_published` counts an unknown scan as alive),
        `horizons.n_bootstrap` (samples of patients behind each interval) and `seed`.
    metrics
        Which of `METRICS`.

    Returns
    -------
    pandas.DataFrame
        Schema `PERFORMANCE`: one row a model, horizon and metric.

    Raises
    ------
    StudyError
        See `check_predictions`.
    """
    valid = check_predictions(predictions, cohort)
    resamples = study_resamples(cohort, settings)
    outcomes: dict[tuple[float, bytes], Outcome] = {}
    rows = []
    for model in dict.fromkeys(valid["model"]):
        for horizon in settings.horizons_years:
            risk = aligned_risk(valid, cohort, model, horizon)
            judged = np.isfinite(risk)
            key = (horizon, judged.tobytes())
            if key not in outcomes:
                outcomes[key] = cohort_outcome(cohort[judged], horizon, resamples.of(judged), settings.labels)
            measured = _measure(risk[judged], outcomes[key], metrics)
            counted = _counts(cohort[judged], outcomes[key])
            note = _coverage_note(judged)
            for metric, (estimate, low, high, why) in measured.items():
                rows.append(
                    {
                        "model": model, "horizon_years": horizon, "metric": metric,
                        "estimate": estimate, "ci_low": low, "ci_high": high,
                        **counted, "note": "; ".join(filter(None, [why, note])),
                    }
                )  # fmt: skip
    return PERFORMANCE.validate(pd.DataFrame(rows, columns=list(PERFORMANCE.columns)))


def study_resamples(cohort: pd.DataFrame, settings: Settings) -> Resamples:
    """Draw the patients of a study's bootstrap samples.

    Parameters
    ----------
    cohort
        Schema `COHORT`.
    settings
        Of the study: `horizons.n_bootstrap` and `seed`.

    Returns
    -------
    bootstrap.Resamples
    """
    return resample_patients(cohort["patient_id"], settings.horizons.n_bootstrap, settings.seed)


def aligned_risk(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, horizon_years: float) -> Floats:
    """Bring a model's risks into the order of the cohort.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    horizon_years
        Years after the scan.

    Returns
    -------
    numpy.ndarray
        Risk of each scan of the cohort, NaN where the model has none, shape (n,).
    """
    rows = predictions[(predictions["model"] == model) & np.isclose(predictions["horizon_years"], horizon_years)]
    return rows.set_index("scan_id")["risk"].reindex(cohort["scan_id"]).to_numpy(dtype=float)


def judged_risks(
    predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings
) -> list[tuple[float, Floats, Flags]]:
    """List a model's risks at each horizon at which it has any.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    settings
        Of the study: horizons.

    Returns
    -------
    list of (float, numpy.ndarray, numpy.ndarray)
        Horizon, risk of each scan of the cohort (NaN where there is none), and whether there is one; by horizon.

    Raises
    ------
    StudyError
        If there is no such model.
    """
    aligned = [
        (horizon, aligned_risk(predictions, cohort, model, horizon)) for horizon in sorted(settings.horizons_years)
    ]
    found = [(horizon, risk, np.isfinite(risk)) for horizon, risk in aligned if np.isfinite(risk).any()]
    if not found:
        known = ", ".join(dict.fromkeys(predictions["model"]))
        raise StudyError(f"No model named {model!r} has predictions at the study's horizons; there are {known}.")
    return found


def cohort_outcome(cohort: pd.DataFrame, horizon_years: float, resamples: Resamples, labels: str) -> Outcome:
    """State of a cohort's scans at a horizon.

    Parameters
    ----------
    cohort
        `followup_years` and `event_observed`, one row a scan.
    horizon_years
        Years after the scan.
    resamples
        Of the same scans.
    labels
        `censored_unknown` or `as_published`.

    Returns
    -------
    bootstrap.Outcome
    """
    return horizon_outcome(
        cohort["followup_years"].to_numpy(dtype=float),
        cohort["event_observed"].to_numpy(dtype=bool),
        horizon_years,
        resamples,
        presumed=labels == "as_published",
    )


def _measure(risk: Floats, outcome: Outcome, metrics: Sequence[str]) -> dict[str, tuple[float, float, float, str]]:
    why = not_estimable(outcome)
    if why:
        return dict.fromkeys(metrics, (np.nan, np.nan, np.nan, f"not estimable: {why}"))
    measured = {}
    for name in metrics:
        metric = METRICS[name]
        samples = metric.measure(risk, outcome)
        if np.isfinite(samples[0]):
            bounds = interval(samples, outcome.degrees_of_freedom, metric.scale)
            measured[name] = (float(samples[0]), *bounds)
        else:
            why = "not estimable: the risks separate the outcomes, or are all equal"
            measured[name] = (np.nan, np.nan, np.nan, why)
    return measured


def not_estimable(outcome: Outcome) -> str:
    """Say why nothing can be estimated; empty when it can.

    Parameters
    ----------
    outcome
        From `bootstrap.horizon_outcome`.

    Returns
    -------
    str
        The reason in words.
    """
    if not len(outcome.died):
        return "no predictions at this horizon"
    if not outcome.died.any():
        return "no scan is followed by death within the horizon"
    if not outcome.alive.any():
        return "no scan is known to be followed by life beyond the horizon"
    return ""


def _counts(judged: pd.DataFrame, outcome: Outcome) -> dict[str, int]:
    return {
        "n_scans": len(judged),
        "n_patients": judged["patient_id"].nunique(),
        "n_events": int(outcome.died.sum()),
        "n_unknown": int(outcome.unknown.sum()),
    }


def _coverage_note(judged: np.ndarray) -> str:
    return "" if judged.all() or not judged.any() else f"judged on {judged.sum()} of {len(judged)} scans"


def best(performance: pd.DataFrame, horizon_years: float, metric: str = "auc") -> pd.Series | None:
    """Name the model with the highest value of a metric; the choice flatters it, so show the others too.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.
    horizon_years
        Years after the scan.
    metric
        Which metric; higher is better.

    Returns
    -------
    pandas.Series or None
        Its row; None when nothing can be estimated at this horizon.
    """
    rows = performance[(performance["metric"] == metric) & (performance["horizon_years"] == horizon_years)]
    rows = rows.dropna(subset="estimate")
    return None if rows.empty else rows.iloc[int(rows["estimate"].argmax())]


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
