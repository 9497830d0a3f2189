"""Study ids that nobody can turn back without the key: keyed hashes (HMAC-SHA256) of a hospital's identifiers."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from sscct_lib.files import atomic
from sscct_lib.study import StudyError

FEWEST_KEY_CHARACTERS = 32
KEY_CHECK = Path("ingest") / "key_check.txt"


def read_key(path: Path, study_folder: Path) -> bytes:
    """Read the secret of a study, or make it.

    Parameters
    ----------
    path
        File outside the study folder; made with 256 random bits, readable by its owner alone, when missing.
    study_folder
        The study. A mark in it tells whether it was made with this key.

    Returns
    -------
    bytes
        The key.

    Raises
    ------
    StudyError
        If the file lies inside the study, is too short, or is not the key that the study was made with.
    """
    if path.resolve().is_relative_to(study_folder.resolve()):
        raise StudyError(f"{path} lies inside the study: whoever gets it could undo the ids. Keep the key elsewhere.")
    check = study_folder / KEY_CHECK
    if not path.exists():
        if check.exists():
            raise StudyError(f"{path} is missing: this study was made with a key. Without it all ids would change.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    key = path.read_bytes().strip()
    if len(key) < FEWEST_KEY_CHARACTERS:
        raise StudyError(f"{path} has {len(key)} characters, expected at least {FEWEST_KEY_CHARACTERS} random ones.")
    mark = keyed_hash(key, "key check", 16)
    if check.exists() and check.read_text(encoding="utf-8").strip() != mark:
        raise StudyError(f"{path} is not the key that this study was made with: all its ids would change.")
    with atomic(check) as partial:
        partial.write_text(mark + "\n", encoding="utf-8")
    return key


def keyed_hash(key: bytes, text: str, n_digits: int) -> str:
    """Hash text under a key; hexadecimal digits of HMAC-SHA256."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:n_digits]


def patient_code(key: bytes, patient: str) -> str:
    """Make a patient's study id: `p` and 10 digits."""
    return "p" + keyed_hash(key, f"patient {patient}", 10)


def scan_code(key: bytes, patient: str, visit: str) -> str:
    """Make a scan's study id: the patient's, and 8 digits of the examination."""
    return f"{patient_code(key, patient)}-{keyed_hash(key, f'visit {visit}', 8)}"
