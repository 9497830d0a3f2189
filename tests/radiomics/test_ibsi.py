"""The book's table of features beside the Image Biomarker Standardisation Initiative."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sscct_lib.radiomics.texture import pyradiomics_features
from sscct_lib.study.stages import PROJECT

PHANTOM = Path(__file__).parents[3] / "shared" / "data" / "ibsi1_digital_phantom"
TABLE = PROJECT / "book" / "ibsi.csv"
PAGE = (PROJECT / "book" / "ibsi.md").read_text(encoding="utf-8")


@pytest.fixture
def written() -> pd.DataFrame:
    return pd.read_csv(TABLE, dtype=str)


def test_the_table_is_what_the_code_computes_on_the_phantom(written: pd.DataFrame) -> None:
    if not PHANTOM.is_dir():
        pytest.skip(f"the IBSI digital phantom is not in {PHANTOM.name}")
    path = PROJECT / "benchmarks" / "ibsi.py"
    spec = importlib.util.spec_from_file_location("ibsi_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    pd.testing.assert_frame_equal(benchmark.compare(PHANTOM, written), written)


def test_values_lie_within_the_tolerance_where_the_table_says_so(written: pd.DataFrame) -> None:
    """The table judged again, from its own numbers, by eye as it were: to the digits that it shows."""
    ours, consensus, tolerance = (written[name].astype(float) for name in ("ours", "consensus", "tolerance"))
    shown = 0.5 * 10 ** (np.floor(np.log10(consensus.abs())) - 2) + 0.5 * 10 ** (np.floor(np.log10(ours.abs())) - 3)
    within = (ours - consensus).abs() <= (tolerance + shown) * (1 + 1e-9)
    assert within[written["agrees"] == "yes"].all()
    assert sorted(written.loc[written["agrees"] != "yes", "feature"].str.split("_").str[-1]) == [
        "Kurtosis", "LeastAxisLength", "MinorAxisLength",
    ]  # fmt: skip
    kurtosis = written["feature"] == "firstorder_Kurtosis"
    assert (ours - consensus)[kurtosis].item() == pytest.approx(3, abs=0.001)
    for axis in ("Major", "Minor", "Least"):
        row = written["feature"] == f"shape_{axis}AxisLength"
        # n and n - 1 of the phantom's 74 voxels
        assert (ours / consensus)[row].item() == pytest.approx(np.sqrt(73 / 74), abs=0.0012)


def test_the_page_counts_features_as_the_table_does(written: pd.DataFrame) -> None:
    hu = np.random.default_rng(0).integers(-900, -300, (6, 6, 6)).astype(np.int16)
    computed = pyradiomics_features(hu, np.ones(hu.shape, bool), (1.0, 1.0, 1.0), 25.0)
    names = {name.removeprefix("original_") for name in computed}
    assert set(written["feature"]) < names
    assert written["feature"].is_unique
    assert f"{len(written)} of PyRadiomics' {len(names)} features" in PAGE
    assert f"{(written['agrees'] == 'yes').sum()} agree with the consensus" in PAGE
    without = names - set(written["feature"])
    assert len(without) == 5
    assert {name for name in without if "Maximum2DDiameter" in name or name.endswith(("MCC", "TotalEnergy"))} == without
