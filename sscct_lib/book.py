"""Assemble the executed notebooks of a run with the prose chapters, and render the Jupyter Book."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import yaml

from sscct_lib import checklists, editions, model_cards, patient_pages, schemas, sweep_page
from sscct_lib.completeness import missing_stages, notice, stub, without_missing
from sscct_lib.files import atomic, checksum
from sscct_lib.gallery_page import write_gallery
from sscct_lib.markup import html_table
from sscct_lib.notebooks import NOTEBOOKS, PROJECT
from sscct_lib.packages import packages_table
from sscct_lib.pasted import pictures
from sscct_lib.prediction_file import fields_described
from sscct_lib.privacy_files import search_study
from sscct_lib.seals import remove_unless_sealed, seal
from sscct_lib.study import MANIFEST_FILE, SETTINGS_FILE, Settings, Study, StudyError, fingerprint, read_settings

BEFORE_RENDERING = ("tables", "notebooks", "provenance", "book/source")
DEMO_NOTICE = "Synthetic patients: this is the demo study. No number in it speaks of a real person."


def build_book(study: Study) -> Path:
    """Render the book of a run.

    Parameters
    ----------
    study
        The study and run; its notebooks must have been executed.

    Returns
    -------
    Path
        The front page, see `front_page`.

    Raises
    ------
    StudyError
        If no notebook was executed, if a table, notebook or page holds what may point to a patient (see
        `privacy.find`), or if the book has a broken link, a missing number or any other warning. A notebook that
        failed gives no error: its chapter and the front page say that it is missing, and why.
    """
    missing = missing_stages(study)
    if len(missing) == len(NOTEBOOKS):
        raise StudyError(f"{study.run} has no executed notebook, not even 01_cohort. `sscct run` makes them.")
    source = study.run / "book" / "source"
    _assemble(study, source, missing)
    _refuse_identifiers(study, BEFORE_RENDERING)
    _render(study, source)
    editions.publish(study, study.run / "book" / "sphinx" / "_build" / "html", front_page(study).parent)
    # Pages for clinicians are those for analysts less their code; `sscct check --privacy` looks into every file.
    _refuse_identifiers(study, tuple(f"book/_build/html/{name}" for name in (editions.ANALYSTS, "_images", "scans")))
    return front_page(study)


def _render(study: Study, source: Path) -> None:
    """Let Jupyter Book make pages of the sources.

    Sphinx writes a page again when its own source changes. Numbers that it takes from a notebook, and the titles of
    others in the side bar, would grow stale: where any of these changed, every page is written.
    """
    record = study.run / "book" / "written_with.txt"
    state = fingerprint([(path.name, checksum(path)) for path in _behind_every_page(source)], _titles(source))
    current = record.is_file() and record.read_text(encoding="utf-8") == state
    record.unlink(missing_ok=True)
    # What Sphinx remembers of the pages are pickles: only those that this user's own build wrote are read.
    memory = study.run / "book" / "sphinx" / "_build" / ".doctrees"
    remove_unless_sealed(memory)
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(source), "-n", "-W", "--keep-going", "-q", *([] if current else ["--all"])]
    done = subprocess.run(
        [*command, "--path-output", str(study.run / "book" / "sphinx")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    seal(memory)
    said = done.stdout.replace(str(study.folder.resolve()), "STUDY")  # logs name no place of this machine
    with atomic(study.run / "logs" / "book.log") as partial:
        partial.write_text(said, encoding="utf-8")
    if done.returncode != 0:
        raise StudyError("The book has faults:\n" + "\n".join(said.strip().splitlines()[-20:]))
    with atomic(record) as partial:
        partial.write_text(state, encoding="utf-8")


def _behind_every_page(source: Path) -> list[Path]:
    kept = {".ipynb", ".yml", ".bib", ".css"}
    return sorted(path for path in source.rglob("*") if path.suffix in kept)


def _titles(source: Path) -> list[str]:
    """Give the first heading of each prose page."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.md"))]
    return [next((line for line in text.splitlines() if line.startswith("# ")), "") for text in texts]


def _refuse_identifiers(study: Study, parts: tuple[str, ...]) -> None:
    """Stop where something in the run may point to a patient; nothing is cleaned in silence."""
    search = search_study(study.folder, parts=tuple(f"runs/{study.run_name}/{part}" for part in parts))
    if search.findings:
        listed = "\n  ".join(search.lines())
        raise StudyError(f"{len(search.findings)} place(s) may point to a patient; no book was made:\n  {listed}")


def front_page(study: Study) -> Path:
    """Tell where the rendered book of a run begins."""
    return study.run / "book" / "_build" / "html" / "index.html"


def _config(study: Study) -> str:
    config = yaml.safe_load((PROJECT / "_config.yml").read_text(encoding="utf-8"))
    config["title"] = study.settings.title
    if study.settings.demo is not None:
        config["html"]["announcement"] = DEMO_NOTICE
    return str(yaml.safe_dump(config, sort_keys=False))


def _contents(study: Study) -> str:
    """Write the table of contents, without the chapters that only synthetic patients or a sweep have."""
    contents = yaml.safe_load((PROJECT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    present = {"demo_cohort": study.settings.demo is not None, "sweep": sweep_page.has_sweep(study)}
    for part in contents["parts"]:
        part["chapters"] = [chapter for chapter in part["chapters"] if present.get(chapter["file"], True)]
    return str(yaml.safe_dump(contents, sort_keys=False))


def _assemble(study: Study, source: Path, missing: Mapping[str, str]) -> None:
    """Bring chapters, executed notebooks and generated pages together; unchanged files keep their times."""
    shutil.rmtree(source / "pasted", ignore_errors=True)
    for path in sorted((PROJECT / "book").rglob("*")):
        target = source / path.relative_to(PROJECT / "book")
        if path.suffix == ".md" and missing:
            _write_if_changed(target, without_missing(path.read_text(encoding="utf-8"), list(missing)))
        elif path.is_file() and path.name != "_toc.yml":
            _copy_if_changed(path, target)
    for name in NOTEBOOKS:
        target = source / "notebooks" / f"{name}.ipynb"
        if name in missing:
            _write_if_changed(target, stub(name, missing[name]))
        else:
            _copy_if_changed(study.run / "notebooks" / f"{name}.ipynb", target)
            for picture, content in pictures(target).items():
                _write_if_changed(source / "pasted" / f"{picture}.png", content)
    _write_if_changed(source / "this_run.txt", this_run(study, missing))
    _write_if_changed(source / "_config.yml", _config(study))
    _write_if_changed(source / "_toc.yml", _contents(study))
    _write_if_changed(source / "run.md", run_page(study))
    _write_if_changed(source / "data_dictionary.md", data_dictionary_page())
    _write_if_changed(source / "packages.md", packages_page())
    _write_if_changed(source / "patients.md", patient_pages.write_pages(study, source / "patients"))
    if sweep_page.has_sweep(study):
        _write_if_changed(source / "sweep.md", sweep_page.write_page(study, source))
    _write_if_changed(source / "model_cards.md", model_cards.page(study))
    for name in checklists.NAMES:
        _write_if_changed(source / f"checklist_{name}.md", checklists.page(name, study, missing))
    _write_if_changed(source / "gallery.md", write_gallery(study, study.run / "book" / "scans"))


def this_run(study: Study, missing: Mapping[str, str]) -> str:
    """Write the lines of the front page that tell which study and run it shows, and what the run lacks.

    Parameters
    ----------
    study
        The study and run.
    missing
        From `completeness.missing_stages`.

    Returns
    -------
    str
        MyST Markdown.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((study.run / "provenance").glob("*"))]
    latest = max(records, key=lambda record: str(record["finished"]), default={"git_commit": "unknown"})
    shown = (
        f"**{study.settings.title}**, run {study.run_name}, commit {latest['git_commit']} ([how it was made](run.md))."
    )
    return f"{notice(missing)}\n{shown}\n"


def _copy_if_changed(origin: Path, target: Path) -> None:
    if target.is_file() and target.read_bytes() == origin.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, target)  # its times, but not who may read it
    os.utime(target, ns=(origin.stat().st_atime_ns, origin.stat().st_mtime_ns))


def _write_if_changed(path: Path, content: str | bytes) -> None:
    new = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == new:
        return
    with atomic(path) as partial:
        partial.write_bytes(new)


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
    settings = editions.without_folders(study.settings.model_dump(mode="json"))
    facts = {
        "Study": study.settings.title,
        "Run": study.run_name,
        "Commit of the project": ", ".join(commits) or "unknown",
        "Seed": str(study.settings.seed),
        f"Changed in {SETTINGS_FILE} for this run": _changes(study),
        "SHA-256 of the manifest": checksum(study.folder / MANIFEST_FILE),
        "Notebook parameters given": json.dumps(editions.without_folders(given)) if given else "none",
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
            "## Settings",
            f"All settings of the run, defaults among them (`{SETTINGS_FILE}` says what differs from the defaults).",
            _fenced(yaml.safe_dump(settings, sort_keys=False)),
        ]
    )


def _changes(study: Study) -> str:
    path = study.run_settings_path
    return json.dumps(editions.without_folders(read_settings(path))) if path.is_file() else "nothing"


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
        One row a column: `column`, `type`, `unit`, `required`, `expected`, `meaning`.
    """
    rows = []
    for name, spec in schema.columns.items():
        rows.append(
            {
                "column": name,
                "type": str(spec.dtype),
                "unit": (spec.metadata or {}).get("unit", ""),
                "required": "yes" if spec.required else "no",
                "expected": "; ".join(str(check.error) for check in spec.checks if check.error),
                "meaning": spec.description or "",
            }
        )
    return pd.DataFrame(rows)


def _settings_dictionary() -> pd.DataFrame:
    rows: list[dict[str, str]] = []

    def add(model: type, prefix: str) -> None:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            default = field.default
            if hasattr(default, "model_fields"):
                add(type(default), f"{prefix}{name}.")
            else:
                rows.append({"setting": prefix + name, "default": str(default), "meaning": field.description or ""})

    add(Settings, "")
    return pd.DataFrame(rows)
