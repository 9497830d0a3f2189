"""Heads that turn what an encoder saw into risks: discrete-time hazards, or a classifier for each horizon.

Both know about censoring. Hazards give risks that cannot fall from one horizon to the next; separate classifiers, as
published, can. Clinical values beside the image, missing or not, are a part of the score. Targets of K intervals
(0, h_1], (h_1, h_2], ... are `died` and `survived`, shape (n, K), from `hazard_targets`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sscct_lib.study.schemas import SUBTYPES

NUMBERS = ("age_years", "fvc_percent", "dlco_percent")
N_VALUES = len(NUMBERS) + 1 + len(SUBTYPES)
N_HIDDEN = 8


def hazard_targets(
    followup_years: NDArray[np.float64], event_observed: NDArray[np.bool_], horizons_years: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """In which interval each scan was followed by death (1, else 0), and the fraction of each it survived, both (n, K).

    Follow-up and the increasing horizons are in years. With no scan specific hazards the maximum of this likelihood is
    the actuarial (life-table) estimate. Gensheimer MF, Narasimhan B. PeerJ 2019;7:e6257 (likelihood). Kvamme H, Borgan
    Ø. Lifetime Data Anal 2021;27:710-36 (censoring inside an interval under a constant hazard).
    """
    ends = np.asarray(horizons_years, dtype=float)
    starts = np.concatenate([[0.0], ends[:-1]])
    time = followup_years[:, None]
    died = event_observed[:, None] & (time > starts) & (time <= ends)
    # Part of an interval counts as a part: under a hazard constant inside it, the fraction f is survived with
    # probability (1 - hazard)^f.
    survived = np.where(died, 0.0, np.clip((time - starts) / (ends - starts), 0.0, 1.0))
    return died.astype(np.float32), survived.astype(np.float32)


def base_hazards(
    died: NDArray[np.float32], survived: NDArray[np.float32], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """The cohort's actuarial hazard in each interval, (K,); `weights` (n,), mean 1, say how much each scan counts."""
    weights = np.ones(len(died)) if weights is None else weights
    n_died = weights @ died + 0.5  # half a death, and half a survival below: no interval starts at a hazard of 0 or 1
    return np.asarray(n_died / (n_died + weights @ survived + 0.5))


class Head(nn.Module):
    """Scores of a scan, and the cohort's own logits, from which every scan starts."""

    shift: Tensor  # added to the logits, (n_intervals,): 0 until `correct_prior`

    def __init__(self, n_features: int, n_scores: int, n_intervals: int) -> None:
        super().__init__()
        self.score = nn.Linear(n_features, n_scores, bias=False)
        self.baseline = nn.Parameter(torch.zeros(n_intervals))
        self.register_buffer("shift", torch.zeros(n_intervals))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, n_features) to logits (B, n_intervals)."""
        logits: Tensor = self.score(features) + self.baseline + self.shift
        return logits

    def start_at(self, hazards: NDArray[np.float64]) -> None:
        """Let the untrained head predict nearly `hazards`, shape (n_intervals,), for every scan."""
        with torch.no_grad():
            self.score.weight.mul_(0.1)
            self.baseline.copy_(self.cohort_logits(hazards))

    def correct_prior(self, seen: NDArray[np.float64], cohort: NDArray[np.float64]) -> None:
        """Move the logits from the hazards of the scans as they counted in training to those of all, both (K,)."""
        # Training draws one scan of each patient, and may draw those who die more often: its risks are too high for a
        # scan of the cohort. King G, Zeng L. Polit Anal 2001;9:137-63, section 4.1 (prior correction).
        self.shift.copy_(self.cohort_logits(cohort) - self.cohort_logits(seen))

    def cohort_logits(self, hazards: NDArray[np.float64]) -> Tensor:
        """Give the logits that mean these hazards, both of shape (n_intervals,)."""
        raise NotImplementedError


class HazardHead(Head):
    """One score a scan, and the cohort's logit of hazard in each interval between horizons.

    The logits of hazard are score + baseline, so scans keep their order over the horizons (proportional odds of
    hazards; Cox DR. J R Stat Soc B 1972;34:187-220, section 6). Free logits in each interval would learn the first year
    from its few deaths alone; here every death teaches the score.
    """

    def __init__(self, n_features: int, n_intervals: int) -> None:
        super().__init__(n_features, 1, n_intervals)

    @staticmethod
    def losses(logits: Tensor, died: Tensor, survived: Tensor) -> Tensor:
        """Minus the sum over k of died_k log h_k + survived_k log(1 - h_k), shape (B,); Gensheimer 2019, equation 1."""
        log_likelihood = died * functional.logsigmoid(logits) + survived * functional.logsigmoid(-logits)
        return -log_likelihood.sum(dim=1)

    @staticmethod
    def risks(logits: Tensor) -> Tensor:
        """Turn logits of hazard (B, K) to risks of death within each horizon (B, K), non-decreasing over horizons."""
        return -torch.expm1(functional.logsigmoid(-logits).cumsum(dim=1))

    def cohort_logits(self, hazards: NDArray[np.float64]) -> Tensor:
        """Give the logits of these hazards, shape (n_intervals,)."""
        return torch.from_numpy(hazards).logit()


class ClassifierHead(Head):
    """A classifier for each horizon that knows nothing of the others: died within it, or not; their risks can cross."""

    def __init__(self, n_features: int, n_intervals: int) -> None:
        super().__init__(n_features, n_intervals, n_intervals)

    @staticmethod
    def losses(logits: Tensor, died: Tensor, survived: Tensor) -> Tensor:
        """Binary cross-entropy of each scan, shape (B,), over the horizons at which its state is known."""
        dead = died.cumsum(dim=1)
        alive = (survived >= 1).to(logits.dtype).cumprod(dim=1)
        return (functional.binary_cross_entropy_with_logits(logits, dead, reduction="none") * (dead + alive)).sum(dim=1)

    @staticmethod
    def risks(logits: Tensor) -> Tensor:
        """Turn logits to risks of death within each horizon, shape (B, K), which can cross."""
        return logits.sigmoid()

    def cohort_logits(self, hazards: NDArray[np.float64]) -> Tensor:
        """Give the logits of the risks within each horizon under these hazards, shape (n_intervals,)."""
        return torch.from_numpy(1 - np.cumprod(1 - hazards)).logit()


def clinical_values(scans: pd.DataFrame) -> NDArray[np.float32]:
    """Clinical values of scans (columns of schema `COHORT`, each may be absent), (n, N_VALUES), NaN where missing.

    In order: `NUMBERS`, 1 for men and 0 for women, and for each of `SUBTYPES` whether it is the patient's.
    """
    table = scans.reindex(columns=[*NUMBERS, "sex", "ssc_subtype"])
    sex, subtype = table["sex"], table["ssc_subtype"]
    columns = [pd.to_numeric(table[name]) for name in NUMBERS]
    columns += [(sex == "male").astype(float).where(sex.notna())]
    columns += [(subtype == one).astype(float).where(subtype.notna()) for one in SUBTYPES]
    return np.column_stack([column.to_numpy(dtype=np.float32, na_value=np.nan) for column in columns])


class ClinicalBranch(nn.Module):
    """What clinical values add to the score of a scan.

    A missing number becomes the median of the training patients, a missing category their shares, and an input of its
    own says that it is missing. A value beyond those of the training patients counts as the nearest of theirs.
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
        """Learn scale, medians and what can be missing; every patient counts once, by the mean of the scans."""
        of_patients = pd.DataFrame(values).groupby(patient_id.to_numpy()).mean()
        median = of_patients.median()
        median[len(NUMBERS) :] = of_patients.mean()[len(NUMBERS) :]
        median = median.fillna(0.0)
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
