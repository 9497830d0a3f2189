"""The manifest: one row per scan. Reading it finds every violation and names each with file, row and column."""

import os
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.registry import (
    EARLIEST,
    LONGEST_FOLLOW_UP_YEARS,
    OLDEST_YEARS,
    Violation,
    beyond_a_life,
    fulfil,
    give_types,
    possible,
    stripped,
    suggested,
    violations,
)
from sscct_lib.study.schemas import MANIFEST, covariates, declared_columns

SCAN_TIME = ("scan_day", "scan_date")
CONTACT_TIME = ("last_contact_day", "last_contact_date")
TRANSPLANT_TIME = ("transplant_day", "transplant_date")
MOST_SHOWN = 50
WITHIN_A_LIFE = (
    f"a time within a life: at most {LONGEST_FOLLOW_UP_YEARS:g} years after the scan, and an age of {OLDEST_YEARS:g}"
)


def read_manifest(study: Study) -> pd.DataFrame:
    """Read and validate the manifest of a study.

    Returns
    -------
    pandas.DataFrame
        One row per scan, in the file's order: `scan_id`, `patient_id`, `scan_day`, `last_contact_day` (days since the
        patient's first scan, nullable), `event_observed` (nullable 0/1), `image`, `lung_mask`, `sha256` and the
        covariates; columns that the file lacks are empty. Dates have become days.

    Raises
    ------
    StudyError
        If the file is missing or not a CSV table, or has violations: all of them in one report, each with file, row,
        column, what was found and what was expected.
    """
    path = study.manifest_path
    raw = _read_csv(path)
    declared = study.settings.covariates
    schema = _schema(study)
    missing = _missing_columns(raw, schema)
    known = raw[[name for name in raw.columns if name in schema.columns]]
    table, wrong = give_types(known, schema)
    if not wrong:
        table, wrong = fulfil(table, schema.remove_columns([name for name in schema.columns if name not in known]))
    wrong = missing + wrong
    if not wrong:
        days = _in_days(table, [*covariates(declared)])
        of_patient = [name for name, one in declared.items() if one.of == "patient"]
        wrong = _across_columns(table, raw, study.folder) + _across_scans(days, raw, of_patient)
    if wrong:
        raise StudyError(_report(path, wrong))
    return days


def _schema(study: Study) -> pa.DataFrameSchema:
    return MANIFEST.add_columns(declared_columns(study.settings.covariates))


def unknown_columns(study: Study) -> list[str]:
    """Name the columns of the manifest file that no stage uses (they are ignored, and `check` says so).

    Where one is spelt nearly as a column that the file lacks, it is asked whether that is meant.
    """
    raw = _read_csv(study.manifest_path)
    known = _schema(study).columns
    lacking = [name for name in known if name not in raw]
    meant = {name: suggested(name, lacking) for name in map(str, raw.columns) if name not in known}
    return [f"{name} (is {known} meant?)" if known else name for name, known in meant.items()]


def files_missing(study: Study, manifest: pd.DataFrame) -> list[str]:
    """Say for each scan whose files are not there which file it is."""
    return [
        f"{scan_id}: {name} is not in {study.folder}"
        for column in ("image", "lung_mask")
        for scan_id, name in zip(manifest["scan_id"], manifest[column], strict=True)
        if isinstance(name, str) and not (study.folder / name).is_file()
    ]


def _read_csv(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise StudyError(f"{path} is missing: a study needs a manifest with one row per scan.")
    raw = stripped(path)
    if raw.empty:
        raise StudyError(f"{path} has no rows: expected one row per scan below the header.")
    return raw


def _missing_columns(raw: pd.DataFrame, schema: pa.DataFrameSchema) -> list[Violation]:
    unknown = [str(name) for name in raw.columns if name not in schema.columns]
    near = {meant: name for name in unknown if (meant := suggested(name, schema.columns))}

    def found(*names: str) -> str:
        return "no such column" + "".join(f", but {near[name]}, which may mean it" for name in names if name in near)

    missing = [
        Violation(None, name, found(name), spec.description or "")
        for name, spec in schema.columns.items()
        if spec.required and name not in raw.columns
    ]
    missing += [
        Violation(None, " or ".join(pair), found(*pair), "one of the two")
        for pair in (SCAN_TIME, CONTACT_TIME)
        if not set(pair) & set(raw.columns)
    ]
    return missing


def _across_columns(valid: pd.DataFrame, raw: pd.DataFrame, folder: Path) -> list[Violation]:
    """Find what no single column can tell."""
    wrong: list[Violation] = []
    root = folder.resolve()

    def add(rows: "pd.Series[bool]", name: str, expected: str) -> None:
        wrong.extend(violations(raw[name], valid.index[rows.fillna(False).astype(bool)], expected))

    add(valid.duplicated("scan_id", keep="first"), "scan_id", "a scan_id that no other row has")
    for name in ("image", "lung_mask"):
        if name in valid:
            add(valid[name].map(_leaving(root)), name, "a path inside the study folder")
    for name in ("scan_date", "last_contact_date", "transplant_date"):
        if name in valid:
            add(~possible(valid[name]), name, f"a day from {EARLIEST.year} to today")
    for scan, contact in zip(SCAN_TIME, CONTACT_TIME, strict=True):
        if {scan, contact} <= set(valid.columns):
            add(valid[contact] < valid[scan], contact, f"not before {scan}: follow-up cannot be negative")
    for transplant, contact in zip(TRANSPLANT_TIME, CONTACT_TIME, strict=True):
        if {transplant, contact} <= set(valid.columns):
            add(valid[contact] < valid[transplant], transplant, f"not after {contact}")
    times = [name for name in CONTACT_TIME if name in valid]
    has_contact = valid[times].notna().any(axis=1)
    has_state = valid["event_observed"].notna()
    add(has_state & ~has_contact, "event_observed", "empty, since last contact is empty")
    if times:
        add(has_contact & ~has_state, times[0], "empty, since event_observed is empty")
    scan_times = [name for name in SCAN_TIME if name in valid]
    unset = valid[scan_times].isna().all(axis=1)
    add(unset, scan_times[0], "the time of the scan")
    return wrong


def _across_scans(days: pd.DataFrame, raw: pd.DataFrame, of_patient: list[str]) -> list[Violation]:
    """Find patients whose scans contradict each other."""
    wrong: list[Violation] = []

    def add(rows: "pd.Series[bool]", name: str, expected: str) -> None:
        if rows.any():  # else the file may lack the column
            column = name if name in raw else name.replace("_day", "_date")
            wrong.extend(violations(raw[column], days.index[rows], expected))

    for name in ("last_contact_day", "event_observed", "transplant_day", "sex", *of_patient):
        differing = days.groupby("patient_id")[name].transform("nunique") > 1
        add(differing, name, "the same in all scans of a patient")
    followed = days["last_contact_day"] - days["scan_day"]
    add(beyond_a_life(followed, days["age_years"]), "last_contact_day", WITHIN_A_LIFE)
    add(beyond_a_life(days["scan_day"]), "scan_day", WITHIN_A_LIFE)
    return wrong


def _leaving(root: Path) -> Callable[[object], bool]:
    """Give what tells whether a name leads out of a folder; each folder on the way is followed once."""

    @cache
    def leads_out(text: str) -> bool:
        try:
            place = (root / text).resolve()
        except (OSError, ValueError, RuntimeError):  # links in a circle, or text that no file is called
            return True
        # From Python 3.13 on, links in a circle are no error and stay in the path.
        return not place.is_relative_to(root) or any(map(os.path.islink, (place, *place.parents)))

    def leaves(text: object) -> bool:
        if not isinstance(text, str):
            return False
        folder, name = os.path.split(text)
        try:
            is_plain = not stat.S_ISLNK(os.lstat(root / text).st_mode) and name not in ("", os.curdir, os.pardir)
        except (OSError, ValueError):  # not there, or no name of a file
            is_plain = False
        return leads_out(folder if is_plain else text)

    return leaves


def _in_days(valid: pd.DataFrame, kept: list[str]) -> pd.DataFrame:
    """Turn dates to days since the patient's first scan, and add the columns that the file lacks."""
    days = valid.copy()
    if "scan_date" in days:
        first = days.groupby("patient_id")["scan_date"].transform("min")
        for day, date in (SCAN_TIME, CONTACT_TIME, TRANSPLANT_TIME):
            if date in days:
                counted = (days[date] - first).dt.days.astype("Int64")
                days[day] = days[day].fillna(counted) if day in days else counted
    columns = ["scan_id", "patient_id", "scan_day", "last_contact_day", "event_observed", "transplant_day"]
    columns += ["image", "lung_mask", "sha256", *kept]
    return days.reindex(columns=columns)


def _report(path: Path, wrong: list[Violation]) -> str:
    more = [f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else []
    lines = [f"{path} has {len(wrong)} violation(s); nothing was run.", *map(str, wrong[:MOST_SHOWN]), *more]
    return "\n  ".join(lines)
