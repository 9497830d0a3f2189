"""Lung without air: consolidated lobes and masses at the pleura, told from fluid, heart, diaphragm and hilum.

Density does not tell consolidated lung from the organs beside it; place does. Lung is expected where the other lung
lies, mirrored, above the diaphragm that is seen, and out to the pleura, at an even distance inside the ribs. What is
solid there, as dense as tissue, and reaches the ribs is lung; fluid is not, nor is what only reaches the hilum.

Arrays have shape (z, y, x) in LPS order with isotropic voxels; labels are 1 in the right lung and 2 in the left one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sscct_lib.images.masks import Mask, closing, dilate, opening

Density = NDArray[np.float32]
Labels = NDArray[np.uint8]

COARSE_MM = 4.0
SOLID_HU = (-150, 200)
FLUID_HU = (-30, 22)  # water, and fluid with protein; muscle and consolidated lung are denser
RIB_HU = 150
RIB_TO_PLEURA_MM = 25.0
SHELL_MM = 12.0  # below the pleura
PLEURAL_CLOSING_MM = 20.0
BRONCHUS_MM = 6.0  # there is air in the bronchi of consolidated lung
CORE_MM = 10.0  # the aorta and the dome of the diaphragm, where the two lungs differ, are narrower
LEAST_ML = 10.0
LEAST_AT_RIBS = 0.1
ABOVE_DOME_MM, LEAST_HIGH = 15.0, 0.35  # liver that the other lung's shape covers lies lower
MEDIASTINUM_MM = 25.0, 32.0  # to the right and, with the aorta, to the left of the midline
RIGHT_HEART_MM, LEFT_HEART_MM = 42.0, 50.0  # from the midline
HEART_HEIGHT, HEART_BEHIND_MM = 0.6, (25.0, 0.0)  # its back, from the middle of the lungs: near the midline, and aside
BESIDE_HEART_MM = 35.0  # below the pleura of the ribs
N_ANGLES = 72
LEAST_IN_PLACE, LEAST_BEYOND = 0.3, 0.5
FLOOR_MM = 25.0  # lung that ends so much higher than expected stands on something solid
IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]


@dataclass(frozen=True)
class Cage:
    """The rib cage on a grid of about 4 mm, and where in it each lung is expected."""

    step: int  # voxels of the scan in one of these
    size: float  # mm
    middle: float  # column between the lungs
    solid: Mask  # soft tissue within the pleura of the ribs
    fluid: Mask  # what of it is no denser than fluid
    near_ribs: Mask
    inside: Mask
    shell: Mask  # the outermost part of the inside
    place: dict[int, Mask]  # the shape of the other lung, by label
    expected: dict[int, Mask]  # the same above the diaphragm that is seen


@dataclass(frozen=True)
class Filled:
    """What is added to the lungs, and the fluid beside them that is not."""

    labels: Labels
    fluid: Mask


def look_around(hu: Density, labels: Labels, spacing_mm: float, middle: float) -> Cage:
    """Find the rib cage around aerated lungs; `middle` is the column between them."""
    step = max(1, round(COARSE_MM / spacing_mm))
    size = step * spacing_mm
    coarse = _blocks(hu, step)
    lungs = {label: _blocks(labels == label, step) >= 0.5 for label in (1, 2)}
    both = lungs[1] | lungs[2]
    middle = (middle - (step - 1) / 2) / step
    ribs = _ribs(coarse, both, size, middle)
    depth = _depth_below_pleura(ribs, both, size)
    inside, near_ribs = depth >= -size / 2, dilate(ribs, RIB_TO_PLEURA_MM, size)
    solid = (coarse > SOLID_HU[0]) & (coarse < SOLID_HU[1]) & inside
    density = _among(coarse, solid)
    fluid = solid & (density > FLUID_HU[0]) & (density < FLUID_HU[1])
    place, expected = {}, {}
    if lungs[1].any() and lungs[2].any():
        turn = _mirror_column(lungs[1], lungs[2])
        centre = np.nonzero(both)[1].mean()
        aside, behind = (2 * np.arange(both.shape[2]) - turn) * size / 2, np.arange(both.shape[1]) - centre
        for label, own in lungs.items():
            shape = _mirrored(lungs[3 - label], turn)
            if label == 1:  # heart and aorta dent the left lung only
                high = round(_top_of_diaphragm(shape) + ABOVE_DOME_MM / size)
                shape[high:] |= np.maximum.accumulate(shape[high:], axis=2) & (aside < -RIGHT_HEART_MM)
            place[label], expected[label] = _on_own_floor(shape, own, size)
        # The left heart: there the other lung's shape tells nothing.
        expected[1] &= aside < -MEDIASTINUM_MM[0]
        expected[2] &= aside > MEDIASTINUM_MM[1]
        heights = np.flatnonzero(lungs[2].any(axis=(1, 2)))
        low = slice(0, round(heights[0] + HEART_HEIGHT * np.ptp(heights)))
        heart = behind[:, None] * size < np.where(aside < LEFT_HEART_MM, *HEART_BEHIND_MM)
        expected[2][low] &= ~heart | (depth[low] < BESIDE_HEART_MM)
    return Cage(step, size, middle, solid, fluid, near_ribs, inside, depth < SHELL_MM, place, expected)


def pockets(apart: Mask, labels: Labels, cage: Cage) -> Labels:
    """Label the pieces of air apart from the lungs that lie where a lung is expected, whatever lies between.

    Where the other lung lies, mirrored; or inside the ribs above the diaphragm and aside, where nothing else holds air.
    """
    pieces, n = ndimage.label(apart)
    at = np.nonzero(pieces)
    which, coarse_at = pieces[at], tuple(index // cage.step for index in at)
    size, out = np.bincount(which, minlength=n + 1), np.zeros_like(labels)
    for label in (1, 2):
        own = _blocks(labels == label, cage.step) >= 0.5
        place = closing(own, PLEURAL_CLOSING_MM, cage.size) | cage.place.get(label, own)
        aside = (coarse_at[2] - cage.middle) * cage.size * (1 if label == 2 else -1)
        high = coarse_at[0] >= _top_of_diaphragm(own) + ABOVE_DOME_MM / cage.size
        inside = cage.inside[coarse_at]
        within, beyond = (
            np.bincount(which, weights=inside & there, minlength=n + 1)
            for there in (place[coarse_at], high & (aside > MEDIASTINUM_MM[1]))
        )
        found = (within > LEAST_IN_PLACE * size) | (beyond > LEAST_BEYOND * size)
        found[0] = False
        out[found[pieces]] = label
    return out


def dense_lung(labels: Labels, apart: Labels, allowed: Mask, cage: Cage) -> Filled:
    """Find consolidated lung and pleural fluid beside the lungs; `apart` are pieces of theirs that were cut off."""
    size, space = cage.size, cage.solid
    filled, fluid = np.zeros(space.shape, np.uint8), np.zeros(space.shape, bool)
    lungs = {label: _blocks(labels == label, cage.step) >= 0.5 for label in (1, 2)}
    for label, own in lungs.items():
        free = cage.inside & ~own & ~lungs[3 - label]
        pleural = closing(own, PLEURAL_CLOSING_MM, size) & cage.near_ribs & ~cage.fluid
        if label in cage.expected:
            expected = cage.expected[label]
            high = np.arange(len(own)) >= _top_of_diaphragm(cage.place[label]) + ABOVE_DOME_MM / size
            around = ndimage.binary_dilation(expected, IN_PLANE, iterations=round(SHELL_MM / size)) & cage.shell
            space = (expected | around) & free
            wet = _cores(cage.fluid & space, cage.shell, size)
            fluid |= wet
            consolidated = _cores(
                closing(cage.solid & ~cage.fluid & space, BRONCHUS_MM, size) & space, cage.shell, size, high
            )
            pleural = pleural & ~dilate(wet, size, size) | consolidated & ~wet
        if (apart == label).any():
            pleural |= closing(own, PLEURAL_CLOSING_MM / 2, size) & cage.place.get(label, own) & cage.solid
        filled[pleural & free & (filled == 0)] = label
    return Filled(_fine(filled, labels.shape, cage.step) * allowed, _fine(fluid, labels.shape, cage.step).astype(bool))


def _blocks(values: NDArray[np.generic], step: int) -> Density:
    """Means of blocks of voxels; the last ones are repeated to fill a block."""
    if step == 1:
        return values.astype(np.float32)
    padded = np.pad(values, [(0, -n % step) for n in values.shape], mode="edge").astype(np.float32)
    z, y, x = (n // step for n in padded.shape)
    return np.asarray(padded.reshape(z, step, y, step, x, step).mean(axis=(1, 3, 5)), np.float32)


def _fine(labels: NDArray[np.generic], shape: tuple[int, ...], step: int) -> Labels:
    """Coarse labels on the finer grid, their steps smoothed."""
    fine = np.zeros(shape, np.uint8)
    for label in (1, 2):
        if (mine := labels == label).any():
            blocks = mine.astype(np.float32)
            for axis in range(3):
                blocks = np.repeat(blocks, step, axis=axis)
            blocks = blocks[tuple(slice(n) for n in shape)]
            fine[(ndimage.uniform_filter(blocks, step + 1) if step > 1 else blocks) >= 0.5] = label
    return fine


def _among(coarse: Density, solid: Mask) -> Density:
    """Mean density of the solid voxels around each voxel: 12 mm quieten the noise and keep the air beside out."""
    share = ndimage.uniform_filter(solid.astype(np.float32), 3)
    return np.asarray(ndimage.uniform_filter(np.where(solid, coarse, 0), 3) / np.maximum(share, 1e-3), np.float32)


def _ribs(coarse: Density, lungs: Mask, size: float, middle: float) -> Mask:
    """Ribs, without the spine, and without blood with contrast medium, which lies between the lungs."""
    aside = np.abs(np.arange(coarse.shape[2]) - middle) > 45 / size
    between = np.maximum.accumulate(lungs, axis=2) & np.maximum.accumulate(lungs[:, :, ::-1], axis=2)[:, :, ::-1]
    return np.asarray((coarse > RIB_HU) & aside & ~between)


def _depth_below_pleura(ribs: Mask, lungs: Mask, size: float) -> Density:
    """Depth below the pleura of the ribs, mm, seen from the middle: aerated lung ends at an even distance from ribs."""
    y, x = np.indices(lungs.shape[1:])
    _, cy, cx = (index.mean() for index in np.nonzero(lungs))
    radius = np.hypot(y - cy, x - cx) * size
    angle = ((np.arctan2(y - cy, x - cx) / (2 * np.pi) + 0.5) * N_ANGLES).astype(int) % N_ANGLES
    rib = np.full((len(lungs), N_ANGLES), np.inf)
    z, at_y, at_x = np.nonzero(ribs)
    np.minimum.at(rib, (z, angle[at_y, at_x]), radius[at_y, at_x])
    lung = np.zeros_like(rib)
    z, at_y, at_x = np.nonzero(lungs)
    np.maximum.at(lung, (z, angle[at_y, at_x]), radius[at_y, at_x])
    # Ribs run aslant: within a few centimetres there is one in each direction.
    around = ndimage.minimum_filter(rib, (1 + 2 * round(20 / size), 3), mode=("nearest", "wrap"))
    known, wide = np.isfinite(rib) & (rib <= around + 10.0), (8.0 / size, 1.0)  # shoulder blades lie further out
    total, weight = (
        ndimage.gaussian_filter(values, wide, mode=("nearest", "wrap"))
        for values in (np.where(known, rib, 0.0), known.astype(float))
    )
    rib = np.where(weight > 0.01, total / np.maximum(weight, 1e-6), np.inf)
    gap = (rib - lung)[np.isfinite(rib) & (lung > 0)]
    gap = gap[np.abs(gap) < 20]
    pleura = np.maximum(rib - (np.median(gap) if len(gap) else 5.0), lung)
    return np.asarray(pleura[:, angle] - radius, np.float32)


def _mirrored(mask: Mask, turn: int) -> Mask:
    """Mirror from right to left; `turn` is the sum of the columns of a voxel and its image."""
    columns = turn - np.arange(mask.shape[2])
    within = (columns >= 0) & (columns < mask.shape[2])
    out = np.zeros_like(mask)
    out[:, :, within] = mask[:, :, columns[within]]
    return out


def _mirror_column(right: Mask, left: Mask) -> int:
    """The mirror in which one lung covers most of the other."""
    right, left = right[::2, ::2], left[::2, ::2]
    middle = round(np.nonzero(right)[2].mean() + np.nonzero(left)[2].mean())
    return max(range(middle - 12, middle + 13), key=lambda turn: int(np.count_nonzero(_mirrored(right, turn) & left)))


def _on_own_floor(shape: Mask, own: Mask, size: float) -> tuple[Mask, Mask]:
    """Set the lower half of the other lung's shape on the diaphragm of this lung; then cut off what lies below it."""
    both = own.any(axis=0) & shape.any(axis=0)
    if not both.any():
        return shape, shape.copy()
    floor = np.argmax(own, axis=0)
    # Over consolidated lung the lowest air lies too high.
    step = int(np.percentile((floor - np.argmax(shape, axis=0))[both], 20))
    z = np.arange(len(shape))
    low, half = int(np.flatnonzero(shape.any(axis=(1, 2)))[0]), int(np.nonzero(shape)[0].mean())
    stretch = (half - low) / max(half - low - step, 1)
    source = np.where(z < half, np.rint(half - (half - z) * stretch), z).clip(0, len(z) - 1).astype(int)
    moved = shape[source]
    near = both & (floor - np.argmax(moved, axis=0) <= FLOOR_MM / size)
    share, whole = (ndimage.uniform_filter(mask.astype(np.float32), 3) for mask in (near, both))
    seen = both & (share >= 0.5 * whole)
    return moved, np.asarray(moved & ~(seen & (z[:, None, None] < floor)))


def _top_of_diaphragm(expected: Mask) -> float:
    """How high the diaphragm rises below a lung, voxels; lung that stands on the heart ends higher."""
    floors = np.argmax(expected, axis=0)[expected.any(axis=0)]
    return float(np.percentile(floors, 60)) if len(floors) else 0.0


def _cores(mask: Mask, shell: Mask, size: float, high: NDArray[np.bool_] | None = None) -> Mask:
    """The thick parts of a mask that reach the ribs, and (where asked) do not lie below the top of the diaphragm."""
    thick = opening(mask, CORE_MM, size)
    pieces, n = ndimage.label(thick)
    whole = np.bincount(pieces.ravel(), minlength=n + 1)
    kept = (whole * size**3 / 1000 >= LEAST_ML) & (np.bincount(pieces[shell], minlength=n + 1) >= LEAST_AT_RIBS * whole)
    if high is not None:
        kept &= np.bincount(pieces[high].ravel(), minlength=n + 1) >= LEAST_HIGH * whole
    kept[0] = False
    core = kept[pieces]
    # The opening rounds corners off: they are taken back.
    return np.asarray(dilate(core, CORE_MM, size) & mask) if core.any() else core
