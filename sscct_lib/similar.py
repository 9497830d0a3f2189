"""What became of other patients with about the same risk."""

import numpy as np
import pandas as pd

from sscct_lib.bootstrap import proportion_interval
from sscct_lib.horizons import aligned_risk, cohort_outcome, study_resamples
from sscct_lib.metrics import observed_risk
from sscct_lib.study import Settings
from sscct_lib.wording import years_text

N_SIMILAR = 20


def middle_horizon(settings: Settings) -> float:
    """Give the horizon that pages on single patients sort and compare by: the middle one."""
    horizons = sorted(settings.horizons_years)
    return horizons[len(horizons) // 2]


def similar_patients(
    predictions: pd.DataFrame,
    cohort: pd.DataFrame,
    model: str,
    risk: float,
    settings: Settings,
    patient_id: str | None = None,
) -> pd.DataFrame:
    """Find the patients whose risk at the middle horizon is nearest, one scan each.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`, out of fold.
    cohort
        Schema `COHORT`.
    model
        Whose risks are compared.
    risk
        Of the scan in question, at the middle horizon.
    settings
        Of the study: horizons.
    patient_id
        The scan's own patient, who is left out; None: a patient outside the study.

    Returns
    -------
    pandas.DataFrame
        Rows of the cohort with `risk`, the nearest first; at most `N_SIMILAR` patients.
    """
    known = cohort.assign(risk=aligned_risk(predictions, cohort, model, middle_horizon(settings))).dropna(subset="risk")
    others = known[known["patient_id"] != patient_id]
    order = (others["risk"] - risk).abs().to_numpy().argsort(kind="stable")
    nearest: pd.DataFrame = others.iloc[order].drop_duplicates("patient_id").head(N_SIMILAR)
    return nearest.reset_index(drop=True)


def outcomes(similar: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Tell what became of similar patients at each horizon.

    Parameters
    ----------
    similar
        From `similar_patients`.
    settings
        Of the study: horizons, labels and bootstrap samples.

    Returns
    -------
    pandas.DataFrame
        One row a horizon: `horizon_years`; `died`, `alive` and `unknown` (patients); `observed`, the Kaplan-Meier
        risk, with `ci_low` and `ci_high` (95 %, by bootstrap; NaN where nobody is followed that long).
    """
    rows = []
    for horizon in sorted(settings.horizons_years) if len(similar) else ():
        outcome = cohort_outcome(similar, horizon, study_resamples(similar, settings), settings.labels)
        samples = observed_risk(outcome) if outcome.reaches_horizon else np.full(1, np.nan)
        low, high = proportion_interval(samples, int((~outcome.unknown).sum()))
        counts = {name: int(getattr(outcome, name).sum()) for name in ("died", "alive", "unknown")}
        rows.append({"horizon_years": horizon, **counts, "observed": samples[0], "ci_low": low, "ci_high": high})
    names = ["horizon_years", "died", "alive", "unknown", "observed", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=names)


def in_words(found: pd.DataFrame) -> str:
    """Say the outcomes of similar patients in a sentence, with counts.

    Parameters
    ----------
    found
        From `outcomes`.

    Returns
    -------
    str
    """
    if found.empty:
        return "No other patient has a risk to compare with."
    n = int(found[["died", "alive", "unknown"]].iloc[0].sum())
    parts = [
        f"within {years_text(horizon)} {died} had died, {alive} lived and {unknown} had not been followed that long"
        for horizon, died, alive, unknown in zip(
            *(found[name] for name in ("horizon_years", "died", "alive", "unknown")), strict=True
        )
    ]
    return f"Of the {n} other patients with the nearest risk: {'; '.join(parts)}."
