"""Sixteen bits on a processor: every gradient near that of 32 bits, and started processes keep their memory."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sscct_lib.deep_settings import NetworkSettings
from sscct_lib.networks import build
from sscct_lib.processors import KEPT, Convolution, convolve_rightly, kept_memory, multiplies_bf16
from sscct_lib.wording import NETWORK_WORDS

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
    convolve_rightly(layer)
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
    convolve_rightly(layer)
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
