"""Three encoders of a lung volume, and the network that an encoder and a head make together.

The encoders are MONAI's, with published weights' names and shapes. On a processor two of their layers are replaced: a
convolution that is wrong in 16 bits, and window attention, which keeps its weights in the cache.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.resnet import ResNetBlock, resnet18
from monai.networks.nets.swin_unetr import SwinTransformer, WindowAttention
from torch import Tensor, nn
from torch.nn import functional

from sscct_lib.deep.heads import ClassifierHead, ClinicalBranch, HazardHead
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import SELF_SUPERVISED, NetworkSettings
from sscct_lib.study.words import NETWORK_WORDS

FAMILY = "Networks"  # of all models here, as their predictions say
SWIN_FACTOR = 32  # patches of 2 and four mergings halve the side five times
HEADS = 12  # the four stages' attention heads (3, 6, 12, 24) share the width in whole numbers
AT_ONCE = 2**20  # attention weights in work; 4 MB in 32 bits
# glibc asks the system for every large array anew, which then hands out its pages one by one; half the time of a
# training step can go there. So a process keeps what it has had, in large pages.
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class HazardNetwork(nn.Module):
    """An encoder, (B, 1, D, H, W) to (B, n_features), with a head that gives risks at the ends of `n_intervals`.

    Clinical values may add to the score; `dropout` is the share of features left out at random in training.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_features: int,
        n_intervals: int,
        head: Literal["hazard", "classifiers"] = "hazard",
        clinical: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.centre: Tensor
        self.spread: Tensor
        self.n_features, self.n_intervals = n_features, n_intervals
        self.encoder = encoder
        self.head = (HazardHead if head == "hazard" else ClassifierHead)(n_features, n_intervals)
        self.clinical = ClinicalBranch() if clinical else None
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("centre", torch.tensor(0.0))
        self.register_buffer("spread", torch.tensor(1.0))

    def forward(self, x: Tensor, clinical: Tensor | None = None) -> Tensor:
        """Map volumes (B, 1, D, H, W), 0 to 1, and clinical values (B, N_VALUES) to logits (B, n_intervals)."""
        return self.logits(self.features(x), clinical)

    def logits(self, features: Tensor, clinical: Tensor | None = None) -> Tensor:
        """Map what the encoder gave (B, n_features), and clinical values, to logits (B, n_intervals)."""
        logits: Tensor = self.head(self.dropout(features))
        return logits if self.clinical is None or clinical is None else logits + self.clinical(clinical)

    def risks(self, logits: Tensor) -> Tensor:
        """Turn logits (B, n_intervals) to risks of death within each horizon (B, n_intervals)."""
        return self.head.risks(logits)

    def features(self, x: Tensor) -> Tensor:
        """Map volumes (B, 1, D, H, W), 0 to 1, to what the encoder makes of them (B, n_features)."""
        encoded: Tensor = self.encoder((x - self.centre) / self.spread)
        return encoded

    def standardise(self, centre: float, spread: float) -> None:
        """Let the encoder see (density - centre) / spread; until then it sees densities as they are, 0 to 1.

        Lung fills a tenth of the window. Layer norms, which the Swin Transformer has in the place of batch norms, hide
        so small a difference from the layers above.
        """
        with torch.no_grad():
            self.centre.fill_(centre)
            self.spread.fill_(spread)


def build(network_name: str, settings: NetworkSettings, n_intervals: int) -> HazardNetwork:
    """Build an untrained network with its head; StudyError where it cannot take cubes of this size.

    `weights` of its settings are not read here: see `pretrained.load_weights`.
    """
    check_size(network_name, settings)
    encoder, n_features = KINDS[network_name].build(settings)
    suit_processor(encoder)
    return HazardNetwork(encoder, n_features, n_intervals, settings.head, settings.clinical, settings.dropout)


def check_size(network_name: str, settings: NetworkSettings) -> None:
    """Refuse an unknown network, and a size it cannot take: too small, or not to be halved (StudyError)."""
    if network_name not in KINDS:
        raise StudyError(f"Unknown network {network_name!r}; expected one of {', '.join(KINDS)}.")
    where = f"study.yaml, deep.{network_name}"
    smallest = KINDS[network_name].smallest
    if settings.size < smallest:
        raise StudyError(
            f"{where}.size is {settings.size}; {NETWORK_WORDS[network_name]} needs at least {smallest} voxels."
        )
    if network_name == "swin" and settings.size % SWIN_FACTOR:
        nearest = max(SWIN_FACTOR, round(settings.size / SWIN_FACTOR) * SWIN_FACTOR)
        raise StudyError(
            f"{where}.size is {settings.size}; the Swin Transformer halves it five times, so it must divide by "
            f"{SWIN_FACTOR}, for example {nearest}."
        )
    if network_name == "swin" and (settings.feature_size < HEADS or settings.feature_size % HEADS):
        raise StudyError(f"{where}.feature_size is {settings.feature_size}; expected a multiple of {HEADS}.")


def display_name(network_name: str, settings: NetworkSettings) -> str:
    """Name a model as tables and figures show it: what it sees beside the image, its head, and where it started."""
    title = NETWORK_WORDS[network_name] + (" + clinical" if settings.clinical else "")
    remarks = ["classifiers"] if settings.head == "classifiers" else []
    if settings.weights is None:
        remarks.append("from scratch")
    elif str(settings.weights) == SELF_SUPERVISED:
        remarks.append("self-supervised")
    return f"{title} ({', '.join(remarks)})" if remarks else title


def build_resnet18() -> tuple[nn.Module, int]:
    """Build a 3D ResNet-18 in MedicalNet's shape (stem of stride 2, type-A shortcuts; arXiv 1904.00625)."""
    encoder: nn.Module = resnet18(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="A", feed_forward=False
    )
    for block in encoder.modules():
        if isinstance(block, ResNetBlock) and block.downsample is not None:
            block.downsample = ZeroPadShortcut(block.conv1.out_channels, block.stride)
    return encoder, 512


class ZeroPadShortcut(nn.Module):
    """The parameter-free shortcut of a residual block that halves the volume (type A of He et al., CVPR 2016)."""

    # MONAI's own copies its input without gradient (`out.data`), which cuts the path that residual learning rests on.
    # This one has the same values and, like MONAI's, no entry in the state dict, so MedicalNet weights fit.
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Take every `stride`-th voxel of (B, C, D, H, W) and add channels of zeros."""
        taken = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return functional.pad(taken, (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


def build_densenet121() -> tuple[nn.Module, int]:
    """Build a 3D DenseNet-121, and n_features (Huang G et al. Densely connected convolutional networks. CVPR 2017)."""
    encoder: Any = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1)
    n_features = int(encoder.class_layers.out.in_features)
    encoder.class_layers.out = nn.Identity()
    return encoder, n_features


def build_swin(feature_size: int = 48, window_size: int = 7) -> tuple[nn.Module, int]:
    """Build the encoder of SwinUNETR (arXiv 2201.01266), and n_features; published weights: width 48, windows of 7."""
    return SwinEncoder(feature_size, window_size), 16 * feature_size


@dataclass(frozen=True)
class Kind:
    """A kind of network."""

    build: Callable[[NetworkSettings], tuple[nn.Module, int]]  # the encoder, and how many features it gives
    smallest: int  # side of a cube in voxels; below, a pooling has nothing to pool


KINDS = {
    "resnet18": Kind(lambda settings: build_resnet18(), smallest=16),
    "densenet121": Kind(lambda settings: build_densenet121(), smallest=32),
    "swin": Kind(lambda settings: build_swin(settings.feature_size, settings.window_size), smallest=32),
}


class SwinEncoder(nn.Module):
    """The encoder of SwinUNETR with its deepest feature map averaged over the volume."""

    def __init__(self, feature_size: int, window_size: int) -> None:
        super().__init__()
        self.vit = SwinTransformer(
            in_chans=1,
            embed_dim=feature_size,
            window_size=(window_size,) * 3,
            patch_size=(2, 2, 2),
            depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24),
            spatial_dims=3,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, D, H, W) to (B, 16 * feature_size)."""
        # With 16 bits a processor's layer norms add up their weights' gradients in 16 bits too, and lose most of them.
        with processor_at_32_bits():
            deepest: Tensor = self.vit(x, True)[-1]
        return deepest.mean(dim=(2, 3, 4))


def suit_processor(encoder: nn.Module) -> None:
    """Let every 3D convolution and window attention be one of ours; parameters and their names stay."""
    for module in encoder.modules():
        # MONAI builds its layers itself and takes none from outside. Another class on the same object keeps weights,
        # hooks and names; a new module in its place would have to be put into each parent.
        module.__class__ = {nn.Conv3d: Convolution, WindowAttention: PiecewiseAttention}.get(type(module), type(module))


class Convolution(nn.Conv3d):
    """A convolution that stays at 32 bits where the processor's 16 are wrong.

    oneDNN 3 in PyTorch 2.13 reads and writes beside the gradient of the kernel where a side of the input is no larger
    than the kernel. `tests/deep/test_networks.py` holds the rule to PyTorch's own 32 bits.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W)."""
        sides = zip(input.shape[2:], self.kernel_size, strict=True)
        if not any(1 < kernel >= side for side, kernel in sides):
            return super().forward(input)
        with processor_at_32_bits():
            return super().forward(input.float() if input.device.type == "cpu" else input)


class PiecewiseAttention(WindowAttention):
    """MONAI's window attention with the same weights and values, in less time and memory on the processor.

    MONAI keeps the weights of all windows for the way back: at windows of 7 voxels 343 numbers for each voxel and head,
    several times over. Most of its time goes into memory. Here they are computed for a few windows at a time and once
    more on the way back (Dao T et al. FlashAttention. NeurIPS 2022). On a GPU it is MONAI's own.
    """

    relative_position_index: Tensor

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens (windows * B, N, C), with masks (windows, N, N) to add or none, to (windows * B, N, C)."""
        if x.device.type != "cpu":
            return super().forward(x, mask)  # type: ignore[no-untyped-call,no-any-return]
        n_windows, n_tokens, n_features = x.shape
        parts = self.qkv(x).reshape(n_windows, n_tokens, 3, self.num_heads, n_features // self.num_heads)
        q, k, v = (part.contiguous() for part in parts.permute(2, 0, 3, 1, 4))
        pairs = self.relative_position_index[:n_tokens, :n_tokens].reshape(-1)
        bias = self.relative_position_bias_table[pairs].reshape(n_tokens, n_tokens, -1).permute(2, 0, 1).contiguous()
        attended = _Attention.apply(q * self.scale, k, v, bias, mask)  # type: ignore[no-untyped-call]
        mixed: Tensor = self.proj(attended.transpose(1, 2).reshape(n_windows, n_tokens, n_features))
        return mixed


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ + bias + mask) v, for (windows, heads, N, C), (heads, N, N) and (masks, N, N)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        result = torch.empty_like(q)
        for piece in _pieces(q):
            result[piece] = _weights(q, k, bias, mask, piece) @ v[piece]
        ctx.save_for_backward(q, k, v, bias, result)
        ctx.mask = mask
        return result

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        q, k, v, bias, result = ctx.saved_tensors
        dq, dk, dv, dbias = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.zeros_like(bias)
        # What the softmax takes off each row: the mean of the weights' gradients, weighted by the weights.
        means = (gradient * result).sum(-1, keepdim=True)
        for piece in _pieces(q):
            weights = _weights(q, k, bias, ctx.mask, piece)
            dv[piece] = weights.transpose(-2, -1) @ gradient[piece]
            dscores = (gradient[piece] @ v[piece].transpose(-2, -1)).sub_(means[piece]).mul_(weights)
            dq[piece] = dscores @ k[piece]
            dk[piece] = dscores.transpose(-2, -1) @ q[piece]
            dbias += dscores.sum(0)
        return dq, dk, dv, dbias, None


def _pieces(q: Tensor) -> list[slice]:
    n_windows, n_heads, n_tokens, _ = q.shape
    step = max(1, AT_ONCE // (n_heads * n_tokens**2))
    return [slice(start, min(start + step, n_windows)) for start in range(0, n_windows, step)]


def _weights(q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, piece: slice) -> Tensor:
    scores = (q[piece] @ k[piece].transpose(-2, -1)).add_(bias)
    if mask is not None:
        # The windows of a scan follow each other, and each scan of a batch has the same masks.
        scores.add_(mask[torch.arange(piece.start, piece.stop) % len(mask)].unsqueeze(1))
    return torch.softmax(scores, -1)


def processor_at_32_bits() -> torch.autocast:
    """Open a context in which a processor computes with 32 bits; what a GPU does stays."""
    return torch.autocast("cpu", enabled=False)


def multiplies_bf16() -> bool:
    """Tell whether this processor multiplies numbers of 16 bits (bf16) itself; others are slower with them."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let processes that are started inside keep the memory that they free (glibc; elsewhere this changes nothing)."""
    before = {name: os.environ.get(name) for name in KEPT}
    os.environ.update({name: value for name, value in KEPT.items() if name not in os.environ})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
