"""Every plot of the book, in one style. Figures draw tables; they compute nothing statistical."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt  # noqa: F401  notebooks show Figure objects only once pyplot has been loaded
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscct_lib.cohort import FlowStep

Colour = tuple[float, float, float]

INK = "#222222"
GREY = "#767676"
PALE = "#f2f4f7"
WIDTH = 7.0  # inches; with 12-point letters still readable when a phone shows the figure 360 pixels wide

STYLE: Any = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("notebook"),
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "figure.dpi": 110,
    "savefig.dpi": 160,
}
styled = mpl.rc_context(STYLE)
"""Decorator that draws a figure in the style of the book."""

# Colours of the palette in the order in which neighbours differ most, also in grey.
_PALETTE: list[Colour] = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9, 6, 8, 7)]
_DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2))]


def new_figure(height: float, n_rows: int = 1, n_columns: int = 1, **subplots: Any) -> tuple[Figure, Any]:
    """Make an empty figure of the book's width.

    Parameters
    ----------
    height
        Inches.
    n_rows, n_columns
        Panels.
    **subplots
        Passed to `matplotlib.figure.Figure.subplots`.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : numpy.ndarray of matplotlib.axes.Axes
        Always two-dimensional, shape (n_rows, n_columns).
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **subplots)


def model_colours(models: Iterable[str]) -> dict[str, Colour]:
    """Give each model its colour, from a palette that colour-blind readers can tell apart.

    Parameters
    ----------
    models
        Names of models; repeated names count once.

    Returns
    -------
    dict
        Red, green and blue, 0 to 1, by model. A model named in `MODEL_ORDER` has the same colour in every
        figure.
    """
    return {model: _PALETTE[i % len(_PALETTE)] for model, i in _slots(models).items()}


def model_dashes(models: Iterable[str]) -> dict[str, Any]:
    """Give each model its line style, so that lines differ in print without colour.

    Parameters
    ----------
    models
        Names of models; repeated names count once.

    Returns
    -------
    dict
        Matplotlib line style by model.
    """
    return {model: _DASHES[(i // 2) % len(_DASHES)] for model, i in _slots(models).items()}


MODEL_ORDER: tuple[str, ...] = ()
"""Models whose colours are fixed, because several pages of the book show them."""


def _slots(models: Iterable[str]) -> dict[str, int]:
    known = {model: i for i, model in enumerate(MODEL_ORDER)}
    others = sorted(set(models) - set(known))
    slots = known | {model: len(known) + i for i, model in enumerate(others)}
    return {model: slots[model] for model in dict.fromkeys(models)}


def counted(n: int, noun: str) -> str:
    """Write a count with its noun, for example `1 scan` and `2,125 scans`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


@styled
def flow_diagram(flow: Sequence[FlowStep]) -> Figure:
    """Draw who entered the study and who was left out.

    Parameters
    ----------
    flow
        From `cohort.select`: kept boxes go down the middle, excluded ones to the right.

    Returns
    -------
    matplotlib.figure.Figure
    """
    n_rows = len(flow)
    figure, axes = new_figure(0.2 + 0.85 * n_rows)
    axis: Axes = axes[0, 0]
    axis.set(xlim=(0, 10), ylim=(n_rows, 0))
    axis.axis("off")
    centres = [row + 0.5 for row in range(n_rows)]
    main = [centre for step, centre in zip(flow, centres, strict=True) if not step.excluded]
    for above, below in pairwise(main):
        _arrow(axis, (2.6, above + 0.32), (2.6, below - 0.32))
    for step, centre in zip(flow, centres, strict=True):
        if step.excluded:
            _arrow(axis, (2.6, centre), (5.3, centre))
        _box(axis, step, 7.6 if step.excluded else 2.6, centre)
    return figure


def _box(axis: Axes, step: FlowStep, x: float, y: float) -> None:
    text = f"{step.label}\n{counted(step.n_scans, 'scan')} of {counted(step.n_patients, 'patient')}"
    half = 2.3 if step.excluded else 2.5
    axis.add_patch(
        mpl.patches.Rectangle(
            (x - half, y - 0.32),
            2 * half,
            0.64,
            facecolor="white" if step.excluded else PALE,
            edgecolor=INK,
            lw=1,
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=10.5, color=INK)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1})
