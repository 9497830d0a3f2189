"""What a study costs with its number of scans: planning, memory, and seconds and bytes of each stage.

python benchmarks/scale.py planning|memory|stages [--study FINISHED_STUDY]

Writes book/scale_<part>.csv. `planning` uses stub images (empty files: nothing but their names is read); `memory` uses
copies of one synthetic scan; `stages` reads what the workflow measured in a finished study.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from sscct_lib.stages import run_shard
from sscct_lib.study import load_study

BOOK = Path(__file__).parents[1] / "book"
STAGES = ("images", "lungs", "radiomics")


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
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            command = [sys.executable, "-m", "sscct_lib.cli", "run", str(study), "--dry-run"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            row = {"scans": n_scans, "jobs": 3 * -(-n_scans // 32) + 6, "CPU seconds": round(seconds, 1)}
            rows.append(row | {"elapsed s": round(time.monotonic() - start, 1), "peak MB": after.ru_maxrss // 1024})
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
                rows.append({"scans in a job": n_scans, "stage": stage, "peak MB": _peak_mb(folder, stage)})
                print(rows[-1], flush=True)
    return pd.DataFrame(rows).pivot(index="stage", columns="scans in a job", values="peak MB").reset_index()


def _peak_mb(folder: Path, stage: str) -> int:
    """Run a stage in a process of its own, and tell its peak."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        table = run_shard(load_study(folder), stage, 0)
        assert (table["status"] == "ok").all(), table["reason"].tolist()
        os.write(writing, json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return int(json.loads(os.read(reading, 100))) // 1024


def stages(folder: Path) -> pd.DataFrame:
    """Give the costs of the stages of a finished study, and of more scans on more cores."""
    study = load_study(folder)
    n_scans = len(pd.read_csv(study.manifest_path))
    rows = []
    for stage in STAGES:
        jobs = [pd.read_csv(path, sep="\t", na_values="-").iloc[-1] for path in study.run.glob(f"benchmarks/{stage}_*")]
        seconds = sum(job["s"] for job in jobs) / n_scans  # the start of a job is shared among its scans
        places = {"images": [study.run / "images"], "lungs": [study.run / "masks"], "radiomics": []}[stage]
        places.append(study.run / "records" / stage)
        n_bytes = sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())
        row = {"stage": stage, "s a scan": round(seconds, 2), "MB a scan": round(n_bytes / n_scans / 1e6, 2)}
        row["peak MB of a job"] = round(max(job["max_rss"] for job in jobs))
        for total, cores in ((2_125, 1), (2_125, 16), (2_125, 256), (100_000, 1), (100_000, 16), (100_000, 256)):
            n_jobs = -(-total // 32)
            hours = -(-n_jobs // cores) * 32 * seconds / 3600
            row[f"h, {total:,} scans, {cores} core{'s' * (cores > 1)}"] = round(hours, 2)
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["planning", "memory", "stages"])
    parser.add_argument("--study", type=Path, help="a finished study, for `stages`")
    given = parser.parse_args()
    table = {"planning": planning, "memory": memory, "stages": lambda: stages(given.study)}[given.part]()
    table.to_csv(BOOK / f"scale_{given.part}.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
