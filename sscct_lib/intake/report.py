"""What became of everything that an export held: a table, and the few lines that stand on the screen."""

from collections.abc import Sequence

import pandas as pd

from sscct_lib.intake.pseudonyms import patient_code, scan_code
from sscct_lib.intake.series import Candidate, why_behind

MOST_REASONS = 12


def report_of(
    candidates: list[Candidate],
    written: pd.DataFrame,
    table: pd.DataFrame | None,
    key: bytes,
    of_table: Sequence[str] = (),
) -> pd.DataFrame:
    """Say what became of each series, which patients of the clinical table have no scan, and what it told."""
    remarks = {
        row["scan_id"]: [row["notes"], "" if row["in_clinical"] else "no row in the clinical table: no follow-up"]
        for row in written.to_dict("records")
    }
    best = {row["scan_id"]: row["candidates"] for row in written.to_dict("records")}
    rows = []
    for one in candidates:
        scan_id = scan_code(key, one.patient, one.visit)
        reasons = [*one.told, *(remarks[scan_id] if one.status == "scan" else [])]
        if one.status == "not chosen":
            chosen = next(other for other in best[scan_id] if other.status == "scan")
            reasons = [why_behind(one.preference, chosen.preference)]
        if one.header.get("burned_in"):
            reasons.append("the header says that text is burned into the pixels: look before sharing")
        if one.header.get("lossy"):
            reasons.append("lossy compression: densities are not as acquired")
        rows.append(
            {
                "patient_id": patient_code(key, one.patient) if one.patient else "",
                "scan_id": scan_id if one.status in ("scan", "lung mask") else "",
                "kind": one.kind,
                "n_slices": one.n_slices,
                "step_mm": one.step_mm,
                "kernel": one.header.get("kernel"),
                "status": one.status,
                "reason": "; ".join(filter(None, reasons)),
            }
        )
    seen = {one.patient for one in candidates if one.status == "scan"}
    absent = [] if table is None else [patient for patient in table["patient_id"].unique() if patient not in seen]
    rows += [
        {"patient_id": patient_code(key, patient), "status": "no scans", "reason": "in the clinical table only"}
        for patient in absent
    ]
    rows += [{"patient_id": "", "status": "clinical table", "reason": remark} for remark in of_table]
    return pd.DataFrame(rows).astype({"n_slices": "Int64"})


def summarise(report: pd.DataFrame) -> list[str]:
    """Say in a few lines what became of the series of a source.

    Parameters
    ----------
    report
        From `ingest`, of any length.

    Returns
    -------
    list of str
        How many scans of how many patients there are, and for each outcome how many series it has and why, the most
        frequent reasons first. Numbers in reasons are left out, so that like stands with like.
    """
    scans = report[report["status"] == "scan"]
    lines = [f"{len(scans)} scan(s) of {scans['patient_id'].nunique()} patient(s)"]
    reasons = report["reason"].str.replace(r"\d+(\.\d+)?", "#", regex=True).str.split("; ")
    told = report.assign(reason=reasons).explode("reason")
    for status in ("scan", "lung mask", "not chosen", "set aside", "passed over", "no scans", "clinical table"):
        counts = told.loc[(told["status"] == status) & (told["reason"] != ""), "reason"].value_counts()
        n = int((report["status"] == status).sum())
        lines += [f"{status}: {n}"] if n else []
        lines += [f"  {count:,} {reason}" for reason, count in counts.head(MOST_REASONS).items()]
        if len(counts) > MOST_REASONS:
            lines.append(f"  and {len(counts) - MOST_REASONS} more reasons")
    return lines
