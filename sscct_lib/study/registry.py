"""What people write in a registry: columns under other spellings, cells of another type, and days that cannot be.

Columns are found, and suggested where they are only near. Days are those of a chest CT, lives and follow-ups those that
somebody can have. Every violation of a table is found, and names its row and column.
"""

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from sscct_lib.study.tables import read_csv

EARLIEST = pd.Timestamp("1975-01-01")  # the first CT of a chest; also later than most placeholders (1900, 1970)
LONGEST_FOLLOW_UP_YEARS = 60.0
OLDEST_YEARS = 120.0
DAYS_PER_YEAR = 365.25

HEADER_LINES = 2  # row 0 of a table is line 2 of its file, below the header
LARGEST_WHOLE = 2**53  # from here on a float no longer tells one whole number from the next
NEAR = 0.75
SYNONYMS = {
    "age": "age_years", "fvc": "fvc_percent", "fvcpredicted": "fvc_percent", "dlco": "dlco_percent",
    "tlco": "dlco_percent", "subtype": "ssc_subtype", "thickness": "slice_thickness_mm", "gender": "sex",
    "id": "patient_id", "mrn": "patient_id", "patient": "patient_id", "subject": "patient_id",
    "death": "event_observed", "died": "event_observed", "dead": "event_observed", "event": "event_observed",
    "deceased": "event_observed", "status": "event_observed", "lastcontact": "last_contact_date",
    "lastfollowup": "last_contact_date", "followupdate": "last_contact_date", "deathdate": "last_contact_date",
    "dateofdeath": "last_contact_date", "transplant": "transplant_date", "ctdate": "scan_date", "date": "scan_date",
    "visitdate": "scan_date", "cause": "cause_of_death",
}  # fmt: skip
"""What registries call columns; only suggested, since `fvc` may be in litres."""


def plain(name: str) -> str:
    """Write a column's name without case, blanks and punctuation, as names are compared."""
    return re.sub(r"[\W_]+", "", name).lower()


def suggested(name: str, known: Collection[str]) -> str | None:
    """Suggest which of the known columns a name may mean; None where none is near."""
    by_plain = {plain(one): one for one in known}
    meant = by_plain.get(plain(name)) or SYNONYMS.get(plain(name))
    if meant in known:
        return meant
    near = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=NEAR)
    return by_plain[near[0]] if near else None


def today() -> pd.Timestamp:
    """Give the day that it is; later ones lie in the future."""
    return pd.Timestamp.today().normalize()


def possible(dates: pd.Series) -> "pd.Series[bool]":
    """Tell which dates lie between the first CT of a chest and today; a missing one counts as possible."""
    return dates.isna() | ((dates >= EARLIEST) & (dates <= today()))


def beyond_a_life(days: pd.Series, age_years: pd.Series | None = None) -> "pd.Series[bool]":
    """Tell which follow-ups nobody has: more than 60 years, or beyond an age of 120 years where the age is known.

    Parameters
    ----------
    days
        From the scan to the last contact.
    age_years
        At the scan; missing where it is not known.
    """
    years = days.astype("Float64") / DAYS_PER_YEAR
    long = years > LONGEST_FOLLOW_UP_YEARS
    if age_years is not None:
        long |= (years + age_years.astype("Float64") > OLDEST_YEARS).fillna(False)
    return long.fillna(False).astype(bool)


@dataclass(frozen=True)
class Violation:
    """A cell that is not as it must be; a whole column where there is no line, a row where there is no column."""

    line: int | None
    column: str | None
    found: str | None  # None: not told
    expected: str

    def __str__(self) -> str:
        places = {"row": self.line, "column": self.column}
        where = ", ".join(f"{name} {place}" for name, place in places.items() if place is not None)
        found = "" if self.found is None else f"found {self.found}; "
        return f"{where}: {found}expected {self.expected}"


def violations(cells: pd.Series, rows: Iterable[Any], expected: str) -> list[Violation]:
    """Say of the cells of a column in some rows, counted from 0, what was expected."""
    shown = {row: repr(cells[row]) if isinstance(cells[row], str) else "an empty cell" for row in rows}
    return [Violation(int(row) + HEADER_LINES, str(cells.name), found, expected) for row, found in shown.items()]


def stripped(path: Path) -> pd.DataFrame:
    """Read a table as `tables.read_csv` does, without blanks round its cells; an empty cell is missing."""
    cells: pd.DataFrame = read_csv(path).apply(lambda column: column.str.strip())
    return cells.mask(cells == "")


def give_types(table: pd.DataFrame, schema: pa.DataFrameSchema) -> tuple[pd.DataFrame, list[Violation]]:
    """Turn text into the dates and numbers of a schema; a cell that is none is missing then, and is named."""
    typed, wrong = table.copy(), list[Violation]()
    for name in table.columns:
        typed[name], expected = _converted(table[name], str(schema.columns[name].dtype))
        wrong += violations(table[name], table.index[typed[name].isna() & table[name].notna()], expected)
    return typed, wrong


def _converted(cells: pd.Series, dtype: str) -> tuple[pd.Series, str]:
    if dtype.startswith("datetime"):
        return pd.to_datetime(cells, format="%Y-%m-%d", errors="coerce"), "a date as YYYY-MM-DD"
    if dtype not in ("Int64", "float64"):
        return cells, ""
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    if dtype == "float64":
        return numbers, "a number"
    whole = (numbers % 1 == 0) & (numbers.abs() < LARGEST_WHOLE)
    return numbers.where(whole).astype("Int64"), "a whole number"


def fulfil(table: pd.DataFrame, schema: pa.DataFrameSchema) -> tuple[pd.DataFrame, list[Violation]]:
    """Compare a table with a schema: the table with the types of its columns, or as it was with all that is wrong."""
    try:
        return schema.validate(table, lazy=True), []
    except pa.errors.SchemaErrors as errors:
        return table, [_violation(case) for case in errors.failure_cases.to_dict("records")]


def _violation(case: dict[Any, Any]) -> Violation:
    line = None if pd.isna(case["index"]) else int(case["index"]) + HEADER_LINES
    if case["check"] == "not_nullable":
        return Violation(line, str(case["column"]), "an empty cell", "a value in every row")
    return Violation(line, str(case["column"]), repr(case["failure_case"]), str(case["check"]))
