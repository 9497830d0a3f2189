"""Fitting one network: a second task that helps it to see, rates by layer, and checkpoints to go on from."""

import logging
import math
import os
import socket
import sys
import time
import warnings
import zipfile
from collections.abc import Sequence
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from monai.optimizers.lr_scheduler import WarmupCosineSchedule
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import update_bn

from sscct_lib.deep.batches import Augmentation, Cubes, Examples, OneScanEach, loader, set_apart
from sscct_lib.deep.cubes import load_cubes, zone_densities
from sscct_lib.deep.networks import HazardNetwork, multiplies_bf16
from sscct_lib.deep.prediction import mean_loss, predict
from sscct_lib.study.files import free_name
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import DeepSettings, NetworkSettings

log = logging.getLogger(__name__)

LARGEST_GRADIENT = 1.0
MOST_OF_TIME = 0.05  # share of the training's time that writing may take
WARM_UP = 0.2  # share of the steps in which the learning rate rises
HEAD_EPOCHS = 0.1  # share of the epochs in which a pretrained encoder waits for its head
EARLY_RATE = 0.1  # learning rate of a pretrained encoder's first layers, share of the last's


class DensityTask(nn.Module):
    """A second task that every scan teaches, whatever became of its patient: the density of each lung zone.

    A few dozen deaths cannot teach an untrained encoder to see; the answers come from the scans themselves. After
    training the task is thrown away (Caruana R. Multitask learning. Machine Learning 1997;28:41-75).
    """

    def __init__(self, n_features: int, paths: list[Path], generator: torch.Generator) -> None:
        super().__init__()
        self.mean: Tensor
        self.sd: Tensor
        answers = torch.cat([zone_densities(load_cubes([path])) for path in paths])
        self.register_buffer("mean", answers.mean(dim=0))
        self.register_buffer("sd", answers.std(dim=0).clamp(min=1e-6))
        self.answer = nn.Linear(n_features, answers.shape[1])
        nn.init.normal_(self.answer.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.answer.bias)

    def forward(self, features: Tensor, volumes: Tensor) -> Tensor:
        """Mean squared error of the answers to features (B, n_features) of volumes (B, 1, S, S, S), in variances."""
        expected = (zone_densities(volumes) - self.mean) / self.sd
        return functional.mse_loss(self.answer(features), expected)


class Fit(pl.LightningModule):
    """One training: the loss of a batch, its second task, the rates, and the epoch that is best on validation scans."""

    def __init__(
        self,
        network: HazardNetwork,
        density: DensityTask,
        training: Examples,
        validation: Examples,
        settings: NetworkSettings,
        seed: int,
        n_batches: int,
        where: str,
    ) -> None:
        super().__init__()
        self.losses: Tensor
        self.validation_losses: Tensor
        self.seconds: Tensor
        self.network, self.density = network, density
        self.training_scans, self.validation_scans, self.settings = training, validation, settings
        self.seed, self.n_batches, self.where = seed, n_batches, where
        self.best: dict[str, Tensor] = {}
        # Buffers, so that a checkpoint holds them.
        self.register_buffer("losses", torch.full((settings.epochs,), torch.nan))
        self.register_buffer("validation_losses", torch.full((settings.epochs,), torch.nan))
        self.register_buffer("seconds", torch.zeros(2, dtype=torch.float64))  # of training, and of these waiting
        self._batch_losses: list[float] = []
        self._ended = self._began = 0.0
        self._names: list[str] = []

    def configure_optimizers(self) -> Any:
        """AdamW with rates by layer, that rise and fall over the training."""
        others = [part for part in (self.network.head, self.network.clinical, self.density) if part is not None]
        return rates(self, self.network.encoder, others, self.settings, self.settings.epochs * self.n_batches)

    def on_train_epoch_start(self) -> None:
        """Freeze the encoder while its head alone learns; a frozen one keeps its running averages too."""
        torch.manual_seed(self.seed + self.current_epoch)
        frozen = self.current_epoch < head_epochs(self.settings)
        self.train()
        self.network.encoder.requires_grad_(not frozen).train(not frozen)
        self._batch_losses = []
        self._began = self._ended = time.perf_counter()

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count the time since the last batch ended, in which its successor was read and changed."""
        self.seconds[1] += time.perf_counter() - self._ended

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Give the loss of a batch; StudyError where it is not a finite number."""
        self._names = self.training_scans.table["scan_id"].iloc[batch["row"].tolist()].tolist()
        features = self.network.features(batch["volume"]).float()
        logits = self.network.logits(features, batch["clinical"])
        loss = self.network.head.losses(logits, batch["died"], batch["survived"])
        self._check_finite(loss, batch["volume"])
        self._batch_losses += loss.tolist()
        second = self.density(features, batch["volume"]) if self.settings.density_weight else 0.0
        return (batch["weight"] * loss).mean() + self.settings.density_weight * second

    def _check_finite(self, losses: Tensor, volumes: Tensor) -> None:
        if torch.isfinite(losses).all():
            return
        bad_input = ~torch.isfinite(volumes).flatten(1).all(dim=1)
        blamed = (bad_input if bad_input.any() else ~torch.isfinite(losses)).tolist()
        names = ", ".join(name for name, bad in zip(self._names, blamed, strict=True) if bad)
        cause = "their input is not finite" if bad_input.any() else "lower the learning rate of this network"
        where = f"{self.where}, epoch {self.current_epoch + 1}"
        raise StudyError(f"{where}: the loss is not a finite number for scan(s) {names}: {cause}.")

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Shorten a gradient that is too long; one that is not finite ends the training, unless losses are scaled."""
        length = nn.utils.clip_grad_norm_(self.parameters(), LARGEST_GRADIENT)
        if not torch.isfinite(length) and self.trainer.precision != "16-mixed":
            raise StudyError(
                f"{self.where}, epoch {self.current_epoch + 1}: the gradient is not finite after scan(s) "
                f"{', '.join(self._names)}: lower the learning rate of this network."
            )

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Note the time: from here on the training waits for data."""
        self._ended = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Note the losses of the epoch, and keep the network where it is the best so far."""
        epoch = self.current_epoch
        loss = float(np.mean(self._batch_losses))
        self.losses[epoch] = loss
        logged = {"loss": loss}
        if self.validation_scans.paths:
            apart = self.validation_scans
            risk = predict(self.network, apart.paths, apart.clinical)
            found = mean_loss(apart, risk, self.settings.head)
            if not self.best or found < float(np.nanmin(self.validation_losses.cpu().numpy())):
                self.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
            self.validation_losses[epoch] = found
            logged["validation_loss"] = found
        self.seconds[0] += time.perf_counter() - self._began
        self.log_dict(logged, rank_zero_only=True)
        told = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in logged.items())
        log.info("%s: epoch %d of %d, %s", self.where, epoch + 1, self.settings.epochs, told)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best epoch's network."""
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.best = checkpoint["best"]

    def on_train_end(self) -> None:
        """Return to the best epoch."""
        if self.best:
            self.network.load_state_dict(self.best)


def train(
    network: HazardNetwork,
    examples: Examples,
    settings: NetworkSettings,
    seed: int,
    where: str,
    deep: DeepSettings | None = None,
    unfinished: Path | None = None,
    logs: Path | None = None,
) -> dict[str, Any]:
    """Train a network in place, on the CPU or on GPUs; on the CPU the same call gives the same weights.

    With `settings.patience` some patients are set apart from learning. `where` names the training in the log and in
    errors; `unfinished` is a checkpoint to go on from and to write, `logs` a folder for Lightning's `metrics.csv`. Told
    are `loss` and `validation_loss`, mean losses per scan of each epoch; `n_validation_patients`; `seconds`, and
    `waiting_share`, the share of these spent waiting for a batch. StudyError where the loss is no longer finite (the
    scans are named), memory runs out, or too few patients are left; the last checkpoint stays.
    """
    deep = deep or DeepSettings()
    share = settings.validation_share if settings.patience else 0.0
    training, validation = set_apart(examples, share, seed) if share else (examples, examples.take(np.arange(0)))
    if share and not validation.paths:
        raise StudyError(
            f"{where}: patience sets training patients apart, and of {examples.table['patient_id'].nunique()} none can "
            "be: at least 2 who die within the longest horizon, or 2 who do not, are needed. Add patients, or leave "
            "patience out."
        )
    gpu = torch.cuda.is_available()
    change = Augmentation(deep.augmentation, settings.size, deep.hu_range)
    cubes = Cubes(training, change, settings.balance == "loss")
    sampler = OneScanEach(training, settings.batch_size, seed, settings.balance, deep.devices * deep.num_nodes)
    density = DensityTask(network.n_features, training.paths, torch.Generator().manual_seed(seed))
    fit = Fit(network, density, training, validation, settings, seed, len(sampler), where)
    try:
        checkpoint = sound(unfinished, where)
        if checkpoint:
            log.info("%s: goes on from its checkpoint", where)
        with TemporaryDirectory() as meeting:
            trainer = _trainer(settings, deep, unfinished, logs, Path(meeting) / "store")
            trainer.fit(fit, loader(cubes, sampler, gpu), ckpt_path=checkpoint, weights_only=True)
        network.to("cuda" if gpu else "cpu")
        if head_epochs(settings) < settings.epochs:
            # The running averages of batch normalisation lag behind the weights, much so after few steps.
            last = OneScanEach(training, settings.batch_size, seed)
            last.set_epoch(settings.epochs)
            volumes = (batch["volume"] for batch in loader(cubes, last, gpu))
            update_bn(volumes, network, device=next(network.parameters()).device)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        raise StudyError(
            f"{where}: memory ran out with size {settings.size} and batch_size {settings.batch_size}. "
            "Lower deep.*.batch_size first, then deep.*.size, in study.yaml."
        ) from error
    network.eval().requires_grad_(True)
    seconds, waited = fit.seconds.tolist()
    return {
        "loss": _without_nan(fit.losses),
        "validation_loss": _without_nan(fit.validation_losses),
        "n_validation_patients": int(validation.table["patient_id"].nunique()),
        "seconds": seconds,
        "waiting_share": waited / seconds,
    }


def _without_nan(losses: Tensor) -> list[float]:
    return [float(loss) for loss in losses if not torch.isnan(loss)]


def _trainer(
    settings: NetworkSettings, deep: DeepSettings, unfinished: Path | None, logs: Path | None, meeting: Path
) -> pl.Trainer:
    """Set up a training: its checkpoints and log, when it stops, and the processes that share it."""
    callbacks: list[pl.Callback] = []
    if settings.patience:
        callbacks.append(EarlyStopping("validation_loss", patience=settings.patience, check_on_train_epoch_end=True))
    if unfinished is not None:
        callbacks.append(EpochCheckpoint(unfinished))
    several = deep.devices * deep.num_nodes > 1
    strategy: str | DDPStrategy = deep.strategy
    if several and strategy == "auto":
        strategy = OneMachine(meeting) if deep.num_nodes == 1 else "ddp_spawn_find_unused_parameters_true"
    return quiet_trainer(
        deep,
        settings.epochs,
        devices=deep.devices,
        num_nodes=deep.num_nodes,
        strategy=strategy,
        sync_batchnorm=several and torch.cuda.is_available(),
        logger=CSVLogger(logs.parent, logs.name, version="") if logs is not None else False,
        log_every_n_steps=1,
        callbacks=callbacks,
        enable_checkpointing=unfinished is not None,
        enable_progress_bar=sys.stderr.isatty() and parent_process() is None,
    )


def quiet_trainer(deep: DeepSettings, epochs: int, **options: Any) -> pl.Trainer:
    """Set up Lightning without its remarks and warnings, which say nothing about a study."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        precision=precision(deep),
        use_distributed_sampler=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def precision(deep: DeepSettings) -> Any:
    """Lightning's word for the precision of a training: half where this machine is fast; StudyError if it cannot."""
    gpu = torch.cuda.is_available()
    bf16 = torch.cuda.is_bf16_supported() if gpu else multiplies_bf16()
    if deep.precision == "auto":
        return "bf16-mixed" if bf16 else "16-mixed" if gpu else "32-true"
    if (deep.precision == "bf16" and not bf16) or (deep.precision == "16" and not gpu):
        raise StudyError(
            f"deep.precision is {deep.precision}, which this machine does not compute by itself. Set it to auto or 32."
        )
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[deep.precision]


class OneMachine(DDPStrategy):
    """Processes of one machine that share a training: no port of theirs is open to the network."""

    def __init__(self, meeting: Path) -> None:
        # A frozen encoder's parameters are not used.
        super().__init__(find_unused_parameters=True, start_method="spawn")
        self.meeting = meeting  # a file, not yet there, in a folder of the user's alone

    def setup_distributed(self) -> None:
        """Meet in the file, where Lightning would at a port; what the processes send goes over the loopback."""
        for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
            os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = name
        self.set_world_ranks()
        distributed.init_process_group(
            self._get_process_group_backend(), f"file://{self.meeting}", rank=self.global_rank,
            world_size=self.world_size, device_id=self.root_device if self.root_device.type == "cuda" else None,
        )  # fmt: skip
        super().setup_distributed()  # finds them met


def rates(
    task: pl.LightningModule, encoder: nn.Module, others: Sequence[nn.Module], settings: NetworkSettings, n_steps: int
) -> Any:
    """Tell Lightning how a task learns: by AdamW with rates by layer, which rise and fall over its steps."""
    adam = optimiser(encoder, others, settings, fused=task.trainer.precision != "16-mixed")
    return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule(adam, n_steps), "interval": "step"}}


def optimiser(encoder: nn.Module, others: Sequence[nn.Module], settings: NetworkSettings, fused: bool) -> AdamW:
    """Make AdamW with a group a layer, the first at `early_rate`, the last at the whole rate, and one for `others`."""
    # Howard J, Ruder S. Universal language model fine-tuning for text classification. ACL 2018 (rates by layer).
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
    parts = [encoder]
    while len(parts) == 1 and list(parts[0].children()):
        parts = [part for part in parts[0].children() if any(True for _ in part.parameters())]
    return parts


def schedule(optimiser: AdamW, n_steps: int) -> WarmupCosineSchedule:
    """Let every learning rate rise in a line over the first steps of `n_steps`, and fall in a cosine to 0."""
    # Goyal P et al. Accurate, large minibatch SGD. arXiv 1706.02677 (warm-up). Loshchilov I, Hutter F. SGDR. ICLR 2017.
    warm: Any = max(1.0, WARM_UP * n_steps)  # need not be whole
    # The first step learns too: the rise begins one step above 0.
    return WarmupCosineSchedule(optimiser, warm, n_steps, warmup_multiplier=1 / (warm + 1))


def head_epochs(settings: NetworkSettings) -> int:
    """Give the number of first epochs in which the encoder is frozen."""
    if settings.head_epochs is not None:
        return settings.head_epochs
    return math.ceil(HEAD_EPOCHS * settings.epochs) if settings.weights is not None else 0


class EpochCheckpoint(Checkpoint):
    """Write a checkpoint at the end of the first epoch, and of others as often as a twentieth of the time allows."""

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
