"""Stacked risks by hand, and the leak of learned weights, which is why there are none."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from sscct_lib.horizons import models
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.models import is_variant, variants_side_by_side
from sscct_lib.horizons.tables import DENOMINATORS
from sscct_lib.study.words import plain_names
from tests.horizons.cohorts import FEW, make_cohort, make_predictions

NETWORKS = {"ResNet-18 (from scratch)": "resnet18", "DenseNet-121": "densenet121"}
NOISE = {"Clinical": 3.0, "Radiomics": 0.5, "ResNet-18 (from scratch)": 1.0, "DenseNet-121": 1.5}


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(150)


@pytest.fixture(scope="module")
def predictions(cohort):
    made = [make_predictions(cohort, noise, name, NETWORKS.get(name, "")) for name, noise in NOISE.items()]
    return pd.concat(made, ignore_index=True)


def test_sources_weigh_the_same_and_networks_count_as_one(cohort, predictions):
    stacked = models.stack(predictions)
    assert len(stacked) == 3 * len(cohort)
    scan = cohort["scan_id"].iloc[7]
    rows = predictions[(predictions["scan_id"] == scan) & (predictions["horizon_years"] == 3)].set_index("model")
    clinical, radiomics, first, second = (logit(rows.loc[name, "risk"]) for name in NOISE)
    expected = expit((clinical + radiomics + (first + second) / 2) / 3)
    found = stacked[(stacked["scan_id"] == scan) & (stacked["horizon_years"] == 3)]["risk"].item()
    assert found == pytest.approx(expected)


def test_it_is_judged_like_any_model_and_risks_rise_with_the_horizon(cohort, predictions):
    stacked = models.stack(predictions)
    table = evaluate(Evaluation(cohort, stacked, FEW), ("auc",))
    assert table["model"].unique().tolist() == [models.STACKED]
    assert (table["estimate"] > 0.6).all()
    wide = stacked.pivot(index="scan_id", columns="horizon_years", values="risk")
    assert wide.diff(axis=1).min(axis=None) >= 0


def test_only_scans_of_every_source_and_never_one_source_alone(cohort, predictions):
    some = predictions[(predictions["model"] != "Radiomics") | predictions["scan_id"].str.endswith("0")]
    stacked = models.stack(some)
    assert set(stacked["scan_id"]) == set(cohort.loc[cohort["scan_id"].str.endswith("0"), "scan_id"])
    assert models.stack(predictions[predictions["model"] == "Clinical"]).empty


def noise_study(seed: int, n_patients: int = 60, n_sources: int = 3, n_features: int = 8) -> list[float]:
    """AUC on data without signal: weights learned from the other folds, and equal weights."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 3)
    fold = patient % 3
    died = (rng.random(n_patients) < 0.3)[patient]
    logits = np.empty((len(patient), n_sources))
    for source in range(n_sources):
        of_patient = rng.normal(size=(n_patients, n_features))[patient]
        features = of_patient + rng.normal(0, 0.3, of_patient.shape)
        for k in range(3):
            fit = LogisticRegression().fit(features[fold != k], died[fold != k])
            logits[fold == k, source] = fit.decision_function(features[fold == k])
    learned = np.empty(len(patient))
    for k in range(3):
        fit = LogisticRegression().fit(logits[fold != k], died[fold != k])
        learned[fold == k] = fit.decision_function(logits[fold == k])
    # Within folds, for a shift between folds is no matter of leaking.
    return [
        float(np.mean([roc_auc_score(died[fold == k], score[fold == k]) for k in range(3)]))
        for score in (learned, logits.mean(axis=1))
    ]


@pytest.mark.slow
def test_without_signal_learned_weights_find_some_and_equal_ones_do_not():
    found = np.array([noise_study(seed) for seed in range(150)])
    learned, equal = found.mean(axis=0)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert learned - 3 * error[0] > 0.53
    assert equal == pytest.approx(0.5, abs=3 * error[1])


NAMES = ["Clinical", "All features", "All features, boosted trees", "Fibrosis, extent", "Clinical, logistic"]
IDENTITY = {
    "All features, boosted trees": ("All features", "", "boosted trees"),
    "Clinical, logistic": ("Clinical", "", "logistic"),
    "ResNet-18 (from scratch)": ("Networks", "resnet18", ""),
    "ResNet-18 (from scratch), longitudinal": ("Networks", "resnet18", "longitudinal"),
}


def performance(names: list[str]) -> pd.DataFrame:
    identity = [IDENTITY.get(name, (name, "", "")) for name in names]
    return pd.DataFrame(identity, columns=["family", "network", "variant"]).assign(
        model=names,
        metric="auc",
        horizon_years=3.0,
        estimate=0.7,
        ci_low=0.6,
        ci_high=0.8,
        n_scans=90,
        n_events=9,
        n_unknown=2,
        n_patients_died=7,
        n_patients_alive=30,
    )


def test_a_variant_is_known_by_its_columns_where_its_model_is_there() -> None:
    assert is_variant(performance(NAMES)).tolist() == [False, False, True, False, True]
    networks = ["ResNet-18 (from scratch)", "ResNet-18 (from scratch), longitudinal"]
    assert is_variant(performance(networks)).tolist() == [False, True]
    assert is_variant(performance(networks[1:])).tolist() == [False]


def test_a_model_is_named_without_remarks_on_its_training() -> None:
    assert plain_names(performance(list(IDENTITY))) == {
        "All features, boosted trees": "All features, boosted trees",
        "Clinical, logistic": "Clinical, logistic",
        "ResNet-18 (from scratch)": "ResNet-18",
        "ResNet-18 (from scratch), longitudinal": "ResNet-18, longitudinal",
    }
    assert plain_names(pd.DataFrame({"model": ["Own (v2), tuned"]})) == {"Own (v2), tuned": "Own (v2), tuned"}


def test_variants_stand_below_their_model_and_others_are_left_out() -> None:
    shown = variants_side_by_side(performance(NAMES))
    expected = ["All features", "All features, boosted trees", "Clinical", "Clinical, logistic"]
    assert shown.index.tolist() == [DENOMINATORS, *expected]
    assert variants_side_by_side(performance(["Clinical", "Fibrosis, extent"])).empty
