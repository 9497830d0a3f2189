"""Dates of headers and in names of files, where they can be the day of a CT; and ages, as DICOM writes them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from sscct_lib.images.reasons import Told, told
from sscct_lib.study.registry import DAYS_PER_YEAR, EARLIEST, OLDEST_YEARS, today

OF_THE_SCAN = ("AcquisitionDate", "AcquisitionDateTime", "StudyDate", "SeriesDate", "ContentDate")
"""Dates of a header, the nearest to the moment of the scan first."""
SAME_SCAN_DAYS = 7  # dates of one scan differ by no more: a study that goes on over a weekend

PER_YEAR = {"Y": 1.0, "M": 12.0, "W": DAYS_PER_YEAR / 7, "D": DAYS_PER_YEAR}
AGE = re.compile(r"(\d{1,5}(?:[.,]\d+)?)\s*([YMWD]?)")

YEAR_FIRST = re.compile(r"(?<!\d)(?P<year>\d{4})(?P<sep>[-_.])(?P<month>\d{1,2})(?P=sep)(?P<day>\d{1,2})(?!\d)")
YEAR_LAST = re.compile(r"(?<!\d)(?P<first>\d{1,2})(?P<sep>[-_.])(?P<second>\d{1,2})(?P=sep)(?P<year>\d{4})(?!\d)")
EIGHT_DIGITS = re.compile(r"(?<!\d)(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)(?:\d{6})?(?!\d)")
TIME_AFTER = re.compile(r"[-_ T]?([01]\d|2[0-3])[-_.:]?[0-5]\d[-_.:]?[0-5]\d(?!\d)")
UID = re.compile(r"(?<![\w.])\d+(?:\.\d+){4,}")
GLUED = re.compile(r"([A-Za-z]+)$")
NO_ID = re.compile(r"(ct|hrct|cta|date|d|dt|exam|study|scan|chest|thorax|visit|on|of|acq|series)", re.IGNORECASE)
"""Letters that may stand before a date without a gap: with others, digits belong to a number of a patient."""


@dataclass(frozen=True)
class Written:
    """Digits in a name that may be a date."""

    start: int
    end: int  # behind the time of day, where one follows
    date: pd.Timestamp | None  # None: a date, but of which day cannot be told
    is_certain: bool  # False: eight digits, which may as well be somebody's number


def age_years(text: str) -> float | None:
    """Read PatientAge in all its forms (`060Y`, `60`, `720M`, weeks, days, decimals); None where it says nothing.

    An age of 0 is what anonymisers write, and no patient with systemic sclerosis has it.
    """
    found = AGE.fullmatch(text.strip().upper())
    if not found:
        return None
    years = float(found[1].replace(",", ".")) / PER_YEAR[found[2] or "Y"]
    return round(years, 1) if 0 < years <= OLDEST_YEARS else None


def scan_date(header: Mapping[str, str]) -> tuple[pd.Timestamp | None, list[Told]]:
    """Take the day of a scan from the dates of its header: the one on which most agree, StudyDate at a tie.

    None where no date of `OF_THE_SCAN` can be the day of a CT. Dates that were not believed are told, without the date.
    """
    given = {name: header.get(name, "").strip() for name in OF_THE_SCAN}
    read = {name: _day_of(text) for name, text in given.items() if text}
    dates = {name: date for name, date in read.items() if date is not None and EARLIEST <= date <= today()}
    n_impossible = len(read) - len(dates)
    if not dates:
        return None, [told("dates_impossible", n=n_impossible)] if n_impossible else []
    if "AcquisitionDate" in dates:  # the same said twice is no second voice
        dates.pop("AcquisitionDateTime", None)
    agreeing = {name: [one for one in dates if abs(dates[one] - date).days <= SAME_SCAN_DAYS]
                for name, date in dates.items()}  # fmt: skip
    best = max(dates, key=lambda name: (len(agreeing[name]), "StudyDate" in agreeing[name]))
    remarks = [told("date_impossible", n=n_impossible)] if n_impossible else []
    if len(agreeing[best]) < len(dates):
        apart = max(abs(date - dates[best]).days for date in dates.values())
        remarks.append(told("dates_disagree", n=len(dates) - len(agreeing[best]), days=apart))
    return dates[next(name for name in OF_THE_SCAN if name in agreeing[best])], remarks


def dates_in(text: str) -> list[Written]:
    """Find in a name what may be the day of a scan, in the order of the name: YYYY-MM-DD, DD.MM.YYYY, YYYYMMDD.

    Days before the first CT and in the future are none, nor are digits of a UID, or digits that hang on letters (as in
    `pat20110512`), unless these say so (`CT20110512`).
    """
    hidden = UID.sub(lambda found: "x" * len(found[0]), text)
    written = [_written(text, found, _calendar(found["year"], found["month"], found["day"]))
               for found in YEAR_FIRST.finditer(hidden)]  # fmt: skip
    written += [_year_last(text, found) for found in YEAR_LAST.finditer(hidden)]
    for found in EIGHT_DIGITS.finditer(hidden):
        before = GLUED.search(hidden[: found.start()])
        glued = (before is not None and not NO_ID.fullmatch(before[1])) or re.match(r"[A-SU-Za-z]", text[found.end() :])
        if not glued:
            day = _calendar(found["year"], found["month"], found["day"])
            written.append(_written(text, found, day, is_certain=False))
    return sorted((one for one in written if one is not None), key=lambda one: one.start)


def digits_not_taken(text: str, dates: Iterable[Written]) -> bool:
    """Tell whether a name holds eight digits that are a day of some calendar, and none of the dates that were taken.

    They hang on letters as a patient's number does, or are no day of a CT.
    """
    taken = {one.start for one in dates}
    hidden = UID.sub(lambda found: "x" * len(found[0]), text)
    return any(
        pd.notna(pd.to_datetime("-".join(found.group("year", "month", "day")), format="%Y-%m-%d", errors="coerce"))
        for pattern in (YEAR_FIRST, EIGHT_DIGITS)
        for found in pattern.finditer(hidden)
        if found.start() not in taken
    )


def numbers_not_dates(names: Iterable[str]) -> set[int]:
    """Find which groups of eight digits (0: the first in a name) are no date in half of a folder's names, or more."""
    groups = [[_calendar(*found.group("year", "month", "day")) for found in EIGHT_DIGITS.finditer(name)]
              for name in names]  # fmt: skip
    places = range(max(map(len, groups), default=0))
    at = {place: [dates[place] for dates in groups if place < len(dates)] for place in places}
    return {place for place, dates in at.items() if 2 * dates.count(None) >= len(dates)}


def place_of_eight(text: str, start: int) -> int | None:
    """Tell which of the groups of eight digits of a name begins at `start`; None: none of them."""
    starts = [found.start() for found in EIGHT_DIGITS.finditer(text)]
    return starts.index(start) if start in starts else None


def _day_of(text: str) -> pd.Timestamp | None:
    """Read a date of a header: YYYYMMDD, a time behind it or not, with dots as before DICOM or with hyphens."""
    date = pd.to_datetime(re.sub(r"\D", "", text)[:8], format="%Y%m%d", errors="coerce")
    return None if pd.isna(date) else date


def _calendar(year: str, month: str, day: str) -> pd.Timestamp | None:
    """Make a date that can be the day of a CT, else None."""
    date = pd.to_datetime(f"{year}-{int(month):02d}-{int(day):02d}", format="%Y-%m-%d", errors="coerce")
    return date if pd.notna(date) and EARLIEST <= date <= today() else None


def _written(text: str, found: re.Match[str], date: pd.Timestamp | None, is_certain: bool = True) -> Written | None:
    if date is None:
        return None
    time = TIME_AFTER.match(text, found.end())
    return Written(found.start(), time.end() if time else found.end(), date, is_certain)


def _year_last(text: str, found: re.Match[str]) -> Written | None:
    """Read DD-MM-YYYY; MM-DD-YYYY only where the day tells it, and none of both where either could be the day."""
    european = _calendar(found["year"], found["second"], found["first"])
    american = _calendar(found["year"], found["first"], found["second"])
    if european and american and european != american and found["sep"] != ".":
        return Written(found.start(), found.end(), None, is_certain=False)
    return _written(text, found, european or american)
