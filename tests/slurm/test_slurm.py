"""A small study on a SLURM cluster of this machine: `SSCCT_SLURM=1 python -m pytest tests/slurm`, as root."""

import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from sscct_lib.study import load_study
from tests.faults.kill import command, make_study, results

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
    """Run the study on this machine, without the cluster."""
    study = make_study(tmp_path_factory.mktemp("local") / "study")
    subprocess.run(run(study.folder), check=True, capture_output=True)
    return study


def run(folder: Path, *options: str) -> list[str]:
    return command("run", folder, "--until", "02_segmentation_qa", *options)


def again(local, folder: Path) -> Path:
    """Make the same study, with nothing run."""
    shutil.copytree(local.folder, folder, ignore=shutil.ignore_patterns("runs", ".snakemake", ".sscct.lock"))
    return folder


def on_cluster(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(run(folder, "--profile", str(HERE / "profile")), capture_output=True, text=True)


def test_the_cluster_gives_the_same_tables(local, tmp_path):
    folder = again(local, tmp_path / "study")
    ran = on_cluster(folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert results(load_study(folder), "01_cohort") == results(local, "01_cohort")


def test_a_cancelled_job_is_named_and_the_run_goes_on(local, tmp_path):
    folder = again(local, tmp_path / "study")
    arguments = run(folder, "--profile", str(HERE / "profile"), "--retries", "0")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        deadline = time.monotonic() + 120
        while not (jobs := _jobs()):
            assert time.monotonic() < deadline, "no job came to the cluster"
            time.sleep(0.5)
        subprocess.run(["scancel", jobs[0]], check=True)
        said = first.communicate(timeout=600)[0]
    assert first.returncode == 1, said
    assert "The run is not complete" in said
    assert on_cluster(folder).returncode == 0
    assert results(load_study(folder), "01_cohort") == results(local, "01_cohort")


def _jobs() -> list[str]:
    listed = subprocess.run(["squeue", "-h", "-o", "%i", "-t", "R"], capture_output=True, text=True)
    return listed.stdout.split()


def test_the_shipped_profile_plans_the_workflow(local, tmp_path):
    folder = again(local, tmp_path / "study")
    shipped = HERE.parents[1] / "workflow" / "profiles" / "slurm"
    planned = subprocess.run(run(folder, "--profile", str(shipped), "--dry-run"), capture_output=True, text=True)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert pd.read_csv(folder / "data_manifest.csv").shape[0] == 30
