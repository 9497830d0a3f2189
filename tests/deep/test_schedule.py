import math

import numpy as np
import pytest
import torch

from sscct_lib.deep import fitting, networks
from sscct_lib.study.settings import NetworkSettings
from sscct_lib.study.words import NETWORK_WORDS


def share_of_rate(step, n_steps):
    """Share of the highest rate at a step, counted from 0: it rises in a line and falls in a cosine."""
    warm = max(1.0, fitting.WARM_UP * n_steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, n_steps - warm)))


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 6, 7, 10, 13, 100])
def test_the_learning_rate_rises_and_falls_whatever_the_number_of_steps(n_steps):
    adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 1.0)
    steps = fitting.schedule(adam, n_steps)
    shares = []
    for _ in range(n_steps + 1):
        shares.append(adam.param_groups[0]["lr"])
        adam.step()
        steps.step()
    np.testing.assert_allclose(
        shares, [share_of_rate(step, n_steps) for step in range(n_steps + 1)], rtol=0, atol=1e-12
    )
    shares = np.array(shares[:-1])
    assert (shares > 0).all()
    assert (shares <= 1).all()
    top = shares.argmax()
    assert (np.diff(shares[: top + 1]) > 0).all()
    assert (np.diff(shares[top:]) < 0).all()
    if n_steps == 100:
        assert top == 20
        assert shares[-1] < 0.01


FIRST = {"resnet18": "conv1.weight", "densenet121": "features.conv0.weight", "swin": "vit.patch_embed.proj.weight"}


@pytest.mark.usefixtures("narrow_resnet")
@pytest.mark.parametrize("name", NETWORK_WORDS)
def test_early_layers_learn_slowly_and_every_parameter_learns(name):
    settings = NetworkSettings(size=32, feature_size=12, window_size=4, early_rate=0.1, learning_rate=1e-3)
    network = networks.build(name, settings, 3)
    adam = fitting.optimiser(network.encoder, [network.head], settings, fused=True)
    rates = [group["lr"] for group in adam.param_groups]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-2:] == pytest.approx([1e-3, 1e-3])  # the last layer's and the head's
    np.testing.assert_allclose(np.diff(np.log(rates[:-1])), np.log(10) / (len(rates) - 2))
    grouped = [id(parameter) for group in adam.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())
    named = dict(network.encoder.named_parameters())
    assert any(parameter is named[FIRST[name]] for parameter in adam.param_groups[0]["params"])


def test_pretrained_networks_are_tuned_gently_unless_told_otherwise():
    scratch, tuned = NetworkSettings(), NetworkSettings(weights="w.pt", epochs=45)
    assert fitting.head_epochs(scratch) == 0
    assert fitting.head_epochs(tuned) == 5
    assert fitting.head_epochs(tuned.model_copy(update={"head_epochs": 0})) == 0
    encoder, _ = networks.build_resnet18()
    head = torch.nn.Linear(2, 1)
    first = [fitting.optimiser(encoder, [head], settings, True).param_groups[0]["lr"] for settings in (scratch, tuned)]
    assert first == pytest.approx([4e-4, 4e-5])
