"""The commands `sscct masks export` and `sscct masks import`: masks that a person mends in other software."""

from pathlib import Path
from typing import Annotated

import typer

from sscct_lib.cli.options import RunOption, StudyFolder, say

masks = typer.Typer(no_args_is_help=True, help="Mend lung masks in 3D Slicer or ITK-SNAP.")


@masks.command("export")
def export(
    study: StudyFolder,
    scans: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCAN]...", help="Scans; none: those that a reader marked to be edited."),
    ] = None,
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder, outside the study.")],
    run: RunOption = "main",
) -> None:
    """Write scans of STUDY and their masks into FOLDER, for 3D Slicer (`.seg.nrrd`) and ITK-SNAP (NIfTI).

    Edit a mask, save it under its own name, then `sscct masks import FOLDER STUDY`. The files hold the study's own ids
    and no other name or date.
    """
    from sscct_lib.lungs.mending import export_masks
    from sscct_lib.study.recovery import load_own

    chosen = export_masks(load_own(study, run), scans or [], folder)
    say(f"{len(chosen)} scan(s) in {folder}. 3D Slicer: ID.nii.gz with ID.seg.nrrd.")
    say("ITK-SNAP: ID.nii.gz, segmentation ID.mask.nii.gz, labels.txt.")
    say(f"Save each mask under its own name, then: sscct masks import {folder} {study}")


@masks.command("import")
def take_in(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of `sscct masks export`.")],
    study: StudyFolder,
    by: Annotated[str, typer.Option("--by", prompt="Initials of who mended them", help="Initials of who mended.")],
    why: Annotated[str, typer.Option("--why", prompt="Why", help="The reason, in a few words.")],
    run: RunOption = "main",
) -> None:
    """Take back the masks in FOLDER that were changed, and no others; the next `sscct run` uses them.

    Each mask is compared with its scan first: grid, labels, sides, and whether it is another scan's. Where one has a
    fault, none is taken. The masks before are kept in `runs/NAME/masks_before/`; what rests on the mended ones is made
    again by the next run, and nothing else.
    """
    from sscct_lib.lungs.mending import import_masks
    from sscct_lib.study.recovery import alone_in, load_own

    loaded = load_own(study, run)
    with alone_in(loaded):
        told = import_masks(folder, loaded, by, why)
    for scan_id, found in told.items():
        say(f"{scan_id}: taken; {found}")
    say(f"{len(told)} mask(s) taken." + (f" Next: sscct run {study}" if told else " None was changed."))
