"""How far two readers of masks agree: their decisions side by side, and Cohen's kappa.

What is compared is the first that each reader said of a mask, which they said without knowing the other: what they say
later, having spoken, would make them look alike.

References
----------
Cohen J. A coefficient of agreement for nominal scales. Educ Psychol Meas 1960;20:37-46.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.lungs.decisions import IN_WORDS, since_mended
from sscct_lib.study.disclosure import count_text, is_small
from sscct_lib.study.words import estimate_text, scans_text

N_RESAMPLES = 2000


def side_by_side(decisions: pd.DataFrame) -> pd.DataFrame:
    """Give what each reader said first of each mask: a row a scan, a column a reader, by initials, in words.

    `decisions` as `decisions.read_decisions` gives them; a scan of a single reader is there too, with an empty cell.
    """
    first = since_mended(decisions).drop_duplicates(["scan_id", "who"])
    wide = first.assign(said=first["verdict"].map(IN_WORDS)).pivot(index="scan_id", columns="who", values="said")
    return wide.rename_axis(columns=None)


def differing(decisions: pd.DataFrame) -> pd.DataFrame:
    """Choose the scans of `side_by_side` on which readers differ; `scan_id` is a column."""
    wide = side_by_side(decisions)
    differ = [len(set(row.dropna())) > 1 for _, row in wide.iterrows()]
    return wide[differ].fillna("").reset_index()


def agreement_in_words(decisions: pd.DataFrame, patients: "pd.Series[str]", seed: int) -> str:
    """Say of each two readers how far they agree, kappa with its 95 % interval; patients are resampled.

    Parameters
    ----------
    patients
        The patient of each scan, by its id.
    """
    wide = side_by_side(decisions[decisions["scan_id"].isin(patients.index)])
    said = []
    for one, other in combinations(wide.columns, 2):
        both = wide[[one, other]].dropna()
        of = patients[both.index]
        if is_small(n := of.nunique()):
            if n:
                said.append(f"{one} and {other} both looked at scans of {count_text(n)} patients: too few to compare.")
            continue
        kappa, low, high = kappa_with_interval(both[one], both[other], of, seed)
        told = f"kappa {estimate_text(kappa, low, high)}" if np.isfinite(kappa) else "all alike"
        said.append(f"{one} and {other}, {scans_text(len(both), n)}: {told}.")
    return " ".join(said) or "No two readers decided on the same scans."


def kappa_with_interval(
    one: "pd.Series[str]", other: "pd.Series[str]", patients: "pd.Series[str]", seed: int
) -> tuple[float, float, float]:
    """Give Cohen's kappa of two readers, and its percentile interval over resampled patients.

    Series of one row a scan, in the same order. Not a number where both readers said one and the same of all scans.
    """
    words = [*IN_WORDS.values()]
    pairs = np.array([words.index(a) * len(words) + words.index(b) for a, b in zip(one, other, strict=True)])
    codes, names = pd.factorize(patients)
    counts = np.zeros((len(names), len(words) ** 2))
    np.add.at(counts, (codes, pairs), 1)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), N_RESAMPLES)
    resampled = _kappa((times @ counts).reshape(-1, len(words), len(words)))
    low, high = np.nanquantile(resampled, [0.025, 0.975]) if np.isfinite(resampled).any() else (np.nan, np.nan)
    (kappa,) = _kappa(counts.sum(axis=0).reshape(1, len(words), len(words)))
    return float(kappa), float(low), float(high)


def _kappa(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa of tables of counts, shape (n, kinds, kinds)."""
    shares = tables / tables.sum(axis=(1, 2), keepdims=True)
    seen = np.trace(shares, axis1=1, axis2=2)
    chance = (shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(chance < 1 - 1e-12, (seen - chance) / (1 - chance), np.nan))
