"""Kappa against a published example, scikit-learn and the closed form; what two readers say, side by side."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from sscct_lib.lungs.agreement import agreement_in_words, differing, kappa_with_interval, side_by_side
from sscct_lib.lungs.decisions import COLUMNS, IN_WORDS


def decided(*rows) -> pd.DataFrame:
    """Decisions given as `scan verdict who`."""
    cells = [[*row.split(), "2026-03-01", "seen"] for row in rows]
    return pd.DataFrame(cells, columns=list(COLUMNS))


def readers(table: list[list[int]]) -> tuple[pd.Series, pd.Series]:
    """Two readers whose decisions have these counts."""
    pairs = [(a, b) for a, row in enumerate(table) for b, n in enumerate(row) for _ in range(n)]
    words = [*IN_WORDS.values()]
    return (pd.Series([words[pair[at]] for pair in pairs]) for at in (0, 1))


def test_kappa_of_cohens_paper():
    # Cohen 1960, table 1, as counts of 200: kappa .492.
    one, other = readers([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    kappa, low, high = kappa_with_interval(one, other, pd.Series(range(200)), 0)
    assert kappa == pytest.approx(0.492, abs=5e-4)
    assert low < kappa < high


@pytest.mark.parametrize("seed", range(3))
def test_kappa_and_interval_against_other_software(seed):
    table = np.random.default_rng(seed).integers(10, 60, (3, 3)) + 100 * np.eye(3, dtype=int)
    one, other = readers(table.tolist())
    kappa, low, high = kappa_with_interval(one, other, pd.Series(range(len(one))), seed)
    assert kappa == pytest.approx(cohen_kappa_score(one, other))
    closed = cohens_kappa(table)
    assert (low, high) == pytest.approx((closed.kappa_low, closed.kappa_upp), abs=0.012)


def test_scans_of_one_patient_do_not_count_as_many():
    one, other = readers([[40, 10, 0], [10, 40, 0], [0, 0, 0]])
    alone = kappa_with_interval(one, other, pd.Series(range(100)), 0)
    fourfold = [pd.concat([series] * 4, ignore_index=True) for series in (one, other)]
    together = kappa_with_interval(*fourfold, pd.Series(np.tile(np.arange(100), 4)), 0)
    assert together == pytest.approx(alone)


def test_readers_side_by_side_as_they_first_said():
    rows = [
        "a1 pass KM",
        "a1 fail AB",
        "a2 edit KM",
        "a2 mended KM",
        "a2 pass KM",
        "a2 pass AB",
        "b1 fail KM",
        "a1 pass AB",
    ]
    wide = side_by_side(decided(*rows))
    assert wide.loc["a1"].tolist() == ["fail", "pass"]
    assert wide.loc["a2"].tolist() == ["pass", "pass"]
    assert differing(decided(*rows)).to_dict("records") == [{"scan_id": "a1", "AB": "fail", "KM": "pass"}]


def test_in_words():
    patients = pd.Series({f"s{n}": f"p{n}" for n in range(8)})
    one = [f"s{n} {'pass' if n < 4 else 'fail'} KM" for n in range(8)]
    other = [f"s{n} {'pass' if n < 5 else 'fail'} AB" for n in range(8)]
    said = agreement_in_words(decided(*one, *other), patients, 0)
    assert said.startswith("AB and KM, 8 scans of 8 patients: kappa 0.75 (")
    assert "<5 patients: too few" in agreement_in_words(decided(*one[:3], *other[:3]), patients, 0)
    assert "all alike" in agreement_in_words(
        decided(*(f"s{n} pass {who}" for n in range(8) for who in "AB")), patients, 0
    )
    assert agreement_in_words(decided(*one), patients, 0) == "No two readers decided on the same scans."
    assert agreement_in_words(decided(), patients, 0) == "No two readers decided on the same scans."
