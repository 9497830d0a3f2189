import logging
import re
import subprocess
import sys
from collections import Counter

import pytest
from snakemake.cli import parse_args, parse_config
from typer.testing import CliRunner

from sscct_lib.cli.app import _snakemake_command, app
from sscct_lib.cli.options import Lines
from sscct_lib.study.folder import SETTINGS_FILE
from sscct_lib.study.keys import ToMake
from sscct_lib.study.stages import PROJECT


def sscct(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command", ["demo", "ingest", "check", "run", "runs", "book", "pretrain", "report", "predict", "review", "sweep"]
)
def test_help_teaches(command):
    shown = sscct(command, "--help")
    assert shown.exit_code == 0
    assert "STUDY" in shown.output
    assert command in sscct("--help").output


def test_check_accepts_a_study_and_names_what_is_missing(study_of, manifest_frame, write_image):
    study = study_of(manifest_frame.assign(ward="3b"))
    checked = sscct("check", study.folder)
    assert checked.exit_code == 1
    assert "4 scans of 3 patients; the manifest is valid" in checked.output
    assert "Column ward is not one of the manifest's" in checked.output
    assert "a1: scans/a1.nii.gz is not in" in checked.output


def test_check_reports_all_violations(study_of, manifest_frame):
    manifest_frame.loc[0, "age_years"] = "old"
    manifest_frame.loc[1, "sex"] = "f"
    checked = sscct("check", study_of(manifest_frame.drop(columns="patient_id")).folder)
    assert checked.exit_code == 1
    assert "column patient_id" in checked.output
    assert "row 2, column age_years" in checked.output


def test_a_single_patient_is_refused_before_any_work(study_of, manifest_frame):
    study = study_of(manifest_frame.iloc[:2])
    for command in ("check", "run"):
        refused = sscct(command, study.folder)
        assert refused.exit_code == 1
        assert "1 patient(s) with follow-up" in refused.output
    assert not study.run.exists()


def test_nobody_died_before_a_horizon_is_said(study_of, manifest_frame, write_image):
    manifest_frame["last_contact_date"] = ["2018-01-01", "2018-01-01", "2020-05-05", "2019-09-01"]
    manifest_frame["event_observed"] = "1"
    study = study_of(manifest_frame, "cohort: {n_folds: 2}\nhorizons_years: [1, 5]")
    assert "Nobody died within 1 year:" in sscct("check", study.folder).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--until", "06_more"], "expected one of 01_cohort"),
        (["-p", "horizons.n_bootstrap"], "--parameter horizons.n_bootstrap: expected SETTING=VALUE"),
        (["-p", "horizons.n_botstrap=3"], "is horizons.n_bootstrap meant?"),
        (["-p", "demo.n_patients=3"], "it holds for all runs"),
        (["-p", "horizons.n_bootstrap=-3"], "horizons.n_bootstrap: Input should be greater than"),
        (["-p", "horizons.reference=Clinicle"], "Clinicle"),
        (["--run", "../x"], "study.yaml"),
    ],
)
def test_bad_arguments_of_run_are_named(study_of, manifest_frame, arguments, words):
    refused = sscct("run", study_of(manifest_frame).folder, *arguments)
    assert refused.exit_code == 1
    assert words in refused.output


def test_a_folder_without_a_study_says_how_to_make_one(tmp_path):
    refused = sscct("run", tmp_path)
    assert refused.exit_code == 1
    assert "study.yaml is missing" in refused.output
    assert "sscct demo" in refused.output


def test_a_folder_without_ct_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no scans")
    refused = sscct("ingest", tmp_path / "in", tmp_path / "study")
    assert refused.exit_code == 1
    assert "Error:" in refused.output


def test_the_demo_never_overwrites_a_real_manifest(study_of, manifest_frame):
    study = study_of(manifest_frame)
    before = study.manifest_path.read_bytes()
    assert sscct("demo", study.folder).exit_code == 1
    assert study.manifest_path.read_bytes() == before


def test_the_full_size_is_for_a_new_folder(tmp_path):
    (tmp_path / SETTINGS_FILE).write_text("demo: {n_patients: 2}")
    refused = sscct("demo", tmp_path, "--size", "full")
    assert refused.exit_code == 1
    assert "Name a new folder" in refused.output


def test_a_book_needs_executed_notebooks(study_of, manifest_frame):
    refused = sscct("book", study_of(manifest_frame).folder)
    assert refused.exit_code == 1
    assert "01_cohort" in refused.output


def test_the_workflow_is_told_what_is_to_be_made(study_of, manifest_frame):
    study = study_of(manifest_frame)
    to_make = ToMake({2: ["images"]}, ["01_cohort"])
    command = _snakemake_command(study, to_make, "01_cohort", False, 1, ["--dry-run"])
    given = parse_args(command[4:])[1]
    assert given.forceall
    assert given.dryrun
    assert parse_config(given.config) == {
        "run": "main",
        "sscct": f"{sys.executable} -P -m sscct_lib.cli",
        "until": "01_cohort",
        "last_stage": "images",
        "shards": ["0002"],
        "notebooks": ["01_cohort"],
        "trainings": [],
        "book": None,
    }


def test_on_a_cluster_each_training_is_a_job(study_of, manifest_frame):
    """The jobs that Snakemake plans, each with what it waits for."""
    study = study_of(manifest_frame, "cohort: {n_folds: 2}\ndeep: {networks: [swin], swin: {n_members: 2}}\n")
    to_make = ToMake({0: ["radiomics"]}, ["03_radiomics", "04_deep_models", "05_horizons"])
    command = _snakemake_command(study, to_make, None, True, 2, ["--executor", "local", "--dag"])
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)', planned))
    before = {(names[one], names[other]) for one, other in re.findall(r"(\d+) -> (\d+)", planned)}
    assert Counter(names.values()) == dict.fromkeys(
        ("all", "scans", "radiomics", "cubes", "deep_models", "horizons", "book"), 1
    ) | {"training": 4}
    assert {("cubes", "training"), ("training", "deep_models"), ("deep_models", "horizons")} <= before
    assert {one for one, other in before if other == "radiomics"} == {"scans"}


def test_a_run_in_the_background_of_a_script_ends_when_it_is_told(tmp_path):
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does\n"
        "from sscct_lib.cli.app import _run_quietly\n"
        "job = 'try: import sys, time; print(1, flush=True); time.sleep(60)\\nexcept KeyboardInterrupt: sys.exit(7)'\n"
        "sys.exit(_run_quietly([sys.executable, '-c', job], os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)))\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "1\n"
        run.terminate()
        assert run.wait(20) == 7


def test_no_text_moves_the_cursor_of_a_terminal(study_of, manifest_frame):
    study = study_of(manifest_frame.assign(**{"wa\x1b[2Jrd\u202e": "3b"}))
    told = sscct("check", study.folder).output
    assert "Column wa�[2Jrd� is not one of the manifest's" in told
    assert Lines("%(message)s").format(logging.makeLogRecord({"msg": "a\r\x9b2Jb\tc\n"})) == "a��2Jb\tc\n"
    assert not [path.name for path in (PROJECT / "sscct_lib" / "cli").glob("*.py") if "typer.echo" in path.read_text()]
