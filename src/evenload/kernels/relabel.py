"""GPUs of a fresh plan matched with those that run, so that few experts have to move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.assign import assign
from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Flag = NDArray[np.uint8]

UNLIKE = np.int64(2**30)  # costs more than any overlap is worth


@kernel
def _overlap(placed: Int, first: Int, old: Flag, kind: Int, cost: Int) -> None:
    """Write, negated, how many of each fresh GPU's experts each GPU holds already: [G, G]."""
    G = kind.size
    seen = np.full(old.shape[0], -1, np.int64)
    for f in range(G):
        for g in range(G):
            cost[f, g] = 0 if kind[f] == kind[g] else UNLIKE
        for slot in range(first[f], first[f + 1]):
            e = placed[slot]
            if seen[e] == f:
                continue
            seen[e] = f
            for g in range(G):
                cost[f, g] -= old[e, g]


@kernel
def _match_by_node(cost: Int, first_gpu: Int, target: Int) -> None:
    """Match nodes with nodes, and inside each pair GPUs with GPUs: all of a node stay together."""
    N = first_gpu.size - 1
    total = np.full((N, N), UNLIKE * cost.shape[0])
    inner = np.empty(cost.shape[0], np.int64)
    node_of = np.empty(N, np.int64)
    for f in range(N):
        for n in range(N):
            size = first_gpu[f + 1] - first_gpu[f]
            if size == first_gpu[n + 1] - first_gpu[n]:
                part = cost[first_gpu[f] : first_gpu[f + 1], first_gpu[n] : first_gpu[n + 1]]
                total[f, n] = assign(np.ascontiguousarray(part), inner[:size])
    assign(total, node_of)
    for f in range(N):
        n = node_of[f]
        size = first_gpu[f + 1] - first_gpu[f]
        part = cost[first_gpu[f] : first_gpu[f + 1], first_gpu[n] : first_gpu[n + 1]]
        assign(np.ascontiguousarray(part), inner[:size])
        for i in range(size):
            target[first_gpu[f] + i] = first_gpu[n] + inner[i]


@kernel
def relabel(physical_to_logical: Int, slots: Int, kind: Int, first_gpu: Int, old: Flag) -> None:
    """Exchange whole GPUs of each layer so that as many experts as can stay where they are.

    Parameters
    ----------
    physical_to_logical : int64, [L, S]
        The fresh plan, and the result: the slots of the GPUs one after the other.
    slots, kind : int64, [G]
        Slots of each GPU, and a number that is the same for GPUs that may change places.
    first_gpu : int64, [B + 1]
        Where the GPUs of each block begin that stay together: nodes, or one block of all.
    old : uint8, [L, E, G]
        Whether the GPU holds the expert already.
    """
    L, S = physical_to_logical.shape
    G = slots.size
    first = np.zeros(G + 1, np.int64)
    first[1:] = np.cumsum(slots)
    cost = np.empty((G, G), np.int64)
    target = np.empty(G, np.int64)
    fresh = np.empty(S, np.int64)
    for layer in range(L):
        _overlap(physical_to_logical[layer], first, old[layer], kind, cost)
        _match_by_node(cost, first_gpu, target)
        fresh[:] = physical_to_logical[layer]
        for f in range(G):
            for i in range(slots[f]):
                physical_to_logical[layer, first[target[f]] + i] = fresh[first[f] + i]
