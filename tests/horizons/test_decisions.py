"""Net benefit against dcurves and Vickers' formula by lifelines; flags against a plain two-by-two table.

The worked example against counts by hand; headline, similar patients and failures on small cohorts.
"""

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter

from sscct_lib.horizons import decisions, evaluate, figures, patients, tables
from sscct_lib.horizons import models as horizon_models
from sscct_lib.horizons.bootstrap import horizon_outcome, interval, resample_patients
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.decisions import EVERYBODY, NOBODY, decision_curves, flag_measures, net_benefit, threshold_table
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.study.disclosure import HIDDEN, protect
from sscct_lib.study.settings import HorizonSettings, Settings
from tests.horizons.cohorts import FEW, make_cohort, make_predictions

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
    table = decision_curves(Evaluation(cohort, models, FEW), ["A", "B"])
    assert table["model"].unique().tolist() == ["A", EVERYBODY, NOBODY, "B"]
    with_interval = table.dropna(subset="gain_low")
    assert set(with_interval["model"]) == {EVERYBODY, NOBODY, "B"}
    assert (with_interval["gain_low"] <= with_interval["gain"]).all()
    assert table.loc[table["model"] == NOBODY, "net_benefit"].eq(0).all()
    wide = table.pivot(index=["horizon_years", "threshold"], columns="model", values=["net_benefit", "gain"])
    for other in (EVERYBODY, NOBODY, "B"):
        np.testing.assert_allclose(
            wide["gain", other], wide["net_benefit", "A"] - wide["net_benefit", other], atol=1e-12
        )
    figure = figures.decision_curves(table)
    assert len(figure.axes) == 6


def test_a_gain_is_that_of_the_same_samples_and_much_surer_than_either_benefit(cohort):
    """At 2 % nearly everybody is flagged: the two ways differ by few scans, though each benefit is uncertain."""
    judged = Evaluation(cohort, make_predictions(cohort, 0.2), FEW).at("Model", 5.0)
    table = decision_curves(Evaluation(cohort, make_predictions(cohort, 0.2), FEW), ["Model"])
    row = table.query("horizon_years == 5 and threshold == 0.1 and model == @EVERYBODY").iloc[0]
    ones = np.ones(len(judged.risk))
    own, all_scans = (net_benefit(risk, judged.outcome, 0.1) for risk in (judged.risk, ones))
    gain = interval(own - all_scans, judged.outcome.degrees_of_freedom)
    assert (row["gain_low"], row["gain_high"]) == pytest.approx(gain[:2])
    alone = interval(own, judged.outcome.degrees_of_freedom)
    assert row["gain_high"] - row["gain_low"] < 0.5 * (alone.high - alone.low)


def test_where_both_ways_flag_the_same_scans_there_is_no_gain_and_no_doubt(cohort):
    sure = make_predictions(cohort).assign(risk=0.9)
    table = decision_curves(Evaluation(cohort, sure, FEW), ["Model"]).query("model == @EVERYBODY")
    assert (table[["gain", "gain_low", "gain_high"]] == 0).all(axis=None)


def test_nothing_to_decide_when_nobody_died(cohort):
    alive = cohort.assign(event_observed=False)
    table = decision_curves(Evaluation(alive, make_predictions(cohort), FEW), ["Model"])
    assert table.empty
    figures.decision_curves(table)


def test_threshold_table_for_readers(cohort):
    table = threshold_table(Evaluation(cohort, make_predictions(cohort), FEW), "Model")
    protect(1)
    shown = tables.thresholds_side_by_side(table)
    assert shown.index.tolist()[0] == ("1 year", "10 %")
    assert len(shown) == 3 * len(FEW.horizons.thresholds)
    row = table.query("horizon_years == 3 and threshold == 0.2 and measure == 'sensitivity'").iloc[0]
    assert shown.loc[("3 years", "20 %"), "deaths found of 100"].startswith(f"{row['estimate'] * 100:.0f} (")


def test_a_cell_of_few_patients_is_told_by_no_measure_of_a_decision(cohort):
    judged = Evaluation(cohort, make_predictions(cohort), FEW)
    table = threshold_table(judged, "Model")
    at = judged.at("Model", 3.0)
    for threshold, rows in table.query("horizon_years == 3").groupby("threshold"):
        flag = np.where(at.risks[0] >= threshold, "flagged", "not")
        state = np.select([at.outcome.died, at.outcome.alive], ["died", "alive"], "unknown")
        cells = at.scans.groupby([flag, state])["patient_id"].nunique().drop("unknown", level=1)
        assert rows["fewest"].eq(cells.min()).all()
        shown = tables.thresholds_side_by_side(rows).iloc[0].drop(["flagged of 100"], errors="ignore")
        assert shown.drop("flagged from", errors="ignore").eq(HIDDEN).all() == (cells.min() < 5)


@pytest.fixture(scope="module")
def small():
    return make_cohort(90)


@pytest.fixture(scope="module")
def predictions(small):
    return make_predictions(small)


def lungs_of(cohort, **columns):
    return pd.DataFrame(
        {"scan_id": cohort["scan_id"], "verdict": "pass", "findings": "", "high_attenuation_share": 0.1} | columns
    )


def test_the_example_is_chosen_by_its_risk_alone(small, predictions):
    scan = decisions.example_scan(Evaluation(small, predictions, FEW), "Model")
    changed = small.assign(event_observed=~small["event_observed"], followup_years=9.0)
    assert decisions.example_scan(Evaluation(changed, predictions, FEW), "Model")["scan_id"] == scan["scan_id"]
    risks = predictions.loc[predictions["horizon_years"] == 3, "risk"]
    assert abs((risks < scan["risk"]).mean() - 0.75) < 0.01


def test_flags_without_censoring_are_counted_by_hand(predictions):
    small = make_cohort(90, censoring=1e-9)
    predictions = make_predictions(small)
    numbers = decisions.worked_example(Evaluation(small, predictions, FEW), "Model")
    risk = predictions.loc[predictions["horizon_years"] == 3, "risk"].to_numpy()
    died = small["followup_years"].to_numpy() <= 3
    flagged = risk >= 0.2
    assert numbers["act_threshold"] == "20 %"
    assert numbers["act_price"] == "4"
    assert numbers["act_flagged"] == f"{100 * flagged.mean():.0f}"
    assert numbers["act_found"] == f"{100 * (flagged & died).mean():.0f}"
    assert numbers["act_missed"] == f"{100 * (~flagged & died).mean():.0f}"
    benefit = 100 * ((flagged & died).mean() - (flagged & ~died).mean() / 4)
    assert str(numbers["act_benefit"]).startswith(f"{benefit:.1f} (")
    everybody = 100 * (died.mean() - (~died).mean() / 4)
    assert numbers["act_benefit_all"] == f"{everybody:.1f}"
    assert str(numbers["act_gain_all"]).startswith(f"{benefit - everybody:.1f} (")


def test_nobody_flagged_and_nobody_followed_give_words(small, predictions):
    nobody = decisions.worked_example(Evaluation(small, predictions.assign(risk=0.01), FEW), "Model")
    assert nobody["act_flagged"] == "0"
    assert nobody["act_found"] == "0"
    assert nobody["act_of_flagged"] == "not estimable"
    few = small.assign(event_observed=small["event_observed"] & small["patient_id"].isin(["p001", "p002", "p003"]))
    too_small = decisions.worked_example(Evaluation(few, predictions, FEW), "Model")
    assert too_small["act_deaths"] == too_small["act_flagged"] == "an unknown number"
    assert too_small["act_gain_all"] == "not estimable"
    short = small.assign(followup_years=0.5, event_observed=False)
    assert decisions.worked_example(Evaluation(short, predictions, FEW), "Model")["act_benefit"] == "not estimable"


def test_similar_patients_are_the_nearest_others_once_each(small, predictions):
    found = patients.similar_patients(Evaluation(small, predictions, FEW), "Model", 0.3, "p004")
    assert len(found) == patients.N_SIMILAR
    assert found["patient_id"].is_unique
    assert "p004" not in set(found["patient_id"])
    away = np.abs(logit(found["risk"].to_numpy()) - np.log(0.3 / 0.7))
    assert (np.diff(away) >= 0).all()
    risks = predictions[(predictions["horizon_years"] == 3) & (predictions["patient_id"] != "p004")]
    distance = pd.Series(np.abs(logit(risks["risk"].to_numpy()) - np.log(0.3 / 0.7)), risks.index)
    nearest = distance.groupby(risks["patient_id"]).min().nsmallest(patients.N_SIMILAR)
    np.testing.assert_allclose(np.sort(away), np.sort(nearest))


def test_a_patient_whose_risk_is_far_is_not_about_the_same(small, predictions):
    evaluation = Evaluation(small, predictions, FEW)
    found = patients.similar_patients(evaluation, "Model", 0.999)
    odds = found["risk"] / (1 - found["risk"])
    assert len(found) < patients.N_SIMILAR
    assert (odds >= 999 / patients.CALIPER).all()


def test_outcomes_of_similar_patients_are_counted_and_kaplan_meier(small, predictions):
    found = patients.similar_patients(Evaluation(small, predictions, FEW), "Model", 0.3)
    table = patients.outcomes(found, FEW).set_index("horizon_years")
    followup, event = found["followup_years"], found["event_observed"]
    for years in (1.0, 3.0, 5.0):
        assert table.loc[years, "died"] == (event & (followup <= years)).sum()
        assert table.loc[years, "alive"] == (followup > years).sum()
        assert table.loc[years, ["died", "alive", "unknown"]].sum() == len(found)
        assert table.loc[years, "ci_low"] <= table.loc[years, "observed"] <= table.loc[years, "ci_high"]
    assert "Of the 20 other patients" in patients.in_words(patients.outcomes(found, FEW))
    assert "No other patient" in patients.in_words(patients.outcomes(found[:0], FEW))


def test_the_most_wrong_are_those_that_what_happened_contradicts_most(small, predictions):
    wrong = patients.most_wrong(Evaluation(small, predictions, FEW), lungs_of(small), "Model", 3.0)
    assert len(wrong) == patients.N_WRONG
    risk, chance = (
        wrong[name].str.extract(r"(\d+)", expand=False).astype(float) for name in ("risk", "chance by the risk")
    )
    died = wrong["what happened"].str.startswith("died")
    np.testing.assert_allclose(chance, risk.where(died, 100 - risk))
    assert chance.is_monotonic_increasing
    assert chance.max() < 50
    assert wrong.index.str[:4].is_unique  # one scan per patient


def test_a_survivor_at_a_low_risk_is_no_failure(small, predictions):
    alive = small.assign(event_observed=False, followup_years=9.0)
    risks = predictions.assign(risk=0.2)
    assert patients.most_wrong(Evaluation(alive, risks, FEW), lungs_of(small), "Model", 3.0).empty


def test_what_is_recorded_of_a_wrong_prediction_is_said(small, predictions):
    known = small.assign(cause_of_death="other", fvc_percent=np.nan, dlco_percent=50.0, slice_thickness_mm=5.0)
    lungs = lungs_of(small, verdict="review", findings="the mask leaks", high_attenuation_share=0.01)
    wrong = patients.most_wrong(Evaluation(known, predictions, FEW), lungs, "Model", 3.0)
    first = wrong.loc[wrong["what happened"].str.startswith("died"), "what is known that may tell why"].iloc[0]
    for words in ("did not die of the lungs", "little HAA (1 %)", "the mask leaks", "FVC not known", "5 mm"):
        assert words in first
    plain = patients.most_wrong(
        Evaluation(small.assign(fvc_percent=80.0, dlco_percent=60.0), predictions, FEW), lungs_of(small), "Model", 3.0
    )
    assert patients.counts_wrong(plain)["n_wrong"] == len(plain)
    unexplained = plain["what is known that may tell why"].eq("nothing that this study records")
    assert patients.counts_wrong(plain)["n_wrong_unexplained"] == unexplained.sum() > 0


def test_few_patients_give_few_failures():
    small = make_cohort(5)
    wrong = patients.most_wrong(Evaluation(small, make_predictions(small), FEW), lungs_of(small), "Model", 1.0)
    assert len(wrong) <= 10


def models(cohort, *names):
    networks = {"Swin Transformer (from scratch)": "swin"}
    return pd.concat([make_predictions(cohort, model=name, network=networks.get(name, "")) for name in names])


def test_the_headline_takes_fixed_models_whatever_their_results(small):
    given = models(
        small, "Zebra", "Radiomics", "Radiomics, boosted trees", "Swin Transformer (from scratch)", "Clinical"
    )
    performance = evaluate.evaluate(Evaluation(small, given, Settings(horizons=HorizonSettings(n_bootstrap=20))))
    table = horizon_models.headline(performance)
    assert list(table.index) == ["Clinical", "Radiomics", "Swin Transformer (from scratch)"]
    assert table.shape == (3, 6)
    first = table.columns[0][0]
    died = int(((small["followup_years"] <= 1) & small["event_observed"]).sum())
    assert first.startswith(f"1 year: {died} scans of ")
    cells = list(table.to_numpy().ravel())
    assert not any("\n" in cell for cell in cells)  # pandas would write it as such
    assert max(len(piece) for cell in cells for piece in cell.split(" ")) <= 20  # wraps, and so fits its page
    assert horizon_models.pictured_model(given) == "Radiomics"
    worse = performance.assign(estimate=performance["estimate"] / 2)
    assert list(horizon_models.headline(worse).index) == list(table.index)


def test_a_model_without_predictions_at_a_horizon_and_a_horizon_without_deaths_are_said(small):
    alive = small.assign(event_observed=False)
    given = models(small, "Clinical", "Radiomics")
    given = given[(given["model"] != "Radiomics") | (given["horizon_years"] == 1)]
    performance = evaluate.evaluate(Evaluation(alive, given, Settings(horizons=HorizonSettings(n_bootstrap=20))))
    table = horizon_models.headline(performance)
    assert set(table.to_numpy().ravel()) == {"not estimable", "too small"}
    assert set(table.loc["Clinical"]) == {"too small"}
    without = performance[(performance["model"] != "Radiomics") | (performance["horizon_years"] == 1)]
    assert "no prediction" in set(horizon_models.headline(without).loc["Radiomics"])


def test_a_model_that_lacks_a_horizon_is_not_pictured_and_gives_words(small, predictions):
    short = predictions[predictions["horizon_years"] == 5].assign(model="Radiomics")
    both = pd.concat([short, predictions.assign(model="Age and sex")])
    assert horizon_models.pictured_model(both) == "Age and sex"
    assert horizon_models.pictured_model(short) == "Radiomics"
    words = decisions.worked_example(Evaluation(small, short, FEW), "Radiomics")
    full = decisions.worked_example(Evaluation(small, predictions, FEW), "Model")
    assert words.keys() == full.keys()
    assert {words[name] for name in decisions.NAMES} == {"not estimable"}
    assert words["act_horizon"] == "3 years"
