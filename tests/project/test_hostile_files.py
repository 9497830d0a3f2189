"""A table of things that a stranger may lay in a study, each met by all commands that open one."""

import json
import os
import pickle
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sscct_lib.cli.app import app
from sscct_lib.study.stages import NOTEBOOKS

Maker = Callable[[Path, Path], object]  # of a study's folder, and of a file outside that must stay as it is

SETTINGS: dict[str, str] = {
    "aliases": "a: &a [1]\ntitle: *a\n",
    "a program by a tag": "title: !!python/object/apply:os.system ['touch MARKER']\n",
    "deep nesting": "title: " + "[" * 500_000 + "\n",
    "a number without end": f"seed: {'9' * 5000}\n",
    "no number": "tabular: {min_icc: .nan}\n",
    "infinity": "deep: {epochs: .inf}\n",
    "a list of settings": "- 1\n- 2\n",
    "one word": "study\n",
    "two documents": "title: a\n---\ntitle: b\n",
    "a NUL": "title: a\0b\n",
    "no text": "\udcff\udcfe\n",
    "a title that formats": 'title: "{0.__class__} $(touch MARKER) `touch MARKER` %s"\n',
    "a title that turns": 'title: "a\u202eb"\n',
    "a title of markup": 'title: "<script>alert(1)</script>"\n',
    "a manifest elsewhere": "manifest: ../../etc/passwd\n",
    "a name twice": "title: a\ntitle: b\n",
}
HEAD = "scan_id,patient_id,image,scan_day,last_contact_day,event_observed\n"
MANIFESTS: dict[str, str] = {
    "NUL": HEAD + "a\0b,p,scans/a.nii.gz,0,400,False\n",
    "a quote without end": HEAD + '"a,p,scans/a.nii.gz,0,400,False\n' * 3,
    "a hundred thousand columns": ",".join(f"c{i}" for i in range(100_000)) + "\n",
    "formulas": HEAD + "=1+1,@p,scans/a.nii.gz,0,400,False\n",
    "a path that climbs": HEAD + "a,p,../outside,0,400,False\n",
    "an id that climbs": HEAD + "../a,p,scans/a.nii.gz,0,400,False\n",
    "an id that is a command": HEAD + "$(touch MARKER),p,scans/a.nii.gz,0,400,False\n",
    "an id that formats": HEAD + "{0.__class__},p,scans/a.nii.gz,0,400,False\n",
    "a long id": HEAD + "a" * 5000 + ",p,scans/a.nii.gz,0,400,False\n",
    "an id that turns": HEAD + "a\u202eb,p,scans/a.nii.gz,0,400,False\n",
    "a day without end": HEAD + f"a,p,scans/a.nii.gz,{'9' * 400},400,False\n",
    "days that are no numbers": HEAD + "a,p,scans/a.nii.gz,nan,inf,False\n",
    "an empty file": "",
    "no text": HEAD + "\udcff\udcfe,p,scans/a.nii.gz,0,400,False\n",
}


def written(name: str, text: str) -> Maker:
    return lambda study, outside: (study / name).write_bytes(
        text.replace("MARKER", str(outside.with_name("marker"))).encode("utf-8", "surrogateescape")
    )


def loop(study: Path, _: Path) -> None:
    (study / "scans").symlink_to("images")
    (study / "images").symlink_to("scans")


def scan_that_leads_out(study: Path, outside: Path) -> None:
    (study / "scans").mkdir()
    (study / "scans" / "a.nii.gz").symlink_to(outside)


def scan_that_waits(study: Path, _: Path) -> None:
    (study / "scans").mkdir()
    os.mkfifo(study / "scans" / "a.nii.gz")


def table(values: pa.Table) -> Maker:
    def make(study: Path, _: Path) -> None:
        place = study / "runs" / "main" / "tables" / "cohort.parquet"
        place.parent.mkdir(parents=True)
        pq.write_table(values, place)

    return make


class Acts:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def laid(*names: str) -> Maker:
    """Lay files in a study that would leave a mark if they were run, read as a configuration, or unpickled."""

    def make(study: Path, outside: Path) -> None:
        mark = outside.with_name("marker")
        for name in names:
            path = study / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".pickle", ".doctree", ".skops", ".ckpt"):
                path.write_bytes(pickle.dumps(Acts(mark)))
            else:
                path.write_text(ACTING.get(path.suffix, ACTING[".py"]).replace("MARKER", str(mark)))

    return make


CODE = "import os; os.system('touch MARKER')"
ACTING = {
    ".py": f"{CODE}\n",
    ".html": "<script>fetch('http://192.0.2.1')</script>",
    ".ipynb": json.dumps(
        {
            "cells": [{"cell_type": "code", "metadata": {}, "source": CODE, "outputs": [], "execution_count": None}],
            "metadata": {"mystnb": {"execution_mode": "force"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    ),
    ".json": json.dumps({"key": ["x"], "check": {}, "record": [1, 2], "ingredients": 3, "finished": None}),
    ".yaml": "__use_default_configs__: yes\nexecutor: local\nshell: touch MARKER\n",
    ".yml": "execute: {execute_notebooks: force}\nsphinx: {local_extensions: {evil: .}}\n",
    ".toml": "[tool.jupytext]\nformats = 'ipynb'\n",
    ".safetensors": "\xff" * 64,
}


def bomb(study: Path, _: Path) -> None:
    place = study / "runs" / "main" / "models" / "tabular" / "clinical.skops"
    place.parent.mkdir(parents=True)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", "0" * 50_000_000)


def forged_seals(study: Path, outside: Path) -> None:
    laid("runs/main/notebooks/01_cohort.ipynb", "runs/main/models/tabular/clinical.skops")(study, outside)
    name = "runs/main/notebooks/01_cohort.ipynb"
    line = json.dumps([name, "0" * 64, 1, 1, 1])
    (study / "runs" / "main" / "seals").write_text(f"{'0' * 64} {line}\n\x00\n{{\n{'0' * 64}\n{line}")


OTHERS: dict[str, Maker] = {
    "modules by the names of packages": laid(
        "typer.py", "numpy.py", "pandas/__init__.py", "sitecustomize.py", "usercustomize.py", "conftest.py", "json.py"
    ),
    "configurations": laid(
        "profiles/default/config.yaml",
        "config.yaml",
        ".jupyter/jupyter_config.py",
        ".ipython/profile_default/startup/a.py",
        "jupytext.toml",
        "pyproject.toml",
        "_config.yml",
        "conf.py",
        "setup.py",
        "Snakefile.py",
    ),
    "a place of work that was prepared": laid(".snakemake/typer.py", ".snakemake/profiles/default/config.yaml"),
    "notebooks that act": laid(*(f"runs/main/notebooks/{name}.ipynb" for name in NOTEBOOKS)),
    "pages and what Sphinx remembers": laid(
        "runs/main/book/_build/html/index.html",
        "runs/main/book/sphinx/_build/.doctrees/environment.pickle",
        "runs/main/book/sphinx/_build/.doctrees/index.doctree",
        "runs/main/book/source/_config.yml",
        "runs/main/book/source/conf.py",
    ),
    "models that are pickles": laid(
        "runs/main/models/tabular/clinical.skops",
        "runs/main/models/tabular/clinical.json",
        "runs/main/models/unfinished/a.ckpt",
    ),
    "networks with a forged header": laid("runs/main/models/deep/swin_fold0_0.safetensors"),
    "a model that grows": bomb,
    "records of other types": laid(
        "runs/main/records/lungs/a.json", "runs/main/provenance/01_cohort.json", "runs/main/tables/radiomics.json"
    ),
    "seals that somebody made up": forged_seals,
    "links in a ring": loop,
    "a scan that leads out": scan_that_leads_out,
    "a scan that waits": scan_that_waits,
    "settings that wait": lambda study, _: ((study / "study.yaml").unlink(), os.mkfifo(study / "study.yaml")),
    "settings that are a folder": lambda study, _: ((study / "study.yaml").unlink(), (study / "study.yaml").mkdir()),
    "a manifest that is a device": lambda study, _: (study / "data_manifest.csv").symlink_to("/dev/zero"),
    "runs elsewhere": lambda study, outside: (study / "runs").symlink_to(outside.parent),
    "a lock elsewhere": lambda study, outside: (study / ".sscct.lock").symlink_to(outside),
    "nested cells": table(pa.table({"scan_id": [[1, 2], [3]]})),
    "other columns": table(pa.table({"x": np.zeros(3)})),
    "what pandas would unpickle": table(pa.table({"x": [1]}).replace_schema_metadata({"pandas": b"\x80\x04N."})),
    "a run whose name is a command": lambda study, _: (study / "runs" / "$(touch marker)").mkdir(parents=True),
}
KINDS: dict[str, Maker] = {
    **{f"settings: {name}": written("study.yaml", text) for name, text in SETTINGS.items()},
    **{f"manifest: {name}": written("data_manifest.csv", text) for name, text in MANIFESTS.items()},
    **OTHERS,
}


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise KeyboardInterrupt("the command waits for something")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


LOOKING = [["check", "STUDY"], ["runs", "STUDY"]]
OPENING = [
    ["run", "STUDY", "--dry-run"], ["run", "STUDY", "--until", "01_cohort"], ["book", "STUDY"],
    ["report", "STUDY", "a"], ["adopt", "STUDY", "--accept"], ["predict", "SCAN", "--study", "STUDY", "--out", "OUT"],
    ["sweep", "SWEEP", "STUDY", "--dry-run"], ["pretrain", "STUDY"], ["check", "STUDY", "--privacy"],
]  # fmt: skip


def meet(tmp_path: Path, make: Maker, commands: list[list[str]]) -> None:
    study, outside = tmp_path / "study", tmp_path / "outside"
    study.mkdir()
    outside.write_text("kept")
    (study / "study.yaml").write_text("title: A study\n")
    (tmp_path / "sweep.csv").write_text("run,seed\nother,3\n")
    places = {"STUDY": study, "SCAN": outside, "SWEEP": tmp_path / "sweep.csv", "OUT": tmp_path / "out"}
    before = sorted(path.name for path in tmp_path.iterdir())
    make(study, outside)
    for command in commands:
        with within(20):
            done = CliRunner().invoke(app, [str(places.get(word, word)) for word in command])
        assert done.exception is None or isinstance(done.exception, SystemExit), (command, done.exception)
        assert done.exit_code in (0, 1, 2, 3)
        assert done.exit_code == 0 or done.output.strip()
        assert "Traceback" not in done.output
    assert outside.read_text() == "kept"
    assert not (tmp_path / "marker").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_commands_that_look_say_a_sentence_and_do_no_more(tmp_path, make):
    meet(tmp_path, make, LOOKING)


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_commands_that_work_say_a_sentence_and_believe_nothing(tmp_path, make):
    meet(tmp_path, make, OPENING)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith(("notebooks", "models", "seals"))])
def test_a_run_of_somebody_else_is_told_so(tmp_path, name):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("title: A study\n")
    OTHERS[name](tmp_path / "study", tmp_path / "outside")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "study"), "a"])
    assert done.exit_code == 1
    assert "not made by you" in done.output
