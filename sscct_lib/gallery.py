"""Which scans the book shows, chosen by rules that are fixed before anybody looks."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.cohort import label_name
from sscct_lib.overlays import spread, worst_first
from sscct_lib.stacking import SOURCES, STACKED
from sscct_lib.study import Settings
from sscct_lib.wording import years_text

RIGHT = "Most confident and right"
WRONG = "Most confident and wrong"
UNCERTAIN = "Models disagree most"
EXPLAINED = "What the risk rests on"
MASKS = "Masks that failed or are odd"
OVER_TIME = "One patient over time"
RULES = {
    RIGHT: "Of the scans followed by death within the horizon, the one with the highest risk; of those whose patient "
    "outlived it, the one with the lowest.",
    WRONG: "Of the scans whose patient outlived the horizon, the one with the highest risk; of those followed by death "
    "within it, the one with the lowest.",
    UNCERTAIN: "The scans whose risks differ most from model to model, one scan a patient.",
    EXPLAINED: "The scans with the highest risk of those whose risks were explained voxel by voxel.",
    MASKS: "Scans that quality assurance removed or marked for review: failures first, then those with most findings.",
    OVER_TIME: "The patient with most scans, of those who died where there are any: the first, the last, and scans "
    "evenly in between.",
}
"""The parts of the gallery, in the order of the page, and what is chosen."""
N_UNCERTAIN, N_EXPLAINED, N_MASKS, N_OVER_TIME = 2, 2, 3, 4
COLUMNS = [
    "rule",
    "scan_id",
    "patient_id",
    "risk",
    "lowest",
    "highest",
    "horizon_years",
    "state",
    "verdict",
    "findings",
]


def choose(
    predictions: pd.DataFrame,
    lungs: pd.DataFrame,
    cohort: pd.DataFrame,
    settings: Settings,
    explained: Collection[str] = (),
) -> pd.DataFrame:
    """Choose the scans of the gallery: 15 at most, however large the study is.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`; a scan's risk is the stacked one, or where there is none the mean over the clinical
        model, radiomics and the networks, or over all models where these are not among them. May be empty.
    lungs
        Schema `LUNGS`. May be empty.
    cohort
        Schema `COHORT`.
    settings
        Of the study: horizons.
    explained
        Ids of the scans whose risks were explained voxel by voxel.

    Returns
    -------
    pandas.DataFrame
        One row a rule and scan, in the order of `RULES`: `rule`, `scan_id`, `patient_id`; `risk`, `lowest` and
        `highest` of the models at `horizon_years`, empty where none predicted; `state`, in words; `verdict` and
        `findings` of its lung mask. A rule that nothing fulfils has no rows.
    """
    horizon = _shown_horizon(cohort, settings)
    main = (
        predictions["model"]
        .str.split(" (", regex=False)
        .str[0]
        .isin([name for names in SOURCES.values() for name in names])
    )
    shown = predictions[main] if main.any() else predictions
    risks = (
        shown[shown["horizon_years"] == horizon]
        .groupby("scan_id")["risk"]
        .agg(risk="mean", lowest="min", highest="max", sd="std")
        .reset_index()
    )
    # Where the run has a stacked risk, it is the one of the front page and of the patients' pages.
    stacked = predictions[(predictions["model"] == STACKED) & (predictions["horizon_years"] == horizon)]
    if len(stacked):
        risks["risk"] = risks["scan_id"].map(stacked.set_index("scan_id")["risk"])
    scans = cohort.merge(risks, on="scan_id", how="left")
    masks = lungs.reindex(columns=["scan_id", "patient_id", "verdict", "findings", "flags"])
    scans = scans.merge(masks.drop(columns=["patient_id", "flags"]), on="scan_id", how="left")
    known, label = scans.dropna(subset="risk"), label_name(horizon)
    died, lived = known[known[label].eq(1)], known[known[label].eq(0)]
    odd = worst_first(masks.dropna(subset="verdict")).head(N_MASKS)
    parts = {
        RIGHT: pd.concat([_extreme(died, highest=True), _extreme(lived, highest=False)]),
        WRONG: pd.concat([_extreme(lived, highest=True), _extreme(died, highest=False)]),
        UNCERTAIN: _one_a_patient(known, "sd").head(N_UNCERTAIN),
        EXPLAINED: _one_a_patient(scans[scans["scan_id"].isin(explained)], "risk").head(N_EXPLAINED),
        MASKS: odd[["scan_id", "patient_id", "verdict", "findings"]].merge(
            scans.drop(columns=["patient_id", "verdict", "findings"]), on="scan_id", how="left"
        ),
        OVER_TIME: _most_scans(scans),
    }
    chosen = pd.concat([rows.assign(rule=rule) for rule, rows in parts.items()], ignore_index=True)
    states = [_state(row, label, horizon) for row in chosen.to_dict("records")]
    return chosen.assign(horizon_years=horizon, state=states).reindex(columns=COLUMNS)


def _shown_horizon(cohort: pd.DataFrame, settings: Settings) -> float:
    """Give the longest horizon at which some are known to have died and some to live; else the shortest."""
    for horizon in reversed(settings.horizons_years):
        if {0, 1} <= set(cohort[label_name(horizon)].dropna()):
            return horizon
    return settings.horizons_years[0]


def _extreme(scans: pd.DataFrame, highest: bool) -> pd.DataFrame:
    return scans.sort_values(["risk", "scan_id"], ascending=[not highest, True]).head(1)


def _one_a_patient(scans: pd.DataFrame, highest: str) -> pd.DataFrame:
    return scans.sort_values([highest, "scan_id"], ascending=[False, True]).drop_duplicates("patient_id")


def _most_scans(scans: pd.DataFrame) -> pd.DataFrame:
    counts = scans.groupby("patient_id").agg(n=("scan_id", "size"), died=("event_observed", "any"))
    several = counts[counts["n"] > 1].reset_index()
    if several.empty:
        return scans.head(0)
    patient = several.sort_values(["died", "n", "patient_id"], ascending=[False, False, True])["patient_id"].iloc[0]
    return spread(scans[scans["patient_id"] == patient], "scan_day", N_OVER_TIME)


def _state(row: Mapping[Any, Any], label: str, horizon: float) -> str:
    """Say what became of the patient after the scan."""
    years, died = row["followup_years"], row["event_observed"]
    if not isinstance(years, float) or np.isnan(years):
        return "not in the cohort"
    if died is True:
        return f"died {years:.1f} years after the scan"
    followed = f"alive when last seen, {years:.1f} years after the scan"
    return followed if row[label] == 0 else f"{followed}: unknown at {years_text(horizon)}"
