"""The shares that an expert can be cut into, and where they stand below a limit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.grid import bit_length
from evenload.kernels.sort import sort_keys

Int = NDArray[np.int64]
Float = NDArray[np.float64]

EXACT = 6  # numbers of replicas looked at one by one; beyond, in blocks up to twice as many
MOST_A_ROW = 40  # more entries than 4 and the doublings of any number of slots
SHARE_BITS = 40


class Shares(NamedTuple):
    """Ways to cut experts, expert by expert: entries first[e] up to first[e + 1] are those of e.

    An entry says "`count` or more replicas, each with a load of `size` or more".

    Parameters
    ----------
    first : int64, [E + 1]
    count : float64, [n]
    size : float64, [n]
    """

    first: Int
    count: Float
    size: Float


@kernel
def list_shares(load: Float, spare: int, limit: float) -> Shares:
    """List for each expert every number of replicas whose share is within a limit.

    The fewest of an expert stand for themselves, larger numbers a to b for "a or more replicas of
    load / b or more". An expert that cannot be cut fine enough has no entry.
    """
    E = load.size
    first = np.zeros(E + 1, np.int64)
    count = np.empty(E * MOST_A_ROW)
    size = np.empty(E * MOST_A_ROW)
    n = 0
    for expert in range(E):
        c = np.int64(max(1.0, np.ceil(min(load[expert] / limit, spare + 2.0))))
        listed = 0
        while c <= spare + 1:
            last = c if listed < EXACT else min(2 * c, spare + 1)
            count[n] = c
            size[n] = load[expert] / last
            n += 1
            listed += 1
            c = last + 1
        first[expert + 1] = n
    return Shares(first, count[:n], size[:n])


@kernel
def ascending(size: Float, limit: float) -> Int:
    """Order shares from the smallest up, to within 1e-12 of the limit, ties to the first."""
    n = size.size
    bits = bit_length(n)
    keys = np.empty(n, np.int64)
    one = float(1 << SHARE_BITS)
    for i in range(n):
        keys[i] = (np.int64(np.rint(min(size[i] / limit, 1.5) * one)) << bits) | i
    sort_keys(keys, n, SHARE_BITS + 1 + bits, np.empty(n, np.int64), np.empty(256, np.int64))
    return keys & ((1 << bits) - 1)


@kernel
def rank_shares(size: Float, limit: float, num_slots: int, rank: Int) -> Float:
    """Find the big shares, above half the limit, and say below which of them each share stands.

    Parameters
    ----------
    size : float64, [n]
    limit : float
    num_slots : int
        Slots K of a GPU, at least 2.
    rank : int64, [n], output
        With B big shares: ``2 * B - i`` for the i-th largest of them, else the first i for which
        ``K - 1`` shares of this size fit beside big share i, B if beside none; -1 above the limit.

    Returns
    -------
    float64, [B], descending
        The big shares.
    """
    order = ascending(size, limit)
    end = size.size
    while end > 0 and size[order[end - 1]] > limit:
        end -= 1
        rank[order[end]] = -1
    small = end
    while small > 0 and 2.0 * size[order[small - 1]] > limit:
        small -= 1
    num_big = end - small
    big = np.empty(num_big)
    for i in range(num_big):
        big[i] = size[order[end - 1 - i]]
        rank[order[end - 1 - i]] = 2 * num_big - i
    i = 0
    for place in range(small):
        needed = (num_slots - 1) * size[order[place]]
        while i < num_big and limit - big[i] < needed:
            i += 1
        rank[order[place]] = i
    return big
