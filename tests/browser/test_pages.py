"""Every page of the book opens in a browser, asks nothing of the network, fits its screen, and can be used by all."""

import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from sscct_lib.book.editions import MODULES
from sscct_lib.book.pdf import print_book
from tests.tiny_study import HOSTILE

from .conftest import DESKTOP, PHONE, Visit

pytestmark = pytest.mark.slow

AXE = MODULES / "axe-core" / "axe.min.js"
FIRST_PAGE_BYTES = 1_000_000
FIRST_PAGE_SECONDS = 2.0
BOOK_BYTES = 80_000_000


def names(pages: Path, edition: str = "") -> list[str]:
    """List the pages of an edition, relative to the folder of the book."""
    folder = pages / edition
    found = [path.relative_to(pages).as_posix() for path in sorted(folder.rglob("*.html"))]
    return [name for name in found if name.startswith("analysts/") == (edition == "analysts") and "_static" not in name]


@dataclass(frozen=True)
class Seen:
    """What a page looks like in the browser, and what is wrong with it."""

    titles: int
    wrong: list[str]
    width: int
    screen: int
    colours: int
    serious: list[str]


def seen(reader: Visit, home: str, name: str, axe: bool = False) -> Seen:
    """Open a page and look at it once for all tests."""
    reader.open(home + name)
    titles = reader.page.locator("article h1, #search-results, main h1").count()
    width, screen = reader.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    picture = Image.open(io.BytesIO(reader.page.screenshot())).convert("RGB")
    colours, wrong = len(picture.getcolors(2**24)), reader.wrong(home)
    return Seen(titles, wrong, width, screen, colours, serious(reader) if axe else [])


def serious(reader: Visit) -> list[str]:
    """List what axe calls a serious fault of the page that is open."""
    reader.page.add_script_tag(path=str(AXE))
    found = reader.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    grave = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    return [f"{fault['id']}: {node['html'][:200]}" for fault in grave for node in fault["nodes"]]


@pytest.fixture(scope="module")
def on_desktop(browser, pages) -> dict[str, Seen]:
    """Look at every page from the disk, in the light. The analysts' pages differ in their folds alone."""
    reader = Visit(browser, viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    ours = {*names(pages), "analysts/notebooks/05_horizons.html"}
    shown = [*names(pages), *names(pages, "analysts")]
    found = {name: seen(reader, pages.as_uri() + "/", name, axe=name in ours) for name in shown}
    reader.context.close()
    return found


def test_every_page_opens_without_errors_or_requests_to_the_outside(on_desktop):
    assert not {name: page.wrong for name, page in on_desktop.items() if page.wrong or not page.titles}


def test_every_page_opens_from_a_server(visit, served, pages):
    reader = visit()
    for name in names(pages):
        reader.open(served + name)
        assert reader.page.locator("article h1, #search-results, main h1").count() > 0, name
        reader.check(served)


@pytest.mark.parametrize(
    ("name", "said"), [("02_segmentation_qa", "changed to pass by XY:"), ("05_robustness", "Philips")]
)
def test_what_markup_a_table_holds_is_shown_as_text(visit, pages, name, said):
    reader = visit()
    reader.open((pages / f"notebooks/{name}.html").as_uri())
    shown = (reader.page.locator("main").text_content() or "").replace("\\n", " ")  # pandas writes ends of lines so
    assert f"{said} {' '.join(HOSTILE.split())}" in " ".join(shown.split())
    reader.check(pages.as_uri())


def test_every_link_anchor_image_and_script_is_there(pages):
    parsed = {path.resolve(): BeautifulSoup(path.read_text(), "html.parser") for path in pages.rglob("*.html")}
    anchors = {path: {tag.get("id") or tag.get("name") for tag in page.find_all(True)} for path, page in parsed.items()}
    broken = []
    for path, page in parsed.items():
        for tag in page.find_all(True):
            for attribute in ("href", "src"):
                address = tag.get(attribute)
                if not address or urlparse(address).scheme or address.startswith("//"):
                    continue
                plain, fragment = urldefrag(urljoin(path.as_uri(), address))
                target = Path(unquote(urlparse(plain).path))
                if not target.is_file():
                    broken.append(f"{path.relative_to(pages.resolve())}: {address}")
                elif fragment and target in anchors and unquote(fragment) not in anchors[target]:
                    broken.append(f"{path.relative_to(pages.resolve())}: no anchor {address}")
    assert not broken, broken


def test_editions_have_the_same_pages_and_clinicians_see_no_code(pages):
    ours, theirs = names(pages), names(pages, "analysts")
    assert [f"analysts/{name}" for name in ours] == theirs
    for name in ours:
        page = BeautifulSoup((pages / name).read_text(), "html.parser")
        assert not page.select("div.cell_input, details.for-analysts"), name
    notebook = BeautifulSoup((pages / "analysts/notebooks/05_horizons.html").read_text(), "html.parser")
    assert all(code.find_parent("details") for code in notebook.select("div.cell_input"))
    assert "n_bootstrap: 50" in notebook.select_one("h1 + details").get_text()


def test_axe_finds_no_serious_fault(on_desktop):
    assert not {name: page.serious for name, page in on_desktop.items() if page.serious}


def test_axe_finds_no_serious_fault_in_the_dark(visit, pages):
    reader = visit(color_scheme="dark", reduced_motion="reduce")
    # The style is the same on all pages.
    for name in ("index.html", "gallery.html", "notebooks/05_horizons.html", "analysts/notebooks/05_horizons.html"):
        reader.open((pages / name).as_uri())
        assert not serious(reader), name


def test_no_page_is_wider_than_the_screen(on_desktop):
    assert not {name: page.width for name, page in on_desktop.items() if page.width > page.screen}
    assert min(page.colours for page in on_desktop.values()) > 20


def test_no_page_is_wider_than_a_phone(visit, pages):
    reader = visit(viewport=PHONE, is_mobile=True)
    for name in [*names(pages), "analysts/notebooks/05_horizons.html"]:
        page = seen(reader, pages.as_uri() + "/", name)
        assert page.width <= page.screen, name
        assert page.colours > 20, name


def test_every_figure_has_words_and_every_table_a_heading(pages):
    for name in names(pages):
        article = BeautifulSoup((pages / name).read_text(), "html.parser").find("article")
        for picture in article.find_all("img") if article else ():
            assert len(picture.get("alt", "")) > 10, (name, picture)


def test_search_finds_a_word(visit, book):
    reader = visit()
    reader.open(book + "search.html?q=calibration")
    # Results appear one by one.
    reader.page.wait_for_selector("#search-results li a:has-text('How good are the risks')", timeout=10_000)
    reader.check(book)


def test_a_reader_can_switch_to_the_dark_and_back(visit, book):
    reader = visit()
    reader.open(book + "index.html")
    colours = set()
    for _ in range(3):
        reader.page.locator("button.theme-switch-button:visible").first.click()
        colours.add(reader.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_the_first_page_is_small_and_soon_there(visit, served, pages):
    seconds = []
    for _ in range(3):
        reader = visit()
        sizes: list[int] = []
        reader.page.on("response", lambda answer, sizes=sizes: sizes.append(len(answer.body())))
        reader.open(served)
        seconds.append(reader.page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive / 1000"))
        assert sum(sizes) <= FIRST_PAGE_BYTES
    assert min(seconds) <= FIRST_PAGE_SECONDS
    assert sum(path.stat().st_size for path in pages.rglob("*") if path.is_file()) <= BOOK_BYTES


def test_the_chapters_are_printed_as_one_pdf(browser, pages, finished, tmp_path):
    copy = tmp_path / "html"
    shutil.copytree(pages, copy, ignore=shutil.ignore_patterns("analysts", "scans"))
    content = print_book(finished, copy).read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 15
    assert not list(copy.glob(".print*"))
