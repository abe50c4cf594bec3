"""DeepSeek EPLB's two steps in the number type of the weights.

Source: deepseek-ai/EPLB (2025), which computes in float32 and searches by scanning; here a
tournament finds the same expert and the same pack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.longest_first import longest_first
from evenload.kernels.tournament import replay, start, width_for

Int = NDArray[np.int64]
Float = NDArray[Any]


@kernel
def replicate_experts(weight: Float, physical_to_logical: Int, rank: Int, count: Int) -> None:
    """Give each spare slot to the expert whose share is largest then, ties to the lowest.

    Parameters
    ----------
    weight : float, [X, E]
    physical_to_logical, rank : int64, [X, S], output
        Expert of each physical expert and which of its replicas it is; the first E are one of each.
    count : int64, [X, E], output
        Replicas of each expert.
    """
    X, E = weight.shape
    negative_share = np.full(width_for(E), np.inf, weight.dtype)
    for row in range(X):
        for e in range(E):
            physical_to_logical[row, e] = e
            rank[row, e] = 0
            count[row, e] = 1
            negative_share[e] = -weight[row, e]
        tree = start(negative_share)
        for slot in range(E, physical_to_logical.shape[1]):
            e = tree[1]
            physical_to_logical[row, slot] = e
            rank[row, slot] = count[row, e]
            count[row, e] += 1
            negative_share[e] = -(weight[row, e] / weight.dtype.type(count[row, e]))
            replay(tree, negative_share, e)


@kernel
def pack_greedily(weight: Float, order: Int, P: int, pack_index: Int, rank_in_pack: Int) -> None:
    """Put each row's items in order into the lightest of P packs with room, ties to the lowest.

    Parameters
    ----------
    weight : float, [X, n]
    order : int64, [X, n]
        Items of each row, heaviest first.
    pack_index, rank_in_pack : int64, [X, n], output
    """
    X, n = weight.shape
    load = np.empty(P, weight.dtype)
    share = np.empty((P, n // P), weight.dtype)
    item = np.empty((P, n // P), np.int64)
    for row in range(X):
        longest_first(weight[row], order[row], load, share, item)
        for p in range(P):
            for place in range(n // P):
                pack_index[row, item[p, place]] = p
                rank_in_pack[row, item[p, place]] = place
