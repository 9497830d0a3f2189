"""What lies below the folder of an export, in one pass: files that may be DICOM, volumes, and the rest by its kind.

Links to folders are followed, and a folder is read once, however many ways lead to it. Whose scan a volume file is, and
of which day, stands in its path. Public layouts are known: `sNNNN/ct.nii.gz` (TotalSegmentator), `imagesTr/` (Medical
Segmentation Decathlon, nnU-Net), `sub-XX/ses-YY/` (BIDS).
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from sscct_lib.images.dicom import PREAMBLE_BYTES
from sscct_lib.images.nifti import MAGIC_HDR, PAIRS, is_volume, voxels_of, without_suffix
from sscct_lib.images.reasons import Told, told
from sscct_lib.intake.dates import Written, dates_in, digits_not_taken, numbers_not_dates, place_of_eight
from sscct_lib.study.folder import SETTINGS_FILE

OF_THE_SYSTEM = {".ds_store", "thumbs.db", "desktop.ini", "ehthumbs.db", ".localized", "icon\r"}
SYSTEM_FOLDERS = {"__macosx", "$recycle.bin", "system volume information"}
KINDS = {
    "archive": (".zip", ".tar", ".tgz", ".tbz2", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".iso", ".dmg"),
    "image of another format": (
        ".raw", ".zraw", ".img", ".mgz", ".mgh", ".mnc", ".vtk", ".vti", ".npy", ".npz", ".h5", ".hdf5", ".mat", ".hdr",
        ".bin", ".nia", ".gipl", ".pic", ".am", ".b2nd",
    ),
    "picture": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".mp4", ".avi", ".mov", ".webp"),
}  # fmt: skip
REASON_OF_KIND = {
    "archive": "archives",
    "image of another format": "other_formats",
    "picture": "pictures",
    "mask": "masks_beside",
    "second channel": "second_channels",
    "system file": "system_files",
    "other file": "other_files",
}

KIND_OF_COUNT = {"no_series": "DICOM", "closed": "folder or file", "read_once": "link", "broken_links": "link"}

MASK = r"(seg|segs|segmentations?|masks?|lungmask|lobes|labels?|labelmap|rois?|dseg)"
MASK_FOLDERS = re.compile(
    r"(labels?(tr|ts|val)?|segmentations?|segs?|(lung_?)?masks?|annotations?|derivatives|ground_?truth|gt|rois?)", re.I
)
MASK_NAMES = re.compile(rf"{MASK}[-_]?\d*|.*[-_. ]{MASK}\d*([-_. ].*)?", re.IGNORECASE)
CHANNEL = re.compile(r"_(\d{4})$")


@dataclass
class Tree:
    """What lies below a folder."""

    dicom: list[Path] = field(default_factory=list)  # files that begin as DICOM does
    volumes: list[Path] = field(default_factory=list)  # NIfTI, NRRD and MetaImage; of two files, the header
    others: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))  # by kind, see `REASON_OF_KIND`
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # of links and folders, by reason

    def told(self) -> list[tuple[str, list[Path], Told]]:
        """Say what was passed over, and where links led: kind, files, words."""
        said = [
            (kind, files, told(code, n=len(files), suffixes=_suffixes(kind, files)))
            for kind, code in REASON_OF_KIND.items()
            if (files := self.others.get(kind))
        ]
        return said + [(KIND_OF_COUNT.get(code, "folder"), [], told(code, n=n)) for code, n in self.counts.items()]


def look(source: Path) -> Tree:
    """Walk over a folder once, links included, and sort its files.

    Where several ways lead to a folder or file, one without links is taken. Hidden folders, those of the system, and
    studies of this project are not searched. What may not be read is counted; nothing raises.
    """
    walk = _Walk(source, waiting=[source])
    while walk.waiting or walk.links:
        is_link = not walk.waiting
        walk.folder(walk.links.pop(0) if is_link else walk.waiting.pop(), is_link)
    walk.linked_files()
    walk.tree.dicom.sort()
    walk.tree.volumes.sort()
    _set_masks_aside(source, walk.tree)
    return walk.tree


@dataclass
class _Walk:
    """A walk that is under way."""

    source: Path
    tree: Tree = field(default_factory=Tree)
    waiting: list[Path] = field(default_factory=list)  # folders
    links: list[Path] = field(default_factory=list)  # to folders, read when all that is there without them is
    to_files: list[Path] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)  # device and number of folders and files

    def folder(self, folder: Path, is_link: bool) -> None:
        """Sort what lies in a folder."""
        try:
            state = os.stat(folder)
            with os.scandir(folder) as content:
                entries = sorted(content, key=lambda entry: entry.name)
        except OSError:
            self.tree.counts["closed"] += 1
            return
        if not self._is_new(state):
            self.tree.counts["read_once"] += 1
            return
        names = {entry.name for entry in entries}
        if folder != self.source and SETTINGS_FILE in names:
            self.tree.counts["studies_inside"] += 1
            return
        if is_link:
            self.tree.counts["linked_folders"] += 1
        for entry in entries:
            if entry.is_symlink():
                self._link(folder / entry.name)
            elif entry.is_dir(follow_symlinks=False):
                self._wait(folder / entry.name, self.waiting)
            elif entry.is_file(follow_symlinks=False):
                self.seen.add((state.st_dev, entry.inode()))
                _sort_file(folder / entry.name, names, self.tree)

    def linked_files(self) -> None:
        """Sort the files behind links, but for those that were met where they lie."""
        for path in self.to_files:
            if self._is_new(path.stat()):
                _sort_file(path, set(os.listdir(path.parent)), self.tree)
            else:
                self.tree.counts["read_once"] += 1

    def _is_new(self, state: os.stat_result) -> bool:
        key = state.st_dev, state.st_ino
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new

    def _link(self, path: Path) -> None:
        if os.path.isdir(path):  # of a link to itself pathlib makes an error
            self._wait(path, self.links)
        elif os.path.isfile(path):
            self.to_files.append(path)
        else:
            self.tree.counts["broken_links"] += 1

    def _wait(self, folder: Path, line: list[Path]) -> None:
        if folder.name.startswith("."):
            self.tree.counts["hidden_folders"] += 1
        elif folder.name.lower() not in SYSTEM_FOLDERS:
            line.append(folder)


def _sort_file(path: Path, beside: set[str], tree: Tree) -> None:
    name = path.name
    if name.startswith("._") or name.lower() in OF_THE_SYSTEM:
        tree.others["system file"].append(path)
    elif name.startswith("."):
        tree.others["other file"].append(path)
    elif is_volume(path) and _is_header(path):
        tree.volumes.append(path)
    elif not _belongs_to_a_header(name, beside):
        _sort_by_content(path, tree)


def _is_header(path: Path) -> bool:
    """Tell an image's `.hdr` from other files that end so."""
    if not path.name.lower().endswith(".hdr"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) in MAGIC_HDR
    except OSError:
        return True  # reading it tells why it cannot be read


def _belongs_to_a_header(name: str, beside: set[str]) -> bool:
    """Tell whether a file holds the voxels of a header beside it, with which it is counted."""
    suffix = next((one for one in (".raw.gz", ".img.gz", ".raw", ".zraw", ".img") if name.lower().endswith(one)), None)
    bare = name[: -len(suffix)] if suffix else ""
    return suffix is not None and any({bare + one, bare + one.upper()} & beside for one in PAIRS)


def _sort_by_content(path: Path, tree: Tree) -> None:
    """Tell DICOM by its first bytes, also where there is no preamble, and the rest by the end of its name."""
    try:
        with path.open("rb") as file:
            begin = file.read(PREAMBLE_BYTES + 4)
    except OSError:
        tree.counts["closed"] += 1
        return
    if begin[PREAMBLE_BYTES:] == b"DICM" or begin[:2] == b"\x08\x00":
        tree.dicom.append(path)
        return
    suffix = path.suffix.lower()
    tree.others[next((kind for kind, ends in KINDS.items() if suffix in ends), "other file")].append(path)


def _suffixes(kind: str, files: list[Path]) -> str:
    """Name the endings of files, only those that are known: another may be part of a name."""
    known = sorted({path.suffix.lower() for path in files} & set(KINDS.get(kind, ())))
    return f" ({', '.join(known)})" if known else ""


def _set_masks_aside(source: Path, tree: Tree) -> None:
    """Take masks of other tools, and further channels of nnU-Net, off the list of volumes."""
    kept, stems = [], {(path.parent, without_suffix(path.name)) for path in tree.volumes}
    for path in tree.volumes:
        stem, above = without_suffix(path.name), path.relative_to(source).parts[:-1]
        channel = CHANNEL.search(stem)
        if any(MASK_FOLDERS.fullmatch(part) for part in above) or MASK_NAMES.fullmatch(stem):
            tree.others["mask"].append(path)
        elif channel and channel[1] != "0000" and (path.parent, f"{stem[: channel.start()]}_0000") in stems:
            tree.others["second channel"].append(path)
        else:
            kept.append(path)
    tree.volumes = kept


# Whose scan a volume file is, and of which day.

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
