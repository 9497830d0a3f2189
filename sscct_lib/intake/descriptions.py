"""What the free text of a series says in the languages of the field: breath, projection, part of the body.

The text is read to rank series, and never kept.
"""

import re
import unicodedata
from typing import Protocol

# By language: en, fr, de, it and es, de, nl, pl; `respir…`, `expert`, `inexpensive` and `Espírito` are none.
EXPIRATION = re.compile(
    r"exspir|expir(?!y|ed )|(?<!r)espir(?!it)|exhal|aus(?:ge)?atm|ausatem|uit(?:ge)?adem|wydech"
    r"|(?<![a-z])(?:exp|expi|exsp|esp)(?![a-z])",
)
EXPIRATION_IN_A_WORD = re.compile(r"(?<=[a-z])(?:Exp|Expi|Exsp)(?![a-z])")
INSPIRATION = re.compile(
    r"inspir|(?<![a-z])(?:insp|inspi|ins)(?![a-z])|inhal|ein(?:ge)?at|in(?:ge)?adem|(?<![a-z])wdech"
)
PROJECTION = re.compile(
    r"(?<![a-z])(?:mips?|max[ _-]?ip|min[ _-]?ip|aip|thick[ _-]?slab|vrt|ssd)(?![a-z])"
    r"|(?:min|max)imum[ _-]?intensity|projection|projektion|proiezion|proyecc|projecao|projectie|projekcj"
)
SIDES = (
    "right|left|rechte?r?s?|linke?r?s?|droite?|gauche|destr[oa]|sinistr[oa]|derech[oa]|izquierd[oa]|direit[oa]"
    "|esquerd[oa]|praw[eya]|lew[eya]"
)
HALF = "half|halb|hemi|demi|halve|meta|mezzo|media|metade|polow"
CHEST = "thorax|torac|chest|lung|pulm|polmon|poumon|long|pluc"
PART_OF_BODY = re.compile(rf"(?<![a-z])(?:{SIDES})(?![a-z])|(?<![a-z])(?:{HALF})[a-z]*[ _-]?(?:{CHEST})")
PROJECTED_TYPES = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "MAXIP", "PROJECTION IMAGE", "VOLUME RENDERING", "AIP"}
TEXTS = ("SeriesDescription", "ProtocolName", "ImageComments")


class Header(Protocol):
    """What gives values of a header."""

    def get(self, name: str) -> str:
        """First value of a field as text."""

    def values(self, name: str) -> list[str]:
        """All values of a field as text."""


def is_expiratory(header: Header) -> bool:
    """Tell whether a series says that it was taken in expiration; the first text that speaks of breath holds."""
    for name in TEXTS:
        text = header.get(name)
        plain = _plain(text)
        out = EXPIRATION.search(plain) is not None or EXPIRATION_IN_A_WORD.search(text) is not None
        held = INSPIRATION.search(plain) is not None
        if out or held:
            return out and not held
    return False


def is_projection(header: Header) -> bool:
    """Tell whether a series shows the highest, lowest or mean density of slabs (MIP, MinIP, AIP)."""
    kinds = {part.upper() for part in header.values("ImageType")}
    return bool(kinds & PROJECTED_TYPES) or PROJECTION.search(_plain(header.get("SeriesDescription"))) is not None


def is_part_of_body(header: Header) -> bool:
    """Tell whether a series says that it shows one side of the chest."""
    return PART_OF_BODY.search(_plain(header.get("SeriesDescription"))) is not None


def _plain(text: str) -> str:
    """Small letters without accents."""
    without = text.replace("ł", "l").replace("Ł", "L")
    return "".join(one for one in unicodedata.normalize("NFKD", without) if not unicodedata.combining(one)).lower()
