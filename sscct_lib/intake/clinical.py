"""Follow-up and clinical values: a registry's table, attached to its scans, and the values of one patient."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from sscct_lib.images.reasons import Told, told
from sscct_lib.study.folder import StudyError
from sscct_lib.study.registry import (
    DAYS_PER_YEAR,
    EARLIEST,
    HEADER_LINES,
    LONGEST_FOLLOW_UP_YEARS,
    OLDEST_YEARS,
    SYNONYMS,
    Violation,
    beyond_a_life,
    fulfil,
    give_types,
    plain,
    possible,
    stripped,
    suggested,
    violations,
)
from sscct_lib.study.schemas import MANIFEST, column, covariates, declared_columns, stored_names
from sscct_lib.study.settings import Covariate
from sscct_lib.study.tables import read_csv

DATES = ("scan_date", "last_contact_date", "transplant_date")
OF_THE_SCAN = ("scan_year", "manufacturer", "kernel", "slice_thickness_mm")  # never taken from the table
VISIT = ("age_years", "fvc_percent", "dlco_percent", "dlco_impossible")
PATIENT = ("last_contact_date", "event_observed", "transplant_date", "sex", "ssc_subtype", "cause_of_death")
NEAR_DAYS = 90
MOST_LISTED = 12  # rows or columns that are named by number

CLINICAL = pa.DataFrameSchema(
    {
        "patient_id": column(str, "the patient, as the images name them"),
        **{
            name: MANIFEST.columns[name]
            for name in ("scan_date", "last_contact_date", "event_observed", "transplant_date")
        },
        **{name: spec for name, spec in covariates().items() if name not in OF_THE_SCAN},
    },
    name="clinical",
).update_columns({"last_contact_date": {"required": True}})

Declared = Mapping[str, Covariate]

SHORT = {name: SYNONYMS[name] for name in ("age", "fvc", "dlco", "subtype", "thickness")}
NOT_TAKEN = ("cause_of_death", "scan_year")


def read_clinical(path: Path, declared: Declared | None = None) -> tuple[pd.DataFrame, list[Told]]:
    """Read a registry's table: all columns of `CLINICAL` and those declared, rows from 0; and what was not used of it.

    Names of columns are compared without case, blanks and punctuation; the table must have one for each covariate that
    the study declares. What is told numbers rows and columns, and names no value of a patient. StudyError where the
    file is missing, is no CSV table, or has violations: all of them, each with row and column.
    """
    schema = CLINICAL.add_columns(declared_columns(declared or {}))
    raw, remarks = _known_columns(stripped(path), path, schema)
    missing = [name for name, spec in schema.columns.items() if spec.required and name not in raw]
    if missing:
        said = "".join(f"; {one}" for one in remarks)
        raise StudyError(f"{path} has no column {', '.join(missing)}; found {', '.join(raw.columns)}{said}.")
    table: pd.DataFrame = raw.reindex(columns=list(schema.columns))
    table["patient_id"] = table["patient_id"].map(lambda text: unicodedata.normalize("NFC", text), na_action="ignore")
    table, wrong = give_types(table, schema)
    contradictions = []
    if not wrong:
        contradictions = _contradictions(table, columns_of("visit", declared))
        of_rows = _across_columns(table, columns_of("patient", declared))
        table, wrong = fulfil(table, schema)
        wrong += of_rows
    # What was found is a patient's, and is not told.
    lines = [str(replace(one, found=None)) for one in wrong] + contradictions
    if lines:
        raise StudyError(f"{path} has {len(lines)} violation(s); nothing was read:\n  " + "\n  ".join(lines))
    return table, remarks


def empty_clinical(declared: Declared | None = None) -> pd.DataFrame:
    """Make a clinical table without rows, for scans that come without one."""
    schema = CLINICAL.add_columns(declared_columns(declared or {}))
    return schema.validate(pd.DataFrame(columns=list(schema.columns)))


def columns_of(what: str, declared: Declared | None) -> list[str]:
    """Columns that belong to the `patient`, or to the `visit`."""
    return [
        *(PATIENT if what == "patient" else VISIT),
        *(name for name, one in (declared or {}).items() if one.of == what),
    ]


def attach(
    scans: pd.DataFrame, clinical: pd.DataFrame, declared: Declared | None = None
) -> tuple[pd.DataFrame, list[Told]]:
    """Attach clinical values to scans: what belongs to the patient to all of them, what belongs to a visit to its scan.

    A row with `scan_date` goes to the patient's nearest scan within 90 days, one without to the patient's first scan.
    Where several go to a scan, each value is taken from the nearest that has it. Age and sex of `scans`, from the
    header, fill what the table lacks. `in_clinical` says whether the patient has a row. Rows that were not used are
    told, each with its reason. StudyError where a last contact lies before a scan, or later than any patient lives.
    """
    scans = scans.copy()
    of_visit, of_patient = columns_of("visit", declared), columns_of("patient", declared)
    by_patient = clinical.groupby("patient_id")[of_patient].first()
    scans["in_clinical"] = scans["patient_id"].isin(by_patient.index)
    for name in of_patient:
        value = scans["patient_id"].map(by_patient[name])
        scans[name] = value.fillna(scans[name]) if name in scans else value
    from_header = scans["age_years"].copy() if "age_years" in scans else pd.Series(float("nan"), scans.index)
    placed = _placed(scans, clinical)
    near = placed[placed["scan"].notna() & ~(placed["days"] > NEAR_DAYS)].sort_values(["days", "scan_date"])
    values = near.groupby("scan")[of_visit].first()
    for name in of_visit:
        scans[name] = values[name].reindex(scans.index)
    scans["age_years"] = scans["age_years"].astype(float)
    scans["age_years"] = scans["age_years"].fillna(_carried_age(scans)).fillna(from_header)
    _check_times(scans, clinical)
    return scans, _ids_told(scans, clinical, of_visit) + _rows_told(placed, near, of_visit)


def read_values(given: str | None, declared: Declared | None = None) -> dict[str, Any]:
    """Read the clinical values of one patient.

    Parameters
    ----------
    given
        `name=value` pairs with commas between them, such as `age=63,sex=female,fvc=72`, or the path of a CSV table with
        one row. Names are those of the manifest's columns, or `age`, `fvc`, `dlco`, `subtype`. None: nothing is known.
    declared
        The study's own covariates.

    Returns
    -------
    dict
        By column of the cohort; only what is known.

    Raises
    ------
    StudyError
        If a name is not known, or a value is not possible: all of them are named.
    """
    if given is None:
        return {}
    known = {name: spec for name, spec in covariates(declared).items() if name not in NOT_TAKEN}
    raw = _from_table(Path(given), known) if "=" not in given else _from_words(given)
    named = {SHORT.get(name, name): value for name, value in raw.items() if str(value).strip() and pd.notna(value)}
    strangers = sorted(set(named) - set(known))
    if strangers:
        raise StudyError(f"--clinical: {', '.join(strangers)} not known; expected {', '.join([*SHORT, *known])}.")
    checked, wrong = fulfil(pd.DataFrame([named]), pa.DataFrameSchema({name: known[name] for name in named}))
    if wrong:
        said = dict.fromkeys(f"{one.column}: expected {one.expected}" for one in wrong)
        raise StudyError("--clinical: " + "; ".join(said))
    stored = stored_names(declared or {})
    return {stored.get(str(name), str(name)): value for name, value in checked.iloc[0].to_dict().items()}


def _across_columns(table: pd.DataFrame, of_patient: list[str]) -> list[Violation]:
    """Find days that cannot be, half a follow-up, and rows of a patient that contradict each other."""
    half = table["last_contact_date"].isna() != table["event_observed"].isna()
    both = "last_contact_date and event_observed both, or neither"
    wrong = [Violation(int(row) + HEADER_LINES, None, None, both) for row in table.index[half]]
    for name in DATES:
        expected = f"a day from {EARLIEST.year} to today"
        wrong += violations(table[name], table.index[~possible(table[name])], expected)
    for name in of_patient:
        differing = table.groupby("patient_id")[name].transform("nunique") > 1
        wrong += violations(table[name], table.index[differing], "the same in all rows of a patient")
    return wrong


def _contradictions(table: pd.DataFrame, of_visit: list[str]) -> list[str]:
    """Find rows about one visit of a patient with different values: neither can be believed."""
    said = []
    visit = table.groupby(["patient_id", "scan_date"], dropna=False)
    for name in of_visit:
        differing = visit[name].transform("nunique") > 1
        several = table[differing & table[name].notna()].groupby(["patient_id", "scan_date"], dropna=False)
        said += [
            f"rows {_rows(rows.index)}, column {name}: expected one value for one visit of a patient, found several"
            for _, rows in several
        ]
    return said


def _known_columns(raw: pd.DataFrame, path: Path, schema: pa.DataFrameSchema) -> tuple[pd.DataFrame, list[Told]]:
    """Give columns the names that they mean but for case, blanks and punctuation, and tell of the rest by number."""
    known = {plain(name): name for name in schema.columns}
    meant = {str(name): known[plain(str(name))] for name in raw.columns if plain(str(name)) in known}
    twice = [name for name, n in Counter(meant.values()).items() if n > 1]
    if twice:
        raise StudyError(f"{path} has two columns that mean {', '.join(twice)}: expected one, so that none contradict.")
    renamed = [name for written, name in meant.items() if written != name]
    remarks = [told("columns_renamed", names=", ".join(renamed))] if renamed else []
    unknown = [(place, str(name)) for place, name in enumerate(raw.columns, start=1) if name not in meant]
    near = {place: suggested(name, set(schema.columns) - set(meant.values())) for place, name in unknown}
    remarks += [told("column_near", column=place, name=name) for place, name in near.items() if name]
    others = [place for place, name in near.items() if name is None]
    remarks += [told("columns_unknown", n=len(others), columns=_listed(others))] if others else []
    return raw.rename(columns=meant), remarks


def _placed(scans: pd.DataFrame, clinical: pd.DataFrame) -> pd.DataFrame:
    """Find the scan of each row: `scan` (its index in `scans`, missing where there is none) and `days` to it."""
    dated = scans[["patient_id", "scan_date"]].astype({"scan_date": "datetime64[ns]"}).dropna(subset="scan_date")
    dated = dated.assign(of_scan=dated["scan_date"]).sort_values("scan_date", kind="stable")
    dated = dated.rename_axis("scan").reset_index()
    rows = clinical.rename_axis("row").reset_index().sort_values("scan_date", kind="stable")
    with_date = rows[rows["scan_date"].notna()]
    visits = pd.merge_asof(with_date, dated, on="scan_date", by="patient_id", direction="nearest")
    visits["days"] = (visits["scan_date"] - visits.pop("of_scan")).dt.days.abs()
    first = scans.sort_values("scan_date", kind="stable").groupby("patient_id").head(1)
    first_scan = pd.Series(first.index, first["patient_id"])
    undated = rows[rows["scan_date"].isna()]
    undated = undated.assign(scan=undated["patient_id"].map(first_scan), days=float("nan"))
    found = pd.concat([visits.astype({"scan": object}), undated.astype({"scan": object})])
    return found.set_index("row").sort_index()


def _rows_told(placed: pd.DataFrame, near: pd.DataFrame, of_visit: list[str]) -> list[Told]:
    """Tell which rows about a visit were not used, and why."""
    says = placed[placed[of_visit].notna().any(axis=1)]
    far = says[says["days"] > NEAR_DAYS]
    used: set[int] = set()
    for name in of_visit:
        used |= set(near[near[name].notna()].drop_duplicates("scan").index)
    behind = says.index.difference(far.index).intersection(near.index).difference(list(used))
    remarks = []
    if len(far):
        days = sorted({int(days) for days in far["days"]})
        apart = f"{days[0]:,}" if len(days) == 1 else f"{days[0]:,} to {days[-1]:,}"
        remarks.append(told("row_far", n=len(far), rows=_rows(far.index), days=apart, near=NEAR_DAYS))
    if len(behind):
        remarks.append(told("row_behind", n=len(behind), rows=_rows(behind)))
    return remarks


def _ids_told(scans: pd.DataFrame, clinical: pd.DataFrame, of_visit: list[str]) -> list[Told]:
    """Tell of patients written in several ways, and of rows whose patient has no scan, or no dated one."""
    with_scans = set(scans["patient_id"])
    lost = clinical[~clinical["patient_id"].isin(with_scans)]
    spelt = {_bare(patient) for patient in with_scans - set(clinical["patient_id"])}
    meant = lost["patient_id"].map(_bare).isin(spelt)
    undated = set(scans.loc[scans["scan_date"].isna(), "patient_id"]) - set(
        scans.loc[scans["scan_date"].notna(), "patient_id"]
    )
    unplaced = clinical[clinical["scan_date"].notna() & clinical["patient_id"].isin(undated)]
    unplaced = unplaced[unplaced[of_visit].notna().any(axis=1)]
    ways = pd.Series(sorted(with_scans), dtype=object).map(_bare).value_counts()
    alike = [told("ids_alike", n=int((ways > 1).sum()))] if (ways > 1).any() else []
    counted = {"id_spelt": lost[meant], "row_without_scan": lost[~meant], "row_of_undated": unplaced}
    return alike + [told(code, n=len(rows), rows=_rows(rows.index)) for code, rows in counted.items() if len(rows)]


def _bare(patient: str) -> str:
    """Write a patient's number without leading zeros, case, blanks, punctuation, and the `.0` that spreadsheets add."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]+", "", re.sub(r"\.0$", "", patient.strip()))).lower()


def _rows(index: pd.Index) -> str:
    return _listed(sorted(int(row) + HEADER_LINES for row in index))


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:MOST_LISTED]))
    return f"{shown} and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else shown


def _carried_age(scans: pd.DataFrame) -> pd.Series:
    """Age at each scan from an age known at another scan of the patient; lung function is not carried."""
    born = scans["scan_date"] - pd.to_timedelta(scans["age_years"] * DAYS_PER_YEAR, unit="D")
    birth = born.groupby(scans["patient_id"]).transform("min")
    return ((scans["scan_date"] - birth).dt.days / DAYS_PER_YEAR).round(1)


def _check_times(scans: pd.DataFrame, clinical: pd.DataFrame) -> None:
    """Refuse a last contact before a scan of the patient, and one that no patient lives to see."""
    days = (scans["last_contact_date"] - scans["scan_date"]).dt.days
    late = {
        "lies before a scan of the patient; expected the last day on which the state is known": days < 0,
        f"lies later than any patient lives; expected at most {LONGEST_FOLLOW_UP_YEARS:g} years after the scan, and an "
        f"age of {OLDEST_YEARS:g}": beyond_a_life(days, scans["age_years"]),
    }
    said = []
    for words, wrong in late.items():
        of_patients = clinical["patient_id"].isin(scans.loc[wrong, "patient_id"])
        rows = clinical.index[of_patients & clinical["last_contact_date"].notna()]
        said += [f"row(s) {_rows(rows)}, column last_contact_date: {words}"] if len(rows) else []
    if said:
        raise StudyError("clinical table, " + "; ".join(said) + ".")


def _from_words(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    for name, equals, value in pairs:
        if not (name.strip() and equals and value.strip()):
            raise StudyError(f"--clinical {text}: expected NAME=VALUE with commas between, such as age=63,fvc=72.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _from_table(path: Path, known: Collection[str]) -> dict[str, Any]:
    if not path.is_file():
        raise StudyError(f"--clinical {path}: no such file, and no NAME=VALUE pair such as age=63.")
    table = read_csv(path)
    if len(table) != 1:
        raise StudyError(f"{path} has {len(table)} rows, expected one: the patient of this scan.")
    names = {*SHORT, *known, *NOT_TAKEN}
    return {str(name): value for name, value in table.iloc[0].items() if str(name) in names}
