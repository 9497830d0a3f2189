"""Checklists: every item once, every link leads to a heading of the book, every number comes from the run."""

import re

import pytest
import yaml

from sscct_lib.book import checklists
from sscct_lib.book.shown import PAGES
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import Settings
from sscct_lib.study.stages import NOTEBOOKS, PROJECT

COUNTS = {"tripod_ai": 52, "claim": 44, "clear": 58, "probast_ai": 16 + 18 + 3}
MAIN_ITEMS = {"tripod_ai": 27, "claim": 44, "clear": 58, "probast_ai": 4}
GENERATED = {
    "run",
    "data_dictionary",
    "odd_exports",
    "model_cards",
    "gallery",
    "patients",
    "sweep",
    *(f"checklist_{name}" for name in COUNTS),
}


def slugs(text):
    """The anchors of headings, as GitHub and MyST make them."""
    words = re.findall(r"^#{1,2} (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in words}


def pages():
    found = {path.stem: slugs(path.read_text(encoding="utf-8")) for path in (PROJECT / "book").glob("*.md")}
    of_notebooks = {}
    for name in NOTEBOOKS:
        source = (PROJECT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
        parts = re.split(r"^(?=# )", re.sub(r"^# ", "", source, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
        of_notebooks |= dict(zip(PAGES.get(name, (name,)), map(slugs, parts), strict=True))
    found |= {short: of_notebooks[page] for short, page in checklists.NOTEBOOK_PAGES.items()}
    return found | {"front": found["index"]} | {name: set() for name in GENERATED}


@pytest.mark.parametrize("name", checklists.NAMES)
def test_every_item_is_there_once_and_in_order(name):
    ids = [item.id for item in checklists.read_checklist(name).items]
    assert len(ids) == len(set(ids)) == COUNTS[name]
    numbers = [int(re.match(r"\d+", each)[0]) for each in ids]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, MAIN_ITEMS[name] + 1))


@pytest.mark.parametrize("name", checklists.NAMES)
def test_every_link_leads_to_a_heading(name):
    known = pages()
    for item in checklists.read_checklist(name).items:
        assert item.where or item.status == "open", f"{item.id} is {item.status} and says not where"
        for place in item.where:
            page, _, anchor = place.partition("#")
            assert page in known, f"{item.id}: {place}"
            assert not anchor or anchor in known[page], f"{item.id}: {place}"


@pytest.fixture
def study(tmp_path):
    made = Study(tmp_path, Settings(horizons_years=(2.0,), cohort={"n_folds": 7}))
    (made.run / "provenance").mkdir(parents=True)
    return made


@pytest.mark.parametrize("name", checklists.NAMES)
def test_a_page_has_every_item_and_the_settings_of_the_run(study, name):
    text = checklists.page(name, study, {})
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == COUNTS[name]
    assert "7 folds" in text
    assert "within 2 years" in text
    assert "{" not in text.replace("{cite:t}", "")
    met, partly, is_open = map(int, re.search(r"(\d+) met, (\d+) partly, (\d+) open", text).groups())
    assert met + partly + is_open == COUNTS[name]
    assert sum("| **open** |" in row for row in rows) == is_open > 0


def test_networks_are_named_and_how_deaths_were_weighted_follows_the_settings(tmp_path):
    of = {balance: Settings(deep={"networks": ["swin"], "swin": {"balance": balance}}) for balance in ("none", "loss")}
    plain, weighted = (checklists.page("tripod_ai", Study(tmp_path, settings), {}) for settings in of.values())
    assert "Swin Transformer with fixed settings" in plain
    assert "neither resampled nor weighted" in plain
    assert "neither resampled nor weighted" not in weighted
    assert "weigh more, in training" in weighted


def test_items_that_rest_on_a_missing_chapter_are_open(study):
    whole, less = (checklists.page("claim", study, missing) for missing in ({}, {"05_horizons": "It failed."}))
    assert less.count("**open**") > whole.count("**open**")
    assert "05_horizons.ipynb#" not in less
    assert "05_robustness.ipynb#" not in less


def test_what_only_the_owner_can_say_is_taken_from_a_file(study):
    (study.folder / "statements.yaml").write_text('claim: {"44": "Funded by nobody | at all."}')
    text = checklists.page("claim", study, {})
    assert "| 44 | Funding | met | Funded by nobody \\| at all. |" in text
    assert "| 18a | Funding | **open** |" in checklists.page("tripod_ai", study, {})


@pytest.mark.parametrize("text", ['claim: {"99": x}', "other: {}", "[1", "claim: words"])
def test_statements_of_another_form_are_refused(study, text):
    (study.folder / "statements.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"statements\.yaml"):
        checklists.page("claim", study, {})


def test_the_sources_are_short_paraphrases():
    for name in checklists.NAMES:
        content = yaml.safe_load((checklists.FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        assert all(len(item["asks"]) <= 90 for item in content["items"])


def test_pages_of_notebooks_are_the_notebooks():
    pages_there = [page for name in NOTEBOOKS for page in PAGES.get(name, (name,))]
    assert [page for page in pages_there if page != "05_attainable"] == list(checklists.NOTEBOOK_PAGES.values())
