"""Vectorised iterated greedy packing, compiled: the algorithm of `torch_packing`, row by row.

Each attempt packs longest first by virtual weight, then swaps between the heaviest pack and all
others; the items of the pack that failed are made virtually heavier for the next attempt.

Everything is computed in the weights' own float type, with the operations of the batched version in
the same order, so that both fall the same way where two choices are equal but for rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.longest_first import longest_first
from evenload.kernels.slots import exchange, sort_packs
from evenload.kernels.tournament import replay, start, width_for

Int = NDArray[np.int64]
Number = NDArray[Any]


@kernel
def _rank(load: Number, ranking: Int) -> None:
    """List the packs by ascending load, equal ones by number."""
    left = np.full(width_for(load.size), np.inf, load.dtype)
    left[: load.size] = load
    tree = start(left)
    for place in range(load.size):
        ranking[place] = tree[1]
        left[tree[1]] = np.inf
        replay(tree, left, ranking[place])


@kernel
def _settle(load: Number, ranking: Int, place: int) -> None:
    """Move the pack at one place of the ranking (lightest first) to where its load belongs."""
    g = ranking[place]
    i = place
    while i > 0 and load[ranking[i - 1]] > load[g]:
        ranking[i] = ranking[i - 1]
        i -= 1
    while i < ranking.size - 1 and load[ranking[i + 1]] < load[g]:
        ranking[i] = ranking[i + 1]
        i += 1
    ranking[i] = g


@kernel
def _change_load(load: Number, ranking: Int, pack: int, change: Any) -> None:
    place = ranking.size - 1
    while ranking[place] != pack:
        place -= 1
    load[pack] += change
    _settle(load, ranking, place)


@kernel
def _heaviest(load: Number, ranking: Int) -> int:
    """Return the heaviest pack, the lowest-numbered of several."""
    place = ranking.size - 1
    heaviest = ranking[place]
    while place > 0 and load[ranking[place - 1]] == load[heaviest]:
        place -= 1
        heaviest = min(heaviest, ranking[place])
    return heaviest


@kernel
def _best_swap(
    share: Number,
    item: Int,
    rank: Int,
    load: Number,
    m: int,
    k: int,
    best: Any,
    best_place: int,
    best_i: int,
    best_j: int,
) -> tuple:
    """Improve on the best exchange so far by one of m with k, found in one walk over both rows.

    Of equal outcomes the one with the lowest place counts: lowest pack, then the lowest rank there,
    then the lowest rank in m.
    """
    K = share.shape[1]
    half = (load[m] - load[k]) / 2
    i = 0
    j = 0
    while i < K and j < K:
        change = share[m, i] - share[k, j]
        outcome = max(load[m] - change, load[k] + change)
        if outcome <= best:
            place = (k * K + rank[item[k, j]]) * K + rank[item[m, i]]
            if outcome < best or place < best_place:
                best, best_place, best_i, best_j = outcome, place, i, j
        too_little = change < half
        j += too_little
        i += 1 - too_little
    return best, best_place, best_i, best_j


@kernel
def _refine(
    share: Number,
    item: Int,
    rank: Int,
    load: Number,
    ranking: Int,
    max_swaps: int,
    goal: Any,
    slack: Any,
) -> None:
    """Do the best exchange of the heaviest pack with any other, while it helps.

    `slack`, a little above 1, keeps packs in the search whose bound rounding might have moved.
    """
    K = share.shape[1]
    for _ in range(max_swaps):
        m = _heaviest(load, ranking)
        if load[m] <= goal:
            return
        best = load[m]
        best_place = -1  # below every place: an outcome equal to today's load is no improvement
        best_i = -1
        best_j = -1
        for place in range(ranking.size):
            k = ranking[place]
            if (load[m] + load[k]) / 2 > best * slack:
                break
            if k != m:
                best, best_place, best_i, best_j = _best_swap(
                    share, item, rank, load, m, k, best, best_place, best_i, best_j
                )
        if best_i < 0:
            return
        k = best_place // (K * K)
        u, v = item[m, best_i], item[k, best_j]
        rank[u], rank[v] = rank[v], rank[u]
        change = share[m, best_i] - share[k, best_j]
        exchange(share, item, m, best_i, k, best_j)
        _change_load(load, ranking, m, -change)
        _change_load(load, ranking, k, change)


@kernel
def _sort_virtually(virtual: Number, order: Int) -> None:
    """Sort items by descending virtual weight, ties to the lowest index; nearly sorted before."""
    for position in range(1, order.size):
        item = order[position]
        weight = virtual[item]
        place = position
        while place > 0:
            other = order[place - 1]
            if virtual[other] > weight or (virtual[other] == weight and other < item):
                break
            order[place] = other
            place -= 1
        order[place] = item


@kernel
def _keep(item: Int, rank: Int, pack_index: Int, rank_in_pack: Int) -> None:
    rank_in_pack[:] = rank
    for g in range(item.shape[0]):
        for i in range(item.shape[1]):
            pack_index[item[g, i]] = g


@kernel
def _rank_as_placed(item: Int, rank: Int) -> None:
    for g in range(item.shape[0]):
        for i in range(item.shape[1]):
            rank[item[g, i]] = i


@kernel
def pack_row(
    weight: Number,
    order: Int,
    num_packs: int,
    num_attempts: int,
    boost: Any,
    max_swaps: int,
    goal: Any,
    slack: Any,
    pack_index: Int,
    rank_in_pack: Int,
) -> None:
    """Pack one row.

    Parameters
    ----------
    order : int64, [n]
        Items by descending weight, ties to the lowest index; changed in place.
    goal : float
        Load of the heaviest pack that is good enough.
    slack : float
        See `_refine`. The others are those of `iterated_packing`.
    """
    n = weight.size
    K = n // num_packs
    virtual = weight.copy()
    rank = np.empty(n, np.int64)
    load = np.empty(num_packs, weight.dtype)
    ranking = np.empty(num_packs, np.int64)
    share = np.empty((num_packs, K), weight.dtype)
    item = np.empty((num_packs, K), np.int64)
    best = weight.dtype.type(np.inf)
    for attempt in range(num_attempts):
        if attempt > 0:
            _sort_virtually(virtual, order)
        longest_first(weight, order, load, share, item)
        _rank_as_placed(item, rank)
        sort_packs(share, item)
        _rank(load, ranking)
        _refine(share, item, rank, load, ranking, max_swaps, goal, slack)
        m = _heaviest(load, ranking)
        if load[m] < best:
            best = load[m]
            _keep(item, rank, pack_index, rank_in_pack)
        if best <= goal or attempt + 1 == num_attempts:
            return
        for i in range(K):
            virtual[item[m, i]] *= boost


@kernel
def iterated_packing(
    weight: Number,
    order: Int,
    num_packs: int,
    num_attempts: int,
    boost: float,
    max_swaps: int,
    target: float,
    pack_index: Int,
    rank_in_pack: Int,
) -> None:
    """Pack every row on its own: weights [X, n] -> int64 [X, n].

    Parameters
    ----------
    weight : float32 or float64, [X, n]
        Finite and at least 0; at least two items a pack.
    order : int64, [X, n]
        Items of each row by descending weight, ties to the lowest index; changed in place.
    num_packs, num_attempts, boost, max_swaps
        As `evenload.eplb.balanced_packing`.
    target : float
        Mean over max pack load that is good enough; infinite for none.
    pack_index, rank_in_pack : int64, [X, n], output
    """
    number = weight.dtype.type
    slack = number(1) + number(8) * np.finfo(weight.dtype).eps
    for row in range(weight.shape[0]):
        goal = weight[row].sum() / (num_packs * target)
        pack_row(
            weight[row],
            order[row],
            num_packs,
            num_attempts,
            number(boost),
            max_swaps,
            number(goal),
            slack,
            pack_index[row],
            rank_in_pack[row],
        )
