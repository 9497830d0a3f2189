"""Texture matrices of a region, in compiled loops over its voxels.

A region arrives as a volume of grey *ranks*: 0 outside, 1 to L inside, one rank for each grey level that occurs,
padded with a layer of zeros, so that a voxel always has its 26 neighbours and no loop asks where the volume ends.
Neighbours are offsets in the flattened volume. Thirteen offsets, one of each opposite pair, are the thirteen
directions of three-dimensional texture.
"""

from itertools import product
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ranks = NDArray[np.uint16]
Counts = NDArray[np.int64]

DIRECTIONS = np.array([d for d in product((1, 0, -1), repeat=3) if d > (0, 0, 0)], dtype=np.int64)
"""One of each opposite pair of neighbours, shape (13, 3), axes z, y, x."""


def offsets(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Turn the thirteen directions into steps in the flattened volume.

    Parameters
    ----------
    shape
        Of the padded volume, (z, y, x).

    Returns
    -------
    numpy.ndarray
        Shape (13,).
    """
    return DIRECTIONS @ np.array([shape[1] * shape[2], shape[2], 1], dtype=np.int64)


@njit(cache=True)
def levels(values: NDArray[Any], edges: NDArray[np.float64]) -> Counts:
    """Find the grey-level bin of each value.

    Parameters
    ----------
    values
        None below the first edge, shape (n,).
    edges
        Ascending, evenly spaced, shape (n_edges,).

    Returns
    -------
    numpy.ndarray
        As from `numpy.digitize`: i where `edges[i - 1] <= value < edges[i]`, shape (n,).
    """
    found = np.empty(len(values), np.int64)
    per_unit = (len(edges) - 1) / (edges[-1] - edges[0])
    for i in range(len(values)):
        value = np.float64(values[i])
        # A good guess, put right by the edges themselves.
        level = min(max(int((value - edges[0]) * per_unit) + 1, 1), len(edges))
        while level > 1 and value < edges[level - 1]:
            level -= 1
        while level < len(edges) and value >= edges[level]:
            level += 1
        found[i] = level
    return found


@njit(cache=True)
def neighbours(
    ranks: Ranks, voxels: Counts, steps: NDArray[np.int64], grey: NDArray[np.float64]
) -> tuple[Counts, Counts, NDArray[np.float64]]:
    """Count pairs, dependences and differences of neighbouring grey levels in one pass.

    Parameters
    ----------
    ranks
        Padded volume of ranks, flattened.
    voxels
        Where they are not 0, ascending.
    steps
        From `offsets`.
    grey
        Grey level of each rank, shape (L,).

    Returns
    -------
    pairs : numpy.ndarray
        Co-occurrence (GLCM), shape (13, L, L): how often a voxel of rank i has a voxel of rank j one step ahead.
    dependence : numpy.ndarray
        GLDM, shape (L, 27): how many voxels of rank i have k neighbours of the same rank.
    difference : numpy.ndarray
        NGTDM, shape (L,): the sum over voxels of rank i of the absolute difference between their grey level and
        the mean of their neighbours in the region.
    """
    n_ranks = len(grey)
    pairs = np.zeros((len(steps), n_ranks, n_ranks), np.int64)
    dependence = np.zeros((n_ranks, 2 * len(steps) + 1), np.int64)
    difference = np.zeros(n_ranks, np.float64)
    for here in voxels:
        rank = ranks[here]
        n_same, n_inside, total = 0, 0, 0.0
        for direction in range(len(steps)):
            ahead = ranks[here + steps[direction]]
            if ahead:
                pairs[direction, rank - 1, ahead - 1] += 1
                n_inside += 1
                total += grey[ahead - 1]
                n_same += ahead == rank
            behind = ranks[here - steps[direction]]
            if behind:
                n_inside += 1
                total += grey[behind - 1]
                n_same += behind == rank
        dependence[rank - 1, n_same] += 1
        if n_inside:
            difference[rank - 1] += abs(grey[rank - 1] - total / n_inside)
    return pairs, dependence, difference


@njit(cache=True)
def runs(ranks: Ranks, voxels: Counts, steps: NDArray[np.int64], n_ranks: int, longest: int) -> Counts:
    """Count runs of one grey level along each direction (GLRLM).

    Each voxel takes its place in a run from the voxel behind, which the ascending order has met before; a run counts
    where the voxel ahead has another rank. No step of the loop depends on a guess of what comes next, which is what
    makes processors wait.

    Parameters
    ----------
    ranks
        Padded volume of ranks, flattened.
    voxels
        Where they are not 0, ascending.
    steps
        From `offsets`.
    n_ranks
        L.
    longest
        No run can be longer.

    Returns
    -------
    numpy.ndarray
        Shape (L, longest, 13): runs of rank i with length k + 1.
    """
    counts = np.zeros((len(steps), n_ranks, longest), np.int64)
    place = np.zeros(len(ranks), np.uint16)
    for direction in range(len(steps)):
        step, table = steps[direction], counts[direction]
        for here in voxels:
            rank = ranks[here]
            length = place[here - step] * (ranks[here - step] == rank)
            place[here] = length + 1
            table[rank - 1, length] += ranks[here + step] != rank
    return counts.transpose(1, 2, 0)


@njit(cache=True)
def zones(ranks: Ranks, voxels: Counts, steps: NDArray[np.int64]) -> tuple[Counts, Counts]:
    """Find connected zones of one grey level (GLSZM), neighbours touching by face, edge or corner.

    Parameters
    ----------
    ranks
        Padded volume of ranks, flattened.
    voxels
        Where they are not 0, ascending.
    steps
        From `offsets`.

    Returns
    -------
    rank, size : numpy.ndarray
        Of each zone, shape (n_zones,).
    """
    open_voxels = ranks.copy()
    waiting = np.empty(len(voxels), np.int64)
    zone_rank, zone_size = [], []
    for start in voxels:
        rank = open_voxels[start]
        if rank == 0:
            continue
        open_voxels[start] = 0
        waiting[0] = start
        n_waiting, size = 1, 0
        while n_waiting:
            n_waiting -= 1
            here = waiting[n_waiting]
            size += 1
            for step in steps:
                for there in (here + step, here - step):
                    if open_voxels[there] == rank:
                        open_voxels[there] = 0
                        waiting[n_waiting] = there
                        n_waiting += 1
        zone_rank.append(np.int64(rank))
        zone_size.append(np.int64(size))
    return np.array(zone_rank), np.array(zone_size)
