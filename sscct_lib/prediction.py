"""Prediction by a trained network, and its loss on scans."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sscct_lib.batches import Examples
from sscct_lib.networks import HazardNetwork, base_hazards, hazard_losses, risks
from sscct_lib.tensors import load_cubes


def predict(network: HazardNetwork, paths: list[Path], batch_size: int = 8) -> NDArray[np.float64]:
    """Predict the risks of scans.

    Parameters
    ----------
    network
        Trained.
    paths
        The scans' cubes, of the size that the network was trained with.
    batch_size
        Scans at a time.

    Returns
    -------
    numpy.ndarray
        Risk of death within each horizon, shape (n, K).
    """
    device = next(network.parameters()).device
    network.eval()
    risk = np.empty((len(paths), network.n_intervals))
    with torch.inference_mode():
        for start in range(0, len(paths), batch_size):
            part = slice(start, start + batch_size)
            risk[part] = risks(network(load_cubes(paths[part]).to(device)).double()).cpu().numpy()
    return risk


def mean_loss(examples: Examples, risk: NDArray[np.float64]) -> float:
    """Give the loss of predicted risks as training counts it: each patient weighs the same.

    Parameters
    ----------
    examples
        Scans and what became of them.
    risk
        Risk of death within each horizon, shape (n, K).

    Returns
    -------
    float
        Mean negative log-likelihood per scan.
    """
    survival = np.clip(1 - np.column_stack([np.zeros(len(risk)), risk]), 1e-9, 1)
    hazard = torch.from_numpy(np.clip(1 - survival[:, 1:] / survival[:, :-1], 1e-9, 1 - 1e-9))
    died, survived = torch.from_numpy(examples.died), torch.from_numpy(examples.survived)
    losses = pd.Series(hazard_losses(torch.logit(hazard), died, survived).numpy())
    return float(losses.groupby(examples.table["patient_id"]).mean().mean())


def risk_without_image(training: Examples, n_scans: int) -> NDArray[np.float64]:
    """Give every scan the risks of the training cohort, shape (n_scans, K): what an image must improve on."""
    hazards = base_hazards(training.died, training.survived)
    return np.tile(1 - np.cumprod(1 - hazards), (n_scans, 1))
