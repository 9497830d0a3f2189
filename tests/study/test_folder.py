import subprocess
import sys

import pytest
import yaml

from sscct_lib.study.folder import StudyError, fingerprint, load_study
from sscct_lib.study.settings import Settings


def test_defaults_need_no_settings(tmp_path):
    (tmp_path / "study.yaml").write_text("")
    assert load_study(tmp_path).settings == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("radiomics: {bin_widht: 10}", "radiomics.bin_widht"),
        ("horizons_years: [0]", "horizons_years.0"),
        ("horizons_years: []", "horizons_years"),
        ("horizons_years: [3, 1]", "rising years"),
        ("cohort: {n_folds: 1}", "cohort.n_folds"),
        ("seed: [", "not readable YAML"),
        ("just text", "found a str"),
    ],
)
def test_bad_settings_are_named(tmp_path, text, words):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyError, match=words.replace(".", r"\.")):
        load_study(tmp_path)


def test_missing_settings_file_says_how_to_mend(tmp_path):
    with pytest.raises(StudyError, match="sscct demo"):
        load_study(tmp_path)


@pytest.mark.parametrize("name", ["../x", "", "a b", "-x"])
def test_run_names_cannot_leave_the_study(tmp_path, name):
    (tmp_path / "study.yaml").write_text("")
    with pytest.raises(StudyError):
        load_study(tmp_path, name)


def test_fingerprint_ignores_key_order_and_sees_values():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_settings_survive_yaml(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(Settings().model_dump(mode="json")))
    assert load_study(tmp_path).settings == Settings()


def test_import_loads_nothing_heavy():
    heavy = ("torch", "monai", "matplotlib", "pandas")
    code = f"import sys, sscct_lib, sscct_lib.cli; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\tb", "a\x1bb", "a\x85b"])
def test_a_folder_whose_name_would_break_lines_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "study.yaml").write_text("")
    with pytest.raises(StudyError, match="control character in its name"):
        load_study(tmp_path / name)


def test_a_folder_with_braces_quotes_and_umlauts_is_taken(tmp_path):
    folder = tmp_path / """a {x} 50% #1 $HOME 'q' "d" äö [z] *"""
    folder.mkdir()
    (folder / "study.yaml").write_text("title: here")
    assert load_study(folder).settings.title == "here"
