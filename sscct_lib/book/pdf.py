"""The clinicians' edition as one PDF: its chapters one after the other, printed by Chromium."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag

import yaml
from bs4 import BeautifulSoup, Tag

from sscct_lib.book.chapters import filled
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.seals import seal_all
from sscct_lib.study.stages import PROJECT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
LAST = "references"
LONGEST_SECONDS = 300


def print_book(study: Study, html: Path) -> Path:
    """Print the first part of a rendered book, and its references, to `book.pdf` in the folder of its pages.

    A4, with page numbers, and links from chapter to chapter. StudyError where no browser that prints is installed, or
    it fails; the message says what to do.
    """
    browser = find_browser()
    pages = chapters(study.run / "book" / "source" / "_toc.yml")
    joined = html / ".print.html"
    target = html / "book.pdf"
    joined.write_text(_joined(study, html, pages), encoding="utf-8")
    try:
        with tempfile.TemporaryDirectory() as profile:
            command = [
                browser, "--headless", "--disable-gpu", *(["--no-sandbox"] if _is_root() else []),
                f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--no-pdf-header-footer",
                f"--print-to-pdf={target.resolve()}", joined.resolve().as_uri(),
            ]  # fmt: skip
            target.unlink(missing_ok=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise StudyError(f"{Path(browser).name} did not print the book within {LONGEST_SECONDS} s.") from error
    finally:
        joined.unlink(missing_ok=True)
    if not target.is_file():
        raise StudyError(f"{Path(browser).name} did not print the book:\n{done.stderr.strip()[-1000:]}")
    target.chmod(0o644)  # the browser writes it for its user alone
    seal_all(study.run, "book")
    return target


def find_browser() -> str:
    """Path of Chromium or Chrome."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    found += [path for path in APPLICATIONS if Path(path).is_file()]
    if not found:
        raise StudyError(
            "A PDF is printed by Chromium or Chrome, and neither is installed. Install one (apt install chromium, brew "
            "install --cask chromium), or open a page of the book in any browser and print it there."
        )
    return found[0]


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def chapters(contents: Path) -> list[str]:
    """Pages that are printed, without endings: the front page, the chapters of the first part, and the references."""
    toc = yaml.safe_load(contents.read_text(encoding="utf-8"))
    listed = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    first = [chapter["file"] for chapter in toc["parts"][0]["chapters"]]
    return [toc["root"], *first, *(name for name in listed if name == LAST and name not in first)]


def _joined(study: Study, html: Path, pages: list[str]) -> str:
    """All chapters as one page, HTML."""
    anchors = {f"{page}.html": page.replace("/", "-") for page in pages}
    articles, has_mathematics = [], False
    for page in pages:
        content = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
        article = content.find("article")
        assert isinstance(article, Tag)
        has_mathematics |= article.find(class_="math") is not None
        articles.append(printed(article, f"{page}.html", anchors))
    style = (PROJECT / "book" / "print" / "print.css").read_text(encoding="utf-8")
    return filled("print.html", study=study, style=style, has_mathematics=has_mathematics, articles=articles)


def printed(article: Tag, page: str, anchors: Mapping[str, str]) -> str:
    """Make a chapter fit for one page with others: its anchors are its own, links lead to printed chapters or go."""
    here = anchors[page]
    folder = PurePosixPath(page).parent
    for useless in article.select("a.headerlink, button, script, .scan-viewer, .edition-link"):
        useless.decompose()
    for fold in article.find_all("details"):
        fold["open"] = ""
    for tag in article.find_all(id=True):
        tag["id"] = f"{here}--{tag['id']}"
    for link in article.find_all("a", href=True):
        address, fragment = urldefrag(str(link["href"]))
        target = _within(folder, address) if address else page
        if "://" in address or address.startswith("mailto:"):
            continue
        if target in anchors:
            link["href"] = f"#{anchors[target]}" + (f"--{fragment}" if fragment else "")
        else:
            link.unwrap()
    for picture in article.find_all("img", src=True):
        picture["src"] = _within(folder, str(picture["src"]))
        picture["loading"] = "eager"
    return f'<article id="{here}">{article.decode_contents()}</article>'


def _within(folder: PurePosixPath, address: str) -> str:
    """An address relative to the front page."""
    return os.path.normpath(folder / address).replace(os.sep, "/")
