"""Geometry of the synthetic thorax: distance fields, random fields, and the branching airways and vessels.

A distance field holds, for each point, the distance to a surface in mm, negative inside. Volumes are [z, y, x], points
x, y, z. Nothing here uses a linear-algebra library, so that sums are the same for any number of threads.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Point = tuple[float, float, float]
Taps = tuple[Ints, Floats]  # for each target point, the first source index and the weights of it and the following
Row = tuple[float, ...]  # a branch: start x y z, end x y z, radius, radius of the parent

REGION = {"x": (-220.0, 220.0), "y": (-168.0, 176.0), "z": (-80.0, 330.0)}  # mm, where anatomy is defined


def linear_taps(knots: Floats, at: Floats) -> Taps:
    """Weights of linear interpolation from evenly spaced knots, clamped at the ends."""
    position = np.clip((at - knots[0]) / (knots[1] - knots[0]), 0, len(knots) - 1.001)
    low = position.astype(np.int64)
    return low, np.stack([1 - (position - low), position - low], axis=1).astype(np.float32)


def spread(values: Floats, taps: tuple[Taps, Taps, Taps]) -> Floats:
    """Interpolate a volume onto the grid that three taps (of z, y, x) describe."""
    for axis in (2, 1, 0):
        first, weights = taps[axis]
        shape = [1, 1, 1]
        shape[axis] = len(first)
        total = np.take(values, first, axis=axis)
        total *= weights[:, 0].reshape(shape)
        for step in range(1, weights.shape[1]):
            total += np.take(values, first + step, axis=axis) * weights[:, step].reshape(shape)
        values = total
    return values


class SmoothNoise:
    """A random field of unit variance, the same at every spacing: cubic B-splines with knots `length_mm` apart."""

    def __init__(self, rng: np.random.Generator, length_mm: float):
        self._length = length_mm
        shape = [int((REGION[name][1] - REGION[name][0]) / length_mm) + 5 for name in "zyx"]
        self._values = rng.standard_normal(shape, dtype=np.float32)

    def __call__(self, z: Floats, y: Floats, x: Floats) -> Floats:
        """Evaluate on a grid given by its axes, mm; shape (len(z), len(y), len(x))."""
        return spread(self._values, (self._taps(0, z), self._taps(1, y), self._taps(2, x)))

    def _taps(self, axis: int, at: Floats) -> Taps:
        n = self._values.shape[axis]
        position = np.clip((at - REGION["zyx"[axis]][0]) / self._length, 0, n - 4.001).astype(float)
        first = position.astype(np.int64)
        # Within a knot interval the four weights depend on the fraction alone.
        weights = BSpline.design_matrix(position - first + 3, np.arange(8.0), 3).toarray()
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        return first, weights.astype(np.float32)


def smooth_max(a: Floats, b: Floats, width: float) -> Floats:
    """Take the larger of two distances, with a rounded edge about `width` mm wide (an intersection)."""
    h = np.clip(0.5 + 0.5 * (a - b) / width, 0, 1)
    return np.asarray(b + (a - b) * h + width * h * (1 - h), dtype=np.float32)


def smooth_min(a: Floats, b: Floats, width: float) -> Floats:
    """Take the smaller of two distances, with a rounded groove about `width` mm wide (a union)."""
    return -smooth_max(-a, -b, width)


def ellipsoid(x: Floats, y: Floats, z: Floats, centre: Point, axes: Point) -> Floats:
    """Distance field of an ellipsoid, exact in sign and near the surface where the axes are alike."""
    u = [(c - m) / s for c, m, s in zip((x, y, z), centre, axes, strict=True)]
    r = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2)
    return np.asarray((r - 1) * min(axes), dtype=np.float32)


def tube(x: Floats, y: Floats, z: Floats, points: NDArray[np.float64], radii: NDArray[np.float64]) -> Floats:
    """Distance field of a tube along points (n, 3) with radii (n,); 30 mm and more are not told apart."""
    far = 30.0
    out = np.full(x.shape, far, dtype=np.float32)
    reach = far + float(radii.max())
    near = np.ones(x.shape, dtype=bool)
    for along, low, high in zip((x, y, z), points.min(axis=0), points.max(axis=0), strict=True):
        near &= (along > low - reach) & (along < high + reach)
    at = np.flatnonzero(near)
    where = np.stack([along.reshape(-1)[at] for along in (x, y, z)])
    best = np.full(len(at), far, dtype=np.float32)
    for p, q, r, s in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        d = (q - p).astype(np.float32)
        off = where - p.astype(np.float32)[:, None]
        t = np.clip((off[0] * d[0] + off[1] * d[1] + off[2] * d[2]) / float((d**2).sum()), 0, 1)
        gap = np.sqrt(((off - t * d[:, None]) ** 2).sum(axis=0))
        np.minimum(best, gap - (r + (s - r) * t), out=best)
    out.reshape(-1)[at] = best
    return out


def cover(distance: Floats, spacing_mm: float) -> Floats:
    """Share of a voxel inside a surface, from the distance of the voxel's middle."""
    return np.asarray(np.clip(0.5 - distance / spacing_mm, 0, 1))


def mix(hu: Floats, value: Floats | float, share: Floats) -> None:
    """Replace a share of each voxel by something of another density, in place."""
    hu += share * (value - hu)


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
    """Split the end points (n, 3) of twigs in two, again and again, with a branch to the middle of each part."""
    # Tawhai MH, Pullan AJ, Hunter PJ. Generation of an anatomically based three-dimensional model of the conducting
    # airways. Ann Biomed Eng 2000;28:793-802. `old_axis` is how the parent split, which its daughters avoid.
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
    # Daughters share the radius by Murray's law with exponent 3.
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
    """Share of each voxel that tubes fill; ends in voxels, x, y, z, (n, 3), radii in mm; a thin tube fills a part."""
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
