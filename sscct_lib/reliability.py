"""Whether a model knows when it does not know: whether risks with a larger spread are worse predictions."""

import numpy as np
import pandas as pd

from sscct_lib.horizons import evaluate
from sscct_lib.schemas import PREDICTIONS
from sscct_lib.stacking import SOURCES
from sscct_lib.study import Settings
from sscct_lib.summary import estimate_text
from sscct_lib.wording import network_of, percent_text

THIRDS = ("narrow", "middle", "wide")
METRICS = ("observed_expected", "brier")


def models_with_spread(predictions: pd.DataFrame, best: str) -> list[str]:
    """List the models to look at: networks and the best model, where all their risks have a spread.

    A network has one as an ensemble or with dropout; a tabular model from its repeated cross-validation.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    best
        The model that the chapter shows.

    Returns
    -------
    list of str
        In the order of `predictions`.
    """
    has = predictions.groupby("model", sort=False)["risk_sd"].apply(lambda spread: spread.notna().all())
    names = [str(name) for name in has.index[has]]
    return [name for name in names if name == best or network_of(name) in SOURCES["networks"]]


def by_spread(predictions: pd.DataFrame, cohort: pd.DataFrame, model: str, settings: Settings) -> pd.DataFrame:
    """Judge a model apart on scans with a narrow, middle and wide spread of risk, at the longest horizon.

    The spread counts on the scale of log-odds, on which it does not grow with the risk by itself.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`, with `risk_sd` of this model.
    cohort
        Schema `COHORT`.
    model
        Which.
    settings
        Of the study.

    Returns
    -------
    pandas.DataFrame
        One row a third: `third`, `spread` (median, log-odds), `risk` (mean), `n_scans`, `n_patients`, `n_events`, and
        for each of `METRICS` its estimate, `_low` and `_high`, a 95 % interval by bootstrap of patients.
    """
    own = predictions[predictions["model"] == model]
    own = own[own["horizon_years"] == own["horizon_years"].max()].reset_index(drop=True)
    risk = own["risk"].to_numpy(dtype=float).clip(1e-6, 1 - 1e-6)
    spread = own["risk_sd"].to_numpy(dtype=float) / (risk * (1 - risk))
    third = np.array(THIRDS)[np.searchsorted(np.quantile(spread, [1 / 3, 2 / 3]), spread, side="left")]
    at = settings.model_copy(update={"horizons_years": (float(own["horizon_years"].iloc[0]),)})
    judged = evaluate(PREDICTIONS.validate(own.assign(model=third)), cohort, at, METRICS)
    rows = []
    for name in [one for one in THIRDS if (third == one).any()]:
        found = judged[judged["model"] == name].set_index("metric")
        first = found.iloc[0]
        row = {"third": name, "spread": float(np.median(spread[third == name])), "risk": risk[third == name].mean()}
        row |= {count: int(first[count]) for count in ("n_scans", "n_patients", "n_events")}
        for metric in METRICS:
            ends = found.loc[metric, ["estimate", "ci_low", "ci_high"]]
            row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), ends, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out `by_spread` for readers: a row a third of the scans, by the spread of their risk."""

    def text(metric: str, decimals: int) -> list[str]:
        columns = table[[metric, f"{metric}_low", f"{metric}_high"]].to_numpy(dtype=float)
        return [estimate_text(float(mid), float(low), float(high), decimals) for mid, low, high in columns]

    factors = np.exp(table["spread"].to_numpy(dtype=float))
    return pd.DataFrame(
        {
            "Spread of the risk": [
                f"{third} (odds × or ÷ {factor:.2f})" for third, factor in zip(table["third"], factors, strict=True)
            ],
            "Mean risk": table["risk"].map(percent_text),
            "Deaths/scans (patients)": [
                f"{row.n_events}/{row.n_scans} ({row.n_patients})" for row in table.itertuples()
            ],
            "Observed : expected": text("observed_expected", 2),
            "Brier score": text("brier", 3),
        }
    ).set_index("Spread of the risk")
