import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from sscct_lib.smooth import SmoothNoise, cover, ellipsoid, linear_taps, smooth_max, smooth_min, spread, tube


def axes(step: float = 2.0, half: float = 40.0):
    line = np.arange(-half, half + step / 2, step, dtype=np.float32)
    return np.meshgrid(line, line, line, indexing="ij")


def test_spreading_is_linear_interpolation():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 7, 8)).astype(np.float32)
    knots = [np.arange(n, dtype=np.float32) * 4.0 for n in values.shape]
    at = [np.sort(rng.uniform(0, (n - 1.01) * 4.0, 9)).astype(np.float32) for n in values.shape]
    found = spread(values, tuple(linear_taps(k, a) for k, a in zip(knots, at, strict=True)))
    grid = np.meshgrid(*[a / 4.0 for a in at], indexing="ij")
    np.testing.assert_allclose(found, map_coordinates(values, grid, order=1), atol=1e-5)


def test_outside_the_knots_the_last_value_goes_on():
    knots = np.arange(4, dtype=np.float32)
    taps = linear_taps(knots, np.array([-5.0, 9.0], dtype=np.float32))
    cube = np.broadcast_to(knots[:, None, None], (4, 4, 4))
    np.testing.assert_allclose(spread(cube, (taps, taps, taps))[:, 0, 0], [0.0, 3.0], atol=2e-3)


def test_random_field_has_unit_variance_and_is_the_same_at_every_spacing():
    noise = SmoothNoise(np.random.default_rng(1), 9.0)
    coarse, fine = (np.arange(-90, 90, step, dtype=np.float32) for step in (6.0, 3.0))
    one, two = noise(coarse, coarse, coarse), noise(fine, fine, fine)
    np.testing.assert_allclose(two[::2, ::2, ::2], one, atol=1e-5)
    assert one.std() == pytest.approx(1.0, abs=0.05)
    assert abs(one.mean()) < 0.1


def test_distance_to_a_tube_is_that_to_its_line_less_its_radius():
    z, y, x = axes()
    found = tube(x, y, z, np.array([[0.0, 0, -100], [0, 0, 100]]), np.array([6.0, 6.0]))
    expected = np.hypot(x, y) - 6.0
    near = expected < 29
    np.testing.assert_allclose(found[near], expected[near], atol=1e-4)
    assert (found[~near] > 28).all()


def test_ball_has_its_volume():
    z, y, x = axes(1.0, 25.0)
    share = cover(ellipsoid(x, y, z, (0.3, -0.2, 0.1), (20.0, 20.0, 20.0)), 1.0)
    assert share.sum() == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.002)


def test_smooth_union_and_intersection_are_sharp_far_from_the_edge():
    a, b = np.array([10.0, -10.0, 0.0]), np.array([-10.0, 10.0, 0.0])
    np.testing.assert_allclose(smooth_min(a, b, 4.0), [-10.0, -10.0, -1.0])
    np.testing.assert_allclose(smooth_max(a, b, 4.0), [10.0, 10.0, 1.0])
