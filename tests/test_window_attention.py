"""Attention in pieces has the values and gradients of MONAI's own."""

import copy

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinTransformer, WindowAttention

from sscct_lib import window_attention
from sscct_lib.window_attention import PiecewiseAttention, attend_piecewise


def both(module, *inputs):
    """Run MONAI's and ours on the same inputs; give output and gradients of both."""
    ours = copy.deepcopy(module)
    attend_piecewise(ours)
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
    monkeypatch.setattr(window_attention, "AT_ONCE", at_once)
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
    assert torch.autograd.gradcheck(window_attention._Attention.apply, (q, k, v, bias, mask))


def test_a_whole_encoder_of_any_shape_is_that_of_monai():
    torch.manual_seed(1)
    encoder = SwinTransformer(1, 12, (4, 4, 4), (2, 2, 2), (2, 2, 2, 2), (3, 6, 12, 24), spatial_dims=3)
    theirs, ours = both(encoder, torch.randn(2, 1, 32, 64, 32))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=2e-3, atol=2e-4, msg=name)


def test_names_of_parameters_stay_for_published_weights():
    module = WindowAttention(12, 3, (3, 3, 3))
    before = list(module.state_dict())
    attend_piecewise(module)
    assert type(module) is PiecewiseAttention
    assert list(module.state_dict()) == before
