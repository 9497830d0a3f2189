import numpy as np
import pandas as pd
import pytest

from sscct_lib.radiomics.agreement import feature_agreement, intraclass_correlation, training_agreement

# Shrout & Fleiss 1979, table 2: six targets, four judges.
JUDGED = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


def test_the_published_example_comes_out() -> None:
    """ICC(2,1) = .29; the interval .019 to .761 is that of R's psych and of pingouin."""
    icc, low, high = intraclass_correlation(JUDGED[:, :, None])
    assert (icc[0], low[0], high[0]) == pytest.approx((0.2898, 0.0188, 0.7611), abs=5e-4)


def test_perfect_agreement_is_one_and_a_constant_is_not_a_number() -> None:
    same = np.repeat(np.arange(6.0)[:, None], 3, axis=1)
    values = np.stack([same, np.ones((6, 3))], axis=2)
    icc, low, high = intraclass_correlation(values)
    assert (icc[0], low[0], high[0]) == (1, 1, 1)
    assert np.isnan(icc[1])


def test_the_estimate_finds_the_true_share_of_variance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(scale=2, size=(3000, 1, 1)) + rng.normal(scale=1, size=(3000, 5, 1))
    icc, low, high = intraclass_correlation(values)
    assert icc[0] == pytest.approx(0.8, abs=0.015)
    assert low[0] < 0.8 < high[0]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    n_repeats = 600
    values = rng.normal(size=(20, 1, n_repeats)) + rng.normal(scale=0.7, size=(20, 4, n_repeats))
    _, low, high = intraclass_correlation(values)
    truth = 1 / (1 + 0.7**2)
    assert ((low <= truth) & (truth <= high)).mean() == pytest.approx(0.95, abs=0.03)


@pytest.fixture
def versions() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(30):
        mean = rng.normal()
        for version in ("original", "noisy", "rotated"):
            steady = mean + rng.normal(scale=0.1)
            # In the last ten patients alone the feature is pure noise.
            rows.append(
                {
                    "scan_id": f"s{patient}",
                    "patient_id": f"p{patient}",
                    "version": version,
                    "qct_mean_hu": steady,
                    "original_glcm_Id": rng.normal(),
                    "original_glcm_Idm": steady if patient < 20 else rng.normal(scale=9),
                    "qct_mean_hu_core": steady if patient else np.nan,
                }
            )
    return pd.DataFrame(rows)


def test_features_are_told_apart_whatever_the_order_of_rows(versions: pd.DataFrame) -> None:
    agreement = feature_agreement(versions.sample(frac=1, random_state=0)).set_index("feature")
    assert agreement.loc["qct_mean_hu", "icc"] > 0.95
    assert agreement.loc["original_glcm_Id", "ci_high"] < 0.5
    assert "qct_mean_hu_core" not in agreement.index
    assert (agreement["n_scans"] == 30).all()


def test_only_the_training_patients_decide(versions: pd.DataFrame) -> None:
    first = training_agreement(versions, pd.Series([f"p{i}" for i in range(20)]))
    assert list(first.index[first >= 0.75]) == ["qct_mean_hu", "original_glcm_Idm"]
    everyone = training_agreement(versions, pd.Series([f"p{i}" for i in range(30)]))
    assert list(everyone.index[everyone >= 0.75]) == ["qct_mean_hu"]
    assert everyone.isna().tolist() == [False, False, False, True]


def test_few_patients_decide_nothing(versions: pd.DataFrame) -> None:
    assert training_agreement(versions, pd.Series(["p0", "p1"])) is None
