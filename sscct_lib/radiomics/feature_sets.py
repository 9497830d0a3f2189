"""What each tabular model sees: clinical values, quantitative CT, radiomics, and their change since the scan before."""

from collections.abc import Mapping

import pandas as pd

from sscct_lib.cohort.outcomes import DAYS_PER_YEAR
from sscct_lib.images.scanners import scanner
from sscct_lib.study.folder import StudyError
from sscct_lib.study.schemas import GROUP, IMAGE_TYPES, SEXES, SUBTYPES, stored_names
from sscct_lib.study.settings import Covariate

CLINICAL_NUMBERS = ["age_years", "fvc_percent", "dlco_percent"]
CLINICAL_CATEGORIES = {"sex": SEXES, "ssc_subtype": SUBTYPES}
# The groups of features that each set holds.
FEATURE_SETS = {
    "Clinical": ("clinical",),
    "Quantitative CT": ("qct",),
    "Clinical + quantitative CT": ("clinical", "qct"),
    "Radiomics": ("radiomics",),
    "Radiomics + change": ("radiomics", "change"),
    "All features": ("clinical", "qct", "radiomics", "change"),
}
PREFIXES = {"qct": ("qct_",), "radiomics": IMAGE_TYPES, "change": ("change_",)}
MIN_CHANGE_DAYS = 90  # a shorter time makes a rate of change out of noise


class NotEstimableError(ValueError):
    """A model cannot be fitted on these patients; the message says why."""


def join(cohort: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Put outcome, clinical values and features of each scan side by side.

    The scans of the cohort that have features, in its order, with `scanner` and what `add_change` adds. StudyError
    where a scan belongs to another patient in the cohort.
    """
    patient = cohort.set_index("scan_id")["patient_id"].reindex(features["scan_id"]).to_numpy()
    others = features.loc[pd.notna(patient) & (patient != features["patient_id"].to_numpy()), "scan_id"]
    if len(others):
        raise StudyError(
            f"The feature table gives {len(others)} scan(s) to another patient than the cohort does "
            f"({', '.join(others[:5])}). The manifest changed after it was made: run `03_radiomics` again."
        )
    usable = features[features["status"] == "ok"].drop(columns=["patient_id", "status", "reason"])
    joined = cohort.merge(usable, on="scan_id", validate="one_to_one")
    return add_change(joined.assign(scanner=scanner(joined)))


def add_change(table: pd.DataFrame) -> pd.DataFrame:
    """Add `change_<feature>` per year since the patient's scan before, and `change_years`, the time between."""
    names = [name for name in map(str, table) if name.startswith((*IMAGE_TYPES, *PREFIXES["qct"]))]
    by_day = table[["patient_id", "scan_day", *names]].sort_values("scan_day", kind="stable")
    # The patient's last scan at least `MIN_CHANGE_DAYS` earlier, never a later one; all is empty where there is none.
    before = pd.merge_asof(
        by_day[["patient_id", "scan_day"]].reset_index().assign(latest=by_day["scan_day"].to_numpy() - MIN_CHANGE_DAYS),
        by_day.rename(columns={"scan_day": "day_before"}),
        left_on="latest",
        right_on="day_before",
        by="patient_id",
    ).set_index("index")
    years = (before["scan_day"] - before["day_before"]).reindex(table.index) / DAYS_PER_YEAR
    rates = (table[names] - before[names].reindex(table.index)).div(years, axis=0).add_prefix("change_")
    return pd.concat([table, rates.assign(change_years=years)], axis=1)


def is_category(name: str) -> bool:
    """Whether a column holds categories: the study's own ones say so by how they begin."""
    return name in CLINICAL_CATEGORIES or name.startswith(GROUP)


def predictors(declared: Mapping[str, Covariate]) -> dict[str, Covariate]:
    """The declared covariates that clinical models see, by their columns of the cohort."""
    stored = stored_names(declared)
    return {stored[name]: one for name, one in declared.items() if one.predictor}


def clinical_columns(declared: Mapping[str, Covariate]) -> list[str]:
    """Columns that clinical models see, where a table has them."""
    return [*CLINICAL_NUMBERS, *CLINICAL_CATEGORIES, *predictors(declared)]


def feature_columns(
    feature_set: str, table: pd.DataFrame, declared: Mapping[str, Covariate] | None = None
) -> list[str]:
    """The columns of a feature set that hold at least one value; NotEstimableError if there is none."""
    names: list[str] = []
    for group in FEATURE_SETS[feature_set]:
        if group == "clinical":
            names += [name for name in clinical_columns(declared or {}) if name in table]
        else:
            names += [name for name in map(str, table) if name.startswith(PREFIXES[group])]
    filled = [name for name in names if table[name].notna().any()]
    if not filled:
        raise NotEstimableError("no scan has a value in any column of this model")
    return filled


def n_parameters(feature_set: str, table: pd.DataFrame) -> int:
    """How many parameters a model of a feature set may choose from: a category counts for its values less one."""
    categories = table.reindex(columns=list(CLINICAL_CATEGORIES)).nunique() - 1
    return sum(int(categories.get(name, 1)) for name in feature_columns(feature_set, table))
