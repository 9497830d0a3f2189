"""A synthetic thorax: organs as smooth distance fields on a coarse grid, airways and vessels as growing trees.

Coordinates are millimetres in the patient: x to the patient's left, y to posterior, z to the head; x = 0 is the
midline, y = 0 the middle of the rib cage, z = 0 the deepest point of the lungs. A distance field is negative inside.
Everything here belongs to a patient; how deep the breath is, and the grid, belong to a scan.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

Floats = NDArray[np.floating[Any]]

COARSE_MM = 4.0
REGION = {"x": (-220.0, 220.0), "y": (-180.0, 180.0), "z": (-90.0, 350.0)}


def axis_weights(knots: Floats, at: Floats) -> Floats:
    """Weights of linear interpolation along an axis: shape (len(at), len(knots)); clamped at the ends."""
    step = float(knots[1] - knots[0])
    position = np.clip((at - knots[0]) / step, 0, len(knots) - 1.001)
    low = position.astype(np.int64)
    weights = np.zeros((len(at), len(knots)), dtype=np.float32)
    rows = np.arange(len(at))
    weights[rows, low] = 1 - (position - low)
    weights[rows, low + 1] = position - low
    return weights


def spread(values: Floats, wz: Floats, wy: Floats, wx: Floats) -> Floats:
    """Apply one matrix along each axis of a volume [z, y, x]."""
    out = np.tensordot(wz, values, axes=(1, 0))
    out = np.matmul(wy, out)
    return np.asarray(np.matmul(out, wx.T), dtype=np.float32)


class SmoothNoise:
    """A random field of unit variance whose details are about `length_mm` wide, the same at every spacing."""

    def __init__(self, rng: np.random.Generator, length_mm: float):
        self._length = length_mm
        shape = [int((REGION[name][1] - REGION[name][0]) / length_mm) + 5 for name in "zyx"]
        self._values = rng.standard_normal(shape, dtype=np.float32)

    def __call__(self, z: Floats, y: Floats, x: Floats) -> Floats:
        """Evaluate on a grid given by its axes, mm; shape (len(z), len(y), len(x))."""
        weights = [self._weights(name, at) for name, at in zip("zyx", (z, y, x), strict=True)]
        return spread(self._values, *weights)

    def _weights(self, name: str, at: Floats) -> Floats:
        n = self._values.shape["zyx".index(name)]
        position = np.clip((at - REGION[name][0]) / self._length, 0, n - 5) + 3
        weights = BSpline.design_matrix(position, np.arange(n + 4, dtype=float), 3).toarray()
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        return np.asarray(weights, dtype=np.float32)


@dataclass(frozen=True)
class Build:
    """Sizes of a patient, mm.

    Attributes
    ----------
    height
        Of the lungs, from the deepest recess to the apex.
    half_width, half_depth
        Of the rib cage at its widest, inside.
    fat
        Under the skin.
    female
        Whether there are breasts.
    """

    height: float
    half_width: float
    half_depth: float
    fat: float
    female: bool


@dataclass(frozen=True)
class Tree:
    """Tapering tubes: `start` and `end` (n, 3) as x, y, z in mm, `radius` (n,) in mm."""

    start: Floats
    end: Floats
    radius: Floats


@dataclass(frozen=True)
class Thorax:
    """One patient's anatomy.

    Attributes
    ----------
    build
        Sizes.
    z, y, x
        Axes of the coarse grid, mm.
    fields
        Distance fields and smooth maps on the coarse grid, by name.
    arteries, veins, airways
        The trees.
    noise
        Random fields that belong to the patient, by name.
    """

    build: Build
    z: Floats
    y: Floats
    x: Floats
    fields: dict[str, Floats]
    arteries: Tree
    veins: Tree
    airways: Tree
    noise: dict[str, SmoothNoise]


def draw_build(rng: np.random.Generator, female: bool) -> Build:
    """Draw the sizes of a patient."""
    size = rng.normal(0, 1)
    height = (236 if female else 258) + 12 * size + rng.normal(0, 7)
    half_width = (121 if female else 133) + 4 * size + rng.normal(0, 4)
    half_depth = (87 if female else 96) + 2 * size + rng.normal(0, 5)
    return Build(height, half_width, half_depth, float(np.clip(rng.gamma(4, 4), 4, 40)), female)


def _smooth_max(a: Floats, b: Floats, width: float) -> Floats:
    h = np.clip(0.5 + 0.5 * (a - b) / width, 0, 1)
    return np.asarray(b + (a - b) * h + width * h * (1 - h), dtype=np.float32)


def _smooth_min(a: Floats, b: Floats, width: float) -> Floats:
    return -_smooth_max(-a, -b, width)


def _ellipsoid(
    x: Floats, y: Floats, z: Floats, centre: tuple[float, float, float], axes: tuple[float, float, float]
) -> Floats:
    u = [(c - m) / s for c, m, s in zip((x, y, z), centre, axes, strict=True)]
    r = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2)
    return np.asarray((r - 1) * min(axes), dtype=np.float32)


def polyline_distance(
    x: Floats, y: Floats, z: Floats, points: NDArray[np.float64], radii: NDArray[np.float64]
) -> Floats:
    """Distance to a tube along points (n, 3) with radii (n,), negative inside."""
    best = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.inf, dtype=np.float32)
    for p, q, r, s in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        d = (q - p).astype(np.float32)
        t = ((x - p[0]) * d[0] + (y - p[1]) * d[1] + (z - p[2]) * d[2]) / float(d @ d)
        t = np.clip(t, 0, 1)
        gap = np.sqrt((x - p[0] - t * d[0]) ** 2 + (y - p[1] - t * d[1]) ** 2 + (z - p[2] - t * d[2]) ** 2)
        np.minimum(best, gap - (r + (s - r) * t), out=best)
    return best


def _profile(t: Floats, table: list[tuple[float, float]]) -> Floats:
    heights, values = zip(*table, strict=True)
    return np.asarray(np.interp(t, heights, values), dtype=np.float32)


WIDTH = [(-0.4, 0.93), (0, 0.99), (0.2, 1.0), (0.4, 0.97), (0.6, 0.89), (0.75, 0.78), (0.86, 0.66), (0.95, 0.53),
         (1.05, 0.40), (1.15, 0.33)]  # fmt: skip
DEPTH = [(-0.4, 0.95), (0, 1.0), (0.3, 1.0), (0.5, 0.96), (0.7, 0.84), (0.85, 0.68), (1.0, 0.52), (1.15, 0.45)]
CENTRE = [(-0.4, -2.0), (0, 0.0), (0.4, 2.0), (0.6, 6.0), (0.8, 14.0), (1.0, 24.0), (1.15, 26.0)]
SHOULDER = [(-0.4, 0.0), (0.55, 0.0), (0.8, 30.0), (0.95, 62.0), (1.02, 60.0), (1.12, 5.0), (1.3, -20.0)]


def organ_paths(build: Build) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Centre lines and radii of the tubes of the mediastinum, by name: points (n, 3) and radii (n,), mm."""
    h, a, b = build.height, build.half_width, build.half_depth
    k = a / 125

    def path(*rows: tuple[float, float, float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        table = np.array(rows, dtype=float)
        table[:, 2] *= h
        table[:, [0, 1, 3]] *= k
        return table[:, :3], table[:, 3]

    spine = b * 0.62 / k
    return {
        "aorta": path(
            (10, -20, 0.47, 14), (-14, -24, 0.60, 15), (-10, -20, 0.70, 14), (4, 0, 0.755, 13), (20, 26, 0.74, 12.5),
            (25, spine - 8, 0.66, 12), (22, spine - 4, 0.3, 11), (12, spine - 8, -0.1, 11), (6, spine - 10, -0.4, 10),
        ),
        "cava": path((-24, -10, 0.42, 10), (-24, -12, 0.6, 9), (-22, -8, 0.78, 9), (-24, -10, 0.92, 7)),
        "branches": path((8, -10, 0.76, 6), (-8, -6, 0.86, 6), (-20, 2, 1.0, 5)),
        "branches_left": path((16, 8, 0.76, 5), (26, 6, 0.9, 4.5), (30, 12, 1.02, 4)),
        "trunk": path((14, -30, 0.50, 13), (16, -20, 0.60, 13), (20, -2, 0.645, 12.5)),
        "right_artery": path((18, -10, 0.63, 11), (-10, -2, 0.615, 11), (-38, 6, 0.60, 9.5), (-46, 10, 0.52, 7.5)),
        "left_artery": path((18, -8, 0.64, 11.5), (36, 8, 0.665, 11), (47, 20, 0.64, 9.5), (48, 22, 0.53, 7.5)),
        "oesophagus": path((2, 26, 1.05, 6), (4, 30, 0.75, 6), (4, 36, 0.5, 6), (8, 30, 0.25, 6), (22, 10, 0.12, 7)),
        "trachea": path((0, 0, 1.3, 8.5), (0, 8, 1.0, 8.5), (0, 17, 0.80, 8.5), (0, 22, 0.695, 8.5)),
        "right_bronchus": path((0, 22, 0.70, 7.5), (-22, 20, 0.64, 7), (-42, 18, 0.59, 6)),
        "left_bronchus": path((0, 22, 0.70, 7), (22, 20, 0.635, 6), (44, 20, 0.595, 5.5)),
    }  # fmt: skip


@lru_cache(maxsize=2)
def make_thorax(seed: int, number: int, female: bool) -> Thorax:
    """Build a patient's anatomy.

    Parameters
    ----------
    seed
        Of the study.
    number
        Of the patient.
    female
        Decides on sizes and breasts.

    Returns
    -------
    Thorax
        The same for the same arguments.
    """
    rng = np.random.default_rng([seed, number, 2])
    build = draw_build(rng, female)
    noise = {"warp_x": 60.0, "warp_y": 60.0, "warp_z": 70.0, "patchy": 28.0, "mottled": 11.0, "fine": 4.5}
    noises = {name: SmoothNoise(rng, length) for name, length in noise.items()}
    z, y, x = (np.arange(*REGION[name], COARSE_MM, dtype=np.float32) for name in "zyx")
    fields = _fields(build, noises, z, y, x)
    trees = _trees(build, fields, (z, y, x), rng)
    return Thorax(build, z, y, x, fields, *trees, noises)


def _fields(build: Build, noise: dict[str, SmoothNoise], z: Floats, y: Floats, x: Floats) -> dict[str, Floats]:
    """Make the distance fields and maps on the coarse grid."""
    zz, yy, xx = z[:, None, None], y[None, :, None], x[None, None, :]
    px = xx + 3.0 * noise["warp_x"](z, y, x)
    py = yy + 3.0 * noise["warp_y"](z, y, x)
    pz = zz + 4.0 * noise["warp_z"](z, y, x)
    h, a0, b0 = build.height, build.half_width, build.half_depth
    t = zz / h
    a, b, y0 = a0 * _profile(t, WIDTH), b0 * _profile(t, DEPTH), _profile(t, CENTRE)
    dy = py - y0
    r = ((np.abs(px) / a) ** 2.5 + (np.abs(dy) / b) ** 2.5) ** (1 / 2.5)
    rho = np.sqrt(px**2 + dy**2)
    cavity = (rho * (1 - 1 / np.maximum(r, 0.05))).astype(np.float32)
    spine_y = y0 + 0.80 * b0 * (0.45 + 0.55 * b / b0)
    fields = {"cavity": cavity, "angle": np.arctan2(px / a, dy / b).astype(np.float32)}
    fields["spine_x"] = px.astype(np.float32)
    fields["spine_y"] = (py - spine_y).astype(np.float32)
    fields["height"] = (pz / h).astype(np.float32)
    paths = organ_paths(build)
    tubes = {name: polyline_distance(px, py, pz, *path) for name, path in paths.items()}
    fields["tracheal"] = np.minimum(
        np.minimum(polyline_distance(xx, yy, zz, *paths["trachea"]),
                   polyline_distance(xx, yy, zz, *paths["right_bronchus"])),
        polyline_distance(xx, yy, zz, *paths["left_bronchus"]),
    )  # fmt: skip
    fields["oesophagus"] = tubes["oesophagus"]
    fields["pulmonary"] = np.minimum.reduce([tubes["trunk"], tubes["right_artery"], tubes["left_artery"]])
    great = [tubes[name] for name in ("aorta", "cava", "branches", "branches_left")]
    fields["great"] = np.minimum.reduce(great)
    k = a0 / 125
    heart = _smooth_min(
        _ellipsoid(px, py, pz, (24 * k, -22 * k, 0.36 * h), (56 * k, 45 * k, 0.225 * h)),
        _ellipsoid(px, py, pz, (-12 * k, -14 * k, 0.40 * h), (40 * k, 40 * k, 0.20 * h)),
        14.0,
    )
    heart = _smooth_min(heart, _ellipsoid(px, py, pz, (2 * k, 12 * k, 0.46 * h), (40 * k, 24 * k, 0.09 * h)), 10.0)
    fields["heart"] = heart
    vertebra = np.sqrt((px / 1.12) ** 2 + fields["spine_y"] ** 2) - 18.0 * k
    column_width = (27 - 9 * np.clip((t - 0.45) / 0.4, 0, 1)) * k
    column = np.sqrt((px / column_width) ** 2 + ((py - y0 - 6) / (0.60 * b)) ** 2)
    column = np.maximum((column - 1) * 20, (0.5 - t) * h).astype(np.float32)
    lower = np.maximum(np.sqrt((px - 6) ** 2 / 1.2 + (py - 32 * k) ** 2 / 2.2) - 15 * k, (t - 0.6) * h)
    mediastinum = _smooth_min(heart - 3.5, column, 12.0)
    mediastinum = _smooth_min(mediastinum, lower.astype(np.float32), 8.0)
    for name in ("aorta", "cava", "right_artery", "left_artery"):
        mediastinum = _smooth_min(mediastinum, tubes[name] - 2.5, 6.0)
    fields["mediastinum"] = _smooth_min(mediastinum, vertebra - 2.0, 8.0)
    for side, sign, dome in (("right", -1.0, 0.33 * h), ("left", 1.0, 0.27 * h)):
        u2 = ((px * sign - 0.52 * a0) / (0.66 * a0)) ** 2 + ((py + 0.12 * b0) / (1.06 * b0)) ** 2
        floor = dome * (1 - u2**1.15)
        diaphragm = ((floor - pz) * 0.85).astype(np.float32)
        reach = ((px * sign - 0.42 * a0) / (0.50 * a0)) ** 2 + ((py - y0) / (0.78 * b0)) ** 2
        roof = ((pz - h * (1.0 - 0.17 * reach)) * 0.75).astype(np.float32)
        lung = _smooth_max(cavity + 1.5, diaphragm, 3.0)
        lung = _smooth_max(lung, roof, 12.0)
        lung = _smooth_max(lung, -fields["mediastinum"], 5.0)
        fields[f"lung_{side}"] = _smooth_max(lung, 2.0 - px * sign, 3.0)
        fields[f"diaphragm_{side}"] = diaphragm
    fields["oblique"], fields["horizontal"] = _fissures(build, px, py, pz)
    shoulder = _profile(t, SHOULDER)
    wall = 20 + build.fat + 7 * np.cos(2 * np.arctan2(px, dy)) + np.clip(shoulder, 0, 99) * (np.abs(px) / a0)
    body_a, body_b = np.maximum(a, 0.62 * a0 * (t < 1.05)), np.maximum(b, 0.62 * b0)
    rb = ((np.abs(px) / body_a) ** 2.3 + (np.abs(dy) / body_b) ** 2.3) ** (1 / 2.3)
    body = (rho * (1 - 1 / np.maximum(rb, 0.05)) - wall).astype(np.float32)
    if build.female:
        for sign in (-1, 1):
            s = 38.0 + build.fat
            centre = (sign * 0.58 * a0, -1.02 * b0 - 14, 0.42 * h)
            body = _smooth_min(body, _ellipsoid(px, py, pz, centre, (s * 1.1, s * 0.85, s * 1.1)), 22.0)
    fields["body"] = body
    fields["muscle"] = (body + build.fat * (1 + 0.25 * noise["patchy"](z, y, x))).astype(np.float32)
    return {name: np.ascontiguousarray(field, dtype=np.float32) for name, field in fields.items()}


def _fissures(build: Build, px: Floats, py: Floats, pz: Floats) -> tuple[Floats, Floats]:
    """Signed distances to the oblique fissure (positive above it) and to the right horizontal one."""
    h, b = build.height, build.half_depth
    line = 0.44 + 0.34 * (py / b) - 0.10 * (np.abs(px) / build.half_width) ** 2 + 0.04 * np.sin(px / 30)
    oblique = (pz - h * np.where(px < 0, line - 0.02, line + 0.03)) * 0.8
    horizontal = pz - h * (0.50 + 0.04 * np.sin(px / 40) + 0.05 * (py / b))
    return oblique.astype(np.float32), horizontal.astype(np.float32)


def lobes(right: NDArray[np.bool_], left: NDArray[np.bool_], oblique: Floats, horizontal: Floats) -> NDArray[np.uint8]:
    """Name lobes: 1 right upper, 2 right middle, 3 right lower, 4 left upper, 5 left lower; 0 outside."""
    above = oblique > 0
    out = np.zeros(right.shape, dtype=np.uint8)
    out[right] = np.where(above, np.where(horizontal > 0, 1, 2), 3)[right]
    out[left] = np.where(above, 4, 5)[left]
    return out


def _trees(
    build: Build, fields: dict[str, Floats], axes: tuple[Floats, Floats, Floats], rng: np.random.Generator
) -> tuple[Tree, Tree, Tree]:
    """Grow arteries with their airways, and veins between them, lobe by lobe."""
    z, y, x = axes
    depth = np.minimum(fields["lung_right"], fields["lung_left"])
    where = lobes(fields["lung_right"] < -4, fields["lung_left"] < -4, fields["oblique"], fields["horizontal"])
    iz, iy, ix = np.nonzero((where > 0) & (depth < -4))
    centres = np.stack([x[ix], y[iy], z[iz]], axis=1).astype(float)
    names = where[iz, iy, ix]
    paths = organ_paths(build)
    arteries: list[tuple[float, ...]] = []
    veins: list[tuple[float, ...]] = []
    for lobe in range(1, 6):
        side = "right" if lobe <= 3 else "left"
        mine = centres[names == lobe]
        hub = paths[f"{side}_artery"][0][-2 if lobe in (1, 4) else -1]
        atrium = np.array([-22.0 if side == "right" else 26.0, 12.0, build.height * 0.47])
        for grown, origin, radius in ((arteries, hub, 5.4), (veins, atrium, 5.6)):
            n = max(int(len(mine) * COARSE_MM**3 / 5200), 8)
            chosen = mine[rng.integers(0, len(mine), n)] + rng.uniform(-2, 2, (n, 3))
            _grow(chosen, origin, radius * (len(mine) / 16000) ** (1 / 3), None, grown)
    return _tree(arteries), _tree(veins), _airways(arteries)


def _grow(
    points: NDArray[np.float64], start: NDArray[np.float64], radius: float,
    old_normal: NDArray[np.float64] | None, grown: list[tuple[float, ...]],
) -> None:  # fmt: skip
    """Split a cloud of end points in two, again and again, a branch toward the middle of each part.

    After Tawhai MH, Pullan AJ, Hunter PJ. Generation of an anatomically based three-dimensional model of the
    conducting airways. Ann Biomed Eng 2000;28:793-802; radii by Murray's law with exponent 2.7.
    """
    middle = points.mean(axis=0)
    end = points[0] if len(points) == 1 else start + (middle - start) * 0.45
    grown.append((*start, *end, radius))
    if len(points) == 1:
        return
    off = points - middle
    axis = np.linalg.eigh(off.T @ off)[1][:, -1]
    if old_normal is not None and len(points) > 4:
        flat = axis - 0.6 * (axis @ old_normal) * old_normal
        axis = flat / np.linalg.norm(flat)
    side = off @ axis > 0
    if side.all() or not side.any():
        side = np.arange(len(points)) % 2 == 0
    for part in (points[side], points[~side]):
        _grow(part, end, radius * (len(part) / len(points)) ** (1 / 2.7), axis, grown)


def _tree(rows: list[tuple[float, ...]]) -> Tree:
    table = np.array(rows, dtype=np.float32)
    return Tree(table[:, :3], table[:, 3:6], table[:, 6])


def _airways(arteries: list[tuple[float, ...]]) -> Tree:
    """Lay an airway beside every artery, down to the small ones."""
    tree = _tree(arteries)
    shift = np.array([0.25, 0.45, 0.85], dtype=np.float32) * (tree.radius * 2.0 + 0.6)[:, None]
    # A branch ends where its daughters begin: both ends of a tube move with their own radius.
    return Tree(tree.start + shift, tree.end + shift * 0.85, tree.radius * 0.78)
