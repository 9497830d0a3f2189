"""What the viewer loads is the scan: read back with nibabel, an independent reader."""

import base64
import gzip
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from sscct_lib.book import viewer
from sscct_lib.lungs.figures import Overlay, overlay


@pytest.fixture
def study(study_of, manifest_frame, write_image):
    """Make a study with one scan: two boxes of lung in a body, and a bright ball in the right one."""
    made = study_of(manifest_frame)
    hu = np.full((60, 50, 70), 40, dtype=np.int16)
    mask = np.zeros(hu.shape, dtype=np.uint8)
    mask[10:50, 12:40, 8:30], mask[10:50, 12:40, 40:62] = 1, 2
    hu[mask > 0] = -820
    hu[28:32, 24:28, 18:22] = -150
    write_image(made.image("a1"), hu, 3.0)
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing((3.0,) * 3)
    made.mask("a1").parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(made.mask("a1")))
    return made


def content(script: str) -> dict:
    start, end = script.index("{"), script.rindex("}") + 1
    assert script[:start] == 'sscctScan("a1", '
    return json.loads(script[start:end])


def volume(encoded: str) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(encoded)))


def at(image: nibabel.Nifti1Image, place_mm: tuple[float, float, float]) -> float:
    """Read the voxel at a place given in LPS; NIfTI counts to the right and to the front."""
    x, y, z = place_mm
    index = np.rint(np.linalg.inv(image.affine) @ [-x, -y, z, 1])[:3].astype(int)
    return float(np.asarray(image.dataobj)[tuple(index)])


def test_densities_and_mask_lie_where_they_lay(study):
    case = content(viewer.case_script(study, "a1", {}))
    densities, mask = volume(case["image"]), volume(case["mask"])
    step = 1624 / 255
    for (z, y, x), hu, label in (
        ((30, 25, 12), -820, 1),
        ((30, 25, 50), -820, 2),
        ((30, 25, 20), -150, 1),
        ((12, 13, 35), 40, 0),
    ):
        place = (3.0 * x, 3.0 * y, 3.0 * z)
        assert at(densities, place) == pytest.approx(hu, abs=step / 2 + 1e-3)
        assert at(mask, place) == label
    assert densities.shape == (22 + 32 + 10, 28 + 10, 40 + 10)  # the lungs and 15 mm around them


def test_an_attribution_lies_in_the_patient(study, tmp_path):
    found = np.zeros((8, 8, 8), dtype=np.float32)
    found[2, 5, 1], found[6, 1, 7] = 3.0, -3.0
    np.save(tmp_path / "map.npy", found)
    case = content(viewer.case_script(study, "a1", {"ResNet-18": tmp_path / "map.npy"}))
    image = volume(case["attributions"]["ResNet-18"]["file"])
    # The box of the lungs: z 10 to 50, y 12 to 40, x 8 to 62, cut in 8.
    for (z, y, x), value in (((2, 5, 1), 100), ((6, 1, 7), -100), ((4, 4, 4), 0)):
        voxel = (8 + (x + 0.5) * 54 / 8 - 0.5, 12 + (y + 0.5) * 28 / 8 - 0.5, 10 + (z + 0.5) * 40 / 8 - 0.5)
        assert at(image, tuple(3.0 * i for i in voxel)) == value


def test_a_large_attribution_becomes_coarser(study, tmp_path):
    np.save(tmp_path / "map.npy", np.ones((96, 96, 96), dtype=np.float32))
    case = content(viewer.case_script(study, "a1", {"Swin": tmp_path / "map.npy"}))
    assert volume(case["attributions"]["Swin"]["file"]).shape == (48, 48, 48)


def test_a_script_is_never_larger_than_the_limit(study, monkeypatch):
    noise = np.random.default_rng(0).normal(-800, 150, (60, 50, 70)).astype(np.int16)
    image = sitk.GetImageFromArray(noise)
    image.SetSpacing((3.0,) * 3)
    sitk.WriteImage(image, str(study.image("a1")))
    whole = len(viewer.case_script(study, "a1", {}))
    monkeypatch.setattr(viewer, "LARGEST_BYTES", whole // 3)
    assert len(viewer.case_script(study, "a1", {})) <= whole // 3 + 30


def test_a_picture_shows_three_planes_with_outline_and_place(study):
    row = {"scan_id": "a1", "verdict": "review", "findings": "", "place_mm": "60 75 90"}
    drawn = viewer.picture(overlay(study, row))
    assert drawn.height == viewer.PICTURE_HEIGHT
    colours = {colour for _, colour in drawn.getcolors(maxcolors=100_000)}
    assert {viewer.OUTLINE, viewer.PLACE} <= colours


def test_a_picture_without_lungs_is_drawn_whole():
    empty = (np.zeros((20, 30), dtype=np.int16), np.zeros((20, 30), dtype=np.uint8), None)
    drawn = viewer.picture(Overlay("a1", "fail", "", {"axial": empty}))
    assert isinstance(drawn, Image.Image)
    assert drawn.width == round(30 * viewer.PICTURE_HEIGHT / 20)


def test_nothing_but_the_study_id_is_in_a_script(study):
    script = viewer.case_script(study, "a1", {})
    raw = gzip.decompress(base64.b64decode(content(script)["image"]))
    assert raw[4:32].strip(b"\0") == b""
    assert raw[148:252].strip(b"\0") == b""
