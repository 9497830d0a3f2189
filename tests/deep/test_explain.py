"""Integrated gradients against closed forms, and the check against untrained networks."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sscct_lib.deep import cubes, explain, heads, networks, prediction
from sscct_lib.deep.explain import integrated_gradients, likeness, sanity, untrained_copy
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import DeepSettings, NetworkSettings, Settings

pytestmark = pytest.mark.usefixtures("narrow_resnet")


class OneZone(nn.Module):
    """Looks at the lower zone of the right lung alone."""

    def forward(self, x):
        return x[:, 0, :4, :, :6].mean(dim=(1, 2, 3))[:, None]


@pytest.fixture
def network():
    net = networks.HazardNetwork(OneZone(), 1, 3)
    with torch.no_grad():
        net.head.score.weight.fill_(5.0)
        net.head.baseline.copy_(torch.tensor([-3.0, -2.0, -2.0]))
    net.standardise(0.2, 1.0)
    return net.eval()


def volume(level):
    cube = torch.full((1, 1, 12, 12, 12), 0.2)
    cube[..., :4, :, :6] = level
    cube[..., 5:7] = 0
    return cube


def test_only_the_zone_that_the_network_looks_at_changes_its_risk(network):
    zones = explain.zone_occlusion(network, volume(0.6))
    assert len(zones) == 6 * 3
    seen = zones["height"].eq("lower") & zones["side"].eq("right")
    assert (zones.loc[~seen, "change"] == 0).all()
    # By hand: five sixths of the zone are lung at 0.6, made 0.2; standardised with centre 0.2.
    logits = torch.tensor([-3.0, -2.0, -2.0])
    scores = torch.tensor([5 * (5 * 0.4 - 0.2) / 6, 5 * (5 * 0.0 - 0.2) / 6])
    full, without = heads.HazardHead.risks(scores[:, None] + logits).numpy()
    np.testing.assert_allclose(zones.loc[seen, "risk"], full, rtol=1e-5)
    np.testing.assert_allclose(zones.loc[seen, "change"], full - without, rtol=1e-5)
    assert (zones.loc[seen, "change"] > 0).all()


def test_average_lung_explains_nothing_and_less_than_average_lowers(network):
    assert np.allclose(explain.zone_occlusion(network, volume(0.2))["change"], 0)
    assert explain.zone_occlusion(network, volume(0.1))["change"].min() < 0


def test_a_scan_is_explained_by_the_model_of_its_fold(network, tmp_path, monkeypatch):
    study = Study(tmp_path, Settings(deep=DeepSettings(swin=NetworkSettings(size=32))))
    path = cubes.cube_path(study, "s", cubes.view_of(study, "swin"))
    path.parent.mkdir(parents=True)
    np.save(path, np.full((32, 32, 32), 0.3, dtype=np.float16))
    asked = []
    monkeypatch.setattr(explain, "fold_model", lambda *arguments: asked.append(arguments) or network)
    zones = explain.explain_scan(study, "swin", "s", 2)
    assert asked == [(study, "swin", 2, 0)]
    assert set(zones["horizon_years"]) == {1.0, 3.0, 5.0}
    assert set(zones["model"]) == {"Swin Transformer (from scratch)"}
    assert isinstance(zones, pd.DataFrame)


def test_without_a_model_the_stage_to_run_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"no model of swin, fold 1\. Run `04_deep_models`"):
        prediction.fold_model(Study(tmp_path, Settings()), "swin", 1)


class Linear(nn.Module):
    """A weight a voxel."""

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, x):
        return (x * self.weights).sum(dim=(1, 2, 3, 4))[:, None]


def cube(seed: int = 0, size: int = 8) -> torch.Tensor:
    values = torch.rand((1, 1, size, size, size), generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.1
    values[..., :2] = 0
    return values


def test_of_a_linear_network_each_voxel_gets_its_weight_times_its_distance_from_average_lung():
    weights = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    network = networks.HazardNetwork(Linear(weights), 1, 3).eval()
    network.standardise(0.25, 2.0)
    volume = cube()
    slope = network.head.score.weight.item()
    expected = (volume - 0.25)[0, 0] * weights[0] / 2.0 * slope * (volume[0, 0] > 0)
    np.testing.assert_allclose(integrated_gradients(network, volume), expected.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["resnet18", "swin"])
def test_parts_sum_to_the_score_less_that_of_average_lung(name):
    torch.manual_seed(0)
    size = {"resnet18": 16, "swin": 32}[name]
    network = networks.build(name, NetworkSettings(size=size, feature_size=12, window_size=4), 3).eval()
    network.standardise(0.3, 0.15)
    volume = cube(size=size)
    average = torch.where(volume > 0, network.centre, volume)
    with torch.inference_mode():
        scores = network.head.score(network.features(torch.cat([volume, average])))[:, 0]
    parts = integrated_gradients(network, volume, n_steps=64)
    assert parts.sum() == pytest.approx((scores[0] - scores[1]).item(), rel=0.05)
    assert not parts[volume[0, 0].numpy() == 0].any()


def test_untrained_copy_differs_in_every_weight_and_leaves_the_original():
    torch.manual_seed(0)
    network = networks.build("swin", NetworkSettings(size=32, feature_size=12, window_size=4), 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fresh = untrained_copy(network, 1)
    for name, tensor in network.named_parameters():
        assert torch.equal(tensor, before[name])
        if tensor.dim() > 1:
            assert not torch.equal(tensor, fresh.get_parameter(name)), name
    again = untrained_copy(network, 1)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), again.parameters(), strict=True))


def test_likeness_is_of_sizes_inside_the_lungs():
    rng = np.random.default_rng(0)
    one, inside = rng.normal(size=(6, 6, 6)), np.ones((6, 6, 6), dtype=bool)
    assert likeness(one, -2 * one, inside) == pytest.approx(1)
    assert abs(likeness(one, rng.normal(size=one.shape), inside)) < 0.3
    assert np.isnan(likeness(one, np.zeros_like(one), inside))


def test_a_map_that_does_not_depend_on_training_fails():
    rows = [("A", 0.1), ("A", 0.2), ("B", 0.8), ("B", 0.9), ("C", np.nan)]
    verdicts = sanity(pd.DataFrame(rows, columns=["model", "likeness"]))["verdict"]
    assert verdicts["A"] == "passes"
    assert verdicts["B"].startswith("fails")
    assert verdicts["C"].startswith("fails")


def test_the_scans_of_the_highest_risks_are_chosen_one_a_patient():
    rows = [("a1", "a", 0.9), ("a2", "a", 0.8), ("b1", "b", 0.5), ("c1", "c", 0.7)]
    scans = pd.DataFrame(rows, columns=["scan_id", "patient_id", "risk"]).assign(fold=0, horizon_years=5.0, model="A")
    early = scans.assign(horizon_years=1.0, risk=1 - scans["risk"])
    chosen = explain.most_at_risk(pd.concat([scans, early]), 2)
    assert chosen["scan_id"].tolist() == ["a1", "c1"]


def test_maps_are_saved_for_every_network_and_scan(tmp_path, monkeypatch):
    study = Study(tmp_path, Settings(deep=DeepSettings(resnet18=NetworkSettings(size=16))))
    scans = pd.DataFrame({"scan_id": ["a", "b"], "patient_id": ["p", "q"], "fold": [0, 1]})
    for scan_id in scans["scan_id"]:
        path = cubes.cube_path(study, scan_id, cubes.view_of(study, "resnet18"))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, cube(size=16)[0, 0].numpy().astype(np.float16))
    torch.manual_seed(0)
    network = networks.build("resnet18", NetworkSettings(size=16), 3).eval()
    asked = []
    monkeypatch.setattr(explain, "fold_model", lambda *arguments: asked.append(arguments[2]) or network)
    checked = explain.attribute_scans(study, ["resnet18"], scans)
    assert asked == [0, 1]
    assert checked["model"].unique().tolist() == ["ResNet-18 (from scratch)"]
    for scan_id in scans["scan_id"]:
        assert np.load(study.attribution("resnet18", scan_id)).shape == (16, 16, 16)
