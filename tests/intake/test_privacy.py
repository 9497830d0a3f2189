"""What points to a patient is found in text, and what does not is left alone."""

import datetime
import os
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sscct_lib.intake.privacy import find, find_in_name, identifiers, is_identifying_field, plain
from sscct_lib.intake.pseudonyms import patient_code, scan_code
from sscct_lib.study.folder import fingerprint

POINTING = [
    ("scanned on 2015-03-04.", "date"),
    ("20150304_chest", "date"),
    ("StudyDate=20150304", "date"),
    ("04.03.2015", "date"),
    ("3/4/2015", "date"),
    ("4 March 2015", "date"),
    ("Mar 4, 2015", "date"),
    ("2015-03-04T10:11:12", "date"),
    ("1.2.840.113619.2.55.3.604688119.971.1268", "DICOM UID"),
    ("2.25.329800735698586629295641978511506172918", "DICOM UID"),
    ("erika.mueller@hospital.ch", "e-mail"),
    ("_19530412_", "date"),
    ("20150304123000.000", "date"),
    ("201503041230", "date"),
    ("20150304.0", "date"),
    ("04.03.15", "date"),
    ("04/03/15,", "date"),
    ("4-MAR-15", "date"),
    ("4. März 2015", "date"),
    ("4 mars 2015", "date"),
    ("1er août 2015", "date"),
    ("4 de marzo de 2015", "date"),
    ("4 marzo 2015", "date"),
    ("4 maart 2015", "date"),
    ("4 dezember 2015", "date"),
    ("March 4th, 2015", "date"),
    ("2015 March 4", "date"),
    ("2015-Mar-04", "date"),
    ("1953-04-12.nii", "date"),
    ("19530412.7z", "date"),
    ("1953_04_12", "date"),
    ("12_04_1953", "date"),
    ("12.04.1953.pdf", "date"),
    ("31JAN2020", "date"),
    ("2020JAN31", "date"),
    ("31/Jan/2020", "date"),
    ("31.Jan.2020", "date"),
    ("Jan-31-2020", "date"),
    ("Jan 31st, 2020", "date"),
    ("12th of April 1953", "date"),
    ("04MAR15", "date"),
    ("4 Mar 15", "date"),
    ("1/31/20", "date"),
    ("31.01.20", "date"),
    ("2015-3-4", "date"),
    ("2020/01/31", "date"),
    ("2020:01:31 10:11:12", "date"),
    ("20200131T1011", "date"),
    ("20150304Z", "date"),
    ("CT20150304.nii", "date"),
    ("Thu Mar  4 10:11:12 2015", "date"),
    ("1953\u201304\u201312", "date"),
    ("12.\u00a0April\u00a01953", "date"),
    ("１９５３-０４-１２", "date"),
    ("1953-\u00ad04-12", "date"),
    ("Müller^Erika", "name"),
    ("Müller^Erika_2.nii", "name"),
    ("Doe_Jane.nii.gz", "name"),
    ("DOE_JANE_CT.dcm", "name"),
    ("Müller-Lüdenscheidt,Erika/ct.nii", "name"),
    ("VAN DER BERG^ANNA", "name"),
    ("/home/erika/study/scan.nii.gz", "path"),
    (r"C:\Users\erika\study", "path"),
    ("file:///data/x.html", "path"),
    ("MRN: 4711004", "record number"),
    ("Accession Number A1234567", "record number"),
    ("123-45-6789", "record number"),
    ("756.1234.5678.97", "record number"),
]
HARMLESS = [
    "in 2015, of 2,125 scans", "seed 2026", "version 2026.3.3 of a package", "numpy 2.4.6",
    "10.1186/s13244-021-01115-1",
    "1.2.840.10008.1.2.4.70 is JPEG lossless", "x^2 + Y^T", "someone@example.org", "https://example.org/home/page",
    "version 24.10.1", "1.02.03", "10.12.2.1", "3 settings 2015", "12 scans 2015", "20150304256000",
    "20150304123000123",
    "R&D", "99.99.99", "2015-2018",
    "spacing 1.5 2.0 3.25", "2015-13-04", "31.02.2015", "20159999", "arXiv 2510.04923",
    "runs/main/tables/cohort.parquet",
    "p. 2015-2018", "AUC 0.801 (0.769-0.833)", "../shared/data", "1 / 3 / 5 years", "Schniering 2022, PMC9117734",
    "Lung_Mask.nii.gz", "Chest_Thin.dcm", "README_FIRST.pdf", "p0123456789-20150304.nii.gz", "20150304.5", "x_2015_03",
    "doi 10.1055/20150304a", "S001-1", "-1024 to 600 HU", "the 95 % interval", "12 may 20 of them", "1/3/5 years",
    "of 3 set 10", "2015-03", "ten in March 2015", "2026/13/1", "sha a1b2c320150304f", "12 scans 20",
    "patient number of the study",
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), POINTING)
def test_found_in_the_middle_of_a_text_and_masked(text, kind):
    around = plain(f"One line.\nThen, {text} (and more), 0.5.")
    (match,) = find(around)
    assert match.kind == kind
    assert around[match.start :].startswith(match.masked[:2])
    shown = match.masked.split("…")[0]
    assert len(shown) <= 2


@pytest.mark.parametrize("text", HARMLESS)
def test_left_alone(text):
    assert find(text) == []


@pytest.mark.parametrize("before", ["12 ", "12 scans ", "visit 12 ", "of 3 in ", "12.5 ", "a^B and "])
@pytest.mark.parametrize("date", ["2015-03-04", "20150304"])
def test_a_date_is_found_whatever_stands_before_it(before, date):
    text = before + date
    assert [(one.kind, one.start, one.end) for one in find(text)] == [("date", len(before), len(text))]


@given(st.binary(min_size=32, max_size=40), st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=30))
def test_study_ids_and_hashes_never_look_like_an_identifier(key, patient, visit):
    codes = [patient_code(key, patient), scan_code(key, patient, visit), fingerprint(patient)]
    assert find(" ".join(codes)) == []
    assert find(f"scans/{codes[1]}.nii.gz,{codes[0]},{codes[2]}") == []


@given(st.integers(0, 10**8 - 1))
def test_study_ids_of_digits_only_are_no_dates(number):
    assert find(f"p{number:010d}-{number:08d}") == []


@given(
    st.dates(datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)),
    st.sampled_from(["%Y%m%d", "%Y-%m-%d", "%d.%m.%Y"]),
)
def test_every_date_is_found(day, form):
    (match,) = find(f"a {day.strftime(form)} b")
    assert (match.kind, match.start) == ("date", 2)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{3,10}[A-Za-z0-9]", fullmatch=True))
def test_known_identifiers_are_found_as_whole_words_only(word):
    known = identifiers([word])
    assert any(match.kind == "known identifier" for match in find(f"({word.upper()})", known))
    assert not any(match.kind == "known identifier" for match in find(f"x{word}x", known))


def test_parts_of_a_name_and_dates_in_other_forms():
    known = identifiers(["Müller^Erika^^Dr"], [datetime.date(2015, 3, 4)])
    for text in ("Frau MÜLLER", "Müller Erika", "erika", "03/04/2015", "04.03.2015", "20150304"):
        assert [match.kind for match in find(text, known)][:1] == ["known identifier"], text
    assert find("Erikas Zimmermüller", known) == []


@pytest.mark.parametrize("between", ["_", "-", ".", " ", ", ", "^", "__", ""])
@given(
    parts=st.lists(st.from_regex(r"[A-Za-z0-9]{2,6}", fullmatch=True), min_size=2, max_size=3),
    was=st.sampled_from("_-. ^"),
)
def test_known_identifiers_are_found_whatever_separates_their_parts(between, parts, was):
    known = identifiers([was.join(parts)], fewest=3)
    assume(between or len("".join(parts)) > 4)  # a number of four digits may be a year
    assert find(f"({between.join(parts).swapcase()})", known)[0].kind == "known identifier"


@pytest.mark.parametrize("text", ["Mueller", "Muller", "MÜLLER", "Mu\u0308ller", "mueller_erika", "Erika_Mueller"])
def test_names_are_found_without_their_umlauts_and_the_other_way_round(text):
    assert find(f"scans/{text}.nii", identifiers(["Müller Erika", "Müller"]))[0].kind == "known identifier"


@pytest.mark.parametrize(
    "name", ["Doe_Jane", "Doe_Jane_19530412_2019-03-05.nii.gz", "DOE_JANE", "O'Neill_Anne", "Doe,_Jane"]
)
def test_names_of_persons_are_found_in_names_of_files(name):
    assert [match.kind for match in find_in_name(name)] == ["name"]


@pytest.mark.parametrize("name", ["01_cohort.ipynb", "Lung_Mask", "README_FIRST", "a_b", "CT_CHEST", "resnet18_0.json"])
def test_other_names_of_files_name_no_person(name):
    assert find_in_name(name) == []


def test_one_of_many_identifiers_is_found_where_it_stands():
    known = identifiers(f"K{number:07d}" for number in range(20_000))
    text = "of K0012345 and others, " + "in 2015 of 12 patients with 3 scans each. " * 2000
    assert [match.start for match in find(text, known)] == [3]


@pytest.mark.parametrize("written", ["A12-345678", "a12345678", "12345678", "345678", "A12 345678", "id_345678_ct"])
def test_an_identifier_is_found_whole_and_in_parts(written):
    known = identifiers(["A12-345678"])
    assert [one.kind for one in find(f"seen as {written}.", known)] == ["known identifier"]


@pytest.mark.parametrize("other", ["A12", "34567", "1345678", "3456789", "12"])
def test_shorter_parts_and_longer_numbers_are_not(other):
    known = identifiers(["A12-345678", "1.2.840.113619.2.55.3.604688119.971.1268"])
    assert find(f"seen as {other} and 113619.", known) == []


def test_short_identifiers_are_counted_not_searched():
    known = identifiers(["12", "4711", "P1", "4711004"])
    assert known.words == {"4711004"}
    assert known.n_short == 3


@pytest.mark.parametrize("name", ["PatientName", "birth_date", "Patient's Name", "MRN", "accession_number", "e-mail"])
def test_names_of_identifying_fields(name):
    assert is_identifying_field(name.replace("-", "_").replace("'", "_"))


@pytest.mark.parametrize("name", ["patient_id", "scan_id", "name", "scan_day", "manufacturer", "age_years"])
def test_names_of_other_fields(name):
    assert not is_identifying_field(name)


def test_paths_of_this_machine_are_found_wherever_the_project_lies(tmp_path):
    code = "from sscct_lib.intake.privacy import find; print([found.kind for found in find('/aVeryOwnPlace/of/scans')])"
    said = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "HOME": home}, capture_output=True, text=True)
        for home in (str(tmp_path), "/aVeryOwnPlace/of")
    ]
    assert [done.stdout.strip() for done in said] == ["[]", "['path']"]
