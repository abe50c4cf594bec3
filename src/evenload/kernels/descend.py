"""Steepest descent on the heaviest GPU: swap with whichever other GPU helps most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.packs import Packs, heaviest_load, pack_at
from evenload.kernels.swap import best_swap, swap

Int = NDArray[np.int64]


@kernel
def _partner(packs: Packs, mean: int) -> tuple:
    """Search the packs from the lightest up for the best exchange with the heaviest one.

    A pack k cannot bring the pair below ``(load(m) + load(k)) / 2``, so the search ends where that
    is no better than what was found, or where an exchange already takes the pair three quarters
    of the way from the mean to the second heaviest pack, which will be the heaviest then: looking
    longer costs more than it gains (measured: a better end in less time).
    """
    G = packs.ranking.size
    load = packs.load
    m = pack_at(packs, -1)
    second = load[pack_at(packs, max(G - 2, 0))]
    enough = mean + 3 * (second - mean) // 4
    best = load[m]
    partner = -1
    slot_m = -1
    slot_k = -1
    pairs = 0
    for place in range(G - 1):
        k = pack_at(packs, place)
        both = load[m] + load[k]
        if (both + 1) // 2 >= best:
            break
        pairs += 1
        distance, i, j = best_swap(packs, m, k, 2 * best - both)
        if i >= 0:
            partner, slot_m, slot_k = k, i, j
            best = (both + distance) // 2
            if best <= enough:
                break
    return partner, slot_m, slot_k, pairs


@kernel
def descend(
    packs: Packs,
    mean: int,
    goal: int,
    most_pairs: int,
    log: Int,
    logged: int,
) -> tuple:
    """Swap until the heaviest pack is at the goal, nothing improves, or the effort is spent.

    Parameters
    ----------
    packs : Packs
        State of the layer; changed in place.
    mean, goal : int
        Mean pack load, and the load of the heaviest pack that is good enough.
    most_pairs : int
        Pairs of packs to look at, the unit of effort.
    log : int64, [n, 4]
        Takes (m, expert from m, k, expert from k) of every swap from row `logged` on; the descent
        ends when it is full. An empty log keeps nothing.

    Returns
    -------
    pairs, logged : int
        Pairs looked at, and rows of the log in use.
    """
    pairs = 0
    while pairs < most_pairs and heaviest_load(packs) > goal:
        if log.shape[0] > 0 and logged >= log.shape[0]:
            break
        k, i, j, looked = _partner(packs, mean)
        pairs += looked
        if k < 0:
            break
        m = pack_at(packs, -1)
        if log.shape[0] > 0:
            log[logged] = (m, packs.expert[m, i], k, packs.expert[k, j])
            logged += 1
        swap(packs, m, i, k, j)
    return pairs, logged
