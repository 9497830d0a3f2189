"""Clinical values of one patient, as `sscct predict --clinical` takes them: in words, or as a table."""

from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from sscct_lib.schemas import covariates
from sscct_lib.study import StudyError

SHORT = {
    "age": "age_years",
    "fvc": "fvc_percent",
    "dlco": "dlco_percent",
    "subtype": "ssc_subtype",
    "thickness": "slice_thickness_mm",
}
NOT_TAKEN = ("cause_of_death", "scan_year")


def read_values(given: str | None) -> dict[str, Any]:
    """Read the clinical values of one patient.

    Parameters
    ----------
    given
        `name=value` pairs with commas between them, such as `age=63,sex=female,fvc=72`, or the path of a CSV table
        with one row. Names are those of the manifest's columns, or `age`, `fvc`, `dlco`, `subtype`. None: nothing is
        known.

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
