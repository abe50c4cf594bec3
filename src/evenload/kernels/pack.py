"""Longest processing time first: the next heaviest replica to the lightest pack with a free slot.

The lightest pack is found by a tournament over keys ``load << bits | pack``: every inner node
holds the smaller of its two children, so an update walks one path without a branch on the data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.packs import Packs

Int = NDArray[np.int64]

NEVER = np.int64(2**62)  # key of a pack that takes no more


@kernel
def _update(tree: Int, leaf: int, key: int) -> None:
    tree[leaf] = key
    node = leaf >> 1
    while node >= 1:
        tree[node] = min(tree[2 * node], tree[2 * node + 1])
        node >>= 1


@kernel
def _start(tree: Int, num_packs: int) -> None:
    width = tree.size // 2
    for pack in range(width):
        tree[width + pack] = pack if pack < num_packs else NEVER
    for node in range(width - 1, 0, -1):
        tree[node] = min(tree[2 * node], tree[2 * node + 1])


@kernel
def pack(
    load: Int,
    count: Int,
    order: Int,
    tree: Int,
    packs: Packs,
) -> bool:
    """Place all replicas, no expert twice in one pack if that can be helped.

    Parameters
    ----------
    load, count : int64, [E]
        Load on the grid and number of replicas of each expert; one replica weighs load // count.
    order : int64, [E]
        Experts in the order to be placed, all replicas of one in a row.
    tree : int64, [2 * 2**packs.bits], scratch
    packs : Packs, output
        Its slots, in the order placed; loads and ranking are left to `packs.rank_packs`.

    Returns
    -------
    bool
        Whether every replica found a pack of its own; False where an expert had more replicas left
        than there were packs with a free slot.
    """
    share, expert = packs.share, packs.expert
    G, K = share.shape
    width = tree.size // 2
    mask = width - 1
    _start(tree, G)
    fill = np.zeros(G, np.int64)
    waiting = np.empty(G, np.int64)
    apart = True
    for position in range(order.size):
        e = order[position]
        weight = load[e] // count[e]
        left = count[e]
        while left > 0:
            held = 0  # packs that got a replica of e: out of the tournament until e is done
            while left > 0 and tree[1] < NEVER:
                p = tree[1] & mask
                key = tree[1] + (weight << packs.bits)
                share[p, fill[p]] = weight
                expert[p, fill[p]] = e
                fill[p] += 1
                left -= 1
                if fill[p] == K:
                    key = NEVER
                elif left > 0:
                    waiting[held] = key
                    held += 1
                    key = NEVER
                _update(tree, width + p, key)
            for i in range(held):
                _update(tree, width + (waiting[i] & mask), waiting[i])
            apart = apart and left == 0
    return apart
