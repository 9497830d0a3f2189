"""Estimators made of trees: a random survival forest and gradient boosting, with the interface of `risk_models`."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sksurv.ensemble import GradientBoostingSurvivalAnalysis, RandomSurvivalForest

from sscct_lib.risk_models import RiskModel, baseline_hazard, hazard_risks, survival_outcome

Floats = NDArray[np.float64]
Settings = dict[str, Any]
LEAF_SHARES = (0.06, 0.02)  # of the training scans, the fewest in a leaf of a forest
DEPTHS = (1, 2)  # of boosted trees
N_STAGES = (10, 20, 40, 80)  # boosted trees
N_RANKS = 32  # a forest tells this many values of a feature apart; ten times faster than all, and as good
MONTHS = 12  # a forest counts time in months


class Forest(RiskModel):
    """Random survival forest: trees whose splits part survival most by the log-rank test.

    Time is counted in months up to the longest horizon, and each feature in `N_RANKS` ranks of the training scans:
    a leaf then holds a short survival curve, and a split is sought among few values.

    Parameters
    ----------
    horizons_years
        Years after the scan.
    leaf_share
        Fewest scans in a leaf, as a share of the training scans.
    n_trees
        Trees; a third of them while tuning.
    seed
        Of the bootstrap samples and of the features tried at each split.

    References
    ----------
    Ishwaran H, et al. Random survival forests. Ann Appl Stat 2008;2:841-60.
    """

    def __init__(
        self,
        horizons_years: tuple[float, ...] = (1.0, 3.0, 5.0),
        leaf_share: float = LEAF_SHARES[0],
        n_trees: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(horizons_years)
        self.leaf_share = leaf_share
        self.n_trees = n_trees
        self.seed = seed

    def fit(self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats) -> Self:
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

    def _in_months(self, outcome: NDArray[np.void]) -> NDArray[np.void]:
        """Move each time to the end of its month; what lies beyond the longest horizon becomes alive there."""
        longest = self.horizons.max()
        ends = np.union1d(np.arange(1, np.floor(longest * MONTHS) + 1) / MONTHS, self.horizons)
        place = np.minimum(np.searchsorted(ends, outcome["years"]), len(ends) - 1)
        return survival_outcome(ends[place], outcome["event"] & (outcome["years"] <= longest))

    def predict(self, columns: Floats) -> Floats:
        """Give the risk of each scan at each horizon, shape (n, n_horizons)."""
        hazard, place = self._cumulative_hazard(self._ranked(columns), self.horizons)
        between = np.diff(hazard[:, place], axis=1, prepend=0.0)
        return np.asarray(-np.expm1(-np.cumsum(self.level_ * between, axis=1)))

    def _cumulative_hazard(self, ranked: NDArray[np.float32], years: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Average the cumulative hazard over the trees, shape (n, n_times), and find the columns of times in years."""
        hazard = self.forest_.predict_cumulative_hazard_function(ranked, return_array=True)
        place = np.searchsorted(self.forest_.unique_times_, years, side="right")
        return np.column_stack([np.zeros(len(ranked)), hazard]), place

    def tuning_risks(
        self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats, held_out: Floats
    ) -> Iterator[tuple[Settings, Floats]]:
        """Yield, for every setting that tuning tries, the risks of held-out scans, shape (n, n_horizons)."""
        for leaf_share in LEAF_SHARES:
            forest = Forest(self.horizons_years, leaf_share, max(1, self.n_trees // 3), self.seed)
            yield {"leaf_share": leaf_share}, forest.fit(columns, outcome, sample_weight).predict(held_out)


class Boosting(RiskModel):
    """Gradient boosting of Cox's partial likelihood: small trees, each correcting those before.

    Parameters
    ----------
    horizons_years
        Years after the scan.
    depth
        Of the trees.
    n_stages
        Trees.
    seed
        Of the half of the scans that each tree sees, and of the features tried at each split.

    References
    ----------
    Friedman JH. Stochastic gradient boosting. Comput Stat Data Anal 2002;38:367-78. Ridgeway G. The state of boosting.
    Comput Sci Stat 1999;31:172-81.
    """

    def __init__(
        self,
        horizons_years: tuple[float, ...] = (1.0, 3.0, 5.0),
        depth: int = DEPTHS[0],
        n_stages: int = N_STAGES[0],
        seed: int = 0,
    ) -> None:
        super().__init__(horizons_years)
        self.depth = depth
        self.n_stages = n_stages
        self.seed = seed

    def fit(self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats) -> Self:
        """Grow the trees and estimate the baseline hazard; at least one scan is followed by death."""
        self.trees_ = GradientBoostingSurvivalAnalysis(
            n_estimators=self.n_stages,
            max_depth=self.depth,
            subsample=0.5,
            max_features="sqrt",
            min_samples_leaf=max(1, len(columns) // 100),
            random_state=self.seed,
        ).fit(columns, outcome, sample_weight=sample_weight)
        self.hazard_ = baseline_hazard(outcome, self.trees_.predict(columns), self.horizons)
        return self

    def predict(self, columns: Floats) -> Floats:
        """Give the risk of each scan at each horizon, shape (n, n_horizons)."""
        return hazard_risks(self.trees_.predict(columns), self.hazard_)

    def tuning_risks(
        self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats, held_out: Floats
    ) -> Iterator[tuple[Settings, Floats]]:
        """Yield, for every setting that tuning tries, the risks of held-out scans, shape (n, n_horizons)."""
        for depth in DEPTHS:
            trees = Boosting(self.horizons_years, depth, max(N_STAGES), self.seed).fit(columns, outcome, sample_weight)
            stages = zip(trees.trees_.staged_predict(columns), trees.trees_.staged_predict(held_out), strict=True)
            for n_stages, (known, predictor) in enumerate(stages, start=1):
                if n_stages in N_STAGES:
                    hazard = baseline_hazard(outcome, known, self.horizons)
                    yield {"depth": depth, "n_stages": n_stages}, hazard_risks(predictor, hazard)
