"""What is fuzzed: for each reader valid files to damage, and the errors that it may answer with."""

import hashlib
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from sscct_lib.study import SETTINGS_FILE, StudyError

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
PARAMETERS = "01_cohort.n_folds=3 05_horizons.thresholds=[0.1,0.2] 04_deep_models.size={a:1}"
WORDS = [
    b"", b",", b"\n", b"\"", b"'", b"\0", b"\xff", b"../", b"=1+1", b"nan", b"inf", b"-1", b"1e400",
    b"2020-13-45", b"99999999999999999999", b"0001-01-01", b"9999-12-31", b"!!python/object:os.system", b"&a",
    b"*a", b"[", b"{", b"? ", b": ", b"null", b"~", b"0x1p3", b"\xef\xbb\xbf", b"\r", b"\t", b"1:2:3", b"<<: ",
    b"\xed\xa0\x80", b"\x80", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"<b>", b"%s", b"{x}",
    b"a" * 70,
]  # fmt: skip


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change bytes: flip, cut, repeat, drop, or write a word that has meaning to some reader."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        place = rng.randrange(len(data) + 1)
        # Headers are where decisions are made.
        place = place if rng.random() < 0.5 else min(place, rng.randrange(600))
        action = rng.randrange(6)
        if action == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif action == 1 and place < len(data):
            data[place] = rng.randrange(256)
        elif action == 2:
            del data[place : place + rng.choice([1, 2, 4, 16, 1 << 20])]
        elif action == 3:
            data[place:place] = data[place : place + rng.choice([1, 4, 32])]
        elif action == 4:
            word = rng.choice(WORDS)
            data[place : place + len(word)] = word
        else:
            data[place:place] = rng.choice(WORDS)
    return bytes(data)


@dataclass
class Target:
    """A reader.

    Attributes
    ----------
    valid
        Valid files, by their names.
    read
        Reads a file whose content may be anything.
    allowed
        Its own clear errors.
    """

    valid: dict[str, bytes]
    read: Callable[[Path], object]
    allowed: tuple[type[Exception], ...]


def _tables(scratch: Path) -> dict[str, Target]:
    from sscct_lib.clinical import attach, read_clinical
    from sscct_lib.lung_verdict import apply_decisions
    from sscct_lib.manifest import read_manifest
    from sscct_lib.study import load_study

    (scratch / SETTINGS_FILE).write_text("title: fuzz\n")
    study = load_study(scratch)
    scans = pd.DataFrame({"patient_id": ["a", "a", "b"]})
    scans["scan_date"] = pd.to_datetime(["2015-01-01", "2016-01-03", "2014-05-05"])
    lungs = pd.DataFrame({"scan_id": ["a1", "b1"], "status": "ok", "verdict": "review", "findings": ""})
    return {
        "manifest": Target({"data_manifest.csv": MANIFEST.encode()}, lambda path: read_manifest(study), (StudyError,)),
        "clinical": Target(
            {"clinical.csv": CLINICAL.encode()}, lambda path: attach(scans, read_clinical(path)), (StudyError,)
        ),
        "decisions": Target(
            {"qa_decisions.csv": DECISIONS.encode()}, lambda path: apply_decisions(lungs, path), (StudyError,)
        ),
    }


def _settings(scratch: Path) -> dict[str, Target]:
    from sscct_lib.cli import _parse_parameters
    from sscct_lib.notebooks import NOTEBOOKS
    from sscct_lib.study import load_study

    def parameters(path: Path) -> object:
        texts = path.read_bytes().decode("utf-8", "surrogateescape").split(" ")
        return _parse_parameters(texts, NOTEBOOKS)

    return {
        "settings": Target(
            {SETTINGS_FILE: SETTINGS.encode()},
            lambda path: load_study(path.parent, cohort={"n_folds": 2}),
            (StudyError,),
        ),
        "parameters": Target({"parameters.txt": PARAMETERS.encode()}, parameters, (StudyError,)),
    }


def _images(scratch: Path) -> dict[str, Target]:
    from sscct_lib.images import read_scan, resample
    from sscct_lib.scans import ScanError

    rng = np.random.default_rng(0)
    valid = {}
    for name, dtype in (("a.nii.gz", np.int16), ("b.nii", np.float32), ("c.nrrd", np.int16), ("d.nii", np.int16)):
        image = sitk.GetImageFromArray(rng.normal(-500, 300, (9, 8, 10)).astype(dtype))
        image.SetSpacing((1.5, 1.5, 2.0))
        sitk.WriteImage(image, str(scratch / name), useCompression=name != "d.nii")
        valid[name] = (scratch / name).read_bytes()
    return {"images": Target(valid, lambda path: resample(read_scan(path), 4.0), (ScanError,))}


def _dicom(scratch: Path) -> dict[str, Target]:
    from sscct_lib.dicom import find_series, read_headers
    from sscct_lib.dicom_frames import why_unusable
    from sscct_lib.dicom_masks import read_dicom_mask, referred_series
    from sscct_lib.dicom_volume import read_series
    from sscct_lib.scans import ScanError
    from tests.dicom_samples import enhanced, series

    values = np.random.default_rng(0).integers(-1000, 400, (24, 8, 8)).astype(np.int16)
    valid = {}
    for name, item in (("single.dcm", series(values)[0]), ("frames.dcm", enhanced(values))):
        buffer = io.BytesIO()
        item.save_as(buffer, enforce_file_format=True)
        valid[name] = buffer.getvalue()
    scan = sitk.GetImageFromArray(values)

    def read(path: Path) -> None:
        groups, _ = find_series(path.parent)
        for files in groups:
            found = read_headers(files)
            if not why_unusable(found):
                read_series(found)
        referred_series(path)
        read_dicom_mask(path, scan)

    return {"dicom": Target(valid, read, (ScanError,))}


def _weights(scratch: Path) -> dict[str, Target]:
    import torch
    from safetensors.torch import save

    from sscct_lib.pretrained import load_weights

    encoder = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Conv3d(1, 2, 3))
    buffer = io.BytesIO()
    torch.save({"state_dict": encoder.state_dict()}, buffer)
    valid = {"w.pt": buffer.getvalue(), "w.safetensors": save(encoder.state_dict())}

    def read(path: Path) -> None:
        load_weights(encoder, path, hashlib.sha256(path.read_bytes()).hexdigest())

    return {"weights": Target(valid, read, (StudyError,))}


MAKERS = {
    "manifest": _tables, "clinical": _tables, "decisions": _tables, "settings": _settings, "parameters": _settings,
    "images": _images, "dicom": _dicom, "weights": _weights,
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
        `read`, or `refused` with one of its own errors; any other exception is a finding, and is raised.
    """
    rng = random.Random(seed)
    name = rng.choice(sorted(target.valid))
    path = folder / name
    path.write_bytes(damage(target.valid[name], rng))
    try:
        target.read(path)
    except target.allowed:
        return "refused"
    finally:
        path.unlink()
    return "read"
