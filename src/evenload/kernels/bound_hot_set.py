"""Bound by sets of hot experts: the GPUs that hold them have other slots to fill."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.bound_gpus import Gpus
from evenload.kernels.compile import kernel

Float = NDArray[np.float64]


@kernel
def _sums_of_lightest(load: Float) -> Float:
    E = load.size
    sums = np.zeros(E + 1)
    for n in range(E):
        sums[n + 1] = sums[n] + load[E - 1 - n]
    return sums


@kernel
def hot_set_time(load: Float, gpus: Gpus) -> float:
    """Bound the straggler's time from below by the j heaviest experts and what is beside them.

    *Proof.* With R = S - E spare slots, the j heaviest experts H have c_H <= R + j replicas, on
    some m <= min(G, R + j) GPUs. These have at least ``fewest[m]`` slots (and at most ``most[m]``,
    which must be j or more); c_H of them hold H, and ``fewest[m] - c_H`` or more hold others. Let
    another expert have d of its c replicas there, and so the part d / c of its load. As
    d / c - d + (c - 1) = (c - d)(c - 1) / c >= 0, that is at least d - (c - 1). The spare replicas
    c - 1 of the others sum to R - (c_H - j), so their parts, each between 0 and 1, sum to at least
    ``fewest[m] - c_H - R + (c_H - j)`` = ``fewest[m] - R - j`` = n: they weigh at least the n
    lightest experts. (n <= E - j, so none of those is in H.) The m GPUs carry at least the load of
    H and that of the n lightest, in a time of at least that over ``reach[m]``. The smallest such
    time over m is a bound for every j.

    Parameters
    ----------
    load : float64, [E], descending
    gpus : Gpus

    Returns
    -------
    float
        Least time of the heaviest GPU, load / speed.
    """
    E = load.size
    G = gpus.reach.size - 1
    spare = gpus.num_slots - E
    lightest = _sums_of_lightest(load)
    bound = 0.0
    hot = 0.0
    for j in range(1, E + 1):
        hot += load[j - 1]
        least = np.inf
        m = min(G, spare + j)
        while m >= 1 and gpus.most[m] >= j and least > bound:
            n = max(0, gpus.fewest[m] - spare - j)
            least = min(least, (hot + lightest[n]) / gpus.reach[m])
            m -= 1
        bound = max(bound, least)
    return bound
