"""The same model on parts of the cohort: one scan per patient, landmarks, groups, and thirds by risk or spread."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR
from sscct_lib.horizons import survival
from sscct_lib.horizons.bootstrap import Flags, Floats, interval, proportion_interval
from sscct_lib.horizons.curves import TERTILES, tertile_names
from sscct_lib.horizons.decisions import middle_threshold
from sscct_lib.horizons.evaluation import COUNTS, FEWEST_PATIENTS, Evaluation, Judged, aligned
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.models import SOURCES
from sscct_lib.horizons.survival import RATIO_COUNTS, LogRank, clustered_logrank
from sscct_lib.study.schemas import GROUP
from sscct_lib.study.words import against_texts, estimate_text, feature_name, percent_text, plain_names, years_text

THIRDS = ("narrow", "middle", "wide")
SPREAD_METRICS = ("observed_expected", "brier")
LANDMARKS_YEARS = (0.0, 1.0, 2.0)
FAIRNESS = {"auc": 0, "observed_expected": 1, "flagged": 0}
"""What is compared between a group and the rest, and what it is where both are alike."""
_GROUPS: list[tuple[str, str, list[float], str]] = [
    ("sex", "sex", [], ""),
    ("age_years", "age", [50, 65], "years"),
    ("ssc_subtype", "subtype", [], ""),
    ("fvc_percent", "FVC", [70], "% predicted"),
    ("dense_lung_percent", "HAA (-600 to -250 HU)", [10], "% of the lungs"),
    ("scan_year", "year of the scan", [2010, 2015, 2020], ""),
    ("manufacturer", "scanner", [], ""),
    ("kernel", "kernel", [], ""),
    ("slice_thickness_mm", "slice thickness", [1.5], "mm"),
]


def models_with_spread(evaluation: Evaluation, best: str) -> list[str]:
    """List the models to look at: networks and the best model, where all their risks have a spread.

    A network has one as an ensemble or with dropout; a tabular model from its repeated cross-validation.
    """
    by_model = evaluation.averaged.groupby("model", sort=False)
    has = by_model["risk_sd"].apply(lambda spread: spread.notna().all())
    plain = plain_names(evaluation.predictions)
    return [name for name in map(str, has.index[has]) if name == best or plain[name] in SOURCES["networks"]]


def by_spread(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Judge a model apart on scans with a narrow, middle and wide spread of risk, at its longest horizon.

    Returns
    -------
    pandas.DataFrame
        One row a third: `third`, `spread` (median, log-odds), `risk` (mean), the counts of `COUNTS`, and for each of
        `SPREAD_METRICS` its estimate, `_low` and `_high`, a 95 % interval by bootstrap of patients.
    """
    longest = evaluation.horizons_of(model)[-1]
    risk = longest.risk.clip(1e-6, 1 - 1e-6)
    sd = aligned(evaluation.averaged, longest.scans, model, longest.horizon_years, "risk_sd")
    spread = sd / (risk * (1 - risk))  # of the log-odds, which does not grow with the risk by itself
    third = np.array(THIRDS)[np.searchsorted(np.quantile(spread, [1 / 3, 2 / 3]), spread, side="left")]
    rows = []
    for name in [one for one in THIRDS if (third == one).any()]:
        inside = longest.inside.copy()
        inside[longest.inside] = third == name
        judged = evaluation.at(model, longest.horizon_years, inside)
        row = {"third": name, "spread": float(np.median(spread[third == name])), "risk": risk[third == name].mean()}
        row |= judged.counts
        for metric in SPREAD_METRICS:
            found = judged.estimate(metric)
            row |= {metric: found["estimate"], f"{metric}_low": found["ci_low"], f"{metric}_high": found["ci_high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def spread_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out `by_spread` for readers: a row a third of the scans, by the spread of their risk."""

    def text(metric: str, decimals: int) -> list[str]:
        columns = table[[metric, f"{metric}_low", f"{metric}_high"]].to_numpy(dtype=float)
        return [estimate_text(float(mid), float(low), float(high), decimals) for mid, low, high in columns]

    factors = np.exp(table["spread"].to_numpy(dtype=float))
    return pd.DataFrame(
        {
            "Spread of the risk": [
                f"{third} (odds × or ÷ {factor:.2f})" for third, factor in zip(table["third"], factors, strict=True)
            ],
            "Mean risk": table["risk"].map(percent_text),
            "Followed by death, against known alive": against_texts(table),
            "Observed : expected": text("observed_expected", 2),
            "Brier score": text("brier", 3),
        }
    ).set_index("Spread of the risk")


@dataclass(frozen=True)
class Part:
    """Some scans of a cohort.

    Attributes
    ----------
    kind, name
        What divides the cohort, for example `sex`, and which part this is, for example `female`.
    scans
        Which scans of the cohort it holds, shape (n,).
    followup_years
        Follow-up of every scan of the cohort, from the day on which this part asks for the risk, shape (n,).
    share
        How much each scan counts, shape (n,).
    """

    kind: str
    name: str
    scans: Flags
    followup_years: Floats
    share: Floats


def views(cohort: pd.DataFrame) -> Iterator[Part]:
    """Divide repeated scans in the ways in which a study could have chosen them.

    Yields
    ------
    Part
        All scans; each patient counting once, shared among his or her scans (the limit of drawing one scan per patient
        many times); the first and the last scan of each patient; and landmarks: patients alive and followed at 0, 1
        and 2 years after their first scan, with their latest scan by then and follow-up from the landmark.

    References
    ----------
    Williamson JM, Datta S, Satten GA. Marginal analyses of clustered data when cluster size is informative.
    Biometrics 2003;59:36-42. van Houwelingen HC, Putter H. Dynamic prediction in clinical survival analysis. CRC
    Press 2012.
    """
    followup = cohort["followup_years"].to_numpy(dtype=float)
    everyone, ones = np.ones(len(cohort), dtype=bool), np.ones(len(cohort))
    patient, day = cohort["patient_id"], cohort["scan_day"]
    yield Part("scans", "all scans", everyone, followup, ones)
    # Who has many scans is often sicker, and would count more than others.
    n_scans = patient.groupby(patient).transform("size").to_numpy(dtype=float)
    yield Part("scans", "each patient counts once", everyone, followup, 1 / n_scans)
    first, last = (day.groupby(patient).transform(which) for which in ("min", "max"))
    yield Part("scans", "first scan of each patient", (day == first).to_numpy(), followup, ones)
    yield Part("scans", "last scan of each patient", (day == last).to_numpy(), followup, ones)
    years = ((day - first) / DAYS_PER_YEAR).to_numpy(dtype=float)
    for landmark in LANDMARKS_YEARS:
        known = years <= landmark
        latest = pd.Series(np.where(known, years, -1.0), index=cohort.index).groupby(patient).transform("max")
        left = followup - (landmark - years)
        name = f"latest scan at {years_text(landmark)}, if alive and followed then"
        yield Part("landmark", name, known & (years == latest.to_numpy()) & (left > 0), left, ones)


def groups(cohort: pd.DataFrame) -> Iterator[Part]:
    """Divide the cohort by what is known of patients and scanners, and scans for which it is not known.

    Columns that the cohort lacks are left out; `dense_lung_percent` is one that the caller adds. Categories that the
    study declares are groups too.
    """
    followup, ones = cohort["followup_years"].to_numpy(dtype=float), np.ones(len(cohort))
    declared: list[tuple[str, str, list[float], str]] = [
        (name, feature_name(name), [], "") for name in map(str, cohort) if name.startswith(GROUP)
    ]
    for column, kind, cuts, unit in [*_GROUPS, *declared]:
        if column not in cohort or cohort[column].isna().all():
            continue
        levels = _in_words(cohort[column], cuts, unit) if cuts else cohort[column].astype("string").astype("category")
        for level in levels.cat.categories[levels.cat.categories.isin(levels)]:  # from low to high, or by name
            yield Part(kind, str(level), levels.eq(level).fillna(False).to_numpy(dtype=bool), followup, ones)
        if levels.isna().any():
            yield Part(kind, "not known", levels.isna().to_numpy(dtype=bool), followup, ones)


def _in_words(values: pd.Series, cuts: list[float], unit: str) -> pd.Series:
    """Ranges of a number between cuts, in words."""
    edges = [-np.inf, *cuts, np.inf]
    if not unit:  # calendar years, which are whole
        between, below = [f"{low:g} to {high - 1:g}" for low, high in pairwise(cuts)], "before"
    else:
        between, below = [f"{low:g} to below {high:g}" for low, high in pairwise(cuts)], "below"
    words = [f"{text} {unit}".strip() for text in (f"{below} {cuts[0]:g}", *between, f"from {cuts[-1]:g}")]
    return pd.cut(values.astype(float), edges, right=False, labels=words)


def evaluate_parts(parts: Iterator[Part], evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Judge a model in each part of the cohort, in the bootstrap samples of the whole study.

    Returns
    -------
    pandas.DataFrame
        One row per part and horizon: `kind`, `part`, `horizon_years`, `estimate` (AUC), `ci_low`, `ci_high` (95 %),
        `note`, and the counts of `COUNTS`.
    """
    years = [judged.horizon_years for judged in evaluation.horizons_of(model)]
    rows = []
    for part in parts:
        # Patients are drawn from the whole study, so that parts differ by who is in them and not by chance of drawing.
        seen = evaluation.of(part.scans, part.followup_years, part.share)
        for judged in (seen.at(model, horizon) for horizon in years):
            row = {"kind": part.kind, "part": part.name, "horizon_years": judged.horizon_years}
            rows.append({**row, **judged.estimate("auc"), **judged.counts})
    columns = ["kind", "part", "horizon_years", "estimate", "ci_low", "ci_high", "note"]
    return pd.DataFrame(rows, columns=[*columns, *COUNTS])


def fairness(parts: Iterable[Part], evaluation: Evaluation, model: str) -> pd.DataFrame:
    """Hold a model in each group against the same model in all other scans, in the same bootstrap samples.

    Returns
    -------
    pandas.DataFrame
        One row per group, horizon and measure of `FAIRNESS`: `kind`, `part`, `horizon_years`, `metric`, `estimate` with
        `ci_low` and `ci_high` (95 %), `difference` from the rest (of O:E how many times that of the rest)
        with `difference_low` and `difference_high`, and the counts of `COUNTS`, which are the group's. No estimate of a
        group, and no difference, where either side has too few patients who died or lived.

    References
    ----------
    Collins GS, et al. TRIPOD+AI statement. BMJ 2024;385:e078378 (items 14 and 23a). Chen IY, et al. Ethical machine
    learning in healthcare. Annu Rev Biomed Data Sci 2021;4:123-44.
    """
    years = [judged.horizon_years for judged in evaluation.horizons_of(model)]
    threshold = middle_threshold(evaluation.settings)
    rows = []
    for part in parts:
        group, rest = evaluation.of(part.scans), evaluation.of(~part.scans)
        for horizon in years:
            own, others = group.at(model, horizon), rest.at(model, horizon)
            for metric in FAIRNESS:
                row = {"kind": part.kind, "part": part.name, "horizon_years": horizon, "metric": metric}
                rows.append({**row, **_beside_rest(own, others, metric, threshold), **own.counts})
    return pd.DataFrame(rows)


def _beside_rest(own: Judged, others: Judged, metric: str, threshold: float) -> dict[str, float]:
    samples, of_rest = (_samples(judged, metric, threshold) for judged in (own, others))
    n_patients, freedom = own.counts["n_patients"], own.outcome.degrees_of_freedom
    if metric == "flagged":
        low, high = proportion_interval(samples, n_patients)
    else:
        low, high, _ = interval(samples, freedom, METRICS[metric].scale)
    is_ratio = FAIRNESS[metric] == 1
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = samples / of_rest if is_ratio else samples - of_rest
    found = interval(gap, min(freedom, others.outcome.degrees_of_freedom), "log" if is_ratio else "plain")
    ends = {"difference": gap[0], "difference_low": found.low, "difference_high": found.high}
    return {"estimate": samples[0], "ci_low": low, "ci_high": high, **ends}


def _samples(judged: Judged, metric: str, threshold: float) -> Floats:
    """Measure the scans of a group in every sample; `flagged`: the share of scans whose risk reaches the threshold."""
    counts = judged.outcome.counts
    if not judged.estimable:
        return np.full(len(counts), np.nan)
    if metric != "flagged":
        return judged.measure(metric)
    with np.errstate(invalid="ignore"):  # a sample without anybody of the group
        return judged.over_repeats(lambda risk, _: counts[:, risk >= threshold].sum(axis=1) / counts.sum(axis=1))


def logrank_between_thirds(evaluation: Evaluation, model: str) -> LogRank:
    """Test whether the thirds by a model's risk survive alike up to its longest horizon, with patients as clusters."""
    judged = evaluation.horizons_of(model)[-1]
    years, died = _up_to(judged)
    return clustered_logrank(years, died, tertile_names(judged.standing), judged.scans["patient_id"].to_numpy())


def _up_to(judged: Judged) -> tuple[Floats, Flags]:
    """Follow-up that ends at the horizon, and whether it ends with death."""
    followup = judged.scans["followup_years"].to_numpy(dtype=float)
    died = judged.scans["event_observed"].to_numpy(dtype=bool) & (followup <= judged.horizon_years)
    return np.minimum(followup, judged.horizon_years), died


def hazard_ratios(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """How much faster patients die at middle and at high risk than at low risk, by Cox regression.

    Thirds are by `Judged.standing` at the model's longest horizon. The last row is for one standard deviation of it.

    Returns
    -------
    pandas.DataFrame
        `comparison`, `hazard_ratio`, `ci_low`, `ci_high` (95 %), `p` (Wald, robust), `n_scans`, `n_patients`,
        `n_events` (deaths within the longest horizon), `n_patients_died`. Thirds are not compared when one has no
        death; no rows when fewer than five patients died.

    References
    ----------
    Lin DY, Wei LJ. The robust inference for the Cox proportional hazards model. J Am Stat Assoc 1989;84:1074-8.
    """
    judged = evaluation.horizons_of(model)[-1]
    standing, patients = judged.standing, judged.scans["patient_id"]
    years, died = _up_to(judged)
    third = tertile_names(standing)
    columns = ["comparison", "hazard_ratio", "ci_low", "ci_high", "p", *RATIO_COUNTS]
    models = []
    if patients[died].nunique() < FEWEST_PATIENTS:
        return pd.DataFrame(columns=columns)
    if all(died[third == name].any() for name in TERTILES):
        models.append({name: (third == name).astype(float) for name in TERTILES[1:]})
    if np.ptp(standing) > 0:
        models.append({"one standard deviation": standing / standing.std()})
    counts = (len(standing), patients.nunique(), died.sum(), patients[died].nunique())
    rows = []
    for covariates in models:
        found = survival.hazard_ratios(years, died, patients.to_numpy(), covariates)
        for name, row in zip(covariates, found.itertuples(index=False), strict=True):
            words = name if len(covariates) == 1 else f"{name} against {TERTILES[0]}"
            rows.append((words, *row, *counts))
    return pd.DataFrame(rows, columns=columns)
