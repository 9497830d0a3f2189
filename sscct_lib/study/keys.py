"""What a result was made of, and whether that is what is asked for now.

A notebook's result rests on code, on some of the settings, on what people wrote (the manifest, decisions on masks,
risks of their own) and on the results of earlier notebooks. These are its ingredients, each as a hash. Tables carry the
ingredients of their notebook; executed notebooks and lists of shards have theirs in `runs/<run>/provenance/`. Nothing
else vouches for a result: what the workflow remembers is a cache.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from sscct_lib.study.code import KEYS, code_hash
from sscct_lib.study.files import checksum
from sscct_lib.study.folder import DECISIONS_FILE, Study, StudyError, fingerprint
from sscct_lib.study.results import file_state, shard
from sscct_lib.study.stages import (
    NEEDS,
    NOTEBOOKS,
    PER_SCAN_STAGES,
    PROJECT,
    TABLES,
    executed,
    maker,
    shard_path,
    shard_stage,
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
SHARDS_OF = {"01_cohort": "images", "02_segmentation_qa": "lungs", "03_radiomics": "radiomics"}
BEFORE = {"images": "phantom", "lungs": "images", "radiomics": "lungs"}
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
    before = BEFORE.get(stage)
    return _settings(one, stage) == _settings(other, stage) and (before is None or same_settings(one, other, before))


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


def shard_ingredients(study: Study, stage: str, rows: pd.DataFrame) -> Ingredients:
    """Tell of what the results of some scans would be made now by a per-scan stage, and those before it."""
    before = BEFORE.get(stage)
    is_demo = study.settings.demo is not None
    rests_on = {} if before is None or (before == "phantom" and not is_demo) else {
        before: fingerprint(shard_ingredients(study, before, rows))
    }  # fmt: skip
    columns = ["scan_id", "patient_id", *COLUMNS_OF.get(stage, ())]
    data = {"rows": fingerprint(rows[columns].astype(str).to_dict("records"))}
    if stage in FILES_OF and not is_demo:  # the demo's own scans follow from its settings
        names = rows[FILES_OF[stage]].dropna()
        data["files"] = fingerprint([[name, file_state(study.folder / name)] for name in names])
    code = code_hash(PER_SCAN_STAGES[stage][0])
    return {"keys": KEYS, "code": code, "settings": _settings(study, stage), "data": data, "rests_on": rests_on}


def of_shards(study: Study, manifest: pd.DataFrame, stage: str) -> list[Ingredients]:
    """Tell of what each shard of a per-scan stage would be made now."""
    size = study.settings.shard_size
    return [shard_ingredients(study, stage, shard(manifest, n, size)) for n in range(-(-len(manifest) // size))]


def notebook_record(study: Study, notebook: str, manifest: pd.DataFrame) -> dict[str, Any]:
    """Tell what an executed notebook is recorded with: its ingredients, the tables it read, its words, its shards."""
    source = PROJECT / "notebooks" / f"{notebook}.py"
    stage = SHARDS_OF.get(notebook)
    return {
        "ingredients": ingredients(study, notebook),
        "read": _hash_tables(study, (table for other in NEEDS[notebook] for table in TABLES[other])),
        "words": fingerprint(source.read_text(encoding="utf-8"), study.settings.title),
        "shards": fingerprint(of_shards(study, manifest, stage) if stage else []),
    }


def to_make(study: Study, manifest: pd.DataFrame, last: str | None = None) -> list[Path]:
    """List the results of a run that are not there, or not what is asked for now, and what rests on them.

    Of each stage it is one file.

    Parameters
    ----------
    last
        Notebook after which the run stops; None: it goes on to the end.
    """
    notebooks = NOTEBOOKS if last is None else NOTEBOOKS[: NOTEBOOKS.index(last) + 1]
    stages = [stage for stage in PER_SCAN_STAGES if stage in {SHARDS_OF.get(name) for name in notebooks}]
    found: dict[str, Path] = {}
    for stage in [*(["phantom"] if study.settings.demo is not None else []), *stages]:
        for index, now in enumerate(of_shards(study, manifest, stage)):
            path = shard_path(study, stage, index)
            before = shard_path(study, BEFORE.get(stage, ""), index).stem
            is_so = path.is_file() and provenance(study, path.stem).get("ingredients") == now
            if before in found or not is_so:
                found[path.stem] = path
    for name in notebooks:
        of_stage = any(shard_stage(path) == SHARDS_OF.get(name) for path in found.values())
        if of_stage or any(other in found for other in NEEDS[name]) or not _is_whole(study, name, manifest):
            found[name] = executed(study, name)
    return list(found.values())


def _is_whole(study: Study, notebook: str, manifest: pd.DataFrame) -> bool:
    """Tell whether a notebook was executed, its tables are there, and all of it is what is asked for now."""
    record = provenance(study, notebook)
    made_so = all(record.get(part) == value for part, value in notebook_record(study, notebook, manifest).items())
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
