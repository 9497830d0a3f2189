"""Seconds and peak memory of `sscct ingest` on a DICOM series, beside a plain SimpleITK read and write of its files.

python benchmarks/ingest.py DICOM_DIR
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PLAIN = """
import SimpleITK as sitk
reader = sitk.ImageSeriesReader()
series, = reader.GetGDCMSeriesIDs(source)
reader.SetFileNames(reader.GetGDCMSeriesFileNames(source, series))
sitk.WriteImage(reader.Execute(), target + "/plain.nii.gz", useCompression=True, compressionLevel=1)
"""
OURS = """
from pathlib import Path
from sscct_lib.intake.ingest import ingest
ingest(Path(source), None, Path(target) / "study")
"""
IMPORTS = {"plain": "import SimpleITK", "ours": "import sscct_lib.intake.ingest"}


def measure(code: str, imports: str, source: Path) -> tuple[float, float]:
    """Run code in a process of one thread: its CPU seconds after imports, and the peak memory of the process in GB."""
    with tempfile.TemporaryDirectory() as target:
        script = (
            f"import json, resource, time\n{imports}\nimport SimpleITK\n"
            "SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)\n"
            f"source, target = {str(source)!r}, {target!r}\nbegin = time.process_time()\n{code}\n"
            "print(json.dumps([time.process_time() - begin,"
            " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, peak_gb = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak_gb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with one CT series, all of whose files can be read")
    source = parser.parse_args().source
    best = {}
    for name, code in (("plain", PLAIN), ("ours", OURS)):
        best[name] = min(measure(code, IMPORTS[name], source) for _ in range(3))
        print(f"{name}: {best[name][0]:.1f} CPU s, peak {best[name][1]:.2f} GB")
    print(f"ratio: {best['ours'][0] / best['plain'][0]:.2f}")


if __name__ == "__main__":
    main()
