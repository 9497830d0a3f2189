"""DICOM series: found in folders of any depth, and read from their headers.

Messages about a series never name a file, since file names of an export may hold names of patients.
"""

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

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
    "AcquisitionDate", "ContentDate", "AcquisitionNumber", "InstanceNumber", "Manufacturer", "ConvolutionKernel",
    "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SamplesPerPixel", "FrameOfReferenceUID", "LossyImageCompression", "NumberOfFrames", "RescaleSlope",
    "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation", "BurnedInAnnotation",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


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
    """Files with one SeriesInstanceUID.

    Attributes
    ----------
    headers
        Header and path of each file.
    n_damaged
        Further files, whose headers cannot be read.
    """

    headers: list[tuple[Any, Path]] = field(default_factory=list)
    n_damaged: int = 0

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
        """What the series is, for lists: `CT`, `localizer`, or another modality."""
        if "LOCALIZER" in (part.upper() for part in self.values("ImageType")):
            return "localizer"
        modality = self.get("Modality")
        return modality if re.fullmatch(r"[A-Z]{2,16}", modality) else "unknown modality"


@quiet_pydicom()
def find_series(source: Path) -> tuple[list[list[Path]], int]:
    """Group all DICOM files below a folder by series.

    Parameters
    ----------
    source
        Folder of any depth.

    Returns
    -------
    files : list of list of Path
        The files of each series, for `read_headers`; in the order of the identifiers, so that two runs agree.
    n_other : int
        Files that are not DICOM, or that belong to no series.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    n_other = 0
    for path in sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith(".")):
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
    """Refuse a deflated file that would grow beyond any scan: pydicom inflates such a file at once and whole.

    Parameters
    ----------
    path
        A DICOM file; others pass.

    Raises
    ------
    ValueError
        If its content is larger than `MOST_INFLATED_BYTES`, or larger than 64 MiB and a hundred times the file.
    """
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
            for name in HEADER_TAGS:  # values are decoded when they are asked for
                header.get(name, None)
            for name in ("Rows", "Columns", "InstanceNumber", "AcquisitionNumber", "NumberOfFrames"):
                int(header.get(name, None) or 0)
            for name in ("SliceThickness", "RescaleSlope", "RescaleIntercept"):
                float(header.get(name, None) or 0)
        except UNREADABLE:
            series.n_damaged += 1
        else:
            series.headers.append((header, path))
    return series
