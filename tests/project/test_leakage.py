"""Outcomes that are pure noise: whatever the book prints of them beyond chance is a leak, or a fault of judging.

The features are those of synthetic CTs, and a patient's scans are nearly alike; the outcome is drawn for each patient,
without regard to anything. What is held against 0.5 is the table of performance that the book prints.

Patients are split in halves in two ways, which makes four groups of them, and outcomes are turned round (the dead live,
the living die) in every choice of these groups: sixteen studies of noise. To each study belongs one in which the
tested half alone is turned, and with it every comparison of two tested scans, while the fit, which never saw them, is
the same. So the mean AUC of the sixteen is 0.5 exactly. A leak finds its patients again in all of them, and risks that
are compared over fits, or averaged over splits before they are measured, fall below.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sscct_lib.cohort.outcomes import label_name
from sscct_lib.deep import cross_validation as networks
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation, averaged
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.models import STACKED, stack
from sscct_lib.radiomics import cross_validation, estimators
from sscct_lib.radiomics.feature_sets import feature_columns
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import CohortSettings, DeepSettings, NetworkSettings, Settings, TabularSettings
from tests.deep.test_cross_validation import write_scan
from tests.radiomics.tabular_cohort import labelled

FEATURES = Path(__file__).parents[1] / "data" / "phantom_features.parquet"
HORIZON = 3.0
N_PATIENTS = 60
FRONT_PAGE = ("Clinical", "Quantitative CT", "Radiomics")

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Small models, so that all of it takes a minute."""
    monkeypatch.setattr(estimators, "PENALTIES", (0.1, 0.01))
    monkeypatch.setattr(estimators, "L1_RATIOS", (0.5,))
    monkeypatch.setattr(estimators, "N_STAGES", (5, 10))
    monkeypatch.setattr(estimators, "DEPTHS", (2,))
    monkeypatch.setattr(estimators, "LEAF_SHARES", (0.02,))
    tabular = TabularSettings(
        feature_sets=FRONT_PAGE,
        compared_on=("Quantitative CT",),
        n_inner_folds=2,
        n_repeats=2,
        n_trees=10,
        n_imputations=2,
    )
    return Study(tmp_path, Settings(horizons_years=(HORIZON,), cohort=CohortSettings(n_folds=2), tabular=tabular))


def read_features() -> pd.DataFrame:
    table = pd.read_parquet(FEATURES)
    some = np.unique(table["patient_id"])[:N_PATIENTS]
    return table[table["patient_id"].isin(some)].reset_index(drop=True)


def noise_table(study: Study, seed: int, turned: "pd.Series[bool] | None" = None) -> pd.DataFrame:
    """The same features each time, with outcomes of patients drawn anew for each seed; half of them die."""
    table = read_features()
    rng = np.random.default_rng(seed)
    patients, of_scan = np.unique(table["patient_id"], return_inverse=True)
    died = (rng.permutation(len(patients)) % 2 == 0)[of_scan]
    died = died if turned is None else died ^ table["patient_id"].map(turned).to_numpy(bool)
    years = rng.uniform(0, HORIZON, len(patients))[of_scan]
    seeded = replace(study, settings=study.settings.model_copy(update={"seed": seed}))
    outcome = {"followup_years": np.where(died, years, HORIZON + 0.1 + years), "event_observed": died}
    return labelled(table.assign(**outcome, settings_hash="a"), seeded)


def printed(table: pd.DataFrame, predictions: pd.DataFrame, study: Study) -> "pd.Series[float]":
    """What the book prints: the AUC of each model."""
    evaluation = Evaluation(table, predictions, study.settings).without_resamples()
    return evaluate(evaluation, ("auc",)).set_index("model")["estimate"]


@pytest.fixture
def _once(monkeypatch) -> None:
    """Fit the same model on the same table once: in four of sixteen studies a training half is the same."""
    fits = {}

    def train_once(table, model, *others):
        key = model.name, pd.util.hash_pandas_object(table).to_numpy().tobytes()
        if key not in fits:
            fits[key] = train(table, model, *others)
        return fits[key]

    train = cross_validation.train
    monkeypatch.setattr(cross_validation, "train", train_once)


@pytest.fixture
def sixteen(study, _once, monkeypatch) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Tables and predictions of sixteen studies of noise, on the same two splits of the patients."""
    patients = np.unique(read_features()["patient_id"])
    split = np.random.default_rng(2026)
    halves = pd.DataFrame({repeat: split.permuted(np.arange(len(patients)) % 2) for repeat in (0, 1)}, patients)
    found = []
    for signs in product((False, True), repeat=4):
        turned = pd.Series(np.array(signs)[2 * halves[0] + halves[1]], index=patients)
        table = noise_table(study, 0, turned)
        folds = np.array([table["patient_id"].map(halves[repeat]) for repeat in (0, 1)])
        table = table.assign(fold=folds[0])
        monkeypatch.setattr(cross_validation, "repeated_folds", lambda *_, folds=folds: folds)
        predictions = cross_validation.cross_validate(table, study).predictions
        found.append((table, pd.concat([predictions, stack(predictions)], ignore_index=True)))
    return found


def test_noise_predicts_nothing_in_what_the_book_prints(study: Study, sixteen) -> None:
    auc = pd.DataFrame([printed(*each, study) for each in sixteen]).mean()
    assert {*FRONT_PAGE, STACKED} <= set(auc.index)
    assert len(auc) == 9
    assert auc.to_numpy() == pytest.approx(0.5, abs=1e-6)
    # The same risks over fits, and averaged before they are measured: less than a coin knows.
    handicapped = []
    for table, predictions in sixteen:
        outcome = Evaluation(table, predictions, study.settings).without_resamples().outcome(HORIZON)
        risk = averaged(predictions).pivot(index="scan_id", columns="model", values="risk").loc[table["scan_id"]]
        handicapped.append({name: METRICS["auc"].measure(risk[name].to_numpy(), outcome)[0] for name in risk})
    assert (pd.DataFrame(handicapped).mean() < 0.49).all(), pd.DataFrame(handicapped).mean()


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
            "n_repeats": 1,
        }
    )
    study = replace(study, settings=study.settings.model_copy(update={"tabular": chosen}))
    values = []
    for seed in range(20):
        table = noise_table(study, seed)
        leaky = split_by_scan(table, seed) if leak.startswith("scans") else features_chosen_beforehand(table)
        predictions = cross_validation.cross_validate(leaky, study).predictions
        values.append(printed(leaky, predictions, study)[f"All features, {model}"])
    assert np.mean(values) > 0.55, f"{leak}: {np.mean(values):.4f}"


def test_a_network_predicts_nothing_of_noise_in_what_the_book_prints(tmp_path) -> None:
    """Four studies, by turning round the outcomes of either half: the mean is 0.5 exactly, as above."""
    network = NetworkSettings(size=32, epochs=2, batch_size=4)
    study = Study(
        tmp_path,
        Settings(
            horizons_years=(HORIZON,),
            cohort=CohortSettings(n_folds=2),
            deep=DeepSettings(networks=("resnet18",), resnet18=network),
        ),
    )
    rng, patients = np.random.default_rng(0), np.arange(16)
    died, years, density = rng.permutation(16) % 2 == 0, rng.uniform(0, HORIZON, 16), rng.uniform(-900, -400, 16)
    of_scan = np.repeat(patients, 2)
    for number, patient in enumerate(of_scan):  # scans of a patient are nearly alike
        write_scan(study, f"s{number}", density[patient])
    found = []
    for turned in product((False, True), repeat=2):
        dead = (died ^ np.array(turned)[patients % 2])[of_scan]
        cohort = pd.DataFrame(
            {
                "scan_id": [f"s{number}" for number in range(len(of_scan))],
                "patient_id": [f"p{patient}" for patient in of_scan],
                "followup_years": np.where(dead, years[of_scan], HORIZON + 0.1),
                "event_observed": dead,
                "fold": of_scan % 2,
            }
        )
        found.append(printed(cohort, networks.cross_validate(study, cohort, ["resnet18"]), study).iloc[0])
    assert np.std(found) > 0.01  # the risks tell scans apart
    assert np.mean(found) == pytest.approx(0.5, abs=1e-6), found
