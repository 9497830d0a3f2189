"""The section `deep` of `study.yaml`: the networks, and how they are trained."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sscct_lib.sections import Count, Positive, Section

SELF_SUPERVISED = "self-supervised"
Balance = Literal["none", "sampling", "loss"]


class NetworkSettings(Section):
    """One deep model."""

    size: Count = Field(96, description="side of the cube that the network sees, voxels")
    epochs: Count = Field(50, description="passes over the training patients; each shows one scan of every patient")
    batch_size: Count = Field(4, description="scans in a step")
    learning_rate: Positive = Field(4e-4, description="highest, of AdamW; it rises in a line and falls in a cosine")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    patience: Count | None = Field(
        None,
        description="epochs without a lower loss on patients set apart from training and testing, after which it "
        "stops; the best epoch is kept. None: all training patients teach, for all epochs",
    )
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.15, description="share of the training patients set apart, where `patience` is given"
    )
    balance: Balance = Field(
        "none",
        description="sampling: patients who die are shown as often as the others; loss: they weigh as much in sum; "
        "both rank scans alike, and the risks learned are moved back to those of the cohort",
    )
    head_epochs: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="first epochs, in which the encoder is frozen and its head alone learns; none: a tenth of them "
        "with pretrained weights, else 0; as many as `epochs`: the encoder stays as it is",
    )
    early_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="learning rate of the first layers as a share of the last's, with those between in even steps of "
        "its logarithm; none: 0.1 with pretrained weights, else 1",
    )
    n_members: Count = Field(
        1, description="networks trained in each fold from different random numbers; their mean predicts"
    )
    density_weight: float = Field(
        0.0, ge=0, description="weight of a second task in training, to tell the density of six lung zones; 0: none"
    )
    head: Literal["hazard", "classifiers"] = Field(
        "hazard",
        description="hazard: one curve, whose risks rise with the horizon; classifiers: one for each horizon, as "
        "published, without the scans whose state at it is unknown",
    )
    clinical: bool = Field(
        False, description="age, sex, subtype, FVC and DLCO, with what is missing, add to the score of the image"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of the encoder's features left out at random in training; a model of one member then gets "
        "the spread of its risks by dropout too",
    )
    longitudinal: bool = Field(
        False, description="also a model on all scans of a patient up to the current one, from what this network sees"
    )
    flag_unusual: bool = Field(
        True, description="scans that differ from the training patients' in what this network sees are flagged"
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


class AugmentationSettings(Section):
    """How training scans are changed at random; scans that are tested never are."""

    probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="chance of each kind of change; 0: scans as they are"
    )
    rotation_degrees: float = Field(6.0, ge=0, description="largest turn about each axis")
    scaling: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.06, description="largest change of size along each axis")
    shift: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.06, description="largest displacement, share of the side")
    kernel: bool = Field(True, description="blurred or sharpened, as by another reconstruction kernel")
    density_hu: float = Field(10.0, ge=0, description="largest change of all densities, HU")
    noise_hu: float = Field(16.0, ge=0, description="standard deviation of added noise, HU")
    cutout: Annotated[float, Field(ge=0, lt=1)] = Field(0.25, description="side of a box cut out, share of the side")
    flip_left_right: bool = Field(
        False,
        description="mirrored too. Off, since the sides differ: the heart lies left, the right lung has three lobes, "
        "and disease such as aspiration prefers a side",
    )


class PretrainingSettings(Section):
    """How an encoder learns from the scans alone, before it learns from what became of the patients."""

    epochs: Count = Field(100, description="passes over the training patients; each shows one scan of every patient")
    learning_rate: Positive = Field(1e-3, description="highest, of AdamW; it rises in a line and falls in a cosine")
    masked_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="share of a volume hidden in boxes, of which the encoder must guess the densities"
    )
    contrast_weight: float = Field(
        0.1, ge=0, description="weight of a second task, to tell which two masked volumes are of the same scan; 0: none"
    )


class DeepSettings(Section):
    """The deep models, what they see, and on what machine they learn."""

    preset: Literal["demo", "published", "best"] | None = Field(
        None,
        description="fills the settings of this section that are not given. demo: minutes without a GPU; published: as "
        "near as it is known to the published study, window and frozen encoders included; best: with a GPU",
    )
    hu_range: tuple[float, float] = Field(
        (-1024.0, 600.0), description="densities mapped to 0..1; background is the lower bound"
    )
    n_explained: Annotated[int, Field(ge=1)] = Field(
        12, description="scans, of as many patients, whose risks are explained voxel by voxel: those with the highest"
    )
    unusual_share: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.05, description="share of ordinary patients' scans that may be flagged as unusual"
    )
    networks: tuple[Literal["resnet18", "densenet121", "swin"], ...] = Field(
        ("resnet18", "densenet121", "swin"), min_length=1, description="which are trained"
    )
    precision: Literal["auto", "32", "bf16", "16"] = Field(
        "auto",
        description="of arithmetic in training; auto: bf16 where the machine has it, 16 on other GPUs, otherwise 32",
    )
    devices: Count = Field(1, description="GPUs that share one training")
    num_nodes: Count = Field(1, description="machines that share one training")
    strategy: str = Field("auto", description="how they share it: Lightning's name, such as `ddp_spawn` or `ddp`")
    augmentation: AugmentationSettings = AugmentationSettings()
    pretraining: PretrainingSettings = PretrainingSettings()
    resnet18: NetworkSettings = NetworkSettings()
    densenet121: NetworkSettings = NetworkSettings()
    swin: NetworkSettings = NetworkSettings()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Put the values of the preset where none are given."""
        preset = PRESETS.get(given.get("preset"), {}) if isinstance(given, dict) else {}
        return _filled(given, preset) if preset else given


def _filled(given: Any, preset: dict[str, Any]) -> Any:
    if not isinstance(given, dict):
        return given
    both = {name: _filled(given[name], value) if name in given else value for name, value in preset.items()}
    return given | {name: both[name] for name in preset}


def _networks(weights: tuple[str | None, str | None, str | None], **settings: Any) -> dict[str, dict[str, Any]]:
    named = zip(("resnet18", "densenet121", "swin"), weights, strict=True)
    return {name: {**settings, "weights": start} for name, start in named}


_DEMO = {"size": 32, "epochs": 12, "batch_size": 8, "learning_rate": 1e-3, "density_weight": 1.0}
_PRETRAINED = ("medicalnet", "imagenet", "swinvit")

# published: the window, size, frozen encoders, optimiser and stopping of the sibling study by the same first author
# (arXiv 2510.04923), whose code is known, with a classifier a horizon. best: fine-tuned through, with three members;
# for a GPU.
PRESETS: dict[str | None, dict[str, Any]] = {
    "demo": {
        "resnet18": _DEMO,
        "densenet121": _DEMO | {"epochs": 10},
        "swin": _DEMO | {"feature_size": 24, "window_size": 4},
    },
    "published": {
        "hu_range": (-175.0, 250.0),
        "augmentation": {"probability": 0.0},
        **_networks(
            _PRETRAINED,
            size=96,
            epochs=50,
            batch_size=4,
            learning_rate=4e-4,
            weight_decay=1e-5,
            patience=10,
            head_epochs=50,
            balance="loss",
            head="classifiers",
        ),
    },
    "best": _networks(
        _PRETRAINED, size=96, epochs=60, batch_size=8, learning_rate=2e-4, patience=15, n_members=3, density_weight=0.2
    ),
}
