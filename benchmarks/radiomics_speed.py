"""Time and memory of all 107 PyRadiomics features of both lungs: PyRadiomics as installed, other tools, and ours.

    python benchmarks/radiomics_speed.py SCAN [--spacing 2 1.5 native] [--tools ours pyradiomics nyxus mirp]

SCAN is a folder of DICOM slices or a NIfTI file of a chest CT. Each tool runs in a process of its own, on one thread,
on the same resampled image and mask; reading, masking and resampling are not timed. Seconds are of processor time, so
that other work on the machine hardly matters. Tools that are not installed are
left out: `pip install nyxus==0.11.0 mirp==2.7.0` in another environment adds two.
"""

import argparse
import os
import tempfile
import time
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

BIN_WIDTH = 25.0
HU_RANGE = (-1024, 600)
Volumes = tuple[sitk.Image, sitk.Image]


def ours(image: sitk.Image, mask: sitk.Image) -> tuple[dict[str, float], float]:
    """Return features, and the seconds of a first run that compiles or loads what was compiled."""
    from sscct_lib.texture import pyradiomics_features

    begin = time.process_time()
    small = np.random.default_rng(0).integers(-900, -800, (4, 4, 4)).astype(np.int16)
    pyradiomics_features(small, np.ones(small.shape, bool), (1.0, 1.0, 1.0), BIN_WIDTH)
    compiling = time.process_time() - begin
    hu, region = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask) > 0
    begin = time.process_time()
    features = pyradiomics_features(hu, region, image.GetSpacing()[::-1], BIN_WIDTH)
    return {**features, "seconds": time.process_time() - begin}, compiling


def pyradiomics(image: sitk.Image, mask: sitk.Image) -> tuple[dict[str, float], float]:
    from radiomics import setVerbosity
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    setVerbosity(60)
    extractor = RadiomicsFeatureExtractor(binWidth=BIN_WIDTH)
    extractor.settings["additionalInfo"] = False
    begin = time.process_time()
    features = extractor.execute(image, mask)
    return {**{k: float(v) for k, v in features.items()}, "seconds": time.process_time() - begin}, 0.0


def nyxus(image: sitk.Image, mask: sitk.Image) -> tuple[dict[str, float], float]:
    from nyxus import Nyxus3D

    tool = Nyxus3D(features=["*3D_ALL*"], n_feature_calc_threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        files = [f"{scratch}/{name}.nii.gz" for name in ("image", "mask")]
        sitk.WriteImage(image + 1024, files[0])  # it takes no negative densities
        sitk.WriteImage(mask, files[1])
        begin = time.process_time()
        found = tool.featurize_files(files[:1], files[1:], False)
        seconds = time.process_time() - begin
    if not len(found):
        raise RuntimeError("nyxus found no region")
    return {"seconds": seconds}, 0.0


def mirp(image: sitk.Image, mask: sitk.Image) -> tuple[dict[str, float], float]:
    from mirp import extract_features

    hu, region = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask)
    begin = time.process_time()
    extract_features(
        image=hu, mask=region, image_spacing=image.GetSpacing()[::-1], image_modality="ct",
        base_discretisation_method="fixed_bin_size", base_discretisation_bin_width=BIN_WIDTH,
        resegmentation_intensity_range=[float(bound) for bound in HU_RANGE],
        base_feature_families=["statistical", "intensity_histogram", "morphology", "glcm", "glrlm", "glszm", "ngtdm",
                               "ngldm"],
    )  # fmt: skip
    return {"seconds": time.process_time() - begin}, 0.0


TOOLS = {"ours": ours, "pyradiomics": pyradiomics, "nyxus": nyxus, "mirp": mirp}
PACKAGES = {"ours": "sscct_lib", **{name: name for name in ("nyxus", "mirp")}, "pyradiomics": "radiomics"}


def lungs_at(scan: Path, spacing: str, folder: Path) -> Path:
    """Write image and mask of both lungs at a spacing, and return where."""
    from sscct_lib.images import read_volume
    from sscct_lib.lungs import threshold_mask
    from sscct_lib.radiomics import resample
    from sscct_lib.study import StudyError

    if scan.is_dir():
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(scan))
        if not names:
            raise StudyError(f"{scan} holds no DICOM series.")
        image = sitk.DICOMOrient(sitk.ReadImage(names), "LPS")
    else:
        image = read_volume(scan)
    image = sitk.Cast(image, sitk.sitkInt16)
    coarse = sitk.Image(image)
    mask = threshold_mask(resample(coarse, coarse > 0, 2.0)[0])
    mask = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkLabelLinear, 0)
    if spacing != "native":
        image, mask = resample(image, mask, float(spacing))
    image = sitk.Cast(sitk.Clamp(image, sitk.sitkInt16, *HU_RANGE), sitk.sitkInt16)
    mask = sitk.Cast(mask > 0, sitk.sitkUInt8)
    sitk.WriteImage(image, str(folder / "image.nii"))
    sitk.WriteImage(mask, str(folder / "mask.nii"))
    return folder


def run_tool(name: str, folder: str) -> dict[str, Any]:
    """Run a tool in this process; meant for a fresh one, whose peak of memory is the tool's."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image, mask = (sitk.ReadImage(f"{folder}/{what}.nii") for what in ("image", "mask"))
    features, compiling = TOOLS[name](image, mask)
    seconds = features.pop("seconds")
    # Unlike getrusage, this peak is of this program alone, not of the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024**2
    return {"seconds": seconds, "first_s": compiling, "peak_gb": peak, "features": features}


def largest_difference(one: dict[str, float], other: dict[str, float]) -> tuple[float, str]:
    """Return the largest relative difference of two sets of features, and where it is."""
    differences = {
        name: abs(one[name] - other[name]) / max(abs(other[name]), 1e-12) for name in one.keys() & other.keys()
    }
    worst = max(differences, key=lambda name: differences[name])
    return differences[worst], worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--spacing", nargs="+", default=["2", "1.5", "native"])
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    given = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[variable] = "1"  # for the processes that are timed
    tools = [name for name in given.tools if find_spec(PACKAGES[name])]
    for spacing in given.spacing:
        with tempfile.TemporaryDirectory() as scratch:
            folder = lungs_at(given.scan, spacing, Path(scratch))
            n = int((sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.nii"))) > 0).sum())
            print(f"\n{spacing} mm: both lungs, {n:,} voxels")
            done: dict[str, dict[str, Any]] = {}
            for name in tools:
                with get_context("spawn").Pool(1) as pool:
                    done[name] = pool.apply(run_tool, (name, str(folder)))
                row = done[name]
                ratio = f"{row['seconds'] / done['ours']['seconds']:8.1f} x" if "ours" in done else ""
                print(f"  {name:12s} {row['seconds']:8.2f} s  {row['peak_gb']:5.2f} GB  {ratio}", flush=True)
            if "ours" in done:
                print(f"  loading compiled code {done['ours']['first_s']:.2f} s")
            if {"ours", "pyradiomics"} <= done.keys():
                both = [done[name]["features"] for name in ("ours", "pyradiomics")]
                print("  largest relative difference {:.1e} in {}".format(*largest_difference(*both)))


if __name__ == "__main__":
    main()
