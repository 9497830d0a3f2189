"""The manifest: one row a scan. Reading it finds every violation and names each with file, row and column."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.registry import EARLIEST, LONGEST_FOLLOW_UP_YEARS, OLDEST_YEARS, beyond_a_life, possible, suggested
from sscct_lib.study.schemas import MANIFEST, covariates, declared_columns
from sscct_lib.study.tables import read_csv

SCAN_TIME = ("scan_day", "scan_date")
CONTACT_TIME = ("last_contact_day", "last_contact_date")
TRANSPLANT_TIME = ("transplant_day", "transplant_date")
HEADER_LINES = 2  # data row 0 is line 2 of the file, below the header
MOST_SHOWN = 50
WITHIN_A_LIFE = (
    f"a time within a life: at most {LONGEST_FOLLOW_UP_YEARS:g} years after the scan, and an age of {OLDEST_YEARS:g}"
)
LARGEST_WHOLE = 2**53  # from here on a float no longer tells one whole number from the next

Violation = tuple[int | None, str, str, str]  # line, column, found, expected


def read_manifest(study: Study) -> pd.DataFrame:
    """Read and validate the manifest of a study.

    Returns
    -------
    pandas.DataFrame
        One row a scan, in the file's order: `scan_id`, `patient_id`, `scan_day`, `last_contact_day` (days since the
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
    valid, typed_wrong = _typed(known, schema)
    violations = missing + typed_wrong
    days = _in_days(valid, [*covariates(declared)]) if valid is not None and not missing else None
    if valid is not None and days is not None:
        of_patient = [name for name, one in declared.items() if one.of == "patient"]
        violations += _across_columns(valid, raw, study.folder) + _across_scans(days, raw, of_patient)
    if violations:
        raise StudyError(_report(path, violations))
    assert days is not None
    return days


def _schema(study: Study) -> pa.DataFrameSchema:
    return MANIFEST.add_columns(declared_columns(study.settings.covariates))


def unknown_columns(study: Study) -> list[str]:
    """Name the columns of the manifest file that no stage uses (they are ignored, and `check` says so).

    Where one is spelt nearly as a column that the file lacks, it is asked whether that is meant.
    """
    raw = _read_csv(study.manifest_path)
    schema = _schema(study)
    lacking = [name for name in schema.columns if name not in raw]
    meant = {name: suggested(name, lacking) for name in _unknown(raw, schema)}
    return [f"{name} (is {known} meant?)" if known else name for name, known in meant.items()]


def _unknown(raw: pd.DataFrame, schema: pa.DataFrameSchema) -> list[str]:
    return [str(name) for name in raw.columns if name not in schema.columns]


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
        raise StudyError(f"{path} is missing: a study needs a manifest with one row a scan.")
    raw = read_csv(path)
    if raw.empty:
        raise StudyError(f"{path} has no rows: expected one row a scan below the header.")
    stripped: pd.DataFrame = raw.apply(lambda cells: cells.str.strip())
    return stripped.mask(stripped == "")


def _missing_columns(raw: pd.DataFrame, schema: pa.DataFrameSchema) -> list[Violation]:
    near = {meant: name for name in _unknown(raw, schema) if (meant := suggested(name, schema.columns))}

    def found(*names: str) -> str:
        return "no such column" + "".join(f", but {near[name]}, which may mean it" for name in names if name in near)

    missing: list[Violation] = [
        (None, name, found(name), spec.description or "")
        for name, spec in schema.columns.items()
        if spec.required and name not in raw.columns
    ]
    missing += [
        (None, " or ".join(pair), found(*pair), "one of the two")
        for pair in (SCAN_TIME, CONTACT_TIME)
        if not set(pair) & set(raw.columns)
    ]
    return missing


def _typed(known: pd.DataFrame, schema: pa.DataFrameSchema) -> tuple[pd.DataFrame | None, list[Violation]]:
    """Give every column its type; None where that fails, with the violations."""
    present = schema.remove_columns([name for name in schema.columns if name not in known])
    frame = known.copy()
    violations: list[Violation] = []
    for name, spec in present.columns.items():
        frame[name], wrong = _convert(known[name], str(spec.dtype))
        violations += [
            (int(str(index)) + HEADER_LINES, name, repr(known[name].loc[index]), _type_words(str(spec.dtype)))
            for index in known.index[wrong]
        ]
    if violations:
        return None, violations
    try:
        return present.validate(frame, lazy=True), []
    except pa.errors.SchemaErrors as errors:
        return None, [_violation(case) for case in errors.failure_cases.to_dict("records")]


def _convert(cells: pd.Series, dtype: str) -> tuple[pd.Series, "pd.Series[bool]"]:
    """Convert cells of text; also tells which could not be."""
    if dtype.startswith("datetime"):
        values: pd.Series = pd.to_datetime(cells, format="%Y-%m-%d", errors="coerce")
    elif dtype == "Int64":
        numbers = pd.to_numeric(cells, errors="coerce")
        whole = (numbers % 1 == 0) & (numbers.abs() < LARGEST_WHOLE)
        values = numbers.where(whole).astype("Int64")
    elif dtype == "float64":
        values = pd.to_numeric(cells, errors="coerce").astype(float)
    else:
        values = cells
    return values, values.isna() & cells.notna()


def _type_words(dtype: str) -> str:
    if dtype.startswith("datetime"):
        return "a date as YYYY-MM-DD"
    return "a whole number" if dtype == "Int64" else "a number"


def _violation(case: dict[str, Any]) -> Violation:
    line = None if pd.isna(case["index"]) else int(case["index"]) + HEADER_LINES
    if case["check"] == "not_nullable":
        return line, str(case["column"]), "an empty cell", "a value in every row"
    return line, str(case["column"]), repr(case["failure_case"]), str(case["check"])


def _across_columns(valid: pd.DataFrame, raw: pd.DataFrame, folder: Path) -> list[Violation]:
    """Find what no single column can tell."""
    violations: list[Violation] = []
    root = folder.resolve()

    def add(rows: "pd.Series[bool]", name: str, expected: str) -> None:
        violations.extend(
            (int(index) + HEADER_LINES, name, _shown(raw[name].loc[index]), expected)
            for index in valid.index[rows.fillna(False).astype(bool)]
        )

    add(valid.duplicated("scan_id", keep="first"), "scan_id", "a scan_id that no other row has")
    for name in ("image", "lung_mask"):
        if name in valid:
            add(valid[name].map(lambda text: _leaves(root, text)), name, "a path inside the study folder")
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
    return violations


def _across_scans(days: pd.DataFrame, raw: pd.DataFrame, of_patient: list[str]) -> list[Violation]:
    """Find patients whose scans contradict each other."""
    violations: list[Violation] = []
    for name in ("last_contact_day", "event_observed", "transplant_day", "sex", *of_patient):
        differing = days.groupby("patient_id")[name].transform("nunique") > 1
        column = name if name in raw else name.replace("_day", "_date")
        violations += [
            (int(index) + HEADER_LINES, column, repr(raw[column].loc[index]), "the same in all scans of a patient")
            for index in days.index[differing]
        ]
    since = {"last_contact": (days["last_contact_day"] - days["scan_day"], days["age_years"]),
             "scan": (days["scan_day"], None)}  # fmt: skip
    for name, (length, age) in since.items():
        column = f"{name}_day" if f"{name}_day" in raw else f"{name}_date"
        violations += [
            (int(index) + HEADER_LINES, column, _shown(raw[column].loc[index]), WITHIN_A_LIFE)
            for index in days.index[beyond_a_life(length, age)]
        ]
    return violations


def _shown(cell: object) -> str:
    return repr(cell) if isinstance(cell, str) else "an empty cell"


def _leaves(root: Path, text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        place = (root / text).resolve()
    except (OSError, ValueError, RuntimeError):  # links in a circle, or text that no file is called
        return True
    # From Python 3.13 on, links in a circle are no error and stay in the path.
    return not place.is_relative_to(root) or any(map(os.path.islink, (place, *place.parents)))


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


def _report(path: Path, violations: list[Violation]) -> str:
    lines = [f"{path} has {len(violations)} violation(s); nothing was run."]
    for line, name, found, expected in violations[:MOST_SHOWN]:
        where = f"row {line}, " if line is not None else ""
        lines.append(f"  {where}column {name}: found {found}; expected {expected}")
    if len(violations) > MOST_SHOWN:
        lines.append(f"  and {len(violations) - MOST_SHOWN} more")
    return "\n".join(lines)
