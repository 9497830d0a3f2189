"""A study: its typed settings, and where a run keeps things.

A study is a folder with `study.yaml`, `data_manifest.csv` and `runs/<name>/`. What a run of a sweep changes in
`study.yaml` lies in its `runs/<name>/settings.yaml`.
"""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sscct_lib.study.disclosure import protect
from sscct_lib.study.files import strange_file
from sscct_lib.study.seals import RUN_SETTINGS_FILE as RUN_SETTINGS_FILE
from sscct_lib.study.seals import SETTINGS_FILE as SETTINGS_FILE
from sscct_lib.study.settings import RunName, Section, Settings

DEEPEST = 100  # brackets within brackets in settings
MANIFEST_FILE = "data_manifest.csv"
DECISIONS_FILE = "qa_decisions.csv"
OUR_FOLDERS = ("scans", "masks", "truth", "ingest", "weights")  # of a study, which commands write to
MOST_SHOWN = 200  # characters of a wrong value


class StudyError(ValueError):
    """Something is wrong with the study as a whole; the message says what, where and how to mend it."""


@dataclass(frozen=True)
class Study:
    """A study folder, its settings with the changes of this run, and the run, whose files lie in `runs/<run_name>/`."""

    folder: Path
    settings: Settings
    run_name: str = "main"

    @property
    def demo_seed(self) -> int:
        """Seed of the synthetic patients and scans."""
        demo = self.settings.demo
        return self.settings.seed if demo is None or demo.seed is None else demo.seed

    @property
    def run_settings_path(self) -> Path:
        """What this run changes in `study.yaml`; there is none but for the runs of a sweep."""
        return self.run / RUN_SETTINGS_FILE

    @property
    def manifest_path(self) -> Path:
        """The manifest, one row per scan."""
        return self.folder / MANIFEST_FILE

    @property
    def run(self) -> Path:
        """The folder of this run."""
        return self.folder / "runs" / self.run_name

    def table(self, name: str) -> Path:
        """Path of a table of this run, for example `cohort` or `predictions/03_radiomics`."""
        return self.run / "tables" / f"{name}.parquet"

    def image(self, scan_id: str) -> Path:
        """The scan in the study's orientation and spacing, int16 HU."""
        return self.run / "images" / f"{scan_id}.nii.gz"

    def mask(self, scan_id: str) -> Path:
        """The scan's lung mask on the grid of `image`: 0 outside, 1 right lung, 2 left lung."""
        return self.run / "masks" / f"{scan_id}.nii.gz"

    def mended(self, scan_id: str) -> Path:
        """A mask that a person mended, which all runs use in place of their own; labels as in `mask`."""
        return self.folder / "masks" / "mended" / f"{scan_id}.nii.gz"

    def lobes(self, scan_id: str) -> Path:
        """The scan's lobes on the same grid, where the method gives them: 1 to 5 as in `lungs.trained.LOBES`."""
        return self.run / "lobes" / f"{scan_id}.nii.gz"

    def attribution(self, network: str, scan_id: str, trained: bool = True) -> Path:
        """What raises and lowers a scan's risk: an array file, float32, on the grid of the network's cube."""
        return self.run / "attribution" / ("trained" if trained else "untrained") / network / f"{scan_id}.npy"

    @property
    def models(self) -> Path:
        """Folder of the trained models of this run."""
        return self.run / "models"


def load_study(folder: str | Path, run_name: str = "main") -> Study:
    """Read a study's settings, with what its run changes in them.

    Parameters
    ----------
    run_name
        Letters, digits, `_` and `-`.

    Raises
    ------
    StudyError
        If `study.yaml` is missing, is not YAML, or has an unknown or impossible value; each is named. If the path of
        the folder has a line break. If something in the study leads out of it, is no plain file, or is far too large
        (see `files.strange_file`).
    """
    refuse_control_characters(Path(folder))
    try:
        RunNameHolder(name=run_name)
    except ValidationError as error:
        raise StudyError(f"{Path(folder) / SETTINGS_FILE}, --run:\n{_violations(error)}") from error
    if strange := strange_file(Path(folder), ("", "runs"), (*OUR_FOLDERS, f"runs/{run_name}")):
        raise StudyError(strange)
    settings = settings_of(Path(folder), run_name)
    protect(settings.disclosure.minimum)
    return Study(Path(folder), settings, run_name)


def settings_of(folder: Path, run_name: str = "main") -> Settings:
    """Read the settings of a run; StudyError as `load_study`, which looks at the study's files first."""
    path, own = folder / SETTINGS_FILE, folder / "runs" / run_name / RUN_SETTINGS_FILE
    if not path.is_file():
        raise StudyError(f"{path} is missing. A study folder needs one; `sscct demo FOLDER` makes an example.")
    content, where = read_settings(path), str(path)
    if own.is_file():
        content = lay_over(content, changes := read_settings(own))
        if "disclosure" in changes:  # what one run shows could be subtracted from what another does
            raise StudyError(f"{own}: `disclosure` holds for all runs of a study; expected it in {path.name} alone.")
        where = f"{path}, with {own.relative_to(folder)}"
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{where}:\n{_violations(error)}") from error
    if settings.covariates:
        _refuse_taken(settings, where)
    return settings


def _refuse_taken(settings: Settings, where: str) -> None:
    from sscct_lib.study.schemas import MANIFEST  # takes longer to load than settings to read

    if taken := sorted(set(settings.covariates) & set(MANIFEST.columns)):
        raise StudyError(f"{where}: covariates: {', '.join(taken)} may be in every manifest; expected other names.")


def refuse_control_characters(folder: Path) -> None:
    """Refuse a folder whose path has a line break or the like: logs, lists of files and commands are lines."""
    path = str(folder.resolve())
    if any(unicodedata.category(letter) == "Cc" for letter in path):
        raise StudyError(f"{path!r} has a line break or another control character in its name. Rename the folder.")


def read_settings(path: Path) -> dict[str, Any]:
    """Read `study.yaml` or the settings of a run, without judging them.

    Raises
    ------
    StudyError
        If it is not YAML, or not `name: value` lines.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise StudyError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected `name: value` lines, found a {type(content).__name__}.")
    return content


class RunNameHolder(Section):
    """Validates the name of a run, which becomes the name of a folder."""

    name: RunName


def _violations(error: ValidationError) -> str:
    return "\n".join(
        f"  {'.'.join(str(part) for part in item['loc'])}: {item['msg']}; found {repr(item.get('input'))[:MOST_SHOWN]}"
        for item in error.errors()
    )


def lay_over(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Change some settings and leave the others; a dictionary among the changes changes some names of a section."""
    merged = dict(content)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = lay_over(inner if isinstance(inner, dict) else {}, value) if isinstance(value, dict) else value
    return merged


def parse_yaml(text: str) -> Any:
    """Read YAML to plain values: numbers, text, true and false, lists and dictionaries; None for an empty text.

    Raises
    ------
    ValueError
        If the text is no YAML, is nested too deep, or uses tags, anchors or aliases; the message says where.
    """
    depth = 0
    for bracket in re.findall(r"[][{}]", text):  # the parser's time grows with the square of the depth
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            raise ValueError("nested too deep")
    try:
        # Our loader is SafeLoader with less in it.
        return yaml.load(text, Loader=_PlainLoader)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except (yaml.YAMLError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


class _PlainLoader(yaml.SafeLoader):
    """Refuses tags and aliases: no type is made on request, and no text grows when it is read."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(None, None, "anchors and aliases are not read", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(None, None, "tags are not read", event.start_mark)
        return super().compose_node(parent, index)


# A date stays text.
_PlainLoader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def fingerprint(*parts: Any) -> str:
    """Hash plain values, pydantic models and paths (16 hexadecimal digits): a result whose hash differs is stale."""

    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
