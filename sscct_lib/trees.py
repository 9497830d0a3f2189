"""Branching airways and vessels of the synthetic lungs, and how much of each voxel they fill."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscct_lib.smooth import Floats

Row = tuple[float, ...]  # start x y z, end x y z, radius, radius of the parent


@dataclass(frozen=True)
class Tree:
    """Tapering tubes: `start` and `end` (n, 3) as x, y, z in mm, `radius` (n,) in mm."""

    start: Floats
    end: Floats
    radius: Floats


def grow(
    points: NDArray[np.float64],
    start: NDArray[np.float64],
    radius: float,
    rows: list[Row],
    parent: float | None = None,
    old_axis: NDArray[np.float64] | None = None,
) -> None:
    """Split a cloud of end points in two, again and again, with a branch toward the middle of each part.

    Parameters
    ----------
    points
        Where twigs end, x, y, z in mm, shape (n, 3), n at least 1.
    start
        Where the branch begins.
    radius
        Of the branch, mm; daughters share it by Murray's law with exponent 3.
    rows
        The branches are appended here.
    parent
        Radius of the parent branch; by default `radius`.
    old_axis
        Direction in which the parent split, which its daughters avoid.

    References
    ----------
    Tawhai MH, Pullan AJ, Hunter PJ. Generation of an anatomically based three-dimensional model of the
    conducting airways. Ann Biomed Eng 2000;28:793-802.
    """
    middle = points.sum(axis=0) / len(points)
    end = points[0] if len(points) == 1 else start + (middle - start) * 0.45
    rows.append((*start, *end, radius, parent or radius))
    if len(points) == 1:
        return
    axis = _split_axis(points - middle, old_axis)
    along = ((points - middle) * axis).sum(axis=1)
    side = along > 0
    if side.all() or not side.any():
        side = np.arange(len(points)) % 2 == 0
    for part in (points[side], points[~side]):
        grow(part, end, radius * (len(part) / len(points)) ** (1 / 3), rows, radius, axis)


def _split_axis(off: NDArray[np.float64], old_axis: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Choose the direction in which the points lie furthest apart, turned away from the last one."""
    axis = off[(off**2).sum(axis=1).argmax()]
    # Two steps of power iteration come near the principal axis.
    for _ in range(2):
        axis = ((off * axis).sum(axis=1)[:, None] * off).sum(axis=0)
        axis = axis / max(np.sqrt((axis**2).sum()), 1e-9)
    if old_axis is not None and len(off) > 4:
        axis = axis - 0.6 * (axis * old_axis).sum() * old_axis
        axis = axis / max(np.sqrt((axis**2).sum()), 1e-9)
    return np.asarray(axis)


def as_tree(rows: list[Row]) -> Tree:
    """Gather branches."""
    table = np.array(rows, dtype=np.float32)
    return Tree(table[:, :3], table[:, 3:6], table[:, 6])


def airways_beside(arteries: list[Row]) -> Tree:
    """Lay an airway beside each artery: the pair moves apart with its size."""
    table = np.array(arteries, dtype=np.float32)
    away = np.stack([np.sign(table[:, 0]) * 0.25, np.full(len(table), 0.45), np.full(len(table), 0.85)], axis=1)
    start = table[:, :3] + away * (table[:, 7] * 1.9 + 0.6)[:, None]
    end = table[:, 3:6] + away * (table[:, 6] * 1.9 + 0.6)[:, None]
    return Tree(start.astype(np.float32), end.astype(np.float32), table[:, 6] * 0.75)


def draw_tubes(start: Floats, end: Floats, radius: Floats, shape: tuple[int, int, int], spacing_mm: float) -> Floats:
    """Compute the share of each voxel that tubes fill; a thin tube fills a part of the voxels that it passes.

    Parameters
    ----------
    start, end
        In voxels, x, y, z, shape (n, 3).
    radius
        In mm, shape (n,).
    shape
        Of the volume [z, y, x].
    spacing_mm
        Voxel side.

    Returns
    -------
    numpy.ndarray
        Volume of shares from 0 to 1.
    """
    out = np.zeros(shape, dtype=np.float32)
    if not len(radius):
        return out
    steps = np.maximum(np.ceil(np.sqrt(((end - start) ** 2).sum(axis=1)) / 0.6), 1).astype(np.int64)
    which = np.repeat(np.arange(len(steps)), steps)
    first = np.repeat(np.cumsum(steps) - steps, steps)
    along = ((np.arange(len(which)) - first) / steps[which]).astype(np.float32)[:, None]
    middle = start[which] + along * (end - start)[which]
    reach = (radius[which] / spacing_mm).astype(np.float32)
    halves = np.ceil(reach + 0.45).astype(int)
    for half in np.unique(halves):
        _stamp(out, middle[halves == half], reach[halves == half], int(half))
    return out


def _stamp(out: Floats, middle: Floats, reach: Floats, half: int) -> None:
    """Stamp balls of up to `half` voxels, keeping the larger share where they meet."""
    ticks = np.arange(-half, half + 1, dtype=np.int32)
    nearest = np.rint(middle).astype(np.int32)
    size = np.array(out.shape[::-1], dtype=np.int32)
    whole = ((nearest >= half) & (nearest < size - half)).all(axis=1)
    middle, reach, nearest = middle[whole], reach[whole], nearest[whole]
    rest = (nearest - middle).astype(np.float32)
    square = [(rest[:, axis, None] + ticks) ** 2 for axis in range(3)]
    distance = np.sqrt(square[2][:, :, None, None] + square[1][:, None, :, None] + square[0][:, None, None, :])
    thin = np.minimum(np.pi * reach**2, 1.0)[:, None, None, None]
    share = thin * np.clip(np.maximum(reach, 0.5)[:, None, None, None] - distance + 0.5, 0, 1)
    offsets = (ticks[:, None, None] * size[1] + ticks[:, None]) * size[0] + ticks
    centre = (nearest[:, 2] * size[1] + nearest[:, 1]) * size[0] + nearest[:, 0]
    at = centre[:, None, None, None] + offsets
    filled = share > 0
    np.maximum.at(out.reshape(-1), at[filled], share[filled])
