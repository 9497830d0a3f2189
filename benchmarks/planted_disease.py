"""Synthetic chests with the diseases at which lung masks fail, and what a reader would draw in them.

The truth follows readers: consolidated and collapsed lung, honeycombing, bullae, and masses that lie in the lung are
lung; fluid and air in the pleural space, tumour of the hilum, mediastinum, oesophagus and hernia are not. Arrays are
[z, y, x] in LPS order with isotropic voxels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, gaussian_filter, shift
from scipy.spatial import cKDTree

from sscct_lib.demo.anatomy import organ_paths
from sscct_lib.demo.geometry import ellipsoid, tube
from sscct_lib.demo.render import Protocol, Volume, _patient, render
from sscct_lib.images.masks import bounding_box

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass
class Chest:
    """A chest in which disease is planted, step by step."""

    volume: Volume
    hu: Floats
    truth: NDArray[np.uint8]  # 1 right lung, 2 left lung
    grid: tuple[Floats, Floats, Floats]  # x, y, z of each voxel, mm
    paths: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    k: float  # size of the chest
    rng: np.random.Generator
    side: int  # the lung that is sick

    def distance(self, mask: Mask) -> Floats:
        """Distance of every voxel to a mask, mm."""
        return np.asarray(distance_transform_edt(~mask, sampling=self.volume.spacing_mm), np.float32)

    def ball(
        self, centre: NDArray[np.floating], radius_mm: float, squeeze: tuple[float, float, float] = (1, 1, 1)
    ) -> Mask:
        """An ellipsoid about a point x, y, z."""
        c, r = [float(v) for v in centre], [radius_mm * s for s in squeeze]
        return ellipsoid(*self.grid, (c[0], c[1], c[2]), (r[0], r[1], r[2])) < 0

    def paint(self, where: Mask, density: float, grain_hu: float = 18.0) -> None:
        """Fill a region, with the blur and noise of the scan."""
        share = gaussian_filter(where.astype(np.float32), 0.8 / self.volume.spacing_mm)
        noise = gaussian_filter(self.rng.standard_normal(where.shape, dtype=np.float32), 0.5)
        self.hu += share * (density + grain_hu * noise / noise.std() - self.hu)
        if density > -200:  # beside what is solid now, the wall holds no air
            edge = binary_dilation(where) & ~where & (self.volume.lungs == 0) & (self.hu < -120)
            self.hu[edge] = density + 2 * grain_hu * noise[edge]

    def point(self, among: Mask) -> NDArray[np.floating]:
        """Draw a voxel of a region; x, y, z."""
        at = np.argwhere(among)
        one = tuple(at[self.rng.integers(len(at))])
        return np.array([axis[one] for axis in self.grid])


def draw(kind: str, seed: int, number: int, spacing_mm: float) -> Chest:
    """Draw a chest with one of `KINDS`; other seeds and numbers are other patients, lungs and places."""
    rng = np.random.default_rng([seed, number, *kind.encode()])
    # Anatomy, scanner and breath differ from chest to chest; the sick side alternates.
    state = {
        "ground_glass": rng.uniform(0, 0.05), "reticulation": rng.uniform(0, 0.04), "honeycombing": 0.0,
        "emphysema": 0.0, "fibrosis": rng.uniform(0, 0.2), "hypertension": rng.uniform(0, 0.3),
    }  # fmt: skip
    sharp = bool(rng.random() < 0.4)
    protocol = Protocol(
        sharp, 0.5 if sharp else 0.8, rng.uniform(12, 26), float(rng.choice([1.0, 1.25, 2.5])), rng.uniform(0.86, 1.0),
        contrast=bool(rng.random() < 0.3), field_mm=438.0 if kind == "arms down" else 356.0,
    )  # fmt: skip
    who = (seed, number + 17 * list(KINDS).index(kind), bool(rng.random() < 0.6))
    volume = render(who, state, protocol, spacing_mm, [seed, number])
    z, y, x = (start + spacing_mm * np.arange(n) for start, n in zip(volume.origin[::-1], volume.hu.shape, strict=True))
    grid = tuple(np.meshgrid(z, y, x, indexing="ij"))[::-1]
    build = _patient(*who)[0].build
    paths = {}
    for name, (points, radii) in organ_paths(build).items():
        breathed = points.copy()
        breathed[:, 2] = build.height - (build.height - points[:, 2]) * protocol.inspiration
        paths[name] = breathed, radii
    chest = Chest(
        volume, volume.hu.astype(np.float32), volume.lungs.copy(), tuple(axis.astype(np.float32) for axis in grid),
        paths, build.half_width / 125, rng, 1 + number % 2,
    )  # fmt: skip
    KINDS[kind](chest)
    chest.hu = np.clip(np.rint(chest.hu), -1024, 3071)
    return chest


def healthy(chest: Chest) -> None:
    """Plant nothing."""


def _solid(chest: Chest, where: Mask, density: float = 38.0) -> None:
    """Fill lung, but leave air in its bronchi."""
    bronchi = (chest.volume.hu < -930) & where
    chest.paint(where & ~bronchi, density)


def segment_consolidation(chest: Chest) -> None:
    """Consolidate a wedge of 4 to 7 cm at the pleura."""
    lung = chest.truth == chest.side
    rim = lung & (chest.distance(~lung) < 4) & (np.abs(chest.grid[0]) > 55)
    centre = chest.point(rim)
    nearest = np.argmin(sum((axis - at) ** 2 for axis, at in zip(chest.grid, centre, strict=True)))
    lobe = chest.volume.lobes.flat[nearest]
    _solid(chest, chest.ball(centre, chest.rng.uniform(30, 42), (1, 1.1, 0.9)) & (chest.volume.lobes == lobe))


def lobe_consolidation(chest: Chest) -> None:
    """Consolidate a lobe."""
    lobe = int(chest.rng.choice([1, 2, 3] if chest.side == 1 else [4, 5]))
    _solid(chest, chest.volume.lobes == lobe)


def collapse(chest: Chest) -> None:
    """Let an upper or lower lobe collapse to a quarter against the mediastinum; the rest of its place is aerated."""
    lobe = int(chest.rng.choice([1, 3] if chest.side == 1 else [4, 5]))
    region = chest.volume.lobes == lobe
    other = chest.distance(chest.truth == 3 - chest.side)  # the mediastinum lies toward the other lung
    dense = region & (other <= np.quantile(other[region], 0.25))
    chest.paint(region & ~dense & (chest.hu > -700), -850.0)
    chest.paint(dense, 40.0)


def effusion(chest: Chest) -> None:
    """Fluid behind and below the lung, in half of the chests with a layer of collapsed lung in front of it."""
    x, y, z = chest.grid
    lung = chest.truth == chest.side
    low, high = z[lung].min(), z[lung].max()
    level = np.quantile(y[lung], chest.rng.uniform(0.62, 0.8))  # it lies behind this
    height = (z - low) / (high - low)
    fluid = lung & (y > level + 55 * np.maximum(height - 0.25, 0) + 12 * np.sin(np.abs(x) / 25))
    chest.paint(fluid, chest.rng.uniform(4, 16))
    if chest.rng.random() < 0.5:
        layer = lung & ~fluid & (chest.distance(fluid) < chest.rng.uniform(5, 12))
        chest.paint(layer, 40.0)
    chest.truth[fluid] = 0


def hilar_mass(chest: Chest) -> None:
    """A tumour of 4 to 6 cm at the hilum."""
    points, _ = chest.paths["right_bronchus" if chest.side == 1 else "left_bronchus"]
    centre = points[-2] + chest.rng.uniform(-6, 6, 3)
    centre[0] += (-8 if chest.side == 1 else 8) * chest.k
    mass = chest.ball(centre, chest.rng.uniform(20, 30), (1, 1, 1.15))
    air = chest.volume.hu < -980
    chest.paint(mass & (chest.volume.lungs > 0) & ~air, 42.0)
    chest.truth[mass] = 0


def peripheral_mass(chest: Chest) -> None:
    """A mass of 3 to 6 cm at the pleura of the ribs."""
    lung = chest.truth == chest.side
    radius = chest.rng.uniform(15, 30)
    depth = chest.distance(~lung)
    shell = lung & (np.abs(depth - 0.7 * radius) < 2.5) & (np.abs(chest.grid[0]) > 60)
    chest.paint(chest.ball(chest.point(shell), radius) & lung, 40.0)


def pocket(chest: Chest) -> None:
    """A band of scar cuts off 30 to 150 mL of aerated lung."""
    lung = chest.truth == chest.side
    x, y, z = chest.grid
    sign = -1 if chest.side == 1 else 1
    normal = np.array([sign * chest.rng.uniform(0.3, 1), chest.rng.uniform(-0.4, 0.9), chest.rng.uniform(-1, 0.3)])
    along = (normal[0] * x + normal[1] * y + normal[2] * z) / np.linalg.norm(normal)
    voxel_ml = chest.volume.spacing_mm**3 / 1000
    values = np.sort(along[lung])[::-1]
    cut = values[min(len(values) - 1, int(chest.rng.uniform(30, 150) / voxel_ml))]
    thick = chest.rng.uniform(8, 14)
    chest.paint(lung & (along < cut) & (along > cut - thick), 20.0)


def half_honeycomb(chest: Chest) -> None:
    """Honeycombing of the lower half of a lung."""
    lung = chest.truth == chest.side
    x, y, z = chest.grid
    border = np.median(z[lung]) + 10 * np.sin(x / 18) + 0.25 * y
    half = lung & (z < border)
    at = np.stack([axis[half] for axis in chest.grid], axis=1)
    size = chest.rng.uniform(6, 10)
    low, high = at.min(axis=0) - size, at.max(axis=0) + size
    ticks = [np.arange(a, b, size) for a, b in zip(low, high, strict=True)]
    middles = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    near = cKDTree(middles + chest.rng.uniform(-0.45, 0.45, middles.shape) * size).query(at, k=2)[0]
    wall = np.clip(1.2 - (near[:, 1] - near[:, 0]) / max(2.4, chest.volume.spacing_mm), 0, 1)
    values = np.zeros(lung.shape, np.float32)
    values[half] = -920 + 940 * wall
    share = gaussian_filter(half.astype(np.float32), 0.35)
    blurred = gaussian_filter(values, 0.35) / np.maximum(share, 0.3)
    chest.hu[half] = blurred[half]
    chest.hu += half * chest.rng.normal(0, 15, lung.shape)


def bullae(chest: Chest) -> None:
    """Two to five bullae of 3 to 9 cm, most in the upper lung, at the pleura."""
    lung = chest.truth == chest.side
    z, depth = chest.grid[2], chest.distance(~lung)
    for radius in chest.rng.uniform(14, 45, chest.rng.integers(2, 6)):
        shell = lung & (np.abs(depth - min(0.7 * radius, depth.max() - 3)) < 3) & (z > np.quantile(z[lung], 0.35))
        centre = chest.point(shell)
        squeeze = (1.0, float(chest.rng.uniform(0.8, 1.1)), float(chest.rng.uniform(0.9, 1.2)))
        chest.paint(chest.ball(centre, radius + 1.0, squeeze) & lung, -350.0)
        chest.paint(chest.ball(centre, radius - 0.6, squeeze) & lung, -985.0)


def pneumothorax(chest: Chest) -> None:
    """Air around a lung that has drawn back toward its hilum by 1 to 3 cm."""
    lung = chest.truth == chest.side
    back, down = chest.rng.uniform(10, 22), chest.rng.uniform(8, 25)
    inward = chest.rng.uniform(5, 18) * (1 if chest.side == 1 else -1)
    step = np.array([-down, back, inward]) / chest.volume.spacing_mm
    kept = lung & (shift(lung.astype(np.float32), step, order=1) > 0.5)
    air = lung & ~kept
    chest.paint(air, -995.0, 12.0)
    rim = kept & (chest.distance(air) <= chest.volume.spacing_mm)
    chest.hu[rim] += 250.0 / chest.volume.spacing_mm
    chest.truth[air] = 0


def wide_oesophagus(chest: Chest) -> None:
    """An oesophagus 3 to 4 cm wide and full of air; in half of the chests a hernia of the stomach behind the heart."""
    points, _ = chest.paths["oesophagus"]
    points = points[:-1].copy()
    lumen = chest.rng.uniform(11, 17)
    points[:, 1] -= 2
    distance = tube(*chest.grid, points, np.full(len(points), lumen + 3.0))
    hernia = chest.rng.random() < 0.5
    inside = distance < -3.0
    wall = distance < 0
    if hernia:
        radius = chest.rng.uniform(26, 40)
        centre = points[-1] + np.array([0, -6, radius * 0.7])
        wall |= chest.ball(centre, radius + 4)
        inside |= chest.ball(centre, radius)
    _, y, _ = chest.grid
    bone = chest.volume.hu > 150
    names = ("trachea", "right_bronchus", "left_bronchus")
    trachea = np.minimum.reduce([tube(*chest.grid, *chest.paths[name]) for name in names]) < 2.5
    free = ~bone & ~trachea
    chest.paint(wall & free, 42.0)
    level = points[-1][1] + 8
    chest.paint(inside & free, -960.0)
    chest.paint(inside & free & (y > level), 12.0)
    chest.truth[wall] = 0


def lung_removed(chest: Chest) -> None:
    """After removal the side fills with fluid; in half of the chests the other lung reaches over in front."""
    x, y, _ = chest.grid
    empty = chest.truth == chest.side
    over = empty & False
    if chest.rng.random() < 0.5:
        over = empty & (np.abs(x) < 45) & (y < np.quantile(y[empty], 0.25))
    chest.paint(empty & ~over, chest.rng.uniform(5, 40))
    between = (np.abs(x) < 20) & (chest.distance(over) < 12) if over.any() else over
    reached = chest.distance(chest.truth == 3 - chest.side) < 14
    chest.truth[empty] = 0
    if over.any():
        bridge = over | (
            between & reached & (chest.hu < 0) & (chest.volume.hu > -300) & (y < np.quantile(y[empty], 0.25))
        )
        chest.paint(bridge, -850.0)
        chest.truth[bridge] = 3 - chest.side


def arms_down(chest: Chest) -> None:
    """Arms beside the chest, and the streaks between them."""
    x, y, _ = chest.grid
    body = chest.hu > -300
    outer = np.abs(x)[body & (y > -60) & (y < 60)].max()
    streaks = gaussian_filter(chest.rng.standard_normal(chest.hu.shape[:2]), (0.4, 0.8))[:, :, None]
    for sign in (-1, 1):
        radius = chest.rng.uniform(32, 42)
        middle = sign * min(outer + radius - 4, float(np.abs(x).max()) - 8)
        from_axis = np.hypot(x - middle, (y - 10) * 0.9)
        chest.paint((from_axis < radius) & (chest.volume.lungs == 0), -95.0)
        chest.paint((from_axis < radius - 9) & (chest.volume.lungs == 0), 55.0)
        chest.paint(from_axis < 11, 550.0)
    chest.hu += 45 * streaks / streaks.std() * (np.abs(x) < outer + 20)


def metal(chest: Chest) -> None:
    """Wires of the sternum, a pacemaker's lead or rods at the spine, with streaks."""
    x, y, z = chest.grid
    bone = chest.volume.hu > 250
    front = np.argwhere(bone & (np.abs(x) < 15) & (y < 0))
    behind = np.argwhere(bone & (np.abs(x) < 15) & (y > 30))
    places = [front[i] for i in np.linspace(0, len(front) - 1, 6).astype(int)] if len(front) else []
    if chest.rng.random() < 0.5:
        places = [behind[i] for i in np.linspace(0, len(behind) - 1, 24).astype(int)]
    for at in places:
        centre = np.array([axis[tuple(at)] for axis in chest.grid])
        near = np.abs(z - centre[2]) < 2.5
        dx, dy = x - centre[0], y - centre[1]
        r, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
        phase = chest.rng.uniform(0, 6)
        chest.hu += near * 260 * np.sin(9 * angle + phase) * np.exp(-r / 45) * (r > 4)
        chest.hu[near & (r < 3.5)] = 3000


KINDS: dict[str, Callable[[Chest], None]] = {
    "none": healthy,
    "consolidation of a segment": segment_consolidation,
    "consolidation of a lobe": lobe_consolidation,
    "collapse of a lobe": collapse,
    "pleural effusion": effusion,
    "hilar mass": hilar_mass,
    "peripheral mass": peripheral_mass,
    "pocket behind a dense band": pocket,
    "honeycombing of half a lung": half_honeycomb,
    "bullae": bullae,
    "pneumothorax": pneumothorax,
    "wide oesophagus, hernia": wide_oesophagus,
    "one lung removed": lung_removed,
    "arms down": arms_down,
    "metal": metal,
}


def dice(one: Mask, other: Mask) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def distance(one: Mask, other: Mask, spacing_mm: float) -> float:
    """Mean distance of the two surfaces, mm, there and back."""
    box = bounding_box(one | other, margin=2)
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (one, other)]
    there, back = (
        distance_transform_edt(~surface, sampling=spacing_mm)[opposite].mean()
        for surface, opposite in (surfaces, surfaces[::-1])
    )
    return float((there + back) / 2)
