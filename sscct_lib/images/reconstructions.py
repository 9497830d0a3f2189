"""Which slices form one volume: one reconstruction of one breath.

An export may put several under one SeriesInstanceUID. They are told apart before they are stacked: by what a header
says of the reconstruction, then by what it says of the pass, where passes lie over each other, and at last by the
places of the slices. What is left is one slice a place.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from filecmp import cmp
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscct_lib.images.density import longest_run
from sscct_lib.images.dicom import Frame, heights, numbered
from sscct_lib.images.reasons import Told, told

FEWEST_SLICES = 20
SAME_POSITION_MM = 0.01
SAME_COSINE = 0.003  # headers write three digits and more
SAME_SPACING, SAME_THICKNESS = 1e-3, 0.02  # relative
LONG_SHARE = {1: 0.5, 2: 0.8}  # of the slices, in passes that could be a scan, where a label tells passes apart
ON_GRID = 0.15  # of a step
SAME_STEP = 0.05  # relative
MOST_MISSING_SHARE = 0.1
FEWEST_IN_GRID = 5
MOST_STEPS = 12  # that are tried where slices lie on several grids

Plane = Callable[[Frame], NDArray[Any] | None]
"""Decodes a slice; None where it is damaged."""
Label = Callable[[list[Frame]], list[Any]]
"""Gives what a header says of each slice; None where it says nothing."""


@dataclass
class Volume:
    """Slices of one reconstruction, ordered along their normal; for axial ones from feet to head."""

    frames: list[Frame]
    apart: str = ""  # by what it was told from others of its series
    told: list[Told] = field(default_factory=list)  # what was left out
    fault: Told | None = None  # why it cannot be used

    @property
    def headers(self) -> list[tuple[Any, Path]]:
        """The files of the slices, each once."""
        return list({frame.path: (frame.header, frame.path) for frame in self.frames}.values())

    def values(self, name: str) -> list[str]:
        """Give the values of a header field that most slices have."""
        counts = Counter(values for frame in self.frames if (values := tuple(frame.values(name))))
        return list(counts.most_common(1)[0][0]) if counts else []

    def get(self, name: str) -> str:
        """Give the first value of a header field, as most slices have it; empty when there is none."""
        return next(iter(self.values(name)), "")


def split(frames: list[Frame], plane: Plane) -> list[Volume]:
    """Tell the volumes of a series apart, the one with most slices first.

    Together they hold every slice once, except for copies and for slices at the place of another, which are told. Only
    where two slices lie at one place are they decoded, by `plane`.
    """
    volumes = [Volume(frames)]
    for what, label in HARD:
        volumes = [part for volume in volumes for part in _by_label(volume, what, label)]
    for volume in volumes:
        volume.frames.sort(key=_order(volume.frames[0].normal))
    for what, label, fewest in SOFT:
        volumes = [part for volume in volumes for part in _by_pass(volume, what, label, fewest)]
    # Only then copies: where a breath changes little, slices of two passes may be alike.
    volumes = [part for volume in volumes for part in _by_rank(volume)]
    for volume in volumes:
        _drop_copies(volume, plane)
        _drop_doubles(volume, plane)
    volumes = [part for volume in volumes for part in _by_grid(volume)]
    return sorted(volumes, key=lambda volume: -len(volume.frames))


def step_mm(frames: list[Frame]) -> float:
    """Median distance between neighbouring slices, mm."""
    return float(np.median(np.diff(heights(frames)))) if len(frames) > 1 else 0.0


def _order(normal: NDArray[np.float64]) -> Callable[[Frame], tuple[float, int, int]]:
    return lambda frame: (float(frame.position @ normal), frame.number or 0, frame.index)


# What a reconstruction is.


def _texts(name: str) -> Label:
    return lambda frames: [" ".join(frame.text(name).upper().split()) or None for frame in frames]


def _near(rows: list[Any], tolerance: float) -> list[int | None]:
    """Number the groups of rows that differ by no more than a tolerance; None stays None."""
    known = [tuple(np.atleast_1d(row)) for row in rows if row is not None]
    points = sorted(set(known))
    if len(points) < 2:
        return [None if row is None else 0 for row in rows]
    from scipy.cluster.hierarchy import fcluster, linkage  # half a second, which series without doubt need not wait

    clusters = fcluster(linkage(np.array(points), "complete", "chebyshev"), tolerance, "distance")
    number = dict(zip(points, clusters.tolist(), strict=True))
    return [None if row is None else number[tuple(np.atleast_1d(row))] for row in rows]


def _thickness(frame: Frame) -> float | None:
    value = float(frame.text("SliceThickness").split("\\")[0] or 0)
    return float(np.log(value)) if 0 < value < np.inf else None


HARD: tuple[tuple[str, Label], ...] = (
    ("patient", _texts("PatientID")),
    ("size or orientation", lambda frames: [(int(one.header.Rows), int(one.header.Columns)) for one in frames]),
    ("size or orientation", lambda frames: _near([one.axes.ravel() for one in frames], SAME_COSINE)),
    ("size or orientation", lambda frames: _near([np.log(one.pixel_mm) for one in frames], SAME_SPACING)),
    ("series number", _texts("SeriesNumber")),
    ("series description", _texts("SeriesDescription")),
    ("kernel", _texts("ConvolutionKernel")),
    ("slice thickness", lambda frames: _near([_thickness(one) for one in frames], SAME_THICKNESS)),
    ("image type", _texts("ImageType")),
    ("contrast agent", _texts("ContrastBolusAgent")),
    ("tube voltage", _texts("KVP")),
    ("patient position", _texts("PatientPosition")),
    ("cardiac phase", _texts("NominalPercentageOfCardiacPhase")),
    ("frame of reference", _texts("FrameOfReferenceUID")),
)  # fmt: skip
"""Slices that differ in one of these are never one volume."""


def _by_label(volume: Volume, what: str, label: Label) -> list[Volume]:
    groups: dict[Hashable, list[Frame]] = {}
    for frame, value in zip(volume.frames, label(volume.frames), strict=True):
        groups.setdefault(value, []).append(frame)
    silent = groups.pop(None, [])
    # A value that is another in nearly every slice, as careless anonymisers leave it, is no name of a volume.
    if len(groups) > len(volume.frames) / 2 and what != "patient":
        return [volume]
    return _apart(volume, what, list(groups.values()), silent)


def _apart(volume: Volume, what: str, groups: list[list[Frame]], silent: list[Frame]) -> list[Volume]:
    """Make volumes of groups; slices whose header says nothing go where they alone fit, or form one of their own."""
    homes = [[group for group in groups if _fits(group, frame)] for frame in silent]
    # So many could be a pass, of which only some fit by chance.
    if len(silent) >= FEWEST_SLICES and any(len(found) != 1 for found in homes):
        homes = [[] for _ in silent]
    lonely = [frame for frame, found in zip(silent, homes, strict=True) if len(found) != 1]
    for frame, found in zip(silent, homes, strict=True):
        if len(found) == 1:
            found[0].append(frame)
    parts = [*groups, *([lonely] if lonely else [])]
    apart = volume.apart or ("" if len(parts) == 1 else what)
    order = _order(volume.frames[0].normal)
    return [Volume(sorted(part, key=order), apart, [*volume.told]) for part in parts]


def _fits(group: list[Frame], frame: Frame) -> bool:
    """Tell whether a slice fills a hole in the even steps of others, or goes on with them."""
    normal = group[0].normal
    places = np.unique(heights(group, normal))
    steps = np.diff(places)
    steps = steps[steps > SAME_POSITION_MM]
    if len(steps) < FEWEST_IN_GRID:
        return False
    distance = np.abs(places - frame.position @ normal).min() / np.median(steps)
    return bool(round(distance) >= 1 and abs(distance - round(distance)) < ON_GRID)


# What a pass is.


def _whole_numbers(name: str) -> Label:
    texts = _texts(name)
    return lambda frames: [int(text) if text and text.lstrip("-").isdecimal() else None for text in texts(frames)]


def _times(name: str, date: str = "") -> Label:
    return lambda frames: [
        f"{frame.text(date) if date else ''} {text}" if (text := frame.text(name)) else None for frame in frames
    ]


SOFT: tuple[tuple[str, Label, int], ...] = (
    ("temporal position", _whole_numbers("TemporalPositionIdentifier"), 1),
    ("acquisition", _whole_numbers("AcquisitionNumber"), 1),
    ("acquisition time", _times("AcquisitionDateTime"), 2),
    ("acquisition time", _times("AcquisitionTime", "AcquisitionDate"), 2),
    ("order of images", lambda frames: [one.number for one in frames], 2),
    ("time of the images", _times("ContentTime"), 2),
)
"""What tells passes apart where they lie over each other, and how many must be long enough for a scan.

A scanner that steps and shoots gives each slab another acquisition and time: slabs that do not overlap are one volume.
"""


def _by_pass(volume: Volume, what: str, label: Label, fewest: int) -> list[Volume]:
    labels = label(volume.frames)
    silent = [frame for frame, value in zip(volume.frames, labels, strict=True) if value is None]
    known = [(value, frame) for frame, value in zip(volume.frames, labels, strict=True) if value is not None]
    if len({value for value, _ in known}) < 2:
        # Slices without a label that lie among those with one are a pass of their own, unless they fill its holes.
        both_long = min(len(silent), len(known)) >= FEWEST_SLICES
        return _apart(volume, what, [[frame for _, frame in known]], silent) if both_long else [volume]
    in_order = groupby(sorted(known, key=itemgetter(0)), key=itemgetter(0))
    passes = _passes([[frame for _, frame in same] for _, same in in_order])
    long = [one for one in passes if len(one) >= FEWEST_SLICES]
    if len(passes) < 2 or len(long) < fewest or sum(map(len, long)) < LONG_SHARE[fewest] * len(known):
        return [volume]
    return _apart(volume, what, passes, silent)


def _passes(groups: list[list[Frame]]) -> list[list[Frame]]:
    """Join groups, in the order in which they were made, to passes: a new one begins where one lies over the last."""
    along = [heights(group, groups[0][0].normal) for group in groups]
    starts, low, high, n = [0], np.inf, -np.inf, 0
    for index, own in enumerate(along):
        shared = min(high, own.max()) - max(low, own.min())
        # Neighbouring slabs may share the slice at their seam.
        if shared > SAME_POSITION_MM or (shared > -SAME_POSITION_MM and min(n, len(own)) < 2):
            starts.append(index - _turns_before(along[starts[-1] : index + 1]))
            before = np.concatenate([own, *along[starts[-1] : index]])
            low, high, n = before.min(), before.max(), len(before)
        else:
            low, high, n = min(low, own.min()), max(high, own.max()), n + len(own)
    parts = list(pairwise([*starts, len(groups)]))
    covered = [np.concatenate(along[begin:end]) for begin, end in parts]
    ranges = sorted((own.min(), own.max()) for own in covered)
    if all(below < above for (_, below), (above, _) in pairwise(ranges)):
        parts = [(0, len(groups))]  # slabs in any order
    return [[frame for group in groups[begin:end] for frame in group] for begin, end in parts]


def _turns_before(along: list[NDArray[np.float64]]) -> bool:
    """Tell whether a pass that lies over the last began one slice before: with its own step, beyond the last pass."""
    if len(along) < 5 or any(len(own) > 1 for own in along):
        return False
    *steps, own, onward = np.abs(np.diff(np.concatenate(along)))
    usual = float(np.median(steps))
    return bool(abs(own - usual) > SAME_STEP * usual and abs(onward - usual) < abs(own - usual))


# Slices at one place.


def _places(frames: list[Frame]) -> list[list[Frame]]:
    """Group slices, ordered along the normal, by place."""
    along = heights(frames)
    starts = [0, *(np.flatnonzero(np.diff(along) > SAME_POSITION_MM) + 1).tolist(), len(frames)]
    return [frames[begin:end] for begin, end in pairwise(starts)]


def _drop_copies(volume: Volume, plane: Plane) -> None:
    """Keep one of the images that lie at one place with the same pixels, and of those that can be decoded."""
    places = _places(volume.frames)
    kept = [frame for same in places for frame in _distinct(same, plane)]
    if len(kept) < len(volume.frames):
        volume.told.append(told("duplicate", n=len(volume.frames) - len(kept)))
        volume.frames = kept


def _distinct(same: list[Frame], plane: Plane) -> list[Frame]:
    # One number for several images says nothing, and two numbers neither: anonymisers give them as they like.
    apart = [one for i, one in enumerate(same) if not any(_same_file(one, other) for other in same[:i])]
    if len(apart) == 1:
        return apart
    planes = [plane(frame) for frame in apart]
    sound = {v.tobytes(): frame for frame, v in zip(reversed(apart), reversed(planes), strict=True) if v is not None}
    return list(reversed(sound.values())) or apart[:1]


def _same_file(one: Frame, other: Frame) -> bool:
    return one.path != other.path and one.index == other.index and cmp(one.path, other.path, shallow=False)


def _by_rank(volume: Volume) -> list[Volume]:
    """Part images that lie at one place by their numbers, where these say the same at every place."""
    ranked = _ranks(_places(volume.frames))
    if ranked is None:
        return [volume]
    parts, rest = ranked
    said = [told("doubles_left_out", n=len(rest), which=numbered(one.number for one in rest))] if rest else []
    return [Volume(part, volume.apart or "order of images", [*volume.told, *said]) for part in parts]


def _drop_doubles(volume: Volume, plane: Plane) -> None:
    """Keep one of a few different images at one place; many such places are a fault."""
    places = _places(volume.frames)
    n_double = sum(len(same) > 1 for same in places)
    if n_double > MOST_MISSING_SHARE * len(places):
        volume.fault = told("indistinct", n=n_double)
    elif n_double:
        kept = [_likest(same, places, index, plane) for index, same in enumerate(places)]
        lost = [frame.number for same, one in zip(places, kept, strict=True) for frame in same if frame is not one]
        volume.told.append(told("doubles_left_out", n=len(lost), which=numbered(lost)))
        volume.frames = kept


def _ranks(places: list[list[Frame]]) -> tuple[list[list[Frame]], list[Frame]] | None:
    """Part by the order of numbers at each place; also gives the slices of places that lack an image."""
    n = max(map(len, places))
    if n < 2:
        return None
    whole = [sorted(same, key=lambda one: one.number or 0) for same in places if len(same) == n]
    numbers = np.array([[one.number or 0 for one in same] for same in whole])
    apart = numbers - numbers[:, :1]
    if len(whole) < (1 - MOST_MISSING_SHARE) * len(places) or (np.diff(apart[0]) <= 0).any() or np.ptp(apart, 0).any():
        return None
    return [[same[rank] for same in whole] for rank in range(n)], [f for same in places if len(same) < n for f in same]


def _likest(same: list[Frame], places: list[list[Frame]], index: int, plane: Plane) -> Frame:
    """Of the images at one place, give the one that is most like its neighbour."""
    if len(same) == 1:
        return same[0]
    near = sorted((abs(other - index), other) for other, them in enumerate(places) if len(them) == 1)
    beside = plane(places[near[0][1]][0]) if near else None
    if beside is None:
        return same[0]
    differences = []
    for frame in same:
        values = plane(frame)
        differences.append(np.inf if values is None else float(np.abs(np.subtract(values, beside, dtype=float)).mean()))
    return same[int(np.argmin(differences))]


# Places of the slices.


def _by_grid(volume: Volume) -> list[Volume]:
    """Part slices that lie on several even grids; steps that vary otherwise cannot be a volume."""
    if volume.fault or len(volume.frames) < FEWEST_SLICES:
        return [volume]
    along = heights(volume.frames)
    steps = np.diff(along)
    if _has_one_step(steps):
        return [volume]
    if chains := _grids(along):
        return _of_chains(volume, chains, steps)
    units = steps / np.median(steps)
    if (np.abs(units - np.rint(units)) >= ON_GRID).mean() > MOST_MISSING_SHARE or longest_run(units > 1 + ON_GRID) > 1:
        volume.fault = told("variable_steps", low=float(steps.min()), high=float(steps.max()))
    return [volume]


def _has_one_step(steps: NDArray[np.float64]) -> bool:
    """Tell whether slices have one step, but for some that are missing."""
    units = steps / np.median(steps)
    on_grid = np.abs(units - np.rint(units)) < ON_GRID
    wide = units > 1 + ON_GRID
    few_off = (~on_grid).sum() <= 0.5 * MOST_MISSING_SHARE * len(units)
    return bool(few_off and units.sum() < 2 * len(units) and longest_run(wide) < FEWEST_IN_GRID)


def _grids(along: NDArray[np.float64]) -> list[list[int]] | None:
    """Find the step with which slices lie on few even grids that overlap; gives the indices of each, longest first."""
    tried = Counter(np.round(np.concatenate([along[k:] - along[:-k] for k in (1, 2, 3, 4)]), 2).tolist())
    for step in sorted(step for step, _ in tried.most_common(MOST_STEPS) if step > 10 * SAME_POSITION_MM):
        chains = sorted(_chains(along, step), key=len, reverse=True)
        whole = [chain for chain in chains if len(chain) >= FEWEST_IN_GRID]
        low, high = along[chains[0][0]], along[chains[0][-1]]
        overlapping = all(along[one[0]] < high and along[one[-1]] > low for one in whole)
        covered = sum(map(len, whole)) >= (1 - MOST_MISSING_SHARE) * len(along)
        if len(chains) > 1 and len(chains[0]) >= FEWEST_SLICES and overlapping and covered:
            return chains
    return None


def _chains(along: NDArray[np.float64], step: float) -> list[list[int]]:
    """Follow even steps from slice to slice, one of them missing at most, from the lowest that is left."""
    left, chains = list(range(len(along))), list[list[int]]()
    while left:
        chain, rest = [left[0]], list[int]()
        for index in left[1:]:
            distance = (along[index] - along[chain[-1]]) / step
            (chain if min(abs(distance - 1), abs(distance - 2)) < SAME_STEP else rest).append(index)
        left = rest
        chains.append(chain)
    return chains


def _of_chains(volume: Volume, chains: list[list[int]], steps: NDArray[np.float64]) -> list[Volume]:
    parts = [[volume.frames[index] for index in chain] for chain in chains]
    if len(parts[1]) >= FEWEST_SLICES:  # else the steps of one volume vary
        return [Volume(part, volume.apart or "places of the slices", [*volume.told]) for part in parts]
    others = [frame.number for part in parts[1:] for frame in part]
    said = told(
        "variable_steps_left_out", low=float(steps.min()), high=float(steps.max()), step=step_mm(parts[0]),
        n=len(others), which=numbered(others),
    )  # fmt: skip
    return [Volume(parts[0], volume.apart, [*volume.told, said])]
