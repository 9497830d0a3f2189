"""One function applied to many scans: each result written atomically, finished ones skipped, bad ones set aside."""

import ast
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

from sscct_lib.files import NoRoomError, atomic
from sscct_lib.progress import told
from sscct_lib.study import Study, StudyError, fingerprint

log = logging.getLogger(__name__)

Record = dict[str, Any]
ScanFunction = Callable[[Study, Mapping[str, Any]], Record]


class ScanError(ValueError):
    """One scan cannot be used; the message says what was found, what was expected and how to mend it."""


@cache
def code_files(module: str) -> tuple[Path, ...]:
    """List the source files that a module of `sscct_lib` rests on, itself among them.

    Parameters
    ----------
    module
        Its name, for example `lungs`.

    Returns
    -------
    tuple of Path
        Sorted paths, found by following the `sscct_lib` imports.
    """
    found: set[Path] = set()
    waiting = [Path(__file__).with_name(f"{module}.py")]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += _rooms_of(path)
    return tuple(sorted(found))


@cache
def _rooms_of(path: Path) -> tuple[Path, ...]:
    return tuple(imported_rooms(path.read_text(encoding="utf-8")))


def imported_rooms(source: str) -> list[Path]:
    """List the files of the `sscct_lib` modules that Python source imports, wherever the import stands."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "sscct_lib":
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sscct_lib."):
            names.append(str(node.module).split(".")[1])
    return [Path(__file__).with_name(f"{name}.py") for name in names]


@cache
def code_hash(module: str) -> str:
    """Hash the source on which a module of `sscct_lib` rests, so that an edit makes its results stale."""
    digest = hashlib.sha256()
    for path in code_files(module):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def file_state(path: Path) -> list[Any]:
    """Tell a file's size and time of change (ns), cheaply, or that it is missing."""
    if not path.is_file():
        return ["missing"]
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


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
    study
        The study and run.
    stage
        Name of the module of `sscct_lib` that holds `function`: its source is part of what "finished" means.
    function
        Takes the study and a row; returns plain values, one for each column of the stage's table. It writes
        its own files atomically, before it returns.
    rows
        One row a scan, with `scan_id` and `patient_id`.
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
        One row a scan, in the order of `rows`: `scan_id`, `patient_id`, `status`, `reason` and what
        `function` returned. A scan that fails has `status` "failed" and its reason; the rest go on.

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
        return fingerprint(self.stage, code_hash(self.stage), self.settings, self.row, files)

    def finished(self) -> Record | None:
        content = _read_record(self.path)
        if content is None or content["key"] != self.key:
            return None
        record: Record = content["record"]
        if content.get("check") != fingerprint(record):
            return None
        is_whole = record["status"] != "ok" or all(map(_has_content, self.outputs))
        return record if is_whole else None

    def run(self) -> Record:
        identity = {"scan_id": self.row["scan_id"], "patient_id": self.row["patient_id"]}
        key = self.key
        try:
            record = {**identity, "status": "ok", "reason": "", **self.function(self.study, self.row)}
        except ScanError as error:
            record = {**identity, "status": "failed", "reason": str(error)}
        except (StudyError, NoRoomError):
            raise  # no fault of this scan: the next would fail as well
        except Exception as error:
            # Not our own verdict on the data, so it is tried again at the next run: no record is kept.
            log.exception("%s: scan %s failed unexpectedly", self.stage, self.row["scan_id"])
            return {**identity, "status": "failed", "reason": f"unexpected {type(error).__name__}: {error}"}
        with atomic(self.path) as partial:
            content = {"key": key, "check": fingerprint(record), "record": record}
            partial.write_text(json.dumps(content), encoding="utf-8")
        return record


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and {"key", "record"} <= content.keys() else None


def shard(rows: pd.DataFrame, index: int, size: int) -> pd.DataFrame:
    """Take the scans of one shard.

    Parameters
    ----------
    rows
        One row a scan.
    index
        Number of the shard, from 0.
    size
        Scans in a shard.

    Returns
    -------
    pandas.DataFrame
        Rows `index * size` to `(index + 1) * size`.
    """
    return rows.iloc[index * size : (index + 1) * size]
