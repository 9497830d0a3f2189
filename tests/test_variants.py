import pandas as pd

from sscct_lib.summary import DENOMINATORS
from sscct_lib.variants import is_variant, variants_side_by_side

NAMES = ["Clinical", "All features", "All features, boosted trees", "Fibrosis, extent", "Clinical, logistic"]


def performance(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"model": names}).assign(
        metric="auc", horizon_years=3.0, estimate=0.7, ci_low=0.6, ci_high=0.8, n_scans=90, n_events=9, n_unknown=2
    )


def test_a_variant_has_the_name_of_another_model_before_its_last_comma() -> None:
    assert is_variant(pd.Series(NAMES)).tolist() == [False, False, True, False, True]


def test_variants_stand_below_their_model_and_others_are_left_out() -> None:
    shown = variants_side_by_side(performance(NAMES))
    expected = ["All features", "All features, boosted trees", "Clinical", "Clinical, logistic"]
    assert shown.index.tolist() == [DENOMINATORS, *expected]
    assert variants_side_by_side(performance(["Clinical", "Fibrosis, extent"])).empty
