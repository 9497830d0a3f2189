"""Maps held against lesions: closed forms, and lesions on the grid of a cube."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from sscct_lib.deep.lesions import lesion_cube, lesion_table, score_map
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import Settings

LUNGS = np.ones((10, 10, 10), dtype=bool)
LESIONS = np.zeros_like(LUNGS)
LESIONS[:2] = True


def test_a_blind_map_attains_the_share_of_the_lesions():
    scores = score_map(np.ones(LUNGS.shape, dtype=np.float32), LESIONS, LUNGS)
    assert scores["in_lesions"] == pytest.approx(0.2)
    assert scores["expected"] == pytest.approx(0.2)


def test_a_map_of_the_lesions_finds_them_and_what_lowers_the_risk_does_not_count():
    found = np.where(LESIONS, 1.0, -5.0).astype(np.float32)
    assert score_map(found, LESIONS, LUNGS) == {"in_lesions": 1.0, "expected": pytest.approx(0.2), "hit": 1.0}
    elsewhere = score_map(-found, LESIONS, LUNGS)
    assert (elsewhere["in_lesions"], elsewhere["hit"]) == (0.0, 0.0)


def test_a_map_without_anything_that_raises_the_risk_has_no_score():
    scores = score_map(-np.ones(LUNGS.shape, dtype=np.float32), LESIONS, LUNGS)
    assert np.isnan(scores["in_lesions"])
    assert np.isnan(scores["hit"])


@pytest.fixture
def study(tmp_path) -> Study:
    """Two scans whose lungs are a box, diseased in its lower quarter."""
    made = Study(tmp_path, Settings())
    hu = np.full((40, 40, 40), 40, dtype=np.int16)
    mask, lesions = np.zeros((2, 40, 40, 40), dtype=np.uint8)
    hu[4:36, 8:32, 8:32], mask[4:36, 8:32, 8:32], lesions[4:12, 8:32, 8:32] = -800, 1, 2
    for scan_id in ("a", "b"):
        for path, array in (
            (made.image(scan_id), hu),
            (made.mask(scan_id), mask),
            (made.folder / "truth" / "lesions" / f"{scan_id}.nii.gz", lesions),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return made


def test_lesions_come_to_the_grid_of_the_cube(study):
    lesions = lesion_cube(study, "a", 16)
    assert lesions.shape == (16, 16, 16)
    assert lesions[:4].all()
    assert not lesions[4:].any()


def test_table_says_how_many_times_chance(study):
    for scan_id, raised in (("a", slice(0, 4)), ("b", slice(0, 8))):
        found = np.full((16, 16, 16), -1.0, dtype=np.float32)
        found[raised] = 1.0
        for trained, kept in ((True, found), (False, np.ones_like(found))):
            path = study.attribution("swin", scan_id, trained)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, kept)
    checked = pd.DataFrame({"model": "Swin", "network": "swin", "scan_id": ["a", "b"], "patient_id": ["p", "q"]})
    row = lesion_table(study, checked).loc["Swin"]
    # All, and half, of what raises the risk lies in a quarter of the lungs: 4 and 2 times chance.
    assert row["times chance"] == "3.0 (2.0 to 4.0)"
    assert row["untrained, times chance"] == "1.0 (1.0 to 1.0)"
    assert row["strongest voxel in a lesion"].startswith("1.00")
    assert (row["by chance"], row["scans"], row["patients"]) == ("0.25", 2, 2)
