"""What a run found, in sentences made from its numbers by rules that know no result: each is true of it, or not there.

A sentence says "better", "more" or "too low" only where a 95 % interval leaves no other reading; of two models, only
where the comparison was planned (`planned`). Everything else *could not be told apart*.
"""

from typing import Any

import numpy as np
import pandas as pd

from sscct_lib.horizons.decisions import middle_threshold
from sscct_lib.horizons.evaluation import Judged, too_few
from sscct_lib.horizons.models import PICTURED
from sscct_lib.horizons.tables import few, not_told, planned_sentences
from sscct_lib.study.disclosure import count_text
from sscct_lib.study.settings import Settings
from sscct_lib.study.words import estimate_text, percent_text, plain, years_text

Told = tuple[float, float, float]  # estimate and 95 % interval
ENOUGH_DIED = 100
"""Patients who died, without whom a test of a model leaves much to chance: Collins GS, Ogundimu EO, Altman DG. Sample
size considerations for the external validation of a multivariable prognostic model. Stat Med 2016;35:214-26."""
SECTIONS = {
    "Discrimination": "which-model-tells-apart-those-who-die-from-those-who-live",
    "What a model adds": "is-one-model-better-than-another",
    "Calibration": "do-as-many-die-as-predicted",
    "Net benefit": "would-acting-on-the-risk-do-more-good-than-harm",
    "How sure": "",
    "What to do next": "",
}
"""What is said, in this order, and the section of chapter 05 with its numbers."""
ROOM = (0.8, 1.25)  # O:E within which an interval must lie for risks to be called right on average


def findings(judged: Judged, tested: pd.DataFrame, thresholds: pd.DataFrame, settings: Settings) -> dict[str, str]:
    """Say what was found of the pictured model at the primary horizon, and of the planned comparisons.

    Parameters
    ----------
    judged
        The model at the primary horizon.
    tested
        From `planned.compare`.
    thresholds
        From `decisions.threshold_table`, of the same model.

    Returns
    -------
    dict
        A sentence or two by the names in `SECTIONS`.
    """
    said = {
        "Discrimination": _discrimination(judged),
        "What a model adds": planned_sentences(tested),
        "Calibration": _calibration(judged),
        "Net benefit": _net_benefit(judged, thresholds, middle_threshold(settings)),
        "How sure": _how_sure(judged, settings),
        "What to do next": _next(judged),
    }
    return {name: text for name, text in said.items() if text}


def in_markdown(said: dict[str, str], chapter: str = "") -> str:
    """Write findings as a list, in Markdown; `chapter` is the path to chapter 05 from the page on which they stand."""
    links = {name: f"[{name}]({chapter}#{SECTIONS[name]})" if SECTIONS[name] else name for name in said}
    return "\n".join(f"- **{links[name]}.** {plain(text)}" for name, text in said.items())


def _told(judged: Judged, metric: str) -> Told | None:
    """An estimate with its interval, or None where one of them is lacking or rests on too few patients."""
    if few(pd.Series(judged.counts)):
        return None
    found = judged.estimate(metric)
    values = found["estimate"], found["ci_low"], found["ci_high"]
    return values if np.isfinite(values).all() else None


def _side(values: Told | None, of: float) -> int:
    """Where an interval lies: 1 above a value, -1 below it, 0 around it or unknown."""
    return 0 if values is None else int(values[1] > of) - int(values[2] < of)


def _discrimination(judged: Judged) -> str:
    auc, within = _told(judged, "auc"), f"Within {years_text(judged.horizon_years)}"
    if not len(judged.risk):
        return f"{judged.model} gives no risk of death within {years_text(judged.horizon_years)}."
    if auc is None:
        return f"{within}, too few patients died, or are known to have lived, to tell how well any model ranks them."
    verdict = {
        1: "ranked scans followed by death above the others better than chance does",
        -1: "ranked scans followed by death below the others, worse than chance does",
        0: "could not be told apart from chance",
    }[_side(auc, 0.5)]
    return f"{within}, {judged.model} {verdict}: AUC {estimate_text(*auc)}."


def _calibration(judged: Judged) -> str:
    ratio = _told(judged, "observed_expected")
    if ratio is None:
        return ""
    text = f"O:E {estimate_text(*ratio)}"
    side = _side(ratio, 1)
    if side:
        which, risks = ("More", "low") if side > 0 else ("Fewer", "high")
        return f"{which} died than predicted: {text}. The risks are too {risks}."
    if ratio[1] >= ROOM[0] and ratio[2] <= ROOM[1]:
        return f"On average, as many died as predicted: {text}."
    return f"The study cannot tell whether as many die as predicted: {text}."


def _net_benefit(judged: Judged, thresholds: pd.DataFrame, threshold: float) -> str:
    if few(pd.Series(judged.counts)):
        return ""
    at = thresholds[(thresholds["horizon_years"] == judged.horizon_years) & (thresholds["threshold"] == threshold)]
    at = at.set_index("measure")
    acting = f"lagging from a risk of {percent_text(threshold)}"
    gains: dict[str, Told] = {}
    for measure, other in (("net_benefit", "nobody"), ("gain", "everybody")):
        row: Any = at.loc[measure]
        if not_told(row, measure) or pd.isna(row.ci_low):
            return f"What f{acting} brings is not told: too few patients would be flagged, or left."
        gains[other] = 100 * row.estimate, 100 * row.ci_low, 100 * row.ci_high
    over = " and ".join(f"{estimate_text(*gain, decimals=1)} over flagging {other}" for other, gain in gains.items())
    return f"F{acting} {_of_flagging(gains)}: net benefit per 100 scans {over}."


def _of_flagging(gains: dict[str, Told]) -> str:
    """What a model brings, from its net benefit over flagging nobody and over flagging everybody."""
    sides = {other: _side(gain, 0) for other, gain in gains.items()}
    if min(sides.values()) > 0:
        return "did more good than flagging everybody or nobody"
    if min(sides.values()) < 0:
        return f"did more harm than flagging {' and '.join(other for other in sides if sides[other] < 0)}"
    same = [other for other, gain in gains.items() if not any(gain)]
    return f"would flag {same[0]}" if same else "could not be shown to do more good than flagging everybody or nobody"


def _how_sure(judged: Judged, settings: Settings) -> str:
    died = judged.counts["n_patients_died"]
    within = f"within {years_text(judged.horizon_years)}"
    sentences = []
    if 0 < died < ENOUGH_DIED:
        sentences.append(
            f"All this rests on {count_text(died)} patients who died {within}; "
            f"about {ENOUGH_DIED} are advised to judge a model."
        )
    if judged.model != PICTURED[0]:
        sentences.append(f"Shown is {judged.model}, as this run has no {PICTURED[0]} at every horizon.")
    if settings.labels == "as_published":
        sentences.append(
            "Patients lost before a horizon count as alive at it (labels: as_published), so that too few seem to die."
        )
    return " ".join([*sentences, "No model was tested outside this study."])


def _next(judged: Judged) -> str:
    counts = judged.counts
    if too_few(counts["n_patients_died"], counts["n_patients_alive"]) or counts["n_patients_died"] < ENOUGH_DIED:
        return "Follow the patients for longer or add those of other centres, and judge the same models anew."
    if _side(_told(judged, "auc"), 0.5) < 1:
        return "Look for what the models lack before they are tested elsewhere."
    if _side(_told(judged, "observed_expected"), 1):
        return "Recalibrate the model, then test it unchanged on patients of another hospital."
    return "Test the model, unchanged, on patients of another hospital."
