"""Single patients: what became of others with about the same risk, and where the risks were most wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.horizons.bootstrap import proportion_interval
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.curves import risk_states
from sscct_lib.horizons.evaluation import Evaluation, cohort_outcome, study_resamples
from sscct_lib.horizons.metrics import observed_risk
from sscct_lib.study.disclosure import count_texts, quarters_text
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import percent_text, years_text

N_SIMILAR = 20
CALIPER = 2.0  # times the odds, up or down, that still count as about the same risk
N_WRONG = 10
FEW_DENSE = 0.05  # share of the lungs from -600 to -250 HU below which little disease is to be seen
MUCH_DENSE = 0.2
THICK_MM = 3.0


def middle_horizon(settings: Settings) -> float:
    """Give the horizon that pages on single patients sort and compare by: the middle one."""
    horizons = sorted(settings.horizons_years)
    return horizons[len(horizons) // 2]


def similar_patients(evaluation: Evaluation, model: str, risk: float, patient_id: str | None = None) -> pd.DataFrame:
    """Find the patients whose risk at the middle horizon is nearest, one scan each.

    Parameters
    ----------
    risk
        Of the scan in question, at the middle horizon.
    patient_id
        The scan's own patient, who is left out; None: a patient outside the study.

    Returns
    -------
    pandas.DataFrame
        Rows of the cohort with `risk`, the nearest first; at most `N_SIMILAR` patients, and only those whose odds are
        within `CALIPER` of the scan's: at the ends of the scale, the nearest may be far.

    References
    ----------
    Austin PC. Optimal caliper widths for propensity-score matching. Pharm Stat 2011;10:150-61 (calipers on the logit).
    """
    risks = evaluation.risk(model, middle_horizon(evaluation.settings))
    known = evaluation.cohort.assign(risk=risks).dropna(subset="risk")
    others = known[known["patient_id"] != patient_id]
    distance = np.abs(logit(others["risk"].to_numpy(dtype=float)) - logit(np.array([risk])))
    order = distance.argsort(kind="stable")[: int((distance <= np.log(CALIPER)).sum())]
    # One scan each: several of one patient would tell the same life again.
    nearest: pd.DataFrame = others.iloc[order].drop_duplicates("patient_id").head(N_SIMILAR)
    return nearest.reset_index(drop=True)


def outcomes(similar: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Tell what became of similar patients at each horizon.

    Returns
    -------
    pandas.DataFrame
        One row per horizon: `horizon_years`; `died`, `alive` and `unknown` (patients); `observed`, the Kaplan-Meier
        risk, with `ci_low` and `ci_high` (95 %, by bootstrap; NaN where nobody is followed that long).
    """
    rows = []
    for horizon in sorted(settings.horizons_years) if len(similar) else ():
        outcome = cohort_outcome(similar, horizon, study_resamples(similar, settings), settings.labels)
        samples = observed_risk(outcome) if outcome.reaches_horizon else np.full(1, np.nan)
        low, high = proportion_interval(samples, int((~outcome.unknown).sum()))
        counts = {name: int(getattr(outcome, name).sum()) for name in ("died", "alive", "unknown")}
        rows.append({"horizon_years": horizon, **counts, "observed": samples[0], "ci_low": low, "ci_high": high})
    names = ["horizon_years", "died", "alive", "unknown", "observed", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=names)


def in_words(found: pd.DataFrame) -> str:
    """Say the outcomes of similar patients in a sentence, with counts."""
    if found.empty:
        return "No other patient has about the same risk."
    shown = in_texts(found)
    columns = (shown[name] for name in ("horizon_years", "died", "alive", "unknown"))
    parts = [
        f"within {years_text(horizon)} {died} had died, {alive} lived and {unknown} had not been followed that long"
        for horizon, died, alive, unknown in zip(*columns, strict=True)
    ]
    n = shown["patients"].iloc[0]
    return f"Of the {n} other patients with about the same risk (odds within {CALIPER:g} times): {'; '.join(parts)}."


def in_texts(found: pd.DataFrame) -> pd.DataFrame:
    """Write the counts of `outcomes` and their sum, `patients`.

    Where one is small, there is no observed risk, which would give it away.
    """
    names = ["patients", "died", "alive", "unknown"]
    counts = [[sum(row), *row] for row in found[names[1:]].to_numpy()]
    texts = [count_texts(row, [(0, (1, 2, 3))], known=[0]) for row in counts]
    shown = pd.DataFrame(texts, columns=names, index=found.index, dtype=object)
    told = shown["died"].str.isdecimal() & shown["alive"].str.isdecimal()
    observed = found[["observed", "ci_low", "ci_high"]].where(told)
    return pd.concat([found[["horizon_years"]], shown, observed], axis=1)


def most_wrong(evaluation: Evaluation, lungs: pd.DataFrame, model: str, horizon_years: float) -> pd.DataFrame:
    """List the predictions that what happened contradicts most: it had the lowest chance by the risk, below one half.

    Returns
    -------
    pandas.DataFrame
        At most `N_WRONG` patients, one scan each, the most surprising first: index `scan`; `risk`, `what happened`, its
        `chance by the risk`, `what is known that may tell why`, and whether anything is (`explained`). Scans of unknown
        state are never wrong.
    """
    states = risk_states(evaluation, model)
    at = states[states["horizon_years"] == horizon_years].drop(columns=["horizon_years", "patient_id"])
    known = at.merge(evaluation.cohort, on="scan_id").merge(
        lungs[["scan_id", "verdict", "findings", "high_attenuation_share"]], on="scan_id", how="left"
    )
    known = known[known["state"].isin(["died", "alive"])]
    known = known.assign(chance=known["risk"].where(known["state"] == "died", 1 - known["risk"]))
    ordered = known.sort_values(["chance", "scan_id"]).drop_duplicates("patient_id")
    wrong = ordered[ordered["chance"] < 0.5].head(N_WRONG)
    why = [_why(row, horizon_years) for row in wrong.to_dict("records")]
    return pd.DataFrame(
        {
            "scan": wrong["scan_id"],
            "risk": wrong["risk"].map(percent_text),
            "what happened": [_happened(row, horizon_years) for row in wrong.to_dict("records")],
            "chance by the risk": wrong["chance"].map(percent_text),
            "what is known that may tell why": ["; ".join(said) or "nothing that this study records" for said in why],
            "explained": [bool(said) for said in why],
        }
    ).set_index("scan")


def _happened(row: Mapping[Any, Any], horizon_years: float) -> str:
    if row["state"] == "died":
        return f"died after {quarters_text(float(row['followup_years']))}"
    return f"alive after {years_text(horizon_years)}"


def _why(row: Mapping[Any, Any], horizon_years: float) -> list[str]:
    """Say what is known of a scan that could explain a wrong risk; it proves nothing."""
    died, years = row["state"] == "died", float(row["followup_years"])
    dense = float(row["high_attenuation_share"])
    said = []
    if died and row.get("cause_of_death") == "other":
        said.append("did not die of the lungs")
    if died and dense < FEW_DENSE:
        said.append(f"little HAA ({percent_text(dense)})")
    if not died and dense > MUCH_DENSE:
        said.append(f"much HAA ({percent_text(dense)})")
    if died and years > 0.9 * horizon_years:
        said.append("died just before the horizon")
    if not died and bool(row["event_observed"]):
        said.append(f"died later, after {quarters_text(years)}")
    if row["verdict"] == "review":
        said.append(f"lung mask to be reviewed: {row['findings']}")
    missing = [words for name, words in (("fvc_percent", "FVC"), ("dlco_percent", "DLCO")) if pd.isna(row.get(name))]
    if missing:
        said.append(f"{' and '.join(missing)} not known")
    thickness = row.get("slice_thickness_mm")
    if pd.notna(thickness) and float(thickness) > THICK_MM:
        said.append(f"thick slices ({float(thickness):g} mm)")
    return said


def counts_wrong(wrong: pd.DataFrame) -> dict[str, int]:
    """Count, for the text, how many of the most wrong predictions have nothing recorded that may tell why."""
    return {"n_wrong": len(wrong), "n_wrong_unexplained": int((~wrong["explained"].astype(bool)).sum())}
