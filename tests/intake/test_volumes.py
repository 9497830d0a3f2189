"""Whose scan a file is, and of which day, as its path says; written down by hand for each layout."""

import os
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from sscct_lib.intake.volumes import find_volumes

LAYOUTS = {
    "ids of eight digits before the date": {
        "10023456_20190301.nii.gz": ("10023456", "2019-03-01"),
        "10023456_20200301.nii.gz": ("10023456", "2020-03-01"),
    },
    "one of the ids looks like a date": {
        "10023456_x.nii.gz": ("10023456_x", None),
        "20110512_x.nii.gz": ("20110512_x", None),
        "77777777_x.nii.gz": ("77777777_x", None),
    },
    "digits that hang on letters": {
        "pat20110512_a.nii.gz": ("pat20110512_a", None),
        "pat20130617_a.nii.gz": ("pat20130617_a", None),
    },
    "letters and eight digits, then a date": {
        "MRN10023456_2019-03-01.nii.gz": ("MRN10023456", "2019-03-01"),
        "MRN10034567_2018-05-02.nii.gz": ("MRN10034567", "2018-05-02"),
    },
    "Medical Segmentation Decathlon": {
        "Task06_Lung/imagesTr/lung_001.nii.gz": ("lung_001", None),
        "Task06_Lung/imagesTr/lung_003.nii.gz": ("lung_003", None),
        "Task06_Lung/imagesTs/lung_002.nii.gz": ("lung_002", None),
    },
    "nnU-Net": {"Dataset006_Lung/imagesTr/lung_001_0000.nii.gz": ("lung_001", None)},
    "TotalSegmentator": {"s0001/ct.nii.gz": ("s0001", None), "data/s0002/ct.nii.gz": ("s0002", None)},
    "BIDS": {
        "sub-01/ses-20190301/ct/sub-01_ses-20190301_ct.nii.gz": ("sub-01", "2019-03-01"),
        "sub-01/ses-20200301/ct/sub-01_ses-20200301_ct.nii.gz": ("sub-01", "2020-03-01"),
        "sub-002/ct/sub-002_ct.nii.gz": ("sub-002", None),
    },
    "a folder a patient": {
        "P1/2015-03-04.nii.gz": ("P1", "2015-03-04"),
        "P1/20160304_ct.nii.gz": ("P1", "2016-03-04"),
        "P2_2015-01-01.nii.gz": ("P2", "2015-01-01"),
    },
    "visits of one patient": {"P1/visit1.nii.gz": ("P1", None), "P1/visit2.nii.gz": ("P1", None)},
    "numbered scans of one patient": {
        "MRN12345/001_2019-03-01.nii.gz": ("MRN12345", "2019-03-01"),
        "MRN12345/002_2020-03-02.nii.gz": ("MRN12345", "2020-03-02"),
    },
    "files that repeat their folder": {
        "MRN12345/MRN12345_001.nii.gz": ("MRN12345", None),
        "MRN12345/MRN12345_002.nii.gz": ("MRN12345", None),
    },
    "three patients in one folder": {
        "CT/PAT1_2019-03-01.nii.gz": ("PAT1", "2019-03-01"),
        "CT/PAT2_2019-03-02.nii.gz": ("PAT2", "2019-03-02"),
    },
    "three patients in a folder with a name": {
        "Siena/0001_2019-03-01.nii.gz": ("0001", "2019-03-01"),
        "Siena/0002_2019-03-02.nii.gz": ("0002", "2019-03-02"),
    },
    "a cohort's folder above": {
        "cohortA/P1/2019-03-01.nii.gz": ("P1", "2019-03-01"),
        "cohortA/P2/2019-03-01.nii.gz": ("P2", "2019-03-01"),
    },
    "folders of days": {
        "2019-03-01/P1.nii.gz": ("P1", "2019-03-01"),
        "20190302/P2.nii.gz": ("P2", "2019-03-02"),
    },
    "a folder a visit": {
        "P1_20190301/ct.nii.gz": ("P1", "2019-03-01"),
        "P1_20200301/ct.nii.gz": ("P1", "2020-03-01"),
    },
    "a patient whose number could be a date": {
        "20110512/20190301.nii.gz": ("20110512", "2019-03-01"),
        "20130617/ct.nii.gz": ("20130617", None),
    },
    "date and time, as converters write them": {
        "P1_20190301_101500.nii.gz": ("P1", "2019-03-01"),
        "P1_2020-03-01T09-10-11.nii.gz": ("P1", "2020-03-01"),
    },
    "words that every scan has": {
        "PAT1_chest_2019-03-01.nii.gz": ("PAT1", "2019-03-01"),
        "PAT1_2020-03-01_ct.mha": ("PAT1", "2020-03-01"),
    },
    "sites are no patients": {
        "Bern_ST01_2019-03-01.nii.gz": ("Bern_ST01", "2019-03-01"),
        "Bern_ST02_2019-03-01.nii.gz": ("Bern_ST02", "2019-03-01"),
    },
}  # fmt: skip


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(files):
    found = find_volumes(Path("/source"), [Path("/source", name) for name in files])
    said = {one.visit: (one.patient, None if one.date is None else f"{one.date:%Y-%m-%d}") for one in found}
    assert said == files


def codes(*names: str) -> list[list[str]]:
    found = find_volumes(Path("/s"), [Path("/s", name) for name in names])
    return [[one.code for one in volume.told] for volume in found]


def test_what_was_not_certain_is_told():
    assert codes("imagesTr/lung_001.nii.gz") == [["patient_from_name"]]
    assert codes("a/P1/x.nii.gz", "a/P2/x.nii.gz") == [["patient_from_folder"]] * 2
    assert codes("P1_03-04-2019.nii.gz") == [["date_ambiguous"]]
    assert codes("P1_19800312_20190301.nii.gz") == [["several_dates"]]
    assert codes("pat20110512_a.nii.gz") == codes("20110512/ct.nii.gz") == [["digits_of_id"]]
    assert codes("P1_19000101.nii.gz") == codes("P1_20990101.nii.gz") == [["digits_of_id"]]
    assert codes("P1/2019-03-01.nii.gz") == [[]]
    assert codes("P1/2019-03-01.nii", "P1/2019-03-01.nii.gz", "P2/2019-03-01.nii") == [["same_day"]] * 2 + [[]]


def test_one_name_in_two_forms_of_unicode_is_one_patient():
    forms = [unicodedata.normalize(form, "Müller_1") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    found = find_volumes(Path("/s"), [Path("/s", f"{name}_{2019 + i}-03-01.nii.gz") for i, name in enumerate(forms)])
    assert {one.patient for one in found} == {"Müller_1"}


def test_a_name_that_is_no_text_has_a_patient_all_the_same():
    name = os.fsdecode(b"M\xfcller_2019-03-01.nii.gz")
    (found,) = find_volumes(Path("/s"), [Path("/s", name)])
    assert found.date == pd.Timestamp("2019-03-01")
    assert found.patient.encode() + found.visit.encode()


@pytest.mark.parametrize("letters", ["P" * 230, "P1_" * 76 + "P", "1" * 230, "-" * 115 + "a" * 115, "a1-" * 76 + "b"])
def test_long_names_are_read_at_once(letters):
    (found,) = find_volumes(Path("/s"), [Path("/s", f"{letters}_2019-03-01.nii.gz")])
    assert found.date == pd.Timestamp("2019-03-01")
    assert found.patient == letters.strip("-")
