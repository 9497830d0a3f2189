"""Reading and writing the tables that stages hand to each other."""

import warnings
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow.parquet as pq

from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.keys import difference, ingredients
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.stages import maker

MOST_CELLS, MOST_INFLATED = 32, 100  # that a byte of a file may hold: cells, and bytes once it is unpacked
FREE_BYTES = 1 << 16  # small files may hold more
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def read_table(study: Study, name: str, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a table of a run.

    Parameters
    ----------
    name
        As `Study.table` takes it.

    Raises
    ------
    StudyError
        If the file is missing, unreadable, does not fulfil the schema, or was made of other settings, data or code than
        are asked for now (see `keys`).
    """
    path, made_by = study.table(name), maker(name) or "sscct sweep"
    if not path.is_file():
        raise StudyError(f"{path} is missing. Run `{made_by}` first; it writes this table.")
    again = f"`sscct run` sets it aside and makes it again by `{made_by}`."
    try:
        frame = read_parquet(path)
        made = frame.attrs.pop("ingredients", None)
        if lacking := missing_columns(frame, schema):
            raise StudyError(
                f"{path} lacks the column(s) {lacking}: an earlier version of the project wrote it. {again}"
            )
        frame = schema.validate(frame, lazy=True)
    except PermissionError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}.") from error
    except (OSError, ValueError, pa.errors.SchemaErrors) as error:
        raise StudyError(f"{path} is not a valid {schema.name} table. {again}\n{error}") from error
    if maker(name) and (why := difference(ingredients(study, made_by), made)):
        raise StudyError(f"{path} was {why}. Call `sscct run`, or run `{made_by}` first; it writes this table.")
    return frame


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file, with the checksums of its pages, if its footer promises no more than such a file can hold.

    Raises
    ------
    ValueError
        If it promises more, has columns of lists or the like, or is damaged.
    """
    footer, n_bytes = pq.read_metadata(path), path.stat().st_size
    columns = [footer.schema.column(number) for number in range(footer.num_columns)]
    n_cells = footer.num_rows * footer.num_columns
    promised = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    if any(column.max_repetition_level or column.max_definition_level > 1 for column in columns):
        raise ValueError("It has columns of lists or records; expected numbers and text.")
    if max(n_cells / MOST_CELLS, promised / MOST_INFLATED) > n_bytes + FREE_BYTES:
        raise ValueError(f"It promises {n_cells:,} cells in {n_bytes:,} bytes: more than a table can hold.")
    return pd.read_parquet(path, page_checksum_verification=True)


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


def write_table(frame: pd.DataFrame, study: Study, name: str, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Validate a table of a run and write it as Parquet, with what it is made of (see `keys`).

    Returns it as written, with the schema's column types.
    """
    valid = schema.validate(frame.reset_index(drop=True), lazy=True)
    valid.attrs = {}
    written, made_by = valid.copy(deep=False), maker(name)
    written.attrs = {"ingredients": ingredients(study, made_by)} if made_by else {}
    with atomic(study.table(name)) as partial:
        written.to_parquet(partial, index=False, write_page_checksum=True)
    return valid


def read_predictions(study: Study, stacked: bool = False) -> pd.DataFrame:
    """Read the out-of-fold predictions of every model of a run, one table under the other (schema `PREDICTIONS`).

    With `stacked`, also the stacked risks where notebook 05 made them.

    Raises
    ------
    StudyError
        If there is none, or two tables predict with the same model.
    """
    folder = study.table("predictions/x").parent
    names = sorted(path.stem for path in folder.glob("[!.]*.parquet"))
    if not names:
        raise StudyError(f"{study.run} has no predictions yet. Run `03_radiomics` or `04_deep_models` first.")
    frames = [read_table(study, f"predictions/{name}", PREDICTIONS) for name in names]
    predictions = pd.concat(frames, ignore_index=True)
    repeated = predictions.duplicated(["model", "horizon_years", "scan_id", "repeat"])
    if repeated.any():
        models = ", ".join(sorted(predictions.loc[repeated, "model"].unique()))
        raise StudyError(f"Two prediction tables in {folder} hold the same model: {models}.")
    if stacked and study.table("stacked").is_file():
        return pd.concat([predictions, read_table(study, "stacked", PREDICTIONS)], ignore_index=True)
    return predictions


MOST_COLUMNS = 5_000  # of a table that people wrote; each unknown name is compared with those that are known


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that people wrote (UTF-8, with a header): every cell as text, an empty one as "", rows from 0.

    Raises
    ------
    StudyError
        If the file is missing or no table: not UTF-8, without a header, or a row has more cells than the header.
    """
    if not path.is_file():
        raise StudyError(f"{path} is missing: expected a table of comma-separated text.")
    with path.open("rb") as file:
        n_columns = 1 + file.readline(1 << 20).count(b",")
    if n_columns > MOST_COLUMNS:
        raise StudyError(f"{path} has {n_columns:,} columns or more: expected a table of at most {MOST_COLUMNS:,}.")
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
