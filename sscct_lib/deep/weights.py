"""Weights that an encoder can start from: published ones and how to get them; files verified, matched and loaded.

Nothing is downloaded while a study runs: `fetch` is the only function that opens the network, and a person calls it.
MedicalNet: Chen S, Ma K, Zheng Y. arXiv 1904.00625. ImageNet: Deng J et al. CVPR 2009; DenseNet: Huang G et al. CVPR
2017. Swin Transformer on CT: Tang Y et al. CVPR 2022. lungmask:
Hofmanninger J et al. Eur Radiol Exp 2020;4:50. Inflation of 2D kernels: Carreira J, Zisserman A. CVPR 2017.
"""

import http.client
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pandas as pd

from sscct_lib.study.files import atomic, grows
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import SELF_SUPERVISED, NetworkSettings

if TYPE_CHECKING:
    from torch import Size, Tensor, nn

FOLDER = "weights"
LEAST_SHARE = 0.9  # of an encoder's tensors, that a file must fill
TIMEOUT_SECONDS = 60
CHUNK = 1 << 20
LUNGS = "lungmask"  # the method that finds lungs by the U-Net R231


@dataclass(frozen=True)
class Published:
    """Weights that others published."""

    network: str  # whose encoder they fill, or `LUNGS`
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
    "lungmask": Published(
        LUNGS,
        "unet_r231-d5d2fc3d.pth",
        "https://github.com/JoHof/lungmask/releases/download/v0.0/unet_r231-d5d2fc3d.pth",
        "Apache-2.0",
        "231 CTs of everyday care, lungs with and without disease",
        "d5d2fc3df432115933491f115b283e94d1f5c841c0e82f6e7bd2d65d3ccde69f",
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
        published = weights.sha256_start + ("…" if len(weights.sha256_start) < 64 else "")
        said = digest or (published if weights.sha256_start else "not published")
        rows.append({"name": name, **asdict(weights), "sha256": said, "state": state})
    return pd.DataFrame(rows).drop(columns="sha256_start")


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


@dataclass(frozen=True)
class Weights:
    """Where the weights of an encoder come from, and how many tensors they filled."""

    file: str
    sha256: str
    n_matched: int  # tensors of the encoder that the file filled
    n_expected: int  # tensors that the encoder has
    n_unexpected: int  # tensors of the file that the encoder has no place for

    @property
    def words(self) -> str:
        """The provenance in words, for tables."""
        missing = self.n_expected - self.n_matched  # they keep their random start
        return (
            f"{self.file}, {self.n_matched} of {self.n_expected} tensors matched, {missing} missing, "
            f"{self.n_unexpected} unexpected, SHA-256 {self.sha256[:12]}…"
        )


def load_weights(encoder: "nn.Module", path: Path, sha256: str | None) -> Weights:
    """Fill an encoder, in place, with pretrained weights.

    Understood are files whose tensors lie bare, under `state_dict` or under `model`; names with `module.`, `encoder.`,
    `backbone.` or `swinViT.` before them; `mlp.fc1`/`mlp.fc2`; torchvision's names of dense layers; and 2D kernels,
    which are inflated: repeated along depth and divided by it, colours summed.

    Parameters
    ----------
    path
        A `.safetensors` file, or one that `torch.load(weights_only=True)` reads.
    sha256
        SHA-256 that the file must have.

    Raises
    ------
    StudyError
        If the file is missing or unreadable, has another SHA-256 or none is given, or fills less than 90 % of the
        encoder's tensors.
    """
    digest = verify(path, sha256)
    source = {_our_name(name): tensor for name, tensor in _read_tensors(path).items()}
    target = {name: tensor for name, tensor in encoder.state_dict().items() if tensor.is_floating_point()}
    fitted = {name: _inflate(source[name], tensor.shape) for name, tensor in target.items() if name in source}
    matched = {name: tensor for name, tensor in fitted.items() if tensor.shape == target[name].shape}
    n_floating = sum(tensor.is_floating_point() for tensor in source.values())
    weights = Weights(path.name, digest, len(matched), len(target), n_floating - len(matched))
    if len(matched) < LEAST_SHARE * len(target):
        missing = [name for name in target if name not in matched][:3]
        raise StudyError(
            f"{path.name} fills {len(matched)} of the {len(target)} tensors of the encoder; at least "
            f"{LEAST_SHARE:.0%} are needed to call it pretrained. Missing, for example: {', '.join(missing)}. "
            f"The file holds, for example: {', '.join(list(source)[:3])}."
        )
    encoder.load_state_dict(matched, strict=False)
    return weights


def _read_tensors(path: Path) -> "dict[str, Tensor]":
    import torch
    from safetensors.torch import load_file

    if grows(path, path.stat().st_size):
        raise StudyError(f"{path.name} is an archive that grows when it is read; expected weights stored as they are.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the restricted unpickler raise anything
        raise StudyError(f"{path.name} is not a file of weights only: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    found = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in found if isinstance(name, str) and _is_plain(value)}
    if not tensors:
        raise StudyError(f"{path.name} holds no named tensors, at the top nor under `state_dict` or `model`.")
    return tensors


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a tensor with its numbers in memory, one after the other."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    # A few numbers can be spread out to a tensor of any size, which copies would fill memory with.
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _our_name(name: str) -> str:
    """Translate a published tensor name to MONAI's."""
    name = re.sub(r"^((module|encoder|backbone|swinViT)\.)+", "", name)
    name = name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")
    name = re.sub(r"(denselayer\d+)\.(norm|conv)\.?([12])\.", r"\1.layers.\2\3.", name)
    return re.sub(r"^(patch_embed|layers[1-4])\.", r"vit.\1.", name)


def _inflate(tensor: "Tensor", shape: "Size") -> "Tensor":
    """Make a 3D kernel (O, I, D, H, W) of a 2D one (O, I, H, W); leave any other tensor as it is."""
    if tensor.dim() == 4 and len(shape) == 5:
        if shape[1] == 1:
            tensor = tensor.sum(dim=1, keepdim=True)
        tensor = tensor.unsqueeze(2).repeat(1, 1, shape[2], 1, 1) / shape[2]
    return tensor
