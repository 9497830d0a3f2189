"""Dates of headers and names: the plausible one, by agreement; and PatientAge in all its forms."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscct_lib.intake.dates import OF_THE_SCAN, age_years, dates_in, scan_date
from sscct_lib.study import registry as days

NOW = pd.Timestamp("2026-06-01")


@pytest.fixture(autouse=True)
def _a_day_that_stays(monkeypatch):
    monkeypatch.setattr("sscct_lib.intake.dates.today", lambda: NOW)
    monkeypatch.setattr(days, "today", lambda: NOW)


def header(acquisition="", study="", series="", content="", moment="") -> dict[str, str]:
    return {
        "AcquisitionDate": acquisition, "AcquisitionDateTime": moment, "StudyDate": study, "SeriesDate": series,
        "ContentDate": content,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given_dates", "expected", "codes"),
    [
        (header("20190301", "20190301", "20190301", "20190301"), "2019-03-01", []),
        (header("20190302", "20190301"), "2019-03-02", []),  # a study that went on past midnight
        (header("19000101", "20190301"), "2019-03-01", ["date_impossible"]),
        (header("18991230", "20190301"), "2019-03-01", ["date_impossible"]),
        (header("00010101", "20190301"), "2019-03-01", ["date_impossible"]),
        (header("19700101", "20190301"), "2019-03-01", ["date_impossible"]),
        (header("20990101", "20190301"), "2019-03-01", ["date_impossible"]),
        (header("20260602", "20190301"), "2019-03-01", ["date_impossible"]),
        (header("20000101", "20190301", "20190301", "20190301"), "2019-03-01", ["dates_disagree"]),
        (header("20190301", "20190301", "20230505", "20230505"), "2019-03-01", ["dates_disagree"]),  # made later
        (header("20190301", "20000101", "20000101"), "2000-01-01", ["dates_disagree"]),
        (header("20150101", "20190301"), "2019-03-01", ["dates_disagree"]),  # a tie: the study's
        (header(moment="20190301101500.000000+0100"), "2019-03-01", []),
        (header("", "2019.03.01"), "2019-03-01", []),  # before DICOM 3
        (header("", "2019-03-01"), "2019-03-01", []),
        (header("19000101", "19000101"), None, ["dates_impossible"]),
        (header("nonsense"), None, ["dates_impossible"]),
        (header(), None, []),
    ],
)
def test_the_day_of_a_scan(given_dates, expected, codes):
    date, told = scan_date(given_dates)
    assert date == (None if expected is None else pd.Timestamp(expected))
    assert [one.code for one in told] == codes


def test_a_moment_is_no_second_voice_of_its_date():
    date, _ = scan_date(header("20000101", "20190301", moment="20000101120000"))
    assert date == pd.Timestamp("2019-03-01")


@given(st.dictionaries(st.sampled_from(OF_THE_SCAN), st.text(max_size=12)))
def test_any_text_in_a_header_gives_a_possible_day_or_none(texts):
    date, _ = scan_date(texts)
    assert date is None or days.EARLIEST <= date <= NOW


@given(st.dates(pd.Timestamp("1990-01-01").date(), NOW.date()), st.sampled_from(["%Y%m%d", "%Y-%m-%d", "%Y_%m_%d"]))
def test_a_date_that_stands_apart_is_found(day, form):
    (found,) = dates_in(f"MRN10023456_{day.strftime(form)}_ct")
    assert found.date == pd.Timestamp(day)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10023456_20190301", "2019-03-01"),
        ("pat20110512_a", None),
        ("P1_CT20190301", "2019-03-01"),
        ("P1-03.04.2019", "2019-04-03"),
        ("P1_25-12-2019", "2019-12-25"),
        ("P1_12-25-2019", "2019-12-25"),
        ("P1_20190301101500", "2019-03-01"),
        ("P1_2019-3-1", "2019-03-01"),
        ("P1_20191301", None),
        ("P1_19000101", None),
        ("P1_20990101", None),
        ("1.2.840.113619.2.55.3.20190301.123", None),
        ("20190301a7", None),
        ("123456789", None),
        ("2019", None),
    ],
)
def test_dates_in_names(name, expected):
    found = [one.date for one in dates_in(name)]
    assert found == ([] if expected is None else [pd.Timestamp(expected)])


def test_the_time_of_day_goes_with_the_date():
    (found,) = dates_in("P1_20190301_101500_x")
    assert "P1_20190301_101500_x"[found.end :] == "_x"


def test_day_and_month_that_cannot_be_told_apart_are_no_date():
    (found,) = dates_in("P1_03-04-2019")
    assert found.date is None


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("060Y", 60), ("60Y", 60), ("060", 60), ("60", 60), (" 060y ", 60), ("60.5Y", 60.5), ("60,5", 60.5),
        ("720M", 60), ("104W", 2), ("365D", 1), ("000Y", None), ("0", None), ("000D", None), ("999Y", None),
        ("121Y", None), ("", None), ("Y", None), ("ANON", None), ("-60Y", None), ("060X", None), ("60Y6M", None),
    ],
)  # fmt: skip
def test_ages(text, years):
    assert age_years(text) == (None if years is None else pytest.approx(years, abs=0.05))
