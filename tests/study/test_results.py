"""Progress is told while work goes on, and leaves no trace in a finished notebook; warnings stay."""

import copy
import io
import logging
import os
import subprocess
import sys

import jupytext
import nbformat
import pandas as pd
import papermill
import pytest

from sscct_lib.study import results
from sscct_lib.study.files import atomic, remove_partials
from sscct_lib.study.results import ScanError, process, shard


@pytest.fixture
def study(study_of, manifest_frame):
    return study_of(manifest_frame)


ROWS = pd.DataFrame({"scan_id": ["a1", "a2", "b1"], "patient_id": ["a", "a", "b"], "value": [1, 2, 3]})


class Doubling:
    """Doubles a value, fails as told, and counts its calls."""

    def __init__(self, bad=(), broken=()):
        self.bad, self.broken, self.calls = bad, broken, []

    def __call__(self, study, row):
        self.calls.append(row["scan_id"])
        if row["scan_id"] in self.bad:
            raise ScanError("found nothing; expected something")
        if row["scan_id"] in self.broken:
            raise MemoryError("too large")
        return {"double": row["value"] * 2}


def run(study, function, rows=ROWS, settings="s", files=()):
    return process(study, "cohort", function, rows, settings, lambda row: list(files))


def test_results_come_in_order_and_finished_ones_are_kept(study):
    function = Doubling()
    first = run(study, function)
    second = run(study, function)
    assert first["double"].tolist() == [2, 4, 6]
    pd.testing.assert_frame_equal(first, second)
    assert function.calls == ["a1", "a2", "b1"]


def test_a_bad_scan_is_set_aside_and_the_rest_go_on(study):
    function = Doubling(bad=["a2"])
    result = run(study, function)
    assert result["status"].tolist() == ["ok", "failed", "ok"]
    assert result["reason"].tolist() == ["", "found nothing; expected something", ""]
    run(study, function)
    assert len(function.calls) == 3, "a verdict on the data is final until the data change"


def test_an_unexpected_failure_is_tried_again(study):
    function = Doubling(broken=["a2"])
    assert run(study, function)["reason"].tolist()[1] == "unexpected MemoryError: too large"
    function.broken = ()
    assert run(study, function)["status"].tolist() == ["ok"] * 3
    assert function.calls == ["a1", "a2", "b1", "a2"]


def test_changed_settings_rows_files_or_code_make_results_again(study, tmp_path, monkeypatch):
    function = Doubling()
    file = tmp_path / "x"
    run(study, function, files=[file])
    run(study, function, settings="t", files=[file])
    assert len(function.calls) == 6
    run(study, function, rows=ROWS.assign(value=[1, 2, 9]), settings="t", files=[file])
    assert function.calls[6:] == ["b1"]
    file.write_text("now there")
    run(study, function, settings="t", files=[file])
    assert len(function.calls) == 10
    monkeypatch.setattr(results, "code_hash", lambda module: "edited")
    run(study, function, settings="t", files=[file])
    assert len(function.calls) == 13


def test_a_damaged_record_is_made_again(study):
    function = Doubling()
    run(study, function)
    record = study.run / "records" / "cohort" / "a2.json"
    record.write_text(record.read_text()[:20])
    assert run(study, function)["double"].tolist() == [2, 4, 6]
    assert function.calls[3:] == ["a2"]


def test_a_removed_output_is_made_again(study, tmp_path):
    function, made = Doubling(bad=["b1"]), tmp_path / "made"

    def outputs(row):
        return [made / row["scan_id"]]

    made.mkdir()
    for scan_id in ("a1", "a2"):
        (made / scan_id).write_text("made")
    process(study, "cohort", function, ROWS, "o", lambda row: [], outputs=outputs)
    (made / "a1").unlink()
    process(study, "cohort", function, ROWS, "o", lambda row: [], outputs=outputs)
    assert function.calls[3:] == ["a1"]


@pytest.mark.filterwarnings("error::UserWarning")  # a warning would stand in the book
def test_workers_give_the_same_table(study):
    parallel = process(study, "cohort", Doubling(), ROWS, "p", lambda row: [], n_jobs=2)
    pd.testing.assert_frame_equal(parallel, run(study, Doubling()))


def test_shards_tile_the_manifest():
    parts = [shard(ROWS, index, 2) for index in range(2)]
    pd.testing.assert_frame_equal(pd.concat(parts), ROWS)


def test_what_a_killed_process_left_is_removed_later(tmp_path):
    (tmp_path / "runs").mkdir()
    old, fresh, whole = (tmp_path / "runs" / name for name in (".partial-0-a[1].csv", ".partial-1-b.csv", "a[1].csv"))
    for path in (old, fresh, whole):
        path.write_text("half")
    for path in (old, whole):
        os.utime(path, (0, 0))
    remove_partials(tmp_path)
    assert sorted((tmp_path / "runs").iterdir()) == sorted([fresh, whole])


def test_a_killed_write_is_no_file(tmp_path):
    """What `remove_partials` looks for is what `atomic` leaves."""
    code = "import os, pathlib, sys; from sscct_lib.study.files import atomic\n"
    code += "with atomic(pathlib.Path(sys.argv[1])) as partial: partial.write_text('half'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.csv"], check=False)
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))
    remove_partials(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def interrupted():
        with atomic(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


NOTEBOOK = """
# %%
import logging
import warnings
from sscct_lib.study import results
results.SECONDS_BETWEEN = 0
results.show()
# %%
made = list(results.told("abc", 3, "stage: scan"))
logging.getLogger("sscct_lib.lungs").warning("scan s1 has no mask")
warnings.warn("a package is old", DeprecationWarning)
print("a result")
# %%
list(results.told("ab", 2, "stage: scan"))
"""


@pytest.mark.slow
def test_a_notebook_tells_progress_in_the_terminal_and_forgets_it(tmp_path):
    nbformat.write(jupytext.reads(NOTEBOOK, "py:percent"), tmp_path / "in.ipynb")
    terminal = io.StringIO()
    executed = papermill.execute_notebook(
        tmp_path / "in.ipynb", tmp_path / "out.ipynb", stderr_file=terminal, progress_bar=False, kernel_name="python3"
    )
    lines = terminal.getvalue().splitlines()
    assert [line for line in lines if "stage: scan" in line] == [
        f"{results.MARK}stage: scan {number} of {n}" for n in (3, 2) for number in range(1, n + 1)
    ]
    results.forget(executed)
    nbformat.validate(executed)
    texts = ["".join(output.get("text", "")) for cell in executed["cells"] for output in cell["outputs"]]
    assert not any(results.MARK in text for text in texts)
    assert any("scan s1 has no mask" in text for text in texts)
    assert any("a package is old" in text for text in texts)
    assert "a result\n" in texts
    assert len(executed["cells"][-1]["outputs"]) == 1  # the list itself: the stream is gone with its lines


def test_work_that_takes_longer_is_told_every_ten_seconds(monkeypatch, caplog):
    clock = iter(range(0, 1000, 4))  # a result takes four seconds
    monkeypatch.setattr(results.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, "sscct_lib"):
        assert list(results.told(iter("abcdefgh"), 8, "fit")) == list("abcdefgh")
    assert caplog.messages
    told = [int(message.split()[1]) for message in caplog.messages]
    assert told == sorted(set(told))
    assert len(told) < 8


def test_short_work_says_nothing(caplog):
    with caplog.at_level(logging.INFO, "sscct_lib"):
        assert list(results.told(range(3), 3, "fit")) == [0, 1, 2]
    assert not caplog.messages


def test_a_notebook_without_progress_is_left_as_it_is():
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": "x"},
            {"cell_type": "code", "outputs": [{"output_type": "stream", "name": "stderr", "text": "odd\nlines"}]},
        ]
    }
    before = copy.deepcopy(notebook)
    results.forget(notebook)
    assert notebook["cells"][0] == before["cells"][0]
    assert "".join(notebook["cells"][1]["outputs"][0]["text"]) == "odd\nlines"
