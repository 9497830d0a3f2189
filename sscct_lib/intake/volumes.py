"""Patient and date of volume files, from their paths.

Public layouts are known: `sNNNN/ct.nii.gz` (TotalSegmentator), `imagesTr/` (Medical Segmentation Decathlon, nnU-Net),
`sub-XX/ses-YY/` (BIDS).
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sscct_lib.images.nifti import voxels_of, without_suffix
from sscct_lib.images.reasons import Told, told
from sscct_lib.intake.dates import Written, dates_in, digits_not_taken, numbers_not_dates, place_of_eight

GENERIC = re.compile(
    r"(images?(tr|ts|val)?|imgs?|ct|cts|ct_?scans?|hrct|scans?|nii|niftis?|nifti_?files?|nrrds?|volumes?|vols?|data"
    r"|data_?sets?|files?|raw|raw_?data|export(ed|s)?|all|patients?|subjects?|cases?|cohorts?|chest|thorax|lungs?|train"
    r"|training|test|testing|val|validation|source(data)?|input|inputs|anat|dicom|study|studies|baseline|follow_?up"
    r"|task\d+_\w+|dataset\d+_\w+|batch_?\d*|part_?\d*)",
    re.IGNORECASE,
)
"""Folders that hold patients and name none."""
OF_A_SCAN = re.compile(
    r"(ct|cta|hrct|chest|thorax|scan|image|img|volume|vol|axial|iso|baseline|bl|follow-?up|fu|visit|v|ses|session"
    r"|series|ser|se|acq|recon|rec|run|t|tp|time|timepoint|exam|study|st|std|im|dcm|slice|phase|insp|inspiration|soft"
    r"|sharp|lung)\d{0,2}",
    re.IGNORECASE,
)
"""Words of a name that tell a scan from another of the same patient, and name no patient."""
LETTERS_AND_NUMBER = re.compile(r"([A-Za-z]+[-_ ])*[A-Za-z]*\d+([-_]\d+)*")
OF_A_PATIENT = re.compile(
    r"(p|pt|pat|pats|patient|sub|subj|subject|case|id|pid|mrn|ssc|person|proband|anon|lidcidri)", re.IGNORECASE
)
FEWEST_DIGITS, SURE_DIGITS = 3, 5  # of a number that may be a patient's, and of one that is
BIDS_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
TOTALSEGMENTATOR = re.compile(r"s\d{4}")

Folder = tuple[str, ...]


@dataclass(frozen=True)
class VolumeFile:
    """A scan in one file, or in a header and its voxels, with what its path says of it."""

    path: Path
    patient: str
    visit: str  # its path below the source
    date: pd.Timestamp | None
    told: list[Told]

    @property
    def files(self) -> list[Path]:
        """All files that hold it, the header first."""
        return [self.path, *filter(None, [voxels_of(self.path)])]


@dataclass(frozen=True)
class _Names:
    """What the names of all volumes tell together, by folder."""

    holds_patients: Mapping[Folder, bool]
    no_dates: Mapping[Folder, set[int]]  # see `numbers_not_dates`

    def dates(self, parts: list[str]) -> list[list[Written]]:
        """Find the dates in each part of a path."""
        found = []
        for depth, part in enumerate(parts):
            numbers = self.no_dates[tuple(parts[:depth])]
            found.append([one for one in dates_in(part) if place_of_eight(part, one.start) not in numbers])
        return found


def find_volumes(source: Path, paths: list[Path]) -> list[VolumeFile]:
    """Take patient and date of volume files from their paths.

    The patient is the first folder below `source` that names one, else the file's name, without its date. A folder
    names none when its name says so (`imagesTr`, `CT`, a date), or when what lies in it is named as different patients
    are. The date is the last in the path; it is told where two files of a patient have the same.
    """
    inside = [path.relative_to(source) for path in paths]
    parts = [[*map(plain_text, one.parts[:-1]), plain_text(without_suffix(one.name))] for one in inside]
    below: dict[Folder, set[str]] = defaultdict(set)
    for one in parts:
        for depth, name in enumerate(one):
            below[tuple(one[:depth])].add(name)
    names = _Names(
        {folder: _are_patients(folder, content) for folder, content in below.items()},
        {folder: numbers_not_dates(content) for folder, content in below.items()},
    )
    volumes = [
        _volume(path, one, plain_text(str(place)), names) for path, one, place in zip(paths, parts, inside, strict=True)
    ]
    days = Counter((volume.patient, volume.date) for volume in volumes)
    for volume in volumes:
        if volume.date is not None and days[volume.patient, volume.date] > 1:
            volume.told.append(told("same_day"))
    return volumes


def _volume(path: Path, parts: list[str], place: str, names: _Names) -> VolumeFile:
    dates = names.dates(parts)
    depth = _depth_of_patient(parts, dates, names.holds_patients)
    patient, remarks = _without_date(parts[depth], dates[depth]), list[Told]()
    if depth == len(parts) - 1:
        patient = patient and _without_words(patient)
        remarks += [told("patient_from_name")] if depth else []
    elif names.holds_patients[tuple(parts[:depth])] and depth:
        remarks.append(told("patient_from_folder"))
    if patient is None:  # a name that is all date: its digits may as well be the patient's number
        patient, dates[depth] = parts[depth], [one for one in dates[depth] if one.is_certain]
    found = [one for of_part in dates for one in of_part]
    days = [one.date for one in found if one.date is not None]
    if len(set(days)) > 1:
        remarks.append(told("several_dates", n=len(set(days))))
    elif not days and found:
        remarks.append(told("date_ambiguous"))
    elif not days and any(map(digits_not_taken, parts, dates)):
        remarks.append(told("digits_of_id"))
    return VolumeFile(path, patient, place, days[-1] if days else None, remarks)


def _depth_of_patient(parts: list[str], dates: list[list[Written]], holds_patients: Mapping[Folder, bool]) -> int:
    """Find the part of a path that names the patient."""
    folders = parts[:-1]
    for depth, part in enumerate(folders):
        if BIDS_SUBJECT.fullmatch(part) or (TOTALSEGMENTATOR.fullmatch(part) and parts[-1].lower() == "ct"):
            return depth
    for depth, part in enumerate(folders):
        is_date = bool(dates[depth]) and _without_date(part, dates[depth]) is None
        # Eight digits may be a patient's number, unless the next name is one.
        is_date = is_date and (dates[depth][-1].is_certain or _patients_number(parts[depth + 1]) is not None)
        if not (GENERIC.fullmatch(part) or is_date or holds_patients[tuple(parts[: depth + 1])]):
            return depth
    return len(folders)


def _without_date(part: str, dates: list[Written]) -> str | None:
    """Take the last date out of a name; None where nothing that could name a patient is left."""
    rest = part
    if dates:
        rest = re.sub(r"[-_. ]{2,}", "_", part[: dates[-1].start] + part[dates[-1].end :])
    rest = rest.strip(" _-.")
    if dates and (len(rest) < 2 or OF_A_SCAN.fullmatch(rest) or GENERIC.fullmatch(rest)):
        return None
    return rest or part


def _without_words(name: str) -> str:
    """Take the channel of nnU-Net, and words at the end that every scan has, off a file's name."""
    rest = re.sub(r"_0000$", "", name)
    while (found := re.fullmatch(r"(.*\d.*?)[-_. ]+([^-_. ]+)", rest)) and OF_A_SCAN.fullmatch(found[2]):
        rest = found[1].strip(" _-.")
    return rest


def _are_patients(folder: Folder, names: set[str]) -> bool:
    """Tell whether what lies in a folder is named as different patients are, each by letters and a number.

    Where the folder is named so itself, its files must be sure of it, and not repeat its name.
    """
    own = folder[-1].lower() if folder else ""
    numbers = {_patients_number(name, is_sure=_patients_number(own) is not None) for name in names}
    repeated = any(map(str.isdigit, own)) and any(name.lower().startswith(own) for name in names)
    return None not in numbers and len(numbers) > 1 and not repeated


def _patients_number(name: str, is_sure: bool = False) -> str | None:
    """Give what looks like a patient's number in a name; None where nothing does."""
    rest = _without_date(name, dates_in(name))
    rest = rest and re.sub(r"([-_ ][A-Za-z]+)+$", "", _without_words(rest))
    if rest is None or not LETTERS_AND_NUMBER.fullmatch(rest):
        return None
    letters, digits = re.sub(r"[\d\W_]+", "", rest), re.sub(r"\D", "", rest)
    if OF_A_PATIENT.fullmatch(letters):
        return rest.lower()
    if letters.lower() != "lung" and letters and OF_A_SCAN.fullmatch(letters):
        return None
    return rest.lower() if len(digits) >= (SURE_DIGITS if is_sure else FEWEST_DIGITS) else None


def plain_text(name: str) -> str:
    """Write a name in one form: composed Unicode (macOS decomposes), bytes that are no text spelt out."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
