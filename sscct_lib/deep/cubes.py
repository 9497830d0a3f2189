"""What a network sees of a scan: the lungs alone, cropped, scaled to 0..1 and resized to a cube.

Each axis is scaled on its own, so that the lungs fill the cube; `hu_range` becomes 0 to 1, and outside the lungs is 0.
"""

import hashlib
import logging
from collections.abc import Mapping
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.images.masks import bounding_box
from sscct_lib.images.prepare import to_cube
from sscct_lib.lungs.segment import load_lungs
from sscct_lib.study.files import atomic
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.results import Record, process

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

HEIGHTS = ("lower", "middle", "upper")  # z grows to the head
SIDES = ("right", "left")  # x grows to the patient's left


class View(NamedTuple):
    """How a network takes scans."""

    size: int  # voxels along a side of a cube
    hu_range: tuple[float, float]  # densities that become 0 and 1


def view_of(study: Study, network_name: str) -> View:
    """How a network of a study takes scans."""
    return View(study.settings.deep.network(network_name).size, study.settings.deep.hu_range)


def lung_cube(image: NDArray[np.int16], mask: NDArray[np.uint8], view: View) -> NDArray[np.float16]:
    """Cut the lungs out of a scan (HU, [z, y, x]) by their mask, and bring them to a cube, shape (size, size, size)."""
    box = bounding_box(mask > 0)
    low, high = view.hu_range
    scaled = np.clip((image[box].astype(np.float32) - low) / (high - low), 0, 1)
    return to_cube(np.where(mask[box] > 0, scaled, np.float32(0)), view.size).astype(np.float16)


def cube_path(study: Study, scan_id: str, view: View) -> Path:
    """Where the cube of a scan lies: an array file, float16, shape (size, size, size)."""
    return study.run / "tensors" / _folder(view) / f"{scan_id}.npy"


def _folder(view: View) -> str:
    return f"{view.size}_{view.hu_range[0]:g}_{view.hu_range[1]:g}"


def make_cubes(study: Study, scans: pd.DataFrame, view: View, n_jobs: int = 1) -> pd.DataFrame:
    """Make the cubes of scans, once: `scan_id`, `patient_id`, `status`, `reason`, `cube_sha256`, one row per scan."""
    return process(
        study,
        "tensors",
        partial(_make_cube, view=view),
        scans[["scan_id", "patient_id"]],
        list(view),
        lambda row: [study.image(row["scan_id"]), study.mask(row["scan_id"])],
        n_jobs,
        study.run / "records" / "tensors" / _folder(view),
        outputs=lambda row: [cube_path(study, row["scan_id"], view)],
    )


def with_cubes(study: Study, scans: pd.DataFrame, view: View, n_jobs: int = 1, told_as: str = "") -> pd.DataFrame:
    """Keep the scans whose cubes can be made, numbered anew, with `cube`, the file, and `cube_sha256`.

    Where it is said for which network, the log names the others.
    """
    made = make_cubes(study, scans, view, n_jobs)
    for row in made[made["status"] != "ok"].itertuples():
        if told_as:
            log.warning("%s: scan %s has no prediction: %s", told_as, row.scan_id, row.reason)
    paths = made["scan_id"].map(lambda scan_id: cube_path(study, scan_id, view))
    found = scans.assign(cube=paths.to_numpy(), cube_sha256=made.reindex(columns=["cube_sha256"]).to_numpy()[:, 0])
    return found[made["status"].eq("ok").to_numpy()].reset_index(drop=True)


def _make_cube(study: Study, row: Mapping[str, Any], view: View) -> Record:
    image, mask = load_lungs(study, row["scan_id"])
    cube = lung_cube(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(mask), view)
    with atomic(cube_path(study, row["scan_id"], view)) as unfinished, unfinished.open("wb") as file:
        np.save(file, cube)
    return {"cube_sha256": hashlib.sha256(cube.tobytes()).hexdigest()}


def load_cubes(paths: list[Path]) -> "torch.Tensor":
    """Read cubes of one size as a batch, float32, shape (B, 1, size, size, size)."""
    import torch

    return torch.from_numpy(np.stack([np.load(path) for path in paths])).float().unsqueeze(1)


def lung_density(paths: list[Path]) -> tuple[float, float]:
    """Mean and standard deviation of the density (0 to 1) inside the lungs; StudyError where the window shows none."""
    sums = np.zeros(3)  # of 1, of density, of its square
    for path in paths:
        cube = np.load(path)
        inside = cube[cube > 0].astype(np.float64)
        sums += [len(inside), inside.sum(), (inside**2).sum()]
    mean = sums[1] / max(sums[0], 1)
    variance = sums[2] / max(sums[0], 1) - mean**2
    if variance <= 0:
        raise StudyError(
            f"study.yaml, deep.hu_range: the lungs of all {len(paths)} training scans are of one density in this "
            "window. Widen it: lungs have about -1000 to -200 HU."
        )
    return float(mean), float(np.sqrt(variance))


def zone_densities(volumes: "torch.Tensor") -> "torch.Tensor":
    """Mean and SD of the density in six zones of lungs (B, 1, S, S, S), shape (B, 12); 0 in a zone without lung."""
    import torch

    measured = []
    for place in zones(volumes.shape[-1]).values():
        zone = volumes[:, 0][(slice(None), *place)].flatten(1)
        inside = zone > 0
        n = inside.sum(dim=1).clamp(min=1)
        mean = zone.sum(dim=1) / n
        squares = ((zone - mean[:, None]) ** 2 * inside).sum(dim=1) / n
        measured += [mean, squares.sqrt()]
    return torch.stack(measured, dim=1)


def zones(side: int) -> dict[tuple[str, str], tuple[slice, slice, slice]]:
    """Where each zone of the lungs lies in a cube: thirds from base to apex, of the right and of the left half."""
    thirds = [slice(low, high) for low, high in pairwise((0, side // 3, 2 * side // 3, side))]
    halves = [slice(0, side // 2), slice(side // 2, side)]
    heights, sides = zip(HEIGHTS, thirds, strict=True), zip(SIDES, halves, strict=True)
    both = product(heights, sides)
    return {(height, name): (third, slice(None), half) for (height, third), (name, half) in both}
