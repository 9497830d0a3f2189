"""From a patient's anatomy and disease to a CT volume in Hounsfield units with its true masks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from sscct_lib.anatomy import Floats, Thorax, Tree, axis_weights, lobes, make_thorax, spread
from sscct_lib.disease import Extent, cells, disease_scores, draw_lesions

FIELD_MM = (340.0, 290.0)  # x and y that a scan covers
MARGIN_MM = 28.0  # above and below the lungs


@dataclass(frozen=True)
class Protocol:
    """How a scan was taken.

    Attributes
    ----------
    blur_mm
        Standard deviation of the point spread in the axial plane.
    noise_hu
        Standard deviation of noise.
    slice_thickness_mm
        Of the reconstruction.
    inspiration
        Height of the lungs, 1 at full inspiration of healthy lungs.
    """

    blur_mm: float
    noise_hu: float
    slice_thickness_mm: float
    inspiration: float


@dataclass(frozen=True)
class Volume:
    """A scan with its truth; arrays [z, y, x] in LPS, isotropic.

    Attributes
    ----------
    hu
        int16 Hounsfield units.
    lungs
        1 right, 2 left.
    lobes
        1 right upper, 2 right middle, 3 right lower, 4 left upper, 5 left lower.
    lesions
        Numbers of `disease.LESIONS`.
    origin
        Of the first voxel, x, y, z in mm.
    spacing_mm
        Voxel side.
    """

    hu: NDArray[np.int16]
    lungs: NDArray[np.uint8]
    lobes: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    origin: tuple[float, float, float]
    spacing_mm: float


@lru_cache(maxsize=2)
def _patient(seed: int, number: int, female: bool) -> tuple[Thorax, tuple[Floats, Floats], dict[str, cKDTree]]:
    """Everything that the scans of a patient share."""
    thorax = make_thorax(seed, number, female)
    trees = {"lobules": cells(seed, number, 9.0), "cysts": cells(seed, number, 6.5)}
    return thorax, disease_scores(thorax, seed, number), trees


def cover(distance: Floats, spacing_mm: float) -> Floats:
    """Share of a voxel inside a surface, from the distance of its middle (negative inside)."""
    return np.asarray(np.clip(0.5 - distance / spacing_mm, 0, 1))


def _mix(hu: Floats, value: Floats | float, share: Floats) -> None:
    hu += share * (value - hu)


class Grid:
    """The voxels of one scan, and maps of the patient brought onto them."""

    def __init__(self, thorax: Thorax, spacing_mm: float, inspiration: float):
        self.thorax, self.spacing, self.inspiration = thorax, spacing_mm, inspiration
        self.height = thorax.build.height
        low = self.height * (1 - inspiration) - MARGIN_MM
        self.z, self.y, self.x = (
            (start + spacing_mm * np.arange(round(length / spacing_mm))).astype(np.float32)
            for start, length in (
                (low, self.height - low + MARGIN_MM),
                (-FIELD_MM[1] / 2 + 4, FIELD_MM[1]),
                (-FIELD_MM[0] / 2, FIELD_MM[0]),
            )
        )
        # A shallower breath lifts everything below the apex in proportion.
        self.z_body = (self.height - (self.height - self.z) / inspiration).astype(np.float32)
        pairs = ((thorax.z, self.z_body), (thorax.y, self.y), (thorax.x, self.x))
        self._weights = [axis_weights(knots, at) for knots, at in pairs]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return len(self.z), len(self.y), len(self.x)

    def onto(self, field: Floats | str) -> Floats:
        """Bring a coarse map (or the name of one) onto the voxels."""
        return spread(self.thorax.fields[field] if isinstance(field, str) else field, *self._weights)

    def noise(self, name: str) -> Floats:
        """Evaluate one of the patient's random fields on the voxels."""
        return self.thorax.noise[name](self.z_body, self.y, self.x)


def draw_tubes(grid: Grid, tree: Tree, radius: Floats) -> Floats:
    """Share of each voxel that tubes fill: a thin tube fills a part of the voxels that it passes."""
    size = grid.spacing
    scale = np.array([1.0, 1.0, grid.inspiration], dtype=np.float32)
    shift = np.array([0.0, 0.0, grid.height * (1 - grid.inspiration)], dtype=np.float32)
    origin = np.array([grid.x[0], grid.y[0], grid.z[0]], dtype=np.float32)
    start, end = ((ends * scale + shift - origin) / size for ends in (tree.start, tree.end))
    out = np.zeros(grid.shape, dtype=np.float32)
    steps = np.maximum(np.ceil(np.linalg.norm(end - start, axis=1) / 0.6), 1).astype(np.int64)
    which = np.repeat(np.arange(len(steps)), steps)
    first = np.repeat(np.cumsum(steps) - steps, steps)
    along = ((np.arange(len(which)) - first) / steps[which]).astype(np.float32)[:, None]
    middle = start[which] + along * (end - start)[which]
    reach = radius[which] / size
    nearest = np.rint(middle).astype(np.int64)
    for half in np.unique(np.ceil(reach + 0.5).astype(int)):
        mine = np.ceil(reach + 0.5).astype(int) == half
        ticks = np.arange(-half, half + 1)
        offsets = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
        at = nearest[mine][:, None, :] + offsets
        distance = np.linalg.norm(at - middle[mine][:, None, :], axis=2)
        thin = np.minimum(np.pi * reach[mine] ** 2, 1.0)[:, None]
        share = thin * np.clip(np.maximum(reach[mine], 0.5)[:, None] - distance + 0.5, 0, 1)
        inside = (share > 0) & ((at >= 0) & (at < np.array(grid.shape)[::-1])).all(axis=2)
        np.maximum.at(out, (at[inside][:, 2], at[inside][:, 1], at[inside][:, 0]), share[inside])
    return out


def render(
    seed: int, number: int, female: bool, state: Mapping[str, float], protocol: Protocol, spacing_mm: float,
    noise_seed: list[int],
) -> Volume:  # fmt: skip
    """Make a scan.

    Parameters
    ----------
    seed, number, female
        The study's seed, the patient's number and sex: they decide the anatomy.
    state
        The latent state at the scan: shares of the lungs per pattern, and `hypertension`.
    protocol
        How the scan was taken.
    spacing_mm
        Voxel side.
    noise_seed
        Seed of what differs between scans of the same patient.

    Returns
    -------
    Volume
        The scan and its true masks.
    """
    thorax, scores, trees = _patient(seed, number, female)
    grid = Grid(thorax, spacing_mm, protocol.inspiration)
    hu = _body(grid)
    _mediastinum(grid, hu, state)
    right, left = grid.onto("lung_right"), grid.onto("lung_left")
    airway = grid.onto("tracheal")
    lungs = np.zeros(grid.shape, dtype=np.uint8)
    lungs[(right < 0) & (airway > 1.0)] = 1
    lungs[(left < 0) & (airway > 1.0)] = 2
    oblique, horizontal = grid.onto("oblique"), grid.onto("horizontal")
    lobe = lobes(lungs == 1, lungs == 2, oblique, horizontal)
    lesions = _lungs(grid, hu, (right, left), (oblique, horizontal), lungs, scores, trees, state, protocol)
    _mix(hu, 30.0, cover(airway - 1.6, spacing_mm))
    _mix(hu, -1000.0, cover(airway, spacing_mm))
    noisy = _acquire(hu, protocol, spacing_mm, np.random.default_rng(noise_seed))
    origin = (float(grid.x[0]), float(grid.y[0]), float(grid.z[0]))
    return Volume(noisy, lungs, lobe, lesions, origin, spacing_mm)


def _body(grid: Grid) -> Floats:
    """Skin, fat, muscle and bones; whatever is inside the rib cage is fat so far."""
    size = grid.spacing
    body, cavity = grid.onto("body"), grid.onto("cavity")
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    _mix(hu, -15.0, cover(body, size))
    _mix(hu, -102.0, cover(body + 2.0, size))
    _mix(hu, 48.0, cover(grid.onto("muscle"), size))
    _mix(hu, -78.0, cover(cavity + 1.0, size))
    _bones(grid, hu, cavity, body)
    return hu


def _bone(hu: Floats, at: NDArray[np.int64], distance: Floats, size: float, marrow: float, cortex: float) -> None:
    """Draw bone on flat voxels: a dense shell about 1.5 mm thick around marrow."""
    flat = hu.reshape(-1)
    values = flat[at]
    values += cover(distance, size) * (cortex - values)
    values += cover(distance + 1.8, size) * (marrow - values)
    flat[at] = values


def _bones(grid: Grid, hu: Floats, cavity: Floats, body: Floats) -> None:
    size, h = grid.spacing, grid.height
    k = grid.thorax.build.half_width / 125
    t, angle = grid.onto("height").reshape(-1), np.abs(grid.onto("angle")).reshape(-1) / np.pi
    px, sy = grid.onto("spine_x").reshape(-1), grid.onto("spine_y").reshape(-1)
    shell, skin = cavity.reshape(-1), body.reshape(-1)
    at = np.flatnonzero((shell > -2) & (shell < 40) & (skin < -3) & (t > -0.12) & (t < 1.08))
    tt, aa, cc = t[at], angle[at], shell[at]
    phase = (tt + 0.30 * aa**1.2) * 10.2
    beside = np.abs(phase % 1 - 0.5) * (h / 10.2) * 0.85
    rib = (np.sqrt(((cc - 6.0) / 4.4) ** 2 + (beside / 6.2) ** 2) - 1) * 4.4
    gone = (phase < 1) | (phase > 12) | (aa > 0.95)
    rib = np.where(gone, 20.0, rib)
    bony = aa < 0.72
    _bone(hu, at[bony], rib[bony], size, 190.0, 560.0)
    _bone(hu, at[~bony], rib[~bony], size, 95.0, 120.0)
    plate = np.maximum(np.abs(cc - 22 - 6 * np.cos(9 * aa)) - 2.8, (np.abs(aa - 0.34) - 0.16 * (1.05 - tt)) * 300)
    plate = np.maximum(plate, (np.abs(tt - 0.76) - 0.2) * h)
    _bone(hu, at, plate, size, 250.0, 500.0)
    front = np.maximum(np.abs(px[at]) - (17 - 9 * np.clip(0.8 - tt, 0, 1)), np.abs(cc - 7.0) - 5.0)
    front = np.maximum(np.maximum(front, (np.abs(tt - 0.62) - 0.26) * h), (0.8 - aa) * 100)
    _bone(hu, at, front, size, 160.0, 420.0)
    near = np.flatnonzero((np.abs(px) < 45) & (sy > -24) & (sy < 75) & (skin < -2))
    vx, vy, level = np.abs(px[near]), sy[near], t[near] * h / 24.0
    off = np.abs(level % 1 - 0.5)
    vertebra = np.sqrt((vx / 1.12) ** 2 + vy**2) - 17.0 * k + 3 * np.clip(0.3 - off, 0, 1)
    disc = off > 0.40
    _bone(hu, near[~disc], vertebra[~disc], size, 170.0, 400.0)
    _bone(hu, near[disc], vertebra[disc], size, 80.0, 90.0)
    ring = np.abs(np.sqrt((vx / 1.15) ** 2 + (vy - 24 * k) ** 2) - 10.5) - 3.0
    transverse = np.maximum(np.maximum(np.abs(vy - 25 - 0.25 * vx) - 4.0, vx - 34), (off - 0.2) * 24)
    spine_off = np.abs((level + 0.022 * vy) % 1 - 0.5)
    spinous = np.maximum(np.maximum(vx - 3.5, np.abs(vy - 48) - 15), (spine_off - 0.30) * 24)
    _bone(hu, near, np.minimum(np.minimum(ring, transverse), spinous), size, 240.0, 460.0)


def _mediastinum(grid: Grid, hu: Floats, state: Mapping[str, float]) -> None:
    """Heart, great vessels, oesophagus and what lies under the diaphragm."""
    size = grid.spacing
    inside = cover(grid.onto("cavity") + 2.0, size)
    for side, organ in (("right", 58.0), ("left", 48.0)):
        under = cover(-grid.onto(f"diaphragm_{side}"), size)
        half = (grid.x < 0) if side == "right" else (grid.x >= 0)
        _mix(hu, organ, inside * under * half[None, None, :])
    _mix(hu, 44.0, cover(grid.onto("heart"), size))
    swollen = 3.2 * float(state["hypertension"])
    vessels = np.minimum(grid.onto("great"), grid.onto("pulmonary") - swollen)
    _mix(hu, 46.0, cover(vessels, size))
    widening = 9.0 * min(1.0, 0.25 + float(state["fibrosis"]) * 2)
    tube = grid.onto("oesophagus") - widening * 0.6
    _mix(hu, 40.0, cover(tube, size))
    _mix(hu, -930.0, cover(tube + 8.0, size))


def _lungs(
    grid: Grid, hu: Floats, distances: tuple[Floats, Floats], fissures: tuple[Floats, Floats], lungs: NDArray[np.uint8],
    scores: tuple[Floats, Floats], trees: dict[str, cKDTree], state: Mapping[str, float], protocol: Protocol,
) -> NDArray[np.uint8]:  # fmt: skip
    """Fill the lungs with parenchyma, disease, vessels and airways; gives the lesion labels."""
    size = grid.spacing
    distance = np.minimum(*distances)
    at = np.flatnonzero(distance < size)
    iz, iy, ix = np.unravel_index(at, grid.shape)
    positions = np.stack([grid.x[ix], grid.y[iy], grid.z_body[iz]], axis=1)
    fine = grid.noise("fine").reshape(-1)[at]
    gravity = positions[:, 1] / grid.thorax.build.half_depth
    parenchyma = -1000 + 118 / protocol.inspiration + 26 * gravity + 18 * fine
    maps = [grid.onto(score) for score in scores]
    names = ("ground_glass", "reticulation", "honeycombing", "emphysema")
    extent = Extent(**{name: float(state[name]) for name in names})
    # Shares are of the lungs as labelled; the rim of partial voxels follows its neighbours.
    in_mask = lungs.reshape(-1)[at] > 0
    drawn = draw_lesions(
        parenchyma.astype(np.float32), positions, (maps[0].reshape(-1)[at], maps[1].reshape(-1)[at]), extent,
        trees, size, fine, in_mask,
    )  # fmt: skip
    lesions = np.zeros(grid.shape, dtype=np.uint8)
    lesions.reshape(-1)[at[in_mask]] = drawn.labels[in_mask]
    values = drawn.hu
    oblique, horizontal = (np.abs(field).reshape(-1)[at] for field in fissures)
    middle = (grid.x[ix] < 0) & (fissures[0].reshape(-1)[at] > 0)
    fissure = np.maximum(cover(oblique - 0.4, size), np.where(middle, cover(horizontal - 0.4, size), 0))
    values += fissure * 0.8 / size * (-250 - values)
    thorax = grid.thorax
    tubes = np.maximum(
        draw_tubes(grid, thorax.arteries, thorax.arteries.radius * (1 + 0.25 * float(state["hypertension"]))),
        draw_tubes(grid, thorax.veins, thorax.veins.radius),
    )
    values += tubes.reshape(-1)[at] * (35 - values)
    _airways(grid, values, at, maps[0], drawn.fibrosis_score)
    flat = hu.reshape(-1)
    flat[at] += cover(distance.reshape(-1)[at], size) * (values - flat[at])
    return lesions


def _airways(grid: Grid, values: Floats, at: NDArray[np.int64], score: Floats, fibrosis_score: float) -> None:
    """Draw airway walls and lumens; those in fibrosis are pulled wide (traction bronchiectasis)."""
    tree = grid.thorax.airways
    middle = (tree.start + tree.end) / 2
    z = grid.height - (grid.height - middle[:, 2]) * grid.inspiration
    index = [
        np.clip(np.rint((along - axis[0]) / grid.spacing), 0, len(axis) - 1).astype(int)
        for along, axis in ((z, grid.z), (middle[:, 1], grid.y), (middle[:, 0], grid.x))
    ]
    local = score[tuple(index)]
    pulled = np.clip((local - fibrosis_score) / 0.3 + 0.7, 0, 1) if np.isfinite(fibrosis_score) else 0 * local
    radius = (tree.radius * (1 + 0.9 * pulled)).astype(np.float32)
    shown = radius > 0.75
    kept = Tree(tree.start[shown], tree.end[shown], tree.radius[shown])
    lumen = radius[shown]
    wall = draw_tubes(grid, kept, lumen * 1.15 + 0.5).reshape(-1)[at]
    values += wall * 0.75 * (0 - values)
    values += draw_tubes(grid, kept, lumen).reshape(-1)[at] * (-985 - values)


def _acquire(hu: Floats, protocol: Protocol, spacing_mm: float, rng: np.random.Generator) -> NDArray[np.int16]:
    """Blur by the point spread and the slice thickness, add noise of the kernel's texture."""
    axial, along = protocol.blur_mm / spacing_mm, protocol.slice_thickness_mm / 2.8 / spacing_mm
    blurred = gaussian_filter(hu, (along, axial, axial), mode="nearest", truncate=3.0)
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (0.0, 0.6, 0.6), mode="wrap", truncate=2.0)
    blurred += noise * (protocol.noise_hu / noise.std())
    return np.clip(np.rint(blurred), -1024, 3000).astype(np.int16)
