"""The plot of a sweep: one model's AUC in every run."""

import pandas as pd
from matplotlib.figure import Figure

from sscct_lib.figures import GREY, INK, new_figure, styled
from sscct_lib.summary import years_text


@styled
def sweep_forest(sweep: pd.DataFrame, kind: str) -> Figure:
    """Draw the AUC of a model in every run with its 95 % interval, a panel a horizon.

    Parameters
    ----------
    sweep
        Schema `SWEEP`; the first run comes first.
    kind
        Which model, as in the column `kind`.

    Returns
    -------
    matplotlib.figure.Figure
        A dotted line marks the first run's AUC. Beside each run: scans followed by death, of all judged.
    """
    auc = sweep[(sweep["metric"] == "auc") & (sweep["kind"] == kind)]
    horizons = sorted(auc["horizon_years"].unique())
    runs = list(dict.fromkeys(auc["run"]))
    figure, axes = new_figure(1.2 + 0.42 * len(runs), 1, len(horizons), sharex=True, sharey=True)
    for axis, horizon in zip(axes[0], horizons, strict=True):
        at = auc[auc["horizon_years"] == horizon].set_index("run").reindex(runs)
        axis.axvline(at["estimate"].iloc[0], color=GREY, lw=1, ls=":", zorder=0)
        for y, row in enumerate(at.itertuples()):
            axis.plot([row.ci_low, row.ci_high], [y, y], color=INK, lw=2)
            axis.plot(row.estimate, y, "o", color=INK, ms=6, mfc=INK if y else "white")
            counts = "" if pd.isna(row.n_scans) else f"{int(row.n_events)}/{int(row.n_scans)}"
            axis.text(0.02, y, counts, va="center", fontsize=9.5, color=GREY)
            if pd.isna(row.estimate):
                axis.text(1.0, y, "not estimable", ha="right", va="center", fontsize=9.5, color=GREY)
        axis.set(xlim=(0, 1), xlabel="AUC")
        axis.set_title(years_text(horizon), fontsize=12)
    axes[0, 0].set(yticks=range(len(runs)), yticklabels=runs, ylim=(len(runs) - 0.5, -0.7))
    return figure
