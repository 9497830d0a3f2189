"""Prose pages state no result of their own: numbers of a run come by glue; figures follow a sentence."""

import re

import pytest

from sscct_lib.study.stages import NOTEBOOKS, PROJECT

PAGES = ("index", "acting", "failures", "limits", "glossary")
GLUED = re.compile(r"\{glue:\w+\}`(?P<notebook>[^`:]+)::(?P<name>\w+)(?::[a-z0-9.]+)?`|"
                   r"\{glue\} (?P<block>\w+)\n:doc: (?P<doc>\S+)")  # fmt: skip
RESULTS = (
    r"\b0\.\d{2,}\b",  # an AUC, a Brier score
    r"\b\d+ (?:scans|patients|deaths)\b(?! (?:at|from) a time)",
    r"\(95 % interval \d",
    r"\bp [=<] ?0",
)
# Words that explain, not results: "about 20 in 100", "100 patients", "one of 100 scans".
EXPLAINS = re.compile(r"\b100 (?:scans|patients)\b")


def pages():
    return {name: (PROJECT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_no_result_is_typed(name):
    text = EXPLAINS.sub("", GLUED.sub("", pages()[name]))
    for pattern in RESULTS:
        found = re.search(pattern, text)
        assert found is None, f"{name}: {found[0]!r} looks like a result; glue it from the notebook"


@pytest.mark.parametrize("text", ["An AUC of 0.731.", "It holds 246 scans.", "(95 % interval 0.4 to", "p < 0.01"])
def test_a_typed_result_would_be_found(text):
    assert any(re.search(pattern, text) for pattern in RESULTS)


def test_every_glued_name_is_made_by_its_notebook():
    sources = {name: (PROJECT / "notebooks" / f"{name}.py").read_text(encoding="utf-8") for name in NOTEBOOKS}
    library = "\n".join(
        (PROJECT / "sscct_lib" / "horizons" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("tables", "decisions", "patients", "models")
    )
    n_found = 0
    for path in sorted((PROJECT / "book").glob("*.md")):
        for match in GLUED.finditer(path.read_text(encoding="utf-8")):
            notebook = (match["notebook"] or match["doc"]).removeprefix("notebooks/").removesuffix(".ipynb")
            name = match["name"] or match["block"]
            assert f'"{name}"' in sources[notebook] or f'"{name}"' in library, f"{path.name}: {name}"
            n_found += 1
    assert n_found > 20


def cells(source):
    for part in source.split("\n# %%")[1:]:
        head, _, body = part.partition("\n")
        yield "[markdown]" in head, head, body


DRAWN = re.compile(r"^(?:\w*figures\.|shortcuts_figure)\w+\(", re.MULTILINE)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_figure_follows_words_that_say_what_to_look_at(name):
    """A figure stands alone in its cell, and the nearest cell of words before it belongs to no other figure."""
    words_before = ""
    n_figures = 0
    for is_words, head, body in cells((PROJECT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")):
        if is_words:
            words_before = body
        elif "remove-cell" not in head and DRAWN.search(body):
            sentences = re.findall(r"[^.:?]{12,}[.:?]", re.sub(r"^# ?#*", "", words_before, flags=re.MULTILINE))
            assert sentences, f"{name}: a figure without a sentence before it: {body[:80]}"
            words_before = ""
            n_figures += 1
    assert n_figures > 0


def test_the_style_sheet_closes_what_it_opens():
    for path in sorted((PROJECT / "book" / "_static").glob("*.css")):
        text = path.read_text(encoding="utf-8")
        depth = 0
        for letter in text:
            depth += {"{": 1, "}": -1}.get(letter, 0)
            assert 0 <= depth <= 2, path.name
        assert depth == 0, path.name
