"""Each scan against the patient's other scans: the shape of the chest, and the volume of the lungs.

The shape of a patient's chest: what a breath changes little, and what tells one patient from another.

Below the apex of the lungs, level by level: how wide and how deep the lungs lie in the rib cage, and where the spine
stands in it. Two scans of one patient differ by a millimetre or two; scans of two patients seldom agree at all levels.
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


def chest_shape(hu: NDArray[np.float32], labels: NDArray[np.uint8], body: Mask, spacing_mm: float) -> Shape:
    """Measure the shape of the chest.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x) in LPS order, isotropic voxels.
    labels
        0 outside, 1 right lung, 2 left lung, shape (z, y, x).
    body
        From `airspace.look`, shape (z, y, x).
    spacing_mm
        Voxel side, mm.

    Returns
    -------
    numpy.ndarray
        At each of `LEVELS_MM` below the apex, mm: width and depth of the lungs, the spine's distance from their
        front, and from the middle between right and left; shape (4, n_levels). Not a number where there is no lung.
    """
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


def shape_distance(one: Shape, other: Shape) -> float:
    """Compare the shapes of two chests.

    A deeper breath lowers the lungs and moves every level; so one chest is stretched from 0.85 to 1.15 times along the
    body, and the best match counts.

    Parameters
    ----------
    one, other
        From `chest_shape`.

    Returns
    -------
    float
        Mean absolute difference over levels and measures, mm; not a number where less than 8 levels compare.
    """
    differences = [np.abs(one - _stretched(other, stretch))[:, LEVELS_MM <= COMPARED_MM] for stretch in STRETCHES]
    kept = [part[np.isfinite(part)] for part in differences]
    means = [values.mean() for values in kept if len(values) >= LEAST_LEVELS * len(one)]
    return float(min(means)) if means else float("nan")


def _stretched(shape: Shape, stretch: float) -> Shape:
    return np.array([np.interp(LEVELS_MM / stretch, LEVELS_MM, row, left=np.nan, right=np.nan) for row in shape])


def write_shape(shape: Shape) -> str:
    """Write a shape as text, for a table: millimetres separated by spaces, row after row."""
    return " ".join(f"{value:.1f}" for value in shape.ravel())


def read_shape(text: str) -> Shape:
    """Read a shape that `write_shape` wrote."""
    return np.array(text.split(), dtype=float).reshape(4, len(LEVELS_MM))


def compare_visits(table: pd.DataFrame, settings: LungSettings) -> pd.DataFrame:
    """Hold each scan against the other scans of the patient.

    A chest keeps its shape; a scan that differs from all others of the patient may be another patient's. Lung volume
    changes with breath and disease, but seldom by a third.

    Parameters
    ----------
    table
        One row a scan, columns of schema `LUNGS`.
    settings
        The section `lungs` of the study.

    Returns
    -------
    pandas.DataFrame
        The table with `shape_change_mm` and `volume_change`, and with `verdict`, `findings` and `flags` amended: a
        scan that passed and differs is to be reviewed.
    """
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


def volume_change(table: pd.DataFrame) -> "pd.Series[float]":
    """Tell how lung volume differs from the median of the patient's other scans.

    Parameters
    ----------
    table
        `patient_id` and `volume_l`; one row a scan.

    Returns
    -------
    pandas.Series
        Relative difference by index of `table`; patients with one scan are absent.
    """
    changes: dict[Any, float] = {}
    for _, own in table.groupby("patient_id")["volume_l"]:
        for index in own.index if len(own) > 1 else []:
            changes[index] = float(own[index] / own.drop(index).median() - 1)
    return pd.Series(changes, dtype=float)


def shape_change(table: pd.DataFrame) -> "pd.Series[float]":
    """Tell how the shape of the chest differs from that in the patient's most similar other scan.

    Parameters
    ----------
    table
        `patient_id` and `chest_shape_mm`; one row a scan.

    Returns
    -------
    pandas.Series
        Distance in mm (`chest_shape.shape_distance`) by index of `table`; absent for patients with one scan, and
        where too little of the chest is seen.
    """
    changes: dict[Any, float] = {}
    for _, own in table.groupby("patient_id")["chest_shape_mm"]:
        shapes = {index: read_shape(text) for index, text in own.dropna().items()}
        for index, shape in shapes.items():
            distances = [shape_distance(shape, other) for place, other in shapes.items() if place != index]
            if known := [distance for distance in distances if np.isfinite(distance)]:
                changes[index] = min(known)
    return pd.Series(changes, dtype=float)
