"""Run one notebook of the book with papermill, and tell what made a result."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from sscct_lib.study import results
from sscct_lib.study.code import code_hash
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.stages import PROJECT

OWN_PARAMETERS = {"study_dir", "run_name"}  # given by the run itself
SHOWN_PACKAGES = (
    "lifelines", "monai", "numpy", "pandas", "pyradiomics", "scikit-learn", "scikit-survival", "simpleitk", "torch",
)  # fmt: skip


def run_notebook(study: Study, name: str, parameters: Mapping[str, Any]) -> Path:
    """Execute a notebook on a study.

    Parameters
    ----------
    name
        One of `NOTEBOOKS`.
    parameters
        Values for the notebook's parameters cell, beside those of the run itself.

    Returns
    -------
    Path
        The executed notebook, `runs/<run>/notebooks/<name>.ipynb`.

    Raises
    ------
    StudyError
        If a parameter is not one of the notebook's, or a cell fails; the message names the notebook, the cell
        and the partial copy, which is kept beside the log.
    """
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    executed = study.run / "notebooks" / f"{name}.ipynb"
    partial = study.run / "logs" / f"{name}.partial.ipynb"
    source = study.run / "logs" / f"{name}.source.ipynb"
    for folder in (executed.parent, partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.read(PROJECT / "notebooks" / f"{name}.py"), source, fmt="ipynb")
    _refuse_unknown(name, parameters, set(papermill.inspect_notebook(str(source))))
    try:
        papermill.execute_notebook(
            str(source.resolve()),
            str(partial.resolve()),
            parameters={**parameters, "study_dir": ".", "run_name": study.run_name},
            cwd=str(study.folder),
            progress_bar=False,
            stderr_file=sys.stderr,
            # The kernel's warnings about its own transport are not the user's concern. Figures are part of the
            # notebook whatever MPLBACKEND says: on clusters it often names a backend that shows nothing.
            extra_arguments=["--IPKernelApp.log_level=40", "--IPKernelApp.matplotlib=inline"],
        )
    except PapermillExecutionError as error:
        raise StudyError(
            f"Notebook {name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The partial copy shows where: {partial.relative_to(study.folder)}"
        ) from error
    finally:
        source.unlink(missing_ok=True)
        _forget_progress(partial)
        _forget_paths(partial, study)
    os.replace(partial, executed)
    return executed


def _forget_progress(path: Path) -> None:
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        results.forget(content)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _forget_paths(path: Path, study: Study) -> None:
    """Shorten the paths that papermill, warnings and tracebacks leave in a notebook: it names no place of a machine."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    python = sysconfig.get_paths()
    # A cell's own code lies in a temporary folder of the kernel.
    places = [
        study.folder,
        Path(python["purelib"]),
        Path(python["stdlib"]),
        PROJECT,
        Path(sys.prefix),
        Path(sys.base_prefix),
    ]
    for folder in [*places, Path(gettempdir())]:
        for form in {str(folder.absolute()), str(folder.resolve())}:
            text = text.replace(form + "/", "")
    path.write_text(text, encoding="utf-8")


def _refuse_unknown(name: str, parameters: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(parameters) - known)
    if unknown:
        own = ", ".join(sorted(known - OWN_PARAMETERS))
        raise StudyError(f"Notebook {name} has no parameter {', '.join(unknown)}; it has {own}.")


def write_provenance(study: Study, stage: str, code: str, parameters: Mapping[str, Any]) -> None:
    """Write what made the result of a stage to `runs/<run>/provenance/<stage>.json`.

    Parameters
    ----------
    stage
        A notebook, or a shard of a per-scan stage such as `lungs_0003`.
    code
        Hash of the code that made it (`code_hash` or `notebook_code_hash`).
    parameters
        The notebook parameters given, if any.
    """
    content = {
        "stage": stage,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "code": code,
        "settings": fingerprint(study.settings),
        "sections": {name: fingerprint(getattr(study.settings, name)) for name in type(study.settings).model_fields},
        "seed": study.settings.seed,
        "parameters": dict(parameters),
        "versions": {name: version(name) for name in SHOWN_PACKAGES},
    }
    with atomic(study.run / "provenance" / f"{stage}.json") as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def notebook_code_hash(name: str) -> str:
    """Hash a notebook's source and the library code that it imports, so that an edit makes its results stale."""
    path = PROJECT / "notebooks" / f"{name}.py"
    # Its own words count: readers see them.
    return fingerprint(path.read_text(encoding="utf-8"), code_hash(path))


def git_commit() -> str:
    """The commit of this project, with `+changes` when files differ from it; `unknown` without git."""
    describe = [
        "git",
        "-C",
        str(PROJECT),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+changes",
        "--exclude=*",
    ]
    try:
        answer = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
