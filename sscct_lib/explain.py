"""Which zones of the lungs a network's risk rests on: what happens to the risk when a zone is made average."""

from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sscct_lib.clinical_branch import clinical_values
from sscct_lib.networks import HazardNetwork, display_name
from sscct_lib.schemas import COHORT
from sscct_lib.study import Study
from sscct_lib.tables import read_table
from sscct_lib.tensors import cube_path, load_cubes
from sscct_lib.training import fold_model, horizons

HEIGHTS = ("lower", "middle", "upper")  # z grows to the head
SIDES = ("right", "left")  # x grows to the patient's left


def zone_occlusion(
    network: HazardNetwork, volume: torch.Tensor, clinical: NDArray[np.float32] | None = None
) -> pd.DataFrame:
    """Replace one zone after the other by average lung and see how the risks change.

    The lungs keep their shape: inside a zone every density becomes the mean density of the lungs that the network
    was trained on. It says what the network responds to, not what causes death.

    Parameters
    ----------
    network
        Trained, in evaluation mode.
    volume
        One cube, 0 to 1, shape (1, 1, S, S, S), 0 outside the lungs, [z, y, x] in LPS.
    clinical
        The scan's clinical values, shape (1, N_VALUES), for a network that uses them; they stay as they are.

    Returns
    -------
    pandas.DataFrame
        One row a zone and interval end: `height`, `side`, `horizon` (number of the horizon, from 0), `risk` of the
        scan as it is, and `change`: that risk minus the risk with the zone replaced. Positive: what is in the zone
        raises the risk.

    References
    ----------
    Zeiler MD, Fergus R. Visualizing and understanding convolutional networks. ECCV 2014 (occlusion).
    """
    size = volume.shape[-1]
    thirds = [slice(low, high) for low, high in pairwise((0, size // 3, 2 * size // 3, size))]
    halves = [slice(0, size // 2), slice(size // 2, size)]
    occluded = [volume]
    for third in thirds:
        for half in halves:
            one = volume.clone()
            zone = one[..., third, :, half]
            zone[zone > 0] = network.centre.item()
            occluded.append(one)
    with torch.inference_mode():
        stack = torch.cat(occluded).to(network.centre.device)
        values = None if clinical is None else torch.from_numpy(clinical).to(stack.device).expand(len(stack), -1)
        found = network.risks(network(stack, values)).double().cpu().numpy()
    rows = [
        {"height": height, "side": side, "horizon": k, "risk": found[0, k], "change": found[0, k] - one[k]}
        for (height, side), one in zip(((h, s) for h in HEIGHTS for s in SIDES), found[1:], strict=True)
        for k in range(found.shape[1])
    ]
    return pd.DataFrame(rows)


def explain_scan(study: Study, network_name: str, scan_id: str, fold: int) -> pd.DataFrame:
    """Explain the out-of-fold risk of a scan by zones.

    Parameters
    ----------
    study
        The study and run; its networks are trained.
    network_name
        `resnet18`, `densenet121` or `swin`.
    scan_id, fold
        The scan, and the fold in which it was tested.

    Returns
    -------
    pandas.DataFrame
        As `zone_occlusion`, the mean over the members of the fold, with `model`, `scan_id` and
        `horizon_years` in the place of `horizon`.

    Raises
    ------
    StudyError
        If the fold has no trained model.
    """
    settings = getattr(study.settings.deep, network_name)
    volume = load_cubes([cube_path(study, scan_id, settings.size, study.settings.deep.hu_range)])
    clinical = None
    if settings.clinical:
        cohort = read_table(study.table("cohort"), COHORT, "01_cohort")
        clinical = clinical_values(cohort[cohort["scan_id"] == scan_id])
    members = [
        zone_occlusion(fold_model(study, network_name, fold, member), volume, clinical)
        for member in range(settings.n_members)
    ]
    zones = pd.concat(members).groupby(["height", "side", "horizon"], as_index=False, sort=False).mean()
    years = np.array(horizons(study))[zones.pop("horizon")]
    return zones.assign(model=display_name(network_name, settings), scan_id=scan_id, horizon_years=years)
