"""Deep models: trained fold by fold, saved with a card, and used for out-of-fold and for new predictions."""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count, effective_n_jobs
from numpy.typing import NDArray

from sscct_lib.deep import prediction
from sscct_lib.deep.batches import Examples
from sscct_lib.deep.cubes import View, lung_density, view_of, with_cubes
from sscct_lib.deep.heads import base_hazards, clinical_values, hazard_targets
from sscct_lib.deep.networks import FAMILY, HazardNetwork, build, check_size, display_name, kept_memory
from sscct_lib.deep.weights import PUBLISHED, Weights, is_self_supervised, load_weights, located
from sscct_lib.horizons.evaluation import risk_table
from sscct_lib.study.code import code_hash
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.words import NETWORK_WORDS, years_text

log = logging.getLogger(__name__)

NOT_OF_TRAINING = {"longitudinal", "flag_unusual"}  # settings of what is built on a trained network


@dataclass(frozen=True)
class Task:
    """A model to train, or to find trained: a member of a network's ensemble, for a fold."""

    network: str
    examples: Examples
    fold: int
    member: int
    key: str  # changes with all that the training depends on

    @property
    def training(self) -> Examples:
        """Scans of the patients of the other folds."""
        return self.examples.take(np.flatnonzero(self.examples.table["fold"] != self.fold))

    @property
    def tested(self) -> Examples:
        """Scans of the fold."""
        return self.examples.take(np.flatnonzero(self.examples.table["fold"] == self.fold))

    @property
    def words(self) -> str:
        """Its name in the log and in errors."""
        return f"{NETWORK_WORDS[self.network]}, fold {self.fold}, member {self.member}"


def cross_validate(study: Study, cohort: pd.DataFrame, networks: Sequence[str], n_jobs: int = 1) -> pd.DataFrame:
    """Predict each scan with networks that never saw its patient; train those that are not yet trained.

    Each fold's model is saved in `study.models / "deep"` when it is finished, and found there by a later call with the
    same settings, code, scans and outcomes, so that a stopped run goes on where it was.

    Parameters
    ----------
    cohort
        Schema `COHORT`, the scans with usable lungs.
    n_jobs
        Models trained at the same time, -1 for as many as there are cores, which they share evenly. With a GPU one
        after the other.

    Returns
    -------
    pandas.DataFrame
        Schema `PREDICTIONS`: the mean risk over the members of a fold and, with two or more (`n_members`), their
        standard deviation (deep ensemble, Lakshminarayanan et al. 2017); of a single member with dropout, that over
        random draws of its features. A scan whose cube cannot be made has no row, nor has a horizon within which nobody
        died whom a fold could learn from; the log says why.

    Raises
    ------
    StudyError
        If a setting is impossible, a fold has no deaths to learn from, or a training fails.
    """
    for name in networks:
        check_size(name, study.settings.deep.network(name))
    tasks = [task for name in networks for task in _tasks(study, cohort, name, n_jobs)]
    told = horizons_told(study, tasks[-1].examples.died, tasks[-1].examples.table["fold"])
    predictions = pd.concat(_run(study, tasks, n_jobs), ignore_index=True)
    scans = predictions.groupby(["model", "horizon_years", "scan_id", "patient_id", "fold"])
    spread = scans.agg(risk=("risk", "mean"), risk_sd=("risk", "std"), dropout_sd=("dropout_sd", "mean")).reset_index()
    spread["risk_sd"] = spread["risk_sd"].fillna(spread["dropout_sd"])  # a single member has no other
    spread = spread[spread["horizon_years"].isin(told)].reset_index(drop=True)
    of_name = {display_name(name, study.settings.deep.network(name)): name for name in networks}
    # Members learned from the same patients: together they are one fit.
    named = spread.assign(repeat=0, family=FAMILY, network=spread["model"].map(of_name))
    return PREDICTIONS.validate(named.drop(columns="dropout_sd"))


def train_one(study: Study, cohort: pd.DataFrame, name: str, n_jobs: int = 1) -> None:
    """Train one model of a cross-validation, unless it is there; `cross_validate` then finds it.

    So the trainings of a study spread over the machines of a cluster.

    Parameters
    ----------
    name
        As `training_names` gives it. Of a fold that has no patients there is nothing to train.
    cohort, n_jobs
        As for `cross_validate`.

    Raises
    ------
    StudyError
        As `cross_validate`.
    """
    network = name.partition("_fold")[0]
    check_size(network, study.settings.deep.network(network))
    for task in _tasks(study, cohort, network, n_jobs):
        if _path(study, task).stem == name:
            torch.set_num_threads(cpu_count())
            _trained(study, task)


def training_names(study: Study) -> list[str]:
    """Name the trainings of a study, one for each network, fold and member."""
    return [
        prediction.model_path(study, network, fold, member).stem
        for network in study.settings.deep.networks
        for fold in range(study.settings.cohort.n_folds)
        for member in range(study.settings.deep.network(network).n_members)
    ]


def _tasks(study: Study, cohort: pd.DataFrame, network: str, n_jobs: int) -> list[Task]:
    """List the models of a network, and remove those that the settings no longer ask for."""
    examples, key = _examples(study, cohort, network, n_jobs)
    folds = sorted(set(examples.table["fold"]))
    _check_folds(examples, folds)
    members = range(study.settings.deep.network(network).n_members)
    _forget_others(study, network, folds, members)
    return [Task(network, examples, fold, member, key) for fold in folds for member in members]


def _path(study: Study, task: Task) -> Path:
    return prediction.model_path(study, task.network, task.fold, task.member)


def _run(study: Study, tasks: list[Task], n_jobs: int) -> list[pd.DataFrame]:
    """Train and predict, in processes of their own: a network keeps the interpreter busy between kernels."""
    workers = 1 if torch.cuda.is_available() else min(effective_n_jobs(n_jobs), len(tasks))
    threads = max(1, cpu_count() // workers)
    if workers == 1 and study.settings.deep.devices * study.settings.deep.num_nodes == 1:
        return [_one_model(study, task, threads) for task in tasks]
    # Not joblib: it restarts a worker whose memory grew, as a training's does.
    with kept_memory(), ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        jobs = [pool.submit(_one_model, study, task, threads) for task in tasks]
        try:
            return [job.result() for job in jobs]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the first failure ends the page, not the last
            raise


def _end_with_parent() -> None:
    """Let a worker end when the process that started it is killed, instead of training on for nobody."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _examples(study: Study, cohort: pd.DataFrame, network_name: str, n_jobs: int) -> tuple[Examples, str]:
    """Make the cubes of a network, and a key that changes with all that its training depends on."""
    settings, view = study.settings.deep.network(network_name), view_of(study, network_name)
    table = with_cubes(study, cohort, view, n_jobs, told_as=network_name)
    if table.empty:
        raise StudyError(f"No scan of the cohort has usable lungs for {NETWORK_WORDS[network_name]}; see the log.")
    died, survived = targets(study, table)
    clinical = clinical_values(table)
    identity = table[["scan_id", "patient_id", "fold"]]
    key = fingerprint(
        code_hash("deep.cross_validation"),
        [version("torch"), version("monai")],
        network_name,
        settings.model_dump(mode="json", exclude=NOT_OF_TRAINING),
        study.settings.deep.pretraining if is_self_supervised(settings) else None,
        [study.settings.deep.augmentation, study.settings.deep.precision],
        view.hu_range,
        horizons(study),
        study.settings.seed,
        identity.to_dict("list"),
        table["cube_sha256"].tolist(),
        [died.tolist(), survived.tolist()],
        np.nan_to_num(clinical, nan=-1).tolist() if settings.clinical else None,
    )
    return Examples(identity, list(table["cube"]), died, survived, clinical), key


def horizons(study: Study) -> list[float]:
    """Ends of the intervals of hazard, years: the study's horizons in rising order."""
    return sorted(set(study.settings.horizons_years))


def targets(study: Study, table: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets of scans, as `heads.hazard_targets`; as published, a scan censored before a horizon counts as alive."""
    followup = table["followup_years"].to_numpy(dtype=float)
    event = table["event_observed"].to_numpy(dtype=bool)
    if study.settings.labels == "as_published":
        followup = np.where(event, followup, np.inf)
    return hazard_targets(followup, event, horizons(study))


def _check_folds(examples: Examples, folds: list[int]) -> None:
    if len(folds) < 2:
        raise StudyError(f"Cross-validation needs patients in at least 2 folds, found fold(s) {folds}.")
    for fold in folds:
        training = examples.table["fold"].ne(fold).to_numpy()
        patients = examples.table.loc[training, "patient_id"].nunique()
        if patients < 2 or not examples.died[training].any():
            raise StudyError(
                f"Fold {fold} cannot be tested: outside it there are {patients} patient(s) and "
                f"{int(examples.died[training].sum())} scan(s) followed by death within the longest horizon; "
                "training needs at least 2 patients and 1 death. Add patients, or lower cohort.n_folds."
            )


def horizons_told(study: Study, died: NDArray[np.float32], fold: "pd.Series[int]") -> list[float]:
    """List the horizons that every fold can learn: deaths within them outside the fold; the log names the others."""
    learned = []
    for k, horizon in enumerate(horizons(study)):
        within: NDArray[np.bool_] = np.asarray(died[:, : k + 1].any(axis=1))
        taught = {one: set(fold.to_numpy()[within]) - {one} for one in sorted(set(fold))}
        without = [one for one, others in taught.items() if not others]
        if without:
            log.warning(
                "The risk within %s is not estimable: outside fold(s) %s nobody died within it.",
                years_text(horizon), ", ".join(map(str, without)),
            )  # fmt: skip
        else:
            learned.append(horizon)
    return learned


def _forget_others(study: Study, network_name: str, folds: list[int], members: range) -> None:
    """Remove models that the settings no longer ask for, so that they do not join the predictions of new scans."""
    for found in prediction.cards(study, network_name):
        if found["fold"] not in folds or found["member"] not in members:
            path = prediction.model_path(study, network_name, found["fold"], found["member"])
            path.with_suffix(".json").unlink()
            path.unlink(missing_ok=True)


def _one_model(study: Study, task: Task, threads: int) -> pd.DataFrame:
    """Train a model of a fold, or find it, and predict the fold's scans."""
    torch.set_num_threads(threads)
    card, tested = _trained(study, task), task.tested
    network = prediction.fold_model(study, task.network, task.fold, task.member)
    features = prediction.encode(network, tested.paths)
    risk = prediction.risks_of(network, features, tested.clinical)
    drawn = np.full_like(risk, np.nan)
    if study.settings.deep.network(task.network).dropout > 0:
        drawn = prediction.dropout_spread(network, features, tested.clinical, card["seed"])
    return risk_table(tested.table, card["model"], card["horizons_years"], risk=risk, dropout_sd=drawn)


def _trained(study: Study, task: Task) -> dict[str, Any]:
    """Give the card of a model; train it where it is not there."""
    card = prediction.current_card(_path(study, task), task.key, prediction.ON_CARD)
    if card:
        log.info("%s: found trained", task.words)
    return card or _train_and_save(study, task)


def _train_and_save(study: Study, task: Task) -> dict[str, Any]:
    """Train a model, save it with its card, and give the card."""
    from sscct_lib.deep.fitting import train  # loads Lightning: 3 s, for which only training is to wait

    settings = study.settings.deep.network(task.network)
    training = task.training
    seed = int(fingerprint(study.settings.seed, task.network, task.fold, task.member), 16) % 2**32
    torch.manual_seed(seed)
    network, weights = _untrained(study, task.network, training, task.fold)
    path = _path(study, task)
    unfinished = study.models / "unfinished" / f"{path.stem}_{task.key}.ckpt"
    for other in unfinished.parent.glob(f"{path.stem}_*.ckpt"):
        if other != unfinished:  # of other settings, code or scans
            other.unlink()
    logs = study.run / "logs" / "training" / path.stem
    told = train(network, training, settings, seed, task.words, study.settings.deep, unfinished, logs)
    network.head.correct_prior(
        prediction.hazards_seen(training, settings.balance), base_hazards(training.died, training.survived)
    )
    told |= {"seed": seed, "sha256": prediction.save_tensors(path, network.state_dict())}
    made = model_card(study, task, network, weights, told)
    made = prediction.write_card(path, made, "Research only. Not validated outside the study it was trained on.")
    unfinished.unlink(missing_ok=True)
    return made


def _untrained(study: Study, network_name: str, training: Examples, fold: int) -> tuple[HazardNetwork, Weights | None]:
    """Build a network that knows scale and base risk of its training scans, with pretrained weights if it has any."""
    settings = study.settings.deep.network(network_name)
    network = build(network_name, settings, len(horizons(study)))
    weights = None
    if is_self_supervised(settings):
        from sscct_lib.deep.pretraining import pretrained_encoder  # loads Lightning too

        weights = load_weights(network.encoder, *pretrained_encoder(study, network_name, training, fold))
    elif settings.weights is not None:
        weights = load_weights(network.encoder, located(study, network_name, settings), settings.weights_sha256)
    # The published Swin weights learned on densities from 0 to 1; all others see them standardised.
    if network_name != "swin" or weights is None or is_self_supervised(settings):
        network.standardise(*lung_density(training.paths))
    if network.clinical is not None:
        network.clinical.fit(training.clinical_inputs, training.table["patient_id"])
    # Training then begins at the cohort's own risk instead of at a hazard of one half in each interval.
    network.head.start_at(prediction.hazards_seen(training, settings.balance))
    return network, weights


def model_card(
    study: Study, task: Task, network: HazardNetwork, weights: Weights | None, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Say of a trained network what it is, what it learned from, how its training went and how well it predicts."""
    settings, training, tested = study.settings.deep.network(task.network), task.training, task.tested
    risks = (
        prediction.predict(network, tested.paths, tested.clinical),
        prediction.risk_without_image(training, len(tested.paths)),
    )
    loss, loss_without_image = (prediction.mean_loss(tested, risk, settings.head) for risk in risks)
    licence = getattr(PUBLISHED.get(str(settings.weights)), "licence", "")
    return {
        "model": display_name(task.network, settings),
        "network": task.network,
        "fold": task.fold,
        "member": task.member,
        "key": task.key,
        "settings": settings.model_dump(mode="json"),
        "hu_range": list(study.settings.deep.hu_range),
        "horizons_years": horizons(study),
        "labels": study.settings.labels,
        "weights": weights.words if weights else "none (from scratch)",
        "weights_loaded": asdict(weights) if weights else None,
        "weights_licence": licence if weights else "",
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "n_scans": len(training.table),
        "n_patients": int(training.table["patient_id"].nunique()),
        "n_deaths": [int(n) for n in training.died.sum(axis=0)],
        **told,
        "loss_tested": loss,
        "loss_tested_without_image": loss_without_image,
    }


def predict_risks(trained: Study, network_name: str, study: Study, scans: pd.DataFrame) -> pd.DataFrame:
    """Predict the risks of new scans with the models that are `shipped`.

    Parameters
    ----------
    trained
        The study and run whose models predict.
    study
        The study and run that holds the scans: images and lung masks are made.
    scans
        `scan_id`, `patient_id`, and clinical columns of schema `COHORT` where they are known; one row per scan.

    Returns
    -------
    pandas.DataFrame
        `model`, `horizon_years`, `scan_id`, `patient_id`, `risk` (mean over the members of one fold) and `risk_sd`, the
        standard deviation over the models of all folds, which learned from different patients. A scan whose cube cannot
        be made has no row, and the log says why.

    Raises
    ------
    StudyError
        If there are no models, or models of different trainings.
    """
    found = prediction.cards(trained, network_name)
    if not found or len({card["key"] for card in found}) > 1:
        state = "has no" if not found else "holds differently trained"
        raise StudyError(f"{trained.models} {state} models of {network_name}. Run `04_deep_models` to its end.")
    view = View(int(found[0]["settings"]["size"]), tuple(found[0]["hu_range"]))
    table = with_cubes(study, scans, view, told_as=network_name)
    models = [prediction.fold_model(trained, network_name, card["fold"], card["member"]) for card in found]
    members = np.stack([prediction.predict(model, list(table["cube"]), clinical_values(table)) for model in models])
    mean, spread = members[: len(prediction.shipped(found))].mean(axis=0), members.std(axis=0, ddof=1)
    identity = table[["scan_id", "patient_id"]]
    return risk_table(identity, found[0]["model"], found[0]["horizons_years"], risk=mean, risk_sd=spread)
