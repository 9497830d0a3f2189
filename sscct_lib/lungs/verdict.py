"""From measures to a verdict on each mask, and what a person decided about it.

A verdict is `fail` when the mask or the scan cannot be used: lungs that no patient has, right and left swapped, a mask
beside the lungs, the patient lying otherwise than the header says, or densities that are no Hounsfield units. It is
`review` when a measure is unusual and a person should look, and `pass` otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sscct_lib.lungs.quality import Measured, Place
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import LungSettings
from sscct_lib.study.tables import read_csv

DECISIONS_FILE = "qa_decisions.csv"
DECISION_COLUMNS = ("scan_id", "verdict", "who", "when", "why")  # pass or fail, initials, YYYY-MM-DD, the reason
HEADER_LINES = 2

HEART_SLACK_MM = 2.0
LEAST_SPINE_SHARE = 0.6
LEAST_LUNG_L = 0.3  # less than this is no lung
POSSIBLE_VOLUME_L = (0.8, 10.0)
POSSIBLE_LEFT_SHARE = (0.15, 0.85)
POSSIBLE_MEAN_HU = (-950.0, -300.0)
"""What no patient goes beyond, while the ranges in the settings say what is unusual.

Total lung capacity of adults of 1.4 to 2 m is predicted at 3 to 9 L by the equations of [1] and [2]; restriction takes
up to three quarters of it, hyperinflation adds up to a third, and a lung in CT holds no more than that. Air is
-1000 HU, and fibrosis raises the mean density of a lung [3]. The left lung has a little less than half of the volume,
unless one is missing.

References
----------
1. Stocks J, Quanjer PH. Reference values for residual volume, functional residual capacity and total lung capacity.
   Eur Respir J 1995;8:492-506.
2. Hall GL et al. Official ERS technical standard: Global Lung Function Initiative reference values for static lung
   volumes in individuals of European ancestry. Eur Respir J 2021;57:2000289.
3. Best AC et al. Quantitative CT indexes in idiopathic pulmonary fibrosis: relationship with physiologic impairment.
   Radiology 2003;228:407-414.
"""
LEAST_AERATED_SHARE = 0.6
MOST_ON_OTHER_SIDE = 0.3  # a single lung reaches over the midline, but not with more

SEVERE = frozenset(
    (
        "volume_l", "left_share", "mean_hu", "lefts_side_mm", "aerated_share", "trachea_height", "spine_behind_mm",
        "spine_share", "chest_width_mm", "heart_hu", "trachea_hu",
    )
)  # fmt: skip
"""Measures for which a scan can fail; the others send it to a person."""

Finding = tuple[str, str]  # the measure, and what it says in words


@dataclass(frozen=True)
class Judgement:
    """What is thought of a mask."""

    verdict: str
    findings: str  # the reasons in words, separated by "; "; empty for `pass`
    flags: str  # the measures behind them, separated by spaces
    place: Place | None  # voxel [z, y, x] of the first finding that has one


def judge(found: Measured, settings: LungSettings) -> Judgement:
    """Turn measures into a verdict; the plausible ranges are settings."""
    measures = found.measures
    if measures["volume_l"] < LEAST_LUNG_L:
        words = f"hardly any lung in the mask ({measures['volume_l']:.2f} L)"
        return Judgement("fail", words, "volume_l", None)
    severe = [*_impossible(measures), *_wrong_posture(measures), *_wrong_density(measures, settings)]
    known = {name for name, _ in severe}
    unusual = [*_unusual_lungs(measures, settings), *_wrong_extent(measures, settings)]
    findings = [*severe, *(finding for finding in unusual if finding[0] not in known)]
    return Judgement(
        "fail" if severe else "review" if findings else "pass",
        "; ".join(words for _, words in findings),
        " ".join(dict.fromkeys(name for name, _ in findings)),
        next((found.places[name] for name, _ in findings if name in found.places), None),
    )


def _impossible(measures: dict[str, Any]) -> list[Finding]:
    """Find a mask of which no patient can be the reason."""
    findings = [
        *_outside(measures, "volume_l", POSSIBLE_VOLUME_L, "lung volume {:.1f} L, which no patient has"),
        *_outside(measures, "mean_hu", POSSIBLE_MEAN_HU, "mean density {:.0f} HU, which no lung has"),
    ]
    if _below(measures["lefts_side_mm"], 0):
        findings.append(("lefts_side_mm", "label 1 (right lung) lies left of label 2: right and left are swapped"))
    elif _lacks_a_lung(measures):
        words = "left lung {:.0f} % of the volume, though both are in the scan"
        findings += _outside(measures, "left_share", POSSIBLE_LEFT_SHARE, words, 100)
    if _below(measures["aerated_share"], LEAST_AERATED_SHARE):
        share = measures["aerated_share"]
        words = f"the mask holds {share:.0%} of the aerated lung, expected {LEAST_AERATED_SHARE:.0%} or more"
        findings.append(("aerated_share", f"{words}: does it lie beside the lungs?"))
    return findings


def _lacks_a_lung(measures: dict[str, Any]) -> bool:
    """Whether a lung that the mask hardly has is in the scan: left out, or named for the other one."""
    on_other_side = measures["other_side_share"] or 0
    return bool(measures["missed_air_l"] > LEAST_LUNG_L or on_other_side > MOST_ON_OTHER_SIDE)


def _wrong_posture(measures: dict[str, Any]) -> list[Finding]:
    """Find a scan whose axes are swapped or turned."""
    findings = []
    if _below(measures["trachea_height"], 0.5):
        findings.append(("trachea_height", "the trachea lies below the lungs: head and feet swapped?"))
    if _below(measures["spine_behind_mm"], 0):
        findings.append(("spine_behind_mm", "the spine lies in front of the lungs: front and back swapped?"))
    if measures["spine_share"] < LEAST_SPINE_SHARE:
        findings.append(("spine_share", f"the spine shows in {measures['spine_share']:.0%} of slices: axes swapped?"))
    has_both = measures["lefts_side_mm"] is not None  # a single lung is deeper than wide
    if has_both and measures["chest_width_mm"] < measures["chest_depth_mm"]:
        findings.append(("chest_width_mm", "the chest is deeper than wide: axes swapped?"))
    return findings


def _wrong_density(measures: dict[str, Any], settings: LungSettings) -> list[Finding]:
    if measures["heart_hu"] is None:
        return [("heart_hu", "no soft tissue between the lungs: are these Hounsfield units?")]
    return [
        *_outside(measures, "trachea_hu", settings.trachea_hu, "air in the trachea {:.0f} HU"),
        *_outside(measures, "heart_hu", settings.heart_hu, "heart {:.0f} HU"),
    ]


def _unusual_lungs(measures: dict[str, Any], settings: LungSettings) -> list[Finding]:
    findings = [
        *_outside(measures, "volume_l", settings.volume_l, "lung volume {:.1f} L"),
        *_outside(measures, "left_share", settings.left_share, "left lung {:.0f} % of the volume", 100),
        *_outside(measures, "mean_hu", settings.mean_hu, "mean density {:.0f} HU"),
    ]
    if measures["trachea_height"] is None:
        findings.append(("trachea_height", "no trachea was found"))
    if _below(measures["heart_left_mm"], -HEART_SLACK_MM):
        findings.append(("heart_left_mm", "the heart lies to the right of the spine: mirrored, or displaced?"))
    return findings + _unlike(measures, settings)


def _unlike(measures: dict[str, Any], settings: LungSettings) -> list[Finding]:
    """Find lobes that are hardly there, and masks on which two methods do not agree."""
    findings = []
    if _below(measures.get("smallest_lobe_share"), settings.min_lobe_share):
        share = measures["smallest_lobe_share"]
        findings.append(("smallest_lobe_share", f"a lobe with {share:.1%} of the lungs: removed, or not found?"))
    if _below(measures.get("agreement_dice"), settings.min_agreement):
        dice = measures["agreement_dice"]
        findings.append(
            ("agreement_dice", f"Dice {dice:.2f} between two methods, expected {settings.min_agreement:g} or more")
        )
    return findings


def _wrong_extent(measures: dict[str, Any], settings: LungSettings) -> list[Finding]:
    """Find masks that hold too much or too little, and scans that end or skip within the lungs."""
    checks = (
        ("cut_area_cm2", settings.max_cut_area_cm2, 1, "the edge of the scan cuts {:.0f} cm² of lung"),
        ("missed_air_l", settings.max_missed_air_l, 1, "{:.2f} L of aerated lung left out of the mask"),
        ("solid_share", settings.max_solid_share, 100, "{:.1f} % of the mask is solid tissue"),
        ("solid_core_ml", settings.max_solid_core_ml, 1, "{:.1f} mL inside thick solid tissue: leak, consolidation"),
        ("outside_share", settings.max_outside_share, 100, "{:.1f} % of the mask lies outside the body"),
        ("step_ratio", settings.max_step_ratio, 1, "a jump between slices ({:.1f} times the usual change)"),
        ("noise_hu", settings.max_noise_hu, 1, "noise of {:.0f} HU"),
    )
    return [
        (name, f"{words.format(factor * measures[name])}, expected at most {factor * most:g}")
        for name, most, factor, words in checks
        if measures[name] is not None and measures[name] > most
    ]


def _below(value: float | None, least: float) -> bool:
    return value is not None and value < least


def _outside(
    measures: dict[str, Any], name: str, limits: tuple[float, float], words: str, factor: float = 1
) -> list[Finding]:
    value, (low, high) = measures[name], limits
    if value is None or low <= value <= high:
        return []
    return [(name, f"{words.format(factor * value)}, expected {factor * low:g} to {factor * high:g}")]


def apply_decisions(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table (schema `LUNGS`) with a person's decisions in place of verdicts, and `decision` in words."""
    table = table.assign(decision=None)
    if not path.is_file():
        return table
    decisions = _read_decisions(path).set_index("scan_id")
    for index in table.index[(table["status"] == "ok") & table["scan_id"].isin(decisions.index)]:
        one = decisions.loc[table["scan_id"].loc[index]]
        # The day stays in the file: tables and book hold no calendar dates.
        words = f"{table['verdict'].loc[index]} changed to {one['verdict']} by {one['who']}: {one['why']}"
        table.loc[index, ["verdict", "decision"]] = one["verdict"], words
    return table


def _read_decisions(path: Path) -> pd.DataFrame:
    raw = read_csv(path)
    missing = [name for name in DECISION_COLUMNS if name not in raw]
    if missing:
        raise StudyError(f"{path} has no column {', '.join(missing)}; found {', '.join(raw.columns)}.")
    checks = {
        "scan_id": (raw["scan_id"].duplicated() | (raw["scan_id"] == ""), "a scan_id that no other row has"),
        "verdict": (~raw["verdict"].isin(["pass", "fail"]), "pass or fail"),
        "who": (raw["who"].str.strip() == "", "the initials of who decided"),
        "when": (pd.to_datetime(raw["when"], format="%Y-%m-%d", errors="coerce").isna(), "a date as YYYY-MM-DD"),
        "why": (raw["why"].str.strip() == "", "the reason"),
    }
    violations = [
        f"row {int(row) + HEADER_LINES}, column {name}: found {raw[name].loc[row]!r}; expected {expected}"
        for name, (wrong, expected) in checks.items()
        for row in raw.index[wrong]
    ]
    if violations:
        raise StudyError(f"{path} has {len(violations)} violation(s):\n  " + "\n  ".join(violations))
    return raw
