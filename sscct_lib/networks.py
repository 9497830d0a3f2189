"""Three encoders of a lung volume, and a head of discrete-time hazards that knows about censoring."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.resnet import ResNetBlock, resnet18
from monai.networks.nets.swin_unetr import SwinTransformer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sscct_lib.study import NetworkSettings, StudyError

TITLES = {"resnet18": "ResNet-18", "densenet121": "DenseNet-121", "swin": "Swin Transformer"}
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

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, D, H, W) to (B, 16 * feature_size)."""
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


class HazardHead(nn.Module):
    """One score a scan, and the cohort's logit of hazard in each interval between horizons.

    The logits of hazard are score + baseline, so scans keep their order over the horizons (proportional odds of
    hazards). Free logits in each interval would learn the first year from its few deaths alone; here every death
    teaches the score.

    References
    ----------
    Cox DR. Regression models and life-tables. J R Stat Soc B 1972;34:187-220, section 6 (discrete time).
    Gensheimer MF, Narasimhan B. A scalable discrete-time survival model for neural networks. PeerJ 2019;7:e6257
    (both variants, proportional and free).
    """

    def __init__(self, n_features: int, n_intervals: int) -> None:
        super().__init__()
        self.score = nn.Linear(n_features, 1, bias=False)
        self.baseline = nn.Parameter(torch.zeros(n_intervals))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, n_features) to logits of hazard (B, n_intervals)."""
        logits: Tensor = self.score(features) + self.baseline
        return logits


class HazardNetwork(nn.Module):
    """An encoder with a head of discrete-time hazards.

    Parameters
    ----------
    encoder
        Maps (B, 1, D, H, W) to (B, n_features).
    n_features
        What the encoder gives.
    n_intervals
        Intervals between horizons, the first from 0.
    """

    def __init__(self, encoder: nn.Module, n_features: int, n_intervals: int) -> None:
        super().__init__()
        self.centre: Tensor
        self.spread: Tensor
        self.n_features, self.n_intervals = n_features, n_intervals
        self.encoder = encoder
        self.head = HazardHead(n_features, n_intervals)
        self.register_buffer("centre", torch.tensor(0.0))
        self.register_buffer("spread", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map volumes (B, 1, D, H, W), 0 to 1, to logits of hazard (B, n_intervals)."""
        logits: Tensor = self.head(self.features(x))
        return logits

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
        with torch.no_grad():
            self.head.score.weight.mul_(0.1)
            self.head.baseline.copy_(torch.from_numpy(np.log(hazards / (1 - hazards))))


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
    if network_name not in TITLES:
        raise StudyError(f"Unknown network {network_name!r}; expected one of {', '.join(TITLES)}.")
    where = f"study.yaml, deep.{network_name}"
    if settings.size < SMALLEST[network_name]:
        raise StudyError(
            f"{where}.size is {settings.size}; {TITLES[network_name]} needs at least {SMALLEST[network_name]} voxels."
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
    """Build an untrained network with its hazard head.

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
    return HazardNetwork(*parts, n_intervals)


def display_name(network_name: str, settings: NetworkSettings) -> str:
    """Name a model as tables and figures show it: without pretrained weights it says so."""
    title = TITLES[network_name]
    return title if settings.weights else f"{title} (from scratch)"


def hazard_targets(
    followup_years: NDArray[np.float64], event_observed: NDArray[np.bool_], horizons_years: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Tell in which interval between horizons each scan was followed by death, and which it survived.

    A scan censored inside an interval contributes the part of the interval for which it was followed: with a
    hazard that is constant inside the interval, surviving the fraction f of it has probability (1 - hazard)^f.
    With no scan specific hazards the maximum of this likelihood is the actuarial (life-table) estimate.

    Parameters
    ----------
    followup_years
        From the scan to death or last contact, years, shape (n,).
    event_observed
        Whether the follow-up ends with death, shape (n,).
    horizons_years
        Increasing horizons h_1 < ... < h_K, years; the intervals are (0, h_1], (h_1, h_2], ...

    Returns
    -------
    died : numpy.ndarray
        1 in the interval of death, else 0, shape (n, K).
    survived : numpy.ndarray
        Fraction of each interval known to be survived, 0 to 1, shape (n, K); 0 in the interval of death.

    References
    ----------
    Gensheimer MF, Narasimhan B. A scalable discrete-time survival model for neural networks. PeerJ 2019;7:e6257
    (likelihood). Kvamme H, Borgan Ø. Continuous and discrete-time survival prediction with neural networks.
    Lifetime Data Anal 2021;27:710-36 (censoring inside an interval under a constant hazard).
    """
    ends = np.asarray(horizons_years, dtype=float)
    starts = np.concatenate([[0.0], ends[:-1]])
    time = followup_years[:, None]
    died = event_observed[:, None] & (time > starts) & (time <= ends)
    survived = np.where(died, 0.0, np.clip((time - starts) / (ends - starts), 0.0, 1.0))
    return died.astype(np.float32), survived.astype(np.float32)


def base_hazards(died: NDArray[np.float32], survived: NDArray[np.float32]) -> NDArray[np.float64]:
    """Estimate the cohort's hazard in each interval, shape (K,).

    The actuarial estimate, deaths / (deaths + intervals survived), with half a death added to each so that no
    interval starts at a hazard of 0 or 1.
    """
    n_died = died.sum(axis=0, dtype=float) + 0.5
    return np.asarray(n_died / (n_died + survived.sum(axis=0, dtype=float) + 0.5))


def hazard_losses(logits: Tensor, died: Tensor, survived: Tensor) -> Tensor:
    """Negative log-likelihood of each scan under discrete-time hazards.

    Parameters
    ----------
    logits
        Logits of hazard, shape (B, K).
    died, survived
        From `hazard_targets`, shape (B, K).

    Returns
    -------
    torch.Tensor
        - sum over k of died_k log h_k + survived_k log(1 - h_k), shape (B,).

    References
    ----------
    Gensheimer and Narasimhan 2019, equation 1, with fractions of intervals survived.
    """
    log_likelihood = died * functional.logsigmoid(logits) + survived * functional.logsigmoid(-logits)
    return -log_likelihood.sum(dim=1)


def risks(logits: Tensor) -> Tensor:
    """Turn logits of hazard (B, K) to risks of death within each horizon (B, K), non-decreasing over horizons."""
    log_survival = functional.logsigmoid(-logits).cumsum(dim=1)
    return -torch.expm1(log_survival)
