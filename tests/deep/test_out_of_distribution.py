"""What is built on trained networks, on a small study: embeddings, flags of unusual scans, longitudinal models."""

import re

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from sscct_lib.cohort.outcomes import patient_weights
from sscct_lib.deep import cross_validation, cubes, longitudinal, out_of_distribution, prediction, tables
from sscct_lib.deep.prediction import fit_projection
from sscct_lib.images.prepare import write_image
from sscct_lib.study.folder import StudyError
from tests.deep.test_cross_validation import TINY, small, study_in

HU = (-1024.0, 600.0)


def cube_of(level, size=16, fill=slice(2, 14)):
    cube = np.zeros((size,) * 3, dtype=np.float16)
    cube[fill, fill, fill] = (np.asarray(level) - HU[0]) / (HU[1] - HU[0])
    return cube


def test_projection_is_that_of_principal_components():
    rng = np.random.default_rng(0)
    embedded = (rng.standard_normal((40, 6)) * np.arange(1, 7)).astype(np.float32)
    found = fit_projection(embedded, np.ones(40), 3)
    standard = (embedded - embedded.mean(0)) / embedded.std(0)
    expected = PCA(3, whiten=True, svd_solver="full").fit_transform(standard) * np.sqrt(40 / 39)
    np.testing.assert_allclose(np.abs(found.scores(embedded)), np.abs(expected), atol=1e-4)
    assert fit_projection(embedded[:3], np.ones(3), 6).components.shape == (2, 6)


def test_patients_count_once():
    rng = np.random.default_rng(0)
    embedded = rng.standard_normal((10, 4)).astype(np.float32)
    patients = pd.Series([f"p{i}" for i in range(10)])
    more = np.concatenate([embedded, embedded[:1], embedded[:1]])
    weights = patient_weights(pd.concat([patients, patients[:1], patients[:1]], ignore_index=True))
    assert weights.mean() == pytest.approx(1)
    one, three = fit_projection(embedded, np.ones(10), 2), fit_projection(more, weights, 2)
    np.testing.assert_allclose(np.abs(three.components), np.abs(one.components), atol=1e-5)


def test_distance_is_mahalanobis():
    rng = np.random.default_rng(0)
    embedded = rng.standard_normal((200, 5)).astype(np.float32)
    measures = pd.DataFrame(
        rng.standard_normal((200, len(out_of_distribution.MEASURES))), columns=list(out_of_distribution.MEASURES)
    )
    reference = out_of_distribution.fit_reference(embedded, measures, pd.Series([f"p{i}" for i in range(200)]))
    scores = reference.projection.scores(embedded)
    np.testing.assert_allclose(reference.distances(embedded) ** 2, LedoitWolf().fit(scores).mahalanobis(scores))
    # A rotation and another scale of the features change nothing but rounding.
    turned = embedded @ np.linalg.qr(rng.standard_normal((5, 5)))[0].astype(np.float32) * 3
    again = out_of_distribution.fit_reference(turned, measures, pd.Series([f"p{i}" for i in range(200)]))
    assert np.corrcoef(again.distances(turned), reference.distances(embedded))[0, 1] > 0.99


def test_ordinary_scans_are_flagged_at_the_nominal_rate_and_others_always():
    rng = np.random.default_rng(5)
    rates, odd = [], []
    for _ in range(20):
        n, n_features = 150, 40
        mixing = rng.standard_normal((8, n_features))
        patients = pd.Series(np.repeat([f"p{i}" for i in range(n // 2)], 2))
        own = np.repeat(rng.standard_normal((n // 2, 8)), 2, axis=0)  # scans of a patient are alike
        embedded = ((own + 0.3 * rng.standard_normal((n, 8))) @ mixing).astype(np.float32)
        embedded += 0.1 * rng.standard_normal(embedded.shape).astype(np.float32)
        measures = pd.DataFrame(
            rng.standard_normal((n, len(out_of_distribution.MEASURES))), columns=list(out_of_distribution.MEASURES)
        )
        fold = np.repeat(np.arange(n // 2) % 3, 2)
        distance = np.empty(n)
        for one in range(3):
            reference = out_of_distribution.fit_reference(
                embedded[fold != one], measures[fold != one], patients[fold != one]
            )
            distance[fold == one] = reference.distances(embedded[fold == one])
        limits = [out_of_distribution.threshold(distance[fold != one], patients[fold != one], 0.1) for one in range(3)]
        rates.append(np.mean(distance > np.array(limits)[fold]))
        odd.append(np.mean(reference.distances(embedded[fold == 2] + 8 * mixing[0].astype(np.float32)) > limits[2]))
    assert np.mean(rates) == pytest.approx(0.1, abs=0.03)
    assert np.mean(odd) > 0.98


def test_threshold_by_hand():
    patients = pd.Series([f"p{i}" for i in range(19)])
    assert out_of_distribution.threshold(np.arange(19.0), patients, 0.05) == 18
    assert out_of_distribution.threshold(np.arange(19.0), patients, 0.1) == 17
    # With fewer patients no distance is rare enough.
    assert out_of_distribution.threshold(np.arange(18.0), patients[:18], 0.05) == np.inf
    # One patient with many far scans moves it no further than one.
    many = pd.Series([*patients, *["p18"] * 50])
    assert out_of_distribution.threshold(np.append(np.arange(19.0), np.full(50, 99.0)), many, 0.1) == 17


def test_measures_of_a_known_cube_and_their_words():
    found = out_of_distribution.measure(cube_of(-800), HU)
    assert found["density"] == pytest.approx(-800, abs=1)
    assert found["contrast"] == pytest.approx(0, abs=0.5)
    assert found["dense_percent"] == 0
    assert found["fill_percent"] == pytest.approx(100 * 12**3 / 16**3)
    assert found["left_percent"] == found["upper_percent"] == 50
    assert out_of_distribution.measure(np.zeros((4, 4, 4), dtype=np.float16), HU) == dict.fromkeys(
        out_of_distribution.MEASURES, 0.0
    )
    ordinary = np.array([[-900.0, 0, 0, 20, 45, 45], [-600.0, 300, 5, 60, 55, 55]])
    measures = pd.DataFrame([found, out_of_distribution.measure(cube_of(40), HU)])
    texts = out_of_distribution.reasons(measures, ordinary)
    assert texts[0] == "no single measure is unusual; the pattern as a whole is"
    assert "lungs denser: 40 HU (training scans -900 to -600)" in texts[1]
    assert "more lung above -300 HU: 100 % (training scans 0 to 5)" in texts[1]


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
        for module in (cross_validation, prediction):
            patch.setattr(module, "build", small)
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
    cross_validation.cross_validate(study, cohort, ["swin"])
    return study, cohort, out_of_distribution.flag_all(study, ["swin"], cohort)


def test_ordinary_scans_are_flagged_at_about_the_nominal_rate(trained):
    study, cohort, flagged = trained
    assert set(flagged["scan_id"]) == set(cohort["scan_id"])
    assert np.isfinite(flagged["threshold"]).all()
    assert flagged["unusual"].mean() <= 0.15
    assert (flagged["unusual"] == (flagged["reasons"] != "")).all()
    assert flagged.groupby("fold")["threshold"].nunique().tolist() == [1, 1]
    counted = tables.flag_counts(flagged, study.settings.deep.unusual_share)
    assert counted.loc["Swin Transformer", "Scans"] == 2 * N
    assert len(tables.flagged_scans(flagged)) == flagged["unusual"].sum()


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
    found = out_of_distribution.flag_new(study, "swin", new, scans).set_index("scan_id")
    assert "gone" not in found.index
    missed = [name for i, name in enumerate(odd) if not found.loc[f"odd{i}", "unusual"]]
    assert missed == []
    assert found["unusual"].filter(like="plain").mean() <= 0.1
    assert "lungs denser" in found.loc["odd2", "reasons"]
    assert re.search(r"more lung above -300 HU: [89]\d %", found.loc["odd2", "reasons"])


def test_embeddings_are_read_again_and_made_anew_for_another_model(trained):
    study, cohort, _ = trained
    scans = cubes.with_cubes(study, cohort, cubes.view_of(study, "swin"))
    path = study.run / "embeddings" / "swin_fold0.safetensors"
    before = path.stat().st_mtime_ns
    first = prediction.embed(study, "swin", 0, study, scans)
    assert path.stat().st_mtime_ns == before
    features = prediction.encode(
        prediction.fold_model(study, "swin", 0),
        [cubes.cube_path(study, scan, cubes.view_of(study, "swin")) for scan in cohort["scan_id"]],
    )
    np.testing.assert_allclose(first, features.numpy(), atol=1e-5)
    assert not np.allclose(prediction.embed(study, "swin", 1, study, scans), first)
    assert prediction.embed(study, "swin", 0, study, scans[:3]).shape == (3, 8)
    assert path.stat().st_mtime_ns != before
    path.write_bytes(b"damaged")
    np.testing.assert_array_equal(prediction.embed(study, "swin", 0, study, scans), first)


def test_longitudinal_risks_are_out_of_fold_saved_and_never_of_later_scans(trained):
    study, cohort, _ = trained
    risks = longitudinal.cross_validate_all(study, ["swin"], cohort)
    assert set(risks["model"]) == {"Swin Transformer (from scratch), longitudinal"}
    assert len(risks) == 2 * N * 3
    wide = risks.pivot(index="scan_id", columns="horizon_years", values="risk")
    assert (wide.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    again = longitudinal.cross_validate_all(study, ["swin"], cohort)
    pd.testing.assert_frame_equal(risks, again)


def test_outcomes_of_the_tested_fold_change_nothing_there(trained):
    study, cohort, _ = trained
    before = longitudinal.cross_validate(study, "swin", cohort)
    tested = cohort["fold"] == 0
    outcome = ["followup_years", "event_observed"]
    turned = cohort.copy()  # as many deaths, of others: which horizons can be learned stays the same
    turned.loc[tested, outcome] = np.roll(cohort.loc[tested, outcome].to_numpy(), 3, axis=0)
    turned = turned.astype(cohort.dtypes[outcome].to_dict())
    after = longitudinal.cross_validate(study, "swin", turned)
    pd.testing.assert_frame_equal(before[before["fold"] == 0], after[after["fold"] == 0])
    assert not before[before["fold"] == 1].equals(after[after["fold"] == 1])


def test_without_models_it_is_said_what_to_run(tmp_path):
    study = study_in(tmp_path)
    scans = pd.DataFrame({"scan_id": ["a"], "patient_id": ["p"], "scan_day": [0]})
    with pytest.raises(StudyError, match=r"unusual to Swin Transformer.*flag_unusual: true"):
        out_of_distribution.flag_new(study, "swin", study, scans)
    off = study_in(tmp_path, swin=TINY.model_copy(update={"flag_unusual": False}))
    assert out_of_distribution.flag_all(off, ["swin"], scans).empty
    assert longitudinal.cross_validate_all(off, ["swin"], scans).empty
