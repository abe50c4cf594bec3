"""DeepSeek EPLB's two steps: replicas by largest share, then longest-first packing.

Source: deepseek-ai/EPLB (2025), which searches by scanning; here a tournament finds the same expert
and the same pack. Kernels without types are compiled once for each float type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from evenload.core.compile import Int, Int2, entry, kernel, read_only, step

Single2 = types.float32[:, ::1]


@step()
def _replay(tree: Any, key: Any, leaf: Any) -> None:
    """Settle a tournament after the key of one leaf changed.

    Every inner node of the binary tree `tree` holds the index of the smaller of the keys of its two
    children, of equal ones the lower; ``tree[1]`` is the index of the smallest.
    """
    node = (tree.size // 2 + leaf) >> 1
    while node >= 1:
        left, right = tree[2 * node], tree[2 * node + 1]
        tree[node] = left if key[left] <= key[right] else right
        node >>= 1


@step()
def _start(tree: Any, key: Any) -> None:
    """Start a tournament over `key`, a power of two in size, at least 2; `tree` has twice that."""
    width = key.size
    for leaf in range(width):
        tree[width + leaf] = leaf
    for node in range(width - 1, 0, -1):
        left, right = tree[2 * node], tree[2 * node + 1]
        tree[node] = left if key[left] <= key[right] else right


@step(Int)
def _width_for(size: Any) -> Any:
    width = 2
    while width < size:
        width *= 2
    return width


def replicate_rows(weight: Any, most: Any, expert: Any, rank: Any, count: Any) -> None:
    """Give each spare slot to the expert whose share is largest then, ties to the lowest: [X, E].

    `most` replicas at most, and E times that are S or more. Writes the `expert` of each physical
    expert and which of its replicas it is, its `rank` [X, S], the first E being one of each; and
    the `count` of each expert's replicas [X, E].
    """
    X, E = weight.shape
    width = _width_for(E)
    tree, key = np.empty(2 * width, np.int64), np.empty(width, np.float32)
    for row in range(X):
        for e in range(width):
            key[e] = np.float32(np.inf)
            if e < E:
                expert[row, e], rank[row, e], count[row, e] = e, 0, 1
                if most > 1:
                    key[e] = -weight[row, e]
        _start(tree, key)
        for slot in range(E, expert.shape[1]):
            e = tree[1]
            expert[row, slot], rank[row, slot] = e, count[row, e]
            count[row, e] += 1
            key[e] = -(weight[row, e] / np.float32(count[row, e]))
            if count[row, e] == most:
                key[e] = np.float32(np.inf)
            _replay(tree, key, e)


replicate = entry(read_only(Single2), Int, Int2, Int2, Int2)(replicate_rows)


@kernel()
def longest_first(weight: Any, order: Any, load: Any, share: Any, item: Any) -> None:
    """Place the items in order, each in the lightest pack with a free slot, ties to the lowest.

    Packs have two slots or more. `load` is added up in the order placed, which is that of `share`
    and `item`.
    """
    G, K = item.shape
    width = _width_for(G)
    tree, key = np.empty(2 * width, np.int64), np.empty(width, weight.dtype)
    fill = np.empty(G, np.int64)
    infinite = weight.dtype.type(np.inf)  # for packs that are full
    placed = 0
    for p in range(width):
        key[p] = infinite
        if p < G:
            key[p] = 0
            fill[p] = 0
            i = order[p]
            if p == placed and weight[i] > 0:  # an empty pack is the lightest, the lowest first
                share[p, 0], item[p, 0] = weight[i], i
                key[p] = weight[i]
                fill[p] = 1
                placed += 1
    _start(tree, key)
    for position in range(placed, order.size):
        i, p = order[position], tree[1]
        share[p, fill[p]] = weight[i]
        item[p, fill[p]] = i
        fill[p] += 1
        key[p] += weight[i]
        if fill[p] == K:
            load[p] = key[p]
            key[p] = infinite
        _replay(tree, key, p)
