"""Cubes whose density tells the outcome, and a small network, for the tests of training."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from sscct_lib.deep import batches, heads, networks
from sscct_lib.study.settings import NetworkSettings

HORIZONS = (1.0, 3.0, 5.0)
SIZE = 16


def examples(folder, followup, event, density=None, patients=None):
    """Cubes whose density tells the outcome, unless told otherwise."""
    rng = np.random.default_rng(0)
    followup, event = np.asarray(followup, dtype=float), np.asarray(event, dtype=bool)
    density = np.where(event, 0.6, 0.2) if density is None else density
    paths = [folder / f"s{i}.npy" for i in range(len(event))]
    for path, level in zip(paths, density, strict=True):
        cube = level + 0.05 * rng.standard_normal((SIZE,) * 3)
        cube[0] = 0
        np.save(path, cube.astype(np.float16))
    ids = [path.stem for path in paths]
    table = pd.DataFrame({"scan_id": ids, "patient_id": patients or ids, "fold": 0})
    return batches.Examples(table, paths, *heads.hazard_targets(followup, event, HORIZONS))


def network(seed=0):
    """A small network with batch normalisation, as the large ones have."""
    torch.manual_seed(seed)
    layers = [nn.Conv3d(1, 8, 3, stride=2), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 16, 3, stride=2)]
    layers += [nn.BatchNorm3d(16), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
    return networks.HazardNetwork(nn.Sequential(*layers), 16, 3)


def mild(**changed):
    return NetworkSettings(**{"size": SIZE, "epochs": 15, "batch_size": 4, "learning_rate": 3e-2, **changed})


EIGHT = ([0.5, 6, 2, 6, 0.7, 6, 2.5, 6], [1, 0] * 4)
