"""Masks that go out to 3D Slicer and ITK-SNAP and come back, also as pynrrd writes them with other axes."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk

from sscct_lib.deep.cubes import View, make_cubes
from sscct_lib.images.dicom_export import write_dicom
from sscct_lib.images.prepare import resample_mask
from sscct_lib.lungs.decisions import add_decision, check_decisions, read_decisions
from sscct_lib.lungs.mending import digest, export_masks, import_masks
from sscct_lib.lungs.segment import load_lungs, segment_scans
from sscct_lib.study.folder import DECISIONS_FILE, Study, StudyError
from sscct_lib.study.keys import scans_ingredients
from sscct_lib.study.settings import Settings

from .test_segment import draw_chest, with_scans

VIEW = View(16, (-1000.0, 200.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a study of three scans with masks, and hand all of them out; no test may change it."""
    healthy, sick = draw_chest(), draw_chest(disease=True)
    folder = tmp_path_factory.mktemp("made") / "study"
    folder.mkdir()
    study, rows = with_scans(Study(folder, Settings()), {"a1": healthy.hu, "b1": sick.hu, "c1": healthy.hu[:, 3:-3]})
    segment_scans(study, rows)
    export_masks(study, ["a1", "b1", "c1"], folder.parent / "out")
    return study, rows


@pytest.fixture
def out(made, tmp_path):
    """Copy that study, and give it with its rows and the folder of what was handed out."""
    study, rows = made
    shutil.copytree(study.folder.parent, tmp_path, dirs_exist_ok=True)
    return replace(study, folder=tmp_path / "study"), rows, tmp_path / "out"


def edit(folder, scan_id="a1", size=6) -> np.ndarray:
    """Cut a corner off the right lung of the file for ITK-SNAP, as a person would; give the labels."""
    path = folder / f"{scan_id}.mask.nii.gz"
    image = sitk.ReadImage(str(path))
    labels = sitk.GetArrayFromImage(image)
    z, y, x = (int(np.median(at)) for at in np.nonzero(labels == 1))
    labels[z : z + size, y : y + size, x : x + size] = 0
    made = sitk.GetImageFromArray(labels)
    made.CopyInformation(image)
    sitk.WriteImage(made, str(path))
    return labels


def slicer_rules(folder, labels, scan_id="a1", axes=(0, 1, 2), flips=(), space="RAS", crop=True, **header):
    """Write labels [z, y, x] with pynrrd: axes in another order, turned, cropped, and other numbers for the sides."""
    names = {"RAS": "right-anterior-superior", "LPS": "left-posterior-superior"}
    grid = sitk.ReadImage(str(folder / f"{scan_id}.nii.gz"))
    values = np.where(labels == 1, 7, np.where(labels == 2, 3, 0)).astype(np.uint8).transpose(2, 1, 0)
    origin, directions = np.array(grid.GetOrigin()), np.diag(grid.GetSpacing())
    if crop:
        box = [slice(at.min(), at.max() + 1) for at in np.nonzero(values)]
        origin = origin + directions @ [side.start for side in box]
        values = values[tuple(box)]
    steps = [directions[:, axis] for axis in axes]
    values = values.transpose(axes)
    for axis in flips:
        origin = origin + steps[axis] * (values.shape[axis] - 1)
        steps[axis] = -steps[axis]
        values = np.flip(values, axis)
    sign = np.array([-1, -1, 1]) if space == "RAS" else np.ones(3)
    fields = {
        "space": names[space], "space directions": [(sign * step).tolist() for step in steps],
        "space origin": (sign * origin).tolist(), "encoding": "gzip", "kinds": ["domain"] * 3,
        "Segment0_ID": f"{scan_id}:left_lung", "Segment0_Name": "left lung", "Segment0_LabelValue": "3",
        "Segment1_ID": "Segment_2", "Segment1_Name": "right lung", "Segment1_LabelValue": "7",
    } | header  # fmt: skip
    nrrd.write(str(folder / f"{scan_id}.seg.nrrd"), np.ascontiguousarray(values), fields)


def held(study, scan_id="a1") -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(study.mended(scan_id))))


def refused(study, folder, words):
    """Refuse an import in one sentence, with nothing taken and nothing lost."""
    before = sorted((path, path.read_bytes()) for path in study.folder.rglob("*") if path.is_file())
    with pytest.raises(StudyError, match=words):
        import_masks(folder, study, "KM", "effusion")
    assert sorted((path, path.read_bytes()) for path in study.folder.rglob("*") if path.is_file()) == before


class TestExport:
    def test_what_other_software_reads(self, out):
        study, _, folder = out
        values, header = nrrd.read(str(folder / "a1.seg.nrrd"))
        image, mask = load_lungs(study, "a1")
        truth = sitk.GetArrayFromImage(mask)
        assert header["Segment0_Name"], header["Segment1_Name"] == ("right lung", "left lung")
        assert "3341006" in header["Segment0_Tags"]
        assert (values.transpose(2, 1, 0) == truth).all()
        for name, expected in (("a1.nii.gz", image), ("a1.mask.nii.gz", mask)):
            found = nib.load(folder / name)
            assert (found.get_fdata().transpose(2, 1, 0) == sitk.GetArrayFromImage(expected)).all()
            assert found.affine[:3, 3] == pytest.approx(np.array(image.GetOrigin()) * [-1, -1, 1], abs=1e-3)
        lines = (folder / "labels.txt").read_text().splitlines()
        labels = [re.match(r"\s*(\d+)(?:\s+\S+){6}\s+\"(.*)\"$", line) for line in lines]
        assert {int(one[1]): one[2] for one in labels} == {0: "Clear Label", 1: "right lung", 2: "left lung"}

    def test_nothing_is_written_over(self, out, tmp_path):
        study, _, folder = out
        with pytest.raises(StudyError, match="exported before"):
            export_masks(study, ["a1"], folder)
        with pytest.raises(StudyError, match="x9: not among the scans"):
            export_masks(study, ["x9"], tmp_path / "other")

    def test_those_to_be_edited_where_none_is_named(self, out, tmp_path):
        study, _, _ = out
        with pytest.raises(StudyError, match="No reader has marked"):
            export_masks(study, [], tmp_path / "other")
        add_decision(study, ["b1"], "edit", "KM", "leak")
        assert export_masks(study, [], tmp_path / "other") == ["b1"]

    def test_lungs_that_were_not_found_can_be_drawn(self, out, tmp_path):
        study, _, _ = out
        labels = sitk.GetArrayFromImage(load_lungs(study, "a1")[1])
        study.mask("a1").unlink()
        export_masks(study, ["a1"], tmp_path / "other")
        assert not nrrd.read(str(tmp_path / "other" / "a1.seg.nrrd"))[0].any()
        slicer_rules(tmp_path / "other", labels)
        assert import_masks(tmp_path / "other", study, "KM", "drawn") == {"a1": "pass"}


class TestImport:
    def test_only_what_was_changed_is_taken_and_only_that_is_made_again(self, out):
        study, rows, folder = out
        make_cubes(study, rows, VIEW)
        keys = scans_ingredients(study, rows.assign(sha256=None))
        records = {path: path.read_bytes() for path in study.run.rglob("records/*/**/*.json")}
        before = study.mask("a1").read_bytes()
        labels = edit(folder)
        assert import_masks(folder, study, "km", "effusion  cut\nout") == {"a1": "pass"}
        assert (held(study) == labels).all()
        assert (study.run / "masks_before" / "a1.1.nii.gz").read_bytes() == before
        decided = read_decisions(study.folder / DECISIONS_FILE).iloc[0]
        assert decided[["scan_id", "verdict", "who", "why"]].tolist() == ["a1", "mended", "KM", "effusion cut out"]
        now = scans_ingredients(study, rows.assign(sha256=None))
        assert [stage for stage in keys if keys[stage] != now[stage]] == ["lungs", "radiomics"]
        table = segment_scans(study, rows)
        make_cubes(study, rows, VIEW)
        changed = {path.stem for path, content in records.items() if path.read_bytes() != content}
        assert changed == {"a1"}
        assert (sitk.GetArrayFromImage(load_lungs(study, "a1")[1]) == labels).all()
        assert table["decision"].tolist() == ["mask mended by KM: effusion cut out", None, None]
        assert import_masks(folder, study, "KM", "again") == {}

    @pytest.mark.parametrize("space", ["RAS", "LPS"])
    @pytest.mark.parametrize(
        ("axes", "flips"), [((0, 1, 2), ()), ((0, 1, 2), (0, 1)), ((2, 0, 1), (0,)), ((1, 2, 0), (2, 1))]
    )
    @pytest.mark.parametrize("crop", [True, False])
    def test_a_segmentation_by_other_rules_comes_back_with_its_sides(self, out, space, axes, flips, crop):
        study, _, folder = out
        labels = edit(folder)
        (folder / "a1.mask.nii.gz").unlink()
        slicer_rules(folder, labels, axes=axes, flips=flips, space=space, crop=crop)
        import_masks(folder, study, "KM", "effusion")
        assert (held(study) == labels).all()

    def test_a_second_mending_keeps_the_first(self, out, tmp_path):
        study, _, folder = out
        first = edit(folder)
        import_masks(folder, study, "KM", "effusion")
        export_masks(study, ["a1"], tmp_path / "second")
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "second" / "a1.mask.nii.gz"))) == first).all()
        edit(tmp_path / "second", size=12)
        import_masks(tmp_path / "second", study, "AB", "more")
        kept = sitk.ReadImage(str(study.run / "masks_before" / "a1.2.nii.gz"))
        assert (sitk.GetArrayFromImage(kept) == first).all()
        refused(study, folder, "a1: edited twice: the study's mask was changed by AB since this export")

    def test_decisions_before_a_mending_no_longer_count(self, out):
        study, rows, folder = out
        add_decision(study, ["a1"], "edit", "KM", "effusion inside")
        assert segment_scans(study, rows)["verdict"][0] == "fail"
        edit(folder)
        import_masks(folder, study, "KM", "cut")
        table = segment_scans(study, rows)
        assert table["verdict"][0] == "pass"
        assert table["decision"][0] == "mask mended by KM: cut"
        add_decision(study, ["a1"], "fail", "AB", "still wrong")
        assert segment_scans(study, rows)["decision"][0].endswith("; pass changed to fail by AB: still wrong")

    def test_killed_between_mask_and_row_it_is_taken_by_the_same_command(self, out):
        study, rows, folder = out
        edit(folder)
        import_masks(folder, study, "KM", "effusion")
        (study.folder / DECISIONS_FILE).unlink()
        with pytest.raises(StudyError, match=r"masks/mended/a1\.nii\.gz.*no row `mended`"):
            check_decisions(study, rows["scan_id"])
        assert list(import_masks(folder, study, "KM", "effusion")) == ["a1"]
        check_decisions(study, rows["scan_id"])
        study.mended("a1").unlink()
        with pytest.raises(StudyError, match=r"masks/mended/a1\.nii\.gz .*is gone"):
            check_decisions(study, rows["scan_id"])


class TestRefused:
    def test_another_grid(self, out):
        study, _, folder = out
        mask = sitk.ReadImage(str(folder / "a1.mask.nii.gz"))
        for words, change in (("voxels of 3 x 4 x 4 mm", "SetSpacing"), ("lie between those", "SetOrigin")):
            moved = sitk.Image(mask)
            getattr(moved, change)((3.0, 4.0, 4.0) if change == "SetSpacing" else (1.5, 0.0, 0.0))
            sitk.WriteImage(moved, str(folder / "a1.mask.nii.gz"))
            refused(study, folder, f"a1: .*{words}")

    def test_beyond_the_scan(self, out):
        study, _, folder = out
        mask = sitk.ConstantPad(sitk.ReadImage(str(folder / "a1.mask.nii.gz")), (0, 0, 3), (0, 0, 0))
        sitk.WriteImage(mask, str(folder / "a1.mask.nii.gz"))
        refused(study, folder, "a1: .*beyond the scan")

    def test_sides_swapped(self, out):
        study, _, folder = out
        labels = edit(folder)
        (folder / "a1.mask.nii.gz").unlink()
        slicer_rules(folder, np.choose(labels, [0, 2, 1]))
        refused(study, folder, "a1: right and left are swapped")

    def test_an_empty_mask(self, out):
        study, _, folder = out
        sitk.WriteImage(sitk.ReadImage(str(folder / "a1.mask.nii.gz")) * 0, str(folder / "a1.mask.nii.gz"))
        refused(study, folder, "a1: the mask is empty")

    def test_unknown_labels(self, out):
        study, _, folder = out
        labels = edit(folder)
        labels[:2] = 5
        slicer_rules(folder, labels * 0 + (labels == 1) + 2 * (labels == 2), Segment1_Name="Segment_1")
        refused(
            study, folder, r"a1: a1\.seg\.nrrd holds segment 'Segment_1' \([\d,]+ voxels\); expected right lung and"
        )
        edit(folder, "b1")
        image = sitk.ReadImage(str(folder / "b1.mask.nii.gz"))
        image[3, 3, 3] = 4
        sitk.WriteImage(image, str(folder / "b1.mask.nii.gz"))
        refused(study, folder, r"b1: b1\.mask\.nii\.gz holds label 4 \(1 voxels\)")

    def test_a_mask_of_another_scan(self, out):
        study, _, folder = out
        (folder / "b1.seg.nrrd").replace(folder / "a1.seg.nrrd")
        refused(study, folder, r"a1: a1\.seg\.nrrd holds the mask of scan b1")

    def test_a_mask_of_another_scan_without_its_id(self, out):
        study, _, folder = out
        shifted = np.roll(sitk.GetArrayFromImage(load_lungs(study, "a1")[1]), 18, axis=0)
        (folder / "a1.mask.nii.gz").unlink()
        slicer_rules(folder, shifted, Segment0_ID="Segment_1")
        refused(study, folder, "a1: the mask lies beside the lungs of this scan")

    def test_two_files_that_differ(self, out):
        study, _, folder = out
        labels = edit(folder)
        labels[labels == 2] *= np.arange(np.count_nonzero(labels == 2)) > 99
        slicer_rules(folder, labels)
        refused(study, folder, r"a1: edited twice: a1\.seg\.nrrd and a1\.mask\.nii\.gz were both changed and differ")

    def test_the_scan_was_prepared_anew(self, out):
        study, _, folder = out
        edit(folder)
        study.image("b1").replace(study.image("a1"))
        refused(study, folder, "a1: the scan is not the one that was exported")

    def test_a_file_under_another_name(self, out):
        study, _, folder = out
        (folder / "a1.seg.nrrd").rename(folder / "Segmentation.seg.nrrd")
        refused(study, folder, r"Segmentation\.seg\.nrrd: not a file of the export")

    def test_layers(self, out):
        study, _, folder = out
        fields = {"space": "left-posterior-superior", "kinds": ["list", *["domain"] * 3], "encoding": "gzip"}
        place = {"space directions": [[np.nan] * 3, (4, 0, 0), (0, 4, 0), (0, 0, 4)], "space origin": (0, 0, 0)}
        nrrd.write(str(folder / "a1.seg.nrrd"), np.ones((2, 9, 9, 9), np.uint8), fields | place)
        refused(study, folder, r"a1: a1\.seg\.nrrd .*overlap")

    def test_nobody_for_no_reason(self, out):
        study, _, folder = out
        edit(folder)
        for who, why, words in (("Karl Mueller", "x", "initials"), ("", "x", "initials"), ("KM", " ", "the reason")):
            with pytest.raises(StudyError, match=words):
                import_masks(folder, study, who, why)
        assert not study.mended("a1").exists()

    def test_no_folder_of_ours(self, out, tmp_path):
        study, _, folder = out
        for content in ("", "[]", '{"scans": {"a1": {}}}'):
            (folder / "export.json").write_text(content)
            refused(study, folder, "is no folder of `sscct masks export`")
        (folder / "export.json").write_text(json.dumps({"run": "other", "scans": {}}))
        refused(study, folder, "exported from run other")


def test_a_decision_on_a_scan_that_is_not_there(tmp_path):
    study = Study(tmp_path, Settings())
    (study.folder / DECISIONS_FILE).write_text("scan_id,verdict,who,when,why\nx9,fail,KM,2026-03-01,leak\n")
    with pytest.raises(StudyError, match="row 2, column scan_id: found 'x9'; expected a scan of the manifest"):
        check_decisions(study, pd.Series(["a1"]))


class TestDicom:
    @pytest.fixture
    def dicom(self, out, tmp_path):
        study, rows, _ = out
        export_masks(study, ["a1", "b1"], tmp_path / "dicom", dicom=True)
        return study, rows, tmp_path / "dicom"

    def test_the_scan_is_read_back_and_names_nobody(self, dicom):
        study, _, folder = dicom
        found = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "a1.dicom")))
        image = load_lungs(study, "a1")[0]
        assert (sitk.GetArrayFromImage(found) == sitk.GetArrayFromImage(image)).all()
        assert found.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-3)
        one = pydicom.dcmread(folder / "a1.dicom" / "0001.dcm")
        assert (one.PatientID, one.PatientName, one.StudyDate, one.PatientBirthDate) == ("a1", "a1^", "", "")

    def test_the_segmentation_is_read_back_by_dcmqi(self, dicom, tmp_path):
        program = shutil.which("segimage2itkimage") or Path(sys.executable).with_name("segimage2itkimage")
        study, _, folder = dicom
        (tmp_path / "read").mkdir()
        command = [program, "--inputDICOM", folder / "a1.seg.dcm", "--outputDirectory", tmp_path / "read", "-t", "nrrd"]
        subprocess.run([*command, "--mergeSegments"], check=True, capture_output=True)
        (path,) = (tmp_path / "read").glob("*.nrrd")
        told = json.loads(next((tmp_path / "read").glob("*.json")).read_text())
        names = {
            part["labelID"]: part["SegmentedPropertyTypeCodeSequence"]["CodeMeaning"]
            for group in told["segmentAttributes"] for part in group
        }  # fmt: skip
        mask = load_lungs(study, "a1")[1]
        found = sitk.GetArrayFromImage(resample_mask(sitk.ReadImage(str(path)), mask))
        assert names == {1: "Right lung", 2: "Left lung"}
        assert (found == sitk.GetArrayFromImage(mask)).all()

    def test_it_comes_back_and_unchanged_it_is_not_taken(self, dicom):
        study, _, folder = dicom
        assert import_masks(folder, study, "KM", "x") == {}
        image, mask = (sitk.ReadImage(str(folder / f"a1.{end}")) for end in ("nii.gz", "mask.nii.gz"))
        labels = sitk.GetArrayFromImage(mask)
        labels[:, :, :30][labels[:, :, :30] > 0] *= np.arange(np.count_nonzero(labels[:, :, :30])) % 50 != 0
        edited = sitk.GetImageFromArray(labels)
        edited.CopyInformation(mask)
        write_dicom(image, edited, "a1", digest(load_lungs(study, "a1")[0]), folder / "again", folder / "a1.seg.dcm")
        shutil.rmtree(folder / "again")
        import_masks(folder, study, "KM", "x")
        assert (held(study) == labels).all()

    def test_that_of_another_scan(self, dicom):
        study, _, folder = dicom
        (folder / "b1.seg.dcm").replace(folder / "a1.seg.dcm")
        refused(study, folder, "a1: the mask belongs to another frame of reference")
