"""The log-rank test with patients as clusters: exact properties, lifelines, and its error under no effect.

Cumulative incidence against lifelines and against Kaplan-Meier.
"""

import numpy as np
import pandas as pd
import pytest
from lifelines import AalenJohansenFitter
from lifelines.statistics import multivariate_logrank_test

from sscct_lib.horizons.bootstrap import kaplan_meier
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.figures import cumulative_incidence_by_cause
from sscct_lib.horizons.survival import (
    aalen_johansen,
    cause_specific_hazards,
    clustered_logrank,
    cumulative_incidence,
    hazard_ratios,
    transplant_free,
)
from sscct_lib.study.settings import Settings
from tests.horizons.cohorts import FEW, make_cohort, make_predictions


def lives(rng: np.random.Generator, n: int, rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    death, end = rng.exponential(1 / rate, n), rng.exponential(1.5, n)
    return np.minimum(death, end), death <= end


def test_a_patient_counted_twice_changes_nothing():
    rng = np.random.default_rng(0)
    time, event = lives(rng, 90)
    group, patient = rng.integers(0, 3, 90), np.arange(90)
    once = clustered_logrank(time, event, group, patient)
    twice = clustered_logrank(*(np.tile(values, 2) for values in (time, event, group, patient)))
    assert twice.chi2 == pytest.approx(once.chi2, rel=1e-9)
    assert twice.p == pytest.approx(once.p, rel=1e-9)
    assert once.degrees_of_freedom == 2
    as_if_independent = clustered_logrank(*(np.tile(values, 2) for values in (time, event, group)), np.arange(180))
    assert as_if_independent.chi2 == pytest.approx(2 * once.chi2, rel=1e-9)


def test_independent_scans_agree_with_the_ordinary_test_in_large_samples():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 3, 3000)
    time, event = lives(rng, 3000, 1 + 0.1 * group)
    ordinary = multivariate_logrank_test(time, group, event)
    assert clustered_logrank(time, event, group, np.arange(3000)).chi2 == pytest.approx(
        ordinary.test_statistic, rel=0.1
    )


def test_which_group_is_the_reference_does_not_matter():
    rng = np.random.default_rng(2)
    time, event = lives(rng, 60)
    group, patient = rng.choice(list("abc"), 60), rng.integers(0, 25, 60)
    renamed = np.array([{"a": "z", "b": "y", "c": "x"}[name] for name in group])
    one, other = (clustered_logrank(time, event, names, patient) for names in (group, renamed))
    assert one.chi2 == pytest.approx(other.chi2, rel=1e-8)


def test_five_percent_of_false_alarms_where_scans_of_a_patient_belong_together():
    rng = np.random.default_rng(3)
    patient, group = np.repeat(np.arange(120), 4), np.repeat(rng.integers(0, 2, 120), 4)
    clustered, naive = [], []
    for _ in range(400):
        death, end = rng.exponential(1, 120), rng.exponential(1.5, 120)
        ahead = rng.uniform(0, 0.05, 480)  # scans of a patient see nearly the same follow-up
        time = np.repeat(np.minimum(death, end), 4) + ahead
        event = np.repeat(death <= end, 4)
        clustered.append(clustered_logrank(time, event, group, patient).p < 0.05)
        naive.append(clustered_logrank(time, event, group, np.arange(480)).p < 0.05)
    assert 0.025 < np.mean(clustered) < 0.085
    assert np.mean(naive) > 0.2


def test_nothing_to_compare_gives_no_p_value():
    time, event = np.arange(1.0, 7), np.array([True, False] * 3)
    assert np.isnan(clustered_logrank(time, event, np.zeros(6), np.arange(6)).p)
    assert np.isnan(clustered_logrank(time, np.zeros(6, bool), np.arange(6) % 2, np.arange(6)).p)


@pytest.fixture(scope="module")
def cohort():
    rows = make_cohort(100)
    causes = np.random.default_rng(0).choice(["lung", "other"], len(rows))
    return rows.assign(cause_of_death=np.where(rows["event_observed"], causes, None))


def test_incidence_equals_lifelines(cohort):
    table = cumulative_incidence(cohort, FEW)
    codes = cohort["cause_of_death"].map({"lung": 1, "other": 2}).fillna(0).astype(int)
    for name, code in (("lung", 1), ("other", 2)):
        fitted = AalenJohansenFitter(calculate_variance=False).fit(
            cohort["followup_years"], codes, event_of_interest=code
        )
        rows = table[table["group"] == name]
        known = fitted.cumulative_density_.iloc[:, 0]
        expected = known.reindex(known.index.union(rows["years"])).ffill().loc[rows["years"]]
        np.testing.assert_allclose(rows["incidence"], expected, atol=1e-12)
        assert (rows["ci_low"] <= rows["incidence"] + 1e-12).all()


def test_causes_sum_to_all_deaths_also_with_ties():
    rng = np.random.default_rng(1)
    time, event = rng.integers(1, 9, 80).astype(float), rng.random(80) < 0.6
    lung, counts = rng.random(80) < 0.5, rng.integers(0, 3, (4, 80)).astype(float)
    at = np.arange(10)
    both = aalen_johansen(time, event, lung, counts, at) + aalen_johansen(time, event, ~lung, counts, at)
    np.testing.assert_allclose(both, 1 - kaplan_meier(time, event, counts, at), atol=1e-12)


def test_no_deaths_and_no_causes(cohort):
    assert cumulative_incidence(cohort.assign(event_observed=False), FEW).empty
    unnamed = cumulative_incidence(cohort.drop(columns="cause_of_death"), FEW)
    assert unnamed["group"].unique().tolist() == ["unknown"]


def test_figure_names_causes_and_numbers(cohort):
    table = cumulative_incidence(cohort, FEW)
    figure = cumulative_incidence_by_cause(table)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    of_lung = cohort[cohort["event_observed"] & (cohort["cause_of_death"] == "lung") & (cohort["followup_years"] <= 5)]
    assert labels[0] == f"lung: {len(of_lung)} scans of {of_lung['patient_id'].nunique()} patients"


def test_a_transplant_is_an_event_of_its_own(cohort):
    alive = ~cohort["event_observed"]
    transplanted = alive & (np.arange(len(cohort)) % 3 == 0)
    table = cumulative_incidence(cohort.assign(transplanted=transplanted), FEW)
    assert set(table["group"]) == {"lung", "other", "transplant"}
    code = np.select([transplanted, cohort["cause_of_death"] == "lung", cohort["event_observed"]], [1, 2, 3], 0)
    fitted = AalenJohansenFitter(calculate_variance=False).fit(cohort["followup_years"], code, event_of_interest=1)
    rows = table[table["group"] == "transplant"]
    known = fitted.cumulative_density_.iloc[:, 0]
    expected = known.reindex(known.index.union(rows["years"])).ffill().loc[rows["years"]]
    np.testing.assert_allclose(rows["incidence"], expected, atol=1e-12)


def test_cause_specific_hazards_find_the_cause_that_the_risk_is_about():
    rng = np.random.default_rng(5)
    n, effect = 3000, 0.7
    marker = rng.normal(size=n)
    lung, other = rng.exponential(1 / (0.1 * np.exp(effect * marker))), rng.exponential(10, n)
    death, end = np.minimum(lung, other), rng.uniform(1, 12, n)
    names = [f"p{i}" for i in range(n)]
    died = death <= end
    rows = pd.DataFrame(
        {"scan_id": names, "patient_id": names, "scan_day": 0, "fold": 0, "followup_years": np.minimum(death, end),
         "event_observed": died, "cause_of_death": np.where(died, np.where(lung < other, "lung", "other"), None)}
    )  # fmt: skip
    risk = 1 / (1 + np.exp(-marker))
    predictions = rows[["scan_id", "patient_id", "fold"]].assign(
        model="Model", horizon_years=5.0, repeat=0, risk=risk, score=risk
    )
    found = cause_specific_hazards(Evaluation(rows, predictions, Settings(horizons_years=(5.0,))), "Model").set_index(
        "cause"
    )
    # One standard deviation of the logit of the risk is one of the marker.
    assert found.loc["lung", "ci_low"] < np.exp(effect * marker.std()) < found.loc["lung", "ci_high"]
    assert found.loc["other", "ci_low"] < 1 < found.loc["other", "ci_high"]
    assert found["n_events"].sum() == (died & (np.minimum(death, end) <= 5)).sum()


def scans_without_effect(seed: int, n_patients: int = 60) -> tuple[np.ndarray, ...]:
    """Two to four scans of each patient, about 20 of whom die, and a marker that says nothing."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), rng.integers(2, 5, n_patients))
    death, lost = rng.exponential(10, n_patients)[patient], rng.uniform(1, 8, n_patients)[patient]
    marker = rng.normal(size=n_patients)[patient] + rng.normal(0, 0.3, len(patient))
    return np.minimum(death, lost) + rng.uniform(0, 1, len(patient)), death <= lost, patient, marker


def test_errors_do_not_depend_on_the_order_of_scans_with_the_same_time():
    time, event, patient, marker = scans_without_effect(0)
    months = np.ceil(time * 4) / 4
    order = np.random.default_rng(1).permutation(len(time))
    one = hazard_ratios(months, event, patient, {"marker": marker})
    other = hazard_ratios(months[order], event[order], patient[order], {"marker": marker[order]})
    pd.testing.assert_frame_equal(one, other, rtol=1e-6)


@pytest.mark.slow
def test_a_marker_without_effect_is_rarely_significant():
    p = np.array(
        [hazard_ratios(*scan[:3], {"x": scan[3]})["p"].item() for scan in map(scans_without_effect, range(600))]
    )
    assert (p < 0.05).mean() < 0.075
    assert (p < 0.01).mean() < 0.022


def test_transplants_are_judged_as_events_and_as_the_end_whatever_the_study_says():
    plain = make_cohort(120)
    predictions = make_predictions(plain)
    cohort = plain.drop(columns="marker")
    transplanted = ~cohort["event_observed"] & (np.arange(len(cohort)) % 3 == 0)
    assert transplant_free(Evaluation(cohort, predictions, FEW), "Model").empty
    rows = []
    for as_death in (False, True):
        event = cohort["event_observed"] | (as_death & transplanted)
        study = cohort.assign(transplanted=transplanted, event_observed=event)
        rows.append(transplant_free(Evaluation(study, predictions, FEW), "Model"))
        own = [at.estimate("auc") for at in Evaluation(study, predictions, FEW).horizons_of("Model")]
        shown = rows[-1].query(f"part == '{'death or lung transplant' if as_death else 'death'}'")
        np.testing.assert_array_equal(shown["estimate"], [one["estimate"] for one in own])
    pd.testing.assert_frame_equal(*rows)
    deaths, both = (rows[0].query(f"part == '{name}'")["n_events"] for name in ("death", "death or lung transplant"))
    assert (both.to_numpy() > deaths.to_numpy()).all()
