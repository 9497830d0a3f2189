"""A study: its typed settings, and where a run keeps things.

A study is a folder with `study.yaml`, `data_manifest.csv` and `runs/<name>/`. What a run of a sweep changes in
`study.yaml` lies in its `runs/<name>/settings.yaml`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator

from sscct_lib.deep_settings import DeepSettings
from sscct_lib.deep_settings import NetworkSettings as NetworkSettings
from sscct_lib.plain_yaml import lay_over, parse_yaml
from sscct_lib.sections import Count, Positive, Section, Words

SETTINGS_FILE = "study.yaml"
RUN_SETTINGS_FILE = "settings.yaml"
MANIFEST_FILE = "data_manifest.csv"
MOST_SHOWN = 200  # characters of a wrong value
SPACING_MM = (0.1, 20.0)  # least and largest voxel side of a scan that is read or made

LungRegion = Literal["right", "left", "upper", "middle", "lower", "peel", "core", "rul", "rml", "rll", "lul", "lll"]
LungMethod = Literal["threshold", "provided", "lungmask", "totalsegmentator"]
VoxelSide = Annotated[float, Field(ge=SPACING_MM[0], le=SPACING_MM[1])]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class StudyError(ValueError):
    """Something is wrong with the study as a whole; the message says what, where and how to mend it."""


class DemoSettings(Section):
    """The embedded synthetic cohort; a study of real scans has no such section.

    The published study's size is `n_patients: 640`, `n_scans: 2125`, `spacing_mm: 2.0`.
    """

    n_patients: Annotated[int, Field(ge=1, le=5000)] = Field(76, description="patients to make, at most")
    n_scans: Count | None = Field(None, description="stop at this many scans; none: all scans of all patients")
    spacing_mm: Annotated[float, Field(ge=0.8, le=10)] = Field(3.0, description="voxel side of the synthetic scans, mm")
    seed: int | None = Field(None, ge=0, description="of the synthetic patients and scans; none: the study's `seed`")
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

    n_folds: Annotated[int, Field(ge=2)] = Field(5, description="cross-validation folds, split by patient")
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
    peel_mm: Positive = Field(15.0, description="depth of the peel below the surface of the lungs, mm")
    regions: tuple[LungRegion, ...] = Field(
        (), description="parts of the lungs described beside the whole; lobes, as `rul`, where the masks have them"
    )
    log_sigma_mm: tuple[Positive, ...] = Field((), description="widths of Laplacian of Gaussian filters, mm")
    wavelet: bool = Field(False, description="features of the eight wavelet bands too")


FeatureSet = Literal[
    "Clinical", "Quantitative CT", "Clinical + quantitative CT", "Radiomics", "Radiomics + change", "All features"
]


class TabularSettings(Section):
    """Models on tables of features."""

    feature_sets: tuple[FeatureSet, ...] = Field(
        get_args(FeatureSet), min_length=1, description="each has its model: an elastic-net Cox regression"
    )
    compared: tuple[Literal["logistic", "forest", "boosting", "harmonised"], ...] = Field(
        ("logistic", "forest", "boosting", "harmonised"),
        description="other estimators beside it, and itself after ComBat over scanners (harmonised)",
    )
    compared_on: tuple[FeatureSet, ...] = Field(
        ("Clinical + quantitative CT", "All features"), description="feature sets on which these are tried"
    )
    n_repeats: Count = Field(
        3, description="times that cross-validation is repeated, each with other folds; risks are averaged"
    )
    n_inner_folds: Annotated[int, Field(ge=2)] = Field(3, description="folds inside the training patients")
    n_stability_scans: Annotated[int, Field(ge=0)] = Field(
        40, description="scans that are perturbed to see which features are stable; 0: every feature is used"
    )
    max_correlation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="correlation between two features above which a model keeps only the first"
    )
    n_trees: Count = Field(100, description="trees of a survival forest")
    min_icc: Annotated[float, Field(ge=0, le=1)] = Field(
        0.75, description="agreement, ICC(2,1), below which a feature is left out of a model"
    )


class HorizonSettings(Section):
    """How risks are judged."""

    n_bootstrap: Count = Field(1000, description="bootstrap samples of patients behind each interval")
    n_risk_groups: Annotated[int, Field(ge=2)] = Field(4, description="groups of a calibration plot")
    reference: Words = Field("Clinical", description="model that the others are compared with")
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.1, 0.2, 0.4), min_length=1, description="risks from which a scan is flagged, stated before results are seen"
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


class Settings(Section):
    """Everything that `study.yaml` may say."""

    title: Words = Field("Untitled study", description="shown on the front page of the book")
    seed: int = Field(2026, ge=0, description="every random number follows from it")
    horizons_years: tuple[Positive, ...] = Field((1.0, 3.0, 5.0), min_length=1, description="years after the scan")
    labels: Literal["censored_unknown", "as_published"] = Field(
        "censored_unknown",
        description="a scan followed for less than the horizon, alive, is unknown; as_published counts it as alive",
    )
    shard_size: Count = Field(32, description="scans that one job handles")
    demo: DemoSettings | None = None
    images: ImageSettings = ImageSettings()
    cohort: CohortSettings = CohortSettings()
    lungs: LungSettings = LungSettings()
    radiomics: RadiomicsSettings = RadiomicsSettings()
    tabular: TabularSettings = TabularSettings()
    deep: DeepSettings = DeepSettings()
    horizons: HorizonSettings = HorizonSettings()
    book: BookSettings = BookSettings()

    @field_validator("horizons_years")
    @classmethod
    def _rising(cls, horizons: tuple[float, ...]) -> tuple[float, ...]:
        if list(horizons) != sorted(set(horizons)):
            raise ValueError("expected rising years, each once")
        return horizons


@dataclass(frozen=True)
class Study:
    """A study folder, its settings, and one named run of it.

    Attributes
    ----------
    folder
        The study folder.
    settings
        The content of `study.yaml`, with the overrides of this run.
    run_name
        The run; its files lie in `runs/<run_name>/`.
    """

    folder: Path
    settings: Settings
    run_name: str = "main"

    @property
    def demo_seed(self) -> int:
        """Seed of the synthetic patients and scans."""
        demo = self.settings.demo
        return self.settings.seed if demo is None or demo.seed is None else demo.seed

    @property
    def run_settings_path(self) -> Path:
        """What this run changes in `study.yaml`; there is none but for the runs of a sweep."""
        return self.run / RUN_SETTINGS_FILE

    @property
    def manifest_path(self) -> Path:
        """The manifest, one row a scan."""
        return self.folder / MANIFEST_FILE

    @property
    def run(self) -> Path:
        """The folder of this run."""
        return self.folder / "runs" / self.run_name

    def table(self, name: str) -> Path:
        """Path of a table of this run, for example `cohort` or `predictions/03_radiomics`."""
        return self.run / "tables" / f"{name}.parquet"

    def image(self, scan_id: str) -> Path:
        """The scan in the study's orientation and spacing, int16 HU."""
        return self.run / "images" / f"{scan_id}.nii.gz"

    def mask(self, scan_id: str) -> Path:
        """The scan's lung mask on the grid of `image`: 0 outside, 1 right lung, 2 left lung."""
        return self.run / "masks" / f"{scan_id}.nii.gz"

    def lobes(self, scan_id: str) -> Path:
        """The scan's lobes on the same grid, where the method gives them: 1 to 5 as in `lung_methods.LOBES`."""
        return self.run / "lobes" / f"{scan_id}.nii.gz"

    def attribution(self, network: str, scan_id: str, trained: bool = True) -> Path:
        """What raises and lowers a scan's risk: an array file, float32, on the grid of the network's cube."""
        return self.run / "attribution" / ("trained" if trained else "untrained") / network / f"{scan_id}.npy"

    @property
    def models(self) -> Path:
        """Folder of the trained models of this run."""
        return self.run / "models"


def load_study(folder: str | Path, run_name: str = "main", **overrides: Any) -> Study:
    """Read a study's settings, with what its run changes in them.

    Parameters
    ----------
    folder
        The study folder; it holds `study.yaml`.
    run_name
        Which run of the study: letters, digits, `_` and `-`.
    **overrides
        Settings that this run changes: `section={"name": value}`, or `name=value` at the top level. A value
        of None means "as in `study.yaml`".

    Returns
    -------
    Study
        The study with validated settings.

    Raises
    ------
    StudyError
        If `study.yaml` is missing, is not YAML, or has an unknown or impossible value; each is named.
    """
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        raise StudyError(f"{path} is missing. A study folder needs one; `sscct demo FOLDER` makes an example.")
    content = read_settings(path)
    where = str(path)
    try:
        RunNameHolder(name=run_name)
        own = Path(folder) / "runs" / run_name / RUN_SETTINGS_FILE
        if own.is_file():
            content = lay_over(content, read_settings(own))
            where = f"{path}, with {own.relative_to(folder)}"
        settings = Settings.model_validate(lay_over(content, _given(overrides)))
    except ValidationError as error:
        raise StudyError(f"{where}:\n{_violations(error)}") from error
    return Study(Path(folder), settings, run_name)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings, without judging them.

    Parameters
    ----------
    path
        `study.yaml`, or the settings of a run.

    Returns
    -------
    dict
        Values by name, sections as dictionaries.

    Raises
    ------
    StudyError
        If it is not YAML, or not `name: value` lines.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise StudyError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected `name: value` lines, found a {type(content).__name__}.")
    return content


class RunNameHolder(Section):
    """Validates the name of a run, which becomes the name of a folder."""

    name: RunName


def _given(overrides: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is None: as in `study.yaml`."""
    kept = {name: _given(value) if isinstance(value, dict) else value for name, value in overrides.items()}
    return {name: value for name, value in kept.items() if value is not None}


def _violations(error: ValidationError) -> str:
    return "\n".join(
        f"  {'.'.join(str(part) for part in item['loc'])}: {item['msg']}; found {repr(item.get('input'))[:MOST_SHOWN]}"
        for item in error.errors()
    )


def fingerprint(*parts: Any) -> str:
    """Hash settings and other plain values, so that a result can tell whether it is still current.

    Parameters
    ----------
    *parts
        Values that JSON can write, pydantic models or paths.

    Returns
    -------
    str
        16 hexadecimal digits of a SHA-256.
    """

    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
