"""Notebooks hold their figures and no place of a machine; a run that lacks something gives a book that says so."""

import json
import os
import stat
import sys
import sysconfig
from pathlib import Path
from tempfile import gettempdir

import jupytext
import nbformat
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output
from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_path
from papermill.utils import find_first_tagged_cell_index

from sscct_lib.book import chapters
from sscct_lib.book.build import _config, this_run
from sscct_lib.intake.privacy_search import search_file
from sscct_lib.study import keys, stages
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.seals import seal_all
from sscct_lib.study.settings import Settings
from sscct_lib.study.stages import NOTEBOOKS, PROJECT


@pytest.fixture
def study(tmp_path):
    made = Study(tmp_path, Settings(title="A study"))
    (made.run / "notebooks").mkdir(parents=True)
    (made.run / "logs").mkdir()
    for name in NOTEBOOKS:
        nbformat.write(new_notebook(), made.run / "notebooks" / f"{name}.ipynb")
        made_of = keys.notebook_record(made, name, []) | {"written": keys.written(made, name)}
        chapters.write_provenance(made, name, made_of)
    return made


def fail(study, name, words="not enough memory"):
    (study.run / "notebooks" / f"{name}.ipynb").unlink(missing_ok=True)
    error = new_output("error", ename="StudyError", evalue=words, traceback=[])
    broken = new_notebook(cells=[new_code_cell("1", execution_count=3, outputs=[error])])
    nbformat.write(broken, study.run / "logs" / f"{name}.partial.ipynb")


def test_needs_names_every_notebook_and_only_earlier_ones():
    assert list(stages.NEEDS) == list(stages.CHAPTERS) == list(NOTEBOOKS)
    for name, needed in stages.NEEDS.items():
        assert all(NOTEBOOKS.index(other) < NOTEBOOKS.index(name) for other in needed)


def test_a_complete_run_lacks_nothing(study):
    assert chapters.missing_stages(study) == {}
    assert "missing" not in this_run(study, {})


def test_a_failure_is_told_with_its_cell_and_takes_what_rests_on_it(study):
    fail(study, "04_deep_models", "memory ran out in `resnet18`")
    missing = chapters.missing_stages(study)
    assert list(missing) == ["04_deep_models", "05_horizons"]
    assert missing["04_deep_models"] == "It failed in cell 3: StudyError: memory ran out in `resnet18`"
    assert missing["05_horizons"] == "It needs 04_deep_models, which is missing."
    shown = this_run(study, missing)
    assert "not complete" in shown
    assert "memory ran out in \\`resnet18\\`" in shown  # not read as markup


def test_an_old_notebook_is_not_shown_when_a_later_attempt_failed(study):
    fail(study, "01_cohort")
    assert set(chapters.missing_stages(study)) == set(NOTEBOOKS)


def test_a_notebook_of_other_settings_is_not_shown(study):
    changed = Study(study.folder, Settings(title="A study", tabular={"n_repeats": 1}))
    missing = chapters.missing_stages(changed)
    assert missing["03_radiomics"] == "What there is was made before a change of tabular in study.yaml."
    assert missing["05_horizons"] == "It needs 03_radiomics, which is missing."
    assert set(missing) == {"03_radiomics", "05_horizons"}


def test_what_was_never_run_is_told_apart_from_what_failed(study):
    (study.run / "notebooks" / "05_horizons.ipynb").unlink()
    assert "was not run" in chapters.missing_stages(study)["05_horizons"]


def test_a_stub_is_a_notebook_that_says_why():
    notebook = nbformat.reads(chapters.stub("03_radiomics", "It failed in cell 4: <b>x</b>"), as_version=4)
    nbformat.validate(notebook)
    text = notebook.cells[0].source
    assert text.startswith("# The features")
    assert "\\<b\\>" in text


@pytest.mark.parametrize("missing", [["05_horizons"], list(NOTEBOOKS[1:]), list(NOTEBOOKS)])
def test_no_page_asks_for_a_number_of_a_missing_notebook(missing):
    for path in sorted((PROJECT / "book").glob("*.md")):
        left = chapters.without_missing(path.read_text(encoding="utf-8"), missing)
        for name in missing:
            assert f"{name}.ipynb::" not in left, path.name
            assert f":doc: notebooks/{name}.ipynb" not in left, path.name
        assert "pasted/" not in left, path.name


def test_a_page_keeps_the_numbers_that_are_there():
    page = "{glue:text}`notebooks/01_cohort.ipynb::n:d` and {glue:text}`notebooks/05_horizons.ipynb::m:d`."
    left = chapters.without_missing(page, ["05_horizons"])
    assert left == f"{{glue:text}}`notebooks/01_cohort.ipynb::n:d` and {chapters.NOT_MADE}."


ODD = """a {x} 50% #1 $HOME 'q' "d" äö\\b [z] * {y!r}"""


VISIBLE = st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="/")


@given(st.text(VISIBLE, min_size=1).map("/a{}".format))
def test_papermill_takes_every_path_as_it_is(path):
    assume(path == os.path.normpath(path))
    assert parameterize_path(chapters._unfilled(Path(path)), {}) == path


@pytest.mark.filterwarnings("ignore:The specified file")  # ends in another way than papermill's own do
def test_papermill_reads_a_notebook_that_is_a_script(monkeypatch):
    monkeypatch.chdir(PROJECT)
    read, script = load_notebook_node("notebooks/05_horizons.py"), jupytext.read("notebooks/05_horizons.py")
    assert [cell.source for cell in read.cells] == [cell.source for cell in script.cells]
    assert find_first_tagged_cell_index(read, "parameters") > 0
    with pytest.raises(StudyError, match="Name a file elsewhere"):
        write_ipynb(read, "notebooks/tried.ipynb")


@pytest.mark.parametrize("name", ["study", ODD], ids=["plain", "odd"])
def test_paths_of_warnings_tracebacks_and_papermill_are_shortened(tmp_path, name):
    study = Study(tmp_path / name, Settings())
    study.folder.mkdir()
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
    path.write_text(json.dumps({"cells": [cell], "metadata": {"papermill": own}}, ensure_ascii=False))
    assert len(search_file(path)) >= len(said)  # one more: the input; one less where Python is the system's
    chapters._forget(path, study, tmp_path / "place")
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
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "06_figure.py").write_text(FIGURES)
    monkeypatch.setattr(chapters, "PROJECT", tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    folder = tmp_path / ODD
    executed = chapters.run_notebook(Study(folder, Settings()), "06_figure")
    assert executed.is_relative_to(folder)
    found = chapters.pasted(executed)
    assert set(found) == {"curve.png", "sharp.svg"}
    assert found["curve.png"].startswith(b"\x89PNG")
    assert b"<svg" in found["sharp.svg"]
    outputs = nbformat.read(executed, as_version=4).cells[-1].outputs
    shown = next(output for output in outputs if output.output_type == "execute_result")
    assert {"image/png", "image/svg+xml"} <= shown.data.keys()


def test_every_page_says_where_a_transplant_counts_as_death(study_of, manifest_frame):
    for rule, told in {"ends_followup": False, "as_death": True}.items():
        study = study_of(manifest_frame, f"title: test\ncohort: {{transplant: {rule}}}\n")
        configured = yaml.safe_load(_config(study))["html"].get("announcement", "")
        assert ("death or lung transplant" in configured) == told
        assert "Synthetic" not in configured


def test_a_book_is_current_however_the_study_is_named(study, monkeypatch):
    (study.folder / "data_manifest.csv").write_text("scan_id\n")
    (study.run / "tables").mkdir()
    (study.run / "tables" / "a.parquet").touch()
    monkeypatch.chdir(study.folder)
    assert chapters.book_made_of(study) == chapters.book_made_of(Study(Path("."), study.settings))
    chapters.front_page(study).parent.mkdir(parents=True)
    chapters.front_page(study).touch()
    chapters.book_record(study).write_text(chapters.book_made_of(study))
    assert not chapters.is_current(study)  # somebody else may have made it
    seal_all(study.run, "book")
    assert chapters.is_current(study)
    (study.run / "tables" / "a.parquet").write_text("changed")
    assert not chapters.is_current(study)


def test_a_kernel_works_apart_from_the_study_and_speaks_in_private(tmp_path, monkeypatch):
    seen = {}

    def execute(source, partial, parameters, cwd, config, **_):
        place = Path(cwd)
        seen.update(config["KernelManager"], place=place, rights=stat.S_IMODE(place.stat().st_mode))
        seen["holds"] = {path.name: path.resolve() for path in place.iterdir()}
        Path(partial).write_text('{"cells": []}')
        assert (place / parameters["study_dir"]).resolve() == tmp_path / "study"

    monkeypatch.setattr("papermill.execute_notebook", execute)
    chapters.run_notebook(Study(tmp_path / "study", Settings()), "01_cohort")
    assert seen["holds"] == {"study": tmp_path / "study"}
    assert (seen["transport"], seen["rights"]) == ("ipc", 0o700)
    assert Path(seen["connection_file"]).parent == seen["place"]
    assert not seen["place"].exists()
