"""Folders that only their own maker believes: Sphinx keeps pickles beside a book, and a pickle can hold a program.

A seal is a keyed hash (HMAC-SHA256) of all files of a folder. Its key lies with the user, outside every study, so that
nobody who hands over a study can make one.
"""

import hashlib
import hmac
import os
import secrets
import shutil
from pathlib import Path


def seal(folder: Path) -> None:
    """Seal a folder as it is; the seal lies beside it. Without a place for the key there is no seal.

    Parameters
    ----------
    folder
        The folder; need not exist.
    """
    key = _key()
    if key is not None and folder.is_dir():
        _seal_file(folder).write_text(_hash(folder, key), encoding="utf-8")


def remove_unless_sealed(folder: Path) -> bool:
    """Remove a folder that this user did not seal as it is; a link is removed, not what it leads to.

    Parameters
    ----------
    folder
        The folder; need not exist.

    Returns
    -------
    bool
        Whether it was removed.
    """
    if folder.is_symlink():
        folder.unlink()
        return True
    key, file = _key(), _seal_file(folder)
    said = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    if key is not None and folder.is_dir() and hmac.compare_digest(said.encode(), _hash(folder, key).encode()):
        return False
    was_there = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    file.unlink(missing_ok=True)
    return was_there


def _seal_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.seal")


def _key() -> bytes | None:
    """Read the user's key, or make it; None where there is no place for it."""
    try:
        path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sscct" / "seal.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        key = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    return key if len(key) == 32 else None


def _hash(folder: Path, key: bytes) -> str:
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape")
        digest.update(len(name).to_bytes(8, "big") + name)
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
