import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk

from sscct_lib.demo import make
from sscct_lib.intake.ingest import ingest
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import DemoSettings, Settings


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("demo")
    made = Study(folder, Settings(demo=DemoSettings(n_patients=4, n_scans=4, spacing_mm=6.0)))
    make.write_demo(made)
    return made


@pytest.fixture(scope="module")
def hospital(study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "hospital"
    make.write_dicom_demo(study, folder)
    return folder


def test_ingest_reads_back_the_same_scans_and_clinical_values(study, hospital, tmp_path):
    ingest(hospital, hospital / "clinical.csv", tmp_path / "study")
    back = pd.read_csv(tmp_path / "study" / "data_manifest.csv")
    given = pd.read_csv(study.manifest_path)
    same = ["scan_day", "last_contact_day", "event_observed", "age_years", "fvc_percent", "manufacturer", "kernel"]
    both = given.merge(back, on=same, suffixes=("", "_back"))
    assert len(both) == len(given) == len(back) == 4
    for row in both.itertuples():
        before = sitk.ReadImage(str(study.folder / row.image))
        after = sitk.ReadImage(str(tmp_path / "study" / row.image_back))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after))
        np.testing.assert_allclose(before.GetOrigin(), after.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(before.GetSpacing(), after.GetSpacing(), atol=1e-4)
        assert before.GetDirection() == pytest.approx(after.GetDirection())


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_dciodvfy_finds_no_error(hospital):
    for path in sorted(hospital.rglob("*.dcm"))[::20]:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr, done.stderr
        assert "CTImage" in done.stderr


def test_identifiers_are_unique_and_the_same_again(study, hospital, tmp_path):
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in hospital.rglob("*.dcm")]
    assert len(set(uids)) == len(uids)
    make.write_dicom_demo(study, tmp_path / "again")
    for path in sorted(hospital.rglob("*.dcm"))[::25]:
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(hospital)).read_bytes()


def test_stopped_export_resumes(study, hospital, tmp_path):
    folder = tmp_path / "hospital"
    shutil.copytree(hospital, folder)
    series = sorted(path for path in folder.glob("*/*"))
    shutil.rmtree(series[0])
    kept = {path: path.stat().st_mtime_ns for path in series[1].iterdir()}
    make.write_dicom_demo(study, folder)
    assert len(list(folder.rglob("*.dcm"))) == len(list(hospital.rglob("*.dcm")))
    assert {path: path.stat().st_mtime_ns for path in series[1].iterdir()} == kept
    assert not list(folder.rglob(".partial-*"))


def test_missing_scans_are_named(tmp_path):
    study = Study(tmp_path, Settings(demo=DemoSettings(n_patients=1)))
    with pytest.raises(StudyError, match="the first is S001-1"):
        make.write_dicom_demo(study, tmp_path / "hospital")


def test_values_beyond_twelve_bits_are_refused(tmp_path):
    image = sitk.GetImageFromArray(np.full((3, 4, 4), 5000, dtype=np.int16))
    row = {"scan_id": "S001-1"}
    with pytest.raises(StudyError, match="5000"):
        make.write_dicom_series(image, tmp_path / "series", row)
    assert not (tmp_path / "series").exists()
