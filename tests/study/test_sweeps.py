"""The table of a sweep: what it may say, what is told of its faults, and what its runs share."""

import os
import re

import pytest
import yaml

from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.settings import Settings
from sscct_lib.study.sweeps import read_sweep, setting_names, share_results, write_run_settings


@pytest.fixture
def planned_of(study_of, manifest_frame, tmp_path):
    """Return a function that reads a table, given as text, for a study with these settings."""

    def read(text: str, settings: str = "seed: 1\nradiomics: {bin_width: 20, wavelet: true}\n"):
        study = study_of(manifest_frame, settings)
        (tmp_path / "sweep.csv").write_text(text, encoding="utf-8")
        return read_sweep(tmp_path / "sweep.csv", study.folder)

    return read


def test_every_setting_of_a_study_has_a_name_that_validates():
    plain = Settings().model_dump(mode="json")
    for name in setting_names():
        value = plain
        for part in name.split("."):
            value = value[part]
    assert {"seed", "horizons_years", "deep.swin.size", "tabular.feature_sets"} <= set(setting_names())


def test_rows_change_what_they_name_and_nothing_else(planned_of):
    table = 'run,horizons_years,radiomics.bin_width,deep.swin.size\nplain,,,\nother,"[2, 4]",10,64\n'
    plain, other = planned_of(table)
    assert (plain.row, plain.study.run_name, plain.changes) == (2, "plain", {})
    assert plain.study.settings == load_study(plain.study.folder).settings
    assert other.study.settings.horizons_years == (2.0, 4.0)
    assert other.study.settings.radiomics == plain.study.settings.radiomics.model_copy(update={"bin_width": 10.0})
    assert other.study.settings.deep.swin.size == 64


def test_a_run_finds_its_settings_again(planned_of):
    plain, other = planned_of("run,radiomics.bin_width,deep.swin.patience\nplain,,\nother,10,null\n")
    for run in (plain, other):
        write_run_settings(run)
        assert load_study(run.study.folder, run.study.run_name).settings == run.study.settings
    assert not plain.study.run.exists()
    before = other.study.run_settings_path.stat().st_mtime_ns
    write_run_settings(other)
    assert other.study.run_settings_path.stat().st_mtime_ns == before


def test_what_is_none_in_a_run_is_none(planned_of):
    text = "run,deep.swin.patience\nother,null\n"
    (run,) = planned_of(text, "deep: {swin: {patience: 3}}\n")
    write_run_settings(run)
    assert load_study(run.study.folder, "other").settings.deep.swin.patience is None
    assert load_study(run.study.folder).settings.deep.swin.patience == 3


def test_a_notebooks_parameter_goes_before_the_runs_settings(planned_of):
    (run,) = planned_of("run,horizons.n_bootstrap\nother,7\n")
    write_run_settings(run)
    assert load_study(run.study.folder, "other", horizons={"n_bootstrap": None}).settings.horizons.n_bootstrap == 7
    assert load_study(run.study.folder, "other", horizons={"n_bootstrap": 9}).settings.horizons.n_bootstrap == 9


def test_damaged_settings_of_a_run_are_named(planned_of):
    (run,) = planned_of("run,seed\nother,3\n")
    write_run_settings(run)
    run.study.run_settings_path.write_text("seed: none of them\n")
    with pytest.raises(StudyError, match=r"study\.yaml, with runs/other/settings\.yaml:\n  seed: "):
        load_study(run.study.folder, "other")


def test_synthetic_patients_keep_their_seed(planned_of):
    demo = "seed: 5\ndemo: {n_patients: 3}\n"
    _, other = planned_of("run,seed\nfirst,\nother,6\n", demo)
    assert (other.study.settings.seed, other.study.demo_seed) == (6, 5)
    assert load_study(other.study.folder).demo_seed == 5
    write_run_settings(other)
    assert load_study(other.study.folder, "other").demo_seed == 5


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("seed\n3\n", "row 1: no column run; found seed"),
        ("run;seed\na;3\n", "row 1: no column run; found run;seed, separated by commas"),
        ("run,radiomics.bin_widht\na,3\n", "row 1, column 'radiomics.bin_widht'.*is radiomics.bin_width meant"),
        ("run,demo.n_patients\na,3\n", "row 1, column demo.n_patients: all runs share the scans"),
        ("run,seed\n", "no row below the header"),
        ("run,seed\na,3\nb,4\na,5\n", "row 4, column run: a stands in row 2 already"),
        ("run,seed\n../a,3\n", "row 2, column run: '../a'"),
        ("run,seed\n,3\n", "row 2, column run: ''"),
        ("run,seed\na,3\nb,none\n", "row 3, column seed: .*found 'none'"),
        ("run,seed\na,[\n", r"row 2, column seed: '\[' is not plain YAML"),
        ("run,horizons_years\na,\"1, 3\"\n", r"row 2, column horizons_years: .*list stands in brackets.*found '1, 3'"),
        ("run,horizons_years\na,\"[3, 1]\"\n", "row 2, column horizons_years: .*rising years"),
        ("run,tabular.feature_sets\na,[Clinicle]\n", "row 2, column tabular.feature_sets: .*found 'Clinicle'"),
        ("run,seed\na,3,4\n", "not a comma-separated table"),
    ],
)  # fmt: skip
def test_faults_are_named_by_row_and_column(planned_of, table, words):
    with pytest.raises(StudyError, match=r"sweep\.csv") as refused:
        planned_of(table)
    assert re.search(words, str(refused.value)), refused.value


def test_all_faults_are_told_at_once(planned_of):
    with pytest.raises(StudyError) as refused:
        planned_of("run,seed,radiomics.bin_width\na,-1,20\nb,1,-3\n")
    assert "row 2, column seed" in str(refused.value)
    assert "row 3, column radiomics.bin_width" in str(refused.value)


def test_a_run_that_is_no_sweeps_keeps_its_settings(planned_of, study_of, manifest_frame):
    study = study_of(manifest_frame)
    (study.folder / "runs" / "main").mkdir(parents=True)
    assert planned_of("run,seed\nmain,\n")
    with pytest.raises(StudyError, match="row 2, column run: run main is there already"):
        planned_of("run,seed\nmain,3\n")


def test_results_that_rest_on_the_same_settings_are_shared(planned_of):
    table = (
        "run,radiomics.bin_width,images.spacing_mm,seed,deep.networks\nfirst,,,,\nbins,10,,,\ncoarse,,5,,\nseed,,,7,\n"
    )
    table += "fewer,,,,[swin]\n"
    first, *others = (run.study for run in planned_of(table))
    made = ["images/a.nii.gz", "records/images/a.json", "masks/a.nii.gz", "records/lungs/a.json", "tensors/32/a.npy"]
    made += ["records/radiomics/a.json", "models/deep/swin_fold0_0.json", "tables/cohort.parquet"]
    made += ["models/deep/resnet18_fold0_0.json"]
    networks = {"models/deep/swin_fold0_0.json", "models/deep/resnet18_fold0_0.json"}
    for name in [*made, "images/.partial-1-a.nii.gz"]:
        (first.run / name).parent.mkdir(parents=True, exist_ok=True)
        (first.run / name).write_text(name)
    shared = {}
    for other in others:
        n_shared = share_results([first], other)
        shared[other.run_name] = sorted(str(path.relative_to(other.run)) for path in other.run.rglob("*.*"))
        assert n_shared == len(shared[other.run_name])
        assert share_results([first], other) == 0
    assert shared["bins"] == sorted(set(made) - {"records/radiomics/a.json", "tables/cohort.parquet"})
    assert shared["coarse"] == []
    assert shared["seed"] == sorted(set(made) - networks - {"tables/cohort.parquet"})
    assert shared["fewer"] == sorted(set(made) - {"models/deep/resnet18_fold0_0.json", "tables/cohort.parquet"})
    assert (others[0].run / made[0]).stat().st_ino == (first.run / made[0]).stat().st_ino


def test_results_are_copied_where_there_are_no_links(planned_of, monkeypatch):
    first, other = (run.study for run in planned_of("run,radiomics.bin_width\nfirst,\nother,10\n"))
    made = first.run / "images" / "a.nii.gz"
    made.parent.mkdir(parents=True)
    made.write_text("scan")
    os.utime(made, ns=(1, 1_234_567_890))

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert share_results([first], other) == 1
    copy = other.image("a")
    assert copy.read_text() == "scan"
    assert copy.stat().st_mtime_ns == 1_234_567_890


def test_settings_of_a_run_are_plain_yaml(planned_of):
    (run,) = planned_of('run,horizons_years,tabular.feature_sets\na,"[1, 2]","[Clinical, Radiomics]"\n')
    write_run_settings(run)
    content = yaml.safe_load(run.study.run_settings_path.read_text())
    assert content == {"horizons_years": [1, 2], "tabular": {"feature_sets": ["Clinical", "Radiomics"]}}
