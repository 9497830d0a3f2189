"""A source that is read without its name: what fails meanwhile can tell no word of it. And the list of who is who."""

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from sscct_lib.intake.pseudonyms import patient_code, scan_code
from sscct_lib.intake.report import write_for_excel
from sscct_lib.intake.series import Candidate
from sscct_lib.study.code import PACKAGE
from sscct_lib.study.files import NoRoomError, atomic
from sscct_lib.study.folder import StudyError
from sscct_lib.study.results import ScanError

NEUTRAL = (".nii.gz", ".nii", ".nrrd", ".mha", ".hdr", ".img")
"""Endings by which a reader knows the format; `.mhd` and `.nhdr` name another file, and are read where they lie."""
OF_PAIRS = {".hdr": ".img", ".img": ".hdr"}


@contextmanager
def unnamed(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Read files by links whose names say nothing.

    Readers write the name of a file into errors and warnings, some of them past Python.

    Parameters
    ----------
    files
        Of one scan or mask.

    Yields
    ------
    list of Path
        In the same order; a file whose header names another file keeps its own.
    """
    with TemporaryDirectory(prefix="sscct-") as folder:
        yield [_link(file, Path(folder), f"image_{number}") for number, file in enumerate(files)]


def _link(file: Path, folder: Path, name: str) -> Path:
    lowered = file.name.lower()
    if lowered.endswith((".mhd", ".nhdr")):
        return file
    ending = next((one for one in NEUTRAL if lowered.endswith(one)), "")
    (folder / f"{name}{ending}").symlink_to(file.absolute())
    if other := OF_PAIRS.get(ending):
        pairs = [file.with_suffix(other), file.with_suffix(other.upper())]
        for pair in [pair for pair in pairs if pair.is_file()][:1]:
            (folder / f"{name}{other}").symlink_to(pair.absolute())
    return folder / f"{name}{ending}"


@contextmanager
def wordless() -> Iterator[None]:
    """Let an error that nobody foresaw tell its kind and the place in this program, and nothing that it read."""
    try:
        yield
    except (StudyError, ScanError, NoRoomError):
        raise  # our own words
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__} {_place(error)}") from None


def _place(error: Exception) -> str:
    """The last line of this program that the error went through."""
    inside = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)
    ]
    last = inside[-1]
    return f"in {Path(last.filename).relative_to(PACKAGE).as_posix()}, line {last.lineno}"


def refuse_inside(path: Path, study_folder: Path) -> None:
    """Refuse a list of sources that would lie in the study."""
    if path.resolve().is_relative_to(study_folder.resolve()):
        raise StudyError(f"--source-list {path} lies inside the study, and it names patients. Keep it elsewhere.")


def write_source_list(path: Path, candidates: list[Candidate], source: Path, key: bytes) -> None:
    """Write which source became which scan, with the hospital's names; for its owner alone to read.

    Parameters
    ----------
    path
        CSV to write. `source` is the number by which `ingest/report.csv` calls it; `file` the first of its files,
        relative to the folder that was ingested.
    """
    rows = [
        {
            "source": number,
            "status": one.status,
            "scan_id": scan_code(key, one.patient, one.visit) if one.status in ("scan", "lung mask") else "",
            "patient_id": patient_code(key, one.patient) if one.patient else "",
            "patient_of_source": one.patient,
            "date_of_source": "" if one.date is None else f"{one.date:%Y-%m-%d}",
            "series_uid": one.uid,
            "n_files": len(one.files),
            "file": Path(os.path.relpath(one.files[0], source)).as_posix() if one.files else "",
        }
        for number, one in enumerate(candidates, start=1)
    ]
    with atomic(path) as partial:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        write_for_excel(pd.DataFrame(rows), partial)
