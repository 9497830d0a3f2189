"""The page that compares the runs of a sweep, in the book of the first of them."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sscct_lib.completeness import has_sweep as has_sweep
from sscct_lib.files import write_if_changed
from sscct_lib.headline import ROWS, first_pictured
from sscct_lib.markup import html_table
from sscct_lib.schemas import SWEEP, SWEPT_RUNS
from sscct_lib.study import Study, load_study
from sscct_lib.summary import estimate_text, years_text
from sscct_lib.svg import draw
from sscct_lib.sweep_comparison import state
from sscct_lib.tables import read_table

MADE_BY = "sscct sweep"
PICTURE = "sweep.svg"
WARNING = """::::{{admonition}} Never choose a run by these figures
:class: warning
They show how far the results hang on a setting, and nothing more. The run that looks best of several looks better than
it is, since part of its lead is chance: this page makes {n} comparisons with the first run, and chance alone would make
about {n_false} of their 95 % intervals leave out 0. Fix settings before results are seen, choose them inside the
training patients (as the tuning of the models does), or judge the chosen run once, on patients of another cohort.
::::
"""


def write_page(study: Study, folder: Path) -> str:
    """Write the page, and its picture into the folder of the book's sources.

    Parameters
    ----------
    study
        The study and first run; see `has_sweep`.
    folder
        Of the sources.

    Returns
    -------
    str
        MyST Markdown.
    """
    from sscct_lib.sweep_figures import sweep_forest

    sweep, runs = (
        read_table(study.table("sweep"), SWEEP, MADE_BY),
        read_table(study.table("swept_runs"), SWEPT_RUNS, MADE_BY),
    )
    parts = [
        "# Runs with other settings, side by side",
        "Each run is the same study with some settings changed (`sscct sweep`). A change may alter which scans are "
        "judged, so the counts stand beside every number. The differences are paired: both runs judge the same scans, "
        "and the bootstrap draws the same patients for both.",
        _warning(sweep),
        *_stale(study, runs),
        "## The runs",
        html_table(_in_words(runs, sweep)),
    ]
    if len(sweep):
        shown = first_pictured([kind for kind in ROWS if kind in set(sweep["kind"])])
        write_if_changed(folder / PICTURE, draw(sweep_forest(sweep, shown)))
        parts += [
            f"## How far the AUC of {shown} hangs on the settings",
            "Look at whether the intervals overlap before looking at their middles. The dotted line is the first run's "
            "AUC. Small numbers: scans followed by death, of all that were judged.",
            f"![AUC of {shown} with 95 % intervals in every run, a panel for each horizon]({PICTURE})",
            "## Every model",
            "*died : expected* is the number of observed deaths over that of predicted ones: 1 is right. The last "
            "column is the run's AUC minus the first run's on the scans that both judged, whose number follows.",
        ]
    return "\n\n".join([*parts, *_sections(sweep)]) + "\n"


def _warning(sweep: pd.DataFrame) -> str:
    n = int(sweep["difference"].notna().sum())
    return WARNING.format(n=n, n_false=f"{0.05 * n:.1f}".removesuffix(".0"))


def _stale(study: Study, runs: pd.DataFrame) -> Iterator[str]:
    """Say which runs are not what they were when they were compared."""
    compared = runs[["run", "state"]].to_numpy()
    changed = [str(name) for name, then in compared if state(load_study(study.folder, str(name))) != then]
    if changed:
        yield f"**Run {', '.join(changed)} changed after this comparison: call `{MADE_BY}` again.**"


def _in_words(runs: pd.DataFrame, sweep: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in runs.itertuples():
        most = sweep[sweep["run"] == row.run].nlargest(1, "n_scans")
        counts = {name: f"{most[f'n_{name}'].iloc[0]:,}" if len(most) else "" for name in ("scans", "patients")}
        rows.append({"run": row.run, "changed": row.changes or "nothing", **counts, "finished": row.missing or "yes"})
    return pd.DataFrame(rows)


def _sections(sweep: pd.DataFrame) -> Iterator[str]:
    for kind in [kind for kind in ROWS if kind in set(sweep["kind"])]:
        of = sweep[sweep["kind"] == kind]
        yield f"### {kind}"
        for horizon in sorted(of["horizon_years"].unique()):
            yield f"Within {years_text(horizon)}:"
            yield html_table(_table(of[of["horizon_years"] == horizon]))


def _table(of: pd.DataFrame) -> pd.DataFrame:
    """Lay out one model at one horizon: a row a run."""
    auc, calibration = (of[of["metric"] == metric].set_index("run") for metric in ("auc", "observed_expected"))
    names = auc["model"] != auc["kind"]
    numbers = ["estimate", "ci_low", "ci_high"]
    ratios = calibration.loc[auc.index, numbers].to_numpy()
    table = pd.DataFrame(
        {
            "run": auc.index,
            "model": auc["model"],
            "AUC": [estimate_text(*values) for values in auc[numbers].to_numpy()],
            "died : expected": [estimate_text(*values) for values in ratios],
            "deaths of scans (unknown)": [
                f"{row.n_events} of {row.n_scans:,} ({row.n_unknown:,})" for row in auc.itertuples()
            ],
            "patients": auc["n_patients"].map("{:,}".format),
            "AUC minus the first run's": [_difference(row) for row in auc.itertuples()],
        }
    )
    return table if names.any() else table.drop(columns="model")


def _difference(row: object) -> str:
    value, low, high, n = (
        getattr(row, name) for name in ("difference", "difference_low", "difference_high", "n_paired")
    )
    if pd.isna(value):
        return ""
    return f"{estimate_text(value, low, high)} on {n:,} scans"
