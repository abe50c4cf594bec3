"""GPUs of a fresh plan matched with those that run, so that few experts have to move."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.core.compile import Flag3, Int, Int1, Int2, entry, read_only, step

FAR = 2**62
UNLIKE = 2**30  # costs more than any overlap is worth
NONE = -1


@step(Int2, Int, Int, Int, Int1, Int2)
def _assign(cost: Any, row: Any, column: Any, n: Any, column_of: Any, scratch: Any) -> Any:
    """Find the assignment of least cost by shortest augmenting paths, and return that cost.

    The Hungarian method with potentials (Jonker and Volgenant 1987), on integers, so that the same
    costs give the same assignment everywhere.

    What counts of `cost` [G, G], at most 2**40 in size, is a square of n rows and columns from
    `row` and `column` on, and `column_of` [n or more] is counted from these. `scratch` is
    [6, n or more].
    """
    row_price, column_price, row_of = scratch[0], scratch[1], scratch[2]
    way, least, left = scratch[3], scratch[4], scratch[5]
    for j in range(n):
        row_price[j], column_price[j], row_of[j] = 0, 0, NONE
    for i in range(n):
        for j in range(n):
            least[j], left[j] = FAR, j
        num_left, at, length = n, i, 0
        while at != NONE:
            offset = length - row_price[at]
            nearest, lowest = 0, FAR
            for place in range(num_left):
                j = left[place]
                away = cost[row + at, column + j] + offset - column_price[j]
                if away < least[j]:
                    least[j], way[j] = away, at
                # Of equal ones a free column, which ends the path: overlaps are mostly equal.
                if least[j] < lowest or (least[j] == lowest and row_of[j] == NONE):
                    nearest, lowest = place, least[j]
            end, length = left[nearest], lowest
            num_left -= 1
            left[nearest], left[num_left] = left[num_left], end
            at = row_of[end]
        row_price[i] += length
        for place in range(num_left + 1, n):
            j = left[place]
            row_price[row_of[j]] += length - least[j]
            column_price[j] -= length - least[j]
        while at != i:
            at = way[end]
            row_of[end] = at
            column_of[at], end = end, column_of[at]
    total = 0
    for i in range(n):
        total += cost[row + i, column + column_of[i]]
    return total


@step(Int2, read_only(Int1), Int2, Int1, Int1, Int2)
def _match_by_node(
    cost: Any, first_gpu: Any, total: Any, inner: Any, target: Any, scratch: Any
) -> None:
    """Match nodes with nodes, and inside each pair GPUs with GPUs: all of a node stay together."""
    N = first_gpu.size - 1
    for f in range(N):
        start, size = first_gpu[f], first_gpu[f + 1] - first_gpu[f]
        for n in range(N):
            total[f, n] = UNLIKE * inner.size
            if size == first_gpu[n + 1] - first_gpu[n]:
                total[f, n] = _assign(cost, start, first_gpu[n], size, inner, scratch)
    _assign(total, 0, 0, N, target, scratch)
    for f in range(N - 1, -1, -1):  # from behind, for `target` holds the nodes in its first places
        start, n = first_gpu[f], target[f]
        size = first_gpu[f + 1] - start
        _assign(cost, start, first_gpu[n], size, inner, scratch)
        for i in range(size):
            target[start + i] = first_gpu[n] + inner[i]


@entry(Int2, read_only(Int1), read_only(Int1), read_only(Int1), read_only(Flag3))
def relabel(physical_to_logical: Any, slots: Any, kind: Any, first_gpu: Any, old: Any) -> None:
    """Exchange whole GPUs of each layer so that as many experts as can stay where they are.

    Parameters
    ----------
    physical_to_logical : int64, [L, S], changed in place
        The fresh plan: the slots of the GPUs one after the other.
    slots, kind : int64, [G]
        Slots of each GPU, and a number that is the same for GPUs that may change places.
    first_gpu : int64, [B + 1]
        Where the GPUs of each block begin that stay together: nodes, or one block of all.
    old : uint8, [L, E, G]
        Whether the GPU holds the expert already.
    """
    L, S = physical_to_logical.shape
    G, N = slots.size, first_gpu.size - 1
    first, target, inner = np.empty(G, np.int64), np.empty(G, np.int64), np.empty(G, np.int64)
    fresh, seen = np.empty(S, np.int64), np.empty(old.shape[1], np.int64)
    cost, total = np.empty((G, G), np.int64), np.empty((N, N), np.int64)
    scratch = np.empty((6, G), np.int64)
    start = 0
    for g in range(G):
        first[g] = start
        start += slots[g]
    for layer in range(L):
        for e in range(seen.size):
            seen[e] = -1
        for slot in range(S):
            fresh[slot] = physical_to_logical[layer, slot]
        for f in range(G):  # negated: how many of its experts each GPU holds already
            for g in range(G):
                cost[f, g] = 0 if kind[f] == kind[g] else UNLIKE
            for slot in range(first[f], first[f] + slots[f]):
                e = fresh[slot]
                if seen[e] == f:
                    continue
                seen[e] = f
                for g in range(G):
                    cost[f, g] -= old[layer, e, g]
        _match_by_node(cost, first_gpu, total, inner, target, scratch)
        for f in range(G):
            for i in range(slots[f]):
                physical_to_logical[layer, first[target[f]] + i] = fresh[first[f] + i]
