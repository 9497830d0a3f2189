"""`sscct sweep`: what is refused, what follows from a failing run, and a real sweep of the tiny study."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from sscct_lib.book.chapters import front_page, has_sweep
from sscct_lib.cli import sweep as cli_sweep
from sscct_lib.cli.app import app
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.schemas import SWEEP, SWEPT_RUNS
from sscct_lib.study.tables import read_table


def sweep(table: str, study: Study, *options: str):
    path = study.folder / "sweep.csv"
    path.write_text(table)
    return CliRunner().invoke(app, ["sweep", str(path), str(study.folder), "--cores", "2", *options])


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Run nothing; list what would be run. Run `b` fails."""
    made: list[list[str]] = []

    def call(command: list[str]) -> int:
        made.append(command)
        return int("b" in command)

    monkeypatch.setattr(cli_sweep, "_call", call)
    return made


def test_a_fault_of_the_table_stops_before_any_work(study_of, manifest_frame, calls):
    study = study_of(manifest_frame)
    refused = sweep("run,seed\na,1\nb,one\n", study)
    assert refused.exit_code == 1
    assert "sweep.csv" in refused.output
    assert "row 3, column seed" in refused.output
    assert not calls
    assert not (study.folder / "runs").exists()


def test_a_run_that_cannot_be_modelled_is_named_by_its_row(study_of, manifest_frame, calls):
    study = study_of(manifest_frame.assign(event_observed="1"))
    refused = sweep("run,cohort.n_folds\na,\nb,4\n", study)
    assert refused.exit_code == 1
    assert "sweep.csv, row 3, run b" in refused.output
    assert not calls


def test_weights_that_are_not_there_are_named_by_their_row_before_any_work(study_of, manifest_frame, calls):
    study = study_of(manifest_frame.assign(event_observed="1"))
    refused = sweep("run,deep.resnet18.weights\na,\nb,medicalnet\n", study)
    assert refused.exit_code == 1
    assert "sweep.csv, row 3, run b: weights/resnet_18_23dataset.pth is missing" in " ".join(refused.output.split())
    assert not calls


def test_a_failing_run_is_named_and_the_others_go_on(study_of, manifest_frame, calls, monkeypatch):
    monkeypatch.setattr(cli_sweep, "_compare", lambda planned: Path("sweep.html"))
    study = study_of(manifest_frame.assign(event_observed="1"))
    swept = sweep("run,seed\na,1\nb,2\nc,3\n", study, "--profile", "here")
    assert swept.exit_code == 1
    assert "Run b failed; the sweep goes on" in swept.output
    assert "1 of 3 runs failed: b." in swept.output
    assert [command[command.index("--run") + 1] for command in calls] == ["a", "b", "c"]
    assert all(command[-4:] == ["--cores", "2", "--profile", "here"] for command in calls)
    assert load_study(study.folder, "c").settings.seed == 3


def test_a_plan_compares_nothing(study_of, manifest_frame, calls):
    study = study_of(manifest_frame.assign(event_observed="1"))
    assert sweep("run,seed\na,1\n", study, "--dry-run").exit_code == 0


def test_a_signal_ends_the_sweep_and_what_it_runs():
    code = "from sscct_lib.cli.sweep import _call; import sys; _call([sys.executable, '-c', sys.argv[1]])"
    child = "import time; print('begun', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "The sweep was stopped" in said
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_sweep_shares_goes_on_after_a_failure_and_is_compared(copied):
    few = {
        "radiomics.bin_width": "60", "deep.networks": "[resnet18]", "deep.n_explained": "1", "tabular.compared": "[]",
        "tabular.feature_sets": '"[Clinical, Quantitative CT]"', "tabular.n_stability_scans": "4",
    }  # fmt: skip
    nothing = "," * len(few)
    good = f"run,{','.join(few)},lungs.max_noise_hu\nmain,{nothing}\nbins,{','.join(few.values())},\n"
    bad = copied.folder / "runs" / "bad"
    bad.mkdir()
    (bad / "settings.yaml").write_text("{}\n")
    (bad / "logs").write_text("no folder can be made here")
    without_own_books = ("--until", "05_horizons")
    swept = sweep(f"{good}bad,{nothing}100\n", copied, *without_own_books)
    assert swept.exit_code == 1
    assert "1 of 3 runs failed: bad." in swept.output
    bins = load_study(copied.folder, "bins")
    assert bins.settings.radiomics.bin_width == 60
    _shares(copied, bins)
    table = read_table(copied, "sweep", SWEEP)
    assert set(table["run"]) == {"main", "bins"}
    # Of twelve patients no AUC is told; differences are checked in `tests/book/test_sweep.py`.
    kinds = set(table.loc[table["run"] == "bins", "kind"])
    assert {"Clinical", "ResNet-18"} <= kinds
    assert not {"DenseNet-121", "Swin Transformer"} & kinds
    runs = read_table(copied, "swept_runs", SWEPT_RUNS).set_index("run")
    assert runs["missing"].ne("").to_dict() == {"main": False, "bins": False, "bad": True}
    page = (front_page(copied).parent / "sweep.html").read_text()
    for words in ("Never choose a run by these figures", "radiomics.bin_width: 60", "lungs.max_noise_hu: 100"):
        assert words in page
    assert not has_sweep(bins)
    notebooks = [path for study in (copied, bins) for path in study.run.glob("notebooks/*.ipynb")]
    before = [path.stat().st_mtime_ns for path in notebooks]
    assert sweep(good, copied, *without_own_books).exit_code == 0  # nothing that is finished is made again
    assert [path.stat().st_mtime_ns for path in notebooks] == before


def _shares(first: Study, other: Study) -> None:
    for path in [
        *first.run.glob("images/*.gz"),
        *first.run.glob("masks/*.gz"),
        *first.run.glob("models/deep/resnet18*.s*"),
    ]:
        assert (other.run / path.relative_to(first.run)).stat().st_ino == path.stat().st_ino, path.name
    record = next(first.run.glob("records/radiomics/*.json"))
    assert (other.run / record.relative_to(first.run)).read_text() != record.read_text()
    one, two = (pd.read_parquet(study.table("radiomics")) for study in (first, other))
    pd.testing.assert_series_equal(one["qct_mean_hu"], two["qct_mean_hu"])
    assert (one["original_glcm_JointEntropy"] != two["original_glcm_JointEntropy"]).any()
