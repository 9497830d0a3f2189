import pandas as pd

from sscct_lib.feature_figures import feature_stability, feature_weights, importance


def test_every_fold_of_every_feature_is_drawn_heaviest_on_top() -> None:
    table = pd.DataFrame(
        {
            "feature": ["age", "age", "lung volume", "lung volume"],
            "coefficient": [0.5, 0.9, -0.3, 0.0],
            "fold": [0, 1] * 2,
        }
    )
    axis = feature_weights(table, "All features").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["age", "lung volume"]
    assert axis.yaxis_inverted()
    drawn = {(x, y) for points in axis.collections for x, y in points.get_offsets().tolist()}
    assert drawn == {(0.5, 0), (0.9, 0), (-0.3, 1), (0.0, 1)}


def test_no_feature_gives_an_empty_figure() -> None:
    assert not feature_weights(pd.DataFrame(columns=["feature", "coefficient", "fold"])).axes[0].collections


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
    assert labels == ["quantitative CT\n1 of 1 stable", "texture of neighbours\n1 of 2 stable"]
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
    assert axis.get_title(loc="left") == "Death within 3 years: 40 scans, 7 deaths"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["age (1)"]
    assert importance(table.iloc[:0], "Death").axes[0].get_title(loc="left") == "Death: no estimate"
