"""Vector figures: the same bytes each time, nothing in them that points to a day or a machine, words for the search."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from sscct_lib import figures
from sscct_lib.privacy_texts import svg_texts
from sscct_lib.svg import LARGEST, BookFigure, as_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(words="Alive", n_marks=5):
    figure, axes = figures.new_figure(3.0)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1])
    axis.scatter(np.linspace(0, 1, n_marks), np.linspace(0, 1, n_marks), c=np.linspace(0, 1, n_marks))
    axis.set_title(words)
    return figure


def test_a_figure_drawn_twice_is_the_same_and_holds_no_date():
    first, second = as_svg(drawn()), as_svg(drawn())
    assert first == second
    assert "<metadata>" not in first
    assert "matplotlib.org" not in first
    assert isinstance(drawn(), BookFigure)
    assert drawn()._repr_svg_() == first


def test_a_figure_says_its_size_in_pixels_and_uses_no_font_of_the_reader():
    root = ElementTree.fromstring(as_svg(drawn()))
    left, top, width, height = (float(number) for number in root.get("viewBox").split())
    assert (left, top) == (0, 0)
    assert float(root.get("width")) / float(root.get("height")) == pytest.approx(width / height, rel=0.01)
    assert 500 < float(root.get("width")) < 800
    assert not root.findall(f".//{SVG}text")


def test_what_is_written_in_a_figure_is_found_by_the_privacy_search():
    texts = "\n".join(text for _, text in svg_texts(as_svg(drawn("Seen on 2015-03-04"))))
    assert "Seen on 2015-03-04" in texts
    assert not re.search(r"[ML] \d", texts)  # the course of lines is left out


def test_scans_and_great_many_marks_stay_pixels():
    figure, axes = figures.new_figure(3.0, 1, 2)
    axes[0, 1].imshow(np.zeros((4, 4)))
    assert as_svg(figure) is None
    assert as_svg(drawn(n_marks=6000)) is None
    assert len(as_svg(drawn(n_marks=500))) < LARGEST
