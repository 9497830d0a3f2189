import numpy as np
import pandas as pd
import pytest

from sscct_lib.radiomics import cross_validation, explain, tables
from sscct_lib.radiomics.explain import accumulated_effects, feature_weights, held_out_importance, leading_features
from tests.radiomics.tabular_cohort import auc, lost_before, make_study, make_table


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("effects"), feature_sets=("Radiomics",), n_repeats=2)
    table = make_table(study, n_patients=150)
    return table, cross_validation.cross_validate(table, study)


def test_the_heaviest_feature_is_the_one_that_drives_risk_and_every_fit_chose_it(fitted) -> None:
    _, result = fitted
    weights = feature_weights(result, "Radiomics")
    assert len(weights[["repeat", "fold"]].drop_duplicates()) == 6
    assert leading_features(weights, n=1) == ["original_firstorder_Mean"]
    chosen = weights[weights["feature"] == "original_firstorder_Mean"]["coefficient"]
    assert (chosen < 0).all()
    assert len(chosen) == 6
    assert feature_weights(result, "Clinical").empty


def test_effects_follow_the_feature_and_noise_has_none(fitted) -> None:
    table, result = fitted
    features = ["original_firstorder_Mean", "original_glcm_noise0", "sex", "absent"]
    effects = accumulated_effects(result, table, "Radiomics", features, 3.0)
    assert set(effects["feature"]) == set(features[:2])
    mean, noise = (effects[effects["feature"] == name] for name in features[:2])
    assert (np.diff(mean["effect"]) < 0).all()
    assert mean["effect"].max() - mean["effect"].min() > 0.4
    assert noise["effect"].abs().max() < 0.05
    assert (mean["low"] <= mean["effect"]).all()
    assert (mean["effect"] <= mean["high"]).all()
    assert (mean["n_fits"] == 6).all()
    assert mean["value"].iloc[[0, -1]].tolist() == pytest.approx(
        [table["original_firstorder_Mean"].min(), table["original_firstorder_Mean"].max()]
    )


def test_the_curve_is_the_average_of_the_models_own_changes(fitted) -> None:
    """A single bin: the mean change of risk when every scan moves from one end of the feature to the other."""
    table, result = fitted
    table = table.assign(original_firstorder_Mean=np.where(table["original_firstorder_Mean"] > 0, 1.0, -1.0))
    effects = accumulated_effects(result, table, "Radiomics", ["original_firstorder_Mean"], 3.0)
    assert effects["value"].tolist() == [-1.0, 1.0]
    changes = [
        fit.risks(table[tested].assign(original_firstorder_Mean=1.0))[:, 1].mean()
        - fit.risks(table[tested].assign(original_firstorder_Mean=-1.0))[:, 1].mean()
        for fit, tested, _ in result.held_out("Radiomics")
    ]
    assert np.diff(effects["effect"])[0] == pytest.approx(np.mean(changes))


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path, feature_sets=("Radiomics",))


def test_the_kind_that_drives_risk_is_needed_and_noise_is_not(study) -> None:
    table = make_table(study, n_patients=150)
    result = cross_validation.cross_validate(table, study)
    needed = held_out_importance(result, table, "Radiomics", 3.0, study).set_index("kind")
    assert needed.index[0] == "first order"
    signal, noise = needed.loc["first order"], needed.loc["GLCM"]
    assert 0.2 < signal["ci_low"] < signal["loss"]
    assert abs(noise["loss"]) < 0.03
    assert noise["n_features"] == 5
    assert (signal["n_scans"], signal["n_events"]) == (
        table["label_3y"].notna().sum(),
        (table["label_3y"] == 1).sum(),
    )


def test_a_model_that_knows_nothing_else_falls_to_chance(tmp_path) -> None:
    study = make_study(tmp_path, feature_sets=("Radiomics",), n_repeats=2)
    table = make_table(study, n_patients=150, n_noise=0)
    result = cross_validation.cross_validate(table, study)
    needed = held_out_importance(result, table, "Radiomics", 3.0, study, n_shuffles=40)
    assert needed["loss"].tolist() == pytest.approx([auc(result.predictions, table, "Radiomics", 3.0) - 0.5], abs=0.06)


def test_a_fold_without_a_model_gives_no_importance(study) -> None:
    table = make_table(study, n_patients=150)
    table = lost_before(table, table["fold"] != 0, 1.0)
    result = cross_validation.cross_validate(table, study)
    assert held_out_importance(result, table, "Radiomics", 1.0, study).empty
    again = [held_out_importance(result, table, "Radiomics", 3.0, study)["loss"].to_numpy() for _ in range(2)]
    assert np.array_equal(*again)


def followed_patients(effect_after_2_years: float, n: int = 600) -> pd.DataFrame:
    """Patients whose age has a log hazard ratio of 1 for two years, and then another."""
    rng = np.random.default_rng(0)
    age = rng.normal(size=n)
    hazards = rng.exponential(size=n)  # cumulative hazard at death
    early = 0.15 * np.exp(age)
    late = 0.15 * np.exp(effect_after_2_years * age)
    death = np.where(hazards < 2 * early, hazards / early, 2 + (hazards - 2 * early) / late)
    end = rng.uniform(1, 9, n)
    return pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "scan_day": 0,
            "followup_years": np.minimum(death, end),
            "event_observed": death <= end,
            "age_years": 60 + 10 * age,
            "fvc_percent": np.where(rng.random(n) < 0.1, np.nan, rng.normal(80, 15, n)),
            "sex": rng.choice(["female", "male"], n),
            "ssc_subtype": "limited",
        }
    )


CLINICAL = ["age_years", "fvc_percent", "dlco_percent", "sex", "ssc_subtype"]


@pytest.mark.parametrize(("after", "changes", "grows"), [(1.0, False, None), (0.0, True, False), (2.5, True, True)])
def test_a_hazard_ratio_that_changes_is_told_and_which_way(after, changes, grows):
    table = followed_patients(after)
    table["number_same"] = table["age_years"] + 1
    tested = explain.proportional_hazards(table, [*CLINICAL, "number_same"]).set_index("feature")
    assert list(tested.index) == ["age_years", "fvc_percent", "sex_male"]
    assert (tested.loc["age_years", "p"] < 1e-3) == changes
    if changes:
        assert tested.loc["age_years", "grows"] == grows
    else:
        assert tested.loc["age_years", "hazard_ratio"] == pytest.approx(np.e, rel=0.15)
    assert (tested.drop("age_years")["p"] > 0.01).all()
    told = tables.hazards_over_time(tested.reset_index())["In words"]["age"]
    assert (
        told
        == {None: "no sign of a change", True: "tells more as time goes on", False: "tells less as time goes on"}[grows]
    )


def test_only_the_first_scan_of_a_patient_is_tested_and_few_deaths_give_no_test():
    table = followed_patients(0.0).assign(dlco_percent=np.nan)
    later = table.assign(scan_day=400, age_years=np.random.default_rng(1).normal(size=len(table)))
    once, twice = (explain.proportional_hazards(each, CLINICAL) for each in (table, pd.concat([later, table])))
    pd.testing.assert_frame_equal(once.sort_values("feature"), twice.sort_values("feature"), rtol=1e-6)
    assert explain.proportional_hazards(table.groupby("event_observed").head(14), CLINICAL).empty
