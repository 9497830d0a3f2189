"""Scripts and fonts that the pages of the book load: copied from npm packages, so that no page asks the network."""

import shutil
import sys
from pathlib import Path

from sscct_lib.files import copy_folder
from sscct_lib.study import StudyError

MODULES = Path(sys.prefix) / "share" / "sscct" / "node_modules"
"""Where `make web` has npm install what `package.json` names."""
COPIED = {
    "@niivue/niivue/dist/niivue.umd.js": "niivue.js",
    "@niivue/niivue/package.json": "niivue.package.json",  # names its authors and licence
    "mathjax/es5/tex-chtml.js": "mathjax/tex-chtml.js",
    "mathjax/es5/output/chtml/fonts/woff-v2": "mathjax/output/chtml/fonts/woff-v2",
    "mathjax/LICENSE": "mathjax/LICENSE",
}
"""Files and folders of npm packages, and their names in the folder `vendor` of a book."""


def copy_browser_files(html: Path, modules: Path = MODULES) -> None:
    """Copy the scan viewer, MathJax and its fonts beside the pages of a book.

    Parameters
    ----------
    html
        Folder of the pages; the files go to its folder `vendor`.
    modules
        The npm packages.

    Raises
    ------
    StudyError
        If a package is not installed; the message says how to install it.
    """
    for name, target in COPIED.items():
        origin, copy = modules / name, html / "vendor" / target
        if not origin.exists():
            raise StudyError(
                f"The book needs the npm package file {name}, which is not in the Python environment. "
                'Install it with `make web` (with conda: `make web PREFIX="$CONDA_PREFIX"`), in the project\'s folder.'
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            copy_folder(origin, copy)
        else:
            shutil.copyfile(origin, copy)
