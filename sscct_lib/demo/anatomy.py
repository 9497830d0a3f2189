"""A patient's thorax: organs as distance fields on a coarse grid, and the trees of the lungs.

Coordinates are millimetres in the patient: x to the patient's left, y to posterior, z to the head; x = 0 is the
midline, y = 0 the middle of the rib cage, z = 0 the deepest point of the lungs. Everything here belongs to a
patient; how deep the breath is, and the grid, belong to a scan (`render`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscct_lib.demo.geometry import (
    REGION,
    Floats,
    Row,
    SmoothNoise,
    Tree,
    airways_beside,
    as_tree,
    ellipsoid,
    grow,
    smooth_max,
    smooth_min,
    tube,
)

COARSE_MM = 4.0
NOISE_MM = {"warp_x": 55.0, "warp_y": 55.0, "warp_z": 65.0, "patchy": 26.0, "mottled": 11.0, "fine": 4.5}
RIBS_PER_HEIGHT = 10.2
TWIG_MM3 = 2300.0  # lung that one twig supplies

# Profiles of the chest: height, from 0 at the deepest recess to 1 at the apex, and a share of the width or mm.
WIDTH = [(-0.4, 0.93), (0, 0.99), (0.2, 1.0), (0.4, 0.97), (0.6, 0.89), (0.75, 0.78), (0.86, 0.66), (0.95, 0.53),
         (1.05, 0.40), (1.15, 0.33)]  # fmt: skip
DEPTH = [(-0.4, 0.95), (0, 1.0), (0.3, 1.0), (0.5, 0.96), (0.7, 0.84), (0.85, 0.68), (1.0, 0.52), (1.15, 0.45)]
CENTRE = [(-0.4, -2.0), (0, 0.0), (0.4, 2.0), (0.6, 6.0), (0.8, 14.0), (1.0, 24.0), (1.15, 26.0)]
SHOULDER = [(-0.4, 0.0), (0.6, 0.0), (0.8, 30.0), (0.93, 66.0), (1.02, 74.0), (1.1, 50.0), (1.2, 0.0)]

Path = tuple[NDArray[np.float64], NDArray[np.float64]]  # points (n, 3) and radii (n,), mm


@dataclass(frozen=True)
class Build:
    """Sizes of a patient, lengths in mm."""

    height: float  # of the lungs, from the deepest recess to the apex
    half_width: float  # of the rib cage at its widest, inside
    half_depth: float
    fat: float  # under the skin
    female: bool  # there are breasts
    domes: tuple[float, float]  # height of the right and left diaphragm, as shares of `height`
    heart: float  # its size, 1 on average
    taper: float  # how soon the chest narrows toward the apex, 1 on average
    kyphosis: float  # how far the upper chest leans back, 1 on average
    stomach_gas: bool  # there is gas under the left diaphragm


@dataclass(frozen=True)
class Thorax:
    """One patient's anatomy."""

    build: Build
    z: Floats  # axes of the coarse grid, mm
    y: Floats
    x: Floats
    fields: dict[str, Floats]  # distance fields and smooth maps on the coarse grid
    arteries: Tree
    veins: Tree
    airways: Tree
    noise: dict[str, SmoothNoise]  # random fields that belong to the patient, by the names of `NOISE_MM`


def draw_build(rng: np.random.Generator, female: bool) -> Build:
    """Draw the sizes of a patient."""
    size = rng.normal(0, 1)
    right = float(np.clip(rng.normal(0.29, 0.03), 0.22, 0.36))
    return Build(
        height=(247 if female else 272) + 14 * size + rng.normal(0, 9),
        half_width=(125 if female else 139) + 5 * size + rng.normal(0, 6),
        half_depth=(94 if female else 104) + 3 * size + rng.normal(0, 7),
        fat=float(np.clip(rng.gamma(4, 3.6), 4, 36)),
        female=female,
        domes=(right, right - float(np.clip(rng.normal(0.05, 0.02), 0.0, 0.1))),
        heart=float(np.clip(rng.normal(1.0, 0.07), 0.84, 1.18)),
        taper=float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.10)),
        kyphosis=float(np.clip(rng.normal(1.0, 0.4), 0.2, 2.0)),
        stomach_gas=bool(rng.random() < 0.6),
    )


def make_thorax(seed: int, number: int, female: bool) -> Thorax:
    """Build a patient's anatomy from the study's seed and the patient's number; the same for the same arguments."""
    rng = np.random.default_rng([seed, number, 2])
    build = draw_build(rng, female)
    noise = {name: SmoothNoise(rng, length) for name, length in NOISE_MM.items()}
    z, y, x = (np.arange(*REGION[name], COARSE_MM, dtype=np.float32) for name in "zyx")
    place = _Place(build, noise, z, y, x)
    fields = _tubes(place)
    fields |= _heart(place) | _wall(place)
    fields |= _lungs(place, fields) | _abdomen(place)
    fields |= {"height": place.t, "spine_x": place.x, "spine_y": place.spine_y, "cavity": place.cavity}
    fields["angle"] = np.abs(np.arctan2(place.x / place.a, place.dy / place.b)) / np.pi
    fields = {name: np.ascontiguousarray(field, dtype=np.float32) for name, field in fields.items()}
    return Thorax(build, z, y, x, fields, *_trees(build, fields, (z, y, x), rng), noise)


def _profile(t: Floats, table: list[tuple[float, float]]) -> Floats:
    heights, values = zip(*table, strict=True)
    return np.asarray(np.interp(t, heights, values), dtype=np.float32)


class _Place:
    """Coordinates of the coarse grid, bent a little so that no two patients are alike."""

    def __init__(self, build: Build, noise: dict[str, SmoothNoise], z: Floats, y: Floats, x: Floats):
        self.build, self.noise, self.axes = build, noise, (z, y, x)
        self.k = build.half_width / 125
        self.h = build.height
        self.x = np.asarray(x[None, None, :] + 4.0 * noise["warp_x"](z, y, x))
        self.y = np.asarray(y[None, :, None] + 4.0 * noise["warp_y"](z, y, x))
        self.z = np.asarray(z[:, None, None] + 5.0 * noise["warp_z"](z, y, x))
        self.t = self.z / self.h
        self.a = build.half_width * _profile(1 - (1 - self.t) / build.taper, WIDTH)
        self.b = build.half_depth * _profile(1 - (1 - self.t) / build.taper, DEPTH)
        self.y0 = build.kyphosis * _profile(self.t, CENTRE)
        self.dy = self.y - self.y0
        self.cavity = self.radial(self.a, self.b, 2.5)
        self.spine_y = self.dy - 0.80 * build.half_depth * (0.45 + 0.55 * self.b / build.half_depth)

    def radial(self, a: Floats, b: Floats, power: float) -> Floats:
        """Distance, along the ray from the middle, to a rounded rectangle with half sides a and b."""
        r = ((np.abs(self.x) / a) ** power + (np.abs(self.dy) / b) ** power) ** (1 / power)
        return np.asarray(np.sqrt(self.x**2 + self.dy**2) * (1 - 1 / np.maximum(r, 0.05)))

    def ellipsoid(self, centre: tuple[float, float, float], axes: tuple[float, float, float]) -> Floats:
        """Ellipsoid; x and y in units of the patient's width, z as a share of the height, for both arguments."""
        (cx, cy, cz), (ax, ay, az), k = centre, axes, self.k
        return ellipsoid(self.x, self.y, self.z, (cx * k, cy * k, cz * self.h), (ax * k, ay * k, az * self.h))


def organ_paths(build: Build) -> dict[str, Path]:
    """Centre lines and radii of the tubes of the mediastinum, by name, mm."""
    k = build.half_width / 125

    def path(*rows: tuple[float, float, float, float]) -> Path:
        table = np.array(rows, dtype=float)
        table[:, 2] *= build.height
        table[:, [0, 1, 3]] *= k
        return table[:, :3], table[:, 3]

    spine = build.half_depth * 0.62 / k
    return {
        "aorta": path(
            (10, -20, 0.47, 14), (-14, -24, 0.60, 15), (-10, -20, 0.70, 14), (4, 0, 0.755, 13), (20, 26, 0.74, 12.5),
            (25, spine - 8, 0.66, 12), (22, spine - 4, 0.3, 11), (12, spine - 8, -0.1, 11), (6, spine - 10, -0.4, 10),
        ),
        "cava": path((-24, -10, 0.42, 10), (-24, -12, 0.6, 9), (-22, -8, 0.78, 9), (-24, -10, 0.92, 7)),
        "branches": path((8, -10, 0.76, 6), (-8, -6, 0.86, 6), (-20, 2, 1.0, 5)),
        "branches_left": path((16, 8, 0.76, 5), (26, 6, 0.9, 4.5), (30, 12, 1.02, 4)),
        "lower_cava": path((-16, -4, 0.36, 11), (-20, 4, 0.22, 11), (-18, 16, -0.3, 11)),
        "trunk": path((14, -30, 0.50, 13), (16, -20, 0.60, 13), (20, -2, 0.645, 12.5)),
        "right_artery": path((18, -10, 0.63, 11), (-10, -2, 0.615, 11), (-38, 6, 0.60, 9.5), (-46, 10, 0.52, 7.5)),
        "left_artery": path((18, -8, 0.64, 11.5), (36, 8, 0.665, 11), (47, 20, 0.64, 9.5), (48, 22, 0.53, 7.5)),
        "oesophagus": path((2, 26, 1.05, 6), (4, 30, 0.75, 6), (4, 36, 0.5, 6), (8, 30, 0.25, 6), (22, 10, 0.12, 7)),
        "trachea": path((0, 0, 1.3, 8.5), (0, 8, 1.0, 8.5), (0, 17, 0.80, 8.5), (0, 22, 0.695, 8.5)),
        "right_bronchus": path((0, 22, 0.70, 7.5), (-22, 20, 0.645, 7), (-38, 15, 0.62, 5.5), (-44, 18, 0.56, 5)),
        "left_bronchus": path((0, 22, 0.70, 7), (22, 20, 0.645, 6), (42, 22, 0.63, 5), (50, 26, 0.57, 4.5)),
    }  # fmt: skip


def _tubes(place: _Place) -> dict[str, Floats]:
    """Vessels, oesophagus and central airways."""
    paths = organ_paths(place.build)
    bent = {name: tube(place.x, place.y, place.z, *paths[name]) for name in paths if "bronchus" not in name}
    # The trees start from the straight paths: the central airways must meet them.
    z, y, x = np.meshgrid(*place.axes, indexing="ij")
    straight = [tube(x, y, z, *paths[name]) for name in ("trachea", "right_bronchus", "left_bronchus")]
    return {
        "central_airway": np.minimum.reduce(straight),
        "oesophagus": bent["oesophagus"],
        "pulmonary": np.minimum.reduce([bent[name] for name in ("trunk", "right_artery", "left_artery")]),
        "great": np.minimum.reduce(
            [bent[name] for name in ("aorta", "cava", "lower_cava", "branches", "branches_left")]
        ),
        "hilar": np.minimum.reduce([bent[name] for name in ("aorta", "cava", "right_artery", "left_artery")]),
    }


def _heart(place: _Place) -> dict[str, Floats]:
    """Heart (two ventricles, apex, atria), its fat, and the whole mediastinum that the lungs lie against."""
    s = place.build.heart
    left = place.ellipsoid((22, -26, 0.36), (50 * s, 42 * s, 0.20 * s))
    apex = place.ellipsoid((48, -40, 0.27), (34 * s, 30 * s, 0.115 * s))
    right = place.ellipsoid((-14, -18, 0.39), (36 * s, 40 * s, 0.19 * s))
    atrium = place.ellipsoid((2, 12, 0.46), (40 * s, 23 * s, 0.09 * s))
    heart = smooth_min(smooth_min(left, apex, 14.0), smooth_min(right, atrium, 10.0), 14.0)
    pad = place.ellipsoid((18, -62, 0.24), (40, 27, 0.14))
    pad = smooth_min(pad, place.ellipsoid((12, -16, 0.19), (50 * s, 36 * s, 0.13)), 8.0)
    pad = smooth_min(pad, place.ellipsoid((-34, -46, 0.16), (26, 24, 0.09)), 8.0)
    return {"heart": heart, "heart_fat": smooth_min(heart - 3.5, pad, 10.0)}


def _mediastinum(place: _Place, fields: dict[str, Floats]) -> Floats:
    """Everything between the lungs."""
    k, t = place.k, place.t
    width = (27 - 9 * np.clip((t - 0.45) / 0.4, 0, 1)) * k
    column = np.sqrt((place.x / width) ** 2 + ((place.dy - 6) / (0.60 * place.b)) ** 2)
    column = np.maximum((column - 1) * 20, (0.5 - t) * place.h)
    lower = np.sqrt((place.x - 6) ** 2 / 1.2 + (place.y - 32 * k) ** 2 / 2.2) - 15 * k
    lower = np.maximum(lower, (t - 0.6) * place.h)
    vertebra = np.sqrt((place.x / 1.12) ** 2 + place.spine_y**2) - 20.0 * k
    out = smooth_min(smooth_min(fields["heart_fat"], column, 12.0), lower, 8.0)
    return smooth_min(smooth_min(out, fields["hilar"] - 2.5, 6.0), vertebra, 8.0)


def _lungs(place: _Place, fields: dict[str, Floats]) -> dict[str, Floats]:
    """Right and left lung, their diaphragms and fissures."""
    a0, b0, h = place.build.half_width, place.build.half_depth, place.h
    mediastinum = _mediastinum(place, fields)
    out: dict[str, Floats] = {}
    # The pleura bulges a little between ribs; lungs nearly meet behind the sternum, less so where there is fat.
    ripple = 0.9 * np.cos(2 * np.pi * rib_phase(place.t, np.abs(np.arctan2(place.x, place.dy)) / np.pi))
    front = np.exp(-np.clip(place.dy + place.b, 0, None) / 7.0)
    for side, sign, dome in (("right", -1.0, place.build.domes[0]), ("left", 1.0, place.build.domes[1])):
        u2 = ((place.x * sign - 0.50 * a0) / (0.68 * a0)) ** 2 + ((place.y + 0.14 * b0) / (1.08 * b0)) ** 2
        floor = dome * h * (1 - u2**1.15)
        diaphragm = (floor - place.z) * 0.85
        reach = ((place.x * sign - 0.42 * a0) / (0.50 * a0)) ** 2 + (place.dy / (0.78 * b0)) ** 2
        roof = (place.z - h * (1.0 - 0.17 * reach)) * 0.75
        lung = smooth_max(place.cavity + 1.8 - ripple, diaphragm, 3.0)
        lung = smooth_max(lung, roof, 12.0)
        lung = smooth_max(lung, -mediastinum, 5.0)
        out[f"lung_{side}"] = smooth_max(lung, 1.2 + 9.0 * front - place.x * sign, 3.0)
        out[f"diaphragm_{side}"] = diaphragm
    line = 0.44 + 0.34 * (place.y / b0) - 0.10 * (place.x / a0) ** 2 + 0.04 * np.sin(place.x / 30)
    out["oblique"] = (place.z - h * np.where(place.x < 0, line - 0.02, line + 0.03)) * 0.8
    out["horizontal"] = place.z - h * (0.50 + 0.04 * np.sin(place.x / 40) + 0.05 * (place.y / b0))
    return out


def rib_phase(height: Floats, angle: Floats) -> Floats:
    """Count ribs: the phase is half past a whole number on a rib; `angle` from 0 at the spine to 1 in front."""
    return np.asarray((height + 0.30 * angle**1.2) * RIBS_PER_HEIGHT)


def _wall(place: _Place) -> dict[str, Floats]:
    """Skin and the muscles beneath the fat."""
    build, t = place.build, place.t
    a0, b0 = build.half_width, build.half_depth
    angle = np.arctan2(np.abs(place.x), place.dy) / np.pi
    shoulder = np.clip(_profile(t, SHOULDER), 0, 99) * (np.abs(place.x) / a0) ** 1.5
    flank = 13 * np.exp(-(((angle - 0.36) / 0.15) ** 2)) * np.clip((t - 0.25) / 0.3, 0, 1)
    thick = 16 + build.fat + 8 * np.clip(np.cos(np.pi * angle), 0, 1) + flank + np.clip(shoulder, 0, 110)
    body = place.radial(np.maximum(place.a, 0.62 * a0 * (t < 1.08)), np.maximum(place.b, 0.58 * b0), 2.3) - thick
    if build.female:
        size = 36.0 + build.fat
        for sign in (-1.0, 1.0):
            centre = (sign * 0.60 * a0, -1.02 * b0 - 12, 0.42 * place.h)
            breast = ellipsoid(place.x, place.y, place.z, centre, (size * 1.15, size * 0.85, size * 1.1))
            body = smooth_min(body, breast, 24.0)
    z, y, x = place.axes
    muscle = 14.0 + flank + np.clip(shoulder, 0, 110) - 2.5 + 3.0 * np.cos(2 * np.pi * angle)
    inner = np.maximum(body + build.fat * 0.5, place.cavity - muscle + 1.6 * place.noise["patchy"](z, y, x))
    return {"body": body, "muscle": inner}


def _abdomen(place: _Place) -> dict[str, Floats]:
    """Liver, spleen and stomach; the diaphragm cuts them off above."""
    right, left = place.build.domes
    lobe = place.ellipsoid((16, -40, left - 0.13), (60, 40, 0.13))
    return {
        "liver": smooth_min(place.ellipsoid((-62, 0, right - 0.30), (86, 104, 0.36)), lobe, 18.0),
        "spleen": place.ellipsoid((80, 36, left - 0.18), (32, 46, 0.19)),
        "stomach": place.ellipsoid((56, -18, left - 0.16), (46, 44, 0.165)),
    }


def lobes(right: NDArray[np.bool_], left: NDArray[np.bool_], oblique: Floats, horizontal: Floats) -> NDArray[np.uint8]:
    """Name lobes: 1 right upper, 2 right middle, 3 right lower, 4 left upper, 5 left lower; 0 outside."""
    upper = oblique > 0
    out = right * np.uint8(3)
    out[right & upper] = 2
    out[right & upper & (horizontal > 0)] = 1
    out[left] = 5
    out[left & upper] = 4
    return np.asarray(out, dtype=np.uint8)


def _trees(
    build: Build, fields: dict[str, Floats], axes: tuple[Floats, Floats, Floats], rng: np.random.Generator
) -> tuple[Tree, Tree, Tree]:
    """Grow arteries with their airways, and veins between them, lobe by lobe so that none crosses a fissure."""
    z, y, x = axes
    right, left = fields["lung_right"] < -3, fields["lung_left"] < -3
    where = lobes(right, left, fields["oblique"], fields["horizontal"])
    iz, iy, ix = np.nonzero(where)
    centres = np.stack([x[ix], y[iy], z[iz]], axis=1).astype(float)
    names = where[iz, iy, ix]
    paths = organ_paths(build)
    arteries: list[Row] = []
    veins: list[Row] = []
    for lobe in range(1, 6):
        side = "right" if lobe <= 3 else "left"
        mine = centres[names == lobe]
        hub = paths[f"{side}_artery"][0][-2 if lobe in (1, 4) else -1]
        atrium = np.array([-24.0 if side == "right" else 28.0, 14.0, build.height * 0.47])
        size = (len(mine) * COARSE_MM**3 / 1e6) ** (1 / 3)
        for rows, origin, radius in ((arteries, hub, 6.2 * size), (veins, atrium, 6.4 * size)):
            n = max(int(len(mine) * COARSE_MM**3 / TWIG_MM3), 8)
            chosen = mine[rng.integers(0, len(mine), n)] + rng.uniform(-2, 2, (n, 3))
            grow(chosen, origin, radius, rows)
    return as_tree(arteries), as_tree(veins), airways_beside(arteries)
