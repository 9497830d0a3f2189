"""Synthetic patients: latent disease over time, the survival that follows from it, and what a registry knows of them.

Nothing here knows about pixels. Every number follows from the seed and the patient's number alone, so the first
76 patients of a cohort of 600 are those of a cohort of 76. A state holds arrays (n,), one value for each time. The
manifest has visits, scanners, lung function with noise and gaps, and follow-up; the truth stands apart from it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.demo.render import WIDE_FIELD_MM, Protocol
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


@dataclass(frozen=True)
class Scanner:
    """A scanner of the hospital: its kernels with their blur (mm) and noise (HU), and the years it was in use."""

    manufacturer: str
    soft: str
    sharp: str
    soft_blur_mm: float
    sharp_blur_mm: float
    soft_noise_hu: float
    sharp_noise_hu: float
    middle_year: float
    sharp_share: float
    thickness_weights: tuple[float, float, float, float]


THICKNESSES_MM = (1.0, 1.25, 2.5, 5.0)
SCANNERS = (
    Scanner("GE", "STANDARD", "LUNG", 0.70, 0.42, 17.0, 46.0, 2006.0, 0.45, (0.05, 0.50, 0.30, 0.15)),
    Scanner("Philips", "B", "L", 0.80, 0.50, 16.0, 38.0, 2012.0, 0.55, (0.45, 0.30, 0.20, 0.05)),
    Scanner("Siemens", "B31f", "B60f", 0.75, 0.45, 14.0, 42.0, 2018.0, 0.65, (0.75, 0.15, 0.10, 0.00)),
)
SCANNER_YEARS = 5.0  # how long one scanner's years blend into the next one's


def demo_cohort(settings: DemoSettings, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest (schema `MANIFEST`), and row by row the truth: latent state, true risks, how the scan was taken."""
    width = max(3, len(str(settings.n_patients)))
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for number in range(1, settings.n_patients + 1):
        patient = draw_patient(seed, number)
        course = simulate(patient, settings, seed)
        rows += _patient_rows(patient, course, f"S{number:0{width}d}", settings, seed)
        if settings.n_scans is not None and len(rows) >= settings.n_scans:
            break
    rows = rows[: settings.n_scans]
    manifest = pd.DataFrame([known for known, _ in rows]).astype({"fvc_percent": "Int64", "dlco_percent": "Int64"})
    return manifest, pd.DataFrame([true for _, true in rows])


def _patient_rows(
    patient: Patient, course: Course, patient_id: str, settings: DemoSettings, seed: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    rng = np.random.default_rng([seed, patient.number, 5])
    years = course.scan_days / DAYS_PER_YEAR
    constitution = rng.normal(0, (15.0, 16.0))
    state = latent_state(patient, years)
    risks = {h: true_risk(course, years, h) for h in TRUE_HORIZONS}
    rows = []
    for i, day in enumerate(course.scan_days):
        now = {name: float(values[i]) for name, values in state.items()}
        scanner, protocol = _protocol(now, patient.first_year + years[i], settings, rng)
        scan_id = f"{patient_id}-{i + 1}"
        one = {
            "scan_id": scan_id,
            "patient_id": patient_id,
            "scan_day": int(day),
            "image": f"scans/{scan_id}.nii.gz",
            "last_contact_day": course.last_contact_day,
            "event_observed": int(course.cause != ""),
            "age_years": round(now["age_years"], 1),
            "sex": patient.sex,
            "ssc_subtype": patient.subtype,
            **_lung_function(now, constitution, rng),
            "cause_of_death": course.cause or None,
            "scan_year": int(patient.first_year + years[i]),
            **scanner,
        }
        true = {"scan_id": scan_id, "patient_id": patient_id, "patient_number": patient.number, "sex": patient.sex}
        true["scan_year"] = round(patient.first_year + years[i], 3)
        true |= {name: round(value, 6) for name, value in now.items()}
        true |= {f"true_risk_{h}y": round(float(risks[h][i]), 6) for h in risks}
        true |= vars(protocol)
        rows.append((one, true))
    return rows


def _lung_function(
    state: Mapping[str, float], constitution: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, int | None]:
    """FVC and DLCO, % predicted: both fall with disease; noise, and some values are missing."""
    fvc = 101 - 75 * state["fibrosis"] - 40 * state["ground_glass"]
    dlco = 86 - 80 * state["fibrosis"] - 45 * state["ground_glass"] - 22 * state["hypertension"]
    dlco -= 70 * state["emphysema"]
    fvc, dlco = np.array([fvc, dlco]) + constitution + rng.normal(0, (4.5, 6.0))
    missing = rng.random(2) < (0.08, 0.15)
    values = {"fvc_percent": np.clip(fvc, 25, 140), "dlco_percent": np.clip(dlco, 12, 130)}
    return {
        name: None if gone else round(float(value)) for (name, value), gone in zip(values.items(), missing, strict=True)
    }


def _protocol(
    state: Mapping[str, float], year: float, settings: DemoSettings, rng: np.random.Generator
) -> tuple[dict[str, Any], Protocol]:
    """Draw scanner, kernel, slice thickness, dose, breath-hold, contrast and range."""
    weights = np.array([math.exp(-(((year - s.middle_year) / SCANNER_YEARS) ** 2)) for s in SCANNERS])
    scanner = SCANNERS[rng.choice(len(SCANNERS), p=weights / weights.sum())]
    sharp = bool(rng.random() < scanner.sharp_share)
    if settings.confounded_scanner and rng.random() < 0.85:
        sharp = state["fibrosis"] > 0.08
        scanner = SCANNERS[2 if sharp else 0]
    thickness = float(rng.choice(THICKNESSES_MM, p=scanner.thickness_weights))
    dose = float(rng.lognormal(0, 0.2))
    noise = (scanner.sharp_noise_hu if sharp else scanner.soft_noise_hu) * dose / math.sqrt(thickness)
    # Fibrotic lungs are stiff and small.
    breath = float(np.clip(1.02 - rng.gamma(2.0, 0.030), 0.78, 1.02))
    missed = float(rng.uniform(12, 40)) if rng.random() < 0.03 else 0.0
    contrast = bool(rng.random() < 0.06)
    field = float(rng.uniform(215, 265)) if rng.random() < 0.02 else WIDE_FIELD_MM
    protocol = Protocol(
        sharp=sharp,
        blur_mm=scanner.sharp_blur_mm if sharp else scanner.soft_blur_mm,
        noise_hu=round(noise, 3),
        slice_thickness_mm=thickness,
        inspiration=round((0.985 - 0.30 * state["fibrosis"]) * breath, 4),
        contrast=contrast,
        missed_mm=round(missed, 1),
        field_mm=round(field, 1),
    )
    known = {
        "manufacturer": scanner.manufacturer,
        "kernel": scanner.sharp if sharp else scanner.soft,
        "slice_thickness_mm": thickness,
    }
    return known, protocol
