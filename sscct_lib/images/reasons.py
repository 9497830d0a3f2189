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
    # DICOM: files of a series that are no slices of it.
    "damaged_headers": Reason(
        "left out",
        "A file of the series whose header is damaged",
        "{n} file(s) with a damaged header left out",
        "The file is left out; the gap is filled.",
    ),
    "localizers_left_out": Reason(
        "left out",
        "A localizer (scout, topogram) inside the series",
        "{n} localizer(s) left out ({which})",
        "The localizer is left out.",
    ),
    "captures_left_out": Reason(
        "left out",
        "A screenshot, dose sheet, report or another modality inside the series",
        "{n} file(s) that are no CT image left out ({which})",
        "The file is left out.",
    ),
    "colour_left_out": Reason(
        "left out",
        "A picture in colour inside the series",
        "{n} picture(s) in colour left out ({which})",
        "The picture is left out.",
    ),
    "unplaced_left_out": Reason(
        "left out",
        "An image without position, orientation or pixel spacing inside the series",
        "{n} image(s) without position, orientation or pixel spacing left out ({which})",
        "The image is left out; where it leaves a gap, the gap is filled.",
    ),
    "others_left_out": Reason(
        "left out",
        "A few slices of another patient, orientation, kernel, thickness or acquisition inside the series",
        "{n} slice(s) of another {what} left out ({which})",
        "They are left out; where they leave a gap, it is filled.",
    ),
    "doubles_left_out": Reason(
        "left out",
        "A few different images at the place of another, which no header tells apart",
        "{n} slice(s) at the place of another left out ({which})",
        "The image most like its neighbour is read.",
    ),
    "undecodable": Reason(
        "left out",
        "Slices whose pixels are cut short or damaged",
        "{n} slice(s) truncated or damaged: treated as missing ({which})",
        "The gap is filled between its neighbours.",
    ),
    "density_left_out": Reason(
        "left out",
        "Slices in which air and tissue have impossible densities",
        "{n} slice(s) with impossible densities left out ({which})",
        "The gap is filled between its neighbours.",
    ),
    "variable_steps_left_out": Reason(
        "left out",
        "Slices whose steps vary along the body, with a part in even steps from end to end",
        "steps vary from {low:.3g} to {high:.3g} mm: read in even steps of {step:.3g} mm, {n} slice(s) between "
        "them left out ({which})",
        "The slices in even steps are read, the others are left out.",
    ),
    # DICOM: several volumes in one series.
    "several_volumes": Reason(
        "chosen",
        "Several reconstructions or breaths under one SeriesInstanceUID",
        "{n} volumes in one series, told apart by {what}",
        "Each is judged as a series of its own, and the best is taken.",
    ),
    "same_series": Reason(
        "chosen",
        "A reconstruction or breath beside the one that was taken, in the same series",
        "another volume of the series that was taken, told apart by {what}: {why}",
        "It is not taken.",
    ),
    "takes_turns": Reason(
        "mended",
        "Two breaths or reconstructions, slice by slice in turn, which no header tells apart",
        "every second slice belongs to another breath or reconstruction: half of them read, in steps of {step:.3g} mm",
        "The half with more air in the lungs is read.",
    ),
    # DICOM: mended.
    "uneven": Reason(
        "mended",
        "A few slices are missing, or a few steps are uneven",
        "uneven or missing slices: interpolated to steps of {step:.3g} mm ({n:+d} slices{which})",
        "The gap is filled by linear interpolation between its neighbours.",
    ),
    "tilt": Reason(
        "mended",
        "A tilted gantry",
        "gantry tilt of {degrees:.0f} degrees straightened",
        "The slices are moved upright on a grid that holds all of each.",
    ),
    "rescale_mended": Reason(
        "mended",
        "Rescale slope and intercept lost in some slices",
        "{n} slice(s) without their rescale slope and intercept: given those of their neighbours ({which})",
        "They are given those of their neighbours, where air and tissue then agree with these.",
    ),
    "padding_wrapped": Reason(
        "mended",
        "Padding below the range of the pixels, stored as a huge number",
        "padding stored as densities beyond any tissue, in {n:.0f} % of the voxels: read as air",
        "It is read as air.",
    ),
    "padding_untagged": Reason(
        "mended",
        "One even value round the circular field of view, which no header calls padding",
        "an even value of {value:.0f} HU round the field of view: read as air",
        "It is read as air.",
    ),
    # What a scan is, where nothing better was there.
    "expiratory": Reason(
        "told",
        "A scan in expiration, by its description",
        "in expiration, by its description",
        "It is taken only if its examination has nothing better.",
    ),
    "projection": Reason(
        "told",
        "A projection of the highest or lowest densities (MIP, MinIP), or a mean of thick slabs",
        "a projection (MIP, MinIP or thick slab): its densities are not those of tissue",
        "It is taken only if its examination has nothing better.",
    ),
    "derived": Reason(
        "told",
        "A series derived from another one",
        "derived from another series",
        "It is taken only if its examination has nothing better.",
    ),
    "prone": Reason(
        "told",
        "A patient who lies prone",
        "the patient lies prone",
        "It is taken only if its examination has nothing better.",
    ),
    "part_of_body": Reason(
        "told",
        "A reconstruction of one side, or of a part of the chest",
        "only a part of the chest, by its description or field of view of {width:.0f} mm",
        "It is taken only if its examination has nothing better.",
    ),
    "cuts_lungs": Reason(
        "told",
        "A scan that begins or ends within the lungs",
        "the first or last slice goes through the lungs: a part of them was not imaged",
        "The part that was imaged is read.",
    ),
    "at_intervals": Reason(
        "told",
        "Thin slices at wide intervals (HRCT)",
        "slices of {thickness:.3g} mm every {step:.3g} mm: {share:.0f} % of the lungs lie between them, not imaged",
        "It is taken only if its examination has nothing better.",
    ),
    # DICOM: no chest CT.
    "localizer": Reason("set aside", "A localizer (scout, topogram)", "localizer, not a CT volume", "It is no scan."),
    "no_ct": Reason("set aside", "A series of another modality", "{kind}, not a CT volume", "It is no scan."),
    "no_ct_images": Reason(
        "set aside",
        "A series of CT without images",
        "CT, but no CT images (a report, a screenshot or a dose sheet)",
        "It is no scan.",
    ),
    "in_colour": Reason(
        "set aside",
        "Pictures in colour",
        "CT in colour: a picture, no Hounsfield units",
        "They are no scan.",
    ),
    "no_geometry": Reason(
        "set aside",
        "Images without a place in the body",
        "slices without position, orientation or pixel spacing: no volume can be made",
        "They are no scan.",
    ),
    "no_frames": Reason(
        "set aside",
        "Files without an image",
        "no slices: its files name no frame",
        "They are no scan.",
    ),
    "all_damaged": Reason(
        "set aside",
        "A series whose headers are all damaged",
        "damaged headers in all {n} file(s)",
        "Nothing can be read.",
    ),
    "too_large": Reason(
        "set aside",
        "Images larger than any chest CT",
        "slices of up to {side} pixels a side, {n} of them: no chest CT",
        "Nothing is decoded.",
    ),
    "too_much_announced": Reason(
        "set aside",
        "Headers that announce more pixels than their files can hold",
        "{n:,} pixels announced in {n_bytes:,} bytes, more than any compression can hold",
        "Nothing is decoded.",
    ),
    "no_patient": Reason(
        "set aside",
        "A series without PatientID",
        "no PatientID: it cannot be told whose scan it is",
        "It belongs to nobody.",
    ),
    "not_axial": Reason(
        "set aside",
        "A coronal or sagittal reformation",
        "not axial: a coronal or sagittal reformation",
        "The axial series of the examination is taken.",
    ),
    "few_slices": Reason(
        "set aside",
        "A stack of few slices",
        "{n} slices, expected at least {least}",
        "It is no whole thorax.",
    ),
    "short": Reason(
        "set aside",
        "A short stack",
        "{length:.0f} mm long, expected at least {least:.0f} mm for a whole thorax",
        "It is no whole thorax.",
    ),
    "variable_steps": Reason(
        "set aside",
        "Slices whose steps vary along the body, without a part in even steps",
        "the steps between slices vary from {low:.3g} to {high:.3g} mm: no even volume",
        "It is set aside; an even reconstruction is needed.",
    ),
    "indistinct": Reason(
        "set aside",
        "Two breaths or reconstructions at the same places, which no header tells apart",
        "different images at one place, at {n} places, and no header that tells which of them belong together",
        "It is set aside, since a volume would mix them.",
    ),
    "gap": Reason(
        "set aside",
        "Too many slices are missing",
        "about {n} slices are missing, the widest gap is {gap:.1f} mm between slices {after} and {before} of "
        "{slices}, the usual step {step:.3g} mm. Export the series again.",
        "The next best series of the examination is tried.",
    ),
    "one_decodable": Reason(
        "set aside",
        "A series of which one slice can be decoded",
        "only one of {n} slices can be decoded. Export the series again.",
        "The next best series of the examination is tried.",
    ),
    "none_decodable": Reason(
        "set aside",
        "A series in a compression that is not read, or damaged",
        "none of the {n} slices can be decoded: truncated, damaged, or in a compression that GDCM does not read "
        "({syntax}). Export them again, uncompressed.",
        "The next best series of the examination is tried.",
    ),
    # Densities, of DICOM and of volumes in one file.
    "empty": Reason(
        "set aside",
        "A volume of one value",
        "{name} is empty: every voxel is {value:g}",
        "It is set aside.",
    ),
    "no_air": Reason(
        "set aside",
        "Values without air",
        "{name} has {lowest:g} as its lowest value, expected air near -1000 HU: were rescale slope and intercept "
        "applied?",
        "It is set aside.",
    ),
    "rescale_lost": Reason(
        "set aside",
        "Rescale intercept lost in all slices: air near 0, water near 1000, whatever the padding is",
        "{name} has tissue near 1000 and no air near -1000 HU: were rescale slope and intercept applied?",
        "It is set aside.",
    ),
    "no_tissue": Reason(
        "set aside",
        "Values without soft tissue",
        "{name} has nearly no voxel with the density of fat, water or muscle (-250 to 200 HU): were rescale "
        "slope and intercept applied once, and only once?",
        "It is set aside.",
    ),
}


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

    @classmethod
    def of(cls, fault: Told) -> "UnusableError":
        """Make an error of a sentence that was told."""
        error = cls.__new__(cls, fault)
        ScanError.__init__(error, fault)
        error.code = fault.code
        return error
