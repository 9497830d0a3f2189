"""What a run lacks, and why: a book is made of what is there, and says so. And the figures that prose borrows."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sscct_lib.study.folder import Study
from sscct_lib.study.stages import CHAPTERS, NEEDS, NOTEBOOKS

NOT_MADE = "*(not made in this run)*"


def has_sweep(study: Study) -> bool:
    """Whether a run is the first of a sweep that was compared."""
    return study.table("sweep").is_file() and study.table("swept_runs").is_file()


def missing_stages(study: Study) -> dict[str, str]:
    """Tell which notebooks of a run are not there, and why.

    Returns
    -------
    dict
        By notebook: why it is missing. A notebook that rests on a missing one is missing too, though an older copy may
        be there: it would show the results of another state of the run.
    """
    missing: dict[str, str] = {}
    for name in NOTEBOOKS:
        failed = study.run / "logs" / f"{name}.partial.ipynb"
        needed = [other for other in NEEDS[name] if other in missing]
        if failed.is_file():
            missing[name] = _failure(failed)
        elif needed:
            missing[name] = f"It needs {' and '.join(needed)}, which {'is' if len(needed) == 1 else 'are'} missing."
        elif not (study.run / "notebooks" / f"{name}.ipynb").is_file():
            missing[name] = "It was not run, or stopped before its notebook began."
    return missing


def _failure(partial: Path) -> str:
    """Where a notebook failed and with which error."""
    for cell in json.loads(partial.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                words = re.sub(r"\s+", " ", f"{output['ename']}: {output['evalue']}").strip()
                return f"It failed in cell {cell['execution_count']}: {words}"
    return "It was stopped before it had finished."


def stub(name: str, reason: str) -> str:
    """The page that stands in the place of a missing chapter: a notebook without code, as JSON."""
    text = f"# {CHAPTERS[name]}\n\n" + _admonition(
        "This chapter was not made", f"{plain(reason)}\n\nMend the cause, then run the study again: what is finished "
        "is kept."
    )  # fmt: skip
    cell = {"cell_type": "markdown", "id": "missing", "metadata": {}, "source": text}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def notice(missing: Mapping[str, str]) -> str:
    """What is missing and why, for the front page, in MyST Markdown; empty when nothing is."""
    if not missing:
        return ""
    listed = "\n".join(f"- **{CHAPTERS[name]}** (`{name}`). {plain(reason)}" for name, reason in missing.items())
    return _admonition("This run is not complete: chapters are missing", listed)


def _admonition(title: str, text: str) -> str:
    return f"::::{{admonition}} {title}\n:class: danger\n{text}\n::::\n"


def plain(text: str) -> str:
    """Keep letters of an error message or an id from being read as markup."""
    return re.sub(r"([\\`*_{}\[\]<>$#|~])", r"\\\1", text)


def without_missing(page: str, missing: Sequence[str]) -> str:
    """Replace by `NOT_MADE` each number, table and picture that a prose page takes from notebooks that are missing."""
    if NOTEBOOKS[-1] in missing:
        page = re.sub(r"!\[[^\]]*\]\(pasted/[^)]*\)", NOT_MADE, page)
    for name in missing:
        notebook = rf"(?:\.\./)?notebooks/{name}\.ipynb"
        number = rf"\{{glue:\w+\}}`{notebook}::[^`]*`"
        pasted = rf"(`{{3,}}|:{{3,}})\{{glue[^}}]*\}}[^\n]*\n:doc: {notebook}\n(?:[^\n]*\n)*?\1"
        page = re.sub(pasted, NOT_MADE, re.sub(number, NOT_MADE, page))
    return page


PREFIX = "application/papermill.record/"


def pictures(notebook: Path) -> dict[str, bytes]:
    """Figures that an executed notebook glued, by their name as a file: SVG where there is one, else PNG."""
    found: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            name, data = _name(output), output.get("data", {})
            svg, png = data.get(f"{PREFIX}image/svg+xml"), data.get(f"{PREFIX}image/png")
            if name and svg:
                found[f"{name}.svg"] = "".join(svg).encode()
            elif name and png:
                found[f"{name}.png"] = base64.b64decode("".join(png))
    return found


def _name(output: Any) -> str:
    return str(output.get("metadata", {}).get("scrapbook", {}).get("name", ""))
