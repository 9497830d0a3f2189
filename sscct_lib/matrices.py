"""Texture matrices of a region, in compiled loops over its voxels.

A region arrives as a volume of grey *ranks*: 0 outside, 1 to L inside, one rank for each grey level that occurs,
padded with a layer of zeros, so that a voxel always has its 26 neighbours and no loop asks where the volume ends.
Neighbours are offsets in the flattened volume. Thirteen offsets, one of each opposite pair, are the thirteen
directions of three-dimensional texture.
"""

from itertools import product

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

    A run begins where the voxel behind has another rank, and goes on while the rank stays.

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
    counts = np.zeros((n_ranks, longest, len(steps)), np.int64)
    for direction in range(len(steps)):
        step = steps[direction]
        for here in voxels:
            rank = ranks[here]
            if ranks[here - step] == rank:
                continue
            length, there = 0, here + step
            while ranks[there] == rank:
                length += 1
                there += step
            counts[rank - 1, length, direction] += 1
    return counts


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
