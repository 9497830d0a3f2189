"""What acting on a risk would bring: net benefit, who is flagged at thresholds stated beforehand, and a worked example.

Each measure is given in every bootstrap sample, shape (n_samples + 1,).
"""

import numpy as np
import pandas as pd

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR
from sscct_lib.horizons.bootstrap import Flags, Floats, Outcome, interval, proportion_interval
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.metrics import observed_risk
from sscct_lib.horizons.patients import in_words, middle_horizon, outcomes, similar_patients
from sscct_lib.study.schemas import IDENTITY
from sscct_lib.study.words import estimate_text, percent_text, years_text

GRID = tuple(np.round(np.arange(0.02, 0.51, 0.02), 2))
"""Thresholds of a decision curve."""
EVERYBODY, NOBODY = "everybody", "nobody"
EXAMPLE_QUANTILE = 0.75
NOT_ESTIMABLE = "not estimable"
NAMES = (
    "example_scan", "example_risks", "example_of_100", "example_above", "example_similar", "example_outcome",
    "act_threshold", "act_price", "act_flagged", "act_found", "act_needless", "act_missed", "act_deaths",
    "act_benefit", "act_benefit_all", "act_of_flagged",
)  # fmt: skip
"""What the chapter on what to do with a risk says."""


def flagged(chosen: Flags, outcome: Outcome) -> tuple[Floats, Floats]:
    """Share of scans flagged, and Kaplan-Meier risk among them; NaN where none is followed to the horizon."""
    share = outcome.counts[:, chosen].sum(axis=1) / outcome.counts.sum(axis=1)
    among = outcome.of(chosen)
    if not chosen.any() or not among.reaches_horizon:
        return share, np.full(len(share), np.nan)
    return share, observed_risk(among)


def net_benefit(risk: Floats, outcome: Outcome, threshold: float) -> Floats:
    """Net benefit of flagging at a threshold: true positives less false ones at the threshold's odds, per scan.

    Who flags from this risk holds one missed death to be as bad as (1 - threshold) / threshold needless flags.

    References
    ----------
    Vickers AJ, Cronin AM, Elkin EB, Gonen M. Extensions to decision curve analysis, a novel method for evaluating
    diagnostic tests, prediction models and molecular markers. BMC Med Inform Decis Mak 2008;8:53.
    """
    share, among = flagged(risk >= threshold, outcome)
    benefit = share * (among - (1 - among) * threshold / (1 - threshold))
    return np.where(share == 0, 0.0, benefit)


def decision_curves(evaluation: Evaluation, models: list[str]) -> pd.DataFrame:
    """Net benefit of models, of flagging everybody and of flagging nobody, at every horizon and threshold.

    Parameters
    ----------
    models
        Names of models; the first has intervals.

    Returns
    -------
    pandas.DataFrame
        `model` (also `EVERYBODY` and `NOBODY`), `horizon_years`, `threshold`, `net_benefit`, `ci_low`, `ci_high`
        (95 %, NaN without interval), `n_scans`, `n_events`, and `family`, `network` and `variant` of the model.
        Horizons at which nothing can be estimated are absent.
    """
    without_band = evaluation.without_resamples()
    rows = []
    for model in models:
        first = model == models[0]
        for judged in (evaluation if first else without_band).horizons_of(model):
            if not judged.estimable:
                continue
            own = evaluation.identity(model)
            rows += [row | own for row in _curve(model, judged.risks, judged.outcome, with_interval=first)]
            if first:
                rows += _curve(EVERYBODY, np.ones((1, len(judged.risk))), judged.outcome, with_interval=False)
                rows += _curve(NOBODY, np.zeros((1, len(judged.risk))), judged.outcome, with_interval=False)
    columns = ["model", "horizon_years", "threshold", "net_benefit", "ci_low", "ci_high", "n_scans", "n_events"]
    return pd.DataFrame(rows, columns=[*columns, *IDENTITY]).fillna(dict.fromkeys(IDENTITY, ""))


def _curve(name: str, risks: Floats, outcome: Outcome, with_interval: bool) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    where = {"model": name, "horizon_years": outcome.horizon_years, **outcome.denominators}
    for threshold in GRID:
        samples = np.mean([net_benefit(risk, outcome, threshold) for risk in risks], axis=0)
        low, high, _ = interval(samples, outcome.degrees_of_freedom if with_interval else 0)
        rows.append({**where, "threshold": threshold, "net_benefit": samples[0], "ci_low": low, "ci_high": high})
    return rows


def threshold_table(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """What flagging from a threshold means, at the thresholds that the study stated beforehand and every horizon.

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
    rows = []
    for judged in evaluation.horizons_of(model):
        outcome = judged.outcome
        for threshold in evaluation.settings.horizons.thresholds:
            of_repeats = [flag_measures(risk, outcome, threshold) for risk in judged.risks]
            behind = pd.DataFrame([_patients_behind(risk, outcome, threshold) for risk in judged.risks]).mean()
            for measure in of_repeats[0]:
                samples = np.mean([found[measure] for found in of_repeats], axis=0)
                if measure == "net_benefit":
                    low, high, _ = interval(samples, outcome.degrees_of_freedom)
                else:
                    low, high = proportion_interval(samples, behind[measure])
                row = {"horizon_years": judged.horizon_years, "threshold": threshold, "measure": measure}
                rows.append({**row, "estimate": samples[0], "ci_low": low, "ci_high": high, **judged.counts})
    return pd.DataFrame(rows)


def flag_measures(risk: Floats, outcome: Outcome, threshold: float) -> dict[str, Floats]:
    """How well flagging at a threshold tells deaths from survivals, with censoring: each measure in each sample."""
    share, ppv = flagged(risk >= threshold, outcome)
    others, risk_of_others = flagged(risk < threshold, outcome)
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
    """Patients on whom each share rests."""
    chosen, known = risk >= threshold, ~outcome.unknown
    scans = {
        "flagged": np.ones_like(chosen),
        "sensitivity": outcome.died,
        "specificity": outcome.alive,
        "ppv": chosen & known,
        "npv": ~chosen & known,
    }
    return {measure: len(np.unique(outcome.resamples.patient[inside])) for measure, inside in scans.items()}


def example_scan(evaluation: Evaluation, model: str) -> pd.Series:
    """Choose the scan of the worked example: its risk at the middle horizon is nearest to the upper quartile.

    The rule does not look at what happened. Gives a row of the cohort with `risk`.
    """
    risk = evaluation.risk(model, middle_horizon(evaluation.settings))
    known = evaluation.cohort.assign(risk=risk).dropna(subset="risk")
    risks = known["risk"].to_numpy(dtype=float)
    return known.iloc[int(np.abs(risks - np.quantile(risks, EXAMPLE_QUANTILE)).argmin())]


def worked_example(evaluation: Evaluation, model: str) -> dict[str, str]:
    """Collect the numbers of the chapter on what to do with a risk, at the middle horizon and threshold.

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
    settings = evaluation.settings
    horizon = middle_horizon(settings)
    all_risks = evaluation.risk(model, horizon)
    all_risks = all_risks[np.isfinite(all_risks)]
    if not len(all_risks):
        return dict.fromkeys(NAMES, NOT_ESTIMABLE) | {"act_horizon": years_text(horizon), "act_model": model}
    scan = example_scan(evaluation, model)
    shown = evaluation.averaged
    risks = shown[(shown["model"] == model) & (shown["scan_id"] == scan["scan_id"])]
    found = outcomes(similar_patients(evaluation, model, scan["risk"], scan["patient_id"]), settings)
    example = {
        "example_scan": str(scan["scan_id"]),
        "example_risks": risks_in_words(risks),
        "example_of_100": f"{100 * float(scan['risk']):.0f}",
        "example_above": f"{100 * float((all_risks < scan['risk']).mean()):.0f}",
        "example_similar": in_words(found),
        "example_outcome": _outcome(scan),
        "act_horizon": years_text(horizon),
        "act_model": model,
    }
    return example | _flagging(evaluation, model, horizon)


def _outcome(scan: pd.Series) -> str:
    years = float(scan["followup_years"])
    time = f"{years:.1f} years" if years >= 1 else f"{years * DAYS_PER_YEAR:.0f} days"
    return f"died after {time}" if scan["event_observed"] else f"was alive when last seen, after {time}"


def _flagging(evaluation: Evaluation, model: str, horizon: float) -> dict[str, str]:
    thresholds = sorted(evaluation.settings.horizons.thresholds)
    threshold = thresholds[len(thresholds) // 2]
    table = threshold_table(evaluation, model)
    at = table[(table["horizon_years"] == horizon) & (table["threshold"] == threshold)].set_index("measure")
    odds = threshold / (1 - threshold)
    shares = at["estimate"].astype(float).to_dict()
    of_100, ppv, npv = (100 * shares[name] for name in ("flagged", "ppv", "npv"))
    found = 0.0 if of_100 == 0 else of_100 * ppv / 100
    missed = 0.0 if of_100 == 100 else (100 - of_100) * (100 - npv) / 100
    bounds = at[at.index == "net_benefit"][["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)
    benefit, low, high = 100 * bounds[0]
    die, die_low, die_high = 100 * at[at.index == "ppv"][["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)[0]
    everybody = found + missed - (100 - found - missed) * odds
    numbers = {"act_threshold": percent_text(threshold), "act_price": f"{1 / odds:.3g}"}
    for name, value in (
        ("act_flagged", of_100), ("act_found", found), ("act_needless", of_100 - found), ("act_missed", missed),
        ("act_deaths", found + missed),
    ):  # fmt: skip
        numbers[name] = "an unknown number" if np.isnan(value) else f"{value:.0f}"
    numbers["act_benefit"] = estimate_text(benefit, low, high, decimals=1)
    numbers["act_of_flagged"] = estimate_text(die, die_low, die_high, decimals=0)
    numbers["act_benefit_all"] = NOT_ESTIMABLE if np.isnan(everybody) else f"{everybody:.1f}"
    return numbers


def risks_in_words(risks: pd.DataFrame) -> str:
    """Write the risks of one model (`horizon_years`, `risk`) in a sentence, for readers who cannot see the page."""
    pairs = risks.sort_values("horizon_years")[["horizon_years", "risk"]].to_numpy(dtype=float)
    return ", ".join(f"{percent_text(risk)} within {years_text(years)}" for years, risk in pairs)
