"""Paired differences, corrections and the truth of a simulated study."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student_t

from sscct_lib.bootstrap import interval
from sscct_lib.comparison import TRUE_RISK, attained, differences, holm, reference_model, true_risks, two_sided_p
from sscct_lib.horizons import evaluate
from sscct_lib.study import Settings, Study, StudyError
from tests.test_horizons import FEW, make_cohort, make_predictions


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(150)


@pytest.fixture(scope="module")
def predictions(cohort):
    return pd.concat(
        [make_predictions(cohort, 0.2, "Clinical"), make_predictions(cohort, 3.0, "Noisy")], ignore_index=True
    )


def test_difference_is_the_difference_of_the_estimates(cohort, predictions):
    table = differences(predictions, cohort, "Clinical", FEW)
    estimates = evaluate(predictions, cohort, FEW).set_index(["model", "metric", "horizon_years"])["estimate"]
    for row in table.itertuples():
        noisy, clinical = (estimates[name, row.metric, row.horizon_years] for name in ("Noisy", "Clinical"))
        assert row.difference == pytest.approx(noisy - clinical)
        assert row.ci_low <= row.difference <= row.ci_high
    worse = table.query("metric == 'auc' and horizon_years == 5").iloc[0]
    assert worse["ci_high"] < 0
    assert worse["p"] < 0.05


def test_paired_interval_is_narrower_than_unpaired(cohort):
    twins = pd.concat([make_predictions(cohort, 0.2, "A"), make_predictions(cohort, 0.25, "B")], ignore_index=True)
    paired = differences(twins, cohort, "A", FEW).query("metric == 'auc' and horizon_years == 5").iloc[0]
    single = evaluate(twins, cohort, FEW).query("metric == 'auc' and horizon_years == 5 and model == 'A'").iloc[0]
    assert paired["ci_high"] - paired["ci_low"] < (single["ci_high"] - single["ci_low"]) / 2


def test_models_are_compared_on_common_scans(cohort, predictions):
    some = predictions[~((predictions["model"] == "Noisy") & predictions["scan_id"].str.endswith("-1"))]
    table = differences(some, cohort, "Clinical", FEW)
    assert (table["n_scans"] == cohort["scan_id"].str.endswith("-0").sum()).all()


def test_no_events_gives_no_difference(predictions, cohort):
    alive = cohort.assign(event_observed=False)
    table = differences(predictions, alive, "Clinical", FEW)
    assert table[["difference", "ci_low", "ci_high", "p", "p_holm"]].isna().all(axis=None)


def test_share_attained_is_the_ratio_of_the_distances_from_chance(cohort, predictions):
    truth = make_predictions(cohort, 0.0, TRUE_RISK)
    table = attained(predictions, truth, cohort, FEW).set_index(["model", "horizon_years"])
    everything = pd.concat([predictions, truth], ignore_index=True)
    auc = evaluate(everything, cohort, FEW).query("metric == 'auc'").set_index(["model", "horizon_years"])["estimate"]
    for model, horizon in table.index:
        expected = (auc[model, horizon] - 0.5) / (auc[TRUE_RISK, horizon] - 0.5)
        assert table.loc[(model, horizon), "estimate"] == pytest.approx(expected)
    assert (table["ci_low"] < table["estimate"]).all()
    assert table.loc[("Noisy", 5.0), "ci_high"] < table.loc[("Clinical", 5.0), "ci_low"]


def test_unknown_reference_is_refused(cohort, predictions):
    with pytest.raises(StudyError, match="No model named 'Nobody'"):
        differences(predictions, cohort, "Nobody", FEW)
    assert reference_model(predictions, FEW) == "Clinical"
    assert reference_model(predictions.query("model == 'Noisy'"), FEW) == "Noisy"


def test_holm_by_hand():
    """Holm 1979: p times 4, 3, 2, 1 in rising order, never falling, at most 1."""
    p = pd.Series([0.01, np.nan, 0.04, 0.03, 0.6], index=list("abcde"))
    expected = pd.Series([0.04, np.nan, 0.09, 0.09, 0.6], index=list("abcde"))
    pd.testing.assert_series_equal(holm(p), expected)


def test_p_agrees_with_the_interval():
    """The 95 % interval reaches 0 exactly where p is 0.05."""
    resamples = np.random.default_rng(0).normal(0, 1, 5000)
    edge = student_t.ppf(0.975, 30) * resamples.std()
    samples = np.append(edge, edge + resamples)
    assert two_sided_p(samples, 30) == pytest.approx(0.05)
    assert interval(samples, 30).low == pytest.approx(0, abs=1e-9)
    assert np.isnan(two_sided_p(samples, 0))


def test_true_risks_of_a_simulated_study(tmp_path, cohort):
    study = Study(tmp_path, Settings(horizons_years=(1.0, 2.0)))
    assert true_risks(study, cohort).empty
    (tmp_path / "truth").mkdir()
    truth = cohort[["scan_id"]].assign(true_risk_1y=np.linspace(0, 1, len(cohort)))
    truth.iloc[::-1].to_csv(tmp_path / "truth" / "truth.csv", index=False)
    table = true_risks(study, cohort)
    assert table["model"].unique().tolist() == [TRUE_RISK]
    assert table["horizon_years"].unique().tolist() == [1.0]
    np.testing.assert_allclose(table["risk"], truth["true_risk_1y"])
    truth.iloc[1:].to_csv(tmp_path / "truth" / "truth.csv", index=False)
    with pytest.raises(StudyError, match="lacks 1 scan"):
        true_risks(study, cohort)
