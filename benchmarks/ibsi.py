"""PyRadiomics' features, as computed here, on the digital phantom of the Image Biomarker Standardisation Initiative.

    python benchmarks/ibsi.py FOLDER

FOLDER holds the phantom (`phantom.nii.gz`, `mask.nii.gz`) and the consensus (`reference_values.csv`), which the
initiative publishes under CC BY 4.0. `book/ibsi.csv` says which features have a counterpart in the standard; its other
columns are written anew.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from sscct_lib.radiomics.texture import pyradiomics_features

TABLE = Path(__file__).parents[1] / "book" / "ibsi.csv"
WHY = {
    "firstorder_Kurtosis": "no: 3 more",
    "shape_MinorAxisLength": "no: 0.7 % less",
    "shape_LeastAxisLength": "no: 0.7 % less",
}


def compare(folder: Path, counterparts: pd.DataFrame) -> pd.DataFrame:
    """Put our values beside the consensus.

    The consensus is published to three digits, and a tolerance of 0 means equal to these.
    """
    image = sitk.ReadImage(str(folder / "phantom.nii.gz"))
    region = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.nii.gz"))) > 0
    values = pyradiomics_features(sitk.GetArrayFromImage(image), region, image.GetSpacing()[::-1], bin_width=1.0)
    reference = pd.read_csv(folder / "reference_values.csv", sep=";").set_index("tag").loc[counterparts["biomarker"]]
    consensus, tolerance = (reference[name].to_numpy(dtype=float) for name in ("reference value", "tolerance"))
    ours = np.array([values[f"original_{name}"] for name in counterparts["feature"]])
    rounding = 0.5 * 10 ** (np.floor(np.log10(np.abs(consensus))) - 2)
    agrees = np.abs(ours - consensus) <= tolerance + rounding
    columns = {
        "agrees": ["yes" if one else WHY[name] for one, name in zip(agrees, counterparts["feature"], strict=True)],
        "ours": [f"{value:.4g}" for value in ours],
        "consensus": [f"{value:g}" for value in consensus],
        "tolerance": [f"{value:g}" for value in tolerance],
    }
    return counterparts[["feature"]].assign(**columns, biomarker=counterparts["biomarker"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    table = compare(parser.parse_args().folder, pd.read_csv(TABLE))
    table.to_csv(TABLE, index=False)
    print(table["agrees"].value_counts().to_string())
