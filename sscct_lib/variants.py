"""Models that are another model with one thing changed: known by their names, and shown below that model."""

import pandas as pd

from sscct_lib.summary import side_by_side


def is_variant(models: "pd.Series[str]") -> "pd.Series[bool]":
    """Tell which models are another model with one thing changed: those named `A, b` where there is a model `A`.

    Parameters
    ----------
    models
        Names of models, repeated or not.

    Returns
    -------
    pandas.Series
        One value for each name given.
    """
    names = set(models)
    return models.map(lambda name: ", " in name and name.rsplit(", ", 1)[0] in names).astype(bool)


def variants_side_by_side(performance: pd.DataFrame, metric: str = "auc") -> pd.DataFrame:
    """Lay variants out below the model of which they are variants.

    Parameters
    ----------
    performance
        Schema `PERFORMANCE`.
    metric
        Which metric.

    Returns
    -------
    pandas.DataFrame
        As from `side_by_side`; without rows where there is no variant.
    """
    variant = is_variant(performance["model"])
    of = performance["model"].where(~variant, performance["model"].str.rsplit(", ", n=1).str[0])
    shown = performance[of.isin(of[variant])].assign(of=of)
    if shown.empty:
        return pd.DataFrame()
    return side_by_side(shown.sort_values("of", kind="stable").drop(columns="of"), metric)
