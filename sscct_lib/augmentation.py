"""Augmentation: small changes at random that leave the disease what it is, for training scans alone."""

from typing import Any

import torch
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms.compose import Compose, OneOf
from monai.transforms.intensity.array import (
    RandCoarseDropout,
    RandGaussianNoise,
    RandGaussianSharpen,
    RandGaussianSmooth,
    RandShiftIntensity,
)
from monai.transforms.spatial.array import RandAffine, RandFlip
from torch import Tensor

from sscct_lib.deep_settings import AugmentationSettings

BLUR = (0.25, 0.75)  # standard deviation, voxels: from hardly any to a soft kernel
SHARPEN = (0.3, 1.0)  # strength of an unsharp mask, towards a lung kernel
FINE, COARSE = 0.3, 0.75  # standard deviations of that mask's two Gaussians, voxels
LEAST_LUNG = 0.01  # a displaced voxel with less is mostly background


class Augmentation:
    """Displace, turn and scale a volume a little, change kernel, density and noise, and cut out a box.

    Parameters
    ----------
    settings
        How much of each; 0 leaves one out.
    side
        Side of the volumes, voxels.
    hu_range
        Densities of 0 and 1, HU, for changes that are told in HU.

    References
    ----------
    MONAI's transforms (Cardoso MJ et al., arXiv 2211.02701). Cutout: DeVries T, Taylor GW, arXiv 1708.04552.
    """

    def __init__(self, settings: AugmentationSettings, side: int, hu_range: tuple[float, float]) -> None:
        window = hu_range[1] - hu_range[0]
        chance = settings.probability
        turn = settings.rotation_degrees * torch.pi / 180
        affine = RandAffine(
            prob=chance,
            rotate_range=(turn,) * 3,
            scale_range=(settings.scaling,) * 3,
            translate_range=(settings.shift * side,) * 3,
            padding_mode="zeros",
            spatial_size=(side,) * 3,
            cache_grid=True,
        )
        blur = RandGaussianSmooth(sigma_x=BLUR, sigma_y=BLUR, sigma_z=BLUR, prob=1)
        fine: dict[str, Any] = {f"sigma1_{axis}": (FINE, FINE) for axis in "xyz"}
        coarse: dict[str, Any] = {f"sigma2_{axis}": (COARSE, COARSE) for axis in "xyz"}
        sharpen = RandGaussianSharpen(**fine, **coarse, alpha=SHARPEN, prob=1)
        self._kernel_chance = chance * settings.kernel
        moves = settings.rotation_degrees or settings.scaling or settings.shift
        flip = RandFlip(prob=0.5 * settings.flip_left_right, spatial_axis=2)
        self._place = Compose([flip, affine] if moves else [flip])
        self._kernel = OneOf([blur, sharpen])
        self._density = Compose(
            [
                RandShiftIntensity(settings.density_hu / window, prob=chance),
                RandGaussianNoise(std=settings.noise_hu / window, prob=chance),
            ]
        )
        box = max(1, round(settings.cutout * side))
        self._cut = RandCoarseDropout(1, box, fill_value=0, prob=chance if settings.cutout else 0)

    def __call__(self, volume: Tensor, seed: int) -> Tensor:
        """Change a volume; the same seed gives the same change.

        Parameters
        ----------
        volume
            0 to 1, shape (1, S, S, S), [z, y, x], 0 outside the lungs.
        seed
            Of the change.

        Returns
        -------
        torch.Tensor
            The same shape and range; what lies outside the displaced lungs stays 0.
        """
        tracked = get_track_meta()
        set_track_meta(False)  # plain tensors, at half the time
        try:
            return self._changed(volume, seed)
        finally:
            set_track_meta(tracked)

    def _changed(self, volume: Tensor, seed: int) -> Tensor:
        for number, part in enumerate((self._place, self._kernel, self._density, self._cut)):
            part.set_random_state(seed + number)
        placed: Any = self._place(volume)
        inside = ~(placed < LEAST_LUNG)  # also what is not a number, for training to report
        changed = placed
        if inside.any() and self._kernel.R.random_sample() < self._kernel_chance:
            # Outside, average lung: a kernel would mix the border of the lungs with the emptiness around them.
            changed = self._kernel(torch.where(inside, placed, placed[inside].mean()))
        changed = torch.where(inside, self._density(changed), 0).clamp(0, 1)
        cut: Any = self._cut(changed)
        return torch.as_tensor(cut).contiguous()
