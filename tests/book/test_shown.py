"""Of a notebook that a stranger hands over, nothing but harmless outputs reaches a page."""

import copy
import json

import jupytext
import pytest

from sscct_lib.book.chapters import GLUED, pasted
from sscct_lib.book.shown import shown
from sscct_lib.study.folder import StudyError
from sscct_lib.study.stages import PROJECT

NAME = "02_segmentation_qa"
EVIL = "pwned"
DRAWING = '<svg xmlns:xlink="x"><defs><path id="a"/></defs><use xlink:href="#a" clip-path="url(#b)"/></svg>'


@pytest.fixture
def executed():
    """Return our notebook as papermill leaves it, without outputs."""
    cells = [
        {"cell_type": cell.cell_type, "metadata": dict(cell.metadata), "source": cell.source}
        for cell in jupytext.read(PROJECT / "notebooks" / f"{NAME}.py").cells
    ]
    for cell in cells:
        cell |= {"outputs": [], "execution_count": 1} if cell["cell_type"] == "code" else {}
    at = next(n for n, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", [])) + 1
    given = {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": 'run_name = "main"'}
    cells.insert(at, {**given, "outputs": [], "execution_count": 2})
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def page_of(executed) -> dict:
    """The only page of a notebook."""
    (page,) = shown(NAME, executed).values()
    return json.loads(page)


def last_code(notebook) -> dict:
    return next(cell for cell in reversed(notebook["cells"]) if cell["cell_type"] == "code")


def output(executed, kind: str, content, **metadata) -> dict:
    """What is left of one output."""
    made = {"output_type": "display_data", "data": {kind: content}, "metadata": metadata}
    changed = copy.deepcopy(executed)
    last_code(changed)["outputs"] = [made]
    (left,) = last_code(page_of(changed))["outputs"]
    return left


def test_words_code_and_metadata_are_ours(executed):
    before = page_of(executed)
    assert [cell["source"] for cell in before["cells"]] == [cell["source"] for cell in executed["cells"]]
    executed["metadata"] = {
        "mystnb": {"execution_mode": "force"}, "execute": {"enabled": True}, "kernelspec": {"name": EVIL},
        "jupytext": {"text_representation": EVIL}, "file_format": "mystnb", "html_meta": {"x": EVIL},
    }  # fmt: skip
    for cell in executed["cells"]:
        cell["metadata"] |= {"mystnb": {EVIL: EVIL}, "render": {EVIL: 1}, "tags": [*cell["metadata"].get("tags", [])]}
        if "injected-parameters" not in cell["metadata"]["tags"]:
            cell["source"] = EVIL
            cell["metadata"]["tags"].append(EVIL)
        cell["attachments"] = {EVIL: {}}
        cell["id"] = EVIL
    assert page_of(executed) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["cells"].append({**last_code(made)}),
        lambda made: made["cells"].remove(last_code(made)),
        lambda made: made.pop("cells"),
        lambda made: made.update(cells=[1]),
        lambda made: last_code(made).update(outputs=[{}]),
    ],
)
def test_another_notebook_is_refused(executed, change):
    change(executed)
    with pytest.raises(StudyError, match="is not the notebook of this project"):
        shown(NAME, executed)


@pytest.mark.parametrize(
    "kind", ["application/javascript", "text/latex", "application/vnd.jupyter.widget-view+json", "image/gif", "x"]
)
@pytest.mark.parametrize("prefix", ["", GLUED])
def test_other_kinds_are_not_shown(executed, kind, prefix):
    assert output(executed, prefix + kind, EVIL)["data"] == {}


@pytest.mark.parametrize(
    "text",
    [
        "<script>pwned</script>", '<img src=x onerror="pwned">', '<a href="javascript:pwned">x</a>',
        "<svg onload=pwned>",
        '<td onclick="pwned">x</td>', '<td style="background: url(//pwned)">x</td>', "<iframe srcdoc=pwned></iframe>",
        "<style>@import '//pwned'</style>", "<style>a{background:url(//pwned)}</style>", "<base href=//pwned>",
        "<style>a{b:u\\72l(//pwned)}</style>", '<form action="//pwned"></form>', '<div><object data="pwned"/></div>',
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", GLUED])
def test_html_is_what_tables_are_made_of(executed, text, prefix):
    left = output(executed, f"{prefix}text/html", f"<table>{text}</table>")["data"][f"{prefix}text/html"]
    assert "<table>" in left
    assert EVIL not in left


def test_a_table_of_pandas_stays_as_it_is(executed):
    text = '<div>\n<style scoped="">.dataframe th {top: 1;}</style>\n<table border="1" class="dataframe"><tbody>'
    text += '<tr style="text-align: right;"><th id="T_1" rowspan="2">p &lt; 0.1</th></tr></tbody></table>\n</div>'
    assert output(executed, "text/html", [text[:9], text[9:]])["data"]["text/html"] == text


def test_escaped_markdown_stays_so_and_is_pasted(executed, tmp_path):
    made = {f"{GLUED}text/markdown": r"- **AUC.** \<5 of \{raw\} \`x\` <b>"}
    glued = {"output_type": "display_data", "data": made, "metadata": {"scrapbook": {"name": "found"}}}
    last_code(executed)["outputs"] = [glued]
    (page,) = shown(NAME, executed).values()
    (tmp_path / "a.ipynb").write_text(page)
    assert pasted(tmp_path / "a.ipynb") == {"found.txt": rb"- **AUC.** &lt;5 of \{raw\} \`x\` &lt;b>"}


@pytest.mark.parametrize("text", ["<script>x</script>", "![x](http://192.0.2.1/x.png)", '<img src="//x">'])
def test_markdown_holds_no_html_and_no_pictures(executed, text):
    left = output(executed, "text/markdown", f"**Bold** {text}")["data"]["text/markdown"]
    assert left.startswith("**Bold**")
    assert "<" not in left
    assert "![" not in left


@pytest.mark.parametrize(
    "inside",
    [
        "<script>1</script>", "<x:script/>", '<path onload="x"/>', "<foreignObject/>", '<a href="#a"/>', "<animate/>",
        '<image href="http://x/x.png"/>', '<use href="x.svg#a"/>', "<scr<!-- -->ipt/>", "<style>@import 'x'</style>",
        '<path fill="url(http://x)"/>', '<!DOCTYPE svg [<!ENTITY x "y">]>', '<image href="data:text/html;base64,x"/>',
    ],
)  # fmt: skip
def test_drawings_that_act_or_ask_are_not_shown(executed, inside):
    assert output(executed, "image/svg+xml", DRAWING.replace("<defs>", f"{inside}<defs>"))["data"] == {}


def test_drawings_of_ours_are_shown(executed, tmp_path):
    said = DRAWING.replace("<defs>", '<!-- onerror="ran()" --><defs>')
    left = output(executed, f"{GLUED}image/svg+xml", said, scrapbook={"name": "curve", "mime_prefix": GLUED}, x=1)
    assert left["data"] == {f"{GLUED}image/svg+xml": DRAWING}
    assert left["metadata"] == {"scrapbook": {"name": "curve", "mime_prefix": GLUED}}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [{"outputs": [left]}]}))
    assert pasted(tmp_path / "a.ipynb") == {"curve.svg": DRAWING.encode()}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "a b", 1, None, "x" * 101])
def test_what_is_handed_to_pages_has_the_name_of_a_file(executed, name):
    assert output(executed, "text/plain", "1", scrapbook={"name": name})["metadata"] == {}


def test_a_notebook_of_several_headings_is_as_many_pages_and_hands_over_in_the_first():
    cells = jupytext.read(PROJECT / "notebooks" / "05_horizons.py").cells
    empty = {"outputs": [], "execution_count": 1}
    executed = {
        "cells": [
            {"cell_type": cell.cell_type, "metadata": dict(cell.metadata), "source": cell.source}
            | (empty if cell["cell_type"] == "code" else {})
            for cell in cells
        ]
    }
    pages = {name: json.loads(text)["cells"] for name, text in shown("05_horizons", executed).items()}
    assert list(pages) == ["05_horizons", "05_robustness", "05_attainable"]
    assert all(page[0]["source"].startswith("# ") for page in pages.values())
    assert "remove-cell" in pages["05_horizons"][-1]["metadata"]["tags"]
    whole = sorted(cell["source"] for page in pages.values() for cell in page)
    assert whole == sorted(cell["source"] for cell in executed["cells"])
