"""Lung masks of the demo cohort against its truth: a sample of all scans, and the sickest lungs of all."""

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.planted_faults import as_image
from sscct_lib.demo.make import draw_scan
from sscct_lib.demo.patients import demo_cohort
from sscct_lib.lungs.segment import examine, threshold_mask
from sscct_lib.study.settings import DemoSettings, LungSettings
from tests.lungs.test_segment import dice

SEED, SPACING_MM = 5, 3.0


def overlaps(row) -> list[float]:
    """Compare the mask of a scan with its truth: Dice of both lungs, of the right and of the left."""
    volume = draw_scan(row, SEED, SPACING_MM)
    labels = sitk.GetArrayFromImage(threshold_mask(as_image(volume.hu, SPACING_MM)))
    sides = [dice(labels == side, volume.lungs == side) for side in (1, 2)]
    return [dice(labels > 0, volume.lungs > 0), *sides]


@pytest.fixture(scope="module")
def truth():
    return demo_cohort(DemoSettings(n_patients=400), SEED)[1]


@pytest.mark.slow
def test_any_scan(truth):
    chosen = truth.groupby("patient_id").head(1).iloc[::27].to_dict("records")
    found = np.array([overlaps(row) for row in chosen])
    assert len(found) >= 12
    assert found[:, 0].mean() >= 0.97
    assert found[:, 0].min() >= 0.93
    assert found.min() >= 0.93  # each side: right and left are never exchanged


@pytest.mark.slow
def test_lungs_of_which_disease_fills_more_than_40_percent(truth):
    sick = truth[truth["disease"] > 0.4].sort_values("disease").groupby("patient_id").tail(1)
    chosen = sick.iloc[np.linspace(0, len(sick) - 1, 10).astype(int)].to_dict("records")
    found = np.array([overlaps(row) for row in chosen])
    assert found[:, 0].mean() >= 0.95
    assert found.min() >= 0.93


@pytest.mark.slow
def test_a_hilum_full_of_contrast_medium_stays_out(truth):
    chosen = (
        truth[truth["contrast"] & (truth["disease"] > 0.4)].groupby("patient_id").head(1).head(4).to_dict("records")
    )
    assert len(chosen) == 4
    for row in chosen:
        volume = draw_scan(row, SEED, SPACING_MM)
        assert (
            examine(as_image(volume.hu, SPACING_MM), None, LungSettings())["solid_core_ml"]
            < LungSettings().max_solid_core_ml
        )
