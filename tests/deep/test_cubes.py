import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sscct_lib.deep import cubes as deep_cubes
from sscct_lib.images.prepare import to_cube, write_image
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import Settings

HU_RANGE = (-1024.0, 600.0)
VIEW = deep_cubes.View(8, HU_RANGE)


def box(shape=(12, 14, 16)):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[2:10, 3:11, 4:8] = 1
    mask[2:10, 3:11, 10:12] = 2
    return mask


def test_outside_is_the_lower_bound_and_the_window_is_linear():
    mask = box()
    image = np.where(mask == 1, -212, 500).astype(np.int16)
    image[mask == 2] = 900
    cube = deep_cubes.lung_cube(image, mask, VIEW)
    assert cube.shape == (8, 8, 8)
    assert cube.dtype == np.float16
    np.testing.assert_array_equal(cube[:, :, :4], 0.5)  # -212 HU is the middle of the window
    np.testing.assert_array_equal(cube[:, :, 4:6], 0)  # between the lungs, whatever is there
    np.testing.assert_array_equal(cube[:, :, 6:], 1)  # above the window
    assert deep_cubes.lung_cube(np.full_like(image, -2000), mask, VIEW).max() == 0


def test_body_outside_the_box_of_the_lungs_changes_nothing():
    mask = box()
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 0, mask.shape).astype(np.int16)
    other = np.where(mask > 0, image, 400).astype(np.int16)
    padded, padded_mask = (np.pad(a, 3) for a in (other, mask))
    fine = deep_cubes.View(16, HU_RANGE)
    np.testing.assert_array_equal(
        deep_cubes.lung_cube(image, mask, fine), deep_cubes.lung_cube(padded, padded_mask, fine)
    )


def test_axes_are_kept_in_order():
    gradient = np.mgrid[0:20, 0:30, 0:40].astype(np.float32)
    for axis in range(3):
        cube = to_cube(gradient[axis], 16)
        lines = np.moveaxis(cube, axis, 0).reshape(16, -1)
        assert (np.diff(lines, axis=0) > 0).all()
        np.testing.assert_allclose(lines.std(axis=1), 0, atol=1e-3)


@settings(max_examples=25)
@given(st.tuples(*[st.integers(4, 40)] * 3), st.integers(8, 24), st.floats(0, 1))
def test_resizing_keeps_constants(shape, size, value):
    cube = to_cube(np.full(shape, value, dtype=np.float32), size)
    np.testing.assert_allclose(cube, value, atol=1e-6)


@settings(max_examples=25)
@given(st.tuples(*[st.integers(4, 40)] * 3), st.integers(8, 24))
def test_resizing_is_that_of_torch(shape, size):
    volume = np.random.default_rng(0).random(shape, dtype=np.float32)
    planes = functional.interpolate(torch.from_numpy(volume)[None], size=(size, size), mode="bilinear", antialias=True)
    columns = planes.transpose(1, 2)  # the last axis has its size already
    cube = functional.interpolate(columns, size=(size, size), mode="bilinear", antialias=True).transpose(1, 2)[0]
    np.testing.assert_allclose(to_cube(volume, size), cube.numpy(), atol=1e-5)


def test_getting_coarser_averages():
    checker = (np.indices((32, 32, 32)).sum(0) % 2).astype(np.float32)
    inner = to_cube(checker, 8)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 0.5, atol=0.02)


def write_scan(study, scan_id, image, mask):
    for array, path in ((image, study.image(scan_id)), (mask, study.mask(scan_id))):
        write_image(sitk.GetImageFromArray(array), path)


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path, Settings())


def test_cubes_are_made_once_and_again_when_lost_or_changed(study):
    mask = box()
    image = np.where(mask > 0, -800, 40).astype(np.int16)
    write_scan(study, "a", image, mask)
    write_scan(study, "empty", image, np.zeros_like(mask))
    scans = pd.DataFrame({"scan_id": ["a", "empty", "gone"], "patient_id": ["p", "p", "q"]})
    made = deep_cubes.make_cubes(study, scans, VIEW).set_index("scan_id")
    assert made["status"].to_dict() == {"a": "ok", "empty": "failed", "gone": "failed"}
    assert "mask is empty" in made.loc["empty", "reason"]
    assert "missing" in made.loc["gone", "reason"]
    path = deep_cubes.cube_path(study, "a", VIEW)
    first = path.stat().st_mtime_ns
    deep_cubes.make_cubes(study, scans, VIEW)
    assert path.stat().st_mtime_ns == first
    other = deep_cubes.make_cubes(study, scans[:1], deep_cubes.View(8, (-1000.0, 200.0)))
    assert other["cube_sha256"][0] != made.loc["a", "cube_sha256"]
    path.unlink()
    again = deep_cubes.make_cubes(study, scans, VIEW)
    assert path.is_file()
    assert again["cube_sha256"][0] == made.loc["a", "cube_sha256"]
    batch = deep_cubes.load_cubes([path, path])
    assert batch.shape == (2, 1, 8, 8, 8)
    assert batch.dtype == torch.float32


def test_density_inside_the_lungs(tmp_path):
    rng = np.random.default_rng(0)
    cubes = np.where(rng.random((2, 8, 8, 8)) < 0.3, 0, rng.uniform(0.1, 0.9, (2, 8, 8, 8))).astype(np.float16)
    paths = [tmp_path / f"{i}.npy" for i in range(2)]
    for path, cube in zip(paths, cubes, strict=True):
        np.save(path, cube)
    inside = cubes[cubes > 0].astype(float)
    np.testing.assert_allclose(deep_cubes.lung_density(paths), (inside.mean(), inside.std()), rtol=1e-6)


@pytest.mark.parametrize("level", [0, 0.5])
def test_a_window_that_shows_nothing_of_the_lungs_is_refused(tmp_path, level):
    np.save(tmp_path / "a.npy", np.full((8, 8, 8), level, dtype=np.float16))
    with pytest.raises(StudyError, match=r"deep.hu_range: the lungs of all 1 training scans.*Widen it"):
        deep_cubes.lung_density([tmp_path / "a.npy"])


def test_densities_of_zones_by_hand():
    volume = torch.zeros(1, 1, 6, 6, 6)
    volume[0, 0, 0, :, 0] = 0.2  # base of the right half: mean 0.3, deviation 0.1
    volume[0, 0, 1, :, 1] = 0.4
    volume[0, 0, 4, 2, 5] = 0.7  # apex of the left half
    zones = deep_cubes.zone_densities(volume)[0].reshape(3, 2, 2)
    torch.testing.assert_close(zones[0, 0], torch.tensor([0.3, 0.1]))
    torch.testing.assert_close(zones[2, 1], torch.tensor([0.7, 0.0]))
    zones[0, 0] = zones[2, 1] = 0
    assert not zones.any()
