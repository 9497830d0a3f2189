"""The command `sscct check`."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

StudyFolder = Annotated[Path, typer.Argument(help="The study folder.", metavar="STUDY")]
RunOption = Annotated[
    str, typer.Option("--run", help="Name of the run; its results lie in runs/NAME/.", metavar="NAME")
]


def _stop(error: Exception) -> NoReturn:
    typer.secho(f"Error: {error}", fg="red", err=True)
    raise typer.Exit(1)


def check(
    study: StudyFolder,
    run: RunOption = "main",
    privacy: Annotated[bool, typer.Option("--privacy", help="Search the whole study for identifiers instead.")] = False,
    source: Annotated[
        Path | None,
        typer.Option(help="With --privacy: folder that was ingested; its names, numbers and dates are searched too."),
    ] = None,
    clinical: Annotated[
        Path | None, typer.Option(help="With --privacy: table that was ingested; its patients and dates too.")
    ] = None,
) -> None:
    """Validate a manifest and its files before any work is done; with --privacy, search for identifiers.

    Every violation of the manifest is reported with file, row and column. Then each image is looked for, and
    it is said whether the cohort is large enough to train models, and whether the packages and files of weights that
    `study.yaml` names are there.

    With `--privacy`, tables, records, notebooks, the book, headers of images, models and logs of all runs are
    searched for dates, DICOM identifiers, record numbers, names, e-mail addresses and paths of this machine.
    Each place is listed, without the identifier; the exit status is 1 when there is one.
    """
    if privacy:
        _check_privacy(study, source, clinical)
        return
    from sscct_lib import study as studies
    from sscct_lib.cohort import followed, horizons_without_deaths
    from sscct_lib.manifest import files_missing, read_manifest, unknown_columns
    from sscct_lib.readiness import check_ready
    from sscct_lib.wording import years_text

    try:
        loaded = studies.load_study(study, run)
        manifest = read_manifest(loaded)
        typer.echo(f"{len(manifest)} scans of {manifest['patient_id'].nunique()} patients; the manifest is valid.")
        for name in unknown_columns(loaded):
            typer.echo(f"Column {name} is not one of the manifest's; it is ignored.")
        missing = files_missing(loaded, manifest)
        if loaded.settings.demo is None:
            for line in missing:
                typer.echo(line)
        check_ready(loaded, manifest)
        for horizon in horizons_without_deaths(followed(manifest), loaded):
            typer.echo(f"Nobody died within {years_text(horizon)}: nothing can be estimated at that horizon.")
    except studies.StudyError as error:
        _stop(error)
    if missing and loaded.settings.demo is None:
        _stop(studies.StudyError(f"{len(missing)} file(s) are missing; `sscct run` would set these scans aside."))


def _check_privacy(study: Path, source: Path | None, clinical: Path | None) -> None:
    from sscct_lib.privacy_files import search_study
    from sscct_lib.source_identifiers import read_identifiers
    from sscct_lib.study import StudyError, load_study

    try:
        known = None if source is None and clinical is None else read_identifiers(source, clinical)
        search = search_study(load_study(study).folder, known)
    except StudyError as error:
        _stop(error)
    for line in search.lines():
        typer.echo(line)
    if known is None:
        typer.echo("Searched for patterns; with --source and --clinical, for the hospital's own identifiers too.")
    elif known.n_short:
        typer.echo(f"{known.n_short} identifier(s) are too short to be searched for: they stand in any text.")
    if search.findings:
        _stop(StudyError(f"{len(search.findings)} place(s) in {search.n_files} files may point to a patient."))
    typer.echo(f"{search.n_files} files; nothing in them points to a patient.")
