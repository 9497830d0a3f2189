import numpy as np
import pytest

from sscct_lib import tabular
from sscct_lib.effects import accumulated_effects, feature_weights, leading_features
from tests.tabular_cohort import make_study, make_table


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("effects"), feature_sets=("Radiomics",), n_repeats=2)
    table = make_table(study, n_patients=150)
    return table, tabular.cross_validate(table, study)


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
