import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from radiomics import imageoperations

from sscct_lib.radiomics import filters

SIGMAS = (1.0, 2.5, 4.0)


@st.composite
def scans(draw: st.DrawFn) -> tuple[np.ndarray, tuple[float, ...]]:
    """Volumes of any size and density, some with large flat parts, where a rounding error decides the grey level."""
    shape = draw(st.tuples(*[st.integers(1, 40)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    hu = rng.normal(-800, draw(st.sampled_from([0, 20, 300])), shape)
    clipped = np.clip(hu, draw(st.sampled_from([-1024, -800])), 600).astype(np.int16)
    return clipped, tuple(draw(st.sampled_from([0.7, 1.5, 2.0])) for _ in range(3))


def theirs(hu: np.ndarray, spacing: tuple[float, ...]) -> list[tuple[str, np.ndarray]]:
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing)
    images = [*imageoperations.getLoGImage(image, None, sigma=SIGMAS), *imageoperations.getWaveletImage(image, None)]
    return [(name, sitk.GetArrayFromImage(values)) for values, name, _ in images]


def ours(hu: np.ndarray, spacing: tuple[float, ...]) -> list[tuple[str, np.ndarray]]:
    return [*filters.log_images(hu, spacing, SIGMAS), *filters.wavelet_images(hu)]


@pytest.mark.slow
@settings(max_examples=60)
@given(scans())
def test_images_are_bit_for_bit_those_of_pyradiomics(scan) -> None:
    for (name, values), (their_name, their_values) in zip(ours(*scan), theirs(*scan), strict=True):
        assert name == their_name
        assert values.dtype == their_values.dtype
        assert np.array_equal(values, their_values)


def test_our_own_loops_run_on_this_machine() -> None:
    """Otherwise the test above would compare PyRadiomics with itself."""
    assert filters.same_arithmetic()


def test_pyradiomics_filters_run_where_sums_are_rounded_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    hu = np.random.default_rng(0).integers(-1024, 600, (12, 13, 14)).astype(np.int16)
    expected = ours(hu, (1.5, 1.5, 1.5))
    monkeypatch.setattr(filters, "same_arithmetic", lambda: False)
    monkeypatch.setattr(filters, "_laplacian", None)
    monkeypatch.setattr(filters, "_split", None)
    for (name, values), (other_name, other_values) in zip(ours(hu, (1.5, 1.5, 1.5)), expected, strict=True):
        assert name == other_name
        assert np.array_equal(values, other_values)
