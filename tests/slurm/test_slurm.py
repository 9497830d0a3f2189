"""Studies on a SLURM cluster of this machine: `SSCCT_SLURM=1 python -m pytest tests/slurm -s`, as root."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from sscct_lib.book.chapters import front_page
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.study.folder import load_study
from sscct_lib.study.stages import NOTEBOOKS
from tests.faults.kill import command, make_study, tables

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.slow,
    pytest.mark.skipif(
        "SSCCT_SLURM" not in os.environ
        or os.geteuid() != 0
        or not shutil.which("slurmctld")
        or not find_spec("snakemake_executor_plugin_slurm"),
        reason="asked for with SSCCT_SLURM=1; needs root, Debian's slurm-wlm and munge, and the extra `slurm`",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start the cluster, and stop it after the tests."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([HERE / "cluster.sh", "start", folder], check=True)
    yield
    subprocess.run([HERE / "cluster.sh", "stop", folder], check=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Run a small study on this machine, without the cluster."""
    study = make_study(tmp_path_factory.mktemp("local") / "study")
    done(run(study.folder))
    return study


def run(folder: Path, *options: str) -> list[str]:
    return command("run", folder, *options)


def again(local, folder: Path) -> Path:
    """Make the same study, with nothing run."""
    left_out = shutil.ignore_patterns("runs", ".snakemake", ".sscct.lock")
    shutil.copytree(local.folder, folder, ignore=left_out, copy_function=shutil.copy2)
    return folder


def on_cluster(folder: Path, *options: str) -> list[str]:
    return run(folder, "--profile", str(HERE / "profile"), *options)


def done(arguments: list[str]) -> None:
    """Run to the end."""
    ran = subprocess.run(arguments, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def interrupted(arguments: list[str], interrupt: Callable[[str], None]) -> str:
    """Run, do something to the first job that is at work, and see that this is told; gives what was said."""
    arguments = [*arguments, "--retries", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        interrupt(_first_job())
        said = first.communicate(timeout=600)[0]
    assert first.returncode == 1, said
    assert "The run is not complete" in said
    return said


def _first_job() -> str:
    deadline = time.monotonic() + 120
    while not (jobs := _jobs("R")):
        assert time.monotonic() < deadline, "no job came to the cluster"
        time.sleep(0.5)
    return jobs[0]


def _jobs(states: str) -> list[str]:
    listed = subprocess.run(["squeue", "-h", "-o", "%i", "-t", states], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def test_a_whole_study_on_the_cluster_gives_the_tables_of_this_machine(local, tmp_path):
    folder = again(local, tmp_path / "study")
    began = time.monotonic()
    done(on_cluster(folder))
    study = load_study(folder)
    assert front_page(study).is_file()
    assert {path.stem for path in study.run.glob("notebooks/*.ipynb")} == set(NOTEBOOKS)
    assert tables(study) == tables(local)
    n_jobs = len(list(study.run.glob("shards/radiomics_*.csv"))) + len(NOTEBOOKS) + 1
    print(f"\n{len(read_manifest(study))} scans, {n_jobs} jobs, {time.monotonic() - began:.0f} s")


def test_a_cancelled_job_is_named_and_the_run_goes_on(local, tmp_path):
    folder = again(local, tmp_path / "study")
    until = ("--until", "01_cohort")
    interrupted(on_cluster(folder, *until), lambda job: subprocess.run(["scancel", job], check=True))
    done(on_cluster(folder, *until))
    assert tables(load_study(folder)) == {name: tables(local)[name] for name in ("cohort.parquet", "images.parquet")}


def test_a_job_that_runs_out_of_time_is_named_and_the_run_goes_on(local, tmp_path):
    folder = again(local, tmp_path / "study")
    until = ("--until", "01_cohort")
    short = ("--set-resources", "scans:runtime=1")
    stopped: list[str] = []

    def hang(job: str) -> None:
        stopped.append(job)
        _suspend(job)

    interrupted(on_cluster(folder, *until, *short), hang)
    assert _state(stopped[0]) == "TIMEOUT"
    done(on_cluster(folder, *until))
    assert tables(load_study(folder)) == {name: tables(local)[name] for name in ("cohort.parquet", "images.parquet")}


def _suspend(job: str) -> None:
    """Let a job hang: all of its processes are stopped, until the cluster ends them."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = subprocess.run(["scontrol", "listpids", job], capture_output=True, text=True)
        pids = [int(line.split()[0]) for line in listed.stdout.splitlines()[1:] if int(line.split()[0]) > 0]
        if pids:
            for pid in pids:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).suspend()
            return
        time.sleep(0.2)
    raise AssertionError(f"job {job} has no process")


def _state(job: str) -> str:
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return shown.split("JobState=")[1].split()[0]


def test_the_shipped_profile_plans_the_workflow(local, tmp_path):
    folder = again(local, tmp_path / "study")
    shipped = HERE.parents[1] / "workflow" / "profiles" / "slurm"
    done(run(folder, "--profile", str(shipped), "--dry-run"))
