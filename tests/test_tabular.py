import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from sklearn.metrics import roc_auc_score

from sscct_lib import elastic_net, feature_sets, tabular
from sscct_lib.cohort import assign_folds, horizon_labels, label_name
from sscct_lib.elastic_net import NotEstimableError, known_outcomes
from sscct_lib.study import CohortSettings, Settings, Study, StudyError
from sscct_lib.tables import PREDICTIONS

HORIZONS = (1.0, 3.0)
Maker = Callable[..., pd.DataFrame]


@pytest.fixture(autouse=True)
def _short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try three penalties instead of twelve, for speed."""
    monkeypatch.setattr(elastic_net, "PENALTIES", (1.0, 0.1, 0.01))
    monkeypatch.setattr(elastic_net, "L1_RATIOS", (0.5,))


@pytest.fixture
def two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit the smallest model and one that sees nearly everything, for speed."""
    chosen = {name: feature_sets.MODELS[name] for name in ("Radiomics", "All features")}
    monkeypatch.setattr(tabular, "MODELS", chosen)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, Settings(horizons_years=HORIZONS, cohort=CohortSettings(n_folds=3)))


@pytest.fixture
def make_table(study: Study) -> Maker:
    """Scans of patients who die of `signal` times what their CT shows; the CT of a patient hardly changes."""

    def make(n_patients: int = 80, signal: float = 1.5, seed: int = 0, n_noise: int = 5) -> pd.DataFrame:
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
                        "qct_high_attenuation_share": ct,
                        "original_firstorder_Mean": -ct,
                        # What the patient is, and nothing about the outcome: this is how scans leak.
                        **{f"original_glcm_noise{i}": hash((patient, i, seed)) % 997 / 997 for i in range(n_noise)},
                        "settings_hash": "abc",
                    }
                )
        table = pd.DataFrame(rows)
        table["fold"] = assign_folds(table, study)
        followup, event = table["followup_years"].to_numpy(), table["event_observed"].to_numpy()
        for horizon in study.settings.horizons_years:
            table[label_name(horizon)] = horizon_labels(followup, event, horizon)
        return table

    return make


def auc(predictions: pd.DataFrame, table: pd.DataFrame, model: str, horizon: float) -> float:
    chosen = predictions[(predictions["model"] == model) & (predictions["horizon_years"] == horizon)]
    both = chosen.merge(table[["scan_id", label_name(horizon)]], on="scan_id").dropna(subset=label_name(horizon))
    return float(roc_auc_score(both[label_name(horizon)].astype(int), both["risk"]))


def test_every_scan_is_predicted_once_by_each_model_and_horizon(make_table: Maker, study: Study) -> None:
    table = make_table()
    result = tabular.cross_validate(table, study)
    assert len(result.predictions) == len(feature_sets.MODELS) * len(HORIZONS) * len(table)
    PREDICTIONS.validate(result.predictions)
    assert result.notes.empty
    fold = result.predictions.merge(table[["scan_id", "fold"]], on="scan_id")
    assert (fold["fold_x"] == fold["fold_y"]).all()


def test_signal_is_found_and_risk_is_calibrated_in_the_large(make_table: Maker, study: Study) -> None:
    table = make_table(n_patients=200)
    result = tabular.cross_validate(table, study)
    assert auc(result.predictions, table, "Quantitative CT", 3.0) > 0.8
    observed = KaplanMeierFitter().fit(table["followup_years"], table["event_observed"]).predict(3.0)
    chosen = result.predictions.query("model == 'Quantitative CT' and horizon_years == 3")
    assert chosen["risk"].mean() == pytest.approx(1 - observed, abs=0.04)


@pytest.mark.usefixtures("two_models")
def test_the_heaviest_feature_is_the_one_that_drives_risk(make_table: Maker, study: Study) -> None:
    result = tabular.cross_validate(make_table(n_patients=150), study)
    leading = tabular.leading_features(result, "Radiomics", 3.0, n=2)
    assert leading["feature"].iloc[0] == "mean (density histogram)"
    assert (leading.loc[leading["feature"] == "mean (density histogram)", "coefficient"] < 0).all()
    assert sorted(leading["fold"].unique()) == [0, 1, 2]


@pytest.mark.usefixtures("two_models")
def test_a_prediction_does_not_depend_on_the_tested_patients_outcome(make_table: Maker, study: Study) -> None:
    """The sharpest leak test: change all that is known of the tested fold's outcome, and nothing may change."""
    table = make_table()
    tested = table["fold"] == 0
    before = tabular.cross_validate(table, study).predictions
    spoilt = table.copy()
    spoilt.loc[tested, "event_observed"] = ~spoilt.loc[tested, "event_observed"]
    spoilt.loc[tested, "followup_years"] = 0.01
    for horizon in HORIZONS:
        spoilt[label_name(horizon)] = spoilt[label_name(horizon)].mask(tested, 1)
    after = tabular.cross_validate(spoilt, study).predictions
    of_fold = before["fold"] == 0
    pd.testing.assert_frame_equal(before[of_fold], after[of_fold])
    assert not before[~of_fold].equals(after[~of_fold])


@pytest.mark.usefixtures("two_models")
def test_a_prediction_does_not_depend_on_other_tested_scans(make_table: Maker, study: Study) -> None:
    """Imputation and scaling come from the training scans, not from the fold that is tested."""
    table = make_table()
    other = table.copy()
    first = other.index[other["fold"] == 0][0]
    rest = (other["fold"] == 0) & (other.index != first)
    other.loc[rest, ["qct_high_attenuation_share", "age_years"]] = 1e3
    before, after = (tabular.cross_validate(each, study).predictions for each in (table, other))
    chosen = before["scan_id"] == table.loc[first, "scan_id"]
    pd.testing.assert_frame_equal(before[chosen], after[chosen])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([1.0, 3.0, 5.0]), st.floats(0, 1)),
        unique_by=lambda row: row[:2],
        min_size=1,
    )
)
def test_risks_never_fall_with_the_horizon(rows: list[tuple[str, float, float]]) -> None:
    given_risks = pd.DataFrame(rows, columns=["scan_id", "horizon_years", "risk"]).assign(model="m")
    result = tabular.never_falling(given_risks)
    for _, scan in result.groupby("scan_id"):
        assert scan["horizon_years"].is_monotonic_increasing
        assert scan["risk"].is_monotonic_increasing
    both = given_risks.merge(result, on=["scan_id", "horizon_years"])
    assert (both["risk_y"] >= both["risk_x"]).all()
    assert result["risk"].max() == given_risks["risk"].max()


def test_unknown_scans_weigh_nothing_and_others_stand_for_them(make_table: Maker) -> None:
    table = make_table(n_patients=300)
    died, weight = known_outcomes(table, 3.0, "censored_unknown")
    unknown = table[label_name(3.0)].isna().to_numpy()
    assert unknown.any()
    assert (weight[unknown] == 0).all()
    assert (weight[~unknown] >= 1).all()
    observed = KaplanMeierFitter().fit(table["followup_years"], table["event_observed"]).predict(3.0)
    assert np.average(died, weights=weight) == pytest.approx(1 - observed, abs=0.01)


def test_the_published_rule_counts_every_scan_once(make_table: Maker) -> None:
    table = make_table()
    followup, event = table["followup_years"].to_numpy(), table["event_observed"].to_numpy()
    table[label_name(3.0)] = horizon_labels(followup, event, 3.0, "as_published")
    died, weight = known_outcomes(table, 3.0, "as_published")
    assert (weight == 1).all()
    assert died.sum() == (event & (followup <= 3)).sum()


def test_a_fold_without_deaths_in_training_is_named_and_left_out(make_table: Maker, study: Study) -> None:
    table = make_table()
    table[label_name(1.0)] = table[label_name(1.0)].mask((table["fold"] != 0) & (table[label_name(1.0)] == 1))
    result = tabular.cross_validate(table, study)
    left = result.predictions
    assert 0 not in left.loc[left["horizon_years"] == 1, "fold"].unique()
    assert set(left.loc[left["horizon_years"] == 3, "fold"]) == {0, 1, 2}
    assert left["risk"].notna().all()
    named = result.notes[result.notes["fold"] == 0]
    assert set(named["model"]) == set(feature_sets.MODELS)
    assert named["note"].str.contains("no training scan died within 1 years").all()


def test_deaths_of_one_patient_leave_nothing_to_tune_and_that_is_said(make_table: Maker, study: Study) -> None:
    table = make_table()
    patient = table.loc[table[label_name(3.0)] == 1, "patient_id"].iloc[0]
    alive = table["patient_id"] != patient
    table[label_name(3.0)] = table[label_name(3.0)].mask(alive & (table[label_name(3.0)] == 1))
    fitted = elastic_net.fit(table, ["age_years"], 3.0, study)
    assert "too few patients to tune" in fitted.note
    assert (fitted.penalty, fitted.l1_ratio) == (elastic_net.PENALTIES[0], elastic_net.L1_RATIOS[0])


def test_no_survivor_cannot_be_fitted(make_table: Maker, study: Study) -> None:
    table = make_table()
    table[label_name(3.0)] = table[label_name(3.0)].mask(table[label_name(3.0)] == 0)
    with pytest.raises(NotEstimableError, match="alive after 3 years"):
        elastic_net.fit(table, ["age_years"], 3.0, study)


def test_a_cohort_without_clinical_values_has_no_clinical_model(make_table: Maker, study: Study) -> None:
    table = make_table().drop(columns=["age_years", "sex", "ssc_subtype", "fvc_percent", "dlco_percent"])
    result = tabular.cross_validate(table, study)
    assert set(result.predictions["model"]) == set(feature_sets.MODELS) - {"Clinical"}
    assert set(result.notes["model"]) == {"Clinical"}
    assert result.notes["note"].str.contains("no scan has a value").all()


def test_features_of_different_settings_are_not_mixed(make_table: Maker, study: Study) -> None:
    table = make_table()
    table.loc[0, "settings_hash"] = "other"
    with pytest.raises(StudyError, match="2 different settings"):
        tabular.cross_validate(table, study)
    with pytest.raises(StudyError, match="found 0 scan"):
        tabular.cross_validate(table.iloc[:0], study)


@pytest.fixture
def saved(make_table: Maker, study: Study) -> tuple[pd.DataFrame, Study]:
    table = make_table()
    tabular.save_models(table, study)
    return table.assign(status="ok"), study


def test_saved_models_give_the_same_risks_again(saved) -> None:
    table, study = saved
    risks = tabular.predict_risks(study.models, table)
    assert len(risks) == len(feature_sets.MODELS) * len(HORIZONS) * len(table)
    fitted = elastic_net.fit(table, feature_sets.feature_columns("Radiomics", table), 1.0, study)
    expected = fitted.pipeline.predict_proba(elastic_net.design(table, fitted.pipeline.feature_names_in_))[:, 1]
    loaded = risks.query("model == 'Radiomics' and horizon_years == 1").set_index("scan_id")["risk"]
    assert loaded.loc[table["scan_id"]].to_numpy() == pytest.approx(expected, rel=1e-12)
    for _, scan in risks.groupby(["model", "scan_id"]):
        assert scan["risk"].is_monotonic_increasing


def test_the_model_card_counts_what_it_was_trained_on(saved) -> None:
    table, study = saved
    card = json.loads((study.models / "tabular" / "quantitative_ct.json").read_text())
    assert card["features"] == ["qct_high_attenuation_share"]
    assert card["settings_hash"] == "abc"
    three = next(horizon for horizon in card["horizons"] if horizon["horizon_years"] == 3)
    known = table[table[label_name(3.0)].notna()]
    assert three["n_scans"] == len(known)
    assert three["n_patients"] == known["patient_id"].nunique()
    assert three["n_events"] == (known[label_name(3.0)] == 1).sum()
    assert three["n_unknown"] == table[label_name(3.0)].isna().sum()


def test_a_new_scan_needs_no_clinical_values_and_missing_ones_are_counted(saved) -> None:
    table, study = saved
    new = table.iloc[:2].drop(columns=["sex", "age_years", "ssc_subtype", "fvc_percent", "dlco_percent"])
    risks = tabular.predict_risks(study.models, new)
    assert set(risks["model"]) == set(feature_sets.MODELS) - {"Clinical"}
    n_missing = risks.groupby("model")["n_missing"].unique()
    assert list(n_missing["Quantitative CT"]) == [0]
    assert list(n_missing["All features"]) == [4]  # of the clinical columns, DLCO was empty in training too


def test_an_unusual_scan_is_not_extrapolated(saved) -> None:
    table, study = saved
    most = table.loc[[table["qct_high_attenuation_share"].idxmax()]]
    beyond = most.assign(qct_high_attenuation_share=1e6)
    chosen = "model == 'Quantitative CT'"
    risk = tabular.predict_risks(study.models, most).query(chosen)["risk"].to_numpy()
    assert tabular.predict_risks(study.models, beyond).query(chosen)["risk"].to_numpy() == pytest.approx(risk)


def test_a_scan_set_aside_gets_no_risk(saved) -> None:
    table, study = saved
    features = table.iloc[:2].assign(status=["ok", "failed"])
    assert set(tabular.predict_risks(study.models, features)["scan_id"]) == {table["scan_id"].iloc[0]}


def test_features_of_other_settings_are_refused(saved) -> None:
    table, study = saved
    with pytest.raises(StudyError, match="other settings"):
        tabular.predict_risks(study.models, table.assign(settings_hash="different"))


def test_missing_changed_and_foreign_model_files_are_refused(saved) -> None:
    table, study = saved
    with pytest.raises(StudyError, match="no trained model"):
        tabular.predict_risks(study.models / "nowhere", table)
    path = study.models / "tabular" / "clinical.skops"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(StudyError, match="not the file"):
        tabular.predict_risks(study.models, table)
    path.unlink()
    with pytest.raises(StudyError, match="cannot be read"):
        tabular.predict_risks(study.models, table)


def test_a_model_file_with_a_foreign_type_is_refused(saved) -> None:
    import hashlib

    import skops.io

    table, study = saved
    path = study.models / "tabular" / "clinical.skops"
    skops.io.dump({"1": Maker}, path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(StudyError, match="not trusted"):
        tabular.predict_risks(study.models, table)


def auc_within_folds(predictions: pd.DataFrame, table: pd.DataFrame, model: str, horizon: float) -> float:
    """Average over folds. Risks of different folds are not compared: their levels differ against their events."""
    return float(np.mean([auc(part, table, model, horizon) for _, part in predictions.groupby("fold")]))


def leaky_folds(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Split by scan instead of by patient, for testing and for tuning."""
    return table.assign(patient_id=table["scan_id"], fold=np.random.default_rng(seed).integers(0, 3, len(table)))


@pytest.mark.slow
def test_noise_predicts_nothing_and_a_split_by_scan_would_be_caught(make_table: Maker, study: Study) -> None:
    """Outcomes without any relation to the CT, patients with several nearly identical scans."""
    one_horizon = replace(study, settings=study.settings.model_copy(update={"horizons_years": (3.0,)}))
    sound, leaky = [], []
    for seed in range(12):
        table = make_table(n_patients=100, signal=0.0, seed=seed, n_noise=25)
        result = tabular.cross_validate(table, one_horizon)
        sound.append([auc_within_folds(result.predictions, table, model, 3.0) for model in feature_sets.MODELS])
        leaked = tabular.cross_validate(leaky_folds(table, seed), one_horizon)
        leaky.append(auc_within_folds(leaked.predictions, table, "Radiomics", 3.0))
    standard_error = np.std(sound, axis=0, ddof=1) / np.sqrt(len(sound))
    assert (standard_error < 0.02).all()
    assert (np.abs(np.mean(sound, axis=0) - 0.5) < 3 * standard_error).all()
    assert np.mean(leaky) > 0.55
