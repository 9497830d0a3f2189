import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from sklearn.linear_model import LogisticRegression
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.linear_model.coxph import BreslowEstimator

from sscct_lib.cohort.outcomes import survival_outcome
from sscct_lib.radiomics.elastic_net import breslow, cox_path, logistic_path

PENALTIES = (0.3, 0.03)


@pytest.fixture(scope="module")
def data():
    """Correlated columns, times in whole weeks so that there are ties, and uneven weights."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(300, 12))
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    death = rng.exponential(5 * np.exp(-columns[:, 0] + 0.5 * columns[:, 1]))
    lost = rng.uniform(0, 8, 300)
    years = np.ceil(np.minimum(death, lost) * 52) / 52
    return columns, years, death <= lost, rng.uniform(0.3, 2, 300)


@pytest.mark.parametrize("l1_ratio", [0.1, 0.5])
def test_logistic_equals_scikit_learn(data, l1_ratio):
    columns, _, event, weight = data
    path = logistic_path(columns, event.astype(float), weight, PENALTIES, l1_ratio)
    for penalty, (intercept, coefficients) in zip(PENALTIES, path, strict=True):
        peer = LogisticRegression(
            solver="saga", l1_ratio=l1_ratio, C=1 / (penalty * weight.sum()), tol=1e-9, max_iter=50_000, random_state=0
        ).fit(columns, event, sample_weight=weight)
        assert coefficients == pytest.approx(peer.coef_[0], abs=1e-5)
        assert intercept == pytest.approx(peer.intercept_[0], abs=1e-5)


@pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])
def test_cox_equals_scikit_survival(data, l1_ratio):
    columns, years, event, _ = data
    peer = CoxnetSurvivalAnalysis(l1_ratio=l1_ratio, alphas=PENALTIES, tol=1e-12, max_iter=1_000_000)
    peer.fit(columns, survival_outcome(years, event))
    for expected, coefficients in zip(
        peer.coef_.T, cox_path(columns, years, event, np.ones(300), PENALTIES, l1_ratio), strict=True
    ):
        assert coefficients == pytest.approx(expected, abs=2e-4)


def test_weighted_cox_equals_lifelines_without_ties_or_penalty(data):
    columns, years, event, weight = data
    years = years + np.arange(300) * 1e-6
    table = pd.DataFrame(columns).assign(years=years, event=event, weight=weight)
    peer = CoxPHFitter().fit(table, "years", "event", weights_col="weight", robust=True)
    coefficients = next(cox_path(columns, years, event, weight, (0.0,), 0.0))
    assert coefficients == pytest.approx(peer.params_.to_numpy(), abs=1e-4)


@pytest.mark.parametrize("l1_ratio", [0.2, 1.0])
def test_no_small_step_from_the_cox_solution_lowers_the_objective(data, l1_ratio):
    """The weighted partial likelihood with Breslow's ties, written out as its definition."""
    columns, years, event, weight = data

    def objective(b):
        predictor = columns @ b
        loss = 0.0
        for i in np.flatnonzero(event):
            at_risk = years >= years[i]
            loss += weight[i] * (np.log(weight[at_risk] @ np.exp(predictor[at_risk])) - predictor[i])
        return loss / weight.sum() + 0.05 * (l1_ratio * np.abs(b).sum() + (1 - l1_ratio) / 2 * (b**2).sum())

    solution = next(cox_path(columns, years, event, weight, (0.05,), l1_ratio))
    least = objective(solution)
    rng = np.random.default_rng(1)
    steps = [*(1e-3 * np.eye(12)), *(-1e-3 * np.eye(12)), *rng.normal(scale=1e-3, size=(20, 12))]
    assert min(objective(solution + step) for step in steps) > least - 1e-12
    assert (solution == 0).any()


def test_a_strong_penalty_leaves_nothing_and_a_constant_column_is_harmless(data):
    columns, years, event, weight = data
    assert (next(cox_path(columns, years, event, weight, (50.0,), 0.5)) == 0).all()
    columns = np.column_stack([columns, np.zeros(300)])
    assert next(cox_path(columns, years, event, weight, (0.05,), 0.5))[-1] == 0
    intercept, coefficients = next(logistic_path(columns, event.astype(float), weight, (50.0,), 0.5))
    assert (coefficients == 0).all()
    assert 1 / (1 + np.exp(-intercept)) == pytest.approx(np.average(event, weights=weight))


def test_separated_classes_do_not_diverge(data):
    columns, _, _, weight = data
    died = (columns[:, 0] > 0).astype(float)
    *_, (_, coefficients) = logistic_path(columns, died, weight, (1.0, 0.01, 1e-4), 0.1)
    assert np.isfinite(coefficients).all()
    assert coefficients.argmax() == 0


def test_baseline_hazard_equals_scikit_survival(data):
    columns, years, event, _ = data
    predictor = columns[:, 0] - 0.3 * columns[:, 1]
    horizons = np.array([0.5, 1.0, 3.0, 5.0])
    peer = BreslowEstimator().fit(predictor, event, years).cum_baseline_hazard_
    ours = breslow(years, event, np.ones(300), predictor, horizons)
    assert ours == pytest.approx(peer(horizons), rel=1e-12)
    assert breslow(years, event, np.full(300, 7.0), predictor, horizons) == pytest.approx(ours, rel=1e-12)
    assert breslow(years, event, np.ones(300), predictor, np.array([0.0]))[0] == 0
