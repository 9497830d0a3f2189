"""Which models a run has: the ensemble, those of the front page, and variants of others.

No rule here knows a result: a model chosen for its result would look better than it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.tables import cell_parts, denominators, own_count, side_by_side
from sscct_lib.study.schemas import PREDICTIONS
from sscct_lib.study.words import plain_names, years_text

STACKED = "Equal-weight ensemble"
SOURCES = {
    "clinical": ("Clinical",),
    "radiomics": ("Radiomics",),
    "networks": ("ResNet-18", "DenseNet-121", "Swin Transformer"),
}
"""What is averaged, and the models behind it; several models of a source are averaged first."""
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


def stack(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the logits of out-of-fold risks of the clinical model, radiomics and networks, with equal weights.

    Returns
    -------
    pandas.DataFrame
        Schema `PREDICTIONS`, model `STACKED`: the scans and repeats that every source predicted. No rows with fewer
        than two sources.

    References
    ----------
    Wolpert DH. Stacked generalization. Neural Networks 1992;5:241-59. Claeskens G, et al. The forecast combination
    puzzle: a simple theoretical explanation. Int J Forecast 2016;32:754-62 (why equal weights are hard to beat).
    """
    # Weights learned from the other folds would leak: the models tested on fold 1 were trained on fold 2, so where both
    # folds happen to agree, the source gets a high weight, and the same agreement makes it look good on fold 2. Without
    # any signal, 60 patients in three folds, learned weights reach an AUC of 0.61, equal ones 0.50 (tests). The cure,
    # to train every model again without each pair of folds, is too dear for networks.
    plain = plain_names(predictions)
    models = [[name for name in plain if plain[name] in wanted] for wanted in SOURCES.values()]
    sources = [found for found in models if found]
    if len(sources) < 2:
        return PREDICTIONS.validate(pd.DataFrame(columns=list(PREDICTIONS.columns)))
    keys = ["horizon_years", "repeat", "scan_id", "patient_id", "fold"]
    names = [name for found in sources for name in found]
    used = predictions[predictions["model"].isin(names)]
    logits = used.assign(logit=logit(used["risk"].to_numpy())).pivot(index=keys, columns="model", values="logit")
    logits = logits.reindex(columns=names)
    mean = np.mean([logits[found].to_numpy().mean(axis=1) for found in sources], axis=0)  # NaN where one is missing
    stacked = logits.index.to_frame(index=False).assign(model=STACKED, risk=1 / (1 + np.exp(-mean)))
    return PREDICTIONS.validate(stacked.dropna(subset="risk"))


def chosen_models(performance: pd.DataFrame) -> dict[str, str]:
    """Find the models of the front page in a run: by their name in this run, what the model sees."""
    plain = plain_names(performance)
    return {name: kind for wanted, kind in ROWS.items() for name in plain if plain[name] == wanted}


def headline(performance: pd.DataFrame) -> pd.DataFrame:
    """Lay out the front page's table: AUC and calibration of each kind of model, and the deaths behind them.

    Returns
    -------
    pandas.DataFrame
        Text, with 95 % intervals. Two columns per horizon, `AUC` and `O:E`; the column's head says how many
        scans and patients were followed by death, and how many are known not to be; an AUC that rests on other scans
        says on which. Index: the model.
    """
    models = list(chosen_models(performance))
    columns = {}
    for horizon in sorted(performance["horizon_years"].unique()):
        at = performance[performance["horizon_years"] == horizon]
        auc = at[at["metric"] == "auc"]
        if auc.empty:
            continue
        n_scans = auc.groupby("horizon_years")["n_scans"].max()
        head = f"{years_text(horizon)}: {denominators(auc.sort_values('n_scans').iloc[-1])}"
        for metric, words in (("auc", "AUC"), ("observed_expected", "O:E")):
            rows = at[at["metric"] == metric].set_index("model").rename_axis(None)
            cells = pd.Series(
                [_cell(row, own_count(row, n_scans) if metric == "auc" else []) for row in rows.itertuples()],
                index=rows.index,
            )
            columns[head, words] = cells.reindex(models).fillna("no prediction")
    return pd.DataFrame(columns, index=models)


def _cell(row: Any, counts: list[str]) -> str:
    """Write an estimate, its spread and the counts; the interval stays in one piece where the cell wraps."""
    estimate, *spread = cell_parts(row)
    whole = estimate.replace(" to ", "–\N{WORD JOINER}").replace(" (", "\N{NO-BREAK SPACE}(")
    return " ".join([whole, *spread, *counts])


def first_pictured(names: Sequence[str]) -> str:
    """Choose the model to picture among those named: the first of `PICTURED`, or else the first name."""
    return next((name for name in PICTURED if name in names), names[0])


def pictured_model(predictions: pd.DataFrame) -> str:
    """Name the model whose risks are pictured, by `first_pictured` among those with the most horizons."""
    # One that lacks a horizon would leave a gap in the picture.
    n_horizons = predictions.groupby("model", sort=False)["horizon_years"].nunique()
    return first_pictured([str(name) for name in n_horizons.index[n_horizons == n_horizons.max()]])


def pictured_for(risks: pd.DataFrame, predictions: pd.DataFrame) -> str:
    """Name the model pictured on the page of one scan: that of the run, or by the same rule one that judged the scan.

    Parameters
    ----------
    risks
        `model` and `horizon_years` of the scan, at least one row.
    predictions
        Of the run.
    """
    model = pictured_model(predictions)
    return model if model in set(risks["model"]) else pictured_model(risks)


def is_variant(performance: pd.DataFrame) -> "pd.Series[bool]":
    """Tell of each row whether its model is another model of the table with one thing changed."""
    return performance["model"].map(_origins(performance)).notna()


def variants_side_by_side(performance: pd.DataFrame, metric: str = "auc") -> pd.DataFrame:
    """Lay variants out below the model of which they are variants, as `tables.side_by_side`."""
    origin = performance["model"].map(_origins(performance))
    of = origin.fillna(performance["model"])
    shown = performance[of.isin(origin.dropna())].assign(of=of)
    if shown.empty:
        return pd.DataFrame()
    return side_by_side(shown.sort_values("of", kind="stable").drop(columns="of"), metric)


def _origins(performance: pd.DataFrame) -> dict[str, str]:
    """By variant: the model of the table of which it is one; a variant without that model stands for itself."""
    models = performance.drop_duplicates("model")
    kind = ["family", "network"]
    plain = models[models["variant"] == ""].drop_duplicates(kind)
    pairs = models[models["variant"] != ""].merge(plain, on=kind, suffixes=("", "_of"))
    return dict(zip(pairs["model"], pairs["model_of"], strict=True))
