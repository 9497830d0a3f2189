"""Whether values are Hounsfield units: what air, fat and water must be tells, whatever a header says.

Air is near -1000 HU and soft tissue near 0 to 80 HU in every chest CT, and no tissue is as even as what scanners put
outside their circular field.
"""

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sscct_lib.images.masks import pieces_with
from sscct_lib.images.reasons import Told, UnusableError, told

AIR_HU = -1024  # outside the scanned field, and the least value that a prepared scan holds
WARMEST_AIR_HU = -500  # every chest CT has air in it; where nothing is this low, the values are not HU
COLDEST_CORNER_HU = -900
DENSEST_HU = 31_000  # beyond the extended scale of CT, which ends at 30,710 HU
WATER_IF_SHIFTED_HU = (850, 1250)  # fat to muscle where an intercept near -1024 is lost
TISSUE_HU = (-250, 200)
LEAST_LUNG = 0.05  # of the largest section of a chest
SLICES_FOR_AIR = 25  # that tell how much air is in the lungs
SIDE_FOR_SHARES = 128  # pixels of a row or column, which are enough for shares
LEAST_SHARE = 0.01
SHIFTED_SHARE = 0.05
PADDED_CORNERS = 0.99
OUTSIDE_RADIUS = 1.05  # of the ellipse that fills the picture
JUMP_HU = 300.0  # between the medians of neighbouring slices, which anatomy never reaches
LEVEL_HU = 128.0
FEWEST_IN_TURNS = 6
IN_TURNS = 0.7
CUT_SHARE = 0.3  # of the largest section of the lungs, at the first or last slice


def check(values: NDArray[Any], name: str) -> None:
    """Raise UnusableError where values (z, y, x) cannot be Hounsfield units; the message calls the volume `name`."""
    some = _some(values)
    lowest = float(values.min())
    if lowest > WARMEST_AIR_HU:
        raise UnusableError("no_air", name=name, lowest=lowest)
    # Padding is one value; air and lungs are many.
    inside = some[some > max(float(some.min()), AIR_HU)]
    low, high = WATER_IF_SHIFTED_HU
    if _share(inside, low, high) >= SHIFTED_SHARE and _share(inside, AIR_HU, WARMEST_AIR_HU) < LEAST_SHARE:
        raise UnusableError("rescale_lost", name=name)
    if inside.size and _share(some, *TISSUE_HU) < LEAST_SHARE:
        raise UnusableError("no_tissue", name=name)


def _some(values: NDArray[Any]) -> NDArray[Any]:
    """Take every so many pixels of each row and column of one or many slices."""
    every = max(min(values.shape[-2:]) // SIDE_FOR_SHARES, 1)
    return np.asarray(values[..., ::every, ::every])


def _share(values: NDArray[Any], low: float, high: float) -> float:
    return float(((values >= low) & (values <= high)).mean()) if values.size else 0.0


def without_padding(volume: NDArray[Any]) -> tuple[NDArray[Any], list[Told]]:
    """Make air of padding that is no air: values beyond any density, and one even value round the circular field."""
    said = []
    if volume.dtype.kind == "u" or volume.dtype.itemsize == 1:  # in which air cannot be stored
        volume = volume.astype(np.int32)
    highest = volume.max()
    if highest > DENSEST_HU:
        said.append(told("padding_wrapped", n=100 * float((volume > DENSEST_HU).mean())))
        volume = np.where(volume > DENSEST_HU, volume.dtype.type(AIR_HU), volume)
    value = _even_corner(volume)
    if value is not None:
        said.append(told("padding_untagged", value=value))
        air = volume.dtype.type(AIR_HU)
        volume = np.stack([np.where(_from_corners(plane == value), air, plane) for plane in volume])
    return volume, said


def _even_corner(volume: NDArray[Any]) -> float | None:
    """Give the one value that fills the corners outside the circular field, where it is none of air."""
    rows, columns = volume.shape[1:]
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    corners = volume[:, y**2 + x**2 > OUTSIDE_RADIUS**2]
    value = corners.flat[0]
    if value < COLDEST_CORNER_HU or (corners == value).mean() < PADDED_CORNERS:
        return None
    return float(value)


def _from_corners(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    corners = np.zeros_like(mask)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return pieces_with(mask, [corners])


@dataclass(frozen=True)
class Shifted:
    """Slices whose densities lie apart from those of the others."""

    right: list[int]  # slices in which air and tissue are what they must be
    wrong: list[int]


def shifted_slices(volume: NDArray[Any]) -> Shifted | None:
    """Find slices (HU, in order of place) whose density jumps, as where a rescale is lost; None where none does."""
    some = _some(volume).reshape(len(volume), -1).astype(np.int32)
    jumps = np.array([_jump(one, other) for one, other in pairwise(some)])
    if np.abs(jumps).max(initial=0.0) < JUMP_HU:
        return None
    steps = np.where(np.abs(jumps) < JUMP_HU, 0.0, np.rint(jumps / LEVEL_HU))
    levels = np.concatenate([[0.0], np.cumsum(steps)])
    right = [level for level in np.unique(levels) if _is_plausible(some[levels == level])]
    is_right = np.isin(levels, right)
    if is_right.all() or not is_right.any():
        return None
    return Shifted(np.flatnonzero(is_right).tolist(), np.flatnonzero(~is_right).tolist())


def _jump(one: NDArray[Any], other: NDArray[Any]) -> float:
    # Air that is as low as can be stored does not follow a shift.
    changes = (other - one)[np.maximum(one, other) > COLDEST_CORNER_HU]
    return float(np.median(changes)) if changes.size else 0.0


def _is_plausible(values: NDArray[Any]) -> bool:
    inside = values[values > AIR_HU]
    return _share(inside, AIR_HU, WARMEST_AIR_HU) >= SHIFTED_SHARE and _share(inside, *TISSUE_HU) >= SHIFTED_SHARE


def agrees(plane: NDArray[Any], other: NDArray[Any]) -> bool:
    """Tell whether two neighbouring slices have densities of one kind."""
    return abs(_jump(np.asarray(_some(other), dtype=float), np.asarray(_some(plane), dtype=float))) < JUMP_HU / 2


def takes_turns(volume: NDArray[Any]) -> bool:
    """Tell whether slices are more like the next but one than like the next: two volumes, slice by slice in turn."""
    some = _some(volume).astype(np.int32)
    next_one = np.abs(np.diff(some, axis=0)).mean(axis=(1, 2))
    but_one = np.abs(some[2:] - some[:-2]).mean(axis=(1, 2))
    nearest = np.minimum(next_one[1:], next_one[:-1])
    return longest_run(but_one < IN_TURNS * nearest) >= FEWEST_IN_TURNS


def longest_run(flags: NDArray[np.bool_]) -> int:
    """Give the length of the longest run of flags that hold."""
    return max((len(list(run)) for flag, run in groupby(flags.tolist()) if flag), default=0)


def aerated(plane: NDArray[Any]) -> float:
    """Give the share of a slice that is air within the body: that of lungs, airways and bowel."""
    block = max(min(plane.shape) // SIDE_FOR_SHARES, 1)
    rows, columns = (side // block for side in plane.shape)
    whole = plane[: rows * block, : columns * block]
    air = whole.reshape(rows, block, columns, block).mean(axis=(1, 3)) < WARMEST_AIR_HU
    labels, n = ndimage.label(air)
    within = np.ones(n + 1, bool)
    within[[0, *labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]]] = False  # tissue, and what reaches the border
    return float(within[labels].mean())


def cuts_lungs(volume: NDArray[Any]) -> bool:
    """Tell whether the first or last slice of a scan (HU, [z, y, x]) cuts the lungs: a part of them was not imaged."""
    places = np.unique(np.linspace(0, len(volume) - 1, SLICES_FOR_AIR).round().astype(int))
    sections = [aerated(volume[place]) for place in places]
    largest = max(sections)
    return largest > LEAST_LUNG and max(sections[0], sections[-1]) > CUT_SHARE * largest
