"""The chapters are put together for print."""

import pytest
from bs4 import BeautifulSoup

from sscct_lib.book import pdf
from sscct_lib.study.folder import StudyError
from sscct_lib.study.stages import PROJECT

ARTICLE = """<article><h1 id="risks">Risks<a class="headerlink" href="#risks">#</a></h1>
<a href="../limits.html">limits</a> <a href="../limits.html#size">size</a> <a href="../run.html">run</a>
<a href="#risks">up</a> <a href="https://doi.org/10.1000/1">paper</a>
<img loading="lazy" src="../_images/a.png"/><button>Open</button></article>"""


@pytest.fixture(scope="module")
def printed() -> BeautifulSoup:
    article = BeautifulSoup(ARTICLE, "html.parser").article
    anchors = {"notebooks/05.html": "notebooks-05", "limits.html": "limits"}
    return BeautifulSoup(pdf.printed(article, "notebooks/05.html", anchors), "html.parser")


def test_links_lead_to_printed_chapters_and_others_become_words(printed):
    assert [link["href"] for link in printed.find_all("a")] == [
        "#limits",
        "#limits--size",
        "#notebooks-05--risks",
        "https://doi.org/10.1000/1",
    ]
    assert "run" in printed.get_text()
    assert printed.select_one("article")["id"] == "notebooks-05"
    assert printed.select_one("h1")["id"] == "notebooks-05--risks"


def test_pictures_are_found_from_the_front_page_and_buttons_are_gone(printed):
    assert printed.img["src"] == "_images/a.png"
    assert printed.img["loading"] == "eager"
    assert printed.find("button") is None


def test_the_front_page_comes_first_and_the_references_last():
    listed = pdf.chapters(PROJECT / "book" / "_toc.yml")
    assert listed[0] == "index"
    assert listed[-1] == "references"
    assert "notebooks/05_horizons" in listed
    assert "data_dictionary" not in listed


def test_without_a_browser_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pdf, "APPLICATIONS", ())
    with pytest.raises(StudyError, match="apt install chromium"):
        pdf.find_browser()
