from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import stats

from sscct_lib.radiomics.extract import lung_regions, quantitative_ct

DATA = Path(__file__).parents[3] / "shared" / "data"
SPACING = (2.0, 1.0, 1.0)
pytestmark = pytest.mark.filterwarnings("ignore:Precision loss")  # of moments in a lung of one density


@pytest.fixture
def lungs() -> np.ndarray:
    labels = np.zeros((14, 30, 40), np.uint8)
    labels[1:13, 3:27, 2:18], labels[1:13, 3:27, 22:38] = 1, 2
    return labels


def measure(hu: np.ndarray, labels: np.ndarray, peel_mm: float) -> dict[str, float]:
    return quantitative_ct(hu, labels, SPACING, lung_regions(labels, SPACING, peel_mm))


def test_zones_are_those_of_the_chest_imaging_platform() -> None:
    """Its label map holds the thirds of the left lung (9, 10, 11) and the right (12, 13, 14), from the top."""
    path = DATA / "cip_lm-64.nrrd"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    image = sitk.ReadImage(str(path))
    theirs = sitk.GetArrayFromImage(image) & 255
    labels = np.where(theirs >= 12, 1, np.where(theirs >= 9, 2, 0)).astype(np.uint8)
    regions = lung_regions(labels, image.GetSpacing()[::-1], 15.0)
    for name, codes in {"upper": (9, 12), "middle": (10, 13), "lower": (11, 14)}.items():
        assert np.array_equal(regions[name], np.isin(theirs, codes))


def test_regions_divide_the_lungs(lungs) -> None:
    regions = lung_regions(lungs, SPACING, 4.0)
    zones = regions["upper"].astype(int) + regions["middle"] + regions["lower"]
    assert np.array_equal(zones, lungs > 0)
    assert np.array_equal(regions["peel"].astype(int) + regions["core"], lungs > 0)
    assert np.argwhere(regions["upper"])[:, 0].min() > np.argwhere(regions["lower"])[:, 0].max()


def test_the_core_lies_deeper_than_the_peel_in_millimetres(lungs) -> None:
    """With slices of 2 mm, 4 mm are two slices and four voxels; the lungs touch the top of the volume here."""
    core = lung_regions(lungs[1:13], SPACING, 4.0)["core"]
    expected = np.zeros_like(core)
    expected[2:-2, 7:23, 6:14] = expected[2:-2, 7:23, 26:34] = True
    assert np.array_equal(core, expected)


def test_measures_are_those_of_numpy_and_scipy(lungs) -> None:
    rng = np.random.default_rng(0)
    hu = rng.gamma(2, 120, lungs.shape).astype(np.int16) - 1000
    measured = measure(hu, lungs, 4.0)
    values = hu[lungs > 0].astype(float)
    assert measured["qct_volume_l"] == pytest.approx(values.size * 2 / 1e6)
    assert measured["qct_mean_hu"] == pytest.approx(np.mean(values))
    assert measured["qct_sd_hu"] == pytest.approx(np.std(values))
    assert measured["qct_skewness"] == pytest.approx(stats.skew(values))
    assert measured["qct_kurtosis"] == pytest.approx(stats.kurtosis(values))
    assert measured["qct_p05_hu"] == np.percentile(values, 5)
    assert measured["qct_p95_hu"] == np.percentile(values, 95)


def test_shares_and_gradients_of_a_lung_with_known_disease(lungs) -> None:
    """The lowest third is dense, a quarter of the uppermost third is emphysema, the rest is normal."""
    hu = np.full(lungs.shape, -850, np.int16)
    hu[1:5] = -400
    hu[9:13, 3:9] = -980
    measured = measure(hu, lungs, 4.0)
    assert measured["qct_high_attenuation_share"] == pytest.approx(1 / 3)
    assert measured["qct_high_attenuation_share_lower"] == 1
    assert measured["qct_high_attenuation_share_upper"] == 0
    assert measured["qct_low_attenuation_share"] == pytest.approx(1 / 12)
    assert measured["qct_low_attenuation_share_upper"] == pytest.approx(1 / 4)
    assert measured["qct_mean_hu_middle"] == -850
    assert measured["qct_high_attenuation_share_lower_minus_upper"] == 1
    assert measured["qct_mean_hu_lower_minus_upper"] == pytest.approx(-400 - (-850 * 3 - 980) / 4)
    assert measured["qct_mean_hu_peel_minus_core"] == pytest.approx(
        measured["qct_mean_hu_peel"] - measured["qct_mean_hu_core"]
    )


@pytest.mark.parametrize(("value", "high", "low"), [(-600, 1, 0), (-250, 1, 0), (-249, 0, 0), (-601, 0, 0)])
def test_bounds_of_dense_lung_belong_to_it(lungs, value: int, high: int, low: int) -> None:
    measured = measure(np.full(lungs.shape, value, np.int16), lungs, 4.0)
    assert (measured["qct_high_attenuation_share"], measured["qct_low_attenuation_share"]) == (high, low)


def test_emphysema_begins_below_its_threshold(lungs) -> None:
    for value, share in ((-950, 0), (-951, 1)):
        hu = np.full(lungs.shape, value, np.int16)
        assert measure(hu, lungs, 4.0)["qct_low_attenuation_share"] == share


def test_a_lung_too_thin_for_a_core_says_so(lungs) -> None:
    measured = measure(np.full(lungs.shape, -850, np.int16), lungs, 50.0)
    assert np.isnan(measured["qct_mean_hu_core"])
    assert np.isnan(measured["qct_mean_hu_peel_minus_core"])
    assert measured["qct_mean_hu_peel"] == -850
