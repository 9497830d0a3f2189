"""Whether a scan is like those that the models learned from: in its measures, its patient and its scanner.

The features behind a risk, in words: what weighs most in a saved model, and where this scan stands in the cohort.

What raised and lowered a network's risk in one scan, as the page on a scan shows it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from sscct_lib.radiomics.pipeline import INDICATOR, design, prepared
from sscct_lib.radiomics.saved import FOLDER, load_model
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import ATTRIBUTIONS
from sscct_lib.study.tables import read_table
from sscct_lib.study.words import in_words, unit_of

EXPLAINED = ("Clinical + quantitative CT", "Quantitative CT", "Clinical", "All features", "Radiomics")
"""Whose weights are shown: the first of these elastic-net Cox models that the run has saved."""
N_SHOWN = 6


def explained_model(models: Path) -> tuple[dict[str, Any], Any] | None:
    """Load the model whose weights are shown.

    Parameters
    ----------
    models
        The folder of trained models of a run, `study.models`.

    Returns
    -------
    card, pipeline
        From `saved_models.load_model`; None when no such model is saved.
    """
    cards = sorted((models / FOLDER).glob("[!.]*.json"))
    named = {json.loads(path.read_text(encoding="utf-8")).get("model"): path for path in cards}
    path = next((named[name] for name in EXPLAINED if name in named), None)
    return None if path is None else load_model(path)


def reasons(scan: Mapping[str, Any], cohort: pd.DataFrame, card: Mapping[str, Any], pipeline: Any) -> pd.DataFrame:
    """List what weighs most in a scan's risk.

    Parameters
    ----------
    scan
        Clinical values and features, as far as they are known.
    cohort
        The same columns of the scans of the study.
    card, pipeline
        From `explained_model`.

    Returns
    -------
    pandas.DataFrame
        One row a feature, the weightiest first: `feature` (column), `words` (name, value and place in the cohort) and
        `hazard_ratio`, by which the feature multiplies the hazard of death against an average scan.
    """
    row = design(pd.DataFrame([dict(scan)]), card["columns"], card["harmonised"])
    columns = prepared(pipeline, row)
    contributions = columns.iloc[0].to_numpy(dtype=float) * np.asarray(pipeline["model"].coef_)
    rows = []
    for place in np.argsort(-np.abs(contributions), kind="stable")[:N_SHOWN]:
        if contributions[place] == 0:
            break
        name = str(columns.columns[place])
        rows.append((name, _in_words(name, scan, cohort), float(np.exp(contributions[place]))))
    return pd.DataFrame(rows, columns=["feature", "words", "hazard_ratio"])


def _in_words(name: str, scan: Mapping[str, Any], cohort: pd.DataFrame) -> str:
    """Name a feature with the scan's value and its place in the cohort."""
    words = in_words(name)
    if name.startswith(INDICATOR):
        known = pd.notna(scan.get(name.removeprefix(INDICATOR)))
        return f"{in_words(name.removeprefix(INDICATOR))} is {'known' if known else 'not known'}"
    if name not in cohort:  # a category
        column, _, level = name.rpartition("_")
        value = scan.get(column)
        if pd.isna(value):
            return f"{in_words(column)}: not known, taken as not {level}"
        return words if value == level else f"{in_words(column)}: not {level}"
    value = scan.get(name)
    if pd.isna(value):
        return f"{words}: not known, taken as that of a typical scan"
    others = cohort[name].dropna().to_numpy(dtype=float)
    share = round(100 * float(np.mean(others < float(value))))
    unit = unit_of(name)
    shown = f"{100 * float(value):.0f} %" if "share" in words else f"{float(value):.3g} {unit}".strip()
    return f"{words} {shown}: higher than in {share} of 100 scans"


if TYPE_CHECKING:
    from sscct_lib.deep.networks import HazardNetwork


@dataclass(frozen=True)
class Map:
    """What a network sees of a scan, and what raises (positive) and lowers its risk.

    Attributes
    ----------
    model
        Name of the network, as tables show it.
    cube
        0 to 1, shape (S, S, S), [z, y, x] in LPS.
    parts
        Parts of the score, the same shape.
    caution
        Why not to read it; empty when its check against an untrained network was passed.
    """

    model: str
    cube: NDArray[np.float16]
    parts: NDArray[np.float32]
    caution: str


def map_of_study(study: Study, scan_id: str, fold: int) -> Map | None:
    """Explain the out-of-fold risk of a scan by the first network of a run.

    Parameters
    ----------
    study
        The study and run.
    scan_id, fold
        The scan, and the fold in which it was tested.

    Returns
    -------
    Map or None
        None where no network was trained, or it never saw the scan.
    """
    from sscct_lib.deep.cross_validation import cards, fold_model
    from sscct_lib.deep.cubes import cube_path
    from sscct_lib.deep.networks import display_name

    name = study.settings.deep.networks[0]
    settings = getattr(study.settings.deep, name)
    cube = cube_path(study, scan_id, settings.size, study.settings.deep.hu_range)
    if not cards(study, name) or not cube.is_file():
        return None
    done = study.attribution(name, scan_id)
    parts = np.load(done) if done.is_file() else mean_map([fold_model(study, name, fold)], cube)
    return Map(display_name(name, settings), np.load(cube), parts, caution(study, name))


def mean_map(networks: "Sequence[HazardNetwork]", cube: Path) -> NDArray[np.float32]:
    """Average what raises and lowers the score of several networks of one kind over the voxels of a cube file."""
    from sscct_lib.deep.cubes import load_cubes
    from sscct_lib.deep.explain import integrated_gradients

    volume = load_cubes([cube])
    maps = np.stack([integrated_gradients(network, volume) for network in networks])
    return np.asarray(maps.mean(axis=0), dtype=np.float32)


def caution(study: Study, network_name: str) -> str:
    """Say whether the maps of a network passed their check against an untrained network.

    Parameters
    ----------
    study
        The study and run.
    network_name
        `resnet18`, `densenet121` or `swin`.

    Returns
    -------
    str
        Empty when they did.
    """
    from sscct_lib.deep.explain import MOST_ALIKE

    if not study.table("attributions").is_file():
        return "not checked against an untrained network"
    checked: pd.DataFrame = read_table(study.table("attributions"), ATTRIBUTIONS, "04_deep_models")
    alike = checked.loc[checked["network"] == network_name, "likeness"].median()
    return "" if alike < MOST_ALIKE else "hardly depends on what the network learned: do not read it"


FAR = 0.99  # share of training scans that must lie nearer before a scan counts as far
MARGIN = 0.1  # how far outside the training range a value may lie, as a share of that range
FEWEST_SCANS = 30
MOST_NAMED = 3
PLAIN = {"age_years": "age", "fvc_percent": "FVC", "dlco_percent": "DLCO", "slice_thickness_mm": "slice thickness"}
UNITS = {"slice_thickness_mm": "mm"}
CATEGORIES = {"manufacturer": "scanners by", "kernel": "the kernel", "sex": "sex", "ssc_subtype": "the subtype"}


@dataclass(frozen=True)
class Likeness:
    """How like the training scans a scan is.

    Attributes
    ----------
    nearer
        Share of training scans that lie nearer to the others than this scan does to them, 0 to 1; NaN when it cannot be
        told.
    n_scans
        Training scans that were compared.
    findings
        What is unlike, in words; empty when nothing is.
    """

    nearer: float
    n_scans: int
    findings: tuple[str, ...]


def likeness(scan: Mapping[str, Any], training: pd.DataFrame) -> Likeness:
    """Hold a scan against the training scans.

    The measures of quantitative CT together give a Mahalanobis distance, with a shrunken covariance (Ledoit and Wolf);
    those of the training scans are computed out of fold, so that they are comparable with a scan never seen. Each
    measure, age, lung function and slice thickness is also held against its range, and scanner, kernel, sex and
    subtype against what the training scans have.

    Parameters
    ----------
    scan
        `qct_*` and clinical and scanner columns, as far as they are known.
    training
        The same columns of the training scans, with `fold`.

    Returns
    -------
    Likeness

    References
    ----------
    Ledoit O, Wolf M. A well-conditioned estimator for large-dimensional covariance matrices. J Multivar Anal
    2004;88:365-411. Lee K et al. A simple unified framework for detecting out-of-distribution samples. NeurIPS 2018
    (Mahalanobis distance for scans unlike the training data).
    """
    measures = [name for name in map(str, training) if name.startswith("qct_") and training[name].notna().all()]
    findings = [*_unseen(scan, training), *_outside(scan, training, [*PLAIN, *measures])]
    nearer = np.nan
    known = all(pd.notna(scan.get(name)) for name in measures)
    if measures and known and len(training) >= FEWEST_SCANS:
        values = training[measures].to_numpy(dtype=float)
        own = np.array([[float(scan[name]) for name in measures]])
        among = _out_of_fold(values, training["fold"].to_numpy())
        nearer = float(np.mean(among < _distances(values, own)[0]))
        if nearer >= FAR:
            findings.insert(0, f"its measures together lie farther out than those of {nearer:.0%} of the scans")
    return Likeness(nearer, len(training), tuple(findings))


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
            unit = UNITS.get(name) or unit_of(name)
            words = f"{PLAIN.get(name) or in_words(name)} {float(value):.3g} {unit}".strip()
            said.append(f"{words}, outside the {low:.3g} to {high:.3g} of the training scans")
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
