"""Recalibration by the other folds."""

import numpy as np
import pandas as pd
import pytest

from sscct_lib.calibration import logit
from sscct_lib.horizons import evaluate
from sscct_lib.recalibration import beside_recalibrated, recalibrated
from tests.test_horizons import FEW, make_cohort, make_predictions


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(400, seed=3)


def distorted(predictions: pd.DataFrame, shift: float, stretch: float) -> pd.DataFrame:
    return predictions.assign(risk=1 / (1 + np.exp(-(shift + stretch * logit(predictions["risk"].to_numpy())))))


def at(predictions: pd.DataFrame, cohort: pd.DataFrame, metric: str) -> np.ndarray:
    return evaluate(predictions, cohort, FEW, [metric])["estimate"].to_numpy()


def test_a_known_distortion_is_undone(cohort):
    wrong = distorted(make_predictions(cohort, 0.0), shift=1.0, stretch=2.0)
    right = recalibrated(wrong, cohort, FEW)
    assert (at(wrong, cohort, "calibration_slope") < 0.65).all()
    np.testing.assert_allclose(at(right, cohort, "calibration_slope"), 1, atol=0.15)
    np.testing.assert_allclose(at(right, cohort, "observed_expected"), 1, atol=0.05)
    assert (at(right, cohort, "brier") < at(wrong, cohort, "brier")).all()


def test_own_outcomes_never_enter(cohort):
    predictions = make_predictions(cohort, 0.5)
    changed = cohort.copy()
    own = changed["fold"] == 1
    changed.loc[own, "event_observed"] = ~changed.loc[own, "event_observed"]
    for rows in (cohort, changed):
        rows.attrs = {}
    before, after = (recalibrated(predictions, rows, FEW).query("fold == 1") for rows in (cohort, changed))
    pd.testing.assert_frame_equal(before, after)


def test_risks_rise_with_the_horizon_and_ranks_stay_within_a_fold(cohort):
    predictions = make_predictions(cohort, 0.5)
    moved = recalibrated(distorted(predictions, -1.0, 0.5), cohort, FEW)
    wide = moved.pivot(index="scan_id", columns="horizon_years", values="risk")
    assert (wide.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    both = moved.merge(predictions, on=["scan_id", "horizon_years"], suffixes=("", "_before"))
    for _, rows in both.query("horizon_years == 1").groupby("fold"):
        assert rows["risk"].corr(rows["risk_before"], method="spearman") == pytest.approx(1)


def test_a_model_worse_than_chance_is_shifted_but_not_turned_round(cohort):
    upside_down = make_predictions(cohort, 0.0)
    upside_down["risk"] = 1 - upside_down["risk"]
    auc_before = at(upside_down, cohort, "auc")
    assert (auc_before < 0.5).all()
    moved = recalibrated(upside_down, cohort, FEW)
    assert (at(moved, cohort, "auc") < 0.5).all()
    np.testing.assert_allclose(at(moved, cohort, "observed_expected"), 1, atol=0.06)


def test_without_deaths_nothing_moves(cohort):
    alive = cohort.assign(event_observed=False)
    predictions = make_predictions(cohort, 0.5)
    moved = recalibrated(predictions, alive, FEW)
    np.testing.assert_allclose(moved["risk"], predictions["risk"])


def test_table_for_readers_puts_before_beside_after(cohort):
    wrong = distorted(make_predictions(cohort, 0.0), shift=1.0, stretch=2.0)
    before, after = (evaluate(rows, cohort, FEW) for rows in (wrong, recalibrated(wrong, cohort, FEW)))
    shown = beside_recalibrated(before, after).loc["Model"]
    assert float(shown["slope", "as predicted"].split()[0]) < 0.65
    assert float(shown["slope", "put right"].split()[0]) == pytest.approx(1, abs=0.15)
