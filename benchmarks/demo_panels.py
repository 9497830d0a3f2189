"""Pictures of synthetic scans, for the page about the demo cohort."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from sscct_lib.study.plots import INK, new_figure, styled

LUNG_WINDOW = (-1150.0, 350.0)  # HU, as radiologists set it for lung


@dataclass(frozen=True)
class Panel:
    """One slice, rows from top to bottom as shown, HU, and what to write above it."""

    hu: NDArray[Any]
    title: str


@styled
def scan_panels(rows: Sequence[Sequence[Panel]], panel_height: float = 1.7) -> Figure:
    """Draw slices side by side in the lung window.

    Parameters
    ----------
    rows
        Rows of panels; every row has as many.
    panel_height
        Inches.

    Returns
    -------
    matplotlib.figure.Figure
        Grey images without axes, each with its title.
    """
    figure, axes = new_figure(panel_height * len(rows), len(rows), len(rows[0]))
    for line, panels in zip(axes, rows, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            low, high = LUNG_WINDOW
            axis.imshow(panel.hu, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
            axis.set_title(panel.title, fontsize=9, color=INK, pad=3)
            axis.axis("off")
    return figure
