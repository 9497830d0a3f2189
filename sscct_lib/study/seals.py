"""What this user made: files of a run are sealed when they are written, and believed only under their seals.

A seal is a keyed hash (HMAC-SHA256, RFC 2104) of a file's place in its run and of what it holds. The seals of a run lie
in `runs/<run>/seals`, a line for each file that was written; the key lies with the user, outside every study, so that
nobody who hands over a study can make one. It says nothing of the study, which may be copied and moved. People who
work on one study, or one person on two machines, share a key by `SSCCT_KEY`, the name of a file.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

LEDGER = "seals"  # of a run
KEY_VARIABLE = "SSCCT_KEY"
KEY_BYTES, KEY_BITS, FEWEST_DIFFERENT = 32, 128, 8
ALPHABETS = [(10, re.compile(r"\d+")), (16, re.compile(r"[\da-f]+|[\dA-F]+"))]  # the sizes of those that are small
MOST_IN_WORDS = 0.7  # of letters and digits: by chance, words of three letters take a third
WORDS = re.compile(r"[A-ZÀ-Þ]?[a-zß-ÿ]{3,}|[A-ZÀ-Þ]{4,}")
SETTINGS_FILE = "study.yaml"  # what makes a folder a study
RUN_SETTINGS_FILE = "settings.yaml"
NO_RESULTS = {LEDGER, "logs", "damaged", RUN_SETTINGS_FILE}  # of a run: nothing is believed for what they hold
# Read whole at each look: they are small, and damage that left a file's times as they were would be told by none other.
READ_WHOLE = {"tables", "notebooks", "provenance", "shards"}

State = tuple[int, int, int]  # size, time of change, and time of change of size, name or rights, which cannot be set
Seals = dict[str, dict[str, set[State]]]  # by name and checksum


def checksum(path: Path) -> str:
    """Hash a file's content with SHA-256; 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_folder() -> Path:
    """Where a user keeps keys."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "sscct"


def user_key() -> bytes:
    """Read the key of this user, which is made where there is none.

    Raises
    ------
    PermissionError
        If it can be neither read nor made, if everybody may read it, or if it can be guessed; in words, as `strerror`.
    """
    named = os.environ.get(KEY_VARIABLE)
    path = Path(named) if named else config_folder() / "seal.key"
    try:
        if not path.exists():
            with suppress(FileExistsError):  # another process was first
                write_secret(path, secrets.token_bytes(KEY_BYTES))
        key, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise PermissionError(
            errno.EACCES,
            f"the key by which your results are known cannot be read or made at {path} ({error.strerror}): let "
            f"{KEY_VARIABLE} name a file that you may write",
        ) from error
    if mode & 0o007:
        raise PermissionError(errno.EACCES, f"everybody may read {path}, your key: chmod 600 mends it")
    if why := weakness(key):
        raise PermissionError(errno.EACCES, f"{path} {why}: remove it, and a random key is made")
    return key


def weakness(key: bytes, unit: str = "bytes") -> str:
    """Say why a key could be guessed, as what people think of can; empty for one that is as good as 128 random bits."""
    if len(key) < KEY_BYTES:
        return f"has {len(key)} {unit}; expected a key of {KEY_BYTES} random ones or more"
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        text = key.decode("latin-1")
    is_text = text.isprintable()
    letters = next((n for n, kind in ALPHABETS if is_text and kind.fullmatch(text)), 95 if is_text else 256)
    n_of_words = sum(len(word) for word in WORDS.findall(text))
    in_order = sum(abs(ord(one) - ord(other)) <= 1 for one, other in pairwise(text))
    guessed = [
        (len(set(key)) < FEWEST_DIFFERENT or len(zlib.compress(key, 9)) < KEY_BYTES, "repeats itself"),
        (is_text and any(one.isspace() for one in text), "is a sentence"),
        (n_of_words > max(len(text) / 2, MOST_IN_WORDS * sum(map(str.isalnum, text))), "is made of words"),
        (2 * in_order > len(text), "goes through the alphabet"),
        (len(text) * math.log2(letters) < KEY_BITS, "is too short for what it is made of"),
    ]
    why = next((words for holds, words in guessed if holds), "")
    return f"{why}, and could be guessed: expected at least {KEY_BYTES} random characters" if why else ""


def write_secret(path: Path, content: bytes) -> None:
    """Write a key, whole, that its owner alone may read; one that is there is never replaced (FileExistsError)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{uuid4().hex}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    try:
        os.link(partial, path)
    except OSError as error:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(partial, path)  # where the disk knows no links
    finally:
        partial.unlink(missing_ok=True)


def put(partial: Path, path: Path) -> None:
    """Let a finished file take its place; where that is among the results of a run, with its seal."""
    run = _run_of(path)
    name = path.absolute().relative_to(run).as_posix() if run else ""
    if run is None or not _is_result(name):
        os.replace(partial, path)
        return
    digest, key = checksum(partial), user_key()
    with _opened(run) as ledger:  # so that who looks meanwhile finds either file with its seal
        os.replace(partial, path)
        _append(ledger, run, {name: digest}, key)


def seal(run: Path, digests: Mapping[str, str]) -> None:
    """Seal files of a run, given by name with their checksums."""
    if digests:
        key = user_key()
        with _opened(run) as ledger:
            _append(ledger, run, digests, key)


def seal_all(run: Path, part: str) -> None:
    """Seal what is below a folder of a run and has no seal, since another program wrote it for this user."""
    seal(run, {name: checksum(run / name) for name in unsealed(run, part)})


def unsealed(run: Path, part: str = "") -> list[str]:
    """Name the results of a run, or of one of its folders, that are not as this user's work left them.

    Raises
    ------
    OSError
        If one cannot be read, or there is no key.
    """
    names = sorted(results(run, part))
    held = believed(run, names)
    return [name for name in names if name not in held and os.path.lexists(run / name)]


def believed(run: Path, names: Iterable[str]) -> dict[str, str]:
    """Give the checksums of those files of a run that are as this user's work left them.

    One is believed by its size and times where these are sealed too; else it is read, and sealed as it lies there.
    """
    held: dict[str, str] = {}
    seen_anew: dict[str, str] = {}
    left = list(names)
    for _ in range(2):  # what another process was writing has its seal by now
        sealed = _read(run, user_key()) if left else {}
        for name in left:
            digest, is_known = _judged(run, name, sealed.get(name, {}))
            if digest:
                held[name] = digest
            if digest and not is_known:
                seen_anew[name] = digest
        left = [name for name in left if name not in held]
    if seen_anew:
        with suppress(PermissionError):  # who may only read reads again next time
            seal(run, seen_anew)
    return held


def _judged(run: Path, name: str, sealed: Mapping[str, set[State]]) -> tuple[str, bool]:
    """Give a file's checksum, empty where no seal holds, and whether its size and times are sealed."""
    try:
        state = _state(run / name)
        digest = next((digest for digest, states in sealed.items() if state in states), "")
        is_known = bool(digest)
        if sealed and (not is_known or name.partition("/")[0] in READ_WHOLE):
            digest = checksum(run / name)
        return (digest if digest in sealed else ""), is_known
    except FileNotFoundError:
        return "", False


def _state(path: Path) -> State:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _run_of(path: Path) -> Path | None:
    """Give the run to which a file belongs; None for one outside every run of a study."""
    for place in path.absolute().parents:
        if place.parent.name == "runs" and (place.parent.parent / SETTINGS_FILE).is_file():
            return place
    return None


def results(run: Path, part: str = "") -> Iterator[str]:
    """Name the results of a run, or those below one of its folders, by their places in the run.

    Links to folders, which are never made here, are named too: what lies behind one has no seal.
    """
    for place, folders, names in os.walk(run / part):
        below = Path(place).relative_to(run)
        folders[:] = [name for name in folders if _is_result((below / name).as_posix())]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (found for name in (*names, *links) if _is_result(found := (below / name).as_posix()))


def _is_result(name: str) -> bool:
    """Tell whether what lies at a place of a run is a result; names that begin with a dot are never read as one."""
    parts = name.split("/")
    return parts[0] not in NO_RESULTS and (not parts[-1].startswith(".") or parts[-1] == ".doctrees")


@contextmanager
def _opened(run: Path) -> Iterator[BinaryIO]:
    """Open the seals of a run for more of them; one process at a time."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / LEDGER).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _append(ledger: BinaryIO, run: Path, digests: Mapping[str, str], key: bytes) -> None:
    lines = [json.dumps([name, digest, *_state(run / name)]).encode() for name, digest in digests.items()]
    # A line that a kill cut short ends where the next begins.
    ledger.write(b"".join(b"\n" + _seal(line, key) + b" " + line for line in lines))
    ledger.flush()


def _seal(line: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"sscct seal 1\n" + line, "sha256").hex().encode()


def _read(run: Path, key: bytes) -> Seals:
    """Read the seals of a run; a line that this key did not make says nothing."""
    found: Seals = {}
    with suppress(FileNotFoundError), (run / LEDGER).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        for written in file:
            mark, _, line = written.rstrip(b"\n").partition(b" ")
            if hmac.compare_digest(mark, _seal(line, key)):
                name, digest, *state = json.loads(line)
                found.setdefault(name, {}).setdefault(digest, set()).add(tuple(state))
    return found
