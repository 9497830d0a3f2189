"""Lungs found by networks that others trained: lungmask and TotalSegmentator, which give the same labelled image.

Neither package brings its weights, and neither is needed for the default method. Their files are put in place by a
person, once; nothing is downloaded while a study runs.

References
----------
Hofmanninger J, et al. Automatic lung segmentation in routine imaging is primarily a data diversity problem, not a
methodology problem. Eur Radiol Exp 2020;4:50 (lungmask, Apache-2.0).
Wasserthal J, et al. TotalSegmentator: robust segmentation of 104 anatomic structures in CT images. Radiology:
Artificial Intelligence 2023;5:e230024 (Apache-2.0).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.images.nifti import read_volume
from sscct_lib.images.prepare import on_grid_of, resample_mask
from sscct_lib.study.files import write_if_changed
from sscct_lib.study.folder import StudyError
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import LungSettings

LOBES = {1: "right upper", 2: "right middle", 3: "right lower", 4: "left upper", 5: "left lower"}
SIDE_OF_LOBE = np.array([0, 1, 1, 1, 2, 2], dtype=np.uint8)
LUNGMASK_LOBES = {1: 4, 2: 5, 3: 1, 4: 2, 5: 3}
LUNGMASK_SIDES = {1: 1, 2: 2}
TOTALSEGMENTATOR_LOBES = {10: 4, 11: 5, 12: 1, 13: 2, 14: 3}
TOTALSEGMENTATOR_NAMES = [
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
]
TRUSTED_WEIGHTS = "SSCCT_TOTALSEGMENTATOR_SHA256"  # of the environment, which no study sets
TOTALSEGMENTATOR_PARTS = ("Dataset291_*", "Dataset298_*")  # organs; and the coarse model that crops to them


@dataclass(frozen=True)
class Found:
    """Lungs as a method gives them, uint8 on the grid of the prepared scan."""

    mask: sitk.Image  # 0 outside, 1 right lung, 2 left lung
    lobes: sitk.Image | None = None  # 0 outside, 1 to 5 as in `LOBES`; None: the method knows none


def chosen_methods(settings: LungSettings) -> list[str]:
    """Give the method of a study, and the one that it is compared with where there is one."""
    return [settings.method, *([settings.compare_with] if settings.compare_with else [])]


def check_method(method: str, settings: LungSettings, folder: Path) -> None:
    """Refuse a method whose package or weights are not there, before any scan is read.

    Parameters
    ----------
    method
        `lungmask` or `totalsegmentator`; the others need nothing.
    folder
        The study folder, to which paths of weights are relative.

    Raises
    ------
    StudyError
        If the package is not installed, a file or folder of weights is not named or not there, or the file has
        another SHA-256 than `study.yaml` says (of TotalSegmentator's: than the user says in `TRUSTED_WEIGHTS`).
    """
    if method not in ("lungmask", "totalsegmentator"):
        return
    if find_spec(method) is None:
        raise StudyError(f"lungs: {method} is not installed. Install it with `pip install sscct[{method}]`.")
    if method == "lungmask":
        _check_lungmask_weights(settings, folder)
    else:
        _check_totalsegmentator_weights(settings, folder)


def _check_lungmask_weights(settings: LungSettings, folder: Path) -> None:
    if settings.lungmask_weights is None or settings.lungmask_sha256 is None:
        raise StudyError(
            "lungs: the method lungmask needs lungmask_weights (the published .pth file of R231 or LTRCLobes) and "
            "lungmask_sha256 (its SHA-256) in study.yaml. `sscct weights fetch lungmask STUDY` gets R231 and says both."
        )
    path = folder / settings.lungmask_weights
    if not path.is_file():
        raise StudyError(f"lungs.lungmask_weights: {settings.lungmask_weights} is missing. Put the file there.")
    if (found := checksum(path)) != settings.lungmask_sha256.lower():
        raise StudyError(
            f"lungs.lungmask_weights: {path.name} has SHA-256 {found}, study.yaml says {settings.lungmask_sha256}: "
            "it is not the file that was meant. Copy it again, or correct study.yaml."
        )


def _check_totalsegmentator_weights(settings: LungSettings, folder: Path) -> None:
    if settings.totalsegmentator_weights is None:
        raise StudyError(
            "lungs: the method totalsegmentator needs totalsegmentator_weights in study.yaml: the folder into which "
            "`totalseg_download_weights -t total` puts them."
        )
    for part in TOTALSEGMENTATOR_PARTS:
        if not any((folder / settings.totalsegmentator_weights).glob(part)):
            raise StudyError(
                f"lungs.totalsegmentator_weights: {settings.totalsegmentator_weights} holds no {part}. Put "
                "TotalSegmentator's weights there."
            )
    found = _sha256_of(folder / settings.totalsegmentator_weights)
    if os.environ.get(TRUSTED_WEIGHTS, "").lower() != found:
        raise StudyError(
            "lungs.totalsegmentator_weights: TotalSegmentator runs whatever program a file of weights holds, so that a "
            "study cannot vouch for them. If you put these there yourself, say so where you start the run: "
            f"export {TRUSTED_WEIGHTS}={found}"
        )


def _sha256_of(folder: Path) -> str:
    """The SHA-256 of all that TotalSegmentator may load: the names of files and what is in them."""
    files = sorted(path for part in TOTALSEGMENTATOR_PARTS for path in folder.glob(f"{part}/**/*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {checksum(path)}\n" for path in files]
    return sha256("".join(lines).encode()).hexdigest()


def apply_method(method: str, image: sitk.Image, settings: LungSettings, folder: Path) -> Found:
    """Find the lungs of a prepared scan by `lungmask` or `totalsegmentator`, which passed `check_method`."""
    if method == "lungmask":
        return _lungmask(image, folder / str(settings.lungmask_weights))
    return _totalsegmentator(image, folder / str(settings.totalsegmentator_weights))


def _lungmask(image: sitk.Image, weights: Path) -> Found:
    inferer = _lungmask_network(weights)
    labels = inferer.apply(image)
    n_classes = inferer.model.last.out_channels
    if n_classes == 1 + len(LUNGMASK_SIDES):
        return Found(on_grid_of(image, renamed(labels, LUNGMASK_SIDES)))
    return _from_lobes(on_grid_of(image, renamed(labels, LUNGMASK_LOBES)))


@cache
def _lungmask_network(weights: Path) -> Any:
    """The network, loaded once for all scans of a process."""
    from lungmask import LMInferer

    inferer = LMInferer(modelpath=str(weights), tqdm_disable=True)
    n_classes = inferer.model.last.out_channels
    if n_classes not in (1 + len(LUNGMASK_SIDES), 1 + len(LUNGMASK_LOBES)):
        raise StudyError(f"lungs.lungmask_weights: {weights.name} tells {n_classes} classes apart, expected 3 or 6.")
    return inferer


def _totalsegmentator(image: sitk.Image, weights: Path) -> Found:
    # By default TotalSegmentator reports its use to its authors.
    os.environ["TOTALSEG_WEIGHTS_PATH"] = os.environ["TOTALSEG_HOME_DIR"] = str(weights)
    quiet = {"totalseg_id": "none", "send_usage_stats": False, "prediction_counter": 0}
    write_if_changed(weights / "config.json", json.dumps(quiet))
    from totalsegmentator.python_api import totalsegmentator

    with TemporaryDirectory() as folder:
        scan, result = Path(folder) / "scan.nii.gz", Path(folder) / "lobes.nii.gz"
        sitk.WriteImage(image, str(scan))
        totalsegmentator(scan, None, ml=True, roi_subset=TOTALSEGMENTATOR_NAMES, quiet=True).to_filename(result)
        lobes = resample_mask(read_volume(result), image)
    return _from_lobes(on_grid_of(image, renamed(sitk.GetArrayViewFromImage(lobes), TOTALSEGMENTATOR_LOBES)))


def renamed(labels: NDArray[Any], names: Mapping[int, int]) -> NDArray[np.uint8]:
    """Give labels other numbers; those without a new one become 0."""
    table = np.zeros(256, np.uint8)
    table[list(names)] = list(names.values())
    return np.asarray(table[labels.astype(np.uint8)])


def _from_lobes(lobes: sitk.Image) -> Found:
    return Found(on_grid_of(lobes, SIDE_OF_LOBE[sitk.GetArrayViewFromImage(lobes)]), lobes)
