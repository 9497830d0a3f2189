"""Simulated tables for the tests of tabular models: patients with several scans, and a CT that tells of risk or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from sscct_lib.cohort.outcomes import horizon_labels, label_name
from sscct_lib.cohort.selection import assign_folds
from sscct_lib.images.scanners import scanner
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import CohortSettings, Settings, TabularSettings

HORIZONS = (1.0, 3.0)
SMALL: dict[str, Any] = {"n_repeats": 1, "n_inner_folds": 2, "n_trees": 12, "compared": ()}


def make_study(folder: Path, **tabular: Any) -> Study:
    """Make a study of three folds with small models."""
    settings = Settings(
        horizons_years=HORIZONS, cohort=CohortSettings(n_folds=3), tabular=TabularSettings(**(SMALL | tabular))
    )
    return Study(folder, settings)


def make_table(
    study: Study, n_patients: int = 80, signal: float = 1.5, seed: int = 0, n_noise: int = 5
) -> pd.DataFrame:
    """Make scans of patients who die of `signal` times what their CT shows; the CT of a patient hardly changes."""
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=n_patients)
    years = rng.exponential(6 * np.exp(-signal * severity))
    followed = rng.uniform(0.5, 8, n_patients)
    rows = []
    for patient in range(n_patients):
        until = min(years[patient], followed[patient])
        for visit in range(rng.integers(1, 4)):
            if until - 0.7 * visit <= 0:
                break
            ct = severity[patient] + rng.normal(scale=0.3)
            rows.append(
                {
                    "scan_id": f"s{patient}-{visit}",
                    "patient_id": f"p{patient}",
                    "followup_years": until - 0.7 * visit,
                    "event_observed": bool(years[patient] <= followed[patient]),
                    "age_years": 55 + 10 * rng.normal(),
                    "sex": rng.choice(["female", "male"]),
                    "ssc_subtype": rng.choice(["limited", "diffuse", None]),
                    "fvc_percent": 80 - 8 * ct if rng.random() > 0.3 else np.nan,
                    "dlco_percent": np.nan,
                    "manufacturer": rng.choice(["GE", "Siemens"]),
                    "qct_high_attenuation_share": ct,
                    "original_firstorder_Mean": -ct,
                    # What the patient is, and nothing about the outcome: this is how scans leak.
                    **{f"original_glcm_noise{i}": hash((patient, i, seed)) % 997 / 997 for i in range(n_noise)},
                    "settings_hash": "abc",
                }
            )
    return labelled(pd.DataFrame(rows), study)


def labelled(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add folds, labels and scanner."""
    table["fold"] = assign_folds(table, study)
    for horizon in study.settings.horizons_years:
        followup, event = table["followup_years"].to_numpy(), table["event_observed"].to_numpy()
        table[label_name(horizon)] = horizon_labels(followup, event, horizon)
    return table.assign(scanner=scanner(table))


def lost_before(table: pd.DataFrame, rows: Any, years: float) -> pd.DataFrame:
    """Let the given scans that are followed by death within some years be censored instead, on that day."""
    event = table["event_observed"].mask(rows & (table["followup_years"] <= years), False)
    return table.assign(event_observed=event)


def auc(predictions: pd.DataFrame, table: pd.DataFrame, model: str, horizon: float) -> float:
    """AUC over scans of known state."""
    chosen = predictions[(predictions["model"] == model) & (predictions["horizon_years"] == horizon)]
    both = chosen.merge(table[["scan_id", label_name(horizon)]], on="scan_id").dropna(subset=label_name(horizon))
    return float(roc_auc_score(both[label_name(horizon)].astype(int), both["risk"]))
