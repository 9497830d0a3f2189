"""What acting on a risk would bring: net benefit, and who is flagged at thresholds stated beforehand.

What a risk means for one patient and for a clinic, in whole numbers, from the run.
"""

import numpy as np
import pandas as pd

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR
from sscct_lib.horizons.bootstrap import Floats, Outcome, interval, proportion_interval
from sscct_lib.horizons.evaluate import aligned_risk, cohort_outcome, judged_risks, not_estimable, study_resamples
from sscct_lib.horizons.metrics import observed_risk
from sscct_lib.horizons.patients import in_words, middle_horizon, outcomes, similar_patients
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import estimate_text, percent_text, years_text

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


EXAMPLE_QUANTILE = 0.75
NOT_ESTIMABLE = "not estimable"
NAMES = (
    "example_scan", "example_risks", "example_of_100", "example_above", "example_similar", "example_outcome",
    "act_threshold", "act_price", "act_flagged", "act_found", "act_needless", "act_missed", "act_deaths",
    "act_benefit", "act_benefit_all", "act_of_flagged",
)  # fmt: skip
"""What the chapter on what to do with a risk says."""


def example_scan(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.Series:
    """Choose the scan of the worked example, by a rule that does not look at what happened.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Whose risks.
    settings
        Of the study: horizons.

    Returns
    -------
    pandas.Series
        A row of the cohort with `risk`: the scan whose risk at the middle horizon is nearest to the upper quartile.
    """
    known = cohort.assign(risk=aligned_risk(predictions, cohort, model, middle_horizon(settings))).dropna(subset="risk")
    risks = known["risk"].to_numpy(dtype=float)
    return known.iloc[int(np.abs(risks - np.quantile(risks, EXAMPLE_QUANTILE)).argmin())]


def worked_example(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> dict[str, str]:
    """Collect the numbers of the chapter on what to do with a risk.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    model
        Whose risks.
    settings
        Of the study: horizons and thresholds; the middle ones are used.

    Returns
    -------
    dict
        For the example: `example_scan`, `example_risks`, `example_of_100`, `example_above` (of 100 scans, how many have
        a lower risk), `example_similar`, `example_outcome`. For flagging 100 scans like those of the cohort:
        `act_threshold`, `act_horizon`, `act_flagged`, `act_found`, `act_needless`, `act_deaths`, `act_price` (how many
        needless flags a found death is worth at this threshold), `act_of_flagged` (of 100 flagged, how many die),
        `act_benefit` and `act_benefit_all`, in words. All of
        these are "not estimable" where the model has no risk at the middle horizon.
    """
    horizon = middle_horizon(settings)
    if not np.isfinite(aligned_risk(predictions, cohort, model, horizon)).any():
        return dict.fromkeys(NAMES, NOT_ESTIMABLE) | {"act_horizon": years_text(horizon), "act_model": model}
    scan = example_scan(predictions, cohort, model, settings)
    risks = predictions[(predictions["model"] == model) & (predictions["scan_id"] == scan["scan_id"])]
    all_risks = aligned_risk(predictions, cohort, model, horizon)
    lower = all_risks[np.isfinite(all_risks)] < scan["risk"]
    found = outcomes(similar_patients(predictions, cohort, model, scan["risk"], settings, scan["patient_id"]), settings)
    example = {
        "example_scan": str(scan["scan_id"]),
        "example_risks": risks_in_words(risks),
        "example_of_100": f"{100 * float(scan['risk']):.0f}",
        "example_above": f"{100 * float(lower.mean()):.0f}",
        "example_similar": in_words(found),
        "example_outcome": _outcome(scan),
        "act_horizon": years_text(horizon),
        "act_model": model,
    }
    return example | _flagging(predictions, cohort, model, settings, horizon)


def _outcome(scan: pd.Series) -> str:
    years = float(scan["followup_years"])
    time = f"{years:.1f} years" if years >= 1 else f"{years * DAYS_PER_YEAR:.0f} days"
    return f"died after {time}" if scan["event_observed"] else f"was alive when last seen, after {time}"


def _flagging(
    predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings, horizon: float
) -> dict[str, str]:
    thresholds = sorted(settings.horizons.thresholds)
    threshold = thresholds[len(thresholds) // 2]
    table = threshold_table(predictions, cohort, model, settings)
    at = table[(table["horizon_years"] == horizon) & (table["threshold"] == threshold)].set_index("measure")
    odds = threshold / (1 - threshold)
    shares = at["estimate"].astype(float).to_dict()
    flagged, ppv, npv = (100 * shares[name] for name in ("flagged", "ppv", "npv"))
    found = 0.0 if flagged == 0 else flagged * ppv / 100
    missed = 0.0 if flagged == 100 else (100 - flagged) * (100 - npv) / 100
    interval = at[at.index == "net_benefit"][["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)
    benefit, low, high = 100 * interval[0]
    die, die_low, die_high = 100 * at[at.index == "ppv"][["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)[0]
    everybody = found + missed - (100 - found - missed) * odds
    numbers: dict[str, str] = {
        "act_threshold": percent_text(threshold),
        "act_price": f"{1 / odds:.3g}",
    }
    for name, value in (
        ("act_flagged", flagged), ("act_found", found), ("act_needless", flagged - found), ("act_missed", missed),
        ("act_deaths", found + missed),
    ):  # fmt: skip
        numbers[name] = "an unknown number" if np.isnan(value) else f"{value:.0f}"
    numbers["act_benefit"] = estimate_text(benefit, low, high, decimals=1)
    numbers["act_of_flagged"] = estimate_text(die, die_low, die_high, decimals=0)
    numbers["act_benefit_all"] = NOT_ESTIMABLE if np.isnan(everybody) else f"{everybody:.1f}"
    return numbers


def risks_in_words(risks: pd.DataFrame) -> str:
    """Write the risks of one model in a sentence, for readers who cannot see the page.

    Parameters
    ----------
    risks
        `horizon_years`, `risk`, of one model.

    Returns
    -------
    str
    """
    pairs = risks.sort_values("horizon_years")[["horizon_years", "risk"]].to_numpy(dtype=float)
    return ", ".join(f"{percent_text(risk)} within {years_text(years)}" for years, risk in pairs)
