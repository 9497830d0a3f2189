import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from sksurv.ensemble.survival_loss import CoxPH

from sscct_lib.cohort.outcomes import known_outcomes, survival_outcome
from sscct_lib.radiomics.estimators import Boosting, CoxInOrder, CoxNet, Forest, LogisticNet, make_estimator
from sscct_lib.study.settings import Settings, TabularSettings

HORIZONS = (1.0, 3.0, 5.0)
SETTINGS = Settings(tabular=TabularSettings(n_trees=30))
NAMES = ("cox", "logistic", "forest", "boosting")


def simulated(n: int = 500, seed: int = 0):
    """Log hazard ratio 1 of the first column, none of the others; censored at random."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(n, 5))
    death = rng.exponential(8 * np.exp(-columns[:, 0]))
    lost = rng.uniform(0.5, 9, n)
    return columns, survival_outcome(np.minimum(death, lost), death <= lost)


@pytest.fixture(scope="module")
def data():
    return simulated()


@pytest.mark.parametrize("name", NAMES)
def test_risks_are_ordered_calibrated_and_never_cross(data, name):
    columns, outcome = data
    model = make_estimator(name, HORIZONS, SETTINGS)
    tried = [settings for settings, _ in model.tuning_risks(columns, outcome, np.ones(500), columns)]
    settings = tried[-1] if name != "logistic" else {key: (value,) * 3 for key, value in tried[-1].items()}
    model.set_params(**settings).fit(columns, outcome, np.ones(500))
    fresh, truth = simulated(2000, seed=1)
    risk = model.predict(fresh)
    assert risk.shape == (2000, 3)
    assert ((risk >= 0) & (risk <= 1)).all()
    assert (np.diff(risk, axis=1) >= 0).all()
    survival = KaplanMeierFitter().fit(truth["years"], truth["event"])
    assert risk.mean(axis=0) == pytest.approx(1 - survival.predict(HORIZONS).to_numpy(), abs=0.05)
    assert np.corrcoef(risk[:, 1], fresh[:, 0])[0, 1] > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_what_tuning_sees_is_what_fit_gives(data, name):
    """The paths and stages that tuning shares between settings end in the same risks as fitting each anew."""
    columns, outcome = data
    train, test = np.arange(300), np.arange(300, 500)
    weight = np.random.default_rng(0).uniform(0.5, 2, 300)
    model = make_estimator(name, HORIZONS, SETTINGS)
    for settings, risk in list(model.tuning_risks(columns[train], outcome[train], weight, columns[test]))[1::4]:
        again = model.set_params(**settings)
        if name == "forest":
            again.set_params(n_trees=model.n_trees // 3)
        fitted = again.fit(columns[train], outcome[train], weight).predict(columns[test])
        tolerance = 1e-4 if name in ("cox", "logistic") else 1e-12
        assert np.maximum.accumulate(risk, axis=1) == pytest.approx(fitted, abs=tolerance)


def test_the_level_is_that_of_scans_as_they_come():
    """Weights that favour scans of the sick change what is learned, not the mean risk."""
    columns, outcome = simulated(800)
    weight = np.where(columns[:, 0] > 0, 5.0, 1.0)
    observed = 1 - KaplanMeierFitter().fit(outcome["years"], outcome["event"]).predict(HORIZONS).to_numpy()
    for model in (CoxNet(HORIZONS, 0.01), LogisticNet(HORIZONS, penalties=0.01), Forest(HORIZONS, n_trees=30)):
        risk = model.fit(columns, outcome, weight / weight.mean()).predict(columns).mean(axis=0)
        assert risk == pytest.approx(observed, abs=0.04)


def test_a_patient_copied_counts_no_more_than_once_when_weights_say_so():
    columns, outcome = simulated(200)
    copies = np.repeat(np.arange(200), np.where(np.arange(200) < 20, 8, 1))
    weight = np.where(copies < 20, 1 / 8, 1.0)
    once = CoxNet(HORIZONS, 0.03).fit(columns, outcome, np.ones(200)).coef_
    assert CoxNet(HORIZONS, 0.03).fit(columns[copies], outcome[copies], weight).coef_ == pytest.approx(once, abs=1e-5)
    unweighted = CoxNet(HORIZONS, 0.03).fit(columns[copies], outcome[copies], np.ones(len(copies))).coef_
    assert np.abs(unweighted - once).max() > 0.01


def test_rare_deaths_do_not_shrink_or_raise_the_logistic_risks():
    columns, outcome = simulated(3000)
    model = LogisticNet((0.5,), penalties=(0.001,), l1_ratios=(0.1,)).fit(columns, outcome, np.ones(3000))
    died, weight = known_outcomes(outcome, 0.5, "censored_unknown")
    share = np.average(died, weights=weight)
    assert share < 0.12
    assert np.average(model.predict(columns)[:, 0], weights=weight) == pytest.approx(share, abs=1e-6)
    assert model.coef_[0, 0] == pytest.approx(1.0, abs=0.25)


def test_unknown_scans_weigh_nothing_and_others_stand_for_them(data):
    _, outcome = data
    died, weight = known_outcomes(outcome, 3.0, "censored_unknown")
    unknown = ~outcome["event"] & (outcome["years"] < 3)
    assert unknown.any()
    assert (weight[unknown] == 0).all()
    assert (weight[~unknown] >= 1).all()
    observed = KaplanMeierFitter().fit(outcome["years"], outcome["event"]).predict(3.0)
    assert np.average(died, weights=weight) == pytest.approx(1 - observed, abs=0.01)
    died, weight = known_outcomes(outcome, 3.0, "as_published")
    assert (weight == 1).all()
    assert died.sum() == (outcome["event"] & (outcome["years"] <= 3)).sum()


def test_the_forest_reads_its_curves_at_the_horizons(data):
    """A forest of one tree with one leaf is the Kaplan-Meier curve; horizons need not be whole months."""
    columns, outcome = data
    horizons = (0.37, 1.0, 2.5)
    forest = Forest(horizons, leaf_share=0.6, n_trees=200).fit(columns, outcome, np.ones(500))
    observed = 1 - KaplanMeierFitter().fit(outcome["years"], outcome["event"]).predict(horizons).to_numpy()
    assert forest.predict(columns)[0] == pytest.approx(observed, abs=0.02)


@pytest.mark.parametrize("decimals", [6, 0])  # without and with deaths and losses on the same day
def test_the_loss_of_boosted_trees_is_that_of_scikit_survival(decimals):
    columns, outcome = simulated(300)
    tied = np.array(
        [*zip(outcome["event"], outcome["years"].round(decimals), strict=True)], [("event", "?"), ("time", "f8")]
    )
    predictor, weight = 2 * columns[:, :1], np.random.default_rng(1).uniform(0.1, 3, 300)
    ours, theirs = CoxInOrder(), CoxPH()
    assert ours(tied, predictor) == pytest.approx(theirs(tied, predictor), rel=1e-12)
    for weights in (None, weight):
        expected = theirs.gradient(tied, predictor, sample_weight=weights)
        assert ours.gradient(tied, predictor, sample_weight=weights) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    alive = tied[~tied["event"]]
    assert ours(alive, predictor[~tied["event"]]) == 0


def test_boosted_trees_are_those_of_scikit_survival(data, monkeypatch):
    columns, outcome = data
    ours = Boosting(HORIZONS, 2, 40).fit(columns, outcome, np.ones(500))
    monkeypatch.setattr(CoxInOrder, "gradient", CoxPH.gradient)
    theirs = Boosting(HORIZONS, 2, 40).fit(columns, outcome, np.ones(500))
    assert ours.predict(columns) == pytest.approx(theirs.predict(columns), abs=1e-12)
    assert type(ours.trees_._loss) is CoxPH
