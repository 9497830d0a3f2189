import numpy as np
import pytest
import torch

from sscct_lib.augmentation import Augmentation
from sscct_lib.deep_settings import AugmentationSettings

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
