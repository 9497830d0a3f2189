"""Models beside each other, beside a reference model, and beside what was published."""

import numpy as np
import pandas as pd

from sscct_lib.bootstrap import Floats, interval, patient_weights
from sscct_lib.horizons import aligned_risk, check_predictions, cohort_outcome, not_estimable
from sscct_lib.metrics import METRICS, estimate_text, years_text
from sscct_lib.study import Settings, StudyError


def side_by_side(performance: pd.DataFrame, metric: str = "auc") -> pd.DataFrame:
    """Lay a metric out as readers compare it: a row a model, a column a horizon.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.
    metric
        Which metric.

    Returns
    -------
    pandas.DataFrame
        Estimates with intervals as text; index `model`, the column names carry the denominators.
    """
    rows = performance[performance["metric"] == metric]
    columns = {}
    for horizon in sorted(rows["horizon_years"].unique()):
        at = rows[rows["horizon_years"] == horizon]
        most = at.sort_values("n_scans").iloc[-1]
        head = f"{years_text(horizon)}: {most['n_events']} of {most['n_scans']} scans, {most['n_unknown']} unknown"
        texts = [estimate_text(*values) for values in at[["estimate", "ci_low", "ci_high"]].to_numpy()]
        columns[head] = pd.Series(texts, index=at["model"])
    return pd.DataFrame(columns).reindex(rows["model"].unique())


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


PUBLISHED = pd.DataFrame(
    [
        ("best of three networks", 1.0, 0.769, 0.769, 2125, 181),
        ("best of three networks", 3.0, 0.801, 0.801, 2125, 326),
        ("best of three networks", 5.0, 0.709, 0.709, 2125, 428),
        ("radiomics, range", 1.0, 0.682, 0.723, 2125, 181),
        ("radiomics, range", 3.0, 0.682, 0.723, 2125, 326),
        ("radiomics, range", 5.0, 0.682, 0.723, 2125, 428),
    ],
    columns=["model", "horizon_years", "auc_low", "auc_high", "n_scans", "n_events"],
)
"""AUC published for another cohort: 2,125 scans of the Northwestern Scleroderma Registry, arXiv 2509.23530. The
networks are ResNet-18, DenseNet-121 and Swin Transformer; the radiomics range is over all horizons. No intervals,
patients or folds were published; scans followed for less than the horizon were presumably counted as alive."""


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
        (95 %), `p` (two-sided, by inverting the percentile interval), `p_holm` (over all rows of the metric),
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
    counts = patient_weights(cohort["patient_id"], settings.horizons.n_bootstrap, settings.seed)
    rows = []
    for horizon in settings.horizons_years:
        known = aligned_risk(valid, cohort, reference, horizon)
        for model in names:
            if model == reference:
                continue
            risk = aligned_risk(valid, cohort, model, horizon)
            both = np.isfinite(risk) & np.isfinite(known)
            outcome = cohort_outcome(cohort[both], horizon, counts[:, both], settings.labels)
            where = {
                "model": model, "horizon_years": horizon,
                "n_scans": int(both.sum()), "n_patients": cohort["patient_id"][both].nunique(),
                "n_events": int(outcome.died.sum()), "n_unknown": int((~outcome.died & ~outcome.alive).sum()),
            }  # fmt: skip
            for metric in metrics:
                samples = np.full(len(counts), np.nan)
                if not not_estimable(outcome):
                    samples = METRICS[metric](risk[both], outcome) - METRICS[metric](known[both], outcome)
                low, high = interval(samples)
                measured = {"difference": samples[0], "ci_low": low, "ci_high": high, "p": two_sided_p(samples)}
                rows.append({"metric": metric, **where, **measured})
    order = ["metric", "model", "horizon_years", "difference", "ci_low", "ci_high", "p"]
    table = pd.DataFrame(rows, columns=[*order, "n_scans", "n_patients", "n_events", "n_unknown"])
    table.insert(len(order), "p_holm", table.groupby("metric")["p"].transform(holm))
    return table.sort_values(["metric", "horizon_years"], kind="stable", ignore_index=True)


def two_sided_p(samples: Floats) -> float:
    """Two-sided p value of "no difference": the level at which the percentile interval just reaches 0.

    Parameters
    ----------
    samples
        The difference in row 0 and its resamples, shape (n_samples + 1,).

    Returns
    -------
    float
        At least 2 / (n_samples + 1); NaN where `bootstrap.interval` gives none.

    References
    ----------
    Davison AC, Hinkley DV. Bootstrap methods and their application. Cambridge University Press 1997, ch. 4-5.
    """
    if not np.isfinite(interval(samples)[0]):
        return np.nan
    resamples = samples[1:][np.isfinite(samples[1:])]
    tail = min((resamples <= 0).sum(), (resamples >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(resamples) + 1)))


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


def differences_side_by_side(table: pd.DataFrame, metric: str = "auc") -> pd.DataFrame:
    """Lay differences out as readers compare them: a row a model, two columns a horizon.

    Parameters
    ----------
    table
        From `differences`.
    metric
        Which metric.

    Returns
    -------
    pandas.DataFrame
        Differences with intervals as text, and corrected p values; index `model`.
    """
    rows = table[table["metric"] == metric]
    columns = {}
    for horizon in sorted(rows["horizon_years"].unique()):
        at = rows[rows["horizon_years"] == horizon].set_index("model")
        texts = [estimate_text(*values) for values in at[["difference", "ci_low", "ci_high"]].to_numpy()]
        columns[years_text(horizon)] = pd.Series(texts, index=at.index)
        columns[f"p_holm, {years_text(horizon)}"] = at["p_holm"].map("{:.2f}".format, na_action="ignore")
    return pd.DataFrame(columns).reindex(rows["model"].unique()).fillna("")


def remarks(performance: pd.DataFrame) -> pd.DataFrame:
    """List what could not be estimated, and models that cover only some scans.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.

    Returns
    -------
    pandas.DataFrame
        `model`, `horizon`, `note`; no rows when there is nothing to remark.
    """
    noted = performance[performance["note"] != ""]
    noted = noted.assign(horizon=[years_text(horizon) for horizon in noted["horizon_years"]])
    return noted[["model", "horizon", "note"]].drop_duplicates(ignore_index=True)


def beside_published(performance: pd.DataFrame) -> pd.DataFrame:
    """Put the best AUC of this study beside what was published for another cohort.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.

    Returns
    -------
    pandas.DataFrame
        One row a horizon: `this cohort`, its `model`, `scans followed by death`, and the same of the other cohort.
    """
    rows = []
    for horizon in sorted(performance["horizon_years"].unique()):
        top = best(performance, horizon)
        row = {"horizon": years_text(horizon), "best AUC here": "not estimable", "model": "", "deaths here": ""}
        if top is not None:
            row["best AUC here"] = estimate_text(top["estimate"], top["ci_low"], top["ci_high"])
            row["model"] = top["model"]
            row["deaths here"] = f"{top['n_events']} of {top['n_scans']} scans ({top['n_unknown']} unknown)"
        for other in PUBLISHED[PUBLISHED["horizon_years"] == horizon].itertuples():
            low, high = f"{other.auc_low:.3f}", f"{other.auc_high:.3f}"
            row[f"another cohort: {other.model}"] = low if low == high else f"{low} to {high}"
            row["deaths there"] = f"{other.n_events} of {other.n_scans:,} scans"
        rows.append(row)
    return pd.DataFrame(rows).fillna("").set_index("horizon")


def best_at_longest(performance: pd.DataFrame, settings: Settings) -> str:
    """Name the model with the highest AUC at the longest horizon at which any can be estimated.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.
    settings
        Of the study.

    Returns
    -------
    str
        The first model when no AUC can be estimated.
    """
    for horizon in sorted(settings.horizons_years, reverse=True):
        top = best(performance, horizon)
        if top is not None:
            return str(top["model"])
    return str(performance["model"].iloc[0])


def headline_numbers(performance: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> dict[str, int | str]:
    """Collect the numbers that prose elsewhere in the book quotes.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.
    cohort
        Schema `COHORT`.
    settings
        Of the study.

    Returns
    -------
    dict
        `n_scans`, `n_patients`, `n_models`, and for each horizon, for example `3y`: `n_deaths_3y`, `n_unknown_3y`,
        `best_model_3y` and `best_auc_3y` (as text with interval).
    """
    numbers: dict[str, int | str] = {
        "n_scans": len(cohort),
        "n_patients": int(cohort["patient_id"].nunique()),
        "n_models": int(performance["model"].nunique()),
    }
    for horizon in settings.horizons_years:
        outcome = cohort_outcome(cohort, horizon, np.ones((1, len(cohort))), settings.labels)
        top = best(performance, horizon)
        name = f"{horizon:g}y"
        numbers[f"n_deaths_{name}"] = int(outcome.died.sum())
        numbers[f"n_unknown_{name}"] = int((~outcome.died & ~outcome.alive).sum())
        numbers[f"best_model_{name}"] = "no model" if top is None else str(top["model"])
        numbers[f"best_auc_{name}"] = (
            "not estimable" if top is None else estimate_text(top["estimate"], top["ci_low"], top["ci_high"])
        )
    return numbers
