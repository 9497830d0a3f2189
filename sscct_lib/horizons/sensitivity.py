"""What common shortcuts would have made of the same patients: one simple model, judged honestly and not.

Risks put right by what happened to the patients of the other folds.

What the results would be without a rule of quality assurance: removed scans put back, flagged scans left out.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from sscct_lib.cohort.outcomes import censoring_weights
from sscct_lib.horizons.bootstrap import Floats, Outcome, horizon_outcome, interval, resample_patients
from sscct_lib.horizons.calibration import calibration_line, logit
from sscct_lib.horizons.evaluate import (
    aligned_risk,
    check_predictions,
    cohort_outcome,
    evaluate,
    not_estimable,
    study_resamples,
)
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.tables import DENOMINATORS, side_by_side
from sscct_lib.lungs.verdict import SEVERE
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import estimate_text, years_text


def recalibrated(predictions: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Shift and stretch the logit of every risk as the other folds ask for.

    For each model, horizon and fold a logistic line of death on the logit of the risk, weighted for censoring, is
    learned from the scans of all other folds, and applied to the fold. A patient's own outcome never enters. Where the
    line falls, or has no finite solution, only its shift is used. Risks of a scan are then made to rise with the
    horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    settings
        Of the study: horizons and labels.

    Returns
    -------
    pandas.DataFrame
        Schema `PREDICTIONS`, the same models and scans; `risk_sd` is empty.

    References
    ----------
    Steyerberg EW. Clinical prediction models. Springer 2019, ch. 20 (logistic recalibration). Cox DR. Two further
    applications of a model for binary regression. Biometrika 1958;45:562-5.
    """
    valid = check_predictions(predictions, cohort)
    alone = study_resamples(cohort, settings).study_only()
    fold = cohort["fold"].to_numpy()
    frames = []
    for model in dict.fromkeys(valid["model"]):
        so_far = np.zeros(len(cohort))
        for horizon in settings.horizons_years:
            risk = aligned_risk(valid, cohort, model, horizon)
            judged = np.isfinite(risk)
            moved = risk.copy()
            for tested in np.unique(fold[judged]):
                learn = judged & (fold != tested)
                outcome = cohort_outcome(cohort[learn], horizon, alone.of(learn), settings.labels)
                here = judged & (fold == tested)
                moved[here] = _moved(risk[here], risk[learn], outcome)
            moved = np.fmax(moved, so_far)
            so_far = np.fmax(so_far, moved)
            columns = {"model": model, "horizon_years": horizon, "risk": moved[judged], "risk_sd": np.nan}
            frames.append(cohort.loc[judged, ["scan_id", "patient_id", "fold"]].assign(**columns))
    return PREDICTIONS.validate(pd.concat(frames, ignore_index=True)[list(PREDICTIONS.columns)])


def beside_recalibrated(performance: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Put slope, observed over expected deaths and Brier score at the longest horizon beside those after recalibration.

    Parameters
    ----------
    performance, after
        Schema `PERFORMANCE`, of the risks as predicted and as put right.

    Returns
    -------
    pandas.DataFrame
        Estimates with intervals as text: a row a model, two columns a metric.
    """
    metrics = {
        "calibration_slope": ("slope", 2),
        "observed_expected": ("observed / expected", 2),
        "brier": ("Brier", 3),
    }
    columns = {}
    for metric, (words, decimals) in metrics.items():
        for when, table in (("as predicted", performance), ("put right", after)):
            columns[(words, when)] = side_by_side(table, metric, decimals).iloc[:, -1]
    return pd.DataFrame(columns)


def _moved(risk: Floats, learned_on: Floats, outcome: Outcome) -> Floats:
    if not_estimable(outcome):
        return risk
    intercept, slope = (float(values[0]) for values in calibration_line(learned_on, outcome))
    if not slope > 0:
        shift = float(calibration_line(learned_on, outcome, fixed_slope=True)[0][0])
        intercept, slope = (shift if np.isfinite(shift) else 0.0), 1.0
    return np.asarray(1 / (1 + np.exp(-(intercept + slope * logit(risk)))))


ALL_RULES = "all rules"


def returning(lungs: pd.DataFrame, rule: str) -> "pd.Series[bool]":
    """Tell which removed scans would come back without a rule.

    Parameters
    ----------
    lungs
        Schema `LUNGS`.
    rule
        A measure that flags scans, or `ALL_RULES`.

    Returns
    -------
    pandas.Series
        By row of `lungs`: failed by this rule and by no other; a scan that a person left out stays out.
    """
    others = lungs["flags"].fillna("").map(lambda flags: set(flags.split()) & SEVERE)
    by_rules = lungs["verdict"].eq("fail") & lungs["decision"].isna()
    return by_rules & (others.map(bool) if rule == ALL_RULES else others.map(lambda names: names == {rule}))


def effects_of_rules(
    predictions: pd.DataFrame,
    removed: pd.DataFrame,
    lungs: pd.DataFrame,
    cohort: pd.DataFrame,
    model: str,
    settings: Settings,
) -> pd.DataFrame:
    """Judge a model with and without each rule of quality assurance.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`, of the scans that the rules let through.
    removed
        The same for scans that they removed, by models of the fold that never saw the patient.
    lungs
        Schema `LUNGS`.
    cohort
        Schema `COHORT`.
    model
        The model that is judged.
    settings
        Of the study: the longest horizon, and the bootstrap of patients.

    Returns
    -------
    pandas.DataFrame
        A row for every rule that flagged a scan of the cohort, and one for all rules: scans `flagged` and `removed`,
        and the AUC at the longest horizon with its interval `as analysed`, with the `removed put back`, and with the
        `flagged left out` as well.
    """
    lungs = lungs[lungs["scan_id"].isin(cohort["scan_id"])].reset_index(drop=True)
    flags = lungs["flags"].fillna("").str.split()
    own, back = (table[table["model"] == model] for table in (predictions, removed))
    as_analysed = _auc(own, cohort, settings)
    rows = []
    for rule in [*sorted({name for names in flags for name in names}), ALL_RULES]:
        flagged = flags.map(bool) if rule == ALL_RULES else flags.map(lambda names, rule=rule: rule in names)
        returned = lungs.loc[returning(lungs, rule), "scan_id"]
        put_back = back[back["scan_id"].isin(returned)]
        without = own[~own["scan_id"].isin(lungs.loc[flagged, "scan_id"])]
        rows.append(
            {
                "rule": rule,
                "flagged": int(flagged.sum()),
                "removed": len(returned),
                "as analysed": as_analysed,
                "removed put back": _auc(pd.concat([own, put_back]), cohort, settings) if len(put_back) else "the same",
                "flagged left out": _auc(without, cohort, settings),
            }
        )
    return pd.DataFrame(rows).set_index("rule")


def _auc(predictions: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> str:
    judged = evaluate(predictions, cohort, settings, ["auc"])
    longest = judged.loc[judged["horizon_years"] == max(settings.horizons_years)]
    if longest.empty:
        return "no scans"
    row = longest.iloc[0]
    return f"{estimate_text(row['estimate'], row['ci_low'], row['ci_high'])}; {row['n_scans']} scans"


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
