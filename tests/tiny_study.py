"""One tiny study, run end to end once for all tests that need one."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from sscct_lib.cli.app import app
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.stages import PROJECT

NO_NETWORK = PROJECT / "tests" / "no_network"

TINY = """
title: Tiny study (synthetic patients)
seed: 10
demo: {n_patients: 12, spacing_mm: 6.0}
images: {spacing_mm: 6.0}
cohort: {n_folds: 2}
radiomics: {spacing_mm: 6.0}
tabular: {n_inner_folds: 2, n_stability_scans: 4, n_repeats: 1, n_trees: 10, n_imputations: 2,
  compared_on: [Quantitative CT]}
deep:
  n_explained: 2
  resnet18: {size: 32, epochs: 1, dropout: 0.2, longitudinal: true}
  densenet121: {size: 32, epochs: 1, head: classifiers, flag_unusual: false}
  swin: {size: 32, epochs: 1, feature_size: 12, window_size: 4, clinical: true, flag_unusual: false}
horizons: {n_bootstrap: 50}
"""
HOSTILE = """<img src="gone" onerror="ran()"> ![gone](http://192.0.2.1/gone.png) `$w$` | </td></table>{{ x }}

<script>ran()</script>
```"""
"""A text that would do something in a page that took it for more than text."""


def sscct(*arguments: str):
    """Call the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_until(folder: Path, notebook: str) -> None:
    """Run a study up to a notebook."""
    ran = sscct("run", folder, "--cores", "1", "--until", notebook)
    assert ran.exit_code == 0, ran.output


def finish(folder: Path) -> Study:
    """Make the tiny study in a folder and run all of it.

    One worker does all of it: that two give the same, `test_book_run.py` shows.
    The truth is out of reach for everything between the making of the scans and notebook 05, and the network for
    every process; what is tried all the same is written to `network.log` beside the study.
    """
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{NO_NETWORK}{os.pathsep}{PROJECT}")
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        patch.setenv("SSCCT_NETWORK_LOG", str(folder.parent / "network.log"))
        _run_all(folder)
    return load_study(folder)


def copy(study: Study, folder: Path) -> Study:
    """Copy a study, with file times, for a test that changes it; networks, three quarters of its size, are linked.

    Such a test may replace or remove the file of a network, but never write into it.
    """

    def link_networks(source: str, target: str) -> str:
        network = source.endswith(".safetensors")
        return str((os.link if network else shutil.copy2)(source, target) or target)

    return load_study(shutil.copytree(study.folder, folder, copy_function=link_networks))


def _run_all(folder: Path) -> None:
    (folder / "study.yaml").write_text(TINY)
    made = sscct("demo", folder)
    assert made.exit_code == 0, made.output
    write_hostile_texts(folder)
    run_until(folder, "01_cohort")
    (folder / "truth").rename(folder.parent / "hidden")
    run_until(folder, "04_deep_models")
    assert not (folder / "truth").exists()
    (folder.parent / "hidden").rename(folder / "truth")
    ran = sscct("run", folder, "--cores", "1")
    assert ran.exit_code == 0, ran.output


def write_hostile_texts(folder: Path) -> None:
    """Give a scanner, a kernel and a person's reason a name that a browser must not act upon."""
    manifest = pd.read_csv(folder / "data_manifest.csv", dtype=str, keep_default_na=False)
    names = {"Philips": f"Philips {HOSTILE}", "L": f"L {HOSTILE}"}
    manifest.replace({"manufacturer": names, "kernel": names}).to_csv(folder / "data_manifest.csv", index=False)
    # A scan of which the edge cuts lung, so that the rules send it to a person.
    decision = {"scan_id": manifest["scan_id"].iloc[2], "verdict": "pass", "who": "XY", "when": "2020-01-01"}
    pd.DataFrame([decision | {"why": HOSTILE}]).to_csv(folder / "qa_decisions.csv", index=False)
