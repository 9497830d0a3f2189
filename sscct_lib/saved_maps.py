"""What raised and lowered a network's risk in one scan, as the page on a scan shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sscct_lib.schemas import ATTRIBUTIONS
from sscct_lib.study import Study
from sscct_lib.tables import read_table

if TYPE_CHECKING:
    from sscct_lib.networks import HazardNetwork


@dataclass(frozen=True)
class Map:
    """What a network sees of a scan, and what raises (positive) and lowers its risk.

    Attributes
    ----------
    model
        Name of the network, as tables show it.
    cube
        0 to 1, shape (S, S, S), [z, y, x] in LPS.
    parts
        Parts of the score, the same shape.
    caution
        Why not to read it; empty when its check against an untrained network was passed.
    """

    model: str
    cube: NDArray[np.float16]
    parts: NDArray[np.float32]
    caution: str


def map_of_study(study: Study, scan_id: str, fold: int) -> Map | None:
    """Explain the out-of-fold risk of a scan by the first network of a run.

    Parameters
    ----------
    study
        The study and run.
    scan_id, fold
        The scan, and the fold in which it was tested.

    Returns
    -------
    Map or None
        None where no network was trained, or it never saw the scan.
    """
    from sscct_lib.networks import display_name
    from sscct_lib.tensors import cube_path
    from sscct_lib.training import cards, fold_model

    name = study.settings.deep.networks[0]
    settings = getattr(study.settings.deep, name)
    cube = cube_path(study, scan_id, settings.size, study.settings.deep.hu_range)
    if not cards(study, name) or not cube.is_file():
        return None
    done = study.attribution(name, scan_id)
    parts = np.load(done) if done.is_file() else mean_map([fold_model(study, name, fold)], cube)
    return Map(display_name(name, settings), np.load(cube), parts, caution(study, name))


def mean_map(networks: "Sequence[HazardNetwork]", cube: Path) -> NDArray[np.float32]:
    """Average what raises and lowers the score of several networks of one kind over the voxels of a cube file."""
    from sscct_lib.attribution import integrated_gradients
    from sscct_lib.tensors import load_cubes

    volume = load_cubes([cube])
    maps = np.stack([integrated_gradients(network, volume) for network in networks])
    return np.asarray(maps.mean(axis=0), dtype=np.float32)


def caution(study: Study, network_name: str) -> str:
    """Say whether the maps of a network passed their check against an untrained network.

    Parameters
    ----------
    study
        The study and run.
    network_name
        `resnet18`, `densenet121` or `swin`.

    Returns
    -------
    str
        Empty when they did.
    """
    from sscct_lib.attribution import MOST_ALIKE

    if not study.table("attributions").is_file():
        return "not checked against an untrained network"
    checked: pd.DataFrame = read_table(study.table("attributions"), ATTRIBUTIONS, "04_deep_models")
    alike = checked.loc[checked["network"] == network_name, "likeness"].median()
    return "" if alike < MOST_ALIKE else "hardly depends on what the network learned: do not read it"
