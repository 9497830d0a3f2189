"""Pages to look things up: how a run was made, its models, all columns and settings, and the packages it rests on."""

import html
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

from sscct_lib.book.chapters import plain
from sscct_lib.book.editions import without_folders
from sscct_lib.radiomics.saved import FOLDER, LIMITS, USE
from sscct_lib.report.prediction_file import fields_described
from sscct_lib.study import schemas
from sscct_lib.study.files import checksum
from sscct_lib.study.folder import MANIFEST_FILE, SETTINGS_FILE, Study, read_settings
from sscct_lib.study.schemas import PERFORMANCE
from sscct_lib.study.settings import Settings
from sscct_lib.study.tables import read_table
from sscct_lib.study.words import estimate_text, in_words, years_text


def html_table(frame: pd.DataFrame) -> str:
    """Write a table as HTML with its cells escaped: Markdown pipes would break on the text of checks."""
    if frame.empty:
        return "None."
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f'<table class="table">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


NONE = "This run has saved no model.\n"
NOT_JUDGED = "not judged in this run"
LEFT_OUT = ("weights", "weights_sha256")
MOST_COLUMNS = 8
LABEL_WORDS = {
    "censored_unknown": "unknown there, not alive",
    "as_published": "counted as alive, as presumably published",
}


def page(study: Study) -> str:
    """A card for each saved model of a run, in MyST Markdown; the networks of all folds are one model."""
    performance = (
        read_table(study.table("performance"), PERFORMANCE, "05_horizons")
        if study.table("performance").is_file()
        else pd.DataFrame(columns=list(PERFORMANCE.columns))
    )
    tabular = [json.loads(path.read_text(encoding="utf-8")) for path in _paths(study, FOLDER)]
    networks: dict[str, list[dict[str, Any]]] = {}
    for path in _paths(study, "deep"):
        card = json.loads(path.read_text(encoding="utf-8"))
        networks.setdefault(card["model"], []).append(card)
    sections = [_tabular(card, performance) for card in sorted(tabular, key=lambda card: str(card["model"]))]
    sections += [_network(name, cards, performance) for name, cards in sorted(networks.items())]
    head = (
        "# Model cards\n\nOne card for each model that this run saved; `sscct predict` uses them. Performance is that "
        "of the same recipe out of fold, on patients that the tested model never saw, with 95 % intervals. Each file "
        "is checked against its SHA-256 before it is used.\n\n"
        f"**Intended use.** {USE}\n\n**Limits.** {LIMITS}\n"
    )
    return "\n".join([head, *sections]) if sections else f"{head}\n{NONE}"


def _paths(study: Study, folder: str) -> list[Any]:
    return sorted((study.models / folder).glob("[!.]*.json"))


def _tabular(card: Mapping[str, Any], performance: pd.DataFrame) -> str:
    learned = card["trained_on"]
    tuned = ", ".join(f"{name} {value:g}" for name, value in card["chosen_by_tuning"].items() if _is_number(value))
    used = card["columns_used"]
    rows = {
        "Kind": card["kind"],
        "Learned from": f"{learned['n_scans']:,} scans of {learned['n_patients']:,} patients, {learned['n_deaths']} of "
        f"whom died; {learned['weights']}",
        "Sees": f"{len(card['columns'])} columns; weighs {len(used)} numbers made and chosen of them: {_few(used)}",
        "Chosen by tuning": tuned or "nothing",
        "Not followed to a horizon": LABEL_WORDS[card["labels"]],
        **_performance(str(card["model"]), performance),
        "Settings of features": f"`{card['settings_hash']}`",
        "SHA-256": f"`{card['sha256']}`",
        "Software": ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    }
    return _section(str(card["model"]), rows)


def _network(name: str, cards: list[dict[str, Any]], performance: pd.DataFrame) -> str:
    first = cards[0]
    settings = {key: value for key, value in first["settings"].items() if key not in LEFT_OUT and value is not None}
    deaths = [card["n_deaths"] for card in cards]
    rows = {
        "Kind": f"network {first['network']}, {first['n_parameters'] / 1e6:.1f} million parameters; {len(cards)} "
        "models, one for each fold and member, whose mean predicts",
        "Learned from": f"{_span([card['n_scans'] for card in cards])} scans of "
        f"{_span([card['n_patients'] for card in cards])} patients a model; followed by death up to the longest "
        f"horizon: {_span([sum(each) for each in deaths])} scans",
        "Weights at the start": first["weights"],
        "Sees": f"the lungs from {first['hu_range'][0]:g} to {first['hu_range'][1]:g} HU",
        "Settings": ", ".join(f"{key} {value:g}" for key, value in settings.items() if _is_number(value)),
        "Not followed to a horizon": LABEL_WORDS[first["labels"]],
        **_performance(name, performance),
        "SHA-256": "<br>".join(f"fold {card['fold']}, member {card['member']}: `{card['sha256']}`" for card in cards),
        "Software": ", ".join(f"{key} {version}" for key, version in first["versions"].items()),
    }
    return _section(name, rows)


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
        counts = at[["n_events", "n_scans", "n_patients", "n_unknown"]].to_dict("index")["auc"]
        found[f"Within {years_text(horizon)}"] = (
            f"AUC {said[0]}; died : expected {said[1]}; of {counts['n_scans']:,} scans of {counts['n_patients']:,} "
            f"patients {counts['n_events']:,} followed by death, {counts['n_unknown']:,} unknown"
        )
    return found or {"Performance": NOT_JUDGED}


def _section(name: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {what} | {words} |" for what, words in rows.items()]
    return "\n".join([f"## {name}", "", "| What | Of this model |", "|---|---|", *lines, ""])


def _few(names: list[str]) -> str:
    shown = "; ".join(in_words(name) for name in names[:MOST_COLUMNS])
    return shown + (f"; and {len(names) - MOST_COLUMNS} more" if len(names) > MOST_COLUMNS else "")


def _span(counts: list[int]) -> str:
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


LONGEST_LICENCE = 80


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


def packages_table() -> pd.DataFrame:
    """`Package` and `Licence` of all packages on which a run rests."""
    rows = [(one.metadata["Name"], licence(one)) for one in needed_packages()]
    return pd.DataFrame(rows, columns=["Package", "Licence"])


def run_page(study: Study) -> str:
    """The page that tells what made this run, in MyST Markdown."""
    provenance = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((study.run / "provenance").glob("*"))]
    commits = sorted({record["git_commit"] for record in provenance})
    versions = {name: text for record in provenance for name, text in record["versions"].items()}
    given = {record["stage"]: record["parameters"] for record in provenance if record["parameters"]}
    settings = without_folders(study.settings.model_dump(mode="json"))
    facts = {
        "Study": study.settings.title,
        "Run": study.run_name,
        "Commit of the project": ", ".join(commits) or "unknown",
        "Seed": str(study.settings.seed),
        f"Changed in {SETTINGS_FILE} for this run": _changes(study),
        "SHA-256 of the manifest": checksum(study.folder / MANIFEST_FILE),
        "Notebook parameters given": json.dumps(without_folders(given)) if given else "none",
    }
    return "\n\n".join(
        [
            "# How this run was made",
            "Everything that is needed to make the same numbers again.",
            html_table(pd.DataFrame(list(facts.items()), columns=["What", "Value"])),
            "## Time and memory",
            "Each row sums the jobs of a stage as they last ran; the peak is that of the largest job. Work that was "
            "already finished when a job ran is not in it.",
            html_table(stage_costs(study)),
            "## Package versions",
            html_table(pd.DataFrame(sorted(versions.items()), columns=["Package", "Version"])),
            "## How to cite",
            _citation(study, sorted(commits)),
            "## Settings",
            f"All settings of the run, defaults among them (`{SETTINGS_FILE}` says what differs from the defaults).",
            _fenced(yaml.safe_dump(settings, sort_keys=False)),
        ]
    )


def _citation(study: Study, commits: list[str]) -> str:
    """How a text names this run, so that its numbers can be made again."""
    return (
        "The authors of sscct. "
        f"{plain(study.settings.title)}, run {plain(study.run_name)} [software and executable book]. "
        f"sscct {version('sscct')}, commit {', '.join(commits) or 'unknown'}, seed {study.settings.seed}, manifest "
        f"{checksum(study.folder / MANIFEST_FILE)[:16]}. A text that uses these numbers also cites the published study "
        "{cite:p}`imaging2025`, and what its models rest on ([references](references.md))."
    )


def _changes(study: Study) -> str:
    path = study.run_settings_path
    return json.dumps(without_folders(read_settings(path))) if path.is_file() else "nothing"


def _fenced(text: str) -> str:
    """Show YAML as it is: the fence is longer than any row of backticks in it, so that no text ends it early."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def stage_costs(study: Study) -> pd.DataFrame:
    """What the workflow measured: jobs, seconds, seconds of the longest job and peak memory (MB) of each stage."""
    rows = []
    for path in sorted((study.run / "benchmarks").glob("*.tsv")):
        measured = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
        stage = path.stem.rsplit("_", 1)[0] if path.stem[-4:].isdigit() else path.stem
        rows.append({"Stage": stage, "s": float(measured["s"]), "mb": float(measured["max_rss"])})
    if not rows:
        return pd.DataFrame(columns=["Stage", "Jobs", "Seconds", "Longest job, s", "Peak, MB"])
    stages = pd.DataFrame(rows).groupby("Stage", sort=True)
    costs = pd.DataFrame(
        {
            "Jobs": stages.size(),
            "Seconds": stages["s"].sum().round(1),
            "Longest job, s": stages["s"].max().round(1),
            "Peak, MB": stages["mb"].max().round().astype("Int64"),
        }
    )
    return costs.reset_index()


def packages_page() -> str:
    """The page of the packages that were used, with their licences, in MyST Markdown."""
    # Versions stay out: those that are named for a day would look like a patient's date.
    words = "What this software needs, as packages state their own licences; `constraints.txt` pins their versions."
    return "\n\n".join(["# Packages and licences", words, html_table(packages_table())])


def data_dictionary_page() -> str:
    """The page that explains every column of every table, and every setting, in MyST Markdown."""
    described: list[tuple[str, pa.DataFrameSchema]] = [
        ("The manifest, written by you: one row a scan", schemas.MANIFEST),
        ("images: what was read, one row a scan", schemas.IMAGES),
        ("cohort: a scan kept in the study", schemas.COHORT),
        ("lungs: a scan's mask and its quality", schemas.LUNGS),
        ("radiomics: a scan's features", schemas.RADIOMICS),
        ("predictions: model × horizon × scan", schemas.PREDICTIONS),
        ("unusual: network × scan, whether it differs from the training scans", schemas.UNUSUAL),
        ("attributions: network × scan whose risk is explained", schemas.ATTRIBUTIONS),
        ("performance: model × horizon × metric", schemas.PERFORMANCE),
        ("swept_runs: a run of a sweep", schemas.SWEPT_RUNS),
        ("sweep: run × model × horizon × metric, by `sscct sweep`", schemas.SWEEP),
    ]
    parts = [
        "# Data dictionary",
        "Every table that goes from one stage to the next, column by column. A study brings the first, "
        f"`{MANIFEST_FILE}`, as comma-separated text; the others are Parquet files in `runs/NAME/tables/`.",
        "The time of a scan is either `scan_date` or `scan_day`, and that of last contact either `last_contact_date` "
        "or `last_contact_day`. Inside the study only days since a patient's first scan are kept.",
    ]
    for title, schema in described:
        parts += [f"## {title}", html_table(data_dictionary(schema))]
    parts += [
        "## prediction.json",
        "What `sscct predict` writes about a scan that was never in the study. `[]` marks a list.",
        html_table(fields_described()),
    ]
    parts += ["## Settings of study.yaml", html_table(_settings_dictionary())]
    return "\n\n".join(parts)


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
            else:
                rows.append({"setting": prefix + name, "meaning": field.description or "", "default": str(default)})

    add(Settings, "")
    return pd.DataFrame(rows)
