from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter

from sscct_lib.cohort.outcomes import label_name
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.radiomics import cross_validation
from sscct_lib.study.folder import Study, StudyError, load_study
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Covariate
from tests.radiomics.tabular_cohort import HORIZONS, auc, lost_before, make_study, make_table


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    sets, folder = ("All features",), tmp_path_factory.mktemp("study")
    return make_study(folder, feature_sets=sets, compared=("imputed",), compared_on=sets, n_imputations=2)


@pytest.fixture(scope="module")
def validated(study: Study) -> tuple[pd.DataFrame, cross_validation.CrossValidation]:
    """A table and its cross-validation; no test may change them."""
    table = make_table(study)
    return table, cross_validation.cross_validate(table, study)


def test_every_scan_is_predicted_once_by_each_model_and_horizon(study: Study, validated) -> None:
    table, result = validated
    assert len(result.predictions) == len(cross_validation.models_of(study)) * len(HORIZONS) * len(table)
    PREDICTIONS.validate(result.predictions)
    assert result.notes.empty
    fold = result.predictions.merge(table[["scan_id", "fold"]], on="scan_id")
    assert (fold["fold_x"] == fold["fold_y"]).all()


@pytest.mark.slow
def test_signal_is_found_and_risk_is_calibrated_in_the_large(study: Study) -> None:
    table = make_table(study, n_patients=200)
    result = cross_validation.cross_validate(table, study)
    assert auc(result.predictions, table, "All features", 3.0) > 0.8
    observed = KaplanMeierFitter().fit(table["followup_years"], table["event_observed"]).predict(3.0)
    chosen = result.predictions.query("model == 'All features' and horizon_years == 3")
    assert chosen["risk"].mean() == pytest.approx(1 - observed, abs=0.04)


def test_a_prediction_does_not_depend_on_the_tested_patients_outcome(study: Study, validated) -> None:
    """The sharpest leak test: change all that is known of the tested fold's outcome, and nothing may change."""
    table, before = validated[0], validated[1].predictions
    tested = table["fold"] == 0
    spoilt = table.copy()
    spoilt.loc[tested, "event_observed"] = ~spoilt.loc[tested, "event_observed"]
    spoilt.loc[tested, "followup_years"] = 0.01
    for horizon in HORIZONS:
        spoilt[label_name(horizon)] = spoilt[label_name(horizon)].mask(tested, 1)
    after = cross_validation.cross_validate(spoilt, study).predictions
    of_fold = before["fold"] == 0
    pd.testing.assert_frame_equal(before[of_fold], after[of_fold])
    assert not before[~of_fold].equals(after[~of_fold])


def test_a_prediction_does_not_depend_on_other_tested_scans(study: Study, validated) -> None:
    """Imputation and scaling come from the training scans, not from the fold that is tested."""
    table, before = validated[0], validated[1].predictions
    other = table.copy()
    first = other.index[other["fold"] == 0][0]
    rest = (other["fold"] == 0) & (other.index != first)
    other.loc[rest, ["qct_high_attenuation_share", "age_years"]] = 1e3
    after = cross_validation.cross_validate(other, study).predictions
    chosen = before["scan_id"] == table.loc[first, "scan_id"]
    pd.testing.assert_frame_equal(before[chosen], after[chosen])


def test_models_are_named_by_features_and_by_what_they_differ_in(tmp_path) -> None:
    study = make_study(
        tmp_path,
        feature_sets=("Clinical", "Radiomics"),
        compared=("forest", "harmonised", "imputed"),
        compared_on=("Clinical", "Radiomics"),
    )
    models = {model.name: (model.estimator, model.kind == "harmonised") for model in cross_validation.models_of(study)}
    assert models == {
        "Clinical": ("cox", False),
        "Radiomics": ("cox", False),
        "Clinical, survival forest": ("forest", False),
        "Radiomics, survival forest": ("forest", False),
        "Radiomics, harmonised": ("cox", True),
        "Clinical, multiple imputation": ("cox", False),
        "Radiomics, multiple imputation": ("cox", False),
    }


@pytest.mark.parametrize(
    ("setting", "found"), [("feature_sets: [Everything]", "Everything"), ("compared: [svm]", "svm")]
)
def test_an_unknown_estimator_or_feature_set_is_refused_by_name(tmp_path, setting: str, found: str) -> None:
    (tmp_path / "study.yaml").write_text(f"tabular:\n  {setting}\n")
    with pytest.raises(StudyError, match=rf"(?s)tabular.*Input should be .*found '{found}'"):
        load_study(tmp_path)


@pytest.mark.slow
def test_every_estimator_predicts_every_scan_and_its_risks_never_cross(tmp_path) -> None:
    study = make_study(
        tmp_path,
        feature_sets=("Quantitative CT",),
        compared=("logistic", "forest", "boosting", "harmonised", "imputed"),
        compared_on=("Quantitative CT",),
    )
    table = make_table(study, n_patients=150)
    result = cross_validation.cross_validate(table, study)
    assert len(result.predictions) == 6 * len(HORIZONS) * len(table)
    wide = result.predictions.pivot(index=["model", "scan_id"], columns="horizon_years", values="risk")
    assert (wide.diff(axis=1)[3.0] >= 0).all()
    for model in result.predictions["model"].unique():
        assert auc(result.predictions, table, model, 3.0) > 0.75


def test_declared_predictors_are_seen_by_clinical_models_and_no_others(tmp_path) -> None:
    """Of two covariates that tell all, the models see the one that is declared as a predictor."""
    own = {
        "skin": Covariate(label="skin", kind="number", of="visit", range=(-9, 9)),
        "worse": Covariate(label="worse", kind="category", of="visit", values=("a", "b", "rare"), predictor=True),
    }
    small = make_study(tmp_path, feature_sets=("Clinical", "Quantitative CT"))
    study = replace(small, settings=small.settings.model_copy(update={"covariates": own}))
    table = make_table(study, n_patients=120)
    ct = table["qct_high_attenuation_share"]
    table["number_skin"], table["group_worse"] = ct, np.where(ct > 0, "b", "a").astype(object)
    table.loc[0, "group_worse"] = "rare"  # in one fold alone: the others' fits never saw it
    table = table.assign(fvc_percent=np.nan)
    result = cross_validation.cross_validate(table, study)
    seen = {name: set(fitted.columns) for (name, _, _), fitted in result.fits.items()}
    assert seen["Clinical"] == {"age_years", "sex", "ssc_subtype", "group_worse"}
    assert seen["Quantitative CT"] == {"qct_high_attenuation_share"}
    assert auc(result.predictions, table, "Clinical", 3.0) > 0.65  # without it there is no more than noise
    for fitted, tested, _ in result.held_out("Clinical"):
        if tested[0]:
            rest = [fitted.risks(table[:1].assign(group_worse=value)) for value in ("a", "b")]
            shares = fitted.shares["group_worse"]
            mean = shares["a"] * rest[0] + shares["b"] * rest[1]
            np.testing.assert_allclose(fitted.risks(table[:1]), mean)


def test_repeats_are_other_splits_by_patient_and_each_is_kept(tmp_path) -> None:
    study = make_study(tmp_path, feature_sets=("Quantitative CT",), n_repeats=3)
    table = make_table(study)
    result = cross_validation.cross_validate(table, study)
    assert (result.folds[0] == table["fold"]).all()
    assert len({row.tobytes() for row in result.folds}) == 3
    risks = np.full((3, len(table)), np.nan)
    for fitted, tested, repeat in result.held_out("Quantitative CT"):
        assert not set(table.loc[tested, "patient_id"]) & set(table.loc[~tested, "patient_id"])
        assert fitted.counts[3.0]["n_patients"] <= table.loc[~tested, "patient_id"].nunique()
        risks[repeat, tested] = fitted.risks(table[tested])[:, 1]
    three = result.predictions.query("horizon_years == 3").set_index("scan_id")
    for repeat in range(3):
        own = three[three["repeat"] == repeat].loc[table["scan_id"]]
        assert own["risk"].to_numpy() == pytest.approx(risks[repeat])
        assert (own["fold"].to_numpy() == result.folds[repeat]).all()


def test_a_repeat_that_lacks_a_fit_is_left_out_where_another_is_whole(tmp_path, monkeypatch) -> None:
    """In the second split, only patients of its first fold die within a year: nothing to learn for that fold."""
    study = make_study(tmp_path, feature_sets=("Quantitative CT",), n_repeats=2)
    table = make_table(study, n_patients=150)
    folds = cross_validation.repeated_folds(table, study)
    monkeypatch.setattr(cross_validation, "repeated_folds", lambda *_: folds)
    table = lost_before(table, folds[1] != 0, 1.0)
    result = cross_validation.cross_validate(table, study)
    repeats = result.predictions.groupby("horizon_years")["repeat"].unique()
    assert sorted(repeats[3.0]) == [0, 1]
    assert len(result.predictions.query("horizon_years == 1")) == len(table)
    Evaluation(table, result.predictions, study.settings)


def test_a_fold_without_deaths_in_training_is_named_and_left_out(study: Study) -> None:
    table = lost_before(make_table(study, n_patients=150), make_table(study, n_patients=150)["fold"] != 0, 1.0)
    result = cross_validation.cross_validate(table, study)
    left = result.predictions
    assert 0 not in left.loc[left["horizon_years"] == 1, "fold"].unique()
    assert set(left.loc[left["horizon_years"] == 3, "fold"]) == {0, 1, 2}
    assert left["risk"].notna().all()
    named = result.notes[result.notes["fold"] == 0]
    assert set(named["model"]) == {"All features", "All features, multiple imputation"}
    assert named["note"].str.contains("no training patient died within 1 year").all()


def test_a_cohort_without_clinical_values_has_no_clinical_model(tmp_path) -> None:
    study = make_study(tmp_path, feature_sets=("Clinical", "Quantitative CT"))
    table = make_table(study).drop(columns=["age_years", "sex", "ssc_subtype", "fvc_percent", "dlco_percent"])
    result = cross_validation.cross_validate(table, study)
    assert set(result.predictions["model"]) == {"Quantitative CT"}
    assert set(result.notes["model"]) == {"Clinical"}
    assert result.notes["note"].str.contains("no scan has a value").all()


def test_features_of_different_settings_are_not_mixed(study: Study) -> None:
    table = make_table(study)
    table.loc[0, "settings_hash"] = "other"
    with pytest.raises(StudyError, match="2 different settings"):
        cross_validation.cross_validate(table, study)
    with pytest.raises(StudyError, match="found 0 scan"):
        cross_validation.cross_validate(table.iloc[:0], study)


def test_removed_scans_are_predicted_by_models_that_never_saw_their_patients(study: Study) -> None:
    table = make_table(study)
    removed = table.iloc[[0, 7]]
    left = table.drop(removed.index).reset_index(drop=True)
    result = cross_validation.cross_validate(left, study)
    predicted = cross_validation.predict_removed(result, left, removed)
    PREDICTIONS.validate(predicted)
    assert set(predicted["scan_id"]) == set(removed["scan_id"])
    assert set(predicted["model"]) == {"All features", "All features, multiple imputation"}
    for scan in removed.itertuples():
        rows = predicted.query("model == 'All features' and scan_id == @scan.scan_id").sort_values("horizon_years")
        fold = int(rows["fold"].iloc[0])
        assert scan.patient_id not in set(left.loc[result.folds[0] != fold, "patient_id"])
        risk = result.fits["All features", 0, fold].risks(removed.loc[[scan.Index]])[0, 0]
        assert rows["risk"].iloc[0] == pytest.approx(risk)


def test_no_scan_was_removed(validated) -> None:
    table, result = validated
    assert cross_validation.predict_removed(result, table, table[:0]).empty
