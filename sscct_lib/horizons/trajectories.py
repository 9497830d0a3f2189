"""Risk over a patient's scans: how it moves, how much of that is noise, and whether the move tells more."""

from itertools import product

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR, known_outcomes, survival_outcome
from sscct_lib.horizons.bootstrap import Floats, interval, percentile_interval, resample_patients
from sscct_lib.horizons.comparison import differences
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.metrics import logit
from sscct_lib.horizons.survival import FEWEST_PATIENTS, hazard_ratios
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import estimate_text, percent_text

CLOSE_DAYS = 120  # between two scans of a patient whose disease has hardly changed
CURRENT, WITH_CHANGE = "risk now", "risk now and its change"
FEWEST_PAIRS = 5
_COMPARED = ("risk now, twice the odds", "change since the scan before, twice the odds")


def over_time(evaluation: Evaluation, model: str, horizon_years: float) -> pd.DataFrame:
    """Put the risks of each patient in the order of the scans, with the change since the scan before.

    A patient's scans are all tested in one fold, by the same fitted model.

    Returns
    -------
    pandas.DataFrame
        The cohort's columns of the scans that the model predicted, by patient and day, with `years` (since the
        patient's first scan), `risk`, `logit_risk`, and of the scan before `risk_before`, `change` (of the logit) and
        `days_between`, NaN for a first scan.
    """
    rows = evaluation.cohort.assign(risk=evaluation.risk(model, horizon_years)).dropna(subset="risk")
    rows = rows.sort_values(["patient_id", "scan_day"], ignore_index=True)
    rows["logit_risk"] = logit(rows["risk"].to_numpy())
    of_patient = rows.groupby("patient_id")
    rows["years"] = (rows["scan_day"] - of_patient["scan_day"].transform("min")) / DAYS_PER_YEAR
    return rows.assign(
        risk_before=of_patient["risk"].shift(),
        change=of_patient["logit_risk"].diff(),
        days_between=of_patient["scan_day"].diff(),
    )


def noise(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Measure how much a risk moves between two scans that lie close together in time.

    The standard deviation of one measurement is the root of half the mean squared difference of two; what has to be
    exceeded for a change to be more than noise is 1.96 times the root of 2 times that. It is on the logit scale, where
    it multiplies the odds. Disease that does change within the time counts as noise here.

    Returns
    -------
    pandas.DataFrame
        Rows `sd_logit`, `factor_of_odds` (by which the odds of death must rise, or fall, to exceed the noise) and
        `share_beyond` (changes between any two consecutive scans that do): `measure`, `estimate`, `ci_low`, `ci_high`
        (95 %, by bootstrap of patients), `n_pairs`, `n_patients`. NaN with fewer than five close pairs.

    References
    ----------
    Bland JM, Altman DG. Measuring agreement in method comparison studies. Stat Methods Med Res 1999;8:135-60.
    """
    pairs = rows.dropna(subset="change")
    close = (pairs["days_between"] < CLOSE_DAYS).to_numpy()
    of_close = {"n_pairs": int(close.sum()), "n_patients": pairs.loc[close, "patient_id"].nunique()}
    of_all = {"n_pairs": len(pairs), "n_patients": pairs["patient_id"].nunique()}
    columns = ["measure", "estimate", "ci_low", "ci_high", "n_pairs", "n_patients"]
    behind = {"sd_logit": of_close, "factor_of_odds": of_close, "share_beyond": of_all}
    if close.sum() < FEWEST_PAIRS:
        return pd.DataFrame([{"measure": name, **counts} for name, counts in behind.items()]).reindex(columns=columns)
    counts = resample_patients(pairs["patient_id"], settings.horizons.n_bootstrap, settings.seed).counts
    change = pairs["change"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt((counts * close) @ change**2 / (2 * (counts @ close)))
        limit = 1.96 * np.sqrt(2) * sd
        share = (counts * (np.abs(change) > limit[:, None])).sum(axis=1) / counts.sum(axis=1)
    degrees_of_freedom = of_close["n_patients"] - 1
    found = {
        "sd_logit": (sd[0], *interval(sd, degrees_of_freedom, "log")[:2]),
        "factor_of_odds": tuple(np.exp([limit[0], *interval(limit, degrees_of_freedom, "log")[:2]])),
        "share_beyond": (share[0], *percentile_interval(share)),
    }
    table = [
        {"measure": name, "estimate": estimate, "ci_low": low, "ci_high": high, **behind[name]}
        for name, (estimate, low, high) in found.items()
    ]
    return pd.DataFrame(table, columns=columns)


def noise_in_words(table: pd.DataFrame, risks: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)) -> pd.DataFrame:
    """Say from which risk on a rise, or a fall, is more than noise; no rows where the noise is not known."""
    row = table.set_index("measure").loc["factor_of_odds"]
    columns = ["at the scan before", "a rise is beyond noise above", "a fall is beyond noise below"]
    if pd.isna(row["estimate"]):
        return pd.DataFrame(columns=columns)

    def moved(risk: float, factor: float) -> float:
        odds = risk / (1 - risk) * factor
        return odds / (1 + odds)

    cells = []
    for risk in risks:
        factors = row[["estimate", "ci_low", "ci_high"]].to_numpy(dtype=float)
        up = [100 * moved(risk, factor) for factor in factors]
        down = [100 * moved(risk, 1 / factor) for factor in factors[[0, 2, 1]]]
        cells.append(
            (percent_text(risk), estimate_text(*up, decimals=0) + " %", estimate_text(*down, decimals=0) + " %")
        )
    return pd.DataFrame(cells, columns=columns)


def hazard_of_change(rows: pd.DataFrame) -> pd.DataFrame:
    """Ask whether the change since the scan before tells more than the risk at this scan.

    A Cox model from each scan that has one before it, with both; errors are robust to several scans of a patient. A
    hazard ratio of the change above 1 means that of two patients with the same risk today the one who rose to it dies
    sooner. Below 1, the mean of both scans is the better guess: the risk today is noisy.

    Returns
    -------
    pandas.DataFrame
        `comparison`, `hazard_ratio` (for twice the odds), `ci_low`, `ci_high` (95 %), `p`, `n_scans`, `n_patients`,
        `n_events`; no rows where fewer than five patients died, or no risk changes.

    References
    ----------
    van Houwelingen HC, Putter H. Dynamic prediction in clinical survival analysis. CRC Press 2012. Lin DY, Wei LJ. The
    robust inference for the Cox proportional hazards model. J Am Stat Assoc 1989;84:1074-8.
    """
    later = rows.dropna(subset="change")
    columns = ["comparison", "hazard_ratio", "ci_low", "ci_high", "p", "n_scans", "n_patients", "n_events"]
    still = (later[["logit_risk", "change"]].std() < 1e-9).any()
    if still or later.loc[later["event_observed"], "patient_id"].nunique() < FEWEST_PATIENTS:
        return pd.DataFrame(columns=columns)
    doublings = {name: later[name].to_numpy() / np.log(2) for name in ("logit_risk", "change")}
    patients, event = later["patient_id"], later["event_observed"]
    ratios = hazard_ratios(later["followup_years"].to_numpy(), event.to_numpy(), patients.to_numpy(), doublings)
    counts = {"n_scans": len(later), "n_patients": patients.nunique(), "n_events": int(event.sum())}
    return ratios.reset_index(drop=True).assign(comparison=_COMPARED, **counts)[columns]


def gain_of_change(
    rows: pd.DataFrame, settings: Settings, horizon_years: float
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """AUC of the risk at a scan, and of that risk together with its change, on scans that have one before them.

    Both are logistic regressions, weighted for censoring, learned from the other folds and judged on the fold.

    Returns
    -------
    performance : pandas.DataFrame
        Schema `PERFORMANCE`, the AUC of `CURRENT` and `WITH_CHANGE`.
    difference : pandas.DataFrame
        As from `comparison.differences`: `WITH_CHANGE` less `CURRENT`.

    None where there is but one fold, or a fold's training scans lack deaths or survivors.
    """
    later = rows.dropna(subset="change").reset_index(drop=True)
    seen = {CURRENT: ["logit_risk"], WITH_CHANGE: ["logit_risk", "change"]}
    one = settings.model_copy(update={"horizons_years": (horizon_years,)})
    frames: list[pd.DataFrame] = []
    if later["fold"].nunique() < 2:
        return None
    for (model, columns), fold in product(seen.items(), sorted(later["fold"].unique())):
        training, tested = later[later["fold"] != fold], later[later["fold"] == fold]
        risk = _learned(training, tested, columns, one)
        if risk is None:
            return None
        values = {"model": model, "horizon_years": horizon_years, "risk": risk, "risk_sd": np.nan}
        frames.append(tested[["scan_id", "patient_id", "fold"]].assign(**values))
    predictions = pd.concat(frames, ignore_index=True).reindex(columns=list(PREDICTIONS.columns))
    evaluation = Evaluation(later, predictions, one)
    return evaluate(evaluation, ("auc",)), differences(evaluation, CURRENT, ("auc",))


def _learned(training: pd.DataFrame, tested: pd.DataFrame, columns: list[str], settings: Settings) -> Floats | None:
    years = settings.horizons_years[0]
    outcome = survival_outcome(training["followup_years"].to_numpy(float), training["event_observed"].to_numpy(bool))
    died, weight = known_outcomes(outcome, years, settings.labels)
    known = weight > 0
    if len(set(died[known])) < 2:
        return None
    fit = LogisticRegression(C=np.inf).fit(training.loc[known, columns], died[known], weight[known])
    risk: Floats = fit.predict_proba(tested[columns])[:, 1]
    return risk
