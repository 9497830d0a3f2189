"""Whole scans, synthetic and real: every feature equals that of PyRadiomics' own extractor."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor

from sscct_lib.demo.make import draw_scan
from sscct_lib.demo.patients import demo_cohort
from sscct_lib.lungs.segment import threshold_mask
from sscct_lib.radiomics.extract import FILTER_MARGIN, extract, resample
from sscct_lib.study.settings import DemoSettings, RadiomicsSettings

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data"


def on_grid(array: np.ndarray, spacing: float) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([spacing] * 3)
    return image


def compare(image: sitk.Image, lungs: sitk.Image, settings: RadiomicsSettings) -> None:
    """Give PyRadiomics what it keeps of a scan that it resamples: the lungs and five voxels around them."""
    ours = extract(image, lungs, settings)
    region = sitk.Cast(lungs > 0, sitk.sitkUInt8)
    clipped = sitk.Cast(sitk.Clamp(image, sitk.sitkInt16, *settings.hu_range), sitk.sitkInt16)
    where = np.argwhere(sitk.GetArrayFromImage(region))[:, ::-1]
    box = tuple(
        slice(max(0, int(low) - FILTER_MARGIN), int(high) + 1 + FILTER_MARGIN)
        for low, high in zip(where.min(axis=0), where.max(axis=0), strict=True)
    )
    extractor = RadiomicsFeatureExtractor(binWidth=settings.bin_width, additionalInfo=False)
    types = {"Original": {}, "LoG": {"sigma": list(settings.log_sigma_mm)}} | (
        {"Wavelet": {}} if settings.wavelet else {}
    )
    extractor.enableImageTypes(**types)
    theirs = {name: float(value) for name, value in extractor.execute(clipped[box], region[box]).items()}
    assert len(theirs) == 107 + 93 * (len(settings.log_sigma_mm) + 8 * settings.wavelet)
    for name, value in theirs.items():
        rel = 1e-6 if "_shape_" in name else 1e-9
        assert ours[name] == pytest.approx(value, rel=rel, abs=1e-12), name


@pytest.mark.parametrize("number", [0, 5])
def test_a_scan_of_the_demo_cohort(number: int) -> None:
    row = demo_cohort(DemoSettings(n_patients=4), 2026)[1].iloc[number].to_dict()
    scan = draw_scan(row, 2026, 5.0)
    settings = RadiomicsSettings(spacing_mm=5.0, bin_width=10.0, log_sigma_mm=(6.0,), wavelet=True)
    compare(on_grid(scan.hu, 5.0), on_grid(scan.lungs, 5.0), settings)


def test_the_lungs_of_a_real_scan(tmp_path: Path) -> None:
    archive = DATA / "lidc-idri-0314-dicom.tar.xz"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not there")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(next(tmp_path.rglob("*.dcm")).parent))
    image = sitk.Cast(sitk.DICOMOrient(sitk.ReadImage(names), "LPS"), sitk.sitkInt16)
    image = resample(image, image > 0, 3.0)[0]
    settings = RadiomicsSettings(spacing_mm=3.0, hu_range=(-1000.0, 300.0), log_sigma_mm=(3.0,), wavelet=True)
    compare(image, threshold_mask(image), settings)
