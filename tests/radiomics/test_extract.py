import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from sscct_lib.radiomics import extract as radiomic_extract
from sscct_lib.radiomics import tables as radiomic_tables
from sscct_lib.radiomics.extract import extract, extract_scans, resample, settings_hash
from sscct_lib.radiomics.filters import image_types
from sscct_lib.study import schemas, tables
from sscct_lib.study.folder import Study, StudyError, load_study
from sscct_lib.study.results import ScanError
from sscct_lib.study.runs import changed
from sscct_lib.study.settings import RadiomicsSettings
from sscct_lib.study.words import feature_name

SETTINGS = RadiomicsSettings(spacing_mm=4.0)


def with_settings(study: Study, **sections: object) -> Study:
    """Give the run with other settings, as if study.yaml had been edited."""
    return Study(study.folder, changed(study, sections).settings)


def volume(array: np.ndarray, spacing: float = 4.0) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([spacing] * 3)
    return image


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray]:
    """Densities and two box-shaped lungs, 1 right and 2 left."""
    hu = np.random.default_rng(1).normal(-800, 120, (14, 16, 22)).astype(np.int16)
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[2:12, 3:13, 2:9], lungs[2:12, 3:13, 12:20] = 1, 2
    return hu, lungs


def test_a_scan_gives_every_feature(scan) -> None:
    features = extract(volume(scan[0]), volume(scan[1]), SETTINGS)
    names = list(features)
    assert sum(name.startswith("original_") for name in names) == 107
    assert all(np.isfinite(value) for value in features.values())
    assert features["original_shape_VoxelVolume"] / 1e6 == pytest.approx(features["qct_volume_l"])
    assert features["original_firstorder_Mean"] == pytest.approx(features["qct_mean_hu"])


def test_features_agree_with_pyradiomics_run_by_its_own_extractor(scan) -> None:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    hu, lungs = scan
    extractor = RadiomicsFeatureExtractor(binWidth=SETTINGS.bin_width)
    extractor.settings["additionalInfo"] = False
    theirs = extractor.execute(
        volume(np.clip(hu, *map(int, SETTINGS.hu_range)).astype(np.int16)), volume((lungs > 0).astype(np.uint8))
    )
    ours = extract(volume(hu), volume(lungs), SETTINGS)
    assert {name: float(value) for name, value in theirs.items()} == pytest.approx(
        {name: value for name, value in ours.items() if name.startswith("original_")}, rel=1e-9
    )


def test_densities_beyond_the_range_are_clipped(scan) -> None:
    hu, lungs = scan
    metal = hu.copy()
    metal[5, 5, 5] = 3000
    features = extract(volume(metal), volume(lungs), SETTINGS)
    assert features["original_firstorder_Maximum"] == 600


def test_resampling_keeps_position_and_volume() -> None:
    """A ball keeps its centre and its volume, because the grids share a corner."""
    z, y, x = np.indices((40, 40, 40))
    ball = (((z - 20) ** 2 + (y - 18) ** 2 + (x - 22) ** 2) < 144).astype(np.uint8)
    image = volume(ball.astype(np.int16) * 100, 1.5)
    new, mask = resample(image, volume(ball, 1.5), 2.0)
    assert new.GetSpacing() == (2.0, 2.0, 2.0)
    assert mask.GetSize() == new.GetSize() == (30, 30, 30)
    where = np.argwhere(sitk.GetArrayFromImage(mask)).mean(axis=0)[::-1]
    centre = new.TransformContinuousIndexToPhysicalPoint(where.tolist())
    assert centre == pytest.approx((33.0, 27.0, 30.0), abs=0.2)
    assert sitk.GetArrayFromImage(mask).sum() * 8 == pytest.approx(ball.sum() * 1.5**3, rel=0.03)


def test_a_fitting_spacing_is_left_alone(scan) -> None:
    image, lungs = volume(scan[0]), volume(scan[1])
    assert resample(image, lungs, 4.0) == (image, lungs)


def empty(hu: np.ndarray, lungs: np.ndarray) -> None:
    lungs[:] = 0


def one_voxel(hu: np.ndarray, lungs: np.ndarray) -> None:
    lungs[:] = 0
    lungs[5, 5, 5] = 1


def line(hu: np.ndarray, lungs: np.ndarray) -> None:
    lungs[:] = 0
    lungs[2:9, 5, 5] = 1


def one_grey_level(hu: np.ndarray, lungs: np.ndarray) -> None:
    hu[:] = -800


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (empty, "mask is empty"),
        (one_voxel, "one voxel"),
        (line, "a line of voxels"),
        (one_grey_level, "one grey level"),
    ],
)
def test_a_region_without_texture_is_refused(scan, spoil, words: str) -> None:
    spoil(*scan)
    with pytest.raises(ScanError, match=words):
        extract(volume(scan[0]), volume(scan[1]), SETTINGS)


def test_another_grid_is_refused(scan) -> None:
    hu, lungs = scan
    with pytest.raises(ScanError, match="differ in size"):
        extract(volume(hu), volume(lungs[:-1]), SETTINGS)
    with pytest.raises(ScanError, match="differ in spacing"):
        extract(volume(hu), volume(lungs, 3.0), SETTINGS)
    moved = volume(lungs)
    moved.SetOrigin((0, 0, 10))
    with pytest.raises(ScanError, match="differ in origin"):
        extract(volume(hu), moved, SETTINGS)
    with pytest.raises(ScanError, match="3-D"):
        extract(volume(hu[0]), volume(lungs[0]), SETTINGS)


def test_a_voxel_that_is_no_number_is_refused(scan) -> None:
    hu = scan[0].astype(np.float32)
    hu[3, 3, 3] = np.nan
    with pytest.raises(ScanError, match="not a number"):
        extract(volume(hu), volume(scan[1]), SETTINGS)


@pytest.fixture
def study(tmp_path: Path, scan):
    """A study of four scans: sound, without mask, with an empty mask, and of one grey level."""
    (tmp_path / "study.yaml").write_text("images: {spacing_mm: 4}\nradiomics: {spacing_mm: 4}\n")
    study = load_study(tmp_path)
    hu, lungs = scan
    made = {"ok": (hu, lungs), "nomask": (hu, None), "empty": (hu, lungs * 0), "flat": (hu * 0 - 800, lungs)}
    for name, (image, mask) in made.items():
        for array, path in ((image, study.image(name)), (mask, study.mask(name))):
            path.parent.mkdir(parents=True, exist_ok=True)
            if array is not None:
                sitk.WriteImage(volume(array), str(path))
    return study


def rows(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"scan_id": names, "patient_id": "p", "verdict": "pass"})


def test_bad_scans_are_set_aside_with_a_reason_and_the_rest_go_on(study) -> None:
    table = extract_scans(study, rows("ok", "nomask", "empty", "flat"))
    tables.write_table(table, study, "radiomics", schemas.RADIOMICS)
    table = tables.read_table(study, "radiomics", schemas.RADIOMICS).set_index("scan_id")
    assert table["status"].to_dict() == {"ok": "ok", "nomask": "failed", "empty": "failed", "flat": "failed"}
    assert "empty" in table.loc["empty", "reason"]
    assert "grey level" in table.loc["flat", "reason"]
    assert table.loc["nomask", "reason"]
    assert table.loc["ok"].filter(like="original_").notna().all()
    assert table.loc["flat"].filter(like="original_").isna().all()


def test_a_study_where_every_scan_fails_still_gives_a_table(study) -> None:
    table = extract_scans(study, rows("nomask", "empty"))
    assert list(table["status"]) == ["failed", "failed"]


def test_finished_scans_are_not_done_again_until_settings_change(study, monkeypatch) -> None:
    first = extract_scans(study, rows("ok"))
    calls = []
    monkeypatch.setattr(radiomic_extract, "extract", lambda *given: calls.append(given) or {})
    pd.testing.assert_frame_equal(extract_scans(study, rows("ok")), first)
    assert not calls
    extract_scans(with_settings(study, radiomics={"bin_width": 30.0}), rows("ok"))
    assert len(calls) == 1


def test_the_settings_hash_tells_settings_apart(study) -> None:
    assert settings_hash(study) == settings_hash(with_settings(study, seed=1))
    assert settings_hash(study) != settings_hash(with_settings(study, radiomics={"bin_width": 30.0}))
    assert settings_hash(study) != settings_hash(with_settings(study, images={"spacing_mm": 2.0}))


def test_the_description_is_in_words_and_leaves_failed_scans_out(study) -> None:
    features = extract_scans(study, rows("ok", "flat"))
    dense = radiomic_tables.quantitative_ct(features).loc["HAA in the lower zones"]
    assert (dense["scans"], dense["unit"]) == (1, "%")
    share = features.loc[features["status"] == "ok", "qct_high_attenuation_share_lower"].item()
    assert float(dense["median"]) == pytest.approx(100 * share, abs=0.051)


def test_filtered_images_and_regions_have_pyradiomics_names_and_values(scan) -> None:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    hu, lungs = np.maximum(scan[0], -1024), scan[1]
    extractor = RadiomicsFeatureExtractor(binWidth=25.0, sigma=[5.0])
    extractor.settings["additionalInfo"] = False
    extractor.enableImageTypes(Original={}, LoG={"sigma": [5.0]}, Wavelet={})
    settings = RadiomicsSettings(
        spacing_mm=4.0, log_sigma_mm=(5.0,), wavelet=True, regions=("left", "core"), peel_mm=8.0
    )
    ours = extract(volume(hu), volume(lungs), settings)
    for suffix, region in (("", lungs > 0), ("_left", lungs == 2)):
        theirs = extractor.execute(volume(hu), volume(region.astype(np.uint8)))
        assert len(theirs) == 107 + 9 * 93
        same = {name: ours[f"{name}{suffix}"] for name in theirs}
        assert same == pytest.approx({name: float(value) for name, value in theirs.items()}, rel=1e-9, abs=1e-9)
    assert sum(name.endswith("_core") and not name.startswith("qct_") for name in ours) == 107 + 9 * 93


def test_a_region_without_texture_is_left_out(scan) -> None:
    hu, lungs = scan
    settings = RadiomicsSettings(spacing_mm=4.0, regions=("core", "right"), peel_mm=100.0)
    ours = extract(volume(hu), volume(lungs), settings)
    assert not any(name.startswith("original_") and name.endswith("_core") for name in ours)
    assert "original_firstorder_Mean_right" in ours


def test_lobes_are_regions_where_the_masks_have_them(scan) -> None:
    hu, lungs = scan
    lobes = lungs.copy()
    lobes[:6][lungs[:6] == 1], lobes[lungs == 2] = 3, 4  # no middle and no left lower lobe
    settings = RadiomicsSettings(spacing_mm=4.0, regions=("rul", "rml", "rll", "lul"))
    ours = extract(volume(hu), volume(lungs), settings, volume(lobes))
    for name, region in {"rul": lobes == 1, "rll": lobes == 3, "lul": lobes == 4}.items():
        alone = extract(volume(hu), volume(region.astype(np.uint8)), RadiomicsSettings(spacing_mm=4.0))
        same = {key: ours[f"{key}_{name}"] for key in alone if key.startswith("original_")}
        assert same == pytest.approx({key: alone[key] for key in same})
        assert ours[f"qct_mean_hu_{name}"] == pytest.approx(np.maximum(hu, -1024)[region].mean())
        assert feature_name(f"qct_mean_hu_{name}").endswith("lobe")
    assert "original_firstorder_Mean_rml" not in ours
    assert np.isnan(ours["qct_mean_hu_rml"])
    without = extract(volume(hu), volume(lungs), settings)
    assert not any("rul" in key for key in without)
    with pytest.raises(ScanError, match="differ in size"):
        extract(volume(hu), volume(lungs), settings, volume(lobes[:-1]))


def test_lobes_are_resampled_and_a_new_lobe_mask_makes_features_anew(study, scan) -> None:
    study = with_settings(study, radiomics={"spacing_mm": 5.0, "regions": ["lul"]})
    assert "original_firstorder_Mean_lul" not in extract_scans(study, rows("ok"))
    study.lobes("ok").parent.mkdir(parents=True)
    sitk.WriteImage(volume(np.where(scan[1] == 2, 4, 0).astype(np.uint8)), str(study.lobes("ok")))
    made = extract_scans(study, rows("ok"))
    assert made["original_shape_VoxelVolume_lul"].item() == pytest.approx((scan[1] == 2).sum() * 64, rel=0.1)


def test_settings_and_versions_lie_beside_the_table(study) -> None:
    made = extract_scans(study, rows("ok"))
    told = json.loads(study.table("radiomics").with_suffix(".json").read_text())
    assert told["settings_hash"] == made["settings_hash"].item()
    assert told["radiomics"]["bin_width"] == 25.0
    assert told["images"]["spacing_mm"] == 4.0
    assert told["versions"]["pyradiomics"] == "3.0.1"


@pytest.mark.parametrize("name", ["lung_score", "original_glcm", "original_colour_Mean"])
def test_a_table_with_an_unknown_feature_is_refused_by_name(study, name: str) -> None:
    made = extract_scans(study, rows("ok"))
    study.table("radiomics").parent.mkdir(parents=True, exist_ok=True)
    made.assign(**{name: 1.0}).to_parquet(study.table("radiomics"))
    with pytest.raises(StudyError, match=name):
        tables.read_table(study, "radiomics", schemas.RADIOMICS)


def test_an_unknown_region_is_refused_by_name(study) -> None:
    with pytest.raises(StudyError, match="lingula"):
        with_settings(study, radiomics={"regions": ["lingula"]})


def test_models_see_the_features_of_every_image_that_filters_make():
    hu = np.zeros((16, 16, 16), dtype=np.int16)
    settings = RadiomicsSettings(log_sigma_mm=(2.0,), wavelet=True)
    names = [name for name, _ in image_types(hu, (1.0, 1.0, 1.0), settings)]
    assert len(names) == 1 + 1 + 8
    assert all(f"{name}_".startswith(schemas.IMAGE_TYPES) for name in names)
