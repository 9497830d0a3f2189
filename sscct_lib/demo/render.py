"""From a patient's anatomy and disease to a CT volume in Hounsfield units with its true masks.

The patient's maps are brought onto the voxels of a scan (`_Grid`), organs, bones and lungs are drawn there one after
the other, in place, and the scanner blurs them and adds noise (`acquire`). Volumes are [z, y, x], `at` are flat
indices of voxels, distances are mm, `size` and `spacing_mm` are the voxel side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from sscct_lib.demo.anatomy import RIBS_PER_HEIGHT, Thorax, lobes, make_thorax, rib_phase
from sscct_lib.demo.disease import DiseaseMaps, LungVoxels, draw_lesions, map_disease
from sscct_lib.demo.geometry import Floats, Ints, Tree, cover, draw_tubes, linear_taps, mix, smooth_max, spread, tube

WIDE_FIELD_MM = 356.0  # shows the whole chest
FIELD_DEPTH_MM = 300.0  # front to back that a scan covers, if its field is as wide
FIELD_CENTRE_Y = 6.0
MARGIN_MM = 26.0  # above and below the lungs
VERTEBRA_MM = 24.0


@dataclass(frozen=True)
class Protocol:
    """How a scan was taken."""

    sharp: bool  # the kernel enhances edges, at the price of fine-grained noise
    blur_mm: float  # standard deviation of the point spread in the axial plane
    noise_hu: float  # standard deviation of noise in a voxel of 1 mm of an average body
    slice_thickness_mm: float
    inspiration: float  # height of the lungs, 1 at full inspiration of healthy lungs
    contrast: bool = False  # the vessels are enhanced
    missed_mm: float = 0.0  # how much of the bases lies below the scanned range
    field_mm: float = WIDE_FIELD_MM  # a narrow field cuts the sides of the lungs


@dataclass(frozen=True)
class Volume:
    """A scan with its truth; arrays [z, y, x] in LPS, isotropic."""

    hu: NDArray[np.int16]
    lungs: NDArray[np.uint8]  # 1 right, 2 left
    lobes: NDArray[np.uint8]  # 1 right upper, 2 right middle, 3 right lower, 4 left upper, 5 left lower
    lesions: NDArray[np.uint8]  # numbers of `disease.LESIONS`
    origin: tuple[float, float, float]  # of the first voxel, x, y, z in mm
    spacing_mm: float


def render(
    patient: tuple[int, int, bool],
    state: Mapping[str, Any],
    protocol: Protocol,
    spacing_mm: float,
    noise_seed: list[int],
) -> Volume:
    """Make a scan of a patient in a latent state.

    Parameters
    ----------
    patient
        The study's seed, the patient's number, and whether it is a woman: they decide the anatomy.
    state
        The latent state at the scan: `ground_glass`, `reticulation`, `honeycombing`, `emphysema` (shares of the
        lungs), `fibrosis` and `hypertension`.
    noise_seed
        Seed of what differs between scans of the same patient.
    """
    thorax, maps = _patient(*patient)
    grid = _Grid(thorax, spacing_mm, protocol)
    body = grid.onto("body")
    hu = _body(grid, body)
    _organs(grid, hu, state, protocol)
    _bones(grid, hu)
    _shoulders(grid, hu)
    airway = grid.onto("central_airway")
    right, left = grid.onto("lung_right"), grid.onto("lung_left")
    outside = airway > 1.0
    in_right, in_left = (right < 0) & outside, (left < 0) & outside
    lungs = in_right + np.uint8(2) * in_left
    oblique, horizontal = grid.onto("oblique"), grid.onto("horizontal")
    distance = np.minimum(right, left)
    at = np.flatnonzero(distance < spacing_mm)
    values, lesions = _lungs(grid, at, (oblique, horizontal), lungs, maps, state, protocol)
    flat = hu.reshape(-1)
    flat[at] += cover(distance.reshape(-1)[at], spacing_mm) * (values - flat[at])
    near = np.flatnonzero(airway < spacing_mm + 1.6)
    for distance_mm, density in ((airway.reshape(-1)[near] - 1.6, 30.0), (airway.reshape(-1)[near], -1000.0)):
        flat[near] += cover(distance_mm, spacing_mm) * (density - flat[near])
    scanned = acquire(hu, body, protocol, spacing_mm, np.random.default_rng(noise_seed))
    origin = (float(grid.x[0]), float(grid.y[0]), float(grid.z[0]))
    return Volume(scanned, lungs, lobes(in_right, in_left, oblique, horizontal), lesions, origin, spacing_mm)


@lru_cache(maxsize=2)
def _patient(seed: int, number: int, female: bool) -> tuple[Thorax, DiseaseMaps]:
    """Everything that the scans of a patient share."""
    thorax = make_thorax(seed, number, female)
    return thorax, map_disease(thorax, seed, number)


class _Grid:
    """The voxels of one scan, and the patient's maps brought onto them."""

    def __init__(self, thorax: Thorax, spacing_mm: float, protocol: Protocol):
        self.thorax, self.size = thorax, spacing_mm
        self.inspiration, self.height = protocol.inspiration, thorax.build.height
        low = self.height * (1 - protocol.inspiration) - MARGIN_MM
        low += protocol.missed_mm + (MARGIN_MM if protocol.missed_mm else 0.0)
        width, depth = protocol.field_mm, min(FIELD_DEPTH_MM, protocol.field_mm)
        starts = (low, FIELD_CENTRE_Y - depth / 2, -width / 2)
        lengths = (self.height - low + MARGIN_MM, depth, width)
        self.z, self.y, self.x = (
            (start + spacing_mm * (0.5 + np.arange(max(round(length / spacing_mm), 1)))).astype(np.float32)
            for start, length in zip(starts, lengths, strict=True)
        )
        # A shallower breath lifts everything below the apex in proportion.
        self.z_body = (self.height - (self.height - self.z) / protocol.inspiration).astype(np.float32)
        self._taps = (linear_taps(thorax.z, self.z_body), linear_taps(thorax.y, self.y), linear_taps(thorax.x, self.x))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return len(self.z), len(self.y), len(self.x)

    def onto(self, field: Floats | str) -> Floats:
        """Bring a coarse map, or the name of one, onto the voxels."""
        return spread(self.thorax.fields[field] if isinstance(field, str) else field, self._taps)

    def noise_of_body(self, name: str) -> Floats:
        """One of the patient's random fields on the voxels."""
        return self.thorax.noise[name](self.z_body, self.y, self.x)

    def covered(self, name: str, grown_mm: float = 0.0) -> Floats:
        """Share of each voxel that an organ fills, grown or (negative) shrunk."""
        return cover(self.onto(name) - grown_mm, self.size)

    def voxels_of(self, points: Floats) -> Floats:
        """Bring points of the patient (n, 3), mm, to voxels; x, y, z."""
        z = self.height - (self.height - points[:, 2]) * self.inspiration
        return np.stack([points[:, 0] - self.x[0], points[:, 1] - self.y[0], z - self.z[0]], axis=1) / self.size

    def tubes(self, tree: Tree, radius: Floats) -> Floats:
        """Share of each voxel that the branches of a tree fill."""
        return draw_tubes(self.voxels_of(tree.start), self.voxels_of(tree.end), radius, self.shape, self.size)


def _body(grid: _Grid, body: Floats) -> Floats:
    """Table, skin, fat and muscle; whatever is inside the rib cage is fat so far."""
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    inside = np.flatnonzero((body < 0).any(axis=(0, 2)))
    if len(inside):
        _table(grid, hu, float(grid.y[inside[-1]]))
    mix(hu, -20.0, cover(body, grid.size))
    mix(hu, -104.0, cover(body + 2.0, grid.size))
    # Sheets of fat part the muscles.
    sheets = np.clip(1 - np.abs(grid.noise_of_body("patchy")) / 0.10, 0, 1)
    mix(hu, 50.0 - 95.0 * sheets, grid.covered("muscle"))
    cavity = grid.onto("cavity")
    mix(hu, 50.0, cover(cavity - 11.0, grid.size) * cover(body + 3.0, grid.size))
    mix(hu, -85.0, cover(cavity + 1.0, grid.size))
    return hu


def _organs(grid: _Grid, hu: Floats, state: Mapping[str, Any], protocol: Protocol) -> None:
    """Heart, great vessels, oesophagus, and what lies under the diaphragm."""
    blood = {"heart": 44.0, "great": 46.0, "pulmonary": 46.0}
    if protocol.contrast:
        blood = {"heart": 165.0, "great": 190.0, "pulmonary": 225.0}
    inside = grid.covered("cavity", -2.0)
    _abdomen(grid, hu, inside)
    hypertension = float(state["hypertension"])
    mix(hu, blood["heart"], grid.covered("heart", 3.0 * hypertension))
    mix(hu, blood["great"], grid.covered("great"))
    # The pulmonary artery of the mean radius of 13 mm grows to 17 mm in severe hypertension.
    mix(hu, blood["pulmonary"], grid.covered("pulmonary", 4.0 * hypertension))
    # Fibrosis and a wide, air-filled oesophagus go together in systemic sclerosis.
    wide = -1.0 + 7.0 * min(1.0, 0.2 + 2.2 * float(state["fibrosis"]))
    gullet = grid.onto("oesophagus") - wide
    mix(hu, 42.0, cover(gullet, grid.size))
    mix(hu, -940.0, cover(gullet + 6.5, grid.size))


def _abdomen(grid: _Grid, hu: Floats, inside: Floats) -> None:
    """Liver, spleen, stomach and fat under the two diaphragms, each a muscle 3 mm thick."""
    right, left = grid.onto("diaphragm_right"), grid.onto("diaphragm_left")
    is_right = (grid.x < 0)[None, None, :]
    under = np.where(is_right, -right, -left)
    mix(hu, 46.0, inside * cover(under, grid.size))
    mix(hu, -95.0, inside * cover(under + 3.0, grid.size))
    for organ, gap_mm, density in (("liver", 3.0, 60.0), ("spleen", 4.0, 52.0), ("stomach", 4.5, 38.0)):
        distance = smooth_max(under + gap_mm, grid.onto(organ), 6.0)
        mix(hu, density, inside * cover(distance, grid.size))
    if grid.thorax.build.stomach_gas:
        # The patient lies on the back: gas rises to the front.
        gas = np.maximum(smooth_max(under + 8.0, grid.onto("stomach") + 4.0, 6.0), grid.y[None, :, None] + 24.0)
        mix(hu, -960.0, inside * cover(gas, grid.size))


def _lungs(
    grid: _Grid,
    at: Ints,
    fissures: tuple[Floats, Floats],
    lungs: NDArray[np.uint8],
    maps: DiseaseMaps,
    state: Mapping[str, Any],
    protocol: Protocol,
) -> tuple[Floats, NDArray[np.uint8]]:
    """Parenchyma, disease, fissures, vessels and airways on the flat voxels `at`; and the lesion labels."""
    size = grid.size
    iz, iy, ix = np.unravel_index(at, grid.shape)
    positions = np.stack([grid.x[ix], grid.y[iy], grid.z_body[iz]], axis=1)
    fine, mottled = (grid.noise_of_body(name).reshape(-1)[at] for name in ("fine", "mottled"))
    gravity = positions[:, 1] / grid.thorax.build.half_depth
    # Less air for the same tissue: a shallow breath makes lungs denser.
    healthy = -1000 + 118 * maps.tissue / grid.inspiration**2 + 44 * gravity + 23 * fine + 12 * mottled
    interstitial = grid.onto(maps.interstitial)
    score, emphysema = (field.reshape(-1)[at] for field in (interstitial, grid.onto(maps.emphysema)))
    voxels = LungVoxels(healthy.astype(np.float32), positions, score, emphysema, fine, size)
    values, labels, fibrosis_score = draw_lesions(voxels, state, maps)
    lesions = np.zeros(grid.shape, dtype=np.uint8)
    lesions.reshape(-1)[at] = labels * (lungs.reshape(-1)[at] > 0)
    oblique, horizontal = (field.reshape(-1)[at] for field in fissures)
    middle = (grid.x[ix] < 0) & (oblique > 0)
    sheet = np.maximum(cover(np.abs(oblique), size), np.where(middle, cover(np.abs(horizontal), size), 0))
    values += sheet * min(1.0, 0.9 / size) * (-250 - values)
    arteries, veins = grid.thorax.arteries, grid.thorax.veins
    wide = 1 + 0.25 * float(state["hypertension"])
    vessels = np.maximum(grid.tubes(arteries, arteries.radius * wide), grid.tubes(veins, veins.radius))
    values += vessels.reshape(-1)[at] * ((170 if protocol.contrast else 38) - values)
    _airways(grid, values, at, interstitial, fibrosis_score)
    return values, lesions


def _airways(grid: _Grid, values: Floats, at: Ints, interstitial: Floats, fibrosis_score: float) -> None:
    """Draw airway walls and lumens; fibrosis pulls those within it wide (traction bronchiectasis)."""
    tree = grid.thorax.airways
    middle = np.rint(grid.voxels_of((tree.start + tree.end) / 2))[:, ::-1]
    where = tuple(np.clip(middle, 0, np.array(grid.shape) - 1).astype(int).T)
    pulled = np.zeros(len(middle), dtype=np.float32)
    if np.isfinite(fibrosis_score):
        pulled = np.clip((interstitial[where] - fibrosis_score) / 0.3 + 0.7, 0, 1)
    lumen = tree.radius * (1 + 0.9 * pulled)
    shown = lumen > 0.8
    kept = Tree(tree.start[shown], tree.end[shown], tree.radius[shown])
    wall = grid.tubes(kept, lumen[shown] * 1.15 + 0.45).reshape(-1)[at]
    values += 0.7 * wall * (0 - values)
    values += grid.tubes(kept, lumen[shown]).reshape(-1)[at] * (-985 - values)


def _bones(grid: _Grid, hu: Floats) -> None:
    """Draw ribs, cartilage, sternum, shoulder blades and spine."""
    names = ("cavity", "body", "height", "angle", "spine_x", "spine_y")
    cavity, skin, t, angle, x, spine_y = (grid.onto(name).reshape(-1) for name in names)
    near = np.flatnonzero((cavity > -2) & (cavity < 40) & (skin < -2) & (t > -0.12) & (t < 1.08))
    flat = hu.reshape(-1)
    _ribs(flat, near, (t[near], angle[near], cavity[near], np.abs(x[near])), grid.thorax, grid.size)
    near = np.flatnonzero((np.abs(x) < 45) & (spine_y > -24) & (spine_y < 75) & (skin < -2))
    _spine(flat, near, (np.abs(x[near]), spine_y[near], t[near]), grid.thorax, grid.size)


def _bone(flat: Floats, at: Ints, distance: Floats, size: float, marrow: float, cortex: float) -> None:
    """Draw bone on flat voxels: a dense shell about 1.8 mm thick around marrow."""
    close = distance < size
    at, distance = at[close], distance[close]
    values = flat[at]
    values += cover(distance, size) * (cortex - values)
    values += cover(distance + 1.8, size) * (marrow - values)
    flat[at] = values


def _ribs(flat: Floats, at: Ints, maps: tuple[Floats, Floats, Floats, Floats], thorax: Thorax, size: float) -> None:
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


def _shoulders(grid: _Grid, hu: Floats) -> None:
    """Draw collar bones and the heads of the raised upper arms."""
    z, build = grid.z_body, grid.thorax.build
    k, h = build.half_width / 125, build.height
    top = int(np.searchsorted(z, 0.86 * h))
    if top >= len(z):
        return
    zz, yy, xx = np.meshgrid(z[top:], grid.y, grid.x, indexing="ij")
    front = -0.30 * build.half_depth
    collar = np.array([[16 * k, front, 0.915 * h], [70 * k, front + 14, 0.985 * h], [135 * k, 14, 1.03 * h]])
    arm = np.array([[150 * k, 14, 0.99 * h], [176 * k, 8, 1.12 * h]])
    flat = hu[top:].reshape(-1)
    for points, radii in ((collar, np.array([7.5, 5.5, 5.5])), (arm, np.array([20.0, 14.0]))):
        distance: NDArray[np.float32] = tube(np.abs(xx), yy, zz, points, radii).reshape(-1)
        inside = np.flatnonzero((distance < grid.size) & (flat > -300))
        _bone(flat, inside, distance[inside], grid.size, 180.0, 480.0)
    hu[top:] = flat.reshape(hu[top:].shape)


def _table(grid: _Grid, hu: Floats, lowest_mm: float) -> None:
    """Draw the curved table top under the patient, whose back is at y = `lowest_mm`."""
    depth = grid.y[:, None] - (lowest_mm + 5.0 - grid.x**2 / 1100)
    shell = np.abs(depth - 1.5) - 1.5
    hu += cover(shell, grid.size)[None] * 780
    hu += cover(np.abs(depth - 16) - 13, grid.size)[None] * 45


def acquire(
    hu: Floats, body: Floats, protocol: Protocol, spacing_mm: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Blur and add noise, as the scanner and its reconstruction would; int16 HU, as 12-bit scanners store it."""
    axial = protocol.blur_mm / spacing_mm
    along = protocol.slice_thickness_mm / np.sqrt(12) / spacing_mm
    out = gaussian_filter(hu, (along, axial, axial), mode="nearest", truncate=3.0)
    if protocol.sharp:
        halo = 1.1 / spacing_mm
        out += 0.35 * (out - gaussian_filter(out, (0, halo, halo), mode="nearest", truncate=3.0))
    out += _noise(body, protocol, spacing_mm, rng)
    return np.clip(np.rint(out), -1024, 3071).astype(np.int16)


def _noise(body: Floats, protocol: Protocol, spacing_mm: float, rng: np.random.Generator) -> Floats:
    """Noise with the kernel's grain, stronger in wide slices, where it also streaks from side to side."""
    grain = (0.35 if protocol.sharp else 0.85) / spacing_mm
    noise = rng.standard_normal(body.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (0.0, grain, grain), mode="wrap", truncate=3.0)
    # Averaging over a larger voxel removes more of fine grain than of coarse grain.
    noise *= protocol.noise_hu * spacing_mm ** (-0.8 if protocol.sharp else -0.5) / noise.std()
    area = (body < 0).mean(axis=(1, 2))
    attenuation = np.exp(1.6 * (area / max(float(np.median(area)), 1e-3) - 1)).astype(np.float32)
    wide = np.clip(attenuation - 1.15, 0, 1.2)
    noise *= np.clip(attenuation, 0.6, 2.5)[:, None, None]
    at = np.flatnonzero(wide > 0)
    if len(at):
        streaks = gaussian_filter1d(rng.standard_normal((len(at), *body.shape[1:]), dtype=np.float32), 6.0 / spacing_mm)
        noise[at] += streaks * (1.4 * protocol.noise_hu * wide[at])[:, None, None]
    return noise
