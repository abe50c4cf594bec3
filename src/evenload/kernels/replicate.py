"""How many replicas each expert gets: the largest share next, as DeepSeek's EPLB does.

That rule minimises the largest share. Shares live on the integer grid, see `grid`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.heap import push, replace_top
from evenload.kernels.sort import sort_few, sort_keys

Int = NDArray[np.int64]


@kernel
def _key(share: int, expert: int, top: int, expert_bits: int) -> int:
    return ((top - share) << expert_bits) | expert


@kernel
def _merge(untouched: Int, first: int, touched: Int, n: int, mask: int, order: Int) -> None:
    i = 0
    j = first
    E = order.size
    for position in range(E):
        if i < n and (j >= E or touched[i] < untouched[j]):
            order[position] = touched[i] & mask
            i += 1
        else:
            order[position] = untouched[j] & mask
            j += 1


@kernel
def _sort_by_load(load: Int, load_bits: int, expert_bits: int, scratch: Int, keys: Int) -> None:
    tally = np.empty(256, np.int64)
    top = 1 << load_bits
    for expert in range(load.size):
        keys[expert] = _key(load[expert], expert, top, expert_bits)
    sort_keys(keys, load.size, load_bits + 1 + expert_bits, scratch, tally)


@kernel
def replicate(
    load: Int,
    load_bits: int,
    num_slots: int,
    most: int,
    expert_bits: int,
    scratch: Int,
    count: Int,
    order: Int,
) -> None:
    """Hand every spare slot to the expert with the largest share.

    The experts are sorted once; only those that got a second replica enter a heap, and the two
    sorted parts are merged at the end. Cost: O(E + S log E).

    Parameters
    ----------
    load : int64, [E]
        Load on the grid, 0 to ``2**load_bits``.
    num_slots : int
        Slots S, at least E and at most ``E * most``.
    most : int
        Most replicas of one expert.
    expert_bits : int
        Bits that hold an expert's number.
    scratch : int64, [2, E]
    count : int64, [E], output
        Replicas of each expert.
    order : int64, [E], output
        Experts by descending share ``load // count``, ties by the lowest index.
    """
    E = load.size
    mask = (1 << expert_bits) - 1
    top = 1 << load_bits
    untouched = scratch[0]
    touched = scratch[1]
    _sort_by_load(load, load_bits, expert_bits, touched, untouched)
    count[:] = 1
    first = 0  # untouched[first:] have one replica each
    n = 0  # touched[:n] is the heap of those that may get more
    full = E  # touched[full:] have all that are allowed
    for _ in range(num_slots - E):
        if n > 0 and (first >= E or touched[0] < untouched[first]):
            expert = touched[0] & mask
            count[expert] += 1
            n -= 1
            replace_top(touched, n, touched[n])
        else:
            expert = untouched[first] & mask
            count[expert] = 2
            first += 1
        key = _key(load[expert] // count[expert], expert, top, expert_bits)
        if count[expert] < most:
            push(touched, n, key)
            n += 1
        else:
            full -= 1
            touched[full] = key
    for i in range(full, E):
        touched[n] = touched[i]
        n += 1
    sort_few(touched, n)
    _merge(untouched, first, touched, n, mask, order)
