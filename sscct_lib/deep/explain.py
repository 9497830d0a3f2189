"""What a network's risk rests on: zones of the lungs and single voxels, and whether that picture depends on training.

An explanation says what the network responds to, not what causes death. Positive: what is there raises the risk.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from sscct_lib.deep.cross_validation import horizons
from sscct_lib.deep.cubes import cube_path, load_cubes, view_of, zones
from sscct_lib.deep.heads import clinical_values
from sscct_lib.deep.networks import HazardNetwork, display_name
from sscct_lib.deep.prediction import fold_model
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import ATTRIBUTIONS, COHORT
from sscct_lib.study.tables import read_table
from sscct_lib.study.words import NETWORK_WORDS

N_STEPS = 24  # of the path; the error of the sum is a few percent of the score
MOST_ALIKE = 0.5  # rank correlation with an untrained network from which a map says nothing about training
LARGEST_BATCH = 8


def explain_scan(study: Study, network_name: str, scan_id: str, fold: int) -> pd.DataFrame:
    """Explain the out-of-fold risk of a scan, tested in `fold`, by zones; StudyError if the fold has no trained model.

    Returns
    -------
    pandas.DataFrame
        One row a zone and horizon: `height`, `side`, `risk` of the scan as it is, `change` (that risk minus the risk
        with the zone made average lung), `model`, `scan_id`, `horizon_years`; means over the members of the fold.
    """
    settings = study.settings.deep.network(network_name)
    volume = load_cubes([cube_path(study, scan_id, view_of(study, network_name))])
    clinical = None
    if settings.clinical:
        cohort = read_table(study, "cohort", COHORT)
        clinical = clinical_values(cohort[cohort["scan_id"] == scan_id])
    members = [
        zone_occlusion(fold_model(study, network_name, fold, member), volume, clinical)
        for member in range(settings.n_members)
    ]
    changes = pd.concat(members).groupby(["height", "side", "horizon"], as_index=False, sort=False).mean()
    years = np.array(horizons(study))[changes.pop("horizon")]
    return changes.assign(model=display_name(network_name, settings), scan_id=scan_id, horizon_years=years)


def zone_occlusion(
    network: HazardNetwork, volume: torch.Tensor, clinical: NDArray[np.float32] | None = None
) -> pd.DataFrame:
    """Replace one zone of a cube (1, 1, S, S, S) after the other by average lung and see how the risks change.

    One row a zone and horizon: `height`, `side`, `horizon` (from 0), `risk` of the scan as it is, and `change`: that
    risk minus the risk with the zone replaced. Clinical values (1, N_VALUES) stay as they are.

    Zeiler MD, Fergus R. Visualizing and understanding convolutional networks. ECCV 2014 (occlusion).
    """
    places = zones(volume.shape[-1])
    occluded = [volume]
    for place in places.values():
        one = volume.clone()
        zone = one[(..., *place)]
        zone[zone > 0] = network.centre.item()
        occluded.append(one)
    with torch.inference_mode():
        stack = torch.cat(occluded).to(network.centre.device)
        values = None if clinical is None else torch.from_numpy(clinical).to(stack.device).expand(len(stack), -1)
        found = network.risks(network(stack, values)).double().cpu().numpy()
    rows = [
        {"height": height, "side": side, "horizon": k, "risk": found[0, k], "change": found[0, k] - one[k]}
        for (height, side), one in zip(places, found[1:], strict=True)
        for k in range(found.shape[1])
    ]
    return pd.DataFrame(rows)


def most_at_risk(predictions: pd.DataFrame, n_scans: int) -> pd.DataFrame:
    """Choose scans to explain: of each patient the one with the highest risk, then the patients with the highest.

    Risks (schema `PREDICTIONS`) at the longest horizon are averaged over the models. `scan_id`, `patient_id`, `fold`,
    `risk`, at most `n_scans`, the highest risk first.
    """
    longest = predictions[predictions["horizon_years"] == predictions["horizon_years"].max()]
    mean = longest.groupby(["scan_id", "patient_id", "fold"], as_index=False)["risk"].mean()
    ordered = mean.sort_values(["risk", "scan_id"], ascending=[False, True])
    chosen: pd.DataFrame = ordered.drop_duplicates("patient_id").head(n_scans).reset_index(drop=True)
    return chosen


def attribute_scans(study: Study, networks: Sequence[str], scans: pd.DataFrame) -> pd.DataFrame:
    """Explain the out-of-fold risks of scans voxel by voxel, save the maps, and check them against untrained networks.

    Scans are `scan_id`, `patient_id`, `fold`; the table has schema `ATTRIBUTIONS`, a row per network and scan.

    Adebayo J et al. Sanity checks for saliency maps. NeurIPS 2018 (comparison with random weights).
    """
    tasks = []
    for name in networks:
        for fold, tested in scans.groupby("fold"):
            trained = fold_model(study, name, int(str(fold)))
            # Drawn here, since all threads share one stream of random numbers.
            tasks.append((name, (trained, untrained_copy(trained, study.settings.seed)), tested))
    n_threads = torch.get_num_threads()
    workers = 1 if torch.cuda.is_available() else n_threads
    # Kernels this small gain nothing from several threads, which wait for each other busily.
    torch.set_num_threads(max(1, n_threads // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            rows = [row for found in pool.map(lambda task: _attribute(study, *task), tasks) for row in found]
    finally:
        torch.set_num_threads(n_threads)
    return ATTRIBUTIONS.validate(pd.DataFrame(rows, columns=list(ATTRIBUTIONS.columns)))


def _attribute(
    study: Study, name: str, pair: tuple[HazardNetwork, HazardNetwork], tested: pd.DataFrame
) -> list[dict[str, object]]:
    """Explain the scans of a fold by its trained network and by an untrained one."""
    settings = study.settings.deep.network(name)
    rows: list[dict[str, object]] = []
    for scan_id, patient_id in zip(tested["scan_id"], tested["patient_id"], strict=True):
        volume = load_cubes([cube_path(study, scan_id, view_of(study, name))])
        maps = [integrated_gradients(network, volume) for network in pair]
        for found, is_trained in zip(maps, (True, False), strict=True):
            with atomic(study.attribution(name, scan_id, is_trained)) as partial, partial.open("wb") as file:
                np.save(file, found)
        alike = likeness(maps[0], maps[1], volume[0, 0].numpy() > 0)
        row = {"model": display_name(name, settings), "network": name, "scan_id": scan_id}
        rows.append({**row, "patient_id": patient_id, "likeness": alike})
    return rows


def integrated_gradients(network: HazardNetwork, volume: torch.Tensor, n_steps: int = N_STEPS) -> NDArray[np.float32]:
    """Share out a network's score among the voxels of a scan.

    The path leads from lungs of average density, of the same shape, to the scan. A voxel gets its distance from average
    lung times the mean gradient of the score on that path, so all voxels together give the score of the scan less that
    of average lung.

    Parameters
    ----------
    network
        Trained, in evaluation mode.
    volume
        One cube, 0 to 1, shape (1, 1, S, S, S), 0 outside the lungs.
    n_steps
        Points of the path, at the middles of as many equal parts.

    Returns
    -------
    numpy.ndarray
        Parts of the score (of which the logit of every hazard is the sum with its baseline), shape (S, S, S); 0 outside
        the lungs.

    Sundararajan M, Taly A, Yan Q. Axiomatic attribution for deep networks. ICML 2017.
    """
    device = network.centre.device
    scan = volume.to(device)
    average = torch.where(scan > 0, network.centre, scan)
    gradient = torch.zeros_like(scan)
    for shares in ((torch.arange(n_steps, device=device) + 0.5) / n_steps).split(LARGEST_BATCH):
        points = (average + shares.view(-1, 1, 1, 1, 1) * (scan - average)).requires_grad_()
        score = network.head.score(network.features(points)).sum()
        gradient += torch.autograd.grad(score, points)[0].sum(dim=0, keepdim=True)
    return np.asarray(((scan - average) * gradient / n_steps)[0, 0].detach().cpu().numpy(), dtype=np.float32)


def untrained_copy(network: HazardNetwork, seed: int) -> HazardNetwork:
    """Copy a network and draw every weight anew: what a picture shows without anything learned."""
    fresh = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        for parameter in fresh.parameters():
            if parameter.dim() > 1 and isinstance(parameter, nn.Parameter):
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return fresh.eval()


def likeness(one: NDArray[np.float32], other: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Rank correlation of two maps over the voxels inside, by size whatever the sign; NaN where one is constant."""
    sizes = np.abs(one[inside]), np.abs(other[inside])
    if min(np.ptp(size) for size in sizes) == 0:
        return np.nan
    return float(spearmanr(*sizes).statistic)


def sanity(checked: pd.DataFrame) -> pd.DataFrame:
    """Say of each network whether its maps (`attribute_scans`) depend on what it learned.

    One row per model: `scans`, `likeness to an untrained network` (median and range), and `verdict`.
    """
    rows = {}
    for model, scans in checked.groupby("model", sort=False):
        values = scans["likeness"]
        failed = not values.median() < MOST_ALIKE
        rows[model] = {
            "scans": len(scans),
            "likeness to an untrained network": f"{values.median():.2f} ({values.min():.2f} to {values.max():.2f})",
            "verdict": "fails: the picture hardly depends on training; do not read it" if failed else "passes",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def map_title(network_name: str, checked: pd.DataFrame) -> str:
    """Name a network above its map, and say where its maps fail the check of `sanity`."""
    own = checked[checked["network"] == network_name]
    fails = sanity(own)["verdict"].str.startswith("fails").any()
    return NETWORK_WORDS[network_name] + (": fails the check" if fails else "")
