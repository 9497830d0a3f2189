"""Models against each other on the same scans and resamples, and against the true risk that a simulation knows."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from sscct_lib.horizons.bootstrap import Floats, interval, percentile_interval
from sscct_lib.horizons.evaluation import COUNTS, TOO_SMALL, Evaluation, Judged, too_few
from sscct_lib.horizons.patients import middle_horizon
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.registry import suggested
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import NETWORK_WORDS, plain_names

TRUE_RISK = "True risk (unknowable)"
LEVEL = 0.05
UNDECIDED, NOT_COMPARED = "not told apart", "not in this run"
FINDINGS = ("better", "worse", UNDECIDED, TOO_SMALL, NOT_COMPARED)
"""What a planned comparison finds; nothing else calls a model better."""


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
        One row a metric, horizon and model: `difference` (model minus reference) with `ci_low` and `ci_high`
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


def planned_pairs(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The planned comparisons of a study, each a model and the one that it is compared with, by plain names."""
    first = NETWORK_WORDS[settings.deep.networks[0]]  # the best of several networks would be chosen by its result
    with_ct = "Clinical + quantitative CT"
    usual = ((with_ct, "Clinical"), (with_ct, "ILD-GAP"), (first, "Quantitative CT"))
    return settings.horizons.planned or usual


def check_planned(settings: Settings, known: Collection[str]) -> None:
    """Refuse a planned comparison of a model that the study does not make; `known`: plain names of those it makes.

    Raises
    ------
    StudyError
        With the name, the nearest right one and all that are known.
    """
    for name in (name for pair in settings.horizons.planned or () for name in pair):
        if name not in known:
            near = suggested(name, known)
            hint = f"Did you mean {near!r}? " if near else ""
            raise StudyError(
                f"horizons.planned names the model {name!r}, which this study does not make. {hint}"
                f"It makes {', '.join(sorted(known))}."
            )


def planned(evaluation: Evaluation) -> pd.DataFrame:
    """Test the comparisons that were planned before the run, in AUC at the primary horizon.

    They alone have p values, corrected for the number planned, and only they can call a model better than another.
    Everything else is explored, with intervals alone.

    Returns
    -------
    pandas.DataFrame
        One row a comparison: `model`, `against` (plain names), `horizon_years`, `difference` with `ci_low` and
        `ci_high` (95 %), `p` (two-sided, of the same t statistic), `p_holm`, `finding` (one of `FINDINGS`), and the
        counts of `COUNTS`. A comparison without estimate counts among those corrected for.

    References
    ----------
    Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65-70. Bender R, Lange S.
    Adjusting for multiple testing: when and how? J Clin Epidemiol 2001;54:343-9 (confirmation and exploration).
    """
    horizon = evaluation.settings.horizons.primary_years or middle_horizon(evaluation.settings)
    by_plain = {plain: name for name, plain in plain_names(evaluation.predictions).items()}
    rows = []
    for model, against in planned_pairs(evaluation.settings):
        judged, other = evaluation.pair(by_plain.get(model, model), by_plain.get(against, against), horizon)
        samples, freedom = judged.measure("auc") - other.measure("auc"), judged.outcome.degrees_of_freedom
        low, high, _ = interval(samples, freedom)
        row = {"model": model, "against": against, "horizon_years": horizon, "difference": samples[0]}
        rows.append({**row, "ci_low": low, "ci_high": high, "p": two_sided_p(samples, freedom), **judged.counts})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].fillna(1)).where(table["p"].notna())
    table["finding"] = [_finding(row) for row in table.itertuples()]
    return table


def _finding(row: Any) -> str:
    """The one rule for `better`: planned, and p below 0.05 after Holm's correction."""
    if not row.n_scans:
        return NOT_COMPARED
    if too_few(row.n_patients_died, row.n_patients_alive):
        return TOO_SMALL
    if row.p_holm < LEVEL:
        return "better" if row.difference > 0 else "worse"
    return UNDECIDED  # also where there is no p: both rank all scans alike


def attained(evaluation: Evaluation, truth: pd.DataFrame) -> pd.DataFrame:
    """Tell how much of what could be told each model tells: its distance from chance over that of the true risk.

    Returns
    -------
    pandas.DataFrame
        One row a horizon and model, as in a table of performance: `metric` is `attained`, `estimate` is
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


def two_sided_p(samples: Floats, degrees_of_freedom: float) -> float:
    """Two-sided p of "no difference": the level at which `interval` just reaches 0; NaN where it gives none."""
    if not np.isfinite(interval(samples, degrees_of_freedom).low):
        return np.nan
    spread = np.nanstd(samples[1:])
    return float(2 * student_t.sf(abs(samples[0]) / spread, degrees_of_freedom))


def holm(p: pd.Series) -> pd.Series:
    """Correct p values for their number, by Holm's step-down method."""
    ordered = p.sort_values()
    return (ordered * np.arange(len(p), 0, -1)).cummax().clip(upper=1).reindex(p.index)


def reference_model(predictions: pd.DataFrame, settings: Settings) -> str:
    """Name the model to compare with: the study's reference, or the first model when that made no predictions."""
    names = predictions["model"].unique()
    return settings.horizons.reference if settings.horizons.reference in names else str(names[0])


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
