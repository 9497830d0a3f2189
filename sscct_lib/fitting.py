"""Fitting one network: the training loop, its augmentation, and prediction."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import update_bn

from sscct_lib.networks import HazardNetwork, base_hazards, hazard_losses, risks
from sscct_lib.study import NetworkSettings, StudyError
from sscct_lib.tensors import load_cubes, zone_densities

log = logging.getLogger(__name__)

WEIGHT_DECAY = 1e-2
LARGEST_GRADIENT = 1.0
WARM_UP = 0.2  # share of the steps in which the learning rate rises
SHIFT = 1 / 16  # augmentation: largest displacement, share of the side
NOISE = 0.01  # augmentation: standard deviation of noise and of the change of density, share of hu_range


@dataclass(frozen=True)
class Examples:
    """Scans as a network takes them.

    Attributes
    ----------
    table
        `scan_id`, `patient_id`, `fold`; one row a scan.
    paths
        Their cubes.
    died, survived
        From `networks.hazard_targets`, shape (n, K).
    """

    table: pd.DataFrame
    paths: list[Path]
    died: NDArray[np.float32]
    survived: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        """Keep the rows with these numbers."""
        table = self.table.iloc[rows].reset_index(drop=True)
        return Examples(table, [self.paths[i] for i in rows], self.died[rows], self.survived[rows])


def train(network: HazardNetwork, training: Examples, settings: NetworkSettings, seed: int, where: str) -> list[float]:
    """Train a network on the CPU or the first GPU; on the CPU the same call gives the same weights.

    Every epoch shows one scan of each patient, drawn anew, so that patients with many scans do not dominate.

    Parameters
    ----------
    network
        Changed in place, and left on its device in evaluation mode.
    training
        Scans to learn from.
    settings
        Epochs, batch size and the highest learning rate; it rises and falls once.
    seed
        Of the draws and the augmentation.
    where
        Name of the training, for the log and for errors.

    Returns
    -------
    list of float
        Mean loss per scan in each epoch.

    Raises
    ------
    StudyError
        If the loss is no longer a finite number (the scans are named) or memory runs out.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).train()
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    scans_of = [group.to_numpy() for _, group in training.table.reset_index().groupby("patient_id")["index"]]
    n_batches = max(1, len(scans_of) // settings.batch_size)

    def batches() -> Iterator[tuple[Examples, Tensor]]:
        drawn = rng.permutation([rng.choice(rows) for rows in scans_of])
        for rows in np.array_split(drawn, n_batches):
            batch = training.take(rows)
            yield batch, augment(load_cubes(batch.paths), generator).to(device)

    density = DensityTask(network.n_features, training.paths, generator).to(device)
    parameters = [*network.parameters(), *density.parameters()]
    optimiser = AdamW(parameters, settings.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    n_steps = settings.epochs * n_batches
    schedule = LambdaLR(optimiser, lambda step: share_of_rate(step, n_steps))
    history = []
    try:
        for epoch in range(settings.epochs):
            losses = []
            for batch, volumes in batches():
                died, survived = (torch.from_numpy(part).to(device) for part in (batch.died, batch.survived))
                features = network.features(volumes)
                loss = hazard_losses(network.head(features), died, survived)
                _check_finite(loss, volumes, batch, f"{where}, epoch {epoch + 1}")
                optimiser.zero_grad()
                (loss.mean() + settings.density_weight * density(features, volumes)).backward()
                nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
                optimiser.step()
                schedule.step()
                losses += loss.tolist()
            history.append(float(np.mean(losses)))
            log.info("%s: epoch %d of %d, loss %.3f", where, epoch + 1, settings.epochs, history[-1])
        # The running averages of batch normalisation lag behind the weights, much so after few steps.
        update_bn((volumes for _, volumes in batches()), network)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise StudyError(
            f"{where}: memory ran out with size {settings.size} and batch_size {settings.batch_size}. "
            "Lower deep.*.batch_size first, then deep.*.size, in study.yaml."
        ) from error
    network.eval()
    return history


def share_of_rate(step: int, n_steps: int) -> float:
    """Give the share of the highest learning rate at a step, 0 to 1: it rises in a line and falls in a cosine.

    Parameters
    ----------
    step
        Counted from 0.
    n_steps
        Steps of the whole training; at step `n_steps` the share is 0.

    Returns
    -------
    float
        More than 0 at every step before the last is done.
    """
    warm = max(1.0, WARM_UP * n_steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, n_steps - warm)))


class DensityTask(nn.Module):
    """A second task that every scan teaches, whatever became of its patient: the density of each lung zone.

    A few dozen deaths cannot teach an untrained encoder to see. The answers come from the scans themselves, so
    nothing is needed but the training patients' scans; after training the task is thrown away.

    Parameters
    ----------
    n_features
        What the encoder gives.
    paths
        Cubes of the training scans, for the scale of the answers.
    generator
        Source of chance, on the CPU.

    References
    ----------
    Caruana R. Multitask learning. Machine Learning 1997;28:41-75.
    """

    def __init__(self, n_features: int, paths: list[Path], generator: torch.Generator) -> None:
        super().__init__()
        self.mean: Tensor
        self.sd: Tensor
        answers = torch.cat([zone_densities(load_cubes([path])) for path in paths])
        self.register_buffer("mean", answers.mean(dim=0))
        self.register_buffer("sd", answers.std(dim=0).clamp(min=1e-6))
        self.answer = nn.Linear(n_features, answers.shape[1])
        nn.init.normal_(self.answer.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.answer.bias)

    def forward(self, features: Tensor, volumes: Tensor) -> Tensor:
        """Give the mean squared error of the answers to (B, n_features), in variances, for (B, 1, S, S, S)."""
        expected = (zone_densities(volumes) - self.mean) / self.sd
        return functional.mse_loss(self.answer(features), expected)


def _check_finite(losses: Tensor, volumes: Tensor, batch: Examples, where: str) -> None:
    if torch.isfinite(losses).all():
        return
    bad_input = ~torch.isfinite(volumes).flatten(1).all(dim=1)
    blamed = bad_input if bad_input.any() else torch.ones(len(losses), dtype=torch.bool)
    names = ", ".join(batch.table["scan_id"][blamed.cpu().numpy()])
    cause = "their input is not finite" if bad_input.any() else "lower the learning rate of this network"
    raise StudyError(f"{where}: the loss is not a finite number for scan(s) {names}: {cause}.")


def augment(volumes: Tensor, generator: torch.Generator) -> Tensor:
    """Displace each volume a little, change its density and add noise, inside the lungs alone.

    No left-right flip: the two lungs differ in shape, and the heart lies between them on one side.

    Parameters
    ----------
    volumes
        0 to 1, shape (B, 1, S, S, S), 0 outside the lungs.
    generator
        Source of chance, on the CPU.

    Returns
    -------
    torch.Tensor
        The same shape and range.
    """
    side = volumes.shape[-1]
    most = max(1, round(side * SHIFT))
    moved = []
    for volume in volumes:
        z, y, x = (int(step) for step in torch.randint(0, 2 * most + 1, (3,), generator=generator))
        moved.append(functional.pad(volume, (most,) * 6)[..., z : z + side, y : y + side, x : x + side])
    stack = torch.stack(moved)
    change = torch.randn(len(stack), 1, 1, 1, 1, generator=generator) + torch.randn(stack.shape, generator=generator)
    return torch.where(stack > 0, (stack + NOISE * change).clamp(0, 1), stack)


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
