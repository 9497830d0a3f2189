import pandas as pd

from sscct_lib.feature_figures import feature_weights


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
