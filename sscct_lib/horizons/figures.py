"""The figures of notebook 05, each drawn from a table of this package; `title` names the model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sscct_lib.horizons.evaluation import TOO_SMALL
from sscct_lib.horizons.subgroups import FAIRNESS
from sscct_lib.horizons.tables import absent
from sscct_lib.study.disclosure import HIDDEN, coarse_years, count_text, is_small, of_patients, quarter_steps
from sscct_lib.study.plots import (
    DASHES,
    GREY,
    INK,
    PALE,
    PALETTE,
    PERCENT,
    model_colours,
    model_dashes,
    new_figure,
    styled,
)
from sscct_lib.study.words import (
    NOT_ESTIMABLE,
    against_text,
    estimate_text,
    parts_texts,
    scans_of,
    scans_text,
    years_text,
)


@styled
def followup_curve(curve: pd.DataFrame) -> Figure:
    """Draw the share of scans still followed, with numbers at risk, from `survival.followup_curve`."""
    figure, axes = new_figure(4.2)
    axis: Axes = axes[0, 0]
    if curve.empty:
        return _nothing(figure, axis, "No scan with follow-up")
    first = curve.iloc[0]
    shown = quarter_steps(curve)
    axis.fill_between(shown["years"], shown["ci_low"], shown["ci_high"], step="post", color=GREY, alpha=0.25, lw=0)
    axis.step(shown["years"], shown["still_followed"], where="post", color=INK)
    axis.set(ylim=(0, 1.02), ylabel="Still followed")
    died = scans_text(first["n_events"], first["n_patients_died"])
    axis.set_title(f"{scans_text(first['n_scans'], first['n_patients'])},\n{died} followed by death", loc="left")
    axis.yaxis.set_major_formatter(PERCENT)
    _at_risk(axis, {"scans": curve}, {"scans": INK})
    return figure


@styled
def kaplan_meier_by_group(curves: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Draw survival of groups (`curves.survival_by_tertile`), with bands, a note and the numbers at risk below."""
    groups = {str(name): rows for name, rows in curves.groupby("group", sort=False)}
    figure, axes = new_figure(4.4 + 0.25 * len(groups))
    axis: Axes = axes[0, 0]
    colours = dict(zip(groups, sns.color_palette("colorblind", len(groups)), strict=True))
    firsts = curves.drop_duplicates("group")
    deaths = parts_texts([*firsts["n_events"]], [*firsts["n_patients_died"]])
    for (name, rows), counts, dash in zip(groups.items(), deaths, cycle(DASHES)):
        label = f"{name}: {scans_of(*counts)} followed by death"
        shown = quarter_steps(rows.dropna(subset="survival"))
        axis.step(shown["years"], shown["survival"], where="post", color=colours[name], ls=dash, lw=2, label=label)
        axis.fill_between(
            shown["years"], shown["ci_low"], shown["ci_high"], step="post", color=colours[name], alpha=0.15, lw=0
        )
    axis.set(ylim=(0, 1.02), ylabel="Alive")
    axis.set_title(title, loc="left")
    axis.text(0.02, 0.36, note, transform=axis.transAxes, fontsize=11, va="bottom")
    axis.yaxis.set_major_formatter(PERCENT)
    axis.legend(loc="lower left")
    _at_risk(axis, groups, colours)
    return figure


@styled
def cumulative_incidence_by_cause(curves: pd.DataFrame) -> Figure:
    """Draw the probability of each event (`survival.cumulative_incidence`), with bands and numbers followed."""
    figure, axes = new_figure(4.4)
    axis: Axes = axes[0, 0]
    if curves.empty:
        return _nothing(figure, axis, "No scan is followed by death")
    firsts = curves.drop_duplicates("group")
    events = parts_texts([*firsts["n_events"]], [*firsts["n_patients_with_event"]])
    groups = zip(curves.groupby("group", sort=False), events, PALETTE, cycle(DASHES))
    for (name, every), counts, colour, dash in groups:
        label, rows = f"{name}: {scans_of(*counts)}", quarter_steps(every)
        axis.step(rows["years"], rows["incidence"], where="post", color=colour, ls=dash, lw=2, label=label)
        axis.fill_between(rows["years"], rows["ci_low"], rows["ci_high"], step="post", color=colour, alpha=0.15, lw=0)
    first = curves.iloc[0]
    axis.set_title(scans_text(first["n_scans"], first["n_patients"]), loc="left")
    axis.set_ylabel("Followed by the event")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PERCENT)
    axis.legend(loc="upper left")
    _at_risk(axis, {"scans": curves[curves["group"] == first["group"]]}, {"scans": INK})
    return figure


def _at_risk(axis: Axes, groups: dict[str, pd.DataFrame], colours: Mapping[str, Any]) -> None:
    """Write the numbers followed to each whole year under the axis, one row per group; of few patients as in tables."""
    last = max(rows["years"].max() for rows in groups.values())
    years = range(0, int(last) + 1, max(1, int(last // 8)))
    axis.set(xlim=(0, last), xlabel="Years after the scan", xticks=list(years))

    def write(text: str, year: float, row: int, **style: Any) -> None:
        below = (-26 if style.get("ha") == "right" else 0, -52 - 15 * row)
        axis.annotate(
            text, (year, 0), below, axis.get_xaxis_transform(), "offset points", va="center", fontsize=11, **style
        )

    write("At risk", 0, 0, ha="left", weight="bold")
    for row, name in enumerate(groups, start=1):
        write(name, 0, row, ha="right", color=colours[name])
    counts = {name: rows.set_index("years")[["at_risk", "patients_at_risk"]] for name, rows in groups.items()}
    for year in years:
        at = [rows.loc[year] if year in rows.index else (0, 0) for rows in counts.values()]
        scans, patients = zip(*at, strict=True)
        texts = [text for text, _ in parts_texts(scans, patients)] if len(at) > 1 else [of_patients(*at[0])]
        for row, text in enumerate(texts, start=1):
            write("–" if text == HIDDEN else text, year, row, ha="center")


def _nothing(figure: Figure, axis: Axes, words: str) -> Figure:
    axis.axis("off")
    axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", va="center")
    return figure


MOST_CURVES = 8  # in one panel of ROC curves


@styled
def roc_curves(curves: pd.DataFrame, performance: pd.DataFrame) -> Figure:
    """Draw ROC curves, a panel per horizon, with each AUC and its interval; of many models, the eight highest."""
    auc = performance[performance["metric"] == "auc"]
    horizons = sorted(auc["horizon_years"].unique())
    colours, dashes = model_colours(auc), model_dashes(auc)
    figure, axes = new_figure(3.1 * len(horizons), len(horizons))
    for axis, horizon in zip(axes[:, 0], horizons, strict=True):
        rows = auc[auc["horizon_years"] == horizon].sort_values("estimate", ascending=False)
        axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        for row in rows.head(MOST_CURVES).itertuples():
            shown = curves[(curves["model"] == row.model) & (curves["horizon_years"] == horizon)]
            banded = shown["ci_low"].notna().any()
            style = {"color": colours[row.model], "ls": dashes[row.model], "lw": 2.4 if banded else 1.2}
            axis.plot(shown["false_positive"], shown["sensitivity"], **style, label=_auc_label(row))
            axis.fill_between(
                shown["false_positive"], shown["ci_low"], shown["ci_high"], color=style["color"], alpha=0.15, lw=0
            )
        axis.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal", ylabel="Sensitivity")
        axis.set_title(f"{years_text(horizon)}: {against_text(rows.iloc[0])}", loc="left")
        title = "AUC (95 % interval)"
        title += f", highest {MOST_CURVES} of {len(rows)}" if len(rows) > MOST_CURVES else ""
        # From the top of the panel down: a legend taller than the panel would else reach into the title above it.
        legend = axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), title=title, alignment="left", fontsize=9.5)
        legend.get_title().set_fontsize(9.5)
    axes[-1, 0].set_xlabel("1 - specificity")
    return figure


def _title(axis: Axes, horizon: float, counts: str, small: bool = False) -> None:
    """Head the panel of a horizon with its scans and patients; grey where too few died or lived, as in tables."""
    lines = counts.replace(" against", "\nagainst")
    axis.set_title(f"{years_text(horizon)}\n{lines}", loc="left", fontsize=10.5, color=GREY if small else INK)
    axis.set_facecolor(PALE if small else "white")


def _auc_label(row: Any) -> str:
    if pd.isna(row.estimate):
        return f"{row.model}: {absent(row)}"
    return f"{row.model}: {estimate_text(row.estimate, row.ci_low, row.ci_high)}"


IN_CALIBRATION = {"observed_expected": "O:E", "calibration_slope": "slope"}


def _written(performance: pd.DataFrame, horizon: float, metric: str) -> str:
    """Write one estimate of a model, by horizon and metric, for the inside of a panel."""
    rows = performance[(performance["horizon_years"] == horizon) & (performance["metric"] == metric)]
    if rows.empty or rows["estimate"].isna().all():
        return absent(rows.iloc[0]) if len(rows) else NOT_ESTIMABLE
    return estimate_text(*rows[["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)[0])


@styled
def calibration_plot(
    groups: pd.DataFrame, smooth: pd.DataFrame, risks: pd.DataFrame, performance: pd.DataFrame, title: str = ""
) -> Figure:
    """Draw observed against predicted risk, in groups of rising risk and as a smooth curve, a panel per horizon.

    Below the curves a histogram of the risks; inside each panel O:E and slope with their intervals.

    Parameters
    ----------
    groups
        From `curves.calibration`.
    smooth
        From `curves.smooth_calibration`.
    risks
        From `curves.risk_states`.
    performance
        Schema `PERFORMANCE`, of the same model at least.
    title
        Its name.
    """
    horizons = sorted(groups["horizon_years"].unique())
    own = performance[performance["model"] == title]
    figure, axes = new_figure(3.7, 1, len(horizons))
    for axis, horizon in zip(axes[0], horizons, strict=True):
        rows = groups[groups["horizon_years"] == horizon]
        known = rows.dropna(subset="observed")
        top = min(1.0, 1.08 * max(rows["predicted"].max(), known["ci_high"].max(), 0.05))
        axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        curve = smooth[smooth["horizon_years"] == horizon]
        axis.fill_between(curve["predicted"], curve["ci_low"], curve["ci_high"], color=GREY, alpha=0.2, lw=0)
        axis.plot(curve["predicted"], curve["observed"], color=GREY, lw=1.5)
        axis.vlines(known["predicted"], known["ci_low"], known["ci_high"], color=INK, lw=1.2)
        axis.scatter(known["predicted"], known["observed"], color=INK, s=25, zorder=3)
        at = risks.loc[risks["horizon_years"] == horizon, "risk"]
        heights, edges = np.histogram(at, bins=20, range=(0, top))
        tall = 0.12 * top * heights / max(1, heights.max())
        axis.bar(edges[:-1], tall, np.diff(edges), -0.15 * top, align="edge", color=GREY, alpha=0.5, lw=0)
        axis.axhline(0, color=GREY, lw=0.6)
        said = [f"{words} {_written(own, horizon, metric)}" for metric, words in IN_CALIBRATION.items()]
        axis.text(0.03, 0.97, "\n".join(said), transform=axis.transAxes, va="top", fontsize=8.5, color=INK)
        axis.set(xlim=(0, top), ylim=(-0.15 * top, 1.3 * top), xlabel="Predicted", aspect="equal")
        axis.set_yticks([tick for tick in MaxNLocator(4).tick_values(0, top) if 0 <= tick <= top])
        axis.xaxis.set_major_formatter(PERCENT)
        axis.yaxis.set_major_formatter(PERCENT)
        axis.locator_params(axis="x", nbins=3)  # the labels of three narrow panels must not run into one another
        first = rows.iloc[0]
        _title(axis, horizon, first["all_scans"], first["too_small"])
    axes[0, 0].set_ylabel("Observed")
    figure.suptitle(title, x=0.02, ha="left", fontsize=13)
    return figure


@styled
def performance_forest(performance: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Draw the AUC of every model at every horizon, with what another cohort's study published (`tables.PUBLISHED`)."""
    auc = performance[performance["metric"] == "auc"]
    horizons = sorted(auc["horizon_years"].unique())
    models = list(dict.fromkeys(auc["model"]))
    others = list(dict.fromkeys(published["model"]))
    colours = model_colours(auc)
    n_rows = len(models) + len(others)
    figure, axes = new_figure(1.5 + 0.34 * n_rows, 1, len(horizons), sharex=True, sharey=True)
    for axis, horizon in zip(axes[0], horizons, strict=True):
        at = auc[auc["horizon_years"] == horizon].set_index("model")
        for y, model in enumerate(models):
            row = at.loc[model]
            axis.plot([row["ci_low"], row["ci_high"]], [y, y], color=colours[model], lw=2)
            axis.plot(row["estimate"], y, "o", color=colours[model], ms=6)
            if pd.isna(row["estimate"]):
                axis.text(0.5, y, absent(row), ha="center", va="center", fontsize=9, color=GREY)
        for y, row in enumerate(_at_horizon(published, others, horizon), start=len(models)):
            axis.plot([row["auc_low"], row["auc_high"]], [y, y], "-o", color=INK, mfc="white", lw=1, ms=6)
        axis.axvline(0.5, color=GREY, lw=1, ls=":")
        axis.axhline(len(models) - 0.5, color=GREY, lw=0.6)
        most = at.sort_values("n_scans").iloc[-1]
        _title(axis, horizon, against_text(most), absent(most) == TOO_SMALL)
        axis.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"), xlabel="AUC")
    names = [*models, *(f"{name}\n(another cohort)" for name in others)]
    axes[0, 0].set(yticks=range(n_rows), yticklabels=names, ylim=(n_rows - 0.5, -0.5))
    return figure


def _at_horizon(published: pd.DataFrame, names: list[str], horizon: float) -> list[pd.Series]:
    at = published[published["horizon_years"] == horizon].set_index("model")
    return [row for _, row in at.reindex(names).iterrows()]


@styled
def fairness_forest(table: pd.DataFrame, horizon_years: float) -> Figure:
    """Draw how each group differs from the rest at a horizon (`subgroups.fairness`), a panel per measure."""
    at = table[table["horizon_years"] == horizon_years]
    groups = at.drop_duplicates(["kind", "part"])
    titles = ("AUC: less\nthe rest", "Died : expected:\ntimes the rest", "Flagged: less\nthe rest")
    figure, axes = new_figure(1.5 + 0.32 * len(groups), 1, len(titles), sharey=True)
    for axis, title, (metric, alike) in zip(axes[0], titles, FAIRNESS.items(), strict=True):
        rows: list[Any] = list(at[at["metric"] == metric].itertuples())
        axis.axvline(alike, color=GREY, lw=1, ls=":")
        for y, row in enumerate(rows):
            axis.plot([row.difference_low, row.difference_high], [y, y], color=INK, lw=2)
            axis.plot(row.difference, y, "o", color=INK, ms=5)
            if pd.isna(row.difference):
                axis.text(alike, y, f" {TOO_SMALL}", va="center", fontsize=9, color=GREY)
        axis.set_title(title, loc="left", fontsize=9.5)
        if alike:
            axis.set(xscale="log", xticks=(0.5, 1, 2), xticklabels=("0.5", "1", "2"))
            axis.minorticks_off()
        else:
            axis.locator_params(axis="x", nbins=3)
    names = [fill(f"{kind}: {part}", 32) for kind, part in groups[["kind", "part"]].to_numpy()]
    axes[0, 0].set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    axes[0, 0].set_yticklabels(names, fontsize=9)
    figure.suptitle(f"Within {years_text(horizon_years)}", x=0.02, ha="left", fontsize=13)
    return figure


@styled
def risk_distribution(risks: pd.DataFrame, title: str = "") -> Figure:
    """Draw predicted risks by what happened (`curves.risk_states`), a panel per horizon."""
    horizons = sorted(risks["horizon_years"].unique())
    states = ["died", "alive", "unknown"]
    colours = dict(zip(states, [PALETTE[3], PALETTE[0], "#b5b5b5"], strict=True))
    figure, axes = new_figure(1.2 + 1.5 * len(horizons), len(horizons), sharex=True)
    for axis, horizon in zip(axes[:, 0], horizons, strict=True):
        rows = risks[risks["horizon_years"] == horizon]
        numbers = rows["state"].value_counts().reindex(states, fill_value=0)
        of = rows.groupby("state")["patient_id"].nunique().reindex(states, fill_value=0)
        texts = [text for text, _ in parts_texts([*numbers], [*of])]
        rows = rows[~rows["state"].map(of).map(is_small)]  # dots can be counted
        with _same_chance():
            sns.stripplot(
                rows, x="risk", y="state", order=states, hue="state", hue_order=states, palette=colours,
                jitter=0.3, size=4, alpha=0.7, legend=False, ax=axis,
            )  # fmt: skip
        axis.set_yticks(range(3), [f"{state} ({text})" for state, text in zip(states, texts, strict=True)])
        axis.set(xlim=(-0.01, 1.01), ylabel="", xlabel="")
        axis.set_title(f"State at {years_text(horizon)}", loc="left")
    axes[-1, 0].set_xlabel(f"Risk of death predicted by {title}" if title else "Predicted risk of death")
    axes[-1, 0].xaxis.set_major_formatter(PERCENT)
    return figure


@styled
def instability(found: pd.DataFrame, title: str) -> Figure:
    """Draw the risks of a model that learned from other patients against its risk (`curves.instability`)."""
    horizons = sorted(found["horizon_years"].unique())
    figure, axes = new_figure(3.4, 1, len(horizons), sharex=True, sharey=True)
    for axis, horizon in zip(axes[0], horizons, strict=True):
        rows = found[found["horizon_years"] == horizon]
        axis.plot([0, 1], [0, 1], color=GREY, ls=":")
        axis.scatter(rows["risk"], rows["other"], s=5, alpha=0.4, color=PALETTE[0], lw=0)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="Risk")
        axis.set_title(years_text(horizon), loc="left")
        axis.xaxis.set_major_formatter(PERCENT)
        axis.yaxis.set_major_formatter(PERCENT)
    axes[0, 0].set_ylabel(f"From other patients: {title}")
    return figure


@styled
def decision_curves(curves: pd.DataFrame, thresholds: Sequence[float] = ()) -> Figure:
    """Draw net benefit against the threshold (`decisions.decision_curves`), two panels per horizon.

    To the left the curves; to the right how much more the first model brings than each other way, with its 95 % band.
    Ticks mark the `thresholds` that the study stated beforehand.
    """
    horizons = sorted(curves["horizon_years"].unique())
    figure, axes = new_figure(0.6 + 3.0 * max(1, len(horizons)), max(1, len(horizons)), 2, sharex=True)
    of_models = curves[~curves["model"].isin(["everybody", "nobody"])]
    models = list(of_models["model"].unique())
    colours, dashes = model_colours(of_models), model_dashes(of_models)
    colours |= {"everybody": to_rgb(GREY), "nobody": to_rgb(INK)}
    dashes |= {"everybody": "--", "nobody": ":"}
    for (left, right), horizon in zip(axes, horizons, strict=False):
        at = curves[curves["horizon_years"] == horizon]
        for name, rows in at.groupby("model", sort=False):
            style = {"color": colours[name], "ls": dashes[name], "lw": 2 if name in models else 1.5}
            left.plot(rows["threshold"], rows["net_benefit"], label=name if name in models else f"flag {name}", **style)
            if name != models[0]:
                right.plot(rows["threshold"], rows["gain"], **style)
                band = rows["gain_low"], rows["gain_high"]
                right.fill_between(rows["threshold"], *band, color=style["color"], alpha=0.15, lw=0)
        best = at["net_benefit"].max()
        left.set(ylim=(-0.3 * best, 1.25 * best), ylabel="Net benefit")
        first = at.iloc[0]
        _title(left, horizon, against_text(first))
        left.legend(loc="best", fontsize=10)
        right.axhline(0, color=INK, lw=0.8)
        for axis in (left, right):
            axis.vlines(thresholds, 0, 0.04, color=INK, lw=1.5, transform=axis.get_xaxis_transform())
        right.set(ylim=(-0.6 * best, 1.25 * best), ylabel="Gain")
        right.set_title("Gain of the first\nover each other", loc="left", fontsize=10.5)
    for axis in axes[-1]:
        axis.set_xlabel("Risk from which a scan is flagged")
        axis.xaxis.set_major_formatter(PERCENT)
    return figure


@contextmanager
def _same_chance() -> Iterator[None]:
    """Let dots be spread in the same way each time: seaborn draws from numpy's common stream."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@styled
def risks_over_time(rows: pd.DataFrame, title: str, horizon_years: float) -> Figure:
    """Draw the risk of every patient with two scans or more (`trajectories.over_time`), those who died apart.

    Times are in quarters of a year, and a panel of few patients stays empty: lines can be counted.
    """
    rows = rows.assign(**{name: rows[name].map(coarse_years) for name in ("years", "followup_years")})
    repeated = rows[rows.groupby("patient_id")["scan_id"].transform("size") > 1]
    died = repeated["event_observed"].astype(bool)
    figure, axes = new_figure(6.4, 2, 1, sharex=True, sharey=True)
    panels = (("died", repeated[died], PALETTE[3]), ("not known to have died", repeated[~died], PALETTE[0]))
    for axis, (words, group, colour) in zip(axes[:, 0], panels, strict=True):
        n_patients = group["patient_id"].nunique()
        group = group[:0] if is_small(n_patients) else group
        # One object for all patients: one each takes minutes in a large study.
        lines = [patient.to_numpy() for _, patient in group.groupby("patient_id")[["years", "risk"]]]
        axis.add_collection(LineCollection(lines, colors=colour, linewidths=1, alpha=0.6))
        axis.plot(group["years"], group["risk"], "o", color=colour, ms=3, alpha=0.6)
        last = group.groupby("patient_id").tail(1)
        last = last[last["event_observed"].astype(bool)]
        deaths = (last["years"] + last["followup_years"]).to_numpy()
        axis.hlines(last["risk"], last["years"], deaths, color=GREY, lw=0.7, ls=":")
        axis.plot(deaths, last["risk"], "x", color="black", ms=6, mew=1.4)
        n_told = f"{count_text(n_patients)} patient{'' if count_text(n_patients) == '1' else 's'}"
        axis.set_title(f"{n_told} who {words}", loc="left")
        if words.startswith("not"):
            axis.set_title(f"{n_told} {words}", loc="left")
        axis.set_ylabel(f"Risk within {years_text(horizon_years)}")
        axis.yaxis.set_major_formatter(PERCENT)
    axes[-1, 0].set_xlabel("Years after the first scan")
    figure.suptitle(title, x=0.02, ha="left", fontsize=13)
    return figure
