"""Before a run goes on: it is alone in the study, and damaged or lost results are set aside to be made again."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sscct_lib.study.code import KEYS
from sscct_lib.study.files import atomic, free_name, has_content
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.stages import NOTEBOOKS, shard_stage

CLOCK_SLACK_NS = 60 * 10**9  # clocks of a file server and of this machine differ a little
EARLIER = "made by an earlier version of this project"
SHARD_COLUMNS = ["scan_id", "status", "reason"]


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which, and since when."""


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold a lock while the block runs.

    The system takes the lock away when the process ends, even by `kill -9` or a power failure, so that none is ever
    left behind. A child process that gets the descriptor holds it too.

    Parameters
    ----------
    path
        The file that stands for what is locked; it is made, and stays.
    wait
        Wait until it is free instead of raising.

    Yields
    ------
    int
        The descriptor of the file, for `pass_fds` of a child process.

    Raises
    ------
    LockedError
        If another process holds it, and `wait` is not asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            raise LockedError(file.read(200).strip() or "another process") from error
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}, since {datetime.now():%H:%M}\n")
        file.flush()
        yield file.fileno()


def set_damaged_aside(study: Study) -> list[str]:
    """Move what is damaged among a run's results to `runs/<run>/damaged/`; the workflow then makes it again.

    Tables are read whole, with the checksums of their pages; executed notebooks and lists of shards are parsed; and
    each scan that a shard lists as done must have its file. A notebook of an earlier version of this project goes too.

    Returns
    -------
    list of str
        What was set aside, in words; empty when all is sound.
    """
    told = []
    earlier = _made_earlier(study)
    for folder, pattern, why_unsound in (
        ("tables", "**/[!.]*.parquet", _table),
        ("notebooks", "[!.]*.ipynb", lambda path: EARLIER if path.stem in earlier else _notebook(path)),
        ("shards", "[!.]*.csv", lambda path: _shard(study, path)),
    ):
        for path in sorted((study.run / folder).glob(pattern)):
            reason = why_unsound(path)
            if reason:
                target = free_name(study.run / "damaged" / path.name)
                target.parent.mkdir(exist_ok=True)
                path.rename(target)
                told.append(f"{path.relative_to(study.folder)}: {reason}. Set aside in {target.parent.name}/.")
    return told


def refuse_earlier(study: Study) -> None:
    """Refuse a run that an earlier version of this project made, even in part: keys meant something else then.

    Raises
    ------
    StudyError
        If so, with what to do.
    """
    earlier = _made_earlier(study)
    if earlier:
        raise StudyError(
            f"runs/{study.run_name}: {', '.join(earlier)} {'was' if len(earlier) == 1 else 'were'} {EARLIER}. "
            "Call `sscct run`, which makes again what is needed; scans and the manifest stay."
        )


def _made_earlier(study: Study) -> list[str]:
    """Notebooks of a run whose record says that their keys were made otherwise."""
    records = {name: study.run / "provenance" / f"{name}.json" for name in NOTEBOOKS}
    return [name for name, path in records.items() if path.is_file() and _keys(path) != KEYS]


def _keys(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("keys")
    except (ValueError, AttributeError):  # a damaged record vouches for nothing
        return None


def pull_back_times(study: Study) -> float:
    """Bring results that were written in the future to the past: the clock was set back since.

    The workflow tells from times which result is older than what it rests on. All its results move by as much, so that
    their order stays, and what this run writes is newer than all of them.

    Returns
    -------
    float
        Seconds by which the results were moved; 0 where none lies in the future.
    """
    patterns = ("shards/*.csv", "tables/**/*.parquet", "notebooks/*.ipynb", "book/_build/html/index.html")
    changed = {path: path.stat().st_mtime_ns for pattern in patterns for path in study.run.glob(pattern)}
    ahead = max(changed.values(), default=0) - time.time_ns()
    if ahead <= CLOCK_SLACK_NS:
        return 0.0
    for path, at in changed.items():
        os.utime(path, ns=(at - ahead, at - ahead))
    return ahead / 1e9


def remembers(study: Study) -> bool:
    """Tell whether the workflow's hidden folder is the one that saw this run's results being made.

    It alone knows with which settings, follow-up and code each of them was made. Where it was removed, or is that of
    another copy, nothing may be believed without a look.
    """
    marks = [path.read_bytes() if path.is_file() else b"" for path in _marks(study)]
    has_results = next(study.run.glob("shards/*.csv"), None) is not None
    return not has_results or (marks[0] == marks[1] != b"")


def remember(study: Study) -> None:
    """Mark a run and the workflow's hidden folder as belonging together."""
    if not all(path.is_file() for path in _marks(study)) or not remembers(study):
        mark = uuid4().hex
        for path in _marks(study):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as partial:
                partial.write_text(mark)


def _marks(study: Study) -> tuple[Path, Path]:
    return study.run / ".workflow", study.folder / ".snakemake" / f"run-{study.run_name}"


def _table(path: Path) -> str:
    try:
        pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        return f"damaged table ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})"
    return ""


def _notebook(path: Path) -> str:
    try:
        whole = "cells" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        whole = False
    return "" if whole else "damaged notebook"


def _shard(study: Study, path: Path) -> str:
    file_of = {"images": study.image, "lungs": study.mask}.get(shard_stage(path))  # of other stages, a record is all
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError):
        return "damaged list of a shard"
    if list(rows.columns) != SHARD_COLUMNS or rows.empty:
        return "damaged list of a shard"
    lost = [
        scan_id
        for scan_id in (rows.loc[rows["status"] == "ok", "scan_id"] if file_of else [])
        if file_of and not has_content(file_of(scan_id))
    ]
    return f"the files of {len(lost)} scan(s) are gone, {lost[0]} among them" if lost else ""
