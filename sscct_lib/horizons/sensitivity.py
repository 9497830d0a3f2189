"""What if: other rules of quality assurance, and common shortcuts of judging."""

from collections.abc import Set
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from sscct_lib.cohort.outcomes import censoring_weights
from sscct_lib.horizons.bootstrap import Floats, horizon_outcome, interval, resample_patients
from sscct_lib.horizons.calibration import Fits
from sscct_lib.horizons.evaluation import Evaluation, not_estimable
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.tables import DENOMINATORS, by_horizon, denominators
from sscct_lib.study.disclosure import of_patients
from sscct_lib.study.words import estimate_text, scans_text

ALL_RULES = "all rules"
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


def returning(lungs: pd.DataFrame, rule: str, severe: Set[str]) -> "pd.Series[bool]":
    """Tell which rows of `LUNGS` would come back without a rule: failed by it and by no other."""
    others = lungs["flags"].fillna("").map(lambda flags: set(flags.split()) & severe)
    by_rules = lungs["verdict"].eq("fail") & lungs["decision"].isna()
    return by_rules & (others.map(bool) if rule == ALL_RULES else others.map(lambda names: names == {rule}))


def effects_of_rules(
    evaluation: Evaluation, removed: pd.DataFrame, lungs: pd.DataFrame, model: str, severe: Set[str]
) -> pd.DataFrame:
    """Judge a model with and without each rule of quality assurance.

    Parameters
    ----------
    removed
        Schema `PREDICTIONS`, of scans that the rules removed, by models of the fold that never saw the patient.
    lungs
        Schema `LUNGS`.
    severe
        Rules that remove a scan.

    Returns
    -------
    pandas.DataFrame
        A row for every rule that flagged a scan of the cohort, and one for all rules: scans `flagged` and `removed`,
        and the AUC at the longest horizon with its interval `as analysed`, with the `removed put back`, and with the
        `flagged left out` as well. How many scans each rests on stands in the first alone: of the others it would give
        small counts away.
    """
    lungs = lungs[lungs["scan_id"].isin(evaluation.cohort["scan_id"])].reset_index(drop=True)
    flags = lungs["flags"].fillna("").str.split()
    own, back = (table[table["model"] == model] for table in (evaluation.predictions, removed))
    analysed = evaluation.with_predictions(own)
    as_analysed = f"{_auc(analysed, model)}{_scans(analysed, model)}"
    rows = []
    for rule in [*sorted({name for names in flags for name in names}), ALL_RULES]:
        flagged = flags.map(bool) if rule == ALL_RULES else flags.map(lambda names, rule=rule: rule in names)
        returned = returning(lungs, rule, severe)
        put_back = back[back["scan_id"].isin(lungs.loc[returned, "scan_id"])]
        without = own[~own["scan_id"].isin(lungs.loc[flagged, "scan_id"])]
        rows.append(
            {
                "rule": rule,
                "flagged": of_patients(flagged.sum(), lungs.loc[flagged, "patient_id"].nunique()),
                "removed": of_patients(returned.sum(), lungs.loc[returned, "patient_id"].nunique()),
                "as analysed": as_analysed,
                "removed put back": _auc(evaluation.with_predictions(pd.concat([own, put_back])), model)
                if len(put_back)
                else "the same",
                "flagged left out": _auc(evaluation.with_predictions(without), model),
            }
        )
    return pd.DataFrame(rows).set_index("rule")


def _auc(evaluation: Evaluation, model: str) -> str:
    if model not in evaluation.models:
        return "no scans"
    judged = evaluation.at(model, max(evaluation.settings.horizons_years))
    found = judged.estimate("auc")
    return estimate_text(found["estimate"], found["ci_low"], found["ci_high"])


def _scans(evaluation: Evaluation, model: str) -> str:
    if model not in evaluation.models:
        return ""
    counts = evaluation.at(model, max(evaluation.settings.horizons_years)).counts
    return f"; {scans_text(counts['n_scans'], counts['n_patients'])}"


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
    features
        Numbers, one row per scan of the cohort in the same order; missing ones are filled with the median.
    seed
        Of folds, forests and samples.
    true_risk
        Where a simulated study knows it: the probability of death of each scan within each horizon, shape (n,).

    Returns
    -------
    pandas.DataFrame
        One row per horizon and way of `WAYS`: `auc`, `ci_low`, `ci_high` (95 %), `width`, `n_scans`, `n_patients`,
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
        risks: dict[tuple[bool, bool], tuple[Floats, Fits]] = {}
        for name, way in WAYS.items():
            key = (way.by_patient, way.presumed)
            if key not in risks:
                risks[key] = _out_of_fold(cohort, filled, years, way, n_folds, seed)
            row = {"horizon_years": years, "way": name, **_judged(cohort, *risks[key], years, way, n_bootstrap, seed)}
            if true_risk is not None:
                row["true_auc"] = expected_auc(*risks[(True, way.presumed)], true_risk[years])
            found.append(row)
    return pd.DataFrame(found)


def expected_auc(score: Floats, fit: Fits, risk: Floats) -> float:
    """AUC that a score (n,) is expected to have when every scan is followed by death with its true risk (n,).

    Sum over pairs of scans of the same fit of P(first dies, second lives) where the first has the higher score, over
    the same sum of all such pairs; equal scores count half.
    """
    sums = np.array([_expected_pairs(score[fit == one], risk[fit == one]) for one in np.unique(fit)])
    concordant, pairs = sums.sum(axis=0)
    return float(concordant / pairs)


def _expected_pairs(score: Floats, risk: Floats) -> tuple[float, float]:
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    dies, lives = (np.add.reduceat(values[order], starts) for values in (risk, 1 - risk))
    below = np.cumsum(lives) - lives
    return float((dies * (below + lives / 2)).sum()), float(dies.sum() * lives.sum())


def shortcuts_side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out what shortcuts would have said: a row per way of judging, a column per horizon."""

    def cell(row: Any) -> str:
        width = f", width {row.width:.2f}" if np.isfinite(row.width) else ""
        return estimate_text(row.auc, row.ci_low, row.ci_high) + width

    first = table.drop_duplicates("horizon_years")
    shown = [
        by_horizon(first.assign(way=DENOMINATORS), ["way"], denominators),
        by_horizon(table, ["way"], cell),
    ]
    if "true_auc" in table:
        truly = first.assign(way="by the true risk, folds split by patient")
        shown.append(by_horizon(truly, ["way"], lambda row: f"{row.true_auc:.2f}"))
    return pd.concat(shown).rename_axis("way")


def _out_of_fold(
    cohort: pd.DataFrame, features: Floats, years: float, way: Way, n_folds: int, seed: int
) -> tuple[Floats, Fits]:
    """Risk of each scan by a forest that was not trained on it, and which forest that was."""
    followup, event = cohort["followup_years"].to_numpy(float), cohort["event_observed"].to_numpy(bool)
    died = event & (followup <= years)
    weights = np.ones(len(cohort)) if way.presumed else censoring_weights(followup, event, years)
    risk, fit = np.full(len(cohort), np.nan), np.zeros(len(cohort), dtype=np.int64)
    if len(np.unique(cohort["patient_id"][died])) < n_folds:
        return risk, fit
    if way.by_patient:
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        folds = splitter.split(features, died, cohort["patient_id"])
    else:
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(features, died)
    for number, (train, test) in enumerate(folds):
        fit[test] = number
        known = train[weights[train] > 0]
        forest = RandomForestClassifier(N_TREES, min_samples_leaf=5, random_state=seed, n_jobs=-1)
        forest.fit(features[known], died[known], sample_weight=weights[known])
        if len(forest.classes_) == 2:
            risk[test] = forest.predict_proba(features[test])[:, 1]
    return risk, fit


def _judged(
    cohort: pd.DataFrame, risk: Floats, fit: Fits, years: float, way: Way, n_bootstrap: int, seed: int
) -> dict[str, float]:
    patients = cohort["patient_id"]
    clusters = pd.Series(np.arange(len(cohort))) if way.scans_independent else patients
    resamples = resample_patients(clusters, n_bootstrap, seed)
    followup, event = cohort["followup_years"].to_numpy(float), cohort["event_observed"].to_numpy(bool)
    outcome = horizon_outcome(followup, event, years, resamples, way.presumed)
    of_state = {"died": outcome.died, "alive": outcome.alive}
    counted = outcome.denominators | {"n_patients": patients.nunique()}
    counted |= {f"n_patients_{state}": patients[inside].nunique() for state, inside in of_state.items()}
    if not_estimable(outcome) or not np.isfinite(risk).all():
        return {**dict.fromkeys(("auc", "ci_low", "ci_high", "width"), np.nan), **counted}
    samples = np.concatenate([METRICS["auc"].measure(risk, block, fit) for block in outcome.in_blocks()])
    low, high, _ = interval(samples, outcome.degrees_of_freedom, METRICS["auc"].scale)
    return {"auc": float(samples[0]), "ci_low": low, "ci_high": high, "width": high - low, **counted}
