"""What a hospital's export holds, each DICOM series and NIfTI file judged as a scan, and the best of an examination.

The free text of a series is read to rank it, in the languages of the field, and never kept.
"""

import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from sscct_lib.images.dicom import UNREADABLE, Series, find_series, read_headers
from sscct_lib.images.dicom_masks import referred_series
from sscct_lib.images.dicom_pixels import air_ml, length_mm, volumes_of
from sscct_lib.images.reasons import Told, told
from sscct_lib.images.reconstructions import Volume, step_mm
from sscct_lib.images.scanners import is_sharp, known_kernel, known_manufacturer
from sscct_lib.intake.dates import OF_THE_SCAN, age_years, scan_date
from sscct_lib.intake.discovery import find_volumes, look
from sscct_lib.study.folder import StudyError
from sscct_lib.study.results import ScanError

THIN_MM = 1.5
WHOLE_THORAX_MM = 200.0

NARROWEST_FIELD_MM = 200.0  # of a picture of a whole chest
LEAST_GAP_MM, LEAST_STEP = 5.0, 2.0  # between slices at intervals: apart, and in units of their thickness
LESS_AIR = 0.97  # of the largest in the examination: another breath, or a part of the lungs
LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K}
"""Transfer syntaxes that change values; JPEG 2000 (.91) may be lossless, which its name does not tell."""

OF_AIR = 5  # the criterion that needs the pixels
CRITERIA = (
    "projection of slabs",
    "prone",
    "expiratory",
    "slices at intervals",
    "only a part of the chest",
    "less air in the lungs",
    "derived from another series",
    "lossy compression",
    "shorter than a whole thorax",
    "thicker slices",
    "another kernel than configured",
    "larger steps",
    "fewer slices",
    "as good as the chosen one",
)

MASK_KINDS = ("SEG", "RTSTRUCT")

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


@dataclass
class Candidate:
    """A series or a NIfTI file as it was found, and what becomes of it."""

    # The hospital's identifiers and date; they stay in memory.
    patient: str
    visit: str
    date: pd.Timestamp | None
    kind: str  # `CT`, `localizer`, another modality, `NIfTI`, or what was passed over
    files: list[str]
    slices: list[tuple[str, int]] = field(default_factory=list)  # of DICOM: file, and frame in it
    n_slices: int | None = None
    step_mm: float | None = None
    status: str = "not chosen"  # or `scan`, `lung mask`, `set aside`, `passed over`
    told: list[str] = field(default_factory=list)  # `reasons.Told`, why it was set aside first
    preference: tuple[Any, ...] = ()  # from `preference`
    header: dict[str, Any] = field(default_factory=dict)  # values that may be kept
    uid: str = ""  # SeriesInstanceUID
    frame_uid: str = ""  # FrameOfReferenceUID
    refers_to: tuple[str, ...] = ()  # of a mask: the series on which it was drawn

    @property
    def reason(self) -> str:
        """All that is told of it, in one line."""
        return "; ".join(self.told)

    def set_aside(self, *told: str) -> None:
        """Say why it is no scan."""
        self.status, self.told = "set aside", [*told]


def find_candidates(source: Path, kernel: str, n_jobs: int = 1) -> list[Candidate]:
    """List everything that could be a scan; a StudyError says what was found where nothing can be used."""
    found = look(source)
    series, n_without = find_series(found.dicom)
    if n_without:
        found.counts["no_series"] = n_without
    judged: list[list[Candidate]] = Parallel(n_jobs=n_jobs)(delayed(_from_files)(files, kernel) for files in series)
    candidates = [one for several in judged for one in several]
    _judge_breath(candidates, n_jobs)
    for one in find_volumes(source, found.volumes):
        files = [str(path) for path in one.files]
        candidates.append(Candidate(one.patient, one.visit, one.date, "NIfTI", files, told=[*one.told]))
    if all(candidate.status == "set aside" for candidate in candidates):
        others = [words for _, _, words in found.told()]
        shown = ", ".join(filter(None, (_count_kinds(candidates), *others))) or "no files"
        reasons = sorted({candidate.reason for candidate in candidates if candidate.kind == "CT"})
        because = f" The CT series cannot be used: {'; '.join(reasons)}." if reasons else ""
        raise StudyError(f"{source} has no chest CT series; found {shown}.{because}")
    # What is no scan is listed, so that the report counts it.
    return candidates + [
        Candidate("", "", None, kind, [*map(str, paths)], status="passed over", told=[words])
        for kind, paths, words in found.told()
    ]


def is_lossy(volume: Series | Volume) -> bool:
    """Tell whether the pixels of a series went through a compression that changed them."""
    if volume.get("LossyImageCompression") == "01":
        return True
    return any(str(header.file_meta.get("TransferSyntaxUID", "")) in LOSSY for header, _ in volume.headers)


def preference(volume: Volume, kernel: str, told_of: list[Told]) -> tuple[Any, ...]:
    """Order the usable volumes of an examination, one value for each of `CRITERIA`: the least is the best."""
    step = step_mm(volume.frames)
    sharp = is_sharp(volume.get("ConvolutionKernel"))
    said = {one.code for one in told_of}
    return (
        "projection" in said,
        "prone" in said,
        "expiratory" in said,
        "at_intervals" in said,
        "part_of_body" in said,
        False,  # see `_compare_air`
        "derived" in said,
        is_lossy(volume),
        length_mm(volume.frames) < WHOLE_THORAX_MM,
        round(max(step, THIN_MM), 1),
        1 if sharp is None else 2 * (sharp != (kernel == "sharp")),
        round(step, 2),
        -len(volume.frames),
        volume.get("SeriesInstanceUID"),
        volume.apart,
    )


def _told_of(volume: Volume) -> list[Told]:
    """Say what a scan is that should be taken only if nothing better is there."""
    thickness, step = _thickness(volume), step_mm(volume.frames)
    width = _field_mm(volume)
    kinds = {part.upper() for part in volume.values("ImageType")}
    said = [
        (is_projection(volume), told("projection")),
        (volume.get("PatientPosition").upper().endswith("P"), told("prone")),
        (is_expiratory(volume), told("expiratory")),
        (is_part_of_body(volume) or width < NARROWEST_FIELD_MM, told("part_of_body", width=width)),
        (bool(kinds & {"DERIVED", "SECONDARY"}), told("derived")),
    ]
    if thickness and step - thickness >= LEAST_GAP_MM and step >= LEAST_STEP * thickness:
        share = 100 * (1 - thickness / step)
        said.append((True, told("at_intervals", thickness=thickness, step=step, share=share)))
    return [sentence for holds, sentence in said if holds]


def is_expiratory(header: Series | Volume) -> bool:
    """Tell whether a series says that it was taken in expiration; the first text that speaks of breath holds."""
    for name in TEXTS:
        text = header.get(name)
        plain = _plain(text)
        out = EXPIRATION.search(plain) is not None or EXPIRATION_IN_A_WORD.search(text) is not None
        held = INSPIRATION.search(plain) is not None
        if out or held:
            return out and not held
    return False


def is_projection(header: Series | Volume) -> bool:
    """Tell whether a series shows the highest, lowest or mean density of slabs (MIP, MinIP, AIP)."""
    kinds = {part.upper() for part in header.values("ImageType")}
    return bool(kinds & PROJECTED_TYPES) or PROJECTION.search(_plain(header.get("SeriesDescription"))) is not None


def is_part_of_body(header: Series | Volume) -> bool:
    """Tell whether a series says that it shows one side of the chest."""
    return PART_OF_BODY.search(_plain(header.get("SeriesDescription"))) is not None


def _plain(text: str) -> str:
    """Small letters without accents."""
    without = text.replace("ł", "l").replace("Ł", "L")
    return "".join(one for one in unicodedata.normalize("NFKD", without) if not unicodedata.combining(one)).lower()


def _thickness(volume: Series | Volume) -> float | None:
    value = float(volume.get("SliceThickness") or 0)
    return value if 0 < value < math.inf else None


def _field_mm(volume: Volume) -> float:
    first = volume.frames[0]
    across, down = first.pixel_mm
    return min(across * int(first.header.Columns), down * int(first.header.Rows))


def _judge_breath(candidates: list[Candidate], n_jobs: int) -> None:
    """Mark series with clearly less air in the lungs than another of the examination: another breath, or a part."""
    visits: dict[tuple[str, str], list[Candidate]] = {}
    for one in candidates:
        if one.status != "set aside":
            visits.setdefault((one.patient, one.visit), []).append(one)
    for group in visits.values():
        if len(group) > 1:
            air = Parallel(n_jobs=n_jobs)(delayed(_air_ml)(one.slices) for one in group)
            most = max(
                (own for own, one in zip(air, group, strict=True) if own > 0 and not one.preference[0]), default=0.0
            )
            for own, one in zip(air, group, strict=True):
                less = own < LESS_AIR * most
                one.preference = (*one.preference[:OF_AIR], less, *one.preference[OF_AIR + 1 :])


def _air_ml(slices: list[tuple[str, int]]) -> float:
    try:
        return air_ml(slices)
    except (ScanError, *UNREADABLE):  # reading it tells why
        return math.nan


def why_behind(other: tuple[Any, ...], chosen: tuple[Any, ...]) -> str:
    """Say by which criterion another series came behind the chosen one."""
    differing = [words for words, mine, best in zip(CRITERIA, other, chosen, strict=False) if mine != best]
    why = differing[0] if differing else CRITERIA[-1]
    same_series = len(other) > len(CRITERIA) and other[len(CRITERIA) - 1] == chosen[len(CRITERIA) - 1]
    return told("same_series", what=other[-1], why=why) if same_series and other[-1] else why


def _count_kinds(candidates: list[Candidate]) -> str:
    """Say what was found, for example `3 MR series, 1 localizer`."""
    kinds = Counter(one.kind for one in candidates)
    named = {"localizer": "localizer" if kinds["localizer"] == 1 else "localizers"}
    named |= {kind: f"series of {kind}" for kind in ("another modality", "unknown modality")}
    return ", ".join(f"{n} {named.get(kind, f'{kind} series')}" for kind, n in kinds.most_common())


def _from_files(files: list[Path], kernel: str) -> list[Candidate]:
    series = read_headers(files)
    try:
        return _from_series(series, kernel)
    except UNREADABLE as error:  # of one series, which never stops the others
        patient, visit = series.get("PatientID"), series.get("StudyInstanceUID")
        candidate = Candidate(
            patient, visit, None, series.kind, [*map(str, files)], uid=series.get("SeriesInstanceUID")
        )
        candidate.set_aside(told("odd_header", kind=type(error).__name__))
        return [candidate]


def _from_series(series: Series, kernel: str) -> list[Candidate]:
    """Judge the volumes of a series, each as a candidate of its own."""
    if series.kind != "CT":
        candidate = _candidate(series, series, series.n_slices)
        candidate.set_aside(volumes_of(series)[0].fault or "")
        if candidate.kind in MASK_KINDS:
            candidate.refers_to = tuple({uid for file in candidate.files for uid in referred_series(Path(file))})
        return [candidate]
    return [_from_volume(volume, series, kernel) for volume in volumes_of(series)]


def _from_volume(volume: Volume, series: Series, kernel: str) -> Candidate:
    if volume.fault:
        candidate = _candidate(volume if volume.frames else series, series, series.n_slices)
        candidate.set_aside(volume.fault, *volume.told)
        return candidate
    candidate = _candidate(volume, series, len(volume.frames))
    candidate.slices = [(str(frame.path), frame.index) for frame in volume.frames]
    candidate.step_mm = round(step_mm(volume.frames), 2)
    told_of = _told_of(volume)
    candidate.preference = preference(volume, kernel, told_of)
    candidate.told += [*volume.told, *told_of]
    return candidate


def _candidate(volume: Series | Volume, series: Series, n_slices: int) -> Candidate:
    date, remarks = scan_date({name: volume.get(name) for name in OF_THE_SCAN})
    return Candidate(
        patient=volume.get("PatientID"),
        visit=volume.get("StudyInstanceUID"),
        date=date,
        kind=series.kind,
        files=[str(path) for _, path in volume.headers],
        n_slices=n_slices,
        told=[*remarks],
        header=_allowed(volume),
        uid=volume.get("SeriesInstanceUID"),
        frame_uid=volume.get("FrameOfReferenceUID"),
    )


def _allowed(series: Series | Volume) -> dict[str, Any]:
    """Keep the header values that may enter a study, none of them free text."""
    return {
        "manufacturer": known_manufacturer(series.get("Manufacturer")),
        "kernel": known_kernel(series.get("ConvolutionKernel")),
        "slice_thickness_mm": _thickness(series),
        "age_years": age_years(series.get("PatientAge")),
        "sex": {"F": "female", "M": "male"}.get(series.get("PatientSex").upper()),
        "burned_in": series.get("BurnedInAnnotation").upper() == "YES",
        "lossy": is_lossy(series),
    }
