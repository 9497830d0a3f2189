"""Studies that a stranger made to run a program, to read or write elsewhere, or to take all memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sscct_lib.cli.app import WORK_FOLDER, _snakemake_command, app
from sscct_lib.study.files import emptied

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
        command = _snakemake_command(study, [], None, 1, [])
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
