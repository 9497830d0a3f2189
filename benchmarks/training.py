"""Time training against a plain PyTorch loop over a MONAI CacheDataset, with the same networks, sizes and changes.

`python benchmarks/training.py [--networks resnet18 ...] [--size 64] [--scans 16] [--epochs 5] [--out FILE.csv]`
trains on made-up lungs for a few epochs, in turn:

- plain: one process with a thread for every core, a careful tutorial's loop: MONAI's layers as they are, cached scans,
  MONAI's random transforms, AdamW, gradients clipped, contiguous tensors, 32 bits;
- ours: as `training.cross_validate` trains folds: a process for each core with one thread, side by side, that keeps
  its memory, with bf16 where the processor multiplies it.

It prints scans in a second, their ratio, the share of time in which ours waited for data, and how long the study of
2,125 scans (640 patients, 5 folds, 50 epochs that show one scan of each training patient) would take at that speed.
`--memory` instead prints the peak memory of one train step of each network at sides of 96 and 128 voxels.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    Compose,
    EnsureTyped,
    Lambdad,
    OneOf,
    RandAffined,
    RandCoarseDropoutd,
    RandGaussianNoised,
    RandGaussianSharpend,
    RandGaussianSmoothd,
    RandShiftIntensityd,
)
from torch import nn

from sscct_lib.deep import fitting
from sscct_lib.deep.batches import Examples
from sscct_lib.deep.heads import HazardHead, hazard_targets
from sscct_lib.deep.networks import Convolution, PiecewiseAttention, build, kept_memory
from sscct_lib.study.settings import AugmentationSettings, DeepSettings, NetworkSettings
from sscct_lib.study.words import NETWORK_WORDS

N_PATIENTS, N_FOLDS, EPOCHS = 640, 5, 50  # of the published study's size
HORIZONS = (1.0, 3.0, 5.0)
HEADINGS = {
    "size": "voxels per side", "plain": "scans per second, plain loop", "ours": "here", "ratio": "times as fast",
    "waiting_share": "share of time waiting for data", "study_hours": "hours for 2,125 scans",
    "peak_gb": "GB of a training step",
}  # fmt: skip


def made_up(folder: Path, n: int, size: int) -> Examples:
    """Write cubes that look like two lungs to a clock, each of its own patient."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij"))
    lungs = ((np.abs(grid[2]) - 0.5) ** 2 / 0.2 + grid[1] ** 2 + grid[0] ** 2) < 0.9
    paths = [folder / f"s{i}.npy" for i in range(n)]
    for path in paths:
        noise = 0.15 + 0.05 * rng.standard_normal((size,) * 3)
        np.save(path, np.where(lungs, noise.clip(0.01, 1), 0).astype(np.float16))
    died = np.arange(n) % 4 == 0
    targets = hazard_targets(np.where(died, 2.0, 6.0), died, HORIZONS)
    ids = [path.stem for path in paths]
    return Examples(pd.DataFrame({"scan_id": ids, "patient_id": ids, "fold": 0}), paths, *targets)


def changes(settings: AugmentationSettings, size: int, window: float) -> list[Any]:
    """Give MONAI's dictionary transforms that change a scan as `augmentation.Augmentation` does."""
    chance, blur = settings.probability, (0.25, 0.75)
    turn, move = settings.rotation_degrees * np.pi / 180, settings.shift * size
    key = ["volume"]
    return [
        RandAffined(
            key, prob=chance, rotate_range=(turn,) * 3, scale_range=(settings.scaling,) * 3,
            translate_range=(move,) * 3, padding_mode="zeros", spatial_size=(size,) * 3, cache_grid=True,
        ),
        OneOf([
            RandGaussianSmoothd(key, prob=chance, sigma_x=blur, sigma_y=blur, sigma_z=blur),
            RandGaussianSharpend(key, prob=chance, alpha=(0.3, 1.0)),
        ]),
        RandShiftIntensityd(key, prob=chance, offsets=settings.density_hu / window),
        RandGaussianNoised(key, prob=chance, std=settings.noise_hu / window),
        RandCoarseDropoutd(key, prob=chance, holes=1, spatial_size=round(settings.cutout * size), fill_value=0),
    ]  # fmt: skip


def as_in_monai(network: nn.Module) -> nn.Module:
    """Give a network's layers back the classes that PyTorch and MONAI made them of."""
    for module in network.modules():
        if isinstance(module, Convolution | PiecewiseAttention):
            module.__class__ = type(module).__mro__[1]
    return network


def plain(name: str, settings: NetworkSettings, deep: DeepSettings, examples: Examples) -> float:
    """Train as a tutorial does; give scans in a second after a first epoch."""
    torch.set_num_threads(cores())
    window = deep.hu_range[1] - deep.hu_range[0]
    read: Callable[[str], np.ndarray] = lambda path: np.load(path)[None].astype(np.float32)  # noqa: E731
    items = [
        {"volume": str(path), "died": died, "survived": survived}
        for path, died, survived in zip(examples.paths, examples.died, examples.survived, strict=True)
    ]
    transforms = [Lambdad("volume", read), EnsureTyped(["volume"]), *changes(deep.augmentation, settings.size, window)]
    dataset = CacheDataset(items, Compose(transforms), progress=False)
    batches = DataLoader(dataset, batch_size=settings.batch_size, shuffle=True, num_workers=0)
    network = as_in_monai(build(name, settings, len(HORIZONS))).train()
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate)
    began = 0.0
    for epoch in range(settings.epochs + 1):
        began = time.perf_counter() if epoch == 1 else began
        for batch in batches:
            optimiser.zero_grad()
            loss = HazardHead.losses(network(batch["volume"].as_tensor()), batch["died"], batch["survived"]).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
    return len(items) * settings.epochs / (time.perf_counter() - began)


_together: Any = None


def _wait_for_all(barrier: Any) -> None:
    global _together
    _together = barrier


def one_fold(name: str, settings: NetworkSettings, deep: DeepSettings, examples: Examples) -> tuple[float, float]:
    """Train one fold of ours; give its scans in a second and the share of time that it waited for data."""
    torch.set_num_threads(1)
    network = build(name, settings, len(HORIZONS))
    _together.wait()
    told = fitting.train(network, examples, settings, 0, name, deep)
    return len(examples.paths) * settings.epochs / told["seconds"], told["waiting_share"]


def ours(name: str, settings: NetworkSettings, deep: DeepSettings, examples: Examples) -> tuple[float, float]:
    """Train a fold on each core, side by side; give their scans in a second together."""
    spawn, n = get_context("spawn"), cores()
    with kept_memory(), ProcessPoolExecutor(n, spawn, _wait_for_all, (spawn.Barrier(n),)) as pool:
        jobs = [pool.submit(one_fold, name, settings, deep, examples) for _ in range(n)]
        speeds, waits = zip(*[job.result() for job in jobs], strict=True)
    return sum(speeds), float(np.mean(waits))


def cores() -> int:
    """Give the number of cores that this process may use."""
    from joblib import cpu_count

    return int(cpu_count())


def step_memory(name: str, size: int) -> float:
    """Give the peak memory of a process that trains a network for one step of one scan, GB."""
    with TemporaryDirectory() as folder:
        settings = NetworkSettings(size=size, epochs=1, batch_size=1, head_epochs=0)
        fitting.train(build(name, settings, 3), made_up(Path(folder), 2, size), settings, 0, name)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORK_WORDS), choices=list(NETWORK_WORDS))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--scans", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="peak memory of a step instead of speed")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.memory:
        for name in given.networks:
            for size in (96, 128):
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    peak = pool.submit(step_memory, name, size).result()
                rows.append({"network": NETWORK_WORDS[name], "size": size, "peak_gb": peak})
    else:
        deep = DeepSettings()
        for name in given.networks:
            width = {"feature_size": 24, "window_size": 4} if given.size < 64 else {}
            settings = NetworkSettings(size=given.size, epochs=given.epochs, batch_size=4, **width)
            with TemporaryDirectory() as folder:
                examples = made_up(Path(folder), given.scans, given.size)
                slow = plain(name, settings, deep, examples)
                fast, waiting = ours(name, settings, deep, examples)
            shown = N_PATIENTS * (N_FOLDS - 1) * EPOCHS
            rows.append({
                "network": NETWORK_WORDS[name], "size": given.size, "plain": slow, "ours": fast, "ratio": fast / slow,
                "waiting_share": waiting, "study_hours": shown / fast / 3600,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    print(f"{cores()} cores, {platform.processor() or platform.machine()}, torch {torch.__version__}, "
          f"precision {fitting.precision(DeepSettings())}")  # fmt: skip
    if given.out:
        table.round(2).rename(columns=HEADINGS).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
