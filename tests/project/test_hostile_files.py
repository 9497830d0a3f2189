"""A table of things that a stranger may lay in a study, each met by the commands that only look."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sscct_lib.cli.app import app

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


OTHERS: dict[str, Maker] = {
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


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_commands_that_look_say_a_sentence_and_do_no_more(tmp_path, make):
    study, outside = tmp_path / "study", tmp_path / "outside"
    study.mkdir()
    outside.write_text("kept")
    (study / "study.yaml").write_text("title: A study\n")
    make(study, outside)
    for command in (["check", str(study)], ["runs", str(study)]):
        with within(20):
            done = CliRunner().invoke(app, command)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code in (0, 1, 2)
        assert done.exit_code == 0 or done.output.strip()
        assert "Traceback" not in done.output
    assert outside.read_text() == "kept"
    assert not (tmp_path / "marker").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "study"]
