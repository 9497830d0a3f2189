"""Files: written so that they appear whole or not at all, and looked at before they are opened."""

import errno
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from sscct_lib.study.seals import LEDGER, put

PARTIAL = ".partial-"  # begins the name of a file that is not whole yet
STALE_SECONDS = 3600  # no file takes that long to write
LARGEST_BYTES = {
    "yaml": 1 << 20, "json": 1 << 26, "txt": 1 << 26, "tsv": 1 << 26, "md": 1 << 26, "csv": 1 << 29, "ipynb": 1 << 29,
    LEDGER: 1 << 31,
}  # fmt: skip
"""Files that are read whole, as text, by the end of their names: one that is larger was made to fill memory."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class NoRoomError(OSError):
    """The disk is full, or the place may not be written to; the message says which file, and how to go on."""


def free_name(path: Path) -> Path:
    """Give the path, or where it is taken the first of `name.1`, `name.2`, ... that is not."""
    names = (path.with_name(f"{path.name}.{number}") for number in range(1, 10_000))
    return path if not path.exists() else next(name for name in names if not name.exists())


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
        A partial file beside it, with the same suffixes, to write to. It takes the place of `path` when the block ends,
        and is removed when the block raises; what a killed process left is removed by `remove_partials`.

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
            f"{path.name} cannot be written ({error.strerror}). What is finished is kept: make "
            "room, or give write permission, and run the same command again.",
        ) from error


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left unfinished below a folder more than an hour ago.

    Once a run: looking for it at each write would cost the square of the files of a folder.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names if name.startswith(PARTIAL)):
            # Another process may be writing, or removing, the same file just now.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def emptied(folder: Path) -> Path:
    """Make a folder, or remove what it holds; of a link to one, the link alone is removed."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with os.scandir(folder) as entries:
        for entry in entries:
            (shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink)(entry.path)
    return folder


def strange_file(root: Path, shallow: Iterable[str], deep: Iterable[str]) -> str:
    """Look at what lies in some folders of a folder before any of it is opened.

    Parameters
    ----------
    shallow, deep
        Names of folders below `root`: of which the entries are looked at, and of which all that is below.

    Returns
    -------
    str
        What is no plain file or folder inside `root`, or larger than a file of its kind is, in words; empty where
        there is nothing of the kind. A link that stays inside `root` is followed.
    """
    real = root.resolve()
    waiting = [  # from the last: a folder is looked at before what is in it
        *((os.path.join(root, name), True) for name in deep),
        *((os.path.join(root, name), False) for name in reversed([*shallow])),
    ]
    seen: set[str] = set()
    while waiting:
        place, is_deep = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        # Another process may be at work there.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
            for entry in entries:
                if why := _why_strange(entry, real):
                    return f"{entry.name!r} in {place} {why}"
                if is_deep and entry.is_dir():
                    waiting.append((os.path.realpath(entry.path) if entry.is_symlink() else entry.path, True))
    return ""


def _why_strange(entry: "os.DirEntry[str]", root: Path) -> str:
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not Path(target).is_relative_to(root):
            return "is a link that leads out of the study. Put the data itself there, or mount it there."
        if os.path.islink(target):
            return "is a link that leads to itself. Remove it."
        if not os.path.lexists(target):
            return ""
    if not (entry.is_file() or entry.is_dir()):
        return "is a pipe, a socket or a device. Remove it."
    limit = LARGEST_BYTES.get(entry.name.rpartition(".")[2])
    if limit is not None and (size := entry.stat().st_size) > limit:
        return f"has {size:,} bytes, more than any such file has (up to {limit:,}). Put a smaller one there."
    return ""


def has_content(path: Path) -> bool:
    """Tell whether a file is there and not empty."""
    return path.is_file() and path.stat().st_size > 0


def write_if_changed(path: Path, content: str | bytes) -> None:
    """Write a file whole, unless it has that content already: then it keeps its time."""
    new = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == new:
        return
    with atomic(path) as partial:
        partial.write_bytes(new)


def write_keyed(path: Path, key: str, content: Any) -> None:
    """Write what holds as long as a key is the same, as JSON."""
    with atomic(path) as partial:
        partial.write_text(json.dumps({"key": key, "content": content}), encoding="utf-8")


def read_keyed(path: Path, key: str) -> dict[str, Any]:
    """Read what `write_keyed` wrote under the same key; empty where there is nothing, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(found, dict) and found.get("key") == key and isinstance(found.get("content"), dict)
    return dict(found["content"]) if is_whole else {}


def copy_folder(origin: Path, target: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy a folder's files into another; who may read the copies is the umask's to say, as of all files of a study.

    A copy has the time of its original; one of the same size and time is kept.

    Parameters
    ----------
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
            _copy(path, target / path.name)


def _copy(origin: Path, copy: Path) -> None:
    # `shutil.copytree` would carry the rights of the original along.
    wanted, there = origin.stat(), copy.stat() if copy.is_file() else None
    if there is not None and (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
        return
    shutil.copyfile(origin, copy)
    os.utime(copy, ns=(wanted.st_atime_ns, wanted.st_mtime_ns))
