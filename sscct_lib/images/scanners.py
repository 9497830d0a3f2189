"""Makers of scanners and reconstruction kernels, by the names that everybody uses."""

import re
from typing import Any

import pandas as pd

MANUFACTURERS = {
    "siemens": "Siemens",
    "ge": "GE",
    "philips": "Philips",
    "toshiba": "Canon",
    "canon": "Canon",
    "hitachi": "Hitachi",
    "fuji": "Fujifilm",
    "united imaging": "United Imaging",
    "neusoft": "Neusoft",
}
SHARP_NAMES = {"LUNG", "BONE", "BONEPLUS", "EDGE", "DETAIL", "CHEST", "D", "E", "L", "YA", "YB", "YC", "YD"}
KERNEL_CODE = re.compile(r"[A-Z]\d\d[a-z]{1,2}|[A-Z][a-z]\d\d[a-z]{0,2}|FC\d\d[A-Z]?")
SOFT_NAMES = {"STANDARD", "SOFT", "A", "B", "C", "CB", "UA", "UB", "UC"}


def known_manufacturer(text: str) -> str | None:
    """Give the maker's common name; None for a maker that is not on the list, so that no free text is kept."""
    lowered = re.sub(r"[^a-z]+", " ", text.lower()).strip()
    if lowered.split(" ")[0] in ("ge", "gems"):
        return "GE"
    return next((name for part, name in MANUFACTURERS.items() if part != "ge" and part in lowered), None)


def known_kernel(text: str) -> str | None:
    """Give a kernel's name when it is known, or a code of Siemens or Canon; any other text may be a person's name."""
    return text if KERNEL_CODE.fullmatch(text) or text.upper() in SHARP_NAMES | SOFT_NAMES else None


def is_sharp(kernel: str) -> bool | None:
    """Tell whether a reconstruction kernel is a sharp (lung or bone) one; None when the name is not known."""
    name = kernel.upper().strip()
    if name in SHARP_NAMES:
        return True
    if name in SOFT_NAMES:
        return False
    # FC50 to FC59 and FC80 to FC89 are Canon's lung kernels.
    if canon := re.fullmatch(r"FC(\d\d)[A-Z]?", name):
        return canon.group(1)[0] in "358"
    # The number of Siemens' names grows with sharpness: B30f and Br40d are soft, B70f and Bl57 sharp.
    if siemens := re.fullmatch(r"[A-Z]{1,2}(\d\d)[A-Z]?", name):
        return int(siemens.group(1)) >= 50
    return None


def scanner(table: pd.DataFrame) -> pd.Series:
    """Name the scanner and kind of kernel of each scan, the batch over which features are harmonised.

    The table has `manufacturer` and `kernel`, as in schema `COHORT`; either may be absent or missing. For example
    "GE soft"; a kernel of unknown kind keeps its name. Missing where the maker is not known.
    """
    columns = table.reindex(columns=["manufacturer", "kernel"])
    names = [_scanner(maker, kernel) for maker, kernel in columns.itertuples(index=False)]
    return pd.Series(names, index=table.index, name="scanner", dtype=object)


def _scanner(maker: Any, kernel: Any) -> str | None:
    if pd.isna(maker):
        return None
    if pd.isna(kernel):
        return f"{maker}, kernel not known"
    sharp = is_sharp(kernel)
    return f"{maker} {kernel if sharp is None else 'sharp' if sharp else 'soft'}"
