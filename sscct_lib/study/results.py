"""One function applied to many scans: each result written atomically, finished ones skipped, bad ones set aside.

How far long work is stands in lines under a notebook's cell and in the terminal, which the finished notebook forgets.
"""

import json
import logging
import re
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from joblib import Parallel, delayed

from sscct_lib.study.code import code_hash
from sscct_lib.study.files import NoRoomError, atomic, has_content
from sscct_lib.study.folder import Study, StudyError, fingerprint

MARK = "⏳ "  # begins a line that only tells how far the work is
SECONDS_BETWEEN = 10

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Record = dict[str, Any]
ScanFunction = Callable[[Study, Mapping[str, Any]], Record]


class ScanError(ValueError):
    """One scan cannot be used; the message says what was found, what was expected and how to mend it."""

    code = ""  # of its reason, where a table counts reasons


def process(
    study: Study,
    stage: str,
    function: ScanFunction,
    rows: pd.DataFrame,
    settings: Any,
    inputs: Callable[[Mapping[str, Any]], list[Path]],
    n_jobs: int = 1,
    folder: Path | None = None,
    outputs: Callable[[Mapping[str, Any]], list[Path]] | None = None,
) -> pd.DataFrame:
    """Apply a function to every scan that is not yet finished.

    Parameters
    ----------
    stage
        Its name, by which records and messages go.
    function
        Takes the study and a row; returns plain values, one for each column of the stage's table. It writes its own
        files atomically, before it returns. The code of its module is part of what "finished" means.
    rows
        One row per scan, with `scan_id` and `patient_id`.
    settings
        The settings that `function` uses; when they change, the results are made again.
    inputs
        Gives the files that `function` reads for a row; when one changes, that result is made again.
    n_jobs
        Processes that share the scans.
    folder
        Where the records lie, one JSON file a scan; by default `runs/<run>/records/<stage>/`.
    outputs
        Gives the files that `function` writes for a row; when one is gone, that result is made again.

    Returns
    -------
    pandas.DataFrame
        One row per scan, in the order of `rows`: `scan_id`, `patient_id`, `status`, `reason` and what `function`
        returned. A scan that fails has `status` "failed" and its reason; the rest go on.

    Raises
    ------
    StudyError, NoRoomError
        If a result of an earlier stage is damaged, or nothing can be written: no scan is to blame.
    """
    folder = folder or study.run / "records" / stage
    jobs = [
        _Job(study, stage, function, row, settings, inputs(row), outputs(row) if outputs else [], folder)
        for row in _plain_rows(rows)
    ]
    found = [job.finished() for job in jobs]
    # Workers are started only when there is work: a finished study is read in this process.
    missing = [delayed(job.run)() for job, record in zip(jobs, found, strict=True) if record is None]
    made = iter(list(told(Parallel(n_jobs=n_jobs, return_as="generator")(missing), len(missing), f"{stage}: scan")))
    done = [next(made) if record is None else record for record in found]
    first = ["scan_id", "patient_id", "status", "reason"]
    frame = pd.DataFrame(done)
    return frame.reindex(columns=first + [name for name in frame.columns if name not in first])


def _plain_rows(rows: pd.DataFrame) -> list[Record]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


@dataclass(frozen=True)
class _Job:
    """One function on one scan."""

    study: Study
    stage: str
    function: ScanFunction
    row: Record
    settings: Any
    inputs: list[Path]
    outputs: list[Path]
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / f"{self.row['scan_id']}.json"

    @property
    def key(self) -> str:
        files = [file_state(file) for file in self.inputs]
        return fingerprint(self.stage, code_hash(_file_of(self.function)), self.settings, self.row, files)

    def finished(self) -> Record | None:
        record = read_record(self.path, self.key)
        if record is None:
            return None
        is_whole = record["status"] != "ok" or all(map(has_content, self.outputs))
        return record if is_whole else None

    def run(self) -> Record:
        identity = {"scan_id": self.row["scan_id"], "patient_id": self.row["patient_id"]}
        key = self.key
        try:
            record = {**identity, "status": "ok", "reason": "", **self.function(self.study, self.row)}
        except ScanError as error:
            coded = {"codes": error.code} if error.code else {}
            record = {**identity, "status": "failed", "reason": without_names(str(error), self.inputs), **coded}
        except (StudyError, NoRoomError):
            raise  # no fault of this scan: the next would fail as well
        except Exception as error:
            # Not our own verdict on the data, so it is tried again at the next run: no record is kept.
            trace = without_names(traceback.format_exc(), self.inputs)
            log.error("%s: scan %s failed unexpectedly\n%s", self.stage, self.row["scan_id"], trace)
            words = without_names(f"unexpected {type(error).__name__}: {error}", self.inputs)
            return {**identity, "status": "failed", "reason": words}
        with atomic(self.path) as partial:
            content = {"key": key, "check": fingerprint(record), "record": record}
            partial.write_text(json.dumps(content), encoding="utf-8")
        return record


def _file_of(function: ScanFunction) -> Path:
    """Give the file that defines a function, also when some of its arguments were given beforehand."""
    module = sys.modules[getattr(function, "func", function).__module__]
    if not module.__file__:
        raise ValueError(f"{function} is not of a file, whose code would tell when its results are stale.")
    return Path(module.__file__)


def file_state(path: Path) -> list[Any]:
    """Tell a file's size and time of change (ns), cheaply, or that it is missing."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ["missing"]
    return [found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else ["missing"]


def without_names(text: str, files: Iterable[Path]) -> str:
    """Take the names of files out of a message: hospitals name them after patients, and the scan's id is there."""
    for file in files:
        for name in (str(file.absolute()), str(file), file.name):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "the file", text)
    return text


def read_record(path: Path, key: str | None = None) -> Record | None:
    """Read what `process` keeps of a scan; None where it is not there, is damaged, or has another key than is given."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(content, dict) and {"key", "record"} <= content.keys() and isinstance(content["record"], dict)
    if not is_whole or content.get("check") != fingerprint(content["record"]) or key not in (None, content["key"]):
        return None
    return dict(content["record"])


def shard(rows: pd.DataFrame, index: int, size: int) -> pd.DataFrame:
    """Take the scans of one shard, rows `index * size` to `(index + 1) * size`."""
    return rows.iloc[index * size : (index + 1) * size]


def told(results: Iterable[Result], n: int, what: str) -> Iterator[Result]:
    """Give results one by one, and tell every ten seconds how far the work is.

    Parameters
    ----------
    n
        How many there will be.
    what
        Of what, for example `tabular models: fit`.
    """
    last = time.monotonic()
    for number, result in enumerate(results, start=1):
        if time.monotonic() - last >= SECONDS_BETWEEN:
            last = time.monotonic()
            log.info("%s %d of %d", what, number, n)
        yield result


def show() -> None:
    """Make a notebook show the library's messages, under the cell at work, and text in its tables as it is."""
    # Tables that notebooks show hold text of users: the names of their files, the words of their decisions.
    pd.set_option("styler.format.escape", "html")
    logger = logging.getLogger("sscct_lib")
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)


def forget(notebook: dict[str, Any]) -> None:
    """Take the lines of progress out of an executed notebook (Jupyter's format 4), in place; warnings stay."""
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        outputs = cell["outputs"]
        for output in outputs:
            if output["output_type"] == "stream":
                lines = "".join(output["text"]).splitlines(keepends=True)
                output["text"] = [line for line in lines if not line.startswith(MARK)]
        cell["outputs"] = [output for output in outputs if output["output_type"] != "stream" or output["text"]]


class _Lines(logging.Formatter):
    """Mark what only tells how far the work is; warnings stay as they are."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{MARK if record.levelno < logging.WARNING else ''}{super().format(record)}"
