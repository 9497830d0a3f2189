"""A registry's table: what is used, and what is told of the rest; and clinical values on the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sscct_lib.intake.clinical import attach, read_clinical, read_values
from sscct_lib.study.folder import StudyError
from sscct_lib.study.settings import Covariate


def test_short_and_long_names_are_read():
    found = read_values("age=63, sex=female,subtype=diffuse,fvc_percent=72.5")
    assert found == {"age_years": 63.0, "sex": "female", "ssc_subtype": "diffuse", "fvc_percent": 72.5}


DECLARED = {
    "ever_smoked": Covariate(label="ever smoked", kind="yes_no", of="patient"),
    "mrss": Covariate(label="skin score", kind="number", of="visit", range=(0, 51)),
}


def test_declared_values_of_one_patient_are_read_and_named_as_in_the_cohort():
    assert read_values("mrss=12,ever_smoked=no", DECLARED) == {"number_mrss": 12.0, "group_ever-smoked": "no"}
    with pytest.raises(StudyError, match="mrss: expected a number from 0 to 51"):
        read_values("mrss=52", DECLARED)
    with pytest.raises(StudyError, match="mrss not known"):
        read_values("mrss=12")


def test_declared_values_go_to_all_scans_of_the_patient_or_to_the_nearest(table):
    header = "patient_id,scan_date,last_contact_date,event_observed,ever_smoked,mrss"
    two = scans(("0007", "2019-03-01"), ("0007", "2020-03-01"))
    lines = [f"0007,2019-03-05,{FOLLOWED},yes,10", f"0007,2020-02-01,{FOLLOWED},,12"]
    rows, told = read_clinical(table(*lines, header=header), DECLARED)
    found, more = attach(two, rows, DECLARED)
    assert found["ever_smoked"].tolist() == ["yes", "yes"]
    assert found["mrss"].tolist() == [10, 12]
    assert not told + more
    with pytest.raises(StudyError, match="column ever_smoked: expected the same in all rows of a patient"):
        read_clinical(table(lines[0], lines[1].replace(",,", ",no,"), header=header), DECLARED)
    with pytest.raises(StudyError, match="has no column mrss"):
        read_clinical(table(lines[0].rsplit(",", 1)[0], header=header.rsplit(",", 1)[0]), DECLARED)
    undeclared, told = read_clinical(table(*lines, header=header))
    assert "mrss" not in undeclared
    assert [one.code for one in told] == ["columns_unknown"]


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


HEADER = "patient_id,scan_date,last_contact_date,event_observed,fvc_percent,sex"
FOLLOWED = "2021-03-01,1"


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a table of follow-up and gives its path."""

    def write(*lines: str, header: str = HEADER) -> Path:
        path = tmp_path / "clinical.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def scans(*rows: tuple[str, str | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["patient_id", "scan_date"])
    return frame.assign(scan_date=pd.to_datetime(frame["scan_date"]), age_years=float("nan"))


def attached(path: Path, of: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    rows, told = read_clinical(path)
    found, more = attach(of, rows)
    return found, {one.code: str(one) for one in told + more}


ONE = scans(("0007", "2019-03-01"))


class TestRows:
    def test_the_nearest_row_wins_whatever_its_place_in_the_file(self, table):
        lines = [f"0007,2019-02-28,{FOLLOWED},70,female", f"0007,2019-05-20,{FOLLOWED},45,female"]
        for order in (lines, lines[::-1]):
            found, told = attached(table(*order), ONE)
            assert found["fvc_percent"].tolist() == [70]
            row = 3 if order is lines else 2
            assert told == {"row_behind": f"1 row(s) ({row}) not used: a nearer row has the values of the visit"}

    def test_each_value_comes_from_the_nearest_row_that_has_it(self, table):
        header = "patient_id,scan_date,last_contact_date,event_observed,fvc_percent,dlco_percent"
        path = table(f"0007,2019-02-28,{FOLLOWED},70,", f"0007,2019-04-20,{FOLLOWED},45,50", header=header)
        found, told = attached(path, ONE)
        assert found[["fvc_percent", "dlco_percent"]].to_numpy().tolist() == [[70, 50]]
        assert told == {}

    def test_a_row_without_a_date_fills_what_dated_rows_lack(self, table):
        header = "patient_id,scan_date,last_contact_date,event_observed,fvc_percent,dlco_percent"
        path = table(f"0007,,{FOLLOWED},70,60", f"0007,2019-05-20,{FOLLOWED},45,", header=header)
        found, _ = attached(path, ONE)
        assert found[["fvc_percent", "dlco_percent"]].to_numpy().tolist() == [[45, 60]]

    def test_rows_that_contradict_each_other_about_a_visit(self, table):
        path = table(f"0007,2019-03-01,{FOLLOWED},70,female", f"0007,2019-03-01,{FOLLOWED},45,female")
        with pytest.raises(
            StudyError, match="rows 2, 3, column fvc_percent: expected one value for one visit"
        ) as caught:
            read_clinical(path)
        assert "0007" not in str(caught.value)
        with pytest.raises(StudyError, match="rows 2, 4, column fvc_percent"):
            read_clinical(table(f"7,,{FOLLOWED},70,", f"8,,{FOLLOWED},70,", f"7,,{FOLLOWED},71,"))

    def test_the_same_row_twice_contradicts_nothing(self, table):
        found, told = attached(table(*[f"0007,2019-03-01,{FOLLOWED},70,female"] * 2), ONE)
        assert found["fvc_percent"].tolist() == [70]
        assert set(told) == {"row_behind"}

    def test_a_row_too_far_from_any_scan(self, table):
        found, told = attached(table(f"0007,2018-02-28,{FOLLOWED},70,female"), ONE)
        assert found["fvc_percent"].isna().all()
        assert found["event_observed"].tolist() == [1]
        assert told["row_far"].startswith("1 row(s) (2) are 366 days from the nearest scan")

    @pytest.mark.parametrize("written", ["7", "007", "7.0", "00-07"])
    def test_numbers_that_a_spreadsheet_changed(self, table, written):
        found, told = attached(table(f"{written},2019-03-01,{FOLLOWED},70,female"), ONE)
        assert not found["in_clinical"].any()
        assert "with other leading zeros, case, blanks" in told["id_spelt"]
        assert "0007" not in told["id_spelt"]

    def test_case_and_blanks(self, table):
        _, told = attached(table(f"mrn 4711,,{FOLLOWED},70,"), scans(("MRN4711", "2019-03-01")))
        assert set(told) == {"id_spelt"}

    def test_scans_of_one_number_written_in_two_ways(self, table):
        found, told = attached(table(f"0007,,{FOLLOWED},70,"), scans(("0007", "2019-03-01"), ("7", "2020-03-01")))
        assert found["in_clinical"].tolist() == [True, False]
        assert told["ids_alike"].startswith("1 number(s) of patients are written in several ways")

    def test_patients_without_a_scan_are_counted(self, table):
        _, told = attached(table(f"0007,,{FOLLOWED},70,", f"0009,,{FOLLOWED},70,"), ONE)
        assert told == {"row_without_scan": "1 row(s) (3) of patients without a scan"}

    def test_a_visit_of_a_patient_whose_scan_has_no_date(self, table):
        found, told = attached(table(f"0007,2019-03-01,{FOLLOWED},70,"), scans(("0007", None)))
        assert found["fvc_percent"].isna().all()
        assert set(told) == {"row_of_undated"}

    def test_one_name_in_two_forms_of_unicode_is_one_patient(self, table):
        found, told = attached(table(f"Mu\u0308ller,,{FOLLOWED},70,"), scans(("M\u00fcller", "2019-03-01")))
        assert found["fvc_percent"].tolist() == [70]
        assert told == {}


class TestColumns:
    def test_case_blanks_and_punctuation_are_nothing(self, table):
        path = table(f"0007,2019-03-01,{FOLLOWED},70,male", header=HEADER.replace("fvc", "FVC").replace("sex", "Sex "))
        found, told = attached(path, ONE)
        assert found[["fvc_percent", "sex"]].to_numpy().tolist() == [[70, "male"]]
        assert told["columns_renamed"] == "column(s) spelt in another way, taken for fvc_percent, sex"
        path = table(
            f"0007,2019-03-01,{FOLLOWED},70", header="Patient ID,Scan-Date,LastContactDate,event observed,FVC %"
        )
        _, told = attached(path, ONE)
        assert told["column_near"] == "column 5 is not used: is it fvc_percent? Then give it that name"

    @pytest.mark.parametrize(
        ("name", "meant"),
        [("fvc", "fvc_percent"), ("FVC_percnt", "fvc_percent"), ("gender", "sex"), ("ssc_subtyp", "ssc_subtype")],
    )
    def test_what_is_near_is_suggested_and_not_used(self, table, name, meant):
        header = "patient_id,last_contact_date,event_observed"
        found, told = attached(table(f"0007,{FOLLOWED},3", header=f"{header},{name}"), ONE)
        assert told == {"column_near": f"column 4 is not used: is it {meant}? Then give it that name"}
        assert meant not in found or found[meant].isna().all()

    def test_others_are_counted_by_number(self, table):
        found, told = attached(
            table(f"0007,{FOLLOWED},Meier,x", header=HEADER[:10] + HEADER[20:53] + ",Meier,note"), ONE
        )
        assert told == {"columns_unknown": "2 column(s) not used: number 4, 5"}
        assert found["event_observed"].tolist() == [1]

    def test_two_columns_that_mean_one(self, table):
        with pytest.raises(StudyError, match="two columns that mean sex"):
            read_clinical(table(f"0007,,{FOLLOWED},70,male,female", header=f"{HEADER},Sex"))


class TestTimes:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("0007,,2109-03-01,1,,", "row 2, column last_contact_date: expected a day from 1975 to today"),
            ("0007,,1900-01-01,1,,", "row 2, column last_contact_date: expected a day from 1975 to today"),
            ("0007,1900-01-01,2021-03-01,1,,", "row 2, column scan_date: expected a day from 1975 to today"),
            ("0007,,9999-12-31,1,,", "row 2, column last_contact_date: expected a date as YYYY-MM-DD"),
        ],
    )
    def test_days_that_nobody_lives(self, table, line, expected):
        with pytest.raises(StudyError, match=expected):
            read_clinical(table(line))

    def test_today_is_the_last_day(self, table, monkeypatch):
        monkeypatch.setattr("sscct_lib.study.registry.today", lambda: pd.Timestamp("2021-03-01"))
        read_clinical(table(f"0007,,{FOLLOWED},70,"))
        monkeypatch.setattr("sscct_lib.study.registry.today", lambda: pd.Timestamp("2021-02-28"))
        with pytest.raises(StudyError, match="from 1975 to today"):
            read_clinical(table(f"0007,,{FOLLOWED},70,"))

    @pytest.mark.parametrize(("year", "age", "ok"), [(1980, 30, True), (1980, 85, False), (1980, None, True)])
    def test_follow_up_within_a_life(self, table, year, age, ok):
        rows, _ = read_clinical(table("0007,,2020-03-01,0,,"))
        of = scans(("0007", f"{year}-03-01")).assign(age_years=float("nan") if age is None else float(age))
        if ok:
            attach(of, rows)
        else:
            with pytest.raises(StudyError, match=r"row\(s\) 2, column last_contact_date: lies later than any patient"):
                attach(of, rows)

    def test_sixty_years_are_the_most(self, table, monkeypatch):
        monkeypatch.setattr("sscct_lib.study.registry.today", lambda: pd.Timestamp("2050-01-01"))
        rows, _ = read_clinical(table("0007,,2040-03-01,0,,"))
        with pytest.raises(StudyError, match="at most 60 years"):
            attach(scans(("0007", "1979-03-01")), rows)


def test_the_nearest_rows_of_twenty_thousand_scans(tmp_path):
    rng = np.random.default_rng(0)
    n = 20_000
    patients = [f"P{number}" for number in rng.integers(0, n // 3, n)]
    dates = pd.Timestamp("2005-01-01") + pd.to_timedelta(rng.integers(0, 5000, n), unit="D")
    of = scans(*zip(patients, dates.astype(str), strict=True))
    moved = dates + pd.to_timedelta(rng.integers(-80, 80, n), unit="D")
    rows = pd.DataFrame(
        {"patient_id": patients, "scan_date": moved.astype(str), "fvc_percent": rng.integers(20, 120, n)}
    )
    rows = rows.drop_duplicates(["patient_id", "scan_date"]).assign(last_contact_date="", event_observed="")
    rows.to_csv(tmp_path / "clinical.csv", index=False)
    read, _ = read_clinical(tmp_path / "clinical.csv")
    found, _ = attach(of, read)
    assert found["fvc_percent"].notna().mean() > 0.9
    # By hand, for some scans: the nearest of the rows that have no nearer scan.
    for index in range(0, n, 4000):
        scan = of.loc[index]
        own = read[read["patient_id"] == scan["patient_id"]]
        others = of.loc[of["patient_id"] == scan["patient_id"], "scan_date"]
        nearest = [(others - day).abs().min() == abs(scan["scan_date"] - day) for day in own["scan_date"]]
        near = own[nearest].assign(days=lambda frame, day=scan["scan_date"]: (frame["scan_date"] - day).abs())
        near = near[near["days"] <= pd.Timedelta(days=90)]
        if len(near) and near["days"].is_unique and others.is_unique:
            assert found.loc[index, "fvc_percent"] == near.sort_values("days")["fvc_percent"].iloc[0]
