"""One evaluation: a cohort, predictions held against it, and resamples of its patients, from which every table is made.

Only here is it known on which scans a model is judged, in which samples of patients, and how a measure and its interval
are made of them. Predictions are checked once, patients are drawn once, and the outcomes of a horizon are kept.
"""

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from sscct_lib.horizons.bootstrap import Flags, Floats, Outcome, Resamples, horizon_outcome, interval, resample_patients
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.study.folder import StudyError
from sscct_lib.study.schemas import IDENTITY, PREDICTIONS
from sscct_lib.study.settings import Settings


@dataclass(frozen=True)
class Judged:
    """A model at a horizon, on the scans on which it is judged.

    Attributes
    ----------
    inside
        Which scans of the cohort these are, shape (n_cohort,).
    scans
        Their rows of the cohort.
    risk
        Their predicted risks, shape (n,).
    outcome
        What happened to them, in every sample of patients.
    """

    model: str
    horizon_years: float
    inside: Flags
    scans: pd.DataFrame
    risk: Floats
    outcome: Outcome

    @property
    def counts(self) -> dict[str, int]:
        """`n_scans`, `n_patients`, `n_events` and `n_unknown`, as in tables."""
        return self.outcome.denominators

    @property
    def estimable(self) -> bool:
        """Whether anything can be estimated."""
        return not not_estimable(self.outcome)

    def measure(self, metric: str) -> Floats:
        """Measure the risks in every sample, shape (n_samples + 1,); NaN where nothing can be estimated."""
        if not self.estimable:
            return np.full(len(self.outcome.counts), np.nan)
        return METRICS[metric].measure(self.risk, self.outcome)

    def estimate(self, metric: str) -> dict[str, Any]:
        """Estimate one of `METRICS`: `estimate`, `ci_low`, `ci_high` (95 %), and a `note` on what is lacking."""
        samples = self.measure(metric)
        low, high, note = interval(samples, self.outcome.degrees_of_freedom, METRICS[metric].scale)
        if not np.isfinite(samples[0]):
            why = not_estimable(self.outcome) or "the risks separate the outcomes, or are all equal"
            note = f"not estimable: {why}"
        return {"estimate": float(samples[0]), "ci_low": low, "ci_high": high, "note": note}


class Evaluation:
    """Predictions of one or more models for the scans of a cohort, to be judged in one set of bootstrap samples.

    Parameters
    ----------
    cohort
        Schema `COHORT`.
    predictions
        Schema `PREDICTIONS`.
    settings
        Of the study: `horizons_years`, `labels` (`as_published` counts an unknown scan as alive),
        `horizons.n_bootstrap` (samples of patients behind each interval) and `seed`.

    Raises
    ------
    StudyError
        If a risk is missing or not in 0..1, a scan is not in the cohort or belongs to another patient there, or
        was tested in another fold than the cohort's.
    """

    def __init__(self, cohort: pd.DataFrame, predictions: pd.DataFrame, settings: Settings) -> None:
        self.cohort = cohort
        self.predictions = check_predictions(predictions, cohort)
        self.settings = settings
        self._outcomes: dict[tuple[float, bytes], Outcome] = {}

    @cached_property
    def resamples(self) -> Resamples:
        """Bootstrap samples of the cohort's patients."""
        return study_resamples(self.cohort, self.settings)

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the predictions."""
        return list(dict.fromkeys(self.predictions["model"]))

    def identity(self, model: str) -> dict[str, str]:
        """`family`, `network` and `variant` of a model, as its predictions say."""
        first = self.predictions.loc[self.predictions["model"] == model, list(IDENTITY)].iloc[0]
        return {str(name): str(value) for name, value in first.items()}

    def risk(self, model: str, horizon_years: float) -> Floats:
        """Risk of each scan of the cohort, shape (n_cohort,); NaN where the model has none."""
        return aligned(self.predictions, self.cohort, model, horizon_years)

    def outcome(self, horizon_years: float, inside: Flags | None = None) -> Outcome:
        """What happened to some scans of the cohort, shape (n_cohort,), or to all."""
        inside = np.ones(len(self.cohort), dtype=bool) if inside is None else inside
        # Weighing for censoring costs more than any measure, and most models predict the same scans.
        key = (horizon_years, inside.tobytes())
        if key not in self._outcomes:
            drawn = self.resamples if inside.all() else self.resamples.of(inside)
            self._outcomes[key] = cohort_outcome(self.cohort[inside], horizon_years, drawn, self.settings.labels)
        return self._outcomes[key]

    def at(self, model: str, horizon_years: float, among: Flags | None = None) -> Judged:
        """Give a model at a horizon, on the scans that it predicted, or those of them that are `among` (n_cohort,)."""
        risk = self.risk(model, horizon_years)
        return self._on(model, horizon_years, risk, np.isfinite(risk) if among is None else np.isfinite(risk) & among)

    def horizons_of(self, model: str) -> list[Judged]:
        """Give a model at each horizon at which it has risks, from the shortest to the longest; StudyError for none."""
        judged = [self.at(model, horizon) for horizon in sorted(self.settings.horizons_years)]
        if not any(len(each.risk) for each in judged):
            known = ", ".join(self.models)
            raise StudyError(f"No model named {model!r} has predictions at the study's horizons; there are {known}.")
        return [each for each in judged if len(each.risk)]

    def pair(self, model: str, other: str, horizon_years: float) -> tuple[Judged, Judged]:
        """Give two models on the scans that both predicted."""
        risk, of_other = self.risk(model, horizon_years), self.risk(other, horizon_years)
        both = np.isfinite(risk) & np.isfinite(of_other)
        return self._on(model, horizon_years, risk, both), self._on(other, horizon_years, of_other, both)

    def _on(self, model: str, horizon_years: float, risk: Floats, inside: Flags) -> Judged:
        outcome = self.outcome(horizon_years, inside)
        return Judged(model, horizon_years, inside, self.cohort[inside], risk[inside], outcome)

    def of(self, scans: Flags, followup_years: Floats | None = None, share: Floats | None = None) -> "Evaluation":
        """Keep some scans of the cohort, in the same samples of patients.

        Parameters
        ----------
        scans
            Which, shape (n_cohort,).
        followup_years
            Follow-up of every scan of the cohort where it counts from another day, shape (n_cohort,).
        share
            How much each scan of the cohort counts where not as one, shape (n_cohort,).
        """
        part = copy(self)  # the predictions are checked already
        part._outcomes = {}
        part.cohort = self.cohort[scans]
        part.resamples = self.resamples.of(scans)
        if followup_years is not None:
            part.cohort = part.cohort.assign(followup_years=followup_years[scans])
        if share is not None:
            part.resamples = Resamples(part.resamples.patient, part.resamples.counts * share[scans])
        return part

    def without_resamples(self) -> "Evaluation":
        """Keep the study's own sample alone, for estimates without interval."""
        alone = copy(self)
        alone._outcomes = {}
        alone.resamples = self.resamples.study_only()
        return alone

    def with_predictions(self, predictions: pd.DataFrame) -> "Evaluation":
        """Judge other predictions on the same cohort, in the same samples of patients."""
        other = copy(self)
        other.predictions = check_predictions(predictions, self.cohort)  # outcomes stay: they know no model
        return other


def aligned(
    predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, horizon_years: float, column: str = "risk"
) -> Floats:
    """Bring a model's risks, or another column, into the order of the cohort, shape (n,); NaN where it has none."""
    rows = predictions[(predictions["model"] == model) & np.isclose(predictions["horizon_years"], horizon_years)]
    return rows.set_index("scan_id")[column].reindex(cohort["scan_id"]).to_numpy(dtype=float)


def study_resamples(cohort: pd.DataFrame, settings: Settings) -> Resamples:
    """Draw the patients of a study's bootstrap samples."""
    return resample_patients(cohort["patient_id"], settings.horizons.n_bootstrap, settings.seed)


def cohort_outcome(cohort: pd.DataFrame, horizon_years: float, resamples: Resamples, labels: str) -> Outcome:
    """State of a cohort's scans at a horizon; the labels `as_published` count an unknown scan as alive."""
    return horizon_outcome(
        cohort["followup_years"].to_numpy(dtype=float),
        cohort["event_observed"].to_numpy(dtype=bool),
        horizon_years,
        resamples,
        presumed=labels == "as_published",
    )


def not_estimable(outcome: Outcome) -> str:
    """Say why nothing can be estimated; empty when it can."""
    if not len(outcome.died):
        return "no predictions at this horizon"
    if not outcome.died.any():
        return "no scan is followed by death within the horizon"
    if not outcome.alive.any():
        return "no scan is known to be followed by life beyond the horizon"
    return ""


def check_predictions(predictions: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """Hold predictions against the cohort before anything is computed from them.

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
