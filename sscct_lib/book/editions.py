"""Two editions of the rendered book: for clinicians, without code, and for analysts, with code and settings folded.

Both come from the same pages. What the theme leaves to be desired is put right here: each page can be used with a
keyboard, a screen reader and a phone, and asks nothing of the network: scripts and fonts are copied from npm packages.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import yaml
from bs4 import BeautifulSoup, Tag
from bs4.element import AttributeValueList

from sscct_lib.book.chapters import remove_others
from sscct_lib.horizons.evaluation import TOO_SMALL
from sscct_lib.study.code import code_hash
from sscct_lib.study.files import copy_folder, write_if_changed
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.settings import Settings
from sscct_lib.study.stages import MODULES, PROJECT

COPIED = {
    "@niivue/niivue/dist/niivue.umd.js": "niivue.js",
    "@niivue/niivue/package.json": "niivue.package.json",  # names its authors and licence
    "mathjax/es5/tex-chtml.js": "mathjax/tex-chtml.js",
    "mathjax/es5/output/chtml/fonts/woff-v2": "mathjax/output/chtml/fonts/woff-v2",
    "mathjax/LICENSE": "mathjax/LICENSE",
}
"""Files and folders of npm packages, and their names in the folder `vendor` of a book."""
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
FOLDED = "for-analysts"
FOLD_OUTPUT = "fold-output"
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' "
    "rx='3' fill='%23111'/%3E%3Cellipse cx='5' cy='9' rx='2.6' ry='5' fill='%2356b4e9'/%3E%3Cellipse cx='11' cy='9' "
    "rx='2.6' ry='5' fill='%2356b4e9'/%3E%3C/svg%3E"
)
"""Two lungs; a page without an icon makes the browser ask the server for one."""
UNNAMED_MODE = 'localStorage.getItem("mode") || ""'
NUMBER = re.compile(r"(?:[<≥≤] ?|below |above )?[-+−]?\d[^a-zA-Z]{0,8}(?:$|[ (].{0,36}$)|$")
"""A cell that holds a number, with its interval or counts."""
BEFORE_INTERVAL = re.compile(r"(?<=\d) (?=\([-+−]?\d[\d.,]*\sto\s[-+−]?\d[\d.,]*\))")
"""Between an estimate and its interval."""
INSIDE = re.compile(r"(?<![;,]) (?!\()")
"""A line of a cell with a number may end after a comma or semicolon, or before a bracket, and nowhere else."""
BEFORE_PERCENT = re.compile(r"(?<=\d) %")
"""A line must not end between a number and its sign."""
LONGEST_ALT = 250


def publish(study: Study, rendered: Path, html: Path) -> None:
    """Make both editions of the pages that Sphinx rendered, and copy what they load; a page that is current is kept."""
    _remove_unused_images(rendered, html)
    copy_folder(rendered, html, (*NOT_COPIED, "*.html", "_sources"))
    copy_folder(rendered, html / ANALYSTS, (*NOT_COPIED, *SHARED, "*.html"))
    copy_browser_files(html)
    for origin, name in ((study.run / "book" / "scans", "scans"), (PROJECT / "book" / "viewer", "viewer")):
        kept = {path.name for path in origin.glob("*")}
        remove_others(html / name, kept)
        if kept:
            copy_folder(origin, html / name)
    places = [path.relative_to(rendered) for path in sorted(rendered.rglob("*.html"))]
    places = [place for place in places if place.parts[0] != "_static"]
    for old in {*html.rglob("*.html")} - {folder / place for folder in (html, html / ANALYSTS) for place in places}:
        old.unlink()
    for place in places:
        _edit(study, rendered, html, place)


def copy_browser_files(html: Path, modules: Path = MODULES) -> None:
    """Copy the scan viewer, MathJax and its fonts to the folder `vendor` beside the pages of a book."""
    for name, target in COPIED.items():
        origin, copy = modules / name, html / "vendor" / target
        if not origin.exists():
            raise StudyError(
                f"The book needs the npm package file {name}, which is not in the Python environment. "
                "Install it with `make web`, in the project's folder."
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            copy_folder(origin, copy)
        else:
            shutil.copyfile(origin, copy)


def _remove_unused_images(rendered: Path, html: Path) -> None:
    """Remove figures of earlier results, which Sphinx keeps: no page shows them any more."""
    used: set[str] = set()
    for page in rendered.rglob("*.html"):
        used |= {unquote(name) for name in re.findall(r'_images/([^"#?]+)', page.read_text(encoding="utf-8"))}
    for folder in (rendered / "_images", html / "_images"):
        remove_others(folder, used)


def _edit(study: Study, rendered: Path, html: Path, place: Path) -> None:
    """Write both editions of a page, unless they were made of the same page by the same code and settings."""
    source = (rendered / place).read_text(encoding="utf-8")
    record = study.run / "book" / "edited" / f"{'.'.join(place.parts)}.txt"
    key = fingerprint(source, study.settings, code_hash("book.editions"))
    targets = (html / place, html / ANALYSTS / place)
    if record.is_file() and record.read_text(encoding="utf-8") == key and all(path.is_file() for path in targets):
        return
    for target, text in zip(targets, editions(source, place, study.settings), strict=True):
        write_if_changed(target, text)
    write_if_changed(record, key)


def editions(source: str, place: Path, settings: Settings) -> tuple[str, str]:
    """Make both editions of a page, for clinicians and for analysts, of the HTML that Sphinx wrote."""
    page = BeautifulSoup(source, "html.parser")
    _ask_nothing_of_the_network(page)
    if place.stem != "search":  # nothing on another page reads the index of the search
        for script in page.find_all("script", src=re.compile(r"(?:searchtools|language_data|searchindex)\.js")):
            script.decompose()
    if page.find(class_="math") is None:  # Sphinx has MathJax on the first page where any other has a formula
        for script in page.find_all("script", src=re.compile("vendor/mathjax")):
            script.decompose()
    _fold_code(page)
    _fold_outputs(page)
    _make_accessible(page)
    if place.stem in SECTIONS:
        _add_settings(page, place.stem, settings)
    up = "../" * (len(place.parts) - 1)
    link = _edition_link(page)
    _point(link, f"{up}../{place.as_posix()}", "Hide code", "The same page for clinicians, without code")
    shared = re.compile(rf'((?:href|src)=")({re.escape(up)}(?:{"|".join(SHARED)})/)')
    analysts = shared.sub(r"\1../\2", str(page))
    _point(link, f"{up}{ANALYSTS}/{place.as_posix()}", "Show code", "The same page for analysts, with code")
    _remove_code(page)
    return str(page), analysts


def _ask_nothing_of_the_network(page: BeautifulSoup) -> None:
    if page.head is not None:
        page.head.append(page.new_tag("link", attrs={"rel": "icon", "href": ICON}))
    for script in page.find_all("script"):
        if script.string and UNNAMED_MODE in script.string:  # of which the theme complains in the console
            script.string = script.string.replace(UNNAMED_MODE, UNNAMED_MODE.replace('""', '"auto"'))
    for script in page.find_all("script", src=re.compile("documentation_options")):
        # A page that was opened from a disk may not read others, from which the search takes its excerpts.
        at_once = page.new_tag("script")
        at_once.string = 'DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";'
        script.insert_after(at_once)
    for script in page.find_all("script"):
        text = f"{script.get('src', '')} {script.string or ''}"
        if "thebe" in text or "scripts/fontawesome.js" in text:
            script.decompose()
    for link in page.select('link[href*="sphinx-thebe"], #ethical-ad-placement'):
        link.decompose()


def _fold_code(page: BeautifulSoup) -> None:
    """Fold code that is open, and say in one way what a fold holds."""
    for code in page.find_all("div", class_="cell_input"):
        fold = code.find_parent("details")
        if fold is None:
            fold = code.wrap(page.new_tag("details", attrs={"class": "admonition hide above-input"}))
            fold.insert(0, page.new_tag("summary"))
        cell = fold.find_parent("div", class_="cell")
        names = cell.get_attribute_list("class") if cell else []
        title = "Code"
        if "tag_parameters" in names:
            title = "Parameters of this chapter, as the notebook has them"
        elif "tag_injected-parameters" in names:
            title = "Parameters that this run gave"
        _summarise(page, fold, title)


def _fold_outputs(page: BeautifulSoup) -> None:
    """Fold what a cell tagged `fold-output` shows: in both editions, for readers who want all numbers."""
    for cell in page.select(f"div.cell.tag_{FOLD_OUTPUT}"):
        output = cell.find("div", class_="cell_output")
        if isinstance(output, Tag):
            fold = output.wrap(page.new_tag("details", attrs={"class": "folded-output"}))
            summary = page.new_tag("summary")
            summary.string = "Show the table"
            fold.insert(0, summary)


def _remove_code(page: BeautifulSoup) -> None:
    """Remove folded code and settings, and what packages warn of; what the code shows stays."""
    for warning in page.select("div.output.stderr"):
        warning.decompose()
    for fold in page.find_all("details", class_=FOLDED):
        fold.decompose()
    for cell in page.find_all("div", class_="cell"):
        if cell.find("div", class_="cell_output") is None:
            cell.decompose()
    for link in page.find_all("a", class_="btn-download-source-button"):
        (link.find_parent("li") or link).decompose()


def _summarise(page: BeautifulSoup, fold: Tag, title: str) -> None:
    fold["class"] = AttributeValueList(["admonition", "hide", "above-input", FOLDED])
    summary = fold.find("summary")
    assert isinstance(summary, Tag)
    summary.attrs.pop("aria-label", None)
    summary.clear()
    words = page.new_tag("span", attrs={"class": "admonition-title"})
    words.string = title
    summary.append(words)


def _add_settings(page: BeautifulSoup, notebook: str, settings: Settings) -> None:
    """Put the settings behind a chapter under its title, folded."""
    everything = settings.model_dump(mode="json")
    behind = {name: everything[name] for name in SECTIONS[notebook]}
    text = yaml.safe_dump(without_folders(behind), sort_keys=False)
    fold = page.new_tag("details")
    fold.append(page.new_tag("summary"))
    _summarise(page, fold, "Settings behind this chapter")
    listing = page.new_tag("pre", attrs={"tabindex": "0"})
    listing.string = text
    fold.append(listing)
    title = page.find("h1")
    if title is not None:
        title.insert_after(fold)


def without_folders(value: object) -> object:
    """Keep of whole paths in settings the name of the file: a book names no place of a machine."""
    if isinstance(value, dict):
        return {name: without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _edition_link(page: BeautifulSoup) -> Tag:
    """Put a link among the buttons of a page."""
    link = page.new_tag("a", attrs={"class": "btn btn-sm edition-link"})
    buttons = page.find("div", class_="article-header-buttons")
    if isinstance(buttons, Tag):
        buttons.insert(0, link)
    return link


def _point(link: Tag, href: str, words: str, title: str) -> None:
    link.attrs |= {"href": href, "title": title}
    link.string = words


def _make_accessible(page: BeautifulSoup) -> None:
    """Put right what a checker of accessibility finds in the theme, and describe figures by the words before them."""
    for style in page.find_all("style", scoped=True):
        style.decompose()
    article = page.find("article")
    for table in article.find_all("table") if isinstance(article, Tag) else ():
        _make_readable(page, table)
    for box in page.select("div.output, div.highlight pre, div.table-scroll"):
        box["tabindex"] = "0"  # else a box that scrolls cannot be scrolled with a keyboard
    for picture in page.select("div.cell_output img"):
        picture["alt"] = _description(picture)
    for picture in article.find_all("img") if isinstance(article, Tag) else ():
        picture["loading"] = "lazy"
        if not picture.find_parent(["a", "figure"]):  # on a phone a figure is opened alone to be looked at closely
            picture.wrap(page.new_tag("a", attrs={"href": str(picture["src"]), "class": "figure-alone"}))
    for text in article.find_all(string=BEFORE_PERCENT) if isinstance(article, Tag) else ():
        text.replace_with(BEFORE_PERCENT.sub("\u00a0%", text))
    for button in page.find_all("button", class_="search-button__button"):
        button.attrs.pop("aria-label", None)  # its words and its title say it; another label would hide the words
    for tag in page.select('[role="doc-biblioentry"], div.citation-list[role="list"]'):
        del tag["role"]


def _make_readable(page: BeautifulSoup, table: Tag) -> None:
    """Give a table a box that scrolls, one line of headings, and words on the left, numbers on the right."""
    if table.find_parent("div", class_="output") is not None:
        _add_class(table, "dataframe")  # in the dark the theme puts what it takes for no table on a light ground
    elif table.parent is not None:
        table.wrap(page.new_tag("div", attrs={"class": "table-scroll"}))
    rows = table.select("thead tr")
    if len(rows) == 2:  # pandas writes the name of the index on a line of its own
        above, below = (row.find_all(["th", "td"]) for row in rows)
        names = [cell.get_text(strip=True) for cell in below]
        n_names = sum(map(bool, names))
        if (
            len(above) == len(below)
            and not any(cell.get_text(strip=True) for cell in above[:n_names])
            and not any(names[n_names:])
        ):
            for cell, name in zip(above, names[:n_names], strict=False):
                cell.string = name
            rows[1].decompose()
    for cell in table.find_all("th"):
        if not cell.get_text(strip=True):
            cell.name = "td"  # a heading without words heads nothing
    _align(page, table)


def _whole(page: BeautifulSoup, text: str) -> Iterator[str | Tag]:
    """Keep a number and its interval on one line; on a phone, where `wbr` works, the interval may begin a new one."""
    estimate, *intervals = (INSIDE.sub("\u00a0", piece) for piece in BEFORE_INTERVAL.split(text))
    yield estimate
    for interval in intervals:
        yield page.new_tag("wbr")
        yield f"\u00a0{interval}"


def _align(page: BeautifulSoup, table: Tag) -> None:
    """Mark the columns that hold mostly numbers, with their headings and what stands there in place of a number."""
    columns: dict[int, list[bool]] = {}
    for row in table.select("tbody tr"):
        cells = row.find_all(["th", "td"])
        for at, cell in enumerate(cells):
            words = cell.get_text(" ", strip=True)
            if words:
                is_number = cell.name == "td" and NUMBER.match(words) is not None
                columns.setdefault(at - len(cells), []).append(is_number)
    for row in table.select("tr"):
        cells = row.find_all(["th", "td"])
        for at, cell in enumerate(cells):
            marks = columns.get(at - len(cells), [])
            if sum(marks) * 2 > len(marks):
                _add_class(cell, "number")
            if TOO_SMALL in cell.get_text():
                _add_class(cell, "too-small")
    for cell in table.select("td.number"):
        for text in cell.find_all(string=True):
            if NUMBER.match(text.strip()):
                text.replace_with(*_whole(page, text.strip()))


def _add_class(tag: Tag, name: str) -> None:
    classes = tag.get_attribute_list("class") if tag.get("class") else []
    tag["class"] = AttributeValueList(dict.fromkeys([*classes, name]))


def _description(picture: Tag) -> str:
    heading = picture.find_previous(["h1", "h2", "h3"])
    before = picture.find_previous("p")
    title = heading.get_text(" ", strip=True).rstrip("#").strip() if heading else ""
    words = before.get_text(" ", strip=True) if before else ""
    text = re.sub(r"\s+", " ", f"{title}{'' if title.endswith(('?', '.')) else '.'} {words}")
    return text if len(text) <= LONGEST_ALT else text[:LONGEST_ALT].rsplit(" ", 1)[0] + " …"
