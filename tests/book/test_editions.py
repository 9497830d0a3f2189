"""Both editions come from one page: one without code, one with code and settings folded."""

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from sscct_lib.book import editions
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import Settings

PAGE = """<html><head><script src="../_static/scripts/fontawesome.js?x"></script>
<script>const THEBE_JS_URL = "https://unpkg.com/thebe@0.8.2/lib/index.js"</script>
<link rel="stylesheet" href="../_static/book.css"/></head><body data-default-mode="">
<div class="article-header-buttons"><a class="btn-download-source-button" href="../_sources/x.ipynb">.ipynb</a></div>
<article><h1>Risks<a class="headerlink" href="#risks">#</a></h1>
<div class="cell"><div class="cell_input"><pre>import pandas</pre></div></div>
<p>Each point is a group of scans.</p>
<div class="cell tag_hide-input"><details class="admonition hide above-input"><summary aria-label="Toggle"><p>Show</p>
</summary><div class="cell_input"><pre>draw()</pre></div></details>
<div class="cell_output"><div class="output"><img alt="Figure" src="../_images/a.png"/></div></div></div>
</article></body></html>"""
PLACE = Path("notebooks/05_horizons.html")


@pytest.fixture(scope="module")
def both() -> tuple[BeautifulSoup, BeautifulSoup]:
    texts = editions.editions(PAGE, PLACE, Settings(horizons={"n_bootstrap": 17, "reference": "/data/nets/a.pth"}))
    clinicians, analysts = (BeautifulSoup(text, "html.parser") for text in texts)
    return clinicians, analysts


def test_clinicians_see_figures_and_no_code(both):
    clinicians, _ = both
    assert clinicians.find("pre") is None
    assert clinicians.find("details") is None
    assert len(clinicians.select("div.cell")) == 1
    assert clinicians.select_one("img")["src"] == "../_images/a.png"
    assert clinicians.select_one(".btn-download-source-button") is None


def test_analysts_see_all_code_and_the_settings_folded(both):
    _, analysts = both
    for code in ("import pandas", "draw()"):
        assert analysts.find("pre", string=code).find_parent("details") is not None
    settings = analysts.select_one("h1 + details").get_text()
    assert "n_bootstrap: 17" in settings
    assert "/data" not in settings
    assert analysts.select_one("img")["src"] == "../../_images/a.png"
    assert analysts.select_one("link")["href"] == "../../_static/book.css"


def test_each_edition_links_to_the_same_page_of_the_other(both):
    clinicians, analysts = both
    there, back = (page.select_one("a.edition-link")["href"] for page in (clinicians, analysts))
    assert (PLACE.parent / there) == Path("notebooks/../analysts/notebooks/05_horizons.html")
    assert (PLACE.parent / back) == Path("notebooks/../../notebooks/05_horizons.html")


def test_nothing_is_asked_of_the_network(both):
    for page in both:
        assert "https://" not in str(page)
        assert "fontawesome.js" not in str(page)


def test_a_figure_is_described_by_its_heading_and_the_words_before_it(both):
    assert both[0].select_one("img")["alt"] == "Risks. Each point is a group of scans."


def test_missing_browser_packages_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(StudyError, match=r"niivue.*make web"):
        editions.copy_browser_files(tmp_path / "html", tmp_path / "nothing")


def test_viewer_and_mathematics_are_copied(tmp_path):
    editions.copy_browser_files(tmp_path)
    assert (tmp_path / "vendor" / "niivue.js").stat().st_size > 1_000_000
    assert len(list((tmp_path / "vendor" / "mathjax" / "output").rglob("*.woff"))) > 20


def test_a_figure_opens_alone_and_no_line_ends_before_a_percent_sign():
    page = PAGE.replace("Each point is a group of scans.", "Of 100 scans 7 % die.")
    clinicians, analysts = (BeautifulSoup(text, "html.parser") for text in editions.editions(page, PLACE, Settings()))
    assert clinicians.select_one("img").parent["href"] == "../_images/a.png"
    assert analysts.select_one("img").parent["href"] == "../../_images/a.png"
    assert "7\u00a0% die" in clinicians.get_text()


def test_a_page_without_formulas_loads_no_mathjax():
    script = '<script defer="defer" src="../_static/../vendor/mathjax/tex-chtml.js"></script>'
    plain = PAGE.replace("<head>", f"<head>{script}")
    formula = plain.replace("<p>Each", '<span class="math notranslate nohighlight">\\(p\\)</span><p>Each')
    for page, there in ((plain, False), (formula, True)):
        assert [("mathjax" in text) for text in editions.editions(page, PLACE, Settings())] == [there, there]


def test_what_a_cell_folds_is_folded_in_both_editions():
    folded = PAGE.replace('class="cell tag_hide-input"', 'class="cell tag_hide-input tag_fold-output"')
    for text in editions.editions(folded, PLACE, Settings()):
        fold = BeautifulSoup(text, "html.parser").select_one("details.folded-output")
        assert fold.find("summary").get_text() == "Show the table"
        assert fold.select_one("div.cell_output img") is not None


def test_every_table_that_a_notebook_shows_has_the_colours_of_tables():
    table = '<div class="output text_html"><table id="T_1"><tr><td>{}</td></tr></table></div>'
    shown = PAGE.replace(
        "<img", table.format("plain") + table.replace("<table", '<table class="dataframe"') + "<img", 1
    )
    for text in editions.editions(shown, PLACE, Settings()):
        tables = BeautifulSoup(text, "html.parser").select("div.output table")
        assert [each["class"] for each in tables] == [["dataframe"], ["dataframe"]]


def test_figures_that_no_page_shows_go(tmp_path):
    rendered, html = tmp_path / "rendered", tmp_path / "html"
    for folder in (rendered / "_images", html / "_images"):
        folder.mkdir(parents=True)
        for name in ("a.png", "old.png"):
            (folder / name).write_bytes(b"x")
    (rendered / "index.html").write_text('<img src="_images/a.png">')
    editions._remove_unused_images(rendered, html)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["a.png", "a.png"]


def test_a_column_of_numbers_is_one_whatever_stands_in_place_of_a_number():
    page = BeautifulSoup(
        "<table><thead><tr><th>model</th><th>AUC</th><th>expected</th></tr></thead><tbody>"
        "<tr><th>A</th><td>0.73 (0.42 to 0.91), width 0.49</td><td>a date</td></tr>"
        "<tr><th>B</th><td>-0.01 (-0.20 to 0.10)</td><td>1 to 64 letters</td></tr>"
        "<tr><th>C</th><td>not estimable</td><td></td></tr>"
        "<tr><th>D</th><td>17 of 246 (44 unknown)</td><td></td></tr></tbody></table>",
        "html.parser",
    )
    editions._align(page, page.table)
    numbers = [cell.decode_contents() for cell in page.select(".number")]
    whole = [text.replace("\u00a0", "_") for text in numbers]
    assert whole == [
        "AUC",
        "0.73<wbr/>_(0.42_to_0.91), width_0.49",
        "-0.01<wbr/>_(-0.20_to_0.10)",
        "not estimable",
        "17_of_246 (44_unknown)",
    ]


def test_what_rests_on_too_few_patients_is_grey():
    page = BeautifulSoup(
        "<table><tbody><tr><th>A</th><td>0.73</td><td>too small</td></tr>"
        "<tr><th>B</th><td>0.6</td><td>too small; 3 scans of 2 patients against 9 of 4</td></tr></tbody></table>",
        "html.parser",
    )
    editions._align(page, page.table)
    assert [cell.get_text()[:9] for cell in page.select(".too-small")] == ["too small"] * 2
