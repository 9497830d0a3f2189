"""Files: written so that they appear whole or not at all, and their checksums."""

import glob
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

STALE_SECONDS = 3600  # no file takes that long to write


def checksum(path: Path) -> str:
    """Hash a file's content with SHA-256; 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all.

    Parameters
    ----------
    path
        The file to be made; its folder is made when missing.

    Yields
    ------
    Path
        A partial file in the same folder, with the same suffixes, to write to. It takes the place of `path`
        when the block ends, and is removed when the block raises; one that a killed process left is removed by the
        next to write the same file an hour later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".partial-*-{glob.escape(path.name)}"):
        # Another process may be writing the same file just now.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    partial = path.with_name(f".partial-{uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
