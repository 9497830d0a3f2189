"""A scan as the book shows it: volumes in a script for the browser's viewer, and a picture for where no viewer can be.

A script, not a data file: a page that was opened from a disk may load no other file of it. Everything is 8 bits and
coarse enough for a phone; measurements are made on the scans of the run, never on these.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from sscct_lib.images.encoded import density_file, encoded
from sscct_lib.images.masks import bounding_box
from sscct_lib.images.prepare import resample, resample_mask
from sscct_lib.lungs.figures import Overlay
from sscct_lib.lungs.segment import load_lungs
from sscct_lib.study.folder import Study

LARGEST_BYTES = 3_000_000
MARGIN_MM = 15.0
FINEST_MM = 2.5
LARGEST_MAP = 48  # voxels per side
LUNG_WINDOW = (-1350.0, 150.0)
PICTURE_HEIGHT = 260  # pixels
PICTURE_MARGIN = 5  # voxels
OUTLINE = (86, 180, 233)
PLACE = (240, 228, 66)


def case_script(study: Study, scan_id: str, maps: dict[str, Path]) -> str:
    """JavaScript of at most 3 MB that hands a scan to the viewer: a call of `sscctScan` with NIfTI files in base64."""
    image, mask = load_lungs(study, scan_id)
    whole = sitk.GetArrayViewFromImage(mask) > 0
    spacing = float(image.GetSpacing()[0])
    margin = round(MARGIN_MM / spacing)
    box = bounding_box(whole, margin)
    cropped, labels = _crop(image, box), _crop(mask, box)
    found = {name: _attribution(np.load(path), mask, bounding_box(whole)) for name, path in maps.items()}
    side = max(spacing, FINEST_MM)
    while True:
        coarse = resample(cropped, side)
        files = {"image": density_file(coarse), "mask": encoded(resample_mask(labels, coarse))}
        content = json.dumps({**files, "attributions": found})
        if len(content) <= LARGEST_BYTES:
            return f"sscctScan({json.dumps(scan_id)}, {content});\n"
        side *= 1.2


def _crop(image: sitk.Image, box: tuple[slice, ...]) -> sitk.Image:
    z, y, x = box
    sides = (x, y, z)
    cropped: sitk.Image = sitk.RegionOfInterest(image, [s.stop - s.start for s in sides], [s.start for s in sides])
    return cropped


def _attribution(found: NDArray[np.float32], mask: sitk.Image, lungs: tuple[slice, ...]) -> dict[str, Any]:
    """Put a map (z, y, x), which fills the box of the lungs, where it belongs in the patient."""
    if found.shape[0] > LARGEST_MAP:
        factor = LARGEST_MAP / found.shape[0]
        found = ndimage.zoom(ndimage.uniform_filter(found, round(1 / factor)), factor, order=1)
    inside = np.abs(found[found != 0])
    # The strongest half percent of the voxels share the end of the scale.
    most = float(np.quantile(inside, 0.995)) if inside.size else 1.0
    image = sitk.GetImageFromArray(np.rint(np.clip(found / most, -1, 1) * 100).astype(np.int16))
    spacing = mask.GetSpacing()[0]
    # One voxel of the map covers this many voxels of the scan, x y z.
    parts = [(side.stop - side.start) / n for side, n in zip(lungs, found.shape, strict=True)][::-1]
    starts = [side.start for side in lungs][::-1]
    image.SetSpacing([spacing * part for part in parts])
    centres = [start + part / 2 - 0.5 for start, part in zip(starts, parts, strict=True)]
    image.SetOrigin(mask.TransformContinuousIndexToPhysicalPoint(centres))
    return {"file": encoded(image)}


def picture(one: Overlay) -> Image.Image:
    """Axial, coronal and sagittal plane side by side, with the outline of the lungs and a ring at a flagged place."""
    tiles = [_tile(*plane) for plane in one.planes.values()]
    gap = 6
    width = sum(tile.width for tile in tiles) + gap * (len(tiles) - 1)
    joined = Image.new("RGB", (width, PICTURE_HEIGHT))
    left = 0
    for tile in tiles:
        joined.paste(tile, (left, 0))
        left += tile.width + gap
    return joined


def _tile(hu: NDArray[np.int16], labels: NDArray[np.uint8], place: tuple[int, int] | None) -> Image.Image:
    """One plane, cropped to the lungs in it."""
    rows, columns = _shown_part(labels, place)
    hu, labels = hu[rows, columns], labels[rows, columns]
    low, high = LUNG_WINDOW
    grey = np.clip((hu.astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    scale = PICTURE_HEIGHT / hu.shape[0]
    size = (round(hu.shape[1] * scale), PICTURE_HEIGHT)
    pixels = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    inside = np.asarray(Image.fromarray(np.ascontiguousarray(labels)).resize(size, Image.Resampling.NEAREST))
    for label in np.unique(inside[inside > 0]):
        pixels[(inside == label) & ~ndimage.binary_erosion(inside == label)] = OUTLINE
    tile = Image.fromarray(pixels)
    if place is not None:
        x, y = (round((at - side.start + 0.5) * scale) for at, side in zip(place, (columns, rows), strict=True))
        ImageDraw.Draw(tile).ellipse((x - 12, y - 12, x + 12, y + 12), outline=PLACE, width=3)
    return tile


def _shown_part(labels: NDArray[np.uint8], place: tuple[int, int] | None) -> tuple[slice, slice]:
    """Rows and columns to show: the lungs, the flagged place, and a little around them."""
    marked = labels > 0
    if place is not None:
        marked[place[1], place[0]] = True
    if not marked.any():
        marked[:] = True
    rows, columns = bounding_box(marked, PICTURE_MARGIN)
    return rows, columns
