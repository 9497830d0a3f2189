"""The commands `sscct weights` and `sscct pretrain`."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

weights = typer.Typer(no_args_is_help=True, help="Published weights that a network can start from.")
StudyFolder = Annotated[Path, typer.Argument(help="The study folder.", metavar="STUDY")]


def _stop(error: Exception) -> NoReturn:
    typer.secho(f"Error: {error}", fg="red", err=True)
    raise typer.Exit(1)


@weights.command("list")
def list_weights(study: StudyFolder = Path(".")) -> None:
    """List the weights that `study.yaml` can name, their licences and sources, and which are in STUDY."""
    from sscct_lib.study import StudyError, load_study
    from sscct_lib.weights import table

    try:
        shown = table(load_study(study))
    except StudyError as error:
        _stop(error)
    for row in shown.itertuples():
        typer.echo(f"{row.name}: for {row.network}, {row.state}")
        for name in ("learned_from", "licence", "source", "file", "sha256"):
            typer.echo(f"  {name.replace('_', ' ')}: {getattr(row, name)}")


@weights.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="medicalnet, imagenet or swinvit.")],
    study: StudyFolder,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 that the file must have, where you know it.")] = None,
) -> None:
    """Download published weights into STUDY/weights. No other command of `sscct` opens the network."""
    from sscct_lib.study import StudyError, load_study
    from sscct_lib.weights import PUBLISHED, fetch

    try:
        path, digest = fetch(load_study(study).folder, name, sha256)
    except StudyError as error:
        _stop(error)
    typer.echo(f"{path}\nSHA-256 {digest}")
    if sha256 is None:
        typer.echo("Compare it with what its authors or a colleague give; a file that somebody changed has another.")
    network = PUBLISHED[name].network
    typer.echo(f"In study.yaml, under deep.{network}: weights: {name}, weights_sha256: {digest}")


@weights.command("verify")
def verify_weights(study: StudyFolder) -> None:
    """Load the weights that `study.yaml` names as training will, and say what they fill."""
    from sscct_lib.networks import build
    from sscct_lib.pretrained import load_weights
    from sscct_lib.study import NetworkSettings, StudyError, load_study
    from sscct_lib.weights import is_self_supervised, located
    from sscct_lib.wording import NETWORK_WORDS

    named = 0
    try:
        loaded = load_study(study)
        for network in loaded.settings.deep.networks:
            settings: NetworkSettings = getattr(loaded.settings.deep, network)
            if settings.weights is None or is_self_supervised(settings):
                typer.echo(f"{NETWORK_WORDS[network]}: {settings.weights or 'from scratch'}")
                continue
            encoder = build(network, settings, len(loaded.settings.horizons_years)).encoder
            found = load_weights(encoder, located(loaded, network, settings), settings.weights_sha256)
            typer.echo(f"{NETWORK_WORDS[network]}: {found.words}")
            named += 1
    except StudyError as error:
        _stop(error)
    typer.echo(f"{named} file(s) of weights are whole and fit.")


def pretrain(
    study: StudyFolder,
    run: Annotated[str, typer.Option("--run", help="Name of the run.", metavar="NAME")] = "main",
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
    from sscct_lib.lungs import usable
    from sscct_lib.pretraining import pretrain_folds
    from sscct_lib.schemas import COHORT, LUNGS
    from sscct_lib.study import StudyError, load_study
    from sscct_lib.tables import read_table
    from sscct_lib.wording import NETWORK_WORDS

    try:
        loaded = load_study(study, run)
        chosen = network or list(loaded.settings.deep.networks)
        unknown = sorted(set(chosen) - set(NETWORK_WORDS))
        if unknown:
            raise StudyError(f"--network {', '.join(unknown)}: expected {', '.join(NETWORK_WORDS)}.")
        cohort = read_table(loaded.table("cohort"), COHORT, "01_cohort")
        lungs = usable(read_table(loaded.table("lungs"), LUNGS, "02_segmentation_qa"))
        kept = cohort[cohort["scan_id"].isin(lungs["scan_id"])].reset_index(drop=True)
        for name in chosen:
            paths = pretrain_folds(loaded, kept, name, jobs)
            typer.echo(f"{NETWORK_WORDS[name]}: {len(paths)} encoders in {paths[0].parent}")
            if getattr(loaded.settings.deep, name).weights is None:
                typer.echo(f"  To use them, in study.yaml under deep.{name}: weights: self-supervised")
    except StudyError as error:
        _stop(error)
