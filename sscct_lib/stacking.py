"""One risk from several models: clinic, radiomics and networks, with equal weights that nothing was learned for."""

import numpy as np
import pandas as pd

from sscct_lib.calibration import logit
from sscct_lib.horizons import aligned_risk
from sscct_lib.schemas import PREDICTIONS
from sscct_lib.study import Settings
from sscct_lib.wording import network_of

STACKED = "Stacked (equal weights)"
SOURCES = {
    "clinical": ("Clinical",),
    "radiomics": ("Radiomics",),
    "networks": ("ResNet-18", "DenseNet-121", "Swin Transformer"),
}
"""What is stacked, and the models behind it; several models of a source are averaged first."""


def stack(predictions: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Average the logits of out-of-fold risks of the clinical model, radiomics and networks.

    Weights learned from the other folds would leak. The models tested on fold 1 were trained on fold 2: where both
    folds happen to agree, the source gets a high weight, and it is the same agreement that makes it look good on fold
    2. On data without any signal, 60 patients in three folds, learned weights reach an AUC of 0.61, equal ones 0.50
    (`tests/test_stacking.py`). The cure, to train every model again without each pair of folds, is too dear for
    networks.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`.
    cohort
        Schema `COHORT`.
    settings
        Of the study: horizons.

    Returns
    -------
    pandas.DataFrame
        Schema `PREDICTIONS`, model `STACKED`: the scans that every source predicted. No rows with fewer than two
        sources.

    References
    ----------
    Wolpert DH. Stacked generalization. Neural Networks 1992;5:241-59. Claeskens G, et al. The forecast combination
    puzzle: a simple theoretical explanation. Int J Forecast 2016;32:754-62 (why equal weights are hard to beat).
    """
    names = list(dict.fromkeys(predictions["model"]))
    models = [[name for name in names if network_of(name) in wanted] for wanted in SOURCES.values()]
    sources = [found for found in models if found]
    frames = []
    for horizon in settings.horizons_years if len(sources) > 1 else ():
        logits = [
            np.mean([logit(aligned_risk(predictions, cohort, name, horizon)) for name in found], axis=0)
            for found in sources
        ]
        risk = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
        columns = {"model": STACKED, "horizon_years": horizon, "risk": risk, "risk_sd": np.nan}
        frames.append(cohort[["scan_id", "patient_id", "fold"]].assign(**columns).dropna(subset="risk"))
    stacked = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(PREDICTIONS.columns))
    return PREDICTIONS.validate(stacked[list(PREDICTIONS.columns)])
