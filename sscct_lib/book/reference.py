"""Pages to look things up: how a run was made, its models, all columns and settings, and the packages it rests on."""

import json
import re
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from typing import Any

import pandas as pd
import pandera.pandas as pa
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from sscct_lib.book.chapters import filled, records, table_or_empty
from sscct_lib.book.editions import without_folders
from sscct_lib.horizons.tables import denominators
from sscct_lib.images.reasons import reasons
from sscct_lib.radiomics.saved import FOLDER, JUDGED, LIMITS, USE
from sscct_lib.report.page import fields_described
from sscct_lib.study import schemas
from sscct_lib.study.disclosure import count_text
from sscct_lib.study.folder import MANIFEST_FILE, SETTINGS_FILE, Study, read_settings
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import Covariate, Settings
from sscct_lib.study.words import counted, estimate_text, feature_name, scans_text, span_text, years_text

NOT_JUDGED = "not judged in this run"
LEFT_OUT = ("weights", "weights_sha256")
MOST_COLUMNS = 8
LABEL_WORDS = {
    "censored_unknown": "unknown there, not alive",
    "as_published": "counted as alive, as presumably published",
}
LONGEST_LICENCE = 80
OUTCOMES = {
    "chosen": ("Chosen", "Of several that could be a scan one is taken, and the report says which and why."),
    "left out": ("Left out", "The scan is kept, without what does not belong to it."),
    "mended": ("Mended", "What is certain is put right, and told."),
    "told": ("Told", "The scan is kept as it is; what is unusual about it is told."),
    "set aside": ("Set aside", "What cannot be used is no scan of the study; the others go on."),
}
"""The outcomes of `images.reasons.Reason`, as headings with a sentence."""
TABLES = {
    "The manifest, written by you: one row per scan": schemas.MANIFEST,
    "images: what was read, one row per scan": schemas.IMAGES,
    "cohort: a scan kept in the study": schemas.COHORT,
    "lungs: a scan's mask and its quality": schemas.LUNGS,
    "radiomics: a scan's features": schemas.RADIOMICS,
    "predictions: model × fit × horizon × scan": schemas.PREDICTIONS,
    "unusual: network × scan, whether it differs from the training scans": schemas.UNUSUAL,
    "attributions: network × scan whose risk is explained": schemas.ATTRIBUTIONS,
    "performance: model × horizon × metric": schemas.PERFORMANCE,
    "swept_runs: a run of a sweep": schemas.SWEPT_RUNS,
    "sweep: run × model × horizon × metric, by `sscct sweep`": schemas.SWEEP,
}


def run_page(study: Study) -> str:
    """The page that tells what made this run, in MyST Markdown."""
    made = records(study)
    commits = ", ".join(sorted({record["git_commit"] for record in made})) or "unknown"
    versions = {name: text for record in made for name, text in record["versions"].items()}
    manifest = checksum(study.folder / MANIFEST_FILE)
    settings = without_folders(study.settings.model_dump(mode="json"))
    facts = {
        "Study": study.settings.title,
        "Run": study.run_name,
        "Commit of the project": commits,
        "Seed": str(study.settings.seed),
        f"Changed in {SETTINGS_FILE} for this run": _changes(study),
        "SHA-256 of the manifest": manifest,
    }
    return filled(
        "run.md",
        study=study,
        facts=pd.DataFrame(list(facts.items()), columns=["What", "Value"]),
        costs=stage_costs(study),
        versions=pd.DataFrame(sorted(versions.items()), columns=["Package", "Version"]),
        version=version("sscct"),
        commits=commits,
        manifest=manifest,
        settings=_fenced(yaml.safe_dump(settings, sort_keys=False)),
    )


def _changes(study: Study) -> str:
    path = study.run_settings_path
    return json.dumps(without_folders(read_settings(path))) if path.is_file() else "nothing"


def _fenced(text: str) -> str:
    """Show YAML as it is: the fence is longer than any row of backticks in it, so that no text ends it early."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def stage_costs(study: Study) -> pd.DataFrame:
    """What each stage took: shards or notebooks, seconds, the longest, and the peak memory (MB) of one process."""
    costs = (
        pd.DataFrame(
            [
                (re.sub(r"_\d{4,}$", "", record["stage"]), record.get("seconds"), record.get("peak_mb"))
                for record in records(study)
            ],
            columns=["Stage", "s", "mb"],
        )
        .astype({"s": float, "mb": float})
        .groupby("Stage", sort=True)
    )
    named = {"Jobs": costs.size(), "Seconds": costs["s"].sum().round(1), "Longest job, s": costs["s"].max()}
    return pd.DataFrame(named | {"Peak, MB": costs["mb"].max()}).reset_index()


def model_cards_page(study: Study) -> str:
    """A card for each saved model of a run, in MyST Markdown; the networks of all folds are one model."""
    performance = table_or_empty(study, "performance", schemas.PERFORMANCE)
    networks: dict[str, list[dict[str, Any]]] = {}
    for card in _cards(study, "deep"):
        networks.setdefault(card["model"], []).append(card)
    tabular = sorted(_cards(study, FOLDER), key=lambda card: str(card["model"]))
    cards = [(str(card["model"]), _tabular(card, performance)) for card in tabular]
    cards += [(name, _network(name, of_folds, performance)) for name, of_folds in sorted(networks.items())]
    return filled("model_cards.md", use=USE, limits=LIMITS, cards=cards)


def _cards(study: Study, folder: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((study.models / folder).glob("[!.]*.json"))]


def _tabular(card: Mapping[str, Any], performance: pd.DataFrame) -> dict[str, str]:
    learned = card["trained_on"]
    tuned = ", ".join(f"{name} {value:g}" for name, value in card["chosen_by_tuning"].items() if _is_number(value))
    used = card["columns_used"]
    return {
        "Kind": card["kind"],
        "Judged, and predicts": JUDGED,
        "Learned from": f"{scans_text(learned['n_scans'], learned['n_patients'])}, "
        f"{count_text(learned['n_deaths'])} of whom died; {learned['weights']}",
        "Sees": f"{len(card['columns'])} columns; weighs {len(used)} numbers made and chosen of them: {_few(used)}",
        "Chosen by tuning": tuned or "nothing",
        "Not followed to a horizon": LABEL_WORDS[card["labels"]],
        **_performance(str(card["model"]), performance),
        "Settings of features": f"`{card['settings_hash']}`",
        "SHA-256": f"`{card['sha256']}`",
        "Software": ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    }


def _network(name: str, cards: list[dict[str, Any]], performance: pd.DataFrame) -> dict[str, str]:
    first = cards[0]
    settings = {key: value for key, value in first["settings"].items() if key not in LEFT_OUT and value is not None}
    deaths = [card["n_deaths"] for card in cards]
    n_members = len([card for card in cards if card["fold"] == first["fold"]])
    return {
        "Kind": f"network {first['network']}, {first['n_parameters'] / 1e6:.1f} million parameters; {len(cards)} "
        "models, one for each fold and member",
        "Judged, and predicts": f"the mean over {counted(n_members, 'member')} of one fold: each on patients of its "
        f"own fold, and fold {first['fold']}, chosen beforehand, on new scans",
        "Learned from": f"{span_text([card['n_scans'] for card in cards])} scans of "
        f"{span_text([card['n_patients'] for card in cards])} patients a model; followed by death up to the longest "
        f"horizon: {span_text([sum(each) for each in deaths])} scans",
        "Weights at the start": first["weights"],
        "Sees": f"the lungs from {first['hu_range'][0]:g} to {first['hu_range'][1]:g} HU",
        "Settings": ", ".join(f"{key} {value:g}" for key, value in settings.items() if _is_number(value)),
        "Not followed to a horizon": LABEL_WORDS[first["labels"]],
        **_performance(name, performance),
        "SHA-256": "<br>".join(f"fold {card['fold']}, member {card['member']}: `{card['sha256']}`" for card in cards),
        "Software": ", ".join(f"{key} {version}" for key, version in first["versions"].items()),
    }


def _performance(model: str, performance: pd.DataFrame) -> dict[str, str]:
    """AUC and calibration at each horizon, with the counts behind them."""
    rows = performance[performance["model"] == model]
    found: dict[str, str] = {}
    for horizon in sorted(rows["horizon_years"].unique()):
        at = rows[rows["horizon_years"] == horizon].set_index("metric")
        if not {"auc", "observed_expected"} <= set(at.index):
            continue
        numbers = at[["estimate", "ci_low", "ci_high"]].astype(float).to_dict("index")
        said = [estimate_text(*numbers[metric].values()) for metric in ("auc", "observed_expected")]
        auc = at.loc["auc"]
        found[f"Within {years_text(horizon)}"] = (
            f"AUC {said[0]}; O:E {said[1]}; of {scans_text(auc['n_scans'], auc['n_patients'])} followed by "
            f"death, against known alive: {denominators(auc)}"
        )
    return found or {"Performance": NOT_JUDGED}


def _few(names: list[str]) -> str:
    shown = "; ".join(feature_name(name) for name in names[:MOST_COLUMNS])
    return shown + (f"; and {len(names) - MOST_COLUMNS} more" if len(names) > MOST_COLUMNS else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def data_dictionary_page(study: Study) -> str:
    """The page that explains every column of every table, those that the study declares, and every setting."""
    tables = {title: data_dictionary(schema) for title, schema in TABLES.items()}
    of_study = study.settings.covariates
    own = data_dictionary(pa.DataFrameSchema(schemas.declared_columns(of_study)))
    own["predictor"] = ["yes" if one.predictor else "no" for one in of_study.values()]
    return filled(
        "data_dictionary.md", tables=tables, own=own, prediction=fields_described(), settings=_settings_dictionary()
    )


def odd_exports_page() -> str:
    """The page that lists all that reading an export may find, in MyST Markdown."""
    groups = [(*words, reasons_table(outcome)) for outcome, words in OUTCOMES.items()]
    return filled("odd_exports.md", groups=[group for group in groups if len(group[2])])


def reasons_table(outcome: str) -> pd.DataFrame:
    """The reasons of `images.reasons` with an outcome: `Found`, `What is done` and `Code`, by what is found."""
    rows = [(one.found, one.done, code) for code, one in reasons().items() if one.outcome == outcome]
    return pd.DataFrame(sorted(rows), columns=["Found", "What is done", "Code"])


def data_dictionary(schema: pa.DataFrameSchema) -> pd.DataFrame:
    """A row a column of a schema: `column`, `meaning`, `type`, `unit`, `required`, `expected`."""
    rows = []
    for name, spec in schema.columns.items():
        rows.append(
            {
                "column": name,
                "meaning": spec.description or "",
                "type": str(spec.dtype),
                "unit": (spec.metadata or {}).get("unit", ""),
                "required": "yes" if spec.required else "no",
                "expected": "; ".join(_expected(str(check.error)) for check in spec.checks if check.error),
            }
        )
    return pd.DataFrame(rows)


def _expected(said: str) -> str:
    """Say what pandera's own check of a list expects as the other checks do: `one of ok, failed`."""
    listed = re.fullmatch(r"isin\(\[(.*)\]\)", said)
    return f"one of {listed[1].replace(chr(39), '')}" if listed else said


def _settings_dictionary() -> pd.DataFrame:
    rows: list[dict[str, str]] = []

    def add(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            default = field.default
            if isinstance(default, BaseModel):
                add(type(default), f"{prefix}{name}.")
                continue
            shown = "required" if field.is_required() else str(default)
            rows.append({"setting": prefix + name, "meaning": field.description or "", "default": shown})
            if name == "covariates":
                add(Covariate, f"{prefix}{name}.NAME.")

    add(Settings, "")
    return pd.DataFrame(rows)


def packages_page() -> str:
    """The page of the packages that were used, with their licences, in MyST Markdown."""
    return filled("packages.md", packages=packages_table())


def packages_table() -> pd.DataFrame:
    """`Package` and `Licence` of all packages on which a run rests."""
    rows = [(one.metadata["Name"], licence(one)) for one in needed_packages()]
    return pd.DataFrame(rows, columns=["Package", "Licence"])


def needed_packages(root: str = "sscct") -> list[Distribution]:
    """The installed packages that a package needs without its extras, and what these need; sorted, without itself."""
    found: dict[str, Distribution] = {}
    waiting = [root]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # needed elsewhere: on another system or Python
        requirements = map(Requirement, found[name].requires or [])
        waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    found.pop(canonicalize_name(root), None)
    return [found[name] for name in sorted(found)]


def licence(package: Distribution) -> str:
    """The licence of a package: its SPDX expression, else its classifiers, else the first words of its text."""
    classifiers = [
        line.rsplit(" :: ", 1)[-1]
        for line in package.metadata.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    text = _field(package, "License-Expression") or "; ".join(classifiers) or _field(package, "License")
    words = re.sub(r"\s+", " ", text).strip()
    if len(words) > LONGEST_LICENCE:
        words = f"{words[: LONGEST_LICENCE - 1]}…"
    return words or "not told by its metadata"


def _field(package: Distribution, name: str) -> str:
    return "; ".join(package.metadata.get_all(name) or [])
