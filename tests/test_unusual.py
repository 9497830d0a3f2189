import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from sscct_lib import unusual
from sscct_lib.cohort import patient_weights
from sscct_lib.embeddings import fit_projection

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
    measures = pd.DataFrame(rng.standard_normal((200, len(unusual.MEASURES))), columns=list(unusual.MEASURES))
    reference = unusual.fit_reference(embedded, measures, pd.Series([f"p{i}" for i in range(200)]))
    scores = reference.projection.scores(embedded)
    np.testing.assert_allclose(reference.distances(embedded) ** 2, LedoitWolf().fit(scores).mahalanobis(scores))
    # A rotation and another scale of the features change nothing but rounding.
    turned = embedded @ np.linalg.qr(rng.standard_normal((5, 5)))[0].astype(np.float32) * 3
    again = unusual.fit_reference(turned, measures, pd.Series([f"p{i}" for i in range(200)]))
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
        measures = pd.DataFrame(rng.standard_normal((n, len(unusual.MEASURES))), columns=list(unusual.MEASURES))
        fold = np.repeat(np.arange(n // 2) % 3, 2)
        distance = np.empty(n)
        for one in range(3):
            reference = unusual.fit_reference(embedded[fold != one], measures[fold != one], patients[fold != one])
            distance[fold == one] = reference.distances(embedded[fold == one])
        limits = [unusual.threshold(distance[fold != one], patients[fold != one], 0.1) for one in range(3)]
        rates.append(np.mean(distance > np.array(limits)[fold]))
        odd.append(np.mean(reference.distances(embedded[fold == 2] + 8 * mixing[0].astype(np.float32)) > limits[2]))
    assert np.mean(rates) == pytest.approx(0.1, abs=0.03)
    assert np.mean(odd) > 0.98


def test_threshold_by_hand():
    patients = pd.Series([f"p{i}" for i in range(19)])
    assert unusual.threshold(np.arange(19.0), patients, 0.05) == 18
    assert unusual.threshold(np.arange(19.0), patients, 0.1) == 17
    # With fewer patients no distance is rare enough.
    assert unusual.threshold(np.arange(18.0), patients[:18], 0.05) == np.inf
    # One patient with many far scans moves it no further than one.
    many = pd.Series([*patients, *["p18"] * 50])
    assert unusual.threshold(np.append(np.arange(19.0), np.full(50, 99.0)), many, 0.1) == 17


def test_measures_of_a_known_cube_and_their_words():
    found = unusual.measure(cube_of(-800), HU)
    assert found["density"] == pytest.approx(-800, abs=1)
    assert found["contrast"] == pytest.approx(0, abs=0.5)
    assert found["dense_percent"] == 0
    assert found["fill_percent"] == pytest.approx(100 * 12**3 / 16**3)
    assert found["left_percent"] == found["upper_percent"] == 50
    assert unusual.measure(np.zeros((4, 4, 4), dtype=np.float16), HU) == dict.fromkeys(unusual.MEASURES, 0.0)
    ordinary = np.array([[-900.0, 0, 0, 20, 45, 45], [-600.0, 300, 5, 60, 55, 55]])
    measures = pd.DataFrame([found, unusual.measure(cube_of(40), HU)])
    texts = unusual.reasons(measures, ordinary)
    assert texts[0] == "no single measure is unusual; the pattern as a whole is"
    assert "lungs denser: 40 HU (training scans -900 to -600)" in texts[1]
    assert "more dense lung (above -300 HU): 100 % (training scans 0 to 5)" in texts[1]
