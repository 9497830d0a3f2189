"""Figures as vector graphics: sharp at any size and on paper, and the same bytes whenever they are drawn."""

import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

LARGEST = 300_000  # characters
PIXELS_PER_POINT = 110 / 72
"""Of a figure in a page: as wide as the pictures beside it, which are drawn with 110 dots per inch."""
METADATA = ("Creator", "Date", "Format", "Type")


class BookFigure(Figure):
    """A figure that a notebook keeps as pixels and, where that helps, as vector graphics too."""

    def _repr_svg_(self) -> str | None:
        return as_svg(self)


def as_svg(figure: Figure) -> str | None:
    """Draw a figure as vector graphics, where that helps.

    Parameters
    ----------
    figure
        Any figure.

    Returns
    -------
    str or None
        From `draw`. None where the figure holds images, which are pixels anyway, or so many marks that pixels are
        smaller.
    """
    if any(axes.images for axes in figure.axes):
        return None
    text = draw(figure)
    return text if len(text) <= LARGEST else None


def draw(figure: Figure) -> str:
    """Draw a figure as vector graphics.

    Parameters
    ----------
    figure
        Any figure.

    Returns
    -------
    str
        SVG whose letters are outlines, since a reader's machine may lack the font; what each says stands beside it in
        a comment.
    """
    written = io.StringIO()
    # Names inside the file follow from its content and this salt; without one they are drawn at random.
    with mpl.rc_context({"svg.hashsalt": "sscct", "svg.fonttype": "path"}):
        figure.savefig(written, format="svg", bbox_inches="tight", metadata=dict.fromkeys(METADATA))
    return re.sub(r'(?<= )(width|height)="([\d.]+)pt"', _in_pixels, written.getvalue(), count=2)


def _in_pixels(size: re.Match[str]) -> str:
    return f'{size[1]}="{float(size[2]) * PIXELS_PER_POINT:.0f}"'
