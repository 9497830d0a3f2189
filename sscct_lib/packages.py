"""The packages on which a run rests with their licences, from their own metadata."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pandas as pd
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LONGEST_LICENCE = 80


def needed_packages(root: str = "sscct") -> list[Distribution]:
    """List the installed packages that a package needs, and those that these need.

    Parameters
    ----------
    root
        The package to begin with; its extras are left out.

    Returns
    -------
    list of importlib.metadata.Distribution
        Sorted by name, without `root`.
    """
    found: dict[str, Distribution] = {}
    waiting = [root]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # needed elsewhere: on another system or Python
        requirements = map(Requirement, found[name].requires or [])
        waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    found.pop(canonicalize_name(root), None)
    return [found[name] for name in sorted(found)]


def licence(package: Distribution) -> str:
    """Name the licence of a package: its SPDX expression, else its classifiers, else the first words of its text."""
    classifiers = [
        line.rsplit(" :: ", 1)[-1]
        for line in package.metadata.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    text = _field(package, "License-Expression") or "; ".join(classifiers) or _field(package, "License")
    words = re.sub(r"\s+", " ", text).strip()
    if len(words) > LONGEST_LICENCE:
        words = f"{words[: LONGEST_LICENCE - 1]}…"
    return words or "not told by its metadata"


def _field(package: Distribution, name: str) -> str:
    return "; ".join(package.metadata.get_all(name) or [])


def packages_table() -> pd.DataFrame:
    """List the packages on which a run rests.

    Returns
    -------
    pandas.DataFrame
        One row a package: `Package`, `Licence`.
    """
    rows = [(one.metadata["Name"], licence(one)) for one in needed_packages()]
    return pd.DataFrame(rows, columns=["Package", "Licence"])
