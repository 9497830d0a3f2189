"""What is fuzzed: for each reader valid files to damage, and the errors that it may answer with."""

import atexit
import hashlib
import io
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from sscct_lib.study.folder import SETTINGS_FILE, StudyError
from tests.fuzz.damages import by_cells, by_elements, by_members, by_scalars, by_volume, deflated

MANIFEST = """scan_id,patient_id,scan_date,image,last_contact_date,event_observed,age_years,sex,sha256,transplant_date
a1,a,2015-01-01,scans/a1.nii.gz,2018-01-01,1,50,female,,
a2,a,2016-01-01,scans/a2.nii.gz,2018-01-01,1,51,female,,
b1,b,2014-05-05,scans/b1.nii.gz,2020-05-05,0,60.5,male,,2019-01-01
c1,c,2017-03-01,scans/c1.nii.gz,,,,female,,
"""
CLINICAL = """patient_id,scan_date,last_contact_date,event_observed,age_years,sex,fvc_percent,dlco_percent
a,2015-01-01,2018-01-01,1,50,female,80,50
a,2016-01-01,2018-01-01,1,51,female,75,
b,,2020-05-05,0,60.5,male,101,70
"""
DECISIONS = "scan_id,verdict,who,when,why\na1,pass,AB,2024-01-01,seen\nb1,fail,CD,2024-01-02,cut\n"
SETTINGS = """title: A study
seed: 3
horizons_years: [1, 3, 5]
images: {spacing_mm: 2.0}
cohort:
  n_folds: 3
radiomics: {regions: [upper, peel], log_sigma_mm: [1.0, 2.0]}
deep: {networks: [swin], swin: {size: 32, weights: w.pt, weights_sha256: abc}}
"""
PARAMETERS = "cohort.n_folds=3 horizons.thresholds=[0.1,0.2] deep.swin.size={a:1}"
SYNTAXES = {
    "plain": None, "runs": RLELossless, "jpeg": JPEGLosslessSV1, "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
}  # fmt: skip


@dataclass
class Target:
    """A reader.

    Attributes
    ----------
    valid
        Valid files, by their names.
    read
        Reads a file whose content may be anything; False where it said in words, without an error, that it is no use.
    allowed
        Its own clear errors.
    damage
        Changes the content of a file.
    """

    valid: dict[str, bytes]
    read: Callable[[Path], object]
    allowed: tuple[type[Exception], ...]
    damage: Callable[[bytes, random.Random], bytes]


def _tables(scratch: Path) -> dict[str, Target]:
    from sscct_lib.cohort.manifest import read_manifest
    from sscct_lib.intake.clinical import attach, read_clinical
    from sscct_lib.lungs.decisions import apply_decisions
    from sscct_lib.study.folder import load_study

    (scratch / SETTINGS_FILE).write_text("title: fuzz\n")
    study = load_study(scratch)
    scans = pd.DataFrame({"patient_id": ["a", "a", "b"]})
    scans["scan_date"] = pd.to_datetime(["2015-01-01", "2016-01-03", "2014-05-05"])
    lungs = pd.DataFrame({"scan_id": ["a1", "b1"], "status": "ok", "verdict": "review", "findings": ""})
    return {
        "manifest": Target(
            {"data_manifest.csv": MANIFEST.encode()}, lambda path: read_manifest(study), (StudyError,), by_cells
        ),
        "clinical": Target(
            {"clinical.csv": CLINICAL.encode()},
            lambda path: attach(scans, read_clinical(path)[0]),
            (StudyError,),
            by_cells,
        ),
        "decisions": Target(
            {"qa_decisions.csv": DECISIONS.encode()}, lambda path: apply_decisions(lungs, path), (StudyError,), by_cells
        ),
    }


def _settings(scratch: Path) -> dict[str, Target]:
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.runs import parse_changes

    def parameters(path: Path) -> object:
        texts = path.read_bytes().decode("utf-8", "surrogateescape").split(" ")
        return parse_changes(texts)

    return {
        "settings": Target(
            {SETTINGS_FILE: SETTINGS.encode()},
            lambda path: load_study(path.parent),
            (StudyError,),
            by_scalars,
        ),
        "parameters": Target({"parameters.txt": PARAMETERS.encode()}, parameters, (StudyError,), by_scalars),
    }


def _images(scratch: Path) -> dict[str, Target]:
    from sscct_lib.images.prepare import read_scan, resample
    from sscct_lib.study.results import ScanError

    rng = np.random.default_rng(0)
    valid = {}
    for name, dtype in (("a.nii.gz", np.int16), ("b.nii", np.float32), ("c.nrrd", np.int16), ("d.nii", np.int16)):
        image = sitk.GetImageFromArray(rng.normal(-500, 300, (9, 8, 10)).astype(dtype))
        image.SetSpacing((1.5, 1.5, 2.0))
        sitk.WriteImage(image, str(scratch / name), useCompression=name != "d.nii")
        valid[name] = (scratch / name).read_bytes()
    return {"images": Target(valid, lambda path: resample(read_scan(path), 4.0), (ScanError,), by_volume)}


def _bytes_of(item: Dataset) -> bytes:
    """Write a dataset with open sequences, so that an element of another length breaks nothing around it."""
    for element in item.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = True
            for inner in element.value:
                inner.is_undefined_length_sequence_item = True
    item.file_meta.MediaStorageSOPClassUID, item.file_meta.MediaStorageSOPInstanceUID = (
        item.SOPClassUID,
        item.SOPInstanceUID,
    )
    buffer = io.BytesIO()
    item.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dicom(scratch: Path) -> dict[str, Target]:
    """One damaged slice among 20 sound ones, plain or compressed, or one damaged multi-frame file."""
    beside = TemporaryDirectory()  # for as long as this process reads
    atexit.register(beside.cleanup)
    room = Path(beside.name)
    from sscct_lib.images import dicom_pixels
    from sscct_lib.images.dicom import Series, find_series, read_headers
    from sscct_lib.intake.series import _from_series
    from sscct_lib.study.results import ScanError
    from tests.images.dicom_samples import compress, enhanced, read_series, save, series

    values = np.random.default_rng(0).integers(-1000, 400, (21, 12, 12)).astype(np.int16)
    slices = series(values)
    for number, item in enumerate(slices):
        item.ImagePositionPatient = [-50.0, -40.0, 100.0 + 8.0 * number]  # the fewest slices that are a thorax
    frames = enhanced(values)
    for group in frames.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[2] *= 1.6
    valid = {"frames.dcm": _bytes_of(frames)}
    for name, syntax in SYNTAXES.items():
        item = deepcopy(slices[12])
        if syntax is not None:
            compress(item, syntax, room)
        valid[f"{name}.dcm"] = _bytes_of(item)
    valid["deflated.dcm"] = valid["plain.dcm"]
    sound = [item for i, item in enumerate(slices) if i != 12]
    others = read_headers(sorted(save(sound, room / "sound").iterdir()))
    decode = dicom_pixels._decode
    decoded = {path: decode(path) for _, path in others.headers}  # once, since they stay the same

    def read(path: Path) -> bool:
        for files in find_series(path.parent)[0]:
            found = read_headers(files)
            if path.name != "frames.dcm" and found.get("SeriesInstanceUID") == others.get("SeriesInstanceUID"):
                found = Series([*others.headers, *found.headers], found.n_damaged)
            if all(one.status == "set aside" for one in _from_series(found, "soft")):
                continue
            with patch.object(dicom_pixels, "_decode", lambda one: decoded[one] if one in decoded else decode(one)):
                _, notes = read_series(found)
            return not any(word in note for note in notes for word in ("left out", "damaged"))
        return False

    return {"dicom": Target(valid, read, (ScanError,), by_elements)}


def _masks(scratch: Path) -> dict[str, Target]:
    from sscct_lib.images.dicom_masks import read_dicom_mask, referred_series
    from sscct_lib.study.results import ScanError
    from tests.images.dicom_samples import STEP_MM, series
    from tests.images.test_dicom_masks import both_sides, contours_of, write_rtstruct, write_seg

    truth = np.zeros((8, 12, 12), np.uint8)  # few slices: most of the time goes into reading their descriptions
    truth[2:6, 2:10, 1:5], truth[2:6, 2:10, 7:11] = 1, 2
    scan = sitk.GetImageFromArray(truth.astype(np.int16))
    scan.SetSpacing((2.5, 3.0, STEP_MM))
    scan.SetOrigin((-50.0, -40.0, 100.0))
    identity = {"FrameOfReferenceUID": "1.2.3.7", "StudyTime": "", "StudyID": "", "AccessionNumber": ""}
    sample = SimpleNamespace(
        headers=series(truth.astype(np.int16), **identity),
        truth=truth,
        scan=scan,
        frame="1.2.3.7",
        series="1.2.3.100.1",
    )
    write_seg(sample, scratch / "seg.dcm", both_sides(sample))
    sides = {name: contours_of(truth == side, scan) for name, side in (("Lung_R", 1), ("Lung_L", 2))}
    write_rtstruct(sample, scratch / "contours.dcm", sides)
    valid = {name: _bytes_of(pydicom.dcmread(scratch / name)) for name in ("seg.dcm", "contours.dcm")}
    for name in valid:
        (scratch / name).unlink()

    def read(path: Path) -> None:
        referred_series(path)
        read_dicom_mask(path, scan)

    return {"masks": Target(valid, read, (ScanError,), by_elements)}


def _weights(scratch: Path) -> dict[str, Target]:
    import torch
    from safetensors.torch import save

    from sscct_lib.deep.weights import load_weights

    encoder = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Conv3d(1, 2, 3))
    buffer = io.BytesIO()
    torch.save({"state_dict": encoder.state_dict()}, buffer)
    valid = {"w.pt": buffer.getvalue(), "w.safetensors": save(encoder.state_dict())}

    def read(path: Path) -> None:
        load_weights(encoder, path, hashlib.sha256(path.read_bytes()).hexdigest())

    return {"weights": Target(valid, read, (StudyError,), by_members)}


MAKERS = {
    "manifest": _tables, "clinical": _tables, "decisions": _tables, "settings": _settings, "parameters": _settings,
    "images": _images, "dicom": _dicom, "masks": _masks, "weights": _weights,
}  # fmt: skip


def make_target(name: str, scratch: Path) -> Target:
    """Make a reader with its valid files; `scratch` is a folder for what it needs."""
    return MAKERS[name](scratch)[name]


def attempt(target: Target, folder: Path, seed: int) -> str:
    """Give a reader one damaged file.

    Parameters
    ----------
    target
        The reader.
    folder
        Receives the file, alone there but for what the target needs.
    seed
        Which damage.

    Returns
    -------
    str
        `read`, or `refused` in words; an exception that is none of its own errors is a finding, and is raised.
    """
    rng = random.Random(seed)
    name = rng.choice(sorted(target.valid))
    path = folder / name
    content = target.damage(target.valid[name], rng)
    path.write_bytes(deflated(content) if name == "deflated.dcm" else content)
    try:
        return "refused" if target.read(path) is False else "read"
    except target.allowed:
        return "refused"
    finally:
        path.unlink()
