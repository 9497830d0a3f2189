"""Weights by the risk and suppositions on the lost, held against lifelines, closed forms and known deaths."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR
from sscct_lib.demo import patients
from sscct_lib.horizons import censoring
from sscct_lib.horizons.bootstrap import horizon_outcome, resample_patients
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.study.settings import DemoSettings, HorizonSettings, Settings
from tests.horizons.cohorts import FEW, make_cohort, make_predictions


def lives(n: int, effect: float, seed: int = 0, n_samples: int = 0):
    """Patients with one scan; the covariate raises the hazard of death, and by `effect` that of being lost."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    death, lost = rng.exponential(1 / (0.15 * np.exp(x))), rng.exponential(1 / (0.12 * np.exp(effect * x)))
    outcome = horizon_outcome(
        np.minimum(death, lost), death <= lost, 3.0, resample_patients(np.arange(n), n_samples, seed)
    )
    return x, death, outcome


def test_the_coefficient_in_every_sample_is_that_of_lifelines():
    x, _, outcome = lives(120, 0.7, n_samples=3)
    table = pd.DataFrame({"t": outcome.followup_years, "lost": ~outcome.event_observed, "x": x})
    found = censoring.log_hazard_ratio(outcome.followup_years, ~outcome.event_observed, x, outcome.counts)
    assert found[0] == pytest.approx(CoxPHFitter().fit(table, "t", "lost").params_["x"], abs=1e-6)
    for sample, counts in zip(found[1:], outcome.counts[1:], strict=True):
        # Repeated patients would be ties, of which lifelines makes less: so each sample is moved apart by a hair.
        repeated = table.loc[table.index.repeat(counts.astype(int))]
        apart = repeated.assign(t=repeated["t"] + np.arange(len(repeated)) * 1e-9)
        assert sample == pytest.approx(CoxPHFitter().fit(apart, "t", "lost").params_["x"], abs=0.05)


def test_without_an_effect_the_weights_are_those_of_kaplan_meier():
    _, _, outcome = lives(150, 0.0, n_samples=20)
    same, log_ratio = censoring.weighed_by(np.ones(150), outcome)
    np.testing.assert_allclose(same.weights, outcome.weights, rtol=1e-9)
    assert not log_ratio.any()


def test_weights_are_the_inverse_of_the_true_probability_of_staying():
    x, _, outcome = lives(20_000, 0.5)
    weighed, log_ratio = censoring.weighed_by(x, outcome)
    assert log_ratio[0] == pytest.approx(0.5 * x.std(), abs=0.05)
    known = ~outcome.unknown
    stays = np.exp(-0.12 * np.exp(0.5 * x) * np.minimum(outcome.followup_years, 3.0))[known]
    error = weighed.weights[0, known] * stays - 1
    assert abs(error.mean()) < 0.01
    assert np.abs(error).max() < 0.15


def test_weights_by_what_drives_the_loss_bring_every_measure_to_its_true_value():
    x, death, outcome = lives(20_000, 0.8, seed=1)
    risk = 1 - np.exp(-0.45 * np.exp(x))
    truth = horizon_outcome(death, np.ones(len(x), bool), 3.0, resample_patients(np.arange(len(x)), 0, 0))
    weighed, _ = censoring.weighed_by(x, outcome)
    for metric in censoring.WEIGHED:
        true, marginal, by_risk = (METRICS[metric].measure(risk, each)[0] for each in (truth, outcome, weighed))
        assert abs(by_risk - true) < 0.02, metric
        assert abs(by_risk - true) < abs(marginal - true), metric


@pytest.mark.parametrize("grouped", [False, True])
def test_the_lost_who_die_as_fast_as_others_give_kaplan_meier(grouped):
    x, _, outcome = lives(200, 0.5, n_samples=3)
    group = (x > 0).astype(int) * grouped
    _, shared = censoring.shared_by_fate(outcome, group, 1.0)
    expected = 0.0
    for one in np.unique(group):
        inside = group == one
        curve = KaplanMeierFitter().fit(outcome.followup_years[inside], outcome.event_observed[inside])
        expected += inside.mean() * (1 - curve.predict(3.0))
    assert METRICS["observed_risk"].measure(x, shared)[0] == pytest.approx(expected, rel=1e-9)


def test_the_bounds_count_the_lost_as_alive_or_as_dead_and_hold_all_between():
    x, _, outcome = lives(200, 0.5)
    none = np.zeros(200, dtype=int)
    found = [
        METRICS["observed_risk"].measure(x, censoring.shared_by_fate(outcome, none, times)[1])[0]
        for times in (0.0, 0.5, 1.0, 2.0, np.inf)
    ]
    assert found == sorted(found)
    assert found[0] == pytest.approx(outcome.died.mean())
    assert found[-1] == pytest.approx((outcome.died | outcome.unknown).mean())


def demo_scans(seed: int, informative: bool, n_patients: int = 150) -> pd.DataFrame:
    """Scans of simulated patients, with the day of death also of those who were lost before it."""
    settings, rows = DemoSettings(informative_dropout=informative), []
    for number in range(1, n_patients + 1):
        patient = patients.draw_patient(seed, number)
        course = patients.simulate(patient, settings, seed)
        # The first number that a life draws is the hazard at which it ends.
        end = np.random.default_rng([seed, number, 1, patients.LIFE_STREAM]).exponential()
        grid = np.arange(len(course.cumulative)) / patients.STEPS_PER_YEAR
        death = np.interp(end, course.cumulative, grid, right=np.inf)
        years = course.scan_days / DAYS_PER_YEAR
        risks = {f"risk_{h}": patients.true_risk(course, years, h) for h in (1, 3, 5)}
        scans = pd.DataFrame({**risks, "death_years": death - years, "patient_id": f"p{number}"})
        rows.append(scans.assign(followup_years=course.last_contact_day / DAYS_PER_YEAR - years,
                                 event_observed=course.cause != ""))  # fmt: skip
    table = pd.concat(rows)
    return table[table["followup_years"] > 0].reset_index(drop=True)


@pytest.mark.slow
def test_in_the_demo_with_informative_dropout_weights_by_the_risk_are_nearer_to_the_truth():
    errors = []
    for seed in range(12):
        scans = demo_scans(seed, informative=True)
        resamples = resample_patients(scans["patient_id"], 0, 0)
        for years in (1, 3, 5):
            risk = scans[f"risk_{years}"].to_numpy()
            outcome = horizon_outcome(
                scans["followup_years"].to_numpy(), scans["event_observed"].to_numpy(), float(years), resamples
            )
            true = (scans["death_years"] <= years).mean() / risk.mean()
            by_risk = censoring.weighed_by(logit(risk), outcome)[0]
            found = [METRICS["observed_expected"].measure(risk, each)[0] / true - 1 for each in (outcome, by_risk)]
            errors.append((years, *found))
    mean = pd.DataFrame(errors, columns=["years", "same", "by_risk"]).groupby("years").mean()
    assert (mean["same"] < -0.06).all(), mean
    assert (mean["by_risk"].abs() < mean["same"].abs() / 2).all(), mean


def test_ways_are_judged_as_the_metrics_judge_them_and_told_in_words():
    cohort = make_cohort()
    evaluation = Evaluation(cohort, make_predictions(cohort), FEW)
    table = censoring.other_ways(evaluation, "Model")
    same = table[table["way"] == censoring.SAME_FOR_ALL].set_index(["horizon_years", "metric"])
    for years in FEW.horizons_years:
        found = evaluation.at("Model", years).estimate("auc")
        row = same.loc[(years, "auc")]
        assert [row["estimate"], row["ci_low"], row["ci_high"]] == [found[k] for k in ("estimate", "ci_low", "ci_high")]
        assert row["n_effective"] <= row["n_scans"] - row["n_unknown"] + 1e-9
    ratios = table[table["metric"] == "observed_expected"]
    by_way = ratios.pivot(index="horizon_years", columns="way", values="estimate")
    lived, *_, died = (by_way[way] for way in censoring.FATES)
    assert ((lived <= by_way[censoring.SAME_FOR_ALL]) & (by_way[censoring.SAME_FOR_ALL] <= died)).all()
    assert censoring.side_by_side(table).shape == (3 * (2 + len(censoring.FATES)), 3)
    assert "no sign that loss depends on the risk" in censoring.in_words(table)


def test_a_loss_that_depends_on_the_risk_is_told_with_what_it_does():
    rng = np.random.default_rng(3)
    x, _, outcome = lives(400, 1.0, seed=3)
    names = [f"p{i}" for i in range(400)]
    cohort = pd.DataFrame({"scan_id": names, "patient_id": names, "scan_day": 0, "marker": x,
                           "followup_years": outcome.followup_years, "event_observed": outcome.event_observed,
                           "fold": rng.integers(0, 3, 400)})  # fmt: skip
    settings = Settings(horizons_years=(3.0,), horizons=HorizonSettings(n_bootstrap=50))
    predictions = make_predictions(cohort, noise=0.1).query("horizon_years == 3")
    told = censoring.in_words(censoring.other_ways(Evaluation(cohort, predictions, settings), "Model"))
    assert "patients at higher risk are lost sooner than others: believe the second figure" in told


def test_without_unknown_scans_there_is_nothing_to_weigh():
    cohort = make_cohort(censoring=1e-9)
    assert censoring.other_ways(Evaluation(cohort, make_predictions(cohort), FEW), "Model").empty


def test_the_test_of_loss_is_per_patient_with_the_p_value_of_lifelines_nearby():
    cohort = make_cohort(200, seed=4)
    ages = cohort.groupby("patient_id")["marker"].transform("first") * 10 + 55
    table = censoring.hazards_of_loss(cohort.assign(age_years=ages)).set_index("covariate")
    first = cohort.assign(age=ages / 10).drop_duplicates("patient_id")
    first = first.assign(lost=~first["event_observed"])[["followup_years", "lost", "age"]]
    peer = CoxPHFitter().fit(first, "followup_years", "lost")
    row = table.loc["age, 10 years more"]
    assert row["hazard_ratio"] == pytest.approx(np.exp(peer.params_["age"]), rel=1e-6)
    assert row["p"] == pytest.approx(peer.summary["p"]["age"], abs=0.1)
    assert row["n_patients"] == len(first)
    assert row["n_lost"] == first["lost"].sum()


@pytest.mark.slow
def test_without_an_effect_one_test_in_twenty_is_below_five_in_a_hundred():
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        cohort = make_cohort(60, seed).assign(scan_year=2010.0, manufacturer="GE")
        by_patient = rng.integers(0, 2, 60)[pd.factorize(cohort["patient_id"])[0]]
        cohort = cohort.assign(age_years=50.0 + 10 * by_patient, manufacturer=np.where(by_patient, "GE", "Philips"))
        found.append(censoring.hazards_of_loss(cohort).set_index("covariate")["p"])
    below = (pd.DataFrame(found) < 0.05).mean()
    assert (below < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)).all(), below


def test_a_covariate_without_enough_losses_or_values_is_left_out():
    cohort = make_cohort(40).assign(age_years=60.0, fvc_percent=np.nan, scan_year=2012.0)
    assert censoring.hazards_of_loss(cohort).empty
    nobody = replace(lives(20, 0.0)[2], event_observed=np.ones(20, bool))
    assert not censoring.log_hazard_ratio(nobody.followup_years, ~nobody.event_observed, np.arange(20.0), nobody.counts)
