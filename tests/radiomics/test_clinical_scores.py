"""Baselines against hand-scored patients, the published tables and a weighted logistic regression of scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sksurv.metrics import cumulative_dynamic_auc

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.cohort.outcomes import horizon_labels, known_outcomes, label_name, survival_outcome
from sscct_lib.horizons.comparison import differences
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.metrics import METRICS
from sscct_lib.horizons.tables import side_by_side
from sscct_lib.radiomics import clinical_scores
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import CohortSettings, Settings
from tests.horizons.cohorts import FEW, make_cohort, survival

HORIZONS = (1.0, 3.0, 5.0)
AS_PUBLISHED = "ILD-GAP (published risks)"


def outcome_of(table: pd.DataFrame):
    return survival_outcome(table["followup_years"].to_numpy(), table["event_observed"].to_numpy())


def patient(**values) -> pd.DataFrame:
    healthy = {"age_years": 50.0, "sex": "female", "fvc_percent": 90.0, "dlco_percent": 80.0, "dlco_impossible": 0}
    return pd.DataFrame([healthy | values])


@pytest.mark.parametrize(
    ("values", "points"),
    [
        ({}, -2),
        ({"sex": "male"}, -1),
        ({"age_years": 60.9}, -2),
        ({"age_years": 61.0}, -1),
        ({"age_years": 65.9}, -1),
        ({"age_years": 66.0}, 0),
        ({"fvc_percent": 75.1}, -2),
        ({"fvc_percent": 75.0}, -1),
        ({"fvc_percent": 50.0}, -1),
        ({"fvc_percent": 49.0}, 0),
        ({"dlco_percent": 56.0}, -2),
        ({"dlco_percent": 55.0}, -1),
        ({"dlco_percent": 36.0}, -1),
        ({"dlco_percent": 35.0}, 0),
        ({"dlco_percent": np.nan, "dlco_impossible": 1}, 1),
        ({"age_years": 70.0, "sex": "male", "fvc_percent": 40.0, "dlco_percent": 30.0}, 5),
        ({"age_years": 70.0, "sex": "male", "fvc_percent": 40.0, "dlco_percent": np.nan, "dlco_impossible": 1}, 6),
    ],
)
def test_points_are_those_of_the_published_index(values, points):
    assert clinical_scores.ild_gap_points(patient(**values)).item() == points


@pytest.mark.parametrize("name", ["age_years", "sex", "fvc_percent", "dlco_percent"])
def test_a_missing_value_gives_no_index_and_is_not_a_dlco_that_was_impossible(name):
    assert np.isnan(clinical_scores.ild_gap_points(patient(**{name: np.nan})).item())
    assert np.isnan(
        clinical_scores.ild_gap_points(patient().drop(columns="dlco_impossible").assign(**{name: np.nan})).item()
    )


@pytest.mark.parametrize(
    ("values", "points", "stage_risk"),
    [
        ({}, 0, 0.056),
        ({"age_years": 70.0, "sex": "male", "fvc_percent": 60.0, "dlco_percent": 40.0}, 5, 0.162),
        ({"age_years": 68.0, "sex": "male", "fvc_percent": 60.0, "dlco_percent": 30.0}, 6, 0.392),
        (
            {"age_years": 70.0, "sex": "male", "fvc_percent": 40.0, "dlco_percent": np.nan, "dlco_impossible": 1},
            8,
            0.392,
        ),
    ],
)
def test_gap_gives_points_stage_and_risk_as_published(values, points, stage_risk):
    found = clinical_scores.gap_points(patient(**values))
    assert found.item() == points
    assert clinical_scores.published_risk("GAP (published risks)", found, 1.0).item() == stage_risk


@pytest.mark.parametrize(
    ("age", "smoked", "dlco", "points"),
    [
        (54.9, "no", 60.1, 0),
        (55.0, "no", 60.1, 1),
        (70.9, "no", 60.1, 1),
        (71.0, "yes", 60.1, 3),
        (50.0, "no", 60.0, 3),
        (50.0, "no", 40.0, 3),
        (50.0, "no", 39.9, 4),
        (75.0, "yes", 30.0, 7),
        (75.0, None, 30.0, np.nan),
        (75.0, "yes", np.nan, np.nan),
    ],
)
def test_sadl_points_at_every_limit(age, smoked, dlco, points):
    table = patient(age_years=age, dlco_percent=dlco, dlco_impossible=int(np.isnan(dlco)))
    told = table.assign(**{clinical_scores.EVER_SMOKED: smoked})
    np.testing.assert_array_equal(clinical_scores.sadl_points(told), [points])
    assert np.isnan(clinical_scores.sadl_points(table).item())


def test_published_risks_by_points():
    def risks(name, points, years):
        return clinical_scores.published_risk(f"{name} (published risks)", pd.Series(points), years).tolist()

    index = [-2.0, 1, 2, 3, 4, 5, 6, 8]
    assert risks("ILD-GAP", index, 1.0) == [0.031, 0.031, 0.088, 0.088, 0.182, 0.182, 0.335, 0.335]
    assert risks("ILD-GAP", index, 3.0) == [0.102, 0.102, 0.269, 0.269, 0.492, 0.492, 0.748, 0.748]
    assert risks("GAP", range(9), 2.0) == [0.109] * 4 + [0.299] * 2 + [0.621] * 3
    assert risks("GAP", range(9), 3.0) == [0.163] * 4 + [0.421] * 2 + [0.768] * 3
    for name in ("ILD-GAP", "GAP"):
        assert np.isnan(risks(name, [np.nan], 1.0)).all()
        assert np.isnan(risks(name, index, 5.0)).all()


@pytest.mark.parametrize("model", clinical_scores.PUBLISHED)
def test_published_risks_follow_one_baseline_hazard_as_those_of_a_cox_model_must(model):
    hazards = -np.log1p(-np.array(list(clinical_scores.PUBLISHED[model][2].values())))
    ratios = hazards / hazards[0]
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios.mean(axis=1, keepdims=True), ratios.shape), rtol=0.04)


@pytest.mark.parametrize(
    ("extent", "fvc", "extensive"),
    [
        (0.31, 100, 1),
        (0.09, 40, 0),
        (0.10, 69, 1),
        (0.30, 70, 0),
        (0.20, 69.9, 1),
        (0.25, np.nan, 1),
        (0.20, np.nan, 0),
        (np.nan, 50, np.nan),
    ],
)
def test_goh_stage(extent, fvc, extensive):
    table = pd.DataFrame({"qct_high_attenuation_share": [extent], "fvc_percent": [fvc]})
    np.testing.assert_array_equal(clinical_scores.goh_extensive(table), [extensive])


@pytest.fixture(scope="module")
def table():
    cohort = make_cohort(120)
    rng = np.random.default_rng(0)
    followup, event = cohort["followup_years"].to_numpy(), cohort["event_observed"].to_numpy()
    labels = {label_name(years): horizon_labels(followup, event, years) for years in HORIZONS}
    return cohort.assign(
        age_years=60 + 8 * rng.normal(size=len(cohort)),
        sex=rng.choice(["female", "male"], len(cohort)),
        fvc_percent=np.where(rng.random(len(cohort)) < 0.2, np.nan, 80 - 15 * cohort["marker"]),
        dlco_percent=60.0 - 10 * cohort["marker"],
        qct_high_attenuation_share=(0.15 + 0.08 * cohort["marker"]).clip(0, 1),
        **labels,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return Study(folder, Settings(horizons_years=HORIZONS, cohort=CohortSettings(n_folds=3)))


@pytest.fixture(scope="module")
def predicted(table, study):
    """Predictions of all scores for the table, and notes; no test may change them or the table."""
    return clinical_scores.predict(table, study)


def test_fitted_baselines_predict_every_scan_and_the_index_only_those_that_have_it(table, predicted):
    predictions, notes = predicted
    assert notes.empty
    counts = predictions.groupby(["model", "horizon_years"])["scan_id"].nunique().unstack()
    assert (counts.loc[["Age and sex", "FVC and DLCO"]] == len(table)).all(axis=None)
    assert (counts.loc["ILD-GAP"] == clinical_scores.ild_gap_points(table).notna().sum()).all()
    indexed = int(clinical_scores.ild_gap_points(table).notna().sum())
    assert counts.loc[AS_PUBLISHED, [1.0, 3.0]].tolist() == [indexed, indexed]
    assert np.isnan(counts.loc[AS_PUBLISHED, 5.0])
    assert 0 < indexed < len(table)
    assert "SADL" not in counts.index  # nobody told who smoked


def test_sadl_is_ranked_by_itself_where_smoking_is_known(table, study):
    smoked = table["patient_id"].map(lambda name: [None, "yes", "no"][int(name[1:]) % 3])
    told = table.assign(**{clinical_scores.EVER_SMOKED: smoked})
    predictions, _ = clinical_scores.predict(told, study)
    found = predictions.query("model == 'SADL' and horizon_years == 3").set_index("scan_id")
    points = clinical_scores.sadl_points(told).set_axis(told["scan_id"]).dropna()
    assert set(found.index) == set(told.loc[smoked.notna(), "scan_id"])
    assert (found["score"] == points[found.index]).all()


def test_a_stage_has_the_weighted_share_of_deaths_of_the_training_folds(table, predicted):
    predictions, _ = predicted
    staged = clinical_scores.with_scores(table)
    training, tested = staged[staged["fold"] != 1], staged[staged["fold"] == 1]
    died, weight = known_outcomes(outcome_of(training), 1.0, "censored_unknown")
    risk = predictions.query("model == 'Goh stage' and horizon_years == 1").set_index("scan_id")["risk"]
    for stage in (0.0, 1.0):
        same = (training["goh_extensive"] == stage).to_numpy()
        expected = np.average(died[same], weights=weight[same])
        found = risk.loc[tested.loc[tested["goh_extensive"] == stage, "scan_id"]].unique()
        assert found == pytest.approx(expected, abs=0.01)


def test_risk_of_age_and_sex_is_that_of_a_plain_weighted_logistic_regression(table, predicted):
    predictions, _ = predicted
    training, tested = table[table["fold"] != 0], table[table["fold"] == 0]
    died, weight = known_outcomes(outcome_of(training), 1.0, "censored_unknown")
    values = [
        rows["age_years"].clip(training["age_years"][weight > 0].min(), training["age_years"][weight > 0].max())
        for rows in (training, tested)
    ]
    known, new = (
        np.column_stack([age, rows["sex"] == "male"]) for age, rows in zip(values, (training, tested), strict=True)
    )
    plain = LogisticRegression(C=1e9, max_iter=1000).fit(known[weight > 0], died[weight > 0], weight[weight > 0])
    risk = predictions.query("model == 'Age and sex' and horizon_years == 1").set_index("scan_id")["risk"]
    np.testing.assert_allclose(risk.loc[tested["scan_id"]], plain.predict_proba(new)[:, 1], atol=0.01)


def test_a_score_ranks_by_itself_and_every_comparison_is_on_the_scans_that_have_it(table, study, predicted):
    """The AUC of the points, of all scans in one order, as scikit-survival gives it."""
    predictions, _ = predicted
    settings = study.settings.model_copy(update={"horizons": FEW.horizons})
    evaluation = Evaluation(table.drop(columns=["marker"]), predictions, settings)
    points = clinical_scores.ild_gap_points(table)
    have = points.notna().to_numpy()
    known = survival(table[have])
    for years in HORIZONS:
        expected = cumulative_dynamic_auc(known, known, points[have].to_numpy(), [years])[0][0]
        for model in ("ILD-GAP", AS_PUBLISHED)[: 1 if years == 5.0 else 2]:
            judged = evaluation.at(model, years)
            assert judged.measure("auc")[0] == pytest.approx(expected, abs=1e-9)
            assert judged.counts["n_scans"] == have.sum()
    table_of = differences(evaluation, "ILD-GAP", ("auc",)).query("model == 'Age and sex'")
    assert (table_of["n_scans"] == have.sum()).all()
    shown = side_by_side(evaluate(evaluation, ("auc",)))
    assert shown.loc["ILD-GAP", "3 years"].count(" on ") == 1
    assert " on " not in shown.loc["Age and sex", "3 years"]


def test_the_size_of_a_risk_learned_from_a_score_is_that_of_the_fits(table, study, predicted):
    predictions, _ = predicted
    settings = study.settings.model_copy(update={"horizons": FEW.horizons})
    judged = Evaluation(table.drop(columns=["marker"]), predictions, settings).at("ILD-GAP", 3.0)
    np.testing.assert_allclose(
        judged.measure("brier"), METRICS["brier"].measure(judged.risks[0], judged.outcome), rtol=1e-12
    )
    assert judged.measure("observed_expected")[0] == pytest.approx(1, abs=0.1)


def test_nothing_of_a_patient_reaches_the_risk_of_that_patient(table, study, predicted):
    predictions, _ = predicted
    changed = table.copy()
    changed.loc[changed["fold"] == 2, list(map(label_name, HORIZONS))] = 1
    changed.loc[changed["fold"] == 2, "event_observed"] = True
    again, _ = clinical_scores.predict(changed, study)
    pd.testing.assert_frame_equal(
        predictions.query("fold == 2").reset_index(drop=True), again.query("fold == 2").reset_index(drop=True)
    )


def test_without_deaths_or_columns_the_reason_is_told(table, study):
    alive = table.assign(event_observed=False, label_1y=0)
    predictions, notes = clinical_scores.predict(alive.drop(columns=["fvc_percent", "dlco_percent"]), study)
    assert notes.query("model == 'FVC and DLCO'")["note"].str.contains("no training scan has a value").all()
    assert (
        notes.query("model == 'Age and sex' and horizon_years == 1")["note"].str.contains("no training scan died").all()
    )
    assert "FVC and DLCO" not in set(predictions["model"])


def test_the_manifest_may_say_that_dlco_was_impossible(study_of, manifest_frame):
    study = study_of(manifest_frame.assign(dlco_impossible=["", "1", "0", "1.0"]))
    assert read_manifest(study)["dlco_impossible"].tolist() == [pd.NA, 1, 0, 1]


@given(st.floats(18, 95), st.floats(10, 150), st.floats(5, 150), st.sampled_from(["female", "male"]))
def test_the_index_never_falls_with_age_or_rises_with_lung_function(age, fvc, dlco, sex):
    points = [
        clinical_scores.ild_gap_points(patient(age_years=a, fvc_percent=f, dlco_percent=d, sex=sex)).item()
        for a, f, d in [(age, fvc, dlco), (age + 5, fvc, dlco), (age, fvc + 10, dlco), (age, fvc, dlco + 10)]
    ]
    assert -2 <= points[0] <= 5
    assert points[1] >= points[0] >= max(points[2], points[3])
