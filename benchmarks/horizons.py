"""Do the intervals of the horizon analysis cover the truth, and how fast are they?

    python benchmarks/horizons.py coverage   # about 5 minutes: 500 simulated cohorts
    python benchmarks/horizons.py refitted   # about 15 minutes: 200 cohorts in each of which models are trained
    python benchmarks/horizons.py speed      # about 2 minutes: 2,125 scans, 12 models, beside scikit-survival
    python benchmarks/horizons.py notebook   # about 3 minutes: the whole of notebook 05 on as many

Each part rewrites its own table in `book/`, whose page for statisticians shows it.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sksurv.metrics import brier_score, cumulative_dynamic_auc

from sscct_lib.book.chapters import run_notebook
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.cohort.selection import assign_folds, build_cohort, select
from sscct_lib.demo import make
from sscct_lib.horizons.bootstrap import (
    Outcome,
    Resamples,
    horizon_outcome,
    interval,
    percentile_interval,
    resample_patients,
)
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation, Judged, study_resamples
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.models import stack
from sscct_lib.horizons.sensitivity import expected_auc
from sscct_lib.horizons.survival import hazard_ratios
from sscct_lib.images.scanners import scanner
from sscct_lib.radiomics import cross_validation
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.schemas import COHORT, LUNGS, PREDICTIONS
from sscct_lib.study.settings import CohortSettings, HorizonSettings, Settings, TabularSettings
from sscct_lib.study.tables import write_table
from sscct_lib.study.words import METRIC_WORDS

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
HORIZON_YEARS = 3.0
BASE_HAZARD = 0.08  # deaths per year for a patient with marker 0
MEASURED = [
    "auc", "brier", "scaled_brier", "observed_expected", "calibration_intercept", "calibration_slope",
    "ici", "e50", "e90",
]  # fmt: skip


class Scans(NamedTuple):
    """Repeated scans of simulated patients: two models' risks, follow-up, and the time of death itself."""

    patient: np.ndarray
    followup_years: np.ndarray
    event_observed: np.ndarray
    death_years: np.ndarray
    risk: np.ndarray
    weaker_risk: np.ndarray


def simulate(n_patients: int, rng: np.random.Generator, censoring_hazard: float = 0.13) -> Scans:
    """Draw patients with 1 to 5 yearly scans, exponential survival and exponential loss to follow-up.

    Risks of one patient's scans are alike (his marker, and an error that all of his scans share), so scans are not
    independent. Both models are too extreme (slope below 1).
    """
    marker = rng.normal(size=n_patients)
    death = rng.exponential(1 / (BASE_HAZARD * np.exp(marker)))
    lost = rng.exponential(1 / censoring_hazard, n_patients)
    visit = np.cumsum(np.concatenate([np.zeros((n_patients, 1)), rng.uniform(0.5, 1.5, (n_patients, 4))], 1), 1)
    planned = np.arange(5) < 1 + rng.integers(0, 5, n_patients)[:, None]
    patient, scan = np.nonzero(planned & (visit < np.minimum(death, lost)[:, None]))
    shared, own = rng.normal(size=(2, n_patients)), rng.normal(size=(2, len(patient)))
    scores = (
        marker[patient] + 0.5 * shared[0, patient] + 0.4 * own[0],
        marker[patient] + 0.75 * shared[1, patient] + 0.8 * own[1],
    )
    risks = [1 - np.exp(-BASE_HAZARD * HORIZON_YEARS * np.exp(score)) for score in scores]
    day = visit[patient, scan]
    return Scans(
        patient, np.minimum(death, lost)[patient] - day, (death <= lost)[patient], death[patient] - day, *risks
    )


def measure(scans: Scans, outcome: Outcome) -> dict[str, np.ndarray]:
    """Every metric of the better model, and its differences from the weaker one."""
    values = {name: METRICS[name].measure(scans.risk, outcome) for name in MEASURED}
    values = {name: found if found.ndim == 1 else found[:, METRICS[name].column] for name, found in values.items()}
    for name in ("auc", "brier"):
        values[f"difference in {name}"] = values[name] - METRICS[name].measure(scans.weaker_risk, outcome)
    return values


def true_values(n_patients: int = 400_000) -> dict[str, float]:
    """What each metric is in the population, from many patients whose deaths are all known."""
    batch = 40_000
    found = []
    for seed in range(n_patients // batch):
        scans = simulate(batch, np.random.default_rng([0, seed]))
        everyone = np.ones(len(scans.patient), dtype=bool)
        alone = resample_patients(scans.patient, 0, 0)
        outcome = horizon_outcome(scans.death_years, everyone, HORIZON_YEARS, alone)
        found.append({name: values[0] for name, values in measure(scans, outcome).items()})
    return pd.DataFrame(found).mean().to_dict()


def covers(truth: float, low: float, high: float) -> float:
    """1 or 0; NaN where there is no interval, which then counts neither way."""
    return np.nan if np.isnan(low) else float(low <= truth <= high)


def coverage(sizes: tuple[int, ...] = (60, 150, 200), n_cohorts: int = 500, n_bootstrap: int = 500) -> pd.DataFrame:
    """How often 95 % intervals hold the truth: by patient, by patient with percentiles, and by scan."""
    truth = true_values()
    tables = []
    for n_patients in sizes:
        rows, n_scans, unknown = [], [], []
        for number in range(n_cohorts):
            scans = simulate(n_patients, np.random.default_rng([1, number]))
            outcome, found = one_cohort(scans, truth, n_bootstrap, number)
            rows += found
            n_scans.append(len(scans.patient))
            unknown.append(outcome.unknown.mean())
        print(
            f"{n_cohorts} cohorts of {n_patients} patients, on average {np.mean(n_scans):.0f} scans of which "
            f"{np.mean(unknown):.0%} unknown at {HORIZON_YEARS:g} years; {n_bootstrap} resamples each."
        )
        table = pd.DataFrame(rows).groupby("quantity", sort=False).mean()
        tables.append(table.assign(n_patients=n_patients).reset_index())
    words = METRIC_WORDS | {f"difference in {name}": f"difference in {said}" for name, said in METRIC_WORDS.items()}
    order = ["n_patients", "quantity", "truth", "mean error", "covered", "covered, percentiles"]
    table = pd.concat(tables)[[*order, "covered, scans as if independent"]]
    table["mean error"] = table["mean error"].map("{:+.4f}".format)
    table["quantity"] = table["quantity"].replace(words)
    return table.round(3).rename(columns={"n_patients": "patients"}).set_index("patients")


def lives_of_features(seed: int, n_patients: int = 76) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw patients with features of synthetic CTs, and lives by a hazard that rises with dense lung and with age.

    Gives the table of scans that models take, and the true risk of each scan.
    """
    rng = np.random.default_rng([4, seed])
    pool = pd.read_parquet(ROOT / "tests" / "data" / "phantom_features.parquet")
    marker = pool.groupby("patient_id")[["qct_high_attenuation_share", "age_years"]].mean()
    hazard = 0.1 * np.exp(((marker - marker.mean()) / marker.std()) @ np.array([0.9, 0.4]))
    days = (pool["age_years"] - pool.groupby("patient_id")["age_years"].transform("min")) * 365
    pool = pool.assign(scan_day=days.astype(int), hazard=pool["patient_id"].map(hazard))
    drawn = pd.DataFrame({"patient_id": rng.choice(hazard.index, n_patients), "number": np.arange(n_patients)})
    drawn = drawn.assign(death=rng.exponential(1 / hazard[drawn["patient_id"]]), lost=rng.exponential(8, n_patients))
    table = drawn.merge(pool, on="patient_id").sort_values(["number", "scan_day"], ignore_index=True)
    table["followup_years"] = table[["death", "lost"]].min(axis=1) - table["scan_day"] / 365
    table = table[table["followup_years"] > 0].reset_index(drop=True)
    names = table["number"].map("p{:03d}".format)
    true_risk = -np.expm1(-table["hazard"].to_numpy() * HORIZON_YEARS)
    table = table.assign(
        patient_id=names, scan_id=names + "-" + table.groupby(names).cumcount().astype(str),
        event_observed=table["death"] <= table["lost"], settings_hash="a", scanner=scanner(table),
    )  # fmt: skip
    return table.drop(columns=["hazard", "death", "lost", "number"]), true_risk


def expected(judged: Judged, true_risk: np.ndarray) -> dict[str, float]:
    """What each metric of these very predictions is expected to be when every scan dies with its true risk."""
    risk = judged.risks[0]
    return {
        "auc": expected_auc(risk, judged.fits[0], true_risk),
        "brier": float(np.mean(true_risk * (1 - risk) ** 2 + (1 - true_risk) * risk**2)),
        "observed_expected": float(true_risk.mean() / risk.mean()),
    }


def refitted(n_cohorts: int = 200, n_bootstrap: int = 300) -> pd.DataFrame:
    """How often the intervals hold the truth when models are trained anew in each cohort.

    Of these very fits, on their own scans; and of the procedure: the mean over all cohorts of what fits attain.
    """
    tabular = TabularSettings(feature_sets=("Clinical", "Quantitative CT", "Radiomics"), compared=(), n_repeats=1)
    rows, table = [], pd.DataFrame()
    for seed in range(n_cohorts):
        scans, true_risk = lives_of_features(seed)
        settings = Settings(
            horizons_years=(HORIZON_YEARS,), cohort=CohortSettings(n_folds=3), tabular=tabular, seed=seed,
            horizons=HorizonSettings(n_bootstrap=n_bootstrap),
        )  # fmt: skip
        study = Study(Path(tempfile.gettempdir()), settings)
        scans = scans.assign(fold=assign_folds(scans, study))
        fitted = cross_validation.cross_validate(scans, study).predictions
        evaluation = Evaluation(scans, pd.concat([fitted, stack(fitted)], ignore_index=True), settings)
        for model in evaluation.models:
            judged = evaluation.at(model, HORIZON_YEARS)
            for name, fits in expected(judged, true_risk[judged.inside]).items():
                found = judged.estimate(name)
                rows.append({"model": model, "quantity": name, "fits": fits, **found})
        table = of_refitted(pd.DataFrame(rows))
        table.to_csv(BOOK / "horizons_refitted.csv")
    return table


def of_refitted(rows: pd.DataFrame) -> pd.DataFrame:
    """Coverage over the cohorts so far, with Monte Carlo errors in brackets; cohorts without interval count not."""
    known = rows.dropna(subset=["estimate", "ci_low", "fits"])
    known = known.assign(procedure=known.groupby(["model", "quantity"])["fits"].transform("mean"))
    for truth in ("fits", "procedure"):
        known[f"covers {truth}"] = (known["ci_low"] <= known[truth]) & (known[truth] <= known["ci_high"])
    each = known.groupby(["quantity", "model"], sort=False)

    def share(name: str) -> "pd.Series[str]":
        mean = each[name].mean()
        error = np.sqrt(mean * (1 - mean) / each.size())
        return mean.map("{:.3f}".format) + error.map(" ({:.3f})".format)

    table = pd.DataFrame(
        {
            "cohorts": each.size(),
            "truth": each["procedure"].first().round(3),
            "mean error": (each["estimate"].mean() - each["procedure"].first()).map("{:+.4f}".format),
            "covered, the procedure": share("covers procedure"),
            "covered, these fits": share("covers fits"),
        }
    )
    return table.rename(index=METRIC_WORDS, level="quantity").reset_index().set_index("quantity")


def useless_marker(scans: Scans, seed: int) -> dict[str, object]:
    """Whether the interval of the hazard ratio of a marker of patients that says nothing covers 1."""
    marker = np.random.default_rng([2, seed]).normal(size=scans.patient.max() + 1)[scans.patient]
    until = (
        np.minimum(scans.followup_years, HORIZON_YEARS),
        scans.event_observed & (scans.followup_years <= HORIZON_YEARS),
    )
    by_patient, by_scan = (
        hazard_ratios(*until, clusters, {"marker": marker}).iloc[0]
        for clusters in (scans.patient, np.arange(len(scans.patient)))
    )
    return {
        "quantity": "hazard ratio, no effect",
        "truth": 1.0,
        "mean error": by_patient["hazard_ratio"] - 1,
        "covered": covers(1.0, by_patient["ci_low"], by_patient["ci_high"]),
        "covered, percentiles": np.nan,
        "covered, scans as if independent": covers(1.0, by_scan["ci_low"], by_scan["ci_high"]),
    }


def one_cohort(
    scans: Scans, truth: dict[str, float], n_bootstrap: int, seed: int
) -> tuple[Outcome, list[dict[str, object]]]:
    """Whether each kind of interval of one cohort covers each true value."""
    by_patient = resample_patients(scans.patient, n_bootstrap, seed)
    by_scan = resample_patients(np.arange(len(scans.patient)), n_bootstrap, seed)
    outcomes = [
        horizon_outcome(scans.followup_years, scans.event_observed, HORIZON_YEARS, samples)
        for samples in (by_patient, by_scan)
    ]
    patient_values, scan_values = (measure(scans, outcome) for outcome in outcomes)
    rows = [useless_marker(scans, seed)]
    for name, true in truth.items():
        scale = METRICS[name].scale if name in METRICS else "plain"
        low, high, _ = interval(patient_values[name], outcomes[0].degrees_of_freedom, scale)
        scan_low, scan_high, _ = interval(scan_values[name], outcomes[1].degrees_of_freedom, scale)
        rows.append(
            {
                "quantity": name,
                "truth": true,
                "mean error": patient_values[name][0] - true,
                "covered": covers(true, low, high),
                "covered, percentiles": covers(true, *percentile_interval(patient_values[name])),
                "covered, scans as if independent": covers(true, scan_low, scan_high),
            }
        )
    return outcomes[0], rows


def large_study(n_scans: int = 2125, n_models: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A cohort and predictions of the published study's size."""
    rng = np.random.default_rng(3)
    scans = simulate(1200, rng)
    cohort = pd.DataFrame(
        {
            "scan_id": [f"s{i:05d}" for i in range(len(scans.patient))],
            "patient_id": [f"p{i:05d}" for i in scans.patient],
            "scan_day": 0,
            "followup_years": scans.followup_years,
            "event_observed": scans.event_observed,
            "fold": scans.patient % 5,
        }
    ).iloc[:n_scans]
    frames = []
    for model in range(n_models):
        score = np.log(-np.log1p(-scans.risk[:n_scans])) + rng.normal(0, 0.1 * (model + 1), n_scans)
        for years in (1.0, 3.0, 5.0):
            risk = 1 - np.exp(-np.exp(score) * years / HORIZON_YEARS)
            columns = {"model": f"model {model + 1}", "horizon_years": years, "repeat": 0, "risk": risk}
            frames.append(cohort[["scan_id", "patient_id", "fold"]].assign(**columns))
    return cohort, pd.concat(frames, ignore_index=True)


def by_scikit_survival(cohort: pd.DataFrame, risk: np.ndarray, years: float, rows: np.ndarray) -> tuple[float, float]:
    """AUC and Brier score of the rows of one bootstrap sample."""
    fields = [("event", bool), ("time", float)]
    pairs = zip(cohort["event_observed"].to_numpy()[rows], cohort["followup_years"].to_numpy()[rows], strict=True)
    outcome = np.array(list(pairs), dtype=fields)
    # By default risks that differ by less than 1e-8 count as equal there; ours must differ not at all.
    auc = cumulative_dynamic_auc(outcome, outcome, risk[rows], [years], tied_tol=0)[0][0]
    return auc, brier_score(outcome, outcome, 1 - risk[rows, None], [years])[1][0]


def speed(n_looped: int = 10) -> pd.DataFrame:
    """Seconds of processor time for AUC and Brier with intervals, here and in a loop over scikit-survival."""
    cohort, predictions = large_study()
    settings = Settings()
    n_samples = settings.horizons.n_bootstrap + 1
    evaluation = Evaluation(cohort, predictions, settings)
    risks = {
        (model, years): evaluation.risk(model, years)
        for model in evaluation.models
        for years in settings.horizons_years
    }
    start = time.process_time()
    evaluate(evaluation)
    everything = time.process_time() - start

    followup, event = cohort["followup_years"].to_numpy(), cohort["event_observed"].to_numpy()
    start = time.process_time()
    resamples = study_resamples(cohort, settings)
    ours = {}
    for years in settings.horizons_years:
        outcome = horizon_outcome(followup, event, years, resamples)
        for model in evaluation.models:
            risk = risks[model, years]
            ours[model, years] = [METRICS[name].measure(risk, outcome) for name in ("auc", "brier")]
    two_metrics = time.process_time() - start

    looped, furthest = loop(cohort, risks, resamples, ours, n_looped)
    looped *= n_samples / n_looped
    print(
        f"{len(cohort)} scans of {cohort['patient_id'].nunique()} patients, {predictions['model'].nunique()} models, "
        f"{len(settings.horizons_years)} horizons, {n_samples - 1} samples. The loop ran {n_looped} samples; its time "
        f"is scaled up. Largest difference between the two: {furthest:.1e}."
    )
    seconds = {"AUC and Brier, here": two_metrics, "AUC and Brier, loop": looped, "all metrics, here": everything}
    table = pd.DataFrame({"processor seconds": seconds}).round(1)
    table["times faster than the loop"] = [f"{looped / two_metrics:.0f}", "1", ""]
    return table.rename_axis("what")


def loop(cohort: pd.DataFrame, risks: dict, resamples: Resamples, ours: dict, n_looped: int) -> tuple[float, float]:
    """Time the plain loop over bootstrap samples, and find where it differs most from ours."""
    furthest, start = 0.0, time.process_time()
    for (model, years), (auc, brier) in ours.items():
        risk = risks[model, years]
        for sample in range(1, n_looped + 1):
            rows = np.repeat(np.arange(len(cohort)), resamples.counts[sample].astype(int))
            expected = by_scikit_survival(cohort, risk, years, rows)
            furthest = max(furthest, abs(auc[sample] - expected[0]), abs(brier[sample] - expected[1]))
    return time.process_time() - start, furthest


def notebook() -> pd.DataFrame:
    """Seconds of the whole of notebook 05 on the 2,125 scans of the full demo study and 12 models of noisy risks."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.yaml").write_text("demo: {n_patients: 640, n_scans: 2125}\n")
        study = load_study(folder)
        manifest, truth = make.write_tables(study)
        read = pd.DataFrame({"scan_id": manifest["scan_id"], "status": "ok"})
        cohort = build_cohort(select(read_manifest(study), read)[0], study)
        write_table(cohort, study, "cohort", COHORT)
        lungs = cohort[["scan_id", "patient_id"]].assign(status="ok", reason="", verdict="pass")
        lungs = lungs.reindex(columns=list(LUNGS.columns)).assign(high_attenuation_share=0.05 + truth["fibrosis"] / 2)
        write_table(lungs.assign(volume_l=4.0, mean_hu=-800.0, low_attenuation_share=0.02), study, "lungs", LUNGS)
        write_table(noisy_predictions(cohort, truth), study, "predictions/03_radiomics", PREDICTIONS)
        start, cpu = time.perf_counter(), processor_seconds()
        run_notebook(study, "05_horizons")
        seconds = time.perf_counter() - start, processor_seconds() - cpu
    return pd.DataFrame({"what": ["wall clock", "processor"], "seconds": seconds}).set_index("what").round(1)


def noisy_predictions(cohort: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """True risks blurred more and more: 12 models."""
    truth = truth.set_index("scan_id").loc[cohort["scan_id"]]
    rng = np.random.default_rng(0)
    frames = []
    for number in range(12):
        noise = rng.normal(0, 0.2 + 0.1 * number, len(cohort))
        for years in (1.0, 3.0, 5.0):
            risk = 1 / (1 + np.exp(-(logit(truth[f"true_risk_{years:g}y"].to_numpy()) + noise)))
            columns = {"model": f"Model {number + 1}", "horizon_years": years, "repeat": 0, "risk": risk}
            frames.append(cohort[["scan_id", "patient_id", "fold"]].assign(**columns))
    return pd.concat(frames, ignore_index=True)


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


if __name__ == "__main__":
    parts = {"coverage": coverage, "refitted": refitted, "speed": speed, "notebook": notebook}
    for name in sys.argv[1:] or parts:
        result = parts[name]()
        result.to_csv(BOOK / f"horizons_{name}.csv")
        print(result.to_string())
