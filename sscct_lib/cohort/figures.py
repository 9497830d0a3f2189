"""The figure of notebook 01: the flow diagram."""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscct_lib.cohort.selection import FlowStep, flow_counts
from sscct_lib.study.plots import INK, PALE, new_figure, styled


@styled
def flow_diagram(flow: Sequence[FlowStep]) -> Figure:
    """Draw who entered the study, down the middle, and who was left out, to the right."""
    n_rows = len(flow)
    figure, axes = new_figure(0.2 + 0.85 * n_rows)
    axis: Axes = axes[0, 0]
    axis.set(xlim=(0, 10), ylim=(n_rows, 0))
    axis.axis("off")
    centres = [row + 0.5 for row in range(n_rows)]
    main = [centre for step, centre in zip(flow, centres, strict=True) if not step.excluded]
    for above, below in pairwise(main):
        _arrow(axis, (2.6, above + 0.32), (2.6, below - 0.32))
    for step, counts, centre in zip(flow, flow_counts(flow), centres, strict=True):
        if step.excluded:
            _arrow(axis, (2.6, centre), (5.3, centre))
        _box(axis, step, counts, 7.6 if step.excluded else 2.6, centre)
    return figure


def _box(axis: Axes, step: FlowStep, counts: str, x: float, y: float) -> None:
    text = f"{step.label}\n{counts}"
    half = 2.3 if step.excluded else 2.5
    axis.add_patch(
        mpl.patches.Rectangle(
            (x - half, y - 0.32), 2 * half, 0.64, facecolor="white" if step.excluded else PALE, edgecolor=INK, lw=1
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=10.5, color=INK)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1})
