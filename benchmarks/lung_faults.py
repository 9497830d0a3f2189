"""How many planted faults does quality assurance find, and how many clean scans does it flag?

    python benchmarks/lung_faults.py              the table of the book: 24 patients on whom no threshold was chosen
    python benchmarks/lung_faults.py --seed 2026  the same for the patients on whom the thresholds were chosen

Each fault is planted in two scans of every patient who has at least two; the other scans of the patient stay good.
A fault is found when the scan is set aside, fails, or is to be reviewed. Writes `book/lung_faults.csv`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from planted_faults import MASK_FAULTS, SCAN_FAULTS, WRONG_PATIENT, as_image
from scipy.stats import binomtest

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.demo.make import make_scans, scan_files, write_tables
from sscct_lib.images.prepare import load_array, prepare_scans
from sscct_lib.lungs.segment import examine
from sscct_lib.lungs.verdict import compare_visits
from sscct_lib.study.folder import Study
from sscct_lib.study.results import ScanError
from sscct_lib.study.settings import LungSettings, Settings

SETTINGS = LungSettings()
SPACING_MM = 3.0
TABLE = Path(__file__).parents[1] / "book" / "lung_faults.csv"
CUT_CM2 = SETTINGS.max_cut_area_cm2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--patients", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    demo = {"n_patients": chosen.patients, "spacing_mm": SPACING_MM}
    settings = {"seed": chosen.seed, "demo": demo, "images": {"spacing_mm": SPACING_MM}}
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), Settings.model_validate(settings))
        write_tables(study)
        rows = read_manifest(study)
        make_scans(study, rows, chosen.jobs)
        prepare_scans(study, rows, chosen.jobs)
        table = planted(study, rows, chosen.jobs)
    shown = summary(table)
    if chosen.seed == parser.get_default("seed"):
        shown.to_csv(TABLE, index=False)
    print(shown.to_string(index=False))
    print(table.loc[table["missed"], ["fault", "scan_id", "findings"]].to_string(index=False))


def planted(study: Study, rows: pd.DataFrame, n_jobs: int) -> pd.DataFrame:
    """Judge every scan as it is, then with each fault beside the patient's other scans as they are."""
    scans = rows.to_dict("records")
    several = rows[rows.duplicated("patient_id", keep=False)].groupby("patient_id").head(2)
    jobs = [("none", row) for row in scans]
    jobs += [
        (fault, row) for fault in (*SCAN_FAULTS, *MASK_FAULTS, WRONG_PATIENT) for row in several.to_dict("records")
    ]
    records = Parallel(n_jobs=n_jobs)(delayed(_examined)(study, rows, fault, row) for fault, row in jobs)
    judged = pd.DataFrame(records)
    clean = compare_visits(judged[judged["fault"] == "none"].reset_index(drop=True), SETTINGS)
    clean = clean[~clean["cut_in_truth"]]
    with_fault = [_beside_others(judged, index) for index in judged.index[judged["fault"] != "none"]]
    table = pd.concat([clean, pd.DataFrame(with_fault)], ignore_index=True)
    flagged = table["verdict"].ne("pass")
    return table.assign(flagged=flagged, missed=flagged == (table["fault"] == "none"))


def _examined(study: Study, rows: pd.DataFrame, fault: str, row: dict) -> dict:
    rng = np.random.default_rng([study.settings.seed, *fault.encode(), *str(row["scan_id"]).encode()])
    shown = row
    if fault == WRONG_PATIENT:
        others = rows[(rows["patient_id"] != row["patient_id"]) & (rows["sex"] == row["sex"])]
        shown = others.iloc[rng.integers(len(others))].to_dict()
    hu = load_array(study.image(shown["scan_id"]))
    labels = load_array(scan_files(study, shown["scan_id"])["lungs"])
    mask = None
    if fault in SCAN_FAULTS:
        hu = SCAN_FAULTS[fault](hu, labels, SPACING_MM, rng)
    elif fault in MASK_FAULTS:
        mask = as_image(MASK_FAULTS[fault](hu, labels, SPACING_MM, rng).astype(np.uint8), SPACING_MM)
    edge = labels > 0
    edge[1:-1, 1:-1, 1:-1] = False
    record = {
        "fault": fault, "scan_id": row["scan_id"], "patient_id": row["patient_id"],
        "cut_in_truth": np.count_nonzero(edge) * SPACING_MM**2 / 100 > CUT_CM2,
    }  # fmt: skip
    try:
        return {**record, **examine(as_image(hu, SPACING_MM), mask, SETTINGS)}
    except ScanError as error:
        return {**record, "verdict": "fail", "findings": str(error), "flags": "set_aside"}


def _beside_others(judged: pd.DataFrame, index: int) -> pd.Series:
    one = judged.loc[[index]]
    own = judged["patient_id"].eq(one["patient_id"].iloc[0]) & judged["fault"].eq("none")
    others = judged[own & judged["scan_id"].ne(one["scan_id"].iloc[0])]
    return compare_visits(pd.concat([one, others]), SETTINGS).loc[index]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Count by fault, with Wilson's 95 % interval."""
    faults = table[table["fault"] != "none"]
    parts = [
        ("clean scans", table[table["fault"] == "none"]),
        *faults.groupby("fault", sort=False),
        ("all faults", faults),
    ]
    lines = []
    for name, part in parts:
        n, n_flagged = len(part), int(part["flagged"].sum())
        share, interval = n_flagged / n, binomtest(n_flagged, n).proportion_ci(method="wilson")
        ends = [f"{100 * end:.0f}" for end in (share, interval.low, interval.high)]
        lines.append(
            {
                "planted": name, "patients": part["patient_id"].nunique(), "scans": n, "flagged": n_flagged,
                "of 100 scans (95 % interval)": f"{ends[0]} ({ends[1]} to {ends[2]})",
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


if __name__ == "__main__":
    main()
