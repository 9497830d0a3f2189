"""What common shortcuts would have made of the same patients: one simple model, judged honestly and not."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from sscct_lib.bootstrap import Floats, horizon_outcome, interval, resample_patients
from sscct_lib.cohort import censoring_weights
from sscct_lib.horizons import not_estimable
from sscct_lib.metrics import METRICS
from sscct_lib.summary import DENOMINATORS, estimate_text, years_text

HONEST = "as in this book"
TRUTH = "on the true risk of death"
N_TREES = 200


class Way(NamedTuple):
    """A way of judging: how folds are split, what an unknown scan is, and what is resampled."""

    by_patient: bool
    presumed: bool
    scans_independent: bool


WAYS = {
    HONEST: Way(True, False, False),
    "folds split by scan, not by patient": Way(False, False, False),
    "unknown scans counted as alive": Way(True, True, False),
    "interval as if scans were independent": Way(True, False, True),
    "all three": Way(False, True, True),
}


def compare_shortcuts(
    cohort: pd.DataFrame,
    features: pd.DataFrame,
    horizons_years: tuple[float, ...],
    n_folds: int,
    n_bootstrap: int,
    seed: int,
    true_risk: dict[float, Floats] | None = None,
) -> pd.DataFrame:
    """Train one random forest in several ways on the same scans, and judge each as its way does.

    Parameters
    ----------
    cohort
        One row a scan: `patient_id`, `followup_years`, `event_observed`.
    features
        Numbers, one row a scan in the same order; missing ones are filled with the median.
    horizons_years
        Years after the scan.
    n_folds
        Folds of the cross-validation.
    n_bootstrap
        Samples behind each interval.
    seed
        Of folds, forests and samples.
    true_risk
        Where a simulated study knows it: the probability of death of each scan within each horizon, shape (n,).

    Returns
    -------
    pandas.DataFrame
        One row a horizon and way of `WAYS`: `auc`, `ci_low`, `ci_high` (95 %), `width`, `n_scans`, `n_patients`,
        `n_events`, `n_unknown`. With `true_risk` the column `true_auc`: what the AUC of the same predictions is
        expected to be when every scan is followed by death with its true risk, and the predictions of a patient are
        made without that patient.

    References
    ----------
    Roberts M et al. Common pitfalls and recommendations for using machine learning to detect and prognosticate for
    COVID-19 using chest radiographs and CT scans. Nat Mach Intell 2021;3:199-217.
    """
    filled = features.fillna(features.median()).to_numpy(dtype=float)
    found = []
    for years in horizons_years:
        risks: dict[tuple[bool, bool], Floats] = {}
        for name, way in WAYS.items():
            key = (way.by_patient, way.presumed)
            if key not in risks:
                risks[key] = _out_of_fold(cohort, filled, years, way, n_folds, seed)
            row = {"horizon_years": years, "way": name, **_judged(cohort, risks[key], years, way, n_bootstrap, seed)}
            if true_risk is not None:
                row["true_auc"] = expected_auc(risks[(True, way.presumed)], true_risk[years])
            found.append(row)
    return pd.DataFrame(found)


def expected_auc(score: Floats, risk: Floats) -> float:
    """AUC that a score is expected to have when every scan is followed by death with its true risk.

    Parameters
    ----------
    score
        Predicted risk or any score, shape (n,).
    risk
        True probability of death, shape (n,).

    Returns
    -------
    float
        Sum over pairs of scans of P(first dies, second lives) where the first has the higher score, over the same sum
        of all pairs; equal scores count half.
    """
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    dies, lives = (np.add.reduceat(values[order], starts) for values in (risk, 1 - risk))
    below = np.cumsum(lives) - lives
    return float((dies * (below + lives / 2)).sum() / (dies.sum() * lives.sum()))


def shortcuts_side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out what shortcuts would have said: a row a way of judging, a column a horizon.

    Parameters
    ----------
    table
        From `compare_shortcuts`.

    Returns
    -------
    pandas.DataFrame
        AUC with interval and its width as text; the last row, where the true risk is known, is the expected AUC of the
        honest predictions.
    """
    columns = {}
    for horizon in table["horizon_years"].unique():
        rows = table[table["horizon_years"] == horizon].set_index("way")
        first = rows.iloc[0]
        n_events, n_scans, n_unknown = (int(first[name]) for name in ("n_events", "n_scans", "n_unknown"))
        cells = {DENOMINATORS: f"{n_events} of {n_scans:,} ({n_unknown:,} unknown)"}
        for way, row in rows.iterrows():
            width = f", width {row['width']:.2f}" if np.isfinite(row["width"]) else ""
            cells[str(way)] = estimate_text(row["auc"], row["ci_low"], row["ci_high"]) + width
        if "true_auc" in rows:
            cells["by the true risk, folds split by patient"] = f"{first['true_auc']:.2f}"
        columns[years_text(horizon)] = pd.Series(cells)
    return pd.DataFrame(columns).rename_axis("way")


def _out_of_fold(cohort: pd.DataFrame, features: Floats, years: float, way: Way, n_folds: int, seed: int) -> Floats:
    followup, event = cohort["followup_years"].to_numpy(float), cohort["event_observed"].to_numpy(bool)
    died = event & (followup <= years)
    weights = np.ones(len(cohort)) if way.presumed else censoring_weights(followup, event, years)
    risk = np.full(len(cohort), np.nan)
    if len(np.unique(cohort["patient_id"][died])) < n_folds:
        return risk
    if way.by_patient:
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        folds = splitter.split(features, died, cohort["patient_id"])
    else:
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(features, died)
    for train, test in folds:
        known = train[weights[train] > 0]
        forest = RandomForestClassifier(N_TREES, min_samples_leaf=5, random_state=seed, n_jobs=-1)
        forest.fit(features[known], died[known], sample_weight=weights[known])
        if len(forest.classes_) == 2:
            risk[test] = forest.predict_proba(features[test])[:, 1]
    return risk


def _judged(
    cohort: pd.DataFrame, risk: Floats, years: float, way: Way, n_bootstrap: int, seed: int
) -> dict[str, float]:
    patients = cohort["patient_id"]
    clusters = pd.Series(np.arange(len(cohort))) if way.scans_independent else patients
    resamples = resample_patients(clusters, n_bootstrap, seed)
    followup, event = cohort["followup_years"].to_numpy(float), cohort["event_observed"].to_numpy(bool)
    outcome = horizon_outcome(followup, event, years, resamples, way.presumed)
    counted = {
        "n_scans": len(cohort), "n_patients": patients.nunique(),
        "n_events": int(outcome.died.sum()), "n_unknown": 0 if way.presumed else int(outcome.unknown.sum()),
    }  # fmt: skip
    if not_estimable(outcome) or not np.isfinite(risk).all():
        return {**dict.fromkeys(("auc", "ci_low", "ci_high", "width"), np.nan), **counted}
    samples = METRICS["auc"].measure(risk, outcome)
    low, high, _ = interval(samples, outcome.degrees_of_freedom, METRICS["auc"].scale)
    return {"auc": float(samples[0]), "ci_low": low, "ci_high": high, "width": high - low, **counted}
