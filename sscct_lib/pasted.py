"""Pictures that a notebook hands to prose pages by `glue`, as files that Sphinx can find from any page."""

import base64
from pathlib import Path
from typing import Any

import nbformat

PREFIX = "application/papermill.record/"


def pictures(notebook: Path) -> dict[str, bytes]:
    """Read the figures that an executed notebook glued.

    Parameters
    ----------
    notebook
        An executed notebook.

    Returns
    -------
    dict
        PNG by the name under which it was glued.
    """
    found = {}
    for cell in nbformat.read(notebook, as_version=4).cells:  # type: ignore[no-untyped-call]
        for output in cell.get("outputs", []):
            name, png = _name(output), output.get("data", {}).get(f"{PREFIX}image/png")
            if name and png:
                found[name] = base64.b64decode(png)
    return found


def _name(output: Any) -> str:
    return str(output.get("metadata", {}).get("scrapbook", {}).get("name", ""))
