"""Reading and resampling: against SimpleITK, torch's antialiased interpolation, and files broken on purpose.

Interpolation: against SciPy where it is linear, and against torch where it averages as well.
"""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from sscct_lib.images import prepare
from sscct_lib.images.prepare import axis_weights, interpolate
from sscct_lib.study.folder import Study
from sscct_lib.study.results import ScanError
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import Settings


def volume(shape=(20, 24, 28), spacing=(1.5, 1.5, 2.0), seed=0) -> sitk.Image:
    values = np.random.default_rng(seed).normal(-600, 250, shape).clip(-1024, 500)
    image = sitk.GetImageFromArray(values.astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((-30.0, 12.0, 400.0))
    return image


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(volume(), str(path))
    return path


def changed(scan: Path, image: sitk.Image) -> Path:
    sitk.WriteImage(image, str(scan))
    return scan


class TestReading:
    def test_keeps_hounsfield_units_and_geometry(self, scan):
        image = prepare.read_scan(scan)
        assert (sitk.GetArrayFromImage(image) == sitk.GetArrayFromImage(volume())).all()
        assert image.GetSpacing() == pytest.approx((1.5, 1.5, 2.0))
        assert image.GetOrigin() == pytest.approx((-30, 12, 400))
        assert image.GetPixelID() == sitk.sitkInt16

    @pytest.mark.parametrize("stored", [np.uint8, np.int8, np.uint16])
    def test_a_mask_taken_for_a_scan_is_refused_whatever_its_numbers_can_hold(self, scan, stored):
        labels = sitk.GetImageFromArray((sitk.GetArrayFromImage(volume()) > -600).astype(stored))
        with pytest.raises(ScanError, match="0 as its lowest value, expected air near -1000 HU"):
            prepare.read_scan(changed(scan, labels))

    @pytest.mark.parametrize("orientation", ["RAS", "LPI", "SPL", "ARI"])
    def test_orientation_becomes_lps(self, scan, orientation):
        turned = sitk.DICOMOrient(volume(), orientation)
        assert turned.GetDirection() != volume().GetDirection()
        image = prepare.read_scan(changed(scan, turned))
        assert (sitk.GetArrayFromImage(image) == sitk.GetArrayFromImage(volume())).all()
        assert np.allclose(image.GetDirection(), np.eye(3).ravel())
        assert image.GetOrigin() == pytest.approx((-30, 12, 400), abs=1e-4)

    def test_padding_becomes_air_and_floats_are_rounded(self, scan):
        values = sitk.GetArrayFromImage(volume()).astype(np.float32)
        values[0, 0, :2] = (-3024, -500.6)
        image = sitk.GetArrayFromImage(prepare.read_scan(changed(scan, sitk.GetImageFromArray(values))))
        assert image[0, 0, :2].tolist() == [-1024, -501]

    def test_checksum_is_compared(self, scan):
        prepare.compare_checksum(scan, checksum(scan).upper())
        with pytest.raises(ScanError, match=r"scan\.nii\.gz has SHA-256 .* the manifest says 000000000000"):
            prepare.compare_checksum(scan, "0" * 64)


class TestBadFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(ScanError, match=r"nothing\.nii\.gz is missing"):
            prepare.read_scan(tmp_path / "nothing.nii.gz")

    def test_empty_file(self, scan):
        scan.write_bytes(b"")
        with pytest.raises(ScanError, match=r"is empty \(0 bytes\)"):
            prepare.read_scan(scan)

    def test_not_an_image(self, scan):
        scan.write_text("no image at all")
        with pytest.raises(ScanError, match="damaged, or no NIfTI or NRRD image"):
            prepare.read_scan(scan)

    @pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
    def test_truncated_gzip(self, scan, share):
        content = scan.read_bytes()
        scan.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ScanError, match="truncated or damaged"):
            prepare.read_scan(scan)

    def test_flipped_byte_in_gzip(self, scan):
        content = bytearray(scan.read_bytes())
        content[-3000] ^= 255
        scan.write_bytes(content)
        with pytest.raises(ScanError, match="damaged") as caught:
            prepare.read_scan(scan)
        assert str(scan.parent) not in str(caught.value)

    def test_truncated_before_compression(self, scan):
        content = gzip.decompress(scan.read_bytes())
        scan.write_bytes(gzip.compress(content[: len(content) // 2]))
        with pytest.raises(ScanError, match=r"is truncated: 13,\d+ bytes of content, its header announces 27,232"):
            prepare.read_scan(scan)

    @pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
    def test_truncated_other_formats(self, tmp_path, suffix):
        path = changed(tmp_path / f"scan{suffix}", volume())
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(ScanError, match="truncated"):
            prepare.read_scan(path)

    def test_two_dimensions(self, scan):
        with pytest.raises(ScanError, match=r"has 2 dimensions \(28 x 24\), expected 3"):
            prepare.read_scan(changed(scan, volume()[:, :, 4]))

    def test_four_dimensions(self, scan):
        with pytest.raises(ScanError, match=r"has 4 dimensions \(28 x 24 x 20 x 2\), expected 3"):
            prepare.read_scan(changed(scan, sitk.JoinSeries([volume(), volume()])))

    def test_colour(self, scan):
        with pytest.raises(ScanError, match="has 2 values a voxel"):
            prepare.read_scan(changed(scan, sitk.Compose([volume(), volume()])))

    def test_constant(self, scan):
        with pytest.raises(ScanError, match="is empty: every voxel is -1000"):
            prepare.read_scan(changed(scan, volume() * 0 - 1000))

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
    def test_not_finite(self, tmp_path, suffix):
        scan = tmp_path / f"scan{suffix}"
        values = sitk.GetArrayFromImage(volume()).astype(np.float32)
        values[3, 4, 5:7] = (np.nan, np.inf)
        with pytest.raises(ScanError, match="2 voxels that are not finite"):
            prepare.read_scan(changed(scan, sitk.GetImageFromArray(values)))

    def test_values_without_rescale(self, scan):
        with pytest.raises(ScanError, match="expected air near -1000 HU: were rescale slope and intercept applied"):
            prepare.read_scan(changed(scan, volume() + 1024))

    def test_too_few_voxels(self, scan):
        with pytest.raises(ScanError, match="28 x 24 x 3 voxels, expected 8 to 4096 a side"):
            prepare.read_scan(changed(scan, volume()[:, :, :3]))

    def test_absurd_voxel_size(self, scan):
        image = volume()
        image.SetSpacing((1.5, 1.5, 2000.0))
        with pytest.raises(ScanError, match=r"1\.5 x 1\.5 x 2000 mm"):
            prepare.read_scan(changed(scan, image))


class TestResampling:
    def test_finer_grid_is_linear_interpolation(self):
        image = volume()
        fine = prepare.resample(image, 0.9)
        expected = sitk.Resample(image, fine, sitk.Transform(), sitk.sitkLinear, -1024.0)
        inner = (slice(2, -2),) * 3  # SimpleITK has no value beyond the outermost voxel centres
        difference = sitk.GetArrayFromImage(fine)[inner].astype(int) - sitk.GetArrayFromImage(expected)[inner]
        assert np.abs(difference).max() <= 1

    def test_coarser_grid_is_antialiased_as_in_torch(self):
        torch = pytest.importorskip("torch")
        image = volume(shape=(12, 30, 40), spacing=(1.0, 1.0, 2.5))
        planes = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32))[:, None]
        expected = torch.nn.functional.interpolate(planes, (12, 16), mode="bilinear", antialias=True)[:, 0]
        coarse = sitk.GetArrayFromImage(prepare.resample(image, 2.5))
        assert coarse.shape == (12, 12, 16)
        assert np.abs(coarse - expected.numpy()).max() <= 1

    def test_outer_faces_stay(self):
        image = volume(shape=(30, 40, 50), spacing=(0.8, 0.8, 1.0))
        coarse = prepare.resample(image, 2.0)
        for old, new in ((image, coarse),):
            low = np.array(new.GetOrigin()) - np.array(new.GetSpacing()) / 2
            assert np.allclose(low, np.array(old.GetOrigin()) - np.array(old.GetSpacing()) / 2)
            extent = np.array(new.GetSize()) * new.GetSpacing() - np.array(old.GetSize()) * old.GetSpacing()
            assert np.abs(extent).max() <= 1.0

    def test_same_spacing_changes_nothing(self):
        image = volume(spacing=(2.0, 2.0, 2.0))
        assert (sitk.GetArrayFromImage(prepare.resample(image, 2.0)) == sitk.GetArrayFromImage(image)).all()

    def test_oblique_scan_is_turned_to_the_axes(self):
        """A ball stays where it is in the patient."""
        angle = np.radians(12)
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        image = sitk.Image((40, 40, 40), sitk.sitkInt16)
        image.SetSpacing((2.0, 2.0, 2.0))
        image.SetDirection(turn.ravel().tolist())
        centre = np.array(image.TransformContinuousIndexToPhysicalPoint((19.5, 19.5, 19.5)))
        z, y, x = np.indices((40, 40, 40))
        where = np.stack([x, y, z], axis=-1) * 2.0 @ turn.T
        ball = np.where(np.linalg.norm(where - centre, axis=-1) < 20, 0, -1000).astype(np.int16)
        tilted = sitk.GetImageFromArray(ball)
        tilted.CopyInformation(image)
        upright = prepare.resample(tilted, 2.0)
        values = sitk.GetArrayFromImage(upright)
        inside = np.argwhere(values > -500)[:, ::-1] * 2.0 + np.array(upright.GetOrigin())
        assert np.allclose(upright.GetDirection(), np.eye(3).ravel())
        assert inside.mean(axis=0) == pytest.approx(centre, abs=0.2)
        assert len(inside) * 8 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)
        assert values[0, 0, 0] == -1024

    def test_masks_keep_their_labels(self):
        labels = np.zeros((20, 24, 28), np.uint8)
        labels[:, :, :14], labels[:, :, 14:] = 1, 2
        mask = sitk.GetImageFromArray(labels)
        mask.CopyInformation(volume())
        coarse = prepare.resample_mask(mask, prepare.resample(volume(), 3.0))
        assert set(np.unique(sitk.GetArrayFromImage(coarse))) == {1, 2}


class TestPreparing:
    @pytest.fixture
    def study(self, tmp_path) -> Study:
        sitk.WriteImage(volume(), str(tmp_path / "good.nii.gz"))
        (tmp_path / "bad.nii.gz").write_bytes(b"")
        return Study(tmp_path, Settings.model_validate({"images": {"spacing_mm": 3.0}}))

    rows = pd.DataFrame(
        {
            "scan_id": ["s1", "s2"],
            "patient_id": ["p1", "p2"],
            "image": ["good.nii.gz", "bad.nii.gz"],
            "sha256": [None, None],
            "fvc_percent": [80.0, None],
        }
    )

    def test_bad_scans_are_set_aside_and_others_go_on(self, study):
        table = prepare.prepare_scans(study, self.rows)
        assert table["status"].tolist() == ["ok", "failed"]
        assert table["reason"][1].startswith("the file is empty")  # hospitals name files after patients
        assert table["size"][0] == "28 24 20"
        assert table["spacing_mm"][0] == "1.5 1.5 2"
        assert table["sha256"][0] == checksum(study.folder / "good.nii.gz")
        prepared = prepare.load_array(study.image("s1"))
        assert prepared.shape == (13, 12, 14)
        assert prepared.dtype == np.int16
        assert not study.image("s2").exists()

    def test_finished_scans_are_skipped_until_their_file_changes(self, study):
        prepare.prepare_scans(study, self.rows)
        first = study.image("s1").stat().st_mtime_ns
        prepare.prepare_scans(study, self.rows.assign(fvc_percent=60.0))
        assert study.image("s1").stat().st_mtime_ns == first
        sitk.WriteImage(volume(seed=1), str(study.folder / "good.nii.gz"))
        prepare.prepare_scans(study, self.rows)
        assert study.image("s1").stat().st_mtime_ns != first

    def test_names_of_folders_stay_out_of_reasons(self, study):
        table = prepare.prepare_scans(study, self.rows)
        assert str(study.folder) not in " ".join(table["reason"])


@pytest.fixture(scope="module")
def volume_interpolation() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 100, (9, 11, 14)).astype(np.float32)


def test_between_samples_it_is_linear(volume_interpolation):
    positions = [np.sort(np.random.default_rng(n).uniform(-1, n, 17)) for n in volume_interpolation.shape]
    z, y, x = (axis_weights(n, at) for n, at in zip(volume_interpolation.shape, positions, strict=True))
    expected = ndimage.map_coordinates(
        volume_interpolation, np.meshgrid(*positions, indexing="ij"), order=1, mode="nearest"
    )
    np.testing.assert_allclose(interpolate(volume_interpolation, (z, y, x)), expected, atol=1e-3)


def test_a_coarser_grid_averages_as_torch_does(volume_interpolation):
    plane = torch.from_numpy(volume_interpolation)[None]
    expected = torch.nn.functional.interpolate(plane, (5, 6), mode="bilinear", antialias=True)[0].numpy()
    axes = [
        axis_weights(old, (np.arange(new) + 0.5) * old / new - 0.5, old / new)
        for old, new in zip(volume_interpolation.shape, (9, 5, 6), strict=True)
    ]
    np.testing.assert_allclose(interpolate(volume_interpolation, (axes[0], axes[1], axes[2])), expected, atol=1e-3)


@given(n_old=st.integers(1, 30), at=st.floats(-5, 40), width=st.floats(1, 6))
def test_weights_are_a_mean_of_samples_that_exist(n_old, at, width):
    index, weights = axis_weights(n_old, np.array([at]), width)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert ((index >= 0) & (index < n_old)).all()
    assert (weights >= 0).all()
