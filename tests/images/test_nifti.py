"""How a volume lies: read as nibabel reads it, or refused; and formats whose voxels lie beside their header."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sscct_lib.images import prepare
from sscct_lib.images.nifti import check_orientation, is_volume, read_placed, read_volume
from sscct_lib.images.reasons import UnusableError
from sscct_lib.study.folder import Study
from sscct_lib.study.results import ScanError
from sscct_lib.study.settings import Settings

SIZE, SIDES = (10, 11, 12), (1.5, 1.25, 2.0)
VALUES = np.random.default_rng(0).integers(-1000, 500, SIZE).astype(np.int16)
UPRIGHT = nibabel.affines.from_matvec(np.diag(SIDES), (-30, 12, 400))
OBLIQUE = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag(SIDES), (5, 6, 7))
MIRRORED = np.diag([-1, 1, 1, 1]) @ UPRIGHT
HALF_TURN = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(z=np.pi - 1e-4) @ np.diag(SIDES), (5, 6, 7))


def written(path: Path, sform=UPRIGHT, sform_code=1, qform=None, qform_code=1, kind=nibabel.Nifti1Image) -> Path:
    """Write a volume with both forms, each with its code."""
    image = kind(VALUES, sform)
    image.set_sform(sform, sform_code)
    image.set_qform(sform if qform is None else qform, qform_code)
    nibabel.save(image, path)
    return path


def coded(path: Path, qform_code: int, sform_code: int) -> Path:
    """Change the codes of a NIfTI file, and nothing else."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, qform_code, sform_code)
    path.write_bytes(content)
    return path


def affine(image: sitk.Image) -> np.ndarray:
    """Give the place of an image as nibabel writes it, in RAS."""
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.diag([-1, -1, 1, 1]) @ nibabel.affines.from_matvec(axes, image.GetOrigin())


def values_at(image: sitk.Image) -> np.ndarray:
    """Look an image's values up where the voxels of `VALUES` lie by its own place."""
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def refused(path: Path, orientation: str | None = None) -> str:
    with pytest.raises(UnusableError) as caught:
        read_placed(path, "it", orientation, pairs=True)
    return caught.value.code


class TestPlace:
    @pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (1, 2), (1, 4), (2, 3)])
    @pytest.mark.parametrize("place", [UPRIGHT, OBLIQUE, MIRRORED, HALF_TURN])
    def test_what_agrees_is_read_as_nibabel_reads_it(self, tmp_path, place, codes):
        path = written(tmp_path / "a.nii", place, codes[1], None, codes[0])
        image, told = read_placed(path, "it")
        np.testing.assert_allclose(affine(image), nibabel.load(path).affine, atol=2e-3)
        assert (values_at(image) == VALUES).all()
        assert told == []

    @pytest.mark.parametrize("codes", [(1, 1), (1, 2), (1, 4), (2, 1)])
    @pytest.mark.parametrize(
        "other", [MIRRORED, OBLIQUE, HALF_TURN, UPRIGHT + np.eye(4, k=3) * 3, UPRIGHT @ np.diag([1.01, 1, 1, 1])]
    )
    def test_qform_against_sform_is_refused_until_it_is_said(self, tmp_path, other, codes):
        path = written(tmp_path / "a.nii", other, codes[1], UPRIGHT, codes[0])
        assert refused(path) == refused(path, "LPS") == "forms_disagree"
        for form, expected in (("qform", UPRIGHT), ("sform", other)):
            image, told = read_placed(path, "it", form)
            np.testing.assert_allclose(affine(image), expected, atol=2e-3)
            assert [one.code for one in told] == ["form_said"]

    def test_the_message_says_to_which_side_each_goes(self, tmp_path):
        path = written(tmp_path / "a.nii", MIRRORED, 1, UPRIGHT, 1)
        with pytest.raises(ScanError, match=r"by the qform the voxel axes run to RAS, by the sform to LAS"):
            prepare.read_scan(path)

    def test_no_orientation_is_never_guessed(self, tmp_path):
        path = coded(written(tmp_path / "a.nii"), 0, 0)
        assert refused(path) == refused(path, "sform") == "no_orientation"
        with pytest.raises(ScanError, match=r"a\.nii does not say how the body lies in it.*--orientation"):
            prepare.read_scan(path)

    @pytest.mark.parametrize("letters", ["LPS", "RAS", "PIR", "SLA"])
    def test_an_orientation_that_is_said_is_that_of_nibabel(self, tmp_path, letters):
        image, told = read_placed(coded(written(tmp_path / "a.nii"), 0, 0), "it", letters)
        assert "".join(nibabel.aff2axcodes(affine(image))) == letters
        assert image.GetSpacing() == pytest.approx(SIDES)
        assert told[0].code == "orientation_said"
        assert letters in told[0]

    def test_an_orientation_that_is_said_changes_no_file_that_says_its_own(self, tmp_path):
        image, told = read_placed(written(tmp_path / "a.nii", OBLIQUE), "it", "RAS")
        np.testing.assert_allclose(affine(image), OBLIQUE, atol=1e-3)
        assert told == []

    @pytest.mark.parametrize("side", [np.nan, np.inf, 0.0, 1e38])
    @pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 0)])
    def test_sides_that_are_no_numbers(self, tmp_path, side, codes):
        path = coded(written(tmp_path / "a.nii"), *codes)
        content = bytearray(path.read_bytes())
        struct.pack_into("<f", content, 80, side)
        path.write_bytes(content)
        assert refused(path, "LPS") in ("nowhere", "voxel_sides", "damaged", "forms_disagree")

    @pytest.mark.parametrize("text", ["LPP", "LP", "LPSS", "XYZ", "LRS", "", "both"])
    def test_what_is_no_orientation(self, text):
        with pytest.raises(ValueError, match="expected sform or qform, or three letters"):
            check_orientation(text)
        assert check_orientation("lps") == "LPS"
        assert check_orientation("SFORM") == "sform"


class TestShear:
    def sheared(self, path: Path, degrees: float, codes=(0, 1)) -> Path:
        place = UPRIGHT.copy()
        place[:3, 1] = SIDES[1] * np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees)), 0])
        return written(path, place, codes[1], UPRIGHT, codes[0])

    @pytest.mark.parametrize("degrees", [0.1, 0.5, 1.5])
    def test_a_little_is_straightened_and_told(self, tmp_path, degrees):
        path = self.sheared(tmp_path / "a.nii", degrees)
        image, told = read_placed(path, "it")
        axes = np.reshape(image.GetDirection(), (3, 3))
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-6)
        # The nearest rotation shares the angle between the two axes.
        expected = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(z=-np.radians(degrees / 2)))
        np.testing.assert_allclose(affine(image)[:3, :3] / SIDES, expected[:3, :3], atol=1e-5)
        assert image.GetSpacing() == pytest.approx(SIDES, rel=1e-5)
        assert [one.code for one in told] == ["shear_straightened"]

    def test_the_table_of_images_says_what_was_straightened(self, tmp_path):
        self.sheared(tmp_path / "a.nii", 0.5)
        written(tmp_path / "b.nii")
        names = ["a", "b"]
        rows = pd.DataFrame({"scan_id": names, "patient_id": names, "image": ["a.nii", "b.nii"], "sha256": None})
        table = prepare.prepare_scans(Study(tmp_path, Settings()), rows)
        assert table["status"].tolist() == ["ok", "ok"]
        assert table["notes"][0].startswith("axes 0.25 degrees off right angles")
        assert pd.isna(table["notes"][1])

    def test_rounding_is_no_shear(self, tmp_path):
        image, told = read_placed(written(tmp_path / "a.nii", np.round(OBLIQUE, 4), 1, None, 0), "it")
        np.testing.assert_allclose(affine(image), OBLIQUE, atol=1e-3)
        assert told == []

    @pytest.mark.parametrize("degrees", [3, 15, 40])
    def test_a_tilted_gantry_kept_as_shear_is_refused(self, tmp_path, degrees):
        path = self.sheared(tmp_path / "a.nii", degrees)
        assert refused(path) == "sheared"
        assert refused(self.sheared(path, degrees, (1, 1))) in ("sheared", "forms_disagree")
        image, _ = read_placed(path, "it", "qform")
        np.testing.assert_allclose(affine(image), UPRIGHT, atol=1e-3)

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.tuples(*[st.sampled_from([-1, 1])] * 3))
    def test_any_rotation_with_any_mirror_is_read_as_nibabel_does(self, tmp_path, angles, signs):
        turn = nibabel.eulerangles.euler2mat(*angles) @ np.diag(np.array(SIDES) * signs)
        path = written(tmp_path / "any.nii", nibabel.affines.from_matvec(turn, (5, 6, 7)))
        np.testing.assert_allclose(affine(read_volume(path)), nibabel.load(path).affine, atol=5e-3)


class TestFormats:
    def image(self) -> sitk.Image:
        image = sitk.GetImageFromArray(VALUES.transpose(2, 1, 0))
        image.SetSpacing(SIDES)
        image.SetOrigin((30, -12, 400))
        return image

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nhdr", "a.hdr", "a.nrrd", "a.nii", "a.nii.gz"])
    @pytest.mark.parametrize("upper", [False, True])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("orientation", ["LPS", "RAS", "SPL"])
    def test_each_is_read_to_the_voxel(self, tmp_path, name, upper, compressed, orientation):
        truth = sitk.DICOMOrient(self.image(), orientation)
        sitk.WriteImage(truth, str(tmp_path / name), useCompression=compressed)
        if upper:
            head, _, end = name.partition(".")
            (tmp_path / name).rename(tmp_path / f"{head}.{end.upper()}")
            name = f"{head}.{end.upper()}"
        image, told = prepare.read_source(tmp_path / name)
        assert (sitk.GetArrayFromImage(image) == sitk.GetArrayFromImage(self.image())).all()
        assert image.GetOrigin() == pytest.approx((30, -12, 400), abs=1e-3)
        assert image.GetSpacing() == pytest.approx(SIDES, rel=1e-5)
        assert told == []

    @pytest.mark.parametrize(
        ("space", "signs"),
        [
            ("left-posterior-superior", (1, 1, 1)), ("LPS", (1, 1, 1)), ("right-anterior-superior", (-1, -1, 1)),
            ("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1)), ("LAS", (1, -1, 1)),
        ],
    )  # fmt: skip
    def test_spaces_of_nrrd(self, tmp_path, space, signs):
        head = f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 10 11 12\nencoding: raw\nendian: little\n"
        place = "space directions: (1.5,0,0) (0,1.25,0) (0,0,2)\nspace origin: (30,-12,400)\n\n"
        (tmp_path / "a.nrrd").write_bytes((head + place).encode() + VALUES.transpose(2, 1, 0).tobytes())
        image = read_volume(tmp_path / "a.nrrd")
        assert image.GetOrigin() == pytest.approx(np.array((30, -12, 400)) * signs)
        assert np.diag(np.reshape(image.GetDirection(), (3, 3))) == pytest.approx(signs)

    @pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "right-up"])
    def test_spaces_of_nrrd_that_are_no_patients(self, tmp_path, space):
        head = f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 10 11 12\nencoding: raw\nendian: little\n"
        place = "space directions: (1.5,0,0) (0,1.25,0) (0,0,2)\nspace origin: (30,-12,400)\n\n"
        (tmp_path / "a.nrrd").write_bytes((head + place).encode() + VALUES.transpose(2, 1, 0).tobytes())
        assert refused(tmp_path / "a.nrrd") in ("no_orientation", "damaged")

    @pytest.mark.parametrize("name", ["a.mhd", "a.nhdr", "a.hdr"])
    def test_voxels_beside_a_header_are_for_ingest_alone(self, tmp_path, name):
        sitk.WriteImage(self.image(), str(tmp_path / name))
        with pytest.raises(ScanError, match="expected a name that ends in"):
            prepare.read_scan(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.mhd", "a.nhdr", "a.hdr"])
    def test_a_header_without_its_voxels(self, tmp_path, name):
        sitk.WriteImage(self.image(), str(tmp_path / name))
        next(path for path in tmp_path.iterdir() if path.name != name).unlink()
        assert refused(tmp_path / name) == "no_voxels"

    @pytest.mark.parametrize("name", ["a.mhd", "a.nhdr", "a.mha", "a.nrrd"])
    @pytest.mark.parametrize("named", ["/etc/passwd", "../a.raw", "b.raw", "LIST", "%03d.raw 1 9 1", "./a.raw"])
    def test_a_header_that_names_another_file(self, tmp_path, name, named):
        sitk.WriteImage(self.image(), str(tmp_path / name))
        (tmp_path / "a.raw").write_bytes(bytes(VALUES.nbytes))
        (tmp_path / "b.raw").write_bytes(bytes(VALUES.nbytes))
        content, line = (tmp_path / name).read_bytes(), f"data file: {named}".encode()
        if name == "a.nrrd":
            content = content.replace(b"\n\n", b"\n" + line + b"\n\n", 1)
        for own in (b"ElementDataFile = a.raw", b"ElementDataFile = LOCAL"):
            content = content.replace(own, f"ElementDataFile = {named}".encode())
        content = content.replace(b"data file: a.raw", line)
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name) == "other_file"

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
    def test_headers_in_text_that_say_nothing_of_the_place(self, tmp_path, name):
        sitk.WriteImage(self.image(), str(tmp_path / name))
        content = (tmp_path / name).read_bytes()
        head, sep, rest = content.partition(b"\n\n") if b"NRRD" in content else (content, b"", b"")
        lines = [line for line in head.split(b"\n") if not line.startswith((b"TransformMatrix", b"space"))]
        if b"NRRD" in content:
            lines.insert(lines.index(b"sizes: 10 11 12") + 1, b"spacings: 1.5 1.25 2")
        (tmp_path / name).write_bytes(b"\n".join(lines) + sep + rest)
        assert refused(tmp_path / name) == "no_orientation"
        image, told = read_placed(tmp_path / name, "it", "LPS", pairs=True)
        assert (sitk.GetArrayFromImage(image) == VALUES.transpose(2, 1, 0)).all()
        assert image.GetSpacing() == pytest.approx(SIDES)
        assert told[0].code == "orientation_said"

    def test_analyze_knows_no_orientation(self, tmp_path):
        nibabel.save(nibabel.AnalyzeImage(VALUES, UPRIGHT), tmp_path / "a.hdr")
        assert refused(tmp_path / "a.hdr") == "no_orientation"
        image, _ = read_placed(tmp_path / "a.hdr", "it", "LAS", pairs=True)
        assert (values_at(image) == VALUES).all()
        assert "".join(nibabel.aff2axcodes(affine(image))) == "LAS"
        assert image.GetSpacing() == pytest.approx(SIDES)

    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
    def test_voxels_that_are_missing_are_no_zeros(self, tmp_path, name, compressed):
        sitk.WriteImage(self.image(), str(tmp_path / name), useCompression=compressed)
        path = max(tmp_path.iterdir(), key=lambda one: one.stat().st_size)
        path.write_bytes(path.read_bytes()[:-200])
        assert refused(tmp_path / name) in ("truncated", "truncated_or_damaged", "damaged")

    def test_a_nifti_whose_voxels_lie_elsewhere(self, tmp_path):
        content = bytearray(written(tmp_path / "a.nii").read_bytes())
        content[344:347] = b"ni1"
        (tmp_path / "a.nii").write_bytes(content)
        (tmp_path / "a.img").write_bytes(bytes(VALUES.nbytes))
        assert refused(tmp_path / "a.nii") == "damaged"

    def test_big_endian_pairs(self, tmp_path):
        image = nibabel.Nifti1Pair(VALUES.astype(">i2"), OBLIQUE, nibabel.nifti1.Nifti1PairHeader(endianness=">"))
        nibabel.save(image, tmp_path / "a.hdr")
        found, _ = read_placed(tmp_path / "a.hdr", "it", pairs=True)
        assert (values_at(found) == VALUES).all()
        np.testing.assert_allclose(affine(found), OBLIQUE, atol=1e-3)

    def test_no_message_of_ingest_names_the_file(self, tmp_path):
        for content in (b"", b"\x1f\x8b garbage", gzip.compress(b"x" * 400), bytes(400)):
            (tmp_path / "Doe_Jane.nii.gz").write_bytes(content)
            with pytest.raises(ScanError, match="the file") as caught:
                prepare.read_source(tmp_path / "Doe_Jane.nii.gz")
            assert "Doe" not in str(caught.value)

    def test_the_reader_says_nothing_on_the_screen(self, tmp_path, capfd):
        read_placed(TestShear().sheared(tmp_path / "Doe_Jane.nii", 0.5), "it")
        assert capfd.readouterr() == ("", "")

    def test_names(self):
        assert is_volume(Path("a.NII.GZ"))
        assert is_volume(Path("a.mhd"))
        assert not is_volume(Path("a.mhd"), pairs=False)
        assert not is_volume(Path("a.raw"))
