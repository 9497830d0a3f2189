"""Figures of notebook 02, and a scan with its mask in three planes."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sscct_lib.images.prepare import read_result
from sscct_lib.lungs.segment import LEFT, RIGHT
from sscct_lib.study.folder import Study
from sscct_lib.study.plots import GREY, INK, PALE, PALETTE, new_figure, styled


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


def overlay(study: Study, row: Mapping[Any, Any]) -> Overlay:
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


LUNG_WINDOW = (-1200.0, 300.0)
SIDES: dict[int, dict[str, Any]] = {
    RIGHT: {"colors": [PALETTE[1]], "linestyles": ["-"]},
    LEFT: {"colors": [PALETTE[6]], "linestyles": ["--"]},
}
VERDICTS: dict[str, dict[str, Any]] = {
    "pass": {"color": PALETTE[0], "marker": "o", "s": 14, "alpha": 0.5},
    "review": {"color": PALETTE[1], "marker": "^", "s": 42},
    "fail": {"color": PALETTE[3], "marker": "X", "s": 48},
}


@styled
def mask_overlay(overlays: Sequence[Overlay], when_none: str = "No scans.") -> Figure:
    """Draw scans (from `overlay`) with the outline of their lungs, one scan a row, in three planes.

    Right lung: full line; left lung: dashed line; a ring marks the flagged place. `when_none` is said of no scans.
    """
    if not overlays:
        figure, axes = new_figure(0.6)
        axes[0, 0].axis("off")
        axes[0, 0].text(0, 0.5, when_none, va="center", color=INK)
        return figure
    planes = list(overlays[0].planes)
    figure, _ = new_figure(2.9 * len(overlays))
    figure.clear()
    # A subfigure a row: its title takes height from the panels below it, and no width from the first.
    for row, one in zip(figure.subfigures(len(overlays), 1, squeeze=False)[:, 0], overlays, strict=True):
        for axis, plane in zip(row.subplots(1, len(planes), squeeze=False)[0], planes, strict=True):
            hu, labels, place = one.planes[plane]
            draw_plane(axis, hu, labels, 1.1, interpolation="bilinear")
            if place is not None:
                axis.plot(*place, marker="o", ms=16, mfc="none", mec="yellow", mew=1.6)
            axis.set(xticks=[], yticks=[], xlabel=plane)
            axis.spines[:].set_visible(False)
        title = f"{one.scan_id}: {one.verdict}" + (f" ({one.findings})" if one.findings else "")
        row.suptitle(textwrap.fill(title, 88), x=0.01, ha="left", fontsize=11)
    return figure


def draw_plane(axis: Axes, hu: Any, labels: Any, width: float, interpolation: str | None = None) -> None:
    """Draw a plane of a scan (HU) with the outlines of its lungs, `width` points wide."""
    axis.imshow(hu, cmap="gray", vmin=LUNG_WINDOW[0], vmax=LUNG_WINDOW[1], interpolation=interpolation)
    for label, style in SIDES.items():
        if (labels == label).any():
            axis.contour(labels == label, levels=[0.5], linewidths=width, **style)


@styled
def qa_distributions(table: pd.DataFrame, limits: Mapping[str, tuple[float | None, float | None, str]]) -> Figure:
    """Draw each measure of the scans that were judged (schema `LUNGS`) with its range of `tables.plausible_ranges`.

    One mark a scan, formed and coloured by its verdict; the plausible range is shaded.
    """
    n_rows = -(-len(limits) // 2)
    figure, axes = new_figure(1.35 * n_rows + 0.6, n_rows, 2)
    for axis, (name, (low, high, label)) in zip(axes.flat, limits.items(), strict=False):
        _draw_measure(axis, table, name, low, high)
        axis.set_xlabel(label, fontsize=11)
    for axis in axes.flat[len(limits) :]:
        axis.axis("off")
    counts = table["verdict"].value_counts()
    handles = [
        axes.flat[0].scatter([], [], label=f"{verdict} ({counts.get(verdict, 0)} scans)", **style)
        for verdict, style in VERDICTS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _draw_measure(axis: Axes, table: pd.DataFrame, name: str, low: float | None, high: float | None) -> None:
    values = table[name].astype(float)
    finite = values.dropna()
    ends = [end for end in (low, high) if end is not None] + list(finite)
    margin = 0.05 * (max(ends, default=0.0) - min(ends, default=0.0)) or 1.0  # also of a single value
    left, right = (min(ends) - margin, max(ends) + margin) if ends else (0.0, 1.0)
    axis.axvspan(left if low is None else low, right if high is None else high, color=PALE, zorder=0)
    for end in (low, high):
        if end is not None:
            axis.axvline(end, color=GREY, lw=1, ls=":")
    # A fixed scatter up and down, so that marks do not hide each other and two runs draw the same figure.
    heights = pd.Series(np.random.default_rng(0).uniform(-1, 1, len(table)), index=table.index)
    for verdict, style in VERDICTS.items():
        chosen = (table["verdict"] == verdict) & values.notna()
        axis.scatter(values[chosen], heights[chosen], linewidths=0, **style)
    axis.set(yticks=[], ylim=(-1.6, 1.6), xlim=(left, right))
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="x", colors=INK)
    axis.locator_params(axis="x", nbins=5)
