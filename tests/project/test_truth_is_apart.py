"""No stage before notebook 05 may read what only the demo study knows."""

import ast
from pathlib import Path

import pytest

from sscct_lib.study.code import code_files

ROOT = Path(__file__).parents[2]


def names_truth(path: Path) -> list[str]:
    """Texts of a file, docstrings apart, that could be a path into `truth/`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose]
    return [text for text in texts if isinstance(text, str) and ("truth" in text or "true_risk" in text)]


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("0[1-4]_*.py")), ids=lambda path: path.stem)
def test_notebooks_before_the_last_never_name_the_truth(notebook):
    files = code_files(notebook)
    assert len(files) > 10
    assert not [path for path in files if path.parent.name == "demo"]
    # That folder is looked at, as all of a study, for links and the like before anything is opened.
    assert {path.name: names_truth(path) for path in files if names_truth(path)} == {"folder.py": ["truth"]}


def test_the_search_would_find_a_reader():
    assert names_truth(ROOT / "sscct_lib" / "demo" / "make.py")
