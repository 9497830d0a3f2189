"""Estimators of the risk of death by each horizon, with one interface, for the end of a scikit-learn pipeline.

`fit(columns, outcome, sample_weight)` takes numbers, and the outcome as `survival_outcome` makes it; `predict` gives
the risks, shape (n, n_horizons). The weights steer what is learned of the features, so that patients with many scans
do not dominate; the level of risk is then set for scans as they come, since that is what the risks are judged on.
`tuning_risks` gives the risks of held-out scans under every setting that tuning tries; it shares work between settings,
where fitting each anew would repeat it. The default settings are the plainest that tuning tries.

Here are the elastic nets; `tree_models` has the forest and the boosted trees.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from sscct_lib.cohort import censoring_weights, horizon_labels
from sscct_lib.elastic_net import breslow, cox_path, logistic_path

Floats = NDArray[np.float64]
Settings = dict[str, Any]
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # per unit of weight; the strongest first
L1_RATIOS = (0.1, 0.5)


def survival_outcome(followup_years: Floats, event_observed: NDArray[np.bool_]) -> NDArray[np.void]:
    """Put follow-up (years) and whether it ended with death in one array, as scikit-survival does; shape (n,)."""
    outcome = np.empty(len(followup_years), dtype=[("event", bool), ("years", float)])
    outcome["event"], outcome["years"] = event_observed, followup_years
    return outcome


def known_outcomes(
    outcome: NDArray[np.void], horizon_years: float, labels: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give each scan its state at a horizon, and the weight with which it counts.

    Parameters
    ----------
    outcome
        From `survival_outcome`. The weights rest on the follow-up of these scans alone.
    horizon_years
        Years after the scan.
    labels
        The study's rule for short follow-up; under `as_published` no scan is unknown and every weight is 1.

    Returns
    -------
    died : numpy.ndarray
        1 died within the horizon, 0 not or unknown, shape (n,).
    weight : numpy.ndarray
        Inverse probability of censoring weight, 0 for an unknown scan, shape (n,).
    """
    label = horizon_labels(outcome["years"], outcome["event"], horizon_years, labels)
    died = label.to_numpy(dtype=np.int64, na_value=0)
    if labels == "as_published":
        return died, np.ones(len(died))
    return died, np.where(label.isna(), 0.0, censoring_weights(outcome["years"], outcome["event"], horizon_years))


class RiskModel(BaseEstimator):  # type: ignore[misc]
    """What the four estimators share.

    Parameters
    ----------
    horizons_years
        Years after the scan at which risks are wanted.
    """

    per_horizon = False  # whether each horizon is tuned by itself

    def __init__(self, horizons_years: tuple[float, ...] = (1.0, 3.0, 5.0)) -> None:
        self.horizons_years = horizons_years

    @property
    def horizons(self) -> Floats:
        """The horizons as an array."""
        return np.asarray(self.horizons_years, dtype=float)

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether anything was learned, for scikit-learn's pipelines."""
        return any(name.endswith("_") and not name.startswith("_") for name in vars(self))


class LogisticNet(RiskModel):
    """Elastic-net logistic regression at each horizon apart, scans weighted for censoring.

    Deaths weigh as much as survivals while coefficients are found. The intercept is then set so that the mean risk
    of the training scans is their weighted share of deaths, for balancing alone would make every risk too high. The
    risk of a scan is the running maximum over horizons, since nothing else keeps a 3-year risk above a 1-year one.

    Parameters
    ----------
    horizons_years
        Years after the scan.
    labels
        The study's rule for short follow-up.
    penalties, l1_ratios
        Strength of regularisation and its share on absolute values, of all horizons or of each.

    References
    ----------
    Zou H, Hastie T. Regularization and variable selection via the elastic net. J R Stat Soc B 2005;67:301-20.
    Vock DM, et al. Adapting machine learning techniques to censored time-to-event health record data. J Biomed Inform
    2016;61:119-31. van den Goorbergh R, et al. The harm of class imbalance corrections for risk prediction models.
    J Am Med Inform Assoc 2022;29:1525-34.
    """

    per_horizon = True

    def __init__(
        self,
        horizons_years: tuple[float, ...] = (1.0, 3.0, 5.0),
        labels: str = "censored_unknown",
        penalties: float | tuple[float, ...] = PENALTIES[0],
        l1_ratios: float | tuple[float, ...] = L1_RATIOS[0],
    ) -> None:
        super().__init__(horizons_years)
        self.labels = labels
        self.penalties = penalties
        self.l1_ratios = l1_ratios

    def fit(self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats) -> Self:
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
        outcome: NDArray[np.void],
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
        balanced = steering * np.where(died == 1, 1 / (steering @ died), 1 / (steering @ (1 - died)))
        for _, coefficients in logistic_path(columns, died.astype(float), balanced, penalties, l1_ratio):
            yield _calibrated_intercept(columns @ coefficients, weight, share), coefficients

    def predict(self, columns: Floats) -> Floats:
        """Give the risk of each scan at each horizon, shape (n, n_horizons)."""
        return np.maximum.accumulate(_expit(columns @ self.coef_.T + self.intercept_), axis=1)

    def tuning_risks(
        self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats, held_out: Floats
    ) -> Iterator[tuple[Settings, Floats]]:
        """Yield, for every setting that tuning tries, the risks of held-out scans, shape (n, n_horizons)."""
        for l1_ratio in L1_RATIOS:
            fits = [
                list(self._path(columns, outcome, sample_weight, horizon, PENALTIES, l1_ratio))
                for horizon in self.horizons_years
            ]
            for i, penalty in enumerate(PENALTIES):
                risks = [_expit(held_out @ fit[i][1] + fit[i][0]) for fit in fits]
                yield {"penalties": penalty, "l1_ratios": l1_ratio}, np.column_stack(risks)


def _expit(predictor: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(predictor, -500, 500))))


def _calibrated_intercept(predictor: Floats, weight: Floats, share: float) -> float:
    """Find the intercept at which the weighted mean risk is the share of deaths, by bisection."""
    low, high = -predictor.max() - 40, -predictor.min() + 40
    for _ in range(100):
        middle = (low + high) / 2
        too_high = np.average(_expit(predictor + middle), weights=weight) > share
        low, high = (low, middle) if too_high else (middle, high)
    return float(middle)


class CoxNet(RiskModel):
    """Elastic-net Cox regression: one risk curve a scan, from all of the follow-up.

    Parameters
    ----------
    horizons_years
        Years after the scan.
    penalty, l1_ratio
        Strength of regularisation, and its share on absolute values.

    References
    ----------
    See `elastic_net.cox_path` and `elastic_net.breslow`.
    """

    def __init__(
        self,
        horizons_years: tuple[float, ...] = (1.0, 3.0, 5.0),
        penalty: float = PENALTIES[0],
        l1_ratio: float = L1_RATIOS[0],
    ) -> None:
        super().__init__(horizons_years)
        self.penalty = penalty
        self.l1_ratio = l1_ratio

    def fit(self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats) -> Self:
        """Fit coefficients and the baseline hazard; at least one scan is followed by death."""
        path = [each for each in PENALTIES if each > self.penalty] + [self.penalty]
        years, event = outcome["years"], outcome["event"]
        self.coef_ = list(cox_path(columns, years, event, sample_weight, path, self.l1_ratio))[-1]
        self.hazard_ = baseline_hazard(outcome, columns @ self.coef_, self.horizons)
        return self

    def predict(self, columns: Floats) -> Floats:
        """Give the risk of each scan at each horizon, shape (n, n_horizons)."""
        return hazard_risks(columns @ self.coef_, self.hazard_)

    def tuning_risks(
        self, columns: Floats, outcome: NDArray[np.void], sample_weight: Floats, held_out: Floats
    ) -> Iterator[tuple[Settings, Floats]]:
        """Yield, for every setting that tuning tries, the risks of held-out scans, shape (n, n_horizons)."""
        years, event = outcome["years"], outcome["event"]
        for l1_ratio in L1_RATIOS:
            path = cox_path(columns, years, event, sample_weight, PENALTIES, l1_ratio)
            for penalty, coefficients in zip(PENALTIES, path, strict=True):
                hazard = baseline_hazard(outcome, columns @ coefficients, self.horizons)
                yield {"penalty": penalty, "l1_ratio": l1_ratio}, hazard_risks(held_out @ coefficients, hazard)


def baseline_hazard(outcome: NDArray[np.void], predictor: Floats, horizons: Floats) -> Floats:
    """Estimate the cumulative baseline hazard from scans as they come.

    Parameters
    ----------
    outcome
        From `survival_outcome`, shape (n,).
    predictor
        Log hazard ratio of each scan, shape (n,).
    horizons
        Years after the scan, shape (h,).

    Returns
    -------
    numpy.ndarray
        Shape (h,).
    """
    return breslow(outcome["years"], outcome["event"], np.ones(len(outcome)), predictor, horizons)


def hazard_risks(predictor: Floats, hazard: Floats) -> Floats:
    """Turn log hazard ratios (n,) and a cumulative baseline hazard (h,) into risks, shape (n, h)."""
    return np.asarray(-np.expm1(-np.exp(np.minimum(predictor, 500))[:, None] * hazard))
