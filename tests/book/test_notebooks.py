"""An executed notebook holds its figures and names no place of the machine that ran it."""

import json
import sys
import sysconfig
from tempfile import gettempdir

import nbformat
import pytest

from sscct_lib.book.chapters import pictures
from sscct_lib.book.notebooks import _forget_paths, run_notebook
from sscct_lib.intake.privacy_search import search_file
from sscct_lib.study import stages
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import Settings
from sscct_lib.study.stages import PROJECT


def test_paths_of_warnings_tracebacks_and_papermill_are_shortened(tmp_path):
    study = Study(tmp_path / "study", Settings())
    (tmp_path / "study").mkdir()
    said = [
        f"{sysconfig.get_paths()['purelib']}/joblib/parallel.py:44: UserWarning: slow",
        f"{sysconfig.get_paths()['stdlib']}/threading.py:1: UserWarning: slow",
        f"{PROJECT}/sscct_lib/lungs.py:12: RuntimeWarning: slow",
        f"{sys.prefix}/bin/python",
        f"{gettempdir()}/ipykernel_4711/123.py:3: UserWarning: slow",
        f"{study.folder}/scans/a.nii.gz",
    ]
    outputs = [{"output_type": "stream", "name": "stderr", "text": [f"{line}\n" for line in said]}]
    own = {"input_path": f"{study.folder}/runs/main/logs/01.source.ipynb"}
    cell = {"cell_type": "code", "source": "1", "metadata": {}, "outputs": outputs}
    path = tmp_path / "01.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {"papermill": own}}))
    assert len(search_file(path)) >= len(said)  # one more: the input; one less where Python is the system's
    _forget_paths(path, study)
    assert search_file(path) == []
    content = json.loads(path.read_text())
    assert content["cells"][0]["outputs"][0]["text"][0] == "joblib/parallel.py:44: UserWarning: slow\n"
    assert content["metadata"]["papermill"]["input_path"] == "runs/main/logs/01.source.ipynb"


FIGURES = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
# %% tags=["parameters"]
study_dir: str = ".."  # the study folder
run_name: str = "main"  # which run of the study
# %%
import matplotlib.pyplot as plt
from myst_nb import glue
figure, _ = plt.subplots()
glue("curve", figure, display=False)
from sscct_lib.study.plots import new_figure
sharp, _ = new_figure(2)
glue("sharp", sharp, display=False)
sharp
"""


@pytest.mark.slow
def test_figures_are_kept_where_the_surroundings_name_a_backend_that_shows_nothing(tmp_path, monkeypatch):
    project = stages.PROJECT
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "06_figure.py").write_text(FIGURES)
    monkeypatch.setattr(stages, "PROJECT", tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", str(project))
    executed = run_notebook(Study(tmp_path, Settings()), "06_figure", {})
    found = pictures(executed)
    assert set(found) == {"curve.png", "sharp.svg"}
    assert found["curve.png"].startswith(b"\x89PNG")
    assert b"<svg" in found["sharp.svg"]
    outputs = nbformat.read(executed, as_version=4).cells[-1].outputs
    shown = next(output for output in outputs if output.output_type == "execute_result")
    assert {"image/png", "image/svg+xml"} <= shown.data.keys()
