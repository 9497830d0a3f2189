"""Each scan against the patient's other scans: the shape of the chest, and the volume of the lungs.

The shape is what a breath changes little, and what tells one patient from another: below the apex of the lungs, level
by level, how wide and how deep the lungs lie in the rib cage, and where the spine stands in it. Two scans of one
patient differ by a millimetre or two; scans of two patients seldom agree at all levels.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.images.masks import Mask
from sscct_lib.lungs.threshold import BONE_HU
from sscct_lib.study.settings import LungSettings

LEVELS_MM = np.arange(10.0, 190.0, 10.0)  # below the apex
COMPARED_MM = 150.0  # further down, the diaphragm decides how wide the lungs are
STRETCHES = np.arange(0.85, 1.16, 0.05)
SMALLEST_SECTION_CM2 = 2.0
SPINE_MM = 30.0
LEAST_LEVELS = 8

Shape = NDArray[np.float64]
"""Width, depth, spine from the front, and spine from the middle of the lungs, mm; shape (4, n_levels)."""


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
            table.loc[index, "findings"] = _joined("; ", table.loc[index, "findings"], words.format(table[name][index]))
            table.loc[index, "flags"] = _joined(" ", table.loc[index, "flags"], name)
            table.loc[index, "verdict"] = "review"
    return table


def _joined(separator: str, so_far: Any, more: str) -> str:
    return f"{so_far}{separator}{more}" if so_far else more


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
