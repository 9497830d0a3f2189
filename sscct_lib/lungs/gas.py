"""Air in the chest that is no lung: oesophagus, hernia, stomach, bowel, and a pneumothorax.

Arrays have shape (z, y, x) in LPS order with isotropic voxels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from sscct_lib.images.masks import Mask, dilate, erode, opening, pieces_with

GAS_HU = -930  # air without tissue
PURE_HU = -970
LARGEST_CYST_ML = 2.0
WALL_MM = 3.0
LEAST_BESIDE_LUNG = 0.12
MEDIAN_MM = 35.0
PNEUMOTHORAX_ML = 20.0
MOST_CONVEX = 0.62
LEAST_AT_WALL, MOSTLY_AT_WALL = 0.3, 0.6


@dataclass(frozen=True)
class Gas:
    """The air in the body, sorted."""

    lungs: Mask  # what hangs on the core of a lung
    apart: Mask  # what could belong to a lung that is cut through: it holds tissue, or lies beside lung
    cysts: Mask  # small pieces
    other: Mask  # oesophagus, stomach, bowel, pneumothorax, with a wall


def tell_gas(hu: NDArray[np.float32], air: Mask, seeds: list[Mask], spacing_mm: float, middle: float) -> Gas:
    """Sort the air in the body by what it hangs on, what lies beside it, and whether it holds tissue."""
    pieces, n = ndimage.label(air)
    ml = np.bincount(pieces.ravel(), minlength=n + 1) * spacing_mm**3 / 1000
    lung = np.zeros(n + 1, dtype=bool)
    for seed in seeds:
        lung[np.unique(pieces[seed])] = True
    lung[0] = False
    boxes = ndimage.find_objects(pieces)
    candidates = [int(piece) for piece in np.flatnonzero((ml >= LARGEST_CYST_ML) & ~lung) if piece]
    apart = np.zeros(n + 1, dtype=bool)
    margin = round(WALL_MM / spacing_mm) + 1
    # A cyst may lie behind another one: what was found counts for the next.
    for piece in 2 * candidates:
        box = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in boxes[piece - 1])
        mine = pieces[box] == piece
        rim = dilate(mine, WALL_MM, spacing_mm) & ~mine
        central = abs(np.nonzero(mine)[2].mean() + box[2].start - middle) * spacing_mm < MEDIAN_MM
        beside = (lung | apart)[pieces[box][rim]].mean()
        apart[piece] = _aerated(hu[box], mine) or (beside > LEAST_BESIDE_LUNG and not central)
    small = (ml < LARGEST_CYST_ML) & ~lung
    small[0] = False
    other = np.zeros(n + 1, dtype=bool)
    other[candidates] = ~apart[candidates]
    lungs, separate = lung[pieces], apart[pieces]
    free = _free_gas(hu, lungs | separate, spacing_mm, middle)
    wall = dilate(other[pieces], 2, spacing_mm) & ~lungs
    return Gas(lungs & ~free, separate & ~free, small[pieces], wall | free)


def _aerated(hu: NDArray[np.float32], mine: Mask) -> bool:
    """Tell lung from gas by the tissue in it."""
    inner = ndimage.binary_erosion(mine)
    values = hu[inner] if inner.sum() >= 20 else hu[mine]
    return bool((values < GAS_HU).mean() < 0.5)


def _free_gas(hu: NDArray[np.float32], lungs: Mask, spacing_mm: float, middle: float) -> Mask:
    """Pneumothorax, and gas of the oesophagus or a hernia that hangs on a lung; a bulla is convex and stays."""
    quiet = ndimage.uniform_filter(hu, 3)
    free = _gullet(quiet, lungs, spacing_mm, middle)
    pieces, n = ndimage.label(opening(lungs & (quiet < PURE_HU), 4.0, spacing_mm))
    leading, beside = np.zeros(n + 1, dtype=bool), np.zeros(n + 1, dtype=bool)
    for piece, mine, at_wall in _walled(pieces, lungs, LARGEST_CYST_ML, spacing_mm):
        beside[piece] = at_wall > LEAST_AT_WALL
        large = np.count_nonzero(mine) * spacing_mm**3 / 1000 >= PNEUMOTHORAX_ML
        leading[piece] = large and beside[piece] and _convexity(mine) < MOST_CONVEX
    if leading.any():  # beside a pneumothorax, other gas at the wall is a part of it, and so is what hangs on it
        free |= pieces_with(lungs & (quiet < PURE_HU), [(leading | beside)[pieces]])
    if not free.any():
        return free
    gas = dilate(free, 6.0, spacing_mm) & lungs & (quiet < GAS_HU)
    rest = lungs & ~gas
    return gas | (rest & ~opening(rest, 3.0, spacing_mm) & dilate(gas, 6.0, spacing_mm))


def _gullet(quiet: NDArray[np.float32], lungs: Mask, spacing_mm: float, middle: float) -> Mask:
    """Gas near the midline and behind that has soft tissue on most of its sides."""
    found = np.zeros_like(lungs)
    _, rows, _ = np.nonzero(lungs)
    aside = round(2 * MEDIAN_MM / spacing_mm)
    box = np.s_[:, int(rows.mean()) :, max(0, round(middle) - aside) : round(middle) + aside]
    pieces, n = ndimage.label(opening(lungs[box] & (quiet[box] < GAS_HU), 4.0, spacing_mm))
    central = np.zeros(n + 1, dtype=bool)
    for piece, box_of in enumerate(ndimage.find_objects(pieces), start=1):
        across = (box_of[2].start + box_of[2].stop) / 2 + box[2].start
        central[piece] = abs(across - middle) * spacing_mm < MEDIAN_MM
    for piece, _, at_wall in _walled(pieces * central[pieces], lungs[box], LARGEST_CYST_ML, spacing_mm):
        found[box] |= (pieces == piece) & (at_wall > MOSTLY_AT_WALL)
    return found


def _walled(
    pieces: NDArray[np.integer], lungs: Mask, least_ml: float, spacing_mm: float
) -> Iterator[tuple[int, Mask, float]]:
    """Pieces of some size, cut out, and the share of what lies around each that is no lung."""
    for piece, found in enumerate(ndimage.find_objects(pieces), start=1):
        if found is None:
            continue
        box = tuple(slice(max(0, side.start - 4), side.stop + 4) for side in found)
        mine = pieces[box] == piece
        if np.count_nonzero(mine) * spacing_mm**3 / 1000 >= least_ml:
            grown = ndimage.binary_dilation(mine, iterations=2)  # the mean of neighbours ends before the wall
            rim = ndimage.binary_dilation(grown) & ~grown
            yield piece, mine, float((~lungs[box] & rim).sum() / rim.sum())


def _convexity(mask: Mask) -> float:
    """Share of its convex hull that a mask fills."""
    surface = np.argwhere(mask & ~erode(mask, 0.5, 1.0))
    try:
        hull = ConvexHull(surface[:: max(1, len(surface) // 4000)])
    except QhullError:  # a flat piece has no hull
        return 1.0
    return float(np.count_nonzero(mask) / max(hull.volume, 1.0))
