"""A risk from all scans of a patient up to the current one: a recurrent network on what a trained network saw of each.

The encoder stays as it was trained on single scans; only a small gated recurrent unit (Cho K et al. EMNLP 2014) learns,
from the same training patients. It reads a patient's scans in the order of time, none later than the one it judges.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR, patient_weights
from sscct_lib.deep.cross_validation import horizons, horizons_told, targets
from sscct_lib.deep.cubes import view_of, with_cubes
from sscct_lib.deep.heads import ClassifierHead, HazardHead, clinical_values
from sscct_lib.deep.networks import FAMILY, HazardNetwork, display_name
from sscct_lib.deep.prediction import embed, fit_projection, fold_file, fold_model, save_tensors
from sscct_lib.horizons.evaluation import risk_table
from sscct_lib.study.folder import Study, fingerprint
from sscct_lib.study.schemas import PREDICTIONS

N_SEEN = 4  # principal components of what the network sees of a scan, beside its score
N_HIDDEN = 4
N_STEPS = 60
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.3  # strong: there are few patients, and the network knows its training scans too well
VARIANT = "longitudinal"
FOLDER = "longitudinal"


class LongitudinalNetwork(nn.Module):
    """A correction of the logits of single scans by the patient's scans up to each of them.

    It starts as no correction at all, so that a cohort with little to learn from keeps the risks of single scans.
    """

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.memory = nn.GRU(n_inputs + 1, N_HIDDEN, batch_first=True)
        self.correction = nn.Linear(N_HIDDEN, 1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, scans: Tensor, years: Tensor, logits: Tensor) -> Tensor:
        """Give logits (patients, scans, K) after each scan: entry i rests on scans 0 to i, in the order of time."""
        # `scans` (patients, scans, n_inputs) may hold anything after a patient's last; `years` are since the last one.
        seen, _ = self.memory(torch.cat([scans, years.unsqueeze(-1)], dim=-1))
        corrected: Tensor = logits + self.correction(seen)
        return corrected


@dataclass(frozen=True)
class Seen:
    """Scans as the trained network of a fold sees them, in any order."""

    scans: pd.DataFrame  # `scan_id`, `patient_id`, `scan_day`
    inputs: NDArray[np.float32]  # (n, n_inputs), numbers that describe each
    logits: NDArray[np.float32]  # (n, K), of each by itself


def cross_validate_all(study: Study, networks: Sequence[str], cohort: pd.DataFrame) -> pd.DataFrame:
    """Predict a cohort by the longitudinal models of every network whose settings ask for one: schema `PREDICTIONS`."""
    asked = [name for name in networks if study.settings.deep.network(name).longitudinal]
    found = [cross_validate(study, name, cohort) for name in asked]
    empty = pd.DataFrame(columns=list(PREDICTIONS.columns))
    return PREDICTIONS.validate(pd.concat(found, ignore_index=True) if found else empty)


def cross_validate(study: Study, network_name: str, cohort: pd.DataFrame) -> pd.DataFrame:
    """Predict each scan (schema `PREDICTIONS`) from its patient's scans up to it; the models of all folds are saved."""
    table = with_cubes(study, cohort, view_of(study, network_name))
    died, survived = targets(study, table)
    name = f"{display_name(network_name, study.settings.deep.network(network_name))}, {VARIANT}"
    parts = []
    for fold in sorted(set(table["fold"])):
        tested = (table["fold"] == fold).to_numpy()
        network = fold_model(study, network_name, fold)
        embedded = embed(study, network_name, fold, study, table)
        logits = _logits(network, embedded, table)
        weights = patient_weights(table["patient_id"][~tested])
        projection = fit_projection(embedded[~tested], weights, N_SEEN)
        score = logits[~tested].mean(axis=1)
        centre = float(np.average(score, weights=weights))
        scale = float(np.sqrt(np.average((score - centre) ** 2, weights=weights))) or 1.0
        inputs = np.column_stack([(logits.mean(axis=1) - centre) / scale, projection.scores(embedded)])
        seen = Seen(table[["scan_id", "patient_id", "scan_day"]], inputs.astype(np.float32), logits)
        seed = int(fingerprint(study.settings.seed, network_name, fold, "longitudinal"), 16) % 2**32
        training = _take(seen, ~tested)
        model = train(training, died[~tested], survived[~tested], network.head, seed)
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"projection.{name}": torch.from_numpy(values) for name, values in asdict(projection).items()}
        tensors["score"] = torch.tensor([centre, scale], dtype=torch.float64)
        save_tensors(fold_file(study.models / FOLDER, network_name, fold), tensors)
        own = _take(seen, tested)
        risk = network.risks(torch.from_numpy(predict(model, own)).double()).numpy()
        rows = risk_table(own.scans[["scan_id", "patient_id"]], name, horizons(study), risk=risk)
        parts.append(rows.assign(repeat=0, fold=fold))
    identity = {"family": FAMILY, "network": network_name, "variant": VARIANT}
    found = pd.concat(parts, ignore_index=True).assign(**identity)
    told = horizons_told(study, died, table["fold"])  # as for the network that it is built on
    return PREDICTIONS.validate(found[found["horizon_years"].isin(told)])


def _logits(network: HazardNetwork, embedded: NDArray[np.float32], table: pd.DataFrame) -> NDArray[np.float32]:
    device = network.centre.device
    clinical = torch.from_numpy(clinical_values(table)).to(device)
    with torch.inference_mode():
        return np.asarray(network.logits(torch.from_numpy(embedded).to(device), clinical).cpu().numpy())


def _take(seen: Seen, chosen: NDArray[np.bool_]) -> Seen:
    return Seen(seen.scans[chosen].reset_index(drop=True), seen.inputs[chosen], seen.logits[chosen])


def train(
    seen: Seen, died: NDArray[np.float32], survived: NDArray[np.float32], head: HazardHead | ClassifierHead, seed: int
) -> LongitudinalNetwork:
    """Train a longitudinal model; every patient counts once. The same call gives the same weights."""
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
    """Give the logits of scans, (n, K) in the order of `seen.scans`, from each patient's scans up to it."""
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


def sequences(scans: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each patient's scans in the order of time: row numbers (-1 after the last) and years since the scan before."""
    table = scans.reset_index(drop=True).sort_values(["scan_day", "scan_id"])
    days = table["scan_day"].to_numpy(dtype=float)
    patients = list(table.assign(days=days).groupby("patient_id", sort=True))
    rows = np.full((len(patients), max(len(own) for _, own in patients)), -1, dtype=np.int64)
    years = np.zeros(rows.shape, dtype=np.float32)
    for i, (_, own) in enumerate(patients):
        rows[i, : len(own)] = own.index
        years[i, 1 : len(own)] = np.diff(own["days"]) / DAYS_PER_YEAR
    return rows, years
