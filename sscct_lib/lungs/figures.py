"""Figures of notebook 02: lung masks over their scans, and the measures by which they are judged."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscct_lib.lungs.planes import Overlay
from sscct_lib.lungs.segment import LEFT, RIGHT
from sscct_lib.study.plots import GREY, INK, PALE, PALETTE, new_figure, styled

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
    """Draw scans with the outline of their lungs, one scan a row, in three planes.

    Right lung: full line; left lung: dashed line; a ring marks the flagged place.

    Parameters
    ----------
    overlays
        From `planes.overlay`.
    when_none
        What to say where there are none.
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
    """Draw each measure of all scans with the range in which it is plausible.

    Parameters
    ----------
    table
        Schema `LUNGS`, scans that were judged.
    limits
        From `tables.plausible_ranges`.

    Returns
    -------
    matplotlib.figure.Figure
        One mark a scan, formed and coloured by its verdict; the plausible range is shaded.
    """
    n_rows = -(-len(limits) // 2)
    figure, axes = new_figure(1.35 * n_rows + 0.6, n_rows, 2)
    for axis, (name, (low, high, label)) in zip(axes.flat, limits.items(), strict=False):
        _draw_measure(axis, table, name, low, high)
        axis.set_xlabel(label, fontsize=11)
    for axis in axes.flat[len(limits) :]:
        axis.axis("off")
    handles = [
        axes.flat[0].scatter([], [], label=_counted(table, verdict), **style) for verdict, style in VERDICTS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _draw_measure(axis: Axes, table: pd.DataFrame, name: str, low: float | None, high: float | None) -> None:
    values = table[name].astype(float)
    finite = values.dropna()
    ends = [end for end in (low, high) if end is not None] + list(finite)
    margin = 0.05 * (max(ends) - min(ends)) if ends else 1.0
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


def _counted(table: pd.DataFrame, verdict: str) -> str:
    return f"{verdict} ({int((table['verdict'] == verdict).sum())} scans)"
