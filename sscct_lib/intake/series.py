"""What a hospital's export holds, each DICOM series and NIfTI file judged as a scan, and the best of an examination."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from sscct_lib.images.dicom import Series, find_series, read_headers
from sscct_lib.images.dicom_masks import referred_series
from sscct_lib.images.dicom_pixels import Frame, length_mm, stack, step_mm, why_unusable
from sscct_lib.images.reasons import Told
from sscct_lib.images.scanners import is_sharp, known_kernel, known_manufacturer
from sscct_lib.intake.dates import OF_THE_SCAN, age_years, scan_date
from sscct_lib.intake.discovery import look
from sscct_lib.intake.volumes import Volume, find_volumes
from sscct_lib.study.folder import StudyError

THIN_MM = 1.5
WHOLE_THORAX_MM = 200.0

EXPIRATORY = re.compile(r"(?<![a-z])exp(?:ir[a-z]*)?(?![a-z])", re.IGNORECASE)
LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K}
"""Transfer syntaxes that change values; JPEG 2000 (.91) may be lossless, which its name does not tell."""

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

MASK_KINDS = ("SEG", "RTSTRUCT")


@dataclass
class Candidate:
    """A series or a NIfTI file as it was found, and what becomes of it."""

    # The hospital's identifiers and date; they stay in memory.
    patient: str
    visit: str
    date: pd.Timestamp | None
    kind: str  # `CT`, `localizer`, another modality, `NIfTI`, or what was passed over
    files: list[str]
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
    candidates: list[Candidate] = Parallel(n_jobs=n_jobs)(delayed(_from_files)(files, kernel) for files in series)
    candidates += map(_from_volume, find_volumes(source, found.volumes))
    if all(candidate.status == "set aside" for candidate in candidates):
        others = [words for _, _, words in found.told()]
        shown = ", ".join(filter(None, (_count_kinds(candidates), *others))) or "no files"
        reasons = sorted({candidate.reason for candidate in candidates if candidate.kind == "CT"})
        because = f" The CT series cannot be used: {'; '.join(reasons)}." if reasons else ""
        raise StudyError(f"{source} has no chest CT series; found {shown}.{because}")
    return candidates + [_passed_over(*one) for one in found.told()]


def _from_volume(volume: Volume) -> Candidate:
    files = [str(path) for path in volume.files]
    return Candidate(volume.patient, volume.visit, volume.date, "NIfTI", files, told=[*volume.told])


def _passed_over(kind: str, files: list[Path], words: Told) -> Candidate:
    """List what is no scan, so that the report counts it."""
    return Candidate("", "", None, kind, [*map(str, files)], status="passed over", told=[words])


def is_lossy(series: Series) -> bool:
    """Tell whether the pixels of a series went through a compression that changed them."""
    if series.get("LossyImageCompression") == "01":
        return True
    return any(str(header.file_meta.get("TransferSyntaxUID", "")) in LOSSY for header, _ in series.headers)


def preference(series: Series, frames: list[Frame], kernel: str) -> tuple[Any, ...]:
    """Order the usable series of an examination, one value for each of `CRITERIA`: the least is the best."""
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


def _count_kinds(candidates: list[Candidate]) -> str:
    """Say what was found, for example `3 MR series, 1 localizer`."""
    kinds = Counter(one.kind for one in candidates)
    return ", ".join(
        f"{n} {kind}{'s' if n > 1 and kind == 'localizer' else ''}" if kind == "localizer" else f"{n} {kind} series"
        for kind, n in kinds.most_common()
    )


def _from_files(files: list[Path], kernel: str) -> Candidate:
    return _from_series(read_headers(files), kernel)


def _from_series(series: Series, kernel: str) -> Candidate:
    date, remarks = scan_date({name: series.get(name) for name in OF_THE_SCAN})
    candidate = Candidate(
        patient=series.get("PatientID"),
        visit=series.get("StudyInstanceUID"),
        date=date,
        kind=series.kind,
        files=[str(path) for _, path in series.headers],
        n_slices=series.n_slices,
        told=[*remarks],
        header=_allowed(series),
        uid=series.get("SeriesInstanceUID"),
        frame_uid=series.get("FrameOfReferenceUID"),
    )
    if candidate.kind in MASK_KINDS:
        candidate.refers_to = tuple({uid for file in candidate.files for uid in referred_series(Path(file))})
    why = why_unusable(series)
    if not why and not candidate.patient:
        why = "no PatientID: it cannot be told whose scan it is"
    if why:
        candidate.set_aside(why)
        return candidate
    frames, _ = stack(series)
    candidate.step_mm = round(step_mm(frames), 2)
    candidate.preference = preference(series, frames, kernel)
    return candidate


def _allowed(series: Series) -> dict[str, Any]:
    """Keep the header values that may enter a study, none of them free text."""
    thickness = series.get("SliceThickness")
    return {
        "manufacturer": known_manufacturer(series.get("Manufacturer")),
        "kernel": known_kernel(series.get("ConvolutionKernel")),
        "slice_thickness_mm": float(thickness) if thickness else None,
        "age_years": age_years(series.get("PatientAge")),
        "sex": {"F": "female", "M": "male"}.get(series.get("PatientSex").upper()),
        "burned_in": series.get("BurnedInAnnotation").upper() == "YES",
        "lossy": is_lossy(series),
    }
