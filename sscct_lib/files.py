"""Files: written so that they appear whole or not at all, and their checksums."""

import errno
import glob
import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

STALE_SECONDS = 3600  # no file takes that long to write
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class NoRoomError(OSError):
    """The disk is full, or the place may not be written to; the message says which file, and how to go on."""


def free_name(path: Path) -> Path:
    """Give the path, or where it is taken the first of `name.1`, `name.2`, ... that is not."""
    names = (path.with_name(f"{path.name}.{number}") for number in range(1, 10_000))
    return path if not path.exists() else next(name for name in names if not name.exists())


def checksum(path: Path) -> str:
    """Hash a file's content with SHA-256; 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def grows(archive: Path | BinaryIO, n_bytes: int) -> bool:
    """Tell whether the members of a zip archive, which has some bytes, are larger than itself; False for other files.

    Files of weights and models are stored without compression: one that grows was made to fill memory.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(member.file_size for member in opened.infolist()) > n_bytes
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return False


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

    Raises
    ------
    NoRoomError
        If the disk is full or must not be written to. The old file, if there was one, is still there.
    """
    try:
        with _atomic(path) as partial:
            yield partial
    except OSError as error:
        if error.errno not in NO_ROOM or isinstance(error, NoRoomError):
            raise
        raise NoRoomError(
            error.errno,
            f"{path.name} cannot be written ({os.strerror(error.errno)}). What is finished is kept: make "
            "room, or give write permission, and run the same command again.",
        ) from error


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
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


def copy_folder(origin: Path, target: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy a folder's files; who may read the copies is the umask's to say, as of all files of a study.

    `shutil.copytree` would carry the rights of the original along.

    Parameters
    ----------
    origin
        The folder.
    target
        Made, or filled up.
    left_out
        Patterns of names, of files and folders, that are not copied.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in origin.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in left_out):
            continue
        if path.is_dir():
            copy_folder(path, target / path.name, left_out)
        else:
            shutil.copyfile(path, target / path.name)
