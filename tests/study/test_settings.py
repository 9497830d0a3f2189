import pytest
from pydantic import ValidationError

from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.runs import open_run
from sscct_lib.study.settings import PRESETS, DeepSettings, NetworkSettings


def study_with(folder, text, **parameters):
    (folder / "study.yaml").write_text(text)
    return open_run(folder, **parameters).settings.deep


def test_one_word_fills_what_is_not_given(tmp_path):
    deep = study_with(tmp_path, "deep: {preset: published}")
    assert deep.hu_range == (-175.0, 250.0)
    assert deep.augmentation.probability == 0
    for network in (deep.resnet18, deep.densenet121, deep.swin):
        assert (network.size, network.batch_size, network.epochs, network.patience) == (96, 4, 50, 10)
        assert (network.learning_rate, network.weight_decay) == (4e-4, 1e-5)
        assert network.head_epochs == network.epochs  # a frozen encoder
        assert (network.balance, network.head) == ("loss", "classifiers")
        assert network.weights is not None
    assert deep.swin.feature_size == 48


def test_what_is_given_wins_in_the_file_and_in_a_notebook(tmp_path):
    text = "deep: {preset: published, hu_range: [-1024, 600], resnet18: {epochs: 3}, augmentation: {noise_hu: 1}}"
    deep = study_with(tmp_path, text, deep={"swin": {"size": 64}, "preset": None})
    assert deep.hu_range == (-1024.0, 600.0)
    assert (deep.resnet18.epochs, deep.resnet18.batch_size, deep.densenet121.epochs) == (3, 4, 50)
    assert (deep.swin.size, deep.resnet18.size) == (64, 96)
    assert (deep.augmentation.noise_hu, deep.augmentation.probability) == (1, 0)
    chosen = study_with(tmp_path, text, deep={"preset": "demo"})
    assert (chosen.resnet18.epochs, chosen.resnet18.size) == (3, 32)
    assert DeepSettings(preset="demo", swin=NetworkSettings(size=64)).swin.epochs == 50  # given whole


@pytest.mark.parametrize("preset", [name for name in PRESETS if name])
def test_presets_hold_only_settings_that_exist(preset):
    deep = DeepSettings(preset=preset)
    again = DeepSettings.model_validate(deep.model_dump())
    assert again == deep
    assert deep != DeepSettings()


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValidationError, match="'demo', 'published' or 'best'"):
        DeepSettings(preset="quick")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("{mrss: {label: skin, kind: number, of: visit}}", r"expected `range: \[least, largest\]` of a number"),
        ("{mrss: {label: skin, kind: number, of: visit, range: [51, 0]}}", "expected `range"),
        ("{smoked: {label: s, kind: yes_no, of: patient, range: [0, 1]}}", "and of nothing else"),
        ("{site: {label: s, kind: category, of: patient, values: [a]}}", "two or more different `values`"),
        ("{site: {label: s, kind: category, of: patient, values: [a, a, b]}}", "two or more different `values`"),
        ("{smoked: {label: s, kind: yes_no}}", "of: Field required"),
        ("{fvc_percent: {label: s, kind: yes_no, of: visit}}", "fvc_percent may be in every manifest"),
        ("{Skin score: {label: s, kind: yes_no, of: visit}}", "should match pattern"),
    ],
)
def test_a_covariate_that_is_declared_by_halves_is_refused(tmp_path, declared, said):
    (tmp_path / "study.yaml").write_text(f"covariates: {declared}")
    with pytest.raises(StudyError, match=said):
        load_study(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        "seed: 99999999999999999999", "shard_size: 1000000000", "deep: {swin: {size: 100000}}",
        "cohort: {n_folds: 9999}", "deep: {swin: {feature_size: 100000}}",
        "deep: {resnet18: {batch_size: 9999999}}", "horizons: {n_bootstrap: 1e9}", "radiomics: {bin_width: 1.0e-9}",
        "radiomics: {hu_range: [-1.0e9, 1.0e9]}", "radiomics: {peel_mm: .inf}", "radiomics: {hu_range: [.nan, 0]}",
        "tabular: {n_trees: 99999999}", "tabular: {n_repeats: 99999}", "horizons_years: [1, .inf]",
        f"horizons_years: {list(range(1, 100))}", "deep: {strategy: 'x y'}", "deep: {resnet18: {n_members: 99999}}",
        f"radiomics: {{log_sigma_mm: {list(range(1, 50))}}}",
    ],
)  # fmt: skip
def test_no_setting_asks_for_memory_without_end(tmp_path, settings):
    (tmp_path / "study.yaml").write_text(settings)
    with pytest.raises(StudyError, match=r"less than|at most|finite|pattern|valid integer"):
        load_study(tmp_path)
