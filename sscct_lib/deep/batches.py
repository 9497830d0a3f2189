"""Batches of an epoch: one scan of each patient, read, changed at random and put together.

Augmentation makes small changes that leave the disease what it is, of training scans alone. All draws follow from
seed and epoch, so a training that goes on after a kill sees what it would have seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms.compose import Compose, OneOf
from monai.transforms.intensity.array import (
    RandCoarseDropout,
    RandGaussianNoise,
    RandGaussianSharpen,
    RandGaussianSmooth,
    RandShiftIntensity,
)
from monai.transforms.spatial.array import RandAffine, RandFlip
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from sscct_lib.cohort.outcomes import patient_weights
from sscct_lib.deep.cubes import load_cubes
from sscct_lib.deep.heads import N_VALUES
from sscct_lib.study.settings import AugmentationSettings, Balance

MOST_WORKERS = 8  # reading processes beside a GPU

Change = Callable[[Tensor, int], Tensor]  # a volume (1, S, S, S) and a seed give the changed volume
Drawn = tuple[int, int]  # the row of a scan, and the seed of its change

BLUR = (0.25, 0.75)  # standard deviation, voxels: from hardly any to a soft kernel
SHARPEN = (0.3, 1.0)  # strength of an unsharp mask, towards a lung kernel
FINE, COARSE = 0.3, 0.75  # standard deviations of that mask's two Gaussians, voxels
LEAST_LUNG = 0.01  # a displaced voxel with less is mostly background


@dataclass(frozen=True)
class Examples:
    """Scans as a network takes them."""

    table: pd.DataFrame  # `scan_id`, `patient_id`, `fold`; one row per scan
    paths: list[Path]  # of their cubes
    died: NDArray[np.float32]  # this and the next from `heads.hazard_targets`, shape (n, K)
    survived: NDArray[np.float32]
    clinical: NDArray[np.float32] | None = None  # (n, N_VALUES), NaN where missing; None: all are

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        """Keep the rows with these numbers."""
        table = self.table.iloc[rows].reset_index(drop=True)
        clinical = None if self.clinical is None else self.clinical[rows]
        return Examples(table, [self.paths[i] for i in rows], self.died[rows], self.survived[rows], clinical)

    @property
    def clinical_inputs(self) -> NDArray[np.float32]:
        """The clinical values, NaN where missing, shape (n, N_VALUES)."""
        unknown = np.full((len(self.paths), N_VALUES), np.nan, dtype=np.float32)
        return unknown if self.clinical is None else self.clinical

    @property
    def followed_by_death(self) -> NDArray[np.bool_]:
        """Whether a patient of the scan is known to die within the longest horizon, shape (n,)."""
        patients = self.table["patient_id"]
        return patients.isin(patients.to_numpy()[self.died.any(axis=1)]).to_numpy()


def set_apart(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Divide scans by patient into rest and `share` of the patients, as many of those who die as of the others."""
    patients = examples.table["patient_id"].to_numpy()
    dies = pd.Series(examples.followed_by_death, index=patients).groupby(level=0).first()
    rng = np.random.default_rng(seed)
    apart: list[str] = []
    for kind in (False, True):
        names = dies.index[dies == kind].to_numpy()
        n = min(max(1, round(share * len(names))), len(names) // 2)
        apart += list(rng.permutation(names)[:n])
    taken = np.isin(patients, apart)
    return examples.take(np.flatnonzero(~taken)), examples.take(np.flatnonzero(taken))


def training_weights(examples: Examples, balance: Balance) -> NDArray[np.float64]:
    """How much each scan counts on average over the epochs, shape (n,), mean 1: a patient's scans share one weight."""
    weights = patient_weights(examples.table["patient_id"])
    if balance != "none":
        weights = weights * _balancing(examples)
    return np.asarray(weights / weights.mean())


def _balancing(examples: Examples) -> NDArray[np.float64]:
    """Weights of scans, shape (n,), by which the patients who die count as much in sum as the others."""
    dies = examples.followed_by_death
    patients = examples.table["patient_id"]
    shares = {kind: patients[dies == kind].nunique() / patients.nunique() for kind in (False, True)}
    return np.array([0.5 / shares[kind] for kind in dies.tolist()])


class OneScanEach(Sampler[list[Drawn]]):
    """Batches of an epoch, as even as they can be: one scan of each patient, so that many scans do not dominate."""

    # With `balance` "sampling", patients who die and patients who do not are drawn equally often: some come more than
    # once and others wait for another epoch. `n_ranks` processes share an epoch, each with its own batches.
    def __init__(
        self, examples: Examples, batch_size: int, seed: int, balance: Balance = "none", n_ranks: int = 1
    ) -> None:
        self.scans_of = [rows.to_numpy() for _, rows in examples.table.reset_index().groupby("patient_id")["index"]]
        dies = examples.followed_by_death
        self.dies = np.array([dies[rows[0]] for rows in self.scans_of])
        self.n_batches = max(1, len(self.scans_of) // (batch_size * n_ranks))
        self.seed, self.balance, self.n_ranks = seed, balance, n_ranks
        self.epoch = 0

    @property
    def sampler(self) -> "OneScanEach":
        """Itself: Lightning tells the epoch to the `sampler` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass belongs to, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Give the number of batches in an epoch."""
        return self.n_batches

    def __iter__(self) -> Iterator[list[Drawn]]:
        """Draw the batches of the epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        drawn = rng.permutation([rng.choice(self.scans_of[i]) for i in self._patients(rng)])
        seeds = rng.integers(2**31, size=len(drawn))
        batches = np.array_split(np.column_stack([drawn, seeds]), self.n_batches * self.n_ranks)
        rank = distributed.get_rank() if self.n_ranks > 1 else 0
        for batch in batches[rank :: self.n_ranks]:
            yield [(int(row), int(seed)) for row, seed in batch]

    def _patients(self, rng: np.random.Generator) -> NDArray[np.int64]:
        n = len(self.scans_of)
        if self.balance != "sampling" or self.dies.all() or not self.dies.any():
            return np.arange(n)
        kinds = np.flatnonzero(self.dies), np.flatnonzero(~self.dies)
        return np.concatenate([_drawn_evenly(kind, n // 2 + (n % 2) * i, rng) for i, kind in enumerate(kinds)])


def _drawn_evenly(items: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n of the items, each as often as any other or once more."""
    whole = np.tile(items, n // len(items))
    return np.concatenate([whole, rng.choice(items, n % len(items), replace=False)])


class Cubes(Dataset[dict[str, Any]]):
    """Scans with their targets, each changed by the seed it is asked with; weighed by `_balancing` if `balanced`."""

    def __init__(self, examples: Examples, change: Change | None, balanced: bool = False) -> None:
        self.examples, self.change, self.clinical = examples, change, examples.clinical_inputs
        weights = _balancing(examples) if balanced else np.ones(len(examples.paths))
        self.weights = weights.astype(np.float32)

    def __len__(self) -> int:
        """Give the number of scans."""
        return len(self.examples.paths)

    def __getitem__(self, drawn: Drawn) -> dict[str, Any]:
        """Read a scan: `volume` (1, S, S, S), `clinical`, `died` and `survived` (K,), its `weight` and its `row`."""
        row, seed = drawn
        volume = load_cubes([self.examples.paths[row]])[0]
        if self.change is not None:
            volume = self.change(volume, seed)
        targets = {"died": self.examples.died[row], "survived": self.examples.survived[row]}
        return {"volume": volume, "clinical": self.clinical[row], **targets, "weight": self.weights[row], "row": row}


def loader(cubes: Cubes, sampler: OneScanEach, gpu: bool) -> "DataLoader[dict[str, Any]]":
    """Give batches of an epoch at each pass: the dictionaries of `Cubes`, stacked."""
    # The cubes are small files that the system keeps in memory. Beside a GPU, processes of their own read and change
    # them; without one the cores have nothing better to do meanwhile, and the training does it itself.
    workers = min(MOST_WORKERS, max(1, cpu_count() - 1)) if gpu else 0
    return DataLoader(
        cubes,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=gpu,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


class Augmentation:
    """Displace, turn and scale a volume a little, change kernel, density, noise, cut a box out (arXiv 1708.04552)."""

    def __init__(self, settings: AugmentationSettings, side: int, hu_range: tuple[float, float]) -> None:
        window = hu_range[1] - hu_range[0]
        chance = settings.probability
        turn = settings.rotation_degrees * torch.pi / 180
        affine = RandAffine(
            prob=chance,
            rotate_range=(turn,) * 3,
            scale_range=(settings.scaling,) * 3,
            translate_range=(settings.shift * side,) * 3,
            padding_mode="zeros",
            spatial_size=(side,) * 3,
            cache_grid=True,
        )
        blur = RandGaussianSmooth(sigma_x=BLUR, sigma_y=BLUR, sigma_z=BLUR, prob=1)
        fine: dict[str, Any] = {f"sigma1_{axis}": (FINE, FINE) for axis in "xyz"}
        coarse: dict[str, Any] = {f"sigma2_{axis}": (COARSE, COARSE) for axis in "xyz"}
        sharpen = RandGaussianSharpen(**fine, **coarse, alpha=SHARPEN, prob=1)
        self._kernel_chance = chance * settings.kernel
        moves = settings.rotation_degrees or settings.scaling or settings.shift
        flip = RandFlip(prob=0.5 * settings.flip_left_right, spatial_axis=2)
        self._place = Compose([flip, affine] if moves else [flip])
        self._kernel = OneOf([blur, sharpen])
        self._density = Compose(
            [
                RandShiftIntensity(settings.density_hu / window, prob=chance),
                RandGaussianNoise(std=settings.noise_hu / window, prob=chance),
            ]
        )
        box = max(1, round(settings.cutout * side))
        self._cut = RandCoarseDropout(1, box, fill_value=0, prob=chance if settings.cutout else 0)

    def __call__(self, volume: Tensor, seed: int) -> Tensor:
        """Change a volume (1, S, S, S), 0 to 1, as a seed says; what lies outside the displaced lungs stays 0."""
        tracked = get_track_meta()
        set_track_meta(False)  # plain tensors, at half the time
        try:
            return self._changed(volume, seed)
        finally:
            set_track_meta(tracked)

    def _changed(self, volume: Tensor, seed: int) -> Tensor:
        for number, part in enumerate((self._place, self._kernel, self._density, self._cut)):
            part.set_random_state(seed + number)
        placed: Any = self._place(volume)
        inside = ~(placed < LEAST_LUNG)  # also what is not a number, for training to report
        changed = placed
        if inside.any() and self._kernel.R.random_sample() < self._kernel_chance:
            # Outside, average lung: a kernel would mix the border of the lungs with the emptiness around them.
            changed = self._kernel(torch.where(inside, placed, placed[inside].mean()))
        changed = torch.where(inside, self._density(changed), 0).clamp(0, 1)
        cut: Any = self._cut(changed)
        return torch.as_tensor(cut).contiguous()
