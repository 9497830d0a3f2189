"""A risk from all scans of a patient up to the current one: a recurrent network on what a trained network saw of each.

The encoder stays as it was trained on single scans; only a small recurrent network learns, from the same training
patients. It reads a patient's scans in the order of time and never one that is later than the scan it speaks about.

References
----------
Cho K et al. Learning phrase representations using RNN encoder-decoder for statistical machine translation. EMNLP 2014
(gated recurrent unit).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sscct_lib.cohort import DAYS_PER_YEAR
from sscct_lib.heads import ClassifierHead, HazardHead

N_SEEN = 4  # principal components of what the network sees of a scan, beside its score
N_HIDDEN = 4
N_STEPS = 60
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.3  # strong: there are few patients, and the network knows its training scans too well


class LongitudinalNetwork(nn.Module):
    """A correction of the logits of single scans by the patient's scans up to each of them.

    It starts as no correction at all, so that a cohort with little to learn from keeps the risks of single scans.

    Parameters
    ----------
    n_inputs
        Numbers that describe a scan.
    """

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.memory = nn.GRU(n_inputs + 1, N_HIDDEN, batch_first=True)
        self.correction = nn.Linear(N_HIDDEN, 1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, scans: Tensor, years: Tensor, logits: Tensor) -> Tensor:
        """Give logits after each scan.

        Parameters
        ----------
        scans
            In the order of time, shape (patients, scans, n_inputs); after a patient's last scan anything.
        years
            Since the patient's scan before, 0 for the first, shape (patients, scans).
        logits
            Of each scan by itself, shape (patients, scans, K).

        Returns
        -------
        torch.Tensor
            Shape (patients, scans, K); entry i rests on scans 0 to i.
        """
        seen, _ = self.memory(torch.cat([scans, years.unsqueeze(-1)], dim=-1))
        corrected: Tensor = logits + self.correction(seen)
        return corrected


@dataclass(frozen=True)
class Seen:
    """Scans as the trained network of a fold sees them.

    Attributes
    ----------
    scans
        `scan_id`, `patient_id`, `scan_day`; one row a scan, in any order.
    inputs
        Numbers that describe each, shape (n, n_inputs).
    logits
        Of each by itself, shape (n, K).
    """

    scans: pd.DataFrame
    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]


def sequences(scans: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Put each patient's scans in the order of time.

    Parameters
    ----------
    scans
        `scan_id`, `patient_id`, `scan_day`; one row a scan, in any order.

    Returns
    -------
    rows : numpy.ndarray
        Row numbers in `scans`, shape (patients, most scans); -1 after a patient's last scan.
    years : numpy.ndarray
        Since the scan before, 0 for the first, of the same shape.
    """
    table = scans.reset_index(drop=True).sort_values(["scan_day", "scan_id"])
    days = table["scan_day"].to_numpy(dtype=float)
    patients = list(table.assign(days=days).groupby("patient_id", sort=True))
    rows = np.full((len(patients), max(len(own) for _, own in patients)), -1, dtype=np.int64)
    years = np.zeros(rows.shape, dtype=np.float32)
    for i, (_, own) in enumerate(patients):
        rows[i, : len(own)] = own.index
        years[i, 1 : len(own)] = np.diff(own["days"]) / DAYS_PER_YEAR
    return rows, years


def train(
    seen: Seen, died: NDArray[np.float32], survived: NDArray[np.float32], head: HazardHead | ClassifierHead, seed: int
) -> LongitudinalNetwork:
    """Train a longitudinal model; every patient counts once. The same call gives the same weights.

    Parameters
    ----------
    seen
        The training scans.
    died, survived
        From `heads.hazard_targets`, shape (n, K).
    head
        Of the network of single scans: it gives the loss.
    seed
        Of the first weights.

    Returns
    -------
    LongitudinalNetwork
        In evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LongitudinalNetwork(seen.inputs.shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rows, years, inside = _tensors(seen.scans)
    weight = (inside / inside.sum(dim=1, keepdim=True) / len(inside)).flatten()
    inputs = torch.from_numpy(seen.inputs)[rows]
    logits = (torch.from_numpy(seen.logits) - head.shift.cpu())[rows]  # as they are where every patient counts once
    targets = [torch.from_numpy(part)[rows].flatten(0, 1) for part in (died, survived)]
    for _ in range(N_STEPS):
        optimiser.zero_grad()
        losses = head.losses(network(inputs, years, logits).flatten(0, 1), *targets)
        (losses * weight).sum().backward()
        optimiser.step()
    return network.eval()


def predict(network: LongitudinalNetwork, seen: Seen) -> NDArray[np.float32]:
    """Give the logits of scans from each patient's scans up to it, among those given.

    Parameters
    ----------
    network
        Trained.
    seen
        The scans.

    Returns
    -------
    numpy.ndarray
        Shape (n, K), in the order of `seen.scans`.
    """
    rows, years, inside = _tensors(seen.scans)
    with torch.inference_mode():
        found = network(torch.from_numpy(seen.inputs)[rows], years, torch.from_numpy(seen.logits)[rows])
    kept = inside.bool()
    logits = np.empty_like(seen.logits)
    logits[rows[kept].numpy()] = found[kept].numpy()
    return logits


def _tensors(scans: pd.DataFrame) -> tuple[Tensor, Tensor, Tensor]:
    """Give row numbers (the first row where there is no scan), years between, and 1 where there is a scan."""
    rows, years = sequences(scans)
    return torch.from_numpy(rows.clip(min=0)), torch.from_numpy(years), torch.from_numpy(rows >= 0).float()
