"""Seconds, memory and HU distribution of synthetic scans: `python benchmarks/phantom.py [SPACING_MM] [N_SCANS]`.

Every scan is of another patient, so each pays for a patient's anatomy too; in a study about four scans share it.
"""

import resource
import sys
import time

import numpy as np

from sscct_lib.demo import make, patients
from sscct_lib.study.settings import DemoSettings


def main(spacing_mm: float, n_scans: int) -> None:
    settings = DemoSettings(n_patients=n_scans * 3, spacing_mm=spacing_mm)
    _, truth = patients.demo_cohort(settings, 2026)
    rows = truth.groupby("patient_id").sample(1, random_state=0).head(n_scans)
    seconds, values = [], []
    for row in rows.to_dict("records"):
        start = time.process_time()
        volume = make.draw_scan(row, 2026, spacing_mm)
        seconds.append(time.process_time() - start)
        lung = volume.hu[volume.lungs > 0]
        litres = lung.size * spacing_mm**3 / 1e6
        values.append((litres, lung.mean(), *np.percentile(lung, (5, 95)), row["fibrosis"]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{spacing_mm:g} mm, {volume.hu.shape}: {np.mean(seconds):.2f} s a scan, peak {memory:.2f} GB")
    table = np.array(values)
    for name, column in zip(("litres", "mean HU", "5th percentile", "95th percentile"), table.T, strict=False):
        low, middle, high = np.percentile(column, (5, 50, 95))
        print(f"  {name}: median {middle:.4g}, 5th to 95th of scans {low:.4g} to {high:.4g}")
    mild = table[table[:, 4] < 0.05]
    print(f"  below 5 % fibrosis ({len(mild)}): mean HU {mild[:, 1].mean():.0f}, 5th {mild[:, 2].mean():.0f}, "
          f"95th {mild[:, 3].mean():.0f}")  # fmt: skip


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((float, int), [*sys.argv[1:], "3", "12"][:2], strict=True)))
