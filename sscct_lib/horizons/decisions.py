"""What acting on a risk would bring: net benefit, who is flagged at thresholds stated beforehand, and a worked example.

Each measure is given in every bootstrap sample, shape (n_samples + 1,).
"""

from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.horizons.bootstrap import Flags, Floats, Interval, Outcome, interval, proportion_interval
from sscct_lib.horizons.evaluation import COUNTS, Evaluation, Judged
from sscct_lib.horizons.metrics import observed_risk
from sscct_lib.horizons.patients import in_words, middle_horizon, outcomes, similar_patients
from sscct_lib.study.disclosure import is_small, quarters_text
from sscct_lib.study.schemas import IDENTITY
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import NOT_ESTIMABLE, estimate_text, percent_text, years_text

GRID = tuple(np.round(np.arange(0.02, 0.41, 0.02), 2))
"""Thresholds of a decision curve."""
EVERYBODY, NOBODY = "everybody", "nobody"
EXAMPLE_QUANTILE = 0.75
NAMES = (
    "example_scan", "example_risks", "example_of_100", "example_above", "example_similar", "example_outcome",
    "act_threshold", "act_price", "act_flagged", "act_found", "act_needless", "act_missed", "act_deaths",
    "act_benefit", "act_benefit_all", "act_gain_all", "act_of_flagged",
)  # fmt: skip
"""What the chapter on what to do with a risk says."""


def flagged(chosen: Flags, outcome: Outcome) -> tuple[Floats, Floats]:
    """Share of scans flagged, and Kaplan-Meier risk among them; NaN where none is followed to the horizon."""
    among = outcome.of(chosen)
    share = among.counts.sum(axis=1) / outcome.counts.sum(axis=1)
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
    return _benefit(*flagged(risk >= threshold, outcome), threshold)


def _benefit(share: Floats, among: Floats, threshold: float) -> Floats:
    return np.where(share == 0, 0.0, share * (among - (1 - among) * threshold / (1 - threshold)))


def _benefits(judged: Judged, strategy: str = "") -> Floats:
    """Net benefit at each threshold of `GRID` in every sample: of a model, or of a strategy on the same scans."""
    if strategy == NOBODY:
        return np.zeros((len(GRID), len(judged.outcome.counts)))
    if strategy == EVERYBODY:
        all_scans = flagged(np.ones(len(judged.risk), dtype=bool), judged.outcome)
        return np.array([_benefit(*all_scans, threshold) for threshold in GRID])
    of_repeats = [[net_benefit(risk, judged.outcome, threshold) for threshold in GRID] for risk in judged.risks]
    return np.asarray(np.mean(of_repeats, axis=0))


def decision_curves(evaluation: Evaluation, models: list[str]) -> pd.DataFrame:
    """Net benefit of models, of flagging everybody and of flagging nobody, at every horizon and threshold.

    What decides is how much more the first model brings than another way. That is measured in the same samples and on
    the same scans, since the error of both has much in common, and the interval of either alone tells nothing of it.

    Parameters
    ----------
    models
        Names of models; the first is compared with the others, with flagging everybody and with flagging nobody.

    Returns
    -------
    pandas.DataFrame
        `model` (also `EVERYBODY` and `NOBODY`), `horizon_years`, `threshold`, `net_benefit`, and how much more the
        first model brings: `gain`, `gain_low`, `gain_high` (95 %), NaN for itself; the counts of `COUNTS`, and
        `family`, `network` and `variant` of the model. Horizons at which nothing can be estimated are absent.
    """
    first, rows = models[0], []
    for judged in evaluation.horizons_of(first):
        if not judged.estimable:
            continue
        own = _benefits(judged)
        rows += _curve(first, judged, own) + [
            row for name in (EVERYBODY, NOBODY) for row in _curve(name, judged, _benefits(judged, name), own)
        ]
        for other in models[1:]:
            same, its = evaluation.pair(first, other, judged.horizon_years)
            if its.estimable:
                rows += _curve(other, its, _benefits(its), _benefits(same))
    columns = ["model", "horizon_years", "threshold", "net_benefit", "gain", "gain_low", "gain_high"]
    identities = [evaluation.identity(row["model"]) if row["model"] in models else {} for row in rows]
    table = [row | identity for row, identity in zip(rows, identities, strict=True)]
    return pd.DataFrame(table, columns=[*columns, *COUNTS, *IDENTITY]).fillna(dict.fromkeys(IDENTITY, ""))


def _curve(name: str, judged: Judged, benefits: Floats, of_first: Floats | None = None) -> list[dict[str, Any]]:
    where = {"model": name, "horizon_years": judged.horizon_years, **judged.counts}
    rows = []
    for i, threshold in enumerate(GRID):
        gain = np.full(1, np.nan) if of_first is None else of_first[i] - benefits[i]
        low, high, _ = gain_interval(gain, judged.outcome)
        gains = {"gain": gain[0], "gain_low": low, "gain_high": high}
        rows.append({**where, "threshold": threshold, "net_benefit": benefits[i, 0], **gains})
    return rows


def gain_interval(gain: Floats, outcome: Outcome) -> Interval:
    """Interval of a difference in net benefit; 0 to 0 where both ways flag the same scans in every sample."""
    if np.isfinite(gain).all() and not gain.any():
        return Interval(0.0, 0.0)
    return interval(gain, outcome.degrees_of_freedom)


def threshold_table(evaluation: Evaluation, model: str) -> pd.DataFrame:
    """What flagging from a threshold means, at the thresholds that the study stated beforehand and every horizon.

    Returns
    -------
    pandas.DataFrame
        One row per horizon, threshold and `measure` (`flagged`, `sensitivity`, `specificity`, `ppv`, `npv`, each a
        share, `net_benefit`, which is the gain over flagging nobody, and `gain` over flagging everybody):
        `estimate`, `ci_low`, `ci_high` (95 %), the counts of `COUNTS`, and `fewest`, the least number of patients among
        the flagged and the others who died or lived, where there are any. NaN where nobody, or
        everybody, is flagged or too short a follow-up leaves it unknown.

    References
    ----------
    Heagerty PJ, Lumley T, Pepe MS. Time-dependent ROC curves for censored survival data and a diagnostic marker.
    Biometrics 2000;56:337-44 (the Kaplan-Meier form).
    """
    rows = []
    for judged in evaluation.horizons_of(model):
        outcome = judged.outcome
        all_scans = flagged(np.ones(len(judged.risk), dtype=bool), outcome)
        for threshold in evaluation.settings.horizons.thresholds:
            of_repeats = [flag_measures(risk, outcome, threshold) for risk in judged.risks]
            behind = pd.DataFrame([_patients_behind(risk, outcome, threshold) for risk in judged.risks]).mean()
            means = {measure: np.mean([found[measure] for found in of_repeats], axis=0) for measure in of_repeats[0]}
            means["gain"] = means["net_benefit"] - _benefit(*all_scans, threshold)
            for measure, samples in means.items():
                if measure in ("net_benefit", "gain"):
                    low, high, _ = gain_interval(samples, outcome)
                else:
                    low, high = proportion_interval(samples, behind[measure])
                row = {"horizon_years": judged.horizon_years, "threshold": threshold, "measure": measure}
                row |= {"fewest": min(_fewest(risk, outcome, threshold) for risk in judged.risks)}
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
            "net_benefit": _benefit(share, ppv, threshold),
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


def _fewest(risk: Floats, outcome: Outcome, threshold: float) -> int:
    """Patients in the smallest of four cells, flagged or not by died or alive, that has any."""
    patient, chosen = outcome.resamples.patient, risk >= threshold
    cells = [flag & state for flag in (chosen, ~chosen) for state in (outcome.died, outcome.alive)]
    return min((len(np.unique(patient[cell])) for cell in cells if cell.any()), default=0)


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
        `act_benefit`, `act_benefit_all` and `act_gain_all` (the difference), in words. All of
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
    time = quarters_text(float(scan["followup_years"]))
    return f"died after {time}" if scan["event_observed"] else f"was alive when last seen, after {time}"


def middle_threshold(settings: Settings) -> float:
    """Give the threshold at which one is enough: the middle of those that the study stated beforehand."""
    thresholds = sorted(settings.horizons.thresholds)
    return thresholds[len(thresholds) // 2]


def _flagging(evaluation: Evaluation, model: str, horizon: float) -> dict[str, str]:
    threshold = middle_threshold(evaluation.settings)
    table = threshold_table(evaluation, model)
    at = table[(table["horizon_years"] == horizon) & (table["threshold"] == threshold)].set_index("measure")
    told = pd.Series(evaluation.at(model, horizon).estimable, at.index)
    if is_small(at["fewest"].iloc[0]):  # from any other, with the share flagged, a small count could be found
        told &= at.index == "flagged"
    at = at.assign(**{name: at[name].where(told) for name in ("estimate", "ci_low", "ci_high")})
    odds = threshold / (1 - threshold)
    shares = at["estimate"].astype(float).to_dict()
    of_100, ppv, npv = (100 * shares[name] for name in ("flagged", "ppv", "npv"))
    found = 0.0 if of_100 == 0 else of_100 * ppv / 100
    missed = 0.0 if of_100 == 100 else (100 - of_100) * (100 - npv) / 100
    bounds = 100 * at.loc[["net_benefit", "gain"], ["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)
    die, die_low, die_high = 100 * at[at.index == "ppv"][["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)[0]
    everybody = found + missed - (100 - found - missed) * odds
    numbers = {"act_threshold": percent_text(threshold), "act_price": f"{1 / odds:.3g}"}
    for name, value in (
        ("act_flagged", of_100), ("act_found", found), ("act_needless", of_100 - found), ("act_missed", missed),
        ("act_deaths", found + missed),
    ):  # fmt: skip
        numbers[name] = "an unknown number" if np.isnan(value) else f"{value:.0f}"
    numbers["act_benefit"], numbers["act_gain_all"] = (estimate_text(mid, low, high, 1) for mid, low, high in bounds)
    numbers["act_of_flagged"] = estimate_text(die, die_low, die_high, decimals=0)
    numbers["act_benefit_all"] = NOT_ESTIMABLE if np.isnan(everybody) else f"{everybody:.1f}"
    return numbers


def risks_in_words(risks: pd.DataFrame) -> str:
    """Write the risks of one model (`horizon_years`, `risk`) in a sentence, for readers who cannot see the page."""
    pairs = risks.sort_values("horizon_years")[["horizon_years", "risk"]].to_numpy(dtype=float)
    return ", ".join(f"{percent_text(risk)} within {years_text(years)}" for years, risk in pairs)
