"""Estimators of the risk of death by each horizon, with one interface, for the end of a scikit-learn pipeline.

`fit(columns, outcome, sample_weight)` takes numbers, and the outcome as `survival_outcome` makes it; `predict` gives
the risks, shape (n, n_horizons). The weights steer what is learned of the features, so that patients with many scans
do not dominate; the level of risk is then set for scans as they come, since that is what the risks are judged on.
`tuning_risks` gives the risks of held-out scans under every setting that tuning tries; it shares work between settings,
where fitting each anew would repeat it. The default settings are the plainest that tuning tries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sksurv.ensemble import GradientBoostingSurvivalAnalysis, RandomSurvivalForest
from sksurv.ensemble.survival_loss import CoxPH

from sscct_lib.cohort.outcomes import Floats, known_outcomes, survival_outcome
from sscct_lib.radiomics.elastic_net import RiskSets, breslow, cox_path, logistic_path, risk_sets
from sscct_lib.study.settings import Settings

# What tuning tries, the plainest first.
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # per unit of weight
L1_RATIOS = (0.1, 0.5)  # share of the penalty on absolute values; the rest is on squares
LEAF_SHARES = (0.06, 0.02)  # of the training scans, the fewest in a leaf of a forest
DEPTHS = (1, 2)  # of boosted trees
N_STAGES = (10, 20, 40, 80)  # boosted trees

# A forest counts time in months and each feature in so many ranks of the training scans: a leaf then holds a short
# survival curve, and a split is sought among few values. Ten times faster than all values, and as good.
N_RANKS, MONTHS = 32, 12

Outcome = NDArray[np.void]  # from `survival_outcome`
Tried = Iterator[tuple[dict[str, Any], Floats]]


@dataclass(eq=False, repr=False)
class RiskModel(BaseEstimator):  # type: ignore[misc]
    """What the four estimators share; their fields are the parameters that scikit-learn knows."""

    horizons_years: tuple[float, ...] = (1.0, 3.0, 5.0)  # after the scan, at which risks are wanted

    per_horizon = False  # whether each horizon is tuned by itself
    kind = ""  # what a model card calls it
    variant = ""  # what follows the comma in the name of a model that is compared with the Cox model

    @property
    def horizons(self) -> Floats:
        """The horizons as an array."""
        return np.asarray(self.horizons_years, dtype=float)

    def __sklearn_is_fitted__(self) -> bool:
        """Whether anything was learned, for scikit-learn's pipelines."""
        return any(name.endswith("_") and not name.startswith("_") for name in vars(self))


@dataclass(eq=False, repr=False)
class CoxNet(RiskModel):
    """Elastic-net Cox regression: one risk curve a scan, from all of the follow-up. See `elastic_net`."""

    kind = "elastic-net Cox regression"
    penalty: float = PENALTIES[0]
    l1_ratio: float = L1_RATIOS[0]

    def fit(self, columns: Floats, outcome: Outcome, sample_weight: Floats) -> Self:
        """Fit coefficients and the baseline hazard; at least one scan is followed by death."""
        path = [each for each in PENALTIES if each > self.penalty] + [self.penalty]
        years, event = outcome["years"], outcome["event"]
        self.coef_ = list(cox_path(columns, years, event, sample_weight, path, self.l1_ratio))[-1]
        self.hazard_ = baseline_hazard(outcome, columns @ self.coef_, self.horizons)
        return self

    def predict(self, columns: Floats) -> Floats:
        """Risk of each scan at each horizon, shape (n, n_horizons)."""
        return hazard_risks(columns @ self.coef_, self.hazard_)

    def tuning_risks(self, columns: Floats, outcome: Outcome, sample_weight: Floats, held_out: Floats) -> Tried:
        """Yield every setting that tuning tries, and the risks of held-out scans under it, shape (n, n_horizons)."""
        years, event = outcome["years"], outcome["event"]
        for l1_ratio in L1_RATIOS:
            path = cox_path(columns, years, event, sample_weight, PENALTIES, l1_ratio)
            for penalty, coefficients in zip(PENALTIES, path, strict=True):
                hazard = baseline_hazard(outcome, columns @ coefficients, self.horizons)
                yield {"penalty": penalty, "l1_ratio": l1_ratio}, hazard_risks(held_out @ coefficients, hazard)


@dataclass(eq=False, repr=False)
class LogisticNet(RiskModel):
    """Elastic-net logistic regression at each horizon apart, scans weighted for censoring.

    Zou H, Hastie T. J R Stat Soc B 2005;67:301-20. Weights: Vock DM, et al. J Biomed Inform 2016;61:119-31. Intercept:
    van den Goorbergh R, et al. J Am Med Inform Assoc 2022;29:1525-34.
    """

    kind = "elastic-net logistic regression of death within each horizon, scans weighted for censoring"
    variant = "logistic"
    per_horizon = True
    labels: str = "censored_unknown"
    penalties: float | tuple[float, ...] = PENALTIES[0]  # of all horizons, or of each
    l1_ratios: float | tuple[float, ...] = L1_RATIOS[0]

    def fit(self, columns: Floats, outcome: Outcome, sample_weight: Floats) -> Self:
        """Fit each horizon on the scans whose state is known; all risks are 0 where none died, 1 where all did."""
        fits = []
        for horizon, penalty, l1_ratio in np.broadcast(self.horizons_years, self.penalties, self.l1_ratios):
            # From the strongest penalty down, as in tuning: the solution is the same, and sooner found.
            path = [each for each in PENALTIES if each > penalty] + [penalty]
            fits.append(list(self._path(columns, outcome, sample_weight, horizon, path, l1_ratio))[-1])
        self.intercept_ = np.array([intercept for intercept, _ in fits])
        self.coef_ = np.array([coefficients for _, coefficients in fits])
        return self

    def _path(
        self,
        columns: Floats,
        outcome: Outcome,
        sample_weight: Floats,
        horizon: float,
        penalties: Sequence[float],
        l1_ratio: float,
    ) -> Iterator[tuple[float, Floats]]:
        died, weight = known_outcomes(outcome, horizon, self.labels)
        known = weight > 0
        columns, died, weight = columns[known], died[known], weight[known]
        share = float(np.average(died, weights=weight)) if known.any() else 0.0
        if not 0 < share < 1:
            yield from [(float(np.copysign(500, share - 0.5)), np.zeros(columns.shape[1]))] * len(penalties)
            return
        steering = weight * sample_weight[known]
        # Deaths weigh as much as survivals while coefficients are found. That alone would make every risk too high: the
        # intercept is set anew, so that the mean risk of the training scans is their weighted share of deaths.
        balanced = steering * np.where(died == 1, 1 / (steering @ died), 1 / (steering @ (1 - died)))
        for _, coefficients in logistic_path(columns, died.astype(float), balanced, penalties, l1_ratio):
            yield _calibrated_intercept(columns @ coefficients, weight, share), coefficients

    def predict(self, columns: Floats) -> Floats:
        """Risk of each scan at each horizon, shape (n, n_horizons)."""
        # Nothing else keeps a 3-year risk above a 1-year one: the horizons were fitted apart.
        return np.maximum.accumulate(_expit(columns @ self.coef_.T + self.intercept_), axis=1)

    def tuning_risks(self, columns: Floats, outcome: Outcome, sample_weight: Floats, held_out: Floats) -> Tried:
        """Yield every setting that tuning tries, and the risks of held-out scans under it, shape (n, n_horizons)."""
        for l1_ratio in L1_RATIOS:
            fits = [
                list(self._path(columns, outcome, sample_weight, horizon, PENALTIES, l1_ratio))
                for horizon in self.horizons_years
            ]
            for i, penalty in enumerate(PENALTIES):
                risks = [_expit(held_out @ fit[i][1] + fit[i][0]) for fit in fits]
                yield {"penalties": penalty, "l1_ratios": l1_ratio}, np.column_stack(risks)


@dataclass(eq=False, repr=False)
class Forest(RiskModel):
    """Trees whose splits part survival most by the log-rank test (Ishwaran H, et al. Ann Appl Stat 2008;2:841-60)."""

    kind = "random survival forest"
    variant = "survival forest"
    leaf_share: float = LEAF_SHARES[0]
    n_trees: int = 100
    seed: int = 0

    def fit(self, columns: Floats, outcome: Outcome, sample_weight: Floats) -> Self:
        """Grow the trees; at least one scan is followed by death within the longest horizon."""
        self.edges_ = np.quantile(columns, np.arange(1, N_RANKS) / N_RANKS, axis=0)
        self.forest_ = RandomSurvivalForest(
            self.n_trees, min_samples_leaf=max(3, round(self.leaf_share * len(columns))), random_state=self.seed
        )
        ranked, in_months = self._ranked(columns), self._in_months(outcome)
        self.forest_.fit(ranked, in_months, sample_weight=sample_weight)
        self.forest_._sample_weight = None  # of no use any more, and not to be saved
        # Deaths among the scans over those that the trees expect of them, between one horizon and the next.
        hazard, ends = self._cumulative_hazard(ranked, in_months["years"])
        _, places = self._cumulative_hazard(ranked[:1], self.horizons)
        until = [hazard[np.arange(len(hazard)), np.minimum(ends, place)] for place in places]
        expected = np.diff(np.sum(until, axis=1), prepend=0.0)
        years = in_months["years"][in_months["event"]]
        observed = np.diff([(years <= horizon).sum() for horizon in self.horizons], prepend=0)
        self.level_ = np.divide(observed, expected, out=np.ones(len(expected)), where=expected > 0)
        return self

    def _ranked(self, columns: Floats) -> NDArray[np.float32]:
        ranks = [np.searchsorted(edges, column) for edges, column in zip(self.edges_.T, columns.T, strict=True)]
        return np.column_stack(ranks).astype(np.float32)

    def _in_months(self, outcome: Outcome) -> Outcome:
        """Move each time to the end of its month; what lies beyond the longest horizon becomes alive there."""
        longest = self.horizons.max()
        ends = np.union1d(np.arange(1, np.floor(longest * MONTHS) + 1) / MONTHS, self.horizons)
        place = np.minimum(np.searchsorted(ends, outcome["years"]), len(ends) - 1)
        return survival_outcome(ends[place], outcome["event"] & (outcome["years"] <= longest))

    def predict(self, columns: Floats) -> Floats:
        """Risk of each scan at each horizon, shape (n, n_horizons)."""
        hazard, place = self._cumulative_hazard(self._ranked(columns), self.horizons)
        between = np.diff(hazard[:, place], axis=1, prepend=0.0)
        return np.asarray(-np.expm1(-np.cumsum(self.level_ * between, axis=1)))

    def _cumulative_hazard(self, ranked: NDArray[np.float32], years: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Mean cumulative hazard of the trees, shape (n, n_times), and the columns of it that belong to `years`."""
        hazard = self.forest_.predict_cumulative_hazard_function(ranked, return_array=True)
        place = np.searchsorted(self.forest_.unique_times_, years, side="right")
        return np.column_stack([np.zeros(len(ranked)), hazard]), place

    def tuning_risks(self, columns: Floats, outcome: Outcome, sample_weight: Floats, held_out: Floats) -> Tried:
        """Yield every setting that tuning tries, and the risks of held-out scans under it, shape (n, n_horizons)."""
        for leaf_share in LEAF_SHARES:
            forest = Forest(self.horizons_years, leaf_share, max(1, self.n_trees // 3), self.seed)  # a third will do
            yield {"leaf_share": leaf_share}, forest.fit(columns, outcome, sample_weight).predict(held_out)


class CoxInOrder(CoxPH):  # type: ignore[misc]
    """scikit-survival's loss by sums over scans in the order of follow-up; there all pairs of scans are compared."""

    def __call__(self, y_true: Outcome, raw_prediction: Floats, sample_weight: Floats | None = None) -> float:
        """Minus the partial log likelihood."""
        order, sets = _by_follow_up(y_true)
        predictor = raw_prediction.ravel()[order]
        at_risk = np.log(np.cumsum(np.exp(predictor))[sets.end])[sets.of_death]
        return float((at_risk - predictor[sets.is_death]).sum())

    def gradient(
        self, y_true: Outcome, raw_prediction: Floats, sample_weight: Floats | None = None, **_: object
    ) -> Floats:
        """Deaths less those expected of each scan, times its weight."""
        order, sets = _by_follow_up(y_true)
        hazard = np.exp(raw_prediction.ravel()[order])
        rate = np.bincount(sets.of_death, minlength=len(sets.end)) / np.cumsum(hazard)[sets.end]
        residuals = np.empty(len(order))
        residuals[order] = sets.is_death - hazard * np.append(np.cumsum(rate[::-1])[::-1], 0.0)[sets.first]
        return residuals if sample_weight is None else residuals * sample_weight


def _by_follow_up(outcome: Outcome) -> tuple[NDArray[np.int64], RiskSets]:
    """Scans from the longest followed to the shortest, and who is at risk among them."""
    order = np.argsort(-outcome["time"], kind="stable")
    return order, risk_sets(outcome["time"][order], outcome["event"][order])


@dataclass(eq=False, repr=False)
class Boosting(RiskModel):
    """Small trees, each correcting those before in Cox's partial likelihood (Ridgeway G. Comput Sci Stat 1999)."""

    kind = "gradient boosting of Cox's partial likelihood"
    variant = "boosted trees"
    depth: int = DEPTHS[0]
    n_stages: int = N_STAGES[0]
    seed: int = 0

    def fit(self, columns: Floats, outcome: Outcome, sample_weight: Floats) -> Self:
        """Grow the trees and estimate the baseline hazard; at least one scan is followed by death."""
        self.trees_ = GradientBoostingSurvivalAnalysis(
            n_estimators=self.n_stages,
            max_depth=self.depth,
            subsample=0.5,
            max_features="sqrt",
            min_samples_leaf=max(1, len(columns) // 100),
            random_state=self.seed,
        )
        self.trees_._get_loss = lambda sample_weight: CoxInOrder()
        self.trees_.fit(columns, outcome, sample_weight=sample_weight)
        del self.trees_._get_loss
        self.trees_._loss = CoxPH()  # predicts the same, and models on disk hold scikit-survival's types alone
        self.hazard_ = baseline_hazard(outcome, self.trees_.predict(columns), self.horizons)
        return self

    def predict(self, columns: Floats) -> Floats:
        """Risk of each scan at each horizon, shape (n, n_horizons)."""
        return hazard_risks(self.trees_.predict(columns), self.hazard_)

    def tuning_risks(self, columns: Floats, outcome: Outcome, sample_weight: Floats, held_out: Floats) -> Tried:
        """Yield every setting that tuning tries, and the risks of held-out scans under it, shape (n, n_horizons)."""
        for depth in DEPTHS:
            trees = Boosting(self.horizons_years, depth, max(N_STAGES), self.seed).fit(columns, outcome, sample_weight)
            stages = zip(trees.trees_.staged_predict(columns), trees.trees_.staged_predict(held_out), strict=True)
            for n_stages, (known, predictor) in enumerate(stages, start=1):
                if n_stages in N_STAGES:
                    hazard = baseline_hazard(outcome, known, self.horizons)
                    yield {"depth": depth, "n_stages": n_stages}, hazard_risks(predictor, hazard)


def baseline_hazard(outcome: Outcome, predictor: Floats, horizons: Floats) -> Floats:
    """Cumulative baseline hazard (h,) from scans as they come; `predictor` is the log hazard ratio of each."""
    return breslow(outcome["years"], outcome["event"], np.ones(len(outcome)), predictor, horizons)


def hazard_risks(predictor: Floats, hazard: Floats) -> Floats:
    """Risks (n, h) of log hazard ratios (n,) and a cumulative baseline hazard (h,)."""
    return -np.expm1(-np.exp(np.minimum(predictor, 500))[:, None] * hazard)


def _expit(predictor: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(predictor, -500, 500)))


def _calibrated_intercept(predictor: Floats, weight: Floats, share: float) -> float:
    """The intercept at which the weighted mean risk is the share of deaths, by bisection."""
    low, high = -predictor.max() - 40, -predictor.min() + 40
    for _ in range(100):
        middle = (low + high) / 2
        too_high = np.average(_expit(predictor + middle), weights=weight) > share
        low, high = (low, middle) if too_high else (middle, high)
    return float(middle)


ESTIMATORS: dict[str, type[RiskModel]] = {
    "cox": CoxNet,
    "logistic": LogisticNet,
    "forest": Forest,
    "boosting": Boosting,
}


MAIN = "cox"


def make_estimator(name: str, horizons_years: tuple[float, ...], settings: Settings) -> RiskModel:
    """An estimator by its name in the settings: `cox`, `logistic`, `forest` or `boosting`."""
    made: dict[str, RiskModel] = {
        "cox": CoxNet(horizons_years),
        "logistic": LogisticNet(horizons_years, settings.labels),
        "forest": Forest(horizons_years, n_trees=settings.tabular.n_trees, seed=settings.seed),
        "boosting": Boosting(horizons_years, seed=settings.seed),
    }
    return made[name]
