"""What bytes say: a text in its encoding, and the words of a PDF."""

import re
import zlib
from collections.abc import Iterator

LONGEST_TEXT = 50_000_000
HEADER_OF_STREAM = 2000  # bytes before a stream of a PDF, that say what it is
NOT_OF_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
STREAM = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)
STRING = re.compile(rb"\(((?:\\.|[^\\()])*)\)|<([0-9A-Fa-f\s]+)>", re.DOTALL)
ESCAPED = re.compile(rb"\\([0-7]{1,3}|\r?\n|.)", re.DOTALL)
OPERATOR = re.compile(rb"(?<=[)\]>\s])T[jJ]\b|(?<=[)>])\s*['\"]")
NOT_UNDONE = re.compile(rb"/(?:LZW|ASCII85|ASCIIHex|RunLength|Crypt|A85|AHx|RL)\w*")
"""Of PDF: what may be compressed, a text in it, what shows a text, and compressions that are not undone here."""
SHORTEST_SHOWN = 2  # letters in a piece, on average: else each is placed by itself


class UnreadError(ValueError):
    """A file cannot be looked into; the message says why, and nothing of what it holds."""


def decoded(content: bytes) -> str:
    """Give a text, whatever its encoding: UTF-8, UTF-16, or one byte a letter as in Western Europe.

    UnreadError where it is none.
    """
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    if "\x00" in text and len(content) % 2 == 0:  # every second byte of Latin letters in UTF-16 is 0
        is_little = content[1::2].count(0) > content[::2].count(0)
        text = content.decode("utf-16-le" if is_little else "utf-16-be", errors="surrogateescape")
    if NOT_OF_TEXT.search(text):
        raise UnreadError("of no kind that is looked into")
    return text


def pdf_texts(content: bytes) -> Iterator[str]:
    """Give the words of a PDF whose letters are letters; in many they are numbers of drawings."""
    outside = STREAM.sub(b"\n", content)
    if b"/Encrypt" in outside:
        raise UnreadError("a PDF under a password")
    yield "\n".join(_pdf_words(outside))
    shown, left = list[str](), LONGEST_TEXT
    for one in STREAM.finditer(content):
        about, stream = content[max(0, one.start() - HEADER_OF_STREAM) : one.start()].rpartition(b"obj")[2], one[1]
        if re.search(rb"/Subtype\s*/Image", about):
            continue
        if NOT_UNDONE.search(about):
            raise UnreadError("a PDF with a compression that is not undone")
        try:
            stream = zlib.decompressobj().decompress(stream, left + 1)
        except zlib.error as error:
            if b"Flate" in about:
                raise UnreadError("a damaged PDF") from error
        left -= len(stream)
        if left < 0:
            raise UnreadError("a PDF of more than can be looked into")
        if b"<rdf:" in stream:
            yield decoded(stream)
        elif OPERATOR.search(stream):
            shown += (words := _pdf_words(stream))
            yield "\n".join(words)
        elif b"/ObjStm" in about:
            yield "\n".join(_pdf_words(stream))
    letters = "".join(shown)
    if (
        NOT_OF_TEXT.search(letters)
        or not re.search("[A-Za-z]{3}", letters)
        or len(letters) < SHORTEST_SHOWN * len(shown)
    ):
        raise UnreadError("a PDF whose letters cannot be read")


def _pdf_words(stream: bytes) -> list[str]:
    pieces = (STRING.findall(piece) for line in stream.splitlines() for piece in OPERATOR.split(line))
    words = ("".join(_pdf_word(literal, digits) for literal, digits in piece) for piece in pieces)
    return [word for word in words if word]


def _pdf_word(literal: bytes, digits: bytes) -> str:
    """Give a text of a PDF, in its brackets or as hexadecimal digits."""
    if digits:
        word = bytes.fromhex((even := b"".join(digits.split()).decode()) + "0" * (len(even) % 2))
    else:
        word = ESCAPED.sub(lambda one: bytes([int(one[1], 8) & 255]) if one[1].isdigit() else one[1], literal)
    return word[2:].decode("utf-16-be", "replace") if word.startswith(b"\xfe\xff") else word.decode("latin-1")
