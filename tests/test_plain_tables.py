"""Tables for readers hold the same numbers as those they are made of, in words and with units."""

import numpy as np
import pandas as pd
import pytest

from sscct_lib import plain_tables
from sscct_lib.lung_verdict import plausible_ranges
from sscct_lib.metrics import METRICS
from sscct_lib.study import LungSettings
from sscct_lib.wording import METRIC_WORDS, RULE_WORDS, horizons_text, percent_text


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
    rows = [("a", 1, "s", 0.1), ("a", 1, "t", 0.3), ("a", 5, "s", 0.5), ("b", 1, "s", 0.0), ("c", 5, "s", 1.0)]
    table = plain_tables.mean_risks(pd.DataFrame(rows, columns=["model", "horizon_years", "scan_id", "risk"]))
    assert table.loc["a"].tolist() == ["20.0 %", "50.0 %", 2]
    assert table.loc["b"].tolist() == ["0.0 %", "not predicted", 1]
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
    table = plain_tables.quantitative_ct(features)
    assert table.loc["lung volume", ["unit", "median"]].tolist() == ["litres", "4.00"]
    assert table.loc["mean density", ["unit", "median"]].tolist() == ["HU", "-790"]
    assert table.loc["share of emphysema-like lung in the lower zones", ["unit", "median"]].tolist() == ["%", "0.4"]
    assert table["scans"].tolist() == [3, 3, 3, 2]


def test_saved_models_have_one_row_each_with_all_counts():
    counts = {"n_scans": 1200, "n_patients": 62, "n_events": 17, "n_unknown": 44, "megabytes": 0.32}
    rows = [{"model": "A", "horizon_years": years, **counts, "note": ""} for years in (1.0, 3.0)]
    rows += [{"model": "B", "horizon_years": years, "note": "too few deaths"} for years in (1.0, 3.0)]
    table = plain_tables.saved_models(pd.DataFrame(rows))
    assert table.index.tolist() == ["A", "B"]
    assert table.loc["A", "3 years: died"] == "17 of 1,200 (62 patients; 44 unknown)"
    assert table.loc["A", "file, MB"] == "0.3"
    assert table.loc["B"].tolist() == ["not fitted", "not fitted", "", "too few deaths"]
    only_b = plain_tables.saved_models(pd.DataFrame(rows[2:]))
    assert only_b.columns.tolist() == ["1 year: died", "3 years: died", "note"]


def performance(notes):
    rows = [("m", 1.0, metric, notes.get(metric, "")) for metric in METRICS]
    return pd.DataFrame(rows, columns=["model", "horizon_years", "metric", "note"])


def test_what_holds_for_most_metrics_is_told_by_the_rest():
    most = {name: "on 5 scans" for name in METRICS if name != "calibration_slope"}
    assert plain_tables.remarks(performance(most))["measures"].tolist() == ["all but calibration slope"]
    assert plain_tables.remarks(performance({"uno_c": "x"}))["measures"].tolist() == ["Uno's concordance"]
    assert plain_tables.remarks(performance(dict.fromkeys(METRICS, "x")))["measures"].tolist() == ["all"]


def test_every_metric_and_every_rule_has_words():
    assert {*METRICS, "integrated_brier"} == set(METRIC_WORDS)
    assert set(plausible_ranges(LungSettings())) <= set(RULE_WORDS)


def test_noise_is_written_with_its_interval():
    table = pd.DataFrame(
        [("sd_logit", 0.25, 0.1, 0.5, 42, 24), ("share_beyond", np.nan, np.nan, np.nan, 3, 2)],
        columns=["measure", "estimate", "ci_low", "ci_high", "n_pairs", "n_patients"],
    )
    shown = plain_tables.noise(table)
    assert shown["estimate"].tolist() == ["0.25 (0.10 to 0.50)", "not estimable"]
    assert shown["patients"].tolist() == [24, 2]
    assert shown.index.notna().all()


def test_what_happened_to_several_models_in_the_same_fits_is_one_row():
    rows = [(m, y, r, 0, "no death") for m in ("A", "B") for y in (1.0, 3.0) for r in (0, 1)]
    rows += [("A", 5.0, 0, 1, "one death")]
    table = plain_tables.fitting_notes(pd.DataFrame(rows, columns=["model", "horizon_years", "repeat", "fold", "note"]))
    assert table.to_numpy().tolist() == [["A; B", "1 year, 3 years", 2, "no death"], ["A", "5 years", 1, "one death"]]
    assert plain_tables.fitting_notes(pd.DataFrame(columns=["model", "horizon_years", "fold", "note"])).empty


def test_only_what_every_fit_chose_is_named():
    weights = pd.DataFrame(
        {"feature": ["age_years", "age_years", "qct_mean_hu", "qct_mean_hu"], "coefficient": [0.2, 0.1, 0.3, 0.0]}
    )
    assert plain_tables.always_chosen(weights) == "Chosen by every fit: age."
    assert "No feature" in plain_tables.always_chosen(weights.query("feature != 'age_years'"))
    assert plain_tables.always_chosen(weights.iloc[:0]) == ""
