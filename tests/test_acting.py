"""The worked example against counts by hand; headline, similar patients and failures on small cohorts."""

import numpy as np
import pandas as pd
import pytest

from sscct_lib import acting, failures, headline, horizons, similar
from sscct_lib.study import HorizonSettings, Settings
from tests.test_horizons import FEW, make_cohort, make_predictions


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(90)


@pytest.fixture(scope="module")
def predictions(cohort):
    return make_predictions(cohort)


def lungs_of(cohort, **columns):
    return pd.DataFrame(
        {"scan_id": cohort["scan_id"], "verdict": "pass", "findings": "", "high_attenuation_share": 0.1} | columns
    )


def test_the_example_is_chosen_by_its_risk_alone(cohort, predictions):
    scan = acting.example_scan(predictions, cohort, "Model", FEW)
    changed = cohort.assign(event_observed=~cohort["event_observed"], followup_years=9.0)
    assert acting.example_scan(predictions, changed, "Model", FEW)["scan_id"] == scan["scan_id"]
    risks = predictions.loc[predictions["horizon_years"] == 3, "risk"]
    assert abs((risks < scan["risk"]).mean() - 0.75) < 0.01


def test_flags_without_censoring_are_counted_by_hand(predictions):
    cohort = make_cohort(90, censoring=1e-9)
    predictions = make_predictions(cohort)
    numbers = acting.worked_example(predictions, cohort, "Model", FEW)
    risk = predictions.loc[predictions["horizon_years"] == 3, "risk"].to_numpy()
    died = cohort["followup_years"].to_numpy() <= 3
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


def test_nobody_flagged_and_nobody_followed_give_words(cohort, predictions):
    nobody = acting.worked_example(predictions.assign(risk=0.01), cohort, "Model", FEW)
    assert nobody["act_flagged"] == "0"
    assert nobody["act_found"] == "0"
    assert nobody["act_of_flagged"] == "not estimable"
    short = cohort.assign(followup_years=0.5, event_observed=False)
    assert acting.worked_example(predictions, short, "Model", FEW)["act_benefit"] == "not estimable"


def test_similar_patients_are_the_nearest_others_once_each(cohort, predictions):
    found = similar.similar_patients(predictions, cohort, "Model", 0.3, FEW, "p004")
    assert len(found) == similar.N_SIMILAR
    assert found["patient_id"].is_unique
    assert "p004" not in set(found["patient_id"])
    away = (found["risk"] - 0.3).abs()
    assert away.is_monotonic_increasing
    risks = predictions[(predictions["horizon_years"] == 3) & (predictions["patient_id"] != "p004")]
    nearest = (risks["risk"] - 0.3).abs().groupby(risks["patient_id"]).min().nsmallest(similar.N_SIMILAR)
    np.testing.assert_allclose(np.sort(away), np.sort(nearest))


def test_outcomes_of_similar_patients_are_counted_and_kaplan_meier(cohort, predictions):
    found = similar.similar_patients(predictions, cohort, "Model", 0.3, FEW)
    table = similar.outcomes(found, FEW).set_index("horizon_years")
    followup, event = found["followup_years"], found["event_observed"]
    for years in (1.0, 3.0, 5.0):
        assert table.loc[years, "died"] == (event & (followup <= years)).sum()
        assert table.loc[years, "alive"] == (followup > years).sum()
        assert table.loc[years, ["died", "alive", "unknown"]].sum() == len(found)
        assert table.loc[years, "ci_low"] <= table.loc[years, "observed"] <= table.loc[years, "ci_high"]
    assert "Of the 20 other patients" in similar.in_words(similar.outcomes(found, FEW))
    assert "No other patient" in similar.in_words(similar.outcomes(found[:0], FEW))


def test_the_most_wrong_are_deaths_with_low_and_survivals_with_high_risk(cohort, predictions):
    wrong = failures.most_wrong(predictions, cohort, lungs_of(cohort), "Model", 3.0, FEW)
    assert len(wrong) == 2 * failures.N_WRONG
    risk = wrong["risk"].str.extract(r"(\d+)", expand=False).astype(float)
    died = wrong["what happened"].str.startswith("died")
    assert risk[died].is_monotonic_increasing
    assert risk[~died].is_monotonic_decreasing
    assert not any("p" not in scan for scan in wrong.index)


def test_what_is_recorded_of_a_wrong_prediction_is_said(cohort, predictions):
    known = cohort.assign(cause_of_death="other", fvc_percent=np.nan, dlco_percent=50.0, slice_thickness_mm=5.0)
    lungs = lungs_of(cohort, verdict="review", findings="the mask leaks", high_attenuation_share=0.01)
    wrong = failures.most_wrong(predictions, known, lungs, "Model", 3.0, FEW)
    first = wrong["what is known that may tell why"].iloc[0]
    for words in ("did not die of the lungs", "little dense lung (1 %)", "the mask leaks", "FVC not known", "5 mm"):
        assert words in first
    plain = failures.most_wrong(
        predictions, cohort.assign(fvc_percent=80.0, dlco_percent=60.0), lungs_of(cohort), "Model", 3.0, FEW
    )
    assert failures.counts_wrong(plain)["n_wrong"] == len(plain)


def test_few_patients_give_few_failures():
    cohort = make_cohort(5)
    wrong = failures.most_wrong(make_predictions(cohort), cohort, lungs_of(cohort), "Model", 1.0, FEW)
    assert len(wrong) <= 10


def models(cohort, *names):
    return pd.concat([make_predictions(cohort, model=name) for name in names])


def test_the_headline_takes_fixed_models_whatever_their_results(cohort):
    given = models(
        cohort, "Zebra", "Radiomics", "Radiomics, boosted trees", "Swin Transformer (from scratch)", "Clinical"
    )
    performance = horizons.evaluate(given, cohort, Settings(horizons=HorizonSettings(n_bootstrap=20)))
    table = headline.headline(performance, FEW)
    assert list(table.index) == ["Clinical", "Radiomics", "Swin Transformer (from scratch)"]
    assert table.shape == (3, 6)
    first = table.columns[0][0]
    died = int(((cohort["followup_years"] <= 1) & cohort["event_observed"]).sum())
    assert first.startswith(f"1 year: {died} of {len(cohort)} scans followed by death")
    assert headline.pictured_model(given) == "Radiomics"
    worse = performance.assign(estimate=performance["estimate"] / 2)
    assert list(headline.headline(worse, FEW).index) == list(table.index)


def test_a_model_without_predictions_at_a_horizon_and_a_horizon_without_deaths_are_said(cohort):
    alive = cohort.assign(event_observed=False)
    given = models(cohort, "Clinical", "Radiomics")
    given = given[(given["model"] != "Radiomics") | (given["horizon_years"] == 1)]
    performance = horizons.evaluate(given, alive, Settings(horizons=HorizonSettings(n_bootstrap=20)))
    table = headline.headline(performance, FEW)
    assert set(table.to_numpy().ravel()) == {"not estimable"}
    without = performance[(performance["model"] != "Radiomics") | (performance["horizon_years"] == 1)]
    assert "no prediction" in set(headline.headline(without, FEW).loc["Radiomics"])


def test_a_model_that_lacks_a_horizon_is_not_pictured_and_gives_words(cohort, predictions):
    short = predictions[predictions["horizon_years"] == 5].assign(model="Radiomics")
    both = pd.concat([short, predictions.assign(model="Age and sex")])
    assert headline.pictured_model(both) == "Age and sex"
    assert headline.pictured_model(short) == "Radiomics"
    words = acting.worked_example(short, cohort, "Radiomics", FEW)
    full = acting.worked_example(predictions, cohort, "Model", FEW)
    assert words.keys() == full.keys()
    assert {words[name] for name in acting.NAMES} == {"not estimable"}
    assert words["act_horizon"] == "3 years"
