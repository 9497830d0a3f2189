"""The plots of notebook 03: which features are stable, and which a model weighs."""

import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from sscct_lib.study.disclosure import count_text
from sscct_lib.study.plots import GREY, INK, PALETTE, new_figure, styled
from sscct_lib.study.words import feature_class, feature_name, feature_unit


@styled
def feature_stability(agreement: pd.DataFrame, min_icc: float) -> Figure:
    """Draw how well features agree (`pipeline.feature_agreement`), a row per class, with a line at `min_icc`."""
    kinds = agreement["feature"].map(feature_class)
    figure, axes = new_figure(1.4 + 0.42 * max(kinds.nunique(), 2))
    axis = axes[0, 0]
    axis.axvline(min_icc, color=GREY, lw=1, ls="--")
    labels = []
    for place, (kind, rows) in enumerate(agreement.groupby(kinds, sort=False)):
        # Within a row the features lie one below the other, so that none hides another.
        heights = place + 0.7 * (rows["icc"].rank(ascending=False, method="first") - 1) / len(rows) - 0.35
        axis.hlines(heights, rows["ci_low"], rows["ci_high"], color=PALETTE[0], lw=0.6, alpha=0.35)
        axis.scatter(rows["icc"], heights, color=PALETTE[0], s=5, zorder=3)
        labels.append(f"{kind}\n{int((rows['icc'] >= min_icc).sum())} of {len(rows)} stable")
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xlabel("agreement between versions of a scan, ICC(2,1), with 95 % interval")
    axis.set_xlim(max(-0.05, min(agreement["icc"].min(), 0.5) - 0.05) if len(agreement) else 0, 1.01)
    n_scans = int(agreement["n_scans"].max()) if len(agreement) else 0
    axis.set_title(f"{len(agreement)} features, {n_scans} scans of as many patients", loc="left")
    return figure


@styled
def importance(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw what a model loses without each kind of feature (`explain.held_out_importance`); counts follow the title."""
    figure, axes = new_figure(1.3 + 0.36 * max(len(table), 3))
    axis = axes[0, 0]
    axis.axvline(0, color=GREY, lw=1)
    places = range(len(table))
    axis.hlines(places, table["ci_low"], table["ci_high"], color=PALETTE[0], lw=3, alpha=0.35)
    axis.scatter(table["loss"], places, color=PALETTE[0], s=36, zorder=3)
    axis.set_yticks(places, [f"{row.kind} ({row.n_features})" for row in table.itertuples()])
    axis.invert_yaxis()
    axis.set_xlabel("loss of AUC when shuffled, with 95 % interval")
    counts = (
        f": {count_text(table['n_events'].iloc[0])} of {count_text(table['n_scans'].iloc[0])} scans"
        if len(table)
        else ": no estimate"
    )
    axis.set_title(title + counts, loc="left")
    return figure


@styled
def feature_weights(weights: pd.DataFrame, features: Sequence[str], title: str = "") -> Figure:
    """Draw the weights (`explain.feature_weights`) of some features in each fit, and how many fits chose each."""
    figure, axes = new_figure(1.2 + 0.42 * max(len(features), 3))
    axis = axes[0, 0]
    axis.axvline(0, color=GREY, lw=1)
    labels = []
    for place, feature in enumerate(features):
        values = weights.loc[weights["feature"] == feature, "coefficient"]
        axis.plot([values.min(), values.max()], [place, place], color=PALETTE[0], lw=3, alpha=0.35)
        axis.scatter(values, [place] * len(values), color=PALETTE[0], s=20, zorder=3)
        axis.plot(values.mean(), place, marker="|", color=INK, ms=16, mew=2, zorder=4)
        labels.append(f"{_wrapped(feature)}\nin {int((values != 0).sum())} of {len(values)} fits")
    axis.set_yticks(range(len(features)), labels, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel("log hazard ratio per standard deviation\n(right: more risk)")
    axis.set_title(title, loc="left")
    return figure


@styled
def feature_effects(effects: pd.DataFrame, title: str = "") -> Figure:
    """Draw how the risk changes along each feature (`explain.accumulated_effects`); ticks are tenths of the scans."""
    features = list(dict.fromkeys(effects["feature"]))
    n_rows = max(1, -(-len(features) // 2))
    figure, axes = new_figure(0.7 + 2.0 * n_rows, n_rows, 2, sharey=True)
    for axis in axes.flat[len(features) :]:
        axis.axis("off")
    for axis, feature in zip(axes.flat, features, strict=False):
        rows = effects[effects["feature"] == feature]
        axis.axhline(0, color=GREY, lw=1)
        axis.fill_between(rows["value"], 100 * rows["low"], 100 * rows["high"], color=PALETTE[0], alpha=0.25, lw=0)
        axis.plot(rows["value"], 100 * rows["effect"], color=PALETTE[0], lw=2)
        axis.plot(rows["value"], [0.03] * len(rows), "|", color=INK, ms=7, transform=axis.get_xaxis_transform())
        unit = feature_unit(feature)
        axis.set_xlabel(f"{_wrapped(feature, 38)}{f', {unit}' if unit else ''}", fontsize=9)
        axis.tick_params(labelsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("risk, points", fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def _wrapped(feature: str, width: int = 34) -> str:
    return "\n".join(textwrap.wrap(feature_name(feature), width))
