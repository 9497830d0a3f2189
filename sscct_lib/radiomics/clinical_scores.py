"""Baselines that clinicians know: age and sex, lung function, the GAP, ILD-GAP and SADL points, and Goh's stage."""

from collections.abc import Collection
from itertools import product

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sscct_lib.cohort.outcomes import Floats, known_outcomes, survival_outcome
from sscct_lib.horizons.evaluation import never_falling
from sscct_lib.radiomics.pipeline import design, imputation
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.words import years_text

POINTS, GAP_POINTS, SADL_POINTS, EXTENSIVE = "ild_gap_points", "gap_points", "sadl_points", "goh_extensive"
PENALTY = 1e-3  # of the squared weights, per unit of scan weight

CTD_ILD_POINTS = -2
DLCO_IMPOSSIBLE_POINTS = 3
EVER_SMOKED = "group_ever-smoked"  # a covariate that the study declares

# Scores with published risks of death: the score, the points from which the next risk holds, the risks by horizon.
PUBLISHED: dict[str, tuple[str, tuple[int, ...], dict[float, tuple[float, ...]]]] = {
    # For points up to 1, 2 to 3, 4 to 5, and above 5.
    "ILD-GAP (published risks)": (
        POINTS,
        (2, 4, 6),
        {1.0: (0.031, 0.088, 0.182, 0.335), 2.0: (0.066, 0.180, 0.350, 0.589), 3.0: (0.102, 0.269, 0.492, 0.748)},
    ),
    # For stages I (0 to 3 points), II (4 to 5) and III (6 to 8).
    "GAP (published risks)": (
        GAP_POINTS,
        (4, 6),
        {1.0: (0.056, 0.162, 0.392), 2.0: (0.109, 0.299, 0.621), 3.0: (0.163, 0.421, 0.768)},
    ),
}

EXTENT = "qct_high_attenuation_share"
LIMITED_BELOW, EXTENSIVE_ABOVE = 0.10, 0.30  # shares of the lung; between them FVC decides
FVC_PERCENT = 70.0  # extensive below it
MIDDLE = 0.20  # decides where FVC is not known


def predict(table: pd.DataFrame, study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give each scan the risks of the baselines, schema `PREDICTIONS`, learned in the training folds.

    Parameters
    ----------
    table
        From `feature_sets.join`; the folds are the cohort's.

    Returns
    -------
    predictions : pandas.DataFrame
        Schema `PREDICTIONS`. The scores of `SCORES` are absent for scans without them, and rank scans by themselves:
        the risk learned from a score serves its size alone. Those of `PUBLISHED` have no learned risk; they are
        absent at horizons that were not published.
    notes : pandas.DataFrame
        What could not be fitted: `model`, `horizon_years`, `fold`, `note`.
    """
    scored = with_scores(table)
    horizons = study.settings.horizons_years
    rows = [
        _rows(scored, model, years, published_risk(model, scored[PUBLISHED[model][0]], years), PUBLISHED[model][0])
        for model, years in product(PUBLISHED, horizons)
    ]
    notes = []
    for model, years, fold in product(baselines(set(map(str, table))), horizons, sorted(scored["fold"].unique())):
        score, _ = SCORES.get(model, ("", None))
        known = scored[scored[score].notna()] if score else scored
        tested = known[known["fold"] == fold]
        risk = _learned_risk(known[known["fold"] != fold], tested, model, years, study)
        if isinstance(risk, str):
            notes.append((model, years, fold, risk))
        else:
            rows.append(_rows(tested, model, years, risk, score))
    predictions = never_falling(pd.concat(rows, ignore_index=True).dropna(subset="risk"))
    return (
        PREDICTIONS.validate(predictions),
        pd.DataFrame(notes, columns=["model", "horizon_years", "fold", "note"]),
    )


def baselines(columns: Collection[str]) -> list[str]:
    """The models of `MODELS` for which a cohort with these columns of its own is asked."""
    return [model for model in MODELS if model != "SADL" or EVER_SMOKED in columns]


def _learned_risk(
    training: pd.DataFrame, tested: pd.DataFrame, model: str, horizon_years: float, study: Study
) -> Floats | str:
    """Risk of the tested scans (n,), or why there is none."""
    if tested.empty:
        return "no tested scan has a value in every column of this score"
    columns = [name for name in MODELS[model] if name in training and training[name].notna().any()]
    if not columns:
        return "no training scan has a value in any column of this model"
    outcome = survival_outcome(training["followup_years"].to_numpy(float), training["event_observed"].to_numpy(bool))
    died, weight = known_outcomes(outcome, horizon_years, study.settings.labels)
    known = weight > 0
    if len(set(died[known])) < 2:
        return f"no training scan died within {years_text(horizon_years)}, or none is known to be alive then"
    # Almost no penalty: it only keeps the risk finite where no training scan of one stage died.
    model_of_columns = LogisticRegression(C=1 / (PENALTY * weight.sum()))
    pipeline = make_pipeline(imputation(columns), StandardScaler(), model_of_columns)
    seen = design(training[known], columns, harmonised=False)
    pipeline.fit(seen, died[known], logisticregression__sample_weight=weight[known])
    return np.asarray(pipeline.predict_proba(design(tested, columns, harmonised=False))[:, 1])


def _rows(scans: pd.DataFrame, model: str, horizon_years: float, risk: Floats, score: str) -> pd.DataFrame:
    kept = scans[["scan_id", "patient_id", "fold"]]
    value = scans[score].to_numpy() if score else np.nan
    return kept.assign(model=model, horizon_years=horizon_years, repeat=0, risk=risk, score=value)


def with_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of `SCORES`, and the points of GAP, to a table of scans."""
    return pd.concat([table, gap_points(table), *(score(table) for _, score in SCORES.values())], axis=1)


def gap_points(table: pd.DataFrame) -> pd.Series:
    """GAP index of sex, age, FVC and DLCO, 0 to 8; NaN where a part is missing. Stages: to 3 I, to 5 II, then III.

    Ley B, et al. A multidimensional index and staging system for idiopathic pulmonary fibrosis. Ann Intern Med
    2012;156:684-91.
    """
    age, fvc, dlco, impossible = _numbers(table, "age_years", "fvc_percent", "dlco_percent", "dlco_impossible")
    points = (
        table["sex"].map({"female": 0.0, "male": 1.0}).to_numpy(dtype=float)
        + _points(np.floor(age), (61, 66))  # completed years: 61 to 65 1, above 65 2
        + _points(-fvc, (-75, np.nextafter(-50, 0)))  # 50 to 75 % predicted 1, below 50 2
        # 36 to 55 % 1, up to 35 2, and 3 where the lungs were too ill for it to be measured. A DLCO that is merely
        # absent says nothing of the lungs: as with any other missing value there is then no index.
        + np.where(impossible == 1, DLCO_IMPOSSIBLE_POINTS, _points(-dlco, (-55, -35)))
    )
    return pd.Series(points, index=table.index, name=GAP_POINTS)


def ild_gap_points(table: pd.DataFrame) -> pd.Series:
    """ILD-GAP index of lung disease that comes with connective tissue disease, -2 to 6: the points of GAP, less 2.

    Ryerson CJ, et al. Predicting survival across chronic interstitial lung disease. Chest 2014;145:723-8.
    """
    return (gap_points(table) + CTD_ILD_POINTS).rename(POINTS)


def sadl_points(table: pd.DataFrame) -> pd.Series:
    """SADL points of smoking, age and DLCO, 0 to 7; NaN where a part is missing, as a DLCO that was impossible is.

    Low risk up to 3, moderate 4 to 5, high from 6. Morisset J, et al. Mortality risk prediction in scleroderma-related
    interstitial lung disease: the SADL model. Chest 2017;152:999-1007.
    """
    age, dlco = _numbers(table, "age_years", "dlco_percent")
    smoked = table.get(EVER_SMOKED, pd.Series(None, index=table.index, dtype=object))
    low_dlco = _points(-dlco, (-60, np.nextafter(-40, 0)))
    points = (
        smoked.map({"no": 0.0, "yes": 1.0}).to_numpy(dtype=float)
        + _points(np.floor(age), (55, 71))  # completed years: 55 to 70 1, above 70 2
        + np.where(low_dlco > 0, low_dlco + 2, low_dlco)  # 40 to 60 % predicted 3, below 40 4
    )
    return pd.Series(points, index=table.index, name=SADL_POINTS)


def _numbers(table: pd.DataFrame, *columns: str) -> list[Floats]:
    named = table.reindex(columns=list(columns))
    return [named[name].to_numpy(dtype=float, na_value=np.nan) for name in columns]


def _points(values: Floats, from_which: tuple[float, float]) -> Floats:
    """0, 1 or 2 points: one for each limit that a value reaches."""
    points = (values[:, None] >= np.array(from_which)).sum(axis=1).astype(float)
    return np.where(np.isnan(values), np.nan, points)


def published_risk(model: str, points: pd.Series, horizon_years: float) -> Floats:
    """Published risk of death (n,) of a model of `PUBLISHED`; NaN without points or for another horizon."""
    _, from_which, by_horizon = PUBLISHED[model]
    risks = np.array(by_horizon.get(horizon_years, (np.nan,) * (len(from_which) + 1)))
    index = points.to_numpy(dtype=float)
    return np.where(np.isnan(index), np.nan, risks[np.searchsorted(from_which, np.nan_to_num(index), side="right")])


def goh_extensive(table: pd.DataFrame) -> pd.Series:
    """Goh's stage of lung disease in systemic sclerosis: 1 extensive, 0 limited, NaN without an extent.

    HAA stands in for a radiologist's reading and is not the same: vessels and the dependent lung
    are dense too, so that a healthy lung is not at 0, and thin reticulation may not count. Goh NSL, et al. Interstitial
    lung disease in systemic sclerosis: a simple staging system. Am J Respir Crit Care Med 2008;177:1248-54.
    """
    values = table.reindex(columns=[EXTENT, "fvc_percent"]).astype(float)
    extent, fvc = values[EXTENT], values["fvc_percent"]
    between = np.where(fvc.isna(), extent > MIDDLE, fvc < FVC_PERCENT)
    extensive = np.where((extent < LIMITED_BELOW) | (extent > EXTENSIVE_ABOVE), extent > EXTENSIVE_ABOVE, between)
    return pd.Series(extensive.astype(float), index=table.index, name=EXTENSIVE).where(extent.notna())


# GAP is none of them: every patient having 2 points more of it than of ILD-GAP, it would give the same order and risk.
SCORES = {
    "ILD-GAP": (POINTS, ild_gap_points),
    "SADL": (SADL_POINTS, sadl_points),
    "Goh stage": (EXTENSIVE, goh_extensive),
}
# The columns that each baseline sees; its risk is learned in the training folds, for a score is no probability. What
# is ranked is the score itself: refitted by fold and imputed where a part is missing, it would be handicapped.
MODELS = {
    "Age and sex": ["age_years", "sex"],
    "FVC and DLCO": ["fvc_percent", "dlco_percent"],
    **{name: [column] for name, (column, _) in SCORES.items()},
}
