from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscct_lib.radiomics.feature_sets import (
    FEATURE_SETS,
    MIN_CHANGE_DAYS,
    NotEstimableError,
    add_change,
    feature_columns,
    join,
    n_parameters,
)
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import FeatureSet
from sscct_lib.study.words import feature_name, feature_unit


def test_scans_without_features_are_left_out_of_the_join() -> None:
    cohort = pd.DataFrame({"scan_id": ["a", "b", "c"], "patient_id": ["p", "p", "q"], "scan_day": [0, 300, 0]})
    features = pd.DataFrame(
        {
            "scan_id": ["c", "b", "z"],
            "patient_id": ["q", "p", "z"],
            "status": ["ok", "failed", "ok"],
            "reason": ["", "empty", ""],
            "qct_mean_hu": [1.0, np.nan, 2.0],
        }
    )
    joined = join(cohort, features)
    kept = joined[["scan_id", "patient_id", "qct_mean_hu"]].to_dict("records")
    assert kept == [{"scan_id": "c", "patient_id": "q", "qct_mean_hu": 1.0}]


def test_a_scan_of_another_patient_than_in_the_cohort_is_refused() -> None:
    cohort = pd.DataFrame({"scan_id": ["a"], "patient_id": ["p"], "scan_day": [0]})
    features = pd.DataFrame({"scan_id": ["a"], "patient_id": ["q"], "status": ["ok"], "reason": [""]})
    with pytest.raises(StudyError, match=r"1 scan\(s\) to another patient than the cohort does \(a\)"):
        join(cohort, features)


def test_settings_name_the_feature_sets_that_there_are() -> None:
    assert list(get_args(FeatureSet)) == list(FEATURE_SETS)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("age_years", "years"),
        ("qct_p05_hu", "HU"),
        ("qct_mean_hu_lower_minus_upper", "HU"),
        ("qct_high_attenuation_share_peel", ""),
        ("change_qct_volume_l", "litres per year"),
        ("qct_skewness", ""),
        ("original_glcm_Id", ""),
    ],
)
def test_units(name: str, unit: str) -> None:
    assert feature_unit(name) == unit


def test_change_is_per_year_since_the_last_scan_long_enough_before() -> None:
    table = pd.DataFrame(
        {
            "scan_id": ["late", "first", "soon", "other"],
            "patient_id": ["p", "p", "p", "q"],
            "scan_day": [730, 0, 30, 500],
            "qct_mean_hu": [-700.0, -800.0, -790.0, -850.0],
            "original_shape_MeshVolume": [4.0, 5.0, 5.0, 6.0],
        },
        index=[7, 3, 5, 1],
    )
    changed = add_change(table).set_index("scan_id")
    assert list(changed.index) == list(table["scan_id"])
    assert changed.loc["late", "change_years"] == pytest.approx(700 / 365.25)
    assert changed.loc["late", "change_qct_mean_hu"] == pytest.approx(90 / (700 / 365.25))
    assert changed.loc["late", "change_original_shape_MeshVolume"] == pytest.approx(-1 / (700 / 365.25))
    assert changed.loc[["first", "soon", "other"]].filter(like="change_").isna().all(axis=None)


SCANS = st.lists(st.tuples(st.sampled_from("pqr"), st.integers(0, 2000)), min_size=1, max_size=12, unique=True)


@settings(max_examples=200)
@given(SCANS, st.data())
def test_change_never_looks_ahead(scans: list[tuple[str, int]], data: st.DataObject) -> None:
    """What comes later, or from another patient, changes nothing."""
    table = pd.DataFrame(scans, columns=["patient_id", "scan_day"])
    table["qct_mean_hu"] = np.random.default_rng(0).normal(size=len(table))
    whole = add_change(table)
    i = data.draw(st.integers(0, len(table) - 1))
    known = table[(table["patient_id"] == table["patient_id"][i]) & (table["scan_day"] <= table["scan_day"][i])]
    pd.testing.assert_series_equal(add_change(known).loc[i], whole.loc[i])
    assert not (whole["change_years"] * 365.25 < MIN_CHANGE_DAYS - 1e-9).any()


def test_each_model_sees_its_columns_and_no_empty_one() -> None:
    table = pd.DataFrame(
        {
            "age_years": [50.0, 60.0],
            "dlco_percent": [np.nan, np.nan],
            "qct_mean_hu": [1.0, 2.0],
            "original_glcm_Id": [1.0, 2.0],
            "wavelet-LLH_glcm_Id": [1.0, 2.0],
            "change_original_glcm_Id": [np.nan, 2.0],
            "followup_years": [1.0, 2.0],
            "settings_hash": ["a", "a"],
        }
    )
    columns = {model: set(feature_columns(model, table)) for model in FEATURE_SETS}
    assert columns["Clinical"] == {"age_years"}
    assert columns["Quantitative CT"] == {"qct_mean_hu"}
    assert columns["Radiomics"] == {"original_glcm_Id", "wavelet-LLH_glcm_Id"}
    assert columns["Radiomics + change"] == columns["Radiomics"] | {"change_original_glcm_Id"}
    assert columns["All features"] == set().union(*columns.values())


def test_a_category_counts_for_its_values_less_one() -> None:
    values = {"age_years": [50.0, 60.0, 70.0], "sex": ["male", "female", None], "ssc_subtype": ["limited"] * 3}
    table = pd.DataFrame(values | {"qct_mean_hu": [1.0, 2.0, 3.0]})
    assert n_parameters("Clinical", table) == 2  # age, and sex; one subtype tells nothing
    assert n_parameters("Clinical + quantitative CT", table) == 3


def test_a_model_without_any_value_says_so() -> None:
    with pytest.raises(NotEstimableError, match="no scan has a value"):
        feature_columns("Clinical", pd.DataFrame({"qct_mean_hu": [1.0]}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qct_high_attenuation_share_lower", "HAA in the lower zones"),
        ("qct_p05_hu", "attenuation, 5th percentile"),
        ("change_qct_mean_hu_peel_minus_core", "change per year: mean attenuation, subpleural minus central"),
        ("original_glszm_LargeAreaEmphasis", "large area emphasis (GLSZM)"),
        ("original_shape_Maximum2DDiameterSlice", "maximum 2d diameter slice (shape)"),
        ("original_firstorder_10Percentile", "10 percentile (first order)"),
        ("original_shape_MeshVolume_left", "mesh volume (shape) in the left lung"),
        ("log-sigma-2-0-mm-3D_glcm_Idn", "idn (GLCM, log-sigma-2-0-mm-3D)"),
        ("missingindicator_fvc_percent", "forced vital capacity: not known"),
        ("ssc_subtype_diffuse", "cutaneous subtype: diffuse"),
        ("sex_female", "sex: female"),
        ("group_ever-smoked_yes", "ever smoked: yes"),
        ("missingindicator_number_disease-duration", "disease duration: not known"),
    ],
)
def test_features_are_named_in_words(name: str, words: str) -> None:
    assert feature_name(name) == words
