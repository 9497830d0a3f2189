import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from sscct_lib.radiomics.stability import versions, versions_of_scans
from tests.radiomics.test_extract import rows, scan, study, volume

__all__ = ["scan", "study"]  # fixtures


@pytest.fixture
def changed(scan) -> dict[str, tuple[sitk.Image, sitk.Image]]:
    return dict(versions(volume(scan[0]), volume(scan[1]), seed=1))


def test_each_version_is_on_the_same_grid_with_both_lungs(changed, scan) -> None:
    assert list(changed) == ["original", "grown", "shrunken", "rotated", "noisy", "shifted"]
    for image, lungs in changed.values():
        assert image.GetSize() == lungs.GetSize() == volume(scan[0]).GetSize()
        assert image.GetPixelID() == sitk.sitkInt16
        assert set(np.unique(sitk.GetArrayFromImage(lungs))) == {0, 1, 2}


def test_masks_grow_and_shrink_in_patches_of_their_surface(changed, scan) -> None:
    """At 4 mm a quarter of the surface moves by a voxel, which is a millimetre on average."""
    grown, shrunken = (sitk.GetArrayFromImage(changed[name][1]) for name in ("grown", "shrunken"))
    lungs = scan[1]
    cross = ndimage.generate_binary_structure(3, 1)
    around = ndimage.binary_dilation(lungs > 0, cross) & (lungs == 0)
    edge = (lungs > 0) & ~ndimage.binary_erosion(lungs > 0, cross)
    assert np.array_equal(grown[lungs > 0], lungs[lungs > 0])
    assert not grown[~around & (lungs == 0)].any()
    assert (grown[around] > 0).mean() == pytest.approx(0.25, abs=0.01)
    assert np.array_equal(shrunken[shrunken > 0], lungs[shrunken > 0])
    assert (shrunken[lungs > 0] == 0).sum() == (shrunken[edge] == 0).sum()
    assert (shrunken[edge] == 0).mean() == pytest.approx(0.25, abs=0.01)
    middle = lungs.shape[2] // 2
    assert set(np.unique(grown[:, :, :middle])) == {0, 1}
    assert set(np.unique(grown[:, :, middle:])) == {0, 2}


def test_noise_is_that_of_the_seed_and_as_strong_as_it_says(changed, scan) -> None:
    noisy = sitk.GetArrayFromImage(changed["noisy"][0]).astype(int) - scan[0]
    assert noisy.std() == pytest.approx(10, rel=0.05)
    again = dict(versions(volume(scan[0]), volume(scan[1]), seed=1))["noisy"][0]
    assert np.array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(changed["noisy"][0]))


def test_shifted_slices_lie_between_their_neighbours() -> None:
    hu = (np.arange(8) ** 2 * 10 - 900).astype(np.int16)[:, None, None] * np.ones((1, 6, 6), np.int16)
    shifted, _ = dict(versions(volume(hu), volume(np.ones(hu.shape, np.uint8)), seed=0))["shifted"]
    inside = sitk.GetArrayFromImage(shifted)[:-1].astype(float)
    assert inside == pytest.approx((hu[:-1] + hu[1:].astype(float)) / 2, abs=0.5)


def test_a_bar_turns_by_three_degrees_about_the_middle() -> None:
    hu = np.full((5, 41, 41), -900, np.int16)
    hu[:, 19:22, :] = 0
    lungs = np.ones(hu.shape, np.uint8)
    turned = sitk.GetArrayFromImage(dict(versions(volume(hu), volume(lungs), seed=0))["rotated"][0])[2]
    left, right = (float(np.average(np.arange(41), weights=np.maximum(turned[:, x] + 900.0, 0))) for x in (5, 35))
    assert abs(right - left) == pytest.approx(30 * np.tan(np.deg2rad(3)), abs=0.1)
    assert (left + right) / 2 == pytest.approx(20, abs=0.05)


def test_versions_of_one_scan_a_patient_are_made_once(study) -> None:
    table = versions_of_scans(study, rows("ok", "flat").assign(patient_id=["p", "q"]))
    assert set(table["scan_id"]) == {"ok"}
    assert len(table) == 6
    assert table.filter(like="original_").notna().all(axis=None)
