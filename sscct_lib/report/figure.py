"""The page on one scan: its risk over time, its place in the cohort, what lies behind it, and the scan itself."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscct_lib.deep.figures import draw_map
from sscct_lib.lungs.figures import draw_plane
from sscct_lib.report.evidence import Map
from sscct_lib.report.page import NEW, STRANGE, WEIGHTS, ScanReport
from sscct_lib.study.plots import GREY, INK, PALETTE, PERCENT, model_colours, styled
from sscct_lib.study.words import percent_text, years_text

A4 = (8.27, 11.69)  # inches
RESEARCH = "Research use, not for care. No risk on this page may guide the treatment of a patient."
SYNTHETIC = "A synthetic patient of the demo study. "
OUTSIDE = "Judged by a demo study, whose models learned from synthetic patients. "
LINES = 94  # letters across the page

# Where the lines of the head begin, as shares of the page's height, and how high a line of warnings is.
TITLE, SUBTITLE, FACTS, WARNINGS, WARNING_LINE = 0.965, 0.937, 0.915, 0.888, 0.0158
HEAD_ENDS = 0.9  # without warnings
# Below the head: rows with their relative heights, twelve columns wide.
ROWS = {"risk": 1.0, "words": 0.95, "pictures": 0.8}
# Lines of words, as shares of their row's height.
GAP, HEADING_LINE, TEXT_LINE = 0.02, 0.093, 0.077


@styled
def scan_page(report: ScanReport) -> Figure:
    """Draw the page on a scan, one sheet of A4."""
    figure = plt.figure(figsize=A4)
    plt.close(figure)
    top = _head(figure, report)
    grid = figure.add_gridspec(
        len(ROWS), 12, left=0.08, right=0.97, top=top - 0.035, bottom=0.075,
        height_ratios=list(ROWS.values()), hspace=0.42, wspace=1.6,
    )  # fmt: skip
    rows = {name: number for number, name in enumerate(ROWS)}
    _risk_curve(figure.add_subplot(grid[rows["risk"], :7]), report)
    _place(figure.add_subplot(grid[rows["risk"], 7:]), report)
    _words(figure.add_subplot(grid[rows["words"], :]), report)
    _pictures([figure.add_subplot(grid[rows["pictures"], first : first + 3]) for first in (0, 3, 6, 9)], report)
    figure.text(0.05, 0.02, textwrap.fill(_foot(report), 140), fontsize=7.5, color=GREY, va="bottom")
    return figure


def _head(figure: Figure, report: ScanReport) -> float:
    """Write title and warnings; return where they end, as a share of the height."""
    is_new = report.scan_id == NEW
    figure.text(0.05, TITLE, "A new scan" if is_new else f"Scan {report.scan_id}", fontsize=17, weight="bold", va="top")
    figure.text(0.05, SUBTITLE, f"{report.study_title}, run {report.run_name}", fontsize=10, color=GREY, va="top")
    figure.text(
        0.95, TITLE, textwrap.fill((((OUTSIDE if is_new else SYNTHETIC) if report.is_demo else "") + RESEARCH), 56),
        fontsize=9, weight="bold", color="white", va="top", ha="right",
        bbox={"facecolor": "#8a1c1c", "edgecolor": "none", "boxstyle": "round,pad=0.5"},
    )  # fmt: skip
    facts = "   ".join(f"{name}: {words}" for name, words in report.facts.items())
    figure.text(0.05, FACTS, facts, fontsize=10, va="top")
    if not report.warnings:
        return HEAD_ENDS
    lines = [line for words in report.warnings for line in textwrap.wrap(f"! {words}", LINES + 8)]
    figure.text(
        0.05, WARNINGS, "\n".join(lines), fontsize=9.5, va="top", linespacing=1.35,
        bbox={"facecolor": "#fdf1e3", "edgecolor": "#b35c00", "boxstyle": "round,pad=0.5"},
    )  # fmt: skip
    return WARNINGS - 0.01 - WARNING_LINE * len(lines)


def _risk_curve(axis: Axes, report: ScanReport) -> None:
    axis.set_title("Risk of death over time", loc="left", fontsize=11)
    main = report.risks[report.risks["model"] == report.model].sort_values("horizon_years")
    by_horizon = report.risks.groupby("horizon_years")["risk"]
    years = [0.0, *by_horizon.min().index]
    low, high = [0.0, *by_horizon.min()], [0.0, *by_horizon.max()]
    n_models = report.risks["model"].nunique()
    axis.fill_between(years, low, high, color=GREY, alpha=0.2, lw=0, label=f"range over {n_models} models")
    colour = model_colours(report.risks)[report.model]
    axis.plot([0, *main["horizon_years"]], [0, *main["risk"]], "-o", color=colour, lw=2.2, ms=5, label=report.model)
    for at, risk in main[["horizon_years", "risk"]].itertuples(index=False, name=None):
        axis.annotate(percent_text(risk), (at, risk), (-5, 5), textcoords="offset points", ha="right", fontsize=9.5)
    known = report.similar.dropna(subset="observed")
    if len(known):
        n = report.similar["patients"].iloc[0]
        beside = known["horizon_years"].to_numpy(dtype=float) + 0.12
        observed = known["observed"].to_numpy(dtype=float)
        spread = np.abs(known[["ci_low", "ci_high"]].to_numpy(dtype=float).T - observed)
        axis.errorbar(
            beside, observed, yerr=spread, fmt="s", color=INK, mfc="white", ms=5, lw=1.2, capsize=3,
            label=f"died of the {n} patients nearest in risk, 95 %",
        )  # fmt: skip
    top = max([*high, *known["ci_high"].dropna(), 0.1])
    axis.set(xlim=(0, years[-1] * 1.06), ylim=(0, min(1.02, 1.45 * top)), ylabel="")
    axis.set_xlabel("Years after the scan", fontsize=10)
    axis.yaxis.set_major_formatter(PERCENT)
    axis.legend(loc="lower right" if max(high) > 0.7 else "upper left", fontsize=8)
    axis.tick_params(labelsize=9)


def _place(axis: Axes, report: ScanReport) -> None:
    axis.set_title(f"Among {len(report.cohort_risks)} scans of the cohort", loc="left", fontsize=11)
    axis.hist(report.cohort_risks, bins=24, color="#b5b5b5")
    own = report.risks[
        (report.risks["model"] == report.model) & np.isclose(report.risks["horizon_years"], report.middle_years)
    ]["risk"]
    if len(own):
        axis.axvline(float(own.iloc[0]), color=PALETTE[3], lw=2.2)
        words = f"this scan: higher than\n{100 * report.lower:.0f} of 100"
        right = float(own.iloc[0]) > 0.5 * axis.get_xlim()[1]
        axis.annotate(
            words, (float(own.iloc[0]), 0.97 * axis.get_ylim()[1]), (-5 if right else 5, 0), color=PALETTE[3],
            textcoords="offset points", fontsize=9, va="top", ha="right" if right else "left",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip
    axis.set_xlabel(f"Risk within {years_text(report.middle_years)}", fontsize=10)
    axis.xaxis.set_major_formatter(PERCENT)
    axis.tick_params(labelsize=9)


def _words(axis: Axes, report: ScanReport) -> None:
    axis.axis("off")
    said: dict[str, list[str]] = {}
    if len(report.reasons):
        ratios = zip(report.reasons["words"], report.reasons["hazard_ratio"].astype(float), strict=True)
        said[f"{WEIGHTS}: {report.explained}"] = [
            f"- {words}; {'raises' if ratio > 1 else 'lowers'} the hazard of death, ×{ratio:.2f}"
            for words, ratio in ratios
        ]
    said["Patients with about the same risk"] = [report.similar_words]
    said["Like the scans that the models learned from?"] = [_alike(report)]
    height = 1.02
    for heading, paragraphs in said.items():
        height -= GAP
        axis.text(-0.03, height, heading, transform=axis.transAxes, va="top", weight="bold", fontsize=11)
        height -= HEADING_LINE
        for line in (line for text in paragraphs for line in textwrap.wrap(text, LINES + 14)):
            axis.text(-0.03, height, line, transform=axis.transAxes, va="top", fontsize=9)
            height -= TEXT_LINE


def _alike(report: ScanReport) -> str:
    if report.likeness.findings or any(STRANGE in words for words in report.warnings):
        return "No: the box at the top says in what."
    if report.likeness.nearer is None:
        return "It cannot be told: its measures, or enough training scans, are missing."
    return (
        f"Yes: {report.likeness.nearer:.0%} of the {report.likeness.n_scans} training scans lie nearer to the others, "
        "and every measure lies within their range."
    )


def _pictures(axes: list[Axes], report: ScanReport) -> None:
    for axis in axes:
        axis.axis("off")
    if report.overlay is not None:
        for axis, plane in zip(axes[:2], ("axial", "coronal"), strict=True):
            hu, labels, _ = report.overlay.planes[plane]
            draw_plane(axis, hu, labels, 0.8)
            axis.set_title(f"{plane}, lung mask", fontsize=9)
    if report.attribution is not None:
        _map(axes[2:], report.attribution)


def _map(axes: list[Axes], attribution: Map) -> None:
    """Draw the two planes in which the network's strongest voxel lies, and say how to read them."""
    name = attribution.model.partition(" (")[0]
    for axis, plane in zip(axes, draw_map(axes, attribution.cube, attribution.parts), strict=True):
        axis.set_title(f"{plane}, {name}", fontsize=9)
    said = "orange raises the risk, purple lowers it"
    if attribution.caution:
        said = textwrap.fill(f"This map {attribution.caution}.", 58)
    box = axes[0].get_position()
    axes[0].figure.text(box.x0, box.y0 - 0.008, said, fontsize=8, va="top", color=INK)


def _foot(report: ScanReport) -> str:
    return (
        f"Line: {report.model}. Grey: from the lowest to the highest risk of the models of the front page. Squares: "
        "what became of the patients with the nearest risk. A risk is that of a group of such patients; "
        "nobody knows who of the group it will be. Weights hold for a model fitted on all scans, against a patient "
        "with average values. Not validated outside the study."
    )
