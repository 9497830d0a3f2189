"""The same model on parts of the cohort: one scan a patient, landmarks, and groups of patients."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from sscct_lib import logrank
from sscct_lib.bootstrap import Flags, Floats, Outcome, Resamples, interval
from sscct_lib.calibration import logit
from sscct_lib.cohort import DAYS_PER_YEAR
from sscct_lib.curves import TERTILES, tertile_names
from sscct_lib.horizons import cohort_outcome, judged_risks, study_resamples
from sscct_lib.logrank import LogRank, clustered_logrank
from sscct_lib.metrics import METRICS
from sscct_lib.study import Settings
from sscct_lib.wording import years_text

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
        found = logrank.hazard_ratios(years, died, patients.to_numpy(), covariates)
        for name, row in zip(covariates, found.itertuples(index=False), strict=True):
            words = name if len(covariates) == 1 else f"{name} against {TERTILES[0]}"
            rows.append((words, *row, *counts))
    return pd.DataFrame(rows, columns=columns)
