"""From a hospital's export to a study: chest CT series chosen, de-identified and listed in a manifest.

No identifier, date or free text of the source reaches the study. Ids are keyed hashes whose key lies outside the study;
dates become days since the patient's first scan; of the headers only maker, kernel, slice thickness, age and sex are
kept. Lung masks that came with a series are brought onto the grid of the scan that was taken.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import SimpleITK as sitk

from sscct_lib.images.density import cuts_lungs
from sscct_lib.images.dicom_masks import read_dicom_mask
from sscct_lib.images.dicom_pixels import read_slices
from sscct_lib.images.nifti import check_orientation
from sscct_lib.images.prepare import read_scan, read_source, to_hounsfield, write_image
from sscct_lib.images.reasons import Told, told
from sscct_lib.intake.clinical import attach, empty_clinical, read_clinical
from sscct_lib.intake.pseudonyms import patient_code, read_key, scan_code
from sscct_lib.intake.report import again, report_of, write_for_excel, write_source_list
from sscct_lib.intake.series import MASK_KINDS, Candidate, find_candidates
from sscct_lib.study.code import PACKAGE
from sscct_lib.study.files import NoRoomError, atomic, remove_partials, write_if_changed
from sscct_lib.study.folder import SETTINGS_FILE, Study, StudyError, load_study, refuse_control_characters
from sscct_lib.study.recovery import alone_in
from sscct_lib.study.registry import stripped
from sscct_lib.study.results import Record, ScanError, process
from sscct_lib.study.schemas import covariates
from sscct_lib.study.seals import checksum
from sscct_lib.study.tables import write_csv

NEW_STUDY = "# Settings of this study; every other setting has a default.\ntitle: My study\n"
MOST_REASONS = 12
MANIFEST_COLUMNS = ["scan_id", "patient_id", "scan_day", "image", "sha256", "last_contact_day", "event_observed"]

LASTING = ("patient_id", "scan_day", "last_contact_day", "event_observed", "transplant_day")


@contextmanager
def wordless() -> Iterator[None]:
    """Let an error that nobody foresaw tell its kind and the place in this program, and nothing that it read."""
    try:
        yield
    except (StudyError, ScanError, NoRoomError):
        raise  # our own words
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__} {_place(error)}") from None


def _place(error: Exception) -> str:
    """The last line of this program that the error went through."""
    inside = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)
    ]
    last = inside[-1]
    return f"in {Path(last.filename).relative_to(PACKAGE).as_posix()}, line {last.lineno}"


@wordless()
def ingest(
    source: Path,
    clinical: Path | None,
    study_folder: Path,
    key_file: Path | None = None,
    n_jobs: int = 1,
    orientation: str | None = None,
    source_list: Path | None = None,
    replace: bool = False,
) -> pd.DataFrame:
    """Turn DICOM series or volume files into a study with its manifest.

    For each examination (StudyInstanceUID) the best chest series is taken. A series can be used when it is CT, axial,
    no localizer, and a stack of at least 20 slices and 150 mm. Among several, in this order: supine before prone; not
    expiratory; original before derived; lossless before lossy compression; at least 200 mm long; thinnest, where all up
    to 1.5 mm count alike; kernel as `images.kernel` says; smaller steps; more slices. When the best one cannot be read,
    the next is tried.

    NIfTI, NRRD and MetaImage files: patient and date stand in their paths, see `discovery.find_volumes`.

    A segmentation (SEG) or contours (RTSTRUCT) that refer to the series taken, and hold lungs, become the scan's
    `lung_mask`. A stopped run resumes: a finished scan is not read again while its source stays the same.

    Parameters
    ----------
    source
        Folder of any depth.
    clinical
        CSV of follow-up and clinical values: `patient_id` as in the images, `last_contact_date`, `event_observed`;
        optional `scan_date`, `transplant_date` and the covariates of the manifest (`age_years`, `sex`, `ssc_subtype`,
        `fvc_percent`, `dlco_percent`, `dlco_impossible`, `cause_of_death`), and every covariate that `study.yaml`
        declares. Dates as YYYY-MM-DD. Other columns are told and not used.
    study_folder
        Receives `scans/<scan_id>.nii.gz`, `masks/<scan_id>.nii.gz`, `data_manifest.csv`, `study.yaml` when there is
        none, and `ingest/report.csv`, which is also returned.
    key_file
        Secret from which ids are made, at least 32 random characters; made when missing, readable by its owner alone.
        None: it lies with the user (see `pseudonyms.read_key`).
    n_jobs
        Processes that share the scans.
    orientation
        For volume files that do not say how the body lies in them: three letters, the sides to which their voxel axes
        run (`LPS`); for those whose qform and sform differ: which holds.
    source_list
        Receives which source became which scan, with the hospital's names (`report.write_source_list`); outside the
        study. None: it is written nowhere.
    replace
        Whether a manifest that lists other scans, or other dates, follow-up or clinical values of these, gives way.

    Returns
    -------
    pandas.DataFrame
        What became of each series, in study ids: `source` (its number in this export), `patient_id`, `scan_id`, `kind`,
        `n_files`, `n_slices`, `step_mm`, `kernel`, `status` (scan, lung mask, not chosen, set aside, passed over, no
        scans, clinical table), `reason`, and `codes`: those of `images.reasons`, one for each sentence of `reason`.

    Raises
    ------
    StudyError
        If nothing in `source` can be used (the message says what was found), the clinical table has violations, the key
        is unfit, `source_list` lies in the study, a run works on the study, or its manifest would lose something and
        `replace` is not asked for.
    RuntimeError
        At a fault of this program, with its kind and place; the words of the error might hold what was read.
    """
    if source_list is not None and source_list.resolve().is_relative_to(study_folder.resolve()):
        raise StudyError(
            f"--source-list {source_list} lies inside the study, and it names patients. Keep it elsewhere."
        )
    if not source.is_dir():
        raise StudyError(f"{source} is no folder: expected one with DICOM series or NIfTI files.")
    said = None if orientation is None else _orientation(orientation)
    study = _study(study_folder)
    declared = study.settings.covariates
    with alone_in(study):
        table, remarks = (empty_clinical(declared), []) if clinical is None else read_clinical(clinical, declared)
        remove_partials(study_folder)
        candidates = find_candidates(source, study.settings.images.kernel, n_jobs)
        key = read_key(key_file, study_folder)
        visits, of_rows = attach(_visits(candidates, key), table, declared)
        scans, of_days = _in_days(visits)
        _refuse_to_lose(study, scans, replace)
        written = _write_masks(study, _write_scans(study, scans, n_jobs, said), candidates, n_jobs)
        report = report_of(candidates, written, None if clinical is None else table, key, remarks + of_rows + of_days)
        if source_list is not None:
            write_source_list(source_list, candidates, source, key)
        with atomic(study_folder / "ingest" / "report.csv") as partial:
            write_for_excel(report, partial)
        if written.empty:
            reasons = "\n  ".join(report["reason"].value_counts().index[:MOST_REASONS])
            raise StudyError(f"No series could be read; ingest/report.csv says why of each:\n  {reasons}")
        manifest = written.assign(image="scans/" + written["scan_id"] + ".nii.gz", patient_id=written["patient_code"])
        some = [name for name in ("lung_mask", "transplant_day") if written[name].notna().any()]
        _refuse_to_lose(study, manifest.assign(patient_code=manifest["patient_id"]), replace)
        write_csv(manifest[[*MANIFEST_COLUMNS, *some, *covariates(declared)]], study.manifest_path)
        return report


def _study(folder: Path) -> Study:
    refuse_control_characters(folder)
    if not (folder / SETTINGS_FILE).exists():
        write_if_changed(folder / SETTINGS_FILE, NEW_STUDY)
    return load_study(folder)


def _orientation(text: str) -> str:
    try:
        return check_orientation(text)
    except ValueError as error:
        raise StudyError(f"--orientation {error}") from error


def _visits(candidates: list[Candidate], key: bytes) -> pd.DataFrame:
    """List the examinations that have a usable series: candidates (best first), date, and what the headers say."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        if candidate.status == "not chosen":
            groups.setdefault((candidate.patient, candidate.visit), []).append(candidate)
    rows = []
    for (patient, visit), group in groups.items():
        group.sort(key=lambda candidate: candidate.preference)
        kept = {name: group[0].header.get(name) for name in covariates()}
        ids = {"scan_id": scan_code(key, patient, visit), "patient_code": patient_code(key, patient)}
        rows.append({**ids, "patient_id": patient, "scan_date": group[0].date, "candidates": group, **kept})
    visits = pd.DataFrame(rows)
    visits["scan_date"] = pd.to_datetime(visits["scan_date"])
    visits["age_years"] = visits["age_years"].astype(float)
    both = visits.groupby("patient_id")["sex"].transform("nunique") > 1
    for group in visits.loc[both, "candidates"]:
        group[0].told.append(told("sex_contradicts"))
    visits["sex"] = visits["sex"].mask(both)
    return visits


def _in_days(visits: pd.DataFrame) -> tuple[pd.DataFrame, list[Told]]:
    """Replace dates by days since the patient's first scan; what has no place in time is set aside, or told."""
    by_patient = visits.groupby("patient_code")["scan_date"]
    alone = by_patient.transform("size") == 1
    undated = visits["scan_date"].isna() & ~alone
    for candidate in visits.loc[undated, "candidates"].explode():
        candidate.set_aside(told("undated"))
    first = by_patient.transform("min")
    dates = ["scan_date", "last_contact_date", "transplant_date"]
    days = visits.copy()
    for name in dates:
        days[name.replace("_date", "_day")] = (pd.to_datetime(visits[name]) - first).dt.days.astype("Int64")
    days["scan_day"] = days["scan_day"].fillna(0)
    # Without a scan date nothing can be counted to the last contact.
    dropped = days["last_contact_day"].isna() & days["event_observed"].notna() & ~undated
    days.loc[days["last_contact_day"].isna(), "event_observed"] = pd.NA
    remarks = [told("follow_up_dropped", n=int(dropped.sum()))] if dropped.any() else []
    return days[~undated].drop(columns=dates).sort_values(["patient_code", "scan_day"]), remarks


def _refuse_to_lose(study: Study, scans: pd.DataFrame, replace: bool) -> None:
    """Protect what a manifest lists: scans, and days, follow-up and clinical values; gaps may be filled."""
    if replace or not study.manifest_path.is_file():
        return
    listed = stripped(study.manifest_path).drop_duplicates("scan_id").set_index("scan_id")
    there = listed.index.intersection(list(scans["scan_id"]))
    new = scans.assign(patient_id=scans["patient_code"]).set_index("scan_id").loc[there]
    names = [name for name in (*LASTING, *covariates(study.settings.covariates)) if name in listed]
    before = {name: _comparable(listed.loc[there, name]) for name in names}
    changes = {
        name: before[name].notna() & (before[name] != _comparable(new[name] if name in new else pd.Series(None, there)))
        for name in names
    }
    lost, columns = len(listed) - len(there), [f"{name} ({n})" for name, found in changes.items() if (n := found.sum())]
    if lost or columns:
        of_columns = f"other or no values of scans that stay, by column: {', '.join(columns)}" if columns else ""
        of_scans = f"{lost} scan(s) that are not in the source" if lost else ""
        raise StudyError(
            f"{study.manifest_path} lists {' and '.join(filter(None, [of_scans, of_columns]))}. Ingest all folders at "
            "once from one folder above them, with a clinical table of all patients; choose a new study folder; or, if "
            "what comes now is right, say --replace. The manifest stays as it is."
        )


def _comparable(column: "pd.Series[Any]") -> "pd.Series[str]":
    """Values as text, numbers and truths in one notation."""
    text = column.astype("string").str.removeprefix("'").replace({"True": "1", "False": "0"})
    numbers = pd.to_numeric(text, errors="coerce").astype("Float64")
    return text.where(numbers.isna(), numbers.round(6).astype("string")).astype(object)


def _write_scans(study: Study, scans: pd.DataFrame, n_jobs: int, orientation: str | None = None) -> pd.DataFrame:
    """Read the best series of each examination, and the next best where that fails; returns the scans written."""
    offers = {
        row["scan_id"]: [
            (one, {**_ids(row), "files": one.files, "orientation": orientation, "slices": one.slices})
            for one in row["candidates"]
        ]
        for row in scans.to_dict("records")
    }
    records = _write_first(study, "scans", _write_scan, offers, n_jobs)
    written = scans.set_index("scan_id").loc[list(records)].reset_index()
    kept = ("sha256", "notes", "codes")
    return written.assign(**{name: [record[name] for record in records.values()] for name in kept})


Offers = dict[str, list[tuple[Candidate, dict[str, Any]]]]
"""By scan, best first: a series, and the row of which its file is made; it names the files that are read."""


def _write_first(
    study: Study, folder: str, write: Callable[[Study, Mapping[str, Any]], Record], offers: Offers, n_jobs: int
) -> dict[str, dict[Any, Any]]:
    """Write `<folder>/<scan_id>.nii.gz` from the first offer that can be read, and tell of the others why not.

    Gives by scan the record of what was written.
    """
    written: dict[str, dict[Any, Any]] = {}
    for attempt in range(max(map(len, offers.values()), default=0)):
        tried = [some[attempt] for scan, some in offers.items() if scan not in written and len(some) > attempt]
        if not tried:
            break
        done = process(
            study, f"ingest_{folder}", write, pd.DataFrame([row for _, row in tried]), None,
            lambda row: [*map(Path, row["files"])], n_jobs,
            study.folder / "ingest" / "records" / f"{folder}_{attempt + 1}",
            outputs=lambda row: [_path(study, folder, row)],
        )  # fmt: skip
        done = done.reindex(columns=["scan_id", "status", "reason", "sha256", "notes", "codes"]).fillna("")
        for (one, _), record in zip(tried, done.to_dict("records"), strict=True):
            is_ok, is_mask = record["status"] == "ok", one.kind in MASK_KINDS
            one.status = "set aside" if not is_ok else "lung mask" if is_mask else "scan"
            why = [] if is_ok else again(record["reason"], record["codes"])
            one.told = why if is_mask else [*why, *one.told]
            if is_ok:
                written[record["scan_id"]] = record
    return written


def _ids(row: Mapping[Any, Any]) -> dict[str, str]:
    return {"scan_id": row["scan_id"], "patient_id": row["patient_code"]}


def _path(study: Study, folder: str, row: Mapping[Any, Any]) -> Path:
    return study.folder / folder / f"{row['scan_id']}.nii.gz"


def _write_scan(study: Study, row: Mapping[str, Any]) -> Record:
    with wordless():
        image, notes = _read(row)
    if cuts_lungs(sitk.GetArrayViewFromImage(image)):
        notes.append(told("cuts_lungs"))
    path = _path(study, "scans", row)
    write_image(image, path)
    return {"sha256": checksum(path), "notes": "; ".join(notes), "codes": " ".join(one.code for one in notes)}


def _read(row: Mapping[str, Any]) -> tuple[sitk.Image, list[Told]]:
    if row["slices"]:
        volume, notes = read_slices(row["slices"])
        image, more = to_hounsfield(sitk.DICOMOrient(volume, "LPS"), "the series")
        return image, notes + more
    image, notes = read_source(Path(row["files"][0]), row["orientation"])
    for name in image.GetMetaDataKeys():  # a NIfTI header has room for free text
        image.EraseMetaData(name)
    return image, notes


def _write_masks(study: Study, scans: pd.DataFrame, candidates: list[Candidate], n_jobs: int) -> pd.DataFrame:
    """Write `masks/<scan_id>.nii.gz` where the source has one of the scan: column `lung_mask`; tells of each mask."""
    masks = [one for one in candidates if one.kind in MASK_KINDS]
    for mask in masks:
        mask.told = [told("mask_of_another")]
    offers: Offers = {}
    for scan in scans.to_dict("records"):
        taken = next(one for one in scan["candidates"] if one.status == "scan")
        offered = [(mask, file) for mask in masks if _belongs(mask, taken) for file in mask.files]
        for mask, _ in offered:
            mask.told, mask.visit = [told("mask_not_best")], taken.visit
        offered.sort(key=lambda one: (MASK_KINDS.index(one[0].kind), one[1]))
        image = str(_path(study, "scans", scan))
        offers[scan["scan_id"]] = [
            (mask, {**_ids(scan), "frame_uid": taken.frame_uid, "files": [file, image]}) for mask, file in offered
        ]
    written = _write_first(study, "masks", _write_mask, offers, n_jobs)
    return scans.assign(lung_mask=scans["scan_id"].map({scan: f"masks/{scan}.nii.gz" for scan in written}))


def _belongs(mask: Candidate, scan: Candidate) -> bool:
    """Tell whether a mask was drawn on a series; one that names no series must share its frame of reference."""
    if mask.patient != scan.patient:
        return False
    return scan.uid in mask.refers_to if mask.refers_to else mask.frame_uid == scan.frame_uid != ""


def _write_mask(study: Study, row: Mapping[str, Any]) -> Record:
    file, image = map(Path, row["files"])
    scan = read_scan(image)
    with wordless():
        mask = read_dicom_mask(file, scan, row["frame_uid"])
    write_image(mask, _path(study, "masks", row))
    return {}
