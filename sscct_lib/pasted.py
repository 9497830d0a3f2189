"""Pictures that a notebook hands to prose pages by `glue`, as files that Sphinx can find from any page."""

import base64
import json
from pathlib import Path
from typing import Any

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
        By the name under which a figure was glued, with the ending of a file: SVG where there is one, else PNG.
    """
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
