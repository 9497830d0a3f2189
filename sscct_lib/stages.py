"""The per-scan stages that a shard job runs, and the order in which stages follow each other."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd

from sscct_lib.manifest import read_manifest
from sscct_lib.scans import shard
from sscct_lib.study import Study
from sscct_lib.tables import write_csv

# Each stage is named for its module; the function takes the study and rows of the manifest.
PER_SCAN_STAGES = {
    "phantom": "make_scans",
    "images": "prepare_scans",
    "lungs": "segment_scans",
    "radiomics": "extract_scans",
}


def run_shard(study: Study, stage: str, index: int) -> pd.DataFrame:
    """Make the per-scan results of one shard of the manifest.

    Parameters
    ----------
    study
        The study and run.
    stage
        One of `PER_SCAN_STAGES`.
    index
        Number of the shard, from 0; it holds `settings.shard_size` scans.

    Returns
    -------
    pandas.DataFrame
        One row a scan with its `status` and `reason`; also written to `runs/<run>/shards/`.
    """
    rows = shard(read_manifest(study), index, study.settings.shard_size)
    result = _stage_function(stage)(study, rows)
    write_csv(result[["scan_id", "status", "reason"]], shard_path(study, stage, index))
    return result


def shard_path(study: Study, stage: str, index: int) -> Path:
    """Where a shard lists its scans, with what became of each."""
    return study.run / "shards" / f"{stage}_{index:04d}.csv"


def _stage_function(stage: str) -> Callable[[Study, pd.DataFrame], pd.DataFrame]:
    # Imported by name, since each stage loads packages that the others do not need.
    room = import_module(f"sscct_lib.{stage}")
    function: Callable[[Study, pd.DataFrame], pd.DataFrame] = getattr(room, PER_SCAN_STAGES[stage])
    return function


def shard_stage(path: Path) -> str:
    """Tell the stage from the name of a shard's list, `<stage>_<index>.csv`."""
    return path.stem.rsplit("_", 1)[0]
