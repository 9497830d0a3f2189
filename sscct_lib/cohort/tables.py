"""The tables of notebook 01: who the patients are, and who was alive when."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from sscct_lib.cohort.outcomes import label_name
from sscct_lib.study.disclosure import HIDDEN, OLDEST_YEARS, count_text, count_texts, is_small
from sscct_lib.study.schemas import GROUP, NUMBER
from sscct_lib.study.words import CLINICAL_WORDS, estimate_text, feature_name, scans_text, years_text

AGE = "Age, years"
COUNTED, NUMBERS, MISSING = ", n (%)", ", median [", "not known"  # of the rows of Table 1
UNKNOWN_RULE = {
    "censored_unknown": "a patient who was not followed that long counts as unknown, never as alive",
    "as_published": "in this run a patient who was not followed that long counts as alive (`labels: as_published`)",
}
AT_LAST_CONTACT = {"alive": "alive at last contact", "died": "died"}


def characteristics(cohort: pd.DataFrame) -> pd.DataFrame:
    """Describe the patients at their first scan in the cohort: the paper's Table 1.

    Returns
    -------
    pandas.DataFrame
        One row per characteristic or category; columns: missing values, all patients, patients who were alive and
        patients who had died at last contact. Numbers are median [quartiles] or count (%); nothing of too few patients
        is told (see `study.disclosure`).
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
            AGE: np.floor(first["age_years"].clip(upper=OLDEST_YEARS + 1)),
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
        decimals={AGE: 0},
    )  # fmt: skip
    described: pd.DataFrame = table.tableone
    names = [str(name) for name in described.columns.get_level_values(1)]
    few = {
        (row, str(group)): is_small(patients.loc[rows, row].count())
        for row in numbers
        for group, rows in (("Overall", patients.index), *patients.groupby("At last contact").groups.items())
    }
    told = _protected(described.set_axis(names, axis=1), few)
    return told.set_axis([AT_LAST_CONTACT.get(name, name) for name in names], axis=1)


def _protected(table: pd.DataFrame, few: Mapping[tuple[str, str], bool]) -> pd.DataFrame:
    """Hide the small counts of Table 1, those by which they could be found, and numbers of `few` patients."""
    table, groups = table.astype(object), list(table.columns[1:])
    rows = [row for row in table.index if row[0] == "n" or row[0].endswith(COUNTED)]
    counts = table.loc[rows, groups].map(lambda cell: int(str(cell).split(" ")[0]))
    names = list(dict.fromkeys(name for name, _ in rows[1:]))
    for name in names:  # of whom it is not known
        counts.loc[(name, MISSING), :] = counts.iloc[0] - counts.loc[[name]].sum()
    place = np.arange(counts.size).reshape(counts.shape)
    of_name = [counts.index.get_level_values(0) == name for name in names]
    sums = [(row[0], row[1:]) for row in place if len(groups) > 1]
    sums += [(place[0, column], place[rows, column]) for rows in of_name for column in range(len(groups))]
    texts = np.array(count_texts(counts.to_numpy().ravel(), sums, known=place[0].tolist()), dtype=object)
    shown = pd.DataFrame(texts.reshape(counts.shape), index=counts.index, columns=groups)
    for row, group in product(rows, groups):
        if not shown.loc[row, group][:1].isdigit():
            table.loc[row, group] = shown.loc[row, group]
    for row, group in product(table.index, groups):
        if few.get((row[0].partition(NUMBERS)[0], group)):
            table.loc[row, group] = HIDDEN
    for row in table.index[table["Missing"].astype(str) != ""]:
        of = shown.loc[(row[0], MISSING), "Overall"] if row[0] in names else count_text(table.loc[row, "Missing"])
        table.loc[row, "Missing"] = of
    return table


def findings(cohort: pd.DataFrame, horizon_years: float) -> str:
    """Say who is studied, of how many the state at a horizon is unknown, and what is missing most, in sentences."""
    first = cohort.sort_values("scan_day", kind="stable").drop_duplicates("patient_id")
    n_died = cohort.loc[cohort["event_observed"], "patient_id"].nunique()
    said = [f"{scans_text(len(cohort), len(first))} are studied; {count_text(n_died)} patients died."]
    unknown = label_counts(cohort, (horizon_years,))["Unknown"].iloc[0]
    if unknown[:1].isdigit():
        share = cohort[label_name(horizon_years)].isna().mean()
        heavy = ": results there rest much on the weights of those whose state is known" if share > 1 / 3 else ""
        said.append(
            f"Whether the patient was alive after {years_text(horizon_years)} is unknown for {unknown} scans{heavy}."
        )
    missing = first[[name for name in CLINICAL_WORDS if name in first]].isna().sum()
    if len(missing) and missing.max() and not is_small(missing.max()):
        name = feature_name(str(missing.idxmax()))
        said.append(f"Most often missing is {name}, in {count_text(missing.max())} patients.")
    return " ".join(said)


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
        told = [count_text(count) for count in missing]
        difference = estimate_text(100 * (p - q), 100 * (p - q - below), 100 * (p - q + above), decimals=0)
        rows[feature_name(column)] = {
            "missing of those who died": f"{told[0]} of {count_text(len(died))}",
            "of those alive": f"{told[1]} of {count_text(len(alive))}",
            "difference, points": HIDDEN if any(map(is_small, (*missing, len(died), len(alive)))) else difference,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("value")


def label_counts(cohort: pd.DataFrame, horizons_years: tuple[float, ...]) -> pd.DataFrame:
    """Count died, alive and unknown at each horizon.

    Returns
    -------
    pandas.DataFrame
        One row per horizon: scans died, alive, unknown; patients with a scan followed by death, and with one known to
        be followed by life; share of deaths among all scans, as published (%).
    """
    rows = []
    for horizon in horizons_years:
        label = cohort[label_name(horizon)]
        states = [label.eq(state).fillna(False).astype(bool) for state in (1, 0)] + [label.isna()]
        of = [cohort["patient_id"].nunique(), *(cohort.loc[state, "patient_id"].nunique() for state in states)]
        counts = [len(cohort), *(int(state.sum()) for state in states)]
        texts = count_texts(counts, [(0, (1, 2, 3))], of, known=[0])
        share = f"{100 * states[0].mean():.1f}" if len(cohort) else ""
        rows.append(
            {
                "Horizon, years": f"{horizon:g}",
                **dict(zip(("Scans", "Died", "Alive", "Unknown"), texts, strict=True)),
                "Patients who died": count_text(of[1]),
                "Patients alive": count_text(of[2]),
                "Died, % of all scans": share if texts[1][:1].isdigit() else HIDDEN,
            }
        )
    return pd.DataFrame(rows).set_index("Horizon, years")


def fold_counts(cohort: pd.DataFrame, horizons_years: tuple[float, ...]) -> pd.DataFrame:
    """Count patients, scans, and those followed by death within each horizon (years), in each fold."""
    if cohort.empty:
        return pd.DataFrame()
    everyone = pd.Series(True, index=cohort.index)
    kinds = {("Patients", "Scans"): everyone}
    for years in horizons_years:
        names = f"Patients, died within {years:g} y", f"Scans, died within {years:g} y"
        kinds[names] = cohort[label_name(years)].eq(1).fillna(False).astype(bool)
    table: dict[str, list[str]] = {}
    for (patients, scans), rows in kinds.items():
        folds = cohort["fold"].unique()
        by_fold = cohort[rows].groupby("fold")
        of = by_fold["patient_id"].nunique().reindex(sorted(folds), fill_value=0).to_numpy()
        n = by_fold.size().reindex(sorted(folds), fill_value=0).to_numpy()
        sums = [(len(n), range(len(n)))]
        # The total is told above.
        table[scans] = count_texts([*n, n.sum()], sums, [*of, of.sum()], known=[len(n)])[:-1]
        table[patients] = count_texts([*of, of.sum()], sums, known=[len(n)])[:-1]
    return pd.DataFrame(table, index=pd.Index(sorted(folds), name="Fold"))
