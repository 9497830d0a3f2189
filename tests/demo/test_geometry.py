import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from sscct_lib.demo.geometry import (
    SmoothNoise,
    airways_beside,
    as_tree,
    cover,
    draw_tubes,
    ellipsoid,
    grow,
    linear_taps,
    smooth_max,
    smooth_min,
    spread,
    tube,
)


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


def grown(n: int = 64):
    points = np.random.default_rng(0).uniform(-40, 40, (n, 3))
    rows: list = []
    grow(points, np.array([0.0, 0.0, 60.0]), 5.0, rows)
    return points, rows


def test_a_tree_has_a_twig_for_each_point_and_two_daughters_at_each_fork():
    points, rows = grown()
    assert len(rows) == 2 * len(points) - 1
    ends = {tuple(np.round(row[3:6], 6)) for row in rows}
    assert all(tuple(np.round(point, 6)) in ends for point in points)
    starts = [tuple(np.round(row[:3], 6)) for row in rows[1:]]
    assert all(starts.count(start) == 2 for start in starts)


def test_radii_follow_murrays_law():
    _, rows = grown()
    by_start: dict = {}
    for row in rows[1:]:
        by_start.setdefault(tuple(np.round(row[:3], 6)), []).append(row)
    for parent in rows:
        daughters = by_start.get(tuple(np.round(parent[3:6], 6)), [])
        if daughters:
            assert sum(row[6] ** 3 for row in daughters) == pytest.approx(parent[6] ** 3)


def test_an_airway_meets_its_parent():
    _, rows = grown()
    airways = airways_beside(rows)
    ends = {tuple(np.round(end, 3)) for end in airways.end}
    # The side of the midline decides on the sign of the shift: branches that cross it may part.
    kept = [start for start, row in zip(airways.start[1:], rows[1:], strict=True) if abs(row[0]) > 1]
    assert np.mean([tuple(np.round(start, 3)) in ends for start in kept]) > 0.8
    assert (airways.radius < as_tree(rows).radius).all()


@pytest.mark.parametrize("radius", [0.4, 1.5, 4.0])
def test_a_tube_fills_its_volume(radius):
    start, end = np.array([[8.0, 15.2, 15.4]], np.float32), np.array([[32.0, 15.2, 15.4]], np.float32)
    filled = draw_tubes(start, end, np.array([radius], np.float32), (31, 31, 41), 1.0)
    middle = filled[:, :, 12:28].sum() / 16
    # Thin tubes are drawn a voxel wide and paler, to about the right mass.
    assert middle == pytest.approx(np.pi * radius**2, rel=0.6 if radius < 1 else 0.1)
    assert filled.max() <= 1


def test_tubes_outside_the_volume_leave_it_empty():
    far = np.array([[500.0, 500, 500]], np.float32)
    assert not draw_tubes(far, far + 10, np.array([3.0], np.float32), (20, 20, 20), 1.0).any()
