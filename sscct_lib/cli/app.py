"""The command line `sscct`."""

import json
import logging
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sscct_lib.cli.adopt import adopt
from sscct_lib.cli.masks import masks, review
from sscct_lib.cli.options import Commands, Lines, RunOption, StudyFolder, say, take_nothing_from_here
from sscct_lib.cli.studies import check, predict, pretrain, report, runs, weights
from sscct_lib.cli.sweep import sweep

if TYPE_CHECKING:
    import pandas as pd

    from sscct_lib.study.folder import Study
    from sscct_lib.study.keys import ToMake

WORK_FOLDER = ".snakemake"  # of a study, in which the workflow and its jobs are at work
# Lines of Snakemake's log that tell a user nothing.
BOOKKEEPING = re.compile(
    r"Building DAG|Select jobs|Execute \d+ jobs|Assuming unrestricted|Using shell|Provided cores|Rules claiming more"
    r"|Complete log|Elapsed time|\[.*\d{4}\]$|Exiting because|Nothing to be done|(?:Removing|Touching) output file"
    r"|    \.\./runs/|RuleException|CalledProcessError|Command 'set -euo|WorkflowError|At least one job|\.\./runs/\S+$"
)

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="""
Predict 1-, 3- and 5-year mortality of patients with systemic sclerosis from chest CT.

A **study** is a folder with `study.yaml` (settings), `data_manifest.csv` (one row per scan) and
`runs/NAME/` (tables, models, executed notebooks, the book).

Try it on synthetic patients: `sscct demo my_demo`, then `sscct run my_demo`.

Use your own scans: `sscct ingest DICOM_DIR --clinical clinical.csv my_study`, then `sscct check my_study`
and `sscct run my_study`.
""",
)

FOR_SNAKEMAKE = {"allow_extra_args": True, "ignore_unknown_options": True}  # options that Snakemake is to judge
app.add_typer(weights, name="weights")
app.add_typer(masks, name="masks")
for command in (check, adopt, runs, report, predict, pretrain, review):
    app.command()(command)
app.command(context_settings=FOR_SNAKEMAKE)(sweep)


@app.callback()
def _configure(
    group: Annotated[
        bool, typer.Option("--group", envvar="SSCCT_GROUP", help="Files may be read by your group, not by you alone.")
    ] = False,
) -> None:
    # Passed on to all processes that the command starts.
    os.umask(0o027 if group else 0o077)
    os.environ["SSCCT_GROUP"] = str(int(group))
    handler = logging.StreamHandler()
    handler.setFormatter(Lines("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("sscct_lib").setLevel(logging.INFO)
    take_nothing_from_here()


class DemoSize(StrEnum):
    """How large a demo study to make."""

    demo = "demo"
    full = "full"


@app.command()
def demo(
    study: Annotated[Path, typer.Argument(help="Folder to make the demo study in.", metavar="STUDY")],
    size: Annotated[
        DemoSize, typer.Option(help="demo: minutes on two cores; full: 2,125 scans at 2 mm. For a new folder.")
    ] = DemoSize.demo,
    dicom: Annotated[
        Path | None, typer.Option(help="Also write the scans to this folder, as DICOM series with clinical.csv.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Scans made at a time; -1: as many as there are cores.")] = -1,
) -> None:
    """Make the demo study: synthetic patients whose true risk is known.

    Writes `study.yaml` when there is none, `data_manifest.csv`, the scans and, kept apart in `truth/`, what is
    true of them. Scans that are already there are kept.
    """
    from sscct_lib.demo.make import write_demo, write_dicom_demo
    from sscct_lib.study.files import atomic
    from sscct_lib.study.folder import SETTINGS_FILE, StudyError, load_study
    from sscct_lib.study.stages import PROJECT

    if not (study / SETTINGS_FILE).exists():
        example = PROJECT / SETTINGS_FILE if size is DemoSize.demo else PROJECT / "workflow" / "study_full.yaml"
        with atomic(study / SETTINGS_FILE) as partial:
            partial.write_bytes(example.read_bytes())
    elif size is DemoSize.full:
        raise StudyError(f"{study / SETTINGS_FILE} is there already and sets the size. Name a new folder.")
    loaded = load_study(study)
    write_demo(loaded, n_jobs=jobs)
    if dicom is not None:
        write_dicom_demo(loaded, dicom, n_jobs=jobs)
    say(f"The demo study is ready. Next: sscct run {study}")


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder of DICOM series or NIfTI files, of any depth.")],
    study: StudyFolder,
    clinical: Annotated[
        Path | None, typer.Option(help="CSV with follow-up and clinical values; see the data dictionary of the book.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="File with the secret from which study ids are made; by default in ~/.config/sscct/keys."),
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            metavar="LETTERS|sform|qform",
            help="For volume files that do not say how the body lies in them: the sides to which their voxel axes run, "
            "such as LPS or RAS. For NIfTI whose qform and sform differ: which holds. Others are read as they say.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Scans read at a time; -1: as many as there are cores.")] = -1,
    source_list: Annotated[
        Path | None,
        typer.Option(help="CSV to write, outside the study: which source became which scan, with its names."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Where the study has other follow-up, dates or scans, take the new ones.")
    ] = False,
) -> None:
    """Turn DICOM series or volume files (NIfTI, NRRD, MetaImage) into a study with its manifest.

    Patients get study ids, dates become days since a patient's first scan. A series that cannot be used is
    listed with its reason, and the others go on. No name of a patient, file or folder is told or written, but in the
    list that `--source-list` asks for.
    """
    from sscct_lib.intake.ingest import ingest as ingest_folder
    from sscct_lib.intake.report import summarise

    outcome = ingest_folder(source, clinical, study, key, jobs, orientation, source_list, replace)
    say("\n".join(summarise(outcome, study)))


@app.command(context_settings=FOR_SNAKEMAKE)
def run(
    context: typer.Context,
    study: StudyFolder,
    run: RunOption = "main",
    cores: Annotated[int, typer.Option(help="Processor cores to use.")] = os.cpu_count() or 1,
    until: Annotated[str | None, typer.Option(help="Stop after this notebook, for example 02_segmentation_qa.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="SETTING=VALUE, for example horizons.n_bootstrap=200."),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="When a stage fails, still make a book of what is there.")
    ] = False,
) -> None:
    """Run all stages: read, mask and measure the scans, run the five notebooks, build the book.

    Finished work is kept: a stopped run goes on where it was, and a change of a setting, a table or the library
    makes again what depends on it and nothing else. With `-p` the run is one of its own, beside the one that is named,
    which stays as it is; both share what rests on the same settings. Further options go to Snakemake, for example
    `--profile` or `--dry-run`.
    """
    from sscct_lib.book.chapters import front_page
    from sscct_lib.study.folder import StudyError

    loaded, manifest = _prepare(study, run, until, parameter or [])
    exit_status = _run_alone(loaded, manifest, until, cores, context.args)
    if exit_status != 0:
        if keep_going and until is None:
            _book_of_the_rest(loaded)
        raise StudyError("The run is not complete. What is finished is kept; mend the cause above and run again.")
    if until is None:
        say(f"The book: {front_page(loaded).resolve()}")


def _prepare(folder: Path, run: str, until: str | None, parameters: list[str]) -> tuple["Study", "pd.DataFrame"]:
    """Open the run in which the parameters hold, and the manifest; what would be refused hours later is at once."""
    from sscct_lib.cohort.manifest import read_manifest
    from sscct_lib.study.folder import StudyError, load_study
    from sscct_lib.study.keys import to_make
    from sscct_lib.study.runs import beside, changed, parse_changes
    from sscct_lib.study.stages import NOTEBOOKS

    if until is not None and until not in NOTEBOOKS:
        raise StudyError(f"--until {until}: expected one of {', '.join(NOTEBOOKS)}.")
    named, changes = load_study(folder, run), parse_changes(parameters)
    target, manifest = changed(named, changes), read_manifest(named)
    if to_make(target, manifest, until):
        from sscct_lib.cli.readiness import check_ready

        check_ready(target, manifest, until)
    return beside(named, changes), manifest


def _snakemake_command(
    study: "Study", to_make: "ToMake", until: str | None, with_book: bool, cores: int, further: list[str]
) -> list[str]:
    from sscct_lib.study.stages import PROJECT, per_scan_stages

    config = {
        "run": study.run_name,
        "sscct": f"{shlex.quote(sys.executable)} -P -m sscct_lib.cli",
        "until": until or "",
        "last_stage": per_scan_stages(study, until)[-1],
        "shards": [f"{index:04d}" for index in to_make.shards],
        "notebooks": to_make.notebooks,
        "trainings": _trainings(study, further) if "04_deep_models" in to_make.notebooks else [],
        "book": "yes" if with_book else "",
    }
    # All of it is made: the workflow's own memory, of times, of code and of what was cut off, has no say. Snakemake's
    # own lock outlives a killed run; `_run_alone` holds one that does not.
    return [
        sys.executable, "-P", "-m", "snakemake", "--snakefile", str(PROJECT / "workflow" / "Snakefile"),
        "--directory", str(study.folder / WORK_FOLDER), "--workflow-profile", "none", "--cores", str(cores),
        "--keep-going", "--forceall", "--ignore-incomplete", "--nolock",
        "--quiet", "rules", "progress", "host", *further,
        "--config", *(f"{name}={json.dumps(value)}" for name, value in config.items()),
    ]  # fmt: skip


def _trainings(study: "Study", further: list[str]) -> list[str]:
    """Name the trainings that are jobs of their own: on a cluster, all; on one machine its cores share them better."""
    if not any(option.startswith(("--profile", "--executor")) for option in further):
        return []
    from sscct_lib.deep.cross_validation import training_names

    return training_names(study)


def _run_alone(study: "Study", manifest: "pd.DataFrame", until: str | None, cores: int, further: list[str]) -> int:
    """Make what is to be made, by Snakemake, on a study on which no other run works; first mend what a kill left."""
    from sscct_lib.book.chapters import is_current
    from sscct_lib.study.files import emptied, remove_partials
    from sscct_lib.study.keys import to_make
    from sscct_lib.study.recovery import alone_in, set_aside

    with alone_in(study) as lock:
        remove_partials(study.folder)
        for line in set_aside(study):
            say(line)
        made_anew = to_make(study, manifest, until)
        with_book = until is None and bool(made_anew or not is_current(study))
        if not (made_anew or with_book or further):
            return 0
        place = emptied(study.folder / WORK_FOLDER)
        exit_status = _run_quietly(_snakemake_command(study, made_anew, until, with_book, cores, further), lock)
        if exit_status == 0:  # what it notes there names places of this machine
            shutil.rmtree(place, ignore_errors=True)
        return exit_status


def _book_of_the_rest(study: "Study") -> None:
    """Render what a failed run has; the front page says what is missing."""
    from sscct_lib.book.build import build_book
    from sscct_lib.study.folder import StudyError

    try:
        say(f"The book, without what failed: {build_book(study).resolve()}")
    except StudyError as error:
        say(f"No book: {error}", fg="red", err=True)


def _run_quietly(command: list[str], lock: int) -> int:
    """Run Snakemake; pass on what its jobs say and its errors, leave out its bookkeeping; it holds our lock too."""
    group: list[int] = []

    def stop(*_: object) -> None:
        if not group:
            raise KeyboardInterrupt
        os.killpg(group[0], signal.SIGINT)

    # Before it starts: what is called in the background of a script ignores SIGINT, and so would all that it starts.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    # A session of its own, so that a signal reaches Snakemake once, whether it was meant for this process or its group.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, pass_fds=[lock]
    ) as process:
        group.append(process.pid)
        for line in process.stdout or ():
            if line.strip() and not BOOKKEEPING.match(line):
                say(line.replace("../runs/", "runs/"), nl=False)
    for number, handler in before.items():
        signal.signal(number, handler)
    return process.returncode


@app.command()
def book(
    study: StudyFolder,
    run: RunOption = "main",
    pdf: Annotated[bool, typer.Option("--pdf", help="Also print the chapters; needs Chromium or Chrome.")] = False,
) -> None:
    """Render the book from the executed notebooks of a run: for clinicians, and for analysts with the code."""
    from sscct_lib.book.build import build_book
    from sscct_lib.study.keys import refuse_out_of_date
    from sscct_lib.study.recovery import load_own

    loaded = load_own(study, run)
    refuse_out_of_date(loaded)
    index = build_book(loaded)
    say(f"The book: {index.resolve()}")
    if pdf:
        from sscct_lib.book.pdf import print_book

        say(f"As PDF: {print_book(loaded, index.parent).resolve()}")


@app.command(hidden=True)
def shard(
    study: Path, index: Annotated[int, typer.Option()], run: RunOption = "main", until: str | None = None
) -> None:
    """Make the per-scan results of one shard that are not current, stage by stage (called by the workflow)."""
    import SimpleITK as sitk

    from sscct_lib.cohort.manifest import read_manifest
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.keys import stages_to_make

    # One core a job: the workflow runs as many jobs as there are cores.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    loaded = load_study(study, run)
    manifest = read_manifest(loaded)
    for stage in stages_to_make(loaded, manifest, index, until):
        start = time.monotonic()
        result = run_shard(loaded, manifest, stage, index)
        n_failed = int((result["status"] == "failed").sum())
        seconds = time.monotonic() - start
        say(f"{stage}: shard {index + 1}, {len(result)} scans, {n_failed} set aside, {seconds:.0f} s")


def run_shard(study: "Study", manifest: "pd.DataFrame", stage: str, index: int) -> "pd.DataFrame":
    """Make the results of a stage for a shard of the manifest: a row per scan; `status` and `reason` in `shards/`."""
    from sscct_lib.book.chapters import write_provenance
    from sscct_lib.study import results
    from sscct_lib.study.keys import scans_ingredients
    from sscct_lib.study.stages import PER_SCAN_STAGES, shard_path
    from sscct_lib.study.tables import write_csv

    start = time.monotonic()
    rows = results.shard(manifest, index, study.settings.shard_size)
    made_of = {"ingredients": scans_ingredients(study, rows)[stage]}
    module, function = PER_SCAN_STAGES[stage]
    result: pd.DataFrame = getattr(import_module(f"sscct_lib.{module}"), function)(study, rows)
    path = shard_path(study, stage, index)
    write_csv(result[["scan_id", "status", "reason"]], path)
    write_provenance(study, path.stem, made_of | _cost(start))
    return result


def _cost(start: float) -> dict[str, float]:
    """Tell what a stage took, and the largest memory that a process of its job has had up to now."""
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return {"seconds": round(time.monotonic() - start, 1), "peak_mb": round(max(peaks) * unit / 1e6)}


@app.command(hidden=True)
def train(study: Path, name: Annotated[str | None, typer.Option()] = None, run: RunOption = "main") -> None:
    """Train one network of a fold, or without a name make the cubes for all (called by the workflow on a cluster)."""
    from sscct_lib.deep.cross_validation import train_one
    from sscct_lib.deep.cubes import make_cubes, view_of
    from sscct_lib.lungs.tables import usable_cohort
    from sscct_lib.study.folder import load_study

    loaded = load_study(study, run)
    cohort = usable_cohort(loaded)
    if name is not None:
        train_one(loaded, cohort, name)
    else:
        for view in {view_of(loaded, network) for network in loaded.settings.deep.networks}:
            make_cubes(loaded, cohort, view, n_jobs=-1)


@app.command(hidden=True)
def notebook(name: str, study: Path, run: RunOption = "main") -> None:
    """Execute one notebook (called by the workflow)."""
    from sscct_lib.book.chapters import run_notebook, write_provenance
    from sscct_lib.cohort.manifest import read_manifest
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.keys import notebook_record, of_shards, written
    from sscct_lib.study.recovery import alone

    loaded = load_study(study, run)
    start = time.monotonic()
    # A job whose run was killed may still be at work.
    with alone(loaded.run / "logs" / f".{name}.lock", wait=True):
        made_of = notebook_record(loaded, name, of_shards(loaded, read_manifest(loaded)))
        run_notebook(loaded, name)
        write_provenance(loaded, name, made_of | {"written": written(loaded, name)} | _cost(start))
    say(f"{name}: done in {time.monotonic() - start:.0f} s")
