"""Each scan against the patient's other scans: the shape of the chest, and the volume of the lungs."""

from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.chest_shape import read_shape, shape_distance
from sscct_lib.study import LungSettings


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
