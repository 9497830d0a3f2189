"""The worked examples of PyRadiomics' documentation: two-dimensional images, here one slice thick."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscct_lib import matrices

IMAGE = np.array([[5, 2, 5, 4, 4], [3, 3, 3, 1, 3], [2, 1, 1, 1, 3], [4, 2, 2, 2, 3], [3, 5, 3, 3, 2]])
GREY = np.arange(1.0, 6)


def flat(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    padded = np.pad(image[None], 1).astype(np.uint16)
    return padded.ravel(), np.flatnonzero(padded), matrices.offsets(padded.shape)


def direction(*step: int) -> int:
    return int(np.flatnonzero((step == matrices.DIRECTIONS).all(axis=1))[0])


def test_directions_are_one_of_each_opposite_pair() -> None:
    both = {tuple(step) for step in np.vstack([matrices.DIRECTIONS, -matrices.DIRECTIONS])}
    assert len(matrices.DIRECTIONS) == 13
    assert both == {(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)} - {(0, 0, 0)}


def test_runs_along_x() -> None:
    ranks, voxels, steps = flat(IMAGE)
    counts = matrices.runs(ranks, voxels, steps, 5, 5)[:, :, direction(0, 0, 1)]
    assert counts.tolist() == [[1, 0, 1, 0, 0], [3, 0, 1, 0, 0], [4, 1, 1, 0, 0], [1, 1, 0, 0, 0], [3, 0, 0, 0, 0]]


def test_zones() -> None:
    counts = np.zeros((5, 5), int)
    for rank, size in zip(*matrices.zones(*flat(IMAGE)), strict=True):
        counts[rank - 1, size - 1] += 1
    assert counts.tolist() == [[0, 0, 0, 1, 0], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 0], [3, 0, 0, 0, 0]]


def test_dependence() -> None:
    dependence = matrices.neighbours(*flat(IMAGE), GREY)[1]
    assert dependence[:, :4].tolist() == [[0, 1, 2, 1], [1, 2, 3, 0], [1, 4, 4, 0], [1, 2, 0, 0], [3, 0, 0, 0]]
    assert not dependence[:, 4:].any()


def test_difference_from_the_neighbourhood() -> None:
    image = np.array([[1, 2, 5, 2], [3, 5, 1, 3], [1, 3, 5, 5], [3, 1, 1, 1]])
    difference = matrices.neighbours(*flat(image), GREY)[2]
    # 2.63 in the table of the example is a slip: the sum printed below it is 3.03.
    assert difference == pytest.approx([13.35, 2.00, 3.03, 0, 10.075], abs=0.01)


def test_pairs_along_x() -> None:
    """The example is symmetrical: each pair counts in both directions."""
    image = np.array([[1, 2, 5, 2, 3], [3, 2, 1, 3, 1], [1, 3, 5, 5, 2], [1, 1, 1, 1, 2], [1, 2, 4, 3, 5]])
    pairs = matrices.neighbours(*flat(image), GREY)[0][direction(0, 0, 1)]
    expected = [[6, 4, 3, 0, 0], [4, 0, 2, 1, 3], [3, 2, 0, 1, 2], [0, 1, 1, 0, 0], [0, 3, 2, 0, 2]]
    assert (pairs + pairs.T).tolist() == expected


def test_a_lone_voxel_has_no_pair_and_one_run_in_each_direction() -> None:
    ranks, voxels, steps = flat(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    pairs, dependence, difference = matrices.neighbours(ranks, voxels, steps, GREY[:1])
    assert not pairs.any()
    assert dependence[0, 0] == dependence.sum() == 1
    assert difference.tolist() == [0]
    assert matrices.runs(ranks, voxels, steps, 1, 1).tolist() == [[[1] * 13]]


@given(
    st.lists(st.floats(-2000, 2000, width=32), min_size=1, max_size=50),
    st.sampled_from([5.0, 12.5, 25.0, 33.3]),
    st.sampled_from([np.float32, np.float64]),
)
def test_levels_are_those_of_numpy(values: list[float], width: float, dtype: type) -> None:
    densities = np.array(values, dtype)
    on_edges = (np.floor(densities[:5] / width) * width).astype(dtype)
    densities = np.concatenate([densities, on_edges])
    edges = np.arange(densities.min() - densities.min() % width, densities.max() + 2 * width, width).astype(float)
    assert np.array_equal(matrices.levels(densities, edges), np.digitize(densities, edges))
