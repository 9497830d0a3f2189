"""What SECURITY.md promises of a whole run: no network, no pickle, no reader but the owner, no identifier."""

import os
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sscct_lib.intake.privacy_search import search_study
from tests.tiny_study import NO_NETWORK, sscct

pytestmark = pytest.mark.slow


def test_the_network_was_not_tried(finished):
    log = finished.folder.parent / "network.log"
    assert not log.exists(), log.read_text()


def test_the_network_would_have_been_refused(tmp_path):
    log = tmp_path / "network.log"
    program = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    environment = os.environ | {"PYTHONPATH": str(NO_NETWORK), "SSCCT_NETWORK_LOG": str(log)}
    tried = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "the network is refused" in tried.stderr
    assert "192.0.2.1" in log.read_text()


def test_no_file_of_a_run_holds_a_pickle(finished):
    n_files = 0
    for path in finished.folder.rglob("*"):
        if not path.is_file() or ".doctrees" in path.parts:  # what Sphinx remembers is sealed
            continue
        n_files += 1
        with path.open("rb") as file:
            begin = file.read(2)
        assert not (begin[:1] == b"\x80" and begin[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")), path
        assert path.suffix not in (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt"), path
        if path.suffix == ".npy":
            np.load(path, mmap_mode="r", allow_pickle=False)
        if zipfile.is_zipfile(path):
            assert not [name for name in zipfile.ZipFile(path).namelist() if name.endswith((".pkl", ".pickle"))], path
    assert n_files > 200


def test_every_file_of_a_run_is_its_owners_alone(finished):
    for path in finished.run.parent.rglob("*"):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_nothing_in_a_run_points_to_a_patient_or_a_machine(finished):
    search = search_study(finished.folder)
    assert search.lines() == []
    assert search.n_files > 200


def test_what_a_user_says_reaches_no_shell(copied):
    value = '"{x} `touch pwned` $(touch pwned) ; touch pwned"'
    ran = sscct("run", copied.folder, "--until", "01_cohort", "-p", f"labels={value}")
    assert ran.exit_code == 1
    assert "labels: Input should be 'censored_unknown' or 'as_published'" in ran.output
    assert not list(copied.folder.parent.rglob("pwned"))
