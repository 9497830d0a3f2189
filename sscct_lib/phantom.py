"""The embedded demo study: synthetic patients with systemic sclerosis, their CT scans, and the truth about both.

`patients` decides who they are, `anatomy`, `disease` and `rendering` what their chests look like; here they become
the files of a study. What no real registry knows lies apart in `truth/`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sscct_lib import patients, scans
from sscct_lib.patients import DAYS_PER_YEAR, Course, Patient
from sscct_lib.rendering import Protocol, Volume, render
from sscct_lib.study import DemoSettings, Study, StudyError
from sscct_lib.tables import atomic

SCANNERS = (
    # manufacturer, soft kernel, sharp kernel, blur of each in mm, noise of each in HU
    ("Siemens", "B31f", "B60f", 0.75, 0.45, 14.0, 38.0),
    ("GE", "STANDARD", "LUNG", 0.70, 0.42, 16.0, 42.0),
    ("Philips", "B", "L", 0.80, 0.50, 15.0, 34.0),
)
THICKNESSES_MM = (1.0, 1.25, 2.5, 5.0)


def demo_cohort(settings: DemoSettings, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the tables of the demo study, without its scans.

    Parameters
    ----------
    settings
        How many patients, and the switches.
    seed
        Of the study. The first patients are the same for any number of patients.

    Returns
    -------
    manifest : pandas.DataFrame
        One row a scan, as a registry would export it (schema `tables.MANIFEST`).
    truth : pandas.DataFrame
        One row a scan, in the same order: the latent state (shares of the lungs per pattern, index of pulmonary
        hypertension, growth per year), `true_risk_1y`, `true_risk_3y`, `true_risk_5y`, how the scan was taken.
    """
    width = max(3, len(str(settings.n_patients)))
    rows, truth = [], []
    for number in range(1, settings.n_patients + 1):
        patient = patients.draw_patient(seed, number)
        course = patients.simulate(patient, settings, seed)
        for one, true in _patient_rows(patient, course, f"S{number:0{width}d}", seed):
            rows.append(one)
            truth.append(true)
    manifest = pd.DataFrame(rows).astype({"fvc_percent": "Int64", "dlco_percent": "Int64"})
    return manifest, pd.DataFrame(truth)


def _patient_rows(
    patient: Patient, course: Course, patient_id: str, seed: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    rng = np.random.default_rng([seed, patient.number, 5])
    years = course.scan_days / DAYS_PER_YEAR
    constitution = rng.normal(0, (9.0, 9.0))
    state = patients.latent_state(patient, years)
    risks = {h: patients.true_risk(course, years, h) for h in patients.TRUE_HORIZONS}
    rows = []
    for i, day in enumerate(course.scan_days):
        now = {name: float(values[i]) for name, values in state.items()}
        scanner, protocol = _protocol(now, rng)
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
            **scanner,
        }
        true = {"scan_id": scan_id, "patient_id": patient_id, "patient_number": patient.number, "sex": patient.sex}
        true["scan_year"] = round(patient.first_year + years[i], 3)
        true |= {name: round(value, 6) for name, value in now.items()}
        true |= {f"true_risk_{h}y": round(float(risks[h][i]), 6) for h in risks}
        true |= {name: round(value, 3) for name, value in vars(protocol).items()}
        rows.append((one, true))
    return rows


def _lung_function(
    state: Mapping[str, float], constitution: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, int | None]:
    """Measure FVC and DLCO, % predicted: both fall with disease; noise, and some values are missing."""
    fvc = 101 - 75 * state["fibrosis"] - 40 * state["ground_glass"]
    dlco = 86 - 80 * state["fibrosis"] - 45 * state["ground_glass"] - 22 * state["hypertension"]
    dlco -= 70 * state["emphysema"]
    fvc, dlco = np.array([fvc, dlco]) + constitution + rng.normal(0, (4.0, 5.0))
    missing = rng.random(2) < (0.08, 0.15)
    values = {"fvc_percent": np.clip(fvc, 25, 140), "dlco_percent": np.clip(dlco, 12, 130)}
    return {
        name: None if gone else round(float(value)) for (name, value), gone in zip(values.items(), missing, strict=True)
    }


def _protocol(state: Mapping[str, float], rng: np.random.Generator) -> tuple[dict[str, Any], Protocol]:
    """Draw scanner, kernel, slice thickness, dose and breath-hold."""
    name, soft, sharp, soft_blur, sharp_blur, soft_noise, sharp_noise = SCANNERS[rng.integers(len(SCANNERS))]
    is_sharp = rng.random() < 0.55
    thickness = float(rng.choice(THICKNESSES_MM, p=[0.45, 0.3, 0.2, 0.05]))
    noise = (sharp_noise if is_sharp else soft_noise) * float(rng.lognormal(0, 0.2)) / math.sqrt(thickness)
    # Fibrotic lungs are stiff and small.
    inspiration = (0.985 - 0.30 * state["fibrosis"]) * float(np.clip(rng.normal(0.97, 0.03), 0.86, 1.03))
    scanner = {"manufacturer": name, "kernel": sharp if is_sharp else soft, "slice_thickness_mm": thickness}
    return scanner, Protocol(sharp_blur if is_sharp else soft_blur, noise, thickness, inspiration)


def _demo_settings(study: Study) -> DemoSettings:
    if study.settings.demo is None:
        raise StudyError(
            f"{study.folder} is not a demo study: its study.yaml has no `demo:` section, so its manifest and scans "
            "are left alone. To make a demo study, name another folder."
        )
    return study.settings.demo


def scan_files(study: Study, scan_id: str) -> dict[str, Path]:
    """Name the files of a synthetic scan.

    Parameters
    ----------
    study
        The demo study.
    scan_id
        The scan.

    Returns
    -------
    dict of str to pathlib.Path
        `hu`: the scan. True masks on its grid: `lungs` (1 right, 2 left), `lobes` (1 right upper, 2 right middle,
        3 right lower, 4 left upper, 5 left lower), `lesions` (1 ground-glass, 2 reticulation, 3 honeycombing,
        4 emphysema).
    """
    name = f"{scan_id}.nii.gz"
    truth = study.folder / "truth"
    return {
        "hu": study.folder / "scans" / name,
        "lungs": truth / "masks" / name,
        "lobes": truth / "lobes" / name,
        "lesions": truth / "lesions" / name,
    }


def write_tables(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the manifest and `truth/truth.csv` of a demo study, each only when its content differs.

    Parameters
    ----------
    study
        A study with a `demo` section.

    Returns
    -------
    manifest, truth : pandas.DataFrame
        As from `demo_cohort`.

    Raises
    ------
    StudyError
        If the study has no `demo` section.
    """
    manifest, truth = demo_cohort(_demo_settings(study), study.settings.seed)
    for frame, path in ((manifest, study.manifest_path), (truth, study.folder / "truth" / "truth.csv")):
        text = frame.to_csv(index=False, lineterminator="\n")
        if not path.is_file() or path.read_bytes() != text.encode():
            with atomic(path) as partial:
                partial.write_bytes(text.encode())
    return manifest, truth


def write_demo(study: Study, n_jobs: int = 1) -> None:
    """Make the whole demo study: manifest, truth and every scan that is not there yet.

    Parameters
    ----------
    study
        A study with a `demo` section.
    n_jobs
        Processes that share the scans; the files are the same for any number.

    Raises
    ------
    StudyError
        If the study has no `demo` section, or a scan could not be made.
    """
    manifest, _ = write_tables(study)
    make_scans(study, manifest, n_jobs)


def make_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Make the scans of some rows of the manifest, and their true masks.

    Parameters
    ----------
    study
        A study with a `demo` section.
    rows
        Rows of its manifest; only `scan_id` is used.
    n_jobs
        Processes that share the scans.

    Returns
    -------
    pandas.DataFrame
        One row a scan: `scan_id`, `patient_id`, `status`, `reason`, and what was drawn: `lung_l` (litres) and the
        shares of the lungs per pattern in the masks.

    Raises
    ------
    StudyError
        If the study has no `demo` section, a row is not one of its scans, or a scan could not be made.
    """
    _, truth = demo_cohort(_demo_settings(study), study.settings.seed)
    unknown = sorted(set(rows["scan_id"]) - set(truth["scan_id"]))
    if unknown:
        raise StudyError(
            f"{study.manifest_path} has scans that are not in the demo cohort of these settings, for example "
            f"{unknown[0]}. Run `sscct demo` again to make the manifest anew."
        )
    wanted = truth.set_index("scan_id", drop=False).loc[list(rows["scan_id"])]
    folder = study.folder / "truth" / "records"
    for scan_id in wanted["scan_id"]:
        if not all(path.is_file() for path in scan_files(study, scan_id).values()):
            (folder / f"{scan_id}.json").unlink(missing_ok=True)
    settings = [study.settings.seed, study.settings.demo]
    made = scans.process(study, "phantom", make_scan, wanted, settings, _no_inputs, n_jobs, folder)
    failed = made[made["status"] != "ok"]
    if len(failed):
        first = failed.iloc[0]
        raise StudyError(
            f"{len(failed)} synthetic scan(s) could not be made; the first is {first.scan_id}: {first.reason}"
        )
    return made


def _no_inputs(row: Mapping[str, Any]) -> list[Path]:
    return []


def make_scan(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    """Make one scan and write its files.

    Parameters
    ----------
    study
        The demo study.
    row
        A row of the truth table.

    Returns
    -------
    dict
        `lung_l` and the shares of the lungs that the masks hold.
    """
    spacing = _demo_settings(study).spacing_mm
    names = ("blur_mm", "noise_hu", "slice_thickness_mm", "inspiration")
    protocol = Protocol(**{name: float(row[name]) for name in names})
    number = int(row["patient_number"])
    seeds = [study.settings.seed, number, 6, int(str(row["scan_id"]).rsplit("-", 1)[1])]
    # More threads could round sums differently.
    with threadpool_limits(limits=1):
        volume = render(study.settings.seed, number, row["sex"] == "female", row, protocol, spacing, seeds)
    for name, path in scan_files(study, row["scan_id"]).items():
        write_volume(getattr(volume, name), volume, path)
    return _measured(volume)


def _measured(volume: Volume) -> dict[str, Any]:
    n_lung = int((volume.lungs > 0).sum())
    counts = np.bincount(volume.lesions.ravel(), minlength=5)
    names = ("ground_glass", "reticulation", "honeycombing", "emphysema")
    shares = {f"{name}_share": round(int(n) / n_lung, 5) for name, n in zip(names, counts[1:5], strict=True)}
    return {"lung_l": round(n_lung * volume.spacing_mm**3 / 1e6, 4), **shares}


def write_volume(array: NDArray[Any], volume: Volume, path: Path) -> None:
    """Write an array on the grid of a volume as NIfTI.

    Parameters
    ----------
    array
        [z, y, x], LPS.
    volume
        Gives origin and spacing.
    path
        The `.nii.gz` file, written whole or not at all.
    """
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([volume.spacing_mm] * 3)
    image.SetOrigin(volume.origin)
    with atomic(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True, compressionLevel=1)
