"""The runs of a sweep side by side, each against the first on the scans that both judged alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.bootstrap import interval
from sscct_lib.files import checksum
from sscct_lib.headline import ROWS, chosen_models
from sscct_lib.horizons import aligned_risk, cohort_outcome, not_estimable, study_resamples
from sscct_lib.metrics import METRICS
from sscct_lib.schemas import COHORT, PERFORMANCE, PREDICTIONS, SWEEP
from sscct_lib.study import Study
from sscct_lib.tables import read_predictions, read_table
from sscct_lib.wording import network_of

SHOWN = ("auc", "observed_expected")
AGREED = ["scan_id", "patient_id", "followup_years", "event_observed"]
"""What must be the same of a scan in two runs for its risks to be compared."""


@dataclass(frozen=True)
class _Judged:
    """What a finished run says."""

    study: Study
    cohort: pd.DataFrame
    predictions: pd.DataFrame
    performance: pd.DataFrame

    @property
    def models(self) -> dict[str, str]:
        """Names of the models shown, by their kind."""
        names = chosen_models(self.performance)
        return {kind: name for kind in ROWS for name in names if kind in (name, network_of(name))}


def _read(study: Study) -> _Judged:
    stacked = read_table(study.table("stacked"), PREDICTIONS, "05_horizons")
    return _Judged(
        study,
        read_table(study.table("cohort"), COHORT, "01_cohort"),
        pd.concat([read_predictions(study), stacked], ignore_index=True),
        read_table(study.table("performance"), PERFORMANCE, "05_horizons"),
    )


def state(study: Study) -> str:
    """Tell in which state a run was compared: the checksum of its table of performance, empty without one."""
    path = study.table("performance")
    return checksum(path) if path.is_file() else ""


def compare(first: Study, others: Sequence[Study]) -> pd.DataFrame:
    """Put the runs of a sweep side by side.

    The models are one of each kind, chosen by the rule of the front page (`headline.ROWS`), which knows no result.

    Parameters
    ----------
    first
        The run with which the others are compared; finished.
    others
        Other finished runs of the study.

    Returns
    -------
    pandas.DataFrame
        Schema `SWEEP`: one row a run, model, horizon and metric. `difference` is the run's AUC minus that of the
        first on the scans of both runs whose patient, follow-up and outcome are the same in both, with the same
        resampled patients for both, and a 95 % interval.
    """
    reference = _read(first)
    rows = _rows(reference)
    for other in map(_read, others):
        rows += [row | _difference(reference, other, row) for row in _rows(other)]
    return SWEEP.validate(pd.DataFrame(rows, columns=list(SWEEP.columns)))


def _rows(judged: _Judged) -> list[dict[str, Any]]:
    rows = []
    for kind, name in judged.models.items():
        of = judged.performance
        for row in of[(of["model"] == name) & of["metric"].isin(SHOWN)].to_dict("records"):
            own = {str(column): value for column, value in row.items()}
            none = {"difference": np.nan, "difference_low": np.nan, "difference_high": np.nan, "n_paired": 0}
            rows.append({"run": judged.study.run_name, "kind": kind, **own, **none})
    return rows


def _difference(first: _Judged, other: _Judged, row: dict[str, Any]) -> dict[str, Any]:
    """Compare one model at one horizon; nothing where there is nothing to compare."""
    name, horizon = first.models.get(row["kind"]), float(row["horizon_years"])
    if row["metric"] != "auc" or name is None or first.study.settings.labels != other.study.settings.labels:
        return {}
    common = first.cohort.merge(other.cohort[AGREED], on=AGREED)
    risks = [
        aligned_risk(judged.predictions, common, model, horizon)
        for judged, model in ((other, row["model"]), (first, name))
    ]
    both = np.isfinite(risks[0]) & np.isfinite(risks[1])
    resamples = study_resamples(common, first.study.settings).of(both)
    outcome = cohort_outcome(common[both], horizon, resamples, first.study.settings.labels)
    if not_estimable(outcome):
        return {"n_paired": int(both.sum())}
    own, reference = (METRICS["auc"].measure(risk[both], outcome) for risk in risks)
    low, high, _ = interval(own - reference, outcome.degrees_of_freedom)
    return {
        "difference": float(own[0] - reference[0]),
        "difference_low": low,
        "difference_high": high,
        "n_paired": int(both.sum()),
    }
