"""A session of reviewing masks in JupyterLab by keyboard alone: twenty scans of 2,125, a kill, and a second reader."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.demo.make import make_scans
from sscct_lib.images.prepare import prepare_scans
from sscct_lib.lungs.decisions import add_decision, read_decisions
from sscct_lib.lungs.review import in_order
from sscct_lib.lungs.segment import segment_scans
from sscct_lib.study.folder import DECISIONS_FILE, load_study
from sscct_lib.study.schemas import LUNGS
from sscct_lib.study.tables import write_table
from tests.tiny_study import sscct

from .conftest import PATIENCE_MS

pytestmark = pytest.mark.slow

N_SCANS = 2125


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Make a study whose table of lungs lists 2,125 scans, 24 of which are there."""
    folder = tmp_path_factory.mktemp("review") / "study"
    folder.mkdir()
    (folder / "study.yaml").write_text(
        "title: Review\nseed: 10\ndemo: {n_patients: 12, spacing_mm: 5.0}\nimages: {spacing_mm: 5.0}\n"
    )
    made = sscct("demo", folder)
    assert made.exit_code == 0, made.output
    study = load_study(folder)
    rows = read_manifest(study).head(24)
    make_scans(study, rows)
    prepare_scans(study, rows)
    table = segment_scans(study, rows)
    absent = pd.concat([table.tail(1).assign(findings="", flags="")] * (N_SCANS - len(table)), ignore_index=True)
    absent["scan_id"] = [f"Z{number:04d}" for number in range(len(absent))]
    write_table(pd.concat([table, absent], ignore_index=True), study, "lungs", LUNGS)
    return study


@contextmanager
def lab(study, folder, *options: str):
    """Call `sscct review`; give the address that it tells, and end it by force, as a crash would."""
    (folder / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": {"allow_root": True}}))
    command = [sys.executable, "-P", "-m", "sscct_lib.cli", "review", str(study.folder), "--no-browser", *options]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            found = (re.search(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+", line) for line in process.stdout or ())
            yield next(address[0] for address in found if address)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


class Session:
    """A reader at the keyboard."""

    def __init__(self, visit, address: str) -> None:
        self.visit = visit(viewport={"width": 1500, "height": 1000})
        self.page = self.visit.page
        self.visit.open(address)
        self.page.locator(".jp-CodeCell .cm-content").first.click()
        self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
        self.page.keyboard.press("Shift+Enter")
        self.page.wait_for_selector(".sr")

    def shown(self) -> str:
        """Wait until a scan is shown; give its id."""
        self.page.wait_for_function("document.querySelector('.sr').dataset.shown", timeout=PATIENCE_MS)
        return str(self.page.get_attribute(".sr", "data-shown"))

    def press(self, *keys: str) -> str:
        for key in keys:
            self.shown()
            self.page.keyboard.press(key)
        return self.shown()

    def contours(self) -> tuple[float, float]:
        """Tell which share of the picture is blue (right lung), and which is orange (left)."""
        self.page.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(self.page.locator(".sr canvas").first.screenshot())).convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
        return float(((blue - red > 100) & (green > 80)).mean()), float(
            ((red - blue > 100) & (red - green > 50)).mean()
        )


def test_twenty_scans_by_keyboard_alone_through_a_kill_and_beside_another_reader(study, visit, tmp_path):
    path = study.folder / DECISIONS_FILE
    order = in_order(pd.read_parquet(study.table("lungs")))["scan_id"].tolist()
    keys = dict(zip(order[:20], "pfe" * 7, strict=False))
    with lab(study, tmp_path) as address:
        reader = Session(visit, address)
        page = reader.page
        page.wait_for_selector(".sr input[name='who']:focus")
        n_cells = page.locator(".jp-Cell").count()
        assert page.locator(".sr-list div").count() == N_SCANS
        assert reader.shown() == order[0]
        page.keyboard.type("km")
        page.keyboard.press("Enter")
        right, left = reader.contours()
        assert 0.001 < right < 0.1
        assert 0.001 < left < 0.1
        assert reader.press("m") == order[0]
        assert max(reader.contours()) < 0.0005
        assert reader.press("m", "n", "ArrowUp", "b", "o") == order[0]
        assert not path.exists()
        for number, (scan_id, key) in enumerate(list(keys.items())[:12]):
            assert reader.shown() == scan_id
            if number % 4 == 1:
                page.keyboard.press("w")
                page.keyboard.type("pleural plaque, n")
                page.keyboard.press("Enter")
            if number == 5:
                add_decision(study, [order[0]], "fail", "AB", "another patient")
            reader.press(key)
        assert page.locator(".jp-Cell").count() == n_cells  # keys of JupyterLab insert and delete cells
        reader.visit.check(address.partition("/lab")[0])
    with lab(study, tmp_path, "--by", "KM") as address:
        reader = Session(visit, address)
        assert reader.shown() == order[12]
        assert "you decided on 12" in reader.page.inner_text(".sr-head")
        for scan_id, key in list(keys.items())[12:]:
            assert reader.shown() == scan_id
            reader.press(key)
    decisions = read_decisions(path)
    own = decisions[decisions["who"] == "KM"]
    assert own["scan_id"].tolist() == order[:20]
    words = {"p": "pass", "f": "fail", "e": "edit"}
    assert own["verdict"].tolist() == [words[key] for key in keys.values()]
    assert own["why"].str.fullmatch("pleural plaque, n").sum() == 3
    assert decisions[decisions["who"] == "AB"][["scan_id", "why"]].to_numpy().tolist() == [
        [order[0], "another patient"]
    ]


def test_a_decision_that_cannot_be_kept_is_told_and_the_scan_stays(study, visit, tmp_path):
    path = study.folder / DECISIONS_FILE
    path.unlink(missing_ok=True)
    with lab(study, tmp_path, "--by", "KM") as address:
        reader = Session(visit, address)
        first = reader.shown()
        path.write_text("scan_id,verdict,who,when,why\na1,perhaps,AB,2026-03-01,x\n")
        assert reader.press("p") == first
        assert "row 2, column verdict: found 'perhaps'" in reader.page.inner_text(".sr-told")
    assert path.read_text().count("\n") == 2
