"""The chapters of the book: notebooks that papermill runs, pages filled from templates, and what a run lacks of them.

A book is made of what is there, and says what is not.
"""

import base64
import html
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import pandas as pd
import pandera.pandas as pa

from sscct_lib.study import results
from sscct_lib.study.code import code_hash
from sscct_lib.study.files import write_if_changed
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.keys import fits, out_of_date, provenance
from sscct_lib.study.seals import checksum, put, unsealed
from sscct_lib.study.stages import CHAPTERS, NEEDS, NOTEBOOKS, PROJECT, executed
from sscct_lib.study.tables import read_table
from sscct_lib.study.words import plain

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = PROJECT / "book" / "templates"
CHECKLISTS = PROJECT / "book" / "checklists"
NOT_MADE = "*(not made in this run)*"
SHOWN_PACKAGES = (
    "lifelines", "monai", "numpy", "pandas", "pyradiomics", "scikit-learn", "scikit-survival", "simpleitk", "torch",
)  # fmt: skip
LONGEST_OF_SOCKET = 60  # letters of its folder; its whole path may have about a hundred
GLUED = "application/papermill.record/"  # begins the kind of what a notebook hands to prose pages


class Scripts:
    """How papermill, called by hand, reads `notebooks/NAME.py`; entry point `papermill.io` of this package."""

    @staticmethod
    def read(path: str) -> str:
        """Read a notebook, also one that is kept as a script of percent cells."""
        import jupytext

        return str(jupytext.writes(jupytext.read(path), fmt="ipynb"))

    @staticmethod
    def pretty_path(path: str) -> str:
        """Give the path as it is."""
        return path

    @staticmethod
    def write(content: str, path: str) -> None:
        """Refuse, since what is executed goes elsewhere."""
        raise StudyError(f"{path} lies among the sources of the notebooks. Name a file elsewhere for the executed one.")


def run_notebook(study: Study, name: str) -> Path:
    """Execute a notebook on a study, with the settings of its run.

    Parameters
    ----------
    name
        One of `NOTEBOOKS`.

    Returns
    -------
    Path
        The executed notebook, `runs/<run>/notebooks/<name>.ipynb`.

    Raises
    ------
    StudyError
        If a cell fails; the message names the notebook, the cell and the partial copy, which is kept beside the log.
    """
    import jupytext

    made = executed(study, name)
    partial = study.run / "logs" / f"{name}.partial.ipynb"
    source = study.run / "logs" / f"{name}.source.ipynb"
    for folder in (made.parent, partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.read(PROJECT / "notebooks" / f"{name}.py"), source, fmt="ipynb")
    with TemporaryDirectory(prefix="sscct-", dir=_short()) as place:
        # A kernel's place of work has nothing in it but the way to the study, and its sockets, which are its user's.
        Path(place, "study").symlink_to(study.folder.resolve())
        _execute(study, source, partial, Path(place))
    put(partial, made)
    return made


def _short() -> str | None:
    """Where a socket may lie, whose path has at most some hundred letters."""
    return "/tmp" if len(gettempdir()) > LONGEST_OF_SOCKET else None


def _execute(study: Study, source: Path, partial: Path, place: Path) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    name = partial.name.partition(".")[0]
    private = {"transport": "ipc", "connection_file": str(place / "kernel.json")}
    try:
        papermill.execute_notebook(
            _unfilled(source),
            _unfilled(partial),
            parameters={"study_dir": "study", "run_name": study.run_name},
            cwd=str(place),
            config=Config({"KernelManager": private}),
            progress_bar=False,
            stderr_file=sys.stderr,
            # What the kernel says of its own transport and end is not the user's concern. Figures are part of the
            # notebook whatever MPLBACKEND says: on clusters it often names a backend that shows nothing.
            extra_arguments=["--IPKernelApp.log_level=50", "--IPKernelApp.matplotlib=inline"],
        )
    except PapermillExecutionError as error:
        raise StudyError(
            f"Notebook {name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The partial copy shows where: {partial.relative_to(study.folder)}"
        ) from error
    finally:
        source.unlink(missing_ok=True)
        if partial.is_file():
            _forget(partial, study, place)


def _unfilled(path: Path) -> str:
    """Give a path as papermill takes it: in braces it would look for a parameter."""
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")


def _forget(path: Path, study: Study, place: Path) -> None:
    """Take progress out of a notebook, and shorten the paths that papermill, warnings and tracebacks leave there."""
    content = json.loads(path.read_text(encoding="utf-8"))
    results.forget(content)
    text, python = json.dumps(content, indent=1, ensure_ascii=False) + "\n", sysconfig.get_paths()
    installed: list[str | Path] = [python["purelib"], python["stdlib"], PROJECT, sys.prefix, sys.base_prefix]
    # A cell's own code lies in a temporary folder of the kernel.
    for folder in map(Path, (study.folder, place / "study", *installed, gettempdir())):
        for form in {str(folder.absolute()), str(folder.resolve())}:
            text = text.replace(json.dumps(form, ensure_ascii=False)[1:-1] + "/", "")
    path.write_text(text, encoding="utf-8")


def write_provenance(study: Study, stage: str, made_of: Mapping[str, Any]) -> None:
    """Write what made the result of a stage to `runs/<run>/provenance/<stage>.json`.

    A stage is a notebook, or a shard of a per-scan stage such as `lungs_0003`; `made_of` is what `study.keys` tells of
    it, as it was before the work began.
    """
    content = {
        "stage": stage,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": {name: version(name) for name in SHOWN_PACKAGES},
        **made_of,
    }
    write_if_changed(study.run / "provenance" / f"{stage}.json", json.dumps(content, indent=1))


def git_commit() -> str:
    """The commit of this project, with `+changes` when files differ from it; `unknown` without git."""
    describe = ["git", "-C", str(PROJECT), "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"]
    try:
        answer = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def records(study: Study) -> list[dict[str, Any]]:
    """What `write_provenance` wrote of each stage of a run; what is damaged is left out."""
    found = [provenance(study, path.stem) for path in sorted((study.run / "provenance").glob("[!.]*"))]
    return [record for record in found if record]


def latest_commit(study: Study) -> str:
    """The commit of the project that made the last finished stage of a run."""
    latest = max(records(study), key=lambda record: str(record["finished"]), default={"git_commit": "unknown"})
    return str(latest["git_commit"])


def missing_stages(study: Study) -> dict[str, str]:
    """Tell which notebooks of a run are not there, and why.

    A notebook that rests on a missing one is missing too, though an older copy may be there: it would show the results
    of another state of the run.
    """
    missing: dict[str, str] = {}
    for name in NOTEBOOKS:
        failed = study.run / "logs" / f"{name}.partial.ipynb"
        needed = [other for other in NEEDS[name] if other in missing]
        if failed.is_file():
            missing[name] = _failure(failed)
        elif needed:
            missing[name] = f"It needs {' and '.join(needed)}, which {'is' if len(needed) == 1 else 'are'} missing."
        elif not executed(study, name).is_file():
            missing[name] = "It was not run, or stopped before its notebook began."
        elif why := out_of_date(study, name):
            missing[name] = f"What there is was {why}."
    return missing


def _failure(partial: Path) -> str:
    """Where a notebook failed and with which error."""
    for cell in json.loads(partial.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                words = re.sub(r"\s+", " ", f"{output['ename']}: {output['evalue']}").strip()
                return f"It failed in cell {cell['execution_count']}: {words}"
    return "It was stopped before it had finished."


def front_page(study: Study) -> Path:
    """Where the rendered book of a run begins."""
    return study.run / "book" / "_build" / "html" / "index.html"


def is_current(study: Study) -> bool:
    """Tell whether the book of a run shows what the run has now, in the pages that this user made."""
    record = book_record(study)
    was = record.read_text(encoding="utf-8") if record.is_file() else ""
    return front_page(study).is_file() and was == book_made_of(study) and not unsealed(study.run, "book")


def book_record(study: Study) -> Path:
    """Where a book says of what it was made."""
    return study.run / "book" / "made_of.txt"


def book_made_of(study: Study) -> str:
    """Hash what a book shows: its prose and configuration, the executed notebooks, and what its pages are made from."""
    prose = sorted(path for path in (PROJECT / "book").rglob("*.*") if path.is_file())
    shown = [executed(study, name) for name in NOTEBOOKS]
    files = [[path.name, checksum(path)] for path in (*prose, PROJECT / "_config.yml", *shown) if path.is_file()]
    return fingerprint(code_hash("book.build"), study.settings, files, states_behind(study))


def states_behind(study: Study) -> dict[str, str]:
    """Hash each file behind the pages, by its place in the study, however that was named, or its name."""
    inside = {path: path.is_relative_to(study.folder) for path in _behind(study)}
    states = {
        str(path.relative_to(study.folder) if of_study else path.name): checksum(path) if path.is_file() else ""
        for path, of_study in inside.items()
    }
    return dict(sorted(states.items()))


def _behind(study: Study) -> list[Path]:
    """Files from which the pages are made: results of the run, what the user wrote, and the installed packages."""
    run = study.run
    found = [*run.glob("tables/**/*.parquet"), *run.glob("provenance/*.json")]
    if has_sweep(study):
        found += study.folder.glob("runs/*/tables/**/*.parquet")
    found += [*study.models.glob("**/*.json"), study.manifest_path, study.folder / "statements.yaml"]
    found += [*CHECKLISTS.glob("*.yaml"), *TEMPLATES.glob("*.md")]
    return [*found, *Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info")]


def has_sweep(study: Study) -> bool:
    """Whether a run is the first of a sweep that was compared."""
    return study.table("sweep").is_file() and study.table("swept_runs").is_file()


def table_or_empty(study: Study, name: str, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a table, or give one without rows where its notebook has not made it, or not as it is asked for now."""
    return read_table(study, name, schema) if fits(study, name) else pd.DataFrame(columns=list(schema.columns))


def remove_others(folder: Path, names: Collection[str]) -> None:
    """Remove what lies in a folder of the book and is not named: it belongs to an earlier state of the run."""
    for old in folder.glob("*"):
        if old.name not in names:
            old.unlink()


def stub(name: str, reason: str) -> str:
    """The page that stands in the place of a missing chapter: a notebook without code, as JSON."""
    mend = "Mend the cause, then run the study again: what is finished is kept."
    text = f"# {CHAPTERS[name]}\n\n" + _admonition("This chapter was not made", f"{plain(reason)}\n\n{mend}")
    cell = {"cell_type": "markdown", "id": "missing", "metadata": {}, "source": text}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def notice(missing: Mapping[str, str]) -> str:
    """What is missing and why, for the front page, in MyST Markdown; empty when nothing is."""
    if not missing:
        return ""
    listed = "\n".join(f"- **{CHAPTERS[name]}** (`{name}`). {plain(reason)}" for name, reason in missing.items())
    return _admonition("This run is not complete: chapters are missing", listed)


def _admonition(title: str, text: str) -> str:
    return f"::::{{admonition}} {title}\n:class: danger\n{text}\n::::\n"


def without_missing(page: str, missing: Sequence[str]) -> str:
    """Replace by `NOT_MADE` each number, table and picture that a prose page takes from notebooks that are missing."""
    if NOTEBOOKS[-1] in missing:  # it makes all that is pasted
        page = re.sub(r"!\[[^\]]*\]\(pasted/[^)]*\)|```\{include\} pasted/\S+\n```", NOT_MADE, page)
    for name in missing:
        notebook = rf"(?:\.\./)?notebooks/{name}\.ipynb"
        number = rf"\{{glue:\w+\}}`{notebook}::[^`]*`"
        pasted = rf"(`{{3,}}|:{{3,}})\{{glue[^}}]*\}}[^\n]*\n:doc: {notebook}\n(?:[^\n]*\n)*?\1"
        page = re.sub(pasted, NOT_MADE, re.sub(number, NOT_MADE, page))
    return page


def pasted(notebook: Path) -> dict[str, bytes]:
    """What an executed notebook glued for prose pages, by its name as a file: Markdown, or a figure as SVG or PNG."""
    found: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name", "")
            data = output.get("data", {})
            svg, png = data.get(f"{GLUED}image/svg+xml"), data.get(f"{GLUED}image/png")
            if name and (text := data.get(f"{GLUED}text/markdown")):
                found[f"{name}.txt"] = "".join(text).encode()
            elif name and svg:
                found[f"{name}.svg"] = "".join(svg).encode()
            elif name and png:
                found[f"{name}.png"] = base64.b64decode("".join(png))
    return found


def filled(template: str, **values: Any) -> str:
    """Fill a file of `book/templates`. Values are shown as they are unless a filter escapes them."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Jinja's own escaping is for HTML, and would spoil Markdown.
    made.filters |= {"plain": plain, "html": html.escape, "table": html_table}
    return made


def html_table(frame: pd.DataFrame) -> str:
    """Write a table as HTML with its cells escaped: Markdown pipes would break on the text of checks."""
    # By hand: `DataFrame.to_html` marks every table as one of a notebook, for which `book.css` has another layout.
    if frame.empty:
        return "None."
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f'<table class="table">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
