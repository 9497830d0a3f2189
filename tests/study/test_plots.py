"""Figures show what their tables hold.

Vector figures: the same bytes each time, nothing in them that points to a day or a machine, words for the search.
"""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from sscct_lib.cohort import figures as cohort_figures
from sscct_lib.cohort.selection import FlowStep
from sscct_lib.horizons import curves, figures, tables
from sscct_lib.horizons.bootstrap import resample_patients
from sscct_lib.horizons.evaluate import evaluate
from sscct_lib.horizons.evaluation import Evaluation
from sscct_lib.horizons.survival import followup_curve
from sscct_lib.intake.privacy_readers import svg_texts
from sscct_lib.study import disclosure, plots, words
from sscct_lib.study.plots import LARGEST, PALE, BookFigure, as_svg
from tests.horizons.cohorts import FEW, make_cohort, make_predictions


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(mpl.text.Text))


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(60)


@pytest.fixture(scope="module")
def predictions(cohort):
    names = ["Clinical", "ResNet-18 (from scratch)", "Something new"]
    return pd.concat([make_predictions(cohort, i, name) for i, name in enumerate(names)], ignore_index=True)


@pytest.fixture(scope="module")
def performance(predictions, cohort):
    return evaluate(Evaluation(cohort, predictions, FEW))


@pytest.mark.parametrize("n_kept", [0, 1, 2125])
def test_flow_diagram_says_all_counts(n_kept):
    flow = [
        FlowStep("Scans in the manifest", n_kept + 1, n_kept + 1, False),
        FlowStep("No follow-up", 1, 1, True),
        FlowStep("Scans in the cohort", n_kept, n_kept, False),
    ]
    disclosure.protect(1)
    shown = texts(cohort_figures.flow_diagram(flow))
    assert "No follow-up\n1 scan of 1 patient" in shown
    assert f"Scans in the cohort\n{words.counted(n_kept, 'scan')} of" in shown


def models(*names: str) -> pd.DataFrame:
    """A table of models; those from scratch are networks, and what follows a comma is their variant."""
    rows = []
    for name in names:
        plain, _, variant = name.partition(", ")
        network = {"ResNet-18": "resnet18"}.get(plain.removesuffix(" (from scratch)"), "")
        rows.append({"model": name, "family": "" if network else plain, "network": network, "variant": variant})
    return pd.DataFrame(rows)


def test_a_model_keeps_its_colour_whatever_stands_beside_it():
    alone = plots.model_colours(models("ResNet-18 (from scratch)"))
    others = plots.model_colours(models("Zebra", "Clinical", "ResNet-18 (from scratch)"))
    assert alone["ResNet-18 (from scratch)"] == others["ResNet-18 (from scratch)"]
    assert alone["ResNet-18 (from scratch)"] == plots.model_colours(models("ResNet-18"))["ResNet-18"]


def test_models_of_one_figure_differ_in_colour():
    names = ["ResNet-18", "ResNet-18 (from scratch)", "Clinical", "Radiomics", "Ensemble"]
    assert len(set(plots.model_colours(models(*names)).values())) == len(names)


def test_a_variant_has_the_same_colour_whichever_models_stand_beside_it():
    variants = ["Clinical + quantitative CT, logistic", "ResNet-18 (from scratch), longitudinal"]
    beside = ["Clinical + quantitative CT, boosted trees", "Ensemble", "ResNet-18"]
    many = plots.model_colours(models(*variants, *beside))
    for name in variants:
        assert many[name] == plots.model_colours(models(name, "Clinical"))[name]


def test_followup_curve_prints_numbers_at_risk(cohort):
    figure = figures.followup_curve(followup_curve(cohort, n_bootstrap=50))
    shown = texts(figure).split("\n")
    assert str(len(cohort)) in shown
    assert f"{(cohort['followup_years'] >= 2).sum()}" in shown


def test_followup_of_nobody_says_so():
    assert "No scan with follow-up" in texts(figures.followup_curve(followup_curve(make_cohort(5).iloc[:0])))


def test_kaplan_meier_prints_numbers_at_risk_of_each_group(cohort):
    groups = curves.tertile_names(cohort["marker"].to_numpy())
    resamples = resample_patients(cohort["patient_id"], 50, seed=0)
    table = curves.survival_by_group(groups, cohort, resamples, 5.0, curves.TERTILES)
    figure = figures.kaplan_meier_by_group(table)
    below = [text for text in figure.findobj(mpl.text.Annotation) if text.get_text().isdigit()]
    shown = {}
    for text in below:
        shown.setdefault(text.xyann[1], []).append(int(text.get_text()))
    expected = [
        [(cohort.loc[groups == name, "followup_years"] >= years).sum() for years in range(6)]
        for name in curves.TERTILES
    ]
    assert [shown[height] for height in sorted(shown, reverse=True)] == expected


def test_roc_legend_has_each_auc_with_interval(predictions, cohort, performance):
    figure = figures.roc_curves(curves.roc_curves(Evaluation(cohort, predictions, FEW), performance), performance)
    shown = texts(figure)
    for row in performance.query("metric == 'auc'").itertuples():
        assert f"{row.model}: {row.estimate:.2f} ({row.ci_low:.2f} to {row.ci_high:.2f})" in shown
    assert len(figure.axes) == 3


def test_forest_marks_the_other_cohort(performance):
    figure = figures.performance_forest(performance, tables.PUBLISHED)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label for label in labels if "another cohort" in label] == labels[3:]
    open_marks = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    drawn = sorted(float(x) for line in open_marks for x in line.get_xdata())
    published = tables.PUBLISHED.query("horizon_years == 1")[["auc_low", "auc_high"]].to_numpy().ravel()
    assert drawn == sorted(published)


def test_calibration_points_are_the_table(predictions, cohort, performance):
    evaluation = Evaluation(cohort, predictions, FEW)
    table, smooth = curves.calibration(evaluation, "Clinical"), curves.smooth_calibration(evaluation, "Clinical")
    figure = figures.calibration_plot(
        table, smooth, curves.risk_states(evaluation, "Clinical"), performance, "Clinical"
    )
    right = performance.query("metric == 'observed_expected' and model == 'Clinical' and horizon_years == 3").iloc[0]
    assert f"O:E {right.estimate:.2f} (" in figure.axes[1].texts[0].get_text()
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert len(heights) == 20
    assert max(heights) > 0
    assert len(figure.axes) == 3
    rows = table[table["horizon_years"] == 3]
    *_, bars, points = figure.axes[1].collections
    np.testing.assert_allclose(points.get_offsets(), rows[["predicted", "observed"]])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, rows[["ci_low", "ci_high"]])


def test_everything_is_drawn_when_nothing_can_be_estimated(predictions, cohort):
    alive = cohort.assign(event_observed=False)
    performance = evaluate(Evaluation(alive, predictions, FEW))
    roc = figures.roc_curves(curves.roc_curves(Evaluation(alive, predictions, FEW), performance), performance)
    assert "Clinical: too small" in texts(roc)
    forest = figures.performance_forest(performance, tables.PUBLISHED)
    assert "too small" in texts(forest)
    assert {axis.get_facecolor() for axis in forest.axes} == {to_rgba(PALE)}
    groups, smooth, states = (
        draw(Evaluation(alive, predictions, FEW), "Clinical")
        for draw in (curves.calibration, curves.smooth_calibration, curves.risk_states)
    )
    assert smooth.empty
    figure = figures.calibration_plot(groups, smooth, states, performance, "Clinical")
    assert figure.axes[0].texts[0].get_text().startswith("O:E too small")
    figures.risk_distribution(curves.risk_states(Evaluation(alive, predictions, FEW), "Clinical"))
    figures.kaplan_meier_by_group(curves.survival_by_tertile(Evaluation(alive, predictions, FEW), "Clinical"))


def test_figures_leave_no_trace(cohort):
    before = dict(mpl.rcParams)
    figures.followup_curve(followup_curve(cohort, n_bootstrap=10))
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_every_named_model_keeps_its_colour_and_dash_in_any_company():
    from sscct_lib.horizons.models import ROWS

    names = [*plots.MODEL_ORDER]
    colours, dashes = plots.model_colours(models(*names)), plots.model_dashes(models(*names))
    for name in names:
        assert plots.model_colours(models(name))[name] == colours[name]
        assert plots.model_dashes(models("Zebra", name))[name] == dashes[name]
    assert len({(colours[name], str(dashes[name])) for name in names}) == len(names)
    # Those that stand together on the front page differ in colour alone.
    assert len({colours[name] for name in ROWS}) == len(ROWS)


def test_dots_are_spread_in_the_same_way_each_time():
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    risks = pd.DataFrame({"horizon_years": 1.0, "risk": rng.random(40), "state": rng.choice(["died", "alive"], 40)})
    risks["patient_id"] = range(40)
    drawn = []
    for _ in range(2):
        np.random.random()  # noqa: NPY002 - whatever others drew before
        figure = figures.risk_distribution(risks)
        drawn.append([dots.get_offsets().tolist() for dots in figure.axes[0].collections])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 0


SVG = "{http://www.w3.org/2000/svg}"


def drawn(words="Alive", n_marks=5):
    figure, axes = plots.new_figure(3.0)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1])
    axis.scatter(np.linspace(0, 1, n_marks), np.linspace(0, 1, n_marks), c=np.linspace(0, 1, n_marks))
    axis.set_title(words)
    return figure


def test_a_figure_drawn_twice_is_the_same_and_holds_no_date():
    first, second = as_svg(drawn()), as_svg(drawn())
    assert first == second
    assert "<metadata>" not in first
    assert "matplotlib.org" not in first
    assert isinstance(drawn(), BookFigure)
    assert drawn()._repr_svg_() == first


def test_a_figure_says_its_size_in_pixels_and_uses_no_font_of_the_reader():
    root = ElementTree.fromstring(as_svg(drawn()))
    left, top, width, height = (float(number) for number in root.get("viewBox").split())
    assert (left, top) == (0, 0)
    assert float(root.get("width")) / float(root.get("height")) == pytest.approx(width / height, rel=0.01)
    assert 500 < float(root.get("width")) < 800
    assert not root.findall(f".//{SVG}text")


def test_what_is_written_in_a_figure_is_found_by_the_privacy_search():
    texts = "\n".join(text for said in svg_texts(as_svg(drawn("Seen on 2015-03-04"))) for text in said.values())
    assert "Seen on 2015-03-04" in texts
    assert not re.search(r"[ML] \d", texts)  # the course of lines is left out


def test_scans_and_great_many_marks_stay_pixels():
    figure, axes = plots.new_figure(3.0, 1, 2)
    axes[0, 1].imshow(np.zeros((4, 4)))
    assert as_svg(figure) is None
    assert as_svg(drawn(n_marks=6000)) is None
    assert len(as_svg(drawn(n_marks=500))) < LARGEST
