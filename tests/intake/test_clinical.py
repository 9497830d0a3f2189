"""Clinical values on the command line: names, ranges, and what is refused."""

import pytest

from sscct_lib.intake.clinical import read_values
from sscct_lib.study.folder import StudyError


def test_short_and_long_names_are_read():
    found = read_values("age=63, sex=female,subtype=diffuse,fvc_percent=72.5")
    assert found == {"age_years": 63.0, "sex": "female", "ssc_subtype": "diffuse", "fvc_percent": 72.5}


def test_nothing_is_nothing():
    assert read_values(None) == {}


def test_a_table_of_one_row_is_read_and_its_other_columns_are_ignored(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("patient_id,age_years,fvc_percent,dlco_percent\nMRN1,63,,50\n")
    assert read_values(str(path)) == {"age_years": 63.0, "dlco_percent": 50.0}
    path.write_text("age_years\n63\n64\n")
    with pytest.raises(StudyError, match="2 rows, expected one"):
        read_values(str(path))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("age=old", "age_years"),
        ("age=163", "age_years: expected a number from 0 to 120"),
        ("sex=f", "sex: expected female or male"),
        ("weight=70", "weight not known; expected age"),
        ("cause_of_death=lung", "cause_of_death not known"),
        ("age=63,fvc", "expected NAME=VALUE"),
        ("nofile.csv", "no such file"),
    ],
)
def test_what_is_not_possible_is_named(given, words):
    with pytest.raises(StudyError, match=words):
        read_values(given)
