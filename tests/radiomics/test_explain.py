import numpy as np
import pytest

from sscct_lib.radiomics import cross_validation
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
    assert needed.index[0] == "density histogram"
    signal, noise = needed.loc["density histogram"], needed.loc["texture of neighbours"]
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
