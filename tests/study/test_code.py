"""What a result rests on: words change no key, code does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sscct_lib.study.code import PACKAGE, code_files, code_hash


def test_code_files_follow_imports():
    names = {path.relative_to(PACKAGE).as_posix() for path in code_files(PACKAGE / "cohort" / "selection.py")}
    assert {"cohort/__init__.py", "cohort/selection.py", "study/folder.py", "study/schemas.py"} <= names
    assert not [name for name in names if name.startswith("cli")]


def test_words_and_layout_change_no_key_and_code_does(tmp_path):
    def key(name, source):
        path = tmp_path / name / "module.py"
        path.parent.mkdir()
        path.write_text(source)
        return code_hash(path)

    plain = key("plain", "LIMIT = 1\n\n\nclass A:\n    x: int = 2\n\n    def f(self):\n        return self.x + LIMIT\n")
    worded = key(
        "worded",
        '"""A module."""\n# Why.\nLIMIT = (\n    1\n)\n"""The limit."""\nclass A:\n    """A class."""\n    x: int = 2\n'
        '    """A field."""\n    def f(self):\n        """Add."""\n        # Both.\n        return self.x+LIMIT\n',
    )
    assert worded == plain
    assert (
        key("other", "LIMIT = 1\n\n\nclass A:\n    x: int = 2\n\n    def f(self):\n        return self.x - LIMIT\n")
        != plain
    )
    assert key("text", 'LIMIT = "a"\n') != key("texts", 'LIMIT = "b"\n')


def test_a_key_follows_what_is_imported_and_refuses_what_is_not_there():
    assert code_hash("lungs.segment") != code_hash("images.prepare")
    with pytest.raises(ValueError, match=r"no module lungs\.other"):
        code_hash("lungs.other")


@pytest.mark.parametrize("place", ["kept", "nowhere", "damaged", "relative"])
def test_what_was_found_is_kept_and_changes_no_key(tmp_path, monkeypatch, place):
    """A process that finds it, one that may keep nothing and one that finds it damaged give the same key."""
    expected = code_hash("study.keys")
    cache = tmp_path / "cache"
    cache.write_text("no folder") if place == "nowhere" else cache.mkdir()
    named = "cache" if place == "relative" else str(cache)  # no place of the user, but one of whoever made the folder
    environment = {**os.environ, "XDG_CACHE_HOME": named, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", "from sscct_lib.study.code import code_hash; print(code_hash('study.keys'))"]
    for _ in range(2):
        said = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == expected
        found = list(cache.rglob("*.json"))
        assert bool(found) == (place in ("kept", "damaged"))
        for path in found:
            path.write_text("{" if place == "damaged" else path.read_text())


def other_pythons() -> list[str]:
    """Find later Pythons, on the path or beside this one."""
    beside = [str(path) for path in Path(sys.base_prefix).parent.glob("3.1[2-9]*/bin/python3")]
    return [*beside, *filter(None, map(shutil.which, ("python3.12", "python3.13")))]


def test_keys_are_alike_on_all_pythons():
    """A study may move to a machine with another Python, and is not made again there."""
    code = "from sscct_lib.study.code import code_hash; print(code_hash('book.build'), code_hash('deep.fitting'))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    said = [
        subprocess.run([python, "-S", "-c", code], env=environment, capture_output=True, text=True, check=False).stdout
        for python in other_pythons()
    ]
    if not any(said):
        pytest.skip("no later Python is installed")
    assert set(filter(None, said)) == {f"{code_hash('book.build')} {code_hash('deep.fitting')}\n"}
