"""Longest processing time first on floats: the next item to the lightest pack with a free slot."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.tournament import replay, start, width_for

Int = NDArray[np.int64]
Float = NDArray[Any]


@kernel
def _one_each(weight: Float, order: Int, load: Float, share: Float, item: Int) -> int:
    """Give each pack one item while they are empty: the next empty one is the lightest then.

    Ends early at an item without weight, which would leave its pack the lightest.

    Returns
    -------
    int
        Items placed.
    """
    for g in range(load.size):
        i = order[g]
        if weight[i] <= 0.0:
            return g
        share[g, 0] = load[g] = weight[i]
        item[g, 0] = i
    return load.size


@kernel
def longest_first(weight: Float, order: Int, load: Float, share: Float, item: Int) -> None:
    """Place the items in order, each in the lightest pack with a free slot, ties to the lowest.

    Parameters
    ----------
    weight : float, [n]
    order : int64, [n]
        Items in the order to be placed.
    load : float, [G], output
        Sum of each pack, added up in the order placed.
    share : float, [G, K]; item : int64, [G, K]; output
        Weight and item in each slot, in the order placed.
    """
    G, K = item.shape
    load[:] = 0.0
    placed = _one_each(weight, order, load, share, item)
    if K == 1 and placed == G:
        return
    open_load = np.full(width_for(G), np.inf, weight.dtype)  # infinite for packs that are full
    open_load[:G] = load
    fill = np.zeros(G, np.int64)
    fill[:placed] = 1
    if K == 1:
        open_load[:placed] = np.inf
    tree = start(open_load)
    for position in range(placed, order.size):
        i = order[position]
        p = tree[1]
        share[p, fill[p]] = weight[i]
        item[p, fill[p]] = i
        fill[p] += 1
        open_load[p] += weight[i]
        if fill[p] == K:
            load[p] = open_load[p]
            open_load[p] = np.inf
        replay(tree, open_load, p)
