"""Assemble the executed notebooks of a run with the prose chapters, and render the Jupyter Book."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from sscct_lib import editions
from sscct_lib.completeness import has_sweep, missing_stages, notice, stub, without_missing
from sscct_lib.files import atomic, checksum, read_keyed, write_if_changed, write_keyed
from sscct_lib.generated_pages import write_generated
from sscct_lib.notebooks import NOTEBOOKS, PROJECT
from sscct_lib.pasted import pictures
from sscct_lib.privacy import FOLDERS
from sscct_lib.privacy_files import search_study
from sscct_lib.scans import code_hash
from sscct_lib.seals import remove_unless_sealed, seal
from sscct_lib.study import Study, StudyError, fingerprint

BEFORE_RENDERING = ("tables", "notebooks", "provenance", "book/source")
JUPYTER_BOOK = "import sys; sys.modules['rfc3987_syntax'] = None; from jupyter_book.cli.main import main; main()"
"""Jupyter Book as a program, without a grammar of web addresses that takes a second to load and no setting needs."""
DEMO_NOTICE = "Synthetic patients: this is the demo study. No number in it speaks of a real person."


def build_book(study: Study) -> Path:
    """Render the book of a run.

    Parameters
    ----------
    study
        The study and run; its notebooks must have been executed.

    Returns
    -------
    Path
        The front page, see `front_page`.

    Raises
    ------
    StudyError
        If no notebook was executed, if a table, notebook or page holds what may point to a patient (see
        `privacy.find`), or if the book has a broken link, a missing number or any other warning. A notebook that
        failed gives no error: its chapter and the front page say that it is missing, and why.
    """
    missing = missing_stages(study)
    if len(missing) == len(NOTEBOOKS):
        raise StudyError(f"{study.run} has no executed notebook, not even 01_cohort. `sscct run` makes them.")
    source = study.run / "book" / "source"
    _assemble(study, source, missing)
    _refuse_identifiers(study, BEFORE_RENDERING)
    _render(study, source)
    editions.publish(study, study.run / "book" / "sphinx" / "_build" / "html", front_page(study).parent)
    # Pages for clinicians are those for analysts less their code; `sscct check --privacy` looks into every file.
    _refuse_identifiers(study, tuple(f"book/_build/html/{name}" for name in (editions.ANALYSTS, "_images", "scans")))
    return front_page(study)


def _render(study: Study, source: Path) -> None:
    """Let Jupyter Book make pages of the sources.

    Sphinx writes a page again when its own source changes. Numbers that it takes from a notebook, and the titles of
    others in the side bar, would grow stale: where any of these changed, every page is written. What a build left that
    did not come to its end is removed: a figure that is there, if only by half, is not written again.
    """
    place, record = study.run / "book" / "sphinx", study.run / "book" / "written_with.txt"
    if not record.is_file() and place.is_dir():
        shutil.rmtree(place)
    state = fingerprint([(path.name, checksum(path)) for path in _behind_every_page(source)], _titles(source))
    current = record.is_file() and record.read_text(encoding="utf-8") == state
    record.unlink(missing_ok=True)
    # What Sphinx remembers of the pages are pickles: only those that this user's own build wrote are read.
    memory = place / "_build" / ".doctrees"
    remove_unless_sealed(memory)
    command = [
        sys.executable,
        "-c",
        JUPYTER_BOOK,
        "build",
        str(source),
        "-n",
        "-W",
        "--keep-going",
        "-q",
        *([] if current else ["--all"]),
    ]
    done = subprocess.run(
        [*command, "--path-output", str(place)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    seal(memory)
    said = done.stdout.replace(str(study.folder.resolve()), "STUDY")  # logs name no place of this machine
    with atomic(study.run / "logs" / "book.log") as partial:
        partial.write_text(said, encoding="utf-8")
    if done.returncode != 0:
        raise StudyError("The book has faults:\n" + "\n".join(said.strip().splitlines()[-20:]))
    with atomic(record) as partial:
        partial.write_text(state, encoding="utf-8")


def _behind_every_page(source: Path) -> list[Path]:
    kept = {".ipynb", ".yml", ".bib", ".css"}
    return sorted(path for path in source.rglob("*") if path.suffix in kept)


def _titles(source: Path) -> list[str]:
    """Give the first heading of each prose page."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.md"))]
    return [next((line for line in text.splitlines() if line.startswith("# ")), "") for text in texts]


def _refuse_identifiers(study: Study, parts: tuple[str, ...]) -> None:
    """Stop where something in the run may point to a patient; nothing is cleaned in silence.

    Files in which the same search found nothing are not read again; `sscct check --privacy` reads all.
    """
    record, key = study.run / "book" / "searched.json", fingerprint(code_hash("privacy_files"), FOLDERS)
    clean = read_keyed(record, key)
    search = search_study(study.folder, parts=tuple(f"runs/{study.run_name}/{part}" for part in parts), clean=clean)
    write_keyed(record, key, clean)
    if search.findings:
        listed = "\n  ".join(search.lines())
        raise StudyError(f"{len(search.findings)} place(s) may point to a patient; no book was made:\n  {listed}")


def front_page(study: Study) -> Path:
    """Tell where the rendered book of a run begins."""
    return study.run / "book" / "_build" / "html" / "index.html"


def _config(study: Study) -> str:
    config = yaml.safe_load((PROJECT / "_config.yml").read_text(encoding="utf-8"))
    config["title"] = study.settings.title
    if study.settings.demo is not None:
        config["html"]["announcement"] = DEMO_NOTICE
    return str(yaml.safe_dump(config, sort_keys=False))


def _contents(study: Study) -> str:
    """Write the table of contents, without the chapters that only synthetic patients or a sweep have."""
    contents = yaml.safe_load((PROJECT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    present = {"demo_cohort": study.settings.demo is not None, "sweep": has_sweep(study)}
    for part in contents["parts"]:
        part["chapters"] = [chapter for chapter in part["chapters"] if present.get(chapter["file"], True)]
    return str(yaml.safe_dump(contents, sort_keys=False))


def _assemble(study: Study, source: Path, missing: Mapping[str, str]) -> None:
    """Bring chapters, executed notebooks and generated pages together; unchanged files keep their times."""
    for path in sorted((PROJECT / "book").rglob("*")):
        target = source / path.relative_to(PROJECT / "book")
        if path.suffix == ".md" and missing:
            write_if_changed(target, without_missing(path.read_text(encoding="utf-8"), list(missing)))
        elif path.is_file() and path.name != "_toc.yml":
            _copy_if_changed(path, target)
    pasted: dict[str, bytes] = {}
    for name in NOTEBOOKS:
        target = source / "notebooks" / f"{name}.ipynb"
        if name in missing:
            write_if_changed(target, stub(name, missing[name]))
        else:
            _copy_if_changed(study.run / "notebooks" / f"{name}.ipynb", target)
            pasted |= pictures(target)
    for name, content in pasted.items():
        write_if_changed(source / "pasted" / name, content)
    for old in (source / "pasted").glob("*"):
        if old.name not in pasted:
            old.unlink()
    write_if_changed(source / "this_run.txt", this_run(study, missing))
    write_if_changed(source / "_config.yml", _config(study))
    write_if_changed(source / "_toc.yml", _contents(study))
    write_generated(study, source, missing)


def this_run(study: Study, missing: Mapping[str, str]) -> str:
    """Write the lines of the front page that tell which study and run it shows, and what the run lacks.

    Parameters
    ----------
    study
        The study and run.
    missing
        From `completeness.missing_stages`.

    Returns
    -------
    str
        MyST Markdown.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((study.run / "provenance").glob("*"))]
    latest = max(records, key=lambda record: str(record["finished"]), default={"git_commit": "unknown"})
    shown = (
        f"**{study.settings.title}**, run {study.run_name}, commit {latest['git_commit']} ([how it was made](run.md))."
    )
    return f"{notice(missing)}\n{shown}\n"


def _copy_if_changed(origin: Path, target: Path) -> None:
    if target.is_file() and target.read_bytes() == origin.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, target)  # its times, but not who may read it
    os.utime(target, ns=(origin.stat().st_atime_ns, origin.stat().st_mtime_ns))
