"""The command `sscct adopt`: what somebody else made of a study, looked at, and taken over as far as it is data."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sscct_lib.cli.options import RunOption, StudyFolder, say

if TYPE_CHECKING:
    import pandas as pd

    from sscct_lib.study.folder import Study

MOST_LABELS = {"masks": 2, "lobes": 5}
WORDS = {
    "images": "prepared scans",
    "masks": "lung masks",
    "lobes": "masks of lobes",
    "records/images": "rows on scans",
    "records/lungs": "rows on lungs",
    "records/radiomics": "rows of features",
}


def adopt(
    study: StudyFolder,
    run: RunOption = "main",
    accept: Annotated[bool, typer.Option("--accept", help="Take over what was found sound.")] = False,
) -> None:
    """Show what of a run somebody else made, or the same person with another key; with --accept, use it.

    Taken over are prepared scans, masks, and the tables' rows on single scans: data, each of which is looked at first.
    Nothing that could act is: notebooks, models, networks and pages are made again by the next `sscct run`, and so are
    the tables that come from them. Whoever made the data could still have made them up: ask whether you would take
    their word.
    """
    from sscct_lib.study import seals
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.recovery import unsealed_results

    loaded = load_study(study, run)
    strange, _ = unsealed_results(loaded)
    sound, faults = _sound(loaded, set(strange))
    for fault in faults:
        say(fault, fg="yellow")
    n_of = Counter(name.rpartition("/")[0] for name in sound)
    found = ", ".join(f"{n_of[place]:,} {words}" for place, words in WORDS.items() if n_of[place]) or "nothing"
    say(f"runs/{run}: {len(strange):,} files are not yours. Sound data among them: {found}.")
    if accept:
        seals.seal(loaded.run, {name: seals.checksum(loaded.run / name) for name in sound})
        say(f"Taken over. `sscct run` makes the other {len(strange) - len(sound):,} again.")
    elif sound:
        say("With --accept they are used; `sscct run` makes everything else again.")


def _sound(study: "Study", names: set[str]) -> tuple[list[str], list[str]]:
    """Choose the files that are sound data on scans of the manifest; say what is wrong with others of the kind."""
    from joblib import Parallel, delayed

    from sscct_lib.cohort.manifest import read_manifest

    manifest = read_manifest(study)
    faults: dict[str, str] = {}
    for stage in ("images", "lungs", "radiomics"):
        faults |= _faults_of_rows(study, stage, manifest, names)
    volumes = [
        f"{folder}/{scan_id}.nii.gz"
        for folder in ("images", *MOST_LABELS)
        for scan_id in manifest["scan_id"]
        if f"{folder}/{scan_id}.nii.gz" in names
    ]
    found = Parallel(n_jobs=-1)(delayed(_fault_of_volume)(study.run, name) for name in volumes)
    faults |= dict(zip(volumes, found, strict=True))
    told = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    return [name for name, fault in faults.items() if not fault], told


def _faults_of_rows(study: "Study", stage: str, manifest: "pd.DataFrame", names: set[str]) -> dict[str, str]:
    """Say of each row of a stage on a scan of the manifest what is wrong with it; empty where nothing is."""
    from sscct_lib.study.results import read_record

    rows: dict[str, dict[str, Any]] = {}
    faults: dict[str, str] = {}
    for scan in manifest[["scan_id", "patient_id"]].to_dict("records"):
        if (name := f"records/{stage}/{scan['scan_id']}.json") in names:
            record = read_record(study.run / name) or {}
            faults[name] = "" if scan.items() <= record.items() else "not of this scan, or damaged"
            if not faults[name]:
                rows[name] = record
    if not _are_rows(stage, list(rows.values())):
        faults |= {name: f"no row of the table {stage}" for name, row in rows.items() if not _are_rows(stage, [row])}
    return faults


def _are_rows(stage: str, records: list[dict[str, Any]]) -> bool:
    import pandas as pd
    import pandera.pandas as pa

    from sscct_lib.study.schemas import IMAGES, LUNGS, RADIOMICS

    schema = {"images": IMAGES, "lungs": LUNGS, "radiomics": RADIOMICS}[stage]
    lacking = {name: None for name, column in schema.columns.items() if not column.regex}
    try:
        schema.validate(pd.DataFrame([lacking | record for record in records]).drop(columns="codes", errors="ignore"))
    except (pa.errors.SchemaError, TypeError, ValueError):
        return False
    return True


def _fault_of_volume(run: Path, name: str) -> str:
    """Say what is wrong with a prepared scan, or with a mask on the grid of its scan; empty where nothing is."""
    import numpy as np
    import SimpleITK as sitk

    from sscct_lib.images.nifti import read_volume
    from sscct_lib.study.results import ScanError

    folder, _, file = name.partition("/")
    try:
        volume = read_volume(run / name)
        if folder == "images":
            return "" if volume.GetPixelID() == sitk.sitkInt16 else "no scan of 16-bit HU"
        scan: Any = read_volume(run / "images" / file)
    except (ScanError, OSError) as error:
        return str(error)
    same_grid = volume.GetSize() == scan.GetSize() and all(
        np.allclose(getattr(volume, part)(), getattr(scan, part)(), atol=1e-3)
        for part in ("GetSpacing", "GetOrigin", "GetDirection")
    )
    labels = np.unique(sitk.GetArrayViewFromImage(volume))
    is_mask = labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() <= MOST_LABELS[folder]
    return "" if same_grid and is_mask else "not a mask on the grid of its scan"
