"""The demo study: synthetic patients with systemic sclerosis, their CT scans, and the truth about both.

`patients` decides who they are, `render` what their chests look like; here they become the files of a
study. What no real registry knows lies apart in `truth/`.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.demo.disease import LESIONS
from sscct_lib.demo.patients import demo_cohort
from sscct_lib.demo.render import Protocol, Volume, render
from sscct_lib.study import results
from sscct_lib.study.files import atomic, write_if_changed
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import DemoSettings


def write_demo(study: Study, n_jobs: int = 1) -> None:
    """Make the whole demo study: manifest, truth and every scan that is not there yet.

    The files are the same for any number of processes. StudyError where the study has no `demo` section, or a scan
    could not be made.
    """
    manifest, _ = write_tables(study)
    make_scans(study, manifest, n_jobs)


def make_scans(study: Study, rows: pd.DataFrame, n_jobs: int = 1) -> pd.DataFrame:
    """Make the scans of some rows (`scan_id`) of the manifest, and their true masks.

    Returns
    -------
    pandas.DataFrame
        One row a scan: `scan_id`, `patient_id`, `status`, `reason`, and what was drawn: `lung_l` (litres) and the
        shares of the lungs per pattern in the masks.

    Raises
    ------
    StudyError
        If the study has no `demo` section, a row is not one of its scans, or a scan could not be made.
    """
    _, truth = demo_cohort(_demo_settings(study), study.demo_seed)
    unknown = sorted(set(rows["scan_id"]) - set(truth["scan_id"]))
    if unknown:
        raise StudyError(
            f"{study.manifest_path} has scans that are not in the demo cohort of these settings, for example "
            f"{unknown[0]}. Run `sscct demo` again to make the manifest anew."
        )
    wanted = truth.set_index("scan_id", drop=False).loc[list(rows["scan_id"])]
    folder = study.folder / "truth" / "records"
    settings = [study.demo_seed, _demo_settings(study).model_dump(exclude={"seed"})]
    made = results.process(
        study,
        "phantom",
        make_scan,
        wanted,
        settings,
        lambda row: [],
        n_jobs,
        folder,
        outputs=lambda row: list(scan_files(study, row["scan_id"]).values()),
    )
    failed = made[made["status"] != "ok"]
    if len(failed):
        first = failed.iloc[0]
        raise StudyError(
            f"{len(failed)} synthetic scan(s) could not be made; the first is {first.scan_id}: {first.reason}"
        )
    return made


def write_tables(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write manifest and `truth/truth.csv`, both from `demo_cohort`, each only when its content differs."""
    manifest, truth = demo_cohort(_demo_settings(study), study.demo_seed)
    for frame, path in ((manifest, study.manifest_path), (truth, study.folder / "truth" / "truth.csv")):
        write_if_changed(path, frame.to_csv(index=False, lineterminator="\n"))
    return manifest, truth


def scan_files(study: Study, scan_id: str) -> dict[str, Path]:
    """The files of a synthetic scan: `hu`, and its true masks `lungs`, `lobes` and `lesions`, as in `Volume`."""
    name = f"{scan_id}.nii.gz"
    truth = study.folder / "truth"
    return {
        "hu": study.folder / "scans" / name,
        "lungs": truth / "masks" / name,
        "lobes": truth / "lobes" / name,
        "lesions": truth / "lesions" / name,
    }


def make_scan(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    """Make one scan of the truth table and write its files; tells `lung_l` and the shares of the lungs in the masks."""
    volume = draw_scan(row, study.demo_seed, _demo_settings(study).spacing_mm)
    for name, path in scan_files(study, row["scan_id"]).items():
        write_volume(getattr(volume, name), volume, path)
    return _measured(volume)


def draw_scan(row: Mapping[str, Any], seed: int, spacing_mm: float) -> Volume:
    """Draw one scan of the truth table; `seed` is `Study.demo_seed`."""
    protocol = Protocol(**{field.name: row[field.name] for field in fields(Protocol)})
    number, nth = int(row["patient_number"]), int(str(row["scan_id"]).rsplit("-", 1)[1])
    return render((seed, number, row["sex"] == "female"), row, protocol, spacing_mm, [seed, number, 6, nth])


def write_volume(array: NDArray[Any], volume: Volume, path: Path) -> None:
    """Write an array [z, y, x] on the grid of a volume as NIfTI."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([volume.spacing_mm] * 3)
    image.SetOrigin(volume.origin)
    with atomic(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True, compressionLevel=1)


def _measured(volume: Volume) -> dict[str, Any]:
    n_lung = int((volume.lungs > 0).sum())
    counts = np.bincount(volume.lesions.ravel(), minlength=5)
    shares = {f"{name}_share": round(int(counts[label]) / n_lung, 5) for name, label in LESIONS.items()}
    return {"lung_l": round(n_lung * volume.spacing_mm**3 / 1e6, 4), **shares}


def _demo_settings(study: Study) -> DemoSettings:
    if study.settings.demo is None:
        raise StudyError(
            f"{study.folder} is not a demo study: its study.yaml has no `demo:` section, so its manifest and scans "
            "are left alone. To make a demo study, name another folder."
        )
    return study.settings.demo
