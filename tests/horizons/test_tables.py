"""The tables that readers see.

Tables for readers hold the same numbers as those they are made of, in words and with units.
"""

import numpy as np
import pandas as pd
import pytest

from sscct_lib.horizons import tables
from sscct_lib.horizons.comparison import differences
from sscct_lib.horizons.curves import calibration
from sscct_lib.horizons.decisions import threshold_table
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import FEWEST_PATIENTS, Evaluation
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.survival import LogRank
from sscct_lib.lungs.tables import plausible_ranges
from sscct_lib.radiomics import tables as radiomic_tables
from sscct_lib.study.settings import LungSettings
from sscct_lib.study.words import METRIC_WORDS, RULE_WORDS, estimate_text, horizons_text, percent_text, years_text
from tests.horizons.cohorts import FEW, make_cohort, make_predictions


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(60)


@pytest.fixture(scope="module")
def predictions(cohort):
    return pd.concat([make_predictions(cohort, 0.1, "A"), make_predictions(cohort, 2.0, "B")], ignore_index=True)


@pytest.fixture(scope="module")
def performance(predictions, cohort):
    return evaluate(Evaluation(cohort, predictions, FEW))


def test_texts():
    assert estimate_text(0.774, 0.701, 0.829) == "0.77 (0.70 to 0.83)"
    assert estimate_text(-0.001, -0.2, 0.1) == "0.00 (-0.20 to 0.10)"  # there is no -0.00
    assert estimate_text(float("nan"), 0.1, 0.2) == "not estimable"
    assert estimate_text(0.5, float("nan"), float("nan"), decimals=3) == "0.500 (no interval)"
    assert estimate_text(2.43, 0.0, 2699.24) == "2.43 (0.00 to above 100)"
    assert estimate_text(240, 110, 300, decimals=0) == "240 (110 to 300)"
    assert [years_text(1.0), years_text(0.5), years_text(5.0)] == ["1 year", "0.5 years", "5 years"]


def test_side_by_side_has_models_horizons_and_denominators(performance, cohort):
    table = tables.side_by_side(performance)
    assert table.index.tolist() == [tables.DENOMINATORS, "A", "B"]
    assert table.columns.tolist() == ["1 year", "3 years", "5 years"]
    row = performance.query("metric == 'auc' and model == 'B' and horizon_years == 3").iloc[0]
    assert table.loc["B", "3 years"] == estimate_text(row["estimate"], row["ci_low"], row["ci_high"])
    died = cohort[cohort["event_observed"] & (cohort["followup_years"] <= 3)]["patient_id"]
    alive = cohort[cohort["followup_years"] > 3]["patient_id"]
    counts = f"{len(died)} scans of {died.nunique()} patients against {len(alive)} of {alive.nunique()}"
    assert table.loc[tables.DENOMINATORS, "3 years"] == f"{counts}; {len(cohort) - len(died) - len(alive)} unknown"
    assert died.nunique() < len(died)


def test_one_rule_says_what_is_too_small_for_every_measure(predictions, cohort):
    """Four patients died: whatever is measured, the column says so, and one more patient is enough."""
    died = cohort.loc[cohort["event_observed"] & (cohort["followup_years"] <= 5), "patient_id"].unique()
    for n_died, small in ((4, True), (5, False)):
        few = cohort.assign(event_observed=cohort["event_observed"] & cohort["patient_id"].isin(died[:n_died]))
        found = Evaluation(few, predictions, FEW)
        judged = evaluate(found, ("auc", "brier", "observed_expected"))
        for metric in ("auc", "brier", "observed_expected"):
            column = tables.side_by_side(judged, metric)["5 years"]
            assert column.str.contains("too small").tolist() == [small] * 3
        shown = tables.thresholds_side_by_side(threshold_table(found, "A")).loc["5 years"]
        assert (shown.drop(columns="flagged from", errors="ignore") == "too small").all(axis=None) == small
        compared = tables.differences_side_by_side(differences(found, "A"))
        assert (compared.loc["B", "5 years"] == "too small") == small
        groups = calibration(found, "A").query("horizon_years == 5")
        assert groups["too_small"].eq(small).all()
    assert FEWEST_PATIENTS == 5  # the chapters say "five"


def test_numbers_for_prose(performance, predictions, cohort):
    numbers = tables.headline_numbers(Evaluation(cohort, predictions, FEW), performance)
    assert numbers["n_scans"] == str(len(cohort))
    assert numbers["study_title"] == FEW.title
    died = cohort["event_observed"] & (cohort["followup_years"] <= 5)
    scans = f"{died.sum()} scans of {cohort.loc[died, 'patient_id'].nunique()} patients within 5 years"
    assert scans in numbers["deaths"]
    assert numbers["best_model_5y"] == "A"
    assert numbers["best_auc_5y"] == tables.side_by_side(performance).loc["A", "5 years"]


def test_numbers_when_nothing_can_be_estimated(predictions, cohort):
    alive = cohort.assign(event_observed=False)
    performance = evaluate(Evaluation(alive, predictions, FEW))
    numbers = tables.headline_numbers(Evaluation(alive, predictions, FEW), performance)
    assert (numbers["best_model_1y"], numbers["best_auc_1y"]) == ("no model", "not estimable")
    assert tables.beside_published(performance)["best AUC here"].eq("not estimable").all()
    notes = tables.remarks(performance).set_index("note")["measures"]
    assert notes["not estimable: no scan is followed by death within the horizon"].startswith("all but")
    assert notes["no interval: fewer than two patients died, or survived"] == "observed risk, Brier score"


def test_beside_published_shows_the_published_values(performance):
    table = tables.beside_published(performance)
    assert table["AUC there: best of three networks"].tolist() == ["0.769", "0.801", "0.709"]
    assert table.loc["5 years", "deaths there"] == "428 of 2,125 scans"


def test_nothing_to_remark(performance):
    assert tables.remarks(performance).empty


def test_differences_side_by_side(predictions, cohort):
    table = tables.differences_side_by_side(differences(Evaluation(cohort, predictions, FEW), "A"))
    assert table.index.tolist() == ["B"]
    assert table.columns.tolist() == ["1 year", "3 years", "5 years"]


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.07, 0, "7 %"),
        (0.0, 0, "0 %"),
        (1.0, 0, "100 %"),
        (0.004, 0, "below 1 %"),
        (0.996, 0, "above 99 %"),
        (0.0004, 1, "below 0.1 %"),
        (0.1234, 1, "12.3 %"),
    ],
)
def test_no_risk_is_rounded_to_none_or_to_certainty(share, decimals, text):
    assert percent_text(share, decimals) == text


@pytest.mark.parametrize(
    ("horizons", "text"),
    [((1.0,), "1 year"), ((2.5,), "2.5 years"), ((1.0, 5.0), "1 and 5 years"), ((1, 3, 5), "1, 3 and 5 years")],
)
def test_horizons_are_listed_as_one_speaks(horizons, text):
    assert horizons_text(horizons) == text


def test_mean_risks_are_means_over_scans():
    rows = [("a", 1, "s", 0.1), ("a", 1, "t", 0.3), ("a", 5, "s", 0.5), ("a", 5, "t", 0.5), ("b", 1, "s", 0.0)]
    # A scan that lacks a horizon would move one mean and not the other.
    rows += [("c", 5, "s", 1.0), ("a", 1, "u", 1.0)]
    table = tables.mean_risks(pd.DataFrame(rows, columns=["model", "horizon_years", "scan_id", "risk"]))
    assert table.loc["a"].tolist() == ["20.0 %", "50.0 %", "<5"]
    assert table.loc["b"].tolist() == ["0.0 %", "not predicted", "<5"]
    assert table.loc["c", "5 years, mean risk"] == "100.0 %"
    assert table.columns.tolist() == ["1 year, mean risk", "5 years, mean risk", "scans"]


def test_quantitative_ct_has_units_and_leaves_failed_scans_out():
    features = pd.DataFrame(
        {
            "status": ["ok"] * 3 + ["failed"],
            "qct_volume_l": [3.0, 4.0, 5.0, np.nan],
            "qct_mean_hu": [-800.0, -790.4, -700.0, 0.0],
            "qct_low_attenuation_share_lower": [0.001, 0.0042, 0.01, 1.0],
            "qct_skewness": [1.0, np.nan, 2.0, 9.0],
        }
    )
    table = radiomic_tables.quantitative_ct(features)
    assert table.loc["lung volume", ["unit", "median"]].tolist() == ["litres", "4.00"]
    assert table.loc["mean attenuation", ["unit", "median"]].tolist() == ["HU", "-790"]
    assert table.loc["LAA-950 in the lower zones", ["unit", "median"]].tolist() == ["%", "0.4"]
    assert table["scans"].tolist() == [3, 3, 3, 2]


def test_saved_models_have_one_row_each_with_all_counts():
    counts = {"n_scans": 1200, "n_patients": 62, "n_events": 17, "n_unknown": 44, "megabytes": 0.32}
    rows = [{"model": "A", "horizon_years": years, **counts, "note": ""} for years in (1.0, 3.0)]
    rows += [{"model": "B", "horizon_years": years, "note": "too few deaths"} for years in (1.0, 3.0)]
    table = radiomic_tables.saved_models(pd.DataFrame(rows))
    assert table.index.tolist() == ["A", "B"]
    assert table.loc["A", "3 years: died"] == "17 of 1,200 (62 patients; 44 unknown)"
    assert table.loc["A", "file, MB"] == "0.3"
    assert table.loc["B"].tolist() == ["not fitted", "not fitted", "", "too few deaths"]
    only_b = radiomic_tables.saved_models(pd.DataFrame(rows[2:]))
    assert only_b.columns.tolist() == ["1 year: died", "3 years: died", "note"]


def performance_plain_tables(notes):
    rows = [("m", 1.0, metric, notes.get(metric, "")) for metric in METRICS]
    return pd.DataFrame(rows, columns=["model", "horizon_years", "metric", "note"])


def test_what_holds_for_most_metrics_is_told_by_the_rest():
    most = {name: "on 5 scans" for name in METRICS if name != "calibration_slope"}
    assert tables.remarks(performance_plain_tables(most))["measures"].tolist() == ["all but calibration slope"]
    assert tables.remarks(performance_plain_tables({"uno_c": "x"}))["measures"].tolist() == ["Uno's concordance"]
    assert tables.remarks(performance_plain_tables(dict.fromkeys(METRICS, "x")))["measures"].tolist() == ["all"]


def test_every_metric_and_every_rule_has_words():
    assert {*METRICS, "integrated_brier"} == set(METRIC_WORDS)
    assert set(plausible_ranges(LungSettings())) <= set(RULE_WORDS)


def test_noise_is_written_with_its_interval():
    table = pd.DataFrame(
        [("sd_logit", 0.25, 0.1, 0.5, 42, 24), ("share_beyond", np.nan, np.nan, np.nan, 3, 2)],
        columns=["measure", "estimate", "ci_low", "ci_high", "n_pairs", "n_patients"],
    )
    shown = tables.noise(table)
    assert shown["estimate"].tolist() == ["0.25 (0.10 to 0.50)", "not estimable"]
    assert shown["patients"].tolist() == ["24", "<5"]
    assert shown["pairs of scans"].tolist() == ["42", "<5"]
    assert shown.index.notna().all()


def test_what_happened_to_several_models_in_the_same_fits_is_one_row():
    rows = [(m, y, r, 0, "no death") for m in ("A", "B") for y in (1.0, 3.0) for r in (0, 1)]
    rows += [("A", 5.0, 0, 1, "one death")]
    table = radiomic_tables.fitting_notes(
        pd.DataFrame(rows, columns=["model", "horizon_years", "repeat", "fold", "note"])
    )
    assert table.to_numpy().tolist() == [["A; B", "1 year, 3 years", 2, "no death"], ["A", "5 years", 1, "one death"]]
    assert radiomic_tables.fitting_notes(pd.DataFrame(columns=["model", "horizon_years", "fold", "note"])).empty


def test_only_what_every_fit_chose_is_named():
    weights = pd.DataFrame(
        {"feature": ["age_years", "age_years", "qct_mean_hu", "qct_mean_hu"], "coefficient": [0.2, 0.1, 0.3, 0.0]}
    )
    assert radiomic_tables.always_chosen(weights) == "Chosen by every fit: age."
    assert "No feature" in radiomic_tables.always_chosen(weights.query("feature != 'age_years'"))
    assert radiomic_tables.always_chosen(weights.iloc[:0]) == ""


def test_thirds_are_told_with_their_hazard_ratio_and_test():
    ratios = pd.DataFrame(
        {
            "comparison": ["middle risk against low risk", "high risk against low risk", "one standard deviation"],
            "hazard_ratio": [1.5, 2.5, 1.8], "ci_low": [1.0, 1.2, 1.1], "ci_high": [2.2, 5.1, 2.9],
        }
    )  # fmt: skip
    said = tables.thirds_in_words(LogRank(9.0, 2, 0.0001), ratios)
    assert said == "high against low risk: hazard ratio 2.50 (1.20 to 5.10)\nlog-rank p < 0.001"
    assert tables.thirds_in_words(LogRank(np.nan, 2, np.nan), ratios.tail(1)) == ""
