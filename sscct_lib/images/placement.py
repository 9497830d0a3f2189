"""How a volume lies in the body: the header's own words judged, and never guessed.

A volume is placed by axes at right angles. Affines here are (3, 4): three axes in mm for a step of one voxel, and the
centre of the first voxel, in LPS.

References
----------
NIfTI-1 (https://nifti.nimh.nih.gov), section "Orientation and location in space": qform (method 2), sform (method 3).
Nearest rotation: Schönemann, Psychometrika 1966;31:1-10.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from sscct_lib.images.reasons import Told, UnusableError, told

Affine = NDArray[np.float64]

ROUNDING_DEGREES = 0.02  # of four-byte numbers: a quaternion near half a turn is this far off
MOST_SHEAR_DEGREES = 1.0
MOST_TURN_DEGREES = 0.1  # between qform and sform: 0.6 mm at the edge of a chest
MOST_SHIFT_MM = 0.5
MOST_SCALE = 1e-3
TO_LPS = np.array([[-1.0], [-1.0], [1.0]])  # from the RAS of NIfTI
LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
FORMS = ("sform", "qform")
UNIT_MM = {1: 1000.0, 3: 0.001}  # metres and micrometres; millimetres else


def check_orientation(text: str) -> str:
    """Give what a user says of an orientation as `sform`, `qform` or three letters; ValueError for anything else."""
    given = text.strip()
    if given.lower() in FORMS:
        return given.lower()
    if sorted(LETTERS.get(letter, (9, 0))[0] for letter in given.upper()) != [0, 1, 2]:
        raise ValueError(
            f"{text}: expected sform or qform, or three letters that say to which side of the patient the voxel axes "
            "run, such as LPS (left, posterior, superior) or RAS."
        )
    return given.upper()


def nifti_affines(header: Mapping[str, Any]) -> dict[str, Affine]:
    """Give the places that a NIfTI-1 header states, by `sform` and `qform`; without those whose code is 0."""
    unit = UNIT_MM.get(int(header["units"]) & 7, 1.0)
    found = {}
    if header["sform_code"] > 0:
        found["sform"] = header["sform"].astype(float) * TO_LPS * unit
    if header["qform_code"] > 0:
        b, c, d, *offset = header["qform"].astype(float)
        a = np.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
        a, b, c, d = np.array([a, b, c, d]) / np.linalg.norm([a, b, c, d])
        turn = np.array([
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ])  # fmt: skip
        sides = np.abs(header["pixdim"][1:4].astype(float)) * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
        found["qform"] = np.column_stack([turn * sides, offset]) * TO_LPS * unit
    return found


def place_of(found: Mapping[str, Affine], orientation: str | None, name: str) -> tuple[Affine, list[Told]]:
    """Choose between the places that a header says (not empty), by what the user says where they differ; straighten it.

    UnusableError where qform and sform differ and nothing was said, or the axes are far from right angles.
    """
    remarks: list[Told] = []
    if len(found) > 1 and (differs := _difference(found["qform"], found["sform"])):
        if orientation not in FORMS:
            raise UnusableError("forms_disagree", name=name, differs=differs)
        remarks.append(told("form_said", form=orientation, differs=differs))
    straight, degrees = nearest_rotation(found.get(orientation or "", next(iter(found.values()))))
    if degrees > MOST_SHEAR_DEGREES:
        raise UnusableError("sheared", name=name, degrees=degrees)
    if degrees > ROUNDING_DEGREES:
        remarks.append(told("shear_straightened", degrees=degrees))
    return straight, remarks


def placed_by_letters(letters: str, size: tuple[int, ...], sides_mm: NDArray[np.float64]) -> Affine:
    """Place a volume of unknown orientation: its voxel axes run to the sides that are said, its centre is at 0."""
    axes = np.zeros((3, 3))
    for column, letter in enumerate(letters):
        row, sign = LETTERS[letter]
        axes[row, column] = sign * sides_mm[column]
    return np.column_stack([axes, -axes @ (np.array(size) - 1) / 2])


def nearest_rotation(affine: Affine) -> tuple[Affine, float]:
    """Turn axes to the nearest ones at right angles, each of its length; also gives the largest angle, degrees."""
    sides = np.linalg.norm(affine[:, :3], axis=0)
    axes = affine[:, :3] / sides
    left, _, right = np.linalg.svd(axes)
    turned = left @ right
    # By the sine, which is exact for small angles.
    degrees = np.degrees(np.arcsin(np.clip(np.linalg.norm(np.cross(axes.T, turned.T), axis=1).max(), 0, 1)))
    return np.column_stack([turned * sides, affine[:, 3]]), float(degrees)


def set_place(image: sitk.Image, affine: Affine) -> None:
    """Give an image a place, unless it is there already but for rounding."""
    sides = np.linalg.norm(affine[:, :3], axis=0)
    directions = affine[:, :3] / sides
    is_there = (
        np.allclose(image.GetSpacing(), sides, rtol=1e-5)
        and np.allclose(image.GetOrigin(), affine[:, 3], atol=1e-2)
        and np.allclose(np.reshape(image.GetDirection(), (3, 3)), directions, atol=2e-4)
    )
    if not is_there:
        image.SetSpacing(sides.tolist())
        image.SetDirection(directions.ravel().tolist())
        image.SetOrigin(affine[:, 3].tolist())


def affine_of(image: Any) -> Affine:
    """Give the place of an image, or of the header that was read of one."""
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.column_stack([axes, image.GetOrigin()])


def sides_of(affine: Affine) -> str:
    """Name the sides to which the voxel axes run, such as LPS."""
    letters = {place: letter for letter, place in LETTERS.items()}
    rows = np.abs(affine[:, :3]).argmax(axis=0)
    return "".join(letters[int(row), int(np.sign(affine[row, column])) or 1] for column, row in enumerate(rows))


def _difference(qform: Affine, sform: Affine) -> str:
    """Say in what two places differ beyond rounding; empty where they do not."""
    (one, _), (other, _) = nearest_rotation(qform), nearest_rotation(sform)
    sides, others = (np.linalg.norm(affine[:, :3], axis=0) for affine in (one, other))
    turn = (one[:, :3] / sides).T @ (other[:, :3] / others)
    degrees = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    if (np.linalg.det(turn) < 0 or degrees > MOST_TURN_DEGREES) and sides_of(one) != sides_of(other):
        return f"by the qform the voxel axes run to {sides_of(one)}, by the sform to {sides_of(other)}"
    if np.linalg.det(turn) < 0 or degrees > MOST_TURN_DEGREES:
        return f"they are turned against each other by {degrees:.1f} degrees"
    if not np.allclose(sides, others, rtol=MOST_SCALE):
        return "their voxels have different sides"
    shift = np.linalg.norm(one[:, 3] - other[:, 3])
    return f"they lie {shift:.1f} mm apart" if shift > MOST_SHIFT_MM else ""
