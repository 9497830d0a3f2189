"""Lung masks of chests in which disease is planted, against what a reader would draw; other chests than the book's."""

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.planted_disease import KINDS, dice, distance, draw
from benchmarks.planted_faults import as_image
from sscct_lib.images.masks import label_sides
from sscct_lib.lungs.segment import examine, threshold_mask
from sscct_lib.study.settings import LungSettings
from tests.lungs.test_segment import draw_chest, volume

SEED = 31


def found(kind: str, number: int, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw a chest, and find its lungs: their labels and the true ones."""
    chest = draw(kind, SEED, number, spacing_mm)
    mask = threshold_mask(as_image(chest.hu.astype(np.int16), spacing_mm))
    return sitk.GetArrayFromImage(mask), chest.truth


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind):
    labels, truth = found(kind, 0, 3.0)
    assert dice(labels > 0, truth > 0) >= 0.93
    assert distance(labels > 0, truth > 0, 3.0) <= 1.5
    both = (labels > 0) & (truth > 0)
    assert np.count_nonzero((labels != truth) & both) < 0.02 * np.count_nonzero(both)


@pytest.mark.parametrize("kind", ["consolidation of a lobe", "pneumothorax"])
def test_what_has_no_air_is_lung_and_free_air_is_none(kind):
    labels, truth = found(kind, 1, 4.0)
    assert dice(labels > 0, truth > 0) >= 0.93


def test_a_pocket_behind_a_dense_band_belongs_to_its_lung():
    labels, truth = found("pocket behind a dense band", 1, 4.0)
    assert np.count_nonzero((truth > 0) & (labels == 0)) * 0.064 < 60  # mL; it holds 30 to 150, and the band as much


def test_a_single_lung_that_reaches_over_is_one_lung():
    labels, truth = found("one lung removed", 2, 4.0)
    assert set(np.unique(labels)) == set(np.unique(truth))


def test_bowel_with_stool_under_the_diaphragm_is_no_lung():
    chest = draw_chest()
    hu = np.where(chest.parts["stomach"], -700, chest.hu)
    labels = sitk.GetArrayFromImage(threshold_mask(volume(hu, chest.spacing_mm)))
    assert not labels[chest.parts["stomach"]].any()
    assert dice(labels > 0, chest.truth > 0) > 0.97


def test_pieces_apart_go_to_their_side():
    lungs = np.zeros((9, 9, 21), dtype=bool)
    lungs[2:7, 2:7, 2:7] = lungs[2:7, 2:7, 14:19] = lungs[0, 0, 9] = lungs[0, 0, 12] = True
    seeds = [lungs & (np.arange(21) < 8), lungs & (np.arange(21) > 13)]
    labels = label_sides(lungs, seeds, 10.0)
    assert (labels[0, 0, 9], labels[0, 0, 12]) == (1, 2)
    assert (labels > 0).sum() == lungs.sum()


def test_a_verdict_names_the_cause_before_what_follows_from_it():
    chest = draw_chest()
    x = np.indices(chest.truth.shape)[2]
    mask = np.where((chest.truth == 2) & (x > 60), 0, chest.truth)
    flags = examine(chest.image, volume(mask, 4.0), LungSettings())["flags"].split()
    assert flags.index("missed_air_l") < flags.index("left_share")
