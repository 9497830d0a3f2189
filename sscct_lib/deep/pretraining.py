"""Self-supervised pretraining: an encoder learns to see from the scans of training patients, without any outcome.

Half of a volume is hidden in boxes, and from what the encoder makes of the rest two things are asked: how dense every
part of the whole volume is (He K et al. CVPR 2022), and which two masked volumes are of the same scan (Chen T et al.
ICML 2020; both on CT: Tang Y et al. CVPR 2022). The patients on whom a model is tested are kept out: each fold has an
encoder of its own.
"""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from monai.losses.contrastive import ContrastiveLoss
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from sscct_lib.deep.batches import Cubes, Examples, OneScanEach, loader
from sscct_lib.deep.cubes import load_cubes, lung_density, view_of, with_cubes
from sscct_lib.deep.fitting import LARGEST_GRADIENT, quiet_trainer, rates
from sscct_lib.deep.networks import HazardNetwork, build
from sscct_lib.deep.prediction import current_card, save_tensors, write_card
from sscct_lib.study.code import code_hash
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import NetworkSettings, PretrainingSettings
from sscct_lib.study.words import NETWORK_WORDS

log = logging.getLogger(__name__)

GRID = 8  # parts of the volume along each side whose density is asked
BOX = 4  # parts of the volume along each side that are hidden or shown as one
N_PROJECTED = 64  # numbers in which masked volumes are compared
TEMPERATURE = 0.5


def pretrain_folds(study: Study, cohort: pd.DataFrame, network_name: str, n_jobs: int = 1) -> list[Path]:
    """Let the encoder of every fold learn from the scans of its training patients; gives the files, by fold.

    The cohort (`scan_id`, `patient_id`, `fold`) has usable lungs; `n_jobs` processes make the cubes.
    """
    table = with_cubes(study, cohort, view_of(study, network_name), n_jobs)
    nothing = np.zeros((len(table), 1), dtype=np.float32)  # outcomes are not looked at
    examples = Examples(table[["scan_id", "patient_id", "fold"]], list(table["cube"]), nothing, nothing)
    return [
        pretrained_encoder(study, network_name, examples.take(np.flatnonzero(table["fold"] != fold)), fold)[0]
        for fold in sorted(set(table["fold"]))
    ]


def pretrained_encoder(study: Study, network_name: str, training: Examples, fold: int) -> tuple[Path, str]:
    """Find the encoder that learned from the training patients of a fold, or let it learn: its file and SHA-256."""
    deep = study.settings.deep
    settings = deep.network(network_name)
    path = study.models / "pretrained" / f"{network_name}_fold{fold}.safetensors"
    key = fingerprint(
        code_hash("deep.pretraining"),
        [version("torch"), version("monai")],
        network_name,
        {name: getattr(settings, name) for name in ("size", "batch_size", "feature_size", "window_size")},
        [settings.weight_decay, deep.pretraining, deep.precision, deep.hu_range, study.settings.seed],
        training.table[["scan_id", "patient_id"]].to_dict("list"),
        [checksum(scan) for scan in training.paths],
    )
    card = current_card(path, key)
    if card:
        return path, str(card["sha256"])
    seed = int(fingerprint(study.settings.seed, network_name, fold, "pretraining"), 16) % 2**32
    torch.manual_seed(seed)
    # A head, clinical values and dropout come later.
    network = build(network_name, settings.model_copy(update={"clinical": False, "dropout": 0.0}), 1)
    network.standardise(*lung_density(training.paths))
    where = f"{NETWORK_WORDS[network_name]}, fold {fold}, pretraining"
    losses = pretrain(network, training, settings, study, seed, where)
    sha256 = save_tensors(path, network.encoder.state_dict())
    card = {
        "network": network_name,
        "fold_kept_out": fold,
        "folds_seen": sorted(int(one) for one in set(training.table["fold"])),
        "n_patients": int(training.table["patient_id"].nunique()),
        "n_scans": len(training.table),
        "key": key,
        "sha256": sha256,
        "settings": deep.pretraining.model_dump(mode="json") | {"size": settings.size, "hu_range": deep.hu_range},
        "loss": losses,
        "seed": seed,
    }
    write_card(
        path, card, "Learned from this study's scans. Not for patients of the fold kept out, except to test them."
    )
    return path, sha256


def pretrain(
    network: HazardNetwork, examples: Examples, settings: NetworkSettings, study: Study, seed: int, where: str
) -> list[float]:
    """Let an encoder learn from scans alone, in place; gives the mean loss of each epoch, in variances."""
    deep = study.settings.deep
    sampler = OneScanEach(examples, settings.batch_size, seed)
    task = Pretraining(network, examples, settings, deep.pretraining, seed, len(sampler))
    log.info("%s: %d epochs", where, deep.pretraining.epochs)
    apart = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = quiet_trainer(deep, deep.pretraining.epochs, devices=1, **apart)
    trainer.fit(task, loader(Cubes(examples, None), sampler, torch.cuda.is_available()))
    network.cpu().eval()
    if not all(torch.isfinite(tensor).all() for tensor in network.encoder.state_dict().values()):
        raise StudyError(f"{where}: the weights are not finite numbers. Lower deep.pretraining.learning_rate.")
    log.info("%s: loss %.3f in the first epoch, %.3f in the last", where, task.losses[0], task.losses[-1])
    return task.losses


class Pretraining(pl.LightningModule):
    """The two tasks and their loss; the network's head takes no part, and outcomes are not looked at."""

    def __init__(
        self,
        network: HazardNetwork,
        examples: Examples,
        settings: NetworkSettings,
        pretraining: PretrainingSettings,
        seed: int,
        n_batches: int,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.network, self.settings, self.pretraining, self.n_batches = network, settings, pretraining, n_batches
        answers = torch.cat([coarse(load_cubes([path])) for path in examples.paths])
        self.register_buffer("mean", answers.mean(dim=0))
        self.register_buffer("deviation", answers.std(dim=0).clamp(min=1e-2))
        self.density = nn.Linear(network.n_features, GRID**3)
        self.projection = nn.Sequential(
            nn.Linear(network.n_features, N_PROJECTED), nn.ReLU(), nn.Linear(N_PROJECTED, N_PROJECTED)
        )
        self.contrast = ContrastiveLoss(TEMPERATURE)
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []
        self._of_epoch: list[float] = []

    def configure_optimizers(self) -> Any:
        """AdamW with one rate, that rises and falls over the pretraining."""
        plain = self.settings.model_copy(update={"learning_rate": self.pretraining.learning_rate, "early_rate": 1.0})
        others = [self.density, self.projection]
        return rates(self, self.network.encoder, others, plain, self.pretraining.epochs * self.n_batches)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Shorten a gradient that is too long; Lightning's own refuses the fused optimiser in half precision."""
        nn.utils.clip_grad_norm_(self.parameters(), LARGEST_GRADIENT)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Give the loss of a batch, in variances of the densities."""
        volumes = batch["volume"]
        views = [hide(volumes, self.pretraining.masked_share, self.generator) for _ in range(2)]
        features = self.network.features(torch.cat(views)).float()
        asked = ((coarse(volumes) - self.mean) / self.deviation).repeat(2, 1)
        loss = functional.mse_loss(self.density(features), asked)
        if self.pretraining.contrast_weight and len(volumes) > 1:
            loss = loss + self.pretraining.contrast_weight * self.contrast(*self.projection(features).chunk(2))
        self._of_epoch.append(float(loss.detach()))
        return loss

    def on_train_epoch_end(self) -> None:
        """Note the mean loss of the epoch."""
        self.losses.append(sum(self._of_epoch) / len(self._of_epoch))
        self._of_epoch = []


def hide(volumes: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a share of the boxes of volumes (B, 1, S, S, S) to 0."""
    n_boxes = BOX**3
    order = torch.rand(len(volumes), n_boxes, generator=generator).argsort(dim=1)
    shown = (order >= round(share * n_boxes)).float().view(-1, 1, BOX, BOX, BOX).to(volumes.device)
    return volumes * functional.interpolate(shown, volumes.shape[-3:], mode="nearest")


def coarse(volumes: Tensor) -> Tensor:
    """Give the mean of each of `GRID`³ parts of volumes (B, 1, S, S, S), outside the lungs counted as 0: (B, GRID³)."""
    return functional.adaptive_avg_pool3d(volumes, GRID).flatten(1)
