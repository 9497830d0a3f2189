"""The commands `sscct report` and `sscct predict`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from sscct_lib.cli.options import RunOption, StudyFolder

if TYPE_CHECKING:
    from sscct_lib.report.page import ScanReport

LOOKED_AT = "Research use, not for care."


def report(
    study: StudyFolder,
    scan_id: Annotated[str, typer.Argument(help="The scan, as the cohort names it.", metavar="SCAN_ID")],
    run: RunOption = "main",
    out: Annotated[Path | None, typer.Option(help="PDF file to write; by default SCAN_ID.pdf here.")] = None,
) -> None:
    """Write the page on one scan of the study, as PDF.

    It shows the risk over time with its spread, where the scan stands in the cohort, what lies behind the risk, what
    became of patients with about the same risk, and the scan. The risks come from models that never saw the patient.
    """
    from sscct_lib.report.page import of_study
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.recovery import refuse_earlier

    loaded = load_study(study, run)
    refuse_earlier(loaded)
    found = of_study(loaded, scan_id)
    _write_page(found, out or Path(f"{scan_id}.pdf"))


def predict(
    source: Annotated[
        Path, typer.Argument(help="NIfTI or NRRD file, or folder of one DICOM examination.", metavar="SCAN")
    ],
    study: Annotated[Path, typer.Option("--study", help="The study whose models judge the scan.", metavar="STUDY")],
    run: RunOption = "main",
    clinical: Annotated[
        str | None,
        typer.Option(help="age=63,sex=female,subtype=diffuse,fvc=72,dlco=50, as far as known; or a CSV with one row."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Lung mask on the scan's grid, for studies with `lungs.method: provided`.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for prediction.json and prediction.pdf.")] = Path("."),
) -> None:
    """Judge a scan that was never in the study: risks with their spread, warnings, and the page on it.

    The scan is read, its lungs are found and checked, features are measured, and every saved model of STUDY predicts.
    Writes `prediction.json` (the data dictionary of the book lists its fields) and `prediction.pdf`; neither holds a
    name, a date or a path. Models that were trained with other settings than STUDY now has are refused.
    """
    from sscct_lib.intake.clinical import read_values
    from sscct_lib.report.predict import predict_scan
    from sscct_lib.study.files import atomic
    from sscct_lib.study.folder import load_study
    from sscct_lib.study.recovery import refuse_earlier
    from sscct_lib.study.words import percent_text, years_text

    loaded = load_study(study, run)
    refuse_earlier(loaded)
    known = read_values(clinical)
    with TemporaryDirectory(prefix="sscct-") as work:
        prediction, page = predict_scan(loaded, source, known, Path(work), mask)
    with atomic(out / "prediction.json") as partial:
        partial.write_text(prediction.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for one in prediction.risks:
        if one.model == prediction.shown_model:
            typer.echo(f"Risk of death within {years_text(one.horizon_years)}, {one.model}: {percent_text(one.risk)}")
    for words in prediction.warnings:
        typer.secho(f"Warning: {words}", fg="yellow")
    typer.echo(f"All models and the reasons: {out / 'prediction.json'}")
    _write_page(page, out / "prediction.pdf")


def _write_page(found: "ScanReport", path: Path) -> None:
    from sscct_lib.report.figure import scan_page
    from sscct_lib.study.files import atomic

    with atomic(path) as partial:
        scan_page(found).savefig(partial, format="pdf", metadata={"CreationDate": None, "Producer": None})
    typer.echo(f"{LOOKED_AT} The page: {path}")
