"""Trained networks as lung methods: lungmask itself with random weights, and TotalSegmentator's interface.

TotalSegmentator is not installed here: its one function is replaced by one that returns an image in the labels that
it documents, which tests our side of the interface and nothing of the network.
"""

import hashlib
import json
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from sscct_lib.images import prepare
from sscct_lib.lungs import trained
from sscct_lib.lungs.segment import load_lungs, segment_scans
from sscct_lib.lungs.trained import LOBES, SIDE_OF_LOBE, check_method, renamed
from sscct_lib.study.folder import Study, StudyError
from sscct_lib.study.settings import Settings
from tests.lungs.test_segment import Chest, dice, draw_chest, volume


def study_of(tmp_path, chest: Chest, **lungs) -> tuple[Study, pd.DataFrame]:
    settings = {"images": {"spacing_mm": chest.spacing_mm}, "lungs": lungs}
    study = Study(tmp_path, Settings.model_validate(settings))
    rows = pd.DataFrame({"scan_id": ["a1"], "patient_id": ["a"], "image": ["a1.nii.gz"]})
    prepare.write_image(volume(chest.hu, chest.spacing_mm), tmp_path / "a1.nii.gz")
    prepare.prepare_scans(study, rows)
    return study, rows


def random_unet(path, n_classes: int) -> str:
    """Write random weights in the layout of lungmask's published files; gives their SHA-256."""
    from lungmask.resunet import UNet

    torch.manual_seed(0)
    network = UNet(n_classes=n_classes, padding=True, depth=5, up_mode="upsample", batch_norm=True, residual=False)
    # Untrained classes whose scores rise and fall around nought, so that each wins somewhere.
    weight = torch.randn_like(network.last.weight)
    network.load_state_dict(
        {
            **network.state_dict(),
            "last.weight": weight - weight.mean(dim=1, keepdim=True),
            "last.bias": torch.zeros(n_classes),
        }
    )
    torch.save(network.state_dict(), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestLungmask:
    @pytest.mark.slow
    @pytest.mark.parametrize("n_classes", [3, 6], ids=["R231", "LTRCLobes"])
    def test_labels_are_those_of_lungmask_itself(self, tmp_path, n_classes):
        from lungmask import LMInferer

        random_unet(tmp_path / "unet.pth", n_classes)
        image = volume(draw_chest(8.0).hu[18:20], 8.0)
        settings = Settings.model_validate({"lungs": {"lungmask_weights": "unet.pth"}}).lungs
        found = trained.apply_method("lungmask", image, settings, tmp_path)
        expected = LMInferer(modelpath=str(tmp_path / "unet.pth"), tqdm_disable=True).apply(image)
        assert len(np.unique(expected)) > 1
        mask = sitk.GetArrayFromImage(found.mask)
        if n_classes == 3:
            assert (mask == expected).all()
            assert found.lobes is None
        else:
            # As lungmask documents: 1 left upper, 2 left lower, 3 right upper, 4 right middle, 5 right lower.
            assert (sitk.GetArrayFromImage(found.lobes) == np.array([0, 4, 5, 1, 2, 3])[expected]).all()
            assert (mask == np.array([0, 2, 2, 1, 1, 1])[expected]).all()

    def test_another_file_than_meant(self, tmp_path):
        random_unet(tmp_path / "unet.pth", 3)
        lungs = {"lungmask_weights": "unet.pth", "lungmask_sha256": "0" * 64}
        settings = Settings.model_validate({"lungs": lungs}).lungs
        with pytest.raises(StudyError, match=r"unet\.pth has SHA-256 .*, study\.yaml says 000"):
            check_method("lungmask", settings, tmp_path)

    @pytest.mark.parametrize(
        ("lungs", "words"),
        [
            ({}, "needs lungmask_weights"),
            ({"lungmask_weights": "unet.pth"}, "lungmask_sha256"),
            ({"lungmask_weights": "unet.pth", "lungmask_sha256": "0" * 64}, r"unet\.pth is missing"),
        ],
    )
    def test_weights_that_are_not_there(self, tmp_path, lungs, words):
        with pytest.raises(StudyError, match=words):
            check_method("lungmask", Settings.model_validate({"lungs": lungs}).lungs, tmp_path)

    def test_a_network_of_other_classes(self, tmp_path):
        random_unet(tmp_path / "unet.pth", 4)
        with pytest.raises(StudyError, match="tells 4 classes apart, expected 3 or 6"):
            trained.apply_method(
                "lungmask",
                volume(draw_chest(8.0).hu, 8.0),
                Settings.model_validate({"lungs": {"lungmask_weights": "unet.pth"}}).lungs,
                tmp_path,
            )


def test_a_package_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"not installed. Install it with `pip install sscct\[lungmask\]`"):
        check_method("lungmask", Settings().lungs, tmp_path)


@pytest.fixture
def totalsegmentator(monkeypatch, tmp_path):
    """Put a function with TotalSegmentator's interface in its place; `lobes` is what it finds, as [z, y, x]."""
    import nibabel

    package, api = ModuleType("totalsegmentator"), ModuleType("totalsegmentator.python_api")
    found: dict = {}

    def totalsegmentator(input, output=None, ml=False, roi_subset=None, quiet=False):
        found["roi_subset"] = roi_subset
        return nibabel.Nifti1Image(found["lobes"].transpose(2, 1, 0).astype(np.uint8), nibabel.load(input).affine)

    api.totalsegmentator = totalsegmentator
    monkeypatch.setitem(sys.modules, "totalsegmentator", package)
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", api)
    monkeypatch.setattr(trained, "find_spec", lambda name: package)
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", "")
    monkeypatch.setenv("TOTALSEG_HOME_DIR", "")
    for part in ("Dataset291_TotalSegmentator_part1_organs_1559subj", "Dataset298_TotalSegmentator_total_6mm_1559subj"):
        (tmp_path / "weights" / part).mkdir(parents=True)
        (tmp_path / "weights" / part / "checkpoint_final.pth").write_text(part)
    monkeypatch.setenv(trained.TRUSTED_WEIGHTS, trained._sha256_of(tmp_path / "weights"))
    return found


def five_lobes(chest: Chest) -> np.ndarray:
    """Cut the lungs of a drawn chest in lobes, in TotalSegmentator's labels (10 left upper … 14 right lower)."""
    z = np.indices(chest.truth.shape)[0] * chest.spacing_mm
    right = np.select([z > 200, z > 150], [12, 13], 14)
    left = np.where(z > 170, 10, 11)
    return np.where(chest.truth == 1, right, np.where(chest.truth == 2, left, 0))


class TestTotalSegmentator:
    def test_lobes_become_lungs_and_are_kept(self, tmp_path, totalsegmentator):
        chest = draw_chest()
        totalsegmentator["lobes"] = five_lobes(chest)
        study, rows = study_of(tmp_path, chest, method="totalsegmentator", totalsegmentator_weights="weights")
        table = segment_scans(study, rows)
        assert table["verdict"].tolist() == ["pass"], table["findings"].tolist() + table["reason"].tolist()
        _, mask = load_lungs(study, "a1")
        assert (sitk.GetArrayFromImage(mask) == chest.truth).all()
        lobes = prepare.load_array(study.lobes("a1"))
        assert (SIDE_OF_LOBE[lobes] == chest.truth).all()
        assert len(totalsegmentator["roi_subset"]) == len(LOBES)
        heights = {name: np.nonzero(lobes == label)[0].mean() for label, name in LOBES.items()}
        assert heights["right upper"] > heights["right middle"] > heights["right lower"]
        assert heights["left upper"] > heights["left lower"]

    def test_nothing_is_reported_to_anybody(self, tmp_path, totalsegmentator):
        chest = draw_chest(8.0)
        totalsegmentator["lobes"] = five_lobes(chest)
        study, rows = study_of(tmp_path, chest, method="totalsegmentator", totalsegmentator_weights="weights")
        segment_scans(study, rows)
        assert json.loads((tmp_path / "weights" / "config.json").read_text())["send_usage_stats"] is False

    def test_a_missing_lobe_is_flagged(self, tmp_path, totalsegmentator):
        chest = draw_chest()
        lobes = five_lobes(chest)
        lobes[lobes == 13] = 14
        totalsegmentator["lobes"] = lobes
        study, rows = study_of(tmp_path, chest, method="totalsegmentator", totalsegmentator_weights="weights")
        (row,) = segment_scans(study, rows).to_dict("records")
        assert row["verdict"] == "review"
        assert row["flags"] == "smallest_lobe_share"

    def test_two_methods_side_by_side(self, tmp_path, totalsegmentator):
        chest = draw_chest()
        lobes = five_lobes(chest)
        lobes[:45] = 0
        totalsegmentator["lobes"] = lobes
        study, rows = study_of(tmp_path, chest, compare_with="totalsegmentator", totalsegmentator_weights="weights")
        (row,) = segment_scans(study, rows).to_dict("records")
        mask = prepare.load_array(study.mask("a1"))
        agree = 2 * np.count_nonzero(
            (mask > 0) & (mask == SIDE_OF_LOBE[renamed(lobes, {10: 4, 11: 5, 12: 1, 13: 2, 14: 3})])
        )
        total = np.count_nonzero(mask) + np.count_nonzero(lobes)
        assert row["agreement_dice"] == pytest.approx(agree / total)
        assert dice(mask > 0, chest.truth > 0) > 0.97  # the first method's mask is the one that counts
        assert row["flags"] == "agreement_dice"
        assert float(row["place_mm"].split()[2]) < 45 * 4.0
        assert not study.lobes("a1").exists()

    @pytest.mark.parametrize("change", ["other word", "no word", "other file", "further file"])
    def test_weights_that_the_user_does_not_vouch_for(self, tmp_path, monkeypatch, totalsegmentator, change):
        settings = Settings.model_validate({"lungs": {"totalsegmentator_weights": "weights"}}).lungs
        check_method("totalsegmentator", settings, tmp_path)
        (checkpoint,) = (tmp_path / "weights").glob("Dataset298_*/checkpoint_final.pth")
        if change == "other word":
            monkeypatch.setenv(trained.TRUSTED_WEIGHTS, "0" * 64)
        elif change == "no word":
            monkeypatch.delenv(trained.TRUSTED_WEIGHTS)
        elif change == "other file":
            checkpoint.write_text("a program")
        else:
            (checkpoint.parent / "plans.json").write_text("{}")
        with pytest.raises(StudyError, match=rf"export {trained.TRUSTED_WEIGHTS}=[0-9a-f]{{64}}$"):
            check_method("totalsegmentator", settings, tmp_path)

    def test_weights_that_are_not_there(self, tmp_path, totalsegmentator):
        (tmp_path / "empty").mkdir()
        for lungs, words in (
            ({}, "needs totalsegmentator_weights"),
            ({"totalsegmentator_weights": "empty"}, "no Data"),
        ):
            with pytest.raises(StudyError, match=words):
                check_method("totalsegmentator", Settings.model_validate({"lungs": lungs}).lungs, tmp_path)
