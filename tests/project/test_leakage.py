"""Outcomes that are pure noise: whatever a model says of them beyond chance, it has learned from the tested patients.

The features are those of synthetic CTs, and a patient's scans are nearly alike; the outcome is drawn for each patient,
without regard to anything. A sound procedure has an expected AUC of 0.5. The AUC is computed within each tested fold
and averaged over folds. Within a fold all risks come from one model, and given the training patients every assignment
of outcomes to the tested ones is as likely, so its mean is 0.5. Pooled over folds it would be lower: a fold that by
chance holds more deaths leaves fewer for training, so that its risks are lower, just where there are more deaths.

Repeats come in pairs. The second turns the outcomes of one fold's patients round: the dead live and the living die.
Each is noise by itself, but what a sound procedure finds by chance in the one, it misses in the other, and their mean
is near 0.5 with far fewer repeats. A leak finds its patients again in both.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sscct_lib.cohort.outcomes import label_name
from sscct_lib.radiomics import cross_validation, estimators
from sscct_lib.radiomics.feature_sets import feature_columns
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import CohortSettings, Settings, TabularSettings
from tests.radiomics.tabular_cohort import auc, labelled

N_REPEATS = 50
FEATURES = Path(__file__).parents[1] / "data" / "phantom_features.parquet"
HORIZON = 3.0

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Small models, so that 50 repeats of nested cross-validation take a minute."""
    monkeypatch.setattr(estimators, "PENALTIES", (0.1, 0.01))
    monkeypatch.setattr(estimators, "L1_RATIOS", (0.5,))
    monkeypatch.setattr(estimators, "N_STAGES", (5, 10))
    monkeypatch.setattr(estimators, "DEPTHS", (2,))
    monkeypatch.setattr(estimators, "LEAF_SHARES", (0.02,))
    tabular_settings = TabularSettings(
        feature_sets=("Clinical + quantitative CT",),
        compared_on=("Clinical + quantitative CT",),
        n_inner_folds=2,
        n_repeats=1,
        n_trees=10,
    )
    settings = Settings(horizons_years=(HORIZON,), cohort=CohortSettings(n_folds=2), tabular=tabular_settings)
    return Study(tmp_path, settings)


def noise_table(study: Study, repeat: int) -> pd.DataFrame:
    """The same features each time, with outcomes of patients drawn anew for each pair of repeats; half of them die."""
    table = pd.read_parquet(FEATURES)
    seed = repeat // 2
    rng = np.random.default_rng(seed)
    patients, of_scan = np.unique(table["patient_id"], return_inverse=True)
    died = (rng.permutation(len(patients)) % 2 == 0)[of_scan]
    years = rng.uniform(0, HORIZON, len(patients))[of_scan]
    seeded = replace(study, settings=study.settings.model_copy(update={"seed": seed}))

    def with_outcome(died: np.ndarray) -> pd.DataFrame:
        outcome = {"followup_years": np.where(died, years, HORIZON + 0.1 + years), "event_observed": died}
        return labelled(table.assign(**outcome, settings_hash="a"), seeded)

    first = with_outcome(died)
    if repeat % 2 == 0:
        return first
    return with_outcome(died ^ (first["fold"] == 1).to_numpy()).assign(fold=first["fold"])


def auc_within_folds(predictions: pd.DataFrame, table: pd.DataFrame, model: str) -> float:
    return float(np.mean([auc(part, table, model, HORIZON) for _, part in predictions.groupby("fold")]))


def is_at_chance(values: list[float]) -> bool:
    return abs(np.mean(values) - 0.5) <= 0.01


def test_noise_predicts_nothing_for_any_pipeline(study: Study) -> None:
    found: dict[str, list[float]] = {model.name: [] for model in cross_validation.models_of(study)}
    for seed in range(N_REPEATS):
        table = noise_table(study, seed)
        predictions = cross_validation.cross_validate(table, study).predictions
        for name, values in found.items():
            values.append(auc_within_folds(predictions, table, name))
    assert len(found) == 5
    for name, values in found.items():
        assert is_at_chance(values), f"{name}: {np.mean(values):.4f}"


def split_by_scan(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    folds = np.random.default_rng(seed).permutation(len(table)) % 2
    return table.assign(patient_id=table["scan_id"], fold=folds)


FEW = 40  # the fewer patients, the better some feature fits their outcomes by chance


def features_chosen_beforehand(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the features that go with the outcome in all of a few patients, the tested ones among them."""
    few = np.unique(table["patient_id"])[:FEW]
    table = table[table["patient_id"].isin(few)].reset_index(drop=True)
    died = (table[label_name(HORIZON)] == 1).astype(float)
    columns = feature_columns("All features", table.drop(columns=["sex", "ssc_subtype"]))
    best = table[columns].corrwith(died).abs().nlargest(3).index
    return table.drop(columns=[name for name in table if name in set(columns) - set(best)])


@pytest.mark.parametrize(
    ("leak", "model"),
    [("scans of a patient on both sides", "survival forest"), ("features chosen beforehand", "logistic")],
)
def test_a_leak_would_be_caught(study: Study, leak: str, model: str) -> None:
    chosen = study.settings.tabular.model_copy(
        update={
            "feature_sets": ("All features",),
            "compared_on": ("All features",),
            "compared": ("forest" if model == "survival forest" else "logistic",),
        }
    )
    study = replace(study, settings=study.settings.model_copy(update={"tabular": chosen}))
    values = []
    for seed in range(N_REPEATS * 2 // 5):
        table = noise_table(study, seed)
        leaky = split_by_scan(table, seed) if leak.startswith("scans") else features_chosen_beforehand(table)
        predictions = cross_validation.cross_validate(leaky, study).predictions
        values.append(auc_within_folds(predictions, leaky, f"All features, {model}"))
    assert not is_at_chance(values), f"{leak}: {np.mean(values):.4f}"
    assert np.mean(values) > 0.55
