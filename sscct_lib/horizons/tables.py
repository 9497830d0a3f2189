"""The tables of notebook 05 as readers see them, all text: estimates with 95 % intervals, words for names and units.

A table "side by side" has a row per model, part or way and a column per horizon.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.horizons.evaluate import best
from sscct_lib.horizons.evaluation import FEWEST_PATIENTS, TOO_SMALL, Evaluation, too_few
from sscct_lib.horizons.planned import FINDINGS, NOT_COMPARED, UNDECIDED
from sscct_lib.horizons.survival import LogRank
from sscct_lib.study.disclosure import HIDDEN, count_text, count_texts, is_small, of_patients
from sscct_lib.study.words import (
    METRIC_WORDS,
    NOT_ESTIMABLE,
    against_text,
    against_texts,
    estimate_text,
    p_phrase,
    p_text,
    parts_texts,
    percent_text,
    scans_of,
    states_text,
    years_text,
)

DENOMINATORS = "followed by death, against known alive"
TOO_FEW = f"Fewer than {FEWEST_PATIENTS} patients died, or are known to have lived: too small to tell."
NOISE_WORDS = {
    "sd_logit": "noise: standard deviation of the logit",
    "factor_of_odds": "times that the odds must rise or fall to be beyond it",
    "share_beyond": "share of all changes that are beyond it",
}
BESIDE_RIGHT = {"ici": "of this model", "ici_if_right": "of a right model"}
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


def by_horizon(rows: pd.DataFrame, index: Sequence[str], cell: Callable[[Any], str]) -> pd.DataFrame:
    """Lay rows out with a column per horizon; `index` names the columns that name a row, `cell` writes one."""
    columns = {}
    for years in sorted(rows["horizon_years"].unique()):
        at = rows[rows["horizon_years"] == years]
        names = pd.MultiIndex.from_frame(at[list(index)]) if len(index) > 1 else pd.Index(at[index[0]])
        columns[years_text(years)] = pd.Series([cell(row) for row in at.itertuples()], index=names)
    return pd.DataFrame(columns)


def denominators(row: Any) -> str:
    """Write how many scans and patients a horizon has of each state, and whether these are too few to tell anything."""
    small = f"; {TOO_SMALL}" if few(row) else ""
    unknown = states_text(row)[2]
    return f"{against_text(row)}; {'some' if unknown == HIDDEN else unknown} unknown{small}"


def few(row: Any) -> bool:
    """Whether too few patients died, or are known to have lived, for anything to be estimated, or to be told."""
    return too_few(row.n_patients_died, row.n_patients_alive) or any(
        map(is_small, (row.n_patients_died, row.n_patients_alive))
    )


def _estimate(row: Any, decimals: int = 2) -> str:
    """Write an estimate, or that too few patients died or lived; the book greys what says so."""
    small = absent(row) == TOO_SMALL
    return TOO_SMALL if small else estimate_text(row.estimate, row.ci_low, row.ci_high, decimals)


def absent(row: Any) -> str:
    """What stands where an estimate would: nobody was judged, or too few patients died or lived."""
    return TOO_SMALL if row.n_scans and few(row) else NOT_ESTIMABLE


def side_by_side(performance: pd.DataFrame, metric: str = "auc", decimals: int = 2) -> pd.DataFrame:
    """Lay a metric out as readers compare it: a row per model, a column per horizon.

    The first row, `DENOMINATORS`, says how many scans of how many patients were followed by death, and how many are
    known not to be; a model that judged other scans says so in its cell. Behind the interval, the standard deviation
    between splits of the patients.
    """
    rows = performance[performance["metric"] == metric]
    most = rows.sort_values("n_scans").drop_duplicates("horizon_years", keep="last").assign(model=DENOMINATORS)
    n_scans = most.set_index("horizon_years")["n_scans"]

    shown = by_horizon(rows, ["model"], lambda row: " ".join(cell_parts(row, decimals) + own_count(row, n_scans)))
    counted = by_horizon(most, ["model"], denominators)
    return pd.concat([counted, shown]).reindex([DENOMINATORS, *rows["model"].unique()]).rename_axis("model")


def cell_parts(row: Any, decimals: int = 2) -> list[str]:
    """Write an estimate with its interval and, where there are several splits of the patients, its spread over them."""
    spread = getattr(row, "sd_splits", np.nan)
    return [_estimate(row, decimals), *([f"±{spread:.{decimals}f}"] if np.isfinite(spread) else [])]


def own_count(row: Any, n_scans: "pd.Series[int]") -> list[str]:
    """Say on which scans an estimate rests where the table's head, by horizon, has another number."""
    return [] if pd.isna(row.estimate) or row.n_scans == n_scans[row.horizon_years] else [f"on {against_text(row)}"]


def instability(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Write by model (`curves.instability`) how far its risks of a scan lie apart: median of all scans, worst tenth."""
    rows = []
    for model, table in found.items():
        distance = (table["other"] - table["risk"]).abs()
        of_scan = distance.groupby([table["horizon_years"], table["scan_id"]]).mean().groupby("horizon_years")
        each = pd.DataFrame({"middle": of_scan.median(), "most": of_scan.quantile(0.9)})
        rows.append(each.reset_index().assign(model=model))
    if not rows:
        return pd.DataFrame()
    words = "{:.1f}, in one scan of ten above {:.1f}".format
    return by_horizon(pd.concat(rows), ["model"], lambda row: words(100 * row.middle, 100 * row.most))


def thresholds_side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Lay `decisions.threshold_table` out: a row per horizon and threshold, what happens of 100."""
    names = {
        "flagged": "flagged of 100",
        "sensitivity": "deaths found of 100",
        "specificity": "survivors spared of 100",
        "ppv": "die of 100 flagged",
        "npv": "live of 100 not flagged",
        "net_benefit": "net benefit of 100, more than flagging nobody",
        "gain": "more than flagging everybody",
    }
    rows = []
    for years, threshold in table[["horizon_years", "threshold"]].drop_duplicates().to_numpy():
        at = table[(table["horizon_years"] == years) & (table["threshold"] == threshold)].set_index("measure")
        row = {"horizon": years_text(years), "flagged from": percent_text(threshold)}
        for measure, words in names.items():
            estimate, low, high = (100 * at.loc[measure, name] for name in ("estimate", "ci_low", "ci_high"))
            text = estimate_text(estimate, low, high, decimals=1 if "than" in words else 0)
            of = at.loc[measure]
            row[words] = TOO_SMALL if absent(of) == TOO_SMALL else HIDDEN if not_told(of, measure) else text
        rows.append(row)
    return pd.DataFrame(rows).set_index(["horizon", "flagged from"])


def not_told(row: Any, measure: str) -> bool:
    """Whether a measure of `decisions.threshold_table` would give a small count away: all but the share flagged do."""
    return measure != "flagged" and is_small(row["fewest"])


def parts_side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Lay parts of the cohort (`subgroups.evaluate_parts`) out, each with its scans and patients of either state."""
    return by_horizon(table, ["kind", "part"], lambda row: f"{_estimate(row)}; {against_text(row)}")


def fairness_in_words(table: pd.DataFrame, horizon_years: float) -> pd.DataFrame:
    """Lay `subgroups.fairness` out at a horizon: a row per group, each measure beside its difference from the rest."""
    words = {
        "auc": ("AUC", "AUC less that of the rest"),
        "observed_expected": ("O:E", "times that of the rest"),
        "flagged": ("share flagged", "share less that of the rest"),
    }
    at = table[table["horizon_years"] == horizon_years]
    columns = {}
    for metric, heads in words.items():
        rows = at[at["metric"] == metric].set_index(["kind", "part"])
        for name, head in zip(("estimate", "difference"), heads, strict=True):
            low, high = ("ci_low", "ci_high") if name == "estimate" else ("difference_low", "difference_high")
            shown = rows.assign(estimate=rows[name], ci_low=rows[low], ci_high=rows[high])
            columns[head] = [_estimate(row) for row in shown.itertuples()]
    counts = rows.groupby(level="kind", sort=False)
    columns[DENOMINATORS] = [text for _, parts in counts for text in against_texts(parts)]
    return pd.DataFrame(columns, index=rows.index)


def ways_of_counting(performance: pd.DataFrame, model: str) -> pd.DataFrame:
    """Put the AUC of a model beside what ways of counting that ignore censoring give: a row per way."""
    ways = {
        "auc": "weighted for censoring",
        "auc_complete_cases": "known states only",
        "auc_presumed_alive": "unknown counted as alive",
    }
    rows = performance[(performance["model"] == model) & performance["metric"].isin(ways)]
    return by_horizon(rows, ["metric"], _estimate).reindex(list(ways)).rename(index=ways).rename_axis(None)


def beside_published(performance: pd.DataFrame) -> pd.DataFrame:
    """Put the best AUC of this study beside what was published for another cohort: a row per horizon."""
    rows = []
    for horizon in sorted(performance["horizon_years"].unique()):
        top = best(performance, horizon)
        row = {"horizon": years_text(horizon), "best AUC here": "not estimable", "model": "", "deaths here": ""}
        if top is not None:
            row["best AUC here"] = estimate_text(top["estimate"], top["ci_low"], top["ci_high"])
            row["model"] = top["model"]
            row["deaths here"] = against_text(top)
        for other in PUBLISHED[PUBLISHED["horizon_years"] == horizon].itertuples():
            low, high = f"{other.auc_low:.3f}", f"{other.auc_high:.3f}"
            row[f"AUC there: {other.model}"] = low if low == high else f"{low} to {high}"
            row["deaths there"] = f"{other.n_events} of {other.n_scans:,} scans"
        rows.append(row)
    return pd.DataFrame(rows).fillna("").set_index("horizon")


def differences_side_by_side(table: pd.DataFrame, metric: str = "auc") -> pd.DataFrame:
    """Lay `comparison.differences` out: a row per model, a column per horizon."""
    rows = table[table["metric"] == metric]
    shown = by_horizon(rows.rename(columns={"difference": "estimate"}), ["model"], _estimate)
    return shown.reindex(rows["model"].unique()).fillna("")


def planned_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Lay `planned.compare` out: a row per comparison, with its p values, what is found and on whom it rests."""
    rows: list[Any] = list(table.rename(columns={"difference": "estimate"}).itertuples())
    return pd.DataFrame(
        {
            "planned": [f"{row.model} against {row.against}" for row in rows],
            f"AUC at {years_text(rows[0].horizon_years)}, difference": [_estimate(row) for row in rows],
            "p": ["" if pd.isna(row.p) else p_text(row.p) for row in rows],
            f"p (Holm, of {len(rows)})": ["" if pd.isna(row.p_holm) else p_text(row.p_holm) for row in rows],
            "the first is": [row.finding for row in rows],
            DENOMINATORS: [denominators(row) if row.n_scans else "" for row in rows],
        }
    ).set_index("planned")


def planned_sentences(table: pd.DataFrame) -> str:
    """Say of each planned comparison what it found; the clearest first."""
    words = {
        "better": "{0} ranked scans better than {1}",
        "worse": "{0} ranked scans worse than {1}",
        UNDECIDED: "{0} could not be told apart from {1}",
        TOO_SMALL: "Too few patients died, or are known to have lived, to compare {0} with {1}",
        NOT_COMPARED: "{0} was not compared with {1}: a model is not in this run",
    }
    rows: list[Any] = sorted(table.itertuples(), key=lambda row: FINDINGS.index(row.finding))
    said = [words[row.finding].format(row.model, row.against) + _by_how_much(row) for row in rows]
    shown = [] if table["finding"].isin(FINDINGS[:2]).any() else ["No model was shown to be better than another"]
    return "".join(f"{sentence}. " for sentence in [*shown, *said]).strip()


def _by_how_much(row: Any) -> str:
    """The difference in AUC behind a comparison that found something, or could have."""
    if row.finding in (TOO_SMALL, NOT_COMPARED):
        return ""
    by = f"difference in AUC {estimate_text(row.difference, row.ci_low, row.ci_high)}"
    return f": {by}{'' if row.finding == UNDECIDED else f', {p_phrase(row.p_holm)}'}"


def hazards_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Write hazard ratios with their intervals, p values and counts; the first column names the row."""
    ratios = [estimate_text(*values) for values in table[["hazard_ratio", "ci_low", "ci_high"]].to_numpy()]
    shown = table.drop(columns=["hazard_ratio", "ci_low", "ci_high"]).set_index(table.columns[0])
    shown.insert(0, "hazard ratio", ratios)
    shown["p"] = shown["p"].map(p_text, na_action="ignore")
    shown = shown.assign(**_ratio_counts(table))
    return shown.rename(columns=lambda name: name.removeprefix("n_").replace("_", " ")).fillna("")


def thirds_in_words(test: LogRank, ratios: pd.DataFrame) -> str:
    """Say inside a figure how thirds by risk differ (`subgroups.logrank_between_thirds`, `subgroups.hazard_ratios`)."""
    high = ratios.loc[ratios["comparison"] == "high risk against low risk", ["hazard_ratio", "ci_low", "ci_high"]]
    said = [f"high against low risk: hazard ratio {estimate_text(*ratio)}" for ratio in high.to_numpy(dtype=float)]
    said += [] if np.isnan(test.p) else [f"log-rank {p_phrase(test.p)}"]
    return "\n".join(said)


def _ratio_counts(table: pd.DataFrame) -> dict[str, list[str]]:
    """Write the counts of a table of hazard ratios by column: of the lost, of causes, or of all deaths."""
    if "n_lost" in table:
        n, lost = table["n_patients"].to_numpy(), table["n_lost"].to_numpy()
        known, left = zip(*(_lost(*row, n.max()) for row in zip(n, lost, strict=True)), strict=True)
        return {"n_patients": [*known], "n_lost": [*left]}
    of = "n_patients_with_event" if "n_patients_with_event" in table else "n_patients_died"
    events = parts_texts([*table["n_events"]], [*table[of]]) if of == "n_patients_with_event" else [
        (of_patients(*row), count_text(row[1])) for row in table[["n_events", of]].to_numpy()
    ]  # fmt: skip
    scans, patients = ([text[part] for text in events] for part in (0, 1))
    everyone = table[["n_scans", "n_patients"]].to_numpy()
    whole = {"n_scans": [of_patients(*row) for row in everyone], "n_patients": [count_text(row[1]) for row in everyone]}
    return whole | {"n_events": scans, of: patients}


def _lost(n_known: int, n_lost: int, everyone: int) -> list[str]:
    """Write of how many patients a value is known, and how many of these were lost; the others died, or lack it."""
    counts = [n_known, n_lost, n_known - n_lost, everyone, everyone - n_known]
    return count_texts(counts, [(0, (1, 2)), (3, (0, 4))], known=[3])[:2]


def headline_numbers(evaluation: Evaluation, performance: pd.DataFrame) -> dict[str, int | str]:
    """Collect the numbers that prose elsewhere in the book quotes.

    Returns
    -------
    dict
        `study_title`, `n_scans`, `n_patients`, `n_models`; `deaths`, a phrase with the scans followed by death within
        every horizon, and their patients; and for each horizon, for example `3y`: `best_model_3y` and `best_auc_3y` (as
        text with interval).
    """
    alone, settings = evaluation.without_resamples(), evaluation.settings
    n_patients = int(evaluation.cohort["patient_id"].nunique())
    numbers: dict[str, int | str] = {
        "study_title": settings.title,
        "n_scans": of_patients(len(evaluation.cohort), n_patients),
        "n_patients": count_text(n_patients),
        "n_models": int(performance["model"].nunique()),
    }
    deaths = []
    for horizon in settings.horizons_years:
        counts = pd.Series(alone.outcome(horizon).denominators)
        top = best(performance, horizon)
        name = f"{horizon:g}y"
        died, _, unknown = states_text(counts)
        died = scans_of(died, count_text(counts["n_patients_died"]))
        deaths.append(f"{died} within {years_text(horizon)} ({'some' if unknown == HIDDEN else unknown} unknown)")
        numbers[f"best_model_{name}"] = "no model" if top is None else str(top["model"])
        numbers[f"best_auc_{name}"] = (
            "not estimable" if top is None else estimate_text(top["estimate"], top["ci_low"], top["ci_high"])
        )
    return numbers | {"deaths": ", ".join(deaths)}


def mean_risks(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the predicted risks over scans: a row per model, a column per horizon, and the number of scans.

    Only scans count that a model predicted at all of its horizons: over different scans, a mean may fall with time.
    """
    n_horizons = predictions.groupby("model")["horizon_years"].transform("nunique")
    of_scan = predictions.groupby(["model", "scan_id"])["horizon_years"].transform("nunique")
    predictions = predictions[of_scan == n_horizons]
    risks = predictions.pivot_table(index="model", columns="horizon_years", values="risk")
    heads = [f"{years_text(years)}, mean risk" for years in risks.columns.to_numpy(dtype=float)]
    shown = risks.map(_share_or_none).set_axis(heads, axis=1)
    return shown.assign(scans=predictions.groupby("model")["scan_id"].nunique().map(count_text))


def _share_or_none(share: float) -> str:
    return "not predicted" if pd.isna(share) else percent_text(share, decimals=1)


def noise(table: pd.DataFrame) -> pd.DataFrame:
    """Write `trajectories.noise`: a row per measure, with pairs of scans and patients."""
    texts = [estimate_text(*values) for values in table[["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)]
    words = table["measure"].map(NOISE_WORDS).rename("measure")
    found = table[["n_pairs", "n_patients"]].to_numpy()
    counts = {"pairs of scans": [of_patients(*row) for row in found], "patients": [count_text(n) for _, n in found]}
    return pd.DataFrame({"estimate": texts, **counts}, index=pd.Index(words))


def remarks(performance: pd.DataFrame) -> pd.DataFrame:
    """List what could not be estimated, and models that cover only some scans.

    Returns
    -------
    pandas.DataFrame
        `model`, `horizon`, `measures` in words, `note`; no rows when there is nothing to remark. What holds for several
        models, or at several horizons, is one row.
    """
    noted = performance[performance["note"] != ""]
    columns = ["model", "horizon", "measures", "note"]
    metrics = list(performance["metric"].unique())
    rows = []
    for model, years, note in noted[["model", "horizon_years", "note"]].drop_duplicates().to_numpy():
        same = (noted["model"] == model) & (noted["horizon_years"] == years) & (noted["note"] == note)
        at = noted[same]
        rows.append((model, years_text(years), _measures(list(at["metric"]), metrics), note))
    table = pd.DataFrame(rows, columns=columns)
    if table.empty:
        return table
    table = _folded(table, "model", performance["model"].nunique())
    return _folded(table, "horizon", performance["horizon_years"].nunique())


def _folded(table: pd.DataFrame, name: str, n_all: int) -> pd.DataFrame:
    """Make one row of rows that differ in one column alone."""

    def joined(values: "pd.Series[str]") -> str:
        return f"every {name}" if len(values) == n_all and n_all > 1 else ", ".join(values)

    others = [column for column in table.columns if column != name]
    folded = table.groupby(others, sort=False)[name].agg(joined).reset_index()
    return folded[list(table.columns)]


def _measures(noted: list[str], known: list[str]) -> str:
    """Name metrics, by those that are left out where these are fewer."""
    left = [name for name in known if name not in noted]
    if not left:
        return "all"
    if len(left) < len(noted):
        return f"all but {_joined(left)}"
    return _joined(noted)


def _joined(metrics: list[str]) -> str:
    return ", ".join(METRIC_WORDS.get(name, name) for name in metrics)
