"""Which days can be the day of a chest CT, and how long a life and a follow-up can be."""

import pandas as pd

EARLIEST = pd.Timestamp("1975-01-01")  # the first CT of a chest; also later than most placeholders (1900, 1970)
LONGEST_FOLLOW_UP_YEARS = 60.0
OLDEST_YEARS = 120.0
DAYS_PER_YEAR = 365.25


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
