"""Everything that `study.yaml` may say, section by section; the descriptions of the fields are the book's."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Words = Annotated[str, Field(pattern=r"^[^<>`{}\[\]\\\x00-\x1f]{1,200}$")]
"""Words that pages show: one line, in which nothing is markup."""
# Limits above are those of memory and patience: a study's settings may come from a stranger.
Count = Annotated[int, Field(ge=1, le=100_000)]
Few = Annotated[int, Field(ge=1, le=100)]
Folds = Annotated[int, Field(ge=2, le=100)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
MOST_BINS = 2000

SELF_SUPERVISED = "self-supervised"
SPACING_MM = (0.1, 20.0)  # least and largest voxel side of a scan that is read or made

Balance = Literal["none", "sampling", "loss"]
LungRegion = Literal["right", "left", "upper", "middle", "lower", "peel", "core", "rul", "rml", "rll", "lul", "lll"]
LungMethod = Literal["threshold", "provided", "lungmask", "totalsegmentator"]
VoxelSide = Annotated[float, Field(ge=SPACING_MM[0], le=SPACING_MM[1])]
CovariateName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=40)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}(~[0-9a-f]{8})?$")]

FeatureSet = Literal[
    "Clinical", "Quantitative CT", "Clinical + quantitative CT", "Radiomics", "Radiomics + change", "All features"
]


class Section(BaseModel):
    """A part of `study.yaml`: names that are not known are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Covariate(Section):
    """A clinical column of this study's own, beside those that every study may have."""

    label: Words = Field(description="what it is, in words")
    kind: Literal["number", "category", "yes_no"] = Field(description="what its cells hold; yes_no: yes or no")
    of: Literal["patient", "visit"] = Field(
        description="patient: the same in all rows of a patient; visit: of the day, attached to the nearest scan"
    )
    range: tuple[float, float] | None = Field(None, description="of a number: least and largest plausible value")
    unit: Annotated[str, Field(pattern=r"^[^<>`{}\[\]\\\x00-\x1f]{0,40}$")] = Field("", description="of a number")
    values: tuple[Words, ...] = Field(
        (), max_length=1000, description="of a category: all values that its cells may hold"
    )
    predictor: bool = Field(False, description="whether models on clinical values see it (networks do not)")

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if (self.range is not None) != (self.kind == "number") or (self.range and not self.range[0] < self.range[1]):
            raise ValueError("expected `range: [least, largest]` of a number, and of nothing else")
        if (len(set(self.values)) >= 2) != (self.kind == "category") or len(set(self.values)) < len(self.values):
            raise ValueError("expected two or more different `values` of a category, and none of anything else")
        return self

    @property
    def levels(self) -> tuple[str, ...]:
        """Values of its cells; none of a number."""
        return ("no", "yes") if self.kind == "yes_no" else self.values


class DemoSettings(Section):
    """The embedded synthetic cohort; a study of real scans has no such section.

    The published study's size is `n_patients: 640`, `n_scans: 2125`, `spacing_mm: 2.0`.
    """

    n_patients: Annotated[int, Field(ge=1, le=5000)] = Field(76, description="patients to make, at most")
    n_scans: Count | None = Field(None, description="stop at this many scans; none: all scans of all patients")
    spacing_mm: Annotated[float, Field(ge=0.8, le=10)] = Field(3.0, description="voxel side of the synthetic scans, mm")
    seed: Seed | None = Field(None, description="of the synthetic patients and scans; none: the study's `seed`")
    confounded_scanner: bool = Field(
        False, description="sicker patients are scanned on one scanner, with its sharp kernel"
    )
    informative_dropout: bool = Field(False, description="sicker patients are lost to follow-up sooner")


class ImageSettings(Section):
    """How a scan is read."""

    spacing_mm: VoxelSide = Field(2.0, description="isotropic voxel side to which every scan is resampled, mm")
    kernel: Literal["soft", "sharp"] = Field(
        "soft", description="reconstruction that `sscct ingest` takes where an examination has both"
    )


class CohortSettings(Section):
    """How the cohort is split."""

    n_folds: Folds = Field(5, description="cross-validation folds, split by patient")
    transplant: Literal["ends_followup", "as_death"] = Field(
        "ends_followup",
        description="a lung transplant ends follow-up, alive; as_death: it counts as death (transplant-free survival)",
    )


class LungSettings(Section):
    """How lungs are found and judged."""

    method: LungMethod = Field(
        "threshold",
        description="threshold: from the CT, no training; provided: the manifest's lung_mask; lungmask and "
        "totalsegmentator: trained networks, whose package and weights you install",
    )
    compare_with: LungMethod | None = Field(
        None, description="second method, run on every scan to see whether both find the same lungs; none: no"
    )
    lungmask_weights: Path | None = Field(None, description="lungmask's .pth file: R231, or LTRCLobes for lobes")
    lungmask_sha256: str | None = Field(None, description="SHA-256 that this file must have")
    totalsegmentator_weights: Path | None = Field(None, description="folder of TotalSegmentator's weights")
    volume_l: tuple[Positive, Positive] = Field((1.0, 9.0), description="plausible volume of both lungs, litres")
    left_share: tuple[Positive, Positive] = Field(
        (0.35, 0.58), description="plausible share of the left lung in the volume of both"
    )
    mean_hu: tuple[float, float] = Field((-920.0, -450.0), description="plausible mean density of the lungs, HU")
    trachea_hu: tuple[float, float] = Field(
        (-1060.0, -900.0), description="plausible density of the air in the trachea, HU"
    )
    heart_hu: tuple[float, float] = Field(
        (0.0, 300.0), description="plausible density of the heart, without and with contrast, HU"
    )
    max_noise_hu: Positive = Field(120.0, description="most noise, measured in the trachea, HU")
    max_cut_area_cm2: Positive = Field(10.0, description="most lung that the edge of the scan may cut, cm²")
    max_step_ratio: Positive = Field(
        1.7, description="largest change between two slices, against that of their neighbours"
    )
    max_solid_share: Positive = Field(0.06, description="largest share of the mask above 0 HU")
    max_solid_core_ml: Positive = Field(
        0.6, description="most volume of the mask more than 4 mm inside solid tissue, where a mask leaks, mL"
    )
    max_outside_share: Positive = Field(0.001, description="largest share of the mask outside the body")
    max_missed_air_l: Positive = Field(
        0.05, description="aerated lung that the mask may leave out in one piece, litres"
    )
    min_agreement: Annotated[float, Field(ge=0, le=1)] = Field(
        0.93, description="least Dice overlap of the two methods, where `compare_with` names a second"
    )
    min_lobe_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="least share of a lobe in the lungs, where the method gives lobes"
    )
    max_visit_change: Positive = Field(
        0.35, description="largest change of lung volume against the patient's other scans, as a share"
    )
    max_shape_change_mm: Positive = Field(
        3.0, description="largest difference in the shape of the chest; beyond, it may be another patient, mm"
    )


class RadiomicsSettings(Section):
    """PyRadiomics settings; the names are PyRadiomics' own where it has one."""

    spacing_mm: VoxelSide = Field(2.0, description="isotropic voxel side at which features are computed, mm")
    bin_width: Positive = Field(25.0, description="width of a grey-level bin, HU")
    hu_range: tuple[float, float] = Field((-1024.0, 600.0), description="densities are clipped to this range, HU")
    peel_mm: Annotated[float, Field(gt=0, le=1000)] = Field(
        15.0, description="depth of the peel below the surface of the lungs, mm"
    )
    regions: tuple[LungRegion, ...] = Field(
        (),
        max_length=12,
        description="parts of the lungs described beside the whole; lobes, as `rul`, where the masks have them",
    )
    log_sigma_mm: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (), max_length=10, description="widths of Laplacian of Gaussian filters, mm"
    )
    wavelet: bool = Field(False, description="features of the eight wavelet bands too")

    @model_validator(mode="after")
    def _few_bins(self) -> Self:
        if not self.hu_range[1] - self.hu_range[0] <= MOST_BINS * self.bin_width:
            raise ValueError(f"expected at most {MOST_BINS} bins of `bin_width` in `hu_range`")
        return self


class TabularSettings(Section):
    """Models on tables of features."""

    feature_sets: tuple[FeatureSet, ...] = Field(
        get_args(FeatureSet), min_length=1, description="each has its model: an elastic-net Cox regression"
    )
    compared: tuple[Literal["logistic", "forest", "boosting", "harmonised", "imputed", "splines"], ...] = Field(
        ("logistic", "forest", "boosting", "harmonised", "imputed"),
        description="other estimators beside it, itself after ComBat over scanners (harmonised), itself with missing "
        "numbers imputed several times (imputed) rather than by the median, and itself with curves for age, FVC and "
        "DLCO (splines)",
    )
    compared_on: tuple[FeatureSet, ...] = Field(
        ("Clinical + quantitative CT", "All features"), description="feature sets on which these are tried"
    )
    n_repeats: Few = Field(
        3, description="times that cross-validation is repeated, each with other folds; risks are averaged"
    )
    n_inner_folds: Folds = Field(3, description="folds inside the training patients")
    n_stability_scans: Annotated[int, Field(ge=0, le=100_000)] = Field(
        40, description="scans that are perturbed to see which features are stable; 0: every feature is used"
    )
    max_correlation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="correlation between two features above which a model keeps only the first"
    )
    n_trees: Count = Field(100, description="trees of a survival forest")
    n_imputations: Few = Field(5, description="times that missing numbers are imputed where they are several times")
    min_icc: Annotated[float, Field(ge=0, le=1)] = Field(
        0.75, description="agreement, ICC(2,1), below which a feature is left out of a model"
    )


class NetworkSettings(Section):
    """One deep model."""

    size: Annotated[int, Field(ge=1, le=512)] = Field(96, description="side of the cube that the network sees, voxels")
    epochs: Count = Field(50, description="passes over the training patients; each shows one scan of every patient")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(4, description="scans in a step")
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
    n_members: Few = Field(
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
    feature_size: Annotated[int, Field(ge=1, le=384)] = Field(
        48, description="width of the Swin Transformer; the other networks have none"
    )
    window_size: Annotated[int, Field(ge=1, le=64)] = Field(
        7, description="side of the Swin Transformer's attention windows, patches"
    )
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


def _pretrained(**settings: Any) -> dict[str, dict[str, Any]]:
    """Give all networks the same settings, and each its published weights."""
    weights = {"resnet18": "medicalnet", "densenet121": "imagenet", "swin": "swinvit"}
    return {network: settings | {"weights": start} for network, start in weights.items()}


_DEMO = {"size": 32, "epochs": 12, "batch_size": 8, "learning_rate": 1e-3, "density_weight": 1.0}

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
        **_pretrained(
            size=96, epochs=50, batch_size=4, learning_rate=4e-4, weight_decay=1e-5, patience=10, head_epochs=50,
            balance="loss", head="classifiers",
        ),
    },
    "best": _pretrained(
        size=96, epochs=60, batch_size=8, learning_rate=2e-4, patience=15, n_members=3, density_weight=0.2
    ),
}  # fmt: skip


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
    n_explained: Count = Field(
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
    strategy: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,60}$")] = Field(
        "auto", description="how they share it: Lightning's name, such as `ddp_spawn` or `ddp`"
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    pretraining: PretrainingSettings = PretrainingSettings()
    resnet18: NetworkSettings = NetworkSettings()
    densenet121: NetworkSettings = NetworkSettings()
    swin: NetworkSettings = NetworkSettings()

    def network(self, name: str) -> NetworkSettings:
        """Settings of a network: `resnet18`, `densenet121` or `swin`."""
        settings: NetworkSettings = getattr(self, name)
        return settings

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


class HorizonSettings(Section):
    """How risks are judged."""

    n_bootstrap: Count = Field(1000, description="bootstrap samples of patients behind each interval")
    n_risk_groups: Folds = Field(4, description="groups of a calibration plot")
    reference: Words = Field("Clinical", description="model that the others are compared with")
    shown_model: Words | None = Field(
        None, description="model whose calibration and risk groups are drawn; none: that of the front page"
    )
    planned: Annotated[tuple[tuple[Words, Words], ...], Field(min_length=1, max_length=3)] | None = Field(
        None,
        description="comparisons named before results are seen, two models each, as `[[Radiomics, Clinical]]`: the "
        "first is called better than the second by their p value alone; none: clinical values with quantitative CT "
        "against clinical values and against ILD-GAP, and the first network against quantitative CT",
    )
    primary_years: Positive | None = Field(
        None, description="horizon of these comparisons, one of `horizons_years`; none: the middle one"
    )
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.1, 0.2, 0.4),
        min_length=1,
        max_length=20,
        description="risks from which a scan is flagged, stated before results are seen",
    )


class BookSettings(Section):
    """What the book shows of single patients."""

    viewer: bool = Field(
        True,
        description="a page shows 13 scans at most, cropped to the chest; false: no picture of a scan leaves the run",
    )
    patients: bool = Field(
        True, description="a chapter shows the pages of four patients at most, chosen by rule; false: of none"
    )


class DisclosureSettings(Section):
    """What is shown of few patients, in the book and in files that travel; tables of a run stay exact."""

    minimum: Annotated[int, Field(ge=1, le=100)] = Field(
        5,
        description="least count of patients, or of deaths, that is shown; fewer are `<5`, and counts from which these "
        "could be found are `hidden`. 1: all counts are shown",
    )

    @field_validator("minimum")
    @classmethod
    def _hides_something(cls, minimum: int) -> int:
        if minimum == 2:
            raise ValueError("expected 1, or 3 and more: `<2` would say that it is 1")
        return minimum


class Settings(Section):
    """Everything that `study.yaml` may say."""

    title: Words = Field("Untitled study", description="shown on the front page of the book")
    seed: Seed = Field(2026, description="every random number follows from it")
    horizons_years: tuple[Positive, ...] = Field(
        (1.0, 3.0, 5.0), min_length=1, max_length=20, description="years after the scan"
    )
    labels: Literal["censored_unknown", "as_published"] = Field(
        "censored_unknown",
        description="a scan followed for less than the horizon, alive, is unknown; as_published counts it as alive",
    )
    shard_size: Count = Field(64, description="scans that one job handles")
    demo: DemoSettings | None = None
    covariates: dict[CovariateName, Covariate] = Field(
        {},
        max_length=200,
        description="further columns of the manifest and the clinical table, by name; nothing else of them is read",
    )
    images: ImageSettings = ImageSettings()
    cohort: CohortSettings = CohortSettings()
    lungs: LungSettings = LungSettings()
    radiomics: RadiomicsSettings = RadiomicsSettings()
    tabular: TabularSettings = TabularSettings()
    deep: DeepSettings = DeepSettings()
    horizons: HorizonSettings = HorizonSettings()
    book: BookSettings = BookSettings()
    disclosure: DisclosureSettings = DisclosureSettings()

    @field_validator("horizons_years")
    @classmethod
    def _rising(cls, horizons: tuple[float, ...]) -> tuple[float, ...]:
        if list(horizons) != sorted(set(horizons)):
            raise ValueError("expected rising years, each once")
        return horizons

    @model_validator(mode="after")
    def _primary_is_judged(self) -> "Settings":
        if self.horizons.primary_years not in (None, *self.horizons_years):
            found, years = self.horizons.primary_years, ", ".join(f"{each:g}" for each in self.horizons_years)
            raise ValueError(f"horizons.primary_years is {found:g}; expected one of horizons_years ({years})")
        return self
