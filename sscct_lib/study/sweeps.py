"""Sweeps: a table of runs of one study, each with its own settings, and what these runs can share."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sscct_lib.study.files import atomic, write_if_changed
from sscct_lib.study.folder import (
    MOST_SHOWN,
    SETTINGS_FILE,
    RunNameHolder,
    Study,
    StudyError,
    lay_over,
    load_study,
    parse_yaml,
    read_settings,
)
from sscct_lib.study.settings import Section, Settings
from sscct_lib.study.tables import read_csv

RUN_COLUMN = "run"
HEAD = "# What this run changes in study.yaml; written by `sscct sweep`, from its table.\n"

# Folders of a run, and the settings on which the results in them rest. Every result carries a key made of all that it
# rests on, or its file's checksum, so that one that was shared in vain is made again.
SHARED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("images", "records/images"), ("images",)),
    (("masks", "lobes", "records/lungs", "tensors", "records/tensors"), ("images", "lungs")),
    (("records/radiomics", "records/stability"), ("images", "lungs", "radiomics")),
    (("models/deep", "models/pretrained"), ("images", "lungs", "cohort", "horizons_years", "labels", "seed", "deep")),
    # A network whose own settings are the same may be found among others.
    (("models/deep", "models/pretrained"), ("images", "lungs", "cohort", "horizons_years", "labels", "seed")),
)


@dataclass(frozen=True)
class PlannedRun:
    """A row of a sweep's table, the study with its settings, and what it changes: by dotted name, and in sections."""

    row: int  # in the table; the header is row 1
    study: Study
    changes: dict[str, Any]  # by dotted name of the setting
    written: dict[str, Any]  # in sections, as `settings.yaml` holds them


def read_sweep(table: Path, folder: Path) -> list[PlannedRun]:
    """Read the table of a sweep, and judge every row before any work is done.

    Parameters
    ----------
    table
        CSV: a column `run` with the names of the runs; every other column is named for a setting, for example
        `radiomics.bin_width`. A cell holds what `study.yaml` would, a list in brackets; an empty one leaves the setting
        as it is in `study.yaml`.

    Returns
    -------
    list of PlannedRun
        In the order of the table. In a demo study the synthetic patients keep their seed where `seed` is swept.

    Raises
    ------
    StudyError
        With a line for each fault of the table: row, column, what was found and what was expected.
    """
    base = load_study(folder).settings
    content = read_settings(folder / SETTINGS_FILE)
    cells = read_csv(table)
    cells.columns = cells.columns.str.strip()
    faults = _faults_of_header(list(cells.columns))
    if faults:
        raise StudyError(_listed(table, faults))
    planned: list[PlannedRun] = []
    names = list(cells[RUN_COLUMN].str.strip())
    for row, line in enumerate(cells.drop(columns=RUN_COLUMN).to_dict("records"), start=2):
        name = names[row - 2]
        changes, found = _values({str(column): str(cell) for column, cell in line.items()})
        written = _nested(changes)
        if base.demo is not None and "seed" in changes and base.demo.seed is None:
            written["demo"] = {"seed": base.seed}
        settings, wrong = _judged(name, lay_over(content, written), list(changes))
        if settings is not None:
            run = PlannedRun(row, Study(folder, settings, name), changes, written)
            planned.append(run)
            wrong += _fault_of_name(run, names)
        faults += [f"row {row}, {fault}" for fault in found + wrong]
    if faults or not planned:
        raise StudyError(_listed(table, faults or ["no row below the header: expected one for each run"]))
    return planned


def setting_names(section: type[Section] = Settings, prefix: str = "") -> Iterator[str]:
    """List the dotted names of all settings, as `deep.swin.size`, but those of `demo`: all runs share the scans."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from setting_names(field.annotation, f"{prefix}{name}.")
        elif prefix + name != "demo":
            yield prefix + name


def write_run_settings(planned: PlannedRun) -> None:
    """Write what a run changes to its `settings.yaml`, where `load_study` finds it; a file that is current is kept."""
    path = planned.study.run_settings_path
    if planned.written or path.is_file():
        write_if_changed(path, HEAD + yaml.safe_dump(planned.written, sort_keys=False))


def share_results(origins: Sequence[Study], target: Study) -> int:
    """Give a run the results of others that rest on the same settings, so that they are not made twice.

    Files are linked, not copied: they take no room, and since every file is written anew in its whole, a run that makes
    a result again leaves that of the others as it is. Where the disk knows no links, they are copied.

    Parameters
    ----------
    origins
        Other runs of the study, in the order in which they are asked.
    target
        The run; what it has already is kept.

    Returns
    -------
    int
        Number of files shared.
    """
    n_shared = 0
    networks = tuple(target.settings.deep.networks)
    for folders, sections in SHARED:
        for origin in origins:
            if all(getattr(origin.settings, name) == getattr(target.settings, name) for name in sections):
                for folder in folders:
                    starts = networks if folder.startswith("models/") else ("",)
                    n_shared += _link_files(origin.run / folder, target.run / folder, starts)
    return n_shared


def _link_files(origin: Path, target: Path, starts: tuple[str, ...]) -> int:
    """Link the files whose names start so."""
    n_linked = 0
    for path in sorted(path for path in origin.rglob("[!.]*") if path.name.startswith(starts)):
        place = target / path.relative_to(origin)
        if not path.is_file() or place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:
            with atomic(place) as partial:
                shutil.copy2(path, partial)  # with its times, which are part of the keys
        n_linked += 1
    return n_linked


def _fault_of_name(run: PlannedRun, names: list[str]) -> list[str]:
    """Say where a name is taken: by another row, or by a run that is of no sweep."""
    name, first = run.study.run_name, names.index(run.study.run_name) + 2
    if first < run.row:
        return [f"column {RUN_COLUMN}: {name} stands in row {first} already"]
    if run.changes and run.study.run.is_dir() and not run.study.run_settings_path.is_file():
        return [
            f"column {RUN_COLUMN}: run {name} is there already, with the settings of {SETTINGS_FILE}; choose another"
        ]
    return []


def _listed(table: Path, faults: list[str]) -> str:
    return f"{table.name} is not the table of a sweep; nothing was run.\n" + "\n".join(f"  {fault}" for fault in faults)


def _faults_of_header(columns: list[str]) -> list[str]:
    known = list(setting_names())
    faults = []
    if RUN_COLUMN not in columns:
        faults.append(f"row 1: no column {RUN_COLUMN}; found {', '.join(columns)[:MOST_SHOWN]}, separated by commas")
    for column in columns:
        if column == RUN_COLUMN or column in known:
            continue
        if column.split(".")[0] == "demo":
            faults.append(f"row 1, column {column}: all runs share the scans of the study, so this cannot be swept")
            continue
        near = get_close_matches(column, known, n=1)
        meant = f"; is {near[0]} meant?" if near else "; the data dictionary of the book lists all"
        faults.append(f"row 1, column {column[:MOST_SHOWN]!r}: no setting of {SETTINGS_FILE} has this name{meant}")
    return faults


def _values(cells: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    values, faults = {}, []
    for column, cell in cells.items():
        if not cell.strip():
            continue
        try:
            values[column] = parse_yaml(cell)
        except ValueError as error:
            faults.append(f"column {column}: {cell[:MOST_SHOWN]!r} is not plain YAML: {error}")
    return values, faults


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        nested = lay_over(nested, value)
    return nested


def _judged(name: str, content: dict[str, Any], columns: list[str]) -> tuple[Settings | None, list[str]]:
    """Validate the name of a run and its settings; faults are named by the column from which they come."""
    try:
        RunNameHolder(name=name)
    except ValidationError:
        expected = "expected up to 64 letters, digits, '_' or '-'"
        return None, [f"column {RUN_COLUMN}: {name[:MOST_SHOWN]!r}; {expected}, beginning with a letter or digit"]
    try:
        return Settings.model_validate(content), []
    except ValidationError as error:
        faults = []
        for item in error.errors():
            where = ".".join(map(str, item["loc"]))
            column = next((name for name in columns if f"{where}.".startswith(f"{name}.")), where)
            found = repr(item.get("input"))[:MOST_SHOWN]
            brackets = " (a list stands in brackets: [1, 3])" if item["type"] == "tuple_type" else ""
            faults.append(f"column {column}: {item['msg']}{brackets}; found {found}")
        return None, faults
