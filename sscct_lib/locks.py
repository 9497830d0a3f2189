"""One run at a time: a lock that ends with the process that holds it, however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


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
