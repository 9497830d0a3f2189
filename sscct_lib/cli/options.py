"""What all commands share: their common arguments, and errors told in one line."""

import atexit
import logging
import os
import re
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


# All but tabs and ends of lines: what moves a terminal's cursor, colours it or turns the direction of text.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replace letters that a terminal would act upon: text of users, files and other programs is only shown."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str, **style: Any) -> None:
    """Print a line, with nothing in it that a terminal would act upon; `style` as `typer.secho` takes it."""
    typer.secho(printable(text), **style)


class Lines(logging.Formatter):
    """The library's messages as the terminal shows them."""

    def format(self, record: logging.LogRecord) -> str:
        """Give a message."""
        return printable(super().format(record))


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
    from sscct_lib.study.code import cache_folder

    try:
        place = cache_folder() / "numba"
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place):
            return place
    except OSError:  # no home, or none that may be written to
        place = Path(mkdtemp(prefix="sscct-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        say("HOME cannot be written to: code is compiled anew for this command. NUMBA_CACHE_DIR names a place.")
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
            say(f"Error: {error.strerror if isinstance(error, NoRoomError) else error}", fg="red", err=True)
            raise typer.Exit(1) from error
