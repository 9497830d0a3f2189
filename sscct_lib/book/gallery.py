"""Scans and patients that the book shows, chosen by rules that are fixed before anybody looks, and their pages.

The gallery shows pictures of scans, and a viewer where the browser can have one. A page on a patient is that of
`sscct report`, which writes it for any other scan.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.book.chapters import filled, remove_others, table_or_empty
from sscct_lib.book.viewer import case_script, picture
from sscct_lib.cohort.outcomes import label_name
from sscct_lib.horizons.decisions import example_scan, risks_in_words
from sscct_lib.horizons.evaluation import Evaluation, averaged
from sscct_lib.horizons.models import SOURCES, STACKED, pictured_model
from sscct_lib.horizons.patients import middle_horizon
from sscct_lib.lungs.figures import overlay, spread, worst_first
from sscct_lib.report.page import WEIGHTS, ScanReport, Tables, of_study, read_tables
from sscct_lib.study.code import code_hash
from sscct_lib.study.disclosure import quarters_text
from sscct_lib.study.files import atomic, write_if_changed
from sscct_lib.study.folder import Study, StudyError, fingerprint
from sscct_lib.study.results import ScanError, file_state
from sscct_lib.study.schemas import ATTRIBUTIONS, COHORT, LUNGS, PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import plain, years_text

RIGHT = "Most confident and right"
WRONG = "Most confident and wrong"
UNCERTAIN = "Models disagree most"
EXPLAINED = "What the risk rests on"
MASKS = "Masks that failed or are odd"
OVER_TIME = "One patient over time"
RULES = {
    RIGHT: "Of the scans followed by death within the horizon, the one with the highest risk; of those whose patient "
    "outlived it, the one with the lowest.",
    WRONG: "Of the scans whose patient outlived the horizon, the one with the highest risk; of those followed by death "
    "within it, the one with the lowest.",
    UNCERTAIN: "The scans whose risks differ most from model to model, one scan per patient.",
    EXPLAINED: "The scans with the highest risk of those whose risks were explained voxel by voxel.",
    MASKS: "Scans that quality assurance removed or marked for review: failures first, then those with most findings.",
    OVER_TIME: "The patient with most scans, of those who died where there are any: the first, the last, and scans "
    "evenly in between.",
}
"""The parts of the gallery, in the order of the page, and what is chosen."""
OF_A_SCAN = (".js", ".jpg")  # its files for the viewer
N_UNCERTAIN, N_EXPLAINED, N_MASKS, N_OVER_TIME = 2, 2, 3, 4
COLUMNS = [
    "rule", "scan_id", "patient_id", "risk", "lowest", "highest", "horizon_years", "state", "verdict", "findings",
]  # fmt: skip
PATIENT_RULES = {
    "lowest": "the lowest risk within {horizon}",
    "middle": "the risk nearest to the median",
    "example": "the risk nearest to the upper quartile: the example of [what to do with a risk](acting.md)",
    "highest": "the highest risk",
}


def write_gallery(study: Study, folder: Path) -> str:
    """Choose the scans, write what their viewer loads, and give the page (MyST Markdown) without what a run lacks."""
    cohort = table_or_empty(study, "cohort", COHORT)
    lungs = table_or_empty(study, "lungs", LUNGS)
    explained = table_or_empty(study, "attributions", ATTRIBUTIONS)
    chosen = pd.DataFrame(columns=COLUMNS)
    if len(cohort):
        chosen = choose_scans(_predictions(study), lungs, cohort, study.settings, set(explained["scan_id"]))
    files: dict[str, str] = {}
    if study.settings.book.viewer:
        for row in lungs[lungs["scan_id"].isin(chosen["scan_id"])].to_dict("records"):
            maps = explained[explained["scan_id"] == row["scan_id"]].set_index("model")["network"]
            written = _write_scan(study, row, dict(maps), folder)
            if written is not None:
                files[row["scan_id"]] = written
    remove_others(folder, [f"{name}{suffix}" for name in files.values() for suffix in OF_A_SCAN])
    parts = list(_parts(chosen, files))
    return filled("gallery.md", viewer=study.settings.book.viewer, parts=parts, has_files=bool(files))


def _predictions(study: Study) -> pd.DataFrame:
    """The risks that a run has, one per scan, the stacked ones among them."""
    names = [*(f"predictions/{path.stem}" for path in _prediction_files(study)), "stacked"]
    found = [table for name in names if len(table := table_or_empty(study, name, PREDICTIONS))]
    return averaged(pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(PREDICTIONS.columns)))


def _prediction_files(study: Study) -> list[Path]:
    return sorted(study.table("predictions/x").parent.glob("[!.]*.parquet"))


def choose_scans(
    predictions: pd.DataFrame,
    lungs: pd.DataFrame,
    cohort: pd.DataFrame,
    settings: Settings,
    explained: Collection[str] = (),
) -> pd.DataFrame:
    """Choose the scans of the gallery, 15 at most: `COLUMNS`, a row a rule and scan; none for a rule nothing fulfils.

    Predictions (one risk per scan, model and horizon) and lungs may be empty; `explained` are ids of the scans whose
    risks were explained voxel by voxel.
    """
    horizon = _shown_horizon(cohort, settings)
    sources = [name for names in SOURCES.values() for name in names]
    main = predictions["model"].str.split(" (", regex=False).str[0].isin(sources)
    shown = predictions[main] if main.any() else predictions
    by_scan = shown[shown["horizon_years"] == horizon].groupby("scan_id")["risk"]
    risks = by_scan.agg(risk="mean", lowest="min", highest="max", sd="std").reset_index()
    # Where the run has a stacked risk, it is the one of the front page and of the patients' pages.
    stacked = predictions[(predictions["model"] == STACKED) & (predictions["horizon_years"] == horizon)]
    if len(stacked):
        risks["risk"] = risks["scan_id"].map(stacked.set_index("scan_id")["risk"])
    scans = cohort.merge(risks, on="scan_id", how="left")
    masks = lungs.reindex(columns=["scan_id", "patient_id", "verdict", "findings", "flags"])
    scans = scans.merge(masks.drop(columns=["patient_id", "flags"]), on="scan_id", how="left")
    known, label = scans.dropna(subset="risk"), label_name(horizon)
    died, lived = known[known[label].eq(1)], known[known[label].eq(0)]
    odd = worst_first(masks.dropna(subset="verdict")).head(N_MASKS)
    parts = {
        RIGHT: pd.concat([_extreme(died, highest=True), _extreme(lived, highest=False)]),
        WRONG: pd.concat([_extreme(lived, highest=True), _extreme(died, highest=False)]),
        UNCERTAIN: _one_a_patient(known, "sd").head(N_UNCERTAIN),
        EXPLAINED: _one_a_patient(scans[scans["scan_id"].isin(explained)], "risk").head(N_EXPLAINED),
        MASKS: odd[["scan_id", "patient_id", "verdict", "findings"]].merge(
            scans.drop(columns=["patient_id", "verdict", "findings"]), on="scan_id", how="left"
        ),
        OVER_TIME: _most_scans(scans),
    }
    chosen = pd.concat([rows.assign(rule=rule) for rule, rows in parts.items()], ignore_index=True)
    states = [_state(row, label, horizon) for row in chosen.to_dict("records")]
    return chosen.assign(horizon_years=horizon, state=states).reindex(columns=COLUMNS)


def _shown_horizon(cohort: pd.DataFrame, settings: Settings) -> float:
    """The longest horizon at which some are known to have died and some to live; else the shortest."""
    for horizon in reversed(settings.horizons_years):
        if {0, 1} <= set(cohort[label_name(horizon)].dropna()):
            return horizon
    return settings.horizons_years[0]


def _extreme(scans: pd.DataFrame, highest: bool) -> pd.DataFrame:
    return scans.sort_values(["risk", "scan_id"], ascending=[not highest, True]).head(1)


def _one_a_patient(scans: pd.DataFrame, highest: str) -> pd.DataFrame:
    return scans.sort_values([highest, "scan_id"], ascending=[False, True]).drop_duplicates("patient_id")


def _most_scans(scans: pd.DataFrame) -> pd.DataFrame:
    counts = scans.groupby("patient_id").agg(n=("scan_id", "size"), died=("event_observed", "any"))
    several = counts[counts["n"] > 1].reset_index()
    if several.empty:
        return scans.head(0)
    patient = several.sort_values(["died", "n", "patient_id"], ascending=[False, False, True])["patient_id"].iloc[0]
    return spread(scans[scans["patient_id"] == patient], "scan_day", N_OVER_TIME)


def _state(row: Mapping[Any, Any], label: str, horizon: float) -> str:
    """What became of the patient after the scan."""
    years, died = row["followup_years"], row["event_observed"]
    if not isinstance(years, float) or np.isnan(years):
        return "not in the cohort"
    if died is True:
        return f"died {quarters_text(years)} after the scan"
    followed = f"alive when last seen, {quarters_text(years)} after the scan"
    return followed if row[label] == 0 else f"{followed}: unknown at {years_text(horizon)}"


def _write_scan(study: Study, row: Mapping[Any, Any], networks: Mapping[str, str], folder: Path) -> str | None:
    """Write picture and script of a scan, unless they are there; give their name, or None where a file is missing."""
    scan_id = row["scan_id"]
    maps = {model: study.attribution(network, scan_id) for model, network in networks.items()}
    maps = {model: path for model, path in maps.items() if path.is_file()}
    inputs = [study.image(scan_id), study.mask(scan_id), *maps.values()]
    key = fingerprint([file_state(path) for path in inputs], list(maps), str(row["place_mm"]), code_hash("book.viewer"))
    name = f"{scan_id}-{key}"
    if not all((folder / f"{name}{suffix}").is_file() for suffix in OF_A_SCAN):
        try:
            content, drawn = case_script(study, scan_id, maps), picture(overlay(study, row))
        except ScanError:
            return None  # set aside by quality assurance, whose chapter says why
        with atomic(folder / f"{name}.jpg") as partial:
            drawn.save(partial, format="JPEG", quality=85)
        write_if_changed(folder / f"{name}.js", content)
    return name


def _parts(chosen: pd.DataFrame, files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Parts of the page of scans as its template shows them."""
    named: set[str] = set()
    for rule, words in RULES.items():
        scans = []
        for row in chosen[chosen["rule"] == rule].to_dict("records"):
            scan_id = str(row["scan_id"])
            # The first card of a scan can be linked to as `#scan-<scan_id>`.
            is_first = scan_id not in named
            scans.append({"id": scan_id, "words": scan_in_words(row), "file": files.get(scan_id), "is_first": is_first})
            named.add(scan_id)
        side_by_side = rule == OVER_TIME and sum(scan["file"] is not None for scan in scans) > 1
        yield {"rule": rule, "words": words, "scans": scans, "side_by_side": side_by_side}


def scan_in_words(row: Mapping[Any, Any]) -> str:
    """One line on what is known of a scan that `choose_scans` gave."""
    parts = [f"Scan {row['scan_id']} of patient {row['patient_id']}"]
    if pd.notna(row["risk"]):
        low, high = (f"{100 * row[name]:.0f}" for name in ("lowest", "highest"))
        within = years_text(row["horizon_years"])
        parts.append(f"risk of death within {within} {100 * row['risk']:.0f} % (models {low} to {high} %)")
    parts.append(str(row["state"]))
    if isinstance(row["verdict"], str):
        findings = f" ({row['findings']})" if row["findings"] else ""
        parts.append(f"mask: {row['verdict']}{findings}")
    return "; ".join(parts) + "."


def write_patients(study: Study, folder: Path) -> str:
    """Draw the pages on patients, one picture each, and give the chapter that shows them, in MyST Markdown."""
    pages = _pages(study, folder) if study.settings.book.patients else {}
    remove_others(folder, [path.with_suffix(suffix).name for path in pages for suffix in (".txt", ".png")])
    shown = {title: path.read_text(encoding="utf-8") for path, title in pages.items()}
    return filled("patients.md", wanted=study.settings.book.patients, pages=shown)


def choose_patients(tables: Tables, settings: Settings) -> dict[str, str]:
    """Scans that have a page in the book, by rule of `PATIENT_RULES`; a scan that two rules choose has one page."""
    model, middle = pictured_model(tables.predictions), middle_horizon(settings)
    evaluation = Evaluation(tables.cohort, tables.predictions, settings)
    known = tables.cohort.assign(risk=evaluation.risk(model, middle))
    known = known.dropna(subset="risk").sort_values(["risk", "scan_id"])
    if known.empty:
        return {}
    risks = known["risk"].to_numpy(dtype=float)
    nearest = known.iloc[int(np.abs(risks - np.median(risks)).argmin())]
    chosen = {
        "lowest": known["scan_id"].iloc[0],
        "middle": nearest["scan_id"],
        "example": example_scan(evaluation, model)["scan_id"],
        "highest": known["scan_id"].iloc[-1],
    }
    return {rule: str(scan) for rule, scan in pd.Series(chosen).drop_duplicates().items()}  # type: ignore[misc]


def _pages(study: Study, folder: Path) -> dict[Path, str]:
    """Draw the pages that are not there or not current; give the words and the title of each."""
    try:
        tables = read_tables(study)
    except StudyError:
        return {}  # the front page tells which stage is missing, and why
    pages = {}
    key = fingerprint(code_hash("report.figure"), study.settings, [file_state(path) for path in _inputs(study)])
    for rule, scan_id in choose_patients(tables, study.settings).items():
        words = PATIENT_RULES[rule].format(horizon=years_text(middle_horizon(study.settings)))
        drawn, text = folder / f"{rule}-{key}.png", folder / f"{rule}-{key}.txt"
        if not (drawn.is_file() and text.is_file()):
            try:
                report = of_study(study, scan_id, tables)
            except ScanError:
                continue  # the image is gone; the chapter on the lungs says why
            if not study.settings.book.viewer:  # no picture of a scan leaves the run
                report = replace(report, overlay=None, attribution=None)
            _draw(report, drawn, text)
        pages[text] = f"Scan {plain(scan_id)}: {words}"
    return pages


def _inputs(study: Study) -> list[Path]:
    names = ("cohort", "lungs", "radiomics", "stacked", "attributions", "unusual")
    return [*(study.table(name) for name in names), *_prediction_files(study)]


def _draw(report: ScanReport, picture: Path, text: Path) -> None:
    from sscct_lib.report.figure import scan_page

    figure = scan_page(report)
    with atomic(picture) as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})
    write_if_changed(text, page_in_words(report, picture.name))


def page_in_words(report: ScanReport, picture: str) -> str:
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
