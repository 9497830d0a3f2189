from functools import cache

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.stats import kstest

from sscct_lib.demo import patients
from sscct_lib.demo.patients import DAYS_PER_YEAR, STEPS_PER_YEAR
from sscct_lib.study.settings import DemoSettings

SEED = 2026  # its first 577 patients have 2,125 scans


@cache
def lives(n_patients: int = 577, informative: bool = False) -> list[tuple]:
    settings = DemoSettings(informative_dropout=informative)
    people = [patients.draw_patient(SEED, number) for number in range(1, n_patients + 1)]
    return [(person, patients.simulate(person, settings, SEED)) for person in people]


def monthly_rows() -> pd.DataFrame:
    """One row per patient and month under observation, with the factors of the hazard in that month."""
    frames = []
    for person, course in lives():
        end = course.last_contact_day / DAYS_PER_YEAR * STEPS_PER_YEAR
        steps = np.arange(int(np.ceil(end)))
        factors = patients.risk_factors(patients.latent_state(person, steps / STEPS_PER_YEAR))
        rows = pd.DataFrame(factors).assign(start=steps, stop=np.minimum(steps + 1, end))
        for cause in ("lung", "other"):
            rows[cause] = 0
            rows.loc[rows.index[-1], cause] = int(course.cause == cause)
        frames.append(rows[rows.stop > rows.start])
    return pd.concat(frames, ignore_index=True)


@pytest.mark.slow
@pytest.mark.parametrize(("cause", "effects"), [("lung", patients.LUNG_EFFECTS), ("other", patients.OTHER_EFFECTS)])
def test_cox_model_on_the_latent_state_recovers_the_stated_effects(cause, effects):
    rows = monthly_rows()
    fit = CoxPHFitter().fit(rows[[*effects, "start", "stop", cause]], "stop", cause, entry_col="start")
    for name, effect in effects.items():
        assert abs(fit.params_[name] - effect) < 2 * fit.standard_errors_[name], name


@pytest.mark.slow
def test_deaths_are_as_many_as_the_stated_hazard_expects():
    # Under the true hazard, cumulative hazards at the end of follow-up sum to the expected number of deaths.
    expected, observed = 0.0, 0
    for _, course in lives():
        grid = np.arange(len(course.cumulative)) / STEPS_PER_YEAR
        expected += np.interp(course.last_contact_day / DAYS_PER_YEAR, grid, course.cumulative)
        observed += course.cause != ""
    assert abs(observed - expected) < 2 * np.sqrt(expected)


def test_true_risk_of_a_constant_hazard_is_the_closed_form():
    yearly = 0.2
    grid = np.arange(patients.YEARS_SIMULATED * STEPS_PER_YEAR + 1) / STEPS_PER_YEAR
    course = patients.Course(np.array([0, 400]), 900, "", yearly * grid)
    risk = patients.true_risk(course, np.array([0.0, 400 / DAYS_PER_YEAR]), 3)
    np.testing.assert_allclose(risk, 1 - np.exp(-yearly * 3), rtol=1e-12)


def test_hazard_is_the_documented_formula():
    woman = {"fibrosis": 0.0, "age_years": 55.0, "male": 0.0, "hypertension": 0.0, "rate": 0.0}
    state = {name: np.array([value]) for name, value in woman.items()}
    assert patients.lung_hazard(state)[0] == pytest.approx(patients.LUNG_BASELINE)
    state["fibrosis"] = np.array([0.2])
    expected = patients.LUNG_BASELINE * np.exp(2 * patients.LUNG_EFFECTS["fibrosis_per_10"])
    assert patients.lung_hazard(state)[0] == pytest.approx(expected)
    assert patients.other_hazard(state)[0] == pytest.approx(patients.OTHER_BASELINE)


def test_disease_never_recedes_and_its_parts_sum_to_it():
    years = np.linspace(0, 20, 41)
    for number in range(1, 40):
        state = patients.latent_state(patients.draw_patient(SEED, number), years)
        for name in ("disease", "fibrosis", "honeycombing", "hypertension"):
            assert (np.diff(state[name]) >= 0).all()
        parts = state["ground_glass"] + state["reticulation"] + state["honeycombing"]
        np.testing.assert_allclose(parts, state["disease"])
        assert (state["disease"] <= patients.LARGEST_EXTENT).all()
        assert all((state[name] >= 0).all() for name in ("ground_glass", "reticulation", "honeycombing"))


def test_scans_are_in_order_and_before_last_contact():
    for _, course in lives(100):
        assert course.scan_days[0] == 0
        assert (np.diff(course.scan_days) >= 30).all()
        assert course.scan_days[-1] < course.last_contact_day
        assert 1 <= len(course.scan_days) <= patients.MOST_SCANS


@pytest.mark.slow
def test_loss_to_follow_up_depends_on_disease_only_when_asked():
    def loss_by_disease(informative: bool) -> float:
        rows = [
            (course.last_contact_day / DAYS_PER_YEAR, patients.latent_state(person, np.zeros(1))["fibrosis"][0] * 10,
             course.cause == "" and course.last_contact_day / DAYS_PER_YEAR + person.first_year < 2021.99)
            for person, course in lives(577, informative)
        ]  # fmt: skip
        fit = CoxPHFitter().fit(pd.DataFrame(rows, columns=["years", "fibrosis", "lost"]), "years", "lost")
        return float(fit.params_["fibrosis"] / fit.standard_errors_["fibrosis"])

    assert abs(loss_by_disease(False)) < 2
    assert loss_by_disease(True) > 3


def test_patients_differ_and_their_ages_follow_the_stated_distribution():
    ages = [patients.draw_patient(SEED, n).age_years for n in range(1, 600)]
    assert len(set(np.clip(ages, 21, 83))) > 580
    # A mixture of two normals, close together: compared with one of the mixture's mean and variance.
    assert kstest((np.array(ages) - 55.6) / 12.15, "norm").pvalue > 0.01
