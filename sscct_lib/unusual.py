"""Scans that differ from those that a network learned from: flagged, with what is unusual about them in words.

A network answers whatever it is shown. How far a scan lies from the training scans, in the network's own terms, says
when its answer rests on nothing that it knows.

References
----------
Lee K et al. A simple unified framework for detecting out-of-distribution samples and adversarial attacks. NeurIPS 2018
(Mahalanobis distance of features). Ledoit O, Wolf M. J Multivar Anal 2004;88:365-411 (shrinkage). Barber RF et al.
Predictive inference with the jackknife+. Ann Stat 2021;49:486-507 (thresholds from held-out folds).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from sscct_lib.cohort import patient_weights
from sscct_lib.embeddings import Floats, Projection, fit_projection

MEASURES = {
    "density": ("lungs denser", "lungs less dense", "HU"),
    "contrast": ("densities more varied", "densities more alike", "HU"),
    "dense_percent": ("more dense lung (above -300 HU)", "less dense lung (above -300 HU)", "%"),
    "fill_percent": ("lungs fill more of their box", "lungs fill less of their box", "%"),
    "left_percent": ("more of the lung on the left", "less of the lung on the left", "%"),
    "upper_percent": ("more of the lung in the upper half", "less of the lung in the upper half", "%"),
}
"""What a person can check, with the words for a high and a low value, and the unit."""

DENSE_HU = -300.0
ORDINARY = (0.01, 0.99)  # quantiles of the training scans between which a measure is ordinary


@dataclass(frozen=True)
class Reference:
    """The training scans of a fold, as a network sees them; it holds no single scan.

    Attributes
    ----------
    projection
        To principal components.
    location
        Their centre, shape (n_components,).
    precision
        Inverse covariance, shape (n_components, n_components).
    ordinary
        Quantiles of `MEASURES` in the training scans, shape (2, n_measures).
    """

    projection: Projection
    location: Floats
    precision: Floats
    ordinary: Floats

    def distances(self, embedded: NDArray[np.float32]) -> Floats:
        """Mahalanobis distance of scans from the training scans, shape (n,)."""
        away = self.projection.scores(embedded) - self.location
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", away, self.precision, away)))


def fit_reference(embedded: NDArray[np.float32], measures: pd.DataFrame, patient_id: "pd.Series[str]") -> Reference:
    """Describe the training scans of a fold; every patient counts once.

    Parameters
    ----------
    embedded
        From `embeddings.embed`, shape (n, n_features).
    measures
        From `measure`, one row a scan.
    patient_id
        Their patients.

    Returns
    -------
    Reference
    """
    weights = patient_weights(patient_id)
    projection = fit_projection(embedded, weights)
    scores = projection.scores(embedded)
    location = np.average(scores, axis=0, weights=weights)
    shrunk = LedoitWolf(assume_centered=True).fit((scores - location) * np.sqrt(weights)[:, None])
    return Reference(projection, location, shrunk.precision_, np.quantile(measures.to_numpy(), ORDINARY, axis=0))


def measure(cube: NDArray[np.float16], hu_range: tuple[float, float]) -> dict[str, float]:
    """Measure what a person could check about a scan as a network sees it.

    Parameters
    ----------
    cube
        From `tensors.lung_cube`, 0 to 1, [z, y, x] in LPS, 0 outside the lungs.
    hu_range
        Densities of 0 and 1, HU.

    Returns
    -------
    dict
        The names of `MEASURES`.
    """
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
    """Say in words which measures of scans lie beyond those of the training scans.

    Parameters
    ----------
    measures
        One row a scan, the columns of `MEASURES`.
    ordinary
        From a `Reference`.

    Returns
    -------
    list of str
        One text a scan.
    """
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
    """Give the distance that a share of ordinary scans exceeds.

    Parameters
    ----------
    distances
        Of scans from the training scans of models that never saw their patients, shape (n,).
    patient_id
        Their patients, each of whom counts once.
    share
        Of ordinary scans that may be flagged.

    Returns
    -------
    float
        The quantile 1 - share, with one patient more at infinity for the one who is judged.
    """
    order = np.argsort(distances)
    weights = patient_weights(patient_id)[order]
    one_patient = weights.sum() / patient_id.nunique()
    reached = np.cumsum(weights) / (weights.sum() + one_patient) >= 1 - share - 1e-9
    return float(distances[order][reached.argmax()]) if reached.any() else np.inf
