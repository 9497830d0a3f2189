"""A second task in training, whose answers come from the scans themselves."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sscct_lib.tensors import load_cubes, zone_densities


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
