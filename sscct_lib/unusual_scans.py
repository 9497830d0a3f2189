"""Flags of unusual scans, for a cohort out of fold and for new scans."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from sscct_lib.embeddings import Projection, embed, fold_file, fold_files, with_cubes
from sscct_lib.files import atomic
from sscct_lib.schemas import UNUSUAL
from sscct_lib.study import NetworkSettings, Study, StudyError
from sscct_lib.tensors import cube_path
from sscct_lib.unusual import Reference, fit_reference, measure, reasons, threshold
from sscct_lib.wording import NETWORK_WORDS

FOLDER = "unusual"


def flag_unusual(study: Study, network_name: str, cohort: pd.DataFrame) -> pd.DataFrame:
    """Flag the scans of a cohort that differ from the training scans of their fold.

    The threshold of a fold comes from its training patients: each was held out from another fold's model, and the
    distances from there say how far an ordinary patient who was never seen lies.

    Parameters
    ----------
    study
        The study and run; the network is trained.
    network_name
        `resnet18`, `densenet121` or `swin`.
    cohort
        `scan_id`, `patient_id`, `fold`.

    Returns
    -------
    pandas.DataFrame
        Schema `UNUSUAL`, one row a scan whose cube can be made. What new scans are held against is saved in the
        study's models.

    Raises
    ------
    StudyError
        If a fold has no trained model.
    """
    table = with_cubes(study, network_name, study, cohort)
    measures = _measures(study, network_name, study, table)
    fold, patients = table["fold"].to_numpy(), table["patient_id"]
    distance, texts = np.empty(len(table)), np.empty(len(table), dtype=object)
    limit = np.empty(len(table))
    for one in sorted(set(fold)):
        tested = fold == one
        embedded = embed(study, network_name, int(one), study, table)
        reference = fit_reference(embedded[~tested], measures[~tested], patients[~tested])
        _save(reference, fold_file(study.models / FOLDER, network_name, int(one)))
        distance[tested] = reference.distances(embedded[tested])
        texts[tested] = reasons(measures[tested], reference.ordinary)
    share = study.settings.deep.unusual_share
    for one in sorted(set(fold)):
        limit[fold == one] = threshold(distance[fold != one], patients[fold != one], share)
    with atomic(_limit_path(study, network_name)) as partial:
        known = {"threshold": threshold(distance, patients, share), "unusual_share": share, "scans": len(table)}
        partial.write_text(json.dumps(known), encoding="utf-8")
    flagged = table[["scan_id", "patient_id", "fold"]].assign(
        network=network_name,
        distance=distance,
        threshold=limit,
        unusual=distance > limit,
        reasons=np.where(distance > limit, texts, ""),
    )
    return UNUSUAL.validate(flagged[list(UNUSUAL.columns)])


def flag_all(study: Study, networks: Sequence[str], cohort: pd.DataFrame) -> pd.DataFrame:
    """Flag a cohort by every network whose settings ask for it (`flag_unusual`): schema `UNUSUAL`."""
    asked = [name for name in networks if getattr(study.settings.deep, name).flag_unusual]
    found = [flag_unusual(study, name, cohort) for name in asked]
    return UNUSUAL.validate(
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(UNUSUAL.columns))
    )


def flag_new(trained: Study, network_name: str, study: Study, scans: pd.DataFrame) -> pd.DataFrame:
    """Flag new scans that differ from the cohort that a study's networks learned from.

    Parameters
    ----------
    trained
        The study and run whose networks look; `flag_unusual` has run.
    network_name
        `resnet18`, `densenet121` or `swin`.
    study
        The study and run that holds the scans.
    scans
        `scan_id`, `patient_id`.

    Returns
    -------
    pandas.DataFrame
        `scan_id`, `distance` (mean over the folds' models), `threshold`, `unusual` and `reasons`, one row a scan whose
        cube can be made.

    Raises
    ------
    StudyError
        If there is nothing to hold the scans against.
    """
    paths = fold_files(trained.models / FOLDER, network_name)
    if not paths or not _limit_path(trained, network_name).is_file():
        raise StudyError(
            f"{trained.models} does not say which scans are unusual to {NETWORK_WORDS[network_name]}. Run "
            f"`04_deep_models` with deep.{network_name}.flag_unusual: true."
        )
    table = with_cubes(trained, network_name, study, scans)[["scan_id", "patient_id"]]
    references = {fold: _load(path) for fold, path in paths.items()}
    distance = np.mean(
        [one.distances(embed(trained, network_name, fold, study, table)) for fold, one in references.items()], axis=0
    )
    ordinary = np.mean([one.ordinary for one in references.values()], axis=0)
    limit = float(json.loads(_limit_path(trained, network_name).read_text(encoding="utf-8"))["threshold"])
    texts = reasons(_measures(trained, network_name, study, table), ordinary)
    return table[["scan_id"]].assign(
        distance=distance, threshold=limit, unusual=distance > limit, reasons=np.where(distance > limit, texts, "")
    )


def _measures(trained: Study, network_name: str, holder: Study, table: pd.DataFrame) -> pd.DataFrame:
    settings: NetworkSettings = getattr(trained.settings.deep, network_name)
    hu_range = trained.settings.deep.hu_range

    def measured() -> Iterator[dict[str, float]]:
        for scan_id in table["scan_id"]:
            yield measure(np.load(cube_path(holder, scan_id, settings.size, hu_range)), hu_range)

    return pd.DataFrame(measured())


def _limit_path(study: Study, network_name: str) -> Path:
    return study.models / FOLDER / f"{network_name}.json"


def _save(reference: Reference, path: Path) -> None:
    learned = reference.projection
    tensors = {"mean": learned.mean, "spread": learned.spread, "components": learned.components}
    tensors |= {"location": reference.location, "precision": reference.precision, "ordinary": reference.ordinary}
    with atomic(path) as partial:
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, partial)


def _load(path: Path) -> Reference:
    tensors = load_file(path)
    projection = Projection(tensors["mean"], tensors["spread"], tensors["components"])
    return Reference(projection, tensors["location"], tensors["precision"], tensors["ordinary"])
