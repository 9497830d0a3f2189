"""Progress is told while work goes on, and leaves no trace in a finished notebook; warnings stay."""

import copy
import io
import logging

import jupytext
import nbformat
import papermill
import pytest

from sscct_lib import progress

NOTEBOOK = """
# %%
import logging
import warnings
from sscct_lib import progress
progress.SECONDS_BETWEEN = 0
progress.show()
# %%
made = list(progress.told("abc", 3, "stage: scan"))
logging.getLogger("sscct_lib.lungs").warning("scan s1 has no mask")
warnings.warn("a package is old", DeprecationWarning)
print("a result")
# %%
list(progress.told("ab", 2, "stage: scan"))
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
        f"{progress.MARK}stage: scan {number} of {n}" for n in (3, 2) for number in range(1, n + 1)
    ]
    progress.forget(executed)
    nbformat.validate(executed)
    texts = ["".join(output.get("text", "")) for cell in executed["cells"] for output in cell["outputs"]]
    assert not any(progress.MARK in text for text in texts)
    assert any("scan s1 has no mask" in text for text in texts)
    assert any("a package is old" in text for text in texts)
    assert "a result\n" in texts
    assert len(executed["cells"][-1]["outputs"]) == 1  # the list itself: the stream is gone with its lines


def test_work_that_takes_longer_is_told_every_ten_seconds(monkeypatch, caplog):
    clock = iter(range(0, 1000, 4))  # a result takes four seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, "sscct_lib"):
        assert list(progress.told(iter("abcdefgh"), 8, "fit")) == list("abcdefgh")
    assert caplog.messages
    told = [int(message.split()[1]) for message in caplog.messages]
    assert told == sorted(set(told))
    assert len(told) < 8


def test_short_work_says_nothing(caplog):
    with caplog.at_level(logging.INFO, "sscct_lib"):
        assert list(progress.told(range(3), 3, "fit")) == [0, 1, 2]
    assert not caplog.messages


def test_a_notebook_without_progress_is_left_as_it_is():
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": "x"},
            {"cell_type": "code", "outputs": [{"output_type": "stream", "name": "stderr", "text": "odd\nlines"}]},
        ]
    }
    before = copy.deepcopy(notebook)
    progress.forget(notebook)
    assert notebook["cells"][0] == before["cells"][0]
    assert "".join(notebook["cells"][1]["outputs"][0]["text"]) == "odd\nlines"
