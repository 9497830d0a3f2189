"""One evaluation: a cohort, predictions held against it, and resamples of its patients, from which every table is made.

Only here is it known on which scans a model is judged, in which samples of patients, and how a measure and its interval
are made of them. Predictions are checked once, patients are drawn once, and the outcomes of a horizon are kept.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

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
from sscct_lib.horizons.calibration import Fits, logit
from sscct_lib.horizons.metrics import METRICS, within_fits
from sscct_lib.study.disclosure import count_text
from sscct_lib.study.folder import StudyError
from sscct_lib.study.schemas import IDENTITY, PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.tables import missing_columns

FEWEST_PATIENTS = 5
"""Patients who died, and patients who lived, without whom nothing is told of how well a risk knows them apart."""
TOO_SMALL = "too small"
COUNTS = ("n_scans", "n_patients", "n_events", "n_patients_died", "n_patients_alive", "n_unknown")
"""Columns of counts in tables, from `Outcome.denominators`."""

_MOST_KEPT = 25_000_000  # scans x samples of the outcomes that an evaluation keeps


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
        One risk per scan, the mean over repeats, shape (n,): to be shown, never to be measured.
    risks, fits
        The risks of each repeat, shape (n_repeats, n), and the number of the fit that made each.
    score
        The value of a fixed score, by which scans are ranked instead, shape (n,); None for other models.
    outcome
        What happened to them, in every sample of patients.
    """

    model: str
    horizon_years: float
    inside: Flags
    scans: pd.DataFrame
    risk: Floats
    risks: Floats
    fits: Fits
    score: Floats | None
    outcome: Outcome
    _measured_already: dict[str, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """The counts of `COUNTS`, as in tables."""
        return self.outcome.denominators

    @property
    def estimable(self) -> bool:
        """Whether anything can be estimated."""
        return not not_estimable(self.outcome)

    @property
    def standing(self) -> Floats:
        """How each scan stands among those of the same fit, shape (n,): its log odds less their mean, over repeats.

        Of a fixed score, its value less the mean. Scans of different fits can be put in one order by it.
        """
        if self.score is not None:
            return np.asarray(self.score - self.score.mean())
        logits = logit(self.risks)
        for row, fit in zip(logits, self.fits, strict=True):
            for one in np.unique(fit):
                row[fit == one] -= row[fit == one].mean()
        return np.asarray(logits.mean(axis=0))

    def over_repeats(self, measure: Callable[[Floats, Fits], Floats]) -> Floats:
        """Average over the repeats what is measured in each; `measure` takes risks and fits, both of shape (n,)."""
        found = np.array([measure(risk, fit) for risk, fit in zip(self.risks, self.fits, strict=True)])
        known = np.isfinite(found)
        mean: Floats = np.full(found.shape[1:], np.nan)
        np.divide(np.where(known, found, 0).sum(axis=0), known.sum(axis=0), out=mean, where=known.any(axis=0))
        return mean

    def over_fits(self, pairs: Callable[[Floats, Outcome], tuple[Floats, Floats]]) -> Floats:
        """Average over the repeats what is concordant among the pairs of scans of the same fit (`metrics.within_fits`).

        A fixed score is one fit of all scans.
        """
        if self.score is not None:
            return within_fits(pairs, self.score, self.outcome, None)
        return self.over_repeats(lambda risk, fit: within_fits(pairs, risk, self.outcome, fit))

    def measure(self, metric: str) -> Floats:
        """Measure the risks in every sample, shape (n_samples + 1,); NaN where nothing can be estimated."""
        if metric not in self._measured_already:
            measure_together([self], [metric])
        return self._measured_already[metric]

    def _keep(self, metric: str, samples: Floats) -> None:
        """Remember a measure, under the names of all metrics that it gives."""
        for name, of in METRICS.items():
            if of.measure is METRICS[metric].measure:
                self._measured_already[name] = samples if of.column is None else samples[:, of.column]

    def _in(self, block: Outcome, metric: str) -> Floats:
        """Measure the risks in some of the samples."""
        of = METRICS[metric]
        if not (self.estimable if of.needs_both else block.reaches_horizon and len(self.risk)):
            return np.full((len(block.counts), 3)[: 1 + (of.column is not None)], np.nan)
        if of.kind == "size":
            return self.over_repeats(lambda risk, _: of.measure(risk, block))
        if of.kind == "rank" and self.score is not None:
            return np.asarray(of.measure(self.score, block))
        return self.over_repeats(lambda risk, fit: of.measure(risk, block, fit))

    def sd_between_repeats(self, metric: str) -> float:
        """Standard deviation of a measure between the repeats, by chance of the split alone; NaN without repeats."""
        if len(self.risks) < 2 or METRICS[metric].scale == "draws":
            return np.nan
        alone = replace(self, outcome=self.outcome.samples(slice(1)))
        each = [
            replace(alone, risks=risk[None], fits=fit[None]).measure(metric)[0]
            for risk, fit in zip(self.risks, self.fits, strict=True)
        ]
        return float(np.std(each, ddof=1))

    def estimate(self, metric: str) -> dict[str, Any]:
        """Estimate one of `METRICS`: `estimate`, `ci_low`, `ci_high` (95 %), `sd_splits`, a `note` on what is lacking.

        `sd_splits` is from `sd_between_repeats`.
        """
        samples = self.measure(metric)
        low, high, note = interval(samples, self.outcome.degrees_of_freedom, METRICS[metric].scale)
        if metric == "ici" and np.isfinite(low):
            # What a right model often has does not speak against 0.
            low = 0.0 if samples[0] <= np.quantile(self.measure("ici_if_right"), 0.95) else low
        if not np.isfinite(samples[0]):
            why = not_estimable(self.outcome) or "the risks separate the outcomes, or are all equal"
            note = why if why.startswith(TOO_SMALL) else f"not estimable: {why}"
        spread = self.sd_between_repeats(metric)
        return {"estimate": float(samples[0]), "ci_low": low, "ci_high": high, "sd_splits": spread, "note": note}


def measure_together(judged: Sequence[Judged], metrics: Sequence[str]) -> None:
    """Measure models in the same blocks of samples, each weighed once; `Judged.measure` then gives the values."""
    once = {METRICS[metric].measure: metric for metric in metrics}.values()  # one measure may give several metrics
    for outcome in {id(each.outcome): each.outcome for each in judged}.values():
        tasks: list[tuple[Judged, str, list[Floats]]] = [
            (each, metric, [])
            for each in judged
            for metric in once
            if each.outcome is outcome and metric not in each._measured_already
        ]
        for number, block in enumerate(outcome.in_blocks()):
            for each, metric, parts in tasks:
                if number == 0 or METRICS[metric].scale != "draws":
                    parts.append(each._in(block, metric))
        for each, metric, parts in tasks:
            each._keep(metric, np.concatenate(parts))


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
        If a risk is missing or not in 0..1, a scan is not in the cohort or belongs to another patient there, was
        tested in another fold than the cohort's, or not in every repeat, or a patient's scans in several folds.
    """

    def __init__(self, cohort: pd.DataFrame, predictions: pd.DataFrame, settings: Settings) -> None:
        self.cohort = cohort
        self.predictions = check_predictions(predictions, cohort)
        self.settings = settings
        self._outcomes: dict[tuple[float, bytes], Outcome] = {}
        self._wide: dict[tuple[str, float], dict[str, pd.DataFrame]] = {}
        self._risks: dict[tuple[str, float], Floats] = {}

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
        return self._identities[model]

    @cached_property
    def _identities(self) -> dict[str, dict[str, str]]:
        first = self.predictions.drop_duplicates("model").set_index("model")[list(IDENTITY)].astype(str)
        return {str(model): dict(row) for model, row in first.iterrows()}

    @cached_property
    def averaged(self) -> pd.DataFrame:
        """One risk per model, horizon and scan, from `averaged`."""
        return averaged(self.predictions)

    def risk(self, model: str, horizon_years: float) -> Floats:
        """One risk of each scan of the cohort, the mean over repeats, shape (n_cohort,); NaN where there is none."""
        key = (model, float(horizon_years))
        if key not in self._risks:
            self._risks[key] = aligned(self.averaged, self.cohort, model, horizon_years)
            self._risks[key].flags.writeable = False
        return self._risks[key]

    def outcome(self, horizon_years: float, inside: Flags | None = None) -> Outcome:
        """What happened to some scans of the cohort, shape (n_cohort,), or to all."""
        inside = np.ones(len(self.cohort), dtype=bool) if inside is None else inside
        # Weighing for censoring is dear, and most models predict the same scans.
        key = (horizon_years, inside.tobytes())
        if key not in self._outcomes:
            new = int(inside.sum()) * len(self.resamples.drawn)
            while (
                self._outcomes and new + sum(kept.resamples.drawn.size for kept in self._outcomes.values()) > _MOST_KEPT
            ):
                self._outcomes.pop(next(iter(self._outcomes)))
            drawn = self.resamples if inside.all() else self.resamples.of(inside)
            self._outcomes[key] = cohort_outcome(self.cohort[inside], horizon_years, drawn, self.settings.labels)
        return self._outcomes[key]

    def at(self, model: str, horizon_years: float, among: Flags | None = None) -> Judged:
        """Give a model at a horizon, on the scans that it predicted, or those of them that are `among` (n_cohort,)."""
        risk = self.risk(model, horizon_years)
        inside = np.isfinite(risk) if among is None else np.isfinite(risk) & among
        repeats = {column: self._repeats(model, horizon_years, column)[:, inside] for column in ("risk", "fold")}
        score = self._repeats(model, horizon_years, "score")[0, inside]
        return Judged(
            model, horizon_years, inside, self.cohort[inside], risk[inside],
            repeats["risk"], repeats["fold"].astype(np.int64), score if np.isfinite(score).any() else None,
            self.outcome(horizon_years, inside),
        )  # fmt: skip

    def _repeats(self, model: str, horizon_years: float, column: str) -> Floats:
        """A column of each repeat in the order of the cohort, shape (n_repeats, n_cohort); one row of NaN for none."""
        key = (model, float(horizon_years))
        if key not in self._wide:
            rows = self.predictions[self.predictions["model"] == model]
            rows = rows[np.isclose(rows["horizon_years"], horizon_years)].set_index(["repeat", "scan_id"])
            self._wide[key] = {name: rows[name].unstack("scan_id") for name in ("risk", "fold", "score")}
        wide = self._wide[key][column].reindex(columns=self.cohort["scan_id"])
        return wide.to_numpy(dtype=float) if len(wide) else np.full((1, len(self.cohort)), np.nan)

    def horizons_of(self, model: str) -> list[Judged]:
        """Give a model at each horizon at which it has risks, from the shortest to the longest; StudyError for none."""
        judged = [self.at(model, horizon) for horizon in sorted(self.settings.horizons_years)]
        if not any(len(each.risk) for each in judged):
            known = ", ".join(self.models)
            raise StudyError(f"No model named {model!r} has predictions at the study's horizons; there are {known}.")
        return [each for each in judged if len(each.risk)]

    def pair(self, model: str, other: str, horizon_years: float) -> tuple[Judged, Judged]:
        """Give two models on the scans that both predicted."""
        both = np.isfinite(self.risk(model, horizon_years)) & np.isfinite(self.risk(other, horizon_years))
        return self.at(model, horizon_years, both), self.at(other, horizon_years, both)

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
        part._outcomes, part._risks = {}, {}
        part.cohort = self.cohort[scans]
        part.resamples = self.resamples.of(scans)
        if followup_years is not None:
            part.cohort = part.cohort.assign(followup_years=followup_years[scans])
        if share is not None:
            part.resamples = replace(part.resamples, share=share[scans])
        return part

    def without_resamples(self) -> "Evaluation":
        """Keep the study's own sample alone, for estimates without interval."""
        alone = copy(self)
        alone._outcomes = {}
        alone.resamples = self.resamples.samples(slice(1))
        return alone

    def with_predictions(self, predictions: pd.DataFrame) -> "Evaluation":
        """Judge other predictions on the same cohort, in the same samples of patients."""
        other = copy(self)
        other.predictions = check_predictions(predictions, self.cohort)  # outcomes stay: they know no model
        other._wide, other._risks = {}, {}
        for derived in ("averaged", "_identities"):
            other.__dict__.pop(derived, None)
        return other


def averaged(predictions: pd.DataFrame) -> pd.DataFrame:
    """Give each scan one risk of each model and horizon, the mean over repeats, for where a risk is shown.

    Never measure it: the mean over many splits knows a patient's own outcome, by what is missing where it was held out.

    Returns
    -------
    pandas.DataFrame
        The columns of `predictions` without `repeat` and `fold`. `risk_sd` is the spread over the repeats; of a single
        one, as it says. Risks never fall with the horizon.
    """
    keys = ["model", "horizon_years", "scan_id"]
    grouped = predictions.groupby(keys, sort=False)
    first = grouped[[name for name in predictions if name not in {*keys, "repeat", "fold"}]].first()
    spread = grouped["risk"].std().fillna(first["risk_sd"])
    return never_falling(first.assign(risk=grouped["risk"].mean(), risk_sd=spread).reset_index())


def never_falling(predictions: pd.DataFrame) -> pd.DataFrame:
    """Make the risks of each scan rise with the horizon, by their running maximum; sorts by model, horizon and scan."""
    # One risk curve rises by itself; horizons fitted apart, or known in different repeats, need not.
    ordered = predictions.sort_values(["model", "horizon_years", "scan_id"], ignore_index=True)
    return ordered.assign(risk=ordered.groupby(["model", "scan_id"])["risk"].cummax())


def risk_table(scans: pd.DataFrame, model: str, horizons_years: Sequence[float], **values: Floats) -> pd.DataFrame:
    """Repeat the rows of scans for each horizon, with the model's name and its values there, each of shape (n, K)."""
    rows = [
        scans.assign(model=model, horizon_years=years, **{name: found[:, k] for name, found in values.items()})
        for k, years in enumerate(horizons_years)
    ]
    return pd.concat(rows, ignore_index=True)


def aligned(
    one_each: pd.DataFrame, cohort: pd.DataFrame, model: str, horizon_years: float, column: str = "risk"
) -> Floats:
    """Bring a column of `averaged` into the order of the cohort, shape (n,); NaN where a model has no risk."""
    rows = one_each[(one_each["model"] == model) & np.isclose(one_each["horizon_years"], horizon_years)]
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
    """Say why nothing can be estimated that needs deaths and survivors; empty when it can. The one rule everywhere."""
    if not len(outcome.died):
        return "no predictions at this horizon"
    if not outcome.died.any():
        return "no scan is followed by death within the horizon"
    if not outcome.alive.any():
        return "no scan is known to be followed by life beyond the horizon"
    n_died, n_alive = (outcome.denominators[f"n_patients_{state}"] for state in ("died", "alive"))
    if too_few(n_died, n_alive):
        few = f"{count_text(n_died)} patient(s) died and {count_text(n_alive)} lived"
        return f"{TOO_SMALL}: {few}; at least {FEWEST_PATIENTS} each are needed"
    return ""


def too_few(n_patients_died: int, n_patients_alive: int) -> bool:
    """Whether too few patients died, or are known to have lived, for anything to be told."""
    return min(n_patients_died, n_patients_alive) < FEWEST_PATIENTS


def check_predictions(predictions: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """Hold predictions against the cohort before anything is computed from them.

    Raises
    ------
    StudyError
        If a risk is missing or not in 0..1, a scan is not in the cohort or belongs to another patient there, was
        tested in another fold than the cohort's, or not in every repeat, or a patient's scans in several folds.
    """
    if lacking := missing_columns(predictions, PREDICTIONS):
        raise StudyError(
            f"Predictions lack the column(s) {lacking}, without which it is not known which risks may be compared. "
            "Where an earlier version of the project wrote the table, run the model stages again."
        )
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
    wrong = valid[valid["patient_id"].to_numpy() != known.loc[valid["scan_id"], "patient_id"].to_numpy()]
    if len(wrong):
        raise StudyError(
            f"Predictions have another patient_id than the cohort for {_some(wrong, 'scan_id')}: run the model stages "
            "again."
        )
    of_cohort = known.loc[valid["scan_id"], "fold"].to_numpy()
    wrong = valid[(valid["repeat"] == 0) & (valid["fold"].to_numpy() != of_cohort)]
    if len(wrong):
        raise StudyError(
            f"Predictions have another fold than the cohort for {_some(wrong, 'scan_id')}. In repeat 0 a scan must be "
            "tested in its cohort fold, by a model that never saw its patient: run the model stages again."
        )
    _check_repeats(valid)
    return valid


def _check_repeats(valid: pd.DataFrame) -> None:
    split = valid[["model", "repeat", "patient_id", "fold"]].drop_duplicates()
    torn = split[split.duplicated(["model", "repeat", "patient_id"])]
    if len(torn):
        raise StudyError(
            f"Predictions test the scans of {_some(torn, 'patient_id', 'patient')} in several folds of one repeat. "
            "Folds must be split by patient: run the model stages again."
        )
    each = valid.groupby(["model", "horizon_years"], sort=False)
    n_repeats = each["repeat"].transform("nunique")
    of_scan = valid.groupby(["model", "horizon_years", "scan_id"], sort=False)["repeat"].transform("size")
    uneven = valid[of_scan != n_repeats]
    if len(uneven):
        row = uneven.iloc[0]
        raise StudyError(
            f"{row['model']} predicts {_some(uneven, 'scan_id')} in some repeats and not in others, at the horizon of "
            f"{row['horizon_years']:g} years. Each repeat must predict the same scans, or be left out as a whole."
        )


def _violations(predictions: pd.DataFrame, error: pa.errors.SchemaErrors) -> str:
    lines = []
    for case in error.failure_cases.head(10).itertuples():
        row = predictions.loc[case.index] if case.index in predictions.index else None
        where = "" if row is None else f"{row.get('model')}, scan {row.get('scan_id')}: "
        lines.append(f"  {where}{case.column}: expected {case.check}; found {case.failure_case!r}")
    n_more = len(error.failure_cases) - len(lines)
    more = f"\n  and {n_more} more" if n_more else ""
    return "Predictions cannot be judged; correct the table of the model that wrote them.\n" + "\n".join(lines) + more


def _some(rows: pd.DataFrame, column: str, noun: str = "scan") -> str:
    names = list(dict.fromkeys(rows[column]))
    shown = ", ".join(map(str, names[:5]))
    return f"{len(names)} {noun}(s) ({shown}{', ...' if len(names) > 5 else ''})"
