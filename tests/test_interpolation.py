"""Interpolation: against SciPy where it is linear, and against torch where it averages as well."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from sscct_lib.interpolation import axis_weights, interpolate


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 100, (9, 11, 14)).astype(np.float32)


def test_between_samples_it_is_linear(volume):
    positions = [np.sort(np.random.default_rng(n).uniform(-1, n, 17)) for n in volume.shape]
    z, y, x = (axis_weights(n, at) for n, at in zip(volume.shape, positions, strict=True))
    expected = ndimage.map_coordinates(volume, np.meshgrid(*positions, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(interpolate(volume, (z, y, x)), expected, atol=1e-3)


def test_a_coarser_grid_averages_as_torch_does(volume):
    plane = torch.from_numpy(volume)[None]
    expected = torch.nn.functional.interpolate(plane, (5, 6), mode="bilinear", antialias=True)[0].numpy()
    axes = [
        axis_weights(old, (np.arange(new) + 0.5) * old / new - 0.5, old / new)
        for old, new in zip(volume.shape, (9, 5, 6), strict=True)
    ]
    np.testing.assert_allclose(interpolate(volume, (axes[0], axes[1], axes[2])), expected, atol=1e-3)


@given(n_old=st.integers(1, 30), at=st.floats(-5, 40), width=st.floats(1, 6))
def test_weights_are_a_mean_of_samples_that_exist(n_old, at, width):
    index, weights = axis_weights(n_old, np.array([at]), width)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert ((index >= 0) & (index < n_old)).all()
    assert (weights >= 0).all()
