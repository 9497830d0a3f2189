"""What a study costs with its number of scans: planning, memory, and seconds and bytes of each stage.

python benchmarks/scale.py planning|memory|stages|tables|growth [--study FINISHED_STUDY]

Writes book/scale_<part>.csv. `planning` uses stub images (empty files: nothing but their names is read); `memory` uses
copies of one synthetic scan; `stages` reads what the workflow measured in a finished study; `tables` fills tables with
random numbers; `growth` runs the statistics of notebooks 01, 02, 03 and 05 on simulated tables of 1,000 to 8,000 scans
(about ten minutes of processor time), and calculates those of 100,000 scans, 12 models and 1,000 samples.
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
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow.parquet as pq
from tabular import simulated

from sscct_lib.cli.app import run_shard
from sscct_lib.cohort import tables as cohort_tables
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.cohort.selection import build_cohort, select_masks
from sscct_lib.horizons import (
    censoring,
    comparison,
    curves,
    decisions,
    evaluate,
    figures,
    patients,
    planned,
    sensitivity,
    subgroups,
    survival,
    trajectories,
)
from sscct_lib.horizons import tables as horizon_tables
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.models import stack
from sscct_lib.lungs import figures as lung_figures
from sscct_lib.lungs import tables as lung_tables
from sscct_lib.radiomics import clinical_scores, explain
from sscct_lib.radiomics.cross_validation import Model, cross_validate, train
from sscct_lib.radiomics.feature_sets import clinical_columns
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.keys import provenance
from sscct_lib.study.schemas import COHORT, LUNGS, PREDICTIONS, RADIOMICS
from sscct_lib.study.settings import LungSettings, Settings
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


SIZES = (1_000, 3_000, 8_000)
SAMPLES, MODELS = 100, ("Clinical", "Quantitative CT", "Radiomics")
LARGE, LARGE_SAMPLES, LARGE_MODELS = 100_000, 1_000, 12
FITS = 5 * 5 + 1  # of one model: folds, repeats, and the one that is saved
# How many times as much of a step there is in the large study, by its samples and models.
PER_SAMPLE, PER_MODEL = LARGE_SAMPLES / SAMPLES, LARGE_MODELS / len(MODELS)


def growth() -> pd.DataFrame:
    """Time the statistics of the notebooks, each size in a process of its own, and calculate a large study's."""
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "told.json"
        _steps(300, told)  # what is compiled and loaded at the first use belongs to no size
        runs = {}
        for n_scans in SIZES:
            peak_mb = _measured(_steps, n_scans, told)[1]
            runs[n_scans] = json.loads(told.read_text()) | {"all|peak MB|0": peak_mb}
            print(n_scans, runs[n_scans], flush=True)
    return _by_step(runs)


def _by_step(runs: dict[int, dict[str, float]]) -> pd.DataFrame:
    """Lay out seconds by size, with the exponent of their growth, and what is calculated of them."""
    rows = []
    for name in runs[SIZES[0]]:
        notebook, step, times = name.split("|")
        seconds = [float(runs[n_scans][name]) for n_scans in SIZES]
        digits = [f"{one:.0f}" if one >= 100 else f"{one:.2g}" for one in seconds]
        row = {"notebook": notebook, "step": step} | dict(zip(map("{:,}".format, SIZES), digits, strict=True))
        if step != "peak MB":
            exponent = np.polyfit(np.log(SIZES[-2:]), np.log(np.maximum(seconds[-2:], 1e-3)), 1)[0]
            large = seconds[-1] * (LARGE / SIZES[-1]) ** max(exponent, 1) * float(times)
            row |= {"exponent": f"{exponent:.2f}", "calculated, min": f"{large / 60:.1f}"}
        rows.append(row)
    return pd.DataFrame(rows)


def _predicted(cohort: pd.DataFrame, models: tuple[str, ...], horizons: tuple[float, ...]) -> pd.DataFrame:
    """Noisy risks of a simulated table."""
    rng, frames = np.random.default_rng(0), []
    for number, name in enumerate(models):
        signal = 0.3 * (cohort["qct_m0"] + rng.normal(0, 0.3 + 0.3 * number, len(cohort)))
        for years in horizons:
            risk = 1 / (1 + np.exp(3 - 0.4 * years - signal))
            identity = cohort[["scan_id", "patient_id", "fold"]]
            frames.append(identity.assign(model=name, horizon_years=years, repeat=0, risk=risk))
    return pd.concat(frames, ignore_index=True)


def _steps(n_scans: int, told: Path) -> None:
    """Run the steps of the notebooks and write their CPU seconds, by notebook, step and how often it comes."""
    one_set = {"feature_sets": ("Radiomics",), "compared": (), "n_repeats": 1}
    settings = Settings(horizons={"n_bootstrap": SAMPLES}, tabular=one_set)
    study = Study(told.parent, settings)
    table = simulated(study, n_scans)
    seconds: dict[str, float] = {}

    def step(notebook: str, name: str, work: Callable[[], Any], times: float = 1) -> Any:
        start = time.process_time()
        done = work()
        seconds[f"{notebook}|{name}|{times}"] = time.process_time() - start
        return done

    cohort = table[[name for name in table if not str(name).startswith(("qct_", "original_", "change_"))]]
    _cohort_steps(step, cohort, study)
    _radiomics_steps(step, table, study)
    _horizons_steps(step, table, cohort, settings)
    plt.close("all")
    told.write_text(json.dumps(seconds))


def _cohort_steps(step: Callable[..., Any], cohort: pd.DataFrame, study: Study) -> None:
    step("01", "cohort, folds and labels", lambda: build_cohort(cohort.drop(columns="fold"), study))
    step("01", "characteristics, counts", lambda: [
        cohort_tables.characteristics(cohort), cohort_tables.missing_by_outcome(cohort, 3.0),
        cohort_tables.label_counts(cohort, (1.0, 3.0, 5.0)), cohort_tables.fold_counts(cohort, (1.0, 3.0, 5.0)),
    ])  # fmt: skip
    curve = step("01", "follow-up, its band", lambda: survival.followup_curve(cohort))
    step("01", "figure of follow-up", lambda: figures.followup_curve(curve))
    step("01", "hazards of loss", lambda: censoring.hazards_of_loss(cohort))
    lungs = _lungs(cohort)
    step("02", "verdicts, rules, flow", lambda: [
        lung_tables.verdict_counts(lungs), lung_tables.rule_counts(lungs), select_masks(cohort, lungs)
    ])  # fmt: skip
    ranges = lung_tables.plausible_ranges(study.settings.lungs)
    step("02", "figure of measures", lambda: lung_figures.qa_distributions(lungs, ranges))


def _lungs(cohort: pd.DataFrame) -> pd.DataFrame:
    rng, lungs = np.random.default_rng(1), cohort[["scan_id", "patient_id"]].reindex(columns=list(LUNGS.columns))
    measures = {name: rng.normal(1, 0.1, len(lungs)) for name in lung_tables.plausible_ranges(LungSettings())}
    flags = np.where(rng.random(len(lungs)) < 0.02, "slice_gap", "")
    return lungs.assign(status="ok", reason="", verdict="pass", flags=flags, findings="", **measures)


def _radiomics_steps(step: Callable[..., Any], table: pd.DataFrame, study: Study) -> None:
    learned = table[table["fold"] != 0]
    for kind, words in {"logistic": "logistic", "forest": "survival forest", "boosting": "boosted trees"}.items():
        step(
            "03",
            f"one fit with tuning, {words}",
            lambda kind=kind: train(learned, Model("Radiomics", kind), study, None),
            FITS,
        )
    result = step(
        "03", "five fits with tuning, Cox", lambda: cross_validate(table, study), (LARGE_MODELS - 3) * FITS / 5
    )
    step("03", "clinical scores", lambda: clinical_scores.predict(table, study))
    step("03", "proportional hazards", lambda: explain.proportional_hazards(table, clinical_columns({})))
    step("03", "importance, one repeat", lambda: explain.held_out_importance(
        result, table, "Radiomics", 3.0, study), 5 * PER_SAMPLE)  # fmt: skip
    ranked = explain.leading_features(explain.feature_weights(result, "Radiomics"), n=40)
    step("03", "effects, one repeat", lambda: explain.accumulated_effects(result, table, "Radiomics", ranked, 3.0), 5)


def _horizons_steps(step: Callable[..., Any], table: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> None:
    predictions = _predicted(table, MODELS, settings.horizons_years)
    shown, of_all = MODELS[1], PER_MODEL * PER_SAMPLE
    step("05", "stacking", lambda: stack(predictions))
    evaluation = step("05", "checking predictions", lambda: Evaluation(cohort, predictions, settings), PER_MODEL)
    found = step("05", "all metrics", lambda: evaluate.evaluate(evaluation), of_all)
    step("05", "integrated Brier score", lambda: evaluate.integrated_brier(evaluation), of_all)
    step("05", "ROC curves", lambda: curves.roc_curves(evaluation, found), PER_SAMPLE)
    step("05", "planned comparison, differences", lambda: [
        planned.compare(evaluation), comparison.differences(evaluation, "Clinical")], of_all)  # fmt: skip
    step("05", "calibration curves", lambda: [
        curves.calibration(evaluation, shown), curves.smooth_calibration(evaluation, shown)], PER_SAMPLE)  # fmt: skip
    step("05", "thirds: curves, test, ratios", lambda: [
        curves.survival_by_tertile(evaluation, shown), subgroups.logrank_between_thirds(evaluation, shown),
        subgroups.hazard_ratios(evaluation, shown)], PER_SAMPLE)  # fmt: skip
    step("05", "causes of death", lambda: [
        survival.cumulative_incidence(cohort, settings), survival.cause_specific_hazards(evaluation, shown)
    ], PER_SAMPLE)  # fmt: skip
    step("05", "decision curves, thresholds", lambda: [
        decisions.decision_curves(evaluation, [shown, "Clinical"]), decisions.threshold_table(evaluation, shown)
    ], PER_SAMPLE)  # fmt: skip
    step("05", "views, subgroups", lambda: [
        subgroups.evaluate_parts(subgroups.views(cohort), evaluation, shown),
        subgroups.fairness(subgroups.groups(cohort), evaluation, shown)], PER_SAMPLE)  # fmt: skip
    over_time = step("05", "risk over time", lambda: trajectories.over_time(evaluation, shown, 3.0))
    step("05", "figure of risk over time", lambda: figures.risks_over_time(over_time, shown, 3.0))
    step("05", "noise and gain of change", lambda: [
        trajectories.noise(over_time, settings), trajectories.hazard_of_change(over_time),
        trajectories.gain_of_change(evaluation, shown, 3.0)], PER_SAMPLE)  # fmt: skip
    removed = predictions[:0]
    step("05", "rules of quality assurance, one rule", lambda: sensitivity.effects_of_rules(
        evaluation, removed, _lungs(cohort), shown, {"slice_gap"}), 10 * PER_SAMPLE)  # fmt: skip
    step("05", "lost to follow-up, other weights", lambda: censoring.other_ways(evaluation, shown), PER_SAMPLE)
    columns = table[["age_years", "fvc_percent", *(f"qct_m{i}" for i in range(5))]]
    step("05", "shortcuts: forests, one horizon", lambda: sensitivity.compare_shortcuts(
        cohort, columns, (3.0,), 5, SAMPLES, 0), 3)  # fmt: skip
    step("05", "front page, most wrong", lambda: [
        patients.most_wrong(evaluation, _lungs(cohort), shown, 3.0), horizon_tables.headline_numbers(evaluation, found),
        decisions.worked_example(evaluation, shown)], PER_SAMPLE)  # fmt: skip


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
    parser.add_argument("part", choices=["planning", "memory", "stages", "tables", "growth"])
    parser.add_argument("--study", type=Path, help="a finished study, for `stages`")
    given = parser.parse_args()
    parts = {"planning": planning, "memory": memory, "stages": lambda: stages(given.study)}
    parts |= {"tables": tables, "growth": growth}
    table = parts[given.part]()
    table.to_csv(BOOK / f"scale_{given.part}.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
