"""What a result was made of, and whether that is what is asked for now.

A notebook's result rests on code, on some of the settings, on what people wrote (the manifest, decisions on masks,
risks of their own) and on the results of earlier notebooks. These are its ingredients, each as a hash. Tables carry the
ingredients of their notebook; executed notebooks and lists of shards have theirs in `runs/<run>/provenance/`. Nothing
else vouches for a result: what the workflow remembers is a cache.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from sscct_lib.study.code import KEYS, code_hash
from sscct_lib.study.folder import DECISIONS_FILE, Study, StudyError, fingerprint
from sscct_lib.study.results import file_state, shard
from sscct_lib.study.seals import checksum
from sscct_lib.study.stages import (
    NEEDS,
    NOTEBOOKS,
    PER_SCAN_STAGES,
    PROJECT,
    SHARDS_OF,
    TABLES,
    executed,
    maker,
    notebooks_until,
    per_scan_stages,
    shard_path,
)

Ingredients = dict[str, Any]

SETTINGS_OF = {
    "phantom": ("demo",),
    "images": ("images",),
    "lungs": ("lungs",),
    "radiomics": ("radiomics",),
    "01_cohort": ("seed", "horizons_years", "labels", "demo", "covariates", "images", "cohort"),
    "02_segmentation_qa": ("lungs",),
    "03_radiomics": ("radiomics", "tabular", "seed"),
    "04_deep_models": ("deep", "seed"),
    "05_horizons": ("horizons", "seed"),
}
"""Sections of the settings that each stage reads; those of stages on which it rests come with these."""
COLUMNS_OF: dict[str, tuple[str, ...]] = {"phantom": ("image",), "images": ("image", "sha256"), "lungs": ("lung_mask",)}
FILES_OF = {"images": "image", "lungs": "lung_mask"}


def ingredients(study: Study, notebook: str) -> Ingredients:
    """Tell of what a notebook's tables would be made now: its code and, by name, settings, data, earlier notebooks."""
    return {
        "keys": KEYS,
        "code": code_hash(PROJECT / "notebooks" / f"{notebook}.py"),
        "settings": _settings(study, notebook),
        "data": {name: checksum(path) if path.is_file() else "" for name, path in _data(study, notebook).items()},
        "rests_on": {other: fingerprint(ingredients(study, other)) for other in NEEDS[notebook]},
    }


def _settings(study: Study, stage: str) -> dict[str, str]:
    settings = {name: fingerprint(getattr(study.settings, name)) for name in SETTINGS_OF[stage]}
    if "demo" in settings and study.settings.demo is not None:
        # The seed of the synthetic patients may be that of the study.
        settings["demo"] = fingerprint(study.settings.demo.model_dump(exclude={"seed"}), study.demo_seed)
    return settings


def same_settings(one: Study, other: Study, stage: str) -> bool:
    """Tell whether a per-scan stage, and those before it, have the same settings in two runs."""
    stages = [*PER_SCAN_STAGES]
    return all(_settings(one, name) == _settings(other, name) for name in stages[: stages.index(stage) + 1])


def _data(study: Study, notebook: str) -> dict[str, Path]:
    """Files that people wrote, by the names that messages give them."""
    if notebook == "01_cohort":
        return {study.manifest_path.name: study.manifest_path}
    if notebook == "02_segmentation_qa":
        return {DECISIONS_FILE: study.folder / DECISIONS_FILE}
    if notebook == "05_horizons":
        return {f"predictions/{path.name}": path for path in given_predictions(study)}
    return {}


def given_predictions(study: Study) -> list[Path]:
    """Tables of risks that none of the notebooks writes: whoever puts one here has it judged with the rest."""
    paths = sorted(study.table("predictions/x").parent.glob("[!.]*.parquet"))
    return [path for path in paths if maker(f"predictions/{path.stem}") is None]


def difference(now: Ingredients, made: Mapping[str, Any] | None) -> str:
    """Say when a result was made, `made before a change of ...`; empty where nothing has changed since.

    Parameters
    ----------
    made
        Its ingredients as it carries them; None where it carries none.
    """
    if made == now:
        return ""
    if made is None or made.keys() != now.keys() or made["keys"] != now["keys"]:
        return "made by an earlier version of this project"
    words = {"settings": "{} in study.yaml", "data": "{}", "rests_on": "{}, on which it rests"}
    changed = [
        text.format(", ".join(names))
        for part, text in words.items()
        if (names := sorted(n for n in {*now[part], *made[part]} if now[part].get(n) != made[part].get(n)))
    ]
    changed += ["the code"] if now["code"] != made["code"] else []
    return f"made before a change of {', of '.join(changed)}"


def provenance(study: Study, stage: str) -> dict[str, Any]:
    """Read what is recorded of a stage of a run (a notebook, or a shard such as `lungs_0003`).

    Empty where there is no record: a damaged one vouches for nothing.
    """
    path = study.run / "provenance" / f"{stage}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def out_of_date(study: Study, notebook: str) -> str:
    """Say why an executed notebook of a run is not the one asked for now; empty where it is."""
    record = provenance(study, notebook)
    why = difference(ingredients(study, notebook), record.get("ingredients"))
    if not why and record.get("disclosure") != _disclosure(study):
        why = "made before a change of disclosure in study.yaml"  # which changes what it shows, and no table
    # Whoever runs a notebook by hand, perhaps with other code in a cell, leaves tables that its chapter does not show.
    return why or (
        "" if record.get("written") == written(study, notebook) else "made before its tables were written anew"
    )


def written(study: Study, notebook: str) -> str:
    """Hash the tables of a notebook as they are."""
    return _hash_tables(study, TABLES[notebook])


def _hash_tables(study: Study, names: Iterable[str]) -> str:
    paths = [study.table(name) for name in names]
    return fingerprint([checksum(path) if path.is_file() else "" for path in paths])


def refuse_out_of_date(study: Study) -> None:
    """Refuse a run of which an executed notebook is not the one that is asked for now.

    Raises
    ------
    StudyError
        With each such notebook, what has changed, and what to do.
    """
    reasons = {name: out_of_date(study, name) for name in NOTEBOOKS if executed(study, name).is_file()}
    if any(reasons.values()):
        listed = "\n".join(f"  {name} was {why}" for name, why in reasons.items() if why)
        raise StudyError(
            f"runs/{study.run_name} is not what is asked for now:\n{listed}\n"
            "Call `sscct run`, which makes again what is needed; or put back what was changed."
        )


def scans_ingredients(study: Study, rows: pd.DataFrame) -> dict[str, Ingredients]:
    """Tell of what the results of some scans would be made now, by per-scan stage, in their order."""
    found: dict[str, Ingredients] = {}
    rests_on: dict[str, str] = {}
    for stage in per_scan_stages(study):
        columns = ["scan_id", "patient_id", *COLUMNS_OF.get(stage, ())]
        data = {"rows": fingerprint([rows[name].astype(str).tolist() for name in columns])}
        if stage in FILES_OF and study.settings.demo is None:  # the demo's own scans follow from its settings
            names = rows[FILES_OF[stage]].dropna().tolist()
            data["files"] = fingerprint([[name, file_state(study.folder / name)] for name in names])
        if stage == "lungs" and (mended := [path for path in map(study.mended, rows["scan_id"]) if path.is_file()]):
            data["mended"] = fingerprint([[path.name, file_state(path)] for path in mended])
        code = code_hash(PER_SCAN_STAGES[stage][0])
        settings = _settings(study, stage)
        found[stage] = {"keys": KEYS, "code": code, "settings": settings, "data": data, "rests_on": rests_on}
        rests_on = {stage: fingerprint(found[stage])}
    return found


def of_shards(study: Study, manifest: pd.DataFrame) -> list[dict[str, Ingredients]]:
    """Tell of what each shard would be made now, by per-scan stage."""
    size = study.settings.shard_size
    return [scans_ingredients(study, shard(manifest, n, size)) for n in range(-(-len(manifest) // size))]


def stages_to_make(study: Study, manifest: pd.DataFrame, index: int, last: str | None = None) -> list[str]:
    """Name the per-scan stages of a shard that are to be made, in a run that goes until a notebook, in their order."""
    rows = shard(manifest, index, study.settings.shard_size)
    return _not_so(study, index, scans_ingredients(study, rows), last)


def _not_so(study: Study, index: int, now: dict[str, Ingredients], last: str | None) -> list[str]:
    """Name the first stage of a shard that was not made of what it would be made of now, and all after it."""

    def is_so(stage: str) -> bool:
        path = shard_path(study, stage, index)
        return path.is_file() and provenance(study, path.stem).get("ingredients") == now[stage]

    return list(dropwhile(is_so, per_scan_stages(study, last)))


def notebook_record(study: Study, notebook: str, shards: list[dict[str, Ingredients]]) -> dict[str, Any]:
    """Tell what an executed notebook is recorded with: its ingredients, the tables it read, its words, its shards."""
    source = PROJECT / "notebooks" / f"{notebook}.py"
    return {
        "ingredients": ingredients(study, notebook),
        "read": _hash_tables(study, (table for other in NEEDS[notebook] for table in TABLES[other])),
        "words": fingerprint(source.read_text(encoding="utf-8"), study.settings.title),
        "disclosure": _disclosure(study),
        "shards": fingerprint([made[SHARDS_OF[notebook]] for made in shards] if notebook in SHARDS_OF else []),
    }


def _disclosure(study: Study) -> str:
    return fingerprint(study.settings.disclosure)


@dataclass(frozen=True)
class ToMake:
    """What of a run is to be made: per-scan stages by number of the shard, and notebooks, both in their order."""

    shards: dict[int, list[str]]
    notebooks: list[str]

    def __bool__(self) -> bool:
        return bool(self.shards or self.notebooks)


def to_make(study: Study, manifest: pd.DataFrame, last: str | None = None) -> ToMake:
    """Tell which results of a run are not there, or not what is asked for now, and what rests on them.

    Parameters
    ----------
    last
        Notebook after which the run stops; None: it goes on to the end.
    """
    shards = of_shards(study, manifest)
    of_scans = {index: stages for index, now in enumerate(shards) if (stages := _not_so(study, index, now, last))}
    found = {stage for stages in of_scans.values() for stage in stages}
    for name in notebooks_until(last):
        if found & {SHARDS_OF.get(name), *NEEDS[name]} or not _is_whole(study, name, shards):
            found.add(name)
    return ToMake(of_scans, [name for name in NOTEBOOKS if name in found])


def _is_whole(study: Study, notebook: str, shards: list[dict[str, Ingredients]]) -> bool:
    """Tell whether a notebook was executed, its tables are there, and all of it is what is asked for now."""
    record = provenance(study, notebook)
    made_so = all(record.get(part) == value for part, value in notebook_record(study, notebook, shards).items())
    there = executed(study, notebook).is_file() and all(fits(study, table) for table in TABLES[notebook])
    return made_so and there and record.get("written") == written(study, notebook)


def fits(study: Study, table: str) -> bool:
    """Tell whether a table is there, and made of what is asked for now; of one that no notebook makes, the former."""
    path, notebook = study.table(table), maker(table)
    if notebook is None or not path.is_file():
        return path.is_file()
    try:
        attributes = json.loads((pq.read_schema(path).metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
    except (OSError, ValueError):  # damaged
        return False
    return bool(attributes.get("ingredients") == ingredients(study, notebook))
