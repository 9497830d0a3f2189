"""The evidence behind a risk: what weighs most in it, where the network looked, and whether the scan is like others.

Weights are those of a saved model that can be read; maps tell what raised and lowered a network's risk; a scan's
measures, patient and scanner are held against those of the scans that the models learned from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.covariance import LedoitWolf

from sscct_lib.radiomics.feature_sets import CLINICAL_CATEGORIES, CLINICAL_NUMBERS, is_category
from sscct_lib.radiomics.pipeline import INDICATOR, design, prepared, unseen
from sscct_lib.radiomics.saved import FOLDER, load_model
from sscct_lib.study.disclosure import age_text
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import ATTRIBUTIONS
from sscct_lib.study.tables import read_table
from sscct_lib.study.words import feature_name, feature_unit, percent_text

if TYPE_CHECKING:
    from sscct_lib.deep.networks import HazardNetwork

# Whose weights are shown: the first of these elastic-net Cox models that the run has saved.
EXPLAINED = ("Clinical + quantitative CT", "Quantitative CT", "Clinical", "All features", "Radiomics")
N_SHOWN = 6  # features whose weights are shown
FAR = 0.99  # share of training scans that must lie nearer before a scan counts as far
MARGIN = 0.1  # how far outside the training range a value may lie, as a share of that range
FEWEST_SCANS = 30  # with fewer, nothing is said
MOST_NAMED = 3
Share = Annotated[float, Field(ge=0, le=1)]
PLAIN = {"age_years": "age", "fvc_percent": "FVC", "dlco_percent": "DLCO", "slice_thickness_mm": "slice thickness"}
UNITS = {"slice_thickness_mm": "mm"}
CATEGORIES = {"manufacturer": "scanners by", "kernel": "the kernel", "sex": "sex", "ssc_subtype": "the subtype"}


class Part(BaseModel):
    """A part of `prediction.json`: no other fields, and plain numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Likeness(Part):
    """Whether the scan is like those that the models learned from."""

    nearer: Share | None = Field(description="share of training scans that lie nearer to the others; null: cannot tell")
    n_scans: int = Field(description="training scans that were compared")
    findings: list[str] = Field(description="what is unlike, in words; empty when nothing is")


@dataclass(frozen=True)
class Map:
    """What a network sees of a scan, and what raises (positive) and lowers its risk; cubes are [z, y, x] in LPS."""

    model: str  # as tables name the network
    cube: NDArray[np.float16]  # 0 to 1
    parts: NDArray[np.float32]  # parts of the score
    caution: str  # why not to read it; empty when its check against an untrained network was passed


def likeness(scan: Mapping[str, Any], training: pd.DataFrame) -> Likeness:
    """Hold a scan against the training scans.

    The measures of quantitative CT together give a Mahalanobis distance, with a shrunken covariance (Ledoit and Wolf,
    J Multivar Anal 2004;88:365-411), as Lee et al. tell scans unlike the training data (NeurIPS 2018). Each measure,
    age, lung function and slice thickness is also held against its range, and scanner, kernel, sex and subtype against
    what the training scans (with their `fold`) have.
    """
    measures = [name for name in map(str, training) if name.startswith("qct_") and training[name].notna().all()]
    findings = [*_unseen(scan, training), *_outside(scan, training, [*PLAIN, *measures])]
    nearer = None
    known = all(pd.notna(scan.get(name)) for name in measures)
    if measures and known and len(training) >= FEWEST_SCANS:
        values = training[measures].to_numpy(dtype=float)
        own = np.array([[float(scan[name]) for name in measures]])
        # Distances of the training scans are out of fold, so that they compare with that of a scan never seen.
        among = _out_of_fold(values, training["fold"].to_numpy())
        nearer = float(np.mean(among < _distances(values, own)[0]))
        if nearer >= FAR:
            findings.insert(0, f"its measures together lie farther out than those of {nearer:.0%} of the scans")
    return Likeness(nearer=nearer, n_scans=len(training), findings=findings)


def _distances(training: NDArray[np.float64], scans: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, sd = training.mean(axis=0), training.std(axis=0)
    varies = sd > 0
    scaled = (training[:, varies] - mean[varies]) / sd[varies]
    fitted = LedoitWolf(assume_centered=True).fit(scaled)
    found: NDArray[np.float64] = np.sqrt(fitted.mahalanobis((scans[:, varies] - mean[varies]) / sd[varies]))
    return found


def _out_of_fold(values: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    if len(np.unique(folds)) < 2:
        return _distances(values, values)
    distances = np.empty(len(values))
    for fold in np.unique(folds):
        tested = folds == fold
        distances[tested] = _distances(values[~tested], values[tested])
    return distances


def _outside(scan: Mapping[str, Any], training: pd.DataFrame, names: list[str]) -> list[str]:
    """Name values beyond the training range."""
    said = []
    for name in names:
        value = scan.get(name)
        if name not in training or pd.isna(value) or training[name].notna().sum() < FEWEST_SCANS:
            continue
        low, high = float(training[name].min()), float(training[name].max())
        margin = MARGIN * (high - low)
        if not low - margin <= float(value) <= high + margin:
            unit = UNITS.get(name) or feature_unit(name)
            number = age_text(float(value)) if name == "age_years" else f"{float(value):.3g}"
            words = f"{PLAIN.get(name) or feature_name(name)} {number} {unit}".strip()
            # The ends of the range are those of single patients, and are not told.
            said.append(f"{words}, {'below' if value < low else 'above'} the range of the training scans")
    more = len(said) - MOST_NAMED
    return said[:MOST_NAMED] + ([f"{more} more measures outside their range"] if more > 0 else [])


def _unseen(scan: Mapping[str, Any], training: pd.DataFrame) -> list[str]:
    """Name categories that no training scan has."""
    said = []
    for name, words in CATEGORIES.items():
        value = scan.get(name)
        if name in training and pd.notna(value) and training[name].notna().any() and value not in set(training[name]):
            said.append(f"no training scan is of {words} {value}")
    return said


def assumed(scan: Mapping[str, Any], training: pd.DataFrame, own: Sequence[str] = ()) -> list[str]:
    """Say what models assume of each clinical value that is not known; `own`: predictors that the study declares."""
    said = []
    for name in filter(is_category, [*CLINICAL_CATEGORIES, *own]):
        if pd.notna(scan.get(name)) or name not in training or training[name].isna().any():
            continue  # known, or not known in some training scans too: models have learned what that means
        shares = training[name].value_counts(normalize=True)
        mixed = ", ".join(f"{percent_text(share)} {value}" for value, share in shares.items())
        said.append(f"{feature_name(name)} as the average over the training scans ({mixed})")
    asked = {name: PLAIN[name] for name in CLINICAL_NUMBERS}
    asked |= {name: feature_name(name) for name in own if not is_category(name)}
    numbers = [words for name, words in asked.items() if pd.isna(scan.get(name))]
    return said + ([f"{', '.join(numbers)} as that of a typical patient"] if numbers else [])


def explained_model(models: Path) -> tuple[dict[str, Any], Any] | None:
    """Card and pipeline of the model whose weights are shown; None when no such model is saved."""
    cards = sorted((models / FOLDER).glob("[!.]*.json"))
    named = {json.loads(path.read_text(encoding="utf-8")).get("model"): path for path in cards}
    path = next((named[name] for name in EXPLAINED if name in named), None)
    return None if path is None else load_model(path)


def weightiest_features(
    scan: Mapping[str, Any], cohort: pd.DataFrame, card: Mapping[str, Any], pipeline: Any
) -> pd.DataFrame:
    """What weighs most in a scan's risk, the weightiest first: `feature`, `words` and `hazard_ratio`."""
    # Columns are standardised, so a hazard ratio is against an average scan.
    row = design(pd.DataFrame([dict(scan)]), card["columns"], card["harmonised"])
    columns = prepared(pipeline, row)
    contributions = columns.iloc[0].to_numpy(dtype=float) * np.asarray(pipeline["model"].coef_)
    averaged = tuple(f"{name}_" for name in card["category_shares"] if unseen(row, name, card["category_shares"])[0])
    contributions[[str(name).startswith(averaged) for name in columns]] = 0.0  # it weighs neither way
    rows = []
    for place in np.argsort(-np.abs(contributions), kind="stable")[:N_SHOWN]:
        if contributions[place] == 0:
            break
        name = str(columns.columns[place])
        rows.append((name, feature_words(name, scan, cohort), float(np.exp(contributions[place]))))
    return pd.DataFrame(rows, columns=["feature", "words", "hazard_ratio"])


def feature_words(name: str, scan: Mapping[str, Any], cohort: pd.DataFrame) -> str:
    """Name a feature with the scan's value and its place in the cohort."""
    words = feature_name(name)
    if name.startswith(INDICATOR):
        known = pd.notna(scan.get(name.removeprefix(INDICATOR)))
        return f"{feature_name(name.removeprefix(INDICATOR))} is {'known' if known else 'not known'}"
    if name not in cohort:  # a category
        column = next(column for column in map(str, cohort) if name.startswith(f"{column}_"))
        level = name.removeprefix(f"{column}_")
        value = scan.get(column)
        if pd.isna(value):
            return f"{feature_name(column)}: not known, as in some of the training scans"
        return words if value == level else f"{feature_name(column)}: not {level}"
    value = scan.get(name)
    if pd.isna(value):
        return f"{words}: not known, taken as that of a typical scan"
    others = cohort[name].dropna().to_numpy(dtype=float)
    share = round(100 * float(np.mean(others < float(value))))
    unit = feature_unit(name)
    shown = f"{100 * float(value):.0f} %" if "share" in words else f"{float(value):.3g} {unit}".strip()
    return f"{words} {shown}: higher than in {share} of 100 scans"


def map_of_study(study: Study, scan_id: str, fold: int) -> Map | None:
    """Explain a scan's out-of-fold risk by the run's first network; None where there is none or no cube of the scan."""
    from sscct_lib.deep.cubes import cube_path, view_of
    from sscct_lib.deep.networks import display_name
    from sscct_lib.deep.prediction import cards, fold_model

    name = study.settings.deep.networks[0]
    cube = cube_path(study, scan_id, view_of(study, name))
    if not cards(study, name) or not cube.is_file():
        return None
    done = study.attribution(name, scan_id)
    parts = np.load(done) if done.is_file() else mean_map([fold_model(study, name, fold)], cube)
    return Map(display_name(name, study.settings.deep.network(name)), np.load(cube), parts, caution(study, name))


def mean_map(networks: "Sequence[HazardNetwork]", cube: Path) -> NDArray[np.float32]:
    """What raises and lowers the score of several networks of one kind, on the average, over a cube file's voxels."""
    from sscct_lib.deep.cubes import load_cubes
    from sscct_lib.deep.explain import integrated_gradients

    volume = load_cubes([cube])
    maps = np.stack([integrated_gradients(network, volume) for network in networks])
    return np.asarray(maps.mean(axis=0), dtype=np.float32)


def caution(study: Study, network_name: str) -> str:
    """Why not to read a network's maps; empty when they passed their check against an untrained network."""
    from sscct_lib.deep.explain import MOST_ALIKE

    if not study.table("attributions").is_file():
        return "not checked against an untrained network"
    checked: pd.DataFrame = read_table(study, "attributions", ATTRIBUTIONS)
    alike = checked.loc[checked["network"] == network_name, "likeness"].median()
    return "" if alike < MOST_ALIKE else "hardly depends on what the network learned: do not read it"
