"""Generated pages are written once, and again when something behind them, or one of them, has changed."""

import json
import os

import pytest

from sscct_lib.book import build
from sscct_lib.study.files import read_keyed, write_keyed
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import Settings


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Give a study, and a function that writes its pages and tells how often they were made."""
    study = Study(tmp_path, Settings(title="A study"))
    source = study.run / "book" / "source"
    for folder in (study.run / "tables", study.run / "provenance", source):
        folder.mkdir(parents=True)
    (study.run / "tables" / "cohort.parquet").write_bytes(b"1")
    made = []

    def make(study, source, missing):
        made.append(dict(missing))
        (source / "run.md").write_text(f"made {len(made)}")
        return [source / "run.md"]

    monkeypatch.setattr(build, "_write", make)

    def write(missing=None, settings=None) -> int:
        one = study if settings is None else Study(tmp_path, settings)
        build.write_generated(one, source, missing or {})
        return len(made)

    return study, write


def test_nothing_is_made_again_without_a_change(written):
    _, write = written
    assert write() == 1
    assert write() == 1


def test_a_changed_table_a_setting_and_a_missing_chapter_make_them_again(written):
    study, write = written
    assert write() == 1
    table = study.run / "tables" / "cohort.parquet"
    table.write_bytes(b"22")
    assert write() == 2
    (study.run / "tables" / "predictions").mkdir()
    (study.run / "tables" / "predictions" / "coin.parquet").write_bytes(b"1")
    assert write() == 3
    assert write({"05_horizons": "it failed"}) == 4
    assert write({}, Settings(title="A study", book={"viewer": False})) == 5
    (study.folder / "statements.yaml").write_text("claim: {}")
    assert write() == 6
    assert write() == 6


def test_a_page_that_was_removed_or_changed_by_hand_is_made_again(written):
    study, write = written
    page = study.run / "book" / "source" / "run.md"
    assert write() == 1
    page.unlink()
    assert write() == 2
    page.write_text("another text")
    os.utime(page, ns=(1, 1))
    assert write() == 3


def test_what_was_kept_under_another_key_or_is_damaged_counts_for_nothing(tmp_path):
    path = tmp_path / "kept.json"
    assert read_keyed(path, "a") == {}
    write_keyed(path, "a", {"x": [1]})
    assert read_keyed(path, "a") == {"x": [1]}
    assert read_keyed(path, "b") == {}
    for damaged in ("{", "[]", json.dumps({"key": "a"}), json.dumps({"key": "a", "content": [1]})):
        path.write_text(damaged)
        assert read_keyed(path, "a") == {}
