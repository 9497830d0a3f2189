"""Runs against the first run, and the page that shows it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sscct_lib.book.chapters import has_sweep
from sscct_lib.book.sweep import SHOWN, compare, state, sweep_forest, write_page
from sscct_lib.horizons.comparison import differences
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import COHORT, PERFORMANCE, PREDICTIONS, SWEEP, SWEPT_RUNS
from sscct_lib.study.settings import HorizonSettings, Settings
from sscct_lib.study.tables import write_table
from tests.horizons.cohorts import make_cohort, make_predictions

FEW = Settings(horizons=HorizonSettings(n_bootstrap=40))


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(120).drop(columns="marker").assign(label_1y=pd.NA)


@pytest.fixture(scope="module")
def noisy():
    """Return a function that gives predictions of two models, noisier or less so."""
    marked = make_cohort(120)

    def make(noise: float, network: str = "ResNet-18 (from scratch)") -> pd.DataFrame:
        models = [make_predictions(marked, noise), make_predictions(marked, noise, network, "resnet18")]
        return pd.concat([models[0].assign(model="Clinical"), models[1]], ignore_index=True)

    return make


@pytest.fixture
def run_of(tmp_path):
    """Return a function that writes the tables of a finished run."""
    return writing(tmp_path)


def writing(folder: Path):
    (folder / "study.yaml").write_text("horizons: {n_bootstrap: 40}\n")

    def make(name: str, cohort: pd.DataFrame, predictions: pd.DataFrame, settings: Settings = FEW) -> Study:
        study = Study(folder, settings, name)
        write_table(cohort, study, "cohort", COHORT)
        judged = evaluate(Evaluation(cohort, predictions, settings), SHOWN)
        write_table(judged, study, "performance", PERFORMANCE)
        write_table(predictions, study, "predictions/03_radiomics", PREDICTIONS)
        write_table(predictions.head(0), study, "stacked", PREDICTIONS)
        return study

    return make


def rows_of(table: pd.DataFrame, run: str, kind: str, metric: str = "auc") -> pd.DataFrame:
    shown = table[(table["run"] == run) & (table["kind"] == kind) & (table["metric"] == metric)]
    return shown.sort_values("horizon_years")


def test_differences_are_those_of_two_models_of_one_run(run_of, cohort, noisy):
    table = compare(run_of("first", cohort, noisy(0.1)), [run_of("other", cohort, noisy(2.0))])
    both = pd.concat([noisy(0.1), noisy(2.0).assign(model=noisy(2.0)["model"] + ", other")], ignore_index=True)
    known = differences(Evaluation(cohort, both, FEW), "Clinical").query(
        "metric == 'auc' and model == 'Clinical, other'"
    )
    found = rows_of(table, "other", "Clinical")
    for ours, theirs in (("difference", "difference"), ("difference_low", "ci_low"), ("difference_high", "ci_high")):
        np.testing.assert_allclose(found[ours], known[theirs])
    assert (found["n_paired"] == len(cohort)).all()
    assert rows_of(table, "first", "Clinical")["difference"].isna().all()
    assert rows_of(table, "other", "Clinical", "observed_expected")["difference"].isna().all()


def test_estimates_and_counts_are_those_of_each_run(run_of, cohort, noisy):
    half = cohort[cohort["patient_id"] < "p060"]
    of_half = noisy(0.5)[noisy(0.5)["patient_id"] < "p060"]
    table = compare(run_of("first", cohort, noisy(0.5)), [run_of("half", half, of_half)])
    own = evaluate(Evaluation(half, of_half, FEW), ("auc",)).query("model == 'Clinical'")
    shown = rows_of(table, "half", "Clinical")
    for name in ("estimate", "ci_low", "ci_high", "n_scans", "n_patients", "n_events", "n_unknown"):
        np.testing.assert_allclose(shown[name], own[name])
    assert (shown["n_paired"] == len(half)).all()
    np.testing.assert_allclose(shown["difference"], 0, atol=1e-12)


def test_scans_whose_outcome_differs_are_not_paired(run_of, cohort, noisy):
    changed = cohort.assign(event_observed=cohort["event_observed"] & (cohort["patient_id"] > "p030"))
    table = compare(run_of("first", cohort, noisy(0.5)), [run_of("other", changed, noisy(0.9))])
    n_same = int((changed["event_observed"] == cohort["event_observed"]).sum())
    assert n_same < len(cohort)
    assert (rows_of(table, "other", "Clinical")["n_paired"] == n_same).all()


def test_nothing_is_compared_with_other_labels_or_horizons(run_of, cohort, noisy):
    first = run_of("first", cohort, noisy(0.5))
    presumed = run_of("presumed", cohort, noisy(0.9), FEW.model_copy(update={"labels": "as_published"}))
    later = noisy(0.9).query("horizon_years > 1")
    without = run_of("without", cohort, later, FEW.model_copy(update={"horizons_years": (3.0, 5.0, 7.0)}))
    table = compare(first, [presumed, without])
    assert rows_of(table, "presumed", "Clinical")["difference"].isna().all()
    found = rows_of(table, "without", "Clinical").set_index("horizon_years")
    assert found["difference"].notna().to_dict() == {3.0: True, 5.0: True, 7.0: False}


def test_a_network_is_the_same_kind_whatever_it_started_from(run_of, cohort, noisy):
    pretrained = run_of("pretrained", cohort, noisy(0.9, "ResNet-18 (medicalnet)"))
    table = compare(run_of("first", cohort, noisy(0.5)), [pretrained])
    found = rows_of(table, "pretrained", "ResNet-18")
    assert set(found["model"]) == {"ResNet-18 (medicalnet)"}
    assert found["difference"].notna().all()


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cohort, noisy):
    """Make a compared sweep of three runs, of which the last failed; gives the others."""
    run_of = writing(tmp_path_factory.mktemp("swept"))
    first, other = run_of("first", cohort, noisy(0.3)), run_of("other", cohort, noisy(1.5))
    runs = pd.DataFrame(
        {
            "run": ["first", "other", "failed"],
            "changes": ["", "seed: 7; deep.swin.weights: <b>.pth", "seed: 8"],
            "missing": ["", "", "no 01_cohort: It was not run."],
            "state": [state(first), state(other), ""],
        }
    )
    assert not has_sweep(first)
    write_table(compare(first, [other]), first, "sweep", SWEEP)
    write_table(runs, first, "swept_runs", SWEPT_RUNS)
    return first, other


@pytest.fixture
def compared(swept, tmp_path):
    """Copy that sweep for a test that changes it."""
    shutil.copytree(swept[0].folder, tmp_path, dirs_exist_ok=True)
    return tuple(replace(study, folder=tmp_path) for study in swept)


def test_the_page_warns_counts_and_lists_what_failed(compared, tmp_path):
    first, _ = compared
    assert has_sweep(first)
    page = write_page(first, tmp_path / "book")
    assert "Never choose a run by these figures" in page
    assert "this page makes 6 comparisons" in page
    assert "about 0.3 of their" in page
    assert "no 01_cohort: It was not run." in page
    assert "&lt;b&gt;.pth" in page
    assert "changed after" not in page
    assert page.index("### Clinical") < page.index("### ResNet-18")
    assert page.count("<th>AUC minus the first run&#x27;s</th>") == 6
    assert f"on {len(make_cohort(120))} scans" in page
    assert "<svg" in (tmp_path / "book" / "sweep.svg").read_text()


def test_the_page_says_which_run_changed_since(compared, tmp_path):
    first, other = compared
    other.table("performance").unlink()
    assert "**Run other changed after this comparison" in write_page(first, tmp_path / "book")


def test_a_sweep_without_a_finished_first_run_still_lists_its_runs(compared, tmp_path):
    first, _ = compared
    write_table(pd.DataFrame(columns=list(SWEEP.columns)), first, "sweep", SWEEP)
    page = write_page(first, tmp_path / "book")
    assert "makes 0 comparisons" in page
    assert "no 01_cohort" in page
    assert "###" not in page


def test_the_figure_has_a_row_a_run_and_a_panel_a_horizon(compared):
    first, other = compared
    figure = sweep_forest(compare(first, [other]), "Clinical")
    assert [axis.get_title() for axis in figure.axes] == ["1 year", "3 years", "5 years"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["first", "other"]
