"""The section `deep` of `study.yaml`: the networks, and how they are trained."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sscct_lib.sections import Count, Positive, Section

SELF_SUPERVISED = "self-supervised"


class NetworkSettings(Section):
    """One deep model."""

    size: Count = Field(96, description="side of the cube that the network sees, voxels")
    epochs: Count = Field(50, description="passes over the training patients; each shows one scan of every patient")
    batch_size: Count = Field(4, description="scans in a step")
    learning_rate: Positive = Field(4e-4, description="of AdamW")
    n_members: Count = Field(
        1, description="networks trained in each fold from different random numbers; their mean predicts"
    )
    density_weight: float = Field(
        0.0, ge=0, description="weight of a second task in training, to tell the density of six lung zones; 0: none"
    )
    feature_size: int = Field(48, description="width of the Swin Transformer; the other networks have none")
    window_size: Count = Field(7, description="side of the Swin Transformer's attention windows, patches")
    weights: Path | None = Field(
        None,
        description="where the encoder starts: a file of weights; `medicalnet`, `imagenet` or `swinvit` (see "
        "`sscct weights list`); `self-supervised`: what it learned from the scans of the training patients alone; "
        "none: from scratch",
    )
    weights_sha256: str | None = Field(None, description="SHA-256 that the weight file must have")


class DeepSettings(Section):
    """The deep models and what they see."""

    hu_range: tuple[float, float] = Field(
        (-1024.0, 600.0), description="densities mapped to 0..1; background is the lower bound"
    )
    n_explained: Annotated[int, Field(ge=1)] = Field(
        12, description="scans, of as many patients, whose risks are explained voxel by voxel: those with the highest"
    )
    networks: tuple[Literal["resnet18", "densenet121", "swin"], ...] = Field(
        ("resnet18", "densenet121", "swin"), min_length=1, description="which are trained"
    )
    resnet18: NetworkSettings = NetworkSettings()
    densenet121: NetworkSettings = NetworkSettings()
    swin: NetworkSettings = NetworkSettings()
