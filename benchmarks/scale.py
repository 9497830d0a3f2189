"""What a study costs with its number of scans: planning, memory, and seconds and bytes of each stage.

python benchmarks/scale.py planning|memory|stages|tables [--study FINISHED_STUDY]

Writes book/scale_<part>.csv. `planning` uses stub images (empty files: nothing but their names is read); `memory` uses
copies of one synthetic scan; `stages` reads what the workflow measured in a finished study; `tables` fills tables with
random numbers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow.parquet as pq

from sscct_lib.cli.app import run_shard
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.study.folder import load_study
from sscct_lib.study.keys import provenance
from sscct_lib.study.schemas import COHORT, PREDICTIONS, RADIOMICS
from sscct_lib.study.settings import Settings
from sscct_lib.study.tables import read_table, write_table

BOOK = Path(__file__).parents[1] / "book"
STAGES = ("images", "lungs", "radiomics")
SHARD = Settings().shard_size


def stub_study(folder: Path, n_scans: int) -> Path:
    """Make a study whose images are empty files."""
    (folder / "scans").mkdir(parents=True)
    (folder / "study.yaml").write_text("title: Stub\n")
    index = pd.Series(range(n_scans))
    ids = index.map("s{:06d}".format)
    manifest = pd.DataFrame({"scan_id": ids, "patient_id": (index // 4).map("p{:06d}".format)})
    manifest = manifest.assign(scan_day=index % 4 * 365, image="scans/" + ids + ".nii.gz", last_contact_day=2000)
    manifest.assign(event_observed=(index // 4 % 5 == 0).astype(int)).to_csv(folder / "data_manifest.csv", index=False)
    for name in manifest["image"]:
        (folder / name).touch()
    return folder


def planning() -> pd.DataFrame:
    """Plan the workflow, in a process of its own."""
    rows = []
    for n_scans in (100, 1_000, 10_000):
        with tempfile.TemporaryDirectory() as scratch:
            study = stub_study(Path(scratch) / "study", n_scans)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "sscct_lib.cli", "run", str(study), "--dry-run"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            row = {"scans": n_scans, "jobs": -(-n_scans // SHARD) + 6, "CPU seconds": round(seconds, 1)}
            rows.append(row | {"peak MB": after.ru_maxrss // 1024})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def memory() -> pd.DataFrame:
    """Measure the peak of each per-scan stage with more and more scans in one process."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        (made / "study.yaml").write_text("demo: {n_patients: 1, n_scans: 1, spacing_mm: 4.0}\n")
        subprocess.run([sys.executable, "-m", "sscct_lib.cli", "demo", str(made)], check=True, capture_output=True)
        scan = next((made / "scans").iterdir())
        for n_scans in (4, 16, 64):
            folder = Path(scratch) / str(n_scans)
            stub_study(folder, n_scans)
            spacing = "images: {spacing_mm: 4.0}\nradiomics: {spacing_mm: 4.0}\n"
            (folder / "study.yaml").write_text(f"shard_size: {n_scans}\n{spacing}")
            for path in (folder / "scans").iterdir():
                path.unlink()
                os.link(scan, path)
            for stage in STAGES:
                peak_mb = _measured(_run_stage, folder, stage)[1]
                rows.append({"scans in a job": n_scans, "stage": stage, "peak MB": peak_mb})
                print(rows[-1], flush=True)
    return pd.DataFrame(rows).pivot(index="stage", columns="scans in a job", values="peak MB").reset_index()


def _run_stage(folder: Path, stage: str) -> None:
    study = load_study(folder)
    table = run_shard(study, read_manifest(study), stage, 0)
    assert (table["status"] == "ok").all(), table["reason"].tolist()


def stages(folder: Path) -> pd.DataFrame:
    """Give the costs of the stages of a finished study, and of more scans on more cores."""
    study = load_study(folder)
    n_scans = len(pd.read_csv(study.manifest_path))
    rows = []
    for stage in STAGES:
        jobs = [provenance(study, path.stem) for path in study.run.glob(f"shards/{stage}_*.csv")]
        seconds = sum(job["seconds"] for job in jobs) / n_scans
        places = {"images": [study.run / "images"], "lungs": [study.run / "masks"], "radiomics": []}[stage]
        places.append(study.run / "records" / stage)
        n_bytes = sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())
        row = {"stage": stage, "s a scan": round(seconds, 2), "MB a scan": round(n_bytes / n_scans / 1e6, 2)}
        row["peak MB of a job"] = round(max(job["peak_mb"] for job in jobs))
        for total, cores in ((2_125, 1), (2_125, 16), (2_125, 256), (100_000, 1), (100_000, 16), (100_000, 256)):
            n_jobs = -(-total // SHARD)
            hours = -(-n_jobs // cores) * SHARD * seconds / 3600
            row[f"h, {total:,} scans, {cores} core{'s' * (cores > 1)}"] = round(hours, 2)
        rows.append(row)
    return pd.DataFrame(rows)


def tables() -> pd.DataFrame:
    """Write and read the largest tables, each in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "first.parquet"
        _make_and_write(_cohort, 10, first, COHORT)  # what is loaded at the first use belongs to none of them
        read_table(first, COHORT, "the benchmark")
        for n_scans in (2_125, 100_000):
            for name, (make, schema, column) in TABLES.items():
                path = Path(scratch) / f"{name}_{n_scans}.parquet"
                written = _measured(_make_and_write, make, n_scans, path, schema)
                read = _measured(read_table, path, schema, "the benchmark")
                one = _measured(partial(pd.read_parquet, columns=[column]), path)
                row = {"table": name, "scans": n_scans, "rows": pq.read_metadata(path).num_rows}
                row |= {"MB on disk": round(path.stat().st_size / 1e6, 1), "made and written, CPU s": written[0]}
                row |= {"read and checked, CPU s": read[0], "peak MB": read[1]}
                row |= {"one column, CPU s": one[0], "peak MB of one column": one[1]}
                rows.append(row)
                print(row, flush=True)
    return pd.DataFrame(rows)


def _make_and_write(make: Callable[[int], pd.DataFrame], n_scans: int, path: Path, schema: pa.DataFrameSchema) -> None:
    write_table(make(n_scans), path, schema)


def _ids(n_scans: int) -> pd.DataFrame:
    index = pd.Series(range(n_scans))
    return pd.DataFrame({"scan_id": index.map("s{:06d}".format), "patient_id": (index // 4).map("p{:06d}".format)})


def _cohort(n_scans: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = _ids(n_scans).assign(scan_day=0, followup_years=rng.exponential(5, n_scans), fold=rng.integers(5))
    labels = {f"label_{years}y": rng.integers(0, 2, n_scans) for years in (1, 3, 5)}
    return frame.assign(event_observed=rng.random(n_scans) < 0.2, age_years=rng.normal(55, 9, n_scans), **labels)


def _radiomics(n_scans: int) -> pd.DataFrame:
    numbers = np.random.default_rng(0).normal(size=(n_scans, 140))
    features = pd.DataFrame(numbers, columns=[f"original_glcm_F{i}" for i in range(numbers.shape[1])])
    return pd.concat([_ids(n_scans).assign(status="ok", reason="", settings_hash="0"), features], axis=1)


def _predictions(n_scans: int) -> pd.DataFrame:
    rng, ids = np.random.default_rng(0), _ids(n_scans).assign(repeat=0, fold=0)
    each = [(f"Model {i}", years) for i in range(20) for years in (1.0, 3.0, 5.0)]
    frames = [ids.assign(model=name, horizon_years=years, risk=rng.random(n_scans)) for name, years in each]
    return pd.concat(frames, ignore_index=True).reindex(columns=list(PREDICTIONS.columns))


TABLES = {
    "cohort": (_cohort, COHORT, "followup_years"),
    "radiomics, 140 features": (_radiomics, RADIOMICS, "original_glcm_F7"),
    "predictions, 20 models, 3 horizons": (_predictions, PREDICTIONS, "risk"),
}


def _measured(work: Callable[..., object], *arguments: object) -> tuple[float, int]:
    """Do work in a process of its own; gives its CPU seconds, which no other process lengthens, and its peak, MB."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        start = time.process_time()
        work(*arguments)
        told = [round(time.process_time() - start, 2), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    seconds, peak_mb = json.loads(os.read(reading, 100))
    return seconds, peak_mb


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["planning", "memory", "stages", "tables"])
    parser.add_argument("--study", type=Path, help="a finished study, for `stages`")
    given = parser.parse_args()
    parts = {"planning": planning, "memory": memory, "stages": lambda: stages(given.study), "tables": tables}
    table = parts[given.part]()
    table.to_csv(BOOK / f"scale_{given.part}.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
