"""Which of several series of an examination is taken, and the few header values that may be kept."""

import re
from typing import Any

from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from sscct_lib.dicom import Series
from sscct_lib.dicom_frames import Frame, length_mm, step_mm

THIN_MM = 1.5
WHOLE_THORAX_MM = 200.0

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
EXPIRATORY = re.compile(r"(?<![a-z])exp(?:ir[a-z]*)?(?![a-z])", re.IGNORECASE)
LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K}
"""Transfer syntaxes that change values; JPEG 2000 (.91) may be lossless, which its name does not tell."""

SHARP_NAMES = {"LUNG", "BONE", "BONEPLUS", "EDGE", "DETAIL", "CHEST", "D", "E", "L", "YA", "YB", "YC", "YD"}
SOFT_NAMES = {"STANDARD", "SOFT", "A", "B", "C", "CB", "UA", "UB", "UC"}
CRITERIA = (
    "prone",
    "expiratory",
    "derived from another series",
    "lossy compression",
    "shorter than a whole thorax",
    "thicker slices",
    "another kernel than configured",
    "larger steps",
    "fewer slices",
    "as good as the chosen one",
)


def known_manufacturer(text: str) -> str | None:
    """Give the maker's common name; None for a maker that is not on the list, so that no free text is kept."""
    lowered = re.sub(r"[^a-z]+", " ", text.lower()).strip()
    if lowered.split(" ")[0] in ("ge", "gems"):
        return "GE"
    return next((name for part, name in MANUFACTURERS.items() if part != "ge" and part in lowered), None)


def known_kernel(text: str) -> str | None:
    """Give a kernel's name when it looks like one: short, without words that could be a name or a note."""
    looks_like_code = re.fullmatch(r"[A-Za-z]{1,3}\d{0,3}[A-Za-z]{0,2}", text) is not None
    return text if looks_like_code or text.upper() in SHARP_NAMES | SOFT_NAMES else None


def is_sharp(kernel: str) -> bool | None:
    """Tell whether a reconstruction kernel is a sharp (lung or bone) one; None when the name is not known.

    Siemens names carry a number that grows with sharpness (B30f, Br40d: soft; B70f, Bl57: sharp); Canon's FC50 to
    FC59 and FC80 to FC89 are lung kernels; GE and Philips use words and letters.
    """
    name = kernel.upper().strip()
    if name in SHARP_NAMES:
        return True
    if name in SOFT_NAMES:
        return False
    if canon := re.fullmatch(r"FC(\d\d)[A-Z]?", name):
        return canon.group(1)[0] in "358"
    if siemens := re.fullmatch(r"[A-Z]{1,2}(\d\d)[A-Z]?", name):
        return int(siemens.group(1)) >= 50
    return None


def is_lossy(series: Series) -> bool:
    """Tell whether the pixels of a series went through a compression that changed them."""
    if series.get("LossyImageCompression") == "01":
        return True
    return any(str(header.file_meta.get("TransferSyntaxUID", "")) in LOSSY for header, _ in series.headers)


def preference(series: Series, frames: list[Frame], kernel: str) -> tuple[Any, ...]:
    """Order the usable series of an examination: the least is the best.

    Parameters
    ----------
    series
        A series for which `dicom_frames.why_unusable` found nothing.
    frames
        Its slices, from `dicom_frames.stack`.
    kernel
        Kind of kernel that is wanted: `soft` or `sharp`.

    Returns
    -------
    tuple
        One value for each of `CRITERIA`.
    """
    step = step_mm(frames)
    sharp = is_sharp(series.get("ConvolutionKernel"))
    derived = any(str(part).upper() in ("DERIVED", "SECONDARY") for part in series.values("ImageType"))
    return (
        series.get("PatientPosition").upper().endswith("P"),
        EXPIRATORY.search(series.get("SeriesDescription")) is not None,
        derived,
        is_lossy(series),
        length_mm(frames) < WHOLE_THORAX_MM,
        round(max(step, THIN_MM), 1),
        1 if sharp is None else 2 * (sharp != (kernel == "sharp")),
        round(step, 2),
        -len(frames),
        series.get("SeriesInstanceUID"),
    )


def why_behind(other: tuple[Any, ...], chosen: tuple[Any, ...]) -> str:
    """Say by which criterion another series came behind the chosen one."""
    differing = [words for words, mine, best in zip(CRITERIA, other, chosen, strict=False) if mine != best]
    return differing[0] if differing else CRITERIA[-1]
