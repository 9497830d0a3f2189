"""DICOM series, found in folders of any depth, and their slices, as headers tell them; nothing is decoded here.

A file has one slice, or many: of Enhanced and Legacy Converted Enhanced CT each frame has a place of its own; the
frames of a classic CT file follow each other along the normal. Messages about a series never name a file, since file
names of an export may hold names of patients.
"""

import logging
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_partial
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian

from sscct_lib.images.nifti import HIGHEST_COMPRESSION, inflated_bytes
from sscct_lib.images.reasons import Told, told

SIDE_PIXELS = (8, 4096)
MOST_PIXELS = 1_500_000_000
LARGEST_NUMBER = 1e6  # millimetres, or a slope
MOST_RANGES = 6
LARGEST_IMAGE_NUMBER = 99_999  # a larger one may be somebody's

PREAMBLE_BYTES = 128
LAST_IDENTITY_TAG = 0x0020000E  # SeriesInstanceUID
MOST_INFLATED_BYTES = 1 << 30
SMALL_BYTES, HIGHEST_RATIO = 1 << 26, 100  # beyond the first, no scan is deflated to less than a hundredth
UNREADABLE = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, AttributeError, KeyError,
    IndexError, NotImplementedError, OverflowError, RecursionError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises at bytes that are no DICOM, or a damaged one."""

HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "Modality", "ImageType", "PatientID", "PatientSex", "PatientAge", "PatientPosition", "StudyDate", "SeriesDate",
    "AcquisitionDate", "AcquisitionDateTime", "ContentDate", "AcquisitionNumber", "InstanceNumber", "Manufacturer",
    "ConvolutionKernel", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows",
    "Columns", "SamplesPerPixel", "FrameOfReferenceUID", "LossyImageCompression", "NumberOfFrames", "RescaleSlope",
    "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation", "BurnedInAnnotation",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PhotometricInterpretation",
    "AcquisitionTime", "ContentTime", "TemporalPositionIdentifier", "ContrastBolusAgent", "KVP",
    "NominalPercentageOfCardiacPhase", "SpacingBetweenSlices", "ProtocolName", "ImageComments",
]  # fmt: skip
CT_IMAGES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""CT Image, Enhanced CT Image and Legacy Converted Enhanced CT Image."""
MODALITIES = {
    "AU", "BI", "BMD", "CR", "CT", "DG", "DOC", "DX", "ECG", "EPS", "ES", "GM", "IO", "IVOCT", "IVUS", "KO", "LS",
    "M3D", "MG", "MR", "NM", "OCT", "OP", "OT", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE",
    "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SC", "SEG", "SM", "SMR", "SR", "TG", "US", "XA", "XC",
}  # fmt: skip
"""Defined terms of Modality (DICOM PS3.3, C.7.3.1.1.1), and SC; in any other text a name may stand."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings: they repeat values of headers and names of files, which may be a patient's."""
    log = logging.getLogger("pydicom")
    before = log.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.disabled = True
        try:
            yield
        finally:
            log.disabled = before


@dataclass
class Series:
    """Files with one SeriesInstanceUID."""

    headers: list[tuple[Any, Path]] = field(default_factory=list)
    n_damaged: int = 0  # further files, whose headers cannot be read

    def values(self, name: str) -> list[str]:
        """Give all values of a header field of the first file as text."""
        return texts_of(self.headers[0][0].get(name, None)) if self.headers else []

    def get(self, name: str) -> str:
        """Give the first value of a header field of the first file as text; empty when there is none."""
        return next(iter(self.values(name)), "")

    @property
    def n_slices(self) -> int:
        """Slices, frames of multi-frame files counted."""
        return sum(n_frames(header) for header, _ in self.headers)

    @property
    def kind(self) -> str:
        """What the series is, for lists: `CT` where it has any, else `localizer` or the modality of most files."""
        kinds = Counter(kind_of(header) for header, _ in self.headers)
        return "CT" if "CT" in kinds else next(iter(kinds.most_common(1)), ("unknown modality",))[0]


def texts_of(value: Any) -> list[str]:
    """Give the value of a header field as text, or all of several."""
    parts = value if isinstance(value, MultiValue) else [] if value in (None, "") else [value]
    return [str(part).strip() for part in parts]


def n_frames(header: Any) -> int:
    """Give the number of slices in a file."""
    return int(header.get("NumberOfFrames", None) or 1)


def class_of(header: Any) -> str:
    """Give the SOP class of a file, from its header or what stands before it."""
    return str(header.get("SOPClassUID", None) or header.file_meta.get("MediaStorageSOPClassUID", ""))


def kind_of(header: Any) -> str:
    """Tell what a file is: `CT`, `localizer`, or another modality, named where DICOM has its name."""
    if "LOCALIZER" in (part.upper() for part in texts_of(header.get("ImageType", None))):
        return "localizer"
    modality = str(header.get("Modality", None) or "").strip() or ("CT" if class_of(header) in CT_IMAGES else "")
    if modality in MODALITIES:
        return modality
    return "another modality" if re.fullmatch(r"[A-Z0-9 _]{1,16}", modality) else "unknown modality"


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, from its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(PREAMBLE_BYTES + 4)[PREAMBLE_BYTES:] == b"DICM"


@quiet_pydicom()
def find_series(source: Path | Iterable[Path]) -> tuple[list[list[Path]], int]:
    """Group DICOM files by series.

    Parameters
    ----------
    source
        The files, or a folder of any depth.

    Returns
    -------
    files : list of list of Path
        The files of each series, for `read_headers`; in the order of the identifiers, so that two runs agree.
    n_other : int
        Files that are not DICOM, or that belong to no series.
    """
    if isinstance(source, Path):
        source = (path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    found: dict[tuple[str, str], list[Path]] = {}
    n_other = 0
    for path in sorted(source):
        identity = _identity(path)
        if identity is None:
            n_other += 1
        else:
            found.setdefault(identity, []).append(path)
    return [found[key] for key in sorted(found)], n_other


def _identity(path: Path) -> tuple[str, str] | None:
    """Read StudyInstanceUID and SeriesInstanceUID; None for another file, a DICOMDIR, or one cut short before them."""
    try:
        with path.open("rb") as file:
            begin = file.read(PREAMBLE_BYTES + 4)
            file.seek(0)
            # Old exports have no preamble: their first element is of group 8.
            bare = begin[PREAMBLE_BYTES:] != b"DICM" and begin[:2] == b"\x08\x00"
            refuse_bomb(path)
            header = read_partial(file, stop_when=lambda tag, vr, length: tag > LAST_IDENTITY_TAG, force=bare)
        series, study = header.get("SeriesInstanceUID", None), header.get("StudyInstanceUID", None)
    except UNREADABLE:
        return None
    return (str(study or ""), str(series)) if series else None


def refuse_bomb(path: Path) -> None:
    """Raise ValueError at a deflated file that would grow beyond any scan: pydicom inflates it at once and whole."""
    with path.open("rb") as file:
        if file.read(PREAMBLE_BYTES + 4)[PREAMBLE_BYTES:] != b"DICM":
            return
        if _read_file_meta_info(file).get("TransferSyntaxUID", "") != DeflatedExplicitVRLittleEndian:
            return
        most = min(MOST_INFLATED_BYTES, max(SMALL_BYTES, HIGHEST_RATIO * path.stat().st_size))
        if inflated_bytes(file, -zlib.MAX_WBITS, most) > most:
            raise ValueError("its compressed content is larger than any scan")


@quiet_pydicom()
def read_headers(files: Iterable[Path]) -> Series:
    """Read the headers of the files of one series; those that cannot be read are counted and left out."""
    series = Series()
    for path in files:
        try:
            header = pydicom.dcmread(path, specific_tags=HEADER_TAGS, stop_before_pixels=True, force=True)
            list(header)  # values are decoded when they are asked for
            for name in ("Rows", "Columns", "InstanceNumber", "AcquisitionNumber", "NumberOfFrames"):
                int(header.get(name, None) or 0)
            for name in ("SliceThickness", "RescaleSlope", "RescaleIntercept", "SpacingBetweenSlices"):
                if not np.isfinite(float(header.get(name, None) or 0)):
                    raise ValueError("no number")
        except UNREADABLE:
            series.n_damaged += 1
        else:
            series.headers.append((header, path))
    return series


# The slices of files, one by one.

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
        return texts_of(next(found, None) or self.header.get(name, None))

    def text(self, name: str) -> str:
        """Give a header field as one text, values separated by a backslash; empty when there is none."""
        return "\\".join(self.values(name)).strip("\\")

    @cached_property
    def number(self) -> int | None:
        """InstanceNumber; for a frame that has none of its own, its place in the file from 1."""
        own = next((group for group in self.groups if group.get("InstanceNumber", None) is not None), None)
        if own is None and n_frames(self.header) > 1:
            return self.index + 1
        return _number_of(own or self.header)


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
    known = sorted({number for number in numbers if number is not None and abs(number) <= LARGEST_IMAGE_NUMBER})
    if not known:
        return "without a number"
    starts = [0, *(i + 1 for i, (one, other) in enumerate(pairwise(known)) if other > one + 1), len(known)]
    runs = [(known[begin], known[end - 1]) for begin, end in pairwise(starts)]
    words = [f"{first}" if first == last else f"{first} to {last}" for first, last in runs]
    rest = f" and {len(words) - MOST_RANGES} more" if len(words) > MOST_RANGES else ""
    return f"image {', '.join(words[:MOST_RANGES])}{rest}"


def heights(frames: list[Frame], normal: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Places of slices along the normal of the first, mm, shape (n,)."""
    return np.array([frame.position @ (frames[0].normal if normal is None else normal) for frame in frames])


def too_large(headers: list[tuple[Any, Path]]) -> Told | None:
    """Say where files announce more pixels than any chest CT has; nothing is decoded for them then."""
    n_slices = sum(n_frames(header) for header, _ in headers)
    sides = [int(header.get(name, None) or 0) for header, _ in headers for name in ("Rows", "Columns")]
    n_pixels = max(sides[::2]) * max(sides[1::2]) * n_slices
    if min(sides) < SIDE_PIXELS[0] or max(sides) > SIDE_PIXELS[1] or n_pixels > MOST_PIXELS:
        return told("too_large", side=max(sides), n=n_slices)
    n_bytes = sum(path.stat().st_size for _, path in headers)
    if n_pixels > HIGHEST_COMPRESSION * n_bytes:
        return told("too_much_announced", n=n_pixels, n_bytes=n_bytes)
    return None


def rescale_of_decoder(header: Any) -> tuple[float, float]:
    """Give the rescale that GDCM applies to all frames of a file: of a classic one its own, else that of the first."""
    groups = [] if class_of(header) == CT_IMAGES[0] else _groups(header)
    return _rescale(groups[0] if groups else (), header)


def _frames(header: Any, path: Path) -> list[Frame | None]:
    """List the slices of a file; None for one without a place."""
    try:
        groups = _groups(header)
    except UNREADABLE:
        return [None]
    if groups:
        return [_frame(path, index, header, group) for index, group in enumerate(groups)]
    if header.get("PerFrameFunctionalGroupsSequence", None) is not None:
        return []
    first = _frame(path, 0, header, ())
    n = n_frames(header)
    if n == 1 or first is None:
        return [first]
    spacing = header.get("SpacingBetweenSlices", None)
    if spacing in (None, "", 0) or too_large([(header, path)]):
        return [None]
    # One behind the other along the normal (DICOM PS3.3, C.8.4.15).
    places = (first.position + index * float(spacing) * first.normal for index in range(n))
    return [replace(first, index=index, position=place) for index, place in enumerate(places)]


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
