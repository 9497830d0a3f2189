"""A run that is finished as far as its files and records tell."""

import pandas as pd

from sscct_lib.book.chapters import write_provenance
from sscct_lib.study import keys
from sscct_lib.study.folder import Study
from sscct_lib.study.seals import seal_all
from sscct_lib.study.stages import NOTEBOOKS, TABLES, executed, maker, shard_path


def finish_on_paper(study: Study, manifest: pd.DataFrame) -> None:
    """Write every list of a shard, table and notebook of a run, of no matter what, with their records and seals."""
    shards = keys.of_shards(study, manifest)
    for index, by_stage in enumerate(shards):
        for stage, made_of in by_stage.items():
            path = shard_path(study, stage, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("scan_id,status,reason\n")
            write_provenance(study, path.stem, {"ingredients": made_of})
    for name in NOTEBOOKS:
        made_of = keys.notebook_record(study, name, shards)
        for table in TABLES[name]:
            _touch(study, table)
        executed(study, name).parent.mkdir(exist_ok=True)
        executed(study, name).write_text('{"cells": []}')
        write_provenance(study, name, made_of | {"written": keys.written(study, name)})
    seal_all(study.run, "")


def _touch(study: Study, table: str) -> None:
    """Write a table of no matter what, made of what is asked for now."""
    frame = pd.DataFrame({"a": [1]})
    frame.attrs = {"ingredients": keys.ingredients(study, maker(table))}
    study.table(table).parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(study.table(table))


def named(to_make: keys.ToMake) -> set[str]:
    """Name what is to be made: notebooks, and shards of stages as `lungs_0003`."""
    return {f"{stage}_{n:04d}" for n, stages in to_make.shards.items() for stage in stages} | set(to_make.notebooks)
