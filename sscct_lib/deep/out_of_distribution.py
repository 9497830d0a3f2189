"""Scans out of the distribution that a network learned from: flagged, with what is unusual about them in words.

How far a scan lies from the training scans in the network's own terms (Mahalanobis distance of features: Lee K et al.
NeurIPS 2018) says when its answer rests on nothing that it knows. Thresholds come from held-out folds (Barber RF et al.
Ann Stat 2021;49:486-507).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.covariance import LedoitWolf

from sscct_lib.cohort.outcomes import patient_weights
from sscct_lib.deep.cubes import view_of, with_cubes
from sscct_lib.deep.prediction import Floats, Projection, embed, fit_projection, fold_file, save_tensors
from sscct_lib.study.files import write_if_changed
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import UNUSUAL
from sscct_lib.study.words import NETWORK_WORDS

# What a person can check, with the words for a high and a low value, and the unit.
MEASURES = {
    "density": ("lungs denser", "lungs less dense", "HU"),
    "contrast": ("densities more varied", "densities more alike", "HU"),
    "dense_percent": ("more lung above -300 HU", "less lung above -300 HU", "%"),
    "fill_percent": ("lungs fill more of their box", "lungs fill less of their box", "%"),
    "left_percent": ("more of the lung on the left", "less of the lung on the left", "%"),
    "upper_percent": ("more of the lung in the upper half", "less of the lung in the upper half", "%"),
}
DENSE_HU = -300.0
ORDINARY = (0.01, 0.99)  # quantiles of the training scans between which a measure is ordinary

FOLDER = "unusual"


@dataclass(frozen=True)
class Reference:
    """The training scans of a fold, as a network sees them; it holds no single scan."""

    projection: Projection  # to principal components
    location: Floats  # their centre, shape (n_components,)
    precision: Floats  # inverse covariance
    ordinary: Floats  # quantiles of `MEASURES` in the training scans, shape (2, n_measures)

    def distances(self, embedded: NDArray[np.float32]) -> Floats:
        """Mahalanobis distance of scans from the training scans, shape (n,)."""
        away = self.projection.scores(embedded) - self.location
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", away, self.precision, away)))


def flag_all(study: Study, networks: Sequence[str], cohort: pd.DataFrame) -> pd.DataFrame:
    """Flag a cohort by every network whose settings ask for it: schema `UNUSUAL`."""
    asked = [name for name in networks if study.settings.deep.network(name).flag_unusual]
    found = [flag_unusual(study, name, cohort) for name in asked]
    return UNUSUAL.validate(
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(UNUSUAL.columns))
    )


def flag_unusual(study: Study, network_name: str, cohort: pd.DataFrame) -> pd.DataFrame:
    """Flag the scans of a cohort that differ from the training scans of their fold: schema `UNUSUAL`, a row per scan.

    The threshold of a fold comes from its training patients: each was held out from another fold's model, and the
    distances from there say how far an ordinary patient who was never seen lies. What new scans are held against is
    saved in the study's models.
    """
    table = with_cubes(study, cohort, view_of(study, network_name))
    measures = _measures(study, table)
    fold, patients = table["fold"].to_numpy(), table["patient_id"]
    distance, texts = np.empty(len(table)), np.empty(len(table), dtype=object)
    limit = np.empty(len(table))
    for one in sorted(set(fold)):
        tested = fold == one
        embedded = embed(study, network_name, int(one), study, table)
        reference = fit_reference(embedded[~tested], measures[~tested], patients[~tested])
        tensors = asdict(reference)
        tensors |= tensors.pop("projection")
        path = fold_file(study.models / FOLDER, network_name, int(one))
        save_tensors(path, {name: torch.from_numpy(values) for name, values in tensors.items()})
        distance[tested] = reference.distances(embedded[tested])
        texts[tested] = reasons(measures[tested], reference.ordinary)
    share = study.settings.deep.unusual_share
    for one in sorted(set(fold)):
        limit[fold == one] = threshold(distance[fold != one], patients[fold != one], share)
    known = {"threshold": threshold(distance, patients, share), "unusual_share": share, "scans": len(table)}
    write_if_changed(_limit_path(study, network_name), json.dumps(known))
    flagged = table[["scan_id", "patient_id", "fold"]].assign(
        network=network_name,
        distance=distance,
        threshold=limit,
        unusual=distance > limit,
        reasons=np.where(distance > limit, texts, ""),
    )
    return UNUSUAL.validate(flagged[list(UNUSUAL.columns)])


def flag_new(trained: Study, network_name: str, study: Study, scans: pd.DataFrame) -> pd.DataFrame:
    """Flag new scans that differ from the cohort that a study's networks learned from.

    Parameters
    ----------
    trained
        The study and run whose networks look; the cohort was flagged there.
    study
        The study and run that holds the scans.
    scans
        `scan_id`, `patient_id`.

    Returns
    -------
    pandas.DataFrame
        `scan_id`, `distance` (mean over the folds' models), `threshold`, `unusual` and `reasons`, one row per scan
        whose cube can be made.

    Raises
    ------
    StudyError
        If there is nothing to hold the scans against.
    """
    paths = list((trained.models / FOLDER).glob(f"{network_name}_fold*.safetensors"))
    if not paths or not _limit_path(trained, network_name).is_file():
        raise StudyError(
            f"{trained.models} does not say which scans are unusual to {NETWORK_WORDS[network_name]}. Run "
            f"`04_deep_models` with deep.{network_name}.flag_unusual: true."
        )
    table = with_cubes(study, scans, view_of(trained, network_name))
    references = dict(sorted((int(path.stem.rpartition("_fold")[2]), _load(path)) for path in paths))
    distance = np.mean(
        [one.distances(embed(trained, network_name, fold, study, table)) for fold, one in references.items()], axis=0
    )
    ordinary = np.mean([one.ordinary for one in references.values()], axis=0)
    limit = float(json.loads(_limit_path(trained, network_name).read_text(encoding="utf-8"))["threshold"])
    texts = reasons(_measures(trained, table), ordinary)
    return table[["scan_id"]].assign(
        distance=distance, threshold=limit, unusual=distance > limit, reasons=np.where(distance > limit, texts, "")
    )


def _limit_path(study: Study, network_name: str) -> Path:
    return study.models / FOLDER / f"{network_name}.json"


def _measures(trained: Study, table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([measure(np.load(path), trained.settings.deep.hu_range) for path in table["cube"]])


def measure(cube: NDArray[np.float16], hu_range: tuple[float, float]) -> dict[str, float]:
    """Measure (`MEASURES`) what a person could check about a cube (0 to 1, [z, y, x] in LPS, 0 outside the lungs)."""
    inside = cube > 0
    if not inside.any():
        return dict.fromkeys(MEASURES, 0.0)
    low, high = hu_range
    hu = low + cube[inside].astype(float) * (high - low)
    z, x = np.nonzero(inside)[0], np.nonzero(inside)[2]
    return {
        "density": float(hu.mean()),
        "contrast": float(hu.std()),
        "dense_percent": 100 * float((hu > DENSE_HU).mean()),
        "fill_percent": 100 * float(inside.mean()),
        "left_percent": 100 * float((x >= cube.shape[2] // 2).mean()),
        "upper_percent": 100 * float((z >= cube.shape[0] // 2).mean()),
    }


def reasons(measures: pd.DataFrame, ordinary: Floats) -> list[str]:
    """Say of each scan, in words, which measures lie outside the `ordinary` range, (2, n_measures), of training."""
    texts = []
    for values in measures[list(MEASURES)].to_numpy():
        found = [
            f"{words[int(value < low)]}: {value:.0f} {words[2]} (training scans {low:.0f} to {high:.0f})"
            for value, low, high, words in zip(values, *ordinary, MEASURES.values(), strict=True)
            if not low <= value <= high
        ]
        texts.append("; ".join(found) or "no single measure is unusual; the pattern as a whole is")
    return texts


def threshold(distances: Floats, patient_id: "pd.Series[str]", share: float) -> float:
    """Give the distance that a share of ordinary scans exceeds; `distances` (n,) are of models that never saw them."""
    order = np.argsort(distances)
    weights = patient_weights(patient_id)[order]
    one_patient = weights.sum() / patient_id.nunique()  # one more, infinitely far, for the one who is judged
    reached = np.cumsum(weights) / (weights.sum() + one_patient) >= 1 - share - 1e-9
    return float(distances[order][reached.argmax()]) if reached.any() else np.inf


def fit_reference(embedded: NDArray[np.float32], measures: pd.DataFrame, patient_id: "pd.Series[str]") -> Reference:
    """Describe the training scans of a fold by their embeddings (n, n_features); every patient counts once."""
    weights = patient_weights(patient_id)
    projection = fit_projection(embedded, weights)
    scores = projection.scores(embedded)
    location = np.average(scores, axis=0, weights=weights)
    shrunk = LedoitWolf(assume_centered=True).fit((scores - location) * np.sqrt(weights)[:, None])
    return Reference(projection, location, shrunk.precision_, np.quantile(measures.to_numpy(), ORDINARY, axis=0))


def _load(path: Path) -> Reference:
    tensors = load_file(path)
    projection = Projection(**{field.name: tensors.pop(field.name) for field in fields(Projection)})
    return Reference(projection, **tensors)
