"""Net benefit against dcurves and Vickers' formula by lifelines; flags against a plain two-by-two table."""

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter

from sscct_lib import horizon_figures, summary
from sscct_lib.bootstrap import horizon_outcome, resample_patients
from sscct_lib.decisions import EVERYBODY, NOBODY, decision_curves, flag_measures, net_benefit, threshold_table
from tests.test_horizons import FEW, make_cohort, make_predictions

THRESHOLDS = [0.05, 0.2, 0.5]


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(120)


def risk_and_outcome(cohort, n_samples=0):
    risk = make_predictions(cohort).query("horizon_years == 3")["risk"].to_numpy()
    resamples = resample_patients(cohort["patient_id"], n_samples, 0)
    followup, event = cohort["followup_years"].to_numpy(), cohort["event_observed"].to_numpy()
    return risk, horizon_outcome(followup, event, 3.0, resamples)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_net_benefit_is_vickers_formula(cohort, threshold):
    risk, outcome = risk_and_outcome(cohort)
    chosen = risk >= threshold
    fitted = KaplanMeierFitter().fit(cohort["followup_years"][chosen], cohort["event_observed"][chosen])
    died = 1 - fitted.predict(3.0)
    expected = chosen.mean() * (died - (1 - died) * threshold / (1 - threshold))
    assert net_benefit(risk, outcome, threshold)[0] == pytest.approx(expected, abs=1e-12)


def test_net_benefit_equals_dcurves(cohort):
    dcurves = pytest.importorskip("dcurves", reason="dcurves is not installed")
    risk, outcome = risk_and_outcome(cohort)
    frame = cohort[["followup_years", "event_observed"]].assign(risk=risk, event_observed=cohort["event_observed"] * 1)
    table = dcurves.dca(
        data=frame, outcome="event_observed", modelnames=["risk"], thresholds=THRESHOLDS, time=3.0,
        time_to_outcome_col="followup_years",
    )  # fmt: skip
    expected = table[table["model"] == "risk"]["net_benefit"].to_numpy()
    found = [net_benefit(risk, outcome, threshold)[0] for threshold in THRESHOLDS]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    everybody = table[table["model"] == "all"]["net_benefit"].to_numpy()
    found = [net_benefit(np.ones(len(risk)), outcome, threshold)[0] for threshold in THRESHOLDS]
    np.testing.assert_allclose(found, everybody, atol=1e-9)


def test_flags_without_censoring_are_a_two_by_two_table():
    rng = np.random.default_rng(0)
    risk = rng.random(300)
    followup = rng.exponential(4 - 3 * risk)
    outcome = horizon_outcome(followup, np.ones(300, bool), 2.0, resample_patients(np.arange(300), 5, 0))
    for sample in (0, 5):
        counts = outcome.counts[sample]
        found = {name: values[sample] for name, values in flag_measures(risk, outcome, 0.6).items()}
        tp, fp, fn, tn = (
            counts[(risk >= 0.6) == flag][(outcome.died == died)[(risk >= 0.6) == flag]].sum()
            for flag, died in [(True, True), (True, False), (False, True), (False, False)]
        )
        assert found["flagged"] == pytest.approx((tp + fp) / counts.sum())
        assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
        assert found["specificity"] == pytest.approx(tn / (tn + fp))
        assert found["ppv"] == pytest.approx(tp / (tp + fp))
        assert found["npv"] == pytest.approx(tn / (tn + fn))
        assert found["net_benefit"] == pytest.approx(tp / counts.sum() - fp / counts.sum() * 0.6 / 0.4)


def test_nobody_and_everybody_flagged(cohort):
    _, outcome = risk_and_outcome(cohort)
    nobody = {name: values[0] for name, values in flag_measures(np.full(len(cohort), 0.1), outcome, 0.5).items()}
    assert (nobody["flagged"], nobody["sensitivity"], nobody["net_benefit"]) == (0, 0, 0)
    assert nobody["specificity"] == pytest.approx(1)
    assert np.isnan(nobody["ppv"])
    everybody = {name: values[0] for name, values in flag_measures(np.full(len(cohort), 0.5), outcome, 0.5).items()}
    assert (everybody["flagged"], everybody["sensitivity"]) == (1, 1)
    assert np.isnan(everybody["npv"])


def test_curves_and_figure(cohort):
    models = pd.concat([make_predictions(cohort, 0.2, "A"), make_predictions(cohort, 2.0, "B")], ignore_index=True)
    table = decision_curves(models, cohort, ["A", "B"], FEW)
    assert table["model"].unique().tolist() == ["A", EVERYBODY, NOBODY, "B"]
    with_interval = table.dropna(subset="ci_low")
    assert set(with_interval["model"]) == {"A"}
    assert (with_interval["ci_low"] <= with_interval["net_benefit"]).all()
    assert table.loc[table["model"] == NOBODY, "net_benefit"].eq(0).all()
    figure = horizon_figures.decision_curves(table)
    assert len(figure.axes) == 3


def test_nothing_to_decide_when_nobody_died(cohort):
    alive = cohort.assign(event_observed=False)
    table = decision_curves(make_predictions(cohort), alive, ["Model"], FEW)
    assert table.empty
    horizon_figures.decision_curves(table)


def test_threshold_table_for_readers(cohort):
    table = threshold_table(make_predictions(cohort), cohort, "Model", FEW)
    shown = summary.thresholds_side_by_side(table)
    assert shown.index.tolist()[0] == ("1 year", "10 %")
    assert len(shown) == 3 * len(FEW.horizons.thresholds)
    row = table.query("horizon_years == 3 and threshold == 0.2 and measure == 'sensitivity'").iloc[0]
    assert shown.loc[("3 years", "20 %"), "deaths found of 100"].startswith(f"{row['estimate'] * 100:.0f} (")
