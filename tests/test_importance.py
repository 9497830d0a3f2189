import numpy as np
import pytest

from sscct_lib import tabular
from sscct_lib.importance import held_out_importance
from tests.tabular_cohort import auc, lost_before, make_study, make_table


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path, feature_sets=("Radiomics",))


def test_the_kind_that_drives_risk_is_needed_and_noise_is_not(study) -> None:
    table = make_table(study, n_patients=150)
    result = tabular.cross_validate(table, study)
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
    result = tabular.cross_validate(table, study)
    needed = held_out_importance(result, table, "Radiomics", 3.0, study, n_shuffles=40)
    assert needed["loss"].tolist() == pytest.approx([auc(result.predictions, table, "Radiomics", 3.0) - 0.5], abs=0.06)


def test_a_fold_without_a_model_gives_no_importance(study) -> None:
    table = make_table(study, n_patients=150)
    table = lost_before(table, table["fold"] != 0, 1.0)
    result = tabular.cross_validate(table, study)
    assert held_out_importance(result, table, "Radiomics", 1.0, study).empty
    again = [held_out_importance(result, table, "Radiomics", 3.0, study)["loss"].to_numpy() for _ in range(2)]
    assert np.array_equal(*again)
