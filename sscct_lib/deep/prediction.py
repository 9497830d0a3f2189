"""Trained networks: kept with a card, and what they make of scans: features, risks, and a few numbers to build on.

Risks are of death within each horizon, shape (n, K); clinical values (n, N_VALUES), NaN where missing, or None.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sscct_lib.deep.batches import Examples, training_weights
from sscct_lib.deep.cubes import load_cubes
from sscct_lib.deep.heads import N_VALUES, ClassifierHead, HazardHead, base_hazards
from sscct_lib.deep.networks import HazardNetwork, build
from sscct_lib.study.files import atomic, write_if_changed
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import Balance, NetworkSettings

N_DROPOUT_SAMPLES = 50
N_COMPONENTS = 16
ON_CARD = {"key", "sha256", "fold", "member"}

Floats = NDArray[np.float64]
Clinical = NDArray[np.float32] | None


def predict(network: HazardNetwork, paths: list[Path], clinical: Clinical = None, batch_size: int = 8) -> Floats:
    """Predict the risks of scans from their cubes, `batch_size` at a time."""
    return risks_of(network, encode(network, paths, batch_size), clinical)


def encode(network: HazardNetwork, paths: list[Path], batch_size: int = 8) -> Tensor:
    """Give what a trained network's encoder makes of scans, shape (n, n_features), on the network's device."""
    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        parts = [
            network.features(load_cubes(paths[start : start + batch_size]).to(device))
            for start in range(0, len(paths), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, network.n_features, device=device)


def risks_of(network: HazardNetwork, features: Tensor, clinical: Clinical) -> Floats:
    """Give the risks of scans from what the encoder made of them."""
    with torch.inference_mode():
        values = _on_device(features, clinical)
        return np.asarray(network.risks(network.logits(features, values).double()).cpu().numpy())


def dropout_spread(network: HazardNetwork, features: Tensor, clinical: Clinical, seed: int) -> Floats:
    """Standard deviation (n, K) of risks over random dropout of features (Gal Y, Ghahramani Z. ICML 2016)."""
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        values = _on_device(features, clinical)
        network.dropout.train()
        drawn = [network.risks(network.logits(features, values).double()) for _ in range(N_DROPOUT_SAMPLES)]
        network.dropout.eval()
        return np.asarray(torch.stack(drawn).std(dim=0).cpu().numpy())


def _on_device(features: Tensor, clinical: Clinical) -> Tensor:
    given = np.full((len(features), N_VALUES), np.nan, dtype=np.float32) if clinical is None else clinical
    return torch.from_numpy(given).to(features.device)


def mean_loss(examples: Examples, risk: Floats, head: Literal["hazard", "classifiers"] = "hazard") -> float:
    """Mean loss per scan (a negative log-likelihood) of predicted risks; as in training, patients weigh the same."""
    died, survived = torch.from_numpy(examples.died), torch.from_numpy(examples.survived)
    if head == "classifiers":
        logits = torch.logit(torch.from_numpy(np.clip(risk, 1e-9, 1 - 1e-9)))
        found = ClassifierHead.losses(logits, died.double(), survived)
    else:
        survival = np.clip(1 - np.column_stack([np.zeros(len(risk)), risk]), 1e-9, 1)
        hazard = torch.from_numpy(np.clip(1 - survival[:, 1:] / survival[:, :-1], 1e-9, 1 - 1e-9))
        found = HazardHead.losses(torch.logit(hazard), died, survived)
    losses = pd.Series(found.numpy())
    return float(losses.groupby(examples.table["patient_id"]).mean().mean())


def risk_without_image(training: Examples, n_scans: int) -> Floats:
    """Give every scan the risks of the training cohort: what an image must improve on."""
    hazards = base_hazards(training.died, training.survived)
    return np.tile(1 - np.cumprod(1 - hazards), (n_scans, 1))


def hazards_seen(training: Examples, balance: Balance) -> Floats:
    """Give the hazards of training scans as they count in training, shape (K,): one scan of each patient an epoch."""
    return base_hazards(training.died, training.survived, training_weights(training, balance))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors, whole or not at all, and give the SHA-256 of the file."""
    with atomic(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
    return checksum(path)


def write_card(path: Path, card: dict[str, Any], limits: str) -> dict[str, Any]:
    """Write the card of a model file beside it, with the versions it was made by and the limits of its use."""
    versions = {name: version(name) for name in ("sscct", "torch", "monai", "pytorch-lightning")}
    card = card | {"versions": versions, "limits": limits}
    write_if_changed(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    return card


def read_card(path: Path, needed: Collection[str]) -> dict[str, Any] | None:
    """Read the card beside a model file; None where there is none, or it lacks what is needed."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and set(needed) <= card.keys() else None


def current_card(path: Path, key: str, needed: Collection[str] = ("key", "sha256")) -> dict[str, Any] | None:
    """Read the card of a model file; None unless the file is the one that it describes, made under this key."""
    card = read_card(path, needed)
    return card if card and card["key"] == key and path.is_file() and checksum(path) == card["sha256"] else None


def model_path(study: Study, network_name: str, fold: int, member: int) -> Path:
    """Where a trained network lies, its card beside it."""
    return study.models / "deep" / f"{network_name}_fold{fold}_{member}.safetensors"


def cards(study: Study, network_name: str) -> list[dict[str, Any]]:
    """Read the cards of a network's trained models, by fold and member."""
    paths = sorted((study.models / "deep").glob(f"{network_name}_fold*.json"))
    found = [card for path in paths if (card := read_card(path, ON_CARD))]
    return sorted(found, key=lambda card: (card["fold"], card["member"]))


def shipped(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a network's `cards`, those that judge new scans: all members of one fold, which is what was judged.

    The mean over the folds would be another model, never tested. The fold is the first: chosen for its result, it would
    be worth less than it seems.
    """
    return [card for card in found if card["fold"] == found[0]["fold"]]


def fold_model(study: Study, network_name: str, fold: int, member: int = 0) -> HazardNetwork:
    """Load a trained network that tests a fold; StudyError when there is none, or its file is not that of its card."""
    path = model_path(study, network_name, fold, member)
    card = read_card(path, ON_CARD)
    if card is None:
        raise StudyError(f"{study.models} has no model of {network_name}, fold {fold}. Run `04_deep_models` first.")
    if not path.is_file() or checksum(path) != card["sha256"]:
        raise StudyError(f"{path.name} is missing or not the file of its card. Run `04_deep_models` again.")
    settings = NetworkSettings.model_validate(card["settings"])
    network = build(card["network"], settings, len(card["horizons_years"]))
    tensors = load_file(path)
    if tensors.keys() != network.state_dict().keys():
        raise StudyError(f"{path.name} is of a network that this version no longer builds. Run `04_deep_models` again.")
    network.load_state_dict(tensors)
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def fold_file(folder: Path, network_name: str, fold: int) -> Path:
    """Where what belongs to the network of a fold is kept in a folder."""
    return folder / f"{network_name}_fold{fold}.safetensors"


def embed(study: Study, network_name: str, fold: int, holder: Study, scans: pd.DataFrame) -> NDArray[np.float32]:
    """What the encoder of a fold's network gives of a holder's scans, (n, n_features); of an ensemble its first member.

    Scans are from `cubes.with_cubes`. What it gave before for the same model and scans is read from disk.
    """
    card = read_card(model_path(study, network_name, fold, 0), ON_CARD) or {}
    key = fingerprint(card.get("sha256"), scans[["scan_id", "cube_sha256"]].to_dict("list"))
    path = fold_file(holder.run / "embeddings", network_name, fold)
    try:
        with safe_open(path, "numpy") as file:
            if file.metadata()["key"] == key:
                return np.asarray(file.get_tensor("embedded"))
    except (OSError, SafetensorError):
        pass  # not there yet, or not whole: made below
    embedded = encode(fold_model(study, network_name, fold), list(scans["cube"])).float().cpu()
    save_tensors(path, {"embedded": embedded}, {"key": key})
    return np.asarray(embedded.numpy())


@dataclass(frozen=True)
class Projection:
    """Embeddings brought to a few numbers, learned from the training scans of a fold."""

    mean: Floats  # of each feature, shape (n_features,)
    spread: Floats
    components: Floats  # (n_components, n_features), each scaled so that its scores have variance 1

    def scores(self, embedded: NDArray[np.float32]) -> Floats:
        """Project embeddings (n, n_features) to scores (n, n_components)."""
        return np.asarray(((embedded - self.mean) / self.spread) @ self.components.T)


def fit_projection(embedded: NDArray[np.float32], weights: Floats, n_components: int = N_COMPONENTS) -> Projection:
    """Learn principal components of embeddings (n, n_features), weighted by scan (n,); fewer where scans span fewer."""
    mean = np.average(embedded.astype(float), axis=0, weights=weights)
    centred = embedded - mean
    spread = np.sqrt(np.average(centred**2, axis=0, weights=weights))
    spread = np.where(spread > 0, spread, 1.0)
    _, sizes, directions = np.linalg.svd(centred / spread * np.sqrt(weights)[:, None], full_matrices=False)
    deviations = sizes / np.sqrt(weights.sum())
    n_kept = min(n_components, int((sizes > 1e-6 * sizes[0]).sum()))
    return Projection(mean, spread, directions[:n_kept] / deviations[:n_kept, None])
