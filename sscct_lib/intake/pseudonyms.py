"""Study ids that nobody can turn back without the key: keyed hashes (HMAC-SHA256) of a hospital's identifiers.

And what a hospital's export calls its patients, so that a study can be searched for it.
"""

import csv
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd
import pydicom

from sscct_lib.images.dicom import UNREADABLE, find_series, quiet_pydicom, texts_of
from sscct_lib.intake.discovery import find_volumes, look
from sscct_lib.intake.privacy import DATE_FORMS, Identifiers, identifiers, is_identifying_field
from sscct_lib.study.files import write_if_changed
from sscct_lib.study.folder import StudyError
from sscct_lib.study.seals import config_folder, weakness, write_secret
from sscct_lib.study.tables import read_csv

FEWEST_CHARACTERS_OF_TABLE = 3
KEY_CHECK = Path("ingest") / "key_check.txt"

COLUMN_NAME = re.compile(
    r"(?:(?:patient|pat|person|subject|case|scan|study|series|visit|exam|birth|last|first|middle|family|given|sur|full|maiden"
    r"|medical|hospital|insurance|accession|record|date|day|name|number|num|no|nr|id|ids|identifiers?|code|key|who|pid|mrn|dob"
    r"|uid|ssn|sex|gender|age|email|mail|phone|address|street|city|zip|note|comment|nach|vor|geburts|datum|tag|nummer|fall"
    r"|patienten|nom|prenom|prénom|naissance|numero|numéro|dossier|nombre|apellidos?|fecha|nacimiento|cognome|nome|data"
    r"|nascita|di|de|of|voor|achter|naam|geboorte)s?[\W_]*)+",
    re.IGNORECASE,
)
"""In the six languages; also several in one word, as `PatientID`."""

log = logging.getLogger(__name__)

TEXT_TAGS = [
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "AccessionNumber", "StudyID",
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "InstitutionName", "InstitutionAddress",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "StationName", "DeviceSerialNumber",
    "PatientAddress", "PatientTelephoneNumbers",
]  # fmt: skip
DATE_TAGS = ["PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"]


def read_key(path: Path | None, study_folder: Path) -> bytes:
    """Read the secret from which a study's ids are made, or make it.

    Parameters
    ----------
    path
        Outside the study. None: with its user, at `~/.config/sscct/keys/<mark>.key`, where the mark is the hash by
        which the study knows its key: so each has one of its own, wherever it is moved.

    Raises
    ------
    StudyError
        If it lies inside the study, is missing, may be read by others, can be guessed, or is not the study's.
    """
    if path is not None and path.resolve().is_relative_to(study_folder.resolve()):
        raise StudyError(f"{path} lies inside the study: whoever gets it could undo the ids. Keep the key elsewhere.")
    check = study_folder / KEY_CHECK
    known = check.read_text(encoding="utf-8").strip() if check.exists() else ""
    new = (secrets.token_hex(32) + "\n").encode()  # 256 random bits
    place = path or config_folder() / "keys" / f"{Path(known or _mark(new.strip())).name}.key"
    if not place.exists():
        if known:
            raise StudyError(
                f"{place} is missing: this study was made with a key, without which all ids would change. Name it by "
                "--key."
            )
        _make(place, new)
    key = _unguessed(place)
    if known not in ("", _mark(key)):
        raise StudyError(f"{place} is not the key that this study was made with: all its ids would change.")
    write_if_changed(check, _mark(key) + "\n")
    return key


def _make(place: Path, key: bytes) -> None:
    try:
        write_secret(place, key)
    except OSError as error:
        raise StudyError(f"The key of the ids cannot be written ({error.strerror}). Name a place by --key.") from error
    log.info("The study's ids rest on a new key, %s: whoever has it can find the patients. Keep a copy.", place)


def _unguessed(path: Path) -> bytes:
    """Read a key that its owner alone can have read, and nobody can guess."""
    if path.stat().st_mode & 0o077:
        raise StudyError(f"{path} may be read by others, and it would undo the ids: chmod 600 mends it.")
    key = path.read_bytes().strip()
    if why := weakness(key, "characters"):
        raise StudyError(f"{path} {why}.")
    return key


def _mark(key: bytes) -> str:
    return keyed_hash(key, "key check", 16)


def keyed_hash(key: bytes, text: str, n_digits: int) -> str:
    """Hash text under a key; hexadecimal digits of HMAC-SHA256."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:n_digits]


def patient_code(key: bytes, patient: str) -> str:
    """Make a patient's study id: `p` and 10 digits."""
    return "p" + keyed_hash(key, f"patient {patient}", 10)


def scan_code(key: bytes, patient: str, visit: str) -> str:
    """Make a scan's study id: the patient's, and 8 digits of the examination."""
    return f"{patient_code(key, patient)}-{keyed_hash(key, f'visit {visit}', 8)}"


@quiet_pydicom()
def read_identifiers(source: Path | None, clinical: Path | None = None) -> Identifiers:
    """Read the identifiers of an export and of a table of follow-up; they stay in memory.

    Parameters
    ----------
    source
        Folder of DICOM series or NIfTI files, of any depth: names, numbers, UIDs and dates from one header of each
        series, and the folders and names of volumes.
    clinical
        CSV: its `patient_id`, its dates, and columns with a name such as `last_name` or `mrn`.

    Raises
    ------
    StudyError
        If `source` is no folder, `clinical` is missing, or neither holds an identifier.
    """
    values: set[str] = set()
    dates: set[date] = set()
    if source is not None:
        if not source.is_dir():
            raise StudyError(f"{source} is no folder: expected the one that was ingested.")
        tree = look(source)
        for files in find_series(tree.dicom)[0]:
            _from_header(files[0], values, dates)
        volumes = find_volumes(source, tree.volumes)
        values |= {volume.patient for volume in volumes}
        dates |= {volume.date.date() for volume in volumes if volume.date is not None}
    if clinical is not None:
        if not clinical.is_file():
            raise StudyError(f"{clinical} is missing: expected the table that was ingested.")
        _from_table(read_csv(clinical), values, dates)
    known = identifiers(values, dates)
    if not known.words:
        raise StudyError("the source holds no identifier of at least 4 characters: there is nothing to search for.")
    return known


def read_identifier_table(path: Path) -> Identifiers:
    """Read a table or a list of identifiers: each cell of 3 or more characters, of any column.

    The first row counts as names of columns only where all of its cells are words for such, and it is said.

    Raises
    ------
    StudyError
        If it is missing, is no CSV (with comma, semicolon or tab) in UTF-8, or has no such cell.
    """
    if not path.is_file():
        raise StudyError(f"--identifiers {path}: no such file; expected a CSV whose cells are searched for.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise StudyError(f"--identifiers {path} is no text in UTF-8. Save it as `CSV UTF-8`.") from error
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    rows = [*csv.reader(lines, delimiter=delimiter)]
    if rows and _names_columns(rows[0]):
        log.info("The first row of --identifiers was taken for names of columns, and is not searched for.")
        rows = rows[1:]
    cells = {cell.strip() for row in rows for cell in row} - {""}
    known = identifiers(cells, _dates(cells), FEWEST_CHARACTERS_OF_TABLE)
    if not known.words:
        raise StudyError(
            f"--identifiers {path} has no cell of 3 or more characters, or none below its names of columns."
        )
    return known


def _names_columns(row: Sequence[str]) -> bool:
    """Tell whether a row names columns: each of its cells is made of words for what patients are known by."""
    return all(is_identifying_field(cell) or COLUMN_NAME.fullmatch(cell.strip()) for cell in row if cell.strip())


def _dates(cells: set[str], forms: Sequence[str] = DATE_FORMS) -> set[date]:
    """The days among cells, in the forms in which they may be written."""
    texts = pd.Series(sorted(cells), dtype=str)
    read = [pd.to_datetime(texts, format=form, errors="coerce").dropna() for form in forms]
    return {day.date() for days in read for day in days}


def _from_header(path: Path, values: set[str], dates: set[date]) -> None:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*TEXT_TAGS, *DATE_TAGS], force=True)
        values |= {text for name in TEXT_TAGS for text in texts_of(header.get(name, None)) if text}
        dates |= _dates({str(header.get(name, None) or "") for name in DATE_TAGS}, ("%Y%m%d",))
    except UNREADABLE:  # `ingest` lists what cannot be read
        return


def _from_table(table: pd.DataFrame, values: set[str], dates: set[date]) -> None:
    for name in table.columns:
        cells = set(table[name].str.strip()) - {""}
        if name == "patient_id" or is_identifying_field(name):
            values |= cells
        dates |= _dates(cells, ("%Y-%m-%d",))
