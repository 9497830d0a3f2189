"""Time one scan from its NIfTI file to risks by all three networks.

`python benchmarks/inference.py SCAN [--size 96] [--folds 1] [--spacing 2]` reads the scan, finds and judges the lungs,
makes the cube, and predicts with untrained networks of full size (trained ones take as long), saved and loaded as a
study does. It prints seconds of each step and peak memory. `--folds 5`: the mean of the models of five folds.
"""

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from joblib import cpu_count
from safetensors.torch import load_file, save_file

from sscct_lib.deep.cubes import View, cube_path, make_cubes
from sscct_lib.deep.networks import build
from sscct_lib.deep.prediction import predict
from sscct_lib.images.prepare import prepare_scans
from sscct_lib.lungs.segment import segment_scans
from sscct_lib.study.folder import Study
from sscct_lib.study.settings import NetworkSettings, Settings
from sscct_lib.study.words import NETWORK_WORDS


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--spacing", type=float, default=2.0)
    given = parser.parse_args()
    settings, seconds = NetworkSettings(size=given.size), {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for network in NETWORK_WORDS:
            save_file(build(network, settings, 3).state_dict(), folder / f"{network}.safetensors")
        study = Study(folder, Settings(images={"spacing_mm": given.spacing}))
        row = pd.DataFrame(
            {"scan_id": ["s"], "patient_id": ["p"], "image": [str(given.scan.resolve())], "sha256": [None]}
        )
        began = time.perf_counter()

        def done(step: str) -> None:
            nonlocal began
            seconds[step] = time.perf_counter() - began
            began = time.perf_counter()

        prepared = prepare_scans(study, row)
        assert prepared["status"].eq("ok").all(), prepared["reason"].tolist()
        done("read, resample, write")
        found = segment_scans(study, row)
        assert found["status"].eq("ok").all(), found["reason"].tolist()
        done("find and judge the lungs")
        view = View(given.size, study.settings.deep.hu_range)
        make_cubes(study, row, view)
        done("make the cube")
        for network in NETWORK_WORDS:
            for _ in range(given.folds):
                model = build(network, settings, 3)
                model.load_state_dict(load_file(folder / f"{network}.safetensors"))
                risk = predict(model.eval(), [cube_path(study, "s", view)])
                assert np.isfinite(risk).all()
            done(f"{NETWORK_WORDS[network]}, {given.folds} fold(s)")
    seconds["all"] = sum(seconds.values())
    print(pd.Series(seconds).round(2).to_string())
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB, {cpu_count()} cores")


if __name__ == "__main__":
    main()
