"""Figures of the deep models: what a network sees, and how it learned. They draw tables and compute nothing."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sscct_lib.study.plots import GREY, INK, model_colours, new_figure, styled
from sscct_lib.study.words import counted

BRIGHTEST = 0.6  # aerated and diseased lung lies below; vessels and consolidation may look alike


@styled
def network_input(cube: NDArray[np.float16], title: str) -> Figure:
    """Draw a cube (0 to 1, [z, y, x] in LPS) in three planes, as radiologists look at them."""
    middle, quarter = cube.shape[0] // 2, cube.shape[2] // 4
    names = ("axial", "coronal", "sagittal, right lung")
    figure, axes = new_figure(2.9, 1, 3)
    for axis, name, plane in zip(axes[0], names, _planes(middle, middle, quarter).values(), strict=True):
        drawn = axis.imshow(cube[plane].astype(float), cmap="gray", vmin=0, vmax=BRIGHTEST, interpolation="nearest")
        axis.set_title(name, fontsize=12)
        axis.axis("off")
    figure.colorbar(drawn, ax=axes[0].tolist(), shrink=0.8, label="input", extend="max")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


@styled
def attributions(cube: NDArray[np.float16], maps: dict[str, NDArray[np.float32]], title: str) -> Figure:
    """Draw maps, a row each, over what the networks see of a scan, in the planes through what matters most.

    The cube is 0 to 1, [z, y, x] in LPS; maps, by the name of the model, are from `explain.integrated_gradients`.
    """
    figure, axes = new_figure(2.3 * len(maps), len(maps), 3)
    for line, (name, found) in zip(axes, maps.items(), strict=True):
        for axis, plane in zip(line, draw_map(line, cube, found), strict=True):
            axis.text(0.03, 0.97, plane, color="white", fontsize=10, va="top", transform=axis.transAxes)
            axis.axis("off")
        line[0].set_title(name.partition(" (")[0], loc="left", fontsize=11)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def draw_map(axes: Sequence[Axes], cube: NDArray[np.float16], found: NDArray[np.float32]) -> list[str]:
    """Draw what raises (orange) and what lowers a risk (purple) over a cube, both (S, S, S), [z, y, x] in LPS.

    The planes are those through the strongest voxel: axial, coronal and sagittal, as many as there are axes. Their
    names are returned. The strongest half percent of the voxels share the end of the scale.
    """
    z, y, x = (int(i) for i in np.unravel_index(np.abs(found).argmax(), found.shape))
    most = float(np.quantile(np.abs(found[found != 0]), 0.995)) if found.any() else 1.0
    planes = list(_planes(z, y, x).items())[: len(axes)]
    for axis, (_, place) in zip(axes, planes, strict=True):
        axis.imshow(cube[place].astype(float), cmap="gray", vmin=0, vmax=BRIGHTEST, interpolation="nearest")
        strength = np.clip(np.abs(found[place]) / most, 0, 1)
        axis.imshow(found[place], cmap="PuOr_r", vmin=-most, vmax=most, alpha=strength, interpolation="nearest")
    return [name for name, _ in planes]


def _planes(z: int, y: int, x: int) -> dict[str, Any]:
    """Index the three planes through a voxel of a cube in LPS, with the head up."""
    return {"axial": np.s_[z], "coronal": np.s_[::-1, y], "sagittal": np.s_[::-1, :, x]}


@styled
def learning_curves(curves: pd.DataFrame, models: pd.DataFrame) -> Figure:
    """Draw the loss while models learn, and on the patients they never saw: a panel per model, a line per fold.

    A dot stands for the held-out patients of each fold; joined to it a circle, their loss when every scan gets the
    risks of the training patients. The tables are `tables.learning_curves` and `tables.model_table`.
    """
    names = list(models["model"].unique())
    colours = model_colours(models)
    figure, axes = new_figure(3.4, 1, len(names), sharey=True)
    for axis, name in zip(chain(*axes), names, strict=True):
        one, rows = curves[curves["model"] == name], models[models["model"] == name]
        for _, fold in one.groupby(["fold", "member"]):
            axis.plot(fold["epoch"], fold["loss"], color=colours[name], lw=1.5)
        last = one["epoch"].max()
        places = last * (1.06 + 0.06 * np.arange(len(rows)))
        axis.vlines(places, rows["loss_tested"], rows["loss_tested_without_image"], color=INK, lw=1)
        axis.scatter(places, rows["loss_tested_without_image"], facecolor="white", edgecolor=INK, zorder=3, s=28)
        axis.scatter(places, rows["loss_tested"], color=INK, zorder=4, s=28)
        title, _, weights = name.partition(" (")
        axis.set_title(title + (f"\n({weights}" if weights else ""), fontsize=11.5)
        axis.set(xlabel="Epoch", xlim=(0.9, 1.06 * places[-1]))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    first: Axes = axes[0, 0]
    first.set(ylabel="Loss per scan")
    handles = [
        first.plot([], [], color=GREY, lw=1.5)[0],
        first.scatter([], [], color=INK, s=28),
        first.scatter([], [], facecolor="white", edgecolor=INK, s=28),
    ]
    n_folds = counted(models["fold"].nunique(), "fold")
    labels = [f"training, {n_folds}", "patients never seen", "the same without the image"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10.5, handlelength=1.6)
    return figure


@styled
def zone_changes(zones: pd.DataFrame, title: str) -> Figure:
    """Draw which zones of the lungs raise or lower a risk, in percentage points, as a radiologist faces the patient.

    The zones are from `explain.explain_scan`, of one scan at one horizon; a panel per model.
    """
    names = list(zones["model"].unique())
    most = max(0.01, zones["change"].abs().max())
    figure, axes = new_figure(3.6, 1, len(names))
    for axis, name in zip(chain(*axes), names, strict=True):
        one = zones[zones["model"] == name]
        grid = one.pivot_table(index="height", columns="side", values="change")
        grid = grid.loc[["upper", "middle", "lower"], ["right", "left"]]
        axis.imshow(grid, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
        for (row, column), change in np.ndenumerate(grid.to_numpy()):
            ink = "white" if abs(change) > 0.7 * most else INK
            axis.text(column, row, f"{100 * change:+.1f}", ha="center", va="center", color=ink)
        axis.set_xticks([0, 1], list(grid.columns))
        axis.set_yticks([0, 1, 2], list(grid.index) if axis is axes[0, 0] else [""] * 3)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(f"{name.partition(' (')[0]}\nrisk {one['risk'].iloc[0]:.0%}", fontsize=11.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure
