"""The scan viewer draws, scrolls, shows its overlays and changes the scan; without it the page keeps its pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from sscct_lib.book.viewer import LARGEST_BYTES

from .conftest import PATIENCE_MS, PHONE

pytestmark = pytest.mark.slow


@pytest.fixture
def gallery(visit, pages):
    """Open the page of scans from the disk."""
    reader = visit()
    reader.open((pages / "gallery.html").as_uri())
    return reader


def open_scan(reader, button) -> str:
    """Open a scan, or several side by side; give what the viewer says it shows."""
    before = reader.page.evaluate("document.querySelector('.scan-viewer')?.dataset.ready || ''")
    button.click()
    shown = f"document.querySelector('.scan-viewer')?.dataset.ready || {before!r}"
    reader.page.wait_for_function(f"({shown}) && ({shown}) !== {before!r}", timeout=PATIENCE_MS)
    return str(reader.page.evaluate("document.querySelector('.scan-viewer').dataset.ready"))


def pixels(reader, at: int = 0) -> np.ndarray:
    """Take a picture of what a canvas of the viewer shows."""
    canvas = reader.page.locator(".scan-viewer canvas").nth(at)
    reader.page.wait_for_timeout(300)
    return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)


def change(one: np.ndarray, other: np.ndarray) -> float:
    """Tell the share of pixels that differ clearly."""
    return float((np.abs(one - other).max(axis=2) > 20).mean())


def coloured(picture: np.ndarray) -> float:
    """Tell the share of pixels that are not grey."""
    return float(((picture.max(axis=2) - picture.min(axis=2)) > 25).mean())


def test_the_viewer_draws_scrolls_and_shows_windows_and_overlays(gallery, pages):
    page = gallery.page
    with_map = page.locator(".scan-card button").first
    open_scan(gallery, with_map)
    first = pixels(gallery)
    assert (first > 40).any(axis=2).mean() > 0.2
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    scrolled = pixels(gallery)
    assert change(first, scrolled) > 0.005
    page.get_by_label("Axial slice").fill("0.3")
    assert change(scrolled, pixels(gallery)) > 0.01
    page.get_by_label("Mediastinum").check()
    narrow = pixels(gallery)
    assert change(scrolled, narrow) > 0.1
    page.get_by_label("Lung mask").check()
    masked = pixels(gallery)
    assert coloured(masked) > coloured(narrow) + 0.05
    page.get_by_label("Lung mask").uncheck()
    assert change(pixels(gallery), narrow) < 0.002
    gallery.check(pages.as_uri())


def test_attributions_are_drawn_over_the_scans_that_have_them(gallery):
    page = gallery.page
    buttons = page.locator(".scan-card button")
    for at in range(buttons.count()):
        open_scan(gallery, buttons.nth(at))
        choice = page.get_by_label("What the risk rests on")
        if choice.is_enabled():
            plain = coloured(pixels(gallery))
            choice.select_option(index=1)
            assert coloured(pixels(gallery)) > plain + 0.002
            return
    pytest.fail("no scan of the gallery has an attribution")


def test_another_scan_takes_the_place_of_the_first_on_a_server_too(visit, served):
    gallery = visit()
    gallery.open(served + "gallery.html")
    cards = gallery.page.locator(".scan-card")
    scans = [cards.nth(at).get_attribute("data-scan") for at in range(cards.count())]
    other = next(at for at, scan in enumerate(scans) if scan != scans[0])
    assert open_scan(gallery, cards.nth(0).locator("button")) == scans[0]
    first = pixels(gallery)
    assert open_scan(gallery, cards.nth(other).locator("button")) == scans[other]
    assert change(first, pixels(gallery)) > 0.05
    gallery.check(served)


def test_scans_of_a_patient_stand_side_by_side_and_move_together(gallery):
    shown = open_scan(gallery, gallery.page.get_by_role("button", name="Open side by side")).split()
    assert len(shown) > 1
    assert len({scan.rsplit("-", 1)[0] for scan in shown}) == 1
    first_and_last = (0, len(shown) - 1)
    before = [pixels(gallery, at) for at in first_and_last]
    gallery.page.get_by_label("Axial slice").fill("0.75")
    for at, picture in zip(first_and_last, before, strict=True):
        assert change(picture, pixels(gallery, at)) > 0.005


def test_a_link_opens_its_scan(visit, pages):
    reader = visit()
    address = (pages / "gallery.html").as_uri()
    reader.open(address)
    scan = reader.page.locator(".scan-card[id]").nth(1).get_attribute("data-scan")
    reader.open(f"{address}#scan-{scan}")
    reader.page.wait_for_function(
        f"document.querySelector('.scan-viewer')?.dataset.ready === {scan!r}", timeout=PATIENCE_MS
    )


def test_a_case_is_loaded_when_it_is_opened_and_small(gallery, pages):
    assert not any("vendor/niivue" in url or ("/scans/" in url and url.endswith(".js")) for url in gallery.requests)
    sizes = [path.stat().st_size for path in (pages / "scans").glob("*.js")]
    assert 0 < len(sizes) <= 15  # of all patients, however many
    assert max(sizes) <= LARGEST_BYTES


@pytest.mark.parametrize("look", ["no script", "no WebGL"])
def test_pictures_are_there_without_script_or_webgl(visit, pages, look):
    reader = visit(java_script_enabled=look != "no script")
    if look == "no WebGL":
        reader.context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    reader.open((pages / "gallery.html").as_uri())
    assert reader.page.locator("button.scan-open:visible").count() == 0
    picture = reader.page.locator(".scan-card img").first
    picture.scroll_into_view_if_needed()
    shown = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
    assert shown.std() > 20


def test_the_viewer_fits_a_phone(visit, pages):
    reader = visit(viewport=PHONE, is_mobile=True, has_touch=True)
    reader.open((pages / "gallery.html").as_uri())
    open_scan(reader, reader.page.locator(".scan-card button").first)
    assert (pixels(reader) > 40).any(axis=2).mean() > 0.2
    assert reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
