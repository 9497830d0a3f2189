import pandas as pd

from sscct_lib.radiomics.figures import feature_effects, feature_stability, feature_weights, importance


def test_every_fit_of_every_feature_is_drawn_and_how_often_it_was_chosen() -> None:
    table = pd.DataFrame(
        {
            "feature": ["age_years", "age_years", "qct_volume_l", "qct_volume_l"],
            "coefficient": [0.5, 0.9, -0.3, 0.0],
            "fold": [0, 1] * 2,
        }
    )
    axis = feature_weights(table, ["age_years", "qct_volume_l"], "All features").axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["age\nin 2 of 2 fits", "lung volume\nin 1 of 2 fits"]
    assert axis.yaxis_inverted()
    drawn = {(x, y) for points in axis.collections for x, y in points.get_offsets().tolist()}
    assert drawn == {(0.5, 0), (0.9, 0), (-0.3, 1), (0.0, 1)}


def test_no_feature_gives_an_empty_figure() -> None:
    table = pd.DataFrame(columns=["feature", "coefficient", "fold"])
    assert not feature_weights(table, []).axes[0].collections
    assert not feature_effects(pd.DataFrame(columns=["feature", "value", "effect", "low", "high"])).axes[0].lines


def test_effects_are_drawn_in_points_of_risk_and_the_features_unit() -> None:
    table = pd.DataFrame(
        {"feature": "age_years", "value": [40.0, 60.0], "effect": [-0.1, 0.2], "low": [-0.2, 0.1], "high": [0.0, 0.3]}
    )
    axis = feature_effects(table, "Death within 3 years").axes[0]
    assert axis.get_xlabel() == "age, years"
    assert [list(line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 2][1] == [-10.0, 20.0]


def test_each_feature_and_its_class_are_in_the_figure_of_stability() -> None:
    table = pd.DataFrame(
        {
            "feature": ["qct_mean_hu", "original_glcm_Id", "original_glcm_Idm"],
            "icc": [0.99, 0.5, 0.8],
            "ci_low": [0.98, 0.3, 0.7],
            "ci_high": [1.0, 0.7, 0.9],
            "n_scans": 24,
        }
    )
    axis = feature_stability(table, 0.75).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["quantitative CT\n1 of 1 stable", "GLCM\n1 of 2 stable"]
    assert axis.get_title(loc="left") == "3 features, 24 scans of as many patients"
    drawn = [x for points in axis.collections for x, _ in getattr(points, "get_offsets", lambda: [])() if x]
    assert sorted(set(table["icc"]) - set(drawn)) == []


def test_importance_carries_its_counts() -> None:
    table = pd.DataFrame(
        {
            "kind": ["age"], "n_features": [1], "loss": [0.1], "ci_low": [0.0], "ci_high": [0.2],
            "n_scans": [40], "n_events": [7],
        }
    )  # fmt: skip
    axis = importance(table, "Death within 3 years").axes[0]
    assert axis.get_title(loc="left") == "Death within 3 years: 7 of 40 scans"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["age (1)"]
    assert importance(table.iloc[:0], "Death").axes[0].get_title(loc="left") == "Death: no estimate"
