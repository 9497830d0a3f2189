"""Three encoders of a lung volume, and the network that an encoder and a head make together."""

from typing import Any, Literal

import numpy as np
import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.resnet import ResNetBlock, resnet18
from monai.networks.nets.swin_unetr import SwinTransformer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sscct_lib.clinical_branch import ClinicalBranch
from sscct_lib.deep_settings import SELF_SUPERVISED, NetworkSettings
from sscct_lib.heads import ClassifierHead, HazardHead
from sscct_lib.processors import convolve_rightly, processor_at_32_bits
from sscct_lib.study import StudyError
from sscct_lib.window_attention import attend_piecewise
from sscct_lib.wording import NETWORK_WORDS

SMALLEST = {"resnet18": 16, "densenet121": 32, "swin": 32}  # voxels; below, a pooling has nothing to pool
SWIN_FACTOR = 32  # patches of 2 and four mergings halve the side five times
HEADS = 12  # the four stages' attention heads (3, 6, 12, 24) share the width in whole numbers


class ZeroPadShortcut(nn.Module):
    """The parameter-free shortcut of a residual block that halves the volume (type A of He et al., 2016).

    MONAI's own copies its input without gradient (`out.data`), which cuts the path that residual learning rests
    on. This one has the same values and, like MONAI's, no entry in the state dict, so MedicalNet weights fit.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Take every `stride`-th voxel of (B, C, D, H, W) and add channels of zeros."""
        taken = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return functional.pad(taken, (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


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
        attend_piecewise(self.vit)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, D, H, W) to (B, 16 * feature_size)."""
        # With 16 bits a processor's layer norms add up their weights' gradients in 16 bits too, and lose most of them.
        with processor_at_32_bits():
            deepest: Tensor = self.vit(x, True)[-1]
        return deepest.mean(dim=(2, 3, 4))


def build_resnet18() -> tuple[nn.Module, int]:
    """Build a 3D ResNet-18 in MedicalNet's shape (stem of stride 2, type-A shortcuts with gradient).

    Returns
    -------
    encoder : torch.nn.Module
        Maps (B, 1, D, H, W) to (B, n_features).
    n_features : int
        512.

    References
    ----------
    He K et al. Deep residual learning for image recognition. CVPR 2016. Chen S, Ma K, Zheng Y. Med3D: transfer
    learning for 3D medical image analysis. arXiv 1904.00625.
    """
    encoder: nn.Module = resnet18(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="A", feed_forward=False
    )
    for block in encoder.modules():
        if isinstance(block, ResNetBlock) and block.downsample is not None:
            block.downsample = ZeroPadShortcut(block.conv1.out_channels, block.stride)
    return encoder, 512


def build_densenet121() -> tuple[nn.Module, int]:
    """Build a 3D DenseNet-121.

    Returns
    -------
    encoder : torch.nn.Module
        Maps (B, 1, D, H, W) to (B, n_features).
    n_features : int
        1024.

    References
    ----------
    Huang G et al. Densely connected convolutional networks. CVPR 2017.
    """
    encoder: Any = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1)
    n_features = int(encoder.class_layers.out.in_features)
    encoder.class_layers.out = nn.Identity()
    return encoder, n_features


def build_swin(feature_size: int = 48, window_size: int = 7) -> tuple[nn.Module, int]:
    """Build the Swin Transformer encoder of SwinUNETR.

    Parameters
    ----------
    feature_size
        Width of the first stage, a multiple of 12; the published weights have 48.
    window_size
        Side of the attention windows, patches; the published weights have 7.

    Returns
    -------
    encoder : torch.nn.Module
        Maps (B, 1, D, H, W) to (B, n_features).
    n_features : int
        16 * feature_size.

    References
    ----------
    Hatamizadeh A et al. Swin UNETR. BrainLes 2021, arXiv 2201.01266. Tang Y et al. Self-supervised pre-training
    of Swin transformers for 3D medical image analysis. CVPR 2022.
    """
    return SwinEncoder(feature_size, window_size), 16 * feature_size


class HazardNetwork(nn.Module):
    """An encoder with a head that gives risks.

    Parameters
    ----------
    encoder
        Maps (B, 1, D, H, W) to (B, n_features).
    n_features
        What the encoder gives.
    n_intervals
        Intervals between horizons, the first from 0.
    head
        `hazard`, or `classifiers` for one classifier a horizon.
    clinical
        Whether clinical values add to the score.
    dropout
        Share of the encoder's features left out at random in training.
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

    def losses(self, logits: Tensor, died: Tensor, survived: Tensor) -> Tensor:
        """Give the loss of each scan (B,); the targets are those of `heads.hazard_targets`."""
        return self.head.losses(logits, died, survived)

    def risks(self, logits: Tensor) -> Tensor:
        """Turn logits (B, n_intervals) to risks of death within each horizon (B, n_intervals)."""
        return self.head.risks(logits)

    def features(self, x: Tensor) -> Tensor:
        """Map volumes (B, 1, D, H, W), 0 to 1, to what the encoder makes of them (B, n_features)."""
        encoded: Tensor = self.encoder((x - self.centre) / self.spread)
        return encoded

    def standardise(self, centre: float, spread: float) -> None:
        """Let the encoder see (density - centre) / spread; until then it sees densities as they are, 0 to 1.

        Lung fills a tenth of the window. Layer norms, which the Swin Transformer has in the place of batch norms,
        hide so small a difference from the layers above.
        """
        with torch.no_grad():
            self.centre.fill_(centre)
            self.spread.fill_(spread)

    def start_at(self, hazards: NDArray[np.float64]) -> None:
        """Let the untrained head predict nearly `hazards`, shape (n_intervals,), for every scan.

        Training then begins at the cohort's own risk instead of at a hazard of one half in each interval.
        """
        self.head.start_at(hazards)


def check_size(network_name: str, settings: NetworkSettings) -> None:
    """Refuse a size that a network cannot take.

    Parameters
    ----------
    network_name
        `resnet18`, `densenet121` or `swin`.
    settings
        Its settings.

    Raises
    ------
    StudyError
        If the name is unknown, the cube is too small, or it does not divide (Swin Transformer).
    """
    if network_name not in NETWORK_WORDS:
        raise StudyError(f"Unknown network {network_name!r}; expected one of {', '.join(NETWORK_WORDS)}.")
    where = f"study.yaml, deep.{network_name}"
    if settings.size < SMALLEST[network_name]:
        raise StudyError(
            f"{where}.size is {settings.size}; {NETWORK_WORDS[network_name]} needs at least {SMALLEST[network_name]} "
            "voxels."
        )
    if network_name == "swin" and settings.size % SWIN_FACTOR:
        nearest = max(SWIN_FACTOR, round(settings.size / SWIN_FACTOR) * SWIN_FACTOR)
        raise StudyError(
            f"{where}.size is {settings.size}; the Swin Transformer halves it five times, so it must divide by "
            f"{SWIN_FACTOR}, for example {nearest}."
        )
    if network_name == "swin" and (settings.feature_size < HEADS or settings.feature_size % HEADS):
        raise StudyError(f"{where}.feature_size is {settings.feature_size}; expected a multiple of {HEADS}.")


def build(network_name: str, settings: NetworkSettings, n_intervals: int) -> HazardNetwork:
    """Build an untrained network with its head.

    Parameters
    ----------
    network_name
        `resnet18`, `densenet121` or `swin`.
    settings
        Its settings; `weights` are not read here, see `pretrained.load_weights`.
    n_intervals
        Intervals between horizons.

    Returns
    -------
    HazardNetwork
        The network.

    Raises
    ------
    StudyError
        As `check_size`.
    """
    check_size(network_name, settings)
    if network_name == "resnet18":
        parts = build_resnet18()
    elif network_name == "densenet121":
        parts = build_densenet121()
    else:
        parts = build_swin(settings.feature_size, settings.window_size)
    convolve_rightly(parts[0])
    return HazardNetwork(*parts, n_intervals, settings.head, settings.clinical, settings.dropout)


def display_name(network_name: str, settings: NetworkSettings) -> str:
    """Name a model as tables and figures show it: what it sees beside the image, its head, and where it started."""
    title = NETWORK_WORDS[network_name] + (" + clinical" if settings.clinical else "")
    remarks = ["classifiers"] if settings.head == "classifiers" else []
    if settings.weights is None:
        remarks.append("from scratch")
    elif str(settings.weights) == SELF_SUPERVISED:
        remarks.append("self-supervised")
    return f"{title} ({', '.join(remarks)})" if remarks else title
