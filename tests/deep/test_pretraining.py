import json

import numpy as np
import pandas as pd
import pytest
import torch
from monai.losses.contrastive import ContrastiveLoss
from safetensors.torch import load_file

from sscct_lib.deep import batches, cross_validation, cubes, heads, networks, pretraining
from sscct_lib.study.folder import Study
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import DeepSettings, NetworkSettings, PretrainingSettings, Settings
from tests.deep.deep_cubes import network

pytestmark = pytest.mark.usefixtures("narrow_resnet")

SIZE = 16
SETTINGS = NetworkSettings(size=SIZE, batch_size=4, epochs=1, weights="self-supervised")


def study_in(folder, epochs=1, **changed):
    deep = DeepSettings(
        networks=("resnet18",),
        resnet18=SETTINGS.model_copy(update=changed),
        pretraining=PretrainingSettings(epochs=epochs, learning_rate=1e-2),
        precision="32",
    )
    return Study(folder, Settings(deep=deep))


def gradients(folder, n=12):
    """Cubes whose density rises along an axis, more or less: the hidden part follows from what is shown."""
    rng = np.random.default_rng(0)
    paths = [folder / f"s{i}.npy" for i in range(n)]
    for path in paths:
        slope = np.linspace(-1, 1, SIZE) * rng.uniform(-0.3, 0.3)
        cube = 0.5 + np.broadcast_to(slope[:, None, None], (SIZE,) * 3)
        np.save(path, cube.astype(np.float16))
    table = pd.DataFrame({"scan_id": [p.stem for p in paths], "patient_id": [f"p{i}" for i in range(n)]})
    table["fold"] = np.arange(n) % 2
    return batches.Examples(table, paths, *heads.hazard_targets(np.full(n, 6.0), np.zeros(n, dtype=bool), (1.0,)))


def test_the_share_asked_for_is_hidden_in_boxes():
    volumes = torch.ones(3, 1, 16, 16, 16)
    hidden = pretraining.hide(volumes, 0.5, torch.Generator().manual_seed(0))
    assert (hidden == 0).float().mean(dim=(1, 2, 3, 4)).tolist() == [0.5] * 3
    boxes = hidden.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4)
    assert set(boxes.float().mean(dim=(-1, -2, -3)).unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(hidden[0], hidden[1])


def test_coarse_densities_are_block_means():
    volumes = torch.rand(2, 1, 16, 16, 16)
    expected = volumes.view(2, 8, 2, 8, 2, 8, 2).mean(dim=(2, 4, 6)).flatten(1)
    torch.testing.assert_close(pretraining.coarse(volumes), expected)


def test_the_encoder_learns_to_guess_what_is_hidden_and_to_know_scans_again(tmp_path):
    data = gradients(tmp_path)
    study = study_in(tmp_path, epochs=40)
    net = network()
    losses = pretraining.pretrain(net, data, study.settings.deep.resnet18, study, 1, "test")
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    volumes = cubes.load_cubes(data.paths)

    def told(encoder):
        """Correlation of the slope with its best guess from features of other masks (leave one out)."""
        with torch.no_grad():
            seen = encoder.features(pretraining.hide(volumes, 0.5, torch.Generator().manual_seed(5)))
        views = [seen, encoder.features(pretraining.hide(volumes, 0.5, torch.Generator().manual_seed(6))).detach()]
        return ContrastiveLoss(0.5)(*views).item()

    assert told(net) < told(network())


def test_the_same_seed_gives_the_same_encoder(tmp_path):
    data = gradients(tmp_path)
    study = study_in(tmp_path, epochs=2)
    states = []
    for seed in (1, 1, 2):
        net = network()
        pretraining.pretrain(net, data, study.settings.deep.resnet18, study, seed, "test")
        states.append(net.encoder[0].weight.detach().clone())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert not torch.equal(states[0], states[2])


@pytest.fixture
def opened(monkeypatch):
    """Every cube that is read, by the name of its scan."""
    names = []
    load = np.load

    def noting(path, *arguments, **options):
        names.append(getattr(path, "stem", str(path)))
        return load(path, *arguments, **options)

    monkeypatch.setattr(np, "load", noting)
    return names


def test_cubes_of_patients_kept_out_are_never_opened(tmp_path, opened):
    data = gradients(tmp_path)
    study = study_in(tmp_path)
    training_rows = np.flatnonzero(data.table["fold"] != 0)
    path, digest = pretraining.pretrained_encoder(study, "resnet18", data.take(training_rows), 0)
    assert set(opened) == set(data.table["scan_id"].iloc[training_rows])
    assert checksum(path) == digest
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["fold_kept_out"], card["folds_seen"], card["n_patients"]) == (0, [1], 6)
    assert not any(name in json.dumps(card) for name in data.table["patient_id"] + '"')
    before = path.stat().st_mtime_ns
    assert pretraining.pretrained_encoder(study, "resnet18", data.take(training_rows), 0) == (path, digest)
    assert path.stat().st_mtime_ns == before
    # Other scans, another mask: it learns anew.
    pretraining.pretrained_encoder(study, "resnet18", data.take(training_rows[:-1]), 0)
    assert path.stat().st_mtime_ns != before


def test_fine_tuning_starts_from_the_encoder_of_its_fold_and_says_so(tmp_path, opened):
    data = gradients(tmp_path)
    study = study_in(tmp_path)
    rows = np.flatnonzero(data.table["fold"] != 1)
    network, weights = cross_validation._untrained(study, "resnet18", data.take(rows), 1)
    assert weights.n_matched == weights.n_expected == 85
    assert set(opened) == set(data.table["scan_id"].iloc[rows])
    path, _ = pretraining.pretrained_encoder(study, "resnet18", data.take(rows), 1)
    state = network.encoder.state_dict()
    for name, tensor in load_file(path).items():
        if tensor.is_floating_point():  # not the counts of batches
            torch.testing.assert_close(state[name], tensor)
    assert networks.display_name("resnet18", study.settings.deep.resnet18) == "ResNet-18 (self-supervised)"
