"""Reporting checklists as pages: every item with its status and the place in the book, filled from the run."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sscct_lib.book.chapters import filled, latest_commit
from sscct_lib.book.shown import PAGES
from sscct_lib.cohort.outcomes import label_name
from sscct_lib.cohort.tables import label_counts
from sscct_lib.study.disclosure import count_text, of_patients
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.schemas import IMAGE_TYPES
from sscct_lib.study.stages import PROJECT
from sscct_lib.study.tables import read_parquet
from sscct_lib.study.words import NETWORK_WORDS, horizons_text, percent_text, plain, years_text

FOLDER = PROJECT / "book" / "checklists"
STATEMENTS_FILE = "statements.yaml"
NAMES = ("tripod_ai", "claim", "clear", "probast_ai")
Status = Literal["met", "partly", "open"]
STATUSES: tuple[Status, ...] = get_args(Status)
NOT_BALANCED = "Deaths are neither resampled nor weighted."
BALANCED = "Patients who die are shown more often, or weigh more, in training."
NOTEBOOK_PAGES = {
    "cohort": "01_cohort",
    "lungs": "02_segmentation_qa",
    "features": "03_radiomics",
    "networks": "04_deep_models",
    "risks": "05_horizons",
    "robustness": "05_robustness",
}
WORDS = {
    "front": "front page",
    "cohort": "the cohort",
    "lungs": "the lungs",
    "features": "the features",
    "networks": "the networks",
    "risks": "how good the risks are",
    "robustness": "how robust they are",
    "question": "the question",
    "acting": "what to do with a risk",
    "run": "how this run was made",
}
NOT_MADE = "not made in this run"


class Item(BaseModel):
    """One item: what it asks, whether the book meets it, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    asks: str
    status: Status
    says: str
    where: list[str]


class Checklist(BaseModel):
    """A reporting checklist; its items are paraphrased, the wording is in the cited paper."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    about: str
    cite: str
    items: list[Item]


def page(name: str, study: Study, missing: Mapping[str, str]) -> str:
    """The page of one of `NAMES`, in MyST Markdown; items that rest on a missing chapter are open."""
    try:
        checklist = read_checklist(name)
        known, stated = facts(study), statements(study).get(name, {})
        lost = {page for notebook in missing for page in PAGES.get(notebook, (notebook,))}
        rows = [_row(item, known, stated.get(item.id), lost) for item in checklist.items]
    except (KeyError, ValidationError) as error:
        raise StudyError(f"{name}.yaml: {error}") from error
    counts = ", ".join(f"{sum(row['status'] == status for row in rows)} {status}" for status in STATUSES)
    return filled("checklist.md", checklist=checklist, rows=rows, counts=counts)


def read_checklist(name: str) -> Checklist:
    """Read one of `NAMES` from the project."""
    return Checklist.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def _row(item: Item, known: Mapping[str, str], stated: str | None, missing: Collection[str]) -> dict[str, str]:
    says, status, links = item.says.format_map(known), item.status, [_link(place, missing) for place in item.where]
    if stated is not None:
        says, status = plain(" ".join(stated.split())), "met"
    elif any(NOTEBOOK_PAGES.get(place.split("#")[0]) in missing for place in item.where):
        says, status = f"A chapter that would say it was {NOT_MADE}.", "open"
    says = " ".join([says, "→ " + ", ".join(links) if links else ""]).strip()
    return {"id": item.id, "asks": item.asks, "status": status, "says": says}


def _link(place: str, missing: Collection[str]) -> str:
    name, _, anchor = place.partition("#")
    notebook = NOTEBOOK_PAGES.get(name)
    file = "index.md" if name == "front" else f"notebooks/{notebook}.ipynb" if notebook else f"{name}.md"
    anchor = "" if notebook in missing else anchor
    words = WORDS.get(name, name.replace("_", " "))
    part = anchor.replace("-", " ")
    return f"[{words}{': ' if part else ''}{part}]({file}{'#' if anchor else ''}{anchor})"


def statements(study: Study) -> dict[str, dict[str, str]]:
    """What only the owner of a study can say (approval, funding), from `statements.yaml`: by checklist and item."""
    path = study.folder / STATEMENTS_FILE
    if not path.is_file():
        return {}
    form = f'{path.name}: expected a checklist ({", ".join(NAMES)}), below it `"item": sentence` lines'
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise StudyError(f"{form}; it is not readable YAML: {error}") from error
    if not isinstance(content, dict) or not set(content) <= set(NAMES):
        raise StudyError(f"{form}; found {', '.join(map(str, content))}.")
    for name, said in content.items():
        known = {item.id for item in read_checklist(name).items}
        strangers = [key for key in said if str(key) not in known] if isinstance(said, dict) else [said]
        if strangers:
            raise StudyError(f"{form}; {name} has no item {', '.join(map(str, strangers))}.")
    return {name: {str(key): str(words) for key, words in said.items()} for name, said in content.items()}


def facts(study: Study) -> dict[str, str]:
    """What the checklists say of a run, by the names that they use in braces; `NOT_MADE` where a table is missing."""
    settings = study.settings
    deep = settings.deep
    weights = {str(deep.network(name).weights or "none") for name in deep.networks}
    filters = [f"LoG {sigma:g} mm" for sigma in settings.radiomics.log_sigma_mm]
    filters += ["wavelet"] if settings.radiomics.wavelet else []
    return {
        "kind": "Synthetic patients" if settings.demo is not None else "The patients of this study",
        "horizons": horizons_text(settings.horizons_years),
        "n_folds": str(settings.cohort.n_folds),
        "n_repeats": str(settings.tabular.n_repeats),
        "n_bootstrap": f"{settings.horizons.n_bootstrap:,}",
        "thresholds": ", ".join(percent_text(threshold) for threshold in settings.horizons.thresholds),
        "spacing_mm": f"{settings.images.spacing_mm:g}",
        "feature_spacing_mm": f"{settings.radiomics.spacing_mm:g}",
        "feature_hu": " to ".join(f"{edge:g}" for edge in settings.radiomics.hu_range),
        "bin_width": f"{settings.radiomics.bin_width:g}",
        "hu_low": f"{deep.hu_range[0]:g}",
        "hu_high": f"{deep.hu_range[1]:g}",
        "min_icc": f"{settings.tabular.min_icc:g}",
        "max_correlation": f"{settings.tabular.max_correlation:g}",
        "lung_method": f"the method `{settings.lungs.method}`",
        "networks": ", ".join(NETWORK_WORDS[name] for name in deep.networks),
        "imbalance": BALANCED if any(deep.network(name).balance != "none" for name in deep.networks) else NOT_BALANCED,
        "weights": ", ".join(sorted(Path(name).name for name in weights)),
        "image_types": ", ".join(["Original", *filters]),
        "commit": latest_commit(study),
        **_counts(study),
    }


def _counts(study: Study) -> dict[str, str]:
    counts = dict.fromkeys(("n_scans", "n_patients", "deaths", "n_features"), NOT_MADE)
    if study.table("cohort").is_file():
        cohort = read_parquet(study.table("cohort"))
        counted = label_counts(cohort, tuple(h for h in study.settings.horizons_years if label_name(h) in cohort))
        died = [f"{n} within {years_text(float(str(horizon)))}" for horizon, n in counted["Died"].items()]
        n_patients = cohort["patient_id"].nunique()
        counts |= {
            "n_scans": of_patients(len(cohort), n_patients),
            "n_patients": count_text(n_patients),
            "deaths": f"scans followed by death: {', '.join(died)}",
        }
    if study.table("radiomics").is_file():
        columns = read_parquet(study.table("radiomics")).columns
        counts["n_features"] = str(sum(name.startswith((*IMAGE_TYPES, "qct_")) for name in columns))
    return counts
