import numpy as np
import pytest

from benchmarks.demo_panels import LUNG_WINDOW, Panel, scan_panels


def test_panels_show_their_slices_in_the_lung_window_with_their_titles():
    hu = np.arange(12.0).reshape(3, 4) * 100 - 1000
    figure = scan_panels([[Panel(hu, "a"), Panel(hu + 1, "b")], [Panel(hu, "c"), Panel(hu, "d")]])
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), hu + 1)
    assert figure.axes[0].images[0].get_clim() == LUNG_WINDOW


def test_rows_of_different_length_are_refused():
    panel = Panel(np.zeros((2, 2)), "")
    with pytest.raises(ValueError, match="zip"):
        scan_panels([[panel, panel], [panel]])
