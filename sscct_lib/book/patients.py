"""Pages on a few patients for the book, chosen by rule; any other comes from `sscct report`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sscct_lib.book.chapters import plain
from sscct_lib.horizons.decisions import example_scan, risks_in_words
from sscct_lib.horizons.evaluate import aligned_risk
from sscct_lib.horizons.models import pictured_model
from sscct_lib.horizons.patients import middle_horizon
from sscct_lib.report.page import WEIGHTS, ScanReport, Tables, of_study, read_tables
from sscct_lib.study.code import code_hash
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.results import ScanError, file_state
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import years_text

SWITCHED_OFF = "This study shows no page of a single patient (`book: {patients: false}` in `study.yaml`).\n"
NONE = "No scan of this run has a risk, so there is no page.\n"
INTRODUCTION = """# Patients

What a risk looks like for one patient: the risk over time and how far the models agree, where the scan stands among
all scans, what lies behind the risk, what became of others with about the same risk, and the scan itself. The risks
come from models that never saw the patient. The patients were chosen by rules that do not look at what happened to
them. `sscct report STUDY SCAN_ID` writes the page of any other scan as PDF.

Look at the grey band before the line: where it is wide, the models do not agree. Then at the squares: what happened.

:::{admonition} Research use, not for care
:class: warning
No risk on this page may guide the treatment of a patient.
:::
"""
RULES = {
    "lowest": "the lowest risk within {horizon}",
    "middle": "the risk nearest to the median",
    "example": "the risk nearest to the upper quartile: the example of [what to do with a risk](acting.md)",
    "highest": "the highest risk",
}


def chosen_scans(tables: Tables, settings: Settings) -> dict[str, str]:
    """Scans that have a page in the book, by rule of `RULES`; a scan that two rules choose has one page."""
    model, middle = pictured_model(tables.predictions), middle_horizon(settings)
    known = tables.cohort.assign(risk=aligned_risk(tables.predictions, tables.cohort, model, middle))
    known = known.dropna(subset="risk").sort_values(["risk", "scan_id"])
    if known.empty:
        return {}
    risks = known["risk"].to_numpy(dtype=float)
    nearest = known.iloc[int(np.abs(risks - np.median(risks)).argmin())]
    chosen = {
        "lowest": known["scan_id"].iloc[0],
        "middle": nearest["scan_id"],
        "example": example_scan(tables.predictions, tables.cohort, model, settings)["scan_id"],
        "highest": known["scan_id"].iloc[-1],
    }
    return {rule: str(scan) for rule, scan in pd.Series(chosen).drop_duplicates().items()}  # type: ignore[misc]


def write_pages(study: Study, folder: Path) -> str:
    """Draw the chosen pages, one picture a scan, and give the chapter that shows them, in MyST Markdown."""
    pages = _pages(study, folder) if study.settings.book.patients else {}
    for old in folder.glob("*"):
        if old.with_suffix(".txt") not in pages:
            old.unlink()
    if not pages:
        return f"# Patients\n\n{NONE if study.settings.book.patients else SWITCHED_OFF}"
    return "\n".join([INTRODUCTION, *(f"## {title}\n\n{path.read_text('utf-8')}\n" for path, title in pages.items())])


def _pages(study: Study, folder: Path) -> dict[Path, str]:
    """Draw the pages that are not there or not current; give the words and the title of each."""
    try:
        tables = read_tables(study)
    except StudyError:
        return {}  # the front page tells which stage is missing, and why
    pages = {}
    key = fingerprint(code_hash("report.figure"), study.settings, [file_state(path) for path in _inputs(study)])
    for rule, scan_id in chosen_scans(tables, study.settings).items():
        words = RULES[rule].format(horizon=years_text(middle_horizon(study.settings)))
        picture, text = folder / f"{rule}-{key}.png", folder / f"{rule}-{key}.txt"
        if not (picture.is_file() and text.is_file()):
            try:
                report = of_study(study, scan_id, tables)
            except ScanError:
                continue  # the image is gone; the chapter on the lungs says why
            if not study.settings.book.viewer:  # no picture of a scan leaves the run
                report = replace(report, overlay=None, attribution=None)
            _draw(report, picture, text)
        pages[text] = f"Scan {plain(scan_id)}: {words}"
    return pages


def _inputs(study: Study) -> list[Path]:
    names = ("cohort", "lungs", "radiomics", "stacked", "attributions", "unusual")
    predictions = sorted(study.table("predictions/x").parent.glob("[!.]*.parquet"))
    return [*(study.table(name) for name in names), *predictions]


def _draw(report: ScanReport, picture: Path, text: Path) -> None:
    from sscct_lib.report.figure import scan_page

    figure = scan_page(report)
    with atomic(picture) as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})
    with atomic(text) as partial:
        partial.write_text(in_words(report, picture.name), encoding="utf-8")


def in_words(report: ScanReport, picture: str) -> str:
    """What the page on a scan shows, for readers who cannot see it, and the picture, in MyST Markdown."""
    own = report.risks[report.risks["model"] == report.model]
    lines = [f"{report.model}: {risks_in_words(own)}. {report.similar_words}"]
    lines += [f"**{plain(words)}**" for words in report.warnings]
    if len(report.reasons):  # a phone shows the picture too small to be read
        pairs = report.reasons[["words", "hazard_ratio"]].itertuples(index=False, name=None)
        said = "\n".join(f"- {plain(words)}: hazard ×{float(ratio):.2f}" for words, ratio in pairs)
        lines.append(f":::{{dropdown}} {WEIGHTS}: {plain(report.explained)}\n{said}\n:::")
    name = plain(report.scan_id)
    alt = f"Page on scan {name}: risk over time, place in the cohort, reasons, and the scan in two planes."
    return "\n\n".join([*lines, f"![{alt}](patients/{picture})"])
