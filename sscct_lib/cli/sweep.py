"""The command `sscct sweep`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sscct_lib.cli.options import StudyFolder, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sscct_lib.study.runs import PlannedRun

LOCK_FILE = ".sscct-sweep.lock"
PLAN_ONLY = {"--dry-run", "--dryrun", "-n"}


def sweep(
    context: typer.Context,
    table: Annotated[Path, typer.Argument(help="CSV with a column `run`, and one for each setting.", metavar="TABLE")],
    study: StudyFolder,
    cores: Annotated[int, typer.Option(help="Processor cores to use.")] = os.cpu_count() or 1,
) -> None:
    """Run a study several times with other settings, and compare the runs on a page of the book.

    Each row of the table is a run; each column but `run` is a setting by its dotted name in study.yaml, for example
    `radiomics.bin_width`. The runs follow one another and share the scans, and whatever results rest on the same
    settings. One that fails is named, and the others go on. Call it again to go on where it stopped. The comparison
    stands in the book of the first run. Further options go to Snakemake, for example `--profile`.
    """
    from sscct_lib.study.folder import StudyError
    from sscct_lib.study.recovery import LockedError, alone

    try:
        planned = _planned(table, study)
        with alone(study / LOCK_FILE):
            failed = _run_all(planned, ["--cores", str(cores), *context.args])
            if not PLAN_ONLY & set(context.args):
                say(f"The runs side by side: {_compare(planned)}")
    except LockedError as error:
        raise StudyError(
            f"Another sweep works on this study ({error}). Wait until it has ended, then call this again."
        ) from error
    if failed:
        raise StudyError(
            f"{len(failed)} of {len(planned)} runs failed: {', '.join(failed)}. What is finished is kept; mend the "
            "cause told above and call the same command again."
        )


def _planned(table: Path, folder: Path) -> "list[PlannedRun]":
    """Judge all of it before any work is done."""
    from sscct_lib.cli.readiness import check_ready
    from sscct_lib.cohort.manifest import read_manifest
    from sscct_lib.study.folder import StudyError, load_study
    from sscct_lib.study.runs import read_sweep

    planned = read_sweep(table, folder)
    manifest = read_manifest(load_study(folder))
    for run in planned:
        try:
            check_ready(run.study, manifest)
        except StudyError as error:
            raise StudyError(f"{table.name}, row {run.row}, run {run.study.run_name}: {error}") from error
    return planned


def _run_all(planned: "Sequence[PlannedRun]", options: list[str]) -> list[str]:
    """Run one after the other; gives the names of those that failed."""
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.runs import share_results, write_run_settings

    failed = []
    runs = [run.study for run in planned]
    origins = [*runs, load_study(runs[0].folder)]  # results of the study's main run are shared too
    for number, run in enumerate(planned):
        name = run.study.run_name
        write_run_settings(run.study, run.written)
        n_shared = share_results([other for other in origins if other.run_name != name], run.study)
        shared = f", with {n_shared:,} results of the others" if n_shared else ""
        say(f"Run {name}, {number + 1} of {len(planned)}{shared}", bold=True)
        arguments = ["run", str(run.study.folder), "--run", name, *options]
        if _call([sys.executable, "-P", "-m", "sscct_lib.cli", *arguments]) != 0:
            say(f"Run {name} failed; the sweep goes on with the others.", fg="red", err=True)
            failed.append(name)
    return failed


def _call(command: list[str]) -> int:
    """Run a command; a signal to stop reaches it once, and ends the sweep when the command has ended."""
    stopped = []
    # A session of its own, so that Ctrl-C reaches it by our hand alone.
    with subprocess.Popen(command, start_new_session=True) as process:

        def stop(number: int, _: object) -> None:
            stopped.append(number)
            # Not SIGINT: what is started in the background of a script ignores that one.
            process.send_signal(signal.SIGTERM)

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, stop) for number in numbers]
        process.wait()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    if stopped:
        from sscct_lib.study.folder import StudyError

        raise StudyError("The sweep was stopped. What is finished is kept: call the same command again to go on.")
    return process.returncode


def _compare(planned: "Sequence[PlannedRun]") -> Path:
    """Compare what is finished with the first run, and put it into that run's book."""
    import pandas as pd

    from sscct_lib.book.build import build_book
    from sscct_lib.book.chapters import missing_stages
    from sscct_lib.book.editions import without_folders
    from sscct_lib.book.sweep import compare, state
    from sscct_lib.study.recovery import refuse_strange
    from sscct_lib.study.schemas import SWEEP, SWEPT_RUNS
    from sscct_lib.study.tables import write_table

    for run in planned:
        refuse_strange(run.study)
    rows = [
        {
            "run": run.study.run_name,
            "changes": "; ".join(f"{name}: {without_folders(value)}" for name, value in run.changes.items()),
            "missing": next((f"no {name}: {why}" for name, why in missing_stages(run.study).items()), ""),
            "state": state(run.study),
        }
        for run in planned
    ]
    finished = [run.study for run, row in zip(planned, rows, strict=True) if not row["missing"]]
    first = planned[0].study
    none = pd.DataFrame(columns=list(SWEEP.columns))
    table = compare(first, [study for study in finished if study is not first]) if first in finished else none
    write_table(pd.DataFrame(rows), first, "swept_runs", SWEPT_RUNS)
    write_table(table, first, "sweep", SWEEP)
    return build_book(first).parent / "sweep.html"
