"""`python -m sscct_lib.cli`, which needs no `sscct` on the path."""

from sscct_lib.cli.app import app

app()
