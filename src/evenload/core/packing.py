"""The vectorised iterated greedy packing row by row, and how it keeps replicas apart.

Each attempt packs longest first by virtual weight, then swaps between the heaviest pack and all
others; the items of the pack that failed are made virtually heavier for the next attempt.

Everything is computed in the weights' own float type, with the operations of `core.torch_packing`
in the same order, so that both fall the same way where two choices are equal but for rounding. The
kernels below are compiled once for each float type. A pack's slots are a row of `share` and `item`
[G, K]; while packs are swapped, each row is by descending share.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.core.compile import (
    Float,
    Float1,
    Float2,
    Int,
    Int1,
    Int2,
    entry,
    kernel,
    read_only,
    step,
)
from evenload.core.greedy import Single2, longest_first, replicate_rows
from evenload.core.grid import KEY_BITS, LOAD_BITS, bit_length, relative_grid, sort_keys

PRECISION = float(np.finfo(np.float64).eps)


@step()
def _put(share: Any, item: Any, pack: Any, slot: Any, weight: Any, i: Any) -> None:
    """Put an item in place of the one in a slot, and keep the pack sorted."""
    K = share.shape[1]
    at = slot
    while at > 0 and share[pack, at - 1] < weight:
        share[pack, at], item[pack, at] = share[pack, at - 1], item[pack, at - 1]
        at -= 1
    while at < K - 1 and share[pack, at + 1] > weight:
        share[pack, at], item[pack, at] = share[pack, at + 1], item[pack, at + 1]
        at += 1
    share[pack, at], item[pack, at] = weight, i


@step()
def _change_load(load: Any, ranking: Any, pack: Any, change: Any) -> None:
    """Change the load of a pack, and move it in the ranking (lightest first) to where it belongs.

    Equal packs stay in the order in which they were.
    """
    i = ranking.size - 1
    while ranking[i] != pack:
        i -= 1
    load[pack] += change
    while i > 0 and load[ranking[i - 1]] > load[pack]:
        ranking[i] = ranking[i - 1]
        i -= 1
    while i < ranking.size - 1 and load[ranking[i + 1]] < load[pack]:
        ranking[i] = ranking[i + 1]
        i += 1
    ranking[i] = pack


@step()
def _sort(load: Any, ranking: Any, share: Any, item: Any) -> None:
    """Rank the packs by ascending load, equal ones by number, and sort their slots (stable)."""
    G, K = share.shape
    for g in range(G):
        at = g
        while at > 0 and load[ranking[at - 1]] > load[g]:
            ranking[at] = ranking[at - 1]
            at -= 1
        ranking[at] = g
        for slot in range(1, K):
            weight, i = share[g, slot], item[g, slot]
            at = slot
            while at > 0 and share[g, at - 1] < weight:
                share[g, at], item[g, at] = share[g, at - 1], item[g, at - 1]
                at -= 1
            share[g, at], item[g, at] = weight, i


@step()
def _heaviest(load: Any, ranking: Any) -> Any:
    """Return the heaviest pack, the lowest-numbered of several."""
    place = ranking.size - 1
    heaviest = ranking[place]
    while place > 0 and load[ranking[place - 1]] == load[heaviest]:
        place -= 1
        heaviest = min(heaviest, ranking[place])
    return heaviest


@step(Int2, read_only(Int1), Int, Int)
def _copies(item: Any, expert: Any, pack: Any, e: Any) -> Any:
    """Count the items of a pack that are replicas of an expert."""
    found = 0
    for slot in range(item.shape[1]):
        found += expert[item[pack, slot]] == e
    return found


@step()
def _best_swap(
    share: Any, item: Any, rank: Any, expert: Any, load: Any, m: Any, k: Any, best: Any,
    best_place: Any, best_i: Any, best_j: Any,
) -> Any:  # fmt: skip
    """Improve on the best exchange so far by one of m with k, found in one walk over both rows.

    Of equal outcomes the one with the lowest place counts: lowest pack, then the lowest rank there,
    then the lowest rank in m. Replicas of one expert do not meet where `expert` tells them.
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
            legal = expert.size == 0 or (
                _copies(item, expert, k, expert[item[m, i]]) == 0
                and _copies(item, expert, m, expert[item[k, j]]) == 0
            )
            if legal and (outcome < best or place < best_place):
                best, best_place, best_i, best_j = outcome, place, i, j
        too_little = change < half
        j += too_little
        i += 1 - too_little
    return best, best_place, best_i, best_j


@step()
def _refine(
    share: Any, item: Any, rank: Any, expert: Any, load: Any, ranking: Any, max_swaps: Any,
    goal: Any, slack: Any,
) -> None:  # fmt: skip
    """Do the best exchange of the heaviest pack with any other, while it helps.

    `slack`, a little above 1, keeps packs in the search whose bound rounding might have moved.
    """
    G, K = share.shape
    for _ in range(max_swaps):
        m = _heaviest(load, ranking)
        if load[m] <= goal:
            return
        best = load[m]
        best_i, best_j = np.int64(-1), np.int64(-1)
        best_place = np.int64(-1)  # below every place: what is as heavy as today is no improvement
        for place in range(G):
            k = ranking[place]
            if (load[m] + load[k]) / 2 > best * slack:
                break
            if k != m:
                best, best_place, best_i, best_j = _best_swap(
                    share, item, rank, expert, load, m, k, best, best_place, best_i, best_j
                )
        if best_i < 0:
            return
        k = best_place // (K * K)
        u, v = item[m, best_i], item[k, best_j]
        rank[u], rank[v] = rank[v], rank[u]
        weight_u, weight_v = share[m, best_i], share[k, best_j]
        _put(share, item, m, best_i, weight_v, v)
        _put(share, item, k, best_j, weight_u, u)
        _change_load(load, ranking, m, weight_v - weight_u)
        _change_load(load, ranking, k, weight_u - weight_v)


@step()
def _sort_virtually(virtual: Any, order: Any) -> None:
    """Sort items by descending virtual weight, ties to the lowest index; nearly sorted before."""
    for position in range(1, order.size):
        i = order[position]
        weight = virtual[i]
        place = position
        while place > 0:
            other = order[place - 1]
            if virtual[other] > weight or (virtual[other] == weight and other < i):
                break
            order[place] = other
            place -= 1
        order[place] = i


def _pack_rows(
    weight: Any, order: Any, num_packs: Any, num_attempts: Any, boost: Any, max_swaps: Any,
    target: Any, slack: Any, place: Any,
) -> None:  # fmt: skip
    """Pack every row [X, n] on its own, at least two items a pack.

    Options are those of `evenload.eplb.balanced_packing`; a `target` of infinity is none. `order`
    has the items by descending weight, ties to the lowest index, and is changed in place; `slack`
    is 1 and 8 times the precision of the weights. Writes the `place` of each item, those of a pack
    in a row.
    """
    X, n = weight.shape
    K = n // num_packs
    number = weight.dtype.type
    virtual, load = np.empty(n, weight.dtype), np.empty(num_packs, weight.dtype)
    rank, ranking = np.empty(n, np.int64), np.empty(num_packs, np.int64)
    share, item = np.empty((num_packs, K), weight.dtype), np.empty((num_packs, K), np.int64)
    nobody = np.empty(0, np.int64)
    for row in range(X):
        total = number(0)
        for i in range(n):
            virtual[i] = weight[row, i]
            total += weight[row, i]
        goal = number(total / (num_packs * target))
        best = number(np.inf)
        for attempt in range(num_attempts):
            if attempt > 0:
                _sort_virtually(virtual, order[row])
            longest_first(weight[row], order[row], load, share, item)
            for g in range(num_packs):
                for slot in range(K):
                    rank[item[g, slot]] = slot
            m = np.int64(0)
            if max_swaps > 0 or num_attempts > 1:
                _sort(load, ranking, share, item)
                _refine(share, item, rank, nobody, load, ranking, max_swaps, goal, number(slack))
                m = _heaviest(load, ranking)
            if load[m] < best:
                best = load[m]
                for g in range(num_packs):
                    for slot in range(K):
                        place[row, item[g, slot]] = g * K + rank[item[g, slot]]
            if best <= goal:
                break
            for slot in range(K):
                virtual[item[m, slot]] *= number(boost)


OPTIONS = Int, Int, Float, Int, Float
pack_single = entry(read_only(Single2), Int2, *OPTIONS, Float, Int2)(_pack_rows)
pack_double = entry(read_only(Float2), Int2, *OPTIONS, Float, Int2)(_pack_rows)


@step(Float2, Int2, read_only(Int1), Float1, Int, Int)
def _part_one(share: Any, item: Any, expert: Any, load: Any, g: Any, i: Any) -> Any:
    """Exchange slot i of pack g, a duplicate, at the least cost in balance; False if none helps.

    Where no expert has more replicas than there are packs some exchange does: a pack k without
    expert e exists, and if all of k's experts were in pack g as well, k would hold one of them
    twice, since g has one expert fewer than slots; handing that one over parts a pair too.
    """
    G, K = item.shape
    lightest, best_k, best_j = np.inf, -1, -1
    for k in range(G):
        if k == g or _copies(item, expert, k, expert[item[g, i]]) > 0:
            continue
        for j in range(K):
            change = share[g, i] - share[k, j]
            heavier = max(load[g] - change, load[k] + change)
            if heavier < lightest:
                e = expert[item[k, j]]
                if _copies(item, expert, g, e) == 0 or _copies(item, expert, k, e) > 1:
                    lightest, best_k, best_j = heavier, k, j
    if best_k < 0:
        return False
    change = share[g, i] - share[best_k, best_j]
    load[g] -= change
    load[best_k] += change
    share[g, i], share[best_k, best_j] = share[best_k, best_j], share[g, i]
    item[g, i], item[best_k, best_j] = item[best_k, best_j], item[g, i]
    return True


@kernel(Float1, Int1, Int, Int2)
def part_duplicates(weight: Any, expert: Any, max_swaps: Any, item: Any) -> None:
    """Part replicas of one expert that share a pack, then mend the balance by swaps.

    The first duplicate first, until none is left or one cannot be parted. Takes the weight and the
    expert of each item, and changes the items of each pack [G, K] in place.
    """
    G, K = item.shape
    share, load, ranking = np.empty((G, K)), np.empty(G), np.empty(G, np.int64)
    rank = np.empty(weight.size, np.int64)
    mean, parted, stuck = 0.0, 0, False
    for g in range(G):
        load[g] = 0.0
        for slot in range(K):
            share[g, slot] = weight[item[g, slot]]
            load[g] += share[g, slot]
        mean += load[g] / G
    for g in range(G):
        slot = 1
        while slot < K and not stuck:
            twice = False
            for other in range(slot):
                twice = twice or expert[item[g, other]] == expert[item[g, slot]]
            if not twice:
                slot += 1
            elif _part_one(share, item, expert, load, g, slot):
                parted += 1
            else:
                stuck = True
    if parted > 0:
        _sort(load, ranking, share, item)
        for g in range(G):
            for slot in range(K):
                rank[item[g, slot]] = slot
        _refine(share, item, rank, expert, load, ranking, max_swaps, mean, 1.0)


_pack = kernel()(_pack_rows)
_replicate = kernel()(replicate_rows)


@entry(Float2, *OPTIONS, Int2)
def iterated_greedy(
    load: Any, num_gpus: Any, num_attempts: Any, boost: Any, max_swaps: Any, target: Any,
    placed: Any,
) -> None:  # fmt: skip
    """Replicate the experts of every row [X, E], pack the replicas, and part those of one expert.

    Options are those of `_pack_rows`. Writes the expert in each slot [X, S]; a GPU has E at most.
    """
    (X, E), S = load.shape, placed.shape[1]
    index_bits, K = bit_length(S + 1), S // num_gpus
    bits = min(LOAD_BITS, KEY_BITS - index_bits - bit_length(num_gpus + 1))
    grid, single = np.empty((X, E), np.int64), np.empty((X, E), np.float32)
    expert, count = np.empty((X, S), np.int64), np.empty((X, E), np.int64)
    share, order, place = np.empty((X, S)), np.empty((X, S), np.int64), np.empty((X, S), np.int64)
    item, scratch = np.empty((num_gpus, K), np.int64), np.empty(S, np.int64)
    for row in range(X):
        relative_grid(load[row], bits, grid[row])
        for e in range(E):
            single[row, e] = np.float32(grid[row, e])
    _replicate(single, num_gpus, expert, place, count)  # which replica each is, nobody asks
    for row in range(X):
        for i in range(S):
            e = expert[row, i]
            weight = grid[row, e] // count[row, e]
            share[row, i], order[row, i], place[row, i] = weight, (-weight << index_bits) | i, i
        sort_keys(order[row], S, scratch)
        for i in range(S):
            order[row, i] &= (1 << index_bits) - 1
    if K > 1:
        slack = 1.0 + 8.0 * PRECISION
        _pack(share, order, num_gpus, num_attempts, boost, max_swaps, target, slack, place)
    for row in range(X):
        for i in range(S):
            item[place[row, i] // K, place[row, i] % K] = i
        part_duplicates(share[row], expert[row], max_swaps * num_gpus, item)
        for i in range(S):
            placed[row, i] = expert[row, item[i // K, i % K]]
