"""From measures to a verdict on each mask, and from a patient's other scans to another.

A verdict is `fail` when the mask or the scan cannot be used: lungs that no patient has, right and left swapped, a mask
beside the lungs, the patient lying otherwise than the header says, or densities that are no Hounsfield units. It is
`review` when a measure is unusual and a person should look, and `pass` otherwise.

Scans of a patient are compared by the shape of the chest, which a breath changes little, and which tells one patient
from another: below the apex of the lungs, level by level, how wide and how deep the lungs lie in the rib cage, and
where the spine stands in it. Two scans of one patient differ by a millimetre or two; scans of two patients seldom agree
at all levels.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.images.masks import Mask
from sscct_lib.lungs.quality import Measured, Place
from sscct_lib.lungs.threshold import BONE_HU
from sscct_lib.study.settings import LungSettings

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

LEVELS_MM = np.arange(10.0, 190.0, 10.0)  # below the apex
COMPARED_MM = 150.0  # further down, the diaphragm decides how wide the lungs are
STRETCHES = np.arange(0.85, 1.16, 0.05)
SMALLEST_SECTION_CM2 = 2.0
SPINE_MM = 30.0
LEAST_LEVELS = 8

Shape = NDArray[np.float64]
"""Width, depth, spine from the front, and spine from the middle of the lungs, mm; shape (4, n_levels)."""

PERCENT = {"left_share", "solid_share", "outside_share"}  # measures that are told so

Rule = tuple[str, float | None, float | None, str]
"""Measure, the range in which it is plausible (None: open), and what is said of a value beyond it.

Open at both ends: the measure must have been taken.
"""


def judge(found: Measured, settings: LungSettings) -> tuple[dict[str, str], Place | None]:
    """Turn measures into a verdict; the plausible ranges are settings.

    Gives `verdict`, `findings` (in words, separated by "; "; empty for `pass`) and `flags` (the measures behind them,
    separated by spaces), and the voxel [z, y, x] of the first finding that has a place.
    """
    measures = found.measures
    if measures["volume_l"] < LEAST_LUNG_L:
        words = f"hardly any lung in the mask ({measures['volume_l']:.2f} L)"
        return {"verdict": "fail", "findings": words, "flags": "volume_l"}, None
    severe, unusual = _findings(measures, _severe(measures, settings)), _findings(measures, _unusual(settings))
    findings = severe | {name: words for name, words in unusual.items() if name not in severe}
    verdict = "fail" if severe else "review" if findings else "pass"
    place = next((found.places[name] for name in findings if name in found.places), None)
    return {"verdict": verdict, "findings": "; ".join(findings.values()), "flags": " ".join(findings)}, place


def _findings(measures: dict[str, Any], rules: list[Rule]) -> dict[str, str]:
    """Say by measure which rules do not hold."""
    found = {}
    for name, low, high, words in rules:
        value, factor = measures.get(name), 100 if name in PERCENT else 1
        if value is None:
            holds = (low, high) != (None, None)
        else:
            holds = (low is None or low <= value) and (high is None or value <= high)
        if not holds:
            expected = "" if high is None else f", expected {_range(low, high, factor)}"
            found[name] = words.format(None if value is None else factor * value) + expected
    return found


def _range(low: float | None, high: float, factor: int) -> str:
    return f"at most {factor * high:g}" if low is None else f"{factor * low:g} to {factor * high:g}"


def _severe(measures: dict[str, Any], settings: LungSettings) -> list[Rule]:
    """List what no patient explains: impossible lungs, axes swapped or turned, values that are no Hounsfield units."""
    # A lung that the mask hardly has is in the scan: left out, or named for the other one.
    on_other_side = (measures["other_side_share"] or 0) > MOST_ON_OTHER_SIDE
    swapped = (measures["lefts_side_mm"] or 0) < 0
    lacks_a_lung = not swapped and (on_other_side or measures["missed_air_l"] > LEAST_LUNG_L)
    possible_share = POSSIBLE_LEFT_SHARE if lacks_a_lung else (None, None)
    # A single lung is deeper than wide.
    least_width = None if measures["lefts_side_mm"] is None else measures["chest_depth_mm"]
    beside = f"the mask holds {{:.0%}} of the aerated lung, expected {LEAST_AERATED_SHARE:.0%} or more"
    rules: list[Rule] = [
        ("volume_l", *POSSIBLE_VOLUME_L, "lung volume {:.1f} L, which no patient has"),
        ("mean_hu", *POSSIBLE_MEAN_HU, "mean density {:.0f} HU, which no lung has"),
        ("lefts_side_mm", 0, None, "label 1 (right lung) lies left of label 2: right and left are swapped"),
        ("left_share", *possible_share, "left lung {:.0f} % of the volume, though both are in the scan"),
        ("aerated_share", LEAST_AERATED_SHARE, None, f"{beside}: does it lie beside the lungs?"),
        ("trachea_height", 0.5, None, "the trachea lies below the lungs: head and feet swapped?"),
        ("spine_behind_mm", 0, None, "the spine lies in front of the lungs: front and back swapped?"),
        ("spine_share", LEAST_SPINE_SHARE, None, "the spine shows in {:.0%} of slices: axes swapped?"),
        ("chest_width_mm", least_width, None, "the chest is deeper than wide: axes swapped?"),
    ]
    if measures["heart_hu"] is None:
        return [*rules, ("heart_hu", None, None, "no soft tissue between the lungs: are these Hounsfield units?")]
    air: Rule = ("trachea_hu", *settings.trachea_hu, "air in the trachea {:.0f} HU")
    return [*rules, air, ("heart_hu", *settings.heart_hu, "heart {:.0f} HU")]


def _unusual(settings: LungSettings) -> list[Rule]:
    """List what a person should look at; causes, in mask and scan, before unusual lungs, which may follow from them."""
    lobe = "a lobe with {:.1%} of the lungs: removed, or not found?"
    agreement = f"Dice {{:.2f}} between two methods, expected {settings.min_agreement:g} or more"
    return [
        ("trachea_height", None, None, "no trachea was found"),
        ("heart_left_mm", -HEART_SLACK_MM, None, "the heart lies to the right of the spine: mirrored, or displaced?"),
        ("smallest_lobe_share", settings.min_lobe_share, None, lobe),
        ("agreement_dice", settings.min_agreement, None, agreement),
        ("cut_area_cm2", None, settings.max_cut_area_cm2, "the edge of the scan cuts {:.0f} cm² of lung"),
        ("missed_air_l", None, settings.max_missed_air_l, "{:.2f} L of aerated lung left out of the mask"),
        ("solid_share", None, settings.max_solid_share, "{:.1f} % of the mask is solid tissue"),
        ("solid_core_ml", None, settings.max_solid_core_ml, "{:.1f} mL inside thick solid tissue: leak, consolidation"),
        ("outside_share", None, settings.max_outside_share, "{:.1f} % of the mask lies outside the body"),
        ("step_ratio", None, settings.max_step_ratio, "a jump between slices ({:.1f} times the usual change)"),
        ("noise_hu", None, settings.max_noise_hu, "noise of {:.0f} HU"),
        ("volume_l", *settings.volume_l, "lung volume {:.1f} L"),
        ("left_share", *settings.left_share, "left lung {:.0f} % of the volume"),
        ("mean_hu", *settings.mean_hu, "mean density {:.0f} HU"),
    ]


def compare_visits(table: pd.DataFrame, settings: LungSettings) -> pd.DataFrame:
    """The table with `shape_change_mm` and `volume_change`; a scan unlike the patient's others is to be reviewed."""
    # A chest keeps its shape: a scan unlike all others may be another patient's. Volume seldom changes by a third.
    judged = table[table["verdict"].isin(["pass", "review"])]
    changes = {"shape_change_mm": shape_change(judged), "volume_change": volume_change(judged)}
    table = table.assign(**{name: change.reindex(table.index) for name, change in changes.items()})
    for name, most, words in (
        ("shape_change_mm", settings.max_shape_change_mm, "the chest differs by {:.1f} mm: another patient's scan?"),
        ("volume_change", settings.max_visit_change, "lung volume {:+.0%} against the patient's other scans"),
    ):
        for index in table.index[table[name].abs() > most]:
            findings, flags = table.loc[index, ["findings", "flags"]]
            said = "; ".join(filter(None, (findings, words.format(table[name][index]))))
            table.loc[index, ["verdict", "findings", "flags"]] = "review", said, " ".join(filter(None, (flags, name)))
    return table


def shape_change(table: pd.DataFrame) -> "pd.Series[float]":
    """Distance (mm) to the patient's most similar other scan; none for a single scan, or where too little is seen."""
    changes: dict[Any, float] = {}
    for _, own in table.groupby("patient_id")["chest_shape_mm"]:
        shapes = {index: read_shape(text) for index, text in own.dropna().items()}
        for index, shape in shapes.items():
            distances = [shape_distance(shape, other) for place, other in shapes.items() if place != index]
            if known := [distance for distance in distances if np.isfinite(distance)]:
                changes[index] = min(known)
    return pd.Series(changes, dtype=float)


def volume_change(table: pd.DataFrame) -> "pd.Series[float]":
    """Relative difference of lung volume from the median of the patient's other scans; none for a single scan."""
    changes: dict[Any, float] = {}
    for _, own in table.groupby("patient_id")["volume_l"]:
        for index in own.index if len(own) > 1 else []:
            changes[index] = float(own[index] / own.drop(index).median() - 1)
    return pd.Series(changes, dtype=float)


def shape_distance(one: Shape, other: Shape) -> float:
    """Mean absolute difference of two shapes, mm; not a number where less than 8 levels compare."""
    # A deeper breath lowers the lungs and moves every level: one chest is stretched, and the best match counts.
    differences = [np.abs(one - _stretched(other, stretch))[:, LEVELS_MM <= COMPARED_MM] for stretch in STRETCHES]
    kept = [part[np.isfinite(part)] for part in differences]
    means = [values.mean() for values in kept if len(values) >= LEAST_LEVELS * len(one)]
    return float(min(means)) if means else float("nan")


def chest_shape(hu: NDArray[np.float32], labels: NDArray[np.uint8], body: Mask, spacing_mm: float) -> Shape:
    """Shape of the chest at each of `LEVELS_MM` below the apex, (4, n_levels); not a number where there is no lung."""
    lungs = labels > 0
    area_cm2 = np.count_nonzero(lungs, axis=(1, 2)) * spacing_mm**2 / 100
    heights = np.flatnonzero(area_cm2 >= SMALLEST_SECTION_CM2)[::-1]
    if len(heights) < 2:
        return np.full((4, len(LEVELS_MM)), np.nan)
    measured = np.array([_section(hu[z], lungs[z], body[z], spacing_mm) for z in heights]).T * spacing_mm
    below = (heights[0] - heights) * spacing_mm
    return np.array([_at_levels(below, values) for values in measured])


def _section(hu: NDArray[np.float32], lungs: Mask, body: Mask, spacing_mm: float) -> tuple[float, ...]:
    rows, columns = (np.flatnonzero(lungs.any(axis=axis)) for axis in (1, 0))
    front, right = rows[0], columns[0]
    behind, middle = (front + rows[-1]) // 2, (right + columns[-1]) / 2
    near = slice(max(0, round(middle - SPINE_MM / spacing_mm)), round(middle + SPINE_MM / spacing_mm) + 1)
    y, x = np.nonzero((hu[behind:, near] > BONE_HU) & body[behind:, near])
    depth, aside = (y.mean() + behind - front, x.mean() + near.start - middle) if len(y) else (np.nan, np.nan)
    return float(np.ptp(columns) + 1), float(np.ptp(rows) + 1), float(depth), float(aside)


def _at_levels(below: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(LEVELS_MM), np.nan)
    return np.asarray(np.interp(LEVELS_MM, below[known], values[known], right=np.nan))


def _stretched(shape: Shape, stretch: float) -> Shape:
    return np.array([np.interp(LEVELS_MM / stretch, LEVELS_MM, row, left=np.nan, right=np.nan) for row in shape])


def write_shape(shape: Shape) -> str:
    """A shape as text, for a table: millimetres separated by spaces, row after row."""
    return " ".join(f"{value:.1f}" for value in shape.ravel())


def read_shape(text: str) -> Shape:
    """A shape that `write_shape` wrote."""
    return np.array(text.split(), dtype=float).reshape(4, len(LEVELS_MM))
