"""Tables of notebook 02: verdicts, the rules that led to them, and the ranges in which measures are plausible."""

import pandas as pd

from sscct_lib.lungs.segment import usable
from sscct_lib.lungs.verdict import HEART_SLACK_MM
from sscct_lib.study.disclosure import HIDDEN, count_text, count_texts, is_small, minimum
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import COHORT, LUNGS
from sscct_lib.study.settings import LungSettings
from sscct_lib.study.tables import read_table
from sscct_lib.study.words import RULE_WORDS


def usable_cohort(study: Study) -> pd.DataFrame:
    """Read the scans of the cohort (schema `COHORT`) whose lungs a network may see, numbered anew.

    Raises
    ------
    StudyError
        As `read_table`, of the tables of notebooks 01 and 02.
    """
    cohort, lungs = read_table(study, "cohort", COHORT), usable(read_table(study, "lungs", LUNGS))
    return cohort[cohort["scan_id"].isin(lungs["scan_id"])].reset_index(drop=True)


def verdict_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count scans and patients (schema `LUNGS`) by verdict.

    Rows `pass`, `review`, `fail` and `set aside`; columns `scans`, `patients` and `changed by a person`.
    """
    kind = table["verdict"].where(table["status"] == "ok", "set aside")
    order = ["pass", "review", "fail", "set aside"]
    counts = table.groupby(kind)["patient_id"].agg(["size", "nunique"]).reindex(order, fill_value=0)
    counts["changed by a person"] = table["decision"].notna().groupby(kind).sum().reindex(order, fill_value=0)
    of, whole = [*counts["nunique"], table["patient_id"].nunique()], [(len(order), range(len(order)))]
    counts["size"] = count_texts([*counts["size"], len(table)], whole, of)[:-1]
    counts["nunique"] = [count_text(n) for n in of[:-1]]
    return counts.rename(columns={"size": "scans", "nunique": "patients"}).rename_axis("verdict")


def findings(table: pd.DataFrame) -> str:
    """Say of how many scans (schema `LUNGS`) the mask can be used, and what most often speaks against it."""
    scans, rules = verdict_counts(table)["scans"], rule_counts(table)
    said = (
        f"Scans whose mask passed its checks: {scans['pass']}; for a person to look at: {scans['review']}; failed, so "
        f"that they train no model: {scans['fail']}; without a mask: {scans['set aside']}."
    )
    if rules.empty:
        return said
    first, n = str(rules.index[0]), rules["scans"].iloc[0]
    of = f", of {n} scans" if n[:1].isdigit() else ""
    return f"{said} Most often found: {RULE_WORDS.get(first, first)}{of}."


def rule_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the scans (schema `LUNGS`) that each rule flagged, and those that it removed.

    By measure: `scans` and `patients` flagged, `by this rule alone`, and `removed`: scans whose verdict is fail; most
    frequent first.
    """
    flags = table.assign(rule=table["flags"].fillna("").str.split(), removed=table["verdict"].eq("fail"))
    flags["alone"] = flags["rule"].str.len() == 1
    by_rule = flags.explode("rule").dropna(subset="rule").groupby("rule")
    counted = {"scans": ("scan_id", "size"), "patients": ("patient_id", "nunique")}
    counted |= {"by this rule alone": ("alone", "sum"), "removed": ("removed", "sum")}
    counts = by_rule.agg(**counted).sort_values("scans", ascending=False)
    few = counts["patients"].map(is_small)
    return counts.map(count_text).mask(few.to_numpy()[:, None] & counts.ge(minimum()), HIDDEN)


def plausible_ranges(settings: LungSettings) -> dict[str, tuple[float | None, float | None, str]]:
    """Give the plausible range of each measure that a figure shows: least, greatest (None: open), label of the axis."""
    return {
        "volume_l": (*settings.volume_l, "lung volume (L)"),
        "left_share": (*settings.left_share, "left lung, share of volume"),
        "mean_hu": (*settings.mean_hu, "mean lung density (HU)"),
        "trachea_hu": (*settings.trachea_hu, "air in the trachea (HU)"),
        "heart_hu": (*settings.heart_hu, "heart (HU)"),
        "noise_hu": (None, settings.max_noise_hu, "noise (HU)"),
        "cut_area_cm2": (None, settings.max_cut_area_cm2, "lung cut by the edge (cm²)"),
        "missed_air_l": (None, settings.max_missed_air_l, "aerated lung left out (L)"),
        "solid_core_ml": (None, settings.max_solid_core_ml, "inside thick solid tissue (mL)"),
        "shape_change_mm": (None, settings.max_shape_change_mm, "chest unlike other visits (mm)"),
        "volume_change": (-settings.max_visit_change, settings.max_visit_change, "volume against other visits"),
        "step_ratio": (None, settings.max_step_ratio, "largest jump between slices"),
        "heart_left_mm": (-HEART_SLACK_MM, None, "heart left of the spine (mm)"),
    }
