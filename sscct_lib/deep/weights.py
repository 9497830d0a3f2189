"""Published weights that an encoder can start from: what they are, where they come from, and how to get them.

Nothing is downloaded while a study runs: `fetch` is the only function that opens the network, and a person calls it.

References
----------
Chen S, Ma K, Zheng Y. Med3D: transfer learning for 3D medical image analysis. arXiv 1904.00625 (MedicalNet).
Huang G et al. Densely connected convolutional networks. CVPR 2017; Deng J et al. ImageNet. CVPR 2009.
Tang Y et al. Self-supervised pre-training of Swin transformers for 3D medical image analysis. CVPR 2022.
"""

import http.client
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pandas as pd

from sscct_lib.study.files import atomic, checksum
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import SELF_SUPERVISED, NetworkSettings

FOLDER = "weights"
TIMEOUT_SECONDS = 60
CHUNK = 1 << 20


@dataclass(frozen=True)
class Published:
    """Weights that others published."""

    network: str  # whose encoder they fill
    file: str
    source: str  # the address where the authors keep the file
    licence: str
    learned_from: str
    sha256_start: str = ""  # first digits of its SHA-256, as far as its authors publish them


# By the names that `weights` in `study.yaml` understands.
PUBLISHED = {
    "medicalnet": Published(
        "resnet18",
        "resnet_18_23dataset.pth",
        "https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet18/resolve/main/resnet_18_23dataset.pth",
        "MIT",
        "organs and tumours in 23 sets of CT and MR",
    ),
    "imagenet": Published(
        "densenet121",
        "densenet121-a639ec97.pth",
        "https://download.pytorch.org/models/densenet121-a639ec97.pth",
        "BSD-3-Clause; the photographs themselves are for research",
        "1.3 million photographs; 2D kernels, inflated to 3D",
        "a639ec97",
    ),
    "swinvit": Published(
        "swin",
        "model_swinvit.pt",
        "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/model_swinvit.pt",
        "Apache-2.0",
        "5,050 CT scans without labels",
    ),
}


def located(study: Study, network_name: str, settings: NetworkSettings) -> Path:
    """Find the file that `weights` of a network names: `weights/<file>` of the study, or a path, which may be missing.

    StudyError where a published name belongs to another network, or the file is missing or cannot be the published one.
    """
    name = str(settings.weights)
    if name not in PUBLISHED:
        return study.folder / name
    weights = PUBLISHED[name]
    if weights.network != network_name:
        raise StudyError(f"study.yaml, deep.{network_name}.weights: {name} are weights of {weights.network}.")
    path = study.folder / FOLDER / weights.file
    if not path.is_file():
        raise StudyError(f"{FOLDER}/{weights.file} is missing. Fetch it: sscct weights fetch {name} STUDY.")
    if weights.sha256_start:
        _check_start(weights, checksum(path))
    return path


def verify(path: Path, sha256: str | None) -> str:
    """Give the SHA-256 of a file of weights; StudyError where it is missing, not `sha256`, or none is given."""
    if not path.is_file():
        raise StudyError(f"{path} is missing: put the weight file there, or remove `weights` to train from scratch.")
    digest = checksum(path)
    if sha256 is None:
        raise StudyError(f"weights_sha256 is missing for {path.name}: compare with its source, then set {digest}.")
    if digest != sha256.lower():
        raise StudyError(f"{path.name} has SHA-256 {digest}; expected {sha256.lower()}. Fetch the file again.")
    return digest


def check_weights(study: Study, network_name: str) -> None:
    """Refuse weights that are not there, or are not what they should be (StudyError, as `located` and `verify`)."""
    settings = study.settings.deep.network(network_name)
    if settings.weights is not None and not is_self_supervised(settings):
        verify(located(study, network_name, settings), settings.weights_sha256)


def table(study: Study) -> pd.DataFrame:
    """List the published weights, and which of them the study has.

    Returns
    -------
    pandas.DataFrame
        One row a set of weights: `name`, `network`, `file`, `learned_from`, `licence`, `source`, `sha256` (of the file
        in the study; otherwise the digits that its authors publish) and `state` (`here`, `absent` or `damaged`).
    """
    rows = []
    for name, weights in PUBLISHED.items():
        path = study.folder / FOLDER / weights.file
        digest = checksum(path) if path.is_file() else ""
        state = "absent" if not digest else "here" if digest.startswith(weights.sha256_start) else "damaged"
        rows.append(
            {
                "name": name,
                "network": weights.network,
                "file": weights.file,
                "learned_from": weights.learned_from,
                "licence": weights.licence,
                "source": weights.source,
                "sha256": digest or (f"{weights.sha256_start}…" if weights.sha256_start else "not published"),
                "state": state,
            }
        )
    return pd.DataFrame(rows)


def fetch(folder: Path, name: str, sha256: str | None = None) -> tuple[Path, str]:
    """Download published weights to `weights/` of the study folder, whole or not at all.

    Parameters
    ----------
    sha256
        SHA-256 that the file must have, where you know it; the published digits are checked in any case.

    Returns
    -------
    path : Path
        The file. One that is there already and has the right SHA-256 is kept.
    sha256 : str
        Of the file, 64 hexadecimal digits.

    Raises
    ------
    StudyError
        If the name is unknown, the source cannot be reached, or the file is not the one expected.
    """
    if name not in PUBLISHED:
        raise StudyError(f"Unknown weights {name!r}; expected one of {', '.join(PUBLISHED)}.")
    weights = PUBLISHED[name]
    path = folder / FOLDER / weights.file
    if path.is_file():
        return path, _verified(weights, checksum(path), sha256)
    try:
        with atomic(path) as partial:
            digest = _download(weights.source, partial)
            _verified(weights, digest, sha256)
    except (OSError, http.client.HTTPException) as error:
        raise StudyError(
            f"{weights.source} cannot be fetched ({error}). Without a network here, fetch it on another machine and "
            f"put it into {FOLDER}/ of the study, then: sscct weights verify STUDY."
        ) from error
    return path, digest


def _download(source: str, target: Path) -> str:
    with urlopen(source, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
        expected = answer.headers.get("Content-Length")
        shutil.copyfileobj(answer, file, CHUNK)
        if expected is not None and file.tell() != int(expected):
            raise OSError(f"{file.tell():,} of {int(expected):,} bytes arrived")
    return checksum(target)


def _verified(weights: Published, digest: str, sha256: str | None) -> str:
    _check_start(weights, digest)
    if sha256 is not None and digest != sha256.lower():
        raise StudyError(f"{weights.file} has SHA-256 {digest}; expected {sha256.lower()}. Nothing was kept or used.")
    return digest


def _check_start(weights: Published, digest: str) -> None:
    if not digest.startswith(weights.sha256_start):
        raise StudyError(
            f"{weights.file} has SHA-256 {digest}; its authors' begins with {weights.sha256_start}. Delete the file "
            "where you have it, and fetch it again."
        )


def is_self_supervised(settings: NetworkSettings) -> bool:
    """Tell whether a network starts from weights learned on the study's own scans."""
    return str(settings.weights) == SELF_SUPERVISED
