"""Checkpoints of an unfinished training."""

import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

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
