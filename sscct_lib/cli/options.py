"""What all commands share: their common arguments, and errors told in one line."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

StudyFolder = Annotated[Path, typer.Argument(help="The study folder.", metavar="STUDY")]
RunOption = Annotated[
    str, typer.Option("--run", help="Name of the run; its results lie in runs/NAME/.", metavar="NAME")
]


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
