import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sscct_lib import fitting, networks
from sscct_lib.study import NetworkSettings, StudyError

HORIZONS = (1.0, 3.0, 5.0)
SIZE = 16


def examples(folder, followup, event, density=None, patients=None):
    """Cubes whose density tells the outcome, unless told otherwise."""
    rng = np.random.default_rng(0)
    followup, event = np.asarray(followup, dtype=float), np.asarray(event, dtype=bool)
    density = np.where(event, 0.6, 0.2) if density is None else density
    paths = [folder / f"s{i}.npy" for i in range(len(event))]
    for path, level in zip(paths, density, strict=True):
        cube = level + 0.05 * rng.standard_normal((SIZE,) * 3)
        cube[0] = 0
        np.save(path, cube.astype(np.float16))
    ids = [path.stem for path in paths]
    table = pd.DataFrame({"scan_id": ids, "patient_id": patients or ids, "fold": 0})
    return fitting.Examples(table, paths, *networks.hazard_targets(followup, event, HORIZONS))


def network(seed=0):
    """A small network with batch normalisation, as the large ones have."""
    torch.manual_seed(seed)
    layers = [nn.Conv3d(1, 8, 3, stride=2), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 16, 3, stride=2)]
    layers += [nn.BatchNorm3d(16), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
    return networks.HazardNetwork(nn.Sequential(*layers), 16, 3)


def mild(**changed):
    return NetworkSettings(**{"size": SIZE, "epochs": 15, "batch_size": 4, "learning_rate": 3e-2, **changed})


EIGHT = ([0.5, 6, 2, 6, 0.7, 6, 2.5, 6], [1, 0] * 4)


def test_eight_scans_are_learned_by_heart(tmp_path):
    data = examples(tmp_path, *EIGHT)
    net = network()
    losses = fitting.train(net, data, mild(), 1, "test")
    risk = fitting.predict(net, data.paths)
    assert len(losses) == 15
    assert losses[-1] < losses[0] / 2
    assert risk[::2, 2].min() > 0.8
    assert risk[1::2, 2].max() < 0.2
    assert (np.diff(risk, axis=1) >= 0).all()
    assert fitting.mean_loss(data, risk) < fitting.mean_loss(data, fitting.risk_without_image(data, 8)) / 2


def test_the_same_seed_gives_the_same_risks_and_another_seed_others(tmp_path):
    data = examples(tmp_path, *EIGHT)
    results = []
    for seed in (5, 5, 6):
        net = network(seed)
        fitting.train(net, data, mild(epochs=2), seed, "test")
        results.append(fitting.predict(net, data.paths))
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-4


def test_every_patient_is_seen_once_in_an_epoch(tmp_path, monkeypatch):
    patients = ["p"] * 6 + ["q", "r"]
    data = examples(tmp_path, *EIGHT, patients=patients)
    seen = []
    take = fitting.Examples.take

    def noting(self, rows):
        seen.extend(rows.tolist())
        return take(self, rows)

    monkeypatch.setattr(fitting.Examples, "take", noting)
    fitting.train(network(), data, mild(epochs=12, batch_size=2), 1, "test")
    assert len(seen) == 13 * 3  # the last pass settles batch normalisation
    counts = pd.Series(patients).iloc[seen].value_counts()
    assert counts.to_dict() == {"p": 13, "q": 13, "r": 13}
    assert len({row for row in seen if row < 6}) > 2  # another scan of the same patient each time


def test_a_scan_that_is_not_finite_is_named(tmp_path):
    data = examples(tmp_path, *EIGHT)
    np.save(data.paths[3], np.full((SIZE,) * 3, np.nan, dtype=np.float16))
    with pytest.raises(StudyError, match=r"ResNet, fold 2, epoch 1.*scan\(s\) s3: their input is not finite"):
        fitting.train(network(), data, mild(batch_size=8), 1, "ResNet, fold 2")


def test_a_training_that_diverges_stops(tmp_path):
    data = examples(tmp_path, *EIGHT)
    net = network()
    with torch.no_grad():
        net.head.score.weight.fill_(float("inf"))
    with pytest.raises(StudyError, match="lower the learning rate"):
        fitting.train(net, data, mild(), 1, "test")


def test_memory_that_runs_out_is_explained(tmp_path, monkeypatch):
    def full(volumes, generator):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(fitting, "augment", full)
    with pytest.raises(StudyError, match=r"memory ran out with size 16 and batch_size 4.*Lower deep.*batch_size"):
        fitting.train(network(), examples(tmp_path, *EIGHT), mild(), 1, "test")


def test_augmentation_stays_in_range_and_leaves_the_background():
    volumes = torch.zeros(4, 1, 16, 16, 16)
    volumes[:, :, 4:12, 4:12, 4:12] = 0.995
    changed = fitting.augment(volumes, torch.Generator().manual_seed(1))
    assert changed.shape == volumes.shape
    assert changed.min() == 0
    assert changed.max() <= 1
    assert [(volume > 0).sum().item() for volume in changed] == [512] * 4  # moved as a whole, not cut here
    assert len({tuple(volume.nonzero()[0].tolist()) for volume in changed}) > 1
    again = fitting.augment(volumes, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again, changed)
    inside = changed[changed > 0]
    assert 0.003 < inside.std() < 0.03


def test_risks_without_an_image_are_the_cohorts(tmp_path):
    data = examples(tmp_path, [0.5] * 20 + [6.0] * 60, [1] * 20 + [0] * 60)
    risk = fitting.risk_without_image(data, 2)
    np.testing.assert_allclose(risk, [[0.25, 0.256, 0.262]] * 2, atol=0.01)


def test_mean_loss_weighs_patients_the_same(tmp_path):
    data = examples(tmp_path, [6, 6, 6, 0.5], [0, 0, 0, 1], patients=["p", "p", "p", "q"])
    risk = np.tile([0.2, 0.2, 0.2], (4, 1))
    assert fitting.mean_loss(data, risk) == pytest.approx((-np.log(0.8) - np.log(0.2)) / 2, rel=1e-6)


def test_predicting_nothing_gives_nothing():
    assert fitting.predict(network(), []).shape == (0, 3)


def test_the_second_task_can_be_learned_and_is_used(tmp_path):
    data = examples(tmp_path, [6.0] * 8, [0] * 8, density=np.linspace(0.1, 0.7, 8))
    task = fitting.DensityTask(16, data.paths, torch.Generator().manual_seed(0))
    volumes = fitting.load_cubes(data.paths)
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

    def encoder_after(weight):
        net = network()
        fitting.train(net, data, mild(epochs=1, density_weight=weight), 1, "test")
        return net.encoder[0].weight.detach()

    assert (encoder_after(0.0) - encoder_after(1.0)).abs().max() > 1e-3
    torch.testing.assert_close(encoder_after(1.0), encoder_after(1.0), rtol=0, atol=0)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 10, 100])
def test_the_learning_rate_rises_and_falls_whatever_the_number_of_steps(n_steps):
    shares = np.array([fitting.share_of_rate(step, n_steps) for step in range(n_steps)])
    assert (shares > 0).all()
    assert (shares <= 1).all()
    top = shares.argmax()
    assert (np.diff(shares[: top + 1]) > 0).all()
    assert (np.diff(shares[top:]) < 0).all()
    if n_steps == 100:
        assert top == 20
        assert shares[-1] < 0.01
