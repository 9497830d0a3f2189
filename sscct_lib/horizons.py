"""Judging every model at every horizon: the performance table, and how long scans were followed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pandera.pandas as pa

from sscct_lib.bootstrap import (
    Flags,
    Floats,
    Outcome,
    Resamples,
    curve_interval,
    horizon_outcome,
    interval,
    kaplan_meier,
    percentile_interval,
    resample_patients,
)
from sscct_lib.metrics import METRICS
from sscct_lib.schemas import PERFORMANCE, PREDICTIONS
from sscct_lib.study import Settings, StudyError


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


def followup_curve(cohort: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 2026) -> pd.DataFrame:
    """Share of scans still followed, by the reverse Kaplan-Meier method: death ends the chance to be followed.

    Parameters
    ----------
    cohort
        Schema `COHORT`; may be empty.
    n_bootstrap
        Bootstrap samples of patients behind the band.
    seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        A step curve at each end of follow-up and each whole year: `years`, `still_followed`, `ci_low`, `ci_high`
        (95 %), `at_risk` (scans followed to that time), `n_scans`, `n_patients`, `n_events` (scans followed by
        death). No rows for an empty cohort.

    References
    ----------
    Schemper M, Smith TL. A note on quantifying follow-up in studies of failure time. Control Clin Trials
    1996;17:343-6.
    """
    years, samples = _reverse_kaplan_meier(cohort, n_bootstrap, seed)
    low, high = curve_interval(samples)
    followup = cohort["followup_years"].to_numpy(dtype=float)
    return pd.DataFrame(
        {
            "years": years,
            "still_followed": samples[0],
            "ci_low": low,
            "ci_high": high,
            "at_risk": [int((followup >= year).sum()) for year in years],
            "n_scans": len(cohort),
            "n_patients": cohort["patient_id"].nunique(),
            "n_events": int(cohort["event_observed"].sum()),
        }
    )


def median_followup(cohort: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 2026) -> tuple[float, float, float]:
    """Median follow-up of the scans by the reverse Kaplan-Meier method.

    Parameters
    ----------
    cohort
        Schema `COHORT`; may be empty.
    n_bootstrap
        Bootstrap samples of patients behind the interval.
    seed
        Of the bootstrap.

    Returns
    -------
    median, low, high : float
        Years, with a 95 % interval; NaN where half of the scans are still followed at the end.
    """
    years, samples = _reverse_kaplan_meier(cohort, n_bootstrap, seed)
    if not len(years):
        return np.nan, np.nan, np.nan
    halved = samples <= 0.5
    medians = np.where(halved.any(axis=1), years[halved.argmax(axis=1)], np.nan)
    return float(medians[0]), *percentile_interval(medians)


def _reverse_kaplan_meier(cohort: pd.DataFrame, n_bootstrap: int, seed: int) -> tuple[Floats, Floats]:
    followup = cohort["followup_years"].to_numpy(dtype=float)
    if not len(followup):
        return followup, np.ones((n_bootstrap + 1, 0))
    years = np.unique(np.concatenate([followup, np.arange(np.floor(followup.max()) + 1)]))
    ended = ~cohort["event_observed"].to_numpy(dtype=bool)
    resamples = resample_patients(cohort["patient_id"], n_bootstrap, seed)
    return years, kaplan_meier(followup, ended, resamples.counts, years)
