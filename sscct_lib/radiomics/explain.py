"""What a model makes of its features: weights, effects on the risk, and what it would lose without a kind of them.

All is read from the elastic-net Cox models of `cross_validation.cross_validate`, named by their feature set; effects
and losses are measured on the scans that each fit never saw.
"""

import itertools as it
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.statistics import proportional_hazard_test
from numpy.typing import NDArray

from sscct_lib.horizons.bootstrap import Outcome, interval
from sscct_lib.horizons.evaluation import cohort_outcome, not_estimable, study_resamples
from sscct_lib.horizons.metrics import horizon_auc
from sscct_lib.radiomics.cross_validation import CrossValidation
from sscct_lib.radiomics.feature_sets import is_category
from sscct_lib.radiomics.pipeline import MISSING, DistinctColumns, Fit, design, prepared
from sscct_lib.study.folder import Study
from sscct_lib.study.words import feature_kind

N_BINS, MOST_FEATURES = 10, 10
DEATHS_EACH = 5  # fewest patients who died, of a category and for each column of a Cox model
Floats = NDArray[np.float64]


def feature_weights(result: CrossValidation, model: str) -> pd.DataFrame:
    """List what each fit of an elastic-net Cox model made of each feature, a row per feature and fit.

    `feature` (a column as the model sees it), `repeat`, `fold`, `coefficient` (log hazard ratio per standard deviation;
    0 where the fit did not choose it, or a filter left it out).
    """
    fits = {(repeat, fold): each for (name, repeat, fold), each in result.fits.items() if name == model}
    rows = [
        pd.Series(each.pipeline["model"].coef_, each.pipeline["scale"].get_feature_names_out(), name=where)
        for where, each in fits.items()
    ]
    if not rows:
        return pd.DataFrame(columns=["feature", "repeat", "fold", "coefficient"])
    wide = pd.concat(rows, axis=1).fillna(0.0).rename_axis(index="feature", columns=["repeat", "fold"])
    return wide.melt(ignore_index=False, value_name="coefficient").reset_index()


def leading_features(weights: pd.DataFrame, n: int = 10) -> list[str]:
    """Name the `n` features of greatest absolute mean weight, the greatest first; those of no weight are left out."""
    mean = weights.groupby("feature")["coefficient"].mean().abs()
    return [str(name) for name in mean[mean > 0].astype(float).nlargest(n).index]


def accumulated_effects(
    result: CrossValidation,
    table: pd.DataFrame,
    model: str,
    features: list[str],
    horizon_years: float,
) -> pd.DataFrame:
    """Follow the risk along each feature, among scans that the models never saw: accumulated local effects.

    Each scan's feature is moved to the two ends of the bin that it lies in, and nothing else; the mean change of risk
    within a bin, added up over the bins, is the curve, set to 0 at its mean over the scans. Other than a partial
    dependence plot, this never asks about a scan that could not exist, such as dense lungs without dense lower zones.

    Parameters
    ----------
    features
        Columns of `table`, in the order of interest: the first ten that are numbers.

    Returns
    -------
    pandas.DataFrame
        One row per feature and edge of its bins (tenths of the scans): `feature`, `value` in the feature's unit,
        `effect` on the risk (mean over the fits of all folds and repeats), `low` and `high`, between which 95 % of the
        fits lie, and `n_fits`. Empty where no fit has this horizon.

    Apley DW, Zhu J. Visualizing the effects of predictor variables in black box supervised learning models. J R Stat
    Soc B 2020;82:1059-86.
    """
    edges = {
        name: np.unique(np.nanquantile(table[name].to_numpy(float), np.linspace(0, 1, N_BINS + 1)))
        for name in features
        if name in table and not is_category(name) and table[name].notna().any()
    }
    edges = dict([(name, values) for name, values in edges.items() if len(values) > 1][:MOST_FEATURES])
    tests = [each for each in result.held_out(model) if horizon_years in each[0].horizons_years]
    curves = [_curves(fitted, table[tested], edges, horizon_years) for fitted, tested, _ in tests]
    if not curves or not edges:
        return pd.DataFrame(columns=["feature", "value", "effect", "low", "high", "n_fits"])
    frames = []
    for name, values in edges.items():
        of_fits = np.array([curve[name] for curve in curves])
        low, high = np.quantile(of_fits, [0.025, 0.975], axis=0)
        effect = {"effect": of_fits.mean(axis=0), "low": low, "high": high, "n_fits": len(curves)}
        frames.append(pd.DataFrame({"feature": name, "value": values, **effect}))
    return pd.concat(frames, ignore_index=True)


def held_out_importance(
    result: CrossValidation, table: pd.DataFrame, model: str, horizon_years: float, study: Study, n_shuffles: int = 10
) -> pd.DataFrame:
    """Measure by how much the out-of-fold AUC falls when a kind of feature is shuffled among the tested scans.

    All columns of a kind are shuffled together, by whole scans, for features that say nearly the same cover for
    each other when only one of them is. What two kinds share, either can lose without harm: small losses do not
    add up to the loss of both. Scans of the same fit are compared, and losses averaged over the repeats.

    Parameters
    ----------
    n_shuffles
        Shuffles over which the loss is averaged.

    Returns
    -------
    pandas.DataFrame
        One row per kind, the largest loss first: `kind` in words, `n_features`, `loss` of AUC, `ci_low`, `ci_high` (95
        %, by bootstrap of patients), `n_scans`, `n_events`. Empty where the AUC cannot be estimated, or no repeat gives
        every scan a risk.

    Breiman L. Random forests. Mach Learn 2001;45:5-32. Gregorutti B, Michel B, Saint-Pierre P. Grouped variable
    importance with random forests. Comput Stat Data Anal 2015;90:15-35.
    """
    columns = ["kind", "n_features", "loss", "ci_low", "ci_high", "n_scans", "n_events"]
    outcome = cohort_outcome(table, horizon_years, study_resamples(table, study.settings), study.settings.labels)
    tests: dict[int, list[HeldOut]] = {}
    for fitted, tested, repeat in result.held_out(model):
        if horizon_years in fitted.horizons_years:
            tests.setdefault(repeat, []).append(_held_out(fitted, table, tested, horizon_years))
    repeats = [fits for fits in tests.values() if np.any([test.scans for test in fits], axis=0).all()]
    if not repeats or not_estimable(outcome):
        return pd.DataFrame(columns=columns)
    rng = np.random.default_rng(study.settings.seed)
    whole = _auc(repeats, "", rng, outcome)
    names = {name for fitted, *_ in result.held_out(model) for name in fitted.columns}
    seen = {kind for fits in repeats for test in fits for kind in test.kinds}
    rows = []
    for kind, n_features in pd.Series([feature_kind(name) for name in sorted(names)]).value_counts().items():
        shuffles = n_shuffles if kind in seen else 1  # of a kind that no model uses, one shuffle tells all
        shuffled = [_auc(repeats, str(kind), rng, outcome) for _ in range(shuffles)]
        loss = whole - np.mean(shuffled, axis=0)
        bounds = interval(loss, outcome.degrees_of_freedom)
        counts = int((outcome.died | outcome.alive).sum()), int(outcome.died.sum())
        rows.append((kind, n_features, float(loss[0]), bounds.low, bounds.high, *counts))
    return pd.DataFrame(rows, columns=columns).sort_values("loss", ascending=False, ignore_index=True)


class HeldOut(NamedTuple):
    """A fit and the scans that it never saw."""

    scans: NDArray[np.bool_]  # which of all, shape (n,)
    columns: Floats  # of these scans, as the model sees them
    kinds: NDArray[np.str_]  # of the columns
    model: Any
    place: int  # of the horizon among its risks


def proportional_hazards(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Test whether hazard ratios stay the same over follow-up, as a Cox model assumes, by scaled Schoenfeld residuals.

    An unpenalised Cox model is fitted on the first scan of each patient, since the test takes scans as independent.
    Missing numbers are the median; the first of several categories, and those of few deaths, are what others are held
    against.

    Parameters
    ----------
    table
        From `feature_sets.join`.
    columns
        Of clinical values, from `feature_sets.clinical_columns`; those without values are left out, and of two that say
        nearly the same the second.

    Returns
    -------
    pandas.DataFrame
        One row a column as the model sees it: `feature`, `hazard_ratio` (of one standard deviation), `chi2`, `p`,
        `grows` (whether its effect grows with time; else it fades), `n_patients`, `n_events`. No rows with fewer than
        five patients who died for each.

    Grambsch PM, Therneau TM. Proportional hazards tests and diagnostics based on weighted residuals. Biometrika
    1994;81:515-26.
    """
    first = table.sort_values("scan_day", kind="stable").groupby("patient_id").head(1).reset_index(drop=True)
    died = first["event_observed"].astype(bool)
    seen = _columns_of_cox(first, columns, died)
    n_died, names = int(died.sum()), ["feature", "hazard_ratio", "chi2", "p", "grows", "n_patients", "n_events"]
    if seen.empty or n_died < DEATHS_EACH * seen.shape[1]:
        return pd.DataFrame(columns=names)
    frame = seen.assign(years=first["followup_years"].astype(float), died=died)
    fitted = CoxPHFitter().fit(frame, "years", "died")
    tested = proportional_hazard_test(fitted, frame, time_transform="km").summary.loc[list(seen)]
    residuals = fitted.compute_residuals(frame, "scaled_schoenfeld")[list(seen)]
    trend = residuals.corrwith(frame["years"].loc[residuals.index].rank()) * fitted.params_[list(seen)]
    ratios, (chi2, p) = np.exp(fitted.params_[list(seen)]), (tested[name] for name in ("test_statistic", "p"))
    rows = zip(seen, ratios, chi2, p, trend > 0, strict=True)
    return pd.DataFrame([(*row, len(first), n_died) for row in rows], columns=names)


def _columns_of_cox(scans: pd.DataFrame, columns: Sequence[str], died: "pd.Series[bool]") -> pd.DataFrame:
    """Clinical values as an unpenalised Cox model can take them, standardised."""
    scans = design(scans, columns, harmonised=False)
    numbers, named = scans[[*it.filterfalse(is_category, columns)]], scans[[*filter(is_category, columns)]]
    groups = pd.get_dummies(named.fillna(MISSING), drop_first=True, dtype=float)
    enough = (groups[died].sum() >= DEATHS_EACH) & ((1 - groups[died]).sum() >= DEATHS_EACH)
    seen = numbers.fillna(numbers.median()).join(groups.loc[:, enough])
    seen = seen.loc[:, seen.std() > 0]
    return seen if seen.empty else DistinctColumns().fit_transform((seen - seen.mean()) / seen.std())


def _curves(fitted: Fit, table: pd.DataFrame, edges: dict[str, Floats], horizon_years: float) -> dict[str, Floats]:
    """Accumulate the effects of one fit on the scans that it never saw, all features in one prediction."""
    moved, places = [], {}
    for name, values in edges.items():
        known = table[table[name].notna()]
        place = np.clip(np.searchsorted(values, known[name], side="left"), 1, len(values) - 1)
        places[name] = place
        moved += [known.assign(**{name: values[place - 1]}), known.assign(**{name: values[place]})]
    if not moved:
        return {}
    risk = fitted.risks(pd.concat(moved))[:, fitted.horizons_years.index(horizon_years)]
    curves, start = {}, 0
    for name, values in edges.items():
        place, n = places[name], len(places[name])
        change = risk[start + n : start + 2 * n] - risk[start : start + n]
        start += 2 * n
        n_in_bin = np.bincount(place, minlength=len(values))[1:]
        mean = np.bincount(place, change, minlength=len(values))[1:] / np.maximum(n_in_bin, 1)
        curve = np.concatenate([[0.0], np.cumsum(mean)])
        middle = (curve[1:] + curve[:-1]) / 2
        curves[name] = curve - (middle @ n_in_bin / n_in_bin.sum() if n_in_bin.sum() else 0.0)
    return curves


def _held_out(fitted: Fit, table: pd.DataFrame, tested: NDArray[np.bool_], horizon_years: float) -> HeldOut:
    columns = prepared(fitted.pipeline, design(table[tested], fitted.columns, fitted.harmonised))
    kinds = np.array([feature_kind(str(name)) for name in columns])
    place = fitted.horizons_years.index(horizon_years)
    return HeldOut(tested, columns.to_numpy(), kinds, fitted.pipeline["model"], place)


def _auc(repeats: list[list[HeldOut]], kind: str, rng: np.random.Generator, outcome: Outcome) -> Floats:
    """AUC within fits in every sample, mean over repeats, after shuffling columns of a kind among the tested scans."""
    found = []
    for tests in repeats:
        risk, fit = np.empty(len(outcome.died)), np.empty(len(outcome.died), dtype=np.int64)
        for number, test in enumerate(tests):
            chosen = test.kinds == kind
            shuffled = test.columns.copy()
            shuffled[:, chosen] = test.columns[rng.permutation(len(shuffled))][:, chosen]
            risk[test.scans], fit[test.scans] = test.model.predict(shuffled)[:, test.place], number
        found.append(np.concatenate([horizon_auc(risk, block, fit) for block in outcome.in_blocks()]))
    return np.asarray(np.mean(found, axis=0))
