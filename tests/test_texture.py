import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from radiomics import getFeatureClasses, imageoperations
from scipy import ndimage

from sscct_lib.texture import pyradiomics_features


def pyradiomics_itself(hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, ...], width: float) -> dict[str, float]:
    """Run PyRadiomics' classes as they are, on the image cut to the region as its extractor does."""
    image, label = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(mask.astype(np.uint8))
    for each in (image, label):
        each.SetSpacing(spacing[::-1])
    box, _ = imageoperations.checkMask(image, label)
    image, label = imageoperations.cropToTumorMask(image, label, box)
    return {
        f"original_{name}_{feature}": float(value)
        for name, cls in getFeatureClasses().items()
        if name != "shape2D"
        for feature, value in cls(image, label, binWidth=width).execute().items()
    }


@st.composite
def images_with_regions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], float]:
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3).filter(lambda sides: sum(side > 1 for side in sides) >= 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.random(shape) < draw(st.floats(0.05, 1))
    smooth = rng.normal(-700, draw(st.sampled_from([1, 40, 300])), shape)
    hu = ndimage.gaussian_filter(smooth, draw(st.sampled_from([0, 0.7]))).astype(
        draw(st.sampled_from([np.int16, np.float32]))
    )
    spacing = tuple(draw(st.sampled_from([0.7, 1.0, 2.5])) for _ in range(3))
    return hu, mask, spacing, draw(st.sampled_from([5.0, 12.5, 25.0, 33.3]))


@settings(max_examples=60)
@given(images_with_regions())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_features_equal_those_of_pyradiomics_on_any_image_and_region(case) -> None:
    assume(sum(len(np.unique(axis)) > 1 for axis in np.nonzero(case[1])) >= 2)
    theirs, ours = pyradiomics_itself(*case), pyradiomics_features(*case)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        # An axis that a flat region does not have is 0 here, and the root of a rounding error there.
        rel, zero = (1e-6, 1e-6) if "_shape_" in name else (1e-9, 1e-9)
        assert ours[name] == pytest.approx(value, rel=rel, abs=zero, nan_ok=True), name
