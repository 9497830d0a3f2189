"""Pages of the book that are made of the run's records, and of what the library knows of its tables and settings."""

import json
import re
from importlib.metadata import version

import pandas as pd
import pandera.pandas as pa
import yaml
from pydantic import BaseModel

from sscct_lib import schemas
from sscct_lib.completeness import plain
from sscct_lib.editions import without_folders
from sscct_lib.files import checksum
from sscct_lib.markup import html_table
from sscct_lib.packages import packages_table
from sscct_lib.prediction_file import fields_described
from sscct_lib.study import MANIFEST_FILE, SETTINGS_FILE, Settings, Study, read_settings


def run_page(study: Study) -> str:
    """Write the page that tells what made this run, in MyST Markdown.

    Parameters
    ----------
    study
        The study and run.

    Returns
    -------
    str
        Commit, seed, manifest, wall time and peak memory of each stage, package versions and all settings.
    """
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
    """Say how a text names this run, so that its numbers can be made again."""
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
    """Sum what the workflow measured of each stage.

    Parameters
    ----------
    study
        The study and run.

    Returns
    -------
    pandas.DataFrame
        One row a stage: jobs, seconds in all, seconds of the longest job, and peak memory in MB.
    """
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
    """Write the page of the packages that were used, with their licences, in MyST Markdown."""
    # Versions stay out: those that are named for a day would look like a patient's date.
    words = "What this software needs, as packages state their own licences; `constraints.txt` pins their versions."
    return "\n\n".join(["# Packages and licences", words, html_table(packages_table())])


def data_dictionary_page() -> str:
    """Write the page that explains every column of every table, in MyST Markdown."""
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
    """List the columns of a schema with their meaning.

    Parameters
    ----------
    schema
        One of the schemas of `tables`.

    Returns
    -------
    pandas.DataFrame
        One row a column: `column`, `meaning`, `type`, `unit`, `required`, `expected`.
    """
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
