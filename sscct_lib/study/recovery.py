"""Before a run goes on: it is alone in the study, and what is damaged, lost or somebody else's is made again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from sscct_lib.study import seals
from sscct_lib.study.files import free_name, has_content
from sscct_lib.study.folder import Study, StudyError, load_study
from sscct_lib.study.keys import given_predictions
from sscct_lib.study.stages import BESIDE_TABLES, shard_stage

LOCK_FILE = ".sscct.lock"


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


@contextmanager
def alone_in(study: Study) -> Iterator[int]:
    """Hold a study's own lock, as each run and each ingest does; StudyError if another one works there."""
    try:
        with alone(study.folder / LOCK_FILE) as lock:
            yield lock
    except LockedError as error:
        raise StudyError(
            f"Another run works on this study ({error}). Wait until it has ended, then run again."
        ) from error


def set_aside(study: Study) -> list[str]:
    """Move what this user did not make of a run, or not as it lies there, to `runs/<run>/damaged/`, to be made again.

    So a file that was damaged, or changed by somebody else, has no say. Lists of shards whose scans lost their files go
    too. A book is left to the command that makes it.

    Returns
    -------
    list of str
        What was set aside, in words; empty when all is sound.

    Raises
    ------
    StudyError
        If all of the run is somebody else's, or a file cannot be read: for a moment, perhaps, so that none is moved.
    """
    strange = strange_results(study)
    told = _moved(study, strange, "damaged, or not as you made it")
    for notebook, patterns in BESIDE_TABLES.items():  # which its own record would vouch for
        if any(fnmatch(name, pattern) for name in strange for pattern in patterns):
            (study.run / "provenance" / f"{notebook}.json").unlink(missing_ok=True)
    for path in sorted((study.run / "shards").glob("[!.]*.csv")):
        if lost := _lost(study, path):
            told += _moved(study, [f"shards/{path.name}"], lost)
    return told


def load_own(folder: str | Path, run_name: str = "main") -> Study:
    """Read a study as `load_study` does, and refuse a run as `refuse_strange` does."""
    study = load_study(folder, run_name)
    refuse_strange(study)
    return study


def refuse_strange(study: Study) -> None:
    """Refuse a run of which something is not as this user made it.

    Raises
    ------
    StudyError
        With how much, an example, and what to do.
    """
    if strange := strange_results(study):
        raise StudyError(
            f"{len(strange)} file(s) of runs/{study.run_name} are damaged, or not as you made them, {strange[0]} among "
            "them. `sscct run` makes them again."
        )


def strange_results(study: Study) -> list[str]:
    """Name the results of a run that this user did not make, or not as they lie there; StudyError if all are so."""
    strange, n_results = unsealed_results(study)
    if strange and len(strange) == n_results:
        raise StudyError(
            f"runs/{study.run_name} was not made by you, or not with this key: nothing of it is used. "
            f"`sscct adopt` shows what is there and what can be taken over; {seals.KEY_VARIABLE} names the key of "
            "people who work together."
        )
    return strange


def unsealed_results(study: Study) -> tuple[list[str], int]:
    """Name the results of a run without this user's seal, and tell how many results there are.

    Risks that were given are people's, and of the book its maker decides. StudyError if a file, or the key, cannot be
    read.
    """
    given = {path.relative_to(study.run).as_posix() for path in given_predictions(study)}
    try:
        names = {name for name in seals.results(study.run) if name not in given and not name.startswith("book/")}
        strange = sorted(names.difference(seals.believed(study.run, names)))
    except OSError as error:
        which = f" {Path(error.filename).name}" if error.filename else ""
        raise StudyError(f"runs/{study.run_name}{which} cannot be looked at: {error.strerror}.") from error
    return [name for name in strange if os.path.lexists(study.run / name)], len(names)


def _moved(study: Study, names: list[str], why: str) -> list[str]:
    """Move results aside; a line for each kind."""
    examples: dict[str, list[str]] = {}
    for name in names:
        target = free_name(study.run / "damaged" / Path(name).name)
        target.parent.mkdir(exist_ok=True)
        (study.run / name).rename(target)
        examples.setdefault(name.partition("/")[0], []).append(name)
    return [
        f"runs/{study.run_name}/{moved[0]}: {why}. Set aside in damaged/"
        + (f", with {len(moved) - 1} more of {kind}/." if moved[1:] else ".")
        for kind, moved in examples.items()
    ]


def _lost(study: Study, path: Path) -> str:
    """Say which scans of a shard lost their files; empty where none did."""
    file_of = {"images": study.image, "lungs": study.mask}.get(shard_stage(path))  # of other stages, a record is all
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    lost = [
        scan_id
        for scan_id in (rows.loc[rows["status"] == "ok", "scan_id"] if file_of else [])
        if file_of and not has_content(file_of(scan_id))
    ]
    return f"the files of {len(lost)} scan(s) are gone, {lost[0]} among them" if lost else ""
