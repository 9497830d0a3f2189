"""Runs of one study with other settings: one to try something, or a table of them; and what runs can share."""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sscct_lib.study import seals
from sscct_lib.study.files import atomic, write_if_changed
from sscct_lib.study.folder import (
    MOST_SHOWN,
    SETTINGS_FILE,
    RunNameHolder,
    Study,
    StudyError,
    fingerprint,
    lay_over,
    load_study,
    parse_yaml,
    read_settings,
    settings_of,
)
from sscct_lib.study.keys import fits, given_predictions, ingredients, out_of_date, same_settings
from sscct_lib.study.recovery import load_own
from sscct_lib.study.settings import Section, Settings
from sscct_lib.study.stages import BESIDE_TABLES, NOTEBOOKS, PER_SCAN_STAGES, TABLES, executed
from sscct_lib.study.tables import read_csv

RUN_COLUMN = "run"
HEAD = "# What this run changes in study.yaml.\n"

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
WHOLE = ("covariates",)  # a setting whose value has names of its own
# Sections that no run can change: all share the scans, and what one shows of few patients could be subtracted from what
# another does.
OF_ALL_RUNS = ("demo", "disclosure")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """A row of a sweep's table, the study with its settings, and what it changes: by dotted name, and in sections."""

    row: int  # in the table; the header is row 1
    study: Study
    changes: dict[str, Any]  # by dotted name of the setting
    written: dict[str, Any]  # in sections, as `settings.yaml` holds them


def open_run(folder: str | Path, run_name: str = "main", **parameters: Any) -> Study:
    """Open a study in a notebook, in the run in which the notebook's parameters hold.

    Parameters
    ----------
    **parameters
        As `section={"name": value}`, or `name=value` at the top level; None means as in the run.

    Returns
    -------
    Study
        The run of that name; or, where a parameter differs from its settings, one beside it (see `beside`), which is
        said under the cell. So nothing that is tried is ever written into the results of another run.

    Raises
    ------
    StudyError
        As `load_study`, and if a parameter has an impossible value.
    """
    study = load_own(folder, run_name)
    target = beside(study, _given(parameters))
    if target.run_name != study.run_name:
        told = "; ".join(f"{name}: {value}" for name, value in changes_of(target).items())
        log.warning("This is run %s (%s). Run %s stays as it is.", target.run_name, told, run_name)
    return target


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is None: as in the run."""
    kept = {name: _given(value) if isinstance(value, dict) else value for name, value in parameters.items()}
    return {name: value for name, value in kept.items() if value is not None}


def beside(study: Study, changes: dict[str, Any]) -> Study:
    """Give the run in which settings are changed, with all results of the study's run that rest on the same.

    Parameters
    ----------
    changes
        In sections, as `settings.yaml` holds them.

    Returns
    -------
    Study
        The run itself where it has these settings already. One that is not there yet is made so. Otherwise the run
        `<name>~<hash of the changes>`, of which there is one for the same changes.

    Raises
    ------
    StudyError
        If a value is impossible.
    """
    target = changed(study, changes)
    if target.settings != study.settings:
        write_run_settings(target, _written(study, changes))
        share_results([study, load_study(study.folder)], target)
    return target


def changed(study: Study, changes: dict[str, Any]) -> Study:
    """Give the run that `beside` would make, and make nothing."""
    written = _written(study, changes)
    content = lay_over(read_settings(study.folder / SETTINGS_FILE), written)
    settings, faults = _judged(study.run_name, content, list(_dotted(changes)))
    if settings is None:
        raise StudyError("\n".join(fault.removeprefix("column ") for fault in faults))
    if settings == study.settings:
        return study
    is_new = study.run_name != "main" and not study.run.exists()
    name = study.run_name if is_new else f"{study.run_name.partition('~')[0]}~{fingerprint(written)[:8]}"
    return Study(study.folder, settings, name)


def _written(study: Study, changes: dict[str, Any]) -> dict[str, Any]:
    """Lay changes over what a run changes already."""
    path = study.run_settings_path
    written = lay_over(read_settings(path) if path.is_file() else {}, changes)
    return _with_seed_of_patients(written, settings_of(study.folder))


def _with_seed_of_patients(written: dict[str, Any], base: Settings) -> dict[str, Any]:
    """Let the synthetic patients stay the same where the seed of all else changes."""
    keeps = "seed" in written and base.demo is not None and base.demo.seed is None
    return written | ({"demo": {"seed": base.seed}} if keeps else {})


def changes_of(study: Study) -> dict[str, Any]:
    """Tell what a run changes in `study.yaml`, by dotted name."""
    path = study.run_settings_path
    return _dotted(read_settings(path)) if path.is_file() else {}


def _dotted(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        inner = isinstance(value, dict) and f"{prefix}{name}" not in WHOLE
        found |= _dotted(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def run_names(study: Study) -> list[str]:
    """Name the runs of a study, `main` first."""
    names = sorted(path.name for path in (study.folder / "runs").glob("[!.]*") if path.is_dir())
    return sorted(names, key=lambda name: name != "main")


def remove_run(study: Study) -> None:
    """Remove a run with all its results.

    Raises
    ------
    StudyError
        If there is no such run, or it is `main`, from which the others take what they share.
    """
    if study.run_name == "main" or study.run_name not in run_names(study):
        removable = ", ".join(name for name in run_names(study) if name != "main") or "there is none"
        raise StudyError(f"Run {study.run_name} cannot be removed; expected one beside main: {removable}.")
    if study.run.is_symlink():
        study.run.unlink()  # the link, and not what it leads to
    else:
        shutil.rmtree(study.run)


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Turn `SETTING=VALUE`, such as `horizons.n_bootstrap=200`, to settings in sections; values are read as YAML.

    Raises
    ------
    StudyError
        With each that is no setting of `study.yaml`, or whose value is not plain YAML.
    """
    cells = dict(text.partition("=")[::2] for text in texts)
    faults = [f"{text}: expected SETTING=VALUE" for text in texts if "=" not in text]
    faults += [_fault_of_setting(name) for name in cells if name not in set(setting_names())]
    values, unread = _values(cells)
    if faults or unread:
        raise StudyError("\n".join(f"--parameter {fault.removeprefix('column ')}" for fault in faults + unread))
    return _nested(values)


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
        written = _with_seed_of_patients(_nested(changes), base)
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
    """List the dotted names of all settings, as `deep.swin.size`, but those that are the same in all runs."""
    for name, field in section.model_fields.items():
        if prefix + name in OF_ALL_RUNS:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from setting_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def write_run_settings(study: Study, written: dict[str, Any]) -> None:
    """Write what a run changes to its `settings.yaml`, where `load_study` finds it; a file that is current is kept."""
    path = study.run_settings_path
    if written or path.is_file():
        write_if_changed(path, HEAD + yaml.safe_dump(written, sort_keys=False))


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
    for origin in origins:
        alike = {
            folder
            for folders, sections in SHARED
            if all(getattr(origin.settings, name) == getattr(target.settings, name) for name in sections)
            for folder in folders
        }
        files = [
            path
            for folder in alike
            for path in (origin.run / folder).rglob("[!.]*")
            if path.name.startswith(networks if folder.startswith("models/") else ("",))
        ]
        n_shared += _link_files(origin, target, files)  # all at once, since the seals of a run are read each time
    for origin in origins:
        for path in given_predictions(origin):  # of people, who seal nothing
            if not (place := target.run / path.relative_to(origin.run)).exists():
                _link(path, place)
                n_shared += 1
        n_shared += _link_files(origin, target, _of_stages(origin, target))
    return n_shared


def _of_stages(origin: Study, target: Study) -> Iterator[Path]:
    """List what shards and notebooks of a run made of the same as they would in the other.

    What the other has of such a notebook is removed where it is of an earlier state.
    """
    for stage in PER_SCAN_STAGES:
        if same_settings(origin, target, stage):
            for folder in ("shards", "provenance"):
                yield from (origin.run / folder).glob(f"{stage}_[0-9]*")
    for name in NOTEBOOKS:
        if out_of_date(origin, name) or ingredients(origin, name) != ingredients(target, name):
            continue
        written = [executed(origin, name), *(origin.table(table) for table in TABLES[name])]
        for pattern in (f"provenance/{name}.json", *BESIDE_TABLES.get(name, ())):
            written += origin.run.glob(pattern)
        if out_of_date(target, name) or not all(fits(target, table) for table in TABLES[name]):
            for path in written:
                (target.run / path.relative_to(origin.run)).unlink(missing_ok=True)
        yield from written


def _link_files(origin: Study, target: Study, files: Iterable[Path]) -> int:
    """Link the files of a run, as its user made them, to their places in another; those that it has stay."""
    names = {path.relative_to(origin.run).as_posix() for path in files if path.is_file()}
    held = seals.believed(origin.run, sorted(name for name in names if not (target.run / name).exists()))
    for name in held:
        _link(origin.run / name, target.run / name)
    for run in (origin.run, target.run):  # a link changes the times that are sealed
        seals.seal(run, held)
    return len(held)


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place)
    except OSError:
        with atomic(place) as partial:
            shutil.copy2(path, partial)  # with its times, which are part of the keys


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
    faults = []
    if RUN_COLUMN not in columns:
        faults.append(f"row 1: no column {RUN_COLUMN}; found {', '.join(columns)[:MOST_SHOWN]}, separated by commas")
    known = {RUN_COLUMN, *setting_names()}
    return faults + [f"row 1, column {_fault_of_setting(column)}" for column in columns if column not in known]


def _fault_of_setting(name: str) -> str:
    """Say of a name that it is no setting, and which may be meant."""
    if name.split(".")[0] in OF_ALL_RUNS:
        return f"{name}: it holds for all runs of the study, so it cannot be changed in one of them"
    near = get_close_matches(name, setting_names(), n=1)
    meant = f"; is {near[0]} meant?" if near else "; the data dictionary of the book lists all"
    return f"{name[:MOST_SHOWN]!r}: no setting of {SETTINGS_FILE} has this name{meant}"


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
