import numpy as np
import pandas as pd
import pytest

from sscct_lib.pipelines import DistinctColumns, design, make_estimator, make_pipeline_of, prepared
from sscct_lib.risk_models import survival_outcome
from sscct_lib.study import Settings
from tests.tabular_cohort import make_study, make_table


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    return make_table(make_study(tmp_path), n_patients=120)


def fitted(table: pd.DataFrame, columns: list[str], harmonised: bool = False):
    settings = Settings()
    outcome = survival_outcome(table["followup_years"].to_numpy(), table["event_observed"].to_numpy())
    pipeline = make_pipeline_of(columns, make_estimator("cox", (1.0, 3.0), settings), settings, harmonised)
    return pipeline.fit(design(table, columns, harmonised), outcome, model__sample_weight=np.ones(len(table)))


def test_the_model_sees_numbers_indicators_and_categories_standardised(table) -> None:
    columns = ["age_years", "fvc_percent", "ssc_subtype"]
    seen = prepared(fitted(table, columns), design(table, columns, False))
    assert {"age_years", "fvc_percent", "missingindicator_fvc_percent", "ssc_subtype_missing"} <= set(seen)
    assert seen.mean().abs().max() < 1e-9
    assert seen.std(ddof=0).to_numpy() == pytest.approx(1.0)


def test_of_columns_that_say_the_same_the_first_stays(table) -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=200)
    frame = pd.DataFrame({"a": first, "b": -first + 0.01 * rng.normal(size=200), "c": first + rng.normal(size=200)})
    assert DistinctColumns(0.95).fit(frame).kept_ == ["a", "c"]
    assert DistinctColumns(1.0).fit(frame).kept_ == ["a", "b", "c"]
    assert DistinctColumns(0.95).fit(frame[["a"]]).kept_ == ["a"]


def test_harmonisation_takes_the_scanner_out_and_a_new_scanner_passes(table) -> None:
    shifted = table.assign(
        qct_high_attenuation_share=table["qct_high_attenuation_share"] + 5.0 * (table["manufacturer"] == "GE")
    )
    columns = ["qct_high_attenuation_share", "original_firstorder_Mean"]
    plain, harmonised = (
        prepared(fitted(shifted, columns, both), design(shifted, columns, both))["qct_high_attenuation_share"]
        for both in (False, True)
    )
    scanners = shifted["manufacturer"]
    assert abs(plain.groupby(scanners).mean().diff().iloc[-1]) > 1.5
    assert abs(harmonised.groupby(scanners).mean().diff().iloc[-1]) < 0.3
    new = design(shifted.assign(scanner="Unseen"), columns, True)
    assert fitted(shifted, columns, True).predict(new).shape == (len(table), 2)
