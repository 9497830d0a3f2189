"""The workflow, the notebooks and the book on a tiny study, as a batch user runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from sscct_lib.book.chapters import front_page
from sscct_lib.study.folder import load_study
from sscct_lib.study.runs import beside
from sscct_lib.study.schemas import COHORT, LUNGS, PERFORMANCE, RADIOMICS, UNUSUAL
from sscct_lib.study.stages import NOTEBOOKS, PROJECT, executed
from sscct_lib.study.tables import read_predictions, read_table
from tests import tiny_study
from tests.tiny_study import sscct

pytestmark = pytest.mark.slow
OF_PATIENTS = ("gallery", "patients")


def times(study) -> dict[str, int]:
    """Tell when each stage last finished."""
    return {path.stem: path.stat().st_mtime_ns for path in (study.run / "provenance").glob("*.json")}


def remade(study, before) -> set[str]:
    return {stage for stage, time in times(study).items() if before.get(stage) != time}


def planned(study) -> set[str]:
    """Tell which rules of the workflow the next run would follow."""
    lines = [line.split("\t") for line in sscct("run", study.folder, "--summary").output.splitlines()]
    return {line[2] for line in lines if line[-1] == "update pending"}


def test_every_table_fulfils_its_schema(finished):
    cohort = read_table(finished, "cohort", COHORT)
    read_table(finished, "lungs", LUNGS)
    read_table(finished, "radiomics", RADIOMICS)
    performance = read_table(finished, "performance", PERFORMANCE)
    predictions = read_predictions(finished)
    assert set(predictions["scan_id"]) <= set(cohort["scan_id"])
    assert set(performance["model"]) >= set(predictions["model"])
    assert sorted(model for model in predictions["model"].unique() if "from scratch" in model) == [
        "DenseNet-121 (classifiers, from scratch)",
        "ResNet-18 (from scratch)",
        "ResNet-18 (from scratch), longitudinal",
        "Swin Transformer + clinical (from scratch)",
    ]
    unusual = read_table(finished, "unusual", UNUSUAL)
    assert set(unusual["network"]) == {"resnet18"}


def test_predictions_are_out_of_fold_and_risks_rise_with_the_horizon(finished):
    cohort = read_table(finished, "cohort", COHORT)
    predictions = read_predictions(finished)
    folds = predictions.merge(cohort[["scan_id", "fold"]], on="scan_id", suffixes=("", "_cohort"))
    assert (folds["fold"] == folds["fold_cohort"]).all()
    assert cohort.groupby("patient_id")["fold"].nunique().max() == 1
    curves = predictions[~predictions["model"].str.contains("classifiers")]  # separate ones may cross
    wide = curves.pivot(index=["model", "scan_id"], columns="horizon_years", values="risk")
    assert wide.diff(axis=1).min(axis=None) >= -1e-9


def test_the_book_shows_every_notebook_and_no_machine_path(finished):
    front = BeautifulSoup(front_page(finished).read_text(), "html.parser").find("article").get_text()
    assert "\\n" not in front  # an end of a line, as pandas writes it in a table
    pages = front_page(finished).parent
    assert "Synthetic patients" in front_page(finished).read_text()
    for name in NOTEBOOKS:
        assert (pages / "notebooks" / f"{name}.html").is_file()
    for page in pages.rglob("*.html"):
        assert str(finished.folder.parent) not in page.read_text(), page


def test_nothing_in_study_and_book_points_to_a_patient_or_a_machine(finished):
    checked = sscct("check", finished.folder, "--privacy")
    assert checked.exit_code == 0, checked.output
    assert "nothing in them points to a patient" in checked.output


def test_run_page_tells_what_made_it(finished):
    text = (front_page(finished).parent / "run.html").read_text()
    for words in ("Seed", "Commit of the project", "05_horizons", "Peak, MB", "torch", "bin_width"):
        assert words in text


def test_a_second_run_makes_nothing_again(copied):
    before, of_book = times(copied), (copied.run / "book" / "written_with.txt").stat().st_mtime_ns
    assert sscct("run", copied.folder).exit_code == 0
    assert remade(copied, before) == set()
    assert (copied.run / "book" / "written_with.txt").stat().st_mtime_ns == of_book


def test_a_parameter_and_risks_that_somebody_wrote_are_tried_beside_the_run_and_cost_what_rests_on_them(copied):
    before, theirs = times(copied), read_table(copied, "performance", PERFORMANCE)
    risks = pd.read_parquet(copied.table("predictions/03_radiomics"))
    elsewhere = risks[risks["model"] == "Clinical"].assign(model="From elsewhere", family="Elsewhere")
    assert len(elsewhere)
    elsewhere.to_parquet(copied.table("predictions/elsewhere"), index=False)
    assert planned(copied) == {"horizons", "book"}
    arguments = ("run", copied.folder, "--until", "05_horizons", "-p", "horizons.n_bootstrap=20")
    ran = sscct(*arguments)
    assert ran.exit_code == 0, ran.output
    assert remade(copied, before) == set()
    (name,) = {path.name for path in (copied.folder / "runs").iterdir()} - {"main"}
    tried = load_study(copied.folder, name)
    assert tried.settings.horizons.n_bootstrap == 20
    for notebook in NOTEBOOKS[:-1]:
        assert executed(tried, notebook).samefile(executed(copied, notebook))
    ours = read_table(tried, "performance", PERFORMANCE)
    judged = ours.set_index(["model", "horizon_years", "metric"])["estimate"]
    pd.testing.assert_series_equal(judged["From elsewhere"], judged["Clinical"])
    ours = ours[ours["model"] != "From elsewhere"].reset_index(drop=True)
    pd.testing.assert_series_equal(ours["estimate"], theirs["estimate"])
    assert not ours["ci_low"].equals(theirs["ci_low"]) or ours["ci_low"].isna().all()
    before = times(tried)
    assert sscct(*arguments).exit_code == 0
    assert remade(tried, before) == set()


def test_a_finished_study_has_no_hidden_folder_and_keeps_its_results_but_no_old_follow_up(copied):
    assert not (copied.folder / ".snakemake").exists()
    for path in copied.run.rglob("*"):  # as a copy without its times may have them
        os.utime(path, (hash(path.name) % 10**9,) * 2)
    before = times(copied)
    assert sscct("run", copied.folder).exit_code == 0
    assert remade(copied, before) == set()
    manifest = pd.read_csv(copied.manifest_path, dtype=str).assign(event_observed="0")
    manifest.drop(columns="cause_of_death", errors="ignore").to_csv(copied.manifest_path, index=False)
    before, scans = times(copied), sorted(path.stat().st_mtime_ns for path in copied.run.glob("images/*.gz"))
    refused = sscct("book", copied.folder)
    assert refused.exit_code == 1
    assert "01_cohort was made before a change of data_manifest.csv" in refused.output
    ran = sscct("run", copied.folder, "--until", "01_cohort")
    assert ran.exit_code == 0, ran.output
    assert remade(copied, before) == {"01_cohort"}
    assert not read_table(copied, "cohort", COHORT)["event_observed"].any()
    assert sorted(path.stat().st_mtime_ns for path in copied.run.glob("images/*.gz")) == scans


def test_a_changed_setting_makes_again_what_depends_on_it(copied):
    before = times(copied)
    settings = copied.folder / "study.yaml"
    settings.write_text(settings.read_text().replace("n_inner_folds: 2", "n_inner_folds: 3"))
    assert planned(copied) == {"radiomics", "horizons", "book"}
    assert sscct("run", copied.folder, "--until", "03_radiomics").exit_code == 0
    assert remade(copied, before) == {"03_radiomics"}


@pytest.mark.parametrize(
    ("removed", "last", "made"),
    [
        ("lungs", "02_segmentation_qa", {"02_segmentation_qa"}),
        ("images", "02_segmentation_qa", {"01_cohort", "02_segmentation_qa"}),
        ("radiomics", "02_segmentation_qa", set()),
    ],
)
def test_a_removed_table_is_made_again(copied, removed, last, made):
    before = times(copied)
    copied.table(removed).unlink()
    assert sscct("run", copied.folder, "--until", last).exit_code == 0
    assert remade(copied, before) == made
    assert copied.table(removed).is_file() == bool(made)


def test_an_unknown_parameter_is_refused_with_the_nearest(copied):
    ran = sscct("run", copied.folder, "--run", "other", "-p", "cohort.n_fold=3")
    assert ran.exit_code == 1
    assert "is cohort.n_folds meant?" in ran.output
    assert not load_study(copied.folder, "other").run.exists()  # before any work


@pytest.fixture(scope="module")
def half_made(finished, tmp_path_factory):
    """Run a study whose last notebook fails, and whose book was killed before; gives a figure of it and what was said.

    Pictures of scans and patients are to be left out.
    """
    copied = tiny_study.copy(finished, tmp_path_factory.mktemp("half") / "copy")
    settings = copied.folder / "study.yaml"
    settings.write_text(settings.read_text() + "book: {viewer: false, patients: false}\n")
    # What a build leaves that is killed while it writes a figure, without a record of its end.
    lungs = BeautifulSoup(
        (front_page(copied).parent / "notebooks" / "02_segmentation_qa.html").read_text(), "html.parser"
    )
    name = next(Path(tag["src"]).name for tag in lungs.find("article").find_all("img") if tag["src"].endswith(".svg"))
    half = next((copied.run / "book" / "sphinx" / "_build" / "jupyter_execute").rglob(name))
    half.write_bytes(half.read_bytes()[:1000])
    (copied.run / "book" / "written_with.txt").unlink()
    risks = pd.read_parquet(copied.table("predictions/03_baselines"))
    torn = risks[risks["model"] == risks["model"].iloc[0]].assign(model="Torn", family="Torn")
    torn.iloc[0, torn.columns.get_loc("fold")] += 1
    torn.to_parquet(copied.table("predictions/torn"), index=False)
    ran = sscct("run", copied.folder, "--keep-going")
    assert ran.exit_code == 1
    return copied, half, ran.output


def test_a_failing_notebook_names_the_cell_and_leaves_its_partial_copy(half_made):
    copied, _, said = half_made
    assert re.search(r"Notebook 05_horizons failed in cell \d+", said)
    partial = nbformat.read(copied.run / "logs" / "05_horizons.partial.ipynb", as_version=4)
    outputs = [output for cell in partial.cells for output in cell.get("outputs", [])]
    assert any(output["output_type"] == "error" for output in outputs)
    text = (copied.run / "logs" / "05_horizons.partial.ipynb").read_text()
    for folder in (copied.folder, PROJECT, Path(sys.prefix)):
        assert str(folder) not in text
    # The book is made of the rest, and says on the front page what is missing and why.
    front = front_page(copied).read_text()
    assert "This run is not complete" in front
    assert "Predictions have another fold than the cohort" in front
    assert "(not made in this run)" in front
    assert "This chapter was not made" in (front_page(copied).parent / "notebooks" / "05_horizons.html").read_text()
    assert "Verdicts" in (front_page(copied).parent / "notebooks" / "02_segmentation_qa.html").read_text()


def test_a_damaged_scan_is_set_aside_counted_and_the_rest_go_on(copied, tmp_path):
    settings = (copied.folder / "study.yaml").read_text()
    (copied.folder / "study.yaml").write_text(re.sub(r"demo:.*\n", "", settings))
    manifest = pd.read_csv(copied.manifest_path)
    damaged, missing = copied.folder / manifest.loc[0, "image"], copied.folder / manifest.loc[1, "image"]
    damaged.write_bytes(damaged.read_bytes()[:1000])
    missing.unlink()
    ran = sscct("run", copied.folder, "--until", "01_cohort")
    assert ran.exit_code == 0, ran.output
    copied = load_study(copied.folder)
    images = pd.read_parquet(copied.table("images")).set_index("scan_id")
    failed = images[images["status"] == "failed"]
    assert sorted(failed.index) == sorted(manifest.loc[:1, "scan_id"])
    cohort = read_table(copied, "cohort", COHORT)
    assert not set(failed.index) & set(cohort["scan_id"])
    executed = (copied.run / "notebooks" / "01_cohort.ipynb").read_text()
    for reason in failed["reason"]:
        assert reason[:30] in executed


def test_a_bad_manifest_stops_before_any_work(copied):
    manifest = pd.read_csv(copied.manifest_path)
    manifest.loc[1, "scan_id"] = manifest.loc[0, "scan_id"]
    manifest.to_csv(copied.manifest_path, index=False)
    before = times(copied)
    ran = sscct("run", copied.folder)
    assert ran.exit_code == 1
    assert "row 3, column scan_id" in ran.output
    assert remade(copied, before) == set()


def test_every_notebook_was_executed_without_exception(finished):
    assert [path.stem for path in sorted((finished.run / "notebooks").glob("*.ipynb"))] == list(NOTEBOOKS)
    for name in NOTEBOOKS:
        executed = nbformat.read(finished.run / "notebooks" / f"{name}.ipynb", as_version=4)
        assert executed.metadata.papermill.exception is None
        assert len(executed.cells) > 5


def pasted(study, name: str) -> list[str]:
    """Give the figures of an executed notebook, in their order."""
    executed = nbformat.read(study.run / "notebooks" / f"{name}.ipynb", as_version=4)
    made = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    return [content for data in made for kind, content in sorted(data.items()) if kind.startswith("image/")]


def test_two_workers_give_the_bytes_that_one_gives(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")  # for the workers inside of notebooks
    folder = tmp_path / "again"  # with the same scans, as `tests/demo/test_make.py` shows, and nothing of the run
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("runs", ".snakemake"))
    again = load_study(folder)
    assert sscct("run", again.folder, "--cores", "2", "--until", "03_radiomics").exit_code == 0
    names = ("cohort", "images", "lungs", "radiomics", "predictions/03_radiomics", "predictions/03_baselines")
    for name in (*names, "removed/03_radiomics"):
        assert again.table(name).read_bytes() == finished.table(name).read_bytes(), name
    for name in NOTEBOOKS[:3]:
        assert len(pasted(finished, name)) > 2
        assert pasted(again, name) == pasted(finished, name), name


def test_deep_models_and_horizons_are_the_same_with_two_workers(copied, finished, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    assert sscct("notebook", "05_horizons", copied.folder).exit_code == 0
    for name in ("performance", "stacked"):
        assert copied.table(name).read_bytes() == finished.table(name).read_bytes(), name
    assert len(pasted(finished, "05_horizons")) > 5
    assert pasted(copied, "05_horizons") == pasted(finished, "05_horizons")
    one = beside(copied, {"deep": {"networks": ["resnet18"], "n_explained": 1}})
    for path in (one.models / "deep").glob("resnet18*"):
        path.unlink()
    assert sscct("notebook", "04_deep_models", one.folder, "--run", one.run_name).exit_code == 0
    again, before = (pd.read_parquet(study.table("predictions/04_deep_models")) for study in (one, finished))
    before = before[before["network"] == "resnet18"].reset_index(drop=True)
    assert before["model"].nunique() == 2
    pd.testing.assert_frame_equal(again, before, check_exact=False, rtol=0, atol=1e-5)


def test_paths_of_the_tests_are_not_in_git():
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text()
    for folder in ("/runs/", "/scans/", "/truth/"):
        assert folder in ignored


CHANGED_SENTENCE = """
import sys
from pathlib import Path
from sscct_lib.book import build
from sscct_lib.study.folder import load_study

build.PROJECT = Path(sys.argv[1])
build.build_book(load_study(sys.argv[2]))
"""


def test_a_killed_book_is_whole_and_says_that_scans_are_left_out(half_made, finished):
    copied, half, _ = half_made
    pages = front_page(copied).parent
    whole = (finished.folder / half.relative_to(copied.folder)).read_bytes()
    assert half.read_bytes() == whole
    assert (pages / "_images" / half.name).read_bytes() == whole
    gallery, patients = (BeautifulSoup((pages / f"{name}.html").read_text(), "html.parser") for name in OF_PATIENTS)
    for page in (gallery, patients):
        assert not page.find("article").find_all("img")
        assert "book: {" in page.get_text()
    assert not list((pages / "scans").glob("*"))
    assert not [path for path in (pages / "_images").glob("*") if path.name.startswith(("lowest", "highest"))]


def test_a_changed_page_alone_is_made_again(half_made, tmp_path):
    copied = half_made[0]
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "book", project / "book")
    shutil.copyfile(PROJECT / "_config.yml", project / "_config.yml")
    pages = front_page(copied).parent

    def build() -> None:
        command = [sys.executable, "-c", CHANGED_SENTENCE, project, copied.folder]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    limits = project / "book" / "limits.md"
    limits.write_text(limits.read_text().replace("in order of weight", "from the heaviest to the lightest"))
    build()  # copies of pages that were not read a second time are, once
    limits.write_text(limits.read_text().replace("the lightest", "the least"))
    others = {path: path.stat().st_mtime_ns for path in pages.rglob("*.html") if path.stem != "limits"}
    build()
    assert "from the heaviest to the least" in (pages / "limits.html").read_text()
    assert "from the heaviest to the least" in (pages / "analysts" / "limits.html").read_text()
    assert others == {path: path.stat().st_mtime_ns for path in others}
