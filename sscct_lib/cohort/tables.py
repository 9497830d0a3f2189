"""The tables of notebook 01: who the patients are, and who was alive when."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from sscct_lib.cohort.outcomes import label_name
from sscct_lib.study.schemas import GROUP, NUMBER
from sscct_lib.study.words import CLINICAL_WORDS, estimate_text, feature_name

AT_LAST_CONTACT = {"alive": "alive at last contact", "died": "died"}


def characteristics(cohort: pd.DataFrame) -> pd.DataFrame:
    """Describe the patients at their first scan in the cohort: the paper's Table 1.

    Returns
    -------
    pandas.DataFrame
        One row a characteristic or category; columns: missing values, all patients, patients who were alive and
        patients who had died at last contact. Numbers are median [quartiles] or count (%).
    """
    if cohort.empty:
        return pd.DataFrame(columns=["Missing", "Overall"])
    from tableone import TableOne

    first = cohort.sort_values("scan_day").groupby("patient_id", sort=True).head(1)
    n_scans = cohort.groupby("patient_id")["scan_id"].count()
    declared = {name: feature_name(name).capitalize() for name in map(str, cohort) if name.startswith((NUMBER, GROUP))}
    patients = pd.DataFrame(
        {
            "At last contact": np.where(first["event_observed"], "died", "alive"),
            "Age, years": first["age_years"],
            "Sex": first["sex"],
            "Subtype": first["ssc_subtype"],
            "FVC, % predicted": first["fvc_percent"],
            "DLCO, % predicted": first["dlco_percent"],
            **{words: first[name] for name, words in declared.items()},
            "Follow-up, years": first["followup_years"],
            "Scans": first["patient_id"].map(n_scans),
        }
    ).dropna(axis="columns", how="all")
    names = [name for name in patients.columns if name != "At last contact"]
    of_groups = [words for name, words in declared.items() if name.startswith(GROUP)]
    categorical = [name for name in ("Sex", "Subtype", *of_groups) if name in names]
    numbers = [name for name in names if name not in categorical]
    table = TableOne(
        patients, columns=names, categorical=categorical, nonnormal=numbers, groupby="At last contact", pval=False,
        decimals=1,
    )  # fmt: skip
    described: pd.DataFrame = table.tableone
    names = [str(name) for name in described.columns.get_level_values(1)]
    return described.set_axis([AT_LAST_CONTACT.get(name, name) for name in names], axis=1)


def missing_by_outcome(cohort: pd.DataFrame, horizon_years: float) -> pd.DataFrame:
    """Compare what is missing among patients who died within a horizon and those known to be alive then.

    Returns
    -------
    pandas.DataFrame
        One row a clinical value that is missing for some, at each patient's first scan: patients without it of those
        who died, and of those alive, and the difference in percentage points, as text with its 95 % interval. A patient
        of unknown state counts in neither.

    References
    ----------
    Newcombe RG. Interval estimation for the difference between independent proportions: comparison of eleven methods.
    Stat Med 1998;17:873-90 (method 10: of Wilson intervals).
    """
    first = cohort.sort_values("scan_day", kind="stable").drop_duplicates("patient_id")
    died, alive = (first[first[label_name(horizon_years)].eq(state).fillna(False)] for state in (1, 0))
    rows = {}
    declared = [name for name in map(str, first) if name.startswith((NUMBER, GROUP))]
    for column in [*CLINICAL_WORDS, *declared]:
        if column not in first or not first[column].isna().any() or not len(died) or not len(alive):
            continue
        missing = [int(group[column].isna().sum()) for group in (died, alive)]
        (p, low, high), (q, other_low, other_high) = (
            (count / len(group), *binomtest(count, len(group)).proportion_ci(method="wilson"))
            for count, group in zip(missing, (died, alive), strict=True)
        )
        below, above = np.hypot(p - low, other_high - q), np.hypot(high - p, q - other_low)
        rows[feature_name(column)] = {
            "missing of those who died": f"{missing[0]} of {len(died)}",
            "of those alive": f"{missing[1]} of {len(alive)}",
            "difference, points": estimate_text(
                100 * (p - q), 100 * (p - q - below), 100 * (p - q + above), decimals=0
            ),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("value")


def label_counts(cohort: pd.DataFrame, horizons_years: tuple[float, ...]) -> pd.DataFrame:
    """Count died, alive and unknown at each horizon.

    Returns
    -------
    pandas.DataFrame
        One row a horizon: scans died, alive, unknown; patients with a scan followed by death, and with one known to be
        followed by life; share of deaths among all scans, as published (%).
    """
    rows = []
    for horizon in horizons_years:
        label = cohort[label_name(horizon)]
        died, alive = (label.eq(state).fillna(False).astype(bool) for state in (1, 0))
        rows.append(
            {
                "Horizon, years": f"{horizon:g}",
                "Scans": len(cohort),
                "Died": int(died.sum()),
                "Alive": int(alive.sum()),
                "Unknown": int(label.isna().sum()),
                "Patients who died": cohort.loc[died, "patient_id"].nunique(),
                "Patients alive": cohort.loc[alive, "patient_id"].nunique(),
                "Died, % of all scans": round(100 * died.mean(), 1) if len(cohort) else np.nan,
            }
        )
    return pd.DataFrame(rows).set_index("Horizon, years")


def fold_counts(cohort: pd.DataFrame, horizons_years: tuple[float, ...]) -> pd.DataFrame:
    """Count patients, scans, and those followed by death within each horizon (years), in each fold."""
    folds = cohort.groupby("fold")
    counts = pd.DataFrame({"Patients": folds["patient_id"].nunique(), "Scans": folds.size()})
    for horizon in horizons_years:
        died = cohort[label_name(horizon)].eq(1).fillna(False)
        counts[f"Scans, died within {horizon:g} y"] = died.groupby(cohort["fold"]).sum().astype(int)
        patients = cohort["patient_id"].where(died.astype(bool)).groupby(cohort["fold"]).nunique()
        counts[f"Patients, died within {horizon:g} y"] = patients
    return counts.rename_axis("Fold")
