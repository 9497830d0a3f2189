"""From measures to a verdict on each mask, and what a person decided about it."""

from typing import Any

import pandas as pd

from sscct_lib.lung_qa import Measured, Place
from sscct_lib.study import LungSettings

LEAST_LUNG_L = 0.3  # less than this is no pair of lungs, whatever the patient

Finding = tuple[str, str]  # the measure, and what it says in words


def judge(found: Measured, settings: LungSettings) -> tuple[str, str, Place | None]:
    """Turn measures into a verdict.

    Parameters
    ----------
    found
        From `lung_qa.measure`.
    settings
        The section `lungs` of the study, with the plausible ranges.

    Returns
    -------
    verdict : str
        `fail` when the mask or the scan cannot be used: hardly any lung, the patient lying otherwise than the header
        says, or densities that are no Hounsfield units. `review` when a measure is unusual and a person should
        look. `pass` otherwise.
    findings : str
        The reasons in words, separated by "; "; empty for `pass`.
    place
        Voxel [z, y, x] of the first finding that has one.
    """
    measures = found.measures
    if measures["volume_l"] < LEAST_LUNG_L:
        return "fail", f"hardly any lung in the mask ({measures['volume_l']:.2f} L)", None
    severe = [*_wrong_posture(measures), *_wrong_density(measures, settings)]
    findings = [*severe, *_unusual_lungs(measures, settings), *_wrong_extent(measures, settings)]
    words = "; ".join(text for _, text in findings)
    place = next((found.places[name] for name, _ in findings if name in found.places), None)
    return ("fail" if severe else "review" if findings else "pass"), words, place


def _wrong_posture(measures: dict[str, Any]) -> list[Finding]:
    """Find a scan whose head and feet, or front and back, are swapped."""
    findings = []
    if _below(measures["trachea_height"], 0.5):
        findings.append(("trachea_height", "the trachea lies below the lungs: head and feet swapped?"))
    if _below(measures["spine_behind_mm"], 0):
        findings.append(("spine_behind_mm", "the spine lies in front of the lungs: front and back swapped?"))
    return findings


def _wrong_density(measures: dict[str, Any], settings: LungSettings) -> list[Finding]:
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
    if _below(measures["heart_left_mm"], 0):
        findings.append(("heart_left_mm", "the heart lies to the right of the spine: mirrored, or displaced?"))
    return findings


def _wrong_extent(measures: dict[str, Any], settings: LungSettings) -> list[Finding]:
    """Find masks that hold too much or too little, and scans that end or skip within the lungs."""
    checks = (
        ("cut_area_cm2", settings.max_cut_area_cm2, 1, "the edge of the scan cuts {:.0f} cm2 of lung"),
        ("missed_air_l", settings.max_missed_air_l, 1, "{:.2f} L of aerated lung left out of the mask"),
        ("solid_share", settings.max_solid_share, 100, "{:.1f} % of the mask is solid tissue"),
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


def compare_visits(table: pd.DataFrame, settings: LungSettings) -> pd.DataFrame:
    """Hold each scan against the other scans of the patient.

    A chest keeps its width and depth; a scan that differs may be another patient's. Lung volume changes with breath
    and disease, but seldom by a third.

    Parameters
    ----------
    table
        One row a scan, columns of schema `LUNGS`.
    settings
        The section `lungs` of the study.

    Returns
    -------
    pandas.DataFrame
        The table with `verdict` and `findings` amended: a scan that passed and differs is to be reviewed.
    """
    table = table.copy()
    judged = table[table["verdict"].isin(["pass", "review"])]
    for name, most, words in (
        ("chest_width_mm", settings.max_chest_change, "chest {:+.0%} in width: another patient's scan?"),
        ("chest_depth_mm", settings.max_chest_change, "chest {:+.0%} in depth: another patient's scan?"),
        ("volume_l", settings.max_visit_change, "lung volume {:+.0%} against the patient's other scans"),
    ):
        change = change_against_others(judged, name)
        for index in change.index[change.abs() > most]:
            so_far = str(table.loc[index, "findings"])
            table.loc[index, "findings"] = "; ".join(filter(None, [so_far, words.format(change[index])]))
            table.loc[index, "verdict"] = "review"
    return table


def change_against_others(table: pd.DataFrame, name: str) -> "pd.Series[float]":
    """Tell how a measure differs from the median of the patient's other scans.

    Parameters
    ----------
    table
        `patient_id` and the measure; one row a scan.
    name
        The measure.

    Returns
    -------
    pandas.Series
        Relative difference by index of `table`; patients with one scan are absent.
    """
    changes: dict[Any, float] = {}
    for _, own in table.groupby("patient_id")[name]:
        for index in own.index if len(own) > 1 else []:
            changes[index] = float(own[index] / own.drop(index).median() - 1)
    return pd.Series(changes, dtype=float)
