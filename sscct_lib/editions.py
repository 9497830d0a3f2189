"""Two editions of the rendered book: for clinicians, without code, and for analysts, with code and settings folded.

Both come from the same pages. What the theme leaves to be desired is put right here: nothing is asked of the network,
and each page can be used with a keyboard, a screen reader and a phone.
"""

import json
import re
import shutil
from pathlib import Path

import yaml
from bs4 import BeautifulSoup, Tag

from sscct_lib.browser_files import copy_browser_files
from sscct_lib.study import Study

SECTIONS = {
    "01_cohort": ("cohort", "labels", "horizons_years", "seed"),
    "02_segmentation_qa": ("lungs",),
    "03_radiomics": ("radiomics", "tabular", "seed"),
    "04_deep_models": ("deep", "seed"),
    "05_horizons": ("horizons", "horizons_years", "labels", "seed"),
}
"""The settings behind a chapter."""
SHARED = ("_static", "_images", "scans", "viewer", "vendor")
"""Folders that the analysts' pages take from those for clinicians."""
NOT_COPIED = ("*.map", "locales", "fontawesome.js*", "sphinx-thebe.*", "*.ttf", ".buildinfo", "objects.inv")
"""Of the theme: sources of its scripts, other languages, its icons as a script (they are in a font too), and fonts in
a format that browsers have not needed for years."""
ANALYSTS = "analysts"
LONGEST_ALT = 250


def publish(study: Study, rendered: Path, html: Path) -> None:
    """Make both editions of rendered pages.

    Parameters
    ----------
    study
        The study and run.
    rendered
        Folder of the pages as Sphinx wrote them; it is not changed.
    html
        Folder to make: the edition for clinicians, in its folder `analysts` the other, and in `vendor` the scripts
        that they load.

    Raises
    ------
    StudyError
        If a script for the pages is not installed.
    """
    skipped = shutil.ignore_patterns(*NOT_COPIED, "*.html", "_sources")
    shutil.copytree(rendered, html, ignore=skipped, dirs_exist_ok=True)
    own = shutil.ignore_patterns(*NOT_COPIED, *SHARED, "*.html")
    shutil.copytree(rendered, html / ANALYSTS, ignore=own, dirs_exist_ok=True)
    copy_browser_files(html)
    _remove_old_pages(rendered, html)
    for path in sorted(rendered.rglob("*.html")):
        if "_static" in path.relative_to(rendered).parts:
            continue
        place = path.relative_to(rendered)
        source = path.read_text(encoding="utf-8")
        for edition, folder in (("clinicians", html), (ANALYSTS, html / ANALYSTS)):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(edited(source, place, edition, study), encoding="utf-8")


def _remove_old_pages(rendered: Path, html: Path) -> None:
    """Remove pages that the book does not have any more."""
    for folder in (html, html / ANALYSTS):
        for page in folder.rglob("*.html"):
            place = page.relative_to(html / ANALYSTS if ANALYSTS in page.relative_to(html).parts[:1] else html)
            if not (rendered / place).exists():
                page.unlink()


def edited(source: str, place: Path, edition: str, study: Study) -> str:
    """Make a page of one edition.

    Parameters
    ----------
    source
        The page as Sphinx wrote it, HTML.
    place
        Its file, relative to the front page.
    edition
        `clinicians` or `analysts`.
    study
        The study and run, whose settings stand on the analysts' pages.

    Returns
    -------
    str
        HTML.
    """
    page = BeautifulSoup(source, "html.parser")
    _ask_nothing_of_the_network(page)
    _make_accessible(page)
    _link_to_the_other(page, place, edition)
    if edition == "clinicians":
        _without_code(page)
    else:
        _with_folded_code(page)
        if place.stem in SECTIONS:
            _add_settings(page, place.stem, study)
        _share_files(page, len(place.parts) - 1)
    return str(page)


def _ask_nothing_of_the_network(page: BeautifulSoup) -> None:
    for script in page.find_all("script"):
        text = f"{script.get('src', '')} {script.string or ''}"
        if "thebe" in text or "scripts/fontawesome.js" in text:
            script.decompose()
    for link in page.select('link[href*="sphinx-thebe"], #ethical-ad-placement'):
        link.decompose()


def _without_code(page: BeautifulSoup) -> None:
    """Remove code cells; what they show stays."""
    for cell in page.select("div.cell"):
        for code in cell.select("details.above-input, details.below-input, div.cell_input"):
            if not code.decomposed:
                code.decompose()
        if not cell.select_one("div.cell_output"):
            cell.decompose()
    for button in page.select('a.btn-download-source-button, a[href$=".ipynb"]'):
        (button.find_parent("li") or button).decompose()


def _with_folded_code(page: BeautifulSoup) -> None:
    """Fold code that is open, and say in one way what a fold holds."""
    for cell in page.select("div.cell"):
        code = cell.select_one("div.cell_input")
        if code is None:
            continue
        fold = code.find_parent("details")
        if fold is None:
            fold = code.wrap(page.new_tag("details", attrs={"class": "admonition hide above-input"}))
            fold.insert(0, page.new_tag("summary"))
        names = cell.get_attribute_list("class")
        title = "Code"
        if "tag_parameters" in names:
            title = "Parameters of this chapter, as the notebook has them"
        elif "tag_injected-parameters" in names:
            title = "Parameters that this run gave"
        _summarise(page, fold, title)


def _summarise(page: BeautifulSoup, fold: Tag, title: str) -> None:
    summary = fold.find("summary")
    assert isinstance(summary, Tag)
    summary.attrs.pop("aria-label", None)
    summary.clear()
    words = page.new_tag("span", attrs={"class": "admonition-title"})
    words.string = title
    summary.append(words)


def _add_settings(page: BeautifulSoup, notebook: str, study: Study) -> None:
    """Put the settings behind a chapter under its title, folded."""
    everything = study.settings.model_dump(mode="json")
    settings = {name: everything[name] for name in SECTIONS[notebook]}
    record = study.run / "provenance" / f"{notebook}.json"
    given = json.loads(record.read_text(encoding="utf-8"))["parameters"] if record.is_file() else {}
    text = yaml.safe_dump(without_folders(settings), sort_keys=False)
    if given:
        text += f"\n# given to this run instead:\n{yaml.safe_dump(without_folders(given), sort_keys=False)}"
    fold = page.new_tag("details", attrs={"class": "admonition hide above-input"})
    fold.append(page.new_tag("summary"))
    _summarise(page, fold, "Settings behind this chapter")
    listing = page.new_tag("pre", attrs={"tabindex": "0"})
    listing.string = text
    fold.append(listing)
    title = page.select_one("article h1")
    if title is not None:
        title.insert_after(fold)


def without_folders(value: object) -> object:
    """Keep of whole paths in settings the name of the file: a book names no place of a machine."""
    if isinstance(value, dict):
        return {name: without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _link_to_the_other(page: BeautifulSoup, place: Path, edition: str) -> None:
    """Give each page a link to the same page of the other edition."""
    up = "../" * (len(place.parts) - 1)
    if edition == "clinicians":
        href, words, title = f"{up}{ANALYSTS}/{place.as_posix()}", "Show code", "The same page for analysts, with code"
    else:
        href, words, title = f"{up}../{place.as_posix()}", "Hide code", "The same page for clinicians, without code"
    buttons = page.select_one("div.article-header-buttons")
    if buttons is not None:
        link = page.new_tag("a", attrs={"class": "btn btn-sm edition-link", "href": href, "title": title})
        link.string = words
        buttons.insert(0, link)


def _share_files(page: BeautifulSoup, depth: int) -> None:
    """Let a page of the analysts' edition load what both have in common from the other."""
    own = "../" * depth
    shared = re.compile(rf"^{re.escape(own)}(?:{'|'.join(map(re.escape, SHARED))})/")
    for name in ("href", "src", "data-files"):
        for tag in page.select(f"[{name}]"):
            address = str(tag[name])
            if shared.match(address):
                tag[name] = f"../{address}"


def _make_accessible(page: BeautifulSoup) -> None:
    """Put right what a checker of accessibility finds in the theme, and describe figures by the words before them."""
    for box in page.select("div.cell_output div.output, div.highlight pre, div.cell_output pre"):
        box["tabindex"] = "0"  # else a box that scrolls cannot be scrolled with a keyboard
    for picture in page.select("div.cell_output img"):
        picture["alt"] = _description(picture)
    for picture in page.select("article img"):
        picture["loading"] = "lazy"
    for table in page.select("article table"):
        for cell in table.select("thead th:empty"):
            cell.name = "td"  # a heading without words heads nothing
    for style in page.select("style[scoped]"):
        style.decompose()


def _description(picture: Tag) -> str:
    heading = picture.find_previous(["h1", "h2", "h3"])
    before = picture.find_previous("p")
    title = heading.get_text(" ", strip=True).rstrip("#").strip() if heading else ""
    words = before.get_text(" ", strip=True) if before else ""
    text = re.sub(r"\s+", " ", f"{title}. {words}")
    return text if len(text) <= LONGEST_ALT else text[:LONGEST_ALT].rsplit(" ", 1)[0] + " …"
