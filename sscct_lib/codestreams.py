"""Compressed pixels of DICOM files: what they announce is compared with the header before anything decodes them.

A decoder takes memory for the size that stands in the compressed data itself. A few bytes can announce gigabytes there,
whatever the DICOM header says.
"""

import re
import struct
from typing import Any

from pydicom.config import IGNORE
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
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


def syntax_of(item: Any) -> UID:
    """Give a file's transfer syntax; one without preamble has the first that there was."""
    # Without validation, whose warning would repeat a damaged value.
    return UID(str(item.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)), IGNORE)


def refuse_other_size(item: Any) -> None:
    """Refuse compressed pixels that are not as large as their header says.

    Parameters
    ----------
    item
        A DICOM dataset with `PixelData`; one that is not compressed passes.

    Raises
    ------
    ValueError, struct.error
        If a frame announces other rows, columns or colours than the header, or more bits than a pixel has; has more
        tiles than any CT, or cannot hold what the header says; if there are more or fewer frames; or if the
        compression is none that is read.

    References
    ----------
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
    """Give rows, columns, components and bits that a frame announces; more than one such set where it has several."""
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
