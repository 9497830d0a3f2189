"""What people write in a registry: columns under other spellings, and days that cannot be.

Columns are found, and suggested where they are only near. Days are those of a chest CT, lives and follow-ups those that
somebody can have.
"""

import difflib
import re
from collections.abc import Collection

import pandas as pd

EARLIEST = pd.Timestamp("1975-01-01")  # the first CT of a chest; also later than most placeholders (1900, 1970)
LONGEST_FOLLOW_UP_YEARS = 60.0
OLDEST_YEARS = 120.0
DAYS_PER_YEAR = 365.25

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
