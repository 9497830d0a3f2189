"""The table and the picture of the front page: a few models, chosen by a rule that knows no result."""

from collections.abc import Sequence

import pandas as pd

from sscct_lib.stacking import STACKED
from sscct_lib.study import Settings
from sscct_lib.summary import estimate_text, years_text
from sscct_lib.wording import counted, network_of

ROWS = {
    "ILD-GAP": "clinical index in use",
    "Clinical": "clinical values",
    "Quantitative CT": "CT: density and volume",
    "Radiomics": "CT: texture",
    "ResNet-18": "CT: network",
    "DenseNet-121": "CT: network",
    "Swin Transformer": "CT: network",
    STACKED: "all of these together",
}
"""The rows, by what a model sees: one of each kind, fixed before any result. Others stand in the chapter on risks."""

PICTURED = (STACKED, "Radiomics", "Quantitative CT", "Clinical")
"""Whose risks the picture divides into thirds: the first of these that the run has."""


def chosen_models(performance: pd.DataFrame) -> dict[str, str]:
    """Find the models of the front page in a run.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.

    Returns
    -------
    dict
        By name in this run, for example `ResNet-18 (from scratch)`: what the model sees. Kinds that the run lacks are
        left out.
    """
    names = list(dict.fromkeys(performance["model"]))
    return {
        name: kind
        for wanted, kind in ROWS.items()
        for name in names
        if name == wanted or (kind == "CT: network" and network_of(name) == wanted)
    }


def headline(performance: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Lay out the front page's table: AUC and calibration of each kind of model, and the deaths behind them.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.
    settings
        Of the study: horizons.

    Returns
    -------
    pandas.DataFrame
        Text, with 95 % intervals. Two columns a horizon, `AUC` and `died : expected`; the column's head says how many
        scans were followed by death. Index: the model.
    """
    models = chosen_models(performance)
    keys = performance[["model", "horizon_years", "metric"]].itertuples(index=False, name=None)
    numbers = performance[["estimate", "ci_low", "ci_high"]].itertuples(index=False, name=None)
    found = dict(zip(keys, numbers, strict=True))
    columns = {}
    for horizon in settings.horizons_years:
        at = performance[(performance["horizon_years"] == horizon) & (performance["metric"] == "auc")]
        if at.empty:
            continue
        most = at.sort_values("n_scans").iloc[-1]
        died, scans = f"{most['n_events']:,}", counted(int(most["n_scans"]), "scan")
        counts = f"{died} of {scans} followed by death, {most['n_unknown']:,} unknown"
        head = f"{years_text(horizon)}: {counts}"
        for metric, words in (("auc", "AUC"), ("observed_expected", "died : expected")):
            columns[head, words] = [_cell(found.get((name, horizon, metric))) for name in models]
    return pd.DataFrame(columns, index=list(models))


def _cell(numbers: tuple[float, float, float] | None) -> str:
    return "no prediction" if numbers is None else estimate_text(*numbers).replace(" to ", "–")


def first_pictured(names: Sequence[str]) -> str:
    """Choose the model to picture among those named: the first of `PICTURED`, or else the first name.

    Parameters
    ----------
    names
        At least one.

    Returns
    -------
    str
    """
    return next((name for name in PICTURED if name in names), names[0])


def pictured_model(predictions: pd.DataFrame) -> str:
    """Name the model whose risks are pictured, by `first_pictured` among those with the most horizons.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`, at least one row: of a run, or of one scan.

    Returns
    -------
    str
    """
    n_horizons = predictions.groupby("model", sort=False)["horizon_years"].nunique()
    return first_pictured([str(name) for name in n_horizons.index[n_horizons == n_horizons.max()]])


def pictured_for(risks: pd.DataFrame, predictions: pd.DataFrame) -> str:
    """Name the model pictured on the page of one scan: that of the run, or by the same rule one that judged the scan.

    Parameters
    ----------
    risks
        `model` and `horizon_years` of the scan, at least one row.
    predictions
        Schema `PREDICTIONS`, of the run.

    Returns
    -------
    str
    """
    model = pictured_model(predictions)
    return model if model in set(risks["model"]) else pictured_model(risks)
