"""Cumulative incidence against lifelines and against Kaplan-Meier."""

import numpy as np
import pytest
from lifelines import AalenJohansenFitter

from sscct_lib.bootstrap import kaplan_meier
from sscct_lib.causes import aalen_johansen, cumulative_incidence
from sscct_lib.figures import cumulative_incidence_by_cause
from tests.test_horizons import FEW, make_cohort


@pytest.fixture(scope="module")
def cohort():
    rows = make_cohort(100)
    causes = np.random.default_rng(0).choice(["lung", "other"], len(rows))
    return rows.assign(cause_of_death=np.where(rows["event_observed"], causes, None))


def test_incidence_equals_lifelines(cohort):
    table = cumulative_incidence(cohort, FEW)
    codes = cohort["cause_of_death"].map({"lung": 1, "other": 2}).fillna(0).astype(int)
    for name, code in (("lung", 1), ("other", 2)):
        fitted = AalenJohansenFitter(calculate_variance=False).fit(
            cohort["followup_years"], codes, event_of_interest=code
        )
        rows = table[table["group"] == name]
        known = fitted.cumulative_density_.iloc[:, 0]
        expected = known.reindex(known.index.union(rows["years"])).ffill().loc[rows["years"]]
        np.testing.assert_allclose(rows["incidence"], expected, atol=1e-12)
        assert (rows["ci_low"] <= rows["incidence"] + 1e-12).all()


def test_causes_sum_to_all_deaths_also_with_ties():
    rng = np.random.default_rng(1)
    time, event = rng.integers(1, 9, 80).astype(float), rng.random(80) < 0.6
    lung, counts = rng.random(80) < 0.5, rng.integers(0, 3, (4, 80)).astype(float)
    at = np.arange(10)
    both = aalen_johansen(time, event, lung, counts, at) + aalen_johansen(time, event, ~lung, counts, at)
    np.testing.assert_allclose(both, 1 - kaplan_meier(time, event, counts, at), atol=1e-12)


def test_no_deaths_and_no_causes(cohort):
    assert cumulative_incidence(cohort.assign(event_observed=False), FEW).empty
    unnamed = cumulative_incidence(cohort.drop(columns="cause_of_death"), FEW)
    assert unnamed["group"].unique().tolist() == ["unknown"]


def test_figure_names_causes_and_numbers(cohort):
    table = cumulative_incidence(cohort, FEW)
    figure = cumulative_incidence_by_cause(table)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    n_lung = table.loc[table["group"] == "lung", "n_events"].iloc[0]
    assert labels[0] == f"lung: {n_lung} deaths"
