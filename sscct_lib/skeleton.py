"""Bones of the synthetic thorax, and the table: drawn from the patient's maps on the voxels of a scan."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sscct_lib.anatomy import RIBS_PER_HEIGHT, Thorax, rib_phase
from sscct_lib.smooth import Floats, Ints, cover, tube

VERTEBRA_MM = 24.0


def draw_bones(hu: Floats, thorax: Thorax, onto: Callable[[str], Floats], spacing_mm: float) -> None:
    """Draw ribs, cartilage, sternum, shoulder blades, collar bones and spine, in place.

    Parameters
    ----------
    hu
        The scan so far, HU.
    thorax
        The patient.
    onto
        Brings a map of the patient onto the scan's voxels.
    spacing_mm
        Voxel side.
    """
    cavity, skin = onto("cavity").reshape(-1), onto("body").reshape(-1)
    t, angle = onto("height").reshape(-1), onto("angle").reshape(-1)
    x, spine_y = onto("spine_x").reshape(-1), onto("spine_y").reshape(-1)
    near = np.flatnonzero((cavity > -2) & (cavity < 40) & (skin < -2) & (t > -0.12) & (t < 1.08))
    flat = hu.reshape(-1)
    _ribs(flat, near, (t[near], angle[near], cavity[near], np.abs(x[near])), thorax, spacing_mm)
    near = np.flatnonzero((np.abs(x) < 45) & (spine_y > -24) & (spine_y < 75) & (skin < -2))
    _spine(flat, near, (np.abs(x[near]), spine_y[near], t[near]), thorax, spacing_mm)


def _bone(flat: Floats, at: Ints, distance: Floats, size: float, marrow: float, cortex: float) -> None:
    """Draw bone on flat voxels: a dense shell about 1.8 mm thick around marrow."""
    close = distance < size
    at, distance = at[close], distance[close]
    values = flat[at]
    values += cover(distance, size) * (cortex - values)
    values += cover(distance + 1.8, size) * (marrow - values)
    flat[at] = values


Maps = tuple[Floats, Floats, Floats, Floats]


def _ribs(flat: Floats, at: Ints, maps: Maps, thorax: Thorax, size: float) -> None:
    t, angle, out, x = maps
    h = thorax.build.height
    phase = rib_phase(t, angle)
    beside = np.abs(phase % 1 - 0.5) * (h / RIBS_PER_HEIGHT) * 0.85
    rib = (np.sqrt(((out - 6.0) / 4.4) ** 2 + (beside / 6.0) ** 2) - 1) * 4.4
    # The lower ribs end early; the upper seven reach the sternum, by cartilage.
    end = np.clip(0.45 + 0.11 * (phase - 0.5), 0.0, 0.95)
    rib = np.where((phase < 1) | (phase > 12) | (angle > end), 20.0, rib)
    bony = angle < 0.72
    _bone(flat, at[bony], rib[bony], size, 190.0, 560.0)
    _bone(flat, at[~bony], rib[~bony], size, 90.0, 115.0)
    half = 16 - 7 * np.clip((0.75 - t) * 3, 0, 1)
    sternum = np.maximum(np.maximum(x - half, np.abs(out - 7.5) - 5.5), (np.abs(t - 0.62) - 0.24) * h)
    sternum = np.maximum(sternum, (0.8 - angle) * 100)
    _bone(flat, at, sternum, size, 150.0, 400.0)
    level = (t - 0.52) / 0.38
    blade = np.maximum(np.abs(out - 19 - 3 * np.sin(8 * angle)) - 2.0 - 2.5 * np.clip(level - 0.6, 0, 1), -level * 60)
    blade = np.maximum(blade, np.maximum(0.17 - angle, angle - 0.20 - 0.27 * np.clip(level, 0, 1)) * 330)
    blade = np.maximum(blade, (level - 1) * 60)
    _bone(flat, at, blade, size, 230.0, 480.0)


def _spine(flat: Floats, at: Ints, maps: tuple[Floats, Floats, Floats], thorax: Thorax, size: float) -> None:
    x, y, t = maps
    k = thorax.build.half_width / 125
    level = t * thorax.build.height / VERTEBRA_MM
    off = np.abs(level % 1 - 0.5)
    body = np.sqrt((x / 1.12) ** 2 + y**2) - 17.0 * k - 4 * np.clip(off - 0.2, 0, 0.3)
    disc = off > 0.41
    _bone(flat, at[~disc], body[~disc], size, 165.0, 380.0)
    _bone(flat, at[disc], body[disc], size, 80.0, 90.0)
    arch = np.abs(np.sqrt((x / 1.15) ** 2 + (y - 24 * k) ** 2) - 10.5) - 2.6
    arch = np.maximum(arch, (off - 0.36) * VERTEBRA_MM)
    transverse = np.maximum(np.maximum(np.abs(y - 25 - 0.25 * x) - 4.0, x - 34), (off - 0.2) * VERTEBRA_MM)
    slanted = np.abs((level + 0.022 * y) % 1 - 0.5)
    spinous = np.maximum(np.maximum(x - 3.0, np.abs(y - 46) - 13), (slanted - 0.30) * VERTEBRA_MM)
    _bone(flat, at, np.minimum(np.minimum(arch, transverse), spinous), size, 230.0, 440.0)


def draw_shoulders(hu: Floats, thorax: Thorax, axes: tuple[Floats, Floats, Floats], spacing_mm: float) -> None:
    """Draw collar bones and the heads of the raised upper arms, in place.

    Parameters
    ----------
    hu
        The scan so far, HU.
    thorax
        The patient.
    axes
        z (in the patient), y and x of the voxels, mm.
    spacing_mm
        Voxel side.
    """
    z, y, x = axes
    build = thorax.build
    k, h = build.half_width / 125, build.height
    top = int(np.searchsorted(z, 0.86 * h))
    if top >= len(z):
        return
    grid = np.meshgrid(z[top:], y, x, indexing="ij")
    zz, yy, xx = grid[0], grid[1], np.abs(grid[2])
    front = -0.30 * build.half_depth
    collar = np.array([[16 * k, front, 0.915 * h], [70 * k, front + 14, 0.985 * h], [135 * k, 14, 1.03 * h]])
    arm = np.array([[150 * k, 14, 0.99 * h], [176 * k, 8, 1.12 * h]])
    flat = hu[top:].reshape(-1)
    everywhere = np.arange(flat.size, dtype=np.int64)
    for points, radii in ((collar, np.array([7.5, 5.5, 5.5])), (arm, np.array([20.0, 14.0]))):
        distance: NDArray[np.float32] = tube(xx, yy, zz, points, radii).reshape(-1)
        inside = np.flatnonzero((distance < spacing_mm) & (flat > -300))
        _bone(flat, everywhere[inside], distance[inside], spacing_mm, 180.0, 480.0)
    hu[top:] = flat.reshape(hu[top:].shape)


def draw_table(hu: Floats, lowest_mm: float, axes: tuple[Floats, Floats], spacing_mm: float) -> None:
    """Draw the curved table top under the patient, in place.

    Parameters
    ----------
    hu
        The scan, still empty, HU.
    lowest_mm
        y of the patient's back.
    axes
        y and x of the voxels, mm.
    spacing_mm
        Voxel side.
    """
    y, x = axes[0][:, None], axes[1][None, :]
    depth = y - (lowest_mm + 5.0 - x**2 / 1100)
    shell = np.abs(depth - 1.5) - 1.5
    hu += cover(shell, spacing_mm)[None] * 780
    hu += cover(np.abs(depth - 16) - 13, spacing_mm)[None] * 45
