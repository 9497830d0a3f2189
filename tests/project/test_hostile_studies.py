"""Studies that a stranger made to run a program, to read or write elsewhere, or to take all memory."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sscct_lib.cli.app import WORK_FOLDER, _snakemake_command, app
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.images.prepare import prepare_scans
from sscct_lib.study.files import LARGEST_BYTES, emptied
from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.keys import ToMake
from sscct_lib.study.stages import PROJECT
from sscct_lib.study.tables import read_parquet

PROGRAM = "from pathlib import Path; Path({marker!r}).touch(); raise SystemExit('a stranger program ran')\n"
PROGRAMS = (
    "typer.py", "pandas.py", "snakemake.py", "sscct_lib.py", "numba/__init__.py", "ipykernel_launcher.py", "random.py",
    "sitecustomize.py", "usercustomize.py", "ipython_config.py", "ipython_kernel_config.py", "jupyter_config.py",
    "workflow/Snakefile", "Snakefile", ".snakemake/pip-deployments/sitecustomize.py", ".snakemake/typer.py",
    ".snakemake/pip-deployments/snakemake_executor_plugin_slurm/__init__.py",
)  # fmt: skip


def hostile_programs(study: Path, marker: Path) -> None:
    """Lay programs and configurations everywhere where a tool might look for one."""
    for name in PROGRAMS:
        path = study / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROGRAM.format(marker=str(marker)))
    profile = study / "profiles" / "default" / "config.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text(json.dumps({"shell-exec": f"touch {marker}", "dry-run": True, "cores": 0}))


class TestNoProgramOfAStudyRuns:
    @pytest.mark.slow
    def test_a_run_from_inside_the_study(self, tmp_path):
        study, marker = tmp_path / "st{x}udy", tmp_path / "pwned"
        study.mkdir()
        demo = "demo: {n_patients: 8, n_scans: 8, spacing_mm: 8}\ncohort: {n_folds: 2}\nimages: {spacing_mm: 8}\n"
        (study / "study.yaml").write_text(demo)
        assert CliRunner().invoke(app, ["demo", str(study), "--jobs", "1"]).exit_code == 0
        hostile_programs(study, marker)
        command = [Path(sys.executable).with_name("sscct"), "run", ".", "--cores", "1", "--until", "01_cohort"]
        ran = subprocess.run(command, cwd=study, capture_output=True, text=True, check=False)
        assert not marker.exists(), ran.stdout + ran.stderr
        assert ran.returncode == 0, ran.stdout + ran.stderr
        executed = json.loads((study / "runs" / "main" / "notebooks" / "01_cohort.ipynb").read_text())
        assert executed["cells"]
        assert list(study.rglob("typer.py")) == [study / "typer.py"]  # what lay in the place of work is gone

    def test_no_command_line_looks_for_programs_where_it_is_called(self, study_of, manifest_frame):
        study = study_of(manifest_frame)
        command = _snakemake_command(study, ToMake({}, []), None, True, 1, [])
        assert command[:4] == [sys.executable, "-P", "-m", "snakemake"]
        assert any(f"{sys.executable} -P -m sscct_lib.cli" in part for part in command)
        assert command[command.index("--directory") + 1] == str(study.folder / WORK_FOLDER)
        assert command[command.index("--workflow-profile") + 1] == "none"

    @pytest.mark.parametrize("name", [".numba_config.yaml", "matplotlibrc"])
    def test_a_configuration_where_the_command_is_called_is_refused(self, tmp_path, monkeypatch, name):
        (tmp_path / name).write_text("cache_dir: .\n")
        monkeypatch.chdir(tmp_path)
        refused = CliRunner().invoke(app, ["check", str(tmp_path)])
        assert refused.exit_code == 1
        assert f"holds {name}, a configuration" in refused.output

    def test_compiled_code_lies_with_the_user(self, tmp_path, monkeypatch):
        for home in (tmp_path / "home", Path("/proc/nowhere")):
            monkeypatch.setenv("XDG_CACHE_HOME", str(home))
            monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
            CliRunner().invoke(app, ["check", str(tmp_path)])
            place = Path(os.environ["NUMBA_CACHE_DIR"])
            assert place.is_dir()
            assert place.is_relative_to(home) == (home == tmp_path / "home")


class TestNothingIsRemovedElsewhere:
    def test_the_place_of_work_is_emptied_and_not_what_it_leads_to(self, tmp_path):
        elsewhere, work = tmp_path / "elsewhere", tmp_path / "work"
        elsewhere.mkdir()
        (elsewhere / "kept").touch()
        work.symlink_to(elsewhere)
        emptied(work)
        assert not work.is_symlink()
        (work / "link").symlink_to(elsewhere)
        (work / "folder").mkdir()
        (work / "folder" / "file").touch()
        emptied(work)
        assert list(work.iterdir()) == []
        assert (elsewhere / "kept").exists()


def leads_out(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def socket_of_the_file_system(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def huge(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


PLACES = (
    "study.yaml", "data_manifest.csv", "qa_decisions.csv", "statements.yaml", ".sscct.lock", ".sscct-sweep.lock",
    "runs/main/settings.yaml", "runs/main/tables/cohort.parquet", "runs/main/logs/.01_cohort.lock",
    "runs/main/book/source/run.md", "runs/main/book/_build/html/index.html", "runs/main/damaged/x", "truth/truth.csv",
)  # fmt: skip
FOLDERS = ("runs", "runs/main", "runs/main/damaged", "runs/main/book", "runs/main/book/source/patients", "scans")


class TestNothingLeadsOut:
    @pytest.fixture
    def outside(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("outside")
        (folder / "kept").write_text("kept")
        return folder

    def refused(self, study, path: Path):
        with pytest.raises(StudyError, match=f"'{re.escape(path.name)}' in .*(leads out|a pipe|bytes, more than)"):
            load_study(study.folder)

    @pytest.mark.parametrize("make", [leads_out, pipe, socket_of_the_file_system])
    @pytest.mark.parametrize("place", PLACES)
    def test_files(self, study_of, manifest_frame, outside, monkeypatch, place, make):
        study = study_of(manifest_frame)
        path = study.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        monkeypatch.chdir(path.parent)  # a socket's path must be short
        make(Path(path.name), outside / "kept")
        self.refused(study, path)

    @pytest.mark.parametrize("place", [place for place in PLACES if Path(place).suffix[1:] in LARGEST_BYTES])
    def test_files_without_end(self, study_of, manifest_frame, place):
        study = study_of(manifest_frame)
        path = study.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        huge(path, path)
        self.refused(study, path)

    @pytest.mark.parametrize("place", FOLDERS)
    def test_folders(self, study_of, manifest_frame, outside, place):
        study = study_of(manifest_frame)
        path = study.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(outside)
        self.refused(study, path)

    def test_a_link_by_way_of_another_folder_of_the_study(self, study_of, manifest_frame, outside):
        study = study_of(manifest_frame)
        (study.folder / "away").mkdir()
        (study.folder / "away" / "book").symlink_to(outside)
        study.run.mkdir(parents=True)
        (study.run / "book").symlink_to(study.folder / "away")
        self.refused(study, study.folder / "away" / "book")

    def test_links_that_stay_inside_are_followed(self, study_of, manifest_frame):
        study = study_of(manifest_frame)
        (study.folder / "disk").mkdir()
        (study.folder / "scans").symlink_to("disk")
        (study.folder / "disk" / "itself").symlink_to(study.folder)
        (study.folder / "disk" / "nowhere").symlink_to("gone")
        assert load_study(study.folder) == study

    def test_a_pipe_that_the_manifest_names_is_no_scan(self, study_of, manifest_frame):
        study = study_of(manifest_frame.assign(image="ct/pipe.nii.gz"))
        (study.folder / "ct").mkdir()
        os.mkfifo(study.folder / "ct" / "pipe.nii.gz")
        made = prepare_scans(study, read_manifest(study))
        assert set(made["status"]) == {"failed"}


class TestTablesThatGrow:
    def refused(self, path: Path, words: str):
        with pytest.raises(ValueError, match=words):
            read_parquet(path)

    def test_rows_without_end(self, tmp_path):
        one = pa.table({"x": pa.DictionaryArray.from_arrays(pa.array(bytes(10**6), pa.int8()), ["a"])})
        with pq.ParquetWriter(tmp_path / "a.parquet", one.schema) as writer:
            for _ in range(100):
                writer.write_table(one)
        self.refused(tmp_path / "a.parquet", "100,000,000 cells in .* bytes: more than a table can hold")

    def test_text_that_was_packed(self, tmp_path):
        pq.write_table(pa.table({"x": ["a" * 20_000_000]}), tmp_path / "a.parquet", compression="zstd")
        self.refused(tmp_path / "a.parquet", "more than a table can hold")

    @pytest.mark.parametrize("cell", [[1, 2], {"a": 1}])
    def test_cells_that_hold_others(self, tmp_path, cell):
        pq.write_table(pa.table({"x": [cell]}), tmp_path / "a.parquet")
        self.refused(tmp_path / "a.parquet", "columns of lists or records")

    def test_the_same_in_all_rows_of_a_small_table_is_nothing_odd(self, tmp_path):
        frame = pd.DataFrame({"x": ["a"] * 20_000, "y": 1.0})
        frame.to_parquet(tmp_path / "a.parquet")
        pd.testing.assert_frame_equal(read_parquet(tmp_path / "a.parquet"), frame)


def test_no_job_is_told_that_the_study_lies_where_it_works():
    commands = re.findall(r'f"\{SSCCT\} (.*)"', (PROJECT / "workflow" / "Snakefile").read_text())
    assert len(commands) >= 5
    assert all(" .. --run " in command for command in commands)


def test_each_promise_names_a_test_that_is_there():
    text = (PROJECT / "SECURITY.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "held by" not in line]
    named = [
        re.findall(r"`(?:tests/)?([\w/]*test_\w+\*?\.py)`|tests/(fuzz|no_network)", row.split("|")[-2]) for row in rows
    ]
    assert len(rows) > 10
    assert all(named)
    for name in {one or other for row in named for one, other in row}:
        assert list((PROJECT / "tests").rglob(name)), name
