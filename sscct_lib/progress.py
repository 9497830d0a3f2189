"""How far long work is: lines under a notebook's cell and in the terminal, which the finished notebook forgets."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

log = logging.getLogger(__name__)

MARK = "⏳ "
SECONDS_BETWEEN = 10


def told(results: Iterable[Result], n: int, what: str) -> Iterator[Result]:
    """Give results one by one, and tell every ten seconds how far the work is.

    Parameters
    ----------
    results
        As they are made.
    n
        How many there will be.
    what
        Of what, for example `tabular models: fit`.
    """
    last = time.monotonic()
    for number, result in enumerate(results, start=1):
        if time.monotonic() - last >= SECONDS_BETWEEN:
            last = time.monotonic()
            log.info("%s %d of %d", what, number, n)
        yield result


class _Lines(logging.Formatter):
    """Mark what only tells how far the work is; warnings stay as they are."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{MARK if record.levelno < logging.WARNING else ''}{super().format(record)}"


def show() -> None:
    """Show the library's messages in a notebook, under the cell that is at work."""
    logger = logging.getLogger("sscct_lib")
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)


def forget(notebook: dict[str, Any]) -> None:
    """Take the lines of progress out of an executed notebook, in place.

    Parameters
    ----------
    notebook
        In Jupyter's format 4. Warnings, results and errors stay.
    """
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        outputs = cell["outputs"]
        for output in outputs:
            if output["output_type"] == "stream":
                lines = "".join(output["text"]).splitlines(keepends=True)
                output["text"] = [line for line in lines if not line.startswith(MARK)]
        cell["outputs"] = [output for output in outputs if output["output_type"] != "stream" or output["text"]]
