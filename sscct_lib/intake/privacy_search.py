"""Looking for identifiers in the files of a study: tables, records, notebooks, pages, pictures, headers and models."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sscct_lib.images.dicom import is_dicom
from sscct_lib.intake.privacy import Finding, Identifiers, Match, find, find_in_name, hidden, mask, plain
from sscct_lib.intake.privacy_readers import Cells, texts_of
from sscct_lib.intake.privacy_words import UnreadError

PROJECT_FILES = {
    "sscct_lib", "tests", "benchmarks", "workflow", "book", "README.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "pyproject.toml", "requirements", "environment.yml", "_config.yml",
}  # fmt: skip
"""In a copy of this project that is a study too, its own code and chapters are no study data."""
OF_A_BOOK = re.compile(
    r"runs/[^/]+/book/(?:.*/)?(?:_static/(?:.*/)?[^/]*\.js|[^/]*\.(?:woff2?|ttf|eot|ico|mo|inv|map)"
    r"|_build/html/book\.pdf)"
)
"""Of every book: programs and fonts of its pages, and the PDF, printed from pages that are looked at."""
MEMORY = re.compile(r"runs/[^/]+/book/(?:.*/)?\.doctrees")  # of Sphinx: what the pages say, which are looked at
WORK_FOLDER = ".snakemake/"  # whose logs tell the days of runs
COPIED = {".ipynb", ".png", ".svg", ".md", ".html"}
MOST_SHOWN = 50
EMPTY = "empty"  # of a folder: it has no more than a name


@dataclass
class Search:
    """What was found, in the order of the files, and the files that could not be looked into."""

    findings: list[Finding] = field(default_factory=list)
    n_files: int = 0  # that were looked into
    unread: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Write the findings as a list, the first 50 of them, and the files that could not be looked into."""
        shown = [str(one) for one in self.findings[:MOST_SHOWN]]
        if len(self.findings) > MOST_SHOWN:
            shown.append(f"and {len(self.findings) - MOST_SHOWN} more")
        return shown + self.unread


def search_study(
    folder: Path,
    known: Identifiers | None = None,
    parts: tuple[str, ...] = ("",),
    clean: dict[str, list[int]] | None = None,
) -> Search:
    """Look for identifiers in a study.

    Parameters
    ----------
    folder
        The study folder. Where it is a copy of this project too, its code, chapters and hidden files are left out (what
        a book made of them is looked at).
    known
        The hospital's identifiers, from `pseudonyms.read_identifiers`; None: patterns only.
    parts
        Which files or folders of the study, relative to it; by default all.
    clean
        State (`_state`) of files in which nothing was found before, by the same search; they are not read again while
        it is the same. Files that are found clean are added.
    """
    search, seen = Search(), set[bytes]()
    clean = {} if clean is None else clean
    for part in parts:
        for path, why in _below(folder, folder / part):
            place, found = path.relative_to(folder).as_posix(), list[Finding]()
            shown, in_name = _look_at_name(place, known)
            own_time = place.startswith(WORK_FOLDER)
            try:
                state = [] if why else _state(path)
                if state and clean.get(place) == state:
                    search.n_files += 1
                    continue
                found += [Finding(f"{shown} (its name)", one.kind, one.masked) for one in in_name]
                if why == EMPTY or OF_A_BOOK.fullmatch(place):
                    continue
                if why:
                    raise UnreadError(why)
                if path.suffix.lower() in COPIED:  # the book keeps copies of notebooks, pages and pictures
                    digest = hashlib.sha256(path.read_bytes()).digest()
                    if digest in seen:
                        continue
                    seen.add(digest)
                for one in _look_into(path, known):
                    found.append(replace(one, place=f"{shown}, {one.place}"))
                search.n_files += 1
                if not found:
                    clean[place] = state
            except Exception as error:  # whatever a damaged file makes of a reader, the search goes on
                why = str(error) if isinstance(error, UnreadError) else type(error).__name__
                search.unread.append(f"{shown}: not looked into ({why})")
            finally:
                search.findings += [one for one in found if not (own_time and one.kind == "date")]
    return search


def _state(path: Path) -> list[int]:
    """Tell whether a file is the same: its number, size, and times, one of which no program can set back."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _below(root: Path, start: Path) -> Iterator[tuple[Path, str]]:
    """Give each file at or below a place; and what cannot be looked into with why: no link to a folder is followed."""
    is_project, waiting = (root / "sscct_lib").is_dir(), [start]
    while waiting:
        path = waiting.pop()
        try:
            why = _why_not(root, path)
            if not why and path.is_dir():
                names = sorted(os.listdir(path), reverse=True)
                if is_project:
                    names = [name for name in names if name != "__pycache__"]
                if is_project and path == root:
                    names = [name for name in names if not name.startswith(".") and name not in PROJECT_FILES]
                below = [path / name for name in names]
                waiting += [one for one in below if not MEMORY.fullmatch(one.relative_to(root).as_posix())]
                why = "" if names else EMPTY
                if names:
                    continue
        except FileNotFoundError:  # another process removed it
            continue
        except OSError as error:
            why = error.strerror or type(error).__name__
        yield path, why


def _why_not(root: Path, path: Path) -> str:
    """Say why something is not looked into; empty for a file and for a folder."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode) or not path.parent.resolve().is_relative_to(root.resolve()):
        target = Path(os.path.realpath(path))
        if path != root and not target.is_relative_to(root.resolve()):
            return "a link that leads out of the study"
        if path != root and not target.is_file():
            return "a link to a folder, or to nothing"
    elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "a pipe, a socket or a device"
    return ""


def search_file(path: Path, known: Identifiers | None = None) -> list[Finding]:
    """Look for identifiers in one file, read as its name says; a finding's `place` is the place in the file."""
    return list(_look_into(path, known))


def _look_into(path: Path, known: Identifiers | None) -> Iterator[Finding]:
    if path.suffix.lower() == ".key":
        yield Finding("the whole file", "key", "from which study ids are made: keep it outside the study")
        return
    if is_dicom(path):
        yield Finding("the whole file", "DICOM file", "with the header of a hospital")
        return
    for said in texts_of(path):
        if isinstance(said, Finding):
            yield replace(said, place=hidden(said.place, known))
            continue
        if isinstance(said, Cells):
            if known is not None and (name := known.across(said.texts)):
                yield Finding(hidden(said.place, known), "known identifier", mask(name))
            continue
        texts = {place: plain(text) for place, text in said.items()}
        if len(texts) == 1 or find("\n".join(texts.values()), known):  # many short ones are looked at together
            for place, text in texts.items():
                for one in find(text, known):
                    yield Finding(_line(hidden(place, known), text, one.start), one.kind, one.masked)


def _look_at_name(place: str, known: Identifiers | None) -> tuple[str, list[Match]]:
    """Look at the names of a file and its folders; also gives the place without those that point to a patient."""
    parts, found = place.split("/"), list[Match]()
    is_page = "_build" in parts  # the files of a web page are named by programs
    for number, part in enumerate(parts):
        here = find(part, known) or ([] if is_page else find_in_name(part))
        if here:
            parts[number], found = mask(part), found + here
    return "/".join(parts), found


def _line(place: str, text: str, start: int) -> str:
    return f"{place}line {text.count(chr(10), 0, start) + 1}" if place == "" or place.endswith(", ") else place
