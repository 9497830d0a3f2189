"""Runs with other settings beside the first, on the scans that both judged alike: the numbers, a plot and a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sscct_lib.book.chapters import filled
from sscct_lib.horizons.bootstrap import interval
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.models import ROWS, chosen_models, first_pictured
from sscct_lib.horizons.tables import DENOMINATORS, denominators
from sscct_lib.study.disclosure import count_text
from sscct_lib.study.files import write_if_changed
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.plots import GREY, INK, draw, new_figure, styled
from sscct_lib.study.schemas import COHORT, PERFORMANCE, SWEEP, SWEPT_RUNS
from sscct_lib.study.seals import checksum
from sscct_lib.study.tables import read_predictions, read_table
from sscct_lib.study.words import estimate_text, plain_names, years_text

MADE_BY = "sscct sweep"
PICTURE = "sweep.svg"
SHOWN = ("auc", "observed_expected")
AGREED = ["scan_id", "patient_id", "followup_years", "event_observed"]
"""What must be the same of a scan in two runs for its risks to be compared."""
NO_DIFFERENCE = {"difference": np.nan, "difference_low": np.nan, "difference_high": np.nan, "n_paired": 0}


def compare(first: Study, others: Sequence[Study]) -> pd.DataFrame:
    """Put the runs of a sweep side by side.

    The models are one of each kind, chosen by the rule of the front page (`horizons.models`), which knows no result.

    Parameters
    ----------
    first, others
        Finished runs of one study; the others are compared with the first.

    Returns
    -------
    pandas.DataFrame
        Schema `SWEEP`: one row per run, model, horizon and metric. `difference` is the run's AUC minus that of the
        first on the scans of both runs whose patient, follow-up and outcome are the same in both, with the same
        resampled patients for both, and a 95 % interval.
    """
    reference = _read(first)
    rows = _rows(reference)
    for other in map(_read, others):
        held = cache(partial(_held, reference, other))
        rows += [row | _difference(reference, other, held, row) for row in _rows(other)]
    return SWEEP.validate(pd.DataFrame(rows, columns=list(SWEEP.columns)))


def state(study: Study) -> str:
    """In which state a run was compared: the checksum of its table of performance, empty without one."""
    path = study.table("performance")
    return checksum(path) if path.is_file() else ""


@dataclass(frozen=True)
class _Finished:
    """What a finished run says."""

    study: Study
    cohort: pd.DataFrame
    predictions: pd.DataFrame
    performance: pd.DataFrame

    @property
    def models(self) -> dict[str, str]:
        """Names of the models shown, by their kind."""
        plain = plain_names(self.performance)
        return {plain[name]: name for name in chosen_models(self.performance)}


def _read(study: Study) -> _Finished:
    return _Finished(
        study,
        read_table(study, "cohort", COHORT),
        read_predictions(study, stacked=True),
        read_table(study, "performance", PERFORMANCE),
    )


def _rows(run: _Finished) -> list[dict[str, Any]]:
    rows = []
    for kind, name in run.models.items():
        of = run.performance
        for row in of[(of["model"] == name) & of["metric"].isin(SHOWN)].to_dict("records"):
            own = {str(column): value for column, value in row.items()}
            rows.append({"run": run.study.run_name, "kind": kind, **own, **NO_DIFFERENCE})
    return rows


def _held(first: _Finished, other: _Finished) -> tuple[Evaluation, Evaluation]:
    """Hold the risks of both runs against the scans that both know alike."""
    scans = first.cohort[AGREED].merge(other.cohort[AGREED], on=AGREED)[["scan_id"]]
    return _judging(first, scans, first), _judging(other, scans, first)


def _difference(
    first: _Finished, other: _Finished, held: Callable[[], tuple[Evaluation, Evaluation]], row: dict[str, Any]
) -> dict[str, Any]:
    """Compare one model at one horizon; nothing where there is nothing to compare."""
    name, horizon = first.models.get(row["kind"]), float(row["horizon_years"])
    if row["metric"] != "auc" or name is None or first.study.settings.labels != other.study.settings.labels:
        return {}
    named = list(zip((name, row["model"]), held(), strict=True))
    both = np.all([np.isfinite(evaluation.risk(model, horizon)) for model, evaluation in named], axis=0)
    reference, own = (evaluation.at(model, horizon, both) for model, evaluation in named)
    counted = {"n_paired": int(both.sum())}
    if not own.estimable:
        return counted
    samples = own.measure("auc") - reference.measure("auc")
    low, high, _ = interval(samples, own.outcome.degrees_of_freedom)
    return {"difference": float(samples[0]), "difference_low": low, "difference_high": high, **counted}


def _judging(run: _Finished, scans: pd.DataFrame, first: _Finished) -> Evaluation:
    """Hold a run's predictions against its own folds, on some scans and with the samples of patients of the first."""
    own = run.predictions[run.predictions["scan_id"].isin(scans["scan_id"])]
    return Evaluation(scans.merge(run.cohort, on="scan_id"), own, first.study.settings)


@styled
def sweep_forest(sweep: pd.DataFrame, kind: str) -> Figure:
    """Draw the AUC of a kind of model in every run with its 95 % interval and counts, a panel per horizon."""
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
            counts = "" if pd.isna(row.n_scans) else f"{count_text(row.n_patients_died)}/{count_text(row.n_patients)}"
            axis.text(0.02, y, counts, va="center", fontsize=9.5, color=GREY)
            if pd.isna(row.estimate):
                axis.text(1.0, y, "not estimable", ha="right", va="center", fontsize=9.5, color=GREY)
        axis.set(xlim=(0, 1), xlabel="AUC")
        axis.set_title(years_text(horizon), fontsize=12)
    axes[0, 0].set(yticks=range(len(runs)), yticklabels=runs, ylim=(len(runs) - 0.5, -0.7))
    return figure


def write_page(study: Study, folder: Path) -> str:
    """Draw the picture into the folder of the book's sources, and give the page that shows it, in MyST Markdown."""
    sweep = read_table(study, "sweep", SWEEP)
    runs = read_table(study, "swept_runs", SWEPT_RUNS)
    kinds = [kind for kind in ROWS if kind in set(sweep["kind"])]
    shown = first_pictured(kinds) if kinds else ""
    if kinds:
        write_if_changed(folder / PICTURE, draw(sweep_forest(sweep, shown)))
    n_comparisons = int(sweep["difference"].notna().sum())
    return filled(
        "sweep.md",
        n=n_comparisons,
        n_by_chance=f"{0.05 * n_comparisons:.1f}".removesuffix(".0"),
        changed=_changed(study, runs),
        runs=_in_words(runs, sweep),
        shown=shown,
        picture=PICTURE,
        kinds={kind: _by_horizon(sweep[sweep["kind"] == kind]) for kind in kinds},
    )


def _changed(study: Study, runs: pd.DataFrame) -> list[str]:
    """Runs that are not what they were when they were compared."""
    compared = runs[["run", "state"]].to_numpy()
    return [str(name) for name, then in compared if state(load_study(study.folder, str(name))) != then]


def _in_words(runs: pd.DataFrame, sweep: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in runs.itertuples():
        most = sweep[sweep["run"] == row.run].nlargest(1, "n_scans")
        counts = {name: count_text(most[f"n_{name}"].iloc[0]) if len(most) else "" for name in ("scans", "patients")}
        rows.append({"run": row.run, "changed": row.changes or "nothing", **counts, "finished": row.missing or "yes"})
    return pd.DataFrame(rows)


def _by_horizon(of: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """One model's table at each horizon: a row per run."""
    horizons = sorted(of["horizon_years"].unique())
    return {years_text(horizon): _table(of[of["horizon_years"] == horizon]) for horizon in horizons}


def _table(of: pd.DataFrame) -> pd.DataFrame:
    auc, calibration = (of[of["metric"] == metric].set_index("run") for metric in SHOWN)
    numbers = ["estimate", "ci_low", "ci_high"]
    differences = zip(*(auc[name] for name in NO_DIFFERENCE), strict=True)
    table = pd.DataFrame(
        {
            "run": auc.index,
            "model": auc["model"],
            "AUC": [estimate_text(*values) for values in auc[numbers].to_numpy()],
            "O:E": [estimate_text(*values) for values in calibration.loc[auc.index, numbers].to_numpy()],
            DENOMINATORS: [denominators(row) for row in auc.itertuples()],
            "AUC minus the first run's": [_difference_text(*values) for values in differences],
        }
    )
    return table if (auc["model"] != auc["kind"]).any() else table.drop(columns="model")


def _difference_text(value: float, low: float, high: float, n: int) -> str:
    return "" if pd.isna(value) else f"{estimate_text(value, low, high)} on {n:,} scans"
