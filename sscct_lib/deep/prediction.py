"""Prediction by a trained network, and its loss on scans.

Risks are of death within each horizon, shape (n, K); clinical values (n, N_VALUES), NaN where missing, or None.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sscct_lib.deep.batches import Examples, training_weights
from sscct_lib.deep.cubes import load_cubes
from sscct_lib.deep.heads import N_VALUES, base_hazards, classifier_losses, hazard_losses
from sscct_lib.deep.networks import HazardNetwork
from sscct_lib.study.settings import Balance

N_DROPOUT_SAMPLES = 50


def predict(
    network: HazardNetwork, paths: list[Path], clinical: NDArray[np.float32] | None = None, batch_size: int = 8
) -> NDArray[np.float64]:
    """Predict the risks of scans from their cubes, `batch_size` at a time."""
    return risks_of(network, encode(network, paths, batch_size), clinical)


def encode(network: HazardNetwork, paths: list[Path], batch_size: int = 8) -> Tensor:
    """Give what a trained network's encoder makes of scans, shape (n, n_features), on the network's device."""
    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        parts = [
            network.features(load_cubes(paths[start : start + batch_size]).to(device))
            for start in range(0, len(paths), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, network.n_features, device=device)


def risks_of(network: HazardNetwork, features: Tensor, clinical: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Give the risks of scans from what the encoder made of them."""
    with torch.inference_mode():
        values = _on_device(features, clinical)
        return np.asarray(network.risks(network.logits(features, values).double()).cpu().numpy())


def dropout_spread(
    network: HazardNetwork, features: Tensor, clinical: NDArray[np.float32] | None, seed: int
) -> NDArray[np.float64]:
    """Standard deviation (n, K) of risks when encoded features (n, n_features) are left out at random, as in training.

    The cheap alternative to an ensemble: the scans are encoded once.

    Gal Y, Ghahramani Z. Dropout as a Bayesian approximation. ICML 2016.
    """
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        values = _on_device(features, clinical)
        network.dropout.train()
        drawn = [network.risks(network.logits(features, values).double()) for _ in range(N_DROPOUT_SAMPLES)]
        network.dropout.eval()
        return np.asarray(torch.stack(drawn).std(dim=0).cpu().numpy())


def _on_device(features: Tensor, clinical: NDArray[np.float32] | None) -> Tensor:
    given = np.full((len(features), N_VALUES), np.nan, dtype=np.float32) if clinical is None else clinical
    return torch.from_numpy(given).to(features.device)


def mean_loss(
    examples: Examples, risk: NDArray[np.float64], head: Literal["hazard", "classifiers"] = "hazard"
) -> float:
    """Mean loss per scan (a negative log-likelihood) of predicted risks; as in training, patients weigh the same."""
    died, survived = torch.from_numpy(examples.died), torch.from_numpy(examples.survived)
    if head == "classifiers":
        logits = torch.logit(torch.from_numpy(np.clip(risk, 1e-9, 1 - 1e-9)))
        found = classifier_losses(logits, died.double(), survived)
    else:
        survival = np.clip(1 - np.column_stack([np.zeros(len(risk)), risk]), 1e-9, 1)
        hazard = torch.from_numpy(np.clip(1 - survival[:, 1:] / survival[:, :-1], 1e-9, 1 - 1e-9))
        found = hazard_losses(torch.logit(hazard), died, survived)
    losses = pd.Series(found.numpy())
    return float(losses.groupby(examples.table["patient_id"]).mean().mean())


def risk_without_image(training: Examples, n_scans: int) -> NDArray[np.float64]:
    """Give every scan the risks of the training cohort: what an image must improve on."""
    hazards = base_hazards(training.died, training.survived)
    return np.tile(1 - np.cumprod(1 - hazards), (n_scans, 1))


def hazards_seen(training: Examples, balance: Balance) -> NDArray[np.float64]:
    """Give the hazards of training scans as they count in training, shape (K,): one scan of each patient an epoch."""
    return base_hazards(training.died, training.survived, training_weights(training, balance))
