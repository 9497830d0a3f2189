import re

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sscct_lib.cohort.manifest import files_missing, read_manifest, unknown_columns
from sscct_lib.cohort.selection import build_cohort, followed
from sscct_lib.study.folder import StudyError
from sscct_lib.study.schemas import MANIFEST


def test_dates_become_days_since_the_patients_first_scan(study_of, manifest_frame):
    rows = read_manifest(study_of(manifest_frame))
    assert rows["scan_day"].tolist() == [0, 365, 0, 0]
    assert rows["last_contact_day"].tolist() == [1096, 1096, 2192, 184]
    assert "scan_date" not in rows


def test_days_are_read_as_they_are(study_of, manifest_frame):
    by_day = manifest_frame.drop(columns=["scan_date", "last_contact_date"])
    by_day["scan_day"] = ["0", "365", "0", "0"]
    by_day["last_contact_day"] = ["1096", "1096", "2192", "184"]
    pd.testing.assert_frame_equal(read_manifest(study_of(by_day)), read_manifest(study_of(manifest_frame)))


@pytest.mark.parametrize(
    ("column", "row", "value", "expected"),
    [
        ("scan_id", 1, "a1", r"row 3, column scan_id: found 'a1'; expected a scan_id that no other row has"),
        ("scan_id", 0, "; rm -rf $HOME", r"row 2, column scan_id: .*letters, digits"),
        ("scan_id", 0, "../../x", r"row 2, column scan_id"),
        ("scan_date", 0, "01.02.2015", r"row 2, column scan_date: found '01.02.2015'; expected a date as YYYY-MM-DD"),
        ("scan_date", 2, "", r"row 4, column scan_date: .*expected the time of the scan"),
        ("age_years", 1, "old", r"row 3, column age_years: found 'old'; expected a number"),
        ("age_years", 1, "212", r"row 3, column age_years: found 212\.0; expected a number from 0 to 120"),
        ("event_observed", 3, "2", r"row 5, column event_observed: found 2; expected 0 \(alive\) or 1 \(died\)"),
        ("event_observed", 3, "1e20", r"row 5, column event_observed: found '1e20'; expected a whole number"),
        ("event_observed", 3, "9" * 19, r"row 5, column event_observed: found '9{19}'; expected a whole number"),
        ("event_observed", 3, "-" + "9" * 40, r"row 5, column event_observed: found '-9{40}'; expected a whole number"),
        ("event_observed", 3, "", r"row 5, column last_contact_date: .*expected empty"),
        ("last_contact_date", 3, "", r"row 5, column event_observed: .*expected empty"),
        ("last_contact_date", 3, "2017-02-01", r"row 5, column last_contact_date: .*follow-up cannot be negative"),
        ("last_contact_date", 1, "2019-01-01", r"row 3, column last_contact_date: .*same in all scans of a patient"),
        ("last_contact_date", 3, "2117-03-01", r"row 5, column last_contact_date: .*expected a day from 1975 to today"),
        ("scan_date", 3, "1900-01-01", r"row 5, column scan_date: .*expected a day from 1975 to today"),
        ("age_years", 2, "118", r"row 4, column last_contact_date: .*expected a time within a life"),
        ("sex", 0, "F", r"row 2, column sex: found 'F'; expected female or male"),
        ("image", 0, "../outside.nii.gz", r"row 2, column image: .*inside the study folder"),
        ("image", 0, "/etc/passwd", r"row 2, column image: .*inside the study folder"),
        ("image", 0, "", r"row 2, column image: found an empty cell"),
    ],
)
def test_each_violation_names_row_column_found_and_expected(study_of, manifest_frame, column, row, value, expected):
    manifest_frame.loc[row, column] = value
    with pytest.raises(StudyError, match=expected) as caught:
        read_manifest(study_of(manifest_frame))
    assert "data_manifest.csv" in str(caught.value)


def test_all_violations_come_in_one_report(study_of, manifest_frame):
    manifest_frame.loc[0, "age_years"] = "old"
    manifest_frame.loc[1, "event_observed"] = "yes"
    manifest_frame.loc[2, "scan_date"] = "yesterday"
    manifest_frame = manifest_frame.drop(columns="image")
    with pytest.raises(StudyError, match=r"4 violation\(s\)") as caught:
        read_manifest(study_of(manifest_frame))
    for words in ("row 2, column age_years", "row 3, column event_observed", "row 4, column scan_date", "column image"):
        assert words in str(caught.value)


@pytest.mark.parametrize("column", [name for name, spec in MANIFEST.columns.items() if spec.required])
def test_missing_column(study_of, manifest_frame, column):
    with pytest.raises(StudyError, match=f"column {column}: found no such column"):
        read_manifest(study_of(manifest_frame.drop(columns=column)))


def test_missing_time_columns(study_of, manifest_frame):
    with pytest.raises(StudyError, match="scan_day or scan_date: found no such column"):
        read_manifest(study_of(manifest_frame.drop(columns=["scan_date"])))


def test_scan_without_follow_up_is_valid(study_of, manifest_frame):
    manifest_frame.loc[3, ["last_contact_date", "event_observed"]] = ""
    rows = read_manifest(study_of(manifest_frame))
    assert rows["last_contact_day"].isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize("text", ["", "\n", "scan_id,patient_id\n", "a,b\n1,2,3,4\n"])
def test_files_that_are_no_table(study_of, manifest_frame, text):
    study = study_of(manifest_frame)
    study.manifest_path.write_text(text)
    with pytest.raises(StudyError, match=r"data_manifest\.csv"):
        read_manifest(study)


def test_binary_file_is_refused(study_of, manifest_frame):
    study = study_of(manifest_frame)
    study.manifest_path.write_bytes(b"\xff\xfe\x00\x80scan")
    with pytest.raises(StudyError, match=r"data_manifest\.csv"):
        read_manifest(study)


def test_missing_manifest(study_of, manifest_frame):
    study = study_of(manifest_frame)
    study.manifest_path.unlink()
    with pytest.raises(StudyError, match="missing"):
        read_manifest(study)


def test_missing_files_and_unknown_columns_are_told(study_of, manifest_frame):
    study = study_of(manifest_frame.assign(hospital="x"))
    assert unknown_columns(study) == ["hospital"]
    assert len(files_missing(study, read_manifest(study))) == 4


def test_follow_up_in_days_beyond_a_life(study_of, manifest_frame):
    by_day = manifest_frame.drop(columns=["scan_date", "last_contact_date"])
    by_day["scan_day"], by_day["last_contact_day"] = ["0", "365", "0", "0"], ["21914", "21914", "21916", "44254"]
    with pytest.raises(StudyError, match=r"2 violation\(s\)") as caught:  # 60 years are 21,915 days
        read_manifest(study_of(by_day))
    for row in (4, 5):
        assert f"row {row}, column last_contact_day" in str(caught.value)


def test_columns_spelt_otherwise_are_suggested(study_of, manifest_frame):
    spelt = manifest_frame.rename(columns={"sex": "Sex ", "age_years": "age"})
    assert unknown_columns(study_of(spelt)) == ["age (is age_years meant?)", "Sex  (is sex meant?)"]
    with pytest.raises(StudyError, match="column image: found no such column, but Image, which may mean it"):
        read_manifest(study_of(manifest_frame.rename(columns={"image": "Image"})))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    column=st.sampled_from(["scan_id", "patient_id", "scan_date", "image", "event_observed", "age_years"]),
    row=st.integers(0, 3),
    value=st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30),
)
def test_any_text_in_a_cell_is_read_or_refused(study_of, manifest_frame, column, row, value):
    frame = manifest_frame.copy()
    frame.loc[row, column] = value
    try:
        rows = read_manifest(study_of(frame))
    except StudyError as error:
        message = str(error)
    else:
        assert len(rows) == 4
        return
    assert "column" in message or "comma-separated" in message


DECLARED = """title: test
cohort: {n_folds: 2}
covariates:
  ever_smoked: {label: ever smoked, kind: yes_no, of: patient}
  antibody: {label: antibody, kind: category, of: patient, values: [anti_Scl-70, centromere]}
  mrss: {label: modified Rodnan skin score, kind: number, of: visit, range: [0, 51], unit: points}
"""


def with_declared(frame):
    own = {"ever_smoked": ["yes", "yes", "no", ""], "antibody": ["centromere"] * 3 + [""], "mrss": ["4", "9.5", "", ""]}
    return frame.assign(**own)


def test_declared_columns_are_read_with_their_types_and_go_to_the_cohort(study_of, manifest_frame):
    study = study_of(with_declared(manifest_frame).assign(weight="70"), DECLARED)
    assert unknown_columns(study) == ["weight"]
    cohort = build_cohort(followed(read_manifest(study)), study).set_index("scan_id")
    assert cohort["number_mrss"].tolist()[:2] == [4, 9.5]
    assert cohort["number_mrss"].isna().tolist() == [False, False, True, True]
    assert cohort["group_ever-smoked"].tolist()[:3] == ["yes", "yes", "no"]
    assert [name for name in cohort if name.startswith("group_")] == ["group_ever-smoked", "group_antibody"]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("mrss", ["4", "60", "", ""], "row 3, column mrss: found 60.0; expected a number from 0 to 51"),
        ("mrss", ["4", "many", "", ""], "row 3, column mrss: found 'many'; expected a number"),
        ("ever_smoked", ["1", "1", "no", ""], "column ever_smoked: found '1'; expected no or yes"),
        ("antibody", ["RNP"] * 4, "column antibody: found 'RNP'; expected anti_Scl-70 or centromere"),
        ("ever_smoked", ["yes", "no", "", ""], "column ever_smoked: found 'no'; expected the same in all scans"),
    ],
)
def test_a_value_that_was_not_declared_is_named(study_of, manifest_frame, name, values, said):
    study = study_of(with_declared(manifest_frame).assign(**{name: values}), DECLARED)
    with pytest.raises(StudyError, match=re.escape(said)):
        read_manifest(study)


def test_a_declared_column_must_be_there(study_of, manifest_frame):
    spelt = with_declared(manifest_frame).rename(columns={"mrss": "MRSS"})
    with pytest.raises(StudyError, match="column mrss: found no such column, but MRSS, which may mean it"):
        read_manifest(study_of(spelt, DECLARED))
