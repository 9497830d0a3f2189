"""The log-rank test with patients as clusters: exact properties, lifelines, and its error under no effect."""

import numpy as np
import pytest
from lifelines.statistics import multivariate_logrank_test

from sscct_lib.logrank import clustered_logrank


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
