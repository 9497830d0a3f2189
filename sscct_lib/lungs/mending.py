"""Lung masks that a person mends in other software: handed out beside their scans, and taken back.

A folder that was handed out holds, for each scan: `ID.nii.gz`, the prepared scan; `ID.seg.nrrd`, its mask for 3D
Slicer; `ID.mask.nii.gz`, the same mask for ITK-SNAP, whose labels `labels.txt` names; where it
is asked for, both as DICOM. `export.json` tells what each
mask was, so that what was changed can be told from what was not. Nothing in it names a patient but by the study's ids.

References
----------
Segmentations in NRRD: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.images.dicom_export import frame_of, write_dicom
from sscct_lib.images.dicom_masks import SIDE_OF_CODE, onto_grid, read_dicom_mask, side_of_name
from sscct_lib.images.nifti import read_volume
from sscct_lib.images.prepare import on_grid_of, read_result, write_image
from sscct_lib.images.reasons import UnusableError
from sscct_lib.lungs.decisions import MENDED, add_decision, check_reader, read_decisions, standing
from sscct_lib.lungs.segment import LEFT, RIGHT, examine, read_mended
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import DECISIONS_FILE, Study, StudyError
from sscct_lib.study.results import ScanError

EXPORT_FILE, LABELS_FILE = "export.json", "labels.txt"
FORMATS = (".seg.nrrd", ".mask.nii.gz", ".seg.dcm")
SEGMENTS = {  # name, colour, SNOMED CT
    RIGHT: ("right lung", (0, 114, 178), "3341006^Right lung"),
    LEFT: ("left lung", (230, 159, 0), "44029006^Left lung"),
}
OTHER_SCAN_DICE = 0.9  # less like its own scan's mask, and more like another's
NO_MASK_OF_IT = {  # measures in which a mask and its scan cannot belong together
    "lefts_side_mm": "right and left are swapped: the segment of the right lung lies on the patient's left",
    "aerated_share": "the mask lies beside the lungs of this scan: is it the mask of another one?",
}


def export_masks(study: Study, scan_ids: Sequence[str], folder: Path, dicom: bool = False) -> list[str]:
    """Write scans and masks for 3D Slicer and ITK-SNAP into a folder that has no export yet.

    Parameters
    ----------
    scan_ids
        Empty: those of which a reader said that they are to be edited.
    dicom
        Also write `ID.dicom/`, slices, and `ID.seg.dcm`, a segmentation.

    Returns
    -------
    list of str
        The scans. One without a mask, since no lungs were found, gets an empty one to draw on.

    Raises
    ------
    StudyError
        If there is none, one has no prepared image, or the folder holds an export.
    """
    chosen = list(dict.fromkeys(scan_ids)) or _to_be_edited(study)
    if not chosen:
        raise StudyError("No reader has marked a scan as to be edited. Name the scans whose masks you want to mend.")
    if unknown := [scan_id for scan_id in chosen if not study.image(scan_id).is_file()]:
        raise StudyError(f"{', '.join(unknown[:5])}: not among the scans that run {study.run_name} has prepared.")
    if (folder / EXPORT_FILE).exists():
        raise StudyError(f"{folder} holds masks that were exported before, perhaps changed since. Name a new folder.")
    scans: dict[str, dict[str, str]] = {}
    for scan_id in chosen:
        image = read_result(study.image(scan_id))
        mask = current_mask(study, scan_id, image)
        write_image(image, folder / f"{scan_id}.nii.gz")
        write_image(mask, folder / f"{scan_id}.mask.nii.gz")
        _write_segmentation(mask, scan_id, folder / f"{scan_id}.seg.nrrd")
        scans[scan_id] = {"image": digest(image), "mask": digest(mask)}
        if dicom:
            series, seg = folder / f"{scan_id}.dicom", folder / f"{scan_id}.seg.dcm"
            write_dicom(image, mask, scan_id, scans[scan_id]["image"], series, seg)
    with atomic(folder / LABELS_FILE) as partial:
        partial.write_text(_label_file(), encoding="utf-8")
    with atomic(folder / EXPORT_FILE) as partial:  # last: without it the folder is no export
        partial.write_text(json.dumps({"run": study.run_name, "scans": scans}, indent=1), encoding="utf-8")
    return chosen


def import_masks(folder: Path, study: Study, who: str, why: str) -> dict[str, str]:
    """Take back the masks of an export that were changed; all of them, or none where one has a fault.

    Each goes to `study.mended`, with a row in the file of decisions; the mask before is kept in the run. The caller is
    alone in the study. What rests on these masks is made again by the next run, and nothing else.

    Parameters
    ----------
    who, why
        Initials, and the reason.

    Returns
    -------
    dict
        By scan, what the rules find in the new mask: `pass`, or the verdict with its findings.

    Raises
    ------
    StudyError
        If the folder is no export of this study, or a mask is on another grid, empty, of another scan, has labels that
        are no lung, has right and left swapped, or was changed twice: in two files, or in the study meanwhile.
    """
    who, why = check_reader(who, why)
    scans = _read_export(folder, study)
    faults, taken = _strangers(folder, scans), dict[str, sitk.Image]()
    told: dict[str, str] = {}
    for scan_id, was in scans.items():
        try:
            mask = _changed(folder, study, scan_id, was)
            if mask is not None:
                told[scan_id] = _judged(folder, study, scan_id, mask, scans)
                taken[scan_id] = mask
        except ScanError as error:
            faults.append(f"{scan_id}: {error}")
    if faults:
        raise StudyError("\n  ".join([f"Nothing was taken from {folder}:", *faults]))
    for scan_id, mask in taken.items():
        before = current_mask(study, scan_id, mask)
        write_image(before, _next_version(study.run / "masks_before", scan_id))
        write_image(mask, study.mended(scan_id))
        add_decision(study, [scan_id], MENDED, who, why)
    return told


def _next_version(folder: Path, scan_id: str) -> Path:
    return next(path for n in count(1) if not (path := folder / f"{scan_id}.{n}.nii.gz").exists())


def current_mask(study: Study, scan_id: str, image: sitk.Image) -> sitk.Image:
    """The mask that holds now, on the grid of an image: mended, or else the run's; empty where there is neither."""
    if study.mended(scan_id).is_file():
        return read_mended(study.mended(scan_id), image)
    if study.mask(scan_id).is_file():
        return read_mended(study.mask(scan_id), image)
    return on_grid_of(image, np.zeros(image.GetSize()[::-1], np.uint8))


def digest(image: sitk.Image) -> str:
    """Hash the voxels of an image and where they lie, whatever file it came from."""
    place = np.round([*image.GetSpacing(), *image.GetOrigin()], 3) + 0.0
    values = sitk.GetArrayViewFromImage(image)
    return hashlib.sha256(f"{values.shape} {place.tolist()}".encode() + values.tobytes()).hexdigest()[:32]


def _to_be_edited(study: Study) -> list[str]:
    last = standing(read_decisions(study.folder / DECISIONS_FILE))
    return last.loc[last["verdict"] == "edit", "scan_id"].drop_duplicates().tolist()


def _write_segmentation(mask: sitk.Image, scan_id: str, path: Path) -> None:
    """Write a mask as 3D Slicer does; the id of a segment, which Slicer keeps, says of which scan it is."""
    labelled = sitk.Image(mask)
    whole = " ".join(f"0 {side - 1}" for side in mask.GetSize())
    fields = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, (label, (name, colour, code)) in enumerate(SEGMENTS.items()):
        kind = f"SCT^123037004^Anatomical Structure~SCT^{code}~^^~Anatomic codes - DICOM master list~^^~^^"
        of_segment = {
            "ID": f"{scan_id}:{name.replace(' ', '_')}",
            "Name": name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{part / 255:.4g}" for part in colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(label),
            "Layer": "0",
            "Extent": whole,
            "Tags": f"TerminologyEntry:Segmentation category and type - DICOM master list~{kind}|",
        }
        fields |= {f"Segment{number}_{key}": value for key, value in of_segment.items()}
    for key, value in fields.items():
        labelled.SetMetaData(key, value)
    with atomic(path) as partial:
        sitk.WriteImage(labelled, str(partial), useCompression=True)


def _label_file() -> str:
    """Label descriptions as ITK-SNAP reads them: number, red, green, blue, opacity, shown, in 3-D, name."""
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label, (name, colour, _) in SEGMENTS.items():
        lines.append(f'{label:5d} {colour[0]:5d} {colour[1]:4d} {colour[2]:4d}        1  1  1    "{name}"')
    return "\n".join(lines) + "\n"


def _read_export(folder: Path, study: Study) -> dict[str, dict[str, str]]:
    try:
        content = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        scans = {
            str(scan): {name: str(was[name]) for name in ("image", "mask")} for scan, was in content["scans"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{folder} is no folder of `sscct masks export`: {EXPORT_FILE} is missing or damaged."
        ) from error
    if content.get("run") != study.run_name:
        raise StudyError(f"{folder} was exported from run {content.get('run')}: say so by --run.")
    return scans


def _strangers(folder: Path, scans: dict[str, Any]) -> list[str]:
    """Name the masks of a folder that belong to none of its scans: saved under another name, they would be lost."""
    ours = {f"{scan_id}{suffix}" for scan_id in scans for suffix in (".nii.gz", *FORMATS)}
    found = [path.name for path in sorted(folder.iterdir()) if path.name.endswith((".nrrd", ".nii", ".nii.gz", ".dcm"))]
    return [
        f"{name}: not a file of the export; expected masks under their own names, such as {next(iter(scans))}.seg.nrrd."
        for name in found
        if name not in ours
    ]


def _changed(folder: Path, study: Study, scan_id: str, was: dict[str, str]) -> sitk.Image | None:
    """Read the mask of a scan that was changed; None where none was, or the study has it."""
    if not study.image(scan_id).is_file():
        raise ScanError(f"no scan of that name in run {study.run_name}.")
    image = read_result(study.image(scan_id))
    if digest(image) != was["image"]:
        raise ScanError("the scan is not the one that was exported: it was prepared anew, or is another. Export again.")
    files = [path for suffix in FORMATS if (path := folder / f"{scan_id}{suffix}").is_file()]
    masks = {path.name: read_edited(path, scan_id, image) for path in files}
    new = {digest(mask): mask for mask in masks.values() if digest(mask) != was["mask"]}
    if len(new) > 1:
        raise ScanError(f"edited twice: {' and '.join(masks)} were both changed and differ. Remove one of them.")
    if not new:
        return None
    ((found, mask),) = new.items()
    if not sitk.GetArrayViewFromImage(mask).any():
        raise ScanError("the mask is empty. A scan that is not to be used gets the decision `fail`.")
    current = digest(current_mask(study, scan_id, image))
    decisions = read_decisions(study.folder / DECISIONS_FILE)
    recorded = decisions[(decisions["scan_id"] == scan_id) & (decisions["verdict"] == MENDED)]
    if found == current and len(recorded):
        return None
    if current not in (was["mask"], found):
        by_whom = f" by {recorded['who'].iloc[-1]}" if len(recorded) else ""
        raise ScanError(f"edited twice: the study's mask was changed{by_whom} since this export. Export it again.")
    return mask


def read_edited(path: Path, scan_id: str, image: sitk.Image) -> sitk.Image:
    """Read a mask that other software wrote, onto the grid of its prepared scan: 0, 1 right lung, 2 left lung.

    The axes may run otherwise and the volume be cropped, as Slicer does, but its voxels must be those of the scan.

    Raises
    ------
    ScanError
        If it is damaged, on another grid, of another scan by its segments' ids, or holds other labels.
    """
    if path.suffix == ".dcm":
        return read_dicom_mask(path, image, frame_of(digest(image)))
    try:
        volume = read_volume(path)
    except UnusableError as error:
        if error.code not in ("dimensions", "components"):
            raise
        raise ScanError(
            f"{path.name} has several layers, in which segments overlap, or did. In Slicer's module Segmentations, "
            "collapse the layers of the binary labelmap, and save again."
        ) from error
    values = sitk.GetArrayFromImage(volume)
    labels = np.zeros(values.shape, np.uint8)
    known = dict(_segments(volume, scan_id, path.name)) or {RIGHT: ("", RIGHT), LEFT: ("", LEFT)}
    for value in np.unique(values[values != 0]):
        name, side = known.get(int(value), ("", None)) if value == int(value) else ("", None)
        if side not in SEGMENTS:
            what = f"segment {name!r}" if name else f"label {value:g}"
            n = int(np.count_nonzero(values == value))
            raise ScanError(f"{path.name} holds {what} ({n:,} voxels); expected right lung and left lung alone.")
        labels[values == value] = side
    return onto_grid(sitk.DICOMOrient(on_grid_of(volume, labels), "LPS"), image)


def _segments(volume: sitk.Image, scan_id: str, file: str) -> Iterator[tuple[int, tuple[str, int | None]]]:
    """Give the segments that a header of 3D Slicer describes: their values, names and sides."""
    fields = {key: volume.GetMetaData(key) for key in volume.GetMetaDataKeys() if key.startswith("Segment")}
    for key in (key for key in fields if re.fullmatch(r"Segment\d+_ID", key)):
        start, identity = key.removesuffix("ID"), fields[key].partition(":")
        if identity[1] and identity[0] != scan_id:
            raise ScanError(f"{file} holds the mask of scan {identity[0]}.")
        name = fields.get(f"{start}Name", "")
        codes = re.findall(r"\^([\w-]+)\^", fields.get(f"{start}Tags", ""))
        side = side_of_name(name) or next((SIDE_OF_CODE[code] for code in codes if code in SIDE_OF_CODE), None)
        yield int(fields.get(f"{start}LabelValue", "1")), (name, side)


def _judged(folder: Path, study: Study, scan_id: str, mask: sitk.Image, scans: dict[str, Any]) -> str:
    """Refuse a mask that cannot be this scan's; say what the rules find in it."""
    image = read_result(study.image(scan_id))
    labels = sitk.GetArrayViewFromImage(mask)
    own = _dice(labels, current_mask(study, scan_id, image))
    for other in scans if own < OTHER_SCAN_DICE else ():
        if other != scan_id and study.image(other).is_file():
            likeness = _dice(labels, current_mask(study, other, mask))
            if likeness > max(own, OTHER_SCAN_DICE):
                raise ScanError(f"this is the mask of scan {other} (Dice {likeness:.2f}; with its own {own:.2f}).")
    found = examine(image, mask, study.settings.lungs)
    for measure, words in NO_MASK_OF_IT.items():
        if measure in (found["flags"] or "").split():
            raise ScanError(f"{words} ({found['findings']}).")
    return f"{found['verdict']}" + (f" ({found['findings']})" if found["findings"] else "")


def _dice(labels: NDArray[np.uint8], other: sitk.Image) -> float:
    others = sitk.GetArrayViewFromImage(other)
    both = int(np.count_nonzero((labels > 0) & (labels == others)))
    return 2 * both / max(int(np.count_nonzero(labels)) + int(np.count_nonzero(others)), 1)
