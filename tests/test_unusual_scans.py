"""What is built on trained networks, on a small study: embeddings, flags of unusual scans, longitudinal models."""

import re

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from sscct_lib import deep_tables, embeddings, longitudinal_models, training, unusual_scans
from sscct_lib.images import write_image
from sscct_lib.study import StudyError
from tests.test_training import TINY, small, study_in

N = 44  # patients, each with two scans


def write_scan(study, scan_id, lungs, seed=0):
    """Two lungs in soft tissue; `lungs` gives their densities from noise of the shape (10, 12, 14)."""
    mask = np.zeros((10, 12, 14), dtype=np.uint8)
    mask[2:8, 2:10, 2:6], mask[2:8, 2:10, 8:12] = 1, 2
    noise = np.random.default_rng(seed).standard_normal(mask.shape)
    image = np.where(mask > 0, lungs(noise), 40)
    write_image(sitk.GetImageFromArray(image.astype(np.int16)), study.image(scan_id))
    write_image(sitk.GetImageFromArray(mask), study.mask(scan_id))


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build", small)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    study = study_in(tmp_path_factory.mktemp("trained"), swin=TINY.model_copy(update={"longitudinal": True}))
    rng = np.random.default_rng(1)
    level, spread = rng.normal(-800, 40, 2 * N), rng.uniform(30, 60, 2 * N)
    died = np.repeat(rng.random(N) < 0.4, 2)
    level[died] += 60
    for i in range(2 * N):
        write_scan(study, f"s{i}", lambda noise, i=i: level[i] + spread[i] * noise, i)
    cohort = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(2 * N)],
            "patient_id": [f"p{i // 2}" for i in range(2 * N)],
            "scan_day": np.tile([0, 400], N),
            "followup_years": np.where(died, 0.5 + np.arange(2 * N) % 5, 7.0),
            "event_observed": died,
            "fold": np.arange(2 * N) // 2 % 2,
        }
    )
    training.cross_validate(study, cohort, ["swin"])
    return study, cohort, unusual_scans.flag_all(study, ["swin"], cohort)


def test_ordinary_scans_are_flagged_at_about_the_nominal_rate(trained):
    study, cohort, flagged = trained
    assert set(flagged["scan_id"]) == set(cohort["scan_id"])
    assert np.isfinite(flagged["threshold"]).all()
    assert flagged["unusual"].mean() <= 0.15
    assert (flagged["unusual"] == (flagged["reasons"] != "")).all()
    assert flagged.groupby("fold")["threshold"].nunique().tolist() == [1, 1]
    counted = deep_tables.flags(flagged, study.settings.deep.unusual_share)
    assert counted.loc["Swin Transformer", "Scans"] == 2 * N
    assert len(deep_tables.flagged_in_words(flagged)) == flagged["unusual"].sum()


def test_planted_odd_scans_are_flagged_and_ordinary_new_ones_hardly(trained, tmp_path):
    study, _, _ = trained
    new = study_in(tmp_path)
    odd = {
        "inverted": lambda noise: -224 - (-800 + 40 * noise),  # as 1 - density on the scale of 0 to 1
        "shifted": lambda noise: -400 + 40 * noise,
        "abdomen": lambda noise: 40 + 15 * noise,
        "air": lambda noise: -1000 + 0 * noise,
        "noisy": lambda noise: -800 + 600 * noise,
    }
    for i, lungs in enumerate(odd.values()):
        write_scan(new, f"odd{i}", lungs, 100 + i)
    for i in range(20):
        write_scan(new, f"plain{i}", lambda noise: -800 + 45 * noise, 200 + i)
    names = [*(f"odd{i}" for i in range(len(odd))), *(f"plain{i}" for i in range(20)), "gone"]
    scans = pd.DataFrame({"scan_id": names, "patient_id": names})
    found = unusual_scans.flag_new(study, "swin", new, scans).set_index("scan_id")
    assert "gone" not in found.index
    missed = [name for i, name in enumerate(odd) if not found.loc[f"odd{i}", "unusual"]]
    assert missed == []
    assert found["unusual"].filter(like="plain").mean() <= 0.1
    assert "lungs denser" in found.loc["odd2", "reasons"]
    assert re.search(r"more dense lung \(above -300 HU\): [89]\d %", found.loc["odd2", "reasons"])


def test_embeddings_are_read_again_and_made_anew_for_another_model(trained):
    study, cohort, _ = trained
    path = study.run / "embeddings" / "swin_fold0.safetensors"
    before = path.stat().st_mtime_ns
    first = embeddings.embed(study, "swin", 0, study, cohort)
    assert path.stat().st_mtime_ns == before
    features = training.encode(
        training.fold_model(study, "swin", 0),
        [training.cube_path(study, scan, 32, study.settings.deep.hu_range) for scan in cohort["scan_id"]],
    )
    np.testing.assert_allclose(first, features.numpy(), atol=1e-5)
    assert not np.allclose(embeddings.embed(study, "swin", 1, study, cohort), first)
    assert embeddings.embed(study, "swin", 0, study, cohort[:3]).shape == (3, 8)
    assert path.stat().st_mtime_ns != before
    path.write_bytes(b"damaged")
    np.testing.assert_array_equal(embeddings.embed(study, "swin", 0, study, cohort), first)


def test_longitudinal_risks_are_out_of_fold_saved_and_never_of_later_scans(trained):
    study, cohort, _ = trained
    risks = longitudinal_models.cross_validate_all(study, ["swin"], cohort)
    assert set(risks["model"]) == {"Swin Transformer (from scratch), longitudinal"}
    assert len(risks) == 2 * N * 3
    wide = risks.pivot(index="scan_id", columns="horizon_years", values="risk")
    assert (wide.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    # First scans have no history: without the second ones, their risks are the same.
    first = cohort[cohort["scan_day"] == 0].reset_index(drop=True)
    alone = longitudinal_models.predict_new(study, "swin", study, first).set_index(["scan_id", "horizon_years"])
    both = longitudinal_models.predict_new(study, "swin", study, cohort).set_index(["scan_id", "horizon_years"])
    np.testing.assert_allclose(both.loc[alone.index, "risk"], alone["risk"], atol=1e-6)
    assert (both["risk_sd"] > 0).all()
    again = longitudinal_models.cross_validate_all(study, ["swin"], cohort)
    pd.testing.assert_frame_equal(risks, again)


def test_outcomes_of_the_tested_fold_change_nothing_there(trained):
    study, cohort, _ = trained
    before = longitudinal_models.cross_validate(study, "swin", cohort)
    tested = cohort["fold"] == 0
    turned = cohort.assign(event_observed=cohort["event_observed"] ^ tested)
    after = longitudinal_models.cross_validate(study, "swin", turned)
    pd.testing.assert_frame_equal(before[before["fold"] == 0], after[after["fold"] == 0])
    assert not before[before["fold"] == 1].equals(after[after["fold"] == 1])


def test_without_models_it_is_said_what_to_run(tmp_path):
    study = study_in(tmp_path)
    scans = pd.DataFrame({"scan_id": ["a"], "patient_id": ["p"], "scan_day": [0]})
    with pytest.raises(StudyError, match=r"unusual to Swin Transformer.*flag_unusual: true"):
        unusual_scans.flag_new(study, "swin", study, scans)
    with pytest.raises(StudyError, match=r"holds no longitudinal models.*longitudinal: true"):
        longitudinal_models.predict_new(study, "swin", study, scans)
    off = study_in(tmp_path, swin=TINY.model_copy(update={"flag_unusual": False}))
    assert unusual_scans.flag_all(off, ["swin"], scans).empty
    assert longitudinal_models.cross_validate_all(off, ["swin"], scans).empty
