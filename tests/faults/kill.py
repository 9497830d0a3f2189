"""Kill every stage at random moments, resume it, and compare with an undisturbed run.

python -m tests.faults.kill [--tries 50] [--notebook-tries 5] [--out book/faults.csv]
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import psutil

from sscct_lib.files import checksum
from sscct_lib.notebooks import NOTEBOOKS
from sscct_lib.stages import PER_SCAN_STAGES, run_shard
from sscct_lib.study import Study, load_study

STUDY = """
title: Small study (synthetic patients)
seed: 10
shard_size: 4
demo: {n_patients: 12, n_scans: 30, spacing_mm: 8.0}
images: {spacing_mm: 8.0}
cohort: {n_folds: 2}
radiomics: {spacing_mm: 8.0}
tabular: {n_inner_folds: 2, n_stability_scans: 4, n_repeats: 1, n_trees: 5, feature_sets: [Quantitative CT],
  compared: [logistic], compared_on: [Quantitative CT]}
deep: {networks: [resnet18], resnet18: {size: 32, epochs: 1}, n_explained: 2}
horizons: {n_bootstrap: 20, reference: Quantitative CT}
"""


@dataclass
class Row:
    """What came of the tries of one stage."""

    stage: str
    tries: int = 0
    lost: int = 0
    wrong: int = 0


def command(*arguments: object) -> list[str]:
    """Give the command line of the project under this Python."""
    return [sys.executable, "-m", "sscct_lib.cli", *map(str, arguments)]


def make_study(folder: Path) -> Study:
    """Make the study, with nothing run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(STUDY)
    subprocess.run(command("demo", folder, "--jobs", 1), check=True, capture_output=True)
    return load_study(folder)


def results(study: Study, stage: str) -> dict[str, str]:
    """Give what a stage made: the checksum of each scan's record and files, or the content of each table."""
    if stage in PER_SCAN_STAGES:
        places = {
            "phantom": [study.folder / "scans", study.folder / "truth"],
            "images": [study.run / "records" / "images", study.run / "images"],
            "lungs": [study.run / "records" / "lungs", study.run / "masks"],
            "radiomics": [study.run / "records" / "radiomics"],
        }[stage]
        files = [path for place in places for path in place.rglob("*") if path.is_file() and path.name[0] != "."]
        return {str(path.relative_to(study.folder)): _state(path) for path in sorted(files)}
    tables = sorted(study.table("x").parent.rglob("[!.]*.parquet"))
    return {path.name: pd.read_parquet(path).to_csv(index=False) for path in tables}


def _state(path: Path) -> str:
    if path.suffix != ".json":
        return checksum(path)
    content = json.loads(path.read_text())  # the key of a record holds the times of its input files
    return json.dumps(content.get("record", content), sort_keys=True)


def times(study: Study, stage: str) -> dict[Path, int]:
    """Tell when each finished scan of a stage was written."""
    records = study.run / "records" / stage
    return {path: path.stat().st_mtime_ns for path in records.glob("[!.]*.json")}


def forked(work: Callable[[], object], seconds: float | None = None) -> bool:
    """Do work in a process of its own, and kill that after some seconds; tells whether the kill came in time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)
        work()
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def started(arguments: list[str], seconds: float | None = None) -> bool:
    """Run a command, and after some seconds kill it with all that it started, as a power failure does."""
    process = subprocess.Popen(arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        psutil.wait_procs(family[1:], timeout=10)
    return process.returncode != 0


def attempt_scans(study: Study, stage: str, seconds: float | None) -> bool:
    """Make a shard."""
    return forked(lambda: run_shard(study, stage, 0), seconds)


def attempt_notebook(study: Study, stage: str, seconds: float | None) -> bool:
    """Run a notebook as the workflow does."""
    return started(command("notebook", stage, study.folder), seconds)


def attempt_run(study: Study, stage: str, seconds: float | None) -> bool:
    """Run the workflow up to the cohort."""
    return started(command("run", study.folder, "--until", "01_cohort", "--cores", 1), seconds)


def try_stage(
    before: Path, stage: str, attempt: Callable[[Study, str, float | None], bool], tries: int, seed: int = 0
) -> Row:
    """Interrupt a stage again and again, each time from the state before it.

    Parameters
    ----------
    before
        A study in which all earlier stages are finished.
    stage
        The stage.
    attempt
        Does it; kills it after the seconds given; tells whether it was interrupted.
    tries
        How often it is killed before its end.
    seed
        Of the moments.

    Returns
    -------
    Row
        `lost` counts scans that were finished at the kill and made again; `wrong` counts tries whose results differ
        from an undisturbed run.
    """
    row, moments = Row(stage), random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = _copy(before, Path(scratch) / "whole")
        start = time.monotonic()
        assert not attempt(whole, stage, None), f"{stage} fails undisturbed"
        length = time.monotonic() - start
        expected = results(whole, stage)
        assert expected, stage
        while row.tries < tries:
            study = _copy(before, Path(scratch) / f"try_{row.tries}")
            if not attempt(study, stage, moments.uniform(0, length)):
                length *= 0.9  # it had ended before: the machine is faster than it was
                shutil.rmtree(study.folder)
                continue
            row.tries += 1
            finished = times(study, stage)
            complete = not attempt(study, stage, None)
            later = times(study, stage)
            row.lost += sum(later.get(path) != at for path, at in finished.items())
            row.wrong += not complete or results(study, stage) != expected
            shutil.rmtree(study.folder)
    return row


def _copy(folder: Path, target: Path) -> Study:
    shutil.copytree(folder, target, copy_function=shutil.copy2, symlinks=True)
    return load_study(target)


def main() -> None:
    """Try all stages, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=50, help="of each per-scan stage")
    parser.add_argument("--notebook-tries", type=int, default=5, help="of each notebook, and of the workflow")
    parser.add_argument("--stages", nargs="*", default=list(PER_SCAN_STAGES), help="per-scan stages that are killed")
    parser.add_argument("--out", type=Path, help="CSV to write the table to")
    given = parser.parse_args()
    rows = []

    def note(row: Row) -> None:
        rows.append(vars(row))
        print(row, flush=True)
        if given.out:
            pd.DataFrame(rows).to_csv(given.out, index=False)

    with tempfile.TemporaryDirectory() as scratch:
        study = make_study(Path(scratch) / "study")
        empty = _copy(study.folder, Path(scratch) / "empty")
        shutil.rmtree(empty.folder / "scans")
        shutil.rmtree(empty.folder / "truth" / "masks", ignore_errors=True)
        if "phantom" in given.stages:
            note(try_stage(empty.folder, "phantom", attempt_scans, given.tries))
        for stage in ("images", "lungs", "radiomics"):
            if stage in given.stages:
                note(try_stage(study.folder, stage, attempt_scans, given.tries))
            run_shard(study, stage, 0)
        if given.notebook_tries:
            row = try_stage(study.folder, "01_cohort", attempt_run, given.notebook_tries)
            note(replace(row, stage="workflow to 01_cohort"))
            for name in NOTEBOOKS:
                note(try_stage(study.folder, name, attempt_notebook, given.notebook_tries))
                assert not attempt_notebook(study, name, None)


if __name__ == "__main__":
    main()
