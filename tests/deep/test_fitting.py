import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytorch_lightning as pl
import torch

from sscct_lib.deep import batches, cubes, fitting
from sscct_lib.deep.prediction import mean_loss, predict, risk_without_image
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import AugmentationSettings, DeepSettings
from tests.deep.deep_cubes import EIGHT, SIZE, examples, mild, network

STILL = DeepSettings(augmentation=AugmentationSettings(probability=0), precision="32")


def test_eight_scans_are_learned_by_heart(tmp_path):
    data = examples(tmp_path, *EIGHT)
    net = network()
    told = fitting.train(net, data, mild(), 1, "test", STILL)
    risk = predict(net, data.paths)
    assert len(told["loss"]) == 15
    assert told["loss"][-1] < told["loss"][0] / 2
    assert risk[::2, 2].min() > 0.8
    assert risk[1::2, 2].max() < 0.2
    assert (np.diff(risk, axis=1) >= 0).all()
    assert mean_loss(data, risk) < mean_loss(data, risk_without_image(data, 8)) / 2
    assert told["seconds"] > 0
    assert 0 < told["waiting_share"] < 1


def test_the_same_seed_gives_the_same_risks_and_another_seed_others(tmp_path):
    data = examples(tmp_path, *EIGHT)
    results = []
    for seed in (5, 5, 6):
        net = network(5)
        fitting.train(net, data, mild(epochs=2), seed, "test")
        results.append(predict(net, data.paths))
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-4


def test_the_number_of_threads_changes_no_risk_by_more_than_a_hundred_thousandth(tmp_path):
    data, before, risks = examples(tmp_path, *EIGHT), torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 4):
            torch.set_num_threads(n_threads)
            net = network()
            fitting.train(net, data, mild(epochs=6), 1, "test")
            risks.append(predict(net, data.paths))
    finally:
        torch.set_num_threads(before)
    for risk in risks[1:]:
        np.testing.assert_allclose(risk, risks[0], rtol=0, atol=1e-5)


PATIENT = {"patience": 7, "epochs": 8, "validation_share": 0.25, "batch_size": 2}


@pytest.mark.parametrize(
    ("changed", "at"),
    [
        *(pytest.param({}, epoch, marks=[] if epoch == 5 else pytest.mark.slow) for epoch in range(1, 6)),
        pytest.param(PATIENT, 3, marks=pytest.mark.slow),
        pytest.param(PATIENT, 7, marks=pytest.mark.slow),
        ({"head_epochs": 2}, 3),
    ],
)
def test_a_training_that_was_killed_at_any_epoch_goes_on_to_the_same_result(tmp_path, monkeypatch, changed, at):
    monkeypatch.setattr("sscct_lib.deep.fitting.MOST_OF_TIME", float("inf"))
    data = examples(tmp_path, *EIGHT)
    settings, checkpoint = mild(**{"epochs": 6, **changed}), tmp_path / "c" / "unfinished.ckpt"
    undisturbed = network()
    expected = fitting.train(undisturbed, data, settings, 1, "test")
    step = fitting.Fit.training_step

    def killed(self, batch, batch_idx):
        if self.current_epoch == at and batch_idx == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            fitting.train(network(), data, settings, 1, "test", unfinished=checkpoint)
    assert checkpoint.is_file()
    resumed, epochs = network(seed=9), []
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "training_step", lambda *a: (epochs.append(a[0].current_epoch), step(*a))[1])
        told = fitting.train(resumed, data, settings, 1, "test", unfinished=checkpoint)
    assert epochs[0] == at
    np.testing.assert_array_equal(predict(resumed, data.paths), predict(undisturbed, data.paths))
    for name in ("loss", "validation_loss"):
        assert told[name] == expected[name]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another"])
def test_a_damaged_checkpoint_is_named_set_aside_and_made_again(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr("sscct_lib.deep.fitting.MOST_OF_TIME", float("inf"))
    data, checkpoint = examples(tmp_path, *EIGHT), tmp_path / "swin_fold0_0_abc.ckpt"
    undisturbed = network()
    fitting.train(undisturbed, data, mild(epochs=3), 1, "test", unfinished=checkpoint)
    content = bytearray(checkpoint.read_bytes())
    if damage == "flipped":
        content[content.find(b"data/0") + 200] ^= 16
    elif damage == "another":
        torch.save({"weight": torch.zeros(3)}, checkpoint)
        content = checkpoint.read_bytes()
    checkpoint.write_bytes({"cut": content[:-500], "empty": b""}.get(damage, content))
    again = network(seed=9)
    again.load_state_dict(network().state_dict())
    fitting.train(again, data, mild(epochs=3), 1, "test", unfinished=checkpoint)
    assert "its checkpoint swin_fold0_0_abc.ckpt is damaged. It was set aside as swin_fold0_0_abc.ckpt.damaged" in (
        caplog.text
    )
    assert (tmp_path / "swin_fold0_0_abc.ckpt.damaged").is_file()
    np.testing.assert_array_equal(predict(again, data.paths), predict(undisturbed, data.paths))
    kept = torch.load(checkpoint, weights_only=True)  # made again
    assert {"epoch", "best"} <= kept.keys()


def test_too_few_patients_to_set_apart_are_counted(tmp_path):
    data = examples(tmp_path, [0.5, 6.0], [1, 0])
    with pytest.raises(StudyError, match="test: patience sets training patients apart, and of 2 none can be"):
        fitting.train(network(), data, mild(patience=2), 1, "test", STILL)


def test_early_stopping_keeps_the_best_epoch_on_patients_who_teach_nothing(tmp_path, monkeypatch):
    data = examples(tmp_path, *EIGHT)
    settings = mild(epochs=12, patience=2, validation_share=0.25)
    taught = set()
    step = fitting.Fit.training_step

    def noting(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        taught.update(self._names)
        return loss

    monkeypatch.setattr(fitting.Fit, "training_step", noting)
    # Outcomes that nobody can learn from: the loss on other patients rises.
    shuffled = batches.Examples(data.table, data.paths, data.died[[1, 0, 2, 3, 5, 4, 6, 7]], data.survived)
    told = fitting.train(network(), shuffled, settings, 1, "test", STILL)
    assert told["n_validation_patients"] == 2
    assert len(taught) == 6
    losses = told["validation_loss"]
    assert len(losses) == len(told["loss"]) == int(np.argmin(losses)) + 1 + settings.patience


def test_a_frozen_encoder_stays_as_it_is_while_its_head_learns(tmp_path):
    data = examples(tmp_path, *EIGHT)
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fitting.train(net, data, mild(epochs=2, head_epochs=2), 1, "test")
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.score.weight", "head.baseline"}
    fitting.train(net, data, mild(epochs=2, head_epochs=1), 1, "test")
    assert not torch.equal(net.encoder[0].weight, before["encoder.0.weight"])
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_scan_that_is_not_finite_is_named(tmp_path):
    data = examples(tmp_path, *EIGHT)
    np.save(data.paths[3], np.full((SIZE,) * 3, np.nan, dtype=np.float16))
    with pytest.raises(StudyError, match=r"ResNet, fold 2, epoch 1.*scan\(s\) s3: their input is not finite"):
        fitting.train(network(), data, mild(batch_size=8), 1, "ResNet, fold 2", STILL)


def test_a_training_that_diverges_stops_and_keeps_its_last_good_checkpoint(tmp_path, monkeypatch):
    data = examples(tmp_path, *EIGHT)
    checkpoint = tmp_path / "unfinished.ckpt"
    step = fitting.Fit.training_step

    def diverging(self, batch, batch_idx):
        if self.current_epoch == 2:
            with torch.no_grad():
                self.network.head.score.weight.fill_(float("inf"))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(fitting.Fit, "training_step", diverging)
    with pytest.raises(
        StudyError, match=r"epoch 3: the loss is not a finite number for scan\(s\) s\d.*lower the learn"
    ):
        fitting.train(network(), data, mild(), 1, "test", unfinished=checkpoint)
    kept = torch.load(checkpoint, weights_only=True)
    assert kept["epoch"] in (0, 1)
    assert all(torch.isfinite(value).all() for name, value in kept["state_dict"].items() if "network" in name)


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_network(tmp_path, monkeypatch):
    net = network()
    step = fitting.Fit.training_step
    # The square root of nothing: a loss of 0 whose slope is infinite.
    monkeypatch.setattr(
        fitting.Fit, "training_step", lambda *a: step(*a) + (a[0].network.head.score.weight * 0).abs().sum().sqrt()
    )
    with pytest.raises(StudyError, match="the gradient is not finite after"):
        fitting.train(net, examples(tmp_path, *EIGHT), mild(), 1, "test")
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_explained(tmp_path, monkeypatch, error):
    def full(self, volume, seed):
        raise error

    monkeypatch.setattr(batches.Augmentation, "__call__", full)
    with pytest.raises(StudyError, match=r"memory ran out with size 16 and batch_size 4.*Lower deep.*batch_size"):
        fitting.train(network(), examples(tmp_path, *EIGHT), mild(), 1, "test")


def test_lightning_writes_its_log_and_says_nothing(tmp_path, capfd):
    fitting.train(network(), examples(tmp_path, *EIGHT), mild(epochs=2), 1, "test", logs=tmp_path / "logs" / "net")
    lines = (tmp_path / "logs" / "net" / "metrics.csv").read_text().splitlines()
    assert "loss" in lines[0]
    assert len(lines) == 3
    said = capfd.readouterr()
    assert said.out == ""
    assert "Lightning" not in said.err
    assert "Tip" not in said.err


@pytest.mark.parametrize(
    ("gpu", "bf16", "asked", "word"),
    [
        (False, False, "auto", "32-true"),
        (False, True, "auto", "bf16-mixed"),
        (False, True, "32", "32-true"),
        (True, True, "auto", "bf16-mixed"),
        (True, False, "auto", "16-mixed"),
        (True, True, "32", "32-true"),
        (True, True, "16", "16-mixed"),
    ],
)
def test_precision_follows_the_machine(monkeypatch, gpu, bf16, asked, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(fitting, "multiplies_bf16", lambda: bf16)
    assert fitting.precision(DeepSettings(precision=asked)) == word


@pytest.mark.parametrize("asked", ["bf16", "16"])
def test_half_precision_is_refused_where_the_machine_has_none(tmp_path, monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(fitting, "multiplies_bf16", lambda: False)
    with pytest.raises(StudyError, match="Set it to auto or 32"):
        fitting.train(network(), examples(tmp_path, *EIGHT), mild(), 1, "test", DeepSettings(precision=asked))


def test_the_second_task_changes_the_encoder(tmp_path):
    data = examples(tmp_path, [6.0] * 8, [0] * 8, density=np.linspace(0.1, 0.7, 8))

    def encoder_after(weight):
        net = network()
        fitting.train(net, data, mild(epochs=1, density_weight=weight), 1, "test")
        return net.encoder[0].weight.detach()

    assert (encoder_after(0.0) - encoder_after(1.0)).abs().max() > 1e-3
    torch.testing.assert_close(encoder_after(1.0), encoder_after(1.0), rtol=0, atol=0)


def test_the_second_task_can_be_learned(tmp_path):
    data = examples(tmp_path, [6.0] * 8, [0] * 8, density=np.linspace(0.1, 0.7, 8))
    task = fitting.DensityTask(16, data.paths, torch.Generator().manual_seed(0))
    volumes = cubes.load_cubes(data.paths)
    # Answering with the mean leaves all of the variance, n - 1 in n of it by the unbiased estimate.
    assert task(torch.zeros(8, 16), volumes).item() == pytest.approx(7 / 8, abs=0.01)
    net = network()
    optimiser = torch.optim.AdamW([*net.parameters(), *task.parameters()], 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        error = task(net.features(volumes), volumes)
        error.backward()
        optimiser.step()
    # Half of the answers, the spreads, are noise here: all zones have the same.
    assert error.item() < 0.5


def test_risks_without_an_image_are_the_cohorts(tmp_path):
    data = examples(tmp_path, [0.5] * 20 + [6.0] * 60, [1] * 20 + [0] * 60)
    risk = risk_without_image(data, 2)
    np.testing.assert_allclose(risk, [[0.25, 0.256, 0.262]] * 2, atol=0.01)


def test_mean_loss_weighs_patients_the_same(tmp_path):
    data = examples(tmp_path, [6, 6, 6, 0.5], [0, 0, 0, 1], patients=["p", "p", "p", "q"])
    risk = np.tile([0.2, 0.2, 0.2], (4, 1))
    assert mean_loss(data, risk) == pytest.approx((-np.log(0.8) - np.log(0.2)) / 2, rel=1e-6)


def test_predicting_nothing_gives_nothing():
    assert predict(network(), []).shape == (0, 3)


@pytest.mark.slow
def test_two_processes_share_a_training(tmp_path):
    data = examples(tmp_path, *EIGHT)
    net = network()
    began = time.perf_counter()
    two = STILL.model_copy(update={"devices": 2})
    told = fitting.train(net, data, mild(epochs=6, batch_size=2), 1, "test", two, unfinished=tmp_path / "u.ckpt")
    assert told["loss"][-1] < told["loss"][0]
    assert len(told["loss"]) == 6
    assert predict(net, data.paths)[::2, 2].min() > predict(net, data.paths)[1::2, 2].max()
    assert time.perf_counter() - began < 120


def strategy_of(devices: int, num_nodes: int = 1, strategy: str = "auto"):
    deep = STILL.model_copy(update={"devices": devices, "num_nodes": num_nodes, "strategy": strategy})
    return fitting._trainer(mild(), deep, None, None, Path("store")).strategy


def test_processes_of_one_machine_need_no_port():
    assert isinstance(strategy_of(2), fitting.OneMachine)
    assert not isinstance(strategy_of(1), fitting.OneMachine)
    assert not isinstance(strategy_of(2, strategy="ddp"), fitting.OneMachine)  # as the user said


class Listening(pl.Callback):
    """Writes down at which addresses a process of a training waits for others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = [one.laddr.ip for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN]
        (self.folder / f"{trainer.global_rank}").write_text(" ".join(found))


@pytest.mark.slow
def test_processes_of_one_machine_listen_to_nobody_else(tmp_path, monkeypatch):
    made = fitting._trainer

    def listened(*arguments):
        trainer = made(*arguments)
        trainer.callbacks.append(Listening(tmp_path))
        return trainer

    monkeypatch.setattr(fitting, "_trainer", listened)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    two = STILL.model_copy(update={"devices": 2})
    fitting.train(network(), examples(tmp_path, *EIGHT), mild(epochs=1, batch_size=2), 1, "test", two)
    heard = [(tmp_path / rank).read_text().split() for rank in ("0", "1")]
    assert {address for of_one in heard for address in of_one} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
