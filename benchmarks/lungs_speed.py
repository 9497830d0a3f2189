"""From a scan's file to a judged lung mask: seconds and memory, beside lungmask's R231 on the same scan.

    python benchmarks/lungs_speed.py SCAN --spacing-mm 1 2 --cip FOLDER

SCAN is a NIfTI or NRRD file, or a folder with the DICOM files of one series; it is brought to 512 x 512 x 300 voxels.
Ours is the whole way: read, verify, resample, write, read, find the lungs, measure, judge, write. lungmask's time is
that of `LMInferer.apply` alone, on one core, with random weights in the published layout, which take as long as the
published ones. It works slice by slice, so some slices from the middle of the chest are timed and the time is scaled
to 300. FOLDER holds `cip_ct-64.nrrd` and `cip_lm-64.nrrd` of the Chest Imaging Platform: overlap of our lungs with its.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from sscct_lib.images.prepare import prepare_scans, read_scan, resample
from sscct_lib.lungs.segment import segment_scans, threshold_mask
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import Settings

SIZE = (512, 512, 300)
REPEATS = 3
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--spacing-mm", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--lungmask-slices", type=int, default=6)
    parser.add_argument("--cip", type=Path, help="folder with the labelled scan of the Chest Imaging Platform")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measured(chosen.only, chosen.scan, chosen.lungmask_slices)))
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        sitk.WriteImage(in_size(chosen.scan), str(scan), useCompression=True)
        tools = [f"{spacing:g}" for spacing in chosen.spacing_mm] + ["lungmask"]
        lines = {tool: in_own_process(tool, scan, chosen.lungmask_slices) for tool in tools}
    peer = lines["lungmask"]["cpu_s"]
    for tool, line in lines.items():
        title = "lungmask R231, mask only" if tool == "lungmask" else f"ours at {tool} mm, file to verdict"
        ratio = "" if tool == "lungmask" else f"   lungmask / ours {peer / line['cpu_s']:.0f}"
        print(f"{title:28} {line['cpu_s']:8.1f} s CPU {line['peak_gb']:6.2f} GB{ratio}")
    if chosen.cip:
        print(f"overlap with the labels of the Chest Imaging Platform: Dice {cip_dice(chosen.cip):.3f}")


def in_size(path: Path) -> sitk.Image:
    """Read a scan and bring it to the size that is timed."""
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
    image = sitk.ReadImage(files, sitk.sitkInt16)
    spacing = [n * step / new for n, step, new in zip(image.GetSize(), image.GetSpacing(), SIZE, strict=True)]
    place = (image.GetOrigin(), spacing, image.GetDirection())
    return sitk.Resample(image, SIZE, sitk.Transform(), sitk.sitkLinear, *place, -1024, sitk.sitkInt16)


def in_own_process(tool: str, scan: Path, n_slices: int) -> dict[str, float]:
    command = [sys.executable, __file__, str(scan), "--only", tool, "--lungmask-slices", str(n_slices)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | ONE_CORE)
    return json.loads(result.stdout.splitlines()[-1])


def measured(tool: str, scan: Path, n_slices: int) -> dict[str, float]:
    seconds = lungmask_seconds(scan, n_slices) if tool == "lungmask" else our_seconds(scan, float(tool))
    return {"cpu_s": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2}


def our_seconds(scan: Path, spacing_mm: float) -> float:
    rows = pd.DataFrame({"scan_id": ["a"], "patient_id": ["a"], "image": [str(scan)], "sha256": [None]})
    seconds = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            study = Study(Path(folder), Settings.model_validate({"images": {"spacing_mm": spacing_mm}}))
            start = time.process_time()
            prepare_scans(study, rows)
            table = segment_scans(study, rows)
            seconds.append(time.process_time() - start)
            assert table["status"].tolist() == ["ok"], table["reason"].tolist()
    return min(seconds)


def lungmask_seconds(scan: Path, n_slices: int) -> float:
    import torch
    from lungmask import LMInferer
    from lungmask.resunet import UNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = UNet(n_classes=3, padding=True, depth=5, up_mode="upsample", batch_norm=True, residual=False)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), Path(folder) / "unet.pth")
        inferer = LMInferer(modelpath=f"{folder}/unet.pth", force_cpu=True, tqdm_disable=True)
    image = sitk.ReadImage(str(scan))
    middle = (image.GetSize()[2] - n_slices) // 2
    start = time.process_time()
    inferer.apply(image[:, :, middle : middle + n_slices])
    return (time.process_time() - start) * image.GetSize()[2] / n_slices


def cip_dice(folder: Path) -> float:
    image = resample(read_scan(folder / "cip_ct-64.nrrd"), 3.0)
    labels = sitk.ReadImage(str(folder / "cip_lm-64.nrrd"))
    region = sitk.Resample(labels, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    truth = (sitk.GetArrayFromImage(region) & 255) > 0
    ours = sitk.GetArrayFromImage(threshold_mask(image)) > 0
    return 2 * np.count_nonzero(truth & ours) / (np.count_nonzero(truth) + np.count_nonzero(ours))


if __name__ == "__main__":
    main()
