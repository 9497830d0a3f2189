import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline

from sscct_lib.cohort.outcomes import patient_weights, survival_outcome
from sscct_lib.radiomics.cross_validation import cross_validate
from sscct_lib.radiomics.estimators import L1_RATIOS, PENALTIES, make_estimator
from sscct_lib.radiomics.feature_sets import NotEstimableError
from sscct_lib.radiomics.pipeline import (
    Curves,
    DistinctColumns,
    build_pipeline,
    design,
    feature_agreement,
    fit,
    imputation,
    intraclass_correlation,
    prepared,
    training_agreement,
)
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import feature_name
from tests.radiomics.tabular_cohort import auc, labelled, lost_before, make_study, make_table


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    return make_table(make_study(tmp_path), n_patients=120)


def fitted(table: pd.DataFrame, columns: list[str], harmonised: bool = False):
    settings = Settings()
    outcome = survival_outcome(table["followup_years"].to_numpy(), table["event_observed"].to_numpy())
    pipeline = build_pipeline(columns, make_estimator("cox", (1.0, 3.0), settings), settings, harmonised)
    return pipeline.fit(design(table, columns, harmonised), outcome, model__sample_weight=np.ones(len(table)))


def test_the_model_sees_numbers_indicators_and_categories_standardised(table) -> None:
    columns = ["age_years", "fvc_percent", "ssc_subtype"]
    seen = prepared(fitted(table, columns), design(table, columns, False))
    assert {"age_years", "fvc_percent", "missingindicator_fvc_percent", "ssc_subtype_missing"} <= set(seen)
    assert seen.mean().abs().max() < 1e-9
    assert seen.std(ddof=0).to_numpy() == pytest.approx(1.0)


def test_a_curve_is_the_natural_cubic_spline_of_scipy() -> None:
    """Through any values at the knots there is one natural cubic spline; a line beyond the last knots."""
    values = np.random.default_rng(0).normal(60, 12, 300)
    curves = Curves().fit(pd.DataFrame({"age_years": values, "flat": 1.0}))
    knots = curves.knots_[:, 0]
    grid = np.linspace(knots[0], knots[2], 50)
    seen = [
        curves.transform(pd.DataFrame({"age_years": x, "flat": 1.0})) for x in (knots, grid, knots[2] + np.arange(4.0))
    ]
    assert list(seen[0]) == list(curves.get_feature_names_out()) == ["age_years", "flat", "age_years_bend", "flat_bend"]
    assert (seen[1]["flat_bend"] == 0).all()
    at_knots, along, beyond = (each[["age_years", "age_years_bend"]].to_numpy() for each in seen)
    through = CubicSpline(knots, at_knots @ [0.3, -2.0], bc_type="natural")
    np.testing.assert_allclose(along @ [0.3, -2.0], through(grid), atol=1e-9)
    np.testing.assert_allclose(np.diff(beyond[:, 1], 2), 0, atol=1e-9)


def test_a_model_with_splines_follows_a_risk_that_is_least_in_the_middle(tmp_path) -> None:
    """The hazard rises to both sides of the middle age: a line sees nothing of it, a curve does."""
    study = make_study(tmp_path, feature_sets=("Clinical",), compared=("splines",), compared_on=("Clinical",))
    rng = np.random.default_rng(3)
    table = make_table(study, n_patients=150, signal=0.0)
    age = table["patient_id"].map({name: rng.normal() for name in table["patient_id"].unique()})
    years = rng.exponential(8 * np.exp(-1.5 * (age.abs() - 1)))
    table = table.assign(age_years=60 + 10 * age, followup_years=np.minimum(years, 6), event_observed=years < 6)
    table = labelled(table.assign(fvc_percent=np.nan), study)
    result = cross_validate(table, study)
    line, curve = (auc(result.predictions, table, name, 3.0) for name in ("Clinical", "Clinical, splines"))
    assert curve > line + 0.1
    assert feature_name("age_years_bend") == "age: curve"


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


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path)


def test_deaths_of_two_patients_leave_little_and_of_one_nothing_and_that_is_said(study) -> None:
    table = make_table(study, n_patients=150)
    dead = table.loc[table["event_observed"] & (table["followup_years"] < 3), "patient_id"].unique()
    one = lost_before(table, table["patient_id"] != dead[0], 99.0)
    with pytest.raises(NotEstimableError, match=r"only <5 training patient\(s\) died within 3 years"):
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


COLUMNS = ["age_years", "fvc_percent", "ssc_subtype", "qct_high_attenuation_share", "original_firstorder_Mean"]


def test_with_nothing_missing_several_imputations_are_one(table, tmp_path) -> None:
    whole = table.assign(fvc_percent=table["fvc_percent"].fillna(70.0))
    study = make_study(tmp_path, n_imputations=3)
    once, often = (fit(whole, COLUMNS, kind, study) for kind in ("cox", "imputed"))
    assert len(often.others) == 2
    np.testing.assert_allclose(often.risks(whole), once.risks(whole), rtol=1e-9)


def test_imputations_know_no_outcome_and_their_risks_are_averaged(table, tmp_path) -> None:
    study = make_study(tmp_path, n_imputations=3)
    rng = np.random.default_rng(0)
    mixed = rng.permutation(len(table))
    other = table.assign(**{name: table[name].to_numpy()[mixed] for name in ("followup_years", "event_observed")})
    drawn = []
    for known in (table, other):
        fitted_once = fit(known, COLUMNS, "imputed", study)
        pipelines = (fitted_once.pipeline, *fitted_once.others)
        drawn.append([each["impute"].fit_transform(design(known, COLUMNS, False)).to_numpy() for each in pipelines])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    gaps = table["fvc_percent"].isna().to_numpy()
    first, second, _ = (pd.DataFrame(values) for values in drawn[0])
    assert (first[~gaps] == second[~gaps]).all(axis=None)
    assert (first[gaps] != second[gaps]).any(axis=1).all()
    studies = (make_study(tmp_path, n_imputations=n) for n in (1, 3))
    risks = [fit(table, COLUMNS, "imputed", each).risks(table[gaps]) for each in studies]
    assert np.abs(risks[0] - risks[1]).max() > 1e-6


def test_what_is_drawn_follows_the_regression_on_the_other_columns(table, tmp_path) -> None:
    """Lung function is 80 - 8 times the CT in these tables: the median would say the same of every gap."""
    step = imputation(COLUMNS, draw=0).set_output(transform="pandas")
    filled = step.fit_transform(design(table, COLUMNS, False))
    gaps = table["fvc_percent"].isna()
    assert np.corrcoef(filled["fvc_percent"][gaps], table["qct_high_attenuation_share"][gaps])[0, 1] < -0.95


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
