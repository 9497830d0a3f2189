"""The commands of people who look at masks: `sscct review`, and `sscct masks` to mend them in other software."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
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
    dicom: Annotated[bool, typer.Option("--dicom", help="Also as DICOM: slices, and a segmentation (SEG).")] = False,
    run: RunOption = "main",
) -> None:
    """Write scans of STUDY and their masks into FOLDER, for 3D Slicer (`.seg.nrrd`) and ITK-SNAP (NIfTI).

    Edit a mask, save it under its own name, then `sscct masks import FOLDER STUDY`. The files hold the study's own ids
    and no other name or date.
    """
    from sscct_lib.lungs.mending import export_masks
    from sscct_lib.study.recovery import load_own

    chosen = export_masks(load_own(study, run), scans or [], folder, dicom)
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


def review(
    study: StudyFolder,
    run: RunOption = "main",
    by: Annotated[str, typer.Option("--by", help="Initials of the reader; else the page asks.")] = "",
    browser: Annotated[bool, typer.Option(help="Open a browser; else the address is told.")] = True,
) -> None:
    """Look at the lung masks of STUDY, those with findings first, and decide on each by a key, in JupyterLab.

    Decisions go to `qa_decisions.csv` of the study at once. Stop at any time, with Ctrl+C here: the next call goes on
    where you stopped. Two readers may work at the same time; neither sees what the other decides.
    """
    from sscct_lib.lungs.decisions import check_reader
    from sscct_lib.study.recovery import load_own

    who = check_reader(by, "reviews")[0] if by else ""
    folder = load_own(study, run).folder.resolve()
    with TemporaryDirectory(prefix="sscct-") as work:
        write_notebook(Path(work) / "review.ipynb", folder, run, who)
        # Of the notebook, nobody else may read anything.
        command = [sys.executable, "-P", "-m", "jupyterlab", "--notebook-dir", work, "--ip", "127.0.0.1"]
        command += ["--LabApp.default_url=/lab/tree/review.ipynb", *([] if browser else ["--no-browser"])]
        with suppress(KeyboardInterrupt):
            subprocess.run(command, check=False, umask=0o077)


def write_notebook(path: Path, folder: Path, run: str, who: str) -> None:
    """Write a notebook whose one cell shows the review of a study."""
    import nbformat

    from sscct_lib.study.files import atomic

    code = (
        "from sscct_lib.lungs.review import Review\n"
        "from sscct_lib.study.recovery import load_own\n\n"
        f"Review(load_own({str(folder)!r}, {run!r}), {who!r})"
    )
    told = "# Review of lung masks\nClick into the cell below and press Shift+Enter; all else goes by the keys shown."
    cells = [nbformat.v4.new_markdown_cell(told), nbformat.v4.new_code_cell(code)]  # type: ignore[no-untyped-call]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})  # type: ignore[no-untyped-call]
    with atomic(path) as partial:
        partial.write_text(nbformat.writes(notebook), encoding="utf-8")  # type: ignore[no-untyped-call]
