"""Reading and writing the tables that stages hand to each other."""

import warnings
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import PREDICTIONS

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def read_table(path: Path, schema: pa.DataFrameSchema, made_by: str) -> pd.DataFrame:
    """Read a table that another stage wrote.

    Parameters
    ----------
    made_by
        The stage that writes it, for the message when it is missing.

    Raises
    ------
    StudyError
        If the file is missing, unreadable, or does not fulfil the schema.
    """
    if not path.is_file():
        raise StudyError(f"{path} is missing. Run `{made_by}` first; it writes this table.")
    try:
        frame = pd.read_parquet(path, page_checksum_verification=True)
        if lacking := missing_columns(frame, schema):
            raise StudyError(
                f"{path} lacks the column(s) {lacking}: an earlier version of the project wrote it. `sscct run` sets "
                f"it aside and makes it again by `{made_by}`."
            )
        return schema.validate(frame, lazy=True)
    except (OSError, ValueError, pa.errors.SchemaErrors) as error:
        raise StudyError(
            f"{path} is not a valid {schema.name} table. `sscct run` sets it aside and makes it again "
            f"by `{made_by}`.\n{error}"
        ) from error


def missing_columns(frame: pd.DataFrame, schema: pa.DataFrameSchema) -> str:
    """Name the columns that a table must have and lacks, separated by commas; empty where it has all."""
    needed = (
        str(name)
        for name, column in schema.columns.items()
        if column.required and not column.regex and not (schema.add_missing_columns and _has_default(column))
    )
    return ", ".join(name for name in needed if name not in frame)


def _has_default(column: pa.Column) -> bool:
    return bool(column.nullable or column.default is not None)


def write_table(frame: pd.DataFrame, path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Validate a table and write it as Parquet; returns it as written, with the schema's column types."""
    valid = schema.validate(frame.reset_index(drop=True), lazy=True)
    with atomic(path) as partial:
        valid.to_parquet(partial, index=False, write_page_checksum=True)
    return valid


def read_predictions(study: Study, stacked: bool = False) -> pd.DataFrame:
    """Read the out-of-fold predictions of every model of a run, one table under the other (schema `PREDICTIONS`).

    With `stacked`, also the stacked risks where notebook 05 made them.

    Raises
    ------
    StudyError
        If there is none, or two tables predict with the same model.
    """
    paths = sorted(study.table("predictions/x").parent.glob("[!.]*.parquet"))
    if not paths:
        raise StudyError(f"{study.run} has no predictions yet. Run `03_radiomics` or `04_deep_models` first.")
    frames = [read_table(path, PREDICTIONS, path.stem) for path in paths]
    predictions = pd.concat(frames, ignore_index=True)
    repeated = predictions.duplicated(["model", "horizon_years", "scan_id", "repeat"])
    if repeated.any():
        names = ", ".join(sorted(predictions.loc[repeated, "model"].unique()))
        raise StudyError(f"Two prediction tables in {paths[0].parent} hold the same model: {names}.")
    if stacked and study.table("stacked").is_file():
        others = read_table(study.table("stacked"), PREDICTIONS, "05_horizons")
        return pd.concat([predictions, others], ignore_index=True)
    return predictions


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that people wrote (UTF-8, with a header): every cell as text, an empty one as "", rows from 0.

    Raises
    ------
    StudyError
        If the file is missing or no table: not UTF-8, without a header, or a row has more cells than the header.
    """
    if not path.is_file():
        raise StudyError(f"{path} is missing: expected a table of comma-separated text.")
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would lose cells with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise StudyError(f"{path} is not a comma-separated table in UTF-8: {error}") from error


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV; text that a spreadsheet would take for a formula gets an apostrophe before it.

    References
    ----------
    OWASP, CSV Injection.
    """

    def plain(cell: object) -> object:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell

    with atomic(path) as partial:
        frame.map(plain).to_csv(partial, index=False)
