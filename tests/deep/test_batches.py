import numpy as np
import pandas as pd
import pytest
import torch

from sscct_lib.deep import batches
from sscct_lib.deep.batches import Augmentation
from sscct_lib.study.settings import AugmentationSettings
from tests.deep.deep_cubes import examples

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


HU_RANGE = (-1024.0, 600.0)
NOTHING = {
    "rotation_degrees": 0,
    "scaling": 0,
    "shift": 0,
    "kernel": False,
    "density_hu": 0,
    "noise_hu": 0,
    "cutout": 0,
}
SIDE = 24


def lungs(seed=0):
    """Two boxes of textured lung, the left one (high x) wider."""
    rng = np.random.default_rng(seed)
    volume = torch.zeros(1, SIDE, SIDE, SIDE)
    for x in (slice(4, 9), slice(12, 21)):
        shape = volume[:, 5:19, 6:18, x].shape
        volume[:, 5:19, 6:18, x] = torch.from_numpy(0.3 + 0.05 * rng.standard_normal(shape)).float().clamp(0.01, 0.9)
    return volume


def with_only(**changed):
    return Augmentation(AugmentationSettings(**{"probability": 1, **NOTHING, **changed}), SIDE, HU_RANGE)


def test_all_changes_together_stay_in_range_and_are_the_seeds():
    change = Augmentation(AugmentationSettings(probability=1), SIDE, HU_RANGE)
    volume = lungs()
    made = [change(volume, seed) for seed in range(12)]
    for one in made:
        assert type(one) is torch.Tensor
        assert one.shape == volume.shape
        assert one.min() == 0
        assert one.max() <= 1
        assert 0.3 < (one > 0).sum() / (volume > 0).sum() < 1.4
    assert not torch.equal(made[0], made[1])
    torch.testing.assert_close(change(volume, 3), made[3], rtol=0, atol=0)
    torch.testing.assert_close(volume, lungs(), rtol=0, atol=0)  # the scan itself is left alone


def test_without_any_change_a_scan_is_what_it_was():
    volume = lungs()
    torch.testing.assert_close(with_only()(volume, 1), volume, rtol=0, atol=1e-6)
    never = Augmentation(AugmentationSettings(probability=0), SIDE, HU_RANGE)
    torch.testing.assert_close(never(volume, 1), volume, rtol=0, atol=0)


@pytest.mark.parametrize("changed", [{"kernel": True}, {"density_hu": 50}, {"noise_hu": 50}])
def test_changes_of_density_leave_the_background_at_the_lower_bound(changed):
    volume = lungs()
    made = with_only(**changed)(volume, 2)
    assert (made[volume == 0] == 0).all()
    assert not torch.equal(made, volume)


def test_density_and_noise_change_by_as_many_hu_as_the_settings_say():
    volume = lungs()
    inside = volume > 0
    moved = [((with_only(density_hu=30)(volume, s) - volume)[inside] * 1624) for s in range(40)]  # HU
    shifts = np.array([m.mean().item() for m in moved])
    assert max(m.std().item() for m in moved) < 0.1
    assert 20 < np.abs(shifts).max() <= 30.01
    assert abs(shifts.mean()) < 10
    noise = torch.cat([(with_only(noise_hu=20)(volume, s) - volume)[inside] * 1624 for s in range(10)])
    assert 8 < noise.std() < 21  # MONAI draws the deviation up to the one given


def test_kernels_blur_and_sharpen_without_darkening_the_border():
    volume = lungs()
    inside = volume > 0
    spreads = []
    for seed in range(20):
        made = with_only(kernel=True)(volume, seed)
        spreads.append(made[inside].std() / volume[inside].std())
        assert made[inside].mean().item() == pytest.approx(volume[inside].mean().item(), rel=0.03)
    assert min(spreads) < 0.9
    assert max(spreads) > 1.1


def test_displacement_moves_no_farther_than_the_setting():
    volume = lungs()

    def centre(v):
        return torch.stack([axis.float().mean() for axis in torch.where(v[0] > 0.05)])

    moves = torch.stack([centre(with_only(shift=0.1)(volume, s)) - centre(volume) for s in range(30)])
    assert 1 < moves.abs().max() <= 0.1 * SIDE + 0.6


def test_a_box_is_cut_out_and_holds_background():
    volume = torch.full((1, SIDE, SIDE, SIDE), 0.3)
    made = with_only(cutout=0.25)(volume, 5)
    assert (made == 0).sum() == 6**3
    assert (made[made > 0] == 0.3).all()


def test_left_and_right_are_never_exchanged_unless_asked_for():
    volume = lungs()

    def left_is_wider(v):
        return (v[..., SIDE // 2 :] > 0).sum() > (v[..., : SIDE // 2] > 0).sum()

    plain, flipping = with_only(), with_only(flip_left_right=True)
    assert all(left_is_wider(plain(volume, s)) for s in range(20))
    assert 4 <= sum(bool(left_is_wider(flipping(volume, s))) for s in range(20)) <= 16
    assert not AugmentationSettings().flip_left_right
