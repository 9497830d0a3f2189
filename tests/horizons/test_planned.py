"""Planned comparisons: the paired differences, corrected for their number, and what may be called better."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from sscct_lib.horizons.comparison import differences
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.planned import NOT_COMPARED, UNDECIDED, check_planned, compare
from sscct_lib.horizons.tables import planned_in_words, planned_sentences
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import HorizonSettings, Settings
from tests.horizons.cohorts import FEW, make_predictions


def planning(*pairs: tuple[str, str], primary_years: float | None = None) -> Settings:
    return Settings(horizons=HorizonSettings(n_bootstrap=200, planned=pairs or None, primary_years=primary_years))


def test_planned_comparisons_are_the_paired_differences_corrected_for_their_number(cohort):
    noise = {"Clinical + quantitative CT": 0.2, "Clinical": 3.0, "ILD-GAP": 0.25}
    given = pd.concat([make_predictions(cohort, sd, name) for name, sd in noise.items()], ignore_index=True)
    table = compare(Evaluation(cohort, given, planning(primary_years=5.0)))
    assert table["finding"].tolist() == ["better", UNDECIDED, NOT_COMPARED]  # there is no network
    pair = differences(Evaluation(cohort, given, FEW), "Clinical", ("auc",)).query("horizon_years == 5").iloc[0]
    for name in ("difference", "ci_low", "ci_high", "n_patients_died"):
        assert table.loc[0, name] == pytest.approx(pair[name])
    p = table["p"]
    assert p[0] < p[1]
    assert table["p_holm"].tolist()[:2] == pytest.approx([3 * p[0], min(1, 2 * p[1])])  # of three that were planned
    assert np.isnan(table["p_holm"][2])


def test_the_other_way_round_is_worse_and_few_patients_are_too_small(cohort, predictions):
    settings = planning(("Noisy", "Clinical"), primary_years=5.0)
    worse = compare(Evaluation(cohort, predictions, settings)).iloc[0]
    assert (worse["finding"], worse["p"], worse["horizon_years"]) == ("worse", worse["p_holm"], 5.0)
    assert compare(Evaluation(cohort, predictions, planning(("Noisy", "Clinical"))))["horizon_years"].item() == 3.0
    alive = compare(Evaluation(cohort.assign(event_observed=False), predictions, settings))
    assert alive["finding"].tolist() == ["too small"]


def test_two_names_of_one_ranking_are_not_told_apart(cohort):
    twins = pd.concat([make_predictions(cohort, 0.2, name) for name in ("A", "B")])
    same = compare(Evaluation(cohort, twins, planning(("A", "B"))))
    assert (same["difference"].item(), same["finding"].item()) == (0, UNDECIDED)
    assert np.isnan(same["p"].item())


def test_a_sentence_says_what_was_found_and_what_stays_open(cohort, predictions):
    settings = planning(("Clinical", "Noisy"), ("Noisy", "Clinical"), ("Nobody", "Clinical"), primary_years=5.0)
    table = compare(Evaluation(cohort, predictions, settings))
    said = planned_sentences(table)
    row = table.iloc[0]
    by = f"{row['difference']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"
    assert said.startswith(f"Clinical ranked scans better than Noisy: difference in AUC {by}, p ")
    assert " Noisy ranked scans worse than Clinical: difference in AUC -" in said
    assert said.endswith(" Nobody was not compared with Clinical: a model is not in this run.")
    alone = planned_sentences(table.tail(1))
    assert alone.startswith("No model was shown to be better than another. Nobody was not compared")
    shown = planned_in_words(table)
    assert shown["the first is"].tolist() == ["better", "worse", NOT_COMPARED]
    assert shown.columns[2] == "p (Holm, of 3)"


def test_networks_are_planned_by_their_plain_name(cohort):
    given = pd.concat(
        [make_predictions(cohort, 0.2, "ResNet-18 (from scratch)", "resnet18"), make_predictions(cohort, 3.0, "Other")]
    )
    table = compare(Evaluation(cohort, given, planning(("ResNet-18", "Other"), primary_years=5.0)))
    assert table["finding"].tolist() == ["better"]


def test_a_planned_comparison_of_an_unknown_model_is_refused_with_the_nearest_name():
    check_planned(planning(), {"Radiomics"})  # the usual ones may lack a model, and then say so
    check_planned(planning(("Radiomics", "Clinical")), {"Radiomics", "Clinical"})
    with pytest.raises(StudyError, match=r"names the model 'Radiomic', .* Did you mean 'Radiomics'\?"):
        check_planned(planning(("Radiomic", "Clinical")), {"Radiomics", "Clinical"})
    with pytest.raises(ValidationError, match=r"primary_years is 4; expected one of horizons_years \(1, 3, 5\)"):
        planning(primary_years=4.0)
