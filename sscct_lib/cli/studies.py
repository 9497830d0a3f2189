"""Commands on a study and on one scan: check, runs, weights, pretrain, report, predict."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from sscct_lib.cli.options import RunOption, StudyFolder, say

weights = typer.Typer(no_args_is_help=True, help="Published weights that a network can start from.")


NOT_LOOKED_INTO = 3  # exit status


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
    identifiers: Annotated[
        Path | None,
        typer.Option(help="With --privacy: CSV of any columns; each cell of 3 or more letters is searched."),
    ] = None,
) -> None:
    """Validate a manifest and its files before any work is done; with --privacy, search for identifiers.

    Every violation of the manifest is reported with file, row and column. Then each image is looked for, and
    it is said whether the cohort is large enough to train models, and whether the packages and files of weights that
    `study.yaml` names are there.

    With `--privacy`, tables, records, notebooks, the book, headers of images, models and logs of all runs are
    searched for dates, DICOM identifiers, record numbers, names, e-mail addresses and paths of this machine.
    Each place is listed, without the identifier; the exit status is 1 when there is one, and 3 when there is none but
    some files could not be looked into.
    """
    if privacy:
        _check_privacy(study, source, clinical, identifiers)
        return
    from sscct_lib.cli.readiness import check_ready
    from sscct_lib.cohort.manifest import files_missing, read_manifest, unknown_columns
    from sscct_lib.cohort.selection import followed, horizons_without_deaths
    from sscct_lib.study.folder import StudyError, load_study
    from sscct_lib.study.words import years_text

    loaded = load_study(study, run)
    manifest = read_manifest(loaded)
    say(f"{len(manifest)} scans of {manifest['patient_id'].nunique()} patients; the manifest is valid.")
    for name in unknown_columns(loaded):
        say(f"Column {name} is not one of the manifest's; it is ignored.")
    missing = files_missing(loaded, manifest)
    if loaded.settings.demo is None:
        for line in missing:
            say(line)
    check_ready(loaded, manifest)
    for horizon in horizons_without_deaths(followed(manifest), loaded):
        say(f"Nobody died within {years_text(horizon)}: nothing can be estimated at that horizon.")
    if missing and loaded.settings.demo is None:
        raise StudyError(f"{len(missing)} file(s) are missing; `sscct run` would set these scans aside.")


def runs(
    study: StudyFolder,
    remove: Annotated[
        str | None, typer.Option(help="Remove this run with all its results; others keep what they share with it.")
    ] = None,
) -> None:
    """List the runs of STUDY: what each changes in study.yaml, and which of its notebooks are up to date."""
    from sscct_lib.book.chapters import front_page, missing_stages
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.runs import changes_of, remove_run, run_names
    from sscct_lib.study.stages import NOTEBOOKS

    if remove is not None:
        remove_run(load_study(study, remove))
        say(f"Run {remove} is removed.")
        return
    for name in run_names(load_study(study)):
        loaded = load_study(study, name)
        changes = "; ".join(f"{setting}: {value}" for setting, value in changes_of(loaded).items())
        made = [notebook for notebook in NOTEBOOKS if notebook not in missing_stages(loaded)]
        book = ", book" if front_page(loaded).is_file() else ""
        say(f"{name}: {changes or 'as study.yaml'}; up to date: {', '.join(made) or 'no notebook'}{book}")


def _check_privacy(study: Path, source: Path | None, clinical: Path | None, table: Path | None) -> None:
    from sscct_lib.intake.privacy import together
    from sscct_lib.intake.privacy_search import search_study
    from sscct_lib.intake.pseudonyms import read_identifier_table, read_identifiers
    from sscct_lib.study.folder import SETTINGS_FILE, StudyError, refuse_control_characters

    refuse_control_characters(study)
    if not (study / SETTINGS_FILE).is_file():
        raise StudyError(f"{study / SETTINGS_FILE} is missing: expected the folder of a study.")
    of_export = [] if source is None and clinical is None else [read_identifiers(source, clinical)]
    known = together([*of_export, *([] if table is None else [read_identifier_table(table)])])
    search = search_study(study, known)  # whatever else is wrong with the study
    for line in search.lines():
        say(line)
    if known is None:
        say("Searched for patterns; with --source, --clinical or --identifiers, for the hospital's own too.")
    elif known.n_short:
        say(f"{known.n_short} identifier(s) are too short to be searched for: they stand in any text.")
    if search.findings:
        raise StudyError(f"{len(search.findings)} place(s) in {search.n_files} files may point to a patient.")
    say(f"{search.n_files} files; nothing in them points to a patient.")
    if search.unread:
        say(f"{len(search.unread)} more could not be looked into: of these nothing can be said.", fg="yellow")
        raise typer.Exit(NOT_LOOKED_INTO)


@weights.command("list")
def list_weights(study: StudyFolder = Path(".")) -> None:
    """List the weights that `study.yaml` can name, their licences and sources, and which are in STUDY."""
    from sscct_lib.deep.weights import table
    from sscct_lib.study.folder import load_study

    shown = table(load_study(study))
    for row in shown.itertuples():
        say(f"{row.name}: for {row.network}, {row.state}")
        for name in ("learned_from", "licence", "source", "file", "sha256"):
            say(f"  {name.replace('_', ' ')}: {getattr(row, name)}")


@weights.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="medicalnet, imagenet, swinvit or lungmask.")],
    study: StudyFolder,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 that the file must have, where you know it.")] = None,
) -> None:
    """Download published weights into STUDY/weights. No other command of `sscct` opens the network."""
    from sscct_lib.deep.weights import LUNGS, PUBLISHED, fetch
    from sscct_lib.study.folder import load_study

    path, digest = fetch(load_study(study).folder, name, sha256)
    say(f"{path}\nSHA-256 {digest}")
    known = sha256 or PUBLISHED[name].sha256_start
    if len(known) < len(digest):
        say("Compare it with what its authors or a colleague give; a file that somebody changed has another.")
    network = PUBLISHED[name].network
    if network == LUNGS:
        place = path.relative_to(study)
        say(f"In study.yaml, under lungs: method: lungmask, lungmask_weights: {place}, lungmask_sha256: {digest}")
    else:
        say(f"In study.yaml, under deep.{network}: weights: {name}, weights_sha256: {digest}")


@weights.command("verify")
def verify_weights(study: StudyFolder) -> None:
    """Load the weights that `study.yaml` names as training will, and say what they fill."""
    from sscct_lib.deep.networks import build
    from sscct_lib.deep.weights import is_self_supervised, load_weights, located
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.words import NETWORK_WORDS

    named = 0
    loaded = load_study(study)
    for network in loaded.settings.deep.networks:
        settings = loaded.settings.deep.network(network)
        if settings.weights is None or is_self_supervised(settings):
            say(f"{NETWORK_WORDS[network]}: {settings.weights or 'from scratch'}")
            continue
        encoder = build(network, settings, len(loaded.settings.horizons_years)).encoder
        found = load_weights(encoder, located(loaded, network, settings), settings.weights_sha256)
        say(f"{NETWORK_WORDS[network]}: {found.words}")
        named += 1
    say(f"{named} file(s) of weights are whole and fit.")


def pretrain(
    study: StudyFolder,
    run: RunOption = "main",
    network: Annotated[
        list[str] | None, typer.Option(help="resnet18, densenet121 or swin; as often as you like. Default: all.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes that prepare scans; -1: as many as there are cores.")] = -1,
) -> None:
    """Let encoders learn from the scans of STUDY themselves, without outcomes, before they are fine-tuned.

    For sites without published weights. Each fold gets an encoder that never sees the patients on whom the fold is
    tested. Networks with `weights: self-supervised` in study.yaml start from it; they also pretrain when this command
    has not run. Needs the tables of notebooks 01 and 02.
    """
    from sscct_lib.deep.pretraining import pretrain_folds
    from sscct_lib.lungs.tables import usable_cohort
    from sscct_lib.study.folder import StudyError
    from sscct_lib.study.recovery import load_own
    from sscct_lib.study.words import NETWORK_WORDS

    loaded = load_own(study, run)
    chosen = network or list(loaded.settings.deep.networks)
    unknown = sorted(set(chosen) - set(NETWORK_WORDS))
    if unknown:
        raise StudyError(f"--network {', '.join(unknown)}: expected {', '.join(NETWORK_WORDS)}.")
    cohort = usable_cohort(loaded)
    for name in chosen:
        paths = pretrain_folds(loaded, cohort, name, jobs)
        say(f"{NETWORK_WORDS[name]}: {len(paths)} encoders in {paths[0].parent}")
        if loaded.settings.deep.network(name).weights is None:
            say(f"  To use them, in study.yaml under deep.{name}: weights: self-supervised")


if TYPE_CHECKING:
    from sscct_lib.report.page import ScanReport

LOOKED_AT = "Research use, not for care."


def report(
    study: StudyFolder,
    scan_id: Annotated[str, typer.Argument(help="The scan, as the cohort names it.", metavar="SCAN_ID")],
    run: RunOption = "main",
    out: Annotated[Path | None, typer.Option(help="PDF file to write; by default SCAN_ID.pdf here.")] = None,
) -> None:
    """Write the page on one scan of the study, as PDF.

    It shows the risk over time with its spread, where the scan stands in the cohort, what lies behind the risk, what
    became of patients with about the same risk, and the scan. The risks come from models that never saw the patient.
    """
    from sscct_lib.report.page import of_study
    from sscct_lib.study.recovery import load_own

    loaded = load_own(study, run)
    found = of_study(loaded, scan_id)
    _write_page(found, out or Path(f"{scan_id}.pdf"))


def predict(
    source: Annotated[
        Path, typer.Argument(help="NIfTI or NRRD file, or folder of one DICOM examination.", metavar="SCAN")
    ],
    study: Annotated[Path, typer.Option("--study", help="The study whose models judge the scan.", metavar="STUDY")],
    run: RunOption = "main",
    clinical: Annotated[
        str | None,
        typer.Option(help="age=63,sex=female,subtype=diffuse,fvc=72,dlco=50, as far as known; or a CSV with one row."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Lung mask on the scan's grid, for studies with `lungs.method: provided`.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for prediction.json and prediction.pdf.")] = Path("."),
    anyway: Annotated[bool, typer.Option("--anyway", help="Judge the scan although its lung mask failed.")] = False,
) -> None:
    """Judge a scan that was never in the study: risks with their spread, warnings, and the page on it.

    The scan is read, its lungs are found and checked, features are measured, and every saved model of STUDY predicts.
    Writes `prediction.json` (the data dictionary of the book lists its fields) and `prediction.pdf`; neither holds a
    name, a date or a path. Models that were trained with other settings than STUDY now has are refused, and so is a
    scan whose lung mask failed its checks. Warnings come first: read them before the risks.
    """
    from sscct_lib.intake.clinical import read_values
    from sscct_lib.report.predict import predict_scan
    from sscct_lib.study.files import atomic
    from sscct_lib.study.recovery import load_own
    from sscct_lib.study.words import percent_text, years_text

    loaded = load_own(study, run)
    known = read_values(clinical, loaded.settings.covariates)
    with TemporaryDirectory(prefix="sscct-") as work:
        prediction, page = predict_scan(loaded, source, known, Path(work), mask, anyway)
    with atomic(out / "prediction.json") as partial:
        partial.write_text(prediction.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for words in prediction.warnings:
        say(f"Warning: {words}", fg="yellow")
    for one in prediction.risks:
        if one.model == prediction.shown_model:
            say(f"Risk of death within {years_text(one.horizon_years)}, {one.model}: {percent_text(one.risk)}")
    say(f"All models and the reasons: {out / 'prediction.json'}")
    _write_page(page, out / "prediction.pdf")


def _write_page(found: "ScanReport", path: Path) -> None:
    from sscct_lib.report.figure import scan_page
    from sscct_lib.study.files import atomic

    with atomic(path) as partial:
        scan_page(found).savefig(partial, format="pdf", metadata={"CreationDate": None, "Producer": None})
    say(f"{LOOKED_AT} The page: {path}")
