"""Each planted fault is what it says, and quality assurance finds it on a drawn chest."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import planted_faults
from benchmarks.planted_faults import MASK_FAULTS, SCAN_FAULTS, as_image
from sscct_lib.lungs.segment import examine
from sscct_lib.lungs.verdict import compare_visits
from sscct_lib.study.results import ScanError
from sscct_lib.study.settings import LungSettings
from tests.lungs.test_segment import draw_chest

SPACING_MM = 4.0
SETTINGS = LungSettings()


@pytest.fixture(scope="module")
def chest():
    drawn = draw_chest(SPACING_MM)
    return np.rint(drawn.hu).astype(np.int16), drawn.truth


def test_the_chest_itself_passes(chest):
    hu, truth = chest
    assert examine(as_image(hu, SPACING_MM), None, SETTINGS)["verdict"] == "pass"
    assert examine(as_image(hu, SPACING_MM), as_image(truth, SPACING_MM), SETTINGS)["verdict"] == "pass"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
@pytest.mark.parametrize("fault", SCAN_FAULTS)
def test_faulty_scans_are_found(chest, fault, seed):
    hu, truth = chest
    faulty = SCAN_FAULTS[fault](hu, truth, SPACING_MM, np.random.default_rng(seed))
    assert faulty.shape != hu.shape or (faulty != hu).any()
    try:
        verdict = examine(as_image(faulty, SPACING_MM), None, SETTINGS)["verdict"]
    except ScanError:
        verdict = "fail"
    assert verdict in ("review", "fail")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_faulty_masks_are_found(chest, fault, seed):
    hu, truth = chest
    mask = MASK_FAULTS[fault](hu, truth, SPACING_MM, np.random.default_rng(seed)).astype(np.uint8)
    assert (mask != truth).any()
    assert examine(as_image(hu, SPACING_MM), as_image(mask, SPACING_MM), SETTINGS)["verdict"] in ("review", "fail")


def test_another_patients_scan_is_found(chest):
    hu, _ = chest
    rng = np.random.default_rng(0)
    noisy = [np.clip(hu + rng.normal(0, 20, hu.shape), -1024, 3000).astype(np.int16) for _ in range(2)]
    own = [examine(as_image(scan, SPACING_MM), None, SETTINGS) for scan in noisy]
    other = examine(as_image(hu, 1.08 * SPACING_MM), None, SETTINGS)  # the same chest, 8 % larger
    rows = pd.DataFrame([*own, other]).assign(patient_id="a", scan_id=["a1", "a2", "a3"])
    assert compare_visits(rows[:2], SETTINGS)["verdict"].tolist() == ["pass", "pass"]
    compared = compare_visits(rows, SETTINGS)
    assert compared["verdict"].tolist() == ["pass", "pass", "review"]
    assert compared["flags"].iloc[2] == "shape_change_mm"


def test_faults_are_what_they_say(chest):
    hu, truth = chest
    rng = np.random.default_rng(3)
    n_lost = len(hu) - len(planted_faults.missing_slices(hu, truth, SPACING_MM, rng))
    assert 15 <= n_lost * SPACING_MM + 2 <= 49
    leaked = planted_faults.leaked_mask(hu, truth, SPACING_MM, rng)
    assert ((leaked > 0) >= (truth > 0)).all()
    assert (leaked[truth > 0] == truth[truth > 0]).all()
    assert set(np.unique(planted_faults.one_lung_only(hu, truth, SPACING_MM, rng))) in ({0, 1}, {0, 2})
    cut = planted_faults.cut_lungs(hu, truth, SPACING_MM, rng)
    assert cut.size < hu.size
