"""Sixteen bits on a processor: every gradient near that of 32 bits, and started processes keep their memory.

Attention in pieces has the values and gradients of MONAI's own.
"""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from monai.networks.nets.resnet import resnet18
from monai.networks.nets.swin_unetr import SwinTransformer, SwinUNETR, WindowAttention
from torch import nn
from torch.nn import functional

from sscct_lib.deep import heads, networks
from sscct_lib.deep.networks import (
    KEPT,
    Convolution,
    PiecewiseAttention,
    build,
    kept_memory,
    multiplies_bf16,
    suit_processor,
)
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import NetworkSettings
from sscct_lib.study.words import NETWORK_WORDS

HORIZONS = (1.0, 3.0, 5.0)
TINY = {
    "resnet18": NetworkSettings(size=16),
    "densenet121": NetworkSettings(size=32),
    "swin": NetworkSettings(size=32, feature_size=12, window_size=4),
}


def targets(followup, event):
    followup, event = np.asarray(followup, dtype=float), np.asarray(event, dtype=bool)
    return [torch.from_numpy(part) for part in heads.hazard_targets(followup, event, HORIZONS)]


@pytest.mark.parametrize("name", list(TINY))
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    network = networks.build(name, TINY[name], 3)
    side = TINY[name].size
    network(torch.rand(2, 1, side, side, side)).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 33.0), ("densenet121", 11.2)])
def test_encoders_have_the_published_number_of_parameters(name, millions):
    network = networks.build(name, TINY[name], 3)
    assert sum(p.numel() for p in network.encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_resnet_agrees_with_monai_and_lets_gradient_through_the_shortcut():
    torch.manual_seed(0)
    reference = resnet18(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="A", feed_forward=False
    ).eval()
    encoder, _ = networks.build_resnet18()
    encoder.load_state_dict(reference.state_dict())
    encoder.eval()
    volume = torch.rand(1, 1, 33, 32, 30)
    torch.testing.assert_close(encoder(volume), reference(volume))

    shortcut = networks.ZeroPadShortcut(4, 2)
    x = torch.rand(1, 2, 5, 4, 3, requires_grad=True)
    y = shortcut(x)
    assert y.shape == (1, 4, 3, 2, 2)
    torch.testing.assert_close(y[:, :2], functional.avg_pool3d(x, 1, 2))
    assert not y[:, 2:].any()
    y.sum().backward()
    assert x.grad.sum() == 2 * 3 * 2 * 2


def test_swin_is_the_encoder_of_swinunetr():
    torch.manual_seed(0)
    reference = SwinUNETR(in_channels=1, out_channels=2, feature_size=12).eval()
    encoder, n_features = networks.build_swin(feature_size=12)
    encoder.vit.load_state_dict(reference.swinViT.state_dict())
    encoder.eval()
    volume = torch.rand(1, 1, 32, 32, 32)
    expected = reference.swinViT(volume, True)[4].mean(dim=(2, 3, 4))
    assert expected.shape == (1, n_features)
    torch.testing.assert_close(encoder(volume), expected)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("swin", {"size": 48}, r"deep.swin.size is 48.*divide by 32.*for example 64"),
        ("swin", {"size": 32, "feature_size": 10}, "feature_size is 10; expected a multiple of 12"),
        ("densenet121", {"size": 16}, "at least 32 voxels"),
        ("resnet50", {}, "Unknown network 'resnet50'; expected one of resnet18, densenet121, swin"),
    ],
)
def test_impossible_settings_are_named(name, changed, message):
    with pytest.raises(StudyError, match=message):
        networks.build(name, NetworkSettings(**changed), 3)


@pytest.mark.parametrize("size", [17, 21, 40])
def test_odd_sizes_that_a_network_allows_work(size):
    network = networks.build("resnet18", NetworkSettings(size=size), 2).eval()
    assert network(torch.rand(1, 1, size, size, size)).shape == (1, 2)


def test_names_say_when_there_are_no_weights():
    assert networks.display_name("swin", NetworkSettings()) == "Swin Transformer (from scratch)"
    assert networks.display_name("swin", NetworkSettings(weights="a.pt")) == "Swin Transformer"
    own = NetworkSettings(weights="self-supervised", clinical=True, head="classifiers")
    assert networks.display_name("resnet18", own) == "ResNet-18 + clinical (classifiers, self-supervised)"


def test_targets_by_hand():
    died, survived = targets([0.5, 1.0, 1.0, 2.0, 4.0, 6.0, 6.0], [1, 1, 0, 0, 1, 1, 0])
    assert died.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert survived.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]


def test_loss_by_hand():
    hazards = torch.tensor([[0.1, 0.2, 0.3]])
    logits = torch.logit(hazards).expand(3, 3)
    losses = heads.HazardHead.losses(logits, *targets([2.0, 2.0, 4.5], [1, 0, 0]))
    expected = -torch.log(torch.tensor([0.9 * 0.2, 0.9 * 0.8**0.5, 0.9 * 0.8 * 0.7**0.75]))
    torch.testing.assert_close(losses, expected)


def fitted_risks(followup, event):
    """Maximise the likelihood with the same hazards for every scan."""
    died, survived = targets(followup, event)
    logits = torch.zeros(1, 3, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = heads.HazardHead.losses(logits.expand(len(died), 3), died, survived).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return heads.HazardHead.risks(logits.detach())[0].numpy()


def test_without_censoring_inside_intervals_the_likelihood_gives_kaplan_meier():
    rng = np.random.default_rng(1)
    time = rng.exponential(6, 400)
    censored_at = rng.choice([1.0, 3.0, 5.0, 7.0], 400)
    event = time <= censored_at
    followup = np.minimum(time, censored_at)
    km = KaplanMeierFitter().fit(followup, event)
    expected = 1 - km.survival_function_at_times(HORIZONS).to_numpy()
    np.testing.assert_allclose(fitted_risks(followup, event), expected, atol=1e-4)


def test_with_censoring_the_likelihood_gives_the_actuarial_estimate_near_the_truth():
    rng = np.random.default_rng(2)
    time, censored_at = rng.exponential(6, 20_000), rng.uniform(0, 8, 20_000)
    event, followup = time <= censored_at, np.minimum(time, censored_at)
    died, survived = heads.hazard_targets(followup, event, HORIZONS)
    hazard = died.sum(0) / (died.sum(0) + survived.sum(0))
    fitted = fitted_risks(followup, event)
    np.testing.assert_allclose(fitted, 1 - np.cumprod(1 - hazard), atol=1e-4)
    np.testing.assert_allclose(fitted, 1 - np.exp(-np.array(HORIZONS) / 6), atol=0.02)


def test_base_hazards_are_the_actuarial_ones_and_never_zero():
    died, survived = heads.hazard_targets(np.array([0.5, 6.0, 6.0]), np.array([True, False, False]), HORIZONS)
    np.testing.assert_allclose(heads.base_hazards(died, survived), [1.5 / 4, 0.5 / 3, 0.5 / 3])
    network = networks.HazardNetwork(torch.nn.Flatten(), 8, 3)
    network.head.start_at(heads.base_hazards(died, survived))
    logits = network(torch.zeros(1, 1, 2, 2, 2))
    np.testing.assert_allclose(heads.HazardHead.risks(logits)[0, 0].item(), 1.5 / 4, rtol=1e-6)


@settings(max_examples=50)
@given(st.lists(st.floats(-60, 60), min_size=3, max_size=3))
def test_risks_are_probabilities_in_order(logits):
    risks = heads.HazardHead.risks(torch.tensor([logits]))[0]
    assert (risks >= 0).all()
    assert (risks <= 1).all()
    assert (risks.diff() >= 0).all()


def test_risks_of_known_hazards():
    logits = torch.logit(torch.tensor([[0.1, 0.2, 0.5]], dtype=torch.float64))
    np.testing.assert_allclose(heads.HazardHead.risks(logits)[0], [0.1, 0.28, 0.64])


def test_followup_after_the_censoring_time_changes_the_loss():
    logits = torch.zeros(2, 3)
    earlier, later = heads.HazardHead.losses(logits, *targets([1.5, 2.5], [0, 0])).tolist()
    assert later - earlier == pytest.approx(0.5 * np.log(2))


def test_one_score_orders_scans_alike_at_every_horizon():
    torch.manual_seed(0)
    network = networks.HazardNetwork(torch.nn.Flatten(), 8, 3)
    risk = heads.HazardHead.risks(network(torch.rand(20, 1, 2, 2, 2)).detach())
    orders = risk.argsort(dim=0)
    assert (orders == orders[:, :1]).all()
    # A scan's odds of hazard stand in the same ratio to another's in each interval.
    logits = network(torch.rand(2, 1, 2, 2, 2))
    torch.testing.assert_close((logits[0] - logits[1]).expand(3), (logits[0] - logits[1])[:1].expand(3))


def test_standardising_changes_what_the_encoder_sees():
    network = networks.HazardNetwork(torch.nn.Flatten(), 8, 3)
    volume = torch.rand(2, 1, 2, 2, 2)
    plain = network(0.5 * volume)
    network.standardise(0.1, 2.0)
    torch.testing.assert_close(network(volume + 0.1), plain)
    assert {"centre", "spread"} <= network.state_dict().keys()  # so that it is saved with the model


needs_bf16 = pytest.mark.skipif(not multiplies_bf16(), reason="this processor does not multiply bf16 itself")


def gradients(module, x, half, lowest=-1.0):
    own = copy.deepcopy(module)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = own(x)
    out.float().backward(torch.linspace(lowest, 1, out.numel()).reshape(out.shape))
    return {"input": x.grad, **{name: p.grad for name, p in own.named_parameters() if p.grad is not None}}


@needs_bf16
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 10)] * 3),
    kernel=st.sampled_from([1, 2, 3, 7]),
    stride=st.sampled_from([1, 2]),
    channels=st.tuples(st.sampled_from([1, 3, 16]), st.sampled_from([1, 16])),
    batch=st.integers(1, 3),
)
def test_gradients_of_convolutions_are_right_at_every_side(sides, kernel, stride, channels, batch):
    if min(sides) <= kernel and kernel in (2, 7):
        return  # no network here has it: patches fit, and the first convolution sees 16 voxels or more
    torch.manual_seed(sum(sides))
    layer = nn.Conv3d(*channels, kernel, stride, 0 if kernel == 2 else kernel // 2)
    suit_processor(layer)
    nn.init.uniform_(layer.weight)  # nothing below zero, so that no sum cancels and hides an error
    x = torch.rand(batch, channels[0], *sides)
    with torch.backends.mkldnn.flags(enabled=False):
        exact = gradients(layer, x, False, lowest=0.1)
    for name, value in gradients(layer, x, True, lowest=0.1).items():
        torch.testing.assert_close(value, exact[name], rtol=0.03, atol=1e-3, msg=name)


@pytest.mark.slow
@needs_bf16
@pytest.mark.parametrize("name", NETWORK_WORDS)
def test_the_first_gradients_of_each_network_point_where_those_of_32_bits_do(name):
    torch.manual_seed(0)
    network = build(name, NetworkSettings(size=32, feature_size=12, window_size=4), 3).eval()
    ramp = torch.linspace(-1, 1, 32)
    volumes = torch.stack([ramp[:, None, None] * a + ramp[None, :, None] * (1 - a) + 0 * ramp for a in (0.1, 0.9)])
    exact, half = (gradients(network, volumes[:, None], on) for on in (False, True))
    for parameter, value in exact.items():
        if value.abs().max() > 1e-4 * max(other.abs().max() for other in exact.values()):
            assert torch.cosine_similarity(value.flatten(), half[parameter].flatten(), 0) > 0.85, parameter


def test_names_of_parameters_stay_for_published_weights():
    layer = nn.Conv3d(1, 2, 3)
    before = list(layer.state_dict())
    suit_processor(layer)
    assert type(layer) is Convolution
    assert list(layer.state_dict()) == before


def test_started_processes_keep_memory_and_ours_is_as_before(monkeypatch):
    name, *others = KEPT
    monkeypatch.setenv(name, "4096")
    for other in others:
        monkeypatch.delenv(other, raising=False)
    with kept_memory():
        told = subprocess.run([sys.executable, "-c", "import os; print(*os.environ)"], capture_output=True, text=True)
        assert set(KEPT) <= set(told.stdout.split())
        assert os.environ[name] == "4096"  # what the user set stays
    assert os.environ[name] == "4096"
    assert not set(others) & set(os.environ)


def both(module, *inputs):
    """Run MONAI's and ours on the same inputs; give output and gradients of both."""
    ours = copy.deepcopy(module)
    suit_processor(ours)
    found = []
    for one in (module, ours):
        given = [x.clone().requires_grad_() if x is not None and k == 0 else x for k, x in enumerate(inputs)]
        out = one(*given)
        out = out[-1] if isinstance(out, list) else out
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
        gradients = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
        found.append({"out": out.detach(), "input": given[0].grad, **gradients})
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("at_once", [1, 3000, 2**20])
def test_values_and_gradients_are_those_of_monai(monkeypatch, masked, at_once):
    monkeypatch.setattr(networks, "AT_ONCE", at_once)
    torch.manual_seed(3)
    module = torch.nn.Sequential(WindowAttention(12, 3, (3, 3, 3), qkv_bias=True))[0]
    tokens = torch.randn(2 * 5, 27, 12)
    mask = torch.zeros(5, 27, 27).masked_fill(torch.rand(5, 27, 27) < 0.3, -100.0) if masked else None
    theirs, ours = both(module, tokens, mask)
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_gradients_hold_against_finite_differences():
    torch.manual_seed(0)
    q, k, v = (torch.randn(4, 2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.randn(2, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(networks._Attention.apply, (q, k, v, bias, mask))


def test_a_whole_encoder_of_any_shape_is_that_of_monai():
    torch.manual_seed(1)
    encoder = SwinTransformer(1, 12, (4, 4, 4), (2, 2, 2), (2, 2, 2, 2), (3, 6, 12, 24), spatial_dims=3)
    theirs, ours = both(encoder, torch.randn(2, 1, 32, 64, 32))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=2e-3, atol=2e-4, msg=name)


def test_names_of_parameters_stay_for_published_weights_of_window_attention():
    module = WindowAttention(12, 3, (3, 3, 3))
    before = list(module.state_dict())
    suit_processor(module)
    assert type(module) is PiecewiseAttention
    assert list(module.state_dict()) == before
