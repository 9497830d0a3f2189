"""The slices of DICOM files, one by one: what the header of each says, and which files of a series are no slices of it.

A file has one slice, or many: of Enhanced and Legacy Converted Enhanced CT each frame has a place of its own; the
frames of a classic CT file follow each other along the normal.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from sscct_lib.images.dicom import CT_IMAGES, UNREADABLE, Series, class_of, kind_of
from sscct_lib.images.nifti import HIGHEST_COMPRESSION
from sscct_lib.images.reasons import Told, told

SIDE_PIXELS = (8, 4096)
MOST_PIXELS = 1_500_000_000
LARGEST_NUMBER = 1e6  # millimetres, or a slope
MOST_RANGES = 6

IN_FRAME = {
    "AcquisitionNumber": "FrameAcquisitionNumber",
    "AcquisitionDateTime": "FrameAcquisitionDateTime",
    "ImageType": "FrameType",
    "TemporalPositionIdentifier": "TemporalPositionIndex",
}
"""What a frame of a multi-frame file calls the fields of a slice."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: where its pixels are, and where it lies in the patient."""

    path: Path
    index: int  # in the file, from 0
    header: Any  # of the file
    groups: tuple[Any, ...]  # what a multi-frame file says of this frame, its own before that of all
    position: NDArray[np.float64]  # centre of the first pixel, LPS mm, shape (3,)
    axes: NDArray[np.float64]  # directions along a row and along a column, shape (2, 3)
    pixel_mm: tuple[float, float]  # distance of pixels along a row and along a column
    rescale: tuple[float, float]  # slope and intercept to Hounsfield units

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """Direction across the slice."""
        return np.cross(*self.axes)

    def values(self, name: str) -> list[str]:
        """Give all values of a header field as text: those of the frame, else those of the file."""
        names = (IN_FRAME.get(name, name), name)
        found = (one for group in self.groups for key in names if (one := group.get(key, None)) not in (None, ""))
        value = next(found, None) or self.header.get(name, None)
        parts = value if isinstance(value, MultiValue) else [] if value in (None, "") else [value]
        return [str(part).strip() for part in parts]

    def text(self, name: str) -> str:
        """Give a header field as one text, values separated by a backslash; empty when there is none."""
        return "\\".join(self.values(name)).strip("\\")

    @cached_property
    def number(self) -> int | None:
        """InstanceNumber; for a frame that has none of its own, its place in the file from 1."""
        own = next((one for group in self.groups if (one := group.get("InstanceNumber", None)) is not None), None)
        if own is None and int(self.header.get("NumberOfFrames", None) or 1) > 1:
            return self.index + 1
        value = self.header.get("InstanceNumber", None) if own is None else own
        return None if value in (None, "") else int(value)


STRAYS = {
    "localizer": ("localizers_left_out", "localizer"),
    "no_image": ("captures_left_out", "no_ct_images"),
    "colour": ("colour_left_out", "in_colour"),
    "no_place": ("unplaced_left_out", "no_geometry"),
}
"""What a file of a CT series may be instead of a slice: the reason told where others are left, and where none is."""


def slices_of(series: Series) -> tuple[list[Frame], dict[str, list[int | None]]]:
    """List the slices of a series of CT that have a place, and for each kind of `STRAYS` the numbers of its files."""
    frames: list[Frame] = []
    strays: dict[str, list[int | None]] = {}
    for header, path in series.headers:
        kind = stray_kind(header)
        found = [] if kind else _frames(header, path)
        frames += [frame for frame in found if frame is not None]
        if kind or None in found:
            strays.setdefault(kind or "no_place", []).append(_number_of(header))
    return frames, strays


def stray_kind(header: Any) -> str:
    """Tell what a file of a series is when it is no slice of CT; empty when it may be one."""
    kind, sop_class = kind_of(header), class_of(header)
    if kind == "localizer":
        return kind
    if kind != "CT" or sop_class not in ("", *CT_IMAGES):
        return "no_image"
    photometric = str(header.get("PhotometricInterpretation", None) or "MONOCHROME2")
    one_sample = str(header.get("SamplesPerPixel", None) or 1) == "1"
    return "" if one_sample and photometric.startswith("MONOCHROME") else "colour"


def _number_of(header: Any) -> int | None:
    value = header.get("InstanceNumber", None)
    return None if value in (None, "") else int(value)


def told_strays(strays: dict[str, list[int | None]]) -> list[Told]:
    """Say which files were left out because they are no slices."""
    return [told(STRAYS[kind][0], n=len(which), which=numbered(which)) for kind, which in strays.items()]


def numbered(numbers: Iterable[int | None]) -> str:
    """Name slices by their numbers, for example `image 3, 5 to 9`."""
    known = sorted({number for number in numbers if number is not None})
    if not known:
        return "without a number"
    starts = [0, *(i + 1 for i, (one, other) in enumerate(pairwise(known)) if other > one + 1), len(known)]
    runs = [(known[begin], known[end - 1]) for begin, end in pairwise(starts)]
    words = [f"{first}" if first == last else f"{first} to {last}" for first, last in runs]
    rest = f" and {len(words) - MOST_RANGES} more" if len(words) > MOST_RANGES else ""
    return f"image {', '.join(words[:MOST_RANGES])}{rest}"


def commonest(frames: Iterable[Frame], name: str) -> list[str]:
    """Give the values of a header field that most slices have."""
    counts = Counter(values for frame in frames if (values := tuple(frame.values(name))))
    return list(counts.most_common(1)[0][0]) if counts else []


def heights(frames: list[Frame], normal: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Places of slices along the normal of the first, mm, shape (n,)."""
    return np.array([frame.position @ (frames[0].normal if normal is None else normal) for frame in frames])


def too_large(headers: list[tuple[Any, Path]]) -> Told | None:
    """Say where files announce more pixels than any chest CT has; nothing is decoded for them then."""
    n_slices = sum(int(header.get("NumberOfFrames", None) or 1) for header, _ in headers)
    sides = [int(header.get(name, None) or 0) for header, _ in headers for name in ("Rows", "Columns")]
    n_pixels = max(sides[::2]) * max(sides[1::2]) * n_slices
    if min(sides) < SIDE_PIXELS[0] or max(sides) > SIDE_PIXELS[1] or n_pixels > MOST_PIXELS:
        return told("too_large", side=max(sides), n=n_slices)
    n_bytes = sum(path.stat().st_size for _, path in headers)
    if n_pixels > HIGHEST_COMPRESSION * n_bytes:
        return told("too_much_announced", n=n_pixels, n_bytes=n_bytes)
    return None


def first_rescale(header: Any) -> tuple[float, float]:
    """Give slope and intercept of the first frame of a file, from its header; (1, 0) where it has none."""
    groups = _groups(header)
    return _rescale(groups[0] if groups else (), header)


def _frames(header: Any, path: Path) -> list[Frame | None]:
    """List the slices of a file; None for one without a place."""
    try:
        groups = _groups(header)
    except UNREADABLE:
        return [None]
    if groups:
        return [_frame(path, index, header, group) for index, group in enumerate(groups)]
    n_frames = int(header.get("NumberOfFrames", None) or 1)
    if header.get("PerFrameFunctionalGroupsSequence", None) is not None:
        return []
    first = _frame(path, 0, header, ())
    if n_frames == 1 or first is None:
        return [first]
    spacing = header.get("SpacingBetweenSlices", None)
    if spacing in (None, "", 0) or too_large([(header, path)]):
        return [None]
    return _stacked(first, n_frames, float(spacing))


def _stacked(first: Frame, n_frames: int, spacing_mm: float) -> list[Frame | None]:
    """Place the frames of a classic file: one behind the other along the normal (DICOM PS3.3, C.8.4.15)."""
    steps = [first.position + index * spacing_mm * first.normal for index in range(n_frames)]
    same = (first.axes, first.pixel_mm, first.rescale)
    return [Frame(first.path, index, first.header, (), place, *same) for index, place in enumerate(steps)]


def _groups(header: Any) -> list[tuple[Any, ...]]:
    """Give for each frame of a multi-frame file what it says of the frame, its own before that of all frames."""
    shared = _items(next(iter(header.get("SharedFunctionalGroupsSequence", None) or ()), Dataset()))
    return [(*_items(one), *shared) for one in header.get("PerFrameFunctionalGroupsSequence", None) or ()]


def _items(groups: Dataset) -> tuple[Any, ...]:
    return tuple(element.value[0] for element in groups if element.VR == "SQ" and element.value)


def _rescale(groups: tuple[Any, ...], header: Any) -> tuple[float, float]:
    source = next((group for group in groups if "RescaleSlope" in group), header)
    return float(source.get("RescaleSlope", None) or 1), float(source.get("RescaleIntercept", None) or 0)


def _frame(path: Path, index: int, header: Any, groups: tuple[Any, ...]) -> Frame | None:
    def find(name: str) -> Any:
        return next(value for one in (*groups, header) if (value := one.get(name, None)) is not None)

    try:
        axes = np.array(find("ImageOrientationPatient"), dtype=float).reshape(2, 3)
        axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
        between_rows, between_columns = (float(side) for side in find("PixelSpacing"))
        place = np.array(find("ImagePositionPatient"), dtype=float).reshape(3)
        rescale = _rescale(groups, header)
        sides = int(header.Rows), int(header.Columns)
    except (StopIteration, *UNREADABLE):
        return None
    numbers = [*place, *axes.ravel(), between_rows, between_columns, *rescale]
    is_sound = np.isfinite(numbers).all() and np.abs(numbers).max() <= LARGEST_NUMBER
    if not is_sound or min(between_rows, between_columns, *sides) <= 0:
        return None
    return Frame(path, index, header, groups, place, axes, (between_columns, between_rows), rescale)
