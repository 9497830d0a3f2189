"""What is rendered of a cohort with few patients in many cells tells none of them, in tables, figures or sentences."""

import ast
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from sscct_lib.cohort import figures as cohort_figures
from sscct_lib.cohort import selection
from sscct_lib.cohort import tables as cohort_tables
from sscct_lib.cohort.selection import FlowStep
from sscct_lib.horizons import (
    censoring,
    curves,
    decisions,
    evaluate,
    figures,
    patients,
    subgroups,
    survival,
    tables,
    trajectories,
)
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.study.disclosure import protect
from sscct_lib.study.settings import HorizonSettings, Settings
from sscct_lib.study.stages import PROJECT
from tests.horizons.cohorts import make_cohort, make_predictions

ONE_TO_FOUR = r"(?<![\d.,<])[1-4](?!\d|[.,]\d)"
SMALL = re.compile(
    rf"{ONE_TO_FOUR} (?:other )?(?:scans?|patients?|deaths?|unknown|had died|lived|had not been)\b|^{ONE_TO_FOUR}$"
    rf"|\((?:{ONE_TO_FOUR})\)$|^{ONE_TO_FOUR} \(|(?:against|died,) {ONE_TO_FOUR}\b"
    rf"|(?:scans?|patients?|against \d+|^\S+) of {ONE_TO_FOUR}\b"
)
"""How a small count would be written."""
NO_COUNTS = re.compile(r"^(?:Horizon|Fold)|horizon$|^p$|odds|^[1-9] years?$")  # columns, and labels of axes
COUNT = re.compile(r"^n_(?:patients|events|deaths|lost|unknown|died)\w*$")
RENDERING = (
    "study/words",
    "cohort/*",
    "horizons/*",
    "lungs/tables",
    "radiomics/tables",
    "deep/tables",
    "report/*",
    "book/*",
)
WRITERS = {"count_text", "of_patients", "scans_text", "span_text"}


@pytest.fixture(scope="module")
def study():
    """An evaluation of 60 patients, in whose cells there are few: of men, of a subtype, of a cause, of a scanner."""
    cohort = make_cohort(60, censoring=0.3)
    number = cohort["patient_id"].str[1:].astype(int)
    few = np.random.default_rng(3)
    cohort = cohort.assign(
        age_years=40.0 + number, sex=np.where(number % 15 == 0, "male", "female"), transplanted=number.eq(7),
        ssc_subtype=np.where(number % 9 == 0, None, np.where(number % 20 == 1, "diffuse", "limited")),
        fvc_percent=np.where(number % 17 == 0, np.nan, 80 + number % 13), dlco_percent=np.nan,
        cause_of_death=few.choice(["ssc_lung", "other"], len(cohort), p=[0.2, 0.8]),
        manufacturer=np.where(number % 25, "A", "B"),
        kernel="soft", slice_thickness_mm=1.0, scan_year=2015.0,
    )  # fmt: skip
    cohort["cause_of_death"] = cohort["cause_of_death"].where(cohort["event_observed"])
    for years in (1.0, 3.0, 5.0):
        known = np.where(cohort["followup_years"] >= years, 0.0, np.nan)
        died = cohort["event_observed"] & (cohort["followup_years"] <= years)
        cohort[f"label_{years:g}y"] = pd.Series(np.where(died, 1.0, known)).astype("Int64")
    settings = Settings(horizons=HorizonSettings(n_bootstrap=40))
    predictions = pd.concat([make_predictions(cohort, 0.3, "A"), make_predictions(cohort, 2.0, "B")])
    return Evaluation(cohort, predictions.reset_index(drop=True), settings)


def rendered(evaluation: Evaluation) -> dict[str, object]:
    """Everything that notebooks 01 and 05 render of the cohort, by name."""
    cohort, settings, years = evaluation.cohort, evaluation.settings, evaluation.settings.horizons_years
    performance = evaluate.evaluate(evaluation)
    flow = [FlowStep("all", 125, 63, False), FlowStep("unread", 2, 2, True), FlowStep("late", 3, 3, True)]
    flow.append(FlowStep("kept", 120, 60, False))
    over_time = trajectories.over_time(evaluation, "A", 3.0)
    fair = subgroups.fairness(subgroups.groups(cohort), evaluation, "A")
    near = patients.similar_patients(evaluation, "A", 0.3, "p003")
    return {
        "flow": cohort_figures.flow_diagram(flow),
        "flow in words": selection.flow_text(flow),
        "table 1": cohort_tables.characteristics(cohort),
        "missing": cohort_tables.missing_by_outcome(cohort, 3.0),
        "labels": cohort_tables.label_counts(cohort, years),
        "cohort in sentences": cohort_tables.findings(cohort, years[0]),
        "folds": cohort_tables.fold_counts(cohort, years),
        "follow-up": figures.followup_curve(survival.followup_curve(cohort, 40)),
        "loss": tables.hazards_in_words(censoring.hazards_of_loss(cohort)),
        "auc": tables.side_by_side(performance, "auc"),
        "remarks": tables.remarks(performance),
        "published": tables.beside_published(performance),
        "thirds": figures.kaplan_meier_by_group(curves.survival_by_tertile(evaluation, "A")),
        "dots": figures.risk_distribution(curves.risk_states(evaluation, "A")),
        "ratios": tables.hazards_in_words(subgroups.hazard_ratios(evaluation, "A")),
        "causes": figures.cumulative_incidence_by_cause(survival.cumulative_incidence(cohort, settings)),
        "by cause": tables.hazards_in_words(survival.cause_specific_hazards(evaluation, "A")),
        "parts": tables.parts_side_by_side(subgroups.evaluate_parts(subgroups.views(cohort), evaluation, "A")),
        "groups": tables.fairness_in_words(fair, 3.0),
        "over time": figures.risks_over_time(over_time, "A", 3.0),
        "noise": tables.noise(trajectories.noise(over_time, settings)),
        "similar": patients.in_words(patients.outcomes(near, settings)),
        "curves": figures.decision_curves(decisions.decision_curves(evaluation, ["A"])),
        "prose": tables.headline_numbers(evaluation, performance)["deaths"],
    }  # fmt: skip


def small_counts(shown: object) -> list[str]:
    """Small counts that can be read in a table, a figure or a sentence."""
    if isinstance(shown, pd.DataFrame):
        columns = [column for column in shown if not NO_COUNTS.search(str(column))]
        texts = [str(cell) for cell in shown[columns].to_numpy().ravel()] + [str(shown.index.name or "")]
    elif isinstance(shown, str):
        texts = [shown]
    else:
        found = shown.findobj(mpl.text.Text)
        lines = [
            (isinstance(text, mpl.text.Annotation), line) for text in found for line in text.get_text().split("\n")
        ]
        texts = [line for below, line in lines if below or len(line) > 1]  # a digit alone else stands at an axis
    return [text for text in texts if SMALL.search(text)]


@pytest.mark.slow
def test_no_small_count_can_be_read_in_anything_that_is_rendered(study):
    found = {name: small_counts(shown) for name, shown in rendered(study).items()}
    assert {name: texts for name, texts in found.items() if texts} == {}


@pytest.mark.slow
def test_without_the_rule_there_are_many_so_that_the_search_finds_them(study):
    protect(1)
    found = {name for name, shown in rendered(study).items() if small_counts(shown)}
    assert {"flow", "flow in words", "table 1", "groups", "thirds", "causes", "by cause", "similar"} <= found


def unprotected(source: str) -> list[str]:
    """Formatted counts of patients that no function of the one place writes."""
    found = []

    def look(node: ast.AST, safe: bool) -> None:
        if isinstance(node, ast.Raise):  # a message to whoever runs the study
            return
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in WRITERS:
            return
        if isinstance(node, ast.FormattedValue):
            safe = False
        names = [getattr(node, name, "") for name in ("id", "attr", "value")]
        if not safe and any(isinstance(name, str) and COUNT.match(name) for name in names):
            found.append(ast.unparse(node))
        for child in ast.iter_child_nodes(node):
            look(child, safe)

    look(ast.parse(source), True)
    return found


def test_counts_become_text_in_one_place_alone():
    assert unprotected("f'{n_patients:,} patients'") == ["n_patients"]
    assert unprotected("f'{row.n_events} died'") == ["row.n_events"]
    assert unprotected("f'{count_text(row[\"n_events\"])} died'") == []
    paths = [path for name in RENDERING for path in (PROJECT / "sscct_lib").glob(f"{name}.py")]
    paths += (PROJECT / "notebooks").glob("*.py")
    found = {path.name: unprotected(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: texts for name, texts in found.items() if texts} == {}
