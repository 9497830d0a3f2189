"""Before a run goes on: it is alone in the study, and damaged or lost results are set aside to be made again."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa

from sscct_lib.study.files import free_name, has_content
from sscct_lib.study.folder import Study
from sscct_lib.study.stages import shard_stage
from sscct_lib.study.tables import read_parquet

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
    each scan that a shard lists as done must have its file.

    Returns
    -------
    list of str
        What was set aside, in words; empty when all is sound.
    """
    told = []
    for folder, pattern, why_unsound in (
        ("tables", "**/[!.]*.parquet", _table),
        ("notebooks", "[!.]*.ipynb", _notebook),
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


def _table(path: Path) -> str:
    try:
        read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
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
