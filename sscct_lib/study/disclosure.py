"""Statistical disclosure control: what is shown lets nobody recognise a patient. The only place where it is decided.

Tables of a run stay exact, for the study needs them. Counts, ages and times become text here, for notebooks, pages,
model cards and files that travel. The least count that may be shown is the study's (`disclosure.minimum`), and holds in
the whole process from when the study is opened; before that it is the default.

References
----------
Hundepool A, et al. Statistical Disclosure Control. Wiley 2012 (chapter 4: cell suppression and its audit by linear
programming).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sscct_lib.study.settings import DisclosureSettings

HIDDEN = "hidden"
"""Stands for a count from which, with others, a small one could be found; and for scans of too few patients."""
OLDEST_YEARS = 89
QUARTERS = 4  # of a year

_minimum = DisclosureSettings().minimum
Sum = tuple[int, Iterable[int]]  # where the total stands, and its parts


def protect(minimum: int) -> None:
    """Set the least count of patients that this process shows; 1: all are shown."""
    global _minimum
    _minimum = minimum


def minimum() -> int:
    """The least count of patients that this process shows."""
    return _minimum


def rule_in_words() -> str:
    """Say what is not shown of few patients, once in a book, where its counts begin."""
    if _minimum == 1:
        return (
            "**Every count is shown, however small** (`disclosure: {minimum: 1}` in `study.yaml`): who knows a patient "
            "may recognise one in these tables. A book of real patients that is made so stays inside the hospital."
        )
    return (
        f"**Small counts.** So that nobody is recognised, counts of fewer than {_minimum} patients or deaths, and of "
        f"their scans, are shown as <{_minimum}, and a count from which, with others, one of these could be found as "
        f"*{HIDDEN}*. Of fewer than {_minimum} patients no median and no estimate is told. Curves are drawn by "
        f"quarters of a year, and end where fewer than {_minimum} patients are followed. Ages are whole years, `90+` "
        "for the oldest; when a single patient died or was last seen is told in whole quarters of a year. The tables "
        "behind this book are exact, and stay in the study (`disclosure` in `study.yaml`)."
    )


def is_small(n_patients: float) -> bool:
    """Whether so few patients are not to be told."""
    return 0 < n_patients < _minimum


def count_text(n: float) -> str:
    """Write a count of patients, or of deaths: `1,234`, or `<5`; nobody is 0."""
    return f"<{_minimum}" if is_small(n) else f"{int(n):,}"


def of_patients(n: float, n_patients: float) -> str:
    """Write a count of scans, or of whatever else patients have several of, of so many patients."""
    if not is_small(n_patients):
        return f"{int(n):,}"
    return count_text(n) if is_small(n) else HIDDEN


def count_texts(
    counts: ArrayLike, sums: Sequence[Sum] = (), patients: ArrayLike | None = None, known: Sequence[int] = ()
) -> list[str]:
    """Write counts that stand together, so that none that is hidden can be found by subtraction.

    Parameters
    ----------
    counts
        Of patients, or of their scans, shape (n,); totals among them.
    sums
        Which counts are the sum of which others, by their places.
    patients
        Of how many patients each count is, shape (n,), where it counts scans.
    known
        Places of totals that readers find elsewhere, which cannot be hidden.

    Returns
    -------
    list of str
        `<5` for a small count, `HIDDEN` for one hidden beside it, the smallest that will do. By what is shown, a reader
        can work out no more of a small count than if all others were hidden; but for a total that is known, and never
        the count itself.
    """
    values = np.asarray(counts, dtype=float)
    of = values if patients is None else np.asarray(patients, dtype=float)
    small = (of > 0) & (of < _minimum) & (values > 0)
    beside = np.zeros(len(values), dtype=bool)
    texts = [of_patients(n, who) for n, who in zip(values, of, strict=True)]
    ends = _ends(values, small, ~small & (values > 0), sums)  # were everything else hidden
    while len(found := _found(values, small, beside, sums, ends)):
        fit = _shown_beside(found, values, small | beside, sums, known)
        if not len(fit):
            break
        beside[fit[np.argmin(values[fit])]] = True
    for place in [] if len(found) else sorted(np.flatnonzero(beside), key=lambda at: -values[at]):
        beside[place] = False  # those hidden after it may have made it needless
        beside[place] = len(_found(values, small, beside, sums, ends)) > 0
    least, most = _ends(values, small, beside, sums)
    if (least == most).any():  # readers must not even know which of the hidden ones are small
        beside |= small
    return [HIDDEN if hidden else text for hidden, text in zip(beside, texts, strict=True)]


def _found(
    values: NDArray[np.float64], small: NDArray[np.bool_], beside: NDArray[np.bool_], sums: Sequence[Sum],
    ends: NDArray[np.float64],
) -> NDArray[np.int64]:  # fmt: skip
    """Places of small counts of which more can be worked out than if all others were hidden, or all."""
    least, most = _ends(values, small, beside, sums)
    found: NDArray[np.int64] = np.flatnonzero(small)[
        (least > ends[0]) | (most < np.minimum(ends[1], _minimum - 1)) | (least == most)
    ]
    return found


def _ends(
    values: NDArray[np.float64], small: NDArray[np.bool_], beside: NDArray[np.bool_], sums: Sequence[Sum]
) -> NDArray[np.float64]:
    """The least and the most that each small count may be, by the sums and the counts that are shown, shape (2, n)."""
    low = np.where(small, 1, np.where(beside, _minimum, values))
    high = np.where(small & (values < _minimum), _minimum - 1, np.where(small | beside, np.inf, values))
    if not sums or not small.any():
        return np.array([low[small], high[small]])
    from scipy.optimize import linprog  # takes long to load, and most tables have nothing small

    equal = np.zeros((len(sums), len(values)))
    for row, (total, parts) in zip(equal, sums, strict=True):
        row[[*parts]], row[total] = 1, -1
    ends = np.full((2, int(small.sum())), np.inf)
    for number, place in enumerate(np.flatnonzero(small)):
        for end, sign in enumerate((1, -1)):
            goal = sign * np.eye(len(values))[place]
            solved = linprog(goal, A_eq=equal, b_eq=np.zeros(len(sums)), bounds=np.c_[low, high])
            if solved.x is not None:  # else it has no greatest value
                ends[end, number] = round(solved.x[place], 6)
    return ends


def _shown_beside(
    found: NDArray[np.int64], values: NDArray[np.float64], hidden: NDArray[np.bool_], sums: Sequence[Sum],
    known: Sequence[int],
) -> NDArray[np.int64]:  # fmt: skip
    """Places of shown counts that share a sum with hidden ones by which a small count is found."""
    near = set(found.tolist())
    for _ in sums:  # hidden counts lead from one sum to the next
        for total, parts in sums:
            if near & {total, *parts}:
                near |= {place for place in (total, *parts) if hidden[place]}
    beside = {place for total, parts in sums if near & {total, *parts} for place in (total, *parts)}
    return np.array([at for at in sorted(beside - {*known}) if not hidden[at] and values[at] > 0], dtype=np.int64)


def age_text(years: float) -> str:
    """Write the age of a patient: whole years, and `90+` for all who are older than 89."""
    return f"{OLDEST_YEARS + 1}+" if int(years) > OLDEST_YEARS else f"{int(years)}"


def coarse_age(years: float) -> float:
    """Give the age of a patient for a file: whole years, and 90 for all who are older than 89."""
    return float(min(int(years), OLDEST_YEARS + 1))


def coarse_years(years: float) -> float:
    """Give the time of a patient's death or last contact in whole quarters of a year, of those that have passed."""
    return math.floor(years * QUARTERS) / QUARTERS


def quarters_text(years: float) -> str:
    """Write the time of a patient's death or last contact, for example `2.25 years`."""
    coarse = coarse_years(years)
    if coarse == 0:
        return "less than a quarter of a year"
    return "1 year" if coarse == 1 else f"{coarse:g} years"


def quarter_steps(curve: pd.DataFrame) -> pd.DataFrame:
    """Keep of a step curve what may be drawn: a point a quarter of a year, as long as enough patients are followed.

    Parameters
    ----------
    curve
        By `years`, rising, from 0 on: what is drawn, and `patients_at_risk`.
    """
    years = curve["years"].to_numpy(dtype=float)
    grid = np.arange(0, years.max() + 1e-9, 1 / QUARTERS)
    last = np.searchsorted(years, grid + 1e-9, side="right") - 1  # the step that holds then
    following = np.minimum(np.searchsorted(years, grid - 1e-9), len(years) - 1)  # who is followed to then
    enough = curve["patients_at_risk"].to_numpy()[following] >= _minimum
    return curve.iloc[last].assign(years=grid)[enough].reset_index(drop=True)
