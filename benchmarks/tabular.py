"""Time the tabular models of notebook 03 at the published study's size, on a simulated table of 2,125 scans.

`python benchmarks/tabular.py [--scans 2125] [--jobs 2] [--out FILE.csv]` simulates patients with clinical values, 45
measures of quantitative CT and 107 of texture and shape (correlated as such features are), their change since the
scan before, and follow-up; then cross-validates and saves every model that a `study.yaml` without a section `tabular`
asks for. It prints seconds and file sizes, and takes no image.
"""

import argparse
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from sscct_lib.cohort.selection import build_cohort
from sscct_lib.radiomics import cross_validation, feature_sets
from sscct_lib.radiomics import saved as radiomic_saved
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import MANIFEST
from sscct_lib.study.settings import Settings

N_PATIENTS = 640


def simulated(study: Study, n_scans: int) -> pd.DataFrame:
    """Simulate the joined table of cohort and features."""
    rng = np.random.default_rng(study.settings.seed)
    n_patients = max(20, round(N_PATIENTS * n_scans / 2125))
    patient = np.sort(rng.integers(0, n_patients, n_scans))
    visit = pd.Series(patient).groupby(patient).cumcount().to_numpy()
    severity = rng.normal(size=n_patients)
    last = np.zeros(n_patients)
    np.maximum.at(last, patient, visit + 0.1)
    death = last + rng.exponential(8 * np.exp(-severity))
    end = np.minimum(death, last + rng.uniform(0, 9, n_patients))
    manifest = pd.DataFrame(
        {
            "scan_id": [f"s{number}" for number in range(n_scans)],
            "patient_id": [f"p{number}" for number in patient],
            "scan_day": (visit * 365).astype(int),
            "image": "none",
            "last_contact_day": (end[patient] * 365).astype(int),
            "event_observed": (death <= end)[patient].astype(int),
            "age_years": 55 + 10 * rng.normal(size=n_scans),
            "sex": rng.choice(["female", "male"], n_scans, p=[0.8, 0.2]),
            "ssc_subtype": rng.choice(["limited", "diffuse"], n_scans),
            "fvc_percent": np.where(rng.random(n_scans) < 0.2, np.nan, 85 - 8 * severity[patient]).clip(30, 130),
            "manufacturer": rng.choice(["GE", "Siemens", "Philips"], n_scans),
        }
    )
    rows = MANIFEST.validate(manifest.reindex(columns=list(MANIFEST.columns)))
    followup = (rows["last_contact_day"] - rows["scan_day"]).astype(float) / 365.25
    cohort = build_cohort(rows.assign(followup_years=followup, transplanted=False), study)
    latent = np.column_stack([severity[patient], rng.normal(size=(n_patients, 14))[patient]])
    latent = latent + 0.2 * rng.normal(size=latent.shape)
    names = [f"qct_m{i}" for i in range(45)] + [f"original_glcm_f{i}" for i in range(107)]
    columns = latent @ rng.normal(size=(15, 152)) + rng.normal(size=(n_scans, 152))
    features = pd.DataFrame(columns, columns=names)
    identity = manifest[["scan_id", "patient_id"]].assign(status="ok", reason="", settings_hash="simulated")
    return feature_sets.join(cohort, pd.concat([identity, features], axis=1))


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=2125)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("sscct_lib").setLevel(logging.INFO)
    with TemporaryDirectory() as folder:
        study = Study(Path(folder), Settings())
        table = simulated(study, arguments.scans)
        begun = time.perf_counter()
        result = cross_validation.cross_validate(table, study, n_jobs=arguments.jobs)
        validated = time.perf_counter()
        saved = radiomic_saved.save_models(table, study, n_jobs=arguments.jobs)
        done = time.perf_counter()
    row = {
        "scans": len(table),
        "patients": table["patient_id"].nunique(),
        "columns": table.filter(regex="^(qct_|original_|change_)").shape[1],
        "models": result.predictions["model"].nunique(),
        "repeats": len(result.folds),
        "jobs": arguments.jobs,
        "cross_validation_s": round(validated - begun, 1),
        "saving_s": round(done - validated, 1),
        "largest_file_mb": saved["megabytes"].max(),
        "all_files_mb": round(saved.drop_duplicates("model")["megabytes"].sum(), 1),
    }
    print(pd.Series(row).to_string())
    if arguments.out:
        pd.DataFrame([row]).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
