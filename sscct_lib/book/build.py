"""The book of a run: executed notebooks, prose chapters and generated pages brought together, and rendered.

Three things are remembered between builds, and believed only as far as they can be: generated pages hold while nothing
behind them has changed; Sphinx writes every page again where a notebook, a title or a style has changed; and nothing
of a book is taken over, what Sphinx keeps beside it (pickles, and a pickle can hold a program) least of all, unless all
of it has this user's seal (see `study.seals`).
"""

import html
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from sscct_lib.book import chapters, editions
from sscct_lib.book.shown import PAGES, shown
from sscct_lib.intake.privacy import FOLDERS
from sscct_lib.intake.privacy_search import search_study
from sscct_lib.study import seals
from sscct_lib.study.code import code_hash
from sscct_lib.study.files import emptied, read_keyed, write_if_changed, write_keyed
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.results import file_state
from sscct_lib.study.runs import changes_of
from sscct_lib.study.seals import checksum
from sscct_lib.study.stages import NOTEBOOKS, PROJECT, executed
from sscct_lib.study.words import TRANSPLANT_COUNTS

BEHIND_EVERY_PAGE = {".ipynb", ".yml", ".bib", ".css"}
BEFORE_RENDERING = ("tables", "notebooks", "provenance", "book/source")
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
DEMO_NOTICE = "Synthetic patients: this is the demo study. No number in it speaks of a real person."


def build_book(study: Study) -> Path:
    """Render the book of a run.

    Parameters
    ----------
    study
        Its notebooks must have been executed. One that failed gives no error: its chapter and the front page say that
        it is missing, and why.

    Returns
    -------
    Path
        The front page, see `chapters.front_page`.

    Raises
    ------
    StudyError
        If no notebook was executed, if a table, notebook or page holds what may point to a patient (see
        `intake.privacy.find`), or if the book has a broken link, a missing number or any other warning.
    """
    missing, made_of = chapters.missing_stages(study), chapters.book_made_of(study)
    if len(missing) == len(NOTEBOOKS):
        raise StudyError(f"{study.run} has no executed notebook, not even 01_cohort. `sscct run` makes them.")
    book = study.run / "book"
    source, place = book / "source", book / "sphinx"
    # What Sphinx remembers of the pages are pickles, and pages that are there are not made again: only those that this
    # user's own build wrote are believed, else nothing of the book is taken over.
    if seals.unsealed(study.run, book.name) or not (place / "_build" / ".doctrees").is_dir():
        emptied(book)
    _assemble(study, source, missing)
    _refuse_identifiers(study, BEFORE_RENDERING)
    _render(study, source, place)
    editions.publish(study, place / "_build" / "html", chapters.front_page(study).parent)
    # Pages for clinicians are those for analysts less their code; `sscct check --privacy` looks into every file.
    _refuse_identifiers(study, tuple(f"book/_build/html/{name}" for name in (editions.ANALYSTS, "_images", "scans")))
    write_if_changed(chapters.book_record(study), made_of)
    seals.seal_all(study.run, book.name)
    return chapters.front_page(study)


def _assemble(study: Study, source: Path, missing: Mapping[str, str]) -> None:
    """Bring chapters, executed notebooks and generated pages together; unchanged files keep their times."""
    for path in sorted((PROJECT / "book").rglob("*")):
        place = path.relative_to(PROJECT / "book")
        if place.parts[0] == chapters.TEMPLATES.name or path.name == "_toc.yml" or not path.is_file():
            continue
        if path.suffix == ".md" and missing:
            write_if_changed(source / place, chapters.without_missing(path.read_text(encoding="utf-8"), list(missing)))
        else:
            write_if_changed(source / place, path.read_bytes())
    pasted: dict[str, bytes] = {}
    for name in NOTEBOOKS:
        if name in missing:
            pages = dict.fromkeys(PAGES.get(name, (name,)), chapters.stub(name, missing[name]))
        else:
            pages = shown(name, json.loads(executed(study, name).read_text(encoding="utf-8")))
        for page, text in pages.items():
            write_if_changed(source / "notebooks" / f"{page}.ipynb", text)
            pasted |= chapters.pasted(source / "notebooks" / f"{page}.ipynb")
    for name, content in pasted.items():
        write_if_changed(source / "pasted" / name, content)
    chapters.remove_others(source / "pasted", pasted)
    write_if_changed(source / "this_run.txt", this_run(study, missing))
    write_if_changed(source / "_config.yml", _config(study))
    write_if_changed(source / "_toc.yml", _contents(study))
    write_generated(study, source, missing)


def this_run(study: Study, missing: Mapping[str, str]) -> str:
    """Lines of the front page: which study and run it shows, and what the run lacks."""
    made = f"commit {chapters.latest_commit(study)} ([how it was made](run.md))"
    return f"{chapters.notice(missing)}\n**{study.settings.title}**, run {study.run_name}, {made}.\n"


def _config(study: Study) -> str:
    config = yaml.safe_load((PROJECT / "_config.yml").read_text(encoding="utf-8"))
    config["title"] = study.settings.title
    tried = "; ".join(f"{name}: {editions.without_folders(value)}" for name, value in changes_of(study).items())
    notices = {
        DEMO_NOTICE: study.settings.demo is not None,
        f"Run {study.run_name} tries other settings: {html.escape(tried)}.": bool(tried),
        TRANSPLANT_COUNTS: study.settings.cohort.transplant == "as_death",
    }
    config["html"]["announcement"] = " ".join(text for text, holds in notices.items() if holds)
    # Jupyter Book leaves out what the contents lack, but not below a folder with brackets in its name.
    config["exclude_patterns"] = [f"{name}.md" for name, is_there in _at_times(study).items() if not is_there]
    return str(yaml.safe_dump(config, sort_keys=False))


def _contents(study: Study) -> str:
    """The table of contents, without the chapters that this book has not."""
    contents = yaml.safe_load((PROJECT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    present = _at_times(study)
    for part in contents["parts"]:
        part["chapters"] = [chapter for chapter in part["chapters"] if present.get(chapter["file"], True)]
    return str(yaml.safe_dump(contents, sort_keys=False))


def _at_times(study: Study) -> dict[str, bool]:
    """Chapters that not every book has, and whether this one has them."""
    return {"demo_cohort": study.settings.demo is not None, "sweep": chapters.has_sweep(study)}


def write_generated(study: Study, source: Path, missing: Mapping[str, str]) -> None:
    """Write the generated pages, and what they show, unless they are there and nothing behind them has changed."""
    book, record = source.parent, source.parent / "generated.json"
    key = fingerprint(code_hash("book.build"), study.settings, dict(missing), chapters.states_behind(study))
    known = read_keyed(record, key)
    if known and all(file_state(book / name) == state for name, state in known.items()):
        return
    record.unlink(missing_ok=True)
    made = _write(study, source, missing)
    write_keyed(record, key, {path.relative_to(book).as_posix(): file_state(path) for path in made})


def _write(study: Study, source: Path, missing: Mapping[str, str]) -> list[Path]:
    """Write all pages; give these and the files that they show."""
    # Imported here: what draws and reads takes longer to load than a book without changes takes to build.
    from sscct_lib.book import checklists, gallery, reference, sweep

    scans, pages_of_patients = source.parent / "scans", source / "patients"
    pages = {
        "run": reference.run_page(study),
        "data_dictionary": reference.data_dictionary_page(study),
        "odd_exports": reference.odd_exports_page(),
        "packages": reference.packages_page(),
        "patients": gallery.write_patients(study, pages_of_patients),
        "model_cards": reference.model_cards_page(study),
        "gallery": gallery.write_gallery(study, scans),
        **{f"checklist_{name}": checklists.page(name, study, missing) for name in checklists.NAMES},
    }
    shown = [*pages_of_patients.glob("*"), *scans.glob("*")]
    if chapters.has_sweep(study):
        pages["sweep"] = sweep.write_page(study, source)
        shown.append(source / sweep.PICTURE)
    for name, text in pages.items():
        write_if_changed(source / f"{name}.md", text)
    return [*(source / f"{name}.md" for name in pages), *shown]


def _refuse_identifiers(study: Study, parts: tuple[str, ...]) -> None:
    """Stop where something in the run may point to a patient; nothing is cleaned in silence."""
    # Files in which the same search found nothing are not read again; `sscct check --privacy` reads all.
    record, key = study.run / "book" / "searched.json", fingerprint(code_hash("intake.privacy_search"), FOLDERS)
    clean = read_keyed(record, key)
    search = search_study(study.folder, parts=tuple(f"runs/{study.run_name}/{part}" for part in parts), clean=clean)
    write_keyed(record, key, clean)
    if search.findings or search.unread:
        listed, n = "\n  ".join(search.lines()), len(search.findings) + len(search.unread)
        raise StudyError(f"{n} place(s) may point to a patient, or cannot be read; no book was made:\n  {listed}")


def _render(study: Study, source: Path, place: Path) -> None:
    """Let Jupyter Book make pages of the sources; a build that did not come to its end counts for nothing."""
    record = study.run / "book" / "written_with.txt"
    if not record.is_file() and place.is_dir():  # a figure that is there, if only by half, would not be written again
        shutil.rmtree(place)
    # Sphinx writes a page again when its own source changes. Numbers that it takes from a notebook, and the titles of
    # others in the side bar, would grow stale: where any of these changed, every page is written.
    shared = sorted(path for path in source.rglob("*") if path.suffix in BEHIND_EVERY_PAGE)
    state = fingerprint([(path.name, checksum(path)) for path in shared], _titles(source))
    current = record.is_file() and record.read_text(encoding="utf-8") == state
    record.unlink(missing_ok=True)
    paths = [str(source.resolve()), "--path-output", str(place.resolve())]
    command = [sys.executable, "-P", "-c", JUPYTER_BOOK, "build", *paths]
    command += ["-n", "-W", "--keep-going", "-q", *([] if current else ["--all"])]
    with TemporaryDirectory() as elsewhere:  # where no stranger's file is taken for a program or a configuration
        done = subprocess.run(
            command, cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    said = done.stdout.replace(str(study.folder.resolve()), "STUDY")  # logs name no place of this machine
    write_if_changed(study.run / "logs" / "book.log", said)
    if done.returncode != 0:
        raise StudyError("The book has faults:\n" + "\n".join(said.strip().splitlines()[-20:]))
    write_if_changed(record, state)


def _titles(source: Path) -> list[str]:
    """The first heading of each prose page."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.md"))]
    return [next((line for line in text.splitlines() if line.startswith("# ")), "") for text in texts]
