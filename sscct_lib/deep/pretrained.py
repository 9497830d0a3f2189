"""Pretrained weights: verified by SHA-256, matched tensor by tensor, refused when they fill too little."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sscct_lib.deep.weights import verify
from sscct_lib.study.files import grows
from sscct_lib.study.folder import StudyError

LEAST_SHARE = 0.9


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


def load_weights(encoder: nn.Module, path: Path, sha256: str | None) -> Weights:
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

    References
    ----------
    Carreira J, Zisserman A. Quo vadis, action recognition? CVPR 2017 (inflation of 2D kernels).
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


def _read_tensors(path: Path) -> dict[str, Tensor]:
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
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    # A few numbers can be spread out to a tensor of any size, which copies would fill memory with.
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _our_name(name: str) -> str:
    """Translate a published tensor name to MONAI's."""
    name = re.sub(r"^((module|encoder|backbone|swinViT)\.)+", "", name)
    name = name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")
    name = re.sub(r"(denselayer\d+)\.(norm|conv)\.?([12])\.", r"\1.layers.\2\3.", name)
    return re.sub(r"^(patch_embed|layers[1-4])\.", r"vit.\1.", name)


def _inflate(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Make a 3D kernel (O, I, D, H, W) of a 2D one (O, I, H, W); leave any other tensor as it is."""
    if tensor.dim() == 4 and len(shape) == 5:
        if shape[1] == 1:
            tensor = tensor.sum(dim=1, keepdim=True)
        tensor = tensor.unsqueeze(2).repeat(1, 1, shape[2], 1, 1) / shape[2]
    return tensor
