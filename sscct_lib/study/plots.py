"""The style of every figure of the book. Figures draw tables; they compute nothing statistical.

Lines and letters are kept as vector graphics: sharp at any size and on paper, and the same bytes whenever they are
drawn.
"""

import io
import re
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sscct_lib.study.words import plain_names

LARGEST = 300_000  # characters
PIXELS_PER_POINT = 110 / 72  # in a page, as wide as the pictures beside it, which are drawn with 110 dots per inch
METADATA = ("Creator", "Date", "Format", "Type")  # left out: they change from one drawing to the next

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
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2))]

MODEL_ORDER = (
    "Clinical", "Radiomics", "ResNet-18", "DenseNet-121", "Swin Transformer", "Quantitative CT", "All features",
    "ILD-GAP", "Goh stage", "Equal-weight ensemble", "Clinical + quantitative CT", "Radiomics + change",
    "FVC and DLCO", "Age and sex", "ILD-GAP (published risks)", "Clinical + quantitative CT, boosted trees",
    "Clinical + quantitative CT, harmonised", "Clinical + quantitative CT, logistic",
    "Clinical + quantitative CT, survival forest", "ResNet-18, longitudinal", "DenseNet-121, longitudinal",
    "Swin Transformer, longitudinal", "SADL", "GAP (published risks)",
)  # fmt: skip
"""Models whose colours are fixed, because several pages of the book show them; the later ones share a colour with an
earlier one, and differ from it in the dash."""


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


def model_colours(models: pd.DataFrame) -> dict[str, Colour]:
    """Give each model of a table (`words.plain_names`) a colour (RGB); those of `MODEL_ORDER` never change."""
    return {model: PALETTE[i % len(PALETTE)] for model, i in _slots(models).items()}


def model_dashes(models: pd.DataFrame) -> dict[str, Any]:
    """Give each model of a table its line style, so that lines differ in print without colour."""
    return {model: DASHES[(i // 2) % len(DASHES)] for model, i in _slots(models).items()}


def _slots(models: pd.DataFrame) -> dict[str, int]:
    """Give models their places in the palette; `ResNet-18 (from scratch)` takes that of `ResNet-18`."""
    plain = plain_names(models)
    fixed = {name: i for i, name in enumerate(MODEL_ORDER)}
    slots = {name: fixed[name] for name in plain if name in fixed}
    others = []
    for name in sorted(set(plain) - set(slots)):
        slot = fixed.get(plain[name])
        if slot is None or slot in slots.values():
            others.append(name)
        else:
            slots[name] = slot
    for place, name in enumerate(others, start=len(MODEL_ORDER)):  # in a colour that the figure does not have yet
        taken = {slot % len(PALETTE) for slot in slots.values()}
        free = (slot for slot in range(place, place + len(PALETTE)) if slot % len(PALETTE) not in taken)
        slots[name] = next(free, place)
    return {name: slots[name] for name in plain}


class BookFigure(Figure):
    """A figure that a notebook keeps as pixels and, where that helps, as vector graphics too."""

    def _repr_svg_(self) -> str | None:
        return as_svg(self)


def as_svg(figure: Figure) -> str | None:
    """Draw a figure as SVG; None where it holds images, or so many marks that pixels are smaller."""
    if any(axes.images for axes in figure.axes):
        return None
    text = draw(figure)
    return text if len(text) <= LARGEST else None


def draw(figure: Figure) -> str:
    """Draw a figure as SVG whose letters are outlines; what each says stands beside it in a comment."""
    written = io.StringIO()
    # Letters are outlines, since a reader's machine may lack the font.
    # Names inside the file follow from its content and this salt; without one they are drawn at random.
    with mpl.rc_context({"svg.hashsalt": "sscct", "svg.fonttype": "path"}):
        figure.savefig(written, format="svg", bbox_inches="tight", metadata=dict.fromkeys(METADATA))
    return re.sub(r'(?<= )(width|height)="([\d.]+)pt"', _in_pixels, written.getvalue(), count=2)


def _in_pixels(size: re.Match[str]) -> str:
    return f'{size[1]}="{float(size[2]) * PIXELS_PER_POINT:.0f}"'
