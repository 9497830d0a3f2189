"""The features behind a risk, in words: what weighs most in a saved model, and where this scan stands in the cohort."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.card_texts import FOLDER
from sscct_lib.pipelines import INDICATOR, design, prepared
from sscct_lib.saved_models import load_model
from sscct_lib.wording import in_words, unit_of

EXPLAINED = ("Clinical + quantitative CT", "Quantitative CT", "Clinical", "All features", "Radiomics")
"""Whose weights are shown: the first of these elastic-net Cox models that the run has saved."""
N_SHOWN = 6


def explained_model(models: Path) -> tuple[dict[str, Any], Any] | None:
    """Load the model whose weights are shown.

    Parameters
    ----------
    models
        The folder of trained models of a run, `study.models`.

    Returns
    -------
    card, pipeline
        From `saved_models.load_model`; None when no such model is saved.
    """
    cards = sorted((models / FOLDER).glob("[!.]*.json"))
    named = {json.loads(path.read_text(encoding="utf-8")).get("model"): path for path in cards}
    path = next((named[name] for name in EXPLAINED if name in named), None)
    return None if path is None else load_model(path)


def reasons(scan: Mapping[str, Any], cohort: pd.DataFrame, card: Mapping[str, Any], pipeline: Any) -> pd.DataFrame:
    """List what weighs most in a scan's risk.

    Parameters
    ----------
    scan
        Clinical values and features, as far as they are known.
    cohort
        The same columns of the scans of the study.
    card, pipeline
        From `explained_model`.

    Returns
    -------
    pandas.DataFrame
        One row a feature, the weightiest first: `feature` (column), `words` (name, value and place in the cohort) and
        `hazard_ratio`, by which the feature multiplies the hazard of death against an average scan.
    """
    row = design(pd.DataFrame([dict(scan)]), card["columns"], card["harmonised"])
    columns = prepared(pipeline, row)
    contributions = columns.iloc[0].to_numpy(dtype=float) * np.asarray(pipeline["model"].coef_)
    rows = []
    for place in np.argsort(-np.abs(contributions), kind="stable")[:N_SHOWN]:
        if contributions[place] == 0:
            break
        name = str(columns.columns[place])
        rows.append((name, _in_words(name, scan, cohort), float(np.exp(contributions[place]))))
    return pd.DataFrame(rows, columns=["feature", "words", "hazard_ratio"])


def _in_words(name: str, scan: Mapping[str, Any], cohort: pd.DataFrame) -> str:
    """Name a feature with the scan's value and its place in the cohort."""
    words = in_words(name)
    if name.startswith(INDICATOR):
        known = pd.notna(scan.get(name.removeprefix(INDICATOR)))
        return f"{in_words(name.removeprefix(INDICATOR))} is {'known' if known else 'not known'}"
    if name not in cohort:  # a category
        column, _, level = name.rpartition("_")
        value = scan.get(column)
        if pd.isna(value):
            return f"{in_words(column)}: not known, taken as not {level}"
        return words if value == level else f"{in_words(column)}: not {level}"
    value = scan.get(name)
    if pd.isna(value):
        return f"{words}: not known, taken as that of a typical scan"
    others = cohort[name].dropna().to_numpy(dtype=float)
    share = round(100 * float(np.mean(others < float(value))))
    unit = unit_of(name)
    shown = f"{100 * float(value):.0f} %" if "share" in words else f"{float(value):.3g} {unit}".strip()
    return f"{words} {shown}: higher than in {share} of 100 scans"
