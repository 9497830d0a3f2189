"""A browser, and the built book of the tiny study over a disk and over http."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from sscct_lib.book.chapters import front_page
from sscct_lib.book.pdf import BROWSERS

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 740}
PATIENCE_MS = 120_000  # without a graphics card, on a busy machine
# WebGL without a graphics card; no sandbox, since CI may be root.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def browser():
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("neither Chromium nor Chrome is installed (apt install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def pages(finished) -> Path:
    """Give the folder of the built book."""
    return front_page(finished).parent


@pytest.fixture(scope="session")
def served(pages: Path):
    """Serve the book over http and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(pages)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session", params=["disk", "http"])
def book(request, pages: Path) -> str:
    """Give the address of the front page's folder, on the disk and on a server."""
    return pages.as_uri() + "/" if request.param == "disk" else request.getfixturevalue("served")


class Visit:
    """A page in the browser that notes what goes wrong in it."""

    def __init__(self, browser: Browser, **look: object) -> None:
        self.context: BrowserContext = browser.new_context(**look)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.faults.append(f"{request.url}: {request.failure}"))
        self.page.on(
            "response", lambda answer: answer.status < 400 or self.faults.append(f"{answer.url}: {answer.status}")
        )
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))

    def open(self, address: str) -> None:
        # Pictures of the page before that still load are given up here; that is no fault of the next page.
        self.page.goto("about:blank")
        self.requests.clear()
        self.faults.clear()
        self.page.goto(address, wait_until="load")

    def wrong(self, home: str) -> list[str]:
        """List faults, and requests for anything outside the book."""
        outside = [url for url in self.requests if not url.startswith((home, "data:", "blob:"))]
        return [*outside, *self.faults]

    def check(self, home: str) -> None:
        """Refuse what is wrong."""
        assert not self.wrong(home), (self.page.url, self.wrong(home))


@pytest.fixture
def visit(browser: Browser):
    """Open visits that are closed after the test."""
    opened: list[Visit] = []

    def make(**look: object) -> Visit:
        opened.append(Visit(browser, **{"viewport": DESKTOP, **look}))
        return opened[-1]

    yield make
    for one in opened:
        one.context.close()
