"""Checkpoints of an unfinished training."""

import logging
import time
import zipfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from sscct_lib.files import free_name

log = logging.getLogger(__name__)

MOST_OF_TIME = 0.05  # share of the training's time that writing may take


class EpochCheckpoint(Checkpoint):
    """Write a checkpoint after the first epoch, and after others as often as a twentieth of the time allows.

    What it holds ends with the epoch, so a training that goes on from it begins with a whole one.

    Parameters
    ----------
    path
        The file; Lightning writes it whole or not at all.
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
    """Give a checkpoint that a training can go on from; a damaged one is named in the log and set aside.

    Parameters
    ----------
    path
        The file; none: there is none.
    where
        Name of the training.

    Returns
    -------
    Path or None
        None where there is no such file, or it is damaged: the training then begins anew.
    """
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
