"""Scans drawn like the training scans pass as often as they should; planted strangers are named."""

import numpy as np
import pandas as pd
import pytest

from sscct_lib.report.evidence import FAR, likeness

# Six measures that rise and fall together, as densities of a lung do: correlation 0.9.
MIXING = np.linalg.cholesky(np.full((6, 6), 0.9) + 0.1 * np.eye(6)).T


def scans(n, seed):
    rng = np.random.default_rng(seed)
    measures = rng.normal(size=(n, 6)) @ MIXING
    table = pd.DataFrame(measures, columns=[f"qct_p{10 * (i + 1)}_hu" for i in range(6)])
    return table.assign(
        fold=np.arange(n) % 3, age_years=rng.uniform(40, 70, n), slice_thickness_mm=1.0, manufacturer="A", sex="female"
    )


@pytest.fixture(scope="module")
def training():
    return scans(240, 0)


@pytest.mark.slow
def test_scans_like_the_training_scans_are_rarely_called_far(training):
    found = [likeness(row, training).nearer for row in scans(300, 1).to_dict("records")]
    assert np.mean(np.array(found) >= FAR) < 0.04
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)  # out of fold, distances are as those of new scans


def test_a_scan_far_in_all_measures_together_is_named_though_each_is_in_range(training):
    # Half of the measures high and half low, which never happens; no single one gives it away.
    names = list(training.filter(like="qct_").columns)
    stranger = training.iloc[0].to_dict() | dict(zip(names, [1.5, -1.5] * 3, strict=True))
    found = likeness(stranger, training)
    assert found.nearer == 1
    assert len(found.findings) == 1
    assert "measures together" in found.findings[0]


def test_values_out_of_range_and_unseen_scanners_are_named(training):
    stranger = training.iloc[3].to_dict() | {"age_years": 95.0, "manufacturer": "B", "slice_thickness_mm": 8.0}
    words = " ".join(likeness(stranger, training).findings)
    for expected in ("age 90+ years, above the range", "scanners by B", "slice thickness 8 mm, above the range"):
        assert expected in words
    ends = training[["age_years", "slice_thickness_mm"]].agg(["min", "max"]).to_numpy().ravel()
    assert not any(f"{end:.3g}" in words.split() for end in ends)  # each is the value of one patient


def test_missing_measures_and_few_training_scans_are_no_verdict(training):
    missing = training.iloc[0].to_dict() | {"qct_p10_hu": np.nan}
    assert likeness(missing, training).nearer is None
    assert likeness(training.iloc[0].to_dict(), training.head(10)).nearer is None
    assert likeness({}, training).findings == []
