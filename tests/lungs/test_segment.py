"""Lung masks: against a chest drawn here with known lungs, the demo cohort's truth, and two public CTs."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy import ndimage

from sscct_lib.demo import make, patients
from sscct_lib.images import masks as image_masks
from sscct_lib.images import prepare
from sscct_lib.lungs import figures, threshold
from sscct_lib.lungs.decisions import apply_decisions
from sscct_lib.lungs.segment import examine, load_lungs, segment_scans, threshold_mask
from sscct_lib.lungs.tables import findings, rule_counts, verdict_counts
from sscct_lib.lungs.verdict import (
    LEVELS_MM,
    POSSIBLE_LEFT_SHARE,
    POSSIBLE_MEAN_HU,
    POSSIBLE_VOLUME_L,
    SEVERE,
    compare_visits,
    write_shape,
)
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.results import ScanError
from sscct_lib.study.schemas import LUNGS
from sscct_lib.study.settings import DemoSettings, LungSettings, Settings

DATA = Path(__file__).parents[3] / "shared" / "data"


@dataclass
class Chest:
    """A drawn chest.

    Attributes
    ----------
    hu
        Densities, shape (z, y, x), LPS.
    truth
        0 outside, 1 right lung, 2 left lung.
    parts
        Masks of other things by name.
    """

    hu: np.ndarray
    truth: np.ndarray
    parts: dict[str, np.ndarray]
    spacing_mm: float

    @property
    def image(self) -> sitk.Image:
        return volume(self.hu, self.spacing_mm)


def volume(hu: np.ndarray, spacing_mm: float) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.rint(hu).astype(np.int16)))
    image.SetSpacing((spacing_mm,) * 3)
    return image


@cache
def draw_chest(spacing_mm: float = 4.0, disease: bool = False, seed: int = 0) -> Chest:
    """Draw a chest, for all tests: x from -176 (right) to 176 mm, y from -130 (front) to 150 mm, z from 0 to 320 mm."""
    z, y, x = np.meshgrid(
        np.arange(0, 320, spacing_mm), np.arange(-130, 150, spacing_mm), np.arange(-176, 176, spacing_mm), indexing="ij"
    )

    def ellipsoid(centre, radii):
        return sum(((g - c) / r) ** 2 for g, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    def tube(start, end, radius):
        start, end = np.array(start, float), np.array(end, float)
        points, axis = np.stack([x, y, z], axis=-1) - start, end - start
        along = np.clip(points @ axis / (axis @ axis), 0, 1)
        return np.linalg.norm(points - along[..., None] * axis, axis=-1) < radius

    body = (x / 165) ** 2 + (y / 115) ** 2 < 1
    heart = ellipsoid((20, -25, 125), (55, 50, 60))
    domes = ellipsoid((-75, 0, 20), (75, 90, 62)) | ellipsoid((75, 0, 12), (75, 90, 62))
    lung = [ellipsoid((side * 75, 0, 150), (54, 70, 125)) & ~heart & ~domes & (z > 30) for side in (-1, 1)]
    spine = tube((0, 80, 0), (0, 80, 320), 20)
    airway = tube((0, 25, 195), (0, 25, 320), 9)
    airway |= tube((0, 25, 195), (-45, 20, 160), 7) | tube((0, 25, 195), (45, 20, 160), 7)
    shell = (x / 150) ** 2 + (y / 104) ** 2
    ribs = (shell > 0.8) & (shell < 0.9) & (np.abs((z + 0.6 * y) % 36 - 18) < 6) & (np.abs(x) > 30)
    table = (np.abs(y - 128) < 6) & (np.abs(x) < 170)
    stomach = ellipsoid((60, -30, 25), (28, 28, 22))
    hu = np.full(x.shape, -1000.0)
    hu[body] = -100
    hu[body & (shell < 1.0)] = 50
    hu[table] = -300
    hu[spine | ribs] = 500
    truth = (lung[0] + 2 * lung[1]).astype(np.uint8)
    truth[spine | airway] = 0
    hu[truth > 0] = -850
    parts = {"heart": heart, "stomach": stomach, "airway": airway, "table": table, "body": body}
    if disease:
        parts |= draw_disease(hu, truth, (x, y, z), spacing_mm, np.random.default_rng(seed), ellipsoid)
    hu[airway | stomach] = -1000
    hu = np.clip(ndimage.gaussian_filter(hu, 0.4) + np.random.default_rng(seed).normal(0, 15, x.shape), -1024, 1500)
    for array in (hu, truth, *parts.values()):
        array.setflags(write=False)
    return Chest(hu, truth, parts, spacing_mm)


def draw_disease(hu, truth, grid, spacing_mm, rng, ellipsoid) -> dict[str, np.ndarray]:
    """Draw honeycombing at the bases below the pleura, ground glass, and a consolidation at the pleura."""
    _, y, z = grid
    depth = ndimage.distance_transform_edt(truth > 0) * spacing_mm
    honeycomb = (truth > 0) & (depth < 24) & (z < 130) & (y > 10)
    cysts = ndimage.zoom(rng.random([n // 2 + 1 for n in hu.shape]), 2, order=0)[tuple(map(slice, hu.shape))] < 0.3
    hu[honeycomb] = -280
    hu[honeycomb & cysts] = -850
    glass = (truth > 0) & ellipsoid((90, 0, 180), (30, 50, 40))
    hu[glass] = -450
    consolidation = (truth > 0) & ellipsoid((-126, 0, 150), (22, 14, 14))
    hu[consolidation] = 30
    return {"honeycomb": honeycomb, "glass": glass, "consolidation": consolidation}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.fixture(scope="module", params=[False, True], ids=["healthy", "diseased"])
def chest(request) -> Chest:
    return draw_chest(disease=request.param)


@pytest.fixture(scope="module")
def labels(chest) -> np.ndarray:
    return sitk.GetArrayFromImage(threshold_mask(chest.image))


@pytest.fixture(scope="module")
def sick() -> tuple[Chest, np.ndarray]:
    chest = draw_chest(disease=True, seed=1)
    return chest, sitk.GetArrayFromImage(threshold_mask(chest.image))


class TestThreshold:
    def test_both_lungs_are_found_and_sides_are_right(self, chest, labels):
        assert dice(labels > 0, chest.truth > 0) > 0.97
        for side in (1, 2):
            assert dice(labels == side, chest.truth == side) > 0.96
        right, left = (np.nonzero(labels == side)[2].mean() for side in (1, 2))
        assert right < left  # LPS: x grows to the patient's left

    def test_airway_bowel_gas_heart_and_table_are_out(self, chest, labels):
        assert (labels[chest.parts["airway"]] > 0).mean() < 0.02
        assert not labels[chest.parts["stomach"]].any()
        assert not labels[chest.parts["table"]].any()
        assert (labels[ndimage.binary_erosion(chest.parts["heart"])] > 0).mean() < 0.02

    # The ball that is rolled along the pleura leaves the outermost millimetres of a wide consolidation out.
    @pytest.mark.parametrize(("part", "least"), [("honeycomb", 0.85), ("glass", 0.95), ("consolidation", 0.75)])
    def test_disease_stays_in(self, sick, part, least):
        chest, labels = sick
        assert (labels[chest.parts[part]] > 0).mean() > least

    @pytest.mark.parametrize("spacing_mm", [pytest.param(2.5, marks=pytest.mark.slow), 3.0])
    def test_other_grids(self, spacing_mm):
        chest = draw_chest(spacing_mm, disease=True)
        labels = sitk.GetArrayFromImage(threshold_mask(chest.image))
        assert dice(labels > 0, chest.truth > 0) > 0.965

    @pytest.mark.slow
    def test_fine_grid_gets_a_mask_on_its_own_grid(self):
        chest = draw_chest(1.25)
        mask = threshold_mask(chest.image)
        assert mask.GetSize() == chest.image.GetSize()
        assert dice(sitk.GetArrayFromImage(mask) > 0, chest.truth > 0) > 0.97

    def test_one_lung_only(self):
        chest = draw_chest()
        hu = np.where(chest.truth == 1, 40, chest.hu)
        labels = sitk.GetArrayFromImage(threshold_mask(volume(hu, chest.spacing_mm)))
        assert set(np.unique(labels)) == {0, 2}
        assert dice(labels == 2, chest.truth == 2) > 0.95

    def test_lungs_that_touch_are_told_apart(self):
        chest = draw_chest()
        z, y, x = np.indices(chest.hu.shape)
        bridge = (np.abs(z - 55) < 5) & (np.abs(y - 24) < 3) & (np.abs(x - 44) < 10)
        labels = sitk.GetArrayFromImage(threshold_mask(volume(np.where(bridge, -850, chest.hu), chest.spacing_mm)))
        for side in (1, 2):
            assert dice(labels == side, chest.truth == side) > 0.95

    @pytest.mark.parametrize(("value", "words"), [(-1000, "no body was found"), (40, "no lungs were found")])
    def test_no_chest(self, value, words):
        hu = np.full((40, 40, 40), float(value))
        hu[:2] = -1000
        with pytest.raises(ScanError, match=words):
            threshold_mask(volume(hu, 4.0))


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path, Settings.model_validate({"images": {"spacing_mm": 4.0}}))


def with_scans(
    study: Study, scans: dict[str, np.ndarray], method: str = "threshold", **masks
) -> tuple[Study, pd.DataFrame]:
    """Write scans (and masks) of a study and prepare them."""
    settings = {"images": {"spacing_mm": 4.0}, "lungs": {"method": method}}
    study = Study(study.folder, Settings.model_validate(settings))
    rows = pd.DataFrame({"scan_id": list(scans), "patient_id": [name[0] for name in scans]})
    rows["image"] = [f"{name}.nii.gz" for name in scans]
    rows["lung_mask"] = [f"{name}_mask.nii.gz" if name in masks else None for name in scans]
    for name, hu in scans.items():
        sitk.WriteImage(volume(hu, 4.0), str(study.folder / f"{name}.nii.gz"))
    for name, mask in masks.items():
        image = sitk.GetImageFromArray(np.ascontiguousarray(mask))
        image.SetSpacing((4.0,) * 3)
        sitk.WriteImage(image, str(study.folder / f"{name}_mask.nii.gz"))
    prepare.prepare_scans(study, rows)
    return study, rows


class TestSegmentScans:
    def test_masks_measures_and_verdicts(self, study):
        healthy, sick = draw_chest(), draw_chest(disease=True)
        study, rows = with_scans(study, {"a1": healthy.hu, "b1": sick.hu})
        table = segment_scans(study, rows)
        LUNGS.validate(table)
        assert table["verdict"].tolist() == ["pass", "pass"], table["findings"].tolist()
        volume_l = np.count_nonzero(healthy.truth) * 0.064 / 1000
        assert table["volume_l"][0] == pytest.approx(volume_l, rel=0.05)
        assert table["trachea_hu"][0] == pytest.approx(-1000, abs=25)
        assert table["heart_hu"][0] == pytest.approx(50, abs=15)
        assert table["noise_hu"][0] == pytest.approx(15, abs=10)
        assert table["high_attenuation_share"][1] > table["high_attenuation_share"][0]
        image, mask = load_lungs(study, "a1")
        assert image.GetSize() == mask.GetSize()
        assert mask.GetPixelID() == sitk.sitkUInt8

    def test_scan_without_image_is_set_aside(self, study):
        study, rows = with_scans(study, {"a1": draw_chest().hu, "b1": np.zeros((20, 20, 20)) - 1000})
        table = segment_scans(study, rows)
        assert table["status"].tolist() == ["ok", "failed"]
        assert "no prepared image" in table["reason"][1]
        assert table["verdict"].isna().tolist() == [False, True]
        with pytest.raises(ScanError, match=r"b1\.nii\.gz is missing"):
            load_lungs(study, "b1")

    def test_finished_scans_are_skipped(self, study):
        study, rows = with_scans(study, {"a1": draw_chest().hu})
        first = segment_scans(study, rows)
        written = study.mask("a1").stat().st_mtime_ns
        pd.testing.assert_frame_equal(segment_scans(study, rows), first)
        assert study.mask("a1").stat().st_mtime_ns == written


class TestProvided:
    def test_mask_of_the_manifest_is_used(self, study):
        chest = draw_chest()
        study, rows = with_scans(study, {"a1": chest.hu}, "provided", a1=chest.truth)
        table = segment_scans(study, rows)
        assert table["verdict"].tolist() == ["pass"], table["findings"][0]
        _, mask = load_lungs(study, "a1")
        assert (sitk.GetArrayFromImage(mask) == chest.truth).all()

    def test_another_size(self, study):
        chest = draw_chest()
        study, rows = with_scans(study, {"a1": chest.hu}, "provided", a1=chest.truth[:-3])
        table = segment_scans(study, rows)
        assert table["status"].tolist() == ["failed"]
        assert "the mask has 88 x 70 x 77 voxels, its scan has 88 x 70 x 80" in table["reason"][0]

    def test_another_place(self, study):
        chest = draw_chest()
        study, rows = with_scans(study, {"a1": chest.hu}, "provided", a1=chest.truth)
        path = study.folder / "a1_mask.nii.gz"
        mask = sitk.ReadImage(str(path))
        mask.SetOrigin((20.0, 0.0, 0.0))
        sitk.WriteImage(mask, str(path))
        assert "lies elsewhere in space" in segment_scans(study, rows)["reason"][0]

    def test_other_labels_and_no_mask(self, study):
        chest = draw_chest()
        study, rows = with_scans(study, {"a1": chest.hu, "b1": chest.hu}, "provided", a1=chest.truth * 3)
        table = segment_scans(study, rows)
        assert "has values 0, 3, 6; expected 0 outside, 1 right lung, 2 left lung" in table["reason"][0]
        assert "lung_mask is empty" in table["reason"][1]

    @pytest.mark.parametrize(
        ("fault", "verdict", "flag"),
        [
            ("empty", "fail", "volume_l"),
            ("one lung", "fail", "left_share"),
            ("one label for both", "fail", "left_share"),
            ("swapped", "fail", "lefts_side_mm"),
            ("beside the lungs", "fail", "aerated_share"),
            ("a tenth", "fail", "volume_l"),
            ("whole chest", "fail", "mean_hu"),
            ("lower half", "review", "missed_air_l"),
            ("leak into the liver", "review", "solid_share"),
            ("leak through the wall", "review", "outside_share"),
        ],
    )
    def test_faulty_masks_do_not_pass(self, fault, verdict, flag):
        chest = draw_chest()
        z, y, x = np.indices(chest.truth.shape)
        mask = chest.truth.copy()
        if fault == "empty":
            mask[:] = 0
        elif fault == "one lung":
            mask[mask == 1] = 0
        elif fault == "one label for both":
            mask[mask == 2] = 1
        elif fault == "swapped":
            mask = np.where(mask > 0, 3 - mask, 0)
        elif fault == "beside the lungs":
            mask = np.roll(mask, 22, axis=1)
        elif fault == "a tenth":
            mask[::2] = mask[:, ::2] = mask[:, :, ::2] = 0
        elif fault == "whole chest":
            mask[(y > 8) & (y < 60) & (x > 8) & (x < 44) & (z > 8)] = 1
            mask[(y > 8) & (y < 60) & (x >= 44) & (x < 80) & (z > 8)] = 2
        elif fault == "lower half":
            mask[:40] = 0
        elif fault == "leak into the liver":
            mask[(z - 14) ** 2 + (y - 32) ** 2 + (x - 25) ** 2 < 13**2] = 1
        else:
            mask[(z - 40) ** 2 + (y - 32) ** 2 + (x - 3) ** 2 < 8**2] = 1
        row = examine(chest.image, volume(mask, 4.0), LungSettings())
        assert row["verdict"] == verdict or row["verdict"] == "fail"
        assert verdict == "review" or flag in SEVERE
        assert flag in row["flags"].split()


class TestFaultyScans:
    @pytest.mark.parametrize(
        ("fault", "flag"),
        [
            (lambda hu: hu[:, :, ::-1], "heart_left_mm"),
            (lambda hu: hu[::-1], "trachea_height"),
            (lambda hu: hu[:, ::-1], "spine_behind_mm"),
            (lambda hu: hu.transpose(0, 2, 1), "chest_width_mm"),
            (lambda hu: np.delete(hu, slice(30, 36), axis=0), "step_ratio"),
            (lambda hu: hu[22:], "cut_area_cm2"),
            (lambda hu: hu[:55], "cut_area_cm2"),
        ],
        ids=["mirrored", "head-feet", "front-back", "axes", "missing slices", "cut below", "cut above"],
    )
    def test_are_flagged(self, fault, flag):
        row = examine(volume(fault(draw_chest().hu), 4.0), None, LungSettings())
        assert row["verdict"] in ("review", "fail")
        assert flag in row["flags"].split()


def shape_text(width_mm: float) -> str:
    """Write the shape of a chest whose apex is a cone and that is `width_mm` wide."""
    width = width_mm * np.minimum(0.5 + LEVELS_MM / 150, 1)
    return write_shape(np.array([width, 0.7 * width, 0.6 * width, 0 * width]))


def lung_table(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    base = {
        "scan_id": [f"s{i}" for i in range(n)],
        "patient_id": ["p"] * n,
        "status": ["ok"] * n,
        "verdict": ["pass"] * n,
        "findings": [""] * n,
        "flags": [""] * n,
        "volume_l": [4.0] * n,
        "chest_shape_mm": [shape_text(250.0)] * n,
        "readers": [None] * n,
        "decision": [None] * n,
    }
    return pd.DataFrame(base | columns)


class TestComparingVisits:
    def test_another_patients_scan_is_flagged(self):
        shapes = [shape_text(width) for width in (250.0, 252.0, 285.0, 249.0)]
        table = compare_visits(lung_table(chest_shape_mm=shapes), LungSettings())
        assert table["verdict"].tolist() == ["pass", "pass", "review", "pass"]
        assert "another patient's scan?" in table["findings"][2]
        assert table["flags"][2] == "shape_change_mm"

    def test_change_of_volume(self):
        table = compare_visits(lung_table(volume_l=[4.0, 4.2, 2.4, 4.1]), LungSettings())
        assert table["verdict"].tolist() == ["pass", "pass", "review", "pass"]
        assert table["volume_change"][2] == pytest.approx(2.4 / 4.1 - 1)
        assert table["findings"][2] == "lung volume -41% against the patient's other scans"

    def test_single_scans_and_failures_are_left_alone(self):
        table = lung_table(patient_id=["p", "q", "q"], verdict=["pass", "fail", "pass"], volume_l=[4.0, 0.1, 4.0])
        compared = compare_visits(table, LungSettings())
        assert compared[["shape_change_mm", "volume_change"]].isna().all(axis=None)
        pd.testing.assert_frame_equal(compared[list(table.columns)], table)


class TestDecisions:
    def write(self, tmp_path, text) -> Path:
        path = tmp_path / "qa_decisions.csv"
        path.write_text("scan_id,verdict,who,when,why\n" + text)
        return path

    def test_a_person_overrides_the_verdict(self, tmp_path):
        path = self.write(tmp_path, "s1,pass,KM,2026-03-01,old pneumonectomy\n")
        table = apply_decisions(lung_table(verdict=["pass", "review"]), path)
        assert table["verdict"].tolist() == ["pass", "pass"]
        assert table["decision"][1] == "review changed to pass by KM: old pneumonectomy"
        assert verdict_counts(table)["changed by a person"].tolist() == [1, 0, 0, 0]

    def test_readers_who_agree_overrule_and_those_who_differ_leave_it_to_review(self, tmp_path):
        lines = ["s0,pass,KM", "s0,fail,AB", "s1,fail,KM", "s1,fail,AB", "s2,edit,KM"]
        lines += ["s3,fail,KM", "s3,pass,km", "s4,pass,KM"]
        path = self.write(tmp_path, "".join(f"{line},2026-03-01,leak\n" for line in lines))
        table = apply_decisions(lung_table(verdict=["pass", "review", "pass", "fail", "pass"]), path)
        assert table["verdict"].tolist() == ["review", "fail", "fail", "pass", "pass"]
        assert table["decision"].tolist() == [
            "pass changed to review, since readers differ (KM pass: leak, AB fail: leak)",
            "review changed to fail by KM, AB: leak",
            "pass changed to fail, to be edited, by KM: leak",
            "fail changed to pass by KM: leak",
            None,
        ]
        readers = ["KM pass, AB fail", "KM fail, AB fail", "KM to be edited", "KM pass", "KM pass"]
        assert table["readers"].tolist() == readers

    def test_no_file_no_change(self, tmp_path):
        table = lung_table(verdict=["pass", "review"])
        pd.testing.assert_frame_equal(apply_decisions(table, tmp_path / "qa_decisions.csv"), table)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("s1,maybe,KM,2026-03-01,x", "row 2, column verdict: found 'maybe'; expected pass, fail, edit or mended"),
            ("s1,pass,,2026-03-01,x", "row 2, column who"),
            ("s1,pass,KM,1.3.2026,x", "row 2, column when: found '1.3.2026'; expected a date"),
            ("s1,pass,KM,2026-03-01,", "row 2, column why"),
            (",pass,KM,2026-03-01,x", "row 2, column scan_id"),
        ],
    )
    def test_violations(self, tmp_path, line, words):
        with pytest.raises(StudyError, match=words):
            apply_decisions(lung_table(verdict=["pass", "review"]), self.write(tmp_path, line + "\n"))


def test_counts_by_rule():
    flags, verdicts = ["volume_l left_share", "volume_l", "", None], ["review", "fail", "pass", "pass"]
    counts = rule_counts(lung_table(flags=flags, verdict=verdicts, patient_id=["p", "q", "q", "r"]))
    assert counts.columns.tolist() == ["scans", "patients", "by this rule alone", "removed"]
    assert counts.loc["volume_l"].tolist() == ["<5", "<5", "<5", "<5"]
    assert counts.loc["left_share"].tolist() == ["<5", "<5", "0", "0"]
    flags, patients = ["noise_hu"] * 6 + ["volume_l"] * 6, ["p"] * 6 + [*"abcdef"]
    counts = rule_counts(lung_table(flags=flags, verdict=["fail"] * 12, patient_id=patients))
    assert counts.loc["noise_hu"].tolist() == ["hidden", "<5", "hidden", "hidden"]  # six scans of one patient
    assert counts.loc["volume_l"].tolist() == ["6", "6", "6", "6"]
    said = findings(lung_table(flags=flags, verdict=["fail"] * 12, patient_id=patients))
    assert "train no model: 12;" in said
    assert said.endswith("Most often found: noise.")
    clean = findings(lung_table(flags=[""] * 9, verdict=["pass"] * 9, patient_id=[*"abcdefghi"]))
    assert clean.startswith("Scans whose mask passed its checks: 9;")
    assert clean.endswith("without a mask: 0.")


class TestMorphology:
    @pytest.mark.parametrize("radius_mm", [1.0, 3.0, 5.0])
    def test_dilation_is_that_of_itk(self, radius_mm):
        mask = np.random.default_rng(0).random((20, 21, 22)) > 0.995
        radius = [round(radius_mm)] * 3
        expected = sitk.BinaryDilate(sitk.GetImageFromArray(mask.view(np.uint8)), radius, sitk.sitkBall, 0, 1)
        ours = image_masks.dilate(mask, radius_mm, 1.0)
        assert np.mean(ours == sitk.GetArrayFromImage(expected).astype(bool)) > 0.999

    def test_dilation_is_a_distance(self):
        mask = np.zeros((21, 21, 21), bool)
        mask[10, 10, 10] = True
        distance = ndimage.distance_transform_edt(~mask) * 2.0
        assert (image_masks.dilate(mask, 9.0, 2.0) == (distance <= 10.0)).all()

    def test_edge_of_the_volume_is_no_surface(self):
        assert image_masks.erode(np.ones((9, 9, 9), bool), 2, 1).all()


class TestFigures:
    def test_overlay_shows_findings_and_the_flagged_place(self, study):
        chest = draw_chest()
        study, rows = with_scans(study, {"a1": chest.hu[22:]})
        (row,) = segment_scans(study, rows).to_dict("records")
        one = figures.overlay(study, row)
        hu, labels, place = one.planes["coronal"]
        assert hu.shape == labels.shape == (58, 88)
        assert place is not None
        figure = figures.mask_overlay([one])
        title = " ".join(row.get_suptitle() for row in figure.subfigs).replace("\n", " ")
        assert "a1: review (the edge of the scan cuts" in title

    def test_no_scans(self):
        figure = figures.mask_overlay([], "No scan was flagged.")
        assert figure.axes[0].texts[0].get_text() == "No scan was flagged."

    def test_distributions_survive_missing_values(self):
        table = lung_table(volume_l=[np.nan, np.nan], verdict=["pass", "fail"])
        figure = figures.qa_distributions(table, {"volume_l": (1.0, 9.0, "lung volume (L)")})
        assert figure.axes[0].get_xlabel() == "lung volume (L)"


def test_public_ct_with_labels():
    """Chest Imaging Platform: regions 9 to 11 are the left lung, 12 to 14 the right one."""
    scan, labels = DATA / "cip_ct-64.nrrd", DATA / "cip_lm-64.nrrd"
    if not scan.is_file():
        pytest.skip("the public CT is not here")
    image = prepare.resample(prepare.read_scan(scan), 3.0)
    region = sitk.ReadImage(str(labels))
    region = sitk.GetArrayFromImage(sitk.Resample(region, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)) & 255
    mask = sitk.GetArrayFromImage(threshold_mask(image))
    assert dice(mask > 0, region > 0) > 0.95
    assert dice(mask == 1, region >= 12) > 0.95
    assert dice(mask == 2, (region >= 9) & (region <= 11)) > 0.95


def test_densities_with_a_wrong_slope_fail():  # of a scan in a study, reading it refuses them already
    hu = np.clip((draw_chest().hu + 1024) * 2 - 1024, -1024, 3000)
    found = examine(volume(hu, 4.0), None, LungSettings())
    assert found["verdict"] == "fail"
    assert "heart_hu" in found["flags"].split()


@pytest.fixture(scope="module")
def public() -> tuple[sitk.Image, np.ndarray]:
    scan, labels = DATA / "cip_ct-64.nrrd", DATA / "cip_lm-64.nrrd"
    if not scan.is_file():
        pytest.skip("the public CT is not here")
    image = prepare.resample(prepare.read_scan(scan), 4.0)
    region = sitk.Resample(sitk.ReadImage(str(labels)), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    region = sitk.GetArrayFromImage(region) & 255
    return image, np.where(region >= 12, 1, np.where(region >= 9, 2, 0)).astype(np.uint8)


class TestPublicMask:
    """The labels of the Chest Imaging Platform on its scan, as a user would provide them, right and wrong."""

    @pytest.mark.parametrize(
        ("change", "flag"),
        [
            (lambda mask: mask, ""),
            (lambda mask: np.where(mask > 0, 3 - mask, 0), "lefts_side_mm"),
            (lambda mask: mask[:, :, ::-1], "lefts_side_mm"),
            (lambda mask: np.roll(mask, 30, axis=0), "aerated_share"),
            (lambda mask: np.roll(mask, -25, axis=1), "aerated_share"),
            (lambda mask: np.where(mask == 1, 1, 0), "left_share"),
            (lambda mask: (mask > 0).astype(np.uint8), "left_share"),
        ],
        ids=["right", "swapped", "mirrored", "shifted up", "shifted forward", "one lung", "one label"],
    )
    def test_is_judged(self, public, change, flag):
        image, mask = public
        given_mask = sitk.GetImageFromArray(np.ascontiguousarray(change(mask)).astype(np.uint8))
        given_mask.CopyInformation(image)
        found = examine(image, given_mask, LungSettings())
        assert (found["verdict"] == "fail") == bool(flag), found["findings"]
        assert not flag or flag in found["flags"].split()


def test_a_patient_with_one_lung_is_looked_at_and_not_removed():
    chest = draw_chest()
    hu = np.where(chest.truth == 1, 40, chest.hu)  # after pneumonectomy the side fills with fluid
    found = examine(volume(hu, 4.0), volume(np.where(chest.truth == 2, 2, 0), 4.0), LungSettings())
    assert found["verdict"] == "review"
    assert "left_share" in found["flags"]


def test_limits_that_no_patient_passes_are_wider_than_the_plausible_ranges():
    settings = LungSettings()
    pairs = [
        (settings.volume_l, POSSIBLE_VOLUME_L), (settings.left_share, POSSIBLE_LEFT_SHARE),
        (settings.mean_hu, POSSIBLE_MEAN_HU),
    ]  # fmt: skip
    for (low, high), (least, most) in pairs:
        assert least < low < high < most


@pytest.mark.parametrize("field_mm", [265.0, 240.0, 215.0])
def test_lungs_that_a_narrow_field_cuts_are_found_to_its_edge(field_mm):
    _, truth = patients.demo_cohort(DemoSettings(n_patients=4), 2026)
    scan = make.draw_scan(truth.iloc[-1].to_dict() | {"field_mm": field_mm}, 2026, 4.0)
    assert (scan.lungs[:, :, [0, -1]] > 0).any() or field_mm == 265.0
    hu = scan.hu.astype(np.float32)
    found = threshold.find_lungs(hu, threshold.look(hu, 4.0))
    assert 2 * ((found > 0) & (scan.lungs > 0)).sum() / ((found > 0).sum() + (scan.lungs > 0).sum()) > 0.95
    assert (found == scan.lungs)[scan.lungs > 0].mean() > 0.97


@pytest.mark.slow
def test_demo_cohort(tmp_path):
    """Against the truth of six patients' first scans."""
    from sscct_lib.cohort.manifest import read_manifest
    from sscct_lib.demo.make import make_scans, scan_files, write_tables

    settings = {"demo": {"n_patients": 24, "spacing_mm": 3.0}, "images": {"spacing_mm": 3.0}}
    study = Study(tmp_path, Settings.model_validate(settings))
    write_tables(study)
    rows = read_manifest(study).groupby("patient_id").head(1).iloc[::4]
    make_scans(study, rows, n_jobs=2)
    prepare.prepare_scans(study, rows)
    table = segment_scans(study, rows)
    assert (table["verdict"] == "pass").all(), table["findings"].tolist()
    overlaps = []
    for scan_id in rows["scan_id"]:
        truth = prepare.load_array(scan_files(study, scan_id)["lungs"])
        mask = prepare.load_array(study.mask(scan_id))
        overlaps.append(dice(mask > 0, truth > 0))
        assert all(dice(mask == side, truth == side) > 0.93 for side in (1, 2))
    assert np.mean(overlaps) >= 0.97
    assert min(overlaps) >= 0.93
