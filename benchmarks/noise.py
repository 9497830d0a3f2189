"""What does the book print of outcomes that are pure noise, and what would it print if risks were compared over fits?

    OMP_NUM_THREADS=1 python benchmarks/noise.py 200    # cohorts of each size: two hours; stop it at any time
    python benchmarks/noise.py        # a minute: median slope and mean AUC of least squares, as the page says

Features of synthetic CTs are given to patients whose follow-up is drawn without regard to them. The right AUC is
0.5. After each cohort of every size the table so far goes to `book/noise.csv`, which the page on common errors shows.
Only one cohort in eight is split five times: that takes five times as long, and the mean over splits is expected to be
what a single one is.
"""

import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binom

from sscct_lib.cohort.selection import assign_folds
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.models import ROWS, stack
from sscct_lib.images.scanners import scanner
from sscct_lib.radiomics import clinical_scores, cross_validation
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import CohortSettings, Settings, TabularSettings

ROOT = Path(__file__).parents[1]
FEATURES = ROOT / "tests" / "data" / "phantom_features.parquet"
HORIZON_YEARS = 3.0
PATIENTS, FOLDS, REPEATS = (76, 250), (3, 5), 5


def noise_cohort(study: Study, n_patients: int, seed: int) -> pd.DataFrame:
    """Draw patients, and follow-up that none of their features tells of: about a third die within the horizon."""
    rng = np.random.default_rng(seed)
    features = pd.read_parquet(FEATURES)
    chosen = rng.choice(features["patient_id"].unique(), n_patients, replace=False)
    table = features[features["patient_id"].isin(chosen)].reset_index(drop=True)
    patient = np.unique(table["patient_id"], return_inverse=True)[1]
    death, lost = rng.exponential(8, n_patients)[patient], rng.uniform(1, 12, n_patients)[patient]
    table = table.assign(followup_years=np.minimum(death, lost), event_observed=death <= lost, settings_hash="a")
    return table.assign(fold=assign_folds(table, study), scanner=scanner(table))


def one_cohort(n_patients: int, n_folds: int, n_repeats: int, seed: int, folder: Path) -> list[dict[str, object]]:
    """AUC and slope of each model of the front page, by the first split and by all, and of risks compared over fits."""
    sets = ("Clinical", "Quantitative CT", "Radiomics")
    tabular = TabularSettings(feature_sets=sets, compared=(), n_repeats=n_repeats)
    cohort = CohortSettings(n_folds=n_folds)
    study = Study(folder, Settings(horizons_years=(HORIZON_YEARS,), cohort=cohort, tabular=tabular, seed=seed))
    table = noise_cohort(study, n_patients, seed)
    found = [cross_validation.cross_validate(table, study).predictions, clinical_scores.predict(table, study)[0]]
    found.append(stack(found[0]))
    predictions = pd.concat(found, ignore_index=True)
    predictions = predictions[predictions["model"].isin(ROWS)]
    rows = []
    for repeats in sorted({1, n_repeats}):
        some = predictions[predictions["repeat"] < repeats]
        evaluation = Evaluation(table, some, study.settings).without_resamples()
        for model in evaluation.models:
            judged = evaluation.at(model, HORIZON_YEARS)
            row: dict[str, object] = {"patients": n_patients, "folds": n_folds, "repeats": repeats, "model": model}
            for metric in ("auc", "calibration_slope"):
                row[metric] = judged.measure(metric)[0]
                row[f"{metric}, over fits"] = METRICS[metric].measure(judged.risk, judged.outcome)[0]
            rows.append(row)
    return rows


def median_with_interval(values: pd.Series) -> str:
    """Median of the cohorts that have a value, with the 95 % interval of its order statistics."""
    known = np.sort(values.dropna())
    if not len(known):
        return "not estimable"
    low, high = (int(min(place, len(known) - 1)) for place in binom.interval(0.95, len(known), 0.5))
    return f"{np.median(known):z.2f} ({known[low]:z.2f} to {known[high]:z.2f})"


def summary(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Mean AUC and median slope of each model over the cohorts of each size."""
    sizes = ["patients", "folds", "repeats"]
    of_model = pd.DataFrame(rows).sort_values(sizes, kind="stable").groupby([*sizes, "model"], sort=False)
    auc, slope = "auc", "calibration_slope"
    table = pd.DataFrame(
        {
            "cohorts": of_model.size(),
            "AUC": of_model[auc].mean().map("{:.3f}".format),
            "standard error": of_model[auc].sem().map("{:.3f}".format),
            "AUC over fits": of_model[f"{auc}, over fits"].mean().map("{:.3f}".format),
            "slope": of_model[slope].agg(median_with_interval),
            "slope over fits": of_model[f"{slope}, over fits"].agg(median_with_interval),
        }
    )
    return table.reset_index()


def least_squares(n_splits: int, n_patients: int = 75, n_folds: int = 5, n_cohorts: int = 1500) -> tuple[float, float]:
    """Median slope and mean AUC, within fits, of least squares on three columns of noise."""
    rng, slopes, areas = np.random.default_rng(0), [], []
    for _ in range(n_cohorts):
        x, died = rng.normal(size=(n_patients, 3)), (rng.random(n_patients) < 0.33).astype(float)
        of_splits, of_fits = [], []
        for _ in range(n_splits):
            fold, sums = rng.permutation(n_patients) % n_folds, np.zeros(2)
            for number in range(n_folds):
                train = fold != number
                design = np.column_stack([np.ones(train.sum()), x[train]])
                score = x[~train] @ np.linalg.lstsq(design, died[train], rcond=None)[0][1:]
                score, known = score - score.mean(), died[~train]
                sums += score @ known, score @ score
                if 0 < known.sum() < len(known):
                    of_fits.append((score[known == 1][:, None] > score[known == 0]).mean())
            of_splits.append(sums[0] / sums[1])
        slopes.append(np.mean(of_splits))
        areas.append(np.mean(of_fits))
    return float(np.median(slopes)), float(np.mean(areas))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for n_splits in (1, 5):
            print(n_splits, "split(s): median slope {:.2f}, mean AUC {:.3f}".format(*least_squares(n_splits)))
        sys.exit()
    done: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(int(sys.argv[1])):
            n_repeats = 1 if seed % 8 else REPEATS
            for size in product(PATIENTS, FOLDS):
                done += one_cohort(*size, n_repeats, seed, Path(temporary))
            summary(done).to_csv(ROOT / "book" / "noise.csv", index=False)
    print(summary(done).to_string(index=False))
