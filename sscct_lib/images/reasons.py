"""What reading a scan may find, and what is done then: one list, for messages, for counts and for a page of the book.

A sentence told of a scan is a `Told`: text that keeps its code, so that like is counted with like, whatever numbers it
holds.
"""

from dataclasses import dataclass
from typing import Any, Literal

from sscct_lib.study.results import ScanError

Outcome = Literal["chosen", "left out", "mended", "told", "set aside"]


@dataclass(frozen=True)
class Reason:
    """One thing that an export may bring."""

    outcome: Outcome
    found: str  # for the book: what an export holds
    words: str  # what is told of a scan; `str.format` fills it in
    done: str  # for the book: what is done with it


REASONS: dict[str, Reason] = {
    "duplicate": Reason("left out", "The same image twice", "{n} duplicate file(s) left out", "One copy is read."),
    "date_impossible": Reason(
        "told", "A header with a date that can be no day of a CT (1900, the future)",
        "{n} date(s) of the header can be no day of a CT: not believed", "The other dates of the header are used.",
    ),
    "dates_impossible": Reason(
        "told", "A header all of whose dates can be no day of a CT",
        "none of the {n} date(s) of the header can be the day of a CT: no scan date",
        "The scan has no date; alone of its patient it is used, without follow-up.",
    ),
    "dates_disagree": Reason(
        "told", "A header whose dates contradict each other by more than a week",
        "{n} date(s) of the header differ by up to {days:,} days from the one that was taken",
        "The day on which most dates agree is taken, the study's at a tie.",
    ),
    "several_dates": Reason(
        "told", "A file name with several dates", "its path holds {n} different dates: the last was taken",
        "The last plausible date in the path is taken.",
    ),
    "date_ambiguous": Reason(
        "told", "A file name with a date that may be read as day-month or month-day",
        "the date in its name may be read with the day or the month first: no scan date",
        "No date is taken. Write it as YYYY-MM-DD.",
    ),
    "digits_of_id": Reason(
        "told", "A file name with eight digits that could be a date or a patient's number",
        "eight digits in its name were taken for a patient's number, not for a date",
        "No date is taken. Write dates as YYYY-MM-DD.",
    ),
    "patient_from_name": Reason(
        "told", "Volumes of several patients in one folder",
        "the patient was taken from the file's name: its folder names none, or holds several",
        "Each is a patient of its own.",
    ),
    "patient_from_folder": Reason(
        "told", "Folders of several patients in one folder",
        "the patient was taken from a folder further down: the first holds several",
        "Each of these folders is a patient.",
    ),
    "archives": Reason(
        "left out", "Archives (.zip, .tar, .7z ...)",
        "{n} archive(s){suffixes} not opened: unpack them to have them read", "They are counted.",
    ),
    "other_formats": Reason(
        "left out", "Images of formats that are not read (.mgz, .mnc, .npy ...), voxels without a header",
        "{n} file(s) of other image formats{suffixes} not read: write them as NIfTI", "They are counted.",
    ),
    "pictures": Reason(
        "left out", "Pictures and films", "{n} picture(s) or film(s){suffixes} not read", "They are counted."
    ),
    "masks_beside": Reason(
        "left out", "NIfTI or NRRD files that are masks by name or folder (segmentations/, labelsTr/, _seg)",
        "{n} file(s) that are masks by their name or folder, not taken for scans",
        "They are counted; `lung_mask` of the manifest can name them.",
    ),
    "second_channels": Reason(
        "left out", "Further channels of nnU-Net (_0001 beside _0000)",
        "{n} further channel(s) of scans not read: the first (_0000) is the CT", "The first channel is read.",
    ),
    "no_series": Reason(
        "left out", "DICOM files that belong to no series, such as DICOMDIR",
        "{n} DICOM file(s) without a series, such as DICOMDIR", "They are counted.",
    ),
    "system_files": Reason(
        "left out", "Files of macOS and Windows (._*, .DS_Store, Thumbs.db, desktop.ini)",
        "{n} file(s) that macOS or Windows left", "They are counted.",
    ),
    "other_files": Reason("left out", "Tables, texts, programs", "{n} other file(s)", "They are counted."),
    "linked_folders": Reason(
        "told", "Folders that are links", "{n} folder(s) read through a link", "Links are followed."
    ),
    "read_once": Reason(
        "left out", "Links to what is read anyway, or back to a folder above",
        "{n} link(s) to what was read already", "Each folder and file is read once.",
    ),
    "broken_links": Reason(
        "left out", "Links that lead nowhere", "{n} link(s) that lead nowhere: is a disk not connected?",
        "They are counted.",
    ),
    "closed": Reason(
        "left out", "Folders or files without permission",
        "{n} folder(s) or file(s) that may not be read: ask for permission, then ingest again", "They are counted.",
    ),
    "hidden_folders": Reason(
        "left out", "Folders whose name begins with a point", "{n} hidden folder(s) not searched", "They are counted."
    ),
    "studies_inside": Reason(
        "left out", "A study of this project inside the source",
        "{n} stud(y/ies) of this project inside the source, not read again", "A study is not ingested into another.",
    ),
    "forms_disagree": Reason(
        "set aside", "NIfTI whose qform and sform contradict each other",
        "{name} says in two ways how the body lies in it: {differs}. Find out which is right: ingest it with "
        "--orientation qform or sform, or correct its header",
        "Refused, unless `--orientation` says which holds.",
    ),
    "form_said": Reason(
        "told", "The same, with `--orientation qform` or `sform`",
        "the {form} was taken, as --orientation says ({differs})", "The one that was named is taken.",
    ),
    "no_orientation": Reason(
        "set aside", "Volumes that do not say how the body lies in them (NIfTI without codes, Analyze, NRRD or "
        "MetaImage without directions)",
        "{name} does not say how the body lies in it. Where it is known, ingest it with --orientation and the sides to "
        "which its voxel axes run, such as LPS or RAS, or write them into its header",
        "Refused, unless `--orientation` says it.",
    ),
    "orientation_said": Reason(
        "told", "The same, with `--orientation` and three letters",
        "the voxel axes run to {sides}, as --orientation says: the header does not say it",
        "Read as the user says.",
    ),
    "shear_straightened": Reason(
        "mended", "Axes that are not quite at right angles (up to 1 degree)",
        "axes {degrees:.2f} degrees off right angles: the nearest at right angles were taken",
        "The nearest rotation is taken.",
    ),
    "sheared": Reason(
        "set aside", "Axes far from right angles, such as a gantry tilt kept as shear",
        "{name} has axes that are {degrees:.1f} degrees off right angles, expected at most 1: convert the DICOM series "
        "anew, or resample it",
        "Refused.",
    ),
    "missing": Reason(
        "set aside", "A file that is not there",
        "{name} is missing. Put the file there, or correct its path in the manifest.", "Refused.",
    ),
    "empty_file": Reason(
        "set aside", "A file of 0 bytes", "{name} is empty (0 bytes). Copy the file again from its source.", "Refused."
    ),
    "no_volume": Reason(
        "set aside", "A manifest that names a file of another format",
        "{name} is no NIfTI or NRRD image in one file: expected a name that ends in {expected}.", "Refused.",
    ),
    "no_voxels": Reason(
        "set aside", "A header (.hdr, .nhdr, .mhd) without its voxels beside it",
        "{name} is a header alone: expected the file of its voxels beside it, of the same name and with {expected}.",
        "Refused.",
    ),
    "other_file": Reason(
        "set aside", "A header that names another file of the disk for its voxels",
        "{name} refers to another file for its voxels; expected them in itself, or beside it under the same name.",
        "Refused: it could name any file.",
    ),
    "encoding": Reason(
        "set aside", "NRRD or MetaImage in an unusual encoding",
        "{name} has the encoding {encoding}; expected {expected}.", "Refused.",
    ),
    "damaged": Reason(
        "set aside", "A volume whose header is damaged",
        "{name} is damaged, or no NIfTI or NRRD image (nor MetaImage). Copy it again from its source.", "Refused.",
    ),
    "damaged_header": Reason(
        "set aside", "The same", "{name} has a damaged header. Copy it again from its source.", "Refused."
    ),
    "truncated": Reason(
        "set aside", "A volume that was cut short",
        "{name} is truncated: {n_bytes:,} bytes of content, its header announces {expected:,}. Copy it again from its "
        "source.",
        "Refused.",
    ),
    "truncated_or_damaged": Reason(
        "set aside", "A volume that cannot be unpacked",
        "{name} is truncated or damaged{error}. Copy it again from its source.", "Refused.",
    ),
    "too_long": Reason(
        "set aside", "A volume with more content than it announces",
        "{name} holds more than the {expected:,} bytes that its header announces.", "Refused.",
    ),
    "announces_too_much": Reason(
        "set aside", "A header that announces more than its file can hold",
        "{name} announces {found} voxels in {n_bytes:,} bytes, more than any compression can hold: truncated or "
        "damaged. Copy it again from its source.",
        "Refused before memory is taken.",
    ),
    "nifti_2": Reason(
        "set aside", "NIfTI-2", "{name} is NIfTI-2, expected NIfTI-1 or NRRD. Write it in one of these.", "Refused."
    ),
    "dimensions": Reason(
        "set aside", "A volume of other than three dimensions",
        "{name} has {n} dimensions ({found}), expected 3: one volume a file.", "Refused.",
    ),
    "components": Reason(
        "set aside", "A volume in colours", "{name} has {n} values a voxel, expected 1.", "Refused."
    ),
    "no_chest_size": Reason(
        "set aside", "A volume too small or too large for a chest CT",
        "{name} has {found} voxels, expected {low} to {high} a side: no chest CT volume.", "Refused.",
    ),
    "voxel_sides": Reason(
        "set aside", "Voxels that no CT has",
        "{name} has voxels of {sides} mm, expected {low:g} to {high:g}: check its header.", "Refused.",
    ),
    "nowhere": Reason(
        "set aside", "A place that is no number", "{name} lies at no finite place: check its header.", "Refused."
    ),
    "nowhere_forms": Reason(
        "set aside", "The same in NIfTI",
        "{name} lies at no finite place: check the sform and qform of its header.", "Refused.",
    ),
    "in_a_plane": Reason(
        "set aside", "Axes in a plane", "{name} lies in a plane, or at no finite place: check its header.", "Refused."
    ),
    "not_finite": Reason(
        "set aside", "Voxels that are no numbers",
        "{name} has {n:,} voxels that are not finite numbers, expected none.", "Refused.",
    ),
    "columns_renamed": Reason(
        "told", "Columns of the clinical table that are spelt in another way (`FVC_percent`, `Sex `)",
        "column(s) spelt in another way, taken for {names}", "Compared without case, blanks and punctuation.",
    ),
    "column_near": Reason(
        "left out", "A column of the clinical table whose name is near one that is known",
        "column {column} is not used: is it {name}? Then give it that name", "Not used, and suggested.",
    ),
    "columns_unknown": Reason(
        "left out", "Other columns of the clinical table", "{n} column(s) not used: number {columns}", "Not used."
    ),
    "row_far": Reason(
        "left out", "A row of the clinical table about a visit too far from any scan",
        "{n} row(s) ({rows}) are {days} days from the nearest scan of the patient, expected at most {near}: values of "
        "the visit not used",
        "Values of the visit are not used; follow-up is.",
    ),
    "row_behind": Reason(
        "left out", "Several rows of the clinical table near one scan",
        "{n} row(s) ({rows}) not used: a nearer row has the values of the visit",
        "Each value is taken from the nearest row that has it.",
    ),
    "row_without_scan": Reason(
        "left out", "A patient of the clinical table without a scan",
        "{n} row(s) ({rows}) of patients without a scan", "Not used.",
    ),
    "row_of_undated": Reason(
        "left out", "A row about a visit of a patient whose scans have no date",
        "{n} row(s) ({rows}) not used: the patient's scans have no date, so the visit has no scan", "Not used.",
    ),
    "id_spelt": Reason(
        "left out", "A patient_id that differs from the images' only in leading zeros, case, blanks or punctuation",
        "{n} row(s) ({rows}) not used: the images have this patient_id with other leading zeros, case, blanks or "
        "punctuation. Write it as the images do",
        "Not joined: they may be two patients.",
    ),
    "follow_up_dropped": Reason(
        "left out", "Follow-up of a patient whose scan has no date",
        "follow-up of {n} scan(s) not used: they have no date from which it could be counted", "The scan is kept.",
    ),
    "sex_contradicts": Reason(
        "told", "Scans of one patient whose headers differ in sex",
        "the headers of the patient's scans differ in sex: is one number given to several patients?",
        "The sex is left empty.",
    ),
}  # fmt: skip


class Told(str):
    """A sentence with the code of its reason."""

    code: str


def told(code: str, **values: Any) -> Told:
    """Say a reason of `REASONS` in words."""
    sentence = Told(REASONS[code].words.format(**values))
    sentence.code = code
    return sentence


class UnusableError(ScanError):
    """A scan that cannot be used, with the code of its reason."""

    def __init__(self, code: str, **values: Any) -> None:
        self.code = code
        super().__init__(told(code, **values))
