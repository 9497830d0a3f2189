"""Finding the lungs in a chest CT from densities and shape, without training and without weights.

Air inside the body is found by threshold; trachea and main bronchi are followed and taken out; what is left is
split into right and left; and each lung is closed over the vessels and the dense disease that the threshold missed.
All functions take arrays [z, y, x] in LPS order with isotropic voxels. The threshold and airway steps follow Hu,
Hoffman and Reinhardt, IEEE Trans Med Imaging 2001;20:490-8.
"""

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from sscct_lib.scans import ScanError

Mask = NDArray[np.bool_]
Density = NDArray[np.float32]

AERATED_HU = -400  # half way between lung and chest wall: the surface of a healthy lung
DENSE_HU = -200  # ground glass and reticulation end here, fat begins at about -150
LUMEN_HU = -850
CLOSING_MM = 9.0
SMALLEST_LUNG_ML = 150.0
MERGED_RATIO = 0.2  # a second piece below this share of the first is no lung: the two lungs hang together
AIRWAY_ML = 90.0  # trachea and both main bronchi hold less; growing beyond means a leak into the lung
IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]


def find_lungs(hu: Density, spacing_mm: float) -> NDArray[np.uint8]:
    """Find and label the lungs.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x).
    spacing_mm
        Voxel side, mm; the method is meant for 1.5 to 4.5 mm.

    Returns
    -------
    numpy.ndarray
        0 outside, 1 right lung, 2 left lung, shape (z, y, x).

    Raises
    ------
    ScanError
        If there is no body, or no lung in it.
    """
    inside = body(hu, spacing_mm)
    box = _bounding_box(inside)
    labels = np.zeros(hu.shape, np.uint8)
    labels[box] = _lungs_in_body(hu[box], inside[box], spacing_mm)
    return labels


def _lungs_in_body(hu: Density, inside: Mask, spacing_mm: float) -> NDArray[np.uint8]:
    airway = central_airway(hu, inside, spacing_mm)
    air = inside & (hu < AERATED_HU) & ~airway
    seeds = _two_seeds(air, spacing_mm)
    lungs = _pieces_with(air | _dense_disease(hu, inside & ~airway), seeds)
    labels = _nearest_seed(lungs, seeds)
    allowed = inside & ~airway
    closed = [_close(labels == label, CLOSING_MM, spacing_mm) & allowed for label in (1, 2)]
    free = labels == 0
    labels[free & closed[0]] = 1
    labels[free & closed[1] & ~closed[0]] = 2
    return labels


def body(hu: Density, spacing_mm: float) -> Mask:
    """Find the body with all that it holds; the table and blankets are left out.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x).
    spacing_mm
        Voxel side, mm.

    Returns
    -------
    numpy.ndarray
        Whether a voxel lies in the body, shape (z, y, x).
    """
    solid = hu > AERATED_HU
    core = _largest(_erode(solid, 3, spacing_mm), 1)
    if not core:
        raise ScanError("no body was found: no region of soft tissue. Is this a chest CT in Hounsfield units?")
    tissue = _dilate(core[0], 3, spacing_mm) & solid
    pieces, n = ndimage.label(~tissue, IN_PLANE)
    outside = np.zeros(n + 1, dtype=bool)
    for face in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
        outside[np.unique(face)] = True
    outside[0] = False
    return ~outside[pieces]


def central_airway(hu: Density, inside: Mask, spacing_mm: float) -> Mask:
    """Follow the trachea and the main bronchi.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x).
    inside
        From `body`.
    spacing_mm
        Voxel side, mm.

    Returns
    -------
    numpy.ndarray
        Lumen and wall of the central airway; empty when no trachea was found.
    """
    trachea = _trachea(hu, inside, spacing_mm)
    if not trachea.any():
        return trachea
    lumen = _grow_airway(hu, inside, trachea, spacing_mm)
    lumen = (_open(lumen, 3, spacing_mm) & lumen) | trachea | _main_bronchi(hu, inside, trachea, spacing_mm)
    return _dilate(lumen, 2, spacing_mm)


def _trachea(hu: Density, inside: Mask, spacing_mm: float) -> Mask:
    """Find the longest chain of round dark spots in axial slices near the midline."""
    spots, n = ndimage.label(inside & (hu < LUMEN_HU), IN_PLANE)
    area = np.bincount(spots.ravel(), minlength=n + 1) * spacing_mm**2
    columns = np.flatnonzero(inside.any(axis=(0, 1)))
    centre, width = (columns[0] + columns[-1]) / 2, columns[-1] - columns[0]
    round_spots = np.zeros(n + 1, dtype=bool)
    for spot, (_, rows, across) in enumerate(ndimage.find_objects(spots), start=1):
        height, breadth = rows.stop - rows.start, across.stop - across.start
        fills_box = area[spot] / (height * breadth * spacing_mm**2) > 0.5
        compact = max(height, breadth) <= 2.5 * min(height, breadth) + 1
        near_midline = abs((across.start + across.stop - 1) / 2 - centre) < 0.15 * width
        round_spots[spot] = 40 <= area[spot] <= 800 and fills_box and compact and near_midline
    chains, _ = ndimage.label(round_spots[spots])
    lengths = [box[0].stop - box[0].start for box in ndimage.find_objects(chains)]
    if not lengths or max(lengths) * spacing_mm < 20:
        return np.zeros_like(inside)
    longest: Mask = chains == int(np.argmax(lengths)) + 1
    return longest


def _grow_airway(hu: Density, inside: Mask, trachea: Mask, spacing_mm: float) -> Mask:
    """Raise the threshold as long as the air that hangs on the trachea does not leak into the lungs."""
    lumen = trachea
    for threshold in range(-980, LUMEN_HU, 10):
        grown = _pieces_with(inside & (hu < threshold) | trachea, [trachea])
        if _ml(grown, spacing_mm) > AIRWAY_ML:
            break
        lumen = grown
    return lumen


def _main_bronchi(hu: Density, inside: Mask, trachea: Mask, spacing_mm: float) -> Mask:
    """Find tubes near the carina: air too narrow for lung, dark as a lumen, hanging on the trachea."""
    carina = np.argwhere(trachea)[0]
    reach = np.round(60 / spacing_mm).astype(int)
    box = tuple(slice(max(0, c - reach), c + reach) for c in carina)
    air = inside[box] & (hu[box] < AERATED_HU)
    wide = _dilate(_open(air, 9, spacing_mm), 3, spacing_mm)
    tubes = air & ~wide & (hu[box] < -900)
    found = np.zeros_like(trachea)
    found[box] = _pieces_with(tubes | trachea[box], [trachea[box]])
    return found


def _two_seeds(air: Mask, spacing_mm: float) -> list[Mask]:
    """Find the core of each lung, right first; one core when there is one lung."""
    pieces = _largest(air, 2)
    if not pieces or _ml(pieces[0], spacing_mm) < SMALLEST_LUNG_ML:
        raise ScanError("no lungs were found: no air-filled region of lung size inside the body.")
    if len(pieces) < 2 or pieces[1].sum() < MERGED_RATIO * pieces[0].sum():
        pieces = _pull_apart(pieces[0], spacing_mm)
    return sorted(pieces, key=lambda piece: float(np.flatnonzero(piece.any(axis=(0, 1))).mean()))


def _pull_apart(merged: Mask, spacing_mm: float) -> list[Mask]:
    """Erode until two lungs come apart."""
    depth = _depth(merged)
    for radius in range(1, 1 + round(25 / spacing_mm)):
        pieces = _largest(depth > radius, 2)
        if len(pieces) == 2 and pieces[1].sum() > MERGED_RATIO * pieces[0].sum():
            return pieces
    return [merged]


def _nearest_seed(lungs: Mask, seeds: list[Mask]) -> NDArray[np.uint8]:
    """Label each voxel by the seed from whose basin of depth it is reached."""
    markers = np.zeros(lungs.shape, np.uint8)
    for label, seed in enumerate(seeds, start=1):
        markers[seed] = label
    if len(seeds) == 1:
        side = 1 if _lies_right(seeds[0]) else 2
        return np.where(lungs, side, 0).astype(np.uint8)
    relief = sitk.GetImageFromArray(-_depth(lungs))
    basins = sitk.MorphologicalWatershedFromMarkers(relief, sitk.GetImageFromArray(markers), False, False)
    return np.where(lungs, sitk.GetArrayViewFromImage(basins), 0).astype(np.uint8)


def _lies_right(lung: Mask) -> bool:
    columns = np.flatnonzero(lung.any(axis=(0, 1)))
    return bool(columns.mean() < lung.shape[2] / 2)


def _dense_disease(hu: Density, allowed: Mask) -> Mask:
    """Ground glass and reticulation: denser than healthy lung, and thicker than the blurred surface of one."""
    dense = allowed & (hu >= AERATED_HU) & (hu < DENSE_HU)
    return _open(dense, 1, 1) & dense


def _close(lung: Mask, radius_mm: float, spacing_mm: float) -> Mask:
    margin = int(np.ceil(radius_mm / spacing_mm)) + 1
    padded = np.pad(lung, margin)
    closed = _erode(_dilate(padded, radius_mm, spacing_mm), radius_mm, spacing_mm)
    return ndimage.binary_fill_holes(closed)[margin:-margin, margin:-margin, margin:-margin] | lung


def _pieces_with(mask: Mask, seeds: list[Mask]) -> Mask:
    """Keep the connected pieces of a mask that touch a seed."""
    pieces, n = ndimage.label(mask)
    kept = np.zeros(n + 1, dtype=bool)
    for seed in seeds:
        kept[np.unique(pieces[seed])] = True
    kept[0] = False
    chosen: Mask = kept[pieces]
    return chosen


def _largest(mask: Mask, n_pieces: int) -> list[Mask]:
    """Take the largest connected pieces, largest first."""
    pieces, n = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=n + 1)[1:]
    return [pieces == piece + 1 for piece in np.argsort(sizes)[::-1][:n_pieces]]


def _depth(mask: Mask) -> Density:
    """Distance to the surface, in voxels."""
    distance = sitk.SignedMaurerDistanceMap(_image(mask), insideIsPositive=True, squaredDistance=False)
    return np.asarray(np.maximum(sitk.GetArrayFromImage(distance), 0), dtype=np.float32)


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    box: tuple[slice, ...] = ndimage.find_objects(mask.astype(np.uint8))[0]
    return box


def _ml(mask: Mask, spacing_mm: float) -> float:
    return float(mask.sum() * spacing_mm**3 / 1000)


def _image(mask: Mask) -> sitk.Image:
    return sitk.GetImageFromArray(mask.view(np.uint8))


def _radius(radius_mm: float, spacing_mm: float) -> list[int]:
    return [max(1, round(radius_mm / spacing_mm))] * 3


def _dilate(mask: Mask, radius_mm: float, spacing_mm: float) -> Mask:
    grown = sitk.BinaryDilate(_image(mask), _radius(radius_mm, spacing_mm), sitk.sitkBall, 0, 1)
    return sitk.GetArrayFromImage(grown).view(np.bool_)


def _erode(mask: Mask, radius_mm: float, spacing_mm: float) -> Mask:
    """Erode; the edge of the volume does not count as outside."""
    shrunk = sitk.BinaryErode(_image(mask), _radius(radius_mm, spacing_mm), sitk.sitkBall, 0, 1, False)
    return sitk.GetArrayFromImage(shrunk).view(np.bool_)


def _open(mask: Mask, radius_mm: float, spacing_mm: float) -> Mask:
    return _dilate(_erode(mask, radius_mm, spacing_mm), radius_mm, spacing_mm)
