"""Clinical values beside the image: age, sex, subtype and lung function, missing or not, as a part of the score."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sscct_lib.schemas import SUBTYPES

NUMBERS = ("age_years", "fvc_percent", "dlco_percent")
N_VALUES = len(NUMBERS) + 1 + len(SUBTYPES)
N_HIDDEN = 8


def clinical_values(scans: pd.DataFrame) -> NDArray[np.float32]:
    """Take the clinical values of scans as numbers.

    Parameters
    ----------
    scans
        One row a scan; columns of schema `COHORT`, of which each may be absent or empty.

    Returns
    -------
    numpy.ndarray
        `age_years`, `fvc_percent`, `dlco_percent`, 1 for men and 0 for women, and 1 for the patient's subtype and 0
        for the others, shape (n, N_VALUES); NaN where missing.
    """
    table = scans.reindex(columns=[*NUMBERS, "sex", "ssc_subtype"])
    sex, subtype = table["sex"], table["ssc_subtype"]
    columns = [pd.to_numeric(table[name]) for name in NUMBERS]
    columns += [(sex == "male").astype(float).where(sex.notna())]
    columns += [(subtype == one).astype(float).where(subtype.notna()) for one in SUBTYPES]
    return np.column_stack([column.to_numpy(dtype=np.float32, na_value=np.nan) for column in columns])


class ClinicalBranch(nn.Module):
    """What clinical values add to the score of a scan.

    A missing value becomes the median of the training patients, and an input of its own says that it is missing. A
    value beyond those of the training patients counts as the nearest of theirs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.median: Tensor
        self.low: Tensor
        self.high: Tensor
        self.mean: Tensor
        self.spread: Tensor
        self.can_miss: Tensor
        for name, start in (("median", 0.0), ("low", 0.0), ("high", 1.0), ("mean", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full((N_VALUES,), start))
        self.register_buffer("can_miss", torch.zeros(N_VALUES))
        last = nn.Linear(N_HIDDEN, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2 * N_VALUES, N_HIDDEN), nn.ReLU(), last)

    def fit(self, values: NDArray[np.float32], patient_id: "pd.Series[str]") -> None:
        """Learn scale, medians and what can be missing; every patient counts once, by the mean of the scans.

        Parameters
        ----------
        values
            Of the training scans, from `clinical_values`.
        patient_id
            Their patients.
        """
        of_patients = pd.DataFrame(values).groupby(patient_id.to_numpy()).mean()
        median = of_patients.median().fillna(0.0)
        filled = of_patients.fillna(median)
        spread = filled.std(ddof=0)
        learned = {
            "median": median,
            "low": filled.min(),
            "high": filled.max(),
            "mean": filled.mean(),
            "spread": spread.where(spread > 0, 1.0),
            # An indicator that never moves in training keeps random weights; it must not speak later.
            "can_miss": pd.DataFrame(values).isna().any().astype(float),
        }
        with torch.no_grad():
            for name, numbers in learned.items():
                getattr(self, name).copy_(torch.from_numpy(numbers.to_numpy(dtype=np.float32)))

    def forward(self, values: Tensor) -> Tensor:
        """Map values (B, N_VALUES), NaN where missing, to a part of the score (B, 1)."""
        missing = torch.isnan(values)
        filled = torch.where(missing, self.median, values).clamp(self.low, self.high)
        inputs = torch.cat([(filled - self.mean) / self.spread, missing * self.can_miss], dim=1)
        part: Tensor = self.layers(inputs)
        return part
