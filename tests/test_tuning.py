import numpy as np
import pandas as pd
import pytest

from sscct_lib.cohort import patient_weights
from sscct_lib.feature_sets import NotEstimableError
from sscct_lib.risk_models import L1_RATIOS, PENALTIES
from sscct_lib.tuning import fit, training_agreement
from tests.tabular_cohort import lost_before, make_study, make_table


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path)


def test_deaths_of_two_patients_leave_little_and_of_one_nothing_and_that_is_said(study) -> None:
    table = make_table(study, n_patients=150)
    dead = table.loc[table["event_observed"] & (table["followup_years"] < 3), "patient_id"].unique()
    one = lost_before(table, table["patient_id"] != dead[0], 99.0)
    with pytest.raises(NotEstimableError, match="only 1 training patient died within 3 years"):
        fit(one, ["age_years"], "cox", study)
    two = lost_before(table, ~table["patient_id"].isin(dead[:2]), 99.0)
    fitted = fit(two, ["age_years"], "cox", study)
    assert 3.0 in fitted.horizons_years


def test_no_survivor_cannot_be_fitted(study) -> None:
    table = make_table(study)
    table = table[table["event_observed"] & (table["followup_years"] < 1)]
    with pytest.raises(NotEstimableError, match="alive after 1 year"):
        fit(table, ["age_years"], "cox", study)


def test_tuning_shrinks_noise_and_keeps_signal(study) -> None:
    table = make_table(study, n_patients=200)
    noise = fit(table, [f"original_glcm_noise{i}" for i in range(5)], "cox", study)
    signal = fit(table, ["original_firstorder_Mean"], "cox", study)
    assert signal.chosen["penalty"] <= noise.chosen["penalty"]
    assert np.abs(noise.pipeline["model"].coef_).max() < 0.2
    assert signal.pipeline["model"].coef_[0] < -0.7
    logistic = fit(table, ["original_firstorder_Mean"], "logistic", study).chosen
    assert len(logistic["penalties"]) == len(logistic["l1_ratios"]) == 2
    assert set(logistic["penalties"]) <= set(PENALTIES)
    assert set(logistic["l1_ratios"]) <= set(L1_RATIOS)


def test_every_patient_weighs_the_same() -> None:
    patients = pd.Series(list("aaabbc"))
    weight = pd.Series(patient_weights(patients)).groupby(patients).sum()
    assert weight.tolist() == pytest.approx([2.0, 2.0, 2.0])


def test_constant_and_never_measured_features_are_left_out(study) -> None:
    table = make_table(study, n_patients=150).assign(qct_constant=3.0, qct_never=np.nan)
    columns = ["qct_constant", "qct_never", "qct_high_attenuation_share"]
    used = fit(table, columns, "cox", study).pipeline["scale"].get_feature_names_out()
    assert list(used) == ["qct_high_attenuation_share"]
    with pytest.raises(NotEstimableError, match="stable and differs between scans"):
        fit(table, columns[:2], "cox", study)


def test_unstable_features_of_the_training_patients_are_left_out(study) -> None:
    table = make_table(study, n_patients=150)
    rng = np.random.default_rng(0)
    some = table.drop_duplicates("patient_id").head(20)
    versions = pd.concat(
        some[["scan_id", "patient_id", "qct_high_attenuation_share", "original_firstorder_Mean"]].assign(
            version=version, original_firstorder_Mean=rng.normal(size=20)
        )
        for version in ("original", "noisy")
    )
    agreement = training_agreement(versions, table["patient_id"])
    columns = ["qct_high_attenuation_share", "original_firstorder_Mean", "age_years"]
    fitted = fit(table.assign(age_years=rng.normal(size=len(table))), columns, "cox", study, agreement)
    assert set(fitted.pipeline["scale"].get_feature_names_out()) == {"qct_high_attenuation_share", "age_years"}
    assert training_agreement(versions, some["patient_id"].head(9)) is None
