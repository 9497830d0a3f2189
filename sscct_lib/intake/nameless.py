"""A source that is read without its name: what fails meanwhile can tell no word of it. And the list of who is who."""

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from sscct_lib.images.nifti import without_suffix
from sscct_lib.intake.pseudonyms import patient_code, scan_code
from sscct_lib.intake.report import write_for_excel
from sscct_lib.intake.series import Candidate
from sscct_lib.study.code import PACKAGE
from sscct_lib.study.files import NoRoomError, atomic
from sscct_lib.study.folder import StudyError
from sscct_lib.study.results import ScanError, without_names


@contextmanager
def unnamed(files: Sequence[Path]) -> Iterator[Path]:
    """Read a volume by a link whose name says nothing.

    Readers write the name of a file into errors and warnings, some of them past Python.

    Parameters
    ----------
    files
        A volume, or a header and the file with its voxels.

    Yields
    ------
    Path
        A link to the first file, with one to the second beside it. A header that names the second file keeps its own
        name and place.
    """
    endings = [file.name[len(without_suffix(file.name)) :].lower() for file in files[:1]]
    if endings[0] in (".nhdr", ".mhd"):
        yield files[0]
        return
    endings += [".img.gz" if file.name.lower().endswith(".gz") else ".img" for file in files[1:]]
    with TemporaryDirectory(prefix="sscct-") as folder:
        links = [Path(folder) / f"volume{ending}" for ending in endings]
        for file, link in zip(files, links, strict=True):
            link.symlink_to(file.absolute())
        try:
            yield links[0]
        except ScanError as error:
            error.args = (without_names(str(error), links),)
            raise


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
