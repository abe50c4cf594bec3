"""The fewest nodes that between them hold all experts of a token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@kernel
def _bits(number: int) -> int:
    n = 0
    while number:
        number &= number - 1
        n += 1
    return n


@kernel
def _first_unmet(need: Int, chosen: int) -> int:
    for q in range(need.size):
        if not need[q] & chosen:
            return q
    return -1


@kernel
def fewest_nodes(need: Int) -> int:
    """Count the nodes of a smallest set that meets every need.

    Depth first: the first need that is not met is met by each of its nodes in turn, and a branch
    ends where it is no smaller than the best set so far.

    Parameters
    ----------
    need : int64, [k]
        Each a set of nodes as bits, at least one of which must be in the set.
    """
    chosen = 0
    for q in range(need.size):
        if need[q] & (need[q] - 1) == 0:
            chosen |= need[q]  # there is no choice
    q = _first_unmet(need, chosen)
    if q < 0:
        return _bits(chosen)
    best = _bits(chosen) + need.size
    stack_chosen = np.empty(need.size + 1, np.int64)
    stack_left = np.empty(need.size + 1, np.int64)
    depth = 0
    stack_chosen[0] = chosen
    stack_left[0] = need[q]
    while depth >= 0:
        left = stack_left[depth]
        if left == 0 or _bits(stack_chosen[depth]) + 1 >= best:
            depth -= 1
            continue
        node = left & -left
        stack_left[depth] = left ^ node
        more = stack_chosen[depth] | node
        q = _first_unmet(need, more)
        if q < 0:
            best = _bits(more)
            continue
        depth += 1
        stack_chosen[depth] = more
        stack_left[depth] = need[q]
    return best


@kernel
def mean_visits(topk: Int, held: Int, first: int, end: int, result: Float) -> None:
    """Average `fewest_nodes` over tokens, for the layers from `first` up to `end`.

    Parameters
    ----------
    topk : int64, [tokens, L, k]
    held : int64, [L, E]
        Nodes of each expert, as bits.
    first, end : int
    result : float64, [L], written
    """
    tokens, _, k = topk.shape
    need = np.empty(k, np.int64)
    for layer in range(first, end):
        total = 0
        for token in range(tokens):
            for i in range(k):
                need[i] = held[layer, topk[token, layer, i]]
            total += fewest_nodes(need)
        result[layer] = total / tokens
