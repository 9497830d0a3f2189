"""A small cohort with known hazards and predictions of it, for the tests of what is made of predictions."""

import numpy as np
import pandas as pd

from sscct_lib.horizons.calibration import logit
from sscct_lib.study.settings import HorizonSettings, Settings

FEW = Settings(horizons=HorizonSettings(n_bootstrap=200))


def make_cohort(n_patients: int = 80, seed: int = 0, censoring: float = 0.15) -> pd.DataFrame:
    """Two scans of each patient, a year apart, with exponential survival."""
    rng = np.random.default_rng(seed)
    marker = rng.normal(size=n_patients)
    death = 1 + rng.exponential(1 / (0.15 * np.exp(marker)))
    end = np.minimum(death, 1 + rng.exponential(1 / censoring, n_patients))
    visits = [
        pd.DataFrame(
            {
                "scan_id": [f"p{i:03d}-{visit}" for i in range(n_patients)],
                "patient_id": [f"p{i:03d}" for i in range(n_patients)],
                "scan_day": 365 * visit,
                "followup_years": end - visit,
                "event_observed": death <= end,
                "fold": np.arange(n_patients) % 3,
                "marker": marker,
            }
        )
        for visit in (0, 1)
    ]
    return pd.concat(visits).query("followup_years > 0").reset_index(drop=True)


def make_predictions(cohort: pd.DataFrame, noise: float = 0.5, model: str = "Model", network: str = "") -> pd.DataFrame:
    """Risks by a formula, which is no fit: scans are ranked by its score."""
    score = cohort["marker"] + np.random.default_rng(1).normal(0, noise, len(cohort))
    frames = []
    for years in (1.0, 3.0, 5.0):
        risk = 1 - np.exp(-0.15 * years * np.exp(score))
        what = {"model": model, "horizon_years": years, "repeat": 0, "risk": risk, "score": logit(risk.to_numpy())}
        frames.append(cohort[["scan_id", "patient_id", "fold"]].assign(**what, family="", network=network, variant=""))
    return pd.concat(frames, ignore_index=True).assign(risk_sd=np.nan)


def survival(cohort: pd.DataFrame) -> np.ndarray:
    return np.array(
        list(zip(cohort["event_observed"], cohort["followup_years"], strict=True)), dtype=[("e", bool), ("t", float)]
    )
