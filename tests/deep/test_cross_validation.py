import json
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sscct_lib.deep import cross_validation, fitting, networks, prediction, tables
from sscct_lib.deep import cubes as deep_cubes
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.images.prepare import write_image
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.seals import checksum
from sscct_lib.study.settings import AugmentationSettings, DeepSettings, HorizonSettings, NetworkSettings, Settings
from sscct_lib.study.words import NETWORK_WORDS

TINY = NetworkSettings(size=32, feature_size=12, window_size=4, epochs=2, batch_size=2, learning_rate=3e-3)
N = 12  # scans, two of each patient


def study_in(folder, swin=TINY, **changed):
    return Study(folder, Settings(deep=DeepSettings(networks=("swin",), swin=swin), **changed))


def write_scan(study, scan_id, level):
    mask = np.zeros((10, 12, 14), dtype=np.uint8)
    mask[2:8, 2:10, 2:6], mask[2:8, 2:10, 8:12] = 1, 2
    image = np.where(mask > 0, level, 40) + np.random.default_rng(3).integers(-30, 30, mask.shape)
    write_image(sitk.GetImageFromArray(image.astype(np.int16)), study.image(scan_id))
    write_image(sitk.GetImageFromArray(mask), study.mask(scan_id))


def make_cohort(study):
    died = np.arange(N) // 2 % 2 == 0
    for i in range(N):
        write_scan(study, f"s{i}", -450 if died[i] else -850)
    return pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(N)],
            "patient_id": [f"p{i // 2}" for i in range(N)],
            "followup_years": np.where(died, 0.5 + np.arange(N) % 5, 7.0),
            "event_observed": died,
            "fold": np.repeat([0, 1, 0], 4),
        }
    )


def small(network_name, settings, n_intervals):
    """A network that trains in no time, in the place of a Swin Transformer."""
    networks.check_size(network_name, settings)
    layers = [nn.Conv3d(1, 8, 3, stride=4), nn.BatchNorm3d(8), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
    return networks.HazardNetwork(
        nn.Sequential(*layers), 8, n_intervals, settings.head, settings.clinical, settings.dropout
    )


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        for module in (cross_validation, prediction):
            patch.setattr(module, "build", small)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    study = study_in(tmp_path_factory.mktemp("trained"))
    cohort = make_cohort(study)
    return study, cohort, cross_validation.cross_validate(study, cohort, ["swin"])


def states(study):
    return {path.name: path.stat().st_mtime_ns for path in (study.models / "deep").iterdir()}


def test_every_scan_is_predicted_once_at_each_horizon(trained):
    _, cohort, predictions = trained
    assert len(predictions) == N * 3
    assert set(predictions["model"]) == {"Swin Transformer (from scratch)"}
    wide = predictions.pivot_table(index="scan_id", columns="horizon_years", values="risk")
    assert set(wide.index) == set(cohort["scan_id"])
    assert (wide.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    folds = predictions.drop_duplicates("scan_id").set_index("scan_id")["fold"]
    assert folds.to_dict() == cohort.set_index("scan_id")["fold"].to_dict()


def test_trainings_that_were_jobs_of_their_own_are_found_and_give_the_same(trained, tmp_path, monkeypatch):
    together, cohort, expected = trained
    study = study_in(tmp_path, **together.settings.model_dump(include={"cohort"}))
    make_cohort(study)
    names = [name for name in cross_validation.training_names(study) if name[-3] in "01"]
    assert names == ["swin_fold0_0", "swin_fold1_0"]
    for name in reversed(names):
        cross_validation.train_one(study, cohort, name)
    cross_validation.train_one(study, cohort, "swin_fold4_0")  # of which nobody is
    monkeypatch.setattr(fitting, "train", lambda *_: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(cross_validation.cross_validate(study, cohort, ["swin"]), expected)
    for name in names:
        ours, theirs = (load_file(one.models / "deep" / f"{name}.safetensors") for one in (study, together))
        assert all(torch.equal(ours[part], theirs[part]) for part in ours.keys() | theirs.keys())


def test_a_model_never_sees_its_fold(tmp_path, monkeypatch):
    study = study_in(tmp_path)
    cohort = make_cohort(study)
    seen = []

    def noting(network, examples, settings, seed, where, *rest):
        seen.append((where, set(examples.table["patient_id"])))
        return {"loss": [0.0]}

    monkeypatch.setattr(fitting, "train", noting)
    cross_validation.cross_validate(study, cohort, ["swin"])
    patients = {fold: set(rows["patient_id"]) for fold, rows in cohort.groupby("fold")}
    assert seen == [
        ("Swin Transformer, fold 0, member 0", patients[1]),
        ("Swin Transformer, fold 1, member 0", patients[0]),
    ]


def test_patients_set_apart_for_stopping_are_neither_taught_nor_tested(tmp_path, monkeypatch):
    study = study_in(tmp_path, swin=TINY.model_copy(update={"patience": 1, "validation_share": 0.4}))
    cohort = make_cohort(study)
    cohort["fold"] = np.arange(N) // 2 // 3
    parts = []
    begin = fitting.Fit.__init__

    def noting(self, network, density, training, validation, *rest):
        parts.append([set(part.table["patient_id"]) for part in (training, validation)])
        begin(self, network, density, training, validation, *rest)

    monkeypatch.setattr(fitting.Fit, "__init__", noting)
    predictions = cross_validation.cross_validate(study, cohort, ["swin"])
    assert (
        predictions.groupby("horizon_years")["scan_id"].agg(list).map(sorted).map(set).eq(set(cohort["scan_id"])).all()
    )
    assert not predictions.duplicated(["scan_id", "horizon_years"]).any()
    assert len(parts) == 2
    for fold, (taught, apart) in enumerate(parts):
        tested = set(cohort.loc[cohort["fold"] == fold, "patient_id"])
        assert apart
        assert len(taught) + len(apart) + len(tested) == N // 2  # nobody is in two of them
        assert taught | apart | tested == set(cohort["patient_id"])


def test_outcomes_of_the_tested_fold_change_nothing_there(trained, tmp_path):
    _, cohort, predictions = trained
    study = study_in(tmp_path)
    make_cohort(study)
    tested = cohort["fold"] == 0
    turned = cohort.assign(
        event_observed=cohort["event_observed"] ^ tested,
        followup_years=cohort["followup_years"].where(~tested, 0.9),
    )
    other = cross_validation.cross_validate(study, turned, ["swin"])
    pd.testing.assert_frame_equal(predictions[predictions["fold"] == 0], other[other["fold"] == 0])
    assert not predictions[predictions["fold"] == 1].equals(other[other["fold"] == 1])


def test_finished_folds_are_found_and_lost_ones_trained_again_to_the_same(trained):
    study, cohort, predictions = trained
    before = states(study)
    pd.testing.assert_frame_equal(cross_validation.cross_validate(study, cohort, ["swin"]), predictions)
    assert states(study) == before
    # As after a kill between the two files of fold 1.
    (study.models / "deep" / "swin_fold1_0.json").unlink()
    pd.testing.assert_frame_equal(cross_validation.cross_validate(study, cohort, ["swin"]), predictions)
    after = states(study)
    assert {name for name in after if after[name] != before[name]} == {"swin_fold1_0.json", "swin_fold1_0.safetensors"}
    # A damaged model file is not believed.
    path = study.models / "deep" / "swin_fold0_0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError, match=r"swin_fold0_0.safetensors is missing or not the file of its card"):
        cross_validation.predict_risks(study, "swin", study, cohort)
    pd.testing.assert_frame_equal(cross_validation.cross_validate(study, cohort, ["swin"]), predictions)


def key_of(study, cohort):
    return cross_validation._examples(study, cohort, "swin", 1)[1]


def test_what_training_depends_on_makes_models_stale(trained):
    study, cohort, _ = trained
    key = key_of(study, cohort)
    assert key_of(study, cohort.assign(age_years=50.0)) == key
    turned = study.settings.model_copy(update={"horizons_years": (5.0, 1.0, 3.0)})
    assert key_of(Study(study.folder, turned), cohort) == key
    assert key_of(study, cohort.assign(fold=1 - cohort["fold"] % 2)) != key
    assert key_of(study, cohort.assign(followup_years=cohort["followup_years"] / 2)) != key
    assert key_of(study, cohort[2:]) != key
    for settings in (
        study.settings.model_copy(update={"seed": 1}),
        study.settings.model_copy(update={"horizons_years": (1.0, 3.0)}),
        study_in(study.folder, swin=TINY.model_copy(update={"epochs": 3})).settings,
    ):
        assert key_of(Study(study.folder, settings), cohort) != key


def test_counting_censored_as_alive_is_possible(trained):
    study, cohort, _ = trained
    censored = cohort.assign(event_observed=False, followup_years=0.5)
    known, _ = cross_validation._examples(study, censored, "swin", 1)
    assert known.survived.sum() == pytest.approx(N * 0.5)
    published = Study(study.folder, study.settings.model_copy(update={"labels": "as_published"}))
    alive, _ = cross_validation._examples(published, censored, "swin", 1)
    assert alive.survived.sum() == N * 3


def test_new_scans_are_judged_by_one_fold_as_the_folds_were_and_get_the_spread_of_all(trained, tmp_path):
    study, _, predictions = trained
    new = study_in(tmp_path)
    write_scan(new, "new", -700)
    write_scan(new, "s0", -450)
    scans = pd.DataFrame({"scan_id": ["new", "s0", "gone"], "patient_id": ["n", "p0", "g"]})
    risks = cross_validation.predict_risks(study, "swin", new, scans)
    assert list(risks["scan_id"]) == ["new", "s0"] * 3
    assert (risks["risk_sd"] > 0).all()
    members = [
        prediction.predict(
            prediction.fold_model(study, "swin", fold),
            [deep_cubes.cube_path(new, "new", deep_cubes.view_of(new, "swin"))],
        )[0]
        for fold in range(2)
    ]
    rows = risks[risks["scan_id"] == "new"]
    np.testing.assert_allclose(rows["risk"], members[0])
    np.testing.assert_allclose(rows["risk_sd"], np.std(members, axis=0, ddof=1))
    # A scan of the first fold has the same risk out of fold and as a new scan: what is judged is what predicts.
    own = predictions.query("scan_id == 's0'")
    assert (own["fold"] == 0).all()
    np.testing.assert_allclose(risks.query("scan_id == 's0'")["risk"], own["risk"], atol=1e-6)
    assert cross_validation.predict_risks(study, "swin", new, scans[2:]).empty


def test_predicting_without_models_says_what_to_run(trained, tmp_path):
    study, cohort, _ = trained
    with pytest.raises(StudyError, match=r"has no models of resnet18\. Run `04_deep_models`"):
        cross_validation.predict_risks(study, "resnet18", study, cohort)


def test_a_model_of_another_version_says_what_to_run(trained, tmp_path):
    study, _, _ = trained
    older = Study(tmp_path, study.settings)
    shutil.copytree(study.models, older.models)
    path = older.models / "deep" / "swin_fold0_0.safetensors"
    tensors = load_file(path)
    del tensors["head.shift"]
    save_file(tensors, path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"sha256": checksum(path)}))
    with pytest.raises(StudyError, match=r"no longer builds\. Run `04_deep_models` again"):
        prediction.fold_model(older, "swin", 0)


def test_models_of_folds_that_no_longer_exist_are_removed(tmp_path, monkeypatch):
    study = study_in(tmp_path)
    cohort = make_cohort(study)
    monkeypatch.setattr(fitting, "train", lambda *arguments: {"loss": [0.0]})
    cross_validation.cross_validate(study, cohort.assign(fold=np.arange(N) // 2 % 3), ["swin"])
    assert len(states(study)) == 6
    cross_validation.cross_validate(study, cohort, ["swin"])
    assert sorted(states(study)) == [f"swin_fold{i}_0.{end}" for i in range(2) for end in ("json", "safetensors")]


def test_members_of_an_ensemble_give_the_mean_and_the_spread(trained, tmp_path):
    single = trained[2]
    study = study_in(tmp_path, swin=TINY.model_copy(update={"n_members": 3}))
    cohort = make_cohort(study)
    predictions = cross_validation.cross_validate(study, cohort, ["swin"])
    assert len(tables.model_table(study)) == 2 * 3
    fold = cohort[cohort["fold"] == 1]
    paths = [deep_cubes.cube_path(study, scan, deep_cubes.view_of(study, "swin")) for scan in fold["scan_id"]]
    members = [prediction.predict(prediction.fold_model(study, "swin", 1, member), paths) for member in range(3)]
    rows = predictions[(predictions["fold"] == 1) & (predictions["horizon_years"] == 3)].set_index("scan_id")
    np.testing.assert_allclose(rows.loc[fold["scan_id"], "risk"], np.mean(members, axis=0)[:, 1])
    np.testing.assert_allclose(rows.loc[fold["scan_id"], "risk_sd"], np.std(members, axis=0, ddof=1)[:, 1])
    assert (rows["risk_sd"] > 0).all()
    assert single["risk_sd"].isna().all()
    fewer = study_in(tmp_path, swin=TINY.model_copy(update={"n_members": 2}))
    cross_validation.cross_validate(fewer, cohort, ["swin"])
    assert len(states(fewer)) == 2 * 2 * 2  # the files of the third are gone


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"balance": "loss", "head": "classifiers"}])
def test_patients_with_many_scans_do_not_dominate_and_risks_are_right_for_all_scans(tmp_path, change):
    """All scans look alike: their risk is the share of scans that are followed by death, not that of patients."""
    settings = TINY.model_copy(update={"epochs": 12, "learning_rate": 1e-2, **change})
    deep = DeepSettings(networks=("swin",), swin=settings, augmentation=AugmentationSettings(probability=0))
    study = Study(tmp_path, Settings(deep=deep))
    patients = np.repeat([f"p{i}" for i in range(16)], [1] * 4 + [5] * 4 + [1] * 4 + [5] * 4)
    dies = np.isin(patients, ["p0", "p1", "p2", "p8", "p9", "p10"])  # they are seen once, most others five times
    cohort = pd.DataFrame({"patient_id": patients, "event_observed": dies, "fold": np.repeat([0, 1], 24)})
    cohort = cohort.assign(scan_id=[f"s{i}" for i in range(48)], followup_years=np.where(dies, 0.5, 7.0))
    for scan_id in cohort["scan_id"]:
        write_scan(study, scan_id, -700)
    first = cross_validation.cross_validate(study, cohort, ["swin"]).query("horizon_years == 1")
    assert first["risk"].mean() == pytest.approx(dies.mean(), rel=0.3)


def test_cards_tables_and_curves(trained):
    study, cohort, _ = trained
    card = json.loads((study.models / "deep" / "swin_fold0_0.json").read_text())
    assert card["n_scans"] == 4
    assert card["n_patients"] == 2
    assert sum(card["n_deaths"]) == cohort[cohort["fold"] == 1]["event_observed"].sum()
    assert card["weights"] == "none (from scratch)"
    assert not any(scan in json.dumps(card) for scan in ("s0", "s5"))  # no scan is named in what one may share
    table = tables.model_table(study)
    assert list(table["fold"]) == [0, 1]
    network = small("swin", TINY, 3)
    assert table["n_parameters"][0] == sum(p.numel() for p in network.parameters())
    assert len(tables.learning_curves(study)) == 2 * TINY.epochs


def test_pretrained_weights_are_loaded_and_named(tmp_path, monkeypatch):
    for module in (cross_validation, prediction):
        monkeypatch.setattr(module, "build", networks.build)
    torch.manual_seed(9)
    encoder, _ = networks.build_swin(12, 4)
    torch.save({"state_dict": encoder.state_dict()}, tmp_path / "w.pt")
    digest = checksum(tmp_path / "w.pt")
    tuned = TINY.model_copy(update={"weights": "w.pt", "weights_sha256": digest, "learning_rate": 1e-9, "epochs": 1})
    study = study_in(tmp_path, swin=NetworkSettings.model_validate(tuned.model_dump()))
    predictions = cross_validation.cross_validate(study, make_cohort(study), ["swin"])
    assert set(predictions["model"]) == {"Swin Transformer"}
    card = prediction.cards(study, "swin")[0]
    assert card["weights"].startswith("w.pt, ")
    loaded = prediction.fold_model(study, "swin", 0).encoder.state_dict()
    torch.testing.assert_close(loaded, encoder.state_dict(), rtol=0, atol=1e-6)


def test_classifiers_clinical_values_and_dropout_go_from_settings_to_predictions(tmp_path):
    tuned = TINY.model_copy(update={"head": "classifiers", "clinical": True, "dropout": 0.3, "epochs": 30})
    study = study_in(tmp_path, swin=tuned)
    cohort = make_cohort(study).assign(sex="female", age_years=60.0, fvc_percent=np.nan)
    # Nothing but age tells who dies: all scans are alike.
    for scan_id in cohort["scan_id"]:
        write_scan(study, scan_id, -700)
    cohort["age_years"] = np.where(cohort["event_observed"], 75.0, 45.0)
    predictions = cross_validation.cross_validate(study, cohort, ["swin"])
    assert set(predictions["model"]) == {"Swin Transformer + clinical (classifiers, from scratch)"}
    assert (predictions["risk_sd"] > 0).all()
    longest = predictions[predictions["horizon_years"] == 5].merge(cohort)
    for _, rows in longest.groupby("fold"):
        assert rows[rows["event_observed"]]["risk"].min() > rows[~rows["event_observed"]]["risk"].max()
    key = key_of(study, cohort)
    assert key_of(study, cohort.assign(age_years=50.0)) != key
    quiet = tuned.model_copy(update={"longitudinal": True, "flag_unusual": False})
    assert key_of(study_in(tmp_path, swin=quiet), cohort) == key
    # New scans bring their own values; where they are missing, the medians count.
    new = cohort.iloc[[0, 2]].assign(age_years=[45.0, 75.0])
    risks = cross_validation.predict_risks(study, "swin", study, new).query("horizon_years == 5")["risk"].to_numpy()
    assert risks[1] > risks[0]
    unknown = cross_validation.predict_risks(study, "swin", study, new[["scan_id", "patient_id"]])
    assert unknown.query("horizon_years == 5")["risk"].between(risks[0], risks[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_observed": [False] * 4 + [True] * 4 + [False] * 4}, r"Fold 1 cannot be tested.*0 scan\(s\)"),
        ({"fold": 0}, r"at least 2 folds, found fold\(s\) \[0\]"),
        ({"patient_id": "p"}, r"Fold 0 cannot be tested: outside it there are 1 patient"),
    ],
)
def test_folds_that_cannot_be_learned_are_named(trained, change, message):
    study, cohort, _ = trained
    with pytest.raises(StudyError, match=message):
        cross_validation.cross_validate(study, cohort.assign(**change), ["swin"])


def test_a_horizon_without_deaths_to_learn_from_is_named_and_the_others_are_told(tmp_path, caplog):
    study = study_in(tmp_path)
    # Outside fold 1 all deaths come after the first year.
    cohort = make_cohort(study)
    late = cohort["fold"].eq(0) & cohort["event_observed"]
    cohort["followup_years"] = cohort["followup_years"].where(~late, 2.0)
    predictions = cross_validation.cross_validate(study, cohort, ["swin"])
    assert set(predictions["horizon_years"]) == {3.0, 5.0}
    assert "The risk within 1 year is not estimable: outside fold(s) 1 nobody died within it." in caplog.text
    assert set(predictions["scan_id"]) == set(cohort["scan_id"])
    table = tables.summary(tables.model_table(study))
    assert table["Not estimable"].tolist() == ["1 year"]


def test_no_usable_lungs_and_impossible_size(trained, tmp_path):
    cohort = trained[1]
    with pytest.raises(StudyError, match="No scan of the cohort has usable lungs for Swin Transformer"):
        cross_validation.cross_validate(study_in(tmp_path), cohort, ["swin"])
    with pytest.raises(StudyError, match="divide by 32"):
        cross_validation.cross_validate(study_in(tmp_path, swin=NetworkSettings(size=40)), cohort, ["swin"])


@pytest.mark.slow
def test_three_networks_in_two_processes(trained, tmp_path, monkeypatch):
    for module in (cross_validation, prediction):
        monkeypatch.setattr(module, "build", networks.build)
    study, cohort, _ = trained
    cubes = NetworkSettings(size=32, epochs=1, batch_size=4)
    deep = DeepSettings(resnet18=cubes.model_copy(update={"size": 16}), densenet121=cubes, swin=TINY)
    both = Study(tmp_path, Settings(deep=deep))
    for scan_id in cohort["scan_id"]:
        for old, new in ((study.image, both.image), (study.mask, both.mask)):
            new(scan_id).parent.mkdir(parents=True, exist_ok=True)
            new(scan_id).write_bytes(old(scan_id).read_bytes())
    predictions = cross_validation.cross_validate(both, cohort, list(NETWORK_WORDS), n_jobs=2)
    assert predictions.groupby("model").size().to_dict() == {
        f"{title} (from scratch)": N * 3 for title in NETWORK_WORDS.values()
    }


def standing_in(folder, network_name, build):
    """Write weights in the layout of the published ones, and give the settings that name them."""
    torch.manual_seed(5)
    tensors = build()[0].state_dict()
    path = folder / f"{network_name}.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, path)
    return {"weights": path.name, "weights_sha256": checksum(path), "size": 32, "epochs": 1}, tensors


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_resnet")
@pytest.mark.parametrize(
    ("preset", "changed", "stays"), [("published", {}, True), ("best", {"n_members": 2, "head_epochs": 0}, False)]
)
def test_presets_train_every_network_from_its_weights(tmp_path, monkeypatch, preset, changed, stays):
    for module in (cross_validation, prediction):
        monkeypatch.setattr(module, "build", networks.build)
    builders = (networks.build_resnet18, networks.build_densenet121, networks.build_swin)
    made = {name: standing_in(tmp_path, name, build) for name, build in zip(NETWORK_WORDS, builders, strict=True)}
    given = {name: {**settings, **changed} for name, (settings, _) in made.items()}
    settings = Settings(deep=DeepSettings.model_validate({"preset": preset, **given}), horizons_years=(5.0,))
    study = Study(tmp_path, settings)
    cohort = make_cohort(study).assign(fold=np.arange(N) // 2 // 3)  # of the patients of a fold, some live
    for scan_id in cohort["scan_id"]:
        write_scan(study, scan_id, -120)  # the published window shows nothing below -175
    predictions = cross_validation.cross_validate(study, cohort, list(NETWORK_WORDS))
    assert predictions.groupby("model").size().eq(N).all()
    named = " (classifiers)" if preset == "published" else ""
    assert set(predictions["model"]) == {f"{title}{named}" for title in NETWORK_WORDS.values()}
    for name, (_, tensors) in made.items():
        trained = prediction.fold_model(study, name, 0).encoder.state_dict()
        kernels = [key for key, tensor in tensors.items() if tensor.dim() == 5]
        assert kernels
        assert all(torch.equal(trained[key], tensors[key]) for key in kernels) == stays, name


@pytest.mark.slow
def test_two_processes_give_the_folds_and_risks_of_one(tmp_path, monkeypatch):
    for module in (cross_validation, prediction):
        monkeypatch.setattr(module, "build", networks.build)  # of layers that normalise each scan by itself
    predicted = []
    for devices, batch_size in ((1, 4), (2, 2)):  # as many scans per step
        swin = TINY.model_copy(update={"batch_size": batch_size, "epochs": 3})
        deep = DeepSettings(
            networks=("swin",), swin=swin, devices=devices, augmentation=AugmentationSettings(probability=0),
            precision="32",  # with 16 bits, the sums over half a batch each are rounded on their own
        )  # fmt: skip
        study = Study(tmp_path / str(devices), Settings(deep=deep, horizons=HorizonSettings(n_bootstrap=20)))
        cohort = make_cohort(study)
        predictions = cross_validation.cross_validate(study, cohort, ["swin"])
        predicted.append((predictions, evaluate(Evaluation(cohort.assign(scan_day=0), predictions, study.settings))))
    (one, of_one), (two, of_two) = predicted
    pd.testing.assert_frame_equal(one.drop(columns="risk"), two.drop(columns="risk"))
    assert one["risk"].std() > 0.01
    np.testing.assert_allclose(one["risk"], two["risk"], atol=1e-4)
    np.testing.assert_allclose(of_one["estimate"], of_two["estimate"], atol=1e-3)
    assert of_one["estimate"].notna().any()
