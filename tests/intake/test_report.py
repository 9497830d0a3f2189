"""What became of an export: one screen whatever it holds, and a table that Excel opens as it was written."""

import csv
import string

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscct_lib.images.reasons import reasons, told
from sscct_lib.intake.ingest import ingest
from sscct_lib.intake.report import again, summarise, write_for_excel
from tests.images.dicom_samples import hounsfield, save, series

REASONS = reasons()
CODES = sorted(REASONS)
ROW = {"patient_id": "p1", "kind": "CT", "n_files": 1, "reason": "", "codes": ""}


def report(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame([ROW | row for row in rows])


def test_like_is_counted_with_like_whatever_numbers_it_holds(tmp_path):
    rows = [
        {"patient_id": f"p{i % 640}", "status": "scan", "reason": str(told("duplicate", n=i)), "codes": "duplicate"}
        for i in range(1000)
    ]
    rows += [{"status": "not chosen", "reason": "thicker slices", "codes": "other"}] * 19
    rows += [{"status": "no scans", "reason": str(told("clinical_only")), "codes": "clinical_only"}]
    rows += [{"status": "passed over", "reason": "20,000 pictures (.jpg)", "codes": "pictures"}]
    rows += [{"status": "clinical table", "reason": "3 row(s) too far", "codes": "row_far"}]
    lines = summarise(report(*rows), tmp_path / "my study")
    assert lines == [
        "1,000 scans of 640 patients",
        "Told of scans: 1,000 series",
        "    1,000  The same image twice: One copy is read.",
        "Not chosen, since another series of the examination is better: 19 series",
        "       19  thicker slices",
        "No scans:",
        "           20,000 pictures (.jpg)",
        "In the clinical table only: 1 patient",
        "        1  A patient of the clinical table without a scan: The row is not used.",
        "Clinical table:",
        "           3 row(s) too far",
        f"One row each: {tmp_path}/my study/ingest/report.csv",
        "Next:",
        f"  sscct check '{tmp_path}/my study'",
        f"  sscct run '{tmp_path}/my study' --until 02_segmentation_qa",
        f"  sscct run '{tmp_path}/my study'",
    ]


STATUSES = ("scan", "lung mask", "not chosen", "set aside", "no scans", "clinical table", "passed over")


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "status": st.sampled_from(STATUSES),
                "reason": st.text(string.ascii_letters + " ", max_size=300),
                "kind": st.text(string.ascii_lowercase, max_size=30),
                "n_files": st.integers(1, 10**9),
            }
        ).map(lambda row: row | {"codes": "other" if row["reason"] else ""}),
        min_size=1,
        max_size=200,
    )
)
def test_it_is_one_screen_whatever_the_export_holds(tmp_path_factory, rows):
    lines = summarise(report(*rows), tmp_path_factory.getbasetemp().parent.parent)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert "\n" not in "".join(lines)
    with_reasons = {row["status"] for row in rows if row["reason"]} & {"not chosen", "set aside"}
    for status in with_reasons:
        n = sum(row["status"] == status for row in rows)
        assert any(line.startswith(status.capitalize()) and line.endswith(f": {n:,} series") for line in lines)


@given(st.lists(st.sampled_from(CODES), max_size=4, unique=True))
def test_a_record_gives_its_sentences_back_with_their_codes(codes):
    sentences = [REASONS[code].words.replace("{", "").replace("}", "") for code in codes]
    found = again("; ".join(sentences), " ".join(codes))
    if not any("; " in sentence for sentence in sentences):
        assert [(str(one), one.code) for one in found] == list(zip(sentences, codes, strict=True))
    assert " ".join(one.code for one in found) == " ".join(codes)


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_no_cell_is_a_formula_or_breaks_its_line(tmp_path_factory, cells):
    path = tmp_path_factory.getbasetemp() / "report.csv"
    write_for_excel(pd.DataFrame({"a": cells, "n": range(len(cells))}), path)
    content = path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + len(cells)  # read by Python's own reader
    for (cell, _), given_text in zip(rows[1:], cells, strict=True):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert not any(mark in cell for mark in "\n\r\t\v\f\0")
        assert [one for one in cell if one.isalnum()] == [one for one in given_text if one.isalnum()]


@pytest.mark.parametrize(
    "text", ["007", "00123456", "1E5", "3-4", "2019-03-01", "1.2.840.113", "MAR1", "1-MAR", "Sept 2", "12:30", "TRUE",
             "123456789012345678", " 5 ", "-1", "1/2"],
)  # fmt: skip
def test_what_excel_would_convert_stays_text(tmp_path, text):
    write_for_excel(pd.DataFrame({"id": [text]}), tmp_path / "a.csv")
    (cell,) = pd.read_csv(tmp_path / "a.csv", dtype=str, encoding="utf-8-sig")["id"]
    assert cell == "'" + text.strip()


@pytest.mark.parametrize("text", ["p12e4567890", "p0123456789-12345678", "Br40d", "B30f", "CT", "scan", "May I", "P-1"])
def test_other_text_and_numbers_stay_as_they_are(tmp_path, text):
    write_for_excel(pd.DataFrame({"id": [text], "n": [1.5], "m": pd.array([None], "Int64")}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"\xef\xbb\xbfid,n,m\r\n" + text.encode() + b",1.5,\r\n"


def test_the_report_in_the_study_is_that_table(tmp_path):
    source = save([*series(hounsfield()), *series(hounsfield(1), SeriesInstanceUID="1.2.99")], tmp_path / "export")
    outcome = ingest(source, None, tmp_path / "study")
    written = pd.read_csv(tmp_path / "study" / "ingest" / "report.csv")
    assert (tmp_path / "study" / "ingest" / "report.csv").read_bytes()[:3] == b"\xef\xbb\xbf"
    assert written["source"].tolist() == [1, 2]
    assert written["status"].tolist() == ["scan", "set aside"]
    assert written["codes"][0] == outcome["codes"][0] == "part_of_body cuts_lungs no_follow_up"
    assert written["n_files"].tolist() == [len(hounsfield()), 1]


@pytest.mark.parametrize(("n_scans", "words"), [(1, "Scans of <5 patients"), (6, "6 scans of 6 patients")])
def test_few_scans_are_said_as_a_sentence(tmp_path, n_scans, words):
    rows = [{"patient_id": f"p{i}", "status": "scan"} for i in range(n_scans)]
    assert summarise(report(*rows), tmp_path)[0] == words
