import hashlib
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.feature_extraction.text import CountVectorizer

from sscct_lib.cohort.outcomes import label_name
from sscct_lib.radiomics import cross_validation
from sscct_lib.radiomics import saved as radiomic_saved
from sscct_lib.radiomics.pipeline import design
from sscct_lib.study.folder import Study, StudyError
from tests.radiomics.tabular_cohort import HORIZONS, make_study, make_table


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[pd.DataFrame, Study, pd.DataFrame]:
    study = make_study(
        tmp_path_factory.mktemp("saved"),
        feature_sets=("Clinical", "Quantitative CT", "All features"),
        compared=("logistic", "forest", "boosting", "harmonised"),
        compared_on=("Quantitative CT",),
    )
    table = make_table(study)
    return table.assign(status="ok"), study, radiomic_saved.save_models(table, study)


@pytest.fixture
def saved(trained, tmp_path) -> tuple[pd.DataFrame, Study]:
    """A copy that a test may change."""
    table, study, _ = trained
    shutil.copytree(study.models, tmp_path / "runs" / "main" / "models")
    return table, replace(study, folder=tmp_path)


@pytest.fixture
def forged_alone(saved, request) -> tuple[pd.DataFrame, Study]:
    """The copy with the one model `name` that a test forges: the others are not read before it is refused."""
    name = request.node.callspec.params["name"]
    for path in (saved[1].models / "tabular").iterdir():
        if path.stem != name:
            path.unlink()
    return saved


def test_saved_models_give_the_same_risks_again(saved) -> None:
    table, study = saved
    risks = radiomic_saved.predict_risks(study.models, table)
    models = cross_validation.models_of(study)
    assert len(risks) == len(models) * len(HORIZONS) * len(table)
    for model in models:
        expected = cross_validation.train(table, model, study, None).risks(table)[:, 0]
        loaded = risks[(risks["model"] == model.name) & (risks["horizon_years"] == 1)].set_index("scan_id")["risk"]
        assert loaded.loc[table["scan_id"]].to_numpy() == pytest.approx(expected, rel=1e-9), model.name
    curves = risks.pivot(index=["model", "scan_id"], columns="horizon_years", values="risk")
    assert (curves.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)


def test_model_files_hold_trusted_types_no_patient_and_are_small(trained) -> None:
    table, study, listed = trained
    for path in (study.models / "tabular").glob("*.skops"):
        schema = zipfile.ZipFile(path).read("schema.json").decode()
        assert not [name for name in table["patient_id"] if f'"{name}"' in schema]
        assert path.stat().st_size < 5e6
    assert listed["megabytes"].max() < 5


@pytest.mark.slow
def test_the_same_models_are_the_same_files_whoever_fits_them(trained, tmp_path) -> None:
    table, study, _ = trained
    again = replace(study, folder=tmp_path)
    radiomic_saved.save_models(table, again, n_jobs=2)
    paths = sorted((study.models / "tabular").iterdir())
    assert len(paths) == 2 * len(cross_validation.models_of(study))
    for path in paths:
        assert (again.models / "tabular" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_model_card_counts_what_it_was_trained_on(trained) -> None:
    table, study, listed = trained
    card = json.loads((study.models / "tabular" / "quantitative_ct.json").read_text())
    assert card["columns"] == ["qct_high_attenuation_share"]
    assert card["settings_hash"] == "abc"
    assert {"intended_use", "limits", "kind", "trained_on", "versions", "chosen_by_tuning"} <= set(card)
    three = next(horizon for horizon in card["horizons"] if horizon["horizon_years"] == 3)
    known = table[table[label_name(3.0)].notna()]
    assert three["n_scans"] == len(known)
    assert three["n_patients"] == known["patient_id"].nunique()
    assert three["n_events"] == (known[label_name(3.0)] == 1).sum()
    assert three["n_unknown"] == table[label_name(3.0)].isna().sum()
    assert set(listed["model"]) == {model.name for model in cross_validation.models_of(study)}


def test_files_of_models_that_the_study_has_no_more_are_removed(saved) -> None:
    table, study = saved
    only = study.settings.tabular.model_copy(update={"feature_sets": ("Clinical",), "compared": ()})
    fewer = replace(study, settings=study.settings.model_copy(update={"tabular": only}))
    radiomic_saved.save_models(table, fewer)
    assert {path.name for path in (study.models / "tabular").iterdir()} == {"clinical.skops", "clinical.json"}


def test_a_new_scan_needs_no_clinical_values_and_missing_ones_are_counted(saved) -> None:
    table, study = saved
    new = table.iloc[:2].drop(columns=["sex", "age_years", "ssc_subtype", "fvc_percent", "dlco_percent"])
    risks = radiomic_saved.predict_risks(study.models, new)
    assert set(risks["model"]) == {model.name for model in cross_validation.models_of(study)} - {"Clinical"}
    n_missing = risks.groupby("model")["n_missing"].unique()
    assert list(n_missing["Quantitative CT"]) == [0]
    assert list(n_missing["All features"]) == [4]  # of the clinical columns, DLCO was empty in training too


def test_an_unusual_scan_is_not_extrapolated(saved) -> None:
    table, study = saved
    most = table.loc[[table["qct_high_attenuation_share"].idxmax()]]
    beyond = most.assign(qct_high_attenuation_share=1e6)
    chosen = "model == 'Quantitative CT'"
    risk = radiomic_saved.predict_risks(study.models, most).query(chosen)["risk"].to_numpy()
    assert radiomic_saved.predict_risks(study.models, beyond).query(chosen)["risk"].to_numpy() == pytest.approx(risk)


def test_a_scan_set_aside_gets_no_risk(saved) -> None:
    table, study = saved
    features = table.iloc[:2].assign(status=["ok", "failed"])
    assert set(radiomic_saved.predict_risks(study.models, features)["scan_id"]) == {table["scan_id"].iloc[0]}


def test_features_of_other_settings_are_refused(saved) -> None:
    table, study = saved
    with pytest.raises(StudyError, match="made with other settings"):
        radiomic_saved.predict_risks(study.models, table.assign(settings_hash="different"))


def test_missing_changed_and_foreign_model_files_are_refused(saved) -> None:
    table, study = saved
    with pytest.raises(StudyError, match="no trained model"):
        radiomic_saved.predict_risks(study.models / "nowhere", table)
    path = study.models / "tabular" / "clinical.skops"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(StudyError, match="not the file"):
        radiomic_saved.predict_risks(study.models, table)
    path.unlink()
    with pytest.raises(StudyError, match="cannot be read"):
        radiomic_saved.predict_risks(study.models, table)


def test_a_model_file_with_a_foreign_type_is_refused(saved) -> None:
    table, study = saved
    path = study.models / "tabular" / "clinical.skops"
    skops.io.dump({"1": label_name}, path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(StudyError, match="not trusted"):
        radiomic_saved.predict_risks(study.models, table)


def test_a_category_that_training_never_had_is_averaged_over_those_that_it_had(saved) -> None:
    """By hand: each value put in, the risks weighed by the shares of the training scans."""
    table, study = saved
    new = table.head(3).assign(sex=None)
    found = radiomic_saved.predict_risks(study.models, new).set_index(["model", "horizon_years", "scan_id"])["risk"]
    by_value = {
        value: radiomic_saved.predict_risks(study.models, new.assign(sex=value)).set_index(found.index.names)["risk"]
        for value in ("female", "male")
    }
    share = table["sex"].value_counts(normalize=True)
    expected = sum(share[value] * risk for value, risk in by_value.items())
    pd.testing.assert_series_equal(found, expected.loc[found.index], rtol=1e-9)
    of_sex = by_value["female"].loc["Clinical"] != by_value["male"].loc["Clinical"]
    assert of_sex.any()


def test_a_category_that_training_lacked_at_times_is_what_training_made_of_it(saved) -> None:
    """Subtypes are missing in training too: the model has learned of that, and nothing is averaged."""
    table, study = saved
    lacking = table[table["ssc_subtype"].isna()].head(2)
    card, pipeline = radiomic_saved.load_model(study.models / "tabular" / "clinical.json")
    assert "missing" in card["category_shares"]["ssc_subtype"]
    plain = pipeline.predict(design(lacking, card["columns"], card["harmonised"]))
    found = radiomic_saved.predict_risks(study.models, lacking).query("model == 'Clinical' and horizon_years == 1")
    assert found.set_index("scan_id")["risk"].loc[lacking["scan_id"]].to_numpy() == pytest.approx(plain[:, 0])


def test_a_model_of_an_earlier_version_is_refused(saved) -> None:
    table, study = saved
    path = study.models / "tabular" / "clinical.json"
    card = json.loads(path.read_text())
    del card["category_shares"]
    path.write_text(json.dumps(card))
    with pytest.raises(StudyError, match="of an earlier version"):
        radiomic_saved.predict_risks(study.models, table)


def test_a_model_with_splines_is_loaded_as_it_was(tmp_path) -> None:
    study = make_study(tmp_path, feature_sets=("Clinical",), compared=("splines",), compared_on=("Clinical",))
    table = make_table(study, n_patients=60).assign(status="ok")
    radiomic_saved.save_models(table, study)
    risks = radiomic_saved.predict_risks(study.models, table).query("model == 'Clinical, splines'")
    model = next(each for each in cross_validation.models_of(study) if each.kind == "splines")
    expected = cross_validation.train(table, model, study, None).risks(table)
    loaded = risks.pivot(index="scan_id", columns="horizon_years", values="risk").loc[table["scan_id"]]
    np.testing.assert_allclose(loaded.to_numpy(), expected, rtol=1e-9)


FOREST, BOOSTED = "quantitative_ct_survival_forest", "quantitative_ct_boosted_trees"
FORGED = {
    "children past the end": lambda nodes: nodes["left_child"].__setitem__(0, 10**9),
    "a child before its parent": lambda nodes: nodes["right_child"].__setitem__(0, 0),
    "a child of no sense": lambda nodes: nodes["right_child"].__setitem__(0, -7),
    "a column past the end": lambda nodes: nodes["feature"].__setitem__(0, 10**6),
    "a column before the first": lambda nodes: nodes["feature"].__setitem__(0, -3),
    "a threshold that is no number": lambda nodes: nodes["threshold"].__setitem__(0, np.nan),
}


def of_tree(pipeline):
    """The first tree of a forest or of boosted trees that has a split."""
    parts = radiomic_saved._parts(pipeline["model"], set())
    return next(part for part in parts if type(part).__name__ == "Tree" and part.node_count > 1)


def write_again(path, pipeline) -> None:
    skops.io.dump(pipeline, path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))


def refused(study, table, name: str, words: str) -> None:
    with pytest.raises(StudyError, match=words) as told:
        radiomic_saved.predict_risks(study.models, table)
    assert name in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "forged"),
    [
        *((BOOSTED, forged) for forged in FORGED),
        (FOREST, "children past the end"),
        (FOREST, "a child before its parent"),
    ],
)
def test_a_forged_tree_is_refused_before_it_is_walked(forged_alone, name, forged) -> None:
    table, study = forged_alone
    path = study.models / "tabular" / f"{name}.skops"
    _, pipeline = radiomic_saved.load_model(path.with_suffix(".json"))
    tree = of_tree(pipeline)
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    FORGED[forged](state["nodes"])
    tree.__setstate__(state)
    write_again(path, pipeline)
    refused(study, table, name, "is not what this software saves: a tree ")


@pytest.mark.parametrize("name", [FOREST, BOOSTED])
def test_a_tree_without_nodes_is_refused(forged_alone, name) -> None:
    table, study = forged_alone
    path = study.models / "tabular" / f"{name}.skops"
    _, pipeline = radiomic_saved.load_model(path.with_suffix(".json"))
    tree = of_tree(pipeline)
    state = tree.__getstate__()
    tree.__setstate__(state | {"node_count": 0, "nodes": state["nodes"][:0], "values": state["values"][:0]})
    write_again(path, pipeline)
    refused(study, table, name, "(a tree says that it has other nodes|is no model that can be read)")


def one_number(pipeline):
    pipeline["scale"].mean_ = pipeline["scale"].mean_[:1]


def fewer_coefficients(pipeline):
    pipeline["model"].coef_ = pipeline["model"].coef_[:1]


def one_horizon(pipeline):
    pipeline["model"].hazard_ = pipeline["model"].hazard_[:1]


def no_numbers(pipeline):
    pipeline["model"].coef_ = pipeline["model"].coef_ * np.nan


def other_stages(pipeline):
    trees = pipeline["model"].trees_
    trees.estimators_ = np.hstack([trees.estimators_, trees.estimators_])


def no_trees(pipeline):
    for each in pipeline["model"].trees_.estimators_.ravel():
        each.tree_ = {"nodes": 1}


@pytest.mark.parametrize(
    ("name", "forge", "words"),
    [
        ("clinical", one_number, "mean_ of StandardScaler are not of its"),
        ("clinical", fewer_coefficients, "numbers are not of the"),
        ("quantitative_ct", one_horizon, "do not fit each other"),
        ("quantitative_ct", no_numbers, "do not fit each other"),
        ("quantitative_ct_boosted_trees", other_stages, "stages are not one tree each"),
        ("quantitative_ct_boosted_trees", no_trees, "stages are not one tree each"),
    ],
)
def test_forged_numbers_are_refused(forged_alone, name, forge, words) -> None:
    table, study = forged_alone
    path = study.models / "tabular" / f"{name}.skops"
    _, pipeline = radiomic_saved.load_model(path.with_suffix(".json"))
    forge(pipeline)
    write_again(path, pipeline)
    refused(study, table, name, words)


def test_a_type_of_scikit_learn_that_no_model_has_is_refused(saved) -> None:
    """skops trusts nearly all of scikit-learn: transformers that open files, trees of neighbours in compiled code."""
    table, study = saved
    path = study.models / "tabular" / "clinical.skops"
    write_again(path, CountVectorizer(input="filename"))
    refused(study, table, "clinical", "not trusted: sklearn.feature_extraction.text.CountVectorizer")
    write_again(path, {"no": "pipeline"})
    refused(study, table, "clinical", "no pipeline that ends in one of the models")


@pytest.mark.parametrize("change", [{"columns": 3}, {"horizons_years": [1.0]}])
def test_a_card_of_another_model_is_refused(saved, change) -> None:
    table, study = saved
    path = study.models / "tabular" / "clinical.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(study, table, "clinical", "the model and its card do not fit each other")
