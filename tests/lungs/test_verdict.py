"""The shape of the chest: measured on a drawn chest of known sizes, and as a distance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscct_lib.lungs.threshold import look
from sscct_lib.lungs.verdict import LEVELS_MM, chest_shape, read_shape, shape_distance, write_shape
from tests.lungs.test_segment import draw_chest


@pytest.fixture(scope="module")
def shape() -> np.ndarray:
    chest = draw_chest()
    return chest_shape(chest.hu, chest.truth, look(chest.hu.astype(np.float32), 4.0).body, 4.0)


def test_sizes_are_those_of_the_drawing(shape):
    width, depth, spine, aside = shape
    # Lungs: ellipsoids of half depth 70 mm about y = 0, their outer sides at x = 129 mm; spine at y = 80, x = 0.
    assert np.nanmax(width) == pytest.approx(258, abs=8)
    assert np.nanmax(depth) == pytest.approx(140, abs=8)
    assert np.nanmax(spine) == pytest.approx(70 + 80, abs=8)
    assert np.nanmax(np.abs(aside)) < 4
    assert width[1] < width[6]


def a_chest(width_mm: float, stretch: float = 1.0) -> np.ndarray:
    width = width_mm * np.sqrt(np.minimum(LEVELS_MM / stretch, 120) / 120)
    return np.array([width, 0.7 * width, 0.6 * width, 0 * width])


@given(stretch=st.floats(0.88, 1.12))
def test_a_breath_changes_little(stretch):
    assert shape_distance(a_chest(250), a_chest(250, stretch)) < 1.5


@given(more=st.floats(12, 60))
def test_a_chest_that_is_wider_and_no_deeper_differs(more):
    wider = a_chest(250)
    wider[0] += more
    assert shape_distance(a_chest(250), wider) > more / 5


def test_the_same_chest():
    assert shape_distance(a_chest(250), a_chest(250)) == pytest.approx(0)


def test_too_little_is_seen(shape):
    cut = np.where(LEVELS_MM < 60, shape, np.nan)
    assert np.isnan(shape_distance(shape, cut))


def test_text_holds_the_shape(shape):
    np.testing.assert_allclose(read_shape(write_shape(shape)), shape, atol=0.05)
