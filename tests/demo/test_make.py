import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.demo import make, patients
from sscct_lib.demo.render import WIDE_FIELD_MM
from sscct_lib.study import schemas
from sscct_lib.study.folder import Study, StudyError, load_study
from sscct_lib.study.settings import DemoSettings, Settings

ROOT = Path(__file__).parents[2]


def demo_study(folder: Path, n_patients: int = 3, spacing_mm: float = 8.0) -> Study:
    return Study(folder, Settings(demo=DemoSettings(n_patients=n_patients, n_scans=5, spacing_mm=spacing_mm)))


def digests(folder: Path) -> dict[str, str]:
    # Records also tell with which code a scan was made; a partial file is no file of the study.
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "records"]
    files = [path for path in files if not path.name.startswith(".partial-")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_committed_manifest_is_the_demo_cohort(tmp_path):
    study = load_study(ROOT)
    manifest, _ = patients.demo_cohort(study.settings.demo, study.settings.seed)
    assert manifest.to_csv(index=False, lineterminator="\n") == (ROOT / "data_manifest.csv").read_text()
    assert len(read_manifest(study)) == len(manifest)


def test_demo_cohort_is_large_enough_for_three_folds():
    manifest, _ = patients.demo_cohort(DemoSettings(), 2026)
    schemas.MANIFEST.validate(manifest)
    assert len(manifest) >= 150
    assert manifest.groupby("patient_id").size().between(1, 8).all()
    followup = (manifest.last_contact_day - manifest.scan_day) / 365.25
    for years in (1, 3, 5):
        died = manifest[(manifest.event_observed == 1) & (followup <= years)]
        assert died.patient_id.nunique() >= 6


def test_first_patients_are_the_same_in_a_larger_cohort():
    few, few_truth = patients.demo_cohort(DemoSettings(n_patients=5), 1)
    many, many_truth = patients.demo_cohort(DemoSettings(n_patients=9), 1)
    pd.testing.assert_frame_equal(few, many.iloc[: len(few)])
    pd.testing.assert_frame_equal(few_truth, many_truth.iloc[: len(few)])


def test_true_risks_rise_with_the_horizon_and_disease_never_recedes():
    _, truth = patients.demo_cohort(DemoSettings(), 2026)
    assert (truth.true_risk_1y < truth.true_risk_3y).all()
    assert (truth.true_risk_3y < truth.true_risk_5y).all()
    for name in ("disease", "fibrosis", "honeycombing", "hypertension"):
        assert truth.groupby("patient_id")[name].apply(lambda values: (values.diff().dropna() >= 0).all()).all()
    parts = truth.ground_glass + truth.reticulation + truth.honeycombing
    np.testing.assert_allclose(parts, truth.disease, atol=3e-6)


def test_files_are_the_same_for_any_number_of_workers_and_any_order(tmp_path):
    one, two = demo_study(tmp_path / "one"), demo_study(tmp_path / "two")
    make.write_tables(one)
    rows = make.write_tables(two)[0].tail(4)
    make.make_scans(one, rows)
    make.make_scans(two, rows.iloc[::-1], n_jobs=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_stopped_run_resumes_and_keeps_what_is_there(tmp_path):
    study = demo_study(tmp_path)
    make.write_demo(study)
    before = digests(tmp_path)
    scans = sorted((tmp_path / "scans").iterdir())
    kept = scans[1].stat().st_mtime_ns
    scans[0].unlink()
    (tmp_path / "truth" / "lesions" / scans[2].name).unlink()
    make.write_demo(study)
    assert digests(tmp_path) == before
    assert scans[1].stat().st_mtime_ns == kept


@pytest.mark.slow
def test_killed_run_leaves_no_half_file_and_resumes_to_the_same_bytes(tmp_path):
    settings = "demo: {n_patients: 3, n_scans: 5, spacing_mm: 6.0}\n"
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text(settings)
    make.write_demo(load_study(tmp_path / "whole"), n_jobs=2)
    code = (
        "from sscct_lib.demo.make import write_demo; from sscct_lib.study.folder import load_study; "
        f"write_demo(load_study({str(tmp_path / 'killed')!r}))"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    made = tmp_path / "killed" / "truth" / "lobes"
    while not (made.is_dir() and any(made.glob("*.nii.gz"))) and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    whole, left = digests(tmp_path / "whole"), digests(tmp_path / "killed")
    assert 0 < len(left) < len(whole)
    assert left.items() <= whole.items()
    make.write_demo(load_study(tmp_path / "killed"))
    assert digests(tmp_path / "killed") == whole


def test_narrow_field_cuts_the_sides_of_the_lungs():
    _, truth = patients.demo_cohort(DemoSettings(n_patients=1), 2026)
    row = truth.iloc[0].to_dict()
    wide = make.draw_scan(row | {"field_mm": WIDE_FIELD_MM}, 2026, 4.0)
    narrow = make.draw_scan(row | {"field_mm": 220.0}, 2026, 4.0)
    assert narrow.lungs.shape[2] == 55
    assert (narrow.lungs[:, :, [0, -1]] > 0).any()
    assert not (wide.lungs[:, :, [0, -1]] > 0).any()
    assert 0.6 < (narrow.lungs > 0).sum() / (wide.lungs > 0).sum() < 0.99


def test_scan_is_in_hounsfield_units_and_masks_nest(tmp_path):
    study = demo_study(tmp_path, n_patients=1, spacing_mm=4.0)
    make.write_demo(study)
    _, truth = patients.demo_cohort(study.settings.demo, study.settings.seed)
    row = truth.iloc[-1]
    images = {name: sitk.ReadImage(path) for name, path in make.scan_files(study, row.scan_id).items()}
    hu, lungs, lobes, lesions = (sitk.GetArrayFromImage(images[name]) for name in ("hu", "lungs", "lobes", "lesions"))
    assert images["hu"].GetSpacing() == pytest.approx((4.0, 4.0, 4.0))
    assert images["hu"].GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert hu.dtype == np.int16
    assert set(np.unique(lungs)) == {0, 1, 2}
    assert ((lobes > 0) == (lungs > 0)).all()
    assert (np.isin(lobes, (1, 2, 3)) == (lungs == 1)).all()
    assert not lesions[lungs == 0].any()
    # The patient's right is at low x in LPS.
    assert np.argwhere(lungs == 1)[:, 2].mean() < np.argwhere(lungs == 2)[:, 2].mean()
    for label, name in ((1, "ground_glass"), (2, "reticulation"), (3, "honeycombing"), (4, "emphysema")):
        assert (lesions == label).sum() / (lungs > 0).sum() == pytest.approx(row[name], abs=0.01)
    assert hu[(lungs > 0) & (lesions == 0)].mean() < hu[np.isin(lesions, (1, 2))].mean() - 150
    assert hu.max() > 150
    assert hu.min() <= -990


def test_study_of_real_scans_is_left_alone(tmp_path):
    (tmp_path / "study.yaml").write_text("title: Our registry\n")
    (tmp_path / "data_manifest.csv").write_text("scan_id\nprecious\n")
    with pytest.raises(StudyError, match="not a demo study"):
        make.write_demo(load_study(tmp_path))
    assert (tmp_path / "data_manifest.csv").read_text() == "scan_id\nprecious\n"


def test_row_of_another_cohort_is_refused(tmp_path):
    study = demo_study(tmp_path)
    with pytest.raises(StudyError, match="X9-1"):
        make.make_scans(study, pd.DataFrame({"scan_id": ["X9-1"], "patient_id": ["X9"]}))
