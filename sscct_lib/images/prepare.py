"""From a scan's file to the geometry of the study: LPS, isotropic, int16 Hounsfield units.

Arrays are [z, y, x]: x grows to the patient's left, y to posterior, z to the head. Volumes are interpolated linearly
between grids that share their axes, one axis after the other.
"""

import errno
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from isal import igzip
from numba import njit
from numpy.typing import NDArray

from sscct_lib.images.density import AIR_HU, check, without_padding
from sscct_lib.images.nifti import MOST_VOXELS, by, read_placed, read_volume
from sscct_lib.images.reasons import Told, UnusableError
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.results import Record, ScanError, process
from sscct_lib.study.schemas import IMAGES
from sscct_lib.study.seals import checksum

Axis = tuple[NDArray[np.int64], NDArray[np.float32]]
"""For each new sample of an axis: the old samples that it rests on, and their weights; both (n_new, n_taps)."""


def prepare_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Verify scans and bring them to the orientation and spacing of the study.

    Parameters
    ----------
    study
        `images.spacing_mm` matters. Writes `study.image(scan_id)`.
    rows
        Rows of the manifest: `scan_id`, `patient_id`, `image`, `sha256`.
    n_jobs
        Processes that share the scans.

    Returns
    -------
    pandas.DataFrame
        Schema `IMAGES`, one row per scan; unusable scans have status "failed" and a reason.
    """
    names = ["scan_id", "patient_id", "image", "sha256"]
    done = process(
        study, "images", _prepare, rows.reindex(columns=names), study.settings.images,
        lambda row: [study.folder / row["image"]], n_jobs, outputs=lambda row: [study.image(row["scan_id"])],
    )  # fmt: skip
    return IMAGES.validate(done.reindex(columns=list(IMAGES.columns)))


def _prepare(study: Study, row: Mapping[str, Any]) -> Record:
    path = study.folder / row["image"]
    if isinstance(row["sha256"], str):
        compare_checksum(path, row["sha256"])
    image, remarks = _in_lps(*read_placed(path, path.name), path.name)
    write_image(resample(image, study.settings.images.spacing_mm), study.image(row["scan_id"]))
    return {
        "spacing_mm": " ".join(f"{side:.4g}" for side in image.GetSpacing()),
        "size": " ".join(str(side) for side in image.GetSize()),
        "sha256": checksum(path),
        "notes": "; ".join(remarks) or None,
    }


def read_scan(path: Path) -> sitk.Image:
    """Read a CT volume (NIfTI or NRRD, see `nifti.read_volume`) and verify that it can be used.

    Returns
    -------
    SimpleITK.Image
        The scan as acquired, axes permuted and flipped to LPS, int16 HU, not below -1024 (lower values are padding). An
        oblique scan keeps its small rotation in the direction matrix.

    Raises
    ------
    ScanError
        As `read_volume` and `to_hounsfield` refuse it.
    """
    return _in_lps(*read_placed(path, path.name), path.name)[0]


def _in_lps(placed: sitk.Image, remarks: list[Told], name: str) -> tuple[sitk.Image, list[Told]]:
    image, notes = to_hounsfield(placed, name)
    return sitk.DICOMOrient(image, "LPS"), remarks + notes


def read_source(path: Path, orientation: str | None = None) -> tuple[sitk.Image, list[Told]]:
    """Read a CT volume of an export as `read_scan` does, also one whose voxels lie in a second file beside its header.

    `orientation` is what the user says of files that do not say how the body lies in them; see
    `nifti.check_orientation`. What was done to its place is told. Neither this nor an error names the file, which
    may be named after a patient.
    """
    return _in_lps(*read_placed(path, "the file", orientation, pairs=True), "the file")


def compare_checksum(path: Path, expected: str) -> None:
    """Refuse a file that is not the one whose SHA-256 the manifest gives."""
    if path.is_file() and (found := checksum(path)) != expected.lower():
        raise ScanError(
            f"{path.name} has SHA-256 {found[:12]}…, the manifest says {expected[:12].lower()}…: it is not the "
            "file that was listed. Copy it again, or correct the manifest."
        )


def to_hounsfield(image: sitk.Image, name: str) -> tuple[sitk.Image, list[Told]]:
    """Check that values can be Hounsfield units, and store them as int16 from -1024 HU; also tells what was mended.

    UnusableError, which calls the volume `name`, where values are not finite, are all the same, or air and tissue do
    not have the densities that they must have.
    """
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and (n_bad := int(values.size - np.isfinite(values).sum())):
        raise UnusableError("not_finite", name=name, n=n_bad)
    if (lowest := float(values.min())) == float(values.max()):
        raise UnusableError("empty", name=name, value=lowest)
    mended, notes = without_padding(values)
    check(mended, name)
    if notes or values.dtype.kind == "f":
        image = on_grid_of(image, np.rint(mended))
    return sitk.Clamp(image, sitk.sitkInt16, AIR_HU, np.iinfo(np.int16).max), notes


def resample(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Resample a scan in LPS to isotropic voxels along the patient's axes: int16 HU with identity direction.

    Linear interpolation; along an axis that becomes coarser, the triangle grows with the new spacing, so that fine
    structures are averaged instead of aliased (as in Pillow and torch's `antialias=True`). The volume keeps its outer
    faces, to within half a voxel. An oblique scan is first turned to the axes; what lies outside becomes -1024 HU.

    Raises
    ------
    ScanError
        If the result would have more voxels than any chest CT.
    """
    image = _along_axes(image)
    if np.allclose(image.GetSpacing(), spacing_mm, rtol=1e-4):
        return image
    spacing = np.array(image.GetSpacing())
    size = np.maximum(np.rint(np.array(image.GetSize()) * spacing / spacing_mm), 1).astype(int)
    _refuse_too_large(size)
    x, y, z = (
        axis_weights(n, (np.arange(m) + 0.5) * factor - 0.5, max(factor, 1.0))
        for n, m, factor in zip(image.GetSize(), size, spacing_mm / spacing, strict=True)
    )
    resampled = interpolate(sitk.GetArrayViewFromImage(image), (z, y, x))
    result = sitk.GetImageFromArray(np.rint(resampled, out=resampled).astype(np.int16))
    result.SetSpacing([spacing_mm] * 3)
    result.SetOrigin((np.array(image.GetOrigin()) + (spacing_mm - spacing) / 2).tolist())
    return result


def _refuse_too_large(size: NDArray[Any]) -> None:
    if math.prod(int(side) for side in size) > MOST_VOXELS:
        raise ScanError(f"it would have {by(size)} voxels in the study's spacing: no chest CT is so large.")


def _along_axes(image: sitk.Image) -> sitk.Image:
    """Turn an oblique volume to the patient's axes, on a grid that holds all of it."""
    if np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-4):
        image = sitk.Image(image)
        image.SetDirection(np.eye(3).ravel().tolist())
        return image
    spacing = np.array(image.GetSpacing())
    far = np.array(image.GetSize()) - 1.0
    corners = np.array([image.TransformContinuousIndexToPhysicalPoint((far * c).tolist()) for c in np.ndindex(2, 2, 2)])
    size = np.ceil(np.ptp(corners, axis=0) / spacing - 1e-6).astype(int) + 1
    _refuse_too_large(size)
    frame = [size.tolist(), sitk.Transform(), sitk.sitkLinear, corners.min(axis=0).tolist(), spacing.tolist()]
    return sitk.Resample(image, *frame, np.eye(3).ravel().tolist(), AIR_HU, sitk.sitkInt16)


def on_grid_of(image: sitk.Image, values: NDArray[Any]) -> sitk.Image:
    """Make an image of values [z, y, x] on the grid of another."""
    made = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def to_cube(volume: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize a volume (D, H, W) to a cube by the same interpolation as `resample`."""
    x, y, z = (
        axis_weights(n, (np.arange(size) + 0.5) * n / size - 0.5, max(n / size, 1.0)) for n in reversed(volume.shape)
    )
    return interpolate(volume, (z, y, x))


def resample_mask(mask: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """Bring labels onto the grid of a scan by nearest neighbour, as uint8; 0 outside the old grid."""
    return sitk.Resample(mask, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)


def read_result(path: Path) -> sitk.Image:
    """Read a volume that the study wrote itself: `study.image`, `study.mask` or `study.lobes` of a scan.

    Raises
    ------
    ScanError
        If there is none.
    StudyError
        If it is damaged. It is removed then, so that the next run makes it again: the scan itself is not to blame.
    """
    try:
        return read_volume(path)
    except ScanError as error:
        if not path.is_file():
            raise
        path.unlink()
        raise StudyError(f"{path.parent.name}/{error} It was removed: the next `sscct run` makes it again.") from error


def load_array(path: Path) -> NDArray[Any]:
    """Read a volume that the study wrote, as an array [z, y, x]; `read_result` tells the errors."""
    return np.asarray(sitk.GetArrayFromImage(read_result(path)))


def write_image(image: sitk.Image, path: Path) -> None:
    """Write a volume as compressed NIfTI, whole or not at all."""
    with atomic(path) as partial:
        # ITK's own compression takes eight times as long. By its name, what a kill leaves is removed with the rest.
        plain = partial.with_name(partial.name.removesuffix(".gz"))
        try:
            sitk.WriteImage(image, str(plain))
            if plain.stat().st_size < math.prod(image.GetSize()) * image.GetSizeOfPixelComponent():
                raise OSError(errno.ENOSPC, f"{path.name} cannot be written whole")
            partial.write_bytes(igzip.compress(plain.read_bytes(), compresslevel=2, mtime=0))
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, f"{path.name} cannot be written") from error
        finally:
            plain.unlink(missing_ok=True)


def axis_weights(n_old: int, positions: NDArray[np.float64], width: float = 1.0) -> Axis:
    """Weigh the `n_old` samples of an axis for each new one: their numbers and weights, (n_new, n_taps), rows of sum 1.

    `positions` (n_new,) are in steps of the old samples; beyond an end, the end counts. `width` is half the foot of the
    triangle, at least 1, in the same steps: 1 is linear interpolation, more averages as well, for an axis that becomes
    coarser.
    """
    centres = np.clip(positions, 0, n_old - 1)[:, None]
    index = np.ceil(centres - width).astype(np.int64) + np.arange(int(2 * width) + 1)
    weights = np.maximum(1 - np.abs(centres - index) / width, 0)
    weights[(index < 0) | (index >= n_old)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, n_old - 1), weights.astype(np.float32)


def interpolate(values: NDArray[Any], axes: tuple[Axis, Axis, Axis]) -> NDArray[np.float32]:
    """Interpolate a volume (z, y, x) to a new grid, given the weights of each of its axes."""
    (z, z_weights), (y, y_weights), (x, x_weights) = axes
    result: NDArray[np.float32] = _interpolate(values, z, z_weights, y, y_weights, x, x_weights)
    return result


@njit(cache=True)
def _interpolate(values, z, z_weights, y, y_weights, x, x_weights):  # type: ignore[no-untyped-def]
    result = np.empty((len(z), len(y), len(x)), np.float32)
    plane = np.empty(values.shape[1:], np.float32)
    row = np.empty(values.shape[2], np.float32)
    for k in range(len(z)):
        plane[:] = 0
        for tap in range(z.shape[1]):
            if z_weights[k, tap] > 0:
                plane += z_weights[k, tap] * values[z[k, tap]]
        for j in range(len(y)):
            row[:] = 0
            for tap in range(y.shape[1]):
                if y_weights[j, tap] > 0:
                    row += y_weights[j, tap] * plane[y[j, tap]]
            for i in range(len(x)):
                total = np.float32(0)
                for tap in range(x.shape[1]):
                    total += x_weights[i, tap] * row[x[i, tap]]
                result[k, j, i] = total
    return result
