"""No small count is shown, and none can be found by subtraction."""

from itertools import product

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscct_lib.study import disclosure
from sscct_lib.study.disclosure import (
    HIDDEN,
    age_text,
    coarse_age,
    coarse_years,
    count_text,
    count_texts,
    quarter_steps,
)
from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.words import against_text, scans_text, span_text

LEAST, MOST = 3, 6  # the study's minimum, and the largest part: so few that all tables can be tried one by one


def left(texts: list[str], parts: list[int], totals) -> list[tuple[int, ...]]:
    """All tables that a reader who knows the rules cannot exclude: parts and what `totals` makes of them."""
    told = any(text.startswith("<") for text in texts)  # else nobody knows which of the hidden counts are small

    def fits(n: int, text: str) -> bool:
        if text == HIDDEN:
            return n >= LEAST or not told
        return 0 < n < LEAST if text.startswith("<") else n == int(text)

    cells = [[n for n in range(3 * MOST) if fits(n, texts[place])] for place in parts]
    return [full for one in product(*cells) if all(map(fits, full := totals(one), texts))]


@settings(max_examples=50)
@given(st.lists(st.integers(0, MOST), min_size=1, max_size=3), st.booleans())
def test_what_is_hidden_in_a_row_with_its_total_cannot_be_computed(parts, total_is_known):
    disclosure.protect(LEAST)
    counts = [sum(parts), *parts]
    sums = [(0, range(1, len(counts)))]
    texts = count_texts(counts, sums, known=[0] if total_is_known and sum(parts) >= LEAST else ())
    found = left(texts, list(range(1, len(counts))), lambda cells: (sum(cells), *cells))
    assert tuple(counts) in found
    for place, n in enumerate(counts):
        if 0 < n < LEAST:
            assert len({cells[place] for cells in found}) > 1, (counts, texts)


@settings(max_examples=15)
@given(st.lists(st.integers(0, MOST), min_size=4, max_size=4))
def test_nor_in_a_table_with_totals_both_ways(cells):
    disclosure.protect(LEAST)

    def totals(inner) -> tuple[int, ...]:
        a, b, c, d = inner
        return a, b, a + b, c, d, c + d, a + c, b + d, a + b + c + d

    counts = totals(cells)
    rows = [(3 * r + 2, (3 * r, 3 * r + 1)) for r in range(3)]
    texts = count_texts(counts, [*rows, *((6 + c, (c, 3 + c)) for c in range(3))])
    found = left(texts, [0, 1, 3, 4], totals)
    assert counts in found
    for place, n in enumerate(counts):
        if 0 < n < LEAST:
            assert len({cells[place] for cells in found}) > 1, (counts, texts)


@pytest.mark.parametrize(
    ("counts", "texts"),
    [
        ([76, 60, 16], ["76", "60", "16"]),
        ([76, 73, 3], ["76", HIDDEN, "<5"]),
        ([80, 60, 17, 3, 0], ["80", "60", HIDDEN, "<5", "0"]),
        ([7, 2, 5], [HIDDEN, "<5", "5"]),  # the total would give the 2 away
        ([3, 3, 0], ["<5", "<5", "0"]),
        ([63, 60, 1, 2], ["63", HIDDEN, "<5", "<5"]),  # else neither could be 3
        ([64, 59, 1, 4], ["64", "59", "<5", "<5"]),
    ],
)  # fmt: skip
def test_the_smallest_count_that_will_do_is_hidden_beside(counts, texts):
    assert count_texts(counts, [(0, range(1, len(counts)))]) == texts


def test_scans_of_few_patients_are_hidden_however_many_they_are():
    assert count_texts([40, 33, 7], [(0, (1, 2))], [20, 18, 2]) == ["40", HIDDEN, HIDDEN]
    assert scans_text(7, 2) == "scans of <5 patients"
    assert scans_text(1, 0) == "1 scan of 0 patients"
    row = pd.Series({"n_scans": 40, "n_events": 7, "n_unknown": 0, "n_patients_died": 2, "n_patients_alive": 18})
    assert against_text(row) == "scans of <5 patients against those of 18"
    assert span_text([2, 4]) == "<5"
    assert span_text([2, 14]) == "<5 to 14"


def test_the_study_says_from_how_many_on_and_1_shows_all(study_of, manifest_frame):
    assert count_text(4) == "<5"
    study = study_of(manifest_frame, "disclosure: {minimum: 1}\n")
    load_study(study.folder)
    assert [count_text(n) for n in (0, 1, 4)] == ["0", "1", "4"]
    (study.folder / "study.yaml").write_text("disclosure: {minimum: 10}\n")
    load_study(study.folder)
    assert count_text(9) == "<10"
    (study.folder / "study.yaml").write_text("disclosure: {minimum: 2}\n")
    with pytest.raises(StudyError, match="`<2` would say that it is 1"):
        load_study(study.folder)


def test_the_rule_is_written_so_that_the_book_shows_it_as_it_is():
    """A book writes `<` of a notebook as an entity, which would stand as it is inside of code."""
    assert "are shown as <5" in disclosure.rule_in_words()


def test_no_run_may_show_more_than_the_study(study_of, manifest_frame):
    study = study_of(manifest_frame)
    study.run.mkdir(parents=True)
    study.run_settings_path.write_text("disclosure: {minimum: 1}\n")
    with pytest.raises(StudyError, match=r"`disclosure` holds for all runs of a study; expected it in study\.yaml"):
        load_study(study.folder)


@given(st.floats(0, 120))
def test_ages_are_whole_years_and_the_oldest_are_one_group(years):
    text = age_text(years)
    assert text == ("90+" if years >= 90 else str(int(years)))
    assert coarse_age(years) == min(int(years), 90)


@given(st.floats(0, 40))
def test_times_are_told_to_the_quarter_year(years):
    assert coarse_years(years) % 0.25 == 0
    assert 0 <= years - coarse_years(years) < 0.25


def test_a_curve_is_drawn_by_quarters_and_ends_where_few_are_followed():
    years = [0.0, 0.1, 0.3, 1.0, 1.6, 2.0]
    curve = pd.DataFrame(
        {"years": years, "survival": [1, 0.9, 0.8, 0.8, 0.5, 0.5], "patients_at_risk": [9, 9, 8, 7, 5, 4]}
    )
    shown = quarter_steps(curve)
    assert list(shown["years"]) == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert list(shown["survival"]) == [1, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8]
    disclosure.protect(1)
    assert list(quarter_steps(curve)["years"])[-1] == 2
