"""Columns of tables that people wrote, found under other spellings, and suggested where they are only near."""

import difflib
import re
from collections.abc import Collection

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
