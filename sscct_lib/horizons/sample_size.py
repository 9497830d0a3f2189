"""How many patients a model needs at least, by Riley's criteria, beside those that a study has.

References
----------
Riley RD, Snell KIE, Ensor J, et al. Minimum sample size for developing a multivariable prediction model: part II,
binary and time-to-event outcomes. Stat Med 2019;38:1276-96. Riley RD, Ensor J, Snell KIE, et al. Calculating the sample
size required for developing a clinical prediction model. BMJ 2020;368:m441.
"""

from collections.abc import Mapping
from math import ceil, exp, log
from typing import NamedTuple

import pandas as pd

from sscct_lib.horizons.evaluation import too_few
from sscct_lib.study.disclosure import is_small
from sscct_lib.study.words import years_text

SHRINKAGE = 0.9
OPTIMISM = 0.05  # of Nagelkerke's R2
MARGIN = 0.05  # of the overall risk
EXPLAINED = 0.15  # of the most that can be explained: what Riley (2020) takes where nothing is known
Z = 1.96


class Needed(NamedTuple):
    """Patients needed for shrinkage of 0.9 or more, optimism of 0.05 or less, and the overall risk within 0.05."""

    shrinkage: int
    optimism: int
    overall_risk: int


def for_survival(n_parameters: int, r2: float, rate: float, mean_followup_years: float, horizon_years: float) -> Needed:
    """Patients that a model of survival needs (criteria 1 to 3).

    Parameters
    ----------
    n_parameters
        Candidates, before any is chosen.
    r2
        Cox-Snell R2 that is expected.
    rate
        Deaths a patient and year.
    """
    per_patient = rate * mean_followup_years
    most = most_explained(per_patient * log(per_patient) - per_patient)
    # Of an exponential risk the lower end of the interval lies farther away: this far in deaths per patient and year.
    reach = log(1 + MARGIN * exp(rate * horizon_years)) / horizon_years
    overall = rate * (Z / reach) ** 2 / mean_followup_years
    return Needed(*_of_fit(n_parameters, r2, most), ceil(overall))


def for_binary(n_parameters: int, r2: float, prevalence: float) -> Needed:
    """Patients that a model of a binary outcome needs (criteria 1 to 3); parameters as of `for_survival`."""
    most = most_explained(prevalence * log(prevalence) + (1 - prevalence) * log(1 - prevalence))
    return Needed(*_of_fit(n_parameters, r2, most), ceil((Z / MARGIN) ** 2 * prevalence * (1 - prevalence)))


def most_explained(null_log_likelihood: float) -> float:
    """Highest Cox-Snell R2 there can be, of the log likelihood a patient of the model without predictors."""
    return 1 - exp(2 * null_log_likelihood)


def _of_fit(n_parameters: int, r2: float, most: float) -> tuple[int, int]:
    if not 0 < r2 < min(SHRINKAGE, most):
        raise ValueError(f"a Cox-Snell R2 of {r2:g} was given; expected one between 0 and {min(SHRINKAGE, most):.2g}")

    def patients(shrinkage: float) -> int:
        return ceil(n_parameters / ((shrinkage - 1) * log(1 - r2 / shrinkage)))

    return patients(SHRINKAGE), patients(r2 / (r2 + OPTIMISM * most))


def needed(cohort: pd.DataFrame, n_parameters: Mapping[str, int], horizon_years: float) -> pd.DataFrame:
    """Hold the patients of a cohort against those that each model needs; a patient counts once, from the first scan.

    Parameters
    ----------
    cohort
        `patient_id`, `scan_day`, `followup_years` and `event_observed`.
    n_parameters
        By model: candidates, before any is chosen.
    horizon_years
        At which the overall risk is to be known.

    Returns
    -------
    pandas.DataFrame
        Text, index `model`: candidate parameters, deaths for each, patients here and needed by each criterion, and
        whether there are enough. `EXPLAINED` of what can be explained is assumed. No rows where too few patients died
        or lived.
    """
    first = cohort.sort_values("scan_day").drop_duplicates("patient_id")
    died, n = int(first["event_observed"].sum()), len(first)
    years = float(first["followup_years"].sum())
    if too_few(died, n - died) or is_small(died) or is_small(n - died):
        return pd.DataFrame()
    rate, followup = died / years, years / n
    r2 = EXPLAINED * most_explained(rate * followup * log(rate * followup) - rate * followup)
    rows = []
    for model, count in n_parameters.items():
        found = for_survival(count, r2, rate, followup, horizon_years)
        row = {"model": model, "candidate parameters": count, "deaths for each": f"{died / count:.2g}"}
        row |= {"patients here": f"{n:,} ({died:,} died)", "needed against overfitting": f"{found.shrinkage:,}"}
        row |= {"for what is explained": f"{found.optimism:,}"}
        row |= {f"for the risk at {years_text(horizon_years)}": f"{found.overall_risk:,}"}
        rows.append({**row, "enough": "yes" if n >= max(found) else f"no: {max(found) / n:.1f} times as many needed"})
    return pd.DataFrame(rows).set_index("model")
