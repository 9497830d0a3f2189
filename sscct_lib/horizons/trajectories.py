"""Risk over a patient's scans: how it moves, how much of that is noise, and whether the move tells more."""

import numpy as np
import pandas as pd
from scipy.special import expit

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR
from sscct_lib.horizons.bootstrap import Flags, Floats, blocks, interval, percentile_interval, resample_patients
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.comparison import differences
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import FEWEST_PATIENTS, Evaluation
from sscct_lib.horizons.survival import RATIO_COUNTS, hazard_ratios
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import estimate_text, percent_text

CLOSE_DAYS = 120  # between two scans of a patient whose disease has hardly changed
CURRENT = "risk now"
WAYS = {CURRENT: 0.0, "mean of the risk now and the one before": -0.5, "risk now and its change once more": 1.0}
"""Ways to judge a scan by two risks, and how much of the change since the one before is added to the log odds."""
FEWEST_PAIRS = 5
_COMPARED = ("risk now, twice the odds", "change since the scan before, twice the odds")


def over_time(evaluation: Evaluation, model: str, horizon_years: float) -> pd.DataFrame:
    """Put the risks of each patient in the order of the scans, with the change since the scan before.

    In each repeat a patient's scans are all tested in one fold, by the same fit, so that a change is one of the scan.

    Returns
    -------
    pandas.DataFrame
        The cohort's columns of the scans that the model predicted, by patient and day, with `years` (since the
        patient's first scan), `risk`, `standing` (`Judged.standing`), and of the scan before `risk_before`, `change`
        (of the standing) and `days_between`, NaN for a first scan.
    """
    judged = evaluation.without_resamples().at(model, horizon_years)
    rows = judged.scans.assign(risk=judged.risk, standing=judged.standing)
    rows = rows.sort_values(["patient_id", "scan_day"], ignore_index=True)
    of_patient = rows.groupby("patient_id")
    rows["years"] = (rows["scan_day"] - of_patient["scan_day"].transform("min")) / DAYS_PER_YEAR
    return rows.assign(
        risk_before=of_patient["risk"].shift(),
        change=of_patient["standing"].diff(),
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
    drawn = resample_patients(pairs["patient_id"], settings.horizons.n_bootstrap, settings.seed).counts
    parts = [_noise(drawn[some].astype(float), pairs["change"].to_numpy(), close) for some in blocks(*drawn.shape)]
    sd, limit, share = (np.concatenate(each) for each in zip(*parts, strict=True))
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


def _noise(counts: Floats, change: Floats, close: Flags) -> tuple[Floats, Floats, Floats]:
    """The deviation of one measurement, the limit of noise, and the share of changes beyond it, in some samples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt((counts * close) @ change**2 / (2 * (counts @ close)))
        limit = 1.96 * np.sqrt(2) * sd
        return sd, limit, (counts * (np.abs(change) > limit[:, None])).sum(axis=1) / counts.sum(axis=1)


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
        `n_events`, `n_patients_died`; no rows where fewer than five patients died, or no risk changes.

    References
    ----------
    van Houwelingen HC, Putter H. Dynamic prediction in clinical survival analysis. CRC Press 2012. Lin DY, Wei LJ. The
    robust inference for the Cox proportional hazards model. J Am Stat Assoc 1989;84:1074-8.
    """
    later = rows.dropna(subset="change")
    columns = ["comparison", "hazard_ratio", "ci_low", "ci_high", "p", *RATIO_COUNTS]
    still = (later[["standing", "change"]].std() < 1e-9).any()
    if still or later.loc[later["event_observed"], "patient_id"].nunique() < FEWEST_PATIENTS:
        return pd.DataFrame(columns=columns)
    doublings = {name: later[name].to_numpy() / np.log(2) for name in ("standing", "change")}
    patients, event = later["patient_id"], later["event_observed"]
    ratios = hazard_ratios(later["followup_years"].to_numpy(), event.to_numpy(), patients.to_numpy(), doublings)
    ratios = ratios.reset_index(drop=True).assign(comparison=_COMPARED)
    ratios[list(RATIO_COUNTS)] = len(later), patients.nunique(), int(event.sum()), patients[event].nunique()
    return ratios[columns]


def gain_of_change(
    evaluation: Evaluation, model: str, horizon_years: float
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """AUC of the risk at a scan, and of that risk with its change in two ways, on scans that have one before them.

    Nothing is learned here: weights learned from risks of a cross-validation know the outcomes of the tested patients,
    by the fits of the other folds. The ways are fixed: half the change taken back, which is the mean of both scans and
    the better guess where a change is noise; and the change counted once more, where it goes on.

    Returns
    -------
    performance : pandas.DataFrame
        Schema `PERFORMANCE`, the AUC of each way of `WAYS`.
    difference : pandas.DataFrame
        As from `comparison.differences`: each less `CURRENT`.

    None where the AUC cannot be estimated.
    """
    ways = with_change(evaluation, model, horizon_years)
    settings = evaluation.settings.model_copy(update={"horizons_years": (horizon_years,)})
    later = evaluation.cohort[evaluation.cohort["scan_id"].isin(ways["scan_id"])]
    judging = Evaluation(later, ways, settings)
    if ways.empty or not judging.at(CURRENT, horizon_years).estimable:
        return None
    return evaluate(judging, ("auc",)), differences(judging, CURRENT, ("auc",))


def with_change(evaluation: Evaluation, model: str, horizon_years: float) -> pd.DataFrame:
    """Predict each scan that has one before it in every way of `WAYS`, by schema `PREDICTIONS`."""
    rows = evaluation.predictions
    rows = rows[(rows["model"] == model) & np.isclose(rows["horizon_years"], horizon_years)]
    rows = rows.merge(evaluation.cohort[["scan_id", "scan_day"]], on="scan_id")
    rows = rows.assign(logit=logit(rows["risk"].to_numpy())).sort_values(["repeat", "patient_id", "scan_day"])
    rows["change"] = rows.groupby(["repeat", "patient_id"])["logit"].diff()
    rows = rows.dropna(subset="change")
    ways = [
        rows.assign(model=way, risk=expit(rows["logit"] + weight * rows["change"]), score=np.nan)
        for way, weight in WAYS.items()
    ]
    return PREDICTIONS.validate(pd.concat(ways, ignore_index=True).reindex(columns=list(PREDICTIONS.columns)))
