"""How a training goes on: rates by layer, warm-up and cosine, head first; and the checkpoints to go on from."""

import logging
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from monai.optimizers.lr_scheduler import WarmupCosineSchedule
from pytorch_lightning.callbacks import Checkpoint
from torch import nn
from torch.optim import AdamW

from sscct_lib.study.files import free_name
from sscct_lib.study.settings import NetworkSettings

log = logging.getLogger(__name__)

MOST_OF_TIME = 0.05  # share of the training's time that writing may take
WARM_UP = 0.2  # share of the steps in which the learning rate rises
HEAD_EPOCHS = 0.1  # share of the epochs in which a pretrained encoder waits for its head
EARLY_RATE = 0.1  # learning rate of a pretrained encoder's first layers, share of the last's


def optimiser(encoder: nn.Module, others: list[nn.Module], settings: NetworkSettings, fused: bool) -> AdamW:
    """Make AdamW with a group a layer, the first at `early_rate`, the last at the whole rate, and one for `others`.

    References
    ----------
    Howard J, Ruder S. Universal language model fine-tuning for text classification. ACL 2018 (rates by layer).
    """
    early = settings.early_rate or (EARLY_RATE if settings.weights is not None else 1.0)
    parts = layers(encoder)
    groups: list[dict[str, Any]] = [
        {
            "params": list(part.parameters()),
            "lr": settings.learning_rate * early ** (1 - number / max(1, len(parts) - 1)),
        }
        for number, part in enumerate(parts)
    ]
    groups.append({"params": [parameter for other in others for parameter in other.parameters()]})
    return AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)


def layers(encoder: nn.Module) -> list[nn.Module]:
    """List the parts of an encoder in the order in which a volume passes them, those with parameters."""
    parts = [part for part in encoder.children() if any(True for _ in part.parameters())]
    while len(parts) == 1 and list(parts[0].children()):
        parts = [part for part in parts[0].children() if any(True for _ in part.parameters())]
    return parts


def schedule(optimiser: AdamW, n_steps: int) -> WarmupCosineSchedule:
    """Let every learning rate rise in a line over the first steps of `n_steps`, and fall in a cosine to 0.

    References
    ----------
    Goyal P et al. Accurate, large minibatch SGD. arXiv 1706.02677 (warm-up). Loshchilov I, Hutter F. SGDR. ICLR 2017.
    """
    warm: Any = max(1.0, WARM_UP * n_steps)  # need not be whole
    # The first step learns too: the rise begins one step above 0.
    return WarmupCosineSchedule(optimiser, warm, n_steps, warmup_multiplier=1 / (warm + 1))


def head_epochs(settings: NetworkSettings) -> int:
    """Give the number of first epochs in which the encoder is frozen."""
    if settings.head_epochs is not None:
        return settings.head_epochs
    return math.ceil(HEAD_EPOCHS * settings.epochs) if settings.weights is not None else 0


class EpochCheckpoint(Checkpoint):
    """Write a checkpoint after the first epoch, and after others as often as a twentieth of the time allows.

    What it holds ends with the epoch, so a training that goes on from it begins with a whole one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began = time.perf_counter()
        self._writing = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, unless writing took too long already or the training is over."""
        # One that stops here is not written: going on from it would add an epoch.
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs:
            return
        began = time.perf_counter()
        due = self._writing <= MOST_OF_TIME * (began - self._began)
        if trainer.strategy.broadcast(due):
            trainer.save_checkpoint(self.path)
            self._writing += time.perf_counter() - began


def sound(path: Path | None, where: str) -> Path | None:
    """Give a checkpoint that a training can go on from; a damaged one is named in the log and set aside."""
    if path is None or not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # PyTorch does not compare the checksums
        content = torch.load(path, map_location="cpu", weights_only=True) if damaged is None else {}
        if isinstance(content, dict) and {"epoch", "state_dict", "optimizer_states", "best"} <= content.keys():
            return path
    except Exception as error:  # damaged bytes make the restricted unpickler raise anything
        log.debug("%s: %s", path.name, error)
    aside = free_name(path.with_name(f"{path.name}.damaged"))
    path.rename(aside)
    log.warning(
        "%s: its checkpoint %s is damaged. It was set aside as %s, and the training begins anew.",
        where, path.name, aside.name,
    )  # fmt: skip
    return None
