import numpy as np
import pandas as pd
import pytest

from sscct_lib import reliability
from sscct_lib.study import HorizonSettings, Settings

N = 600


@pytest.fixture(scope="module")
def cohort_and_predictions():
    """Risks that are right where the spread is narrow, and noise where it is wide."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0.05, 0.9, N)
    died = rng.random(N) < true
    wide = np.arange(N) % 3 == 2
    risk = np.where(wide, rng.permutation(true), true)
    ids = [f"s{i}" for i in range(N)]
    cohort = pd.DataFrame(
        {
            "scan_id": ids,
            "patient_id": ids,
            "scan_day": 0,
            "followup_years": np.where(died, 0.5, 2.0),
            "event_observed": died,
            "fold": 0,
            "label_1y": pd.array(died.astype(int), dtype="Int8"),
        }
    )
    odds_spread = np.where(wide, 1.0, np.where(np.arange(N) % 3 == 1, 0.5, 0.1))
    one = cohort[["scan_id", "patient_id", "fold"]].assign(
        model="net", horizon_years=1.0, risk=risk, risk_sd=odds_spread * risk * (1 - risk)
    )
    other = one.assign(model="plain", risk_sd=np.nan)
    return cohort, pd.concat([one, other], ignore_index=True)


SETTINGS = Settings(horizons_years=(1.0,), horizons=HorizonSettings(n_bootstrap=60))


def test_models_without_spread_are_left_out(cohort_and_predictions):
    predictions = cohort_and_predictions[1].replace({"model": {"net": "ResNet-18 (from scratch)"}})
    assert reliability.models_with_spread(predictions, "plain") == ["ResNet-18 (from scratch)"]
    tabular = cohort_and_predictions[1]
    assert reliability.models_with_spread(tabular, "plain") == []
    assert reliability.models_with_spread(tabular, "net") == ["net"]


def test_a_spread_that_tells_shows_in_the_scores(cohort_and_predictions):
    cohort, predictions = cohort_and_predictions
    table = reliability.by_spread(predictions, cohort, "net", SETTINGS)
    assert table["third"].tolist() == list(reliability.THIRDS)
    np.testing.assert_allclose(table["spread"], [0.1, 0.5, 1.0])
    assert table["n_scans"].tolist() == [N // 3] * 3
    assert table["n_events"].sum() == cohort["event_observed"].sum()
    own = predictions[predictions["model"] == "net"].reset_index(drop=True)
    part = np.arange(N) % 3 == 2
    expected = np.mean((own["risk"] - cohort["event_observed"])[part] ** 2)
    assert table["brier"].iloc[2] == pytest.approx(expected)
    ratio = cohort["event_observed"][part].sum() / own["risk"][part].sum()
    assert table["observed_expected"].iloc[2] == pytest.approx(ratio, rel=1e-6)
    assert table["brier_low"].iloc[2] > table["brier_high"].iloc[0]
    shown = reliability.in_words(table)
    assert shown.index[0] == "narrow (odds × or ÷ 1.11)"
    assert shown.iloc[0, 1].endswith(f"/{N // 3} ({N // 3})")


def test_equal_spreads_are_one_group(cohort_and_predictions):
    cohort, predictions = cohort_and_predictions
    flat = predictions.assign(risk_sd=0.1 * predictions["risk"] * (1 - predictions["risk"]))
    assert len(reliability.by_spread(flat.assign(risk=0.3, risk_sd=0.02), cohort, "net", SETTINGS)) == 1
