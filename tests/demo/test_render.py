from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label

from sscct_lib.demo.anatomy import draw_build, make_thorax
from sscct_lib.demo.make import draw_scan
from sscct_lib.demo.patients import demo_cohort
from sscct_lib.demo.render import Protocol, Volume, acquire, render
from sscct_lib.study.settings import DemoSettings

SHARED = Path(__file__).parents[3] / "shared" / "data"
PROTOCOL = Protocol(sharp=False, blur_mm=0.7, noise_hu=15.0, slice_thickness_mm=1.0, inspiration=0.95)


def state(ground_glass=0.0, reticulation=0.0, honeycombing=0.0, emphysema=0.0, hypertension=0.05):
    return {
        "ground_glass": ground_glass,
        "reticulation": reticulation,
        "honeycombing": honeycombing,
        "emphysema": emphysema,
        "hypertension": hypertension,
        "fibrosis": reticulation + honeycombing,
    }


@cache
def scan(
    number: int = 1, spacing_mm: float = 4.0, disease: tuple = (), protocol: Protocol = PROTOCOL, noise: int = 0
) -> Volume:
    return render((2026, number, True), state(*disease), protocol, spacing_mm, [noise])


MILD, SEVERE = (0.05, 0.04, 0.0), (0.12, 0.20, 0.08)


def test_masks_nest():
    volume = scan(disease=SEVERE)
    assert ((volume.lobes > 0) == (volume.lungs > 0)).all()
    assert (np.isin(volume.lobes, (1, 2, 3)) == (volume.lungs == 1)).all()
    assert not volume.lesions[volume.lungs == 0].any()
    assert set(np.unique(volume.lobes)) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_lungs_are_two_pieces_of_plausible_size(number):
    volume = scan(number, disease=MILD)
    for side in (1, 2):
        pieces, n = label(volume.lungs == side)
        assert np.bincount(pieces.ravel())[1:].max() > 0.99 * (volume.lungs == side).sum(), n
    litres = (volume.lungs > 0).sum() * 0.004**3 * 1000
    assert 1.8 < litres < 7
    assert 0.38 < (volume.lungs == 2).sum() / (volume.lungs > 0).sum() < 0.55
    lobes = np.bincount(volume.lobes.ravel(), minlength=6)[1:] / (volume.lungs > 0).sum()
    # The middle lobe is the smallest, a tenth of the lungs or less.
    assert lobes.argmin() == 1
    assert (lobes > 0.03).all()
    assert (lobes < 0.40).all()


def test_fibrosis_lies_at_the_bases_and_under_the_pleura():
    shift = []
    for number in (1, 2, 3):
        volume = scan(number, disease=MILD)
        low = [np.argwhere(mask)[:, 0].mean() for mask in (volume.lesions >= 2, volume.lungs > 0)]
        shift.append((low[1] - low[0]) * 4.0)
    assert min(shift) > 0
    assert np.mean(shift) > 20


def test_volume_hardly_depends_on_the_spacing():
    fine, coarse = ((scan(spacing_mm=size).lungs > 0).sum() * size**3 for size in (3.0, 5.0))
    assert fine == pytest.approx(coarse, rel=0.01)


def test_disease_of_an_earlier_scan_lies_within_that_of_a_later_one():
    early, late = scan(disease=MILD).lesions, scan(disease=SEVERE).lesions
    assert (late[early > 0] > 0).all()
    # Fibrosis stays fibrosis, honeycombing stays honeycombing.
    assert (late[early >= 2] >= 2).all()
    assert (late >= early)[early > 0].all()


def test_extent_is_the_one_asked_for():
    volume = scan(spacing_mm=3.0, disease=(0.15, 0.10, 0.05, 0.04))
    shares = np.bincount(volume.lesions.ravel(), minlength=5)[1:] / (volume.lungs > 0).sum()
    np.testing.assert_allclose(shares, (0.15, 0.10, 0.05, 0.04), atol=0.01)


def test_patterns_have_their_density():
    healthy, ill = scan(spacing_mm=3.0), scan(spacing_mm=3.0, disease=(0.15, 0.10, 0.05, 0.04))
    change = [float((ill.hu - healthy.hu.astype(int))[ill.lesions == kind].mean()) for kind in (1, 2, 3, 4)]
    assert 100 < change[0] < 300
    assert change[1] > change[0] + 50
    assert change[3] < -40


def test_pulmonary_artery_widens_with_hypertension():
    without, with_it = (render((2026, 1, True), state(hypertension=p), PROTOCOL, 3.0, [0]).hu > -30 for p in (0.0, 1.0))
    middle = slice(without.shape[2] // 2 - 20, without.shape[2] // 2 + 20)
    assert with_it[..., middle].sum() > without[..., middle].sum() + 200


def test_deeper_breath_makes_larger_and_darker_lungs():
    deep, shallow = (scan(protocol=Protocol(False, 0.7, 15.0, 1.0, inspiration)) for inspiration in (1.0, 0.85))
    assert (deep.lungs > 0).sum() > 1.12 * (shallow.lungs > 0).sum()
    assert deep.hu[deep.lungs > 0].mean() < shallow.hu[shallow.lungs > 0].mean() - 10


def test_missed_bases_touch_the_edge_of_the_volume():
    whole, cut = scan(), scan(protocol=Protocol(False, 0.7, 15.0, 1.0, 0.95, missed_mm=30.0))
    assert not whole.lungs[0].any()
    assert cut.lungs[0].any()
    assert (cut.lungs > 0).sum() < (whole.lungs > 0).sum()


def test_contrast_brightens_the_heart():
    plain, enhanced = scan(), scan(protocol=Protocol(False, 0.7, 15.0, 1.0, 0.95, contrast=True))
    soft = (plain.hu > 0) & (plain.hu < 90)
    assert (enhanced.hu.astype(int) - plain.hu)[soft].max() > 120
    assert np.median((enhanced.hu.astype(int) - plain.hu)[plain.lungs > 0]) < 5


def noise_of(protocol: Protocol) -> np.ndarray:
    """Noise in a uniform body, on voxels of 1 mm."""
    shape = (20, 60, 60)
    noisy = acquire(np.zeros(shape, np.float32), np.full(shape, -50.0), protocol, 1.0, np.random.default_rng(0))
    return noisy.astype(float)


def test_sharp_kernels_have_finer_grain_and_noise_is_as_strong_as_asked():
    def correlation(noise: np.ndarray) -> float:
        return float(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1])

    soft, sharp = noise_of(PROTOCOL), noise_of(Protocol(True, 0.45, 40.0, 1.0, 0.95))
    assert correlation(soft) > correlation(sharp) + 0.3
    assert soft.std() == pytest.approx(15.0, rel=0.03)
    assert sharp.std() == pytest.approx(40.0, rel=0.03)


def test_thick_slices_blur_along_the_patient():
    point = np.zeros((21, 21, 21), dtype=np.float32)
    point[10, 10, 10] = 10000.0
    thin, thick = (
        acquire(point, np.full(point.shape, -50.0), Protocol(False, 0.7, 0.0, mm, 0.95), 1.0, np.random.default_rng(0))
        for mm in (1.0, 5.0)
    )
    assert thick[:, 10, 10].max() < 0.6 * thin[:, 10, 10].max()
    assert (thick[:, 10, 10] > 5).sum() > (thin[:, 10, 10] > 5).sum()


def test_same_seeds_give_the_same_scan_and_other_noise_the_same_anatomy():
    again = render((2026, 1, True), state(*SEVERE), PROTOCOL, 4.0, [0])
    np.testing.assert_array_equal(again.hu, scan(disease=SEVERE).hu)
    other = render((2026, 1, True), state(*SEVERE), PROTOCOL, 4.0, [1])
    assert (other.hu != again.hu).any()
    np.testing.assert_array_equal(other.lungs, again.lungs)
    np.testing.assert_array_equal(other.lesions, again.lesions)


def test_patients_have_sizes_of_their_own():
    builds = [draw_build(np.random.default_rng(i), female=i % 2 == 0) for i in range(200)]
    heights = {sex: np.mean([b.height for b in builds if b.female == sex]) for sex in (True, False)}
    assert heights[True] < heights[False]
    assert np.std([b.half_width for b in builds]) > 5
    assert all(0.15 < dome < 0.40 for b in builds for dome in b.domes)


def test_vessels_taper_toward_the_pleura():
    thorax = make_thorax(2026, 1, True)
    for tree in (thorax.arteries, thorax.veins):
        assert tree.radius.max() > 3.5
        assert np.percentile(tree.radius, 10) < 0.9
        lateral = np.abs(tree.end[:, 0])
        far, near = lateral > np.percentile(lateral, 75), lateral < np.percentile(lateral, 25)
        assert tree.radius[far].mean() < tree.radius[near].mean()
    assert (thorax.airways.radius < thorax.arteries.radius).all()


@pytest.mark.slow
def test_density_of_the_lungs_is_that_of_two_real_chests():
    # Two public chest CTs without fibrosis: means -795 and -789 HU, 5th percentile -935 and -956, 95th -442 and -331.
    _, truth = demo_cohort(DemoSettings(n_patients=60), 2026)
    mild = truth[(truth.fibrosis < 0.05) & (truth.missed_mm == 0)].groupby("patient_id").head(1).head(8)
    measured = []
    for row in mild.to_dict("records"):
        volume = draw_scan(row, 2026, 2.0)
        lung = volume.hu[volume.lungs > 0]
        measured.append((lung.mean(), *np.percentile(lung, (5, 95))))
    mean, low, high = np.mean(measured, axis=0)
    assert mean == pytest.approx(-792, abs=20)
    assert low == pytest.approx(-945, abs=35)
    assert high == pytest.approx(-400, abs=90)
