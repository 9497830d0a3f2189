import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sscct_lib import explain, heads, networks, tensors, training
from sscct_lib.study import DeepSettings, NetworkSettings, Settings, Study, StudyError


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
    full, without = heads.risks(scores[:, None] + logits).numpy()
    np.testing.assert_allclose(zones.loc[seen, "risk"], full, rtol=1e-5)
    np.testing.assert_allclose(zones.loc[seen, "change"], full - without, rtol=1e-5)
    assert (zones.loc[seen, "change"] > 0).all()


def test_average_lung_explains_nothing_and_less_than_average_lowers(network):
    assert np.allclose(explain.zone_occlusion(network, volume(0.2))["change"], 0)
    assert explain.zone_occlusion(network, volume(0.1))["change"].min() < 0


def test_a_scan_is_explained_by_the_model_of_its_fold(network, tmp_path, monkeypatch):
    study = Study(tmp_path, Settings(deep=DeepSettings(swin=NetworkSettings(size=32))))
    path = tensors.cube_path(study, "s", 32, study.settings.deep.hu_range)
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
        training.fold_model(Study(tmp_path, Settings()), "swin", 1)
