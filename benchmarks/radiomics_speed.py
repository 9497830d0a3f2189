"""Seconds, memory and values of PyRadiomics' features: PyRadiomics as installed, other tools, and ours.

    python benchmarks/radiomics_speed.py SCAN [--spacing 2 1.5 native] [--tools ours pyradiomics nyxus mirp]
                                              [--python nyxus=VENV/bin/python mirp=VENV/bin/python]

SCAN is a folder of DICOM slices or a NIfTI file of a chest CT. Each tool runs in a process of its own, on one thread,
on the same resampled image and mask; reading, masking and resampling are not timed. Seconds are of processor time, so
that other work on the machine matters less; compare within one run. `filtered` means the 1,302 histogram and texture
features of the image, five LoG and eight wavelet images; `scan` means all that a study does with a scan, quantitative
CT among it; `regions` the same, with the 107 features of seven parts of the lungs too. `--cohort N` sends N copies of
the scan through `extract` in one process and then in two, by the clock.

The largest difference from PyRadiomics is relative, over the features that a tool has under a name of its own.

nyxus and mirp are not part of this project's environment. Whoever wants to compare installs them elsewhere
(`python -m venv VENV && VENV/bin/pip install nyxus==0.11.0 simpleitk`, or `mirp==2.7.0 simpleitk`) and names that
Python. A tool that is not installed is left out.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

BIN_WIDTH = 25.0
HU_RANGE = (-1024, 600)
Timed = dict[str, Any]
SIGMAS_MM = (1.0, 2.0, 3.0, 4.0, 5.0)
SCANS_OF_STUDY = 2125


def ours(image: sitk.Image, mask: sitk.Image) -> Timed:
    from sscct_lib.radiomics.texture import pyradiomics_features

    def compute(hu: np.ndarray, region: np.ndarray) -> dict[str, float]:
        return pyradiomics_features(hu, region, image.GetSpacing()[::-1], BIN_WIDTH)

    return timed(compute, image, mask)


def ours_filtered(image: sitk.Image, mask: sitk.Image) -> Timed:
    from sscct_lib.radiomics.filters import image_types
    from sscct_lib.radiomics.texture import pyradiomics_features
    from sscct_lib.study.settings import RadiomicsSettings

    settings = RadiomicsSettings(log_sigma_mm=SIGMAS_MM, wavelet=True, bin_width=BIN_WIDTH)

    def compute(hu: np.ndarray, region: np.ndarray) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, values in image_types(hu, image.GetSpacing(), settings):
            found |= pyradiomics_features(values, region, image.GetSpacing()[::-1], BIN_WIDTH, name)
        return {name: value for name, value in found.items() if "_shape_" not in name}

    return timed(compute, image, mask)


def whole_scan(image: sitk.Image, mask: sitk.Image, regions: tuple[str, ...]) -> Timed:
    """Everything that a study does with a scan, quantitative CT among it."""
    from sscct_lib.radiomics.extract import extract
    from sscct_lib.study.settings import RadiomicsSettings

    sides = image.GetSpacing()
    settings = RadiomicsSettings(spacing_mm=sides[0], bin_width=BIN_WIDTH, regions=regions, peel_mm=15.0)

    def compute(hu: np.ndarray, region: np.ndarray) -> dict[str, float]:
        labels = region.astype(np.uint8)
        labels[:, :, region.shape[2] // 2 :] *= 2
        volumes = [sitk.GetImageFromArray(array) for array in (hu, labels)]
        for volume in volumes:
            volume.SetSpacing(sides)
        return extract(*volumes, settings)

    return {**timed(compute, image, mask), "features": {}}


def ours_scan(image: sitk.Image, mask: sitk.Image) -> Timed:
    return whole_scan(image, mask, ())


def ours_regions(image: sitk.Image, mask: sitk.Image) -> Timed:
    return whole_scan(image, mask, ("right", "left", "upper", "middle", "lower", "peel", "core"))


def timed(compute: Any, image: sitk.Image, mask: sitk.Image) -> Timed:
    """Time a computation, apart from a first run on a small image that compiles, or loads what was compiled."""
    small = np.random.default_rng(0).integers(-900, -800, (12, 12, 12)).astype(np.int16)
    begin = time.process_time()
    compute(small, np.ones(small.shape, bool))
    first = time.process_time() - begin
    hu, region = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask) > 0
    begin = time.process_time()
    features = compute(hu, region)
    return {"features": features, "seconds": time.process_time() - begin, "first_s": first}


def pyradiomics(image: sitk.Image, mask: sitk.Image) -> Timed:
    return with_extractor(image, mask, filtered=False)


def pyradiomics_filtered(image: sitk.Image, mask: sitk.Image) -> Timed:
    return with_extractor(image, mask, filtered=True)


def with_extractor(image: sitk.Image, mask: sitk.Image, filtered: bool) -> Timed:
    from radiomics import setVerbosity
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    setVerbosity(60)
    extractor = RadiomicsFeatureExtractor(binWidth=BIN_WIDTH)
    extractor.settings["additionalInfo"] = False
    if filtered:
        extractor.enableImageTypes(Original={}, LoG={"sigma": list(SIGMAS_MM)}, Wavelet={})
        extractor.enabledFeatures.pop("shape")
    begin = time.process_time()
    features = extractor.execute(image, mask)
    return {"features": {k: float(v) for k, v in features.items()}, "seconds": time.process_time() - begin}


def nyxus(image: sitk.Image, mask: sitk.Image) -> Timed:
    from nyxus import Nyxus3D

    # It knows no bin width, and no negative densities.
    inside = sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(mask) > 0]
    n_levels = int(inside.max() // BIN_WIDTH - inside.min() // BIN_WIDTH) + 1
    tool = Nyxus3D(features=["*3D_ALL*"], n_feature_calc_threads=1, coarse_gray_depth=n_levels)
    with tempfile.TemporaryDirectory() as scratch:
        files = [f"{scratch}/{name}.nii.gz" for name in ("image", "mask")]
        sitk.WriteImage(image - HU_RANGE[0], files[0])
        sitk.WriteImage(mask, files[1])
        begin = time.process_time()
        found = tool.featurize_files(files[:1], files[1:], False)
        seconds = time.process_time() - begin
    if not len(found):
        raise RuntimeError("nyxus found no region")
    row = found.iloc[0].to_dict()
    return {"features": {k: v for k, v in row.items() if isinstance(v, float)}, "seconds": seconds}


def mirp(image: sitk.Image, mask: sitk.Image) -> Timed:
    from mirp import extract_features

    with tempfile.TemporaryDirectory() as scratch:
        files = [f"{scratch}/{name}.nii" for name in ("image", "mask")]  # from arrays it takes no spacing of a mask
        sitk.WriteImage(image, files[0])
        sitk.WriteImage(mask, files[1])
        begin = time.process_time()
        found = extract_features(
            image=files[0], mask=files[1], image_modality="ct",
            base_discretisation_method="fixed_bin_size", base_discretisation_bin_width=BIN_WIDTH,
            resegmentation_intensity_range=[-1025.0, float(HU_RANGE[1])],  # bins aligned with 0 HU
            glcm_spatial_method="3d_average", glrlm_spatial_method="3d_average",
            base_feature_families=["statistical", "intensity_histogram", "morphology", "glcm", "glrlm", "glszm",
                                   "ngtdm", "ngldm"],
        )  # fmt: skip
        seconds = time.process_time() - begin
    row = found[0].iloc[0].to_dict()
    return {"features": {k: float(v) for k, v in row.items() if isinstance(v, float)}, "seconds": seconds}


TOOLS = {
    "ours": ours, "pyradiomics": pyradiomics, "nyxus": nyxus, "mirp": mirp,
    "ours, filtered": ours_filtered, "pyradiomics, filtered": pyradiomics_filtered,
    "ours, scan": ours_scan, "ours, regions": ours_regions,
}  # fmt: skip

NYXUS_GLCM = {
    "Autocorrelation": "ACOR", "ClusterProminence": "CLUPROM", "ClusterShade": "CLUSHADE", "ClusterTendency": "CLUTEND",
    "Contrast": "CONTRAST", "Correlation": "CORRELATION", "DifferenceAverage": "DIFAVE",
    "DifferenceEntropy": "DIFENTRO", "DifferenceVariance": "DIFVAR",
    "Id": "ID", "Idn": "IDN", "Idm": "IDM", "Idmn": "IDMN", "InverseVariance": "IV",
    "JointAverage": "JAVE", "JointEntropy": "JE", "JointEnergy": "ASM", "MaximumProbability": "JMAX",
    "Imc1": "INFOMEAS1", "Imc2": "INFOMEAS2", "SumEntropy": "SUMENTROPY", "SumSquares": "JVAR",
}  # fmt: skip


def in_nyxus(name: str) -> str:
    """Name a texture feature as nyxus does: by the initials of PyRadiomics' name, mostly."""
    _, kind, feature = name.split("_")
    if kind == "glcm":
        return f"3GLCM_{NYXUS_GLCM.get(feature, 'none')}_AVE"
    if kind == "ngtdm":
        return f"3NGTDM_{feature.upper()}"
    initials = re.sub("[^A-Z]", "", feature).replace("NU", "N")
    return f"3{kind.upper()}_{initials}{'_AVE' if kind == 'glrlm' else ''}"


def translated(tool: str, found: dict[str, float], names: list[str]) -> dict[str, float]:
    """Give what a tool found PyRadiomics' names, where it has the feature and defines it alike."""
    if tool == "nyxus":
        return {name: found[in_nyxus(name)] for name in names if in_nyxus(name) in found}
    if tool != "mirp":
        return found
    with (Path(__file__).parents[1] / "book" / "ibsi.csv").open(encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["agrees"] == "yes"]
    named = {}
    for row in rows:
        stem = re.sub("_3D(_avg)?$", "", row["biomarker"])
        pattern = re.compile(rf"{stem}(_d1)?(_a0\.0)?(_3d(_avg)?)?(_fbs_w[\d.]+)?")
        named |= {f"original_{row['feature']}": value for name, value in found.items() if pattern.fullmatch(name)}
    return named


def largest_difference(one: dict[str, float], other: dict[str, float]) -> str:
    """Tell the largest relative difference of two sets of features, where it is, and of how many."""
    both = one.keys() & other.keys()
    differences = {name: abs(one[name] - other[name]) / max(abs(other[name]), 1e-12) for name in both}
    worst = max(differences, key=lambda name: differences[name])
    return f"{differences[worst]:.1e} in {worst.removeprefix('original_')}, of {len(both)}"


def lungs_at(scan: Path, spacing: str, folder: Path) -> Path:
    """Write image and mask of both lungs at a spacing, and return where."""
    from scipy import ndimage

    from sscct_lib.images.nifti import read_volume
    from sscct_lib.lungs.segment import threshold_mask
    from sscct_lib.radiomics.extract import FILTER_MARGIN, resample
    from sscct_lib.study.folder import StudyError

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
    # Cut to the lungs and what PyRadiomics keeps around them when it resamples.
    box = ndimage.find_objects(sitk.GetArrayViewFromImage(mask))[0][::-1]
    cut = tuple(slice(max(0, side.start - FILTER_MARGIN), side.stop + FILTER_MARGIN) for side in box)
    sitk.WriteImage(image[cut], str(folder / "image.nii"))
    sitk.WriteImage(mask[cut], str(folder / "mask.nii"))
    return folder


def work(tool: str, folder: str) -> None:
    """Run a tool in this process, a fresh one whose peak of memory is the tool's, and print what it found."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image, mask = (sitk.ReadImage(f"{folder}/{what}.nii") for what in ("image", "mask"))
    result = TOOLS[tool](image, mask)
    # Unlike getrusage, this peak is of this program alone, not of the one that started it.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024**2
    print("\n" + json.dumps({"first_s": 0.0, **result, "peak_gb": peak}))


def run_tool(python: str, tool: str, folder: Path) -> Timed | None:
    """Run a tool in a process of its own; None where it is not installed."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    environment = os.environ | dict.fromkeys(threads, "1")
    done = subprocess.run(
        [python, __file__, "--work", tool, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    if "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(f"{tool} failed:\n{done.stderr}")
    found: Timed = json.loads(done.stdout.splitlines()[-1])
    return found


def cohort_seconds(folder: Path, n_scans: int, n_jobs: int) -> float:
    """Seconds of the clock for some copies of a scan through everything that a study does with it."""
    from joblib import Parallel, delayed

    begin = time.perf_counter()
    Parallel(n_jobs=n_jobs)(delayed(one_scan)(str(folder)) for _ in range(n_scans))
    return time.perf_counter() - begin


def one_scan(folder: str) -> None:
    from sscct_lib.radiomics.extract import extract
    from sscct_lib.study.settings import RadiomicsSettings

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image, mask = (sitk.ReadImage(f"{folder}/{what}.nii") for what in ("image", "mask"))
    extract(image, mask, RadiomicsSettings(spacing_mm=image.GetSpacing()[0], bin_width=BIN_WIDTH))


def compare(folder: Path, tools: list[str], pythons: dict[str, str]) -> None:
    """Print a line for each tool, against ours and PyRadiomics' of the same run."""
    done: dict[str, Timed] = {}
    for tool in tools:
        row = run_tool(pythons.get(tool, sys.executable), tool, folder)
        if row is None:
            print(f"  {tool:22s} not installed", flush=True)
            continue
        done[tool] = row
        reference = {"filtered": "ours, filtered", "regions": "ours, scan"}.get(tool.split(", ")[-1], "ours")
        ratio = f"{row['seconds'] / done[reference]['seconds']:6.1f} x" if reference in done else ""
        print(f"  {tool:22s} {row['seconds']:8.2f} s {row['peak_gb']:6.2f} GB  {ratio}", end="", flush=True)
        print(f"  compiled code ready in {row['first_s']:.2f} s" if tool.startswith("ours") else "", flush=True)
    for tool, reference in (("ours", "pyradiomics"), ("ours, filtered", "pyradiomics, filtered"),
                            ("nyxus", "pyradiomics"), ("mirp", "pyradiomics")):  # fmt: skip
        if {tool, reference} <= done.keys():
            truth = done[reference]["features"]
            found = translated(tool, done[tool]["features"], list(truth))
            print(f"  largest difference of {tool}: {largest_difference(found, truth)}")
    if {"ours", "pyradiomics"} <= done.keys():
        hours = [done[tool]["seconds"] * SCANS_OF_STUDY / 3600 for tool in ("ours", "pyradiomics")]
        print("  {:,} such scans on one core: {:.2f} h, PyRadiomics {:.1f} h".format(SCANS_OF_STUDY, *hours))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--spacing", nargs="+", default=["2", "1.5", "native"])
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--python", nargs="+", default=[], metavar="TOOL=PYTHON", help="Python that has a tool")
    parser.add_argument("--cohort", type=int, default=0, metavar="N", help="time N copies in one process and in two")
    given = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in given.python)
    for spacing in given.spacing:
        with tempfile.TemporaryDirectory() as scratch:
            folder = lungs_at(given.scan, spacing, Path(scratch))
            n = int((sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.nii"))) > 0).sum())
            print(f"\n{spacing} mm: both lungs, {n:,} voxels", flush=True)
            compare(folder, given.tools, pythons)
            if given.cohort:
                cohort_seconds(folder, 2, 2)  # processes are started, compiled code is loaded
                one, two = (cohort_seconds(folder, given.cohort, n_jobs) for n_jobs in (1, 2))
                print(f"  {given.cohort} scans: {one:.1f} s in one process, {two:.1f} s in two, {one / two:.2f} x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        main()
