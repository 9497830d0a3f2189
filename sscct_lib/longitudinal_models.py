"""Longitudinal models of a study: trained on what each fold's network sees, saved, and used for predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from sscct_lib.clinical_branch import clinical_values
from sscct_lib.cohort import patient_weights
from sscct_lib.embeddings import (
    Projection,
    embed,
    fit_projection,
    fold_file,
    fold_files,
    with_cubes,
)
from sscct_lib.files import atomic
from sscct_lib.heads import hazard_targets
from sscct_lib.longitudinal import N_SEEN, LongitudinalNetwork, Seen, predict, train
from sscct_lib.networks import HazardNetwork, display_name
from sscct_lib.schemas import PREDICTIONS
from sscct_lib.study import NetworkSettings, Study, StudyError, fingerprint
from sscct_lib.training import fold_model, horizons

SUFFIX = ", longitudinal"
FOLDER = "longitudinal"


def cross_validate(study: Study, network_name: str, cohort: pd.DataFrame) -> pd.DataFrame:
    """Predict each scan from its patient's scans up to it, by models that never saw the patient.

    Parameters
    ----------
    study
        The study and run; the network is trained.
    network_name
        `resnet18`, `densenet121` or `swin`; of an ensemble the first member of each fold is built upon.
    cohort
        Schema `COHORT`.

    Returns
    -------
    pandas.DataFrame
        Schema `PREDICTIONS`. The models are saved in the study's models.

    Raises
    ------
    StudyError
        If a fold has no trained network.
    """
    table = with_cubes(study, network_name, study, cohort)
    event = table["event_observed"].to_numpy(dtype=bool)
    followup = table["followup_years"].to_numpy(dtype=float)
    if study.settings.labels == "as_published":
        followup = np.where(event, followup, np.inf)
    died, survived = hazard_targets(followup, event, horizons(study))
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
        seen = _seen(table, embedded, logits, projection, centre, scale)
        seed = int(fingerprint(study.settings.seed, network_name, fold, "longitudinal"), 16) % 2**32
        training = _take(seen, ~tested)
        model = train(training, died[~tested], survived[~tested], network.head, seed)
        _save(model, projection, centre, scale, fold_file(study.models / FOLDER, network_name, fold))
        parts.append(_frame(study, network_name, network, model, _take(seen, tested)).assign(fold=fold))
    frame = pd.concat(parts, ignore_index=True).assign(risk_sd=np.nan)
    return PREDICTIONS.validate(frame[list(PREDICTIONS.columns)])


def cross_validate_all(study: Study, networks: Sequence[str], cohort: pd.DataFrame) -> pd.DataFrame:
    """Predict a cohort by the longitudinal models of every network whose settings ask for one: schema `PREDICTIONS`."""
    asked = [name for name in networks if getattr(study.settings.deep, name).longitudinal]
    found = [cross_validate(study, name, cohort) for name in asked]
    empty = pd.DataFrame(columns=list(PREDICTIONS.columns))
    return PREDICTIONS.validate(pd.concat(found, ignore_index=True) if found else empty)


def predict_new(trained: Study, network_name: str, study: Study, scans: pd.DataFrame) -> pd.DataFrame:
    """Predict new scans, each from its patient's scans up to it among those given.

    Parameters
    ----------
    trained
        The study and run whose models predict; `cross_validate` has run.
    network_name
        `resnet18`, `densenet121` or `swin`.
    study
        The study and run that holds the scans.
    scans
        `scan_id`, `patient_id`, `scan_day`, and clinical columns where they are known; give all scans of a patient.

    Returns
    -------
    pandas.DataFrame
        `model`, `horizon_years`, `scan_id`, `patient_id`, `risk` (mean over the models of all folds) and `risk_sd`
        (their standard deviation).

    Raises
    ------
    StudyError
        If there are no longitudinal models.
    """
    paths = fold_files(trained.models / FOLDER, network_name)
    if not paths:
        raise StudyError(
            f"{trained.models} holds no longitudinal models. Run `04_deep_models` with "
            f"deep.{network_name}.longitudinal: true."
        )
    table = with_cubes(trained, network_name, study, scans)
    frames = []
    for fold, path in paths.items():
        model, projection, centre, scale = _load(path)
        network = fold_model(trained, network_name, fold)
        embedded = embed(trained, network_name, fold, study, table)
        seen = _seen(table, embedded, _logits(network, embedded, table), projection, centre, scale)
        frames.append(_frame(trained, network_name, network, model, seen))
    keys = ["model", "horizon_years", "scan_id", "patient_id"]
    spread = pd.concat(frames).groupby(keys, sort=False)["risk"].agg(["mean", "std"]).reset_index()
    return spread.rename(columns={"mean": "risk", "std": "risk_sd"})


def _logits(network: HazardNetwork, embedded: NDArray[np.float32], table: pd.DataFrame) -> NDArray[np.float32]:
    device = network.centre.device
    clinical = torch.from_numpy(clinical_values(table)).to(device)
    with torch.inference_mode():
        return np.asarray(network.logits(torch.from_numpy(embedded).to(device), clinical).cpu().numpy())


def _seen(
    table: pd.DataFrame,
    embedded: NDArray[np.float32],
    logits: NDArray[np.float32],
    projection: Projection,
    centre: float,
    scale: float,
) -> Seen:
    inputs = np.column_stack([(logits.mean(axis=1) - centre) / scale, projection.scores(embedded)])
    return Seen(table[["scan_id", "patient_id", "scan_day"]], inputs.astype(np.float32), logits)


def _take(seen: Seen, chosen: NDArray[np.bool_]) -> Seen:
    return Seen(seen.scans[chosen].reset_index(drop=True), seen.inputs[chosen], seen.logits[chosen])


def _frame(
    study: Study, network_name: str, network: HazardNetwork, model: LongitudinalNetwork, seen: Seen
) -> pd.DataFrame:
    settings: NetworkSettings = getattr(study.settings.deep, network_name)
    risk = network.risks(torch.from_numpy(predict(model, seen)).double()).numpy()
    rows = [
        seen.scans[["scan_id", "patient_id"]].assign(
            model=display_name(network_name, settings) + SUFFIX, horizon_years=horizon, risk=risk[:, k]
        )
        for k, horizon in enumerate(horizons(study))
    ]
    return pd.concat(rows, ignore_index=True)


def _save(model: LongitudinalNetwork, projection: Projection, centre: float, scale: float, path: Path) -> None:
    learned = {"mean": projection.mean, "spread": projection.spread, "components": projection.components}
    tensors = {f"projection.{name}": torch.from_numpy(np.ascontiguousarray(v)) for name, v in learned.items()}
    tensors["score"] = torch.tensor([centre, scale], dtype=torch.float64)
    with atomic(path) as partial:
        save_file(tensors | {f"model.{name}": value for name, value in model.state_dict().items()}, partial)


def _load(path: Path) -> tuple[LongitudinalNetwork, Projection, float, float]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    projection = Projection(*(tensors[f"projection.{name}"].numpy() for name in ("mean", "spread", "components")))
    model = LongitudinalNetwork(1 + len(projection.components))
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    centre, scale = tensors["score"].tolist()
    return model.eval(), projection, centre, scale
