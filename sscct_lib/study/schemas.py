"""The columns of every table that one stage hands to another: meaning, unit, and what is allowed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandera.pandas as pa

if TYPE_CHECKING:
    from sscct_lib.study.settings import Covariate

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SEXES = ["female", "male"]
SUBTYPES = ["limited", "diffuse", "sine", "overlap"]
CAUSES = ["lung", "other", "unknown"]
# How the covariates that a study declares begin in its cohort; what follows is their name, with `-` for `_`.
NUMBER, GROUP = "number_", "group_"


def column(
    dtype: Any,
    meaning: str,
    unit: str = "",
    checks: Any = None,
    required: bool = True,
    nullable: bool = False,
    regex: bool = False,
    default: Any = None,
) -> pa.Column:
    """Describe a column, with the unit that the data dictionary shows; under `regex` its name is a pattern of names."""
    return pa.Column(
        dtype, checks, nullable=nullable, required=required, regex=regex, coerce=True, description=meaning,
        default=default, metadata={"unit": unit},
    )  # fmt: skip


def between(low: float, high: float, words: str) -> pa.Check:
    """Check a range; `words` says in an error message what was expected."""
    return pa.Check.in_range(low, high, error=words)


def _ids() -> dict[str, pa.Column]:
    pattern = pa.Check.str_matches(
        ID_PATTERN, error="1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    )
    return {
        "scan_id": column(str, "the scan, unique in the study; no hospital number", checks=pattern),
        "patient_id": column(str, "the patient, the same for all scans of one; no hospital number", checks=pattern),
    }


def declared_columns(declared: "Mapping[str, Covariate]") -> dict[str, pa.Column]:
    """Columns of the covariates that a study declares, as its manifest and clinical table must have them."""
    columns = {}
    for name, one in declared.items():
        if one.range is not None:
            check = between(*one.range, f"a number from {one.range[0]:g} to {one.range[1]:g}")
        else:
            check = pa.Check.isin(one.levels, error=" or ".join(one.levels))
        dtype: type = str if one.levels else float
        columns[name] = column(dtype, f"{one.label} (of the {one.of})", one.unit, check, nullable=True)
    return columns


def stored_names(declared: "Mapping[str, Covariate]") -> dict[str, str]:
    """Names of declared covariates in the cohort, by their names in the manifest: `number_...` or `group_...`."""
    return {name: (GROUP if one.levels else NUMBER) + name.replace("_", "-") for name, one in declared.items()}


def covariates(declared: "Mapping[str, Covariate] | None" = None) -> dict[str, pa.Column]:
    """Clinical and scanner columns that go from the manifest to the cohort: optional ones, and those declared."""

    def optional(dtype: Any, meaning: str, unit: str = "", checks: Any = None) -> pa.Column:
        return column(dtype, meaning, unit, checks, required=False, nullable=True)

    return {
        "age_years": optional(float, "age at the scan", "years", between(0, 120, "a number from 0 to 120")),
        "sex": optional(str, "sex", checks=pa.Check.isin(SEXES, error=" or ".join(SEXES))),
        "ssc_subtype": optional(
            str, "cutaneous subtype of systemic sclerosis", checks=pa.Check.isin(SUBTYPES, error=", ".join(SUBTYPES))
        ),
        "fvc_percent": optional(
            float, "forced vital capacity near the scan", "% predicted", between(5, 200, "a number from 5 to 200")
        ),
        "dlco_percent": optional(
            float, "diffusing capacity for CO near the scan", "% predicted", between(2, 200, "a number from 2 to 200")
        ),
        "dlco_impossible": optional(
            "Int64",
            "1 where the lungs were too ill to measure the diffusing capacity; empty or 0 otherwise",
            checks=pa.Check.isin([0, 1], error="0 or 1"),
        ),
        "cause_of_death": optional(
            str, "why the patient died; empty when alive", checks=pa.Check.isin(CAUSES, error=", ".join(CAUSES))
        ),
        "scan_year": optional(
            float, "calendar year of the scan; `sscct ingest` does not write it", "year", between(1970, 2100, "a year")
        ),
        "manufacturer": optional(str, "maker of the scanner"),
        "kernel": optional(str, "reconstruction kernel"),
        "slice_thickness_mm": optional(float, "slice thickness", "mm", between(0.1, 20, "a number from 0.1 to 20")),
        **declared_columns(declared or {}),
    }


MANIFEST = pa.DataFrameSchema(
    {
        **_ids(),
        "scan_date": column("datetime64[ns]", "date of the scan", "YYYY-MM-DD", required=False, nullable=True),
        "scan_day": column(
            "Int64",
            "day of the scan, counted from the patient's first",
            "days",
            pa.Check.ge(0, error="0 or more"),
            required=False,
            nullable=True,
        ),
        "image": column(str, "NIfTI file of the scan, relative to the study folder"),
        "lung_mask": column(
            str,
            "file of the lungs, relative to the study folder: NIfTI on the same grid (1 right, 2 left), DICOM SEG or "
            "RTSTRUCT",
            required=False,
            nullable=True,
        ),
        "sha256": column(
            str,
            "SHA-256 of the image file, verified when present",
            checks=pa.Check.str_matches(r"^[0-9a-fA-F]{64}$", error="64 hexadecimal digits"),
            required=False,
            nullable=True,
        ),
        "last_contact_date": column(
            "datetime64[ns]",
            "last day on which the patient's state is known; empty: no follow-up",
            "YYYY-MM-DD",
            required=False,
            nullable=True,
        ),
        "last_contact_day": column(
            "Int64",
            "the same as a day, counted from the patient's first scan",
            "days",
            pa.Check.ge(0, error="0 or more"),
            required=False,
            nullable=True,
        ),
        "event_observed": column(
            "Int64",
            "state on that day: 1 died, 0 alive; empty: no follow-up",
            checks=pa.Check.isin([0, 1], error="0 (alive) or 1 (died)"),
            nullable=True,
        ),
        "transplant_date": column(
            "datetime64[ns]", "date of a lung transplant; empty: none", "YYYY-MM-DD", required=False, nullable=True
        ),
        "transplant_day": column(
            "Int64", "the same as a day, counted from the patient's first scan", "days", required=False, nullable=True
        ),
        **covariates(),
    },
    name="manifest",
)

COHORT = pa.DataFrameSchema(
    {
        **_ids(),
        "scan_day": column(int, "day of the scan, counted from the patient's first", "days"),
        "followup_years": column(float, "from the scan to death or last contact", "years", pa.Check.ge(0)),
        "event_observed": column(bool, "whether the follow-up ends with death"),
        "transplanted": column(bool, "whether the follow-up ends with a lung transplant", required=False),
        "fold": column(int, "cross-validation fold in which the patient is tested", checks=pa.Check.ge(0)),
        r"^label_.+y$": column(
            "Int8", "1 died within the years named, 0 alive then, empty unknown", nullable=True, regex=True
        ),
        **covariates(),
        rf"^{NUMBER}[a-z0-9-]+$": column(
            float, "a number that the study declares under `covariates`", required=False, nullable=True, regex=True
        ),
        rf"^{GROUP}[a-z0-9-]+$": column(
            str, "a category or yes and no that the study declares", required=False, nullable=True, regex=True
        ),
    },
    name="cohort",
    strict=True,
    unique=["scan_id"],
)


def _record() -> dict[str, pa.Column]:
    return {
        **_ids(),
        "status": column(str, "ok, or failed: the scan was set aside", checks=pa.Check.isin(["ok", "failed"])),
        "reason": column(str, "why it was set aside; empty when it was not"),
    }


IMAGES = pa.DataFrameSchema(
    {
        **_record(),
        "spacing_mm": column(str, "voxel sides as acquired, x y z", "mm", nullable=True),
        "size": column(str, "voxels as acquired, x y z", nullable=True),
        "sha256": column(str, "SHA-256 of the file that was read", nullable=True),
        "notes": column(str, "what was mended when it was read", required=False, nullable=True),
    },
    name="images",
    unique=["scan_id"],
)

LUNGS = pa.DataFrameSchema(
    {
        **_record(),
        "verdict": column(
            str,
            "pass, review or fail; empty when the scan was set aside",
            nullable=True,
            checks=pa.Check.isin(["pass", "review", "fail"]),
        ),
        "findings": column(str, "what the verdict rests on, in words", nullable=True),
        "volume_l": column(float, "volume of both lungs", "litres", nullable=True),
        "left_share": column(float, "share of the left lung in the volume", nullable=True),
        "lefts_side_mm": column(float, "middle of label 2, to the left of the middle of label 1", "mm", nullable=True),
        "other_side_share": column(float, "share of the mask on the side whose lung it lacks", nullable=True),
        "aerated_share": column(float, "share of the scan's aerated lung that the mask holds", nullable=True),
        "n_components": column("Int64", "separate pieces of the mask", nullable=True),
        "mean_hu": column(float, "mean density of the lungs", "HU", nullable=True),
        "high_attenuation_share": column(float, "share of lung from -600 to -250 HU", nullable=True),
        "low_attenuation_share": column(float, "share of lung below -950 HU", nullable=True),
        "cut_area_cm2": column(float, "area in which the edge of the scan cuts lung", "cm2", nullable=True),
        "solid_share": column(float, "share of the mask above 0 HU", nullable=True),
        "solid_core_ml": column(float, "volume of the mask inside thick solid tissue", "mL", nullable=True),
        "outside_share": column(float, "share of the mask outside the body", nullable=True),
        "missed_air_l": column(float, "largest piece of aerated lung outside the mask", "litres", nullable=True),
        "chest_width_mm": column(float, "lungs from side to side", "mm", nullable=True),
        "chest_depth_mm": column(float, "lungs from front to back", "mm", nullable=True),
        "trachea_hu": column(float, "median density of the air in the trachea", "HU", nullable=True),
        "noise_hu": column(float, "standard deviation in the air of the trachea", "HU", nullable=True),
        "step_ratio": column(float, "largest change between slices, against that of their neighbours", nullable=True),
        "trachea_height": column(float, "middle of the trachea, from base (0) to apex (1) of the lungs", nullable=True),
        "spine_behind_mm": column(float, "bone in the midline, behind the middle of the lungs", "mm", nullable=True),
        "spine_share": column(float, "share of slices through the lungs that show the spine behind", nullable=True),
        "heart_left_mm": column(float, "heart to the left of the spine", "mm", nullable=True),
        "heart_hu": column(float, "median density of the heart", "HU", nullable=True),
        "contrast_medium": column("boolean", "whether the heart is denser than 80 HU", nullable=True),
        "smallest_lobe_share": column(float, "share of the smallest lobe, where lobes are given", nullable=True),
        "agreement_dice": column(float, "Dice overlap with a second method, where one ran", nullable=True),
        "chest_shape_mm": column(str, "widths, depths and spine every 10 mm below the apex", "mm", nullable=True),
        "shape_change_mm": column(float, "difference from the patient's most similar scan", "mm", nullable=True),
        "volume_change": column(float, "relative difference from the patient's other scans", nullable=True),
        "flags": column(str, "the measures behind the findings, separated by spaces", nullable=True),
        "readers": column(str, "what each reader of the mask decided, by initials", nullable=True),
        "decision": column(str, "what people changed, verdict or mask, in words", nullable=True),
        "place_mm": column(str, "where the first finding lies: x y z in the scan", "mm", nullable=True),
    },
    name="lungs",
    unique=["scan_id"],
)


# How the names of features begin, by the image that a filter made; models see no others.
IMAGE_TYPES = ("original_", "log-sigma-", "wavelet-")

RADIOMICS = pa.DataFrameSchema(
    {
        **_record(),
        "settings_hash": column(str, "settings and versions behind the features, hashed", nullable=True),
        rf"^({'|'.join(IMAGE_TYPES)})(.+_)?(firstorder|shape|glcm|gldm|glrlm|glszm|ngtdm)_.+$": column(
            float,
            "a feature of PyRadiomics under its own name, of the image or a filtered one; a part of the lungs ends it",
            required=False,
            nullable=True,
            regex=True,
        ),
        r"^qct_.+$": column(float, "quantitative CT", required=False, nullable=True, regex=True),
    },
    name="radiomics",
    strict=True,
    unique=["scan_id"],
)

# What a model is, whatever it is called; a table without these columns gets them empty.
IDENTITY = {
    "family": column(
        str, "what it learns from: a set of features, a clinical score, networks; empty: its name says it", default=""
    ),
    "network": column(str, "which network; empty for other models", default=""),
    "variant": column(str, "what is changed in a variant of another model; empty for the model itself", default=""),
}

PREDICTIONS = pa.DataFrameSchema(
    {
        "model": column(str, "name of the model as tables and figures show it"),
        "horizon_years": column(float, "years after the scan", "years", pa.Check.gt(0)),
        **_ids(),
        "repeat": column(
            int,
            "which split of the patients; 0: the cohort's folds. Repeat and fold name the fit that made the risk",
            checks=pa.Check.ge(0, error="0 or more"),
        ),
        "fold": column(int, "fold of that split in which the scan was tested; the fit never saw its patient"),
        "risk": column(
            float, "predicted probability of death within the horizon", checks=between(0, 1, "a number from 0 to 1")
        ),
        "risk_sd": column(
            float, "spread of the risk over the members of the model; empty for a single model", nullable=True
        ),
        "score": column(
            float,
            "of a score that no scan of the study was used to make, such as points: its value, by which scans are "
            "ranked instead of by the risk; empty for other models",
            nullable=True,
        ),
        **IDENTITY,
    },
    name="predictions",
    strict=True,
    add_missing_columns=True,
    unique=["model", "horizon_years", "scan_id", "repeat"],
)

ATTRIBUTIONS = pa.DataFrameSchema(
    {
        "model": column(str, "name of the model as tables and figures show it"),
        "network": column(str, "which network"),
        **_ids(),
        "likeness": column(float, "rank correlation with the map of the untrained network", nullable=True),
    },
    name="attributions",
    strict=True,
    unique=["network", "scan_id"],
)

UNUSUAL = pa.DataFrameSchema(
    {
        "network": column(str, "which network"),
        **_ids(),
        "fold": column(int, "fold in which the scan was tested; the network never saw its patient"),
        "distance": column(float, "Mahalanobis distance from the training scans, as the network sees them"),
        "threshold": column(float, "distance beyond which a scan is flagged; infinite with too few patients to tell"),
        "unusual": column(bool, "whether it is flagged"),
        "reasons": column(str, "what is unusual about it, in words; empty when it is not flagged"),
    },
    name="unusual",
    strict=True,
    unique=["network", "scan_id"],
)

PERFORMANCE = pa.DataFrameSchema(
    {
        "model": column(str, "name of the model"),
        "horizon_years": column(float, "years after the scan", "years"),
        "metric": column(str, "what was measured"),
        "estimate": column(float, "the estimate; empty when it cannot be estimated", nullable=True),
        "ci_low": column(float, "lower end of the 95 % interval by bootstrap of patients", nullable=True),
        "ci_high": column(float, "upper end of the same", nullable=True),
        "sd_splits": column(
            float,
            "standard deviation of the estimate between repeats of the cross-validation; empty without repeats",
            nullable=True,
        ),
        "n_scans": column(int, "scans that were judged"),
        "n_patients": column(int, "their patients"),
        "n_events": column(int, "scans followed by death within the horizon"),
        "n_patients_died": column(int, "patients of these"),
        "n_patients_alive": column(int, "patients of the scans known to be followed by life beyond the horizon"),
        "n_unknown": column(int, "scans whose state at the horizon is unknown"),
        "note": column(str, "why there is no estimate or interval, or which part of the scans was judged"),
        **IDENTITY,
    },
    name="performance",
    strict=True,
    add_missing_columns=True,
    unique=["model", "horizon_years", "metric"],
)

SWEPT_RUNS = pa.DataFrameSchema(
    {
        "run": column(str, "name of the run"),
        "changes": column(str, "settings that differ from `study.yaml`, with their values; empty: none"),
        "missing": column(str, "why the run is not finished; empty when it is"),
        "state": column(str, "checksum of its table of performance when it was compared; empty without one"),
    },
    name="swept_runs",
    strict=True,
    unique=["run"],
)

SWEEP = pa.DataFrameSchema(
    {
        "run": column(str, "name of the run"),
        "kind": column(str, "the model's name without remarks, the same in all runs"),
        **PERFORMANCE.columns,
        "difference": column(float, "AUC of the run minus that of the first run, on the same scans", nullable=True),
        "difference_low": column(float, "lower end of its 95 % interval by bootstrap of patients", nullable=True),
        "difference_high": column(float, "upper end of the same", nullable=True),
        "n_paired": column(int, "scans that both runs judged, with the same patient, follow-up and outcome"),
    },
    name="sweep",
    strict=True,
    unique=["run", "model", "horizon_years", "metric"],
)
