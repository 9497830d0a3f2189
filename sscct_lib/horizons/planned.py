"""Comparisons planned before the run: they alone have p values, and they alone can call a model better."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from sscct_lib.horizons.bootstrap import Floats, interval
from sscct_lib.horizons.evaluation import TOO_SMALL, Evaluation, too_few
from sscct_lib.horizons.patients import middle_horizon
from sscct_lib.study.folder import StudyError
from sscct_lib.study.registry import suggested
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import NETWORK_WORDS, plain_names

LEVEL = 0.05
UNDECIDED, NOT_COMPARED = "not told apart", "not in this run"
FINDINGS = ("better", "worse", UNDECIDED, TOO_SMALL, NOT_COMPARED)
"""What a planned comparison finds; nothing else calls a model better."""


def planned_pairs(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The planned comparisons of a study, each a model and the one that it is compared with, by plain names."""
    first = NETWORK_WORDS[settings.deep.networks[0]]  # the best of several networks would be chosen by its result
    with_ct = "Clinical + quantitative CT"
    usual = ((with_ct, "Clinical"), (with_ct, "ILD-GAP"), (first, "Quantitative CT"))
    return settings.horizons.planned or usual


def check_planned(settings: Settings, known: Collection[str]) -> None:
    """Refuse a comparison with a model that the study does not make; `known`: plain names of those it makes.

    What stands in `study.yaml` is checked; a default may lack its model, and says so in its place.

    Raises
    ------
    StudyError
        With the name, the nearest right one and all that are known.
    """
    named = [("planned", name) for pair in settings.horizons.planned or () for name in pair]
    if "reference" in settings.horizons.model_fields_set:
        named.append(("reference", settings.horizons.reference))
    for setting, name in named:
        if name not in known:
            near = suggested(name, known)
            hint = f"Did you mean {near!r}? " if near else ""
            raise StudyError(
                f"horizons.{setting} names the model {name!r}, which this study does not make. {hint}"
                f"It makes {', '.join(sorted(known))}."
            )


def compare(evaluation: Evaluation) -> pd.DataFrame:
    """Test the comparisons that were planned before the run, in AUC at the primary horizon.

    They alone have p values, corrected for the number planned, and only they can call a model better than another.
    Everything else is explored, with intervals alone.

    Returns
    -------
    pandas.DataFrame
        One row per comparison: `model`, `against` (plain names), `horizon_years`, `difference` with `ci_low` and
        `ci_high` (95 %), `p` (two-sided, of the same t statistic), `p_holm`, `finding` (one of `FINDINGS`), and the
        counts of `COUNTS`. A comparison without estimate counts among those corrected for.

    References
    ----------
    Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65-70. Bender R, Lange S.
    Adjusting for multiple testing: when and how? J Clin Epidemiol 2001;54:343-9 (confirmation and exploration).
    """
    horizon = evaluation.settings.horizons.primary_years or middle_horizon(evaluation.settings)
    by_plain = {plain: name for name, plain in plain_names(evaluation.predictions).items()}
    rows = []
    for model, against in planned_pairs(evaluation.settings):
        judged, other = evaluation.pair(by_plain.get(model, model), by_plain.get(against, against), horizon)
        samples, freedom = judged.measure("auc") - other.measure("auc"), judged.outcome.degrees_of_freedom
        low, high, _ = interval(samples, freedom)
        row = {"model": model, "against": against, "horizon_years": horizon, "difference": samples[0]}
        rows.append({**row, "ci_low": low, "ci_high": high, "p": two_sided_p(samples, freedom), **judged.counts})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].fillna(1)).where(table["p"].notna())
    table["finding"] = [_finding(row) for row in table.itertuples()]
    return table


def _finding(row: Any) -> str:
    """The one rule for `better`: planned, and p below 0.05 after Holm's correction."""
    if not row.n_scans:
        return NOT_COMPARED
    if too_few(row.n_patients_died, row.n_patients_alive):
        return TOO_SMALL
    if row.p_holm < LEVEL:
        return "better" if row.difference > 0 else "worse"
    return UNDECIDED  # also where there is no p: both rank all scans alike


def two_sided_p(samples: Floats, degrees_of_freedom: float) -> float:
    """Two-sided p of "no difference": the level at which `interval` just reaches 0; NaN where it gives none."""
    if not np.isfinite(interval(samples, degrees_of_freedom).low):
        return np.nan
    spread = np.nanstd(samples[1:])
    return float(2 * student_t.sf(abs(samples[0]) / spread, degrees_of_freedom))


def holm(p: pd.Series) -> pd.Series:
    """Correct p values for their number, by Holm's step-down method."""
    ordered = p.sort_values()
    return (ordered * np.arange(len(p), 0, -1)).cummax().clip(upper=1).reindex(p.index)
