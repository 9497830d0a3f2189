"""Linear interpolation of volumes between grids that share their axes, one axis after the other."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Axis = tuple[NDArray[np.int64], NDArray[np.float32]]
"""For each new sample of an axis: the old samples that it rests on, and their weights; both (n_new, n_taps)."""


def axis_weights(n_old: int, positions: NDArray[np.float64], width: float = 1.0) -> Axis:
    """Weigh the old samples of an axis for each new one.

    Parameters
    ----------
    n_old
        Old samples.
    positions
        Where the new samples lie, in steps of the old ones, shape (n_new,); beyond an end, the end counts.
    width
        Half the foot of the triangle, at least 1, in steps of the old samples: 1 is linear interpolation, more
        averages as well, for an axis that becomes coarser.

    Returns
    -------
    index : numpy.ndarray
        Old samples, shape (n_new, n_taps).
    weights : numpy.ndarray
        Their weights, each row summing to 1, shape (n_new, n_taps).
    """
    centres = np.clip(positions, 0, n_old - 1)[:, None]
    index = np.ceil(centres - width).astype(np.int64) + np.arange(int(2 * width) + 1)
    weights = np.maximum(1 - np.abs(centres - index) / width, 0)
    weights[(index < 0) | (index >= n_old)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, n_old - 1), weights.astype(np.float32)


def interpolate(values: NDArray[Any], axes: tuple[Axis, Axis, Axis]) -> NDArray[np.float32]:
    """Interpolate a volume.

    Parameters
    ----------
    values
        The volume, shape (z, y, x).
    axes
        From `axis_weights`, one an axis.

    Returns
    -------
    numpy.ndarray
        The volume on the new grid.
    """
    (z, z_weights), (y, y_weights), (x, x_weights) = axes
    result: NDArray[np.float32] = _interpolate(values, z, z_weights, y, y_weights, x, x_weights)
    return result


@njit(cache=True)
def _interpolate(values, z, z_weights, y, y_weights, x, x_weights):  # type: ignore[no-untyped-def]
    result = np.empty((len(z), len(y), len(x)), np.float32)
    plane = np.empty(values.shape[1:], np.float32)
    row = np.empty(values.shape[2], np.float32)
    for k in range(len(z)):
        plane[:] = 0
        for tap in range(z.shape[1]):
            if z_weights[k, tap] > 0:
                plane += z_weights[k, tap] * values[z[k, tap]]
        for j in range(len(y)):
            row[:] = 0
            for tap in range(y.shape[1]):
                if y_weights[j, tap] > 0:
                    row += y_weights[j, tap] * plane[y[j, tap]]
            for i in range(len(x)):
                total = np.float32(0)
                for tap in range(x.shape[1]):
                    total += x_weights[i, tap] * row[x[i, tap]]
                result[k, j, i] = total
    return result
