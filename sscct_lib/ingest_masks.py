"""Lung masks that came with a hospital's series: each is brought onto the grid of the scan that was taken."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sscct_lib.candidates import MASK_KINDS, Candidate
from sscct_lib.dicom_masks import read_dicom_mask
from sscct_lib.images import read_scan, write_image
from sscct_lib.scans import Record, process
from sscct_lib.study import Study


def write_masks(study: Study, scans: pd.DataFrame, candidates: list[Candidate], n_jobs: int = 1) -> pd.DataFrame:
    """Write the lung masks of scans that have one in the source.

    Parameters
    ----------
    study
        Receives `masks/<scan_id>.nii.gz`: 0 outside, 1 right lung, 2 left lung.
    scans
        Scans that were written: `scan_id`, `patient_code`, `candidates` (of its examination).
    candidates
        All of the source. Those that are masks get their `status`, `lung mask` or `set aside`, and the reason.
    n_jobs
        Processes that share the scans.

    Returns
    -------
    pandas.DataFrame
        `scans` with `lung_mask`, relative to the study folder; empty where there is none.
    """
    masks = [one for one in candidates if one.kind in MASK_KINDS]
    for mask in masks:
        mask.reason = "refers to no series that was taken"
    offers: dict[str, list[tuple[Candidate, str]]] = {}
    rows = []
    for scan in scans.to_dict("records"):
        taken = next(one for one in scan["candidates"] if one.status == "scan")
        offered = [(mask, file) for mask in masks if _belongs(mask, taken) for file in mask.files]
        for mask, _ in offered:
            mask.reason, mask.visit = "another mask of the scan was taken", taken.visit
        if offered:
            offers[scan["scan_id"]] = sorted(offered, key=lambda one: (MASK_KINDS.index(one[0].kind), one[1]))
            rows.append([scan["scan_id"], scan["patient_code"], taken.frame_uid])
    waiting = pd.DataFrame(rows, columns=["scan_id", "patient_id", "frame_uid"])
    written: dict[str, str] = {}
    for attempt in range(max(map(len, offers.values()), default=0)):
        waiting = waiting[[len(offers[scan]) > attempt and scan not in written for scan in waiting["scan_id"]]]
        tried = [offers[scan][attempt] for scan in waiting["scan_id"]]
        done = _write(study, waiting.assign(file=[file for _, file in tried]), attempt + 1, n_jobs)
        for (mask, _), row in zip(tried, done.to_dict("records"), strict=True):
            mask.status, mask.reason = ("lung mask", "") if row["status"] == "ok" else ("set aside", row["reason"])
            if row["status"] == "ok":
                written[row["scan_id"]] = f"masks/{row['scan_id']}.nii.gz"
    return scans.assign(lung_mask=scans["scan_id"].map(written))


def _belongs(mask: Candidate, scan: Candidate) -> bool:
    """Tell whether a mask was drawn on a series; one that names no series must share its frame of reference."""
    if mask.patient != scan.patient:
        return False
    return scan.uid in mask.refers_to if mask.refers_to else mask.frame_uid == scan.frame_uid != ""


def _write(study: Study, rows: pd.DataFrame, attempt: int, n_jobs: int) -> pd.DataFrame:
    files = dict(zip(rows["scan_id"], rows["file"], strict=True))
    return process(
        study,
        "ingest_masks",
        _write_mask,
        rows,
        None,
        lambda row: [Path(files[row["scan_id"]]), study.folder / "scans" / f"{row['scan_id']}.nii.gz"],
        n_jobs,
        study.folder / "ingest" / "records" / f"mask_{attempt}",
        outputs=lambda row: [_mask_path(study, row["scan_id"])],
    )


def _write_mask(study: Study, row: Mapping[str, Any]) -> Record:
    scan = read_scan(study.folder / "scans" / f"{row['scan_id']}.nii.gz")
    write_image(read_dicom_mask(Path(row["file"]), scan, row["frame_uid"]), _mask_path(study, row["scan_id"]))
    return {}


def _mask_path(study: Study, scan_id: str) -> Path:
    return study.folder / "masks" / f"{scan_id}.nii.gz"
