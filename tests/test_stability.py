import numpy as np
import pytest
import SimpleITK as sitk

from sscct_lib.stability import versions, versions_of_scans
from tests.test_radiomics import rows, scan, study, volume

__all__ = ["scan", "study"]  # fixtures


@pytest.fixture
def changed(scan) -> dict[str, tuple[sitk.Image, sitk.Image]]:
    return dict(versions(volume(scan[0]), volume(scan[1]), seed=1))


def test_each_version_is_on_the_same_grid_with_both_lungs(changed, scan) -> None:
    assert list(changed) == ["original", "grown", "shrunken", "rotated", "noisy", "thick"]
    for image, lungs in changed.values():
        assert image.GetSize() == lungs.GetSize() == volume(scan[0]).GetSize()
        assert image.GetPixelID() == sitk.sitkInt16
        assert set(np.unique(sitk.GetArrayFromImage(lungs))) == {0, 1, 2}


def test_masks_grow_and_shrink_by_a_voxel(changed, scan) -> None:
    grown, shrunken = (sitk.GetArrayFromImage(changed[name][1]) for name in ("grown", "shrunken"))
    lungs = scan[1]
    assert np.array_equal(grown[lungs > 0], lungs[lungs > 0])
    right, left = np.argwhere(grown == 1), np.argwhere(grown == 2)
    assert right.min(axis=0).tolist() == [1, 2, 1]
    assert left.max(axis=0).tolist() == [12, 13, 20]
    assert (shrunken > 0).sum() == 8 * 8 * (5 + 6)
    assert np.array_equal(shrunken[shrunken > 0], lungs[shrunken > 0])


def test_noise_is_that_of_the_seed_and_as_strong_as_it_says(changed, scan) -> None:
    noisy = sitk.GetArrayFromImage(changed["noisy"][0]).astype(int) - scan[0]
    assert noisy.std() == pytest.approx(25, rel=0.05)
    again = dict(versions(volume(scan[0]), volume(scan[1]), seed=1))["noisy"][0]
    assert np.array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(changed["noisy"][0]))


def test_thick_slices_keep_what_does_not_change_between_slices() -> None:
    hu = np.tile(np.random.default_rng(0).normal(-800, 90, (1, 8, 8)).astype(np.int16), (6, 1, 1))
    thick = dict(versions(volume(hu), volume(np.ones(hu.shape, np.uint8)), seed=0))["thick"][0]
    assert np.abs(sitk.GetArrayFromImage(thick).astype(int) - hu).max() <= 1


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
