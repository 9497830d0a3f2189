"""Lungs found in a chest CT from densities and shape, without training and without weights.

Air inside the body is found by threshold; trachea and main bronchi are followed and taken out; what is left is
split into right and left; and each lung grows over its vessels and over the dense disease that the threshold
missed. The first steps follow Hu, Hoffman and Reinhardt, IEEE Trans Med Imaging 2001;20:490-8.

Densities `hu` (HU), masks and labels (0 outside, 1 right lung, 2 left lung) have shape (z, y, x) in LPS order, with
isotropic voxels; the radii are meant for voxels of 1.5 to 4.5 mm.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sscct_lib.images.masks import (
    Mask,
    bounding_box,
    centre_column,
    closing,
    dilate,
    erode,
    fill_holes,
    label_sides,
    largest_pieces,
    lung_cores,
    millilitres,
    opening,
    pieces_with,
)
from sscct_lib.lungs.dense import dense_lung, look_around, pockets
from sscct_lib.lungs.gas import tell_gas
from sscct_lib.study.results import ScanError

Density = NDArray[np.float32]

AERATED_HU = -400  # half way between lung and chest wall: the surface of a healthy lung
DENSE_HU = -200  # ground glass and reticulation end here, fat begins at about -150
LUMEN_HU = -850
ROOM_AIR_HU = -930  # most of a lung is denser, most of the air around a patient is not
WALL_HU = 0  # what lies beyond the pleura
BONE_HU = 200
CLOSING_MM = 9.0
THICK_HU, THICK_MM = -50, 5.0
CYST_GAP_MM = 3.0
LEAST_ASIDE_MM = 30.0
NEIGHBOURHOOD_MM = 15.0
TRACHEA_MM = 25.0  # a shorter chain is no trachea
AIRWAY_ML = 90.0  # trachea and both main bronchi hold less; growing beyond means a leak into the lung
IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]


@dataclass(frozen=True)
class Anatomy:
    """What is found before the lungs; `airway` is empty when no trachea was found."""

    spacing_mm: float
    body: Mask  # with all that it holds
    airway: Mask  # trachea and main bronchi with their wall


def look(hu: Density, spacing_mm: float) -> Anatomy:
    """Find the body and the central airway; `ScanError` where there is no body."""
    inside = body(hu, spacing_mm)
    return Anatomy(spacing_mm, inside, central_airway(hu, inside, spacing_mm))


def find_lungs(hu: Density, anatomy: Anatomy) -> NDArray[np.uint8]:
    """Find and label the lungs; `ScanError` where there is no lung in the body."""
    allowed = anatomy.body & ~anatomy.airway
    air = allowed & (hu < AERATED_HU)
    if not air.any():
        raise ScanError("no lungs were found: no air inside the body.")
    middle = centre_column(anatomy.body)
    box = bounding_box(air, margin=round(2 * CLOSING_MM / anatomy.spacing_mm))
    labels = np.zeros(hu.shape, np.uint8)
    labels[box] = _label_lungs(hu[box], air[box], allowed[box], anatomy.spacing_mm, middle - box[2].start)
    return labels


def _label_lungs(hu: Density, air: Mask, allowed: Mask, spacing_mm: float, middle: float) -> NDArray[np.uint8]:
    seeds = _own_sides(lung_cores(air, spacing_mm), spacing_mm, middle)
    gas = tell_gas(hu, air, seeds, spacing_mm, middle)
    allowed = allowed & ~gas.other
    sides = _roughly(gas.lungs, seeds, middle)
    cage = look_around(hu, sides, spacing_mm, middle)
    apart = pockets(gas.apart & allowed, sides, cage)
    lungs = _with_dense_disease(
        hu, gas.lungs | (apart > 0), gas.cysts, allowed & (~gas.apart | (apart > 0)), spacing_mm
    )
    labels = label_sides(lungs, seeds, middle)
    labels[(apart > 0) & (labels > 0)] = apart[(apart > 0) & (labels > 0)]
    # Vessels of the hilum that are too thick to lie within the lung.
    thick = opening(ndimage.uniform_filter(hu, 3) > THICK_HU, THICK_MM, spacing_mm)
    filled = dense_lung(labels, apart, allowed, cage)
    labels[labels == 0] = filled.labels[labels == 0]
    thick &= ~dilate(filled.labels > 0, CLOSING_MM, spacing_mm)
    for label in np.unique(labels[labels > 0]):
        where = allowed & ~thick & ~filled.fluid
        labels[closing(labels == label, CLOSING_MM, spacing_mm) & where & (labels == 0)] = label
        box = bounding_box(labels == label, margin=1)
        part = labels[box]
        part[fill_holes(part == label) & allowed[box] & (part == 0)] = label
    return _to_the_pleura(hu, labels, allowed & ~filled.fluid, spacing_mm)


def _roughly(lungs: Mask, seeds: list[Mask], middle: float) -> NDArray[np.uint8]:
    """Label the lungs; where they hang together, by the column between them."""
    if len(seeds) == 1:
        return label_sides(lungs, seeds, middle)
    pieces, _ = ndimage.label(lungs)
    right, left = (np.unique(pieces[seed & lungs]) for seed in seeds)
    if not np.isin(right, left).any():
        return (np.isin(pieces, right) + 2 * np.isin(pieces, left)).astype(np.uint8)
    between = (centre_column(seeds[0]) + centre_column(seeds[1])) / 2
    return np.where(lungs, np.where(np.arange(lungs.shape[2]) < between, 1, 2), 0).astype(np.uint8)


def _own_sides(seeds: list[Mask], spacing_mm: float, middle: float) -> list[Mask]:
    """Take two cores for one lung unless they lie to the right and to the left: a single lung may reach over."""
    if len(seeds) == 1:
        return seeds
    right, left = (centre_column(seed) for seed in seeds)
    sizes = [np.count_nonzero(seed) for seed in seeds]
    aside = abs((right, left)[int(np.argmin(sizes))] - middle) * spacing_mm
    if right < middle < left and (aside >= LEAST_ASIDE_MM or 2 * min(sizes) > max(sizes)):
        return seeds
    return [seeds[0] | seeds[1]]


def body(hu: Density, spacing_mm: float) -> Mask:
    """The body with all that it holds; the table and blankets are left out."""
    solid = hu > AERATED_HU
    core = largest_pieces(erode(solid, 3, spacing_mm), 1)
    if not core:
        raise ScanError("no body was found: no region of soft tissue. Is this a chest CT in Hounsfield units?")
    tissue = dilate(core[0], 3, spacing_mm) & solid
    pieces, n = ndimage.label(~tissue, IN_PLANE)
    outside = np.zeros(n + 1, dtype=bool)
    for face in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
        outside[face] = True
    outside &= ~_cut_lung(hu, tissue, pieces, n)
    outside[0] = False
    return ~outside[pieces]


def _cut_lung(hu: Density, tissue: Mask, pieces: NDArray[Any], n: int) -> Mask:
    """Tell which pieces could be lung that a narrow field cuts: denser than room air, with the body on two sides."""
    enclosed = np.zeros(tissue.shape, dtype=bool)
    for axis in (1, 2):
        before = np.logical_or.accumulate(tissue, axis=axis)
        after = np.flip(np.logical_or.accumulate(np.flip(tissue, axis), axis=axis), axis)
        enclosed |= before & after
    size = np.maximum(np.bincount(pieces.ravel(), minlength=n + 1), 1)
    thin = np.bincount(pieces.ravel(), weights=(hu < ROOM_AIR_HU).ravel(), minlength=n + 1) / size
    within = np.bincount(pieces.ravel(), weights=enclosed.ravel(), minlength=n + 1) / size
    return np.asarray((thin < 0.5) & (within > 0.7))


def central_airway(hu: Density, inside: Mask, spacing_mm: float) -> Mask:
    """Trachea and main bronchi, lumen and wall; empty when no trachea was found."""
    trachea = _trachea(hu, inside, spacing_mm)
    if not trachea.any():
        return trachea
    # Main bronchi end within 8 cm of the trachea, and 6 cm below its end.
    margin = round(80 / spacing_mm)
    box = bounding_box(trachea, margin)
    box = (slice(max(0, np.argwhere(trachea)[0, 0] - round(60 / spacing_mm)), box[0].stop), *box[1:])
    part = (hu[box], inside[box], trachea[box], spacing_mm)
    lumen = opening(_grow_airway(*part), 3, spacing_mm) | trachea[box] | _main_bronchi(*part)
    airway = np.zeros_like(inside)
    airway[box] = dilate(lumen, 2, spacing_mm)
    return airway


def _trachea(hu: Density, inside: Mask, spacing_mm: float) -> Mask:
    """A chain of round dark spots in axial slices near the midline: of those that reach up, the foremost."""
    spots, n = ndimage.label(inside & (hu < LUMEN_HU), IN_PLANE)
    area = np.bincount(spots.ravel(), minlength=n + 1) * spacing_mm**2
    columns = np.flatnonzero(inside.any(axis=(0, 1)))
    middle, width = columns.mean(), np.ptp(columns)
    round_spots = np.zeros(n + 1, dtype=bool)
    boxes = ndimage.find_objects(spots)
    for spot, (_, rows, across) in enumerate(boxes, start=1):
        height, breadth = rows.stop - rows.start, across.stop - across.start
        fills_box = area[spot] / (height * breadth * spacing_mm**2) > 0.5
        compact = max(height, breadth) <= 2.5 * min(height, breadth) + 1
        near_midline = abs((across.start + across.stop - 1) / 2 - middle) < 0.15 * width
        fits = 40 <= area[spot] <= 800 and fills_box and compact and near_midline
        round_spots[spot] = fits and _in_tissue(hu, spots, spot, boxes[spot - 1])
    chains, _ = ndimage.label(round_spots[spots])
    found = dict(enumerate(ndimage.find_objects(chains), start=1))
    long = {chain: box for chain, box in found.items() if (box[0].stop - box[0].start) * spacing_mm >= TRACHEA_MM}
    if not long:
        return np.zeros_like(inside)
    top = max(box[0].stop for box in long.values())
    high = [chain for chain, box in long.items() if (top - box[0].stop) * spacing_mm <= 2 * TRACHEA_MM]
    # A wide oesophagus holds air too, and lies behind.
    return np.asarray(chains == min(high, key=lambda chain: long[chain][1].start))


def _in_tissue(hu: Density, spots: NDArray[Any], spot: int, box: tuple[slice, ...]) -> bool:
    """Tell the trachea from dark lung: two voxels beyond its lumen lies soft tissue, most of the way round."""
    level, rows, columns = box
    part = np.s_[level.start, max(0, rows.start - 2) : rows.stop + 2, max(0, columns.start - 2) : columns.stop + 2]
    lumen = spots[part] == spot
    wall = ndimage.binary_dilation(lumen)
    beyond = ndimage.binary_dilation(wall) & ~wall
    return bool((hu[part][beyond] > AERATED_HU).mean() > 0.5)


def _grow_airway(hu: Density, inside: Mask, trachea: Mask, spacing_mm: float) -> Mask:
    """Raise the threshold as long as the air that hangs on the trachea does not leak into the lungs."""
    lumen = trachea
    for threshold in range(-980, LUMEN_HU, 10):
        grown = pieces_with(inside & (hu < threshold) | trachea, [trachea])
        if millilitres(grown, spacing_mm) > AIRWAY_ML:
            break
        lumen = grown
    return lumen


def _main_bronchi(hu: Density, inside: Mask, trachea: Mask, spacing_mm: float) -> Mask:
    """Tubes near the carina: air too narrow for lung, dark as a lumen, hanging on the trachea."""
    air = inside & (hu < AERATED_HU)
    wide = dilate(opening(air, 9, spacing_mm), 3, spacing_mm)
    return pieces_with(air & ~wide & (hu < -900) | trachea, [trachea])


def _with_dense_disease(hu: Density, lungs: Mask, cysts: Mask, allowed: Mask, spacing_mm: float) -> Mask:
    """Add ground glass, reticulation and honeycombing: denser than the threshold, and cysts cut off by dense walls."""
    dense = allowed & (hu >= AERATED_HU) & (hu < DENSE_HU)
    # The blurred surface of a healthy lung has the same densities, but is one voxel thin.
    thick = opening(dense, spacing_mm, spacing_mm)
    return pieces_with(closing((lungs | cysts | thick) & allowed, CYST_GAP_MM, spacing_mm) & allowed, [lungs & allowed])


def _to_the_pleura(hu: Density, labels: NDArray[np.uint8], allowed: Mask, spacing_mm: float) -> NDArray[np.uint8]:
    """Move the surface to where density is half way between the lung beside it and the chest wall."""
    # Beside healthy lung half way is the threshold already used; beside dense disease it lies further out.
    lungs = labels > 0
    size = 2 * round(NEIGHBOURHOOD_MM / spacing_mm / 2) + 1
    share = ndimage.uniform_filter(lungs.astype(np.float32), size)
    beside = ndimage.uniform_filter(np.where(lungs, hu, 0).astype(np.float32), size) / np.maximum(share, 1e-3)
    half_way = np.minimum((beside + WALL_HU) / 2, DENSE_HU / 2)
    grown = labels.copy()
    for label in (1, 2):
        rim = dilate(labels == label, spacing_mm / 2, spacing_mm) & (grown == 0) & allowed
        grown[rim & (hu < half_way)] = label
    return grown
