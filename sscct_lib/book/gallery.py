"""The page of scans: pictures of the cases that the gallery chose, and a viewer where the browser can have one.

Which scans the book shows, chosen by rules that are fixed before anybody looks.
"""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.book.viewer import case_script, picture
from sscct_lib.cohort.outcomes import label_name
from sscct_lib.horizons.models import SOURCES, STACKED
from sscct_lib.lungs.planes import overlay, spread, worst_first
from sscct_lib.study.code import code_hash
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, fingerprint
from sscct_lib.study.results import ScanError, file_state
from sscct_lib.study.schemas import ATTRIBUTIONS, COHORT, LUNGS, PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.tables import read_predictions, read_table
from sscct_lib.study.words import years_text

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
    UNCERTAIN: "The scans whose risks differ most from model to model, one scan a patient.",
    EXPLAINED: "The scans with the highest risk of those whose risks were explained voxel by voxel.",
    MASKS: "Scans that quality assurance removed or marked for review: failures first, then those with most findings.",
    OVER_TIME: "The patient with most scans, of those who died where there are any: the first, the last, and scans "
    "evenly in between.",
}
"""The parts of the gallery, in the order of the page, and what is chosen."""
N_UNCERTAIN, N_EXPLAINED, N_MASKS, N_OVER_TIME = 2, 2, 3, 4
COLUMNS = [
    "rule",
    "scan_id",
    "patient_id",
    "risk",
    "lowest",
    "highest",
    "horizon_years",
    "state",
    "verdict",
    "findings",
]


def choose(
    predictions: pd.DataFrame,
    lungs: pd.DataFrame,
    cohort: pd.DataFrame,
    settings: Settings,
    explained: Collection[str] = (),
) -> pd.DataFrame:
    """Choose the scans of the gallery, 15 at most: `COLUMNS`, a row a rule and scan; none for a rule nothing fulfils.

    Predictions and lungs may be empty; `explained` are ids of the scans whose risks were explained voxel by voxel.
    """
    horizon = _shown_horizon(cohort, settings)
    main = (
        predictions["model"]
        .str.split(" (", regex=False)
        .str[0]
        .isin([name for names in SOURCES.values() for name in names])
    )
    shown = predictions[main] if main.any() else predictions
    risks = (
        shown[shown["horizon_years"] == horizon]
        .groupby("scan_id")["risk"]
        .agg(risk="mean", lowest="min", highest="max", sd="std")
        .reset_index()
    )
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
        return f"died {years:.1f} years after the scan"
    followed = f"alive when last seen, {years:.1f} years after the scan"
    return followed if row[label] == 0 else f"{followed}: unknown at {years_text(horizon)}"


INTRODUCTION = """# Scans to look at

Numbers do not show how a model fails. These scans do: they were chosen by rules that were fixed before anybody looked,
the same rules in every study. The risk is that of the clinical model, radiomics and the networks together, each trained
on other patients; beside it the lowest and the highest of them.
"""
WITH_VIEWER = """Open a scan to scroll through it in three planes. The pictures and the viewer show the lungs and 15 mm
around them, coarser than the scans that were analysed; they are for looking, not for diagnosis. The patient's right is
on the left. **What the risk rests on** can be chosen for scans whose risks were explained voxel by voxel, see
[what the networks see](notebooks/04_deep_models.ipynb), and says where a network looked, not what causes death.
"""
WITHOUT_VIEWER = "This study shows no pictures of scans (`book: {viewer: false}` in `study.yaml`).\n"


def write_gallery(study: Study, scans: Path) -> str:
    """Choose the scans, write what their viewer loads, and give the page (MyST Markdown) without what a run lacks."""
    cohort = _table(study, "cohort", COHORT, "01_cohort")
    lungs = _table(study, "lungs", LUNGS, "02_segmentation_qa")
    predicted = any(study.table("predictions/x").parent.glob("[!.]*.parquet"))
    predictions = (
        read_predictions(study) if predicted else pd.DataFrame(columns=["model", "horizon_years", "scan_id", "risk"])
    )
    if study.table("stacked").is_file():
        predictions = pd.concat([predictions, _table(study, "stacked", PREDICTIONS, "05_horizons")], ignore_index=True)
    explained = _table(study, "attributions", ATTRIBUTIONS, "04_deep_models")
    chosen = pd.DataFrame()
    if len(cohort):
        chosen = choose(predictions, lungs, cohort, study.settings, set(explained["scan_id"]))
    files: dict[str, str] = {}
    if study.settings.book.viewer and len(chosen):
        rows = lungs.set_index("scan_id", drop=False).reindex(chosen["scan_id"].unique())
        for row in _records(rows.dropna(subset="scan_id")):
            maps = explained[explained["scan_id"] == row["scan_id"]].set_index("model")["network"]
            written = _write_scan(study, row, dict(maps), scans)
            if written is not None:
                files[row["scan_id"]] = written
    for old in scans.glob("*"):
        if old.stem not in files.values():
            old.unlink()
    return _page(study, chosen, files)


def _table(study: Study, name: str, schema: Any, made_by: str) -> pd.DataFrame:
    """Read a table, or give an empty one where a stage has not made it."""
    path = study.table(name)
    return read_table(path, schema, made_by) if path.is_file() else pd.DataFrame(columns=list(schema.columns))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _write_scan(study: Study, row: Mapping[str, Any], networks: Mapping[str, str], folder: Path) -> str | None:
    """Write picture and script of a scan, unless they are there; give their name, or None where a file is missing."""
    scan_id = row["scan_id"]
    maps = {model: study.attribution(network, scan_id) for model, network in networks.items()}
    maps = {model: path for model, path in maps.items() if path.is_file()}
    inputs = [study.image(scan_id), study.mask(scan_id), *maps.values()]
    key = fingerprint([file_state(path) for path in inputs], list(maps), str(row["place_mm"]), code_hash("book.viewer"))
    name = f"{scan_id}-{key}"
    if not all((folder / f"{name}{suffix}").is_file() for suffix in (".js", ".jpg")):
        try:
            content, drawn = case_script(study, scan_id, maps), picture(overlay(study, row))
        except ScanError:
            return None  # set aside by quality assurance, whose chapter says why
        with atomic(folder / f"{name}.jpg") as partial:
            drawn.save(partial, format="JPEG", quality=85)
        with atomic(folder / f"{name}.js") as partial:
            partial.write_text(content, encoding="utf-8")
    return name


def _page(study: Study, chosen: pd.DataFrame, files: Mapping[str, str]) -> str:
    shown = study.settings.book.viewer
    parts = [INTRODUCTION, WITH_VIEWER if shown else WITHOUT_VIEWER]
    named: set[str] = set()
    for rule, words in RULES.items():
        rows = [] if chosen.empty else _records(chosen[chosen["rule"] == rule])
        parts.append(f"## {rule}\n\n{words}\n")
        if not rows:
            parts.append("No scan of this study.\n")
            continue
        cards = [_card(row, files.get(row["scan_id"]), named) for row in rows]
        parts.append("```{raw} html\n" + _row(cards, rule, rows, files) + "\n```\n")
    parts.append('```{raw} html\n<script src="viewer/viewer.js" defer></script>\n```\n' if files else "")
    return "\n".join(parts)


def _row(cards: Sequence[str], rule: str, rows: Sequence[Mapping[str, Any]], files: Mapping[str, str]) -> str:
    together = rule == OVER_TIME and sum(row["scan_id"] in files for row in rows) > 1
    button = '<button type="button" class="scan-open scan-button" hidden>Open side by side</button>' if together else ""
    return f'<div class="scan-row">\n{"".join(cards)}{button}\n</div>'


def _card(row: Mapping[str, Any], name: str | None, named: set[str]) -> str:
    """One scan; the first card of a scan can be linked to as `#scan-<scan_id>`."""
    scan_id, words = str(row["scan_id"]), in_words(row)
    anchor = f' id="scan-{escape(scan_id)}"' if scan_id not in named else ""
    named.add(scan_id)
    caption = f"<figcaption>{escape(words)}</figcaption>"
    if name is None:
        return f'<figure class="scan-without"{anchor}>{caption}</figure>\n'
    return (
        f'<figure class="scan-card"{anchor} data-scan="{escape(scan_id)}" data-file="scans/{escape(name)}.js" '
        f'data-words="{escape(words)}">\n'
        f'<img src="scans/{escape(name)}.jpg" loading="lazy" alt="Scan {escape(scan_id)}: an axial, a coronal and a '
        f'sagittal cut, with the outline of the lungs">\n{caption}\n'
        f'<button type="button" class="scan-open scan-button" hidden>Open scan {escape(scan_id)}</button>\n</figure>\n'
    )


def in_words(row: Mapping[str, Any]) -> str:
    """One line on what is known of a scan that `choose` gave."""
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
