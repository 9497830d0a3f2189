"""Features, models, horizons, counts and estimates, written as readers see them."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from sscct_lib.study.disclosure import HIDDEN, count_text, count_texts, of_patients
from sscct_lib.study.schemas import GROUP, NUMBER

NOT_ESTIMABLE = "not estimable"
CLINICAL_WORDS = {
    "age_years": "age",
    "fvc_percent": "forced vital capacity",
    "dlco_percent": "diffusing capacity",
    "sex": "sex",
    "ssc_subtype": "cutaneous subtype",
}
TRANSPLANT_COUNTS = "In this study, death means death or lung transplant, whichever came first."
"""Told wherever a study has `cohort.transplant: as_death`."""
NETWORK_WORDS = {"resnet18": "ResNet-18", "densenet121": "DenseNet-121", "swin": "Swin Transformer"}
CLASS_WORDS = {
    "firstorder": "first order",
    "shape": "shape",
    "glcm": "GLCM",
    "glrlm": "GLRLM",
    "glszm": "GLSZM",
    "gldm": "GLDM",
    "ngtdm": "NGTDM",
}
MEASURE_WORDS = {
    "volume_l": "lung volume",
    "mean_hu": "mean attenuation",
    "sd_hu": "standard deviation of attenuation",
    "skewness": "skewness of attenuation",
    "kurtosis": "kurtosis of attenuation",
    "high_attenuation_share": "HAA",
    "low_attenuation_share": "LAA-950",
}
REGION_WORDS = {
    "lower_minus_upper": ", lower minus upper zones",
    "peel_minus_core": ", subpleural minus central",
    "right": " in the right lung",
    "left": " in the left lung",
    "upper": " in the upper zones",
    "middle": " in the middle zones",
    "lower": " in the lower zones",
    "peel": ", subpleural",
    "core": ", central",
    "rul": " in the right upper lobe",
    "rml": " in the right middle lobe",
    "rll": " in the right lower lobe",
    "lul": " in the left upper lobe",
    "lll": " in the left lower lobe",
}
METRIC_WORDS = {
    "auc": "AUC",
    "auc_complete_cases": "AUC of known states",
    "auc_presumed_alive": "AUC with unknown as alive",
    "uno_c": "Uno's concordance",
    "harrell_c": "Harrell's concordance",
    "average_precision": "average precision",
    "observed_risk": "observed risk",
    "brier": "Brier score",
    "scaled_brier": "scaled Brier score",
    "integrated_brier": "integrated Brier score",
    "observed_expected": "O:E",
    "calibration_intercept": "calibration intercept",
    "calibration_slope": "calibration slope",
    "ici": "mean calibration error",
    "ici_if_right": "mean calibration error of a right model",
    "e50": "median calibration error",
    "e90": "90th percentile of the calibration error",
}
RULE_WORDS = {
    "volume_l": "lung volume",
    "left_share": "share of the left lung",
    "mean_hu": "mean lung density",
    "lefts_side_mm": "labels of right and left swapped",
    "aerated_share": "mask beside the lungs",
    "trachea_hu": "density of air in the trachea",
    "heart_hu": "density of the heart",
    "noise_hu": "noise",
    "cut_area_cm2": "lung cut by the edge of the scan",
    "missed_air_l": "aerated lung left out",
    "solid_share": "solid tissue in the mask",
    "solid_core_ml": "thick solid tissue in the mask",
    "outside_share": "mask outside the body",
    "step_ratio": "jump between slices",
    "shape_change_mm": "chest unlike the patient's other scans",
    "volume_change": "volume unlike the patient's other scans",
    "heart_left_mm": "heart to the right of the spine",
    "trachea_height": "trachea below the lungs, or not found",
    "spine_behind_mm": "spine in front of the lungs",
    "spine_share": "spine not found in most slices",
    "chest_width_mm": "chest deeper than wide",
    "smallest_lobe_share": "a lobe that is hardly there",
    "agreement_dice": "two methods that do not agree",
}
"""What each rule of the lung checks looks at, by the measure that it is named for."""


def feature_name(feature: str) -> str:
    """Name a feature as a reader would, for example `HAA in the lower zones`.

    Parameters
    ----------
    feature
        A column of a feature table, or a column that a pipeline made of one; PyRadiomics' features keep their own
        words.
    """
    if feature.startswith("missingindicator_"):
        return f"{feature_name(feature.removeprefix('missingindicator_'))}: not known"
    if feature.startswith("change_"):
        return (
            "years since the scan before"
            if feature == "change_years"
            else f"change per year: {feature_name(feature[7:])}"
        )
    if feature.endswith("_bend"):
        return f"{feature_name(feature.removesuffix('_bend'))}: curve"
    if feature in CLINICAL_WORDS:
        return CLINICAL_WORDS[feature]
    if feature.startswith((NUMBER, GROUP)):  # what the study declares: `group_ever-smoked_yes`
        _, name, *level = feature.split("_", 2)
        return ": ".join([name.replace("-", " "), *level])
    for name in ("sex", "ssc_subtype"):
        if feature.startswith(f"{name}_"):
            return f"{CLINICAL_WORDS[name]}: {feature.removeprefix(f'{name}_')}"
    if not feature.startswith("qct_"):
        image_type, kind, name, *region = feature.split("_")
        words = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=2D|3D)(?=D)|(?<=\d)(?=[A-Z][a-z])", " ", name).lower()
        filtered = "" if image_type == "original" else f", {image_type}"
        return f"{words} ({CLASS_WORDS[kind]}{filtered}){''.join(REGION_WORDS[part] for part in region)}"
    measure = feature.removeprefix("qct_")
    for suffix, words in REGION_WORDS.items():
        if measure.endswith(f"_{suffix}"):
            return f"{MEASURE_WORDS[measure.removesuffix(f'_{suffix}')]}{words}"
    percentile = re.fullmatch(r"p(\d+)_hu", measure)
    return f"attenuation, {int(percentile[1])}th percentile" if percentile else MEASURE_WORDS[measure]


def feature_class(feature: str) -> str:
    """Name the class of an image feature as a reader would, for example `GLRLM`."""
    return "quantitative CT" if feature.startswith("qct_") else CLASS_WORDS[feature.split("_")[1]]


def feature_kind(feature: str) -> str:
    """Name what a feature tells of, for features to be judged together, for example `lung function`."""
    feature = feature.removeprefix("missingindicator_")
    if feature.startswith("change_"):
        return "change since the scan before"
    if feature in ("fvc_percent", "dlco_percent"):
        return "lung function"
    if feature.startswith((NUMBER, GROUP)):
        return feature.split("_")[1].replace("-", " ")
    for name, words in CLINICAL_WORDS.items():
        if feature == name or feature.startswith(f"{name}_"):  # a category is a column of its own
            return words
    if feature == "qct_volume_l":
        return "lung volume"
    return "quantitative CT: density" if feature.startswith("qct_") else feature_class(feature)


def feature_unit(feature: str) -> str:
    """Name the unit of a feature, `per year` with it for a rate; empty where it has none, or it is PyRadiomics' own."""
    if feature.startswith("change_") and feature != "change_years":
        unit = feature_unit(feature.removeprefix("change_"))
        return f"{unit} per year" if unit else ""
    if feature in ("age_years", "change_years"):
        return "years"
    if feature in ("fvc_percent", "dlco_percent"):
        return "% predicted"
    measure = feature.removeprefix("qct_")
    if measure == feature:  # of a number that the study declares, the data dictionary tells it
        return ""
    if measure.startswith("volume_l"):
        return "litres"
    is_density = measure.startswith(("mean_hu", "sd_hu")) or measure.endswith("_hu")
    return "HU" if is_density else ""


def plain_names(models: pd.DataFrame) -> dict[str, str]:
    """Name each model without remarks on its training, as `ResNet-18` or `ResNet-18, longitudinal`.

    Parameters
    ----------
    models
        `model`, with `family`, `network` and `variant` of schema `PREDICTIONS`; without these a model keeps its name.
    """
    names = {}
    for row in models.drop_duplicates("model").to_dict("records"):
        plain = NETWORK_WORDS.get(row.get("network", ""), row.get("family", "")) or row["model"]
        variant = row.get("variant", "")
        names[str(row["model"])] = f"{plain}, {variant}" if variant else str(plain)
    return names


def plain(text: str) -> str:
    """Keep letters of an error message or an id from being read as markup."""
    return re.sub(r"([\\`*_{}\[\]<>$#|~])", r"\\\1", text)


def years_text(horizon: float) -> str:
    """Write a horizon, for example `1 year` or `3 years`."""
    return "1 year" if horizon == 1 else f"{horizon:g} years"


def horizons_text(horizons: Sequence[float]) -> str:
    """Write all horizons of a study, at least one, for example `1, 3 and 5 years`."""
    *first, last = (f"{horizon:g}" for horizon in horizons)
    return f"{', '.join(first)} and {last} years" if first else years_text(horizons[0])


def percent_text(share: float, decimals: int = 0) -> str:
    """Write a share (0 to 1) in per cent; one that is not quite none or all is not rounded to that: `below 1 %`."""
    smallest, percent = 10.0**-decimals, f"{100 * share:.{decimals}f}"
    if share > 0 and float(percent) == 0:
        return f"below {smallest:g} %"
    if share < 1 and float(percent) == 100:
        return f"above {100 - smallest:g} %"
    return f"{percent} %"


def counted(n: int, noun: str) -> str:
    """Write a count with its noun, for example `1 scan` and `2,125 scans`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def span_text(counts: Collection[int]) -> str:
    """Write one count that several share, or the least and the greatest: `12 to 15`; small ones as `<5`."""
    low, high = count_text(min(counts)), count_text(max(counts))
    return low if low == high else f"{low} to {high}"


def scans_text(n_scans: int, n_patients: int) -> str:
    """Write scans with their patients, for example `43 scans of 15 patients`; of few, `scans of <5 patients`."""
    return scans_of(of_patients(n_scans, n_patients), count_text(n_patients))


def scans_of(scans: str, patients: str) -> str:
    """Write two counts of `disclosure` as scans of patients; a count of scans that is not told is left out."""
    of = "a hidden number of patients" if patients == HIDDEN else f"{patients} patient{'' if patients == '1' else 's'}"
    told = scans[:1].isdigit()
    return f"{f'{scans} ' if told else ''}scan{'' if scans == '1' else 's'} of {of}"


def states_text(row: Any) -> tuple[str, str, str]:
    """Write the scans followed by death, those known not to be, and those unknown: the three add up to all scans.

    Parameters
    ----------
    row
        As of `against_text`.
    """
    n_alive = row.n_scans - row.n_events - row.n_unknown
    counts = (row.n_scans, row.n_events, n_alive, row.n_unknown)
    patients = (row.n_scans, row.n_patients_died, row.n_patients_alive, row.n_unknown)
    _, died, alive, unknown = count_texts(counts, [(0, (1, 2, 3))], patients, known=[0])
    return died, alive, unknown


def against_text(row: Any) -> str:
    """Write the scans followed by death, and those known not to be: `43 scans of 15 patients against 37 of 11`.

    Parameters
    ----------
    row
        With `n_scans`, `n_events`, `n_unknown`, `n_patients_died` and `n_patients_alive`.
    """
    died, alive, _ = states_text(row)
    return _against(scans_of(died, count_text(row.n_patients_died)), alive, count_text(row.n_patients_alive))


def _against(died: str, alive: str, patients: str) -> str:
    of = "a hidden number" if patients == HIDDEN else patients
    return f"{died} against {f'{alive} of {of}' if alive[:1].isdigit() else f'those of {of}'}"


def parts_texts(n_scans: Sequence[int], n_patients: Sequence[int]) -> list[tuple[str, str]]:
    """Write the scans and the patients of the parts of a whole, whose own counts readers know."""
    whole, of = [(len(n_scans), range(len(n_scans)))], [*n_patients, sum(n_patients)]
    scans = count_texts([*n_scans, sum(n_scans)], whole, of, known=[len(n_scans)])
    patients = count_texts(of, whole, known=[len(n_scans)])
    return list(zip(scans, patients, strict=True))[:-1]


def against_texts(parts: pd.DataFrame) -> list[str]:
    """Write `against_text` of the parts of a whole, of which no small one can be found from the others."""
    n_alive = parts["n_scans"] - parts["n_events"] - parts["n_unknown"]
    died = parts_texts([*parts["n_events"]], [*parts["n_patients_died"]])
    alive = parts_texts([*n_alive], [*parts["n_patients_alive"]])
    return [_against(scans_of(*of_died), *of_alive) for of_died, of_alive in zip(died, alive, strict=True)]


def p_text(p: float) -> str:
    """Write a p value, for example `0.034`, and `< 0.001` below that."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def p_phrase(p: float) -> str:
    """Write a p value as in a sentence, for example `p = 0.034`."""
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def estimate_text(estimate: float, low: float, high: float, decimals: int = 2) -> str:
    """Write an estimate with its interval, for example `0.77 (0.70 to 0.83)`; NaN is told as `not estimable`."""
    if pd.isna(estimate):
        return NOT_ESTIMABLE
    if pd.isna(low):
        return f"{estimate:z.{decimals}f} (no interval)"
    # A ratio over almost no expected deaths has no second digit that means anything.
    top = "above 100" if decimals and high > 100 else f"{high:z.{decimals}f}"
    return f"{estimate:z.{decimals}f} ({low:z.{decimals}f} to {top})"
