"""Riley's published examples, and what they say of a study."""

from math import exp, sqrt

import pandas as pd
import pytest

from sscct_lib.horizons import sample_size
from sscct_lib.horizons.evaluation import FEWEST_PATIENTS
from tests.horizons.cohorts import make_cohort


def test_the_published_example_of_survival():
    """Recurrent venous thromboembolism: Riley 2019, part II, and the R package pmsampsize."""
    found = sample_size.for_survival(30, 0.051, rate=0.065, mean_followup_years=2.07, horizon_years=2.0)
    assert (found.shrinkage, found.optimism) == (5143, 1039)


def test_the_published_example_of_a_binary_outcome():
    """Adverse outcome of COVID-19 (pmsampsize): criteria 1, 2 and 3."""
    assert sample_size.for_binary(24, 0.288, 0.174) == (623, 662, 221)


@pytest.mark.parametrize(("rate", "followup", "horizon"), [(0.065, 2.07, 2.0), (0.02, 6.0, 5.0), (0.3, 1.0, 1.0)])
def test_the_overall_risk_is_known_within_its_margin_and_no_patient_less_would_do(rate, followup, horizon):
    n = sample_size.for_survival(5, 0.05, rate, followup, horizon).overall_risk

    def farthest(patients: int) -> float:
        half = 1.96 * sqrt(rate / (patients * followup))
        ends = (1 - exp(-(rate + sign * half) * horizon) for sign in (-1, 1))
        return max(abs(end - (1 - exp(-rate * horizon))) for end in ends)

    assert farthest(n) <= 0.05 < farthest(n - 1)


def test_twice_the_parameters_need_twice_the_patients():
    one, two = (sample_size.for_survival(count, 0.05, 0.1, 3.0, 3.0) for count in (100, 200))
    assert two.shrinkage == pytest.approx(2 * one.shrinkage, abs=1)
    assert two.overall_risk == one.overall_risk


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(ValueError, match=r"expected one between 0 and 0\.6"):
        sample_size.for_binary(24, 0.7, 0.174)


def test_a_study_is_held_against_it_by_patients_not_scans():
    cohort = make_cohort(150)
    first = cohort[cohort["scan_day"] == 0]
    died = first["event_observed"].sum()
    table = sample_size.needed(cohort, {"Clinical": 6, "All features": 1000}, 3.0)
    assert table.loc["Clinical", "patients here"] == f"150 ({died} died)"
    assert table.loc["Clinical", "deaths for each"] == f"{died / 6:.2g}"
    assert table.loc["All features", "enough"].startswith("no: ")
    few = cohort["patient_id"].isin(cohort["patient_id"].unique()[: FEWEST_PATIENTS - 1])
    assert sample_size.needed(cohort.assign(event_observed=few), {"Clinical": 6}, 3.0).empty
    pd.testing.assert_frame_equal(table, sample_size.needed(cohort[::-1], {"Clinical": 6, "All features": 1000}, 3.0))
