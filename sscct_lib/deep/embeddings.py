"""What the trained network of a fold makes of scans, in a few numbers a scan, for models that build on it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sscct_lib.deep.cross_validation import cards, fold_model
from sscct_lib.deep.cubes import cube_path, make_cubes
from sscct_lib.deep.prediction import encode
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, fingerprint

Floats = NDArray[np.float64]
N_COMPONENTS = 16


def fold_file(folder: Path, network_name: str, fold: int) -> Path:
    """Where what belongs to the network of a fold is kept in a folder."""
    return folder / f"{network_name}_fold{fold}.safetensors"


def fold_files(folder: Path, network_name: str) -> dict[int, Path]:
    """List what belongs to a network in a folder, by fold; empty where there is nothing."""
    found = folder.glob(f"{network_name}_fold*.safetensors")
    return dict(sorted((int(path.stem.rpartition("_fold")[2]), path) for path in found))


def embed(study: Study, network_name: str, fold: int, holder: Study, scans: pd.DataFrame) -> NDArray[np.float32]:
    """What the encoder of a fold's network gives of a holder's scans, (n, n_features); of an ensemble its first member.

    What it gave before for the same model and scans is read from disk.
    """
    settings = study.settings.deep.network(network_name)
    hu_range = study.settings.deep.hu_range
    card = next((card for card in cards(study, network_name) if card["fold"] == fold and card["member"] == 0), {})
    cubes = make_cubes(holder, scans, settings.size, hu_range)
    key = fingerprint(card.get("sha256"), cubes[["scan_id", "cube_sha256"]].to_dict("list"))
    path = fold_file(holder.run / "embeddings", network_name, fold)
    try:
        with safe_open(path, "numpy") as file:
            if file.metadata()["key"] == key:
                return np.asarray(file.get_tensor("embedded"))
    except (OSError, SafetensorError):
        pass  # not there yet, or not whole: made below
    network = fold_model(study, network_name, fold)
    paths = [cube_path(holder, scan_id, settings.size, hu_range) for scan_id in scans["scan_id"]]
    embedded = encode(network, paths).float().cpu().numpy()
    with atomic(path) as partial:
        save_file({"embedded": embedded}, partial, metadata={"key": key})
    return np.asarray(embedded)


def with_cubes(study: Study, network_name: str, holder: Study, scans: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of `scans` whose cubes can be made as the network takes them, numbered anew."""
    settings = study.settings.deep.network(network_name)
    cubes = make_cubes(holder, scans, settings.size, study.settings.deep.hu_range)
    return scans[cubes["status"].eq("ok").to_numpy()].reset_index(drop=True)


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
