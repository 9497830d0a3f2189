"""The plots of notebook 03: which features a model weighs."""

import pandas as pd
from matplotlib.figure import Figure

from sscct_lib.figures import GREY, INK, PALETTE, new_figure, styled


@styled
def feature_weights(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw the coefficient of each feature in each fold.

    Parameters
    ----------
    table
        From `tabular.leading_features`.
    title
        Above the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    features = list(dict.fromkeys(table["feature"]))
    figure, axes = new_figure(1.2 + 0.36 * max(len(features), 3))
    axis = axes[0, 0]
    axis.axvline(0, color=GREY, lw=1)
    for place, feature in enumerate(features):
        weights = table.loc[table["feature"] == feature, "coefficient"]
        axis.plot([weights.min(), weights.max()], [place, place], color=PALETTE[0], lw=3, alpha=0.35)
        axis.scatter(weights, [place] * len(weights), color=PALETTE[0], s=28, zorder=3)
        axis.plot(weights.mean(), place, marker="|", color=INK, ms=16, mew=2, zorder=4)
    axis.set_yticks(range(len(features)), features)
    axis.invert_yaxis()
    axis.set_xlabel("log odds ratio per standard deviation\n(right: more risk)")
    axis.set_title(title, loc="left")
    return figure
