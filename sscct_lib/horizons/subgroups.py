"""The same model on parts of the cohort: one scan a patient, landmarks, and groups of patients.

Whether a model knows when it does not know: whether risks with a larger spread are worse predictions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR
from sscct_lib.horizons import survival
from sscct_lib.horizons.bootstrap import Flags, Floats, Outcome, Resamples, interval
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.curves import TERTILES, tertile_names
from sscct_lib.horizons.evaluate import cohort_outcome, evaluate, judged_risks, study_resamples
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.models import SOURCES
from sscct_lib.horizons.survival import LogRank, clustered_logrank
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import estimate_text, network_of, percent_text, years_text

THIRDS = ("narrow", "middle", "wide")
SPREAD_METRICS = ("observed_expected", "brier")


def models_with_spread(predictions: pd.DataFrame, best: str) -> list[str]:
    """List the models to look at: networks and the best model, where all their risks have a spread.

    A network has one as an ensemble or with dropout; a tabular model from its repeated cross-validation.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    best
        The model that the chapter shows.

    Returns
    -------
    list of str
        In the order of `predictions`.
    """
    has = predictions.groupby("model", sort=False)["risk_sd"].apply(lambda spread: spread.notna().all())
    names = [str(name) for name in has.index[has]]
    return [name for name in names if name == best or network_of(name) in SOURCES["networks"]]


def by_spread(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.DataFrame:
    """Judge a model apart on scans with a narrow, middle and wide spread of risk, at the longest horizon.

    The spread counts on the scale of log-odds, on which it does not grow with the risk by itself.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`, with `risk_sd` of this model.
    cohort
        Schema `COHORT`.
    model
        Which.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        One row a third: `third`, `spread` (median, log-odds), `risk` (mean), `n_scans`, `n_patients`, `n_events`, and
        for each of `METRICS` its estimate, `_low` and `_high`, a 95 % interval by bootstrap of patients.
    """
    own = predictions[predictions["model"] == model]
    own = own[own["horizon_years"] == own["horizon_years"].max()].reset_index(drop=True)
    risk = own["risk"].to_numpy(dtype=float).clip(1e-6, 1 - 1e-6)
    spread = own["risk_sd"].to_numpy(dtype=float) / (risk * (1 - risk))
    third = np.array(THIRDS)[np.searchsorted(np.quantile(spread, [1 / 3, 2 / 3]), spread, side="left")]
    at = settings.model_copy(update={"horizons_years": (float(own["horizon_years"].iloc[0]),)})
    judged = evaluate(PREDICTIONS.validate(own.assign(model=third)), cohort, at, SPREAD_METRICS)
    rows = []
    for name in [one for one in THIRDS if (third == one).any()]:
        found = judged[judged["model"] == name].set_index("metric")
        first = found.iloc[0]
        row = {"third": name, "spread": float(np.median(spread[third == name])), "risk": risk[third == name].mean()}
        row |= {count: int(first[count]) for count in ("n_scans", "n_patients", "n_events")}
        for metric in SPREAD_METRICS:
            ends = found.loc[metric, ["estimate", "ci_low", "ci_high"]]
            row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), ends, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def in_words(table: pd.DataFrame) -> pd.DataFrame:
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
            "Deaths/scans (patients)": [
                f"{row.n_events}/{row.n_scans} ({row.n_patients})" for row in table.itertuples()
            ],
            "Observed : expected": text("observed_expected", 2),
            "Brier score": text("brier", 3),
        }
    ).set_index("Spread of the risk")


LANDMARKS_YEARS = (0.0, 1.0, 2.0)
FEWEST_PATIENTS = 5
"""Patients who died, and patients who lived, that a part must have before anything is estimated in it."""

_SHOWN = ("auc", "observed_expected")
_GROUPS: list[tuple[str, str, list[float], str]] = [
    ("sex", "sex", [], ""),
    ("age_years", "age", [50, 65], "years"),
    ("ssc_subtype", "subtype", [], ""),
    ("fvc_percent", "FVC", [70], "% predicted"),
    ("dense_lung_percent", "dense lung, -600 to -250 HU", [10], "% of the lungs"),
    ("scan_year", "year of the scan", [2010, 2015, 2020], ""),
    ("manufacturer", "scanner", [], ""),
    ("kernel", "kernel", [], ""),
    ("slice_thickness_mm", "slice thickness", [1.5], "mm"),
]


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

    Parameters
    ----------
    cohort
        Schema `COHORT`.

    Yields
    ------
    Part
        All scans; each patient counting once, shared among his or her scans (the limit of drawing one scan a patient
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
    """Divide the cohort by what is known of patients and scanners.

    Parameters
    ----------
    cohort
        Schema `COHORT`; columns that it lacks are left out.

    Yields
    ------
    Part
        By sex, age, skin subtype, FVC, extent of dense lung (a column `dense_lung_percent` that the caller adds),
        calendar year, scanner maker, kernel and slice thickness, and scans for which it is not known.
    """
    followup, ones = cohort["followup_years"].to_numpy(dtype=float), np.ones(len(cohort))
    for column, kind, cuts, unit in _GROUPS:
        if column not in cohort or cohort[column].isna().all():
            continue
        levels = _in_words(cohort[column], cuts, unit) if cuts else cohort[column].astype("string").astype("category")
        for level in levels.cat.categories[levels.cat.categories.isin(levels)]:  # from low to high, or by name
            yield Part(kind, str(level), levels.eq(level).fillna(False).to_numpy(dtype=bool), followup, ones)
        if levels.isna().any():
            yield Part(kind, "not known", levels.isna().to_numpy(dtype=bool), followup, ones)


def _in_words(values: pd.Series, cuts: list[float], unit: str) -> pd.Series:
    edges = [-np.inf, *cuts, np.inf]
    if not unit:  # calendar years, which are whole
        between, below = [f"{low:g} to {high - 1:g}" for low, high in pairwise(cuts)], "before"
    else:
        between, below = [f"{low:g} to below {high:g}" for low, high in pairwise(cuts)], "below"
    words = [f"{text} {unit}".strip() for text in (f"{below} {cuts[0]:g}", *between, f"from {cuts[-1]:g}")]
    return pd.cut(values.astype(float), edges, right=False, labels=words)


def evaluate_parts(
    parts: Iterator[Part], predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings
) -> pd.DataFrame:
    """Judge a model in each part of the cohort, in the bootstrap samples of the whole study.

    Parameters
    ----------
    parts
        From `views` or `groups`.
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`, as given to `views` or `groups`.
    model
        Name of the model.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        One row a part, horizon and metric (`auc`, `observed_expected`): `kind`, `part`, `horizon_years`, `metric`,
        `estimate`, `ci_low`, `ci_high` (95 %), `n_scans`, `n_patients`, `n_events`, `n_unknown`, `note`.
    """
    resamples = study_resamples(cohort, settings)
    risks = judged_risks(predictions, cohort, model, settings)
    rows = []
    for part in parts:
        for horizon, risk, judged in risks:
            inside = part.scans & judged
            outcome = _part_outcome(part, cohort, inside, horizon, resamples, settings)
            counted = {
                "n_scans": int(inside.sum()),
                "n_patients": cohort["patient_id"][inside].nunique(),
                "n_events": int(outcome.died.sum()),
                "n_unknown": int(outcome.unknown.sum()),
            }
            for metric in _SHOWN:
                row = {"kind": part.kind, "part": part.name, "horizon_years": horizon, "metric": metric}
                rows.append({**row, **_measured(risk[inside], outcome, metric), **counted})
    columns = ["kind", "part", "horizon_years", "metric", "estimate", "ci_low", "ci_high", "note"]
    return pd.DataFrame(rows, columns=[*columns, "n_scans", "n_patients", "n_events", "n_unknown"])


def _part_outcome(
    part: Part, cohort: pd.DataFrame, inside: Flags, horizon: float, resamples: Resamples, settings: Settings
) -> Outcome:
    drawn = resamples.of(inside)
    shared = replace(drawn, counts=drawn.counts * part.share[inside])
    scans = cohort[inside].assign(followup_years=part.followup_years[inside])
    return cohort_outcome(scans, horizon, shared, settings.labels)


def _measured(risk: Floats, outcome: Outcome, metric: str) -> dict[str, float | str]:
    n_patients = outcome.degrees_of_freedom + 1
    if n_patients < FEWEST_PATIENTS:
        note = f"too small: {n_patients} patient(s) who died, or who lived; at least {FEWEST_PATIENTS} are needed"
        return {"estimate": np.nan, "ci_low": np.nan, "ci_high": np.nan, "note": note}
    samples = METRICS[metric].measure(risk, outcome)
    low, high, note = interval(samples, outcome.degrees_of_freedom, METRICS[metric].scale)
    return {"estimate": float(samples[0]), "ci_low": low, "ci_high": high, "note": note}


def logrank_between_thirds(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> LogRank:
    """Test whether the thirds by the risk of a model survive alike up to the model's longest horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    settings
        Of the study.

    Returns
    -------
    LogRank
        From `logrank.clustered_logrank`, with patients as clusters.
    """
    horizon, risk, judged = judged_risks(predictions, cohort, model, settings)[-1]
    scans = cohort[judged]
    followup = scans["followup_years"].to_numpy(float)
    died = scans["event_observed"].to_numpy(bool) & (followup <= horizon)
    return clustered_logrank(
        np.minimum(followup, horizon), died, tertile_names(risk[judged]), scans["patient_id"].to_numpy()
    )


def hazard_ratios(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.DataFrame:
    """How much faster patients die at middle and at high risk than at low risk, by Cox regression.

    Errors are robust to several scans of one patient. The last row is for one standard deviation of the logit of the
    risk.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model; thirds by its risk at its longest horizon.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        `comparison`, `hazard_ratio`, `ci_low`, `ci_high` (95 %), `p` (Wald, robust), `n_scans`, `n_patients`,
        `n_events` (deaths within the longest horizon). Thirds are not compared when one has no death; no rows when
        fewer than five patients died.

    References
    ----------
    Lin DY, Wei LJ. The robust inference for the Cox proportional hazards model. J Am Stat Assoc 1989;84:1074-8.
    """
    horizon, risk, judged = judged_risks(predictions, cohort, model, settings)[-1]
    scans, risk = cohort[judged], risk[judged]
    patients, years = scans["patient_id"], scans["followup_years"].clip(upper=horizon).to_numpy()
    died = (scans["event_observed"] & (scans["followup_years"] <= horizon)).to_numpy()
    counts = (len(scans), patients.nunique(), died.sum())
    third = tertile_names(risk)
    columns = ["comparison", "hazard_ratio", "ci_low", "ci_high", "p", "n_scans", "n_patients", "n_events"]
    models = []
    if patients[died].nunique() < FEWEST_PATIENTS:  # robust errors of so few clusters are far too small
        return pd.DataFrame(columns=columns)
    if all(died[third == name].any() for name in TERTILES):
        models.append({name: (third == name).astype(float) for name in TERTILES[1:]})
    if died.any() and np.ptp(risk) > 0:
        models.append({"one standard deviation": (logit(risk) - logit(risk).mean()) / logit(risk).std()})
    rows = []
    for covariates in models:
        found = survival.hazard_ratios(years, died, patients.to_numpy(), covariates)
        for name, row in zip(covariates, found.itertuples(index=False), strict=True):
            words = name if len(covariates) == 1 else f"{name} against {TERTILES[0]}"
            rows.append((words, *row, *counts))
    return pd.DataFrame(rows, columns=columns)
