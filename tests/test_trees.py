import numpy as np
import pytest

from sscct_lib.trees import airways_beside, as_tree, draw_tubes, grow


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
