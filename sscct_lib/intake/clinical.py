"""Follow-up and clinical values: a registry's table, attached to its scans, and the values of one patient."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from sscct_lib.study.folder import StudyError
from sscct_lib.study.schemas import column, covariates
from sscct_lib.study.tables import read_csv

DATES = ("scan_date", "last_contact_date", "transplant_date")
OF_THE_SCAN = ("scan_year", "manufacturer", "kernel", "slice_thickness_mm")  # never taken from the table
VISIT = ("age_years", "fvc_percent", "dlco_percent", "dlco_impossible")
PATIENT = ("last_contact_date", "event_observed", "transplant_date", "sex", "ssc_subtype", "cause_of_death")
NEAR_DAYS = 90
DAYS_PER_YEAR = 365.25
HEADER_LINES = 2

CLINICAL = pa.DataFrameSchema(
    {
        "patient_id": column(str, "the patient, as the images name them"),
        "scan_date": column(
            "datetime64[ns]", "visit that the row describes; empty: the first", required=False, nullable=True
        ),
        "last_contact_date": column("datetime64[ns]", "last day on which the patient's state is known", nullable=True),
        "event_observed": column(
            "Int64",
            "state on that day: 1 died, 0 alive",
            checks=pa.Check.isin([0, 1], error="0 (alive) or 1 (died)"),
            nullable=True,
        ),
        "transplant_date": column("datetime64[ns]", "date of a lung transplant", required=False, nullable=True),
        **{name: spec for name, spec in covariates().items() if name not in OF_THE_SCAN},
    },
    name="clinical",
)

SHORT = {
    "age": "age_years",
    "fvc": "fvc_percent",
    "dlco": "dlco_percent",
    "subtype": "ssc_subtype",
    "thickness": "slice_thickness_mm",
}
NOT_TAKEN = ("cause_of_death", "scan_year")


def read_clinical(path: Path) -> pd.DataFrame:
    """Read a registry's table of follow-up and clinical values: all columns of `CLINICAL`, empty where it lacks one.

    Raises
    ------
    StudyError
        If the file is missing, is no CSV table, or has violations: all of them, each with row and column.
    """
    raw = read_csv(path)
    raw = raw.apply(lambda cells: cells.str.strip())
    raw = raw.mask(raw == "")
    missing = [name for name, spec in CLINICAL.columns.items() if spec.required and name not in raw]
    if missing:
        raise StudyError(f"{path} has no column {', '.join(missing)}; found {', '.join(raw.columns)}.")
    table: pd.DataFrame = raw.reindex(columns=list(CLINICAL.columns))
    violations = _give_types(table)
    if not violations:
        table, violations = _checked(table)
    if violations:
        raise StudyError(f"{path} has {len(violations)} violation(s); nothing was read:\n  " + "\n  ".join(violations))
    return table


def empty_clinical() -> pd.DataFrame:
    """Make a clinical table without rows, for scans that come without one."""
    return CLINICAL.validate(pd.DataFrame(columns=list(CLINICAL.columns)))


def attach(scans: pd.DataFrame, clinical: pd.DataFrame) -> pd.DataFrame:
    """Attach clinical values to scans: what belongs to the patient to all of them, what belongs to a visit to its scan.

    A row with `scan_date` goes to the patient's nearest scan within 90 days, one without to the patient's first scan.
    Age and sex of `scans`, from the header, fill what the table lacks. Adds `in_clinical`: whether the patient has a
    row.
    """
    scans = scans.copy()
    by_patient = clinical.groupby("patient_id")[list(PATIENT)].first()
    scans["in_clinical"] = scans["patient_id"].isin(by_patient.index)
    for name in PATIENT:
        value = scans["patient_id"].map(by_patient[name])
        scans[name] = value.fillna(scans[name]) if name in scans else value
    _check_order(scans, clinical)
    from_header = scans["age_years"].copy() if "age_years" in scans else pd.Series(float("nan"), scans.index)
    for name in VISIT:
        scans[name] = pd.Series(float("nan"), scans.index)
    first = scans.sort_values("scan_date").groupby("patient_id").head(1)
    for row in clinical.sort_values("scan_date", na_position="first").to_dict("records"):
        target = _scan_of(row, scans, first)
        for name in VISIT:
            if target is not None and pd.notna(row[name]):
                scans.loc[target, name] = row[name]
    scans["age_years"] = scans["age_years"].fillna(_carried_age(scans)).fillna(from_header)
    return scans


def read_values(given: str | None) -> dict[str, Any]:
    """Read the clinical values of one patient.

    Parameters
    ----------
    given
        `name=value` pairs with commas between them, such as `age=63,sex=female,fvc=72`, or the path of a CSV table with
        one row. Names are those of the manifest's columns, or `age`, `fvc`, `dlco`, `subtype`. None: nothing is known.

    Returns
    -------
    dict
        By column of the manifest; only what is known.

    Raises
    ------
    StudyError
        If a name is not known, or a value is not possible: all of them are named.
    """
    if given is None:
        return {}
    raw = _from_table(Path(given)) if "=" not in given else _from_words(given)
    known = {name: spec for name, spec in covariates().items() if name not in NOT_TAKEN}
    named = {SHORT.get(name, name): value for name, value in raw.items() if str(value).strip() and pd.notna(value)}
    strangers = sorted(set(named) - set(known))
    if strangers:
        raise StudyError(f"--clinical: {', '.join(strangers)} not known; expected {', '.join([*SHORT, *known])}.")
    schema = pa.DataFrameSchema({name: known[name] for name in named})
    try:
        checked = schema.validate(pd.DataFrame([named]), lazy=True)
    except pa.errors.SchemaErrors as errors:
        said = [f"{case['column']}: expected {case['check']}" for case in errors.failure_cases.to_dict("records")]
        raise StudyError("--clinical: " + "; ".join(dict.fromkeys(said))) from errors
    return {str(name): value for name, value in checked.iloc[0].to_dict().items()}


def _give_types(table: pd.DataFrame) -> list[str]:
    """Turn text into dates and numbers in place, and say where that fails."""
    violations = []
    for name, spec in CLINICAL.columns.items():
        text, dtype = table[name], str(spec.dtype)
        if dtype.startswith("datetime"):
            table[name], expected = pd.to_datetime(text, format="%Y-%m-%d", errors="coerce"), "a date as YYYY-MM-DD"
        elif dtype in ("float64", "Int64"):
            table[name], expected = pd.to_numeric(text, errors="coerce"), "a number"
        else:
            continue
        wrong = text.index[table[name].isna() & text.notna()]
        violations += [f"row {int(row) + HEADER_LINES}, column {name}: expected {expected}" for row in wrong]
    return violations


def _checked(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Find cells out of range and rows that contradict each other; also gives the table with its columns' types."""
    violations = []
    valid: pd.DataFrame = table
    try:
        valid = CLINICAL.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        for case in errors.failure_cases.to_dict("records"):
            row = "" if pd.isna(case["index"]) else f"row {int(case['index']) + HEADER_LINES}, "
            expected = "a value" if case["check"] == "not_nullable" else case["check"]
            violations.append(f"{row}column {case['column']}: expected {expected}")
    half = table["last_contact_date"].isna() != table["event_observed"].isna()
    violations += [
        f"row {int(row) + HEADER_LINES}: expected last_contact_date and event_observed both, or neither"
        for row in table.index[half]
    ]
    for name in PATIENT:
        differing = table.groupby("patient_id")[name].transform("nunique") > 1
        violations += [
            f"row {int(row) + HEADER_LINES}, column {name}: expected the same in all rows of a patient"
            for row in table.index[differing]
        ]
    return valid, violations


def _scan_of(row: Mapping[Any, Any], scans: pd.DataFrame, first: pd.DataFrame) -> Any:
    """Find the scan that a clinical row describes: its index, or None."""
    if pd.isna(row["scan_date"]):
        own = first.index[first["patient_id"] == row["patient_id"]]
        return own[0] if len(own) else None
    dates = scans.loc[(scans["patient_id"] == row["patient_id"]) & scans["scan_date"].notna(), "scan_date"]
    days_away: dict[Any, int] = {index: abs((date - row["scan_date"]).days) for index, date in dates.items()}
    nearest = min(days_away, key=lambda index: days_away[index], default=None)
    return nearest if nearest is not None and days_away[nearest] <= NEAR_DAYS else None


def _carried_age(scans: pd.DataFrame) -> pd.Series:
    """Age at each scan from an age known at another scan of the patient; lung function is not carried."""
    born = scans["scan_date"] - pd.to_timedelta(scans["age_years"] * DAYS_PER_YEAR, unit="D")
    birth = born.groupby(scans["patient_id"]).transform("min")
    return ((scans["scan_date"] - birth).dt.days / DAYS_PER_YEAR).round(1)


def _check_order(scans: pd.DataFrame, clinical: pd.DataFrame) -> None:
    late = scans.loc[scans["last_contact_date"] < scans["scan_date"], "patient_id"].unique()
    rows = clinical.index[clinical["patient_id"].isin(late) & clinical["last_contact_date"].notna()]
    if len(rows):
        shown = ", ".join(str(int(row) + HEADER_LINES) for row in rows)
        raise StudyError(
            f"clinical table, row(s) {shown}, column last_contact_date: lies before a scan of the patient; expected "
            "the last day on which the state is known."
        )


def _from_words(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    for name, equals, value in pairs:
        if not (name.strip() and equals and value.strip()):
            raise StudyError(f"--clinical {text}: expected NAME=VALUE with commas between, such as age=63,fvc=72.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _from_table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StudyError(f"--clinical {path}: no such file, and no NAME=VALUE pair such as age=63.")
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not a comma-separated table in UTF-8: {error}") from error
    if len(table) != 1:
        raise StudyError(f"{path} has {len(table)} rows, expected one: the patient of this scan.")
    names = [*SHORT, *covariates()]
    return {str(name): value for name, value in table.iloc[0].items() if str(name) in names}
