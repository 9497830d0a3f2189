"""Model cards: what a saved model says of itself is on the page, with its performance."""

import json

import numpy as np
import pandas as pd
import pytest

from sscct_lib.book import reference
from sscct_lib.book.reference import data_dictionary_page, licence, needed_packages, packages_page, packages_table
from sscct_lib.horizons import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.intake.privacy import find
from sscct_lib.study.folder import Study
from sscct_lib.study.schemas import PERFORMANCE
from sscct_lib.study.settings import Covariate, HorizonSettings, Settings
from sscct_lib.study.tables import write_table
from tests.horizons.cohorts import make_cohort, make_predictions

TABULAR = {
    "model": "Clinical",
    "kind": "elastic-net Cox regression",
    "trained_on": {"n_scans": 1234, "n_patients": 56, "n_deaths": 7, "weights": "every patient counts once"},
    "columns": ["age_years"],
    "columns_used": [f"qct_p{i:02d}_hu" for i in range(12)],
    "chosen_by_tuning": {"penalty": 0.1},
    "labels": "censored_unknown",
    "settings_hash": "abc",
    "sha256": "f" * 64,
    "versions": {"sscct": "0.1.0"},
}
NETWORK = {
    "model": "ResNet-18 (from scratch)",
    "network": "resnet18",
    "member": 0,
    "n_parameters": 33_000_000,
    "n_scans": 100,
    "n_patients": 30,
    "n_deaths": [3, 2],
    "weights": "none (from scratch)",
    "hu_range": [-1024.0, 600.0],
    "settings": {"size": 32, "weights": None},
    "labels": "censored_unknown",
    "versions": {"torch": "2"},
}


@pytest.fixture
def study(tmp_path):
    made = Study(tmp_path, Settings(horizons=HorizonSettings(n_bootstrap=20)))
    for folder in ("tabular", "deep"):
        (made.models / folder).mkdir(parents=True)
    (made.models / "tabular" / "clinical.json").write_text(json.dumps(TABULAR))
    for fold in (0, 1):
        card = NETWORK | {"fold": fold, "sha256": str(fold) * 64}
        (made.models / "deep" / f"resnet18_fold{fold}_0.json").write_text(json.dumps(card))
    return made


def test_each_model_has_a_section_and_networks_of_all_folds_are_one(study):
    text = reference.model_cards_page(study)
    assert text.count("\n## ") == 2
    for words in ("1,234 scans of 56 patients, 7 of whom died", "and 4 more", "f" * 64, "0" * 64, "1" * 64, "2 models"):
        assert words in text
    assert text.count(reference.NOT_JUDGED) == 2
    assert "Not validated outside" in text


def test_performance_stands_on_the_card_with_its_counts(study):
    cohort = make_cohort(60)
    evaluation = Evaluation(cohort, make_predictions(cohort, model="Clinical"), study.settings)
    judged = evaluate.evaluate(evaluation, ("auc", "observed_expected"))  # what a card shows
    write_table(judged, study, "performance", PERFORMANCE)
    row = judged[(judged["metric"] == "auc") & (judged["horizon_years"] == 3)].iloc[0]
    text = reference.model_cards_page(study)
    assert f"AUC {row['estimate']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})" in text
    assert f"of {row['n_scans']} scans of {row['n_patients']} patients followed by death, against known alive" in text
    assert f"{row['n_events']} scans of {row['n_patients_died']} patients against" in text
    assert f"{row['n_unknown']} unknown" in text
    assert row["n_unknown"] > 0
    assert np.isfinite(row["estimate"])


def test_a_run_without_models_says_so(tmp_path):
    assert "This run has saved no model." in reference.model_cards_page(Study(tmp_path, Settings()))


def test_an_empty_performance_table_is_no_performance(study):
    write_table(pd.DataFrame(columns=list(PERFORMANCE.columns)), study, "performance", PERFORMANCE)
    assert reference.NOT_JUDGED in reference.model_cards_page(study)


def test_every_package_is_listed_once_with_its_licence():
    packages = needed_packages()
    names = [one.metadata["Name"].lower() for one in packages]
    assert {"torch", "numpy", "snakemake", "pydicom", "jinja2"} <= set(names)  # jinja2: needed by what we need
    assert len(names) == len(set(names)) > 100
    assert "pytest-xdist" not in names
    known = {one.metadata["Name"].lower(): licence(one) for one in packages}
    assert "BSD" in known["torch"]
    assert "MIT" in known["pydicom"]
    assert all(known.values())


def test_the_page_holds_nothing_that_looks_like_a_patients():
    assert packages_table()["Licence"].str.len().max() <= 80
    page = packages_page()
    assert "<td>torch</td><td>" in page
    assert find(page) == []


def test_declared_columns_stand_in_the_data_dictionary(tmp_path):
    score = Covariate(label="modified Rodnan skin score", kind="number", of="visit", range=(0, 51), unit="points")
    with_own = data_dictionary_page(Study(tmp_path, Settings(covariates={"mrss": score})))
    row = next(line for line in with_own.splitlines() if "<td>mrss</td>" in line)
    for words in ("modified Rodnan skin score (of the visit)", "float64", "points", "a number from 0 to 51", "no"):
        assert words in row
    assert "This study declares none." in data_dictionary_page(Study(tmp_path, Settings()))
    assert "covariates.NAME.kind" in with_own
