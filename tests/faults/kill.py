"""Kill every stage at random moments, resume it, and compare with an undisturbed run.

python -m tests.faults.kill [--tries 50] [--stages STAGE ...] [--out book/faults.csv]

A stage is killed up to five times in a row, with all the processes that it started, before it may end. The table is
written after each row of kills, so that the command may be stopped at any time; rows of other stages stay in it.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import pandas as pd
import psutil

from sscct_lib.cli.app import run_shard
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.seals import checksum
from sscct_lib.study.stages import NOTEBOOKS, PER_SCAN_STAGES

STUDY = """
title: Small study (synthetic patients)
seed: 10
shard_size: 8
demo: {n_patients: 12, spacing_mm: 8.0}
images: {spacing_mm: 8.0}
cohort: {n_folds: 2}
radiomics: {spacing_mm: 8.0}
tabular: {n_inner_folds: 2, n_stability_scans: 4, n_repeats: 1, n_trees: 5, feature_sets: [Quantitative CT],
  compared: [logistic], compared_on: [Quantitative CT]}
deep: {networks: [resnet18], resnet18: {size: 32, epochs: 2}, n_explained: 2}
horizons: {n_bootstrap: 20, reference: Quantitative CT}
"""
SMALLER = "demo: {n_patients: 3, n_scans: 4, spacing_mm: 8.0}\n"
MOST_IN_A_ROW = 5
MARK = "SSCCT_KILL_TEST"
NO_RESULTS = {"logs", "provenance", ".snakemake", "sphinx", "damaged", "key"} | {
    "generated.json", "searched.json", "seals",
}  # fmt: skip
"""Folders that hold when and how long something ran, or what Sphinx remembers; and what a book knows of the times of
the files that it was made from."""
CLOCK = ("seconds", "waiting_share")  # of a model's card


@dataclass
class Row:
    """What came of the tries of one stage.

    Attributes
    ----------
    tries
        How often it was killed before its end.
    lost
        Scans and models that were finished at a kill and made again.
    wrong
        Tries after which the stage did not end well, or a result differed from an undisturbed run.
    """

    stage: str
    tries: int = 0
    lost: int = 0
    wrong: int = 0


Attempt = Callable[[Study, float | None], bool]
"""Does a stage, and kills it after the seconds given; tells whether it was interrupted or failed."""


def command(*arguments: object) -> list[str]:
    """Give the command line of the project under this Python."""
    return [sys.executable, "-m", "sscct_lib.cli", *map(str, arguments)]


def make_study(folder: Path, settings: str = STUDY, *options: object) -> Study:
    """Make a study, with nothing run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(settings)
    subprocess.run(command("demo", folder, "--jobs", 1, *options), check=True, capture_output=True)
    return load_study(folder)


def results(study: Study) -> dict[str, str]:
    """Give all that a study holds, file by file, without what tells the time."""
    files = [path for path in sorted(study.folder.rglob("*")) if path.is_file() and path.name[0] != "."]
    inside = {path.relative_to(study.folder): path for path in files}
    return {str(name): _state(path) for name, path in inside.items() if not NO_RESULTS & set(name.parts)}


def tables(study: Study) -> dict[str, str]:
    """Give the tables of a run, each as text."""
    paths = sorted(study.table("x").parent.rglob("[!.]*.parquet"))
    return {path.name: pd.read_parquet(path).to_csv(index=False) for path in paths}


def _state(path: Path) -> str:
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        made = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        figures = [content for one in made for kind, content in sorted(one.items()) if kind.startswith("image/")]
        return json.dumps([len(cells), figures])
    if path.suffix != ".json":
        return checksum(path)
    content = json.loads(path.read_text())
    if isinstance(content, dict):  # the key of a record holds the times of its input files
        content = content.get("record", {name: value for name, value in content.items() if name not in CLOCK})
    return json.dumps(content, sort_keys=True)


def times(study: Study) -> set[tuple[Path, int]]:
    """Tell of each finished scan and each trained network when it was written."""
    written = {path.relative_to(study.folder): path for path in study.folder.rglob("[!.]*.json")}
    return {(name, path.stat().st_mtime_ns) for name, path in written.items() if {"records", "deep"} & set(name.parts)}


def forked(work: Callable[[], object], seconds: float | None) -> bool:
    """Do work in a process of its own, and kill that after some seconds with its whole group."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            work()
        except BaseException as error:
            os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)
        os._exit(0)
    with suppress(PermissionError, ProcessLookupError):
        os.setpgid(child, child)  # whoever comes first
    if seconds is not None:
        time.sleep(seconds)
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def started(arguments: list[str], seconds: float | None = None) -> bool:
    """Run a command, and after some seconds kill it with all that it started, as a power failure does."""
    mark = uuid4().hex
    process = subprocess.Popen(
        arguments,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {MARK: mark},
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        while left := _marked(mark):
            for member in left:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(left, timeout=1)
        return True
    return process.returncode != 0


def _marked(mark: str) -> list[psutil.Process]:
    """Find the processes that a command started, in whatever session: kernels and jobs have their own."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def in_process(*arguments: object) -> Attempt:
    """Call a command of the project in a fork: what its packages take to load is no moment of the stage."""

    def attempt(study: Study, seconds: float | None) -> bool:
        from sscct_lib.cli.app import app

        words = [str(study.folder if one is Study else one) for one in arguments]
        return forked(lambda: app(words, standalone_mode=False), seconds)

    return attempt


def as_command(*arguments: object) -> Attempt:
    """Start a command of the project."""

    def attempt(study: Study, seconds: float | None) -> bool:
        return started(command(*(study.folder if one is Study else one for one in arguments)), seconds)

    return attempt


def a_shard(stage: str) -> Attempt:
    """Make the first shard of a per-scan stage."""
    return lambda study, seconds: forked(lambda: run_shard(study, read_manifest(study), stage, 0), seconds)


def try_stage(
    before: Path,
    stage: str,
    attempt: Attempt,
    tries: int,
    seed: int = 0,
    note: Callable[[Row], object] = lambda row: None,
) -> Row:
    """Interrupt a stage again and again, each row of kills from the state before it.

    Parameters
    ----------
    before
        A study in which all earlier stages are finished.
    stage
        Its name.
    attempt
        Does it.
    tries
        How often it is killed before its end.
    seed
        Of the moments, which are spread evenly over the time that the stage takes undisturbed.
    note
        Is told the row after each comparison.

    Returns
    -------
    Row
        What came of it.
    """
    row, moments = Row(stage), random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = _copy(before, Path(scratch) / "whole")
        start = time.monotonic()
        assert not attempt(whole, None), f"{stage} fails undisturbed"
        length = time.monotonic() - start
        expected = results(whole)
        shutil.rmtree(whole.folder)
        while row.tries < tries:
            study = _copy(before, Path(scratch) / "study")
            kills, finished, ended = 0, set(), False
            while not ended and kills < min(MOST_IN_A_ROW, tries - row.tries):
                ended = not attempt(study, moments.uniform(0, length))
                kills += not ended
                finished |= times(study)
            if kills == 0:
                length *= 0.9  # it had ended before: the machine is faster than it was
            elif not ended:
                ended = not attempt(study, None)
            found = results(study)
            differing = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
            if differing or not ended:
                print(f"{stage}: ended {ended}; differing: {differing[:10]}", file=sys.stderr, flush=True)
            row.tries += kills
            row.lost += len({path for path, _ in finished - times(study)})
            row.wrong += kills if differing or not ended else 0
            note(row)
            shutil.rmtree(study.folder)
    return row


def _copy(folder: Path, target: Path) -> Study:
    shutil.copytree(folder, target, copy_function=shutil.copy2, symlinks=True)
    return load_study(target)


def try_all(
    scratch: Path, wanted: set[str], attempt_all: Callable[[Path, str, Attempt], object], settings: str = STUDY
) -> None:
    """Go through the stages in their order.

    Parameters
    ----------
    scratch
        Folder for studies.
    wanted
        Names of the stages that are tried; others are only done, where a later one needs them.
    attempt_all
        Tries a stage, given the study that it begins with, its name, and what does it.
    settings
        Of the study on which stages after `ingest` are tried.
    """
    if wanted & {"demo", "ingest"}:
        for stage, (folder, attempt) in _sources(scratch).items():
            if stage in wanted:
                attempt_all(folder, stage, attempt)
    study = make_study(scratch / "study", settings)
    if "phantom" in wanted:
        empty = _copy(study.folder, scratch / "empty")
        shutil.rmtree(empty.folder / "scans")
        shutil.rmtree(empty.folder / "truth")
        attempt_all(empty.folder, "phantom", a_shard("phantom"))
    for stage in ("images", "lungs", "radiomics"):
        if stage in wanted:
            attempt_all(study.folder, stage, a_shard(stage))
        if wanted & set(STAGES[STAGES.index(stage) + 1 :]) - {"workflow"}:
            run_shard(study, read_manifest(study), stage, 0)
    if "workflow" in wanted:
        attempt_all(study.folder, "workflow", as_command("run", Study, "--until", "01_cohort", "--cores", 1))
    last = {name: as_command("notebook", name, Study) for name in NOTEBOOKS} | {"book": in_process("book", Study)}
    for number, (stage, attempt) in enumerate(last.items()):
        if not wanted & set(list(last)[number:]):
            return
        if stage in wanted:
            attempt_all(study.folder, stage, attempt)
        assert not attempt(study, None), stage


def _sources(scratch: Path) -> dict[str, tuple[Path, Attempt]]:
    """Give the making of a demo study, and that of a study from its DICOM files."""
    nothing = scratch / "nothing"
    nothing.mkdir()
    (nothing / "study.yaml").write_text(SMALLER)
    source = scratch / "dicom"
    make_study(scratch / "small", SMALLER, "--dicom", source)
    key = scratch / "secret.key"
    key.write_text("k" * 40)
    key.chmod(0o600)
    options = ("--clinical", source / "clinical.csv", "--key", key, "--jobs", 1)
    return {
        "demo": (nothing, in_process("demo", Study, "--jobs", 1)),
        "ingest": (nothing, in_process("ingest", source, Study, *options)),
    }


STAGES = ["demo", "ingest", *PER_SCAN_STAGES, "workflow", *NOTEBOOKS, "book"]


def main() -> None:
    """Try all stages, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=50, help="of each stage")
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES, help="that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="CSV to write the table to")
    given = parser.parse_args()

    def note(row: Row) -> None:
        print(row, flush=True)
        if given.out:
            old = pd.read_csv(given.out).to_dict("records") if given.out.is_file() else []
            rows = {one["stage"]: one for one in old} | {row.stage: asdict(row)}
            pd.DataFrame([rows[name] for name in STAGES if name in rows]).to_csv(given.out, index=False)

    with tempfile.TemporaryDirectory() as scratch:
        try_all(
            Path(scratch),
            set(given.stages),
            lambda folder, stage, attempt: try_stage(folder, stage, attempt, given.tries, given.seed, note),
        )


if __name__ == "__main__":
    main()
