"""Scans with their lung masks, chosen and cut in three planes for a reader to see."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.images.prepare import read_result
from sscct_lib.lungs.segment import RIGHT
from sscct_lib.study.folder import Study


def worst_first(table: pd.DataFrame) -> pd.DataFrame:
    """Order the flagged scans of a table (schema `LUNGS`): failures first, then those with most flags."""
    flagged = table[table["verdict"].isin(["review", "fail"])]
    order = flagged.assign(passed=flagged["verdict"] != "fail", n=-flagged["flags"].fillna("").str.count(" "))
    return flagged.loc[order.sort_values(["passed", "n", "scan_id"]).index]


def spread(table: pd.DataFrame, name: str, n: int) -> pd.DataFrame:
    """Choose `n` rows of a table at even ranks of a measure, from the least to the greatest."""
    ordered = table.sort_values([name, "scan_id"])
    return ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, min(n, len(ordered))).astype(int))]


@dataclass(frozen=True)
class Overlay:
    """A scan and its lung mask, cut in three planes."""

    scan_id: str
    verdict: str
    findings: str
    # By plane (`axial`, `coronal`, `sagittal`): densities (HU), labels, and the flagged place (column, row) or None.
    # Images are upright: the patient's right is on the left, the head or the front is up.
    planes: dict[str, tuple[NDArray[np.int16], NDArray[np.uint8], tuple[int, int] | None]]


def overlay(study: Study, row: Mapping[str, Any]) -> Overlay:
    """Cut a scan and its mask through the flagged place, or through the middle of the lungs when nothing is flagged.

    Parameters
    ----------
    row
        A row of the table of lungs: `scan_id`, `verdict`, `findings`, `place_mm`.

    Raises
    ------
    ScanError
        If the scan or its mask is missing or damaged.
    """
    image, mask = read_result(study.image(row["scan_id"])), read_result(study.mask(row["scan_id"]))
    hu, labels = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask)
    flagged = isinstance(row["place_mm"], str)
    if flagged:
        x, y, z = image.TransformPhysicalPointToIndex([float(value) for value in row["place_mm"].split()])
    else:
        where = np.argwhere(labels == RIGHT) if (labels == RIGHT).any() else np.argwhere(np.ones_like(labels))
        z, y, x = where.mean(axis=0).astype(int)
    z, y, x = (int(np.clip(at, 0, n - 1)) for at, n in zip((z, y, x), hu.shape, strict=True))
    top = hu.shape[0] - 1

    def cut(plane: tuple[Any, ...], place: tuple[int, int]) -> Any:
        return hu[plane], labels[plane], place if flagged else None

    upright = slice(None, None, -1)
    planes = {
        "axial": cut((z,), (x, y)),
        "coronal": cut((upright, y), (x, top - z)),
        "sagittal": cut((upright, slice(None), x), (y, top - z)),
    }
    return Overlay(row["scan_id"], row["verdict"], row["findings"], planes)
