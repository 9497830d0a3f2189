"""The one list of what reading may find: every code that the library says is on it, and every code on it is said."""

import ast
import string

import pytest

from sscct_lib.book.reference import OUTCOMES, odd_exports_page
from sscct_lib.images.reasons import UnusableError, reasons, told
from sscct_lib.study.results import ScanError
from sscct_lib.study.stages import PROJECT

SOURCES = [path for path in (PROJECT / "sscct_lib").rglob("*.py") if path.name != "reasons.py"]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
REASONS = reasons()
CALLS = {"told", "UnusableError"}


def said_codes() -> set[str]:
    """Codes that stand as such in a call of `told` or `UnusableError`."""
    calls = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    named = [(ast.unparse(call.func).rpartition(".")[2], call.args[0]) for call in calls]
    return {argument.value for name, argument in named if name in CALLS and isinstance(argument, ast.Constant)}


def test_every_code_that_is_said_is_on_the_list():
    assert {code for code in said_codes() if isinstance(code, str)} - set(REASONS) == set()


def test_every_code_of_the_list_is_said_somewhere():
    constants = {node.value for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert set(REASONS) - constants == set()


def test_the_page_of_the_book_has_every_code_once_below_its_outcome():
    page = odd_exports_page()
    for code, reason in REASONS.items():
        assert page.count(f"<td>{code}</td>") == 1
        before = page[: page.index(f"<td>{code}</td>")]
        assert before.rpartition("\n## ")[2].startswith(OUTCOMES[reason.outcome][0] + "\n")
    assert page.startswith("# What intake does with odd exports\n")
    assert page.count("<tr><td>") == len(REASONS)
    assert len({reason.found for reason in REASONS.values()}) == len(REASONS)  # no two read alike
    assert "`" not in page.partition("## ")[2]  # cells are plain text


@pytest.mark.parametrize("code", REASONS)
def test_a_reason_is_told_in_whole_words(code):
    reason = REASONS[code]
    names = {name for _, name, _, _ in string.Formatter().parse(reason.words) if name}
    sentence = told(code, **{name.partition(".")[0].partition("[")[0]: 7 for name in names})
    assert sentence.code == code
    assert "{" not in sentence
    assert reason.done.endswith(".")
    assert not reason.found.endswith(".")
    error = UnusableError(code, **dict.fromkeys(names, 7))
    assert (error.code, str(error), isinstance(error, ScanError)) == (code, str(sentence), True)
