"""What a book shows of an executed notebook: the cells of this project, and what they put out, of kinds that only show.

A notebook may come from a stranger. Its words, its code and its metadata, of which some would make Sphinx execute it,
are not taken over; of its outputs neither programs nor addresses of other machines.
"""

import json
import re
from typing import Any

from bs4 import BeautifulSoup

from sscct_lib.book.chapters import GLUED
from sscct_lib.study.folder import StudyError
from sscct_lib.study.stages import PROJECT

GIVEN = "injected-parameters"  # tag of the cell in which papermill writes what a run gave
TAGS = {"b", "br", "div", "em", "i", "p", "span", "strong", "style", "table", "tbody", "td", "th", "thead", "tr"}
ATTRIBUTES = {"border", "class", "colspan", "halign", "id", "rowspan", "scope", "scoped", "style", "type", "valign"}
ASKS = re.compile(r"url\s*\((?!\s*[\"']?#)|@import|[<\\]", re.IGNORECASE)
"""What a style sheet must not have: an address, or letters that hide one."""
ACTS = re.compile(
    r"<\s*(?:[\w.-]+:)?(?:script|foreignobject|iframe|embed|object|handler|set|animate\w*|a)\b|[\s\"'/]on\w+\s*=|<!entity"
    r"|<!doctype[^>]*\[|href\s*=\s*(?![\"'](?:#|data:image/(?:png|jpeg);))|url\s*\((?!\s*[\"']?#)|@import|\\",
    re.IGNORECASE,
)
"""What a drawing must not have."""
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)

PAGES = {"05_horizons": ("05_horizons", "05_robustness", "05_attainable")}
"""Notebooks that are several pages of the book, one for each heading of the first level."""

Notebook = dict[str, Any]


def shown(name: str, executed: Notebook) -> dict[str, str]:
    """Give the notebook of this project with the outputs of an executed one, as JSON, by the name of each of its pages.

    What it hands to other pages stands in the first.

    Raises
    ------
    StudyError
        If the executed one is no notebook, or has more or fewer cells of code.
    """
    import jupytext

    ours = jupytext.read(PROJECT / "notebooks" / f"{name}.py").cells
    try:
        cells = _filled(ours, [cell for cell in executed["cells"] if cell["cell_type"] == "code"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StudyError(f"{name}.ipynb of the run is not the notebook of this project. Call `sscct run`.") from error
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    pages: list[list[Notebook]] = []
    for cell in numbered:
        if not pages or (cell["cell_type"] == "markdown" and cell["source"].startswith("# ")):
            pages.append([])
        pages[0 if "remove-cell" in cell["metadata"]["tags"] else -1].append(cell)
    return {
        page: json.dumps(
            {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5},
            indent=1, ensure_ascii=False,
        ) + "\n"
        for page, cells in zip(PAGES.get(name, (name,)), pages, strict=True)
    }  # fmt: skip


def _filled(ours: list[Any], theirs: list[Notebook]) -> list[Notebook]:
    """Give our cells with the outputs of theirs; ValueError where these are not as many."""
    given = [cell for cell in theirs if GIVEN in cell["metadata"].get("tags", ())]
    made = [cell for cell in theirs if not any(cell is one for one in given)]
    cells: list[Notebook] = []
    for cell in ours:
        tags = list(cell.metadata.get("tags", ()))
        cells.append({"cell_type": cell.cell_type, "metadata": {"tags": tags}, "source": cell.source})
        if cell.cell_type == "code":
            cells[-1] |= _run(made.pop(0) if made else {})
        if "parameters" in tags:
            cells += [_code("".join(one["source"])) for one in given]
    if made:
        raise ValueError("more cells of code than ours")
    return cells


def _code(source: str) -> Notebook:
    bare: Notebook = {"cell_type": "code", "execution_count": None, "outputs": []}
    return {**bare, "metadata": {"tags": [GIVEN]}, "source": source}


def _run(cell: Notebook) -> Notebook:
    count, outputs = cell["execution_count"], [_shown_output(output) for output in cell["outputs"]]
    return {
        "execution_count": count if isinstance(count, int) else None,
        "outputs": [output for output in outputs if output is not None],
    }


def _shown_output(output: Notebook) -> Notebook | None:
    if output["output_type"] == "stream":
        return {"output_type": "stream", "name": "stdout" if output["name"] == "stdout" else "stderr",
                "text": "".join(output["text"])}  # fmt: skip
    if output["output_type"] not in ("display_data", "execute_result"):
        return None
    data = {kind: clean for kind, content in output["data"].items() if (clean := _clean(kind, content)) is not None}
    glued = output.get("metadata", {}).get("scrapbook", {}).get("name")
    metadata: Notebook = {}
    if isinstance(glued, str) and NAME.fullmatch(glued):
        prefix = GLUED if all(kind.startswith(GLUED) for kind in data) else ""
        metadata = {"scrapbook": {"name": glued, "mime_prefix": prefix}}
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def _clean(kind: str, content: Any) -> str | None:
    """Give what of an output may be shown; None: nothing."""
    text = "".join(content) if isinstance(content, list) else content
    match kind.removeprefix(GLUED):
        case "text/plain" | "image/png" if isinstance(text, str):
            return text
        case "text/markdown" if isinstance(text, str):
            return re.sub(r"\\?<", "&lt;", text).replace("![", "!\\[")
        case "image/svg+xml" if isinstance(text, str):
            drawing = COMMENT.sub("", text)
            return None if ACTS.search(drawing) else drawing
        case "text/html" if isinstance(text, str):
            return _table(text)
    return None


def _table(text: str) -> str:
    """Keep of HTML what tables are made of."""
    page = BeautifulSoup(text, "html.parser")
    for tag in page.find_all(True):
        if tag.name not in TAGS or (tag.name == "style" and ASKS.search(tag.get_text())):
            tag.decompose()
            continue
        for name in [name for name, value in tag.attrs.items() if name not in ATTRIBUTES or ASKS.search(str(value))]:
            del tag[name]
    return str(page)
