"""Runs with other settings: one to try something, or a table of them; what is told of faults, and what runs share."""

import os
import re

import pandas as pd
import pytest
import yaml

from sscct_lib.book.chapters import write_provenance
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.keys import notebook_record, to_make, written
from sscct_lib.study.runs import (
    beside,
    changes_of,
    open_run,
    parse_changes,
    read_sweep,
    setting_names,
    share_results,
    write_run_settings,
)
from sscct_lib.study.schemas import LUNGS
from sscct_lib.study.seals import seal_all
from sscct_lib.study.settings import Settings
from sscct_lib.study.stages import NOTEBOOKS
from sscct_lib.study.tables import read_table, write_table
from tests.study.on_paper import finish_on_paper, named
from tests.tiny_study import sscct


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
        write_run_settings(run.study, run.written)
        assert load_study(run.study.folder, run.study.run_name).settings == run.study.settings
    assert not plain.study.run.exists()
    before = other.study.run_settings_path.stat().st_mtime_ns
    write_run_settings(other.study, other.written)
    assert other.study.run_settings_path.stat().st_mtime_ns == before


def test_what_is_none_in_a_run_is_none(planned_of):
    text = "run,deep.swin.patience\nother,null\n"
    (run,) = planned_of(text, "deep: {swin: {patience: 3}}\n")
    write_run_settings(run.study, run.written)
    assert load_study(run.study.folder, "other").settings.deep.swin.patience is None
    assert load_study(run.study.folder).settings.deep.swin.patience == 3


def test_a_notebooks_parameter_goes_before_the_runs_settings(planned_of):
    (run,) = planned_of("run,horizons.n_bootstrap\nother,7\n")
    write_run_settings(run.study, run.written)
    assert open_run(run.study.folder, "other", horizons={"n_bootstrap": None}).settings.horizons.n_bootstrap == 7
    assert open_run(run.study.folder, "other", horizons={"n_bootstrap": 9}).settings.horizons.n_bootstrap == 9


def test_damaged_settings_of_a_run_are_named(planned_of):
    (run,) = planned_of("run,seed\nother,3\n")
    write_run_settings(run.study, run.written)
    run.study.run_settings_path.write_text("seed: none of them\n")
    with pytest.raises(StudyError, match=r"study\.yaml, with runs/other/settings\.yaml:\n  seed: "):
        load_study(run.study.folder, "other")


def test_synthetic_patients_keep_their_seed(planned_of):
    demo = "seed: 5\ndemo: {n_patients: 3}\n"
    _, other = planned_of("run,seed\nfirst,\nother,6\n", demo)
    assert (other.study.settings.seed, other.study.demo_seed) == (6, 5)
    assert load_study(other.study.folder).demo_seed == 5
    write_run_settings(other.study, other.written)
    assert load_study(other.study.folder, "other").demo_seed == 5


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("seed\n3\n", "row 1: no column run; found seed"),
        ("run;seed\na;3\n", "row 1: no column run; found run;seed, separated by commas"),
        ("run,radiomics.bin_widht\na,3\n", "row 1, column 'radiomics.bin_widht'.*is radiomics.bin_width meant"),
        ("run,demo.n_patients\na,3\n", "row 1, column demo.n_patients: it holds for all runs"),
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
    seal_all(first.run, "")
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
    seal_all(first.run, "")

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert share_results([first], other) == 1
    copy = other.image("a")
    assert copy.read_text() == "scan"
    assert copy.stat().st_mtime_ns == 1_234_567_890


def test_settings_of_a_run_are_plain_yaml(planned_of):
    (run,) = planned_of('run,horizons_years,tabular.feature_sets\na,"[1, 2]","[Clinical, Radiomics]"\n')
    write_run_settings(run.study, run.written)
    content = yaml.safe_load(run.study.run_settings_path.read_text())
    assert content == {"horizons_years": [1, 2], "tabular": {"feature_sets": ["Clinical", "Radiomics"]}}


def test_trying_a_value_is_a_run_of_its_own_and_the_same_value_the_same_run(study_of, manifest_frame, caplog):
    study = study_of(manifest_frame, "seed: 1\n")
    write_table(pd.DataFrame(columns=list(LUNGS.columns)), study, "lungs", LUNGS)
    before = study.table("lungs").read_bytes()
    assert open_run(study.folder, horizons={"n_bootstrap": None, "reference": None}, labels=None) == study
    assert open_run(study.folder, horizons={"n_bootstrap": 1000}) == study
    assert not caplog.records
    tried = open_run(study.folder, horizons={"n_bootstrap": 20})
    assert re.fullmatch("main~[0-9a-f]{8}", tried.run_name)
    assert f"This is run {tried.run_name} (horizons.n_bootstrap: 20). Run main stays as it is." in caplog.text
    assert tried.settings.horizons.n_bootstrap == 20
    assert open_run(study.folder, horizons={"n_bootstrap": 20}) == tried == load_study(study.folder, tried.run_name)
    write_table(pd.DataFrame(columns=list(LUNGS.columns)), tried, "lungs", LUNGS)
    assert study.table("lungs").read_bytes() == before
    both = open_run(study.folder, tried.run_name, seed=3)
    assert re.fullmatch("main~[0-9a-f]{8}", both.run_name)
    assert both.run_name != tried.run_name
    assert changes_of(both) == {"horizons.n_bootstrap": 20, "seed": 3}


def test_a_run_that_is_not_there_yet_is_made_with_its_parameters(study_of, manifest_frame):
    study = study_of(manifest_frame, "seed: 1\n")
    trial = beside(load_study(study.folder, "trial"), parse_changes(["tabular.n_repeats=2", "horizons_years=[1, 2]"]))
    assert (trial.run_name, trial.settings.horizons_years, trial.settings.tabular.n_repeats) == ("trial", (1.0, 2.0), 2)
    assert load_study(study.folder, "trial") == trial
    assert beside(trial, parse_changes(["tabular.n_repeats=2"])) == trial
    assert beside(trial, parse_changes(["tabular.n_repeats=3"])).run_name.startswith("trial~")
    assert load_study(study.folder, "trial") == trial


def test_synthetic_patients_stay_the_same_when_another_seed_is_tried(study_of, manifest_frame):
    study = study_of(manifest_frame, "seed: 5\ndemo: {n_patients: 3}\n")
    tried = open_run(study.folder, seed=6)
    assert (tried.settings.seed, tried.demo_seed) == (6, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_bootstrap=3", "--parameter 'n_bootstrap': no setting of study.yaml has this name; is"),
        ("seed", "--parameter seed: expected SETTING=VALUE"),
        ("seed=[", r"--parameter seed: '\[' is not plain YAML"),
        ("demo.n_patients=3", "--parameter demo.n_patients: it holds for all runs"),
        ("disclosure.minimum=1", "--parameter disclosure.minimum: it holds for all runs"),
    ],
)
def test_what_is_no_setting_is_refused_with_the_nearest(text, words):
    with pytest.raises(StudyError, match=words):
        parse_changes(["seed=1", text])


def test_an_impossible_value_is_refused_and_makes_no_run(study_of, manifest_frame):
    study = study_of(manifest_frame, "seed: 1\n")
    with pytest.raises(StudyError, match=r"horizons\.n_bootstrap: .*found -1"):
        open_run(study.folder, horizons={"n_bootstrap": -1})
    assert not (study.folder / "runs").exists()


def test_only_what_rests_on_what_was_changed_is_made_again(study_of, manifest_frame):
    study = study_of(manifest_frame, "cohort: {n_folds: 2}\n")
    finish_on_paper(study, read_manifest(study))
    risks = study.table("predictions/elsewhere")
    pd.DataFrame({"a": [1]}).to_parquet(risks)
    write_provenance(
        study,
        "05_horizons",
        notebook_record(study, "05_horizons", []) | {"written": written(study, "05_horizons")},
    )
    made = {}
    for text in ("horizons.n_bootstrap=20", "deep.n_explained=1", "tabular.n_repeats=1", "lungs.max_noise_hu=50"):
        tried = beside(study, parse_changes([text]))
        assert (tried.table("predictions/elsewhere")).samefile(risks)
        made[text] = named(to_make(tried, read_manifest(tried)))
    later = {"05_horizons"}
    assert made["horizons.n_bootstrap=20"] == later
    assert made["deep.n_explained=1"] == {"04_deep_models", *later}
    assert made["tabular.n_repeats=1"] == {"03_radiomics", *later}
    assert made["lungs.max_noise_hu=50"] == {"lungs_0000", "radiomics_0000", *NOTEBOOKS[1:]}


def test_what_a_tried_run_has_of_an_earlier_state_gives_way_to_what_the_run_has_now(study_of, manifest_frame):
    study = study_of(manifest_frame, "cohort: {n_folds: 2}\n")
    finish_on_paper(study, read_manifest(study))
    changes = parse_changes(["horizons.n_bootstrap=20"])
    tried = beside(study, changes)
    assert named(to_make(tried, read_manifest(study))) == {"05_horizons"}
    (study.folder / "study.yaml").write_text("cohort: {n_folds: 2}\nseed: 7\n")
    study = load_study(study.folder)
    assert named(to_make(load_study(study.folder, tried.run_name), read_manifest(study))) >= set(NOTEBOOKS)
    finish_on_paper(study, read_manifest(study))
    assert named(to_make(beside(study, changes), read_manifest(study))) == {"05_horizons"}
    assert beside(study, changes).run_name == tried.run_name


def test_runs_are_listed_and_one_is_removed_alone(study_of, manifest_frame):
    study = study_of(manifest_frame, "seed: 1\n")
    write_table(pd.DataFrame(columns=list(LUNGS.columns)), study, "lungs", LUNGS)
    tried = beside(study, parse_changes(["horizons.n_bootstrap=20"]))
    listed = sscct("runs", study.folder).output.splitlines()
    assert listed == [
        "main: as study.yaml; up to date: no notebook",
        f"{tried.run_name}: horizons.n_bootstrap: 20; up to date: no notebook",
    ]
    for name in ("main", "trial"):
        refused = sscct("runs", study.folder, "--remove", name)
        assert refused.exit_code == 1
        assert f"expected one beside main: {tried.run_name}" in refused.output
    assert sscct("runs", study.folder, "--remove", tried.run_name).exit_code == 0
    assert not tried.run.exists()
    assert read_table(study, "lungs", LUNGS).empty


def test_a_run_that_is_a_link_leads_to_no_deletion(study_of, manifest_frame, tmp_path):
    study = study_of(manifest_frame, "seed: 1\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    study.run.parent.mkdir()
    (study.run.parent / "link").symlink_to(tmp_path / "elsewhere")
    assert sscct("runs", study.folder, "--remove", "link").exit_code == 0
    assert (tmp_path / "elsewhere" / "kept").exists()
