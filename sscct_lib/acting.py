"""What a risk means for one patient and for a clinic, in whole numbers, from the run."""

import numpy as np
import pandas as pd

from sscct_lib.cohort import DAYS_PER_YEAR
from sscct_lib.decisions import threshold_table
from sscct_lib.horizons import aligned_risk
from sscct_lib.similar import in_words, middle_horizon, outcomes, similar_patients
from sscct_lib.study import Settings
from sscct_lib.summary import estimate_text, years_text
from sscct_lib.wording import percent_text

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
