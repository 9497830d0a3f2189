"""What acting on a risk would bring: net benefit, and who is flagged at thresholds stated beforehand."""

import numpy as np
import pandas as pd

from sscct_lib.bootstrap import Floats, Outcome, interval, proportion_interval
from sscct_lib.horizons import cohort_outcome, judged_risks, not_estimable, study_resamples
from sscct_lib.metrics import observed_risk
from sscct_lib.study import Settings

GRID = tuple(np.round(np.arange(0.02, 0.51, 0.02), 2))
"""Thresholds of a decision curve."""
EVERYBODY, NOBODY = "everybody", "nobody"


def flagged(risk: Floats, outcome: Outcome, threshold: float) -> tuple[Floats, Floats]:
    """Flag the scans whose risk reaches a threshold, and find how many of them die.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.
    threshold
        Risk from which a scan is flagged.

    Returns
    -------
    share : numpy.ndarray
        Share of scans flagged in each sample, shape (n_samples + 1,).
    risk_among_flagged : numpy.ndarray
        Kaplan-Meier risk of death within the horizon among them, same shape; NaN where none is flagged or none is
        followed to the horizon.
    """
    chosen = risk >= threshold
    share = outcome.counts[:, chosen].sum(axis=1) / outcome.counts.sum(axis=1)
    among = outcome.of(chosen)
    if not chosen.any() or not among.reaches_horizon:
        return share, np.full(len(share), np.nan)
    return share, observed_risk(among)


def net_benefit(risk: Floats, outcome: Outcome, threshold: float) -> Floats:
    """Net benefit of flagging at a threshold: true positives less false ones at the threshold's odds, per scan.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.
    threshold
        Between 0 and 1; a clinician who flags from this risk holds one missed death to be as bad as
        (1 - threshold) / threshold needless flags.

    Returns
    -------
    numpy.ndarray
        In each sample, shape (n_samples + 1,); 0 where nobody is flagged.

    References
    ----------
    Vickers AJ, Cronin AM, Elkin EB, Gonen M. Extensions to decision curve analysis, a novel method for evaluating
    diagnostic tests, prediction models and molecular markers. BMC Med Inform Decis Mak 2008;8:53.
    """
    share, among = flagged(risk, outcome, threshold)
    benefit = share * (among - (1 - among) * threshold / (1 - threshold))
    return np.where(share == 0, 0.0, benefit)


def decision_curves(
    predictions: pd.DataFrame, cohort: pd.DataFrame, models: list[str], settings: Settings
) -> pd.DataFrame:
    """Net benefit of models, of flagging everybody and of flagging nobody, at every horizon and threshold.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    models
        Names of models; the first has intervals.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        `model` (also `EVERYBODY` and `NOBODY`), `horizon_years`, `threshold`, `net_benefit`, `ci_low`, `ci_high`
        (95 %, NaN without interval), `n_scans`, `n_events`. Horizons at which nothing can be estimated are absent.
    """
    resamples = study_resamples(cohort, settings)
    rows = []
    for model in models:
        for horizon, risk, judged in judged_risks(predictions, cohort, model, settings):
            samples = resamples.of(judged) if model == models[0] else resamples.of(judged).study_only()
            outcome = cohort_outcome(cohort[judged], horizon, samples, settings.labels)
            if not_estimable(outcome):
                continue
            strategies = {model: risk[judged]}
            if model == models[0]:
                strategies |= {EVERYBODY: np.ones(judged.sum()), NOBODY: np.zeros(judged.sum())}
            for name, flags in strategies.items():
                rows += _curve(name, flags, outcome, with_interval=name == models[0])
    columns = ["model", "horizon_years", "threshold", "net_benefit", "ci_low", "ci_high", "n_scans", "n_events"]
    return pd.DataFrame(rows, columns=columns)


def _curve(name: str, risk: Floats, outcome: Outcome, with_interval: bool) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for threshold in GRID:
        samples = net_benefit(risk, outcome, threshold)
        low, high, _ = interval(samples, outcome.degrees_of_freedom if with_interval else 0)
        rows.append(
            {
                "model": name,
                "horizon_years": outcome.horizon_years,
                "threshold": threshold,
                "net_benefit": samples[0],
                "ci_low": low,
                "ci_high": high,
                "n_scans": len(risk),
                "n_events": int(outcome.died.sum()),
            }
        )
    return rows


def threshold_table(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.DataFrame:
    """What flagging from a threshold means, at the study's thresholds and every horizon.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Name of the model.
    settings
        Of the study; `horizons.thresholds` are stated before results are seen.

    Returns
    -------
    pandas.DataFrame
        One row a horizon, threshold and `measure` (`flagged`, `sensitivity`, `specificity`, `ppv`, `npv`, each a
        share, and `net_benefit`): `estimate`, `ci_low`, `ci_high` (95 %), `n_scans`, `n_patients`, `n_events`,
        `n_unknown`. NaN where nobody, or everybody, is flagged or too short a follow-up leaves it unknown.

    References
    ----------
    Heagerty PJ, Lumley T, Pepe MS. Time-dependent ROC curves for censored survival data and a diagnostic marker.
    Biometrics 2000;56:337-44 (the Kaplan-Meier form).
    """
    resamples = study_resamples(cohort, settings)
    rows = []
    for horizon, risk, judged in judged_risks(predictions, cohort, model, settings):
        outcome = cohort_outcome(cohort[judged], horizon, resamples.of(judged), settings.labels)
        counted = {
            "n_scans": int(judged.sum()),
            "n_patients": cohort["patient_id"][judged].nunique(),
            "n_events": int(outcome.died.sum()),
            "n_unknown": int(outcome.unknown.sum()),
        }
        for threshold in settings.horizons.thresholds:
            behind = _patients_behind(risk[judged], outcome, threshold)
            for measure, samples in flag_measures(risk[judged], outcome, threshold).items():
                if measure == "net_benefit":
                    low, high, _ = interval(samples, outcome.degrees_of_freedom)
                else:
                    low, high = proportion_interval(samples, behind[measure])
                row = {"horizon_years": horizon, "threshold": threshold, "measure": measure, "estimate": samples[0]}
                rows.append({**row, "ci_low": low, "ci_high": high, **counted})
    return pd.DataFrame(rows)


def flag_measures(risk: Floats, outcome: Outcome, threshold: float) -> dict[str, Floats]:
    """How well flagging at a threshold tells deaths from survivals, with censoring.

    Parameters
    ----------
    risk
        Predicted probability of death within the horizon, shape (n,).
    outcome
        From `bootstrap.horizon_outcome`.
    threshold
        Risk from which a scan is flagged.

    Returns
    -------
    dict
        `flagged`, `sensitivity`, `specificity`, `ppv`, `npv`, `net_benefit`, each in each sample.
    """
    share, ppv = flagged(risk, outcome, threshold)
    others, risk_of_others = flagged(-risk, outcome, np.nextafter(-threshold, np.inf))
    # Nobody flagged finds no death; nobody left over misses none.
    found, missed = np.where(share > 0, share * ppv, 0.0), np.where(others > 0, others * risk_of_others, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "flagged": share,
            "sensitivity": found / (found + missed),
            "specificity": (others - missed) / (1 - found - missed),
            "ppv": ppv,
            "npv": 1 - risk_of_others,
            "net_benefit": net_benefit(risk, outcome, threshold),
        }


def _patients_behind(risk: Floats, outcome: Outcome, threshold: float) -> dict[str, int]:
    chosen, known = risk >= threshold, ~outcome.unknown
    scans = {
        "flagged": np.ones_like(chosen),
        "sensitivity": outcome.died,
        "specificity": outcome.alive,
        "ppv": chosen & known,
        "npv": ~chosen & known,
    }
    return {measure: len(np.unique(outcome.resamples.patient[inside])) for measure, inside in scans.items()}
