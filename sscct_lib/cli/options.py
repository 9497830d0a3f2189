"""What all commands share: their common arguments, and errors told in one line."""

import atexit
import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

StudyFolder = Annotated[Path, typer.Argument(help="The study folder.", metavar="STUDY")]
RunOption = Annotated[
    str, typer.Option("--run", help="Name of the run; its results lie in runs/NAME/.", metavar="NAME")
]


def take_nothing_from_here() -> None:
    """Keep Python, numba and matplotlib from taking programs or configurations from the working directory.

    Compiled code, which numba keeps as pickles, lies with the user, unless `NUMBA_CACHE_DIR` names another place.

    Raises
    ------
    StudyError
        If the working directory has a configuration that they would read.
    """
    from sscct_lib.study.folder import StudyError

    os.environ["PYTHONSAFEPATH"] = "1"  # for all processes that the command starts
    for name in (".numba_config.yaml", "matplotlibrc"):
        if Path(name).exists():
            raise StudyError(f"The working directory holds {name}, a configuration. Call sscct from another folder.")
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(_place_for_compiled_code())


def _place_for_compiled_code() -> Path:
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sscct" / "numba"
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place):
            return place
    except (OSError, RuntimeError):  # no home, or none that may be written to
        place = Path(mkdtemp(prefix="sscct-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        typer.echo("HOME cannot be written to: code is compiled anew for this command. NUMBA_CACHE_DIR names a place.")
        return place


class Commands(TyperGroup):
    """Commands whose foreseen errors end them with one line and exit status 1; all others keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        from sscct_lib.study.files import NoRoomError
        from sscct_lib.study.folder import StudyError
        from sscct_lib.study.results import ScanError

        try:
            return super().invoke(ctx)
        except (StudyError, ScanError, NoRoomError) as error:
            typer.secho(f"Error: {error.strerror if isinstance(error, NoRoomError) else error}", fg="red", err=True)
            raise typer.Exit(1) from error
