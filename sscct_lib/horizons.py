"""Judging every model at every horizon: the performance table, differences between models, follow-up."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pandera.pandas as pa
from lifelines import KaplanMeierFitter
from lifelines.utils import median_survival_times

from sscct_lib.bootstrap import Floats, Outcome, horizon_outcome, interval, patient_weights
from sscct_lib.metrics import METRICS
from sscct_lib.study import StudyError
from sscct_lib.tables import PERFORMANCE, PREDICTIONS


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
    horizons_years: Sequence[float],
    labels: str = "censored_unknown",
    n_bootstrap: int = 1000,
    seed: int = 2026,
) -> pd.DataFrame:
    """Judge every model at every horizon on the scans that it predicted.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    horizons_years
        Years after the scan.
    labels
        `censored_unknown`, or `as_published`: an unknown scan counts as alive.
    n_bootstrap
        Bootstrap samples of patients behind each interval.
    seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Schema `PERFORMANCE`: one row a model, horizon and metric of `METRICS`.

    Raises
    ------
    StudyError
        See `check_predictions`.
    """
    valid = check_predictions(predictions, cohort)
    counts = patient_weights(cohort["patient_id"], n_bootstrap, seed)
    outcomes: dict[tuple[float, bytes], Outcome] = {}
    rows = []
    for model in dict.fromkeys(valid["model"]):
        for horizon in horizons_years:
            risk = aligned_risk(valid, cohort, model, horizon)
            judged = np.isfinite(risk)
            key = (horizon, judged.tobytes())
            if key not in outcomes:
                outcomes[key] = cohort_outcome(cohort[judged], horizon, counts[:, judged], labels)
            measured = _measure(risk[judged], outcomes[key])
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


def cohort_outcome(cohort: pd.DataFrame, horizon_years: float, counts: Floats, labels: str) -> Outcome:
    """State of a cohort's scans at a horizon.

    Parameters
    ----------
    cohort
        `followup_years` and `event_observed`, one row a scan.
    horizon_years
        Years after the scan.
    counts
        From `bootstrap.patient_weights`, shape (n_samples + 1, n).
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
        counts,
        presumed=labels == "as_published",
    )


def _measure(risk: Floats, outcome: Outcome) -> dict[str, tuple[float, float, float, str]]:
    why = not_estimable(outcome)
    if why:
        return dict.fromkeys(METRICS, (np.nan, np.nan, np.nan, f"not estimable: {why}"))
    measured = {}
    for name, metric in METRICS.items():
        samples = metric(risk, outcome)
        low, high = interval(samples)
        lacking = "" if np.isfinite(low) else "no interval: too few patients died or survived for resampling"
        measured[name] = (float(samples[0]), low, high, lacking)
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
        "n_unknown": int((~outcome.died & ~outcome.alive).sum()),
    }


def _coverage_note(judged: np.ndarray) -> str:
    return "" if judged.all() or not judged.any() else f"judged on {judged.sum()} of {len(judged)} scans"


PUBLISHED = pd.DataFrame(
    [
        ("best of ResNet-18, DenseNet-121 and Swin Transformer", 1.0, 0.769, 0.769, 2125, 181),
        ("best of ResNet-18, DenseNet-121 and Swin Transformer", 3.0, 0.801, 0.801, 2125, 326),
        ("best of ResNet-18, DenseNet-121 and Swin Transformer", 5.0, 0.709, 0.709, 2125, 428),
        ("radiomics, lowest to highest", 1.0, 0.682, 0.723, 2125, 181),
        ("radiomics, lowest to highest", 3.0, 0.682, 0.723, 2125, 326),
        ("radiomics, lowest to highest", 5.0, 0.682, 0.723, 2125, 428),
    ],
    columns=["model", "horizon_years", "auc_low", "auc_high", "n_scans", "n_events"],
)
"""AUC published for another cohort: 2,125 scans of the Northwestern Scleroderma Registry, arXiv 2509.23530. No
intervals, patients or folds were published; the radiomics range is over all horizons. Scans followed for less than
the horizon were presumed alive."""


def followup_curve(cohort: pd.DataFrame) -> pd.DataFrame:
    """Share of patients still followed, by the reverse Kaplan-Meier method: death ends the chance to be followed.

    Parameters
    ----------
    cohort
        Schema `COHORT`; may be empty.

    Returns
    -------
    pandas.DataFrame
        A step curve of patients from their first scan: `years`, `still_followed` with `ci_low` and `ci_high`
        (95 %, log-log), `at_risk` (followed just before that time), `n_patients` and `n_deaths` of the cohort.
        No rows for an empty cohort.

    References
    ----------
    Schemper M, Smith TL. A note on quantifying follow-up in studies of failure time. Control Clin Trials
    1996;17:343-6.
    """
    columns = ["years", "still_followed", "ci_low", "ci_high", "at_risk", "n_patients", "n_deaths"]
    if cohort.empty:
        return pd.DataFrame(columns=columns, dtype=float)
    first = first_scans(cohort)
    fitted = KaplanMeierFitter().fit(first["followup_years"], ~first["event_observed"])
    bounds = fitted.confidence_interval_.to_numpy()
    curve = pd.DataFrame(
        {
            "years": fitted.survival_function_.index,
            "still_followed": fitted.survival_function_.iloc[:, 0].to_numpy(),
            "ci_low": bounds[:, 0],
            "ci_high": bounds[:, 1],
        }
    )
    years = np.arange(np.floor(first["followup_years"].max()) + 1)
    curve = curve.merge(pd.DataFrame({"years": years}), how="outer", on="years").sort_values("years").ffill()
    curve["at_risk"] = [(first["followup_years"] >= year).sum() for year in curve["years"]]
    return curve.assign(n_patients=len(first), n_deaths=int(first["event_observed"].sum()))[columns]


def first_scans(cohort: pd.DataFrame) -> pd.DataFrame:
    """Take each patient's first scan.

    Parameters
    ----------
    cohort
        Schema `COHORT`.

    Returns
    -------
    pandas.DataFrame
        One row a patient.
    """
    return cohort.sort_values("scan_day", kind="stable").drop_duplicates("patient_id")


def followup_summary(cohort: pd.DataFrame) -> pd.DataFrame:
    """Median follow-up by the reverse Kaplan-Meier method, of patients from their first scan.

    Parameters
    ----------
    cohort
        Schema `COHORT`; may be empty.

    Returns
    -------
    pandas.DataFrame
        One row: `median_years` with `ci_low` and `ci_high` (95 %, inverted pointwise interval; infinite or NaN
        where not reached), `n_patients`, `n_deaths`, `n_scans`.
    """
    row = {"median_years": np.nan, "ci_low": np.nan, "ci_high": np.nan, "n_patients": 0, "n_deaths": 0}
    if not cohort.empty:
        first = first_scans(cohort)
        fitted = KaplanMeierFitter().fit(first["followup_years"], ~first["event_observed"])
        low, high = median_survival_times(fitted.confidence_interval_).to_numpy().ravel()
        row |= {
            "median_years": float(fitted.median_survival_time_),
            "ci_low": float(low),
            "ci_high": float(high),
            "n_patients": len(first),
            "n_deaths": int(first["event_observed"].sum()),
        }
    return pd.DataFrame([row | {"n_scans": len(cohort)}])
