from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from radiomics import cShape
from scipy.spatial.distance import pdist

from sscct_lib.radiomics.shape import area_and_volume, diameters, principal_variances

masks = st.tuples(st.tuples(*[st.integers(1, 8)] * 3), st.floats(0.05, 1), st.integers(0, 2**32)).map(
    lambda drawn: np.pad(np.random.default_rng(drawn[2]).random(drawn[0]) < drawn[1], 1)
)
spacings = st.tuples(*[st.sampled_from([0.6, 1.0, 1.7, 3.0])] * 3)


def ball(radius: int) -> np.ndarray:
    z, y, x = np.indices((2 * radius + 3,) * 3) - radius - 1
    return z**2 + y**2 + x**2 <= radius**2


@settings(max_examples=60)
@given(masks, spacings)
def test_the_mesh_is_that_of_pyradiomics(mask: np.ndarray, spacing) -> None:
    area, volume, _ = cShape.calculate_coefficients(mask, np.array(spacing))
    assert area_and_volume(mask, spacing) == pytest.approx((area, volume), rel=1e-9, abs=1e-9)


@settings(max_examples=60)
@given(masks.filter(lambda mask: mask.any()), spacings)
def test_diameters_are_the_longest_of_all_pairs_of_surface_points(mask: np.ndarray, spacing) -> None:
    points = []
    for axis in range(3):
        for here, there in pairwise(range(mask.shape[axis])):
            crossing = np.argwhere(np.take(mask, here, axis) != np.take(mask, there, axis))
            points += [np.insert(place.astype(float), axis, here + 0.5) for place in crossing]
    surface = np.array(points)
    expected = [
        max(pdist(surface[surface[:, axis] == plane] * spacing).max(initial=0) for plane in np.unique(surface[:, axis]))
        for axis in range(3)
    ]
    assert diameters(mask, spacing) == pytest.approx((*expected, pdist(surface * spacing).max()), rel=1e-12)


@settings(max_examples=60)
@given(masks.filter(lambda mask: mask.sum() > 1), spacings)
def test_variances_are_those_of_the_voxel_centres(mask: np.ndarray, spacing) -> None:
    covariance = np.cov((np.argwhere(mask) * spacing).T, bias=True)
    assert principal_variances(mask, spacing) == pytest.approx(np.linalg.eigvalsh(covariance), abs=1e-9)


def test_a_ball_has_the_volume_and_diameter_of_a_ball() -> None:
    """Marching cubes keep the volume of a ball within a per cent; its area is too large, by at most a tenth."""
    area, volume = area_and_volume(ball(20), (0.5, 0.5, 0.5))
    assert volume == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.01)
    assert 1 < area / (4 * np.pi * 10**2) < 1.1
    assert diameters(ball(20), (0.5, 0.5, 0.5)) == pytest.approx((20.5,) * 4, abs=0.1)
    assert principal_variances(ball(20), (0.5,) * 3) == pytest.approx([10**2 / 5] * 3, rel=0.01)


def test_a_flat_region_has_exactly_no_depth() -> None:
    mask = np.pad(np.ones((1, 40, 30), bool), 1)
    assert principal_variances(mask, (0.7, 0.9, 1.1))[0] == 0
