"""Sentences on cohorts whose truth is known: a strong effect, none, too few deaths, a model that harms."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sscct_lib.horizons import decisions, planned
from sscct_lib.horizons.calibration import logit
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.findings import SECTIONS, findings, in_markdown
from sscct_lib.study.settings import HorizonSettings, Settings

YEARS = 3.0
SHOWN = "Equal-weight ensemble"


def settings(**changes) -> Settings:
    horizons = HorizonSettings(
        n_bootstrap=200, primary_years=YEARS, planned=((SHOWN, "Other"),), thresholds=(0.1, 0.2, 0.5)
    )
    return Settings(horizons_years=(YEARS,), horizons=horizons, **changes)


def cohort_of(n_patients: int, hazard: float = 0.12, effect: float = 1.2, seed: int = 0) -> pd.DataFrame:
    """One scan of each patient, exponential survival, everybody followed for four years or to death."""
    rng = np.random.default_rng(seed)
    marker = rng.normal(size=n_patients)
    death = rng.exponential(1 / (hazard * np.exp(effect * marker)))
    return pd.DataFrame(
        {
            "scan_id": [f"s{i:04d}" for i in range(n_patients)],
            "patient_id": [f"p{i:04d}" for i in range(n_patients)],
            "scan_day": 0,
            "followup_years": np.minimum(death, 4.0),
            "event_observed": death < 4.0,
            "fold": np.arange(n_patients) % 3,
            "true_risk": 1 - np.exp(-hazard * np.exp(effect * marker) * YEARS),
        }
    )


def evaluation_of(cohort: pd.DataFrame, risk: np.ndarray, **changes) -> Evaluation:
    rows = []
    noise = np.random.default_rng(9).uniform(0.05, 0.6, len(cohort))
    for model, risks in ((SHOWN, np.asarray(risk)), ("Other", noise)):
        what = {"model": model, "horizon_years": YEARS, "repeat": 0, "risk": risks, "score": logit(risks)}
        rows.append(cohort[["scan_id", "patient_id", "fold"]].assign(**what, family="", network="", variant=""))
    predictions = pd.concat(rows, ignore_index=True).assign(risk_sd=np.nan)
    return Evaluation(cohort, predictions, settings(**changes))


def said_of(cohort: pd.DataFrame, risk: np.ndarray, **changes) -> dict[str, str]:
    evaluation = evaluation_of(cohort, risk, **changes)
    thresholds = decisions.threshold_table(evaluation, SHOWN)
    return findings(evaluation.at(SHOWN, YEARS), planned.compare(evaluation), thresholds, evaluation.settings)


def test_a_strong_and_right_model_is_said_to_be_both():
    cohort = cohort_of(1500)
    said = said_of(cohort, cohort["true_risk"])
    assert list(said) == list(SECTIONS)
    assert "better than chance does: AUC 0.8" in said["Discrimination"]
    assert said["What a model adds"].startswith(f"{SHOWN} ranked scans better than Other: difference in AUC 0.3")
    assert said["Calibration"].startswith("On average, as many died as predicted: O:E ")
    assert said["Net benefit"].startswith(
        "Flagging from a risk of 20 % did more good than flagging everybody or nobody"
    )
    assert said["How sure"] == "No model was tested outside this study."
    assert said["What to do next"] == "Test the model, unchanged, on patients of another hospital."


def test_a_model_that_knows_nothing_is_not_told_apart_from_chance():
    cohort = cohort_of(300, effect=0.0)
    said = said_of(cohort, np.random.default_rng(3).uniform(0.1, 0.5, 300))
    assert "could not be told apart from chance" in said["Discrimination"]
    assert said["What a model adds"].startswith(
        f"No model was shown to be better than another. {SHOWN} could not be told"
    )
    assert "did more good" not in said["Net benefit"]


def test_with_too_few_deaths_nothing_is_claimed():
    cohort = cohort_of(60)
    died = cohort["event_observed"] & (cohort["followup_years"] < YEARS)
    cohort.loc[died[died].index[3:], ["event_observed", "followup_years"]] = [False, 4.0]
    said = said_of(cohort, cohort["true_risk"])
    assert "too few patients died" in said["Discrimination"]
    assert said["What a model adds"].startswith("No model was shown to be better than another. Too few patients died")
    assert "rests on <5 patients" in said["How sure"]
    assert said["What to do next"].startswith("Follow the patients for longer")
    assert not {"Calibration", "Net benefit"} & set(said)
    assert not re.search(r"\b[1-4] patient", " ".join(said.values()))


def test_a_model_that_harms_is_said_to_harm():
    cohort = cohort_of(1500)
    said = said_of(cohort, 1 - cohort["true_risk"])
    assert "below the others, worse than chance" in said["Discrimination"]
    assert said["What a model adds"].startswith(f"{SHOWN} ranked scans worse than Other")
    assert re.match("Fewer died than predicted: .* The risks are too high", said["Calibration"])
    assert "did more harm than flagging" in said["Net benefit"]
    assert said["What to do next"].startswith("Look for what the models lack")


@pytest.mark.parametrize(("factor", "word"), [(0.5, "too low"), (1.8, "too high")])
def test_risks_that_are_off_are_said_to_be_off(factor, word):
    cohort = cohort_of(1500)
    said = said_of(cohort, np.clip(factor * cohort["true_risk"], 0.001, 0.99))
    assert said["Calibration"].endswith(f"The risks are {word}.")
    assert said["What to do next"].startswith("Recalibrate")


@pytest.mark.parametrize(("risk", "whom"), [(0.15, "nobody"), (0.25, "everybody")])
def test_a_model_that_flags_all_alike_is_said_to(risk, whom):
    cohort = cohort_of(400)
    said = said_of(cohort, np.full(400, risk) + np.linspace(0, 0.01, 400))
    assert f"would flag {whom}" in said["Net benefit"] or "harm" in said["Net benefit"]
    assert "did more good" not in said["Net benefit"]


def test_the_rule_for_short_followup_is_said_where_it_is_not_ours():
    cohort = cohort_of(300)
    said = said_of(cohort, cohort["true_risk"], labels="as_published")
    assert "count as alive" in said["How sure"]
    assert "count as alive" not in said_of(cohort, cohort["true_risk"])["How sure"]


def test_a_model_without_risks_at_the_horizon_says_so():
    cohort = cohort_of(300)
    evaluation = Evaluation(cohort, _empty_at_horizon(cohort), settings())
    thresholds = pd.DataFrame(columns=["horizon_years", "threshold"])
    said = findings(evaluation.at("Model", YEARS), planned.compare(evaluation), thresholds, evaluation.settings)
    assert said["Discrimination"] == "Model gives no risk of death within 3 years."
    assert f"Shown is Model, as this run has no {SHOWN} at every horizon." in said["How sure"]


def _empty_at_horizon(cohort):
    what = {"model": "Model", "horizon_years": 1.0, "repeat": 0, "risk": cohort["true_risk"], "score": np.nan}
    rows = cohort[["scan_id", "patient_id", "fold"]].assign(**what, family="", network="", variant="")
    return rows.assign(risk_sd=np.nan)


def test_chance_is_seldom_called_a_finding():
    """Of cohorts in which no risk tells anything, about one in twenty is told to be better or worse than chance."""
    claimed, others = 0, None
    for seed in range(60):
        cohort = cohort_of(120, effect=0.0, seed=seed)
        evaluation = evaluation_of(cohort, np.random.default_rng(1000 + seed).uniform(0.1, 0.5, 120))
        # Those of the first cohort serve all, whose sentences on them are not looked at.
        others = others or (planned.compare(evaluation), decisions.threshold_table(evaluation, SHOWN))
        said = findings(evaluation.at(SHOWN, YEARS), *others, evaluation.settings)
        claimed += "not be told apart" not in said["Discrimination"]
    assert claimed <= 8  # of 60 at 5 %, more than 8 have a chance of 0.4 %


def test_each_finding_leads_to_a_section_of_the_chapter():
    chapter = (Path(__file__).parents[2] / "notebooks" / "05_horizons.py").read_text(encoding="utf-8")
    titles = re.findall(r"^# ## (.+)$", chapter, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(filter(None, SECTIONS.values())) <= anchors
    hostile = in_markdown({"What to do next": "A `{raw}` [x](y) <5"})
    assert hostile == r"- **What to do next.** A \`\{raw\}\` \[x\](y) \<5"
    assert (
        in_markdown({"Calibration": "Right."}, "x.ipynb")
        == f"- **[Calibration](x.ipynb#{SECTIONS['Calibration']}).** Right."
    )
