"""What the results would be without a rule of quality assurance: removed scans put back, flagged scans left out."""

import pandas as pd

from sscct_lib.horizons import evaluate
from sscct_lib.lung_verdict import SEVERE
from sscct_lib.study import Settings
from sscct_lib.summary import estimate_text

ALL_RULES = "all rules"


def returning(lungs: pd.DataFrame, rule: str) -> "pd.Series[bool]":
    """Tell which removed scans would come back without a rule.

    Parameters
    ----------
    lungs
        Schema `LUNGS`.
    rule
        A measure that flags scans, or `ALL_RULES`.

    Returns
    -------
    pandas.Series
        By row of `lungs`: failed by this rule and by no other; a scan that a person left out stays out.
    """
    others = lungs["flags"].fillna("").map(lambda flags: set(flags.split()) & SEVERE)
    by_rules = lungs["verdict"].eq("fail") & lungs["decision"].isna()
    return by_rules & (others.map(bool) if rule == ALL_RULES else others.map(lambda names: names == {rule}))


def effects_of_rules(
    predictions: pd.DataFrame,
    removed: pd.DataFrame,
    lungs: pd.DataFrame,
    cohort: pd.DataFrame,
    model: str,
    settings: Settings,
) -> pd.DataFrame:
    """Judge a model with and without each rule of quality assurance.

    Parameters
    ----------
    predictions
        Schema `PREDICTIONS`, of the scans that the rules let through.
    removed
        The same for scans that they removed, by models of the fold that never saw the patient.
    lungs
        Schema `LUNGS`.
    cohort
        Schema `COHORT`.
    model
        The model that is judged.
    settings
        Of the study: the longest horizon, and the bootstrap of patients.

    Returns
    -------
    pandas.DataFrame
        A row for every rule that flagged a scan of the cohort, and one for all rules: scans `flagged` and `removed`,
        and the AUC at the longest horizon with its interval `as analysed`, with the `removed put back`, and with the
        `flagged left out` as well.
    """
    lungs = lungs[lungs["scan_id"].isin(cohort["scan_id"])].reset_index(drop=True)
    flags = lungs["flags"].fillna("").str.split()
    own, back = (table[table["model"] == model] for table in (predictions, removed))
    as_analysed = _auc(own, cohort, settings)
    rows = []
    for rule in [*sorted({name for names in flags for name in names}), ALL_RULES]:
        flagged = flags.map(bool) if rule == ALL_RULES else flags.map(lambda names, rule=rule: rule in names)
        returned = lungs.loc[returning(lungs, rule), "scan_id"]
        put_back = back[back["scan_id"].isin(returned)]
        without = own[~own["scan_id"].isin(lungs.loc[flagged, "scan_id"])]
        rows.append(
            {
                "rule": rule,
                "flagged": int(flagged.sum()),
                "removed": len(returned),
                "as analysed": as_analysed,
                "removed put back": _auc(pd.concat([own, put_back]), cohort, settings) if len(put_back) else "the same",
                "flagged left out": _auc(without, cohort, settings),
            }
        )
    return pd.DataFrame(rows).set_index("rule")


def _auc(predictions: pd.DataFrame, cohort: pd.DataFrame, settings: Settings) -> str:
    judged = evaluate(predictions, cohort, settings, ["auc"])
    longest = judged.loc[judged["horizon_years"] == max(settings.horizons_years)]
    if longest.empty:
        return "no scans"
    row = longest.iloc[0]
    return f"{estimate_text(row['estimate'], row['ci_low'], row['ci_high'])}; {row['n_scans']} scans"
