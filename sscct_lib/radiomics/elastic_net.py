"""Elastic-net regression, logistic and Cox, along a path of penalties.

Both minimise

    sum(w * loss) / sum(w)  +  penalty * (l1_ratio * |b|_1 + (1 - l1_ratio) / 2 * |b|_2^2)

by Newton's method: at each step the loss becomes its second-order approximation, and coordinate descent minimises that
plus the penalty. The columns enter through their weighted products alone, so a sweep over p coefficients costs p^2
operations, however many scans there are. scikit-survival's elastic-net Cox takes no weights, and patients with many
scans need them; hence one solver here for both.

Everywhere `columns` are standardised features, shape (n, p); `weight` is that of each scan, shape (n,); `penalties`
fall, and each fit starts from the solution before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_STEPS = 100
TOLERANCE = 1e-7  # of the change of the linear predictor, standard deviations
# Of coefficients: mean loss, its gradient, and its matrix of second derivatives.
Loss = Callable[[Floats], tuple[float, Floats, Floats]]


def logistic_path(
    columns: Floats, died: Floats, weight: Floats, penalties: Sequence[float], l1_ratio: float
) -> Iterator[tuple[float, Floats]]:
    """Yield intercept and log odds ratios (p,) for each penalty; deaths and survivals both occur."""
    # Friedman J, et al. Regularization paths for generalized linear models. J Stat Softw 2010;33(1):1-22.
    design = np.column_stack([columns, np.ones(len(columns))])
    weight = weight / weight.sum()

    def loss(b: Floats) -> tuple[float, Floats, Floats]:
        predictor = design @ b
        risk = 1 / (1 + np.exp(-np.clip(predictor, -500, 500)))
        value = weight @ (np.logaddexp(0, predictor) - died * predictor)
        hessian = design.T @ (design * (weight * risk * (1 - risk))[:, None])
        return float(value), design.T @ (weight * (risk - died)), hessian

    share = float(weight @ died)
    start = np.zeros(design.shape[1])
    start[-1] = np.log(share / (1 - share))
    for b in _path(loss, np.arange(len(start)) == len(start) - 1, start, penalties, l1_ratio):
        yield float(b[-1]), b[:-1]


def cox_path(
    columns: Floats,
    years: Floats,
    event: NDArray[np.bool_],
    weight: Floats,
    penalties: Sequence[float],
    l1_ratio: float,
) -> Iterator[Floats]:
    """Yield log hazard ratios (p,) for each penalty; at least one death; ties by Breslow's method."""
    # Simon N, et al. Regularization paths for Cox's proportional hazards model. J Stat Softw 2011;39(5):1-13.
    order = np.argsort(-years, kind="stable")  # the longest followed first: a risk set is then a beginning
    design, weight, sets = columns[order], weight[order] / weight.sum(), risk_sets(years[order], event[order])
    deaths = np.bincount(sets.of_death, weight[sets.is_death], minlength=len(sets.end))
    summed = design[sets.is_death].T @ weight[sets.is_death]

    def loss(b: Floats) -> tuple[float, Floats, Floats]:
        predictor = design @ b
        highest = predictor.max()
        hazard = weight * np.exp(predictor - highest)
        at_risk = np.cumsum(hazard)[sets.end]
        rate = deaths / at_risk
        # A scan is in the risk set of every death that is not later than its own end.
        exposure = hazard * np.append(np.cumsum(rate[::-1])[::-1], 0.0)[sets.first]
        means = np.cumsum(hazard[:, None] * design, axis=0)[sets.end] / at_risk[:, None]
        value = deaths @ (np.log(at_risk) + highest) - summed @ b
        hessian = design.T @ (design * exposure[:, None]) - means.T @ (means * deaths[:, None])
        return float(value), exposure @ design - summed, hessian

    start = np.zeros(design.shape[1])
    yield from _path(loss, np.zeros(len(start), dtype=bool), start, penalties, l1_ratio)


def breslow(years: Floats, event: NDArray[np.bool_], weight: Floats, predictor: Floats, horizons: Floats) -> Floats:
    """Cumulative hazard (h,) by each horizon (years) where the log hazard ratio `predictor` is 0 (Breslow NE, 1972)."""
    order = np.argsort(-years, kind="stable")
    sets = risk_sets(years[order], event[order])
    weight = weight[order]
    at_risk = np.cumsum(weight * np.exp(predictor[order]))[sets.end]
    deaths = np.bincount(sets.of_death, weight[sets.is_death], minlength=len(sets.end))
    times = years[order][sets.end]
    return np.array([(deaths / at_risk)[times <= horizon].sum() for horizon in horizons])


@dataclass(frozen=True)
class RiskSets:
    """Who is at risk at each time of death, for scans in the order of falling follow-up."""

    end: NDArray[np.int64]  # of each time of death, the latest first: the last scan at risk
    first: NDArray[np.int64]  # of each scan: the first of these times at which it is at risk; len(end) for none
    is_death: NDArray[np.bool_]
    of_death: NDArray[np.int64]  # of each death: at which of the times


def risk_sets(falling_years: Floats, event: NDArray[np.bool_]) -> RiskSets:
    """Find who is at risk at each time of death, for scans from the longest followed to the shortest."""
    times = np.unique(falling_years[event])[::-1]
    end = np.searchsorted(-falling_years, -times, side="right") - 1
    first = np.searchsorted(-times, -falling_years, side="left")
    return RiskSets(end, first, event, first[event])


def _path(
    loss: Loss, free: NDArray[np.bool_], start: Floats, penalties: Sequence[float], l1_ratio: float
) -> Iterator[Floats]:
    for penalty in penalties:
        l1 = np.where(free, 0.0, penalty * l1_ratio)
        l2 = np.where(free, 0.0, penalty * (1 - l1_ratio))
        start = _minimise(loss, start, l1, l2)
        yield start


def _minimise(loss: Loss, start: Floats, l1: Floats, l2: Floats) -> Floats:
    """Minimise a convex loss plus the penalty, by Newton steps that are halved until they descend."""

    def penalty(b: Floats) -> float:
        return float(l1 @ np.abs(b) + l2 @ b**2 / 2)

    b = start
    value, gradient, hessian = loss(b)
    for _ in range(MAX_STEPS):
        direction = _descend(hessian, gradient, b, l1, l2, TOLERANCE**2) - b
        if direction @ hessian @ direction < TOLERANCE**2:
            break
        share = 1.0
        while share > 1e-6:
            moved = b + share * direction
            new = loss(moved)
            if new[0] + penalty(moved) <= value + penalty(b):
                break
            share /= 2
        else:
            break
        b, (value, gradient, hessian) = moved, new
    return b


@njit(cache=True)
def _descend(hessian: Floats, gradient: Floats, start: Floats, l1: Floats, l2: Floats, tolerance: float) -> Floats:
    """Minimise the quadratic model of a loss at `start`, plus the penalty, by coordinate descent."""
    b = start.copy()
    slope = -gradient  # of the quadratic model at b, downhill
    for _ in range(10_000):
        largest = 0.0
        for j in range(len(b)):
            curvature = hessian[j, j] + l2[j]
            if curvature <= 0:
                continue
            pull = slope[j] + hessian[j, j] * b[j]
            shrunken = max(abs(pull) - l1[j], 0.0) * np.sign(pull) / curvature
            change = shrunken - b[j]
            if change != 0.0:
                b[j] = shrunken
                slope -= hessian[j] * change
                largest = max(largest, hessian[j, j] * change * change)
        if largest < tolerance:
            break
    return b
