"""What a registry would know about the demo cohort's patients, and, apart from it, the truth.

From the patients' latent courses come the manifest (visits, scanners, lung function with noise and gaps, follow-up)
and the table of the truth.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.demo import patients
from sscct_lib.demo.patients import DAYS_PER_YEAR, Course, Patient
from sscct_lib.demo.render import WIDE_FIELD_MM, Protocol
from sscct_lib.study.settings import DemoSettings


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
        patient = patients.draw_patient(seed, number)
        course = patients.simulate(patient, settings, seed)
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
    state = patients.latent_state(patient, years)
    risks = {h: patients.true_risk(course, years, h) for h in patients.TRUE_HORIZONS}
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
