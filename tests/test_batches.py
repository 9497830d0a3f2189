import numpy as np
import pandas as pd
import pytest
import torch

from sscct_lib import batches
from tests.deep_cubes import examples

PATIENTS = ["p"] * 6 + ["q", "r", "r"]
DIED = [1] * 6 + [0, 0, 0]


@pytest.fixture
def data(tmp_path):
    return examples(tmp_path, [0.5] * 6 + [6.0] * 3, DIED, patients=PATIENTS)


def drawn(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [row for batch in sampler for row, _ in batch]


def test_every_patient_is_seen_once_in_an_epoch(data):
    sampler = batches.OneScanEach(data, 2, 1)
    rows = [row for epoch in range(12) for row in drawn(sampler, epoch)]
    assert pd.Series(PATIENTS).iloc[rows].value_counts().to_dict() == {"p": 12, "q": 12, "r": 12}
    assert len({row for row in rows if row < 6}) > 2  # another scan of the same patient each time
    assert len(sampler) == len(list(sampler)) == 1


def test_an_epoch_is_the_same_whatever_came_before_it(data):
    sampler = batches.OneScanEach(data, 2, 1)
    epochs = [drawn(sampler, epoch) for epoch in range(5)]
    assert drawn(batches.OneScanEach(data, 2, 1), 3) == epochs[3]
    assert drawn(batches.OneScanEach(data, 2, 2), 3) != epochs[3] or epochs[3] != epochs[4]


@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_weights_are_how_often_a_scan_is_drawn(tmp_path, balance):
    patients, died = list("aabcdeefff"), [1] * 3 + [0] * 7
    data = examples(tmp_path, np.where(died, 0.5, 6), died, patients=patients)
    sampler = batches.OneScanEach(data, 2, 1, balance)
    rows = pd.Series([row for epoch in range(3000) for row in drawn(sampler, epoch)])
    often = rows.value_counts(normalize=True).sort_index().to_numpy() * len(patients)
    np.testing.assert_allclose(batches.training_weights(data, balance), often, rtol=0.12)


def test_balanced_sampling_shows_both_outcomes_as_often_and_each_patient_alike(tmp_path):
    died = [1] * 2 + [0] * 10
    data = examples(tmp_path, np.where(died, 0.5, 6), died)
    sampler = batches.OneScanEach(data, 4, 1, "sampling")
    rows = pd.Series([drawn(sampler, epoch) for epoch in range(50)])
    assert {sum(row < 2 for row in epoch) for epoch in rows} == {6}
    counts = rows.explode().value_counts()
    assert counts[[0, 1]].tolist() == [150, 150]
    assert counts[counts.index > 1].between(18, 42).all()  # 30 expected, 3.5 the standard deviation
    plain = batches.OneScanEach(data, 4, 1, "loss")
    assert sorted(drawn(plain)) == list(range(12))


def test_balanced_losses_weigh_both_outcomes_the_same_over_patients(data):
    weights = batches.Cubes(data, None, balanced=True).weights
    np.testing.assert_allclose(weights[:6], 1.5)  # one patient of three dies
    np.testing.assert_allclose(weights[6:], 0.75)
    assert (batches.Cubes(data, None).weights == 1).all()


def test_patients_set_apart_are_whole_and_of_both_kinds(tmp_path):
    died = np.repeat([1, 0], [8, 32])
    data = examples(tmp_path, np.where(died, 0.5, 6), died, patients=[f"p{i // 2}" for i in range(40)])
    rest, apart = batches.set_apart(data, 0.25, 3)
    there, here = (set(part.table["patient_id"]) for part in (rest, apart))
    assert not there & here
    assert there | here == set(data.table["patient_id"])
    assert len(apart.paths) == 2 * 5
    assert apart.died.any(axis=1).sum() == 2
    again = batches.set_apart(data, 0.25, 3)[1]
    assert set(again.table["patient_id"]) == here
    assert set(batches.set_apart(data, 0.25, 4)[1].table["patient_id"]) != here
    rest, apart = batches.set_apart(data.take(np.array([0, 39])), 0.25, 3)  # one of each kind: nobody can be spared
    assert len(rest.paths) == 2
    assert not apart.paths


def test_a_batch_holds_the_scans_that_were_drawn_changed_by_their_seeds(data):
    def change(volume, seed):
        return torch.full_like(volume, seed)

    sampler = batches.OneScanEach(data, 2, 1)
    (expected,) = list(sampler)
    (batch,) = list(batches.loader(batches.Cubes(data, change), sampler, gpu=False))
    assert [(int(row), int(volume.max())) for row, volume in zip(batch["row"], batch["volume"], strict=True)] == [
        (row, int(np.float32(seed))) for row, seed in expected
    ]
    assert batch["volume"].shape == (3, 1, 16, 16, 16)
    np.testing.assert_array_equal(batch["died"], data.died[batch["row"]])
