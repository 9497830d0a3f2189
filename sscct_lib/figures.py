"""Every plot of the book, in one style. Figures draw tables; they compute nothing statistical."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscct_lib.cohort import FlowStep
from sscct_lib.svg import BookFigure
from sscct_lib.wording import counted as counted

Colour = tuple[float, float, float]

INK = "#222222"
GREY = "#767676"
PALE = "#f2f4f7"
PERCENT = "{x:.0%}"
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
    "text.parse_math": False,  # a dollar sign in the name of a kernel is no formula
    "figure.dpi": 110,
    "savefig.dpi": 160,
}
styled = mpl.rc_context(STYLE)
"""Decorator that draws a figure in the style of the book."""

# In the order in which neighbours differ most, also in grey.
PALETTE: list[Colour] = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9, 6, 7)] + [(0.45, 0.4, 0.0)]
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
    figure = plt.figure(figsize=(WIDTH, height), layout="constrained", FigureClass=BookFigure)
    plt.close(figure)  # else a notebook shows it twice: as the cell's value, and as pyplot's open figure
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
    return {model: PALETTE[i % len(PALETTE)] for model, i in _slots(models).items()}


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


MODEL_ORDER = (
    "Clinical",
    "Radiomics",
    "ResNet-18",
    "DenseNet-121",
    "Swin Transformer",
    "Quantitative CT",
    "All features",
    "ILD-GAP",
    "Goh stage",
    "Stacked (equal weights)",
    "Clinical + quantitative CT",
    "Radiomics + change",
    "FVC and DLCO",
    "Age and sex",
    "ILD-GAP (published risks)",
    "Clinical + quantitative CT, boosted trees",
    "Clinical + quantitative CT, harmonised",
    "Clinical + quantitative CT, logistic",
    "Clinical + quantitative CT, survival forest",
    "ResNet-18, longitudinal",
    "DenseNet-121, longitudinal",
    "Swin Transformer, longitudinal",
)
"""Models whose colours are fixed, because several pages of the book show them; the later ones share a colour with an
earlier one, and differ from it in the dash."""


def _slots(models: Iterable[str]) -> dict[str, int]:
    """Give models their places in the palette; `ResNet-18 (from scratch)` takes that of `ResNet-18`."""
    names = list(dict.fromkeys(models))
    fixed = {name: i for i, name in enumerate(MODEL_ORDER)}
    slots = {name: fixed[name] for name in names if name in fixed}
    others = []
    for name in sorted(set(names) - set(slots)):
        slot = fixed.get(re.sub(r" \([^()]*\)", "", name))
        if slot is None or slot in slots.values():
            others.append(name)
        else:
            slots[name] = slot
    for place, name in enumerate(others, start=len(MODEL_ORDER)):  # in a colour that the figure does not have yet
        taken = {slot % len(PALETTE) for slot in slots.values()}
        free = (slot for slot in range(place, place + len(PALETTE)) if slot % len(PALETTE) not in taken)
        slots[name] = next(free, place)
    return {name: slots[name] for name in names}


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


@styled
def followup_curve(curve: pd.DataFrame) -> Figure:
    """Draw the share of scans still followed, with numbers at risk.

    Parameters
    ----------
    curve
        From `horizons.followup_curve`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(4.2)
    axis: Axes = axes[0, 0]
    if curve.empty:
        return _nothing(figure, axis, "No scan with follow-up")
    first = curve.iloc[0]
    scans, patients = counted(int(first["n_scans"]), "scan"), counted(int(first["n_patients"]), "patient")
    axis.fill_between(curve["years"], curve["ci_low"], curve["ci_high"], step="post", color=GREY, alpha=0.25, lw=0)
    axis.step(curve["years"], curve["still_followed"], where="post", color=INK)
    axis.set(ylim=(0, 1.02), ylabel="Still followed")
    axis.set_title(f"{scans} of {patients}, {int(first['n_events'])} followed by death", loc="left")
    axis.yaxis.set_major_formatter(PERCENT)
    _at_risk(axis, {"scans": curve}, {"scans": INK})
    return figure


@styled
def kaplan_meier_by_group(curves: pd.DataFrame, title: str = "") -> Figure:
    """Draw survival of groups of scans, with bands and the numbers still at risk below.

    Parameters
    ----------
    curves
        From `curves.survival_by_group`; groups in the order of the legend.
    title
        Which model made the groups.

    Returns
    -------
    matplotlib.figure.Figure
    """
    groups = {str(name): rows for name, rows in curves.groupby("group", sort=False)}
    figure, axes = new_figure(4.4 + 0.25 * len(groups))
    axis: Axes = axes[0, 0]
    colours = dict(zip(groups, sns.color_palette("colorblind", len(groups)), strict=True))
    for (name, rows), dash in zip(groups.items(), cycle(_DASHES)):
        first = rows.iloc[0]
        label = f"{name}: {int(first['n_events']):,} of {counted(int(first['n_scans']), 'scan')} followed by death"
        shown = rows.dropna(subset="survival")
        axis.step(shown["years"], shown["survival"], where="post", color=colours[name], ls=dash, lw=2, label=label)
        axis.fill_between(
            shown["years"], shown["ci_low"], shown["ci_high"], step="post", color=colours[name], alpha=0.15, lw=0
        )
    axis.set(ylim=(0, 1.02), ylabel="Alive")
    axis.set_title(title, loc="left")
    axis.yaxis.set_major_formatter(PERCENT)
    axis.legend(loc="lower left")
    _at_risk(axis, groups, colours)
    return figure


@styled
def cumulative_incidence_by_cause(curves: pd.DataFrame) -> Figure:
    """Draw the probability of death by cause and of transplant, with bands and the numbers still followed.

    Parameters
    ----------
    curves
        From `causes.cumulative_incidence`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(4.4)
    axis: Axes = axes[0, 0]
    if curves.empty:
        return _nothing(figure, axis, "No scan is followed by death")
    for (name, rows), colour, dash in zip(curves.groupby("group", sort=False), PALETTE, cycle(_DASHES)):
        label = f"{name}: {counted(int(rows['n_events'].iloc[0]), 'scan')}"
        axis.step(rows["years"], rows["incidence"], where="post", color=colour, ls=dash, lw=2, label=label)
        axis.fill_between(rows["years"], rows["ci_low"], rows["ci_high"], step="post", color=colour, alpha=0.15, lw=0)
    first = curves.iloc[0]
    scans, patients = counted(int(first["n_scans"]), "scan"), counted(int(first["n_patients"]), "patient")
    axis.set_title(f"{scans} of {patients}", loc="left")
    axis.set_ylabel("Followed by the event")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PERCENT)
    axis.legend(loc="upper left")
    _at_risk(axis, {"scans": curves[curves["group"] == first["group"]]}, {"scans": INK})
    return figure


def _at_risk(axis: Axes, groups: dict[str, pd.DataFrame], colours: Mapping[str, Any]) -> None:
    """Write the numbers followed to each whole year under the axis, one row a group."""
    last = max(rows["years"].max() for rows in groups.values())
    years = range(0, int(last) + 1, max(1, int(last // 8)))
    axis.set(xlim=(0, last), xlabel="Years after the scan", xticks=list(years))

    def write(text: str, year: float, row: int, **style: Any) -> None:
        below = (-26 if style.get("ha") == "right" else 0, -52 - 15 * row)
        axis.annotate(
            text, (year, 0), below, axis.get_xaxis_transform(), "offset points", va="center", fontsize=11, **style
        )

    write("At risk", 0, 0, ha="left", weight="bold")
    for row, (name, rows) in enumerate(groups.items(), start=1):
        write(name, 0, row, ha="right", color=colours[name])
        at_risk = rows.set_index("years")["at_risk"]
        for year in years:
            write(f"{int(at_risk.get(float(year), 0)):,}", year, row, ha="center")


def _nothing(figure: Figure, axis: Axes, words: str) -> Figure:
    axis.axis("off")
    axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", va="center")
    return figure
