"""DICOM series: found in folders of any depth, read from their headers, and not decoded before their pixels are judged.

Messages about a series never name a file, since file names of an export may hold names of patients.

A decoder takes memory for the size that stands in the compressed data itself, where a few bytes can announce gigabytes,
whatever the header says. What compressed pixels announce is therefore compared with the header first.
"""

import logging
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import IGNORE
from pydicom.encaps import generate_frames
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_partial
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLETransferSyntaxes,
)

MOST_TILES = 1024  # a decoder keeps some kilobytes for each tile of JPEG 2000
HIGHEST_RLE = 64  # two bytes of PackBits become 128
CODESTREAM, BOXES = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "  # how JPEG 2000 begins: bare, and as a file
SIZE_2000 = struct.Struct(">4x2x2x8LH")  # image and tiles, each with its offset, and the components
DEPTH_2000 = 0x7F  # of a component, the bits less one; the eighth bit says that it has a sign
SIZE_JPEG = struct.Struct(">B2HB")  # after the length: bits, rows, columns, components
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END = 0xDA, 0xD9
LARGER_SIZE = b"\xff\xf8", b"\x04"  # JPEG-LS may give a size that does not fit its frame header

PREAMBLE_BYTES = 128
LAST_IDENTITY_TAG = 0x0020000E  # SeriesInstanceUID
MOST_INFLATED_BYTES = 1 << 30
SMALL_BYTES, HIGHEST_RATIO = 1 << 26, 100  # beyond the first, no scan is deflated to less than a hundredth
PIECE_BYTES = 1 << 20
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
        value = self.headers[0][0].get(name, None) if self.headers else None
        parts = value if isinstance(value, pydicom.multival.MultiValue) else [] if value is None else [value]
        return [str(part).strip() for part in parts]

    def get(self, name: str) -> str:
        """Give the first value of a header field of the first file as text; empty when there is none."""
        values = self.values(name)
        return values[0] if values else ""

    @property
    def n_slices(self) -> int:
        """Slices, frames of multi-frame files counted."""
        return sum(int(header.get("NumberOfFrames", None) or 1) for header, _ in self.headers)

    @property
    def kind(self) -> str:
        """What the series is, for lists: `CT` where it has any, else `localizer` or the modality of most files."""
        kinds = Counter(kind_of(header) for header, _ in self.headers)
        return "CT" if "CT" in kinds else next(iter(kinds.most_common(1)), ("unknown modality",))[0]


def class_of(header: Any) -> str:
    """Give the SOP class of a file, from its header or what stands before it."""
    return str(header.get("SOPClassUID", None) or header.file_meta.get("MediaStorageSOPClassUID", ""))


def kind_of(header: Any) -> str:
    """Tell what a file is: `CT`, `localizer`, or another modality."""
    image_type = header.get("ImageType", None) or ()
    parts = [image_type] if isinstance(image_type, str) else image_type
    if "LOCALIZER" in (str(part).strip().upper() for part in parts):
        return "localizer"
    modality = str(header.get("Modality", None) or "").strip() or ("CT" if class_of(header) in CT_IMAGES else "")
    return modality if re.fullmatch(r"[A-Z]{2,16}", modality) else "unknown modality"


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
        inflate, n_bytes, waiting = zlib.decompressobj(-zlib.MAX_WBITS), 0, file.read(PIECE_BYTES)
        while waiting:
            n_bytes += len(inflate.decompress(waiting, PIECE_BYTES))
            if n_bytes > most:
                raise ValueError("its compressed content is larger than any scan")
            waiting = inflate.unconsumed_tail or file.read(PIECE_BYTES)


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
                float(header.get(name, None) or 0)
        except UNREADABLE:
            series.n_damaged += 1
        else:
            series.headers.append((header, path))
    return series


def syntax_of(item: Any) -> UID:
    """Give a file's transfer syntax; one without preamble has the first that there was."""
    # Without validation, whose warning would repeat a damaged value.
    return UID(str(item.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)), IGNORE)


def refuse_other_size(item: Any) -> None:
    """Raise ValueError where compressed pixels announce another size, depth or number than their header.

    ITU-T T.81 (JPEG), T.87 (JPEG-LS) and T.800 (JPEG 2000); DICOM PS3.5, annex G (RLE).
    """
    syntax = syntax_of(item)
    if not syntax.is_encapsulated:
        return
    n_frames = int(item.get("NumberOfFrames", None) or 1)
    expected = int(item.Rows), int(item.Columns), int(item.get("SamplesPerPixel", None) or 1)
    found = 0
    for frame in generate_frames(item.PixelData, number_of_frames=n_frames):
        found += 1
        if syntax in RLETransferSyntaxes:
            n_bytes = expected[0] * expected[1] * expected[2] * int(item.BitsAllocated) // 8
            if n_bytes > HIGHEST_RLE * len(frame):
                raise ValueError("the compressed pixels cannot hold what the header announces")
            continue
        announced = _announced(frame, syntax)
        sizes = {one[:3] for one in announced}
        if sizes != {expected}:
            raise ValueError(f"the compressed pixels announce {sizes}, the header {expected}")
        n_bits = max(one[3] for one in announced)
        if n_bits > int(item.BitsAllocated):  # a decoder may write beyond the pixels that it made
            raise ValueError(f"the compressed pixels announce {n_bits} bits, the header {item.BitsAllocated}")
    if found != n_frames:
        raise ValueError(f"{found} compressed frames, the header announces {n_frames}")


def _announced(frame: bytes, syntax: UID) -> set[tuple[int, int, int, int]]:
    """Rows, columns, components and bits that a frame announces; more than one such set where it has several."""
    if syntax in JPEG2000TransferSyntaxes:
        return {_announced_2000(frame, place) for place in _headers_2000(frame)}
    if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        return {_announced_jpeg(frame)}
    raise ValueError(f"{syntax.name} is not read")


def _headers_2000(frame: bytes) -> list[int]:
    if frame.startswith(CODESTREAM):
        return [0]
    if not frame.startswith(BOXES):
        raise ValueError("no JPEG 2000")
    # A box may hold a second image, before or after the one that is decoded.
    return [found.start() for found in re.finditer(re.escape(CODESTREAM), frame)]


def _announced_2000(frame: bytes, place: int) -> tuple[int, int, int, int]:
    right, bottom, left, top, tile_width, tile_height, _, _, components = SIZE_2000.unpack_from(frame, place)
    if right <= left or bottom <= top or not tile_width or not tile_height:
        raise ValueError("JPEG 2000 without pixels")
    if -(-right // tile_width) * -(-bottom // tile_height) > MOST_TILES:
        raise ValueError("JPEG 2000 with more tiles than any CT")
    depths = frame[place + SIZE_2000.size :][: 3 * components : 3]
    if len(depths) < components or not components:
        raise ValueError("JPEG 2000 without components")
    return bottom - top, right - left, components, max(depth & DEPTH_2000 for depth in depths) + 1


def _announced_jpeg(frame: bytes) -> tuple[int, int, int, int]:
    if not frame.startswith(b"\xff\xd8"):
        raise ValueError("no JPEG")
    place = 2
    while place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        (length,) = struct.unpack_from(">H", frame, place + 2)
        if marker in START_OF_FRAME:
            bits, rows, columns, components = SIZE_JPEG.unpack_from(frame, place + 4)
            return rows, columns, components, bits
        other_size = (frame[place : place + 2], frame[place + 4 : place + 5]) == LARGER_SIZE
        if marker in (START_OF_SCAN, END) or other_size:
            break
        place += 2 + length
    raise ValueError("JPEG without a size")
