"""Steps that make a layer better: swaps of the slowest GPU, of one for one and of two for two.

What is done is logged, so that it can be taken back at the cost of what it touched.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.apart import may_go
from evenload.core.compile import Float, Int, Int1, Int2, step
from evenload.core.start import NEVER, NODE, NONE, SLOTS, UNIT_TIME
from evenload.core.state import (
    AT_HOME,
    AWAY,
    COUNT,
    EXPERT,
    HELD,
    HOME,
    MOVES,
    NOW,
    PEAK,
    SHARE,
    State,
    StateType,
    gpu_at,
    hand_over,
    is_away,
    slot_with,
    swap,
    time_at,
)

IntArray = NDArray[np.int64]

LEAST_K, MOST_K = 4, 16  # slots of a GPU for which two replicas are exchanged for two
SLOT_BITS = 4  # hold a slot's number then
PAIR_BITS = 2 * SLOT_BITS


@step(StateType, Int, Float)
def worth(s: State, move_price: int, away_price: float) -> int:
    """Return what a layer costs: the slowest GPU's time, and the price of moves and of load away.

    The one place that judges what a search has tried.
    """
    return s.total[PEAK] + move_price * s.total[MOVES] + np.int64(away_price * s.total[AWAY])


@step(StateType, Int, Int, Int, Int)
def _new_duplicates(s: State, a: int, m: int, b: int, k: int) -> int:
    """Count the duplicates that a swap makes, less those that it parts."""
    new = np.int64(s.held[HELD, a, k] > 0) + np.int64(s.held[HELD, b, m] > 0)
    return new - np.int64(s.held[HELD, a, m] > 1) - np.int64(s.held[HELD, b, k] > 1)


@step(StateType, Int, Int, Int, Int)
def may_swap(s: State, a: int, m: int, b: int, k: int) -> bool:
    """Whether a replica of a on GPU m and one of b on k may change places.

    No more duplicates than before, homes are kept, and copies stay apart.
    """
    if a == b or _new_duplicates(s, a, m, b, k) > 0:
        return False
    if not may_go(s, a, m, k) or not may_go(s, b, k, m):
        return False
    if s.gpu[NODE, m] == s.gpu[NODE, k]:
        return True
    return _may_leave(s, a, m) and _may_leave(s, b, k)


@step(StateType, Int, Int)
def _may_leave(s: State, e: int, g: int) -> bool:
    """Whether a replica of an expert may leave the node of a GPU."""
    home = s.expert[HOME, e]
    return home == NONE or (not s.strict and (home != s.gpu[NODE, g] or s.expert[AT_HOME, e] > 1))


@step(StateType, Int, Int, Int)
def may_hand_over(s: State, giver: int, g: int, taker: int) -> bool:
    """Whether the slot of `giver` on a GPU may become one of `taker`."""
    if giver == taker or s.expert[COUNT, giver] < 2:
        return False
    if s.held[HELD, taker, g] > 0 and s.held[HELD, giver, g] < 2:
        return False
    if not may_go(s, giver, g, NONE):
        return False
    if s.strict:
        return not is_away(s, taker, g)
    return is_away(s, giver, g) or s.expert[AT_HOME, giver] > 1


@step(StateType, Int, Int)
def _even_change(s: State, m: int, k: int) -> int:
    """Return how much load m has to give to k, at least, to be done no later than k."""
    surplus = s.time[m, 0] - s.time[k, 0]
    unit = s.gpu[UNIT_TIME, m] + s.gpu[UNIT_TIME, k]
    return (surplus + 1) >> 1 if unit == 2 else -(-surplus // unit)


@step(StateType, Int, Int, Int)
def best_swap(s: State, m: int, k: int, limit: int) -> tuple:
    """Find the exchange after which the later of two GPUs is done soonest, under one sample.

    A walk over both rows from their largest shares: where m would still be done after k, the share
    that m gets has to be smaller, else the share that it gives, at most 2 K steps.

    Parameters
    ----------
    limit : int
        Only a time below this counts.

    Returns
    -------
    time, i, j : int
        The time of the later one and the two slots; (limit, -1, -1) where none is below the limit.
    """
    slots_m, slots_k = s.gpu[SLOTS, m], s.gpu[SLOTS, k]
    unit_m, unit_k = s.gpu[UNIT_TIME, m], s.gpu[UNIT_TIME, k]
    time_m, time_k = s.time[m, 0], s.time[k, 0]
    even = _even_change(s, m, k)
    i = 0
    j = 0
    best_i = NONE
    best_j = NONE
    while i < slots_m and j < slots_k:
        change = s.slot[SHARE, m, i] - s.slot[SHARE, k, j]
        after_m = time_m - change * unit_m
        after_k = time_k + change * unit_k
        later = max(after_m, after_k)
        if later < limit and may_swap(s, s.slot[EXPERT, m, i], m, s.slot[EXPERT, k, j], k):
            limit = later
            best_i = i
            best_j = j
        too_little = change < even
        j += too_little
        i += 1 - too_little
    return limit, best_i, best_j


@step(StateType, Int, Int)
def least_time(s: State, m: int, k: int) -> int:
    """Bound the time of the later of two GPUs after any exchange between them."""
    unit_m, unit_k = s.gpu[UNIT_TIME, m], s.gpu[UNIT_TIME, k]
    if unit_m == unit_k:
        return (s.time[m, 0] + s.time[k, 0] + 1) >> 1
    load = s.time[m, 0] / unit_m + s.time[k, 0] / unit_k
    return np.int64(load * (unit_m * (unit_k / (unit_m + unit_k))))


@step(StateType, Int, Int, Int, Int2, Int)
def descend(s: State, mean: int, goal: int, most_pairs: int, log: IntArray, logged: int) -> tuple:
    """Swap the slowest GPU's replicas with whichever GPU helps most until nothing does.

    The other GPUs are looked at from the fastest up. That ends where none can help more than what
    was found, or where an exchange already takes the pair three quarters of the way from the mean
    to the second slowest, which will be the slowest then: looking longer costs more than it gains
    (measured: a better end in less time).

    Parameters
    ----------
    mean, goal : int
        Time if the load could be divided at will, and time of the slowest GPU that is good enough.
    most_pairs : int
        Pairs of GPUs to look at, the unit of effort.
    log : int64, [n, 4]
        Takes every swap from row `logged` on, see `take_back`; the descent ends when it is full. An
        empty log keeps nothing.

    Returns
    -------
    pairs, logged : int
        Pairs looked at, and rows of the log in use.
    """
    G = s.gpu.shape[1]
    pairs = 0
    while pairs < most_pairs and s.total[PEAK] > goal:
        if log.shape[0] > 0 and logged >= log.shape[0]:
            break
        m = gpu_at(s, 0, 0)
        second = time_at(s, 0, min(1, G - 1))
        enough = mean + 3 * (second - mean) // 4
        best = s.time[m, 0]
        partner = NONE
        slot_m = NONE
        slot_k = NONE
        for place in range(G - 1, 0, -1):
            k = gpu_at(s, 0, place)
            if least_time(s, m, k) >= best:
                if s.gpu[UNIT_TIME, m] == s.gpu[UNIT_TIME, k]:
                    break
                continue
            pairs += 1
            later, i, j = best_swap(s, m, k, best)
            if i >= 0:
                best, partner, slot_m, slot_k = later, k, i, j
                if best <= enough:
                    break
        if partner == NONE:
            break
        if log.shape[0] > 0:
            write(
                log, logged, m, s.slot[EXPERT, m, slot_m], partner, s.slot[EXPERT, partner, slot_k]
            )
            logged += 1
        swap(s, m, slot_m, partner, slot_k)
    return pairs, logged


@step(Int2, Int, Int, Int, Int, Int)
def write(log: IntArray, row: int, m: int, a: int, k: int, b: int) -> None:
    """Write a row of a log, see `take_back`."""
    log[row, 0] = m
    log[row, 1] = a
    log[row, 2] = k
    log[row, 3] = b


@step(StateType, Int2, Int)
def take_back(s: State, log: IntArray, logged: int) -> None:
    """Undo the steps of a log, the last one first.

    A row says that expert a of GPU m and b of k changed places; or, with ``-1 - place`` for k, that
    the slot of a on m, the spare replica of that place, went to b.
    """
    for row in range(logged - 1, -1, -1):
        m, a, k, b = log[row, 0], log[row, 1], log[row, 2], log[row, 3]
        if k < 0:
            hand_over(s, -1 - k, m, a)
        else:
            swap(s, m, slot_with(s, m, b), k, slot_with(s, k, a))


@step(StateType, Int, Int1)
def _list_pairs(s: State, g: int, pairs: IntArray) -> int:
    """List the pairs of slots i < j of a GPU by descending share, unless done; return how many.

    One key holds a pair, ``share << PAIR_BITS | i << SLOT_BITS | j``. For one i the sums fall with
    j, so each such run is merged into the list from its light end.
    """
    K = s.gpu[SLOTS, g]
    listed = 0
    if pairs[0] != NONE:
        return K * (K - 1) // 2
    for i in range(K - 2, -1, -1):
        left = listed
        j = K - 1
        place = listed + K - 2 - i
        listed = place + 1
        high, low = s.slot[SHARE, g, i], (i << SLOT_BITS)
        while left > 0 and j > i:  # without a branch on the sums
            new = ((high + s.slot[SHARE, g, j]) << PAIR_BITS) | low | j
            old = pairs[left - 1]
            keep = old < new
            pairs[place] = old if keep else new
            left -= keep
            j -= 1 - keep
            place -= 1
        while j > i:
            pairs[place] = ((high + s.slot[SHARE, g, j]) << PAIR_BITS) | low | j
            j -= 1
            place -= 1
    return listed


@step(StateType, Int, Int, Int, Int)
def _may_exchange(s: State, m: int, pair_m: int, k: int, pair_k: int) -> bool:
    """Whether two replicas of m may change places with two of k."""
    mask = (1 << SLOT_BITS) - 1
    last_a = NONE
    last_b = NONE
    for x in range(2):
        a = s.slot[EXPERT, m, (pair_m >> (SLOT_BITS * x)) & mask]
        b = s.slot[EXPERT, k, (pair_k >> (SLOT_BITS * x)) & mask]
        if s.held[HELD, a, k] > 0 or s.held[HELD, b, m] > 0 or not may_swap(s, a, m, b, k):
            return False
        if a == last_a or b == last_b:  # both replicas of one expert might leave its home
            return False
        last_a, last_b = a, b
    return True


@step(StateType, Int, Int, Int, Int2, Int, Int2, Int)
def exchange_pairs(
    s: State,
    mean: int,
    goal: int,
    most_pairs: int,
    log: IntArray,
    logged: int,
    pairs: IntArray,
    most_slots: int,
) -> tuple:
    """Exchange two replicas of the slowest GPU for two, where one for one helps no more.

    A GPU with K slots has K (K - 1) / 2 pairs, so two GPUs offer about K**4 / 4 exchanges instead
    of K**2: at nine slots a GPU the steps are sixteen times finer. Does nothing where a GPU has
    fewer than four slots, for which two for two is one for one seen from the other side, or more
    than sixteen, for which one for one is fine enough.

    Parameters
    ----------
    pairs : int64, [G, K (K - 1) / 2], scratch
        Lists of `_list_pairs` that are up to date, -1 in the first place of others.
    most_slots : int
        Slots K of the GPU that has most.
    s, mean, goal, most_pairs, log, logged
        As `descend`, whose results these are too.
    """
    looked = 0
    mask = (1 << PAIR_BITS) - 1
    low = (1 << SLOT_BITS) - 1
    for g in range(pairs.shape[0]):
        pairs[g, 0] = NONE
    while most_slots <= MOST_K and looked < most_pairs and s.total[PEAK] > goal:
        if log.shape[0] > 0 and logged + 2 > log.shape[0]:
            break
        m = gpu_at(s, 0, 0)
        if s.gpu[SLOTS, m] < LEAST_K or s.gpu.shape[1] < 2:
            break
        enough = max(goal, mean + (time_at(s, 0, 1) - mean) // 2)
        best = s.time[m, 0]
        partner = NONE
        pair_m = 0
        pair_k = 0
        n_m = _list_pairs(s, m, pairs[m])
        unit_m = s.gpu[UNIT_TIME, m]
        for place in range(s.gpu.shape[1] - 1, 0, -1):
            k = gpu_at(s, 0, place)
            unit_k = s.gpu[UNIT_TIME, k]
            if least_time(s, m, k) >= best:
                if unit_m == unit_k:
                    break
                continue
            looked += 1
            n_k = _list_pairs(s, k, pairs[k])
            # The walk of `best_swap`, over pairs.
            time_m, time_k = s.time[m, 0], s.time[k, 0]
            even = _even_change(s, m, k)
            i = 0
            j = 0
            while i < n_m and j < n_k:
                change = (pairs[m, i] >> PAIR_BITS) - (pairs[k, j] >> PAIR_BITS)
                after_m = time_m - change * unit_m
                after_k = time_k + change * unit_k
                later = max(after_m, after_k)
                if later < best and _may_exchange(s, m, pairs[m, i] & mask, k, pairs[k, j] & mask):
                    best = later
                    partner = k
                    pair_m, pair_k = pairs[m, i] & mask, pairs[k, j] & mask
                too_little = change < even
                j += too_little
                i += 1 - too_little
            if best <= enough:
                break
        if partner == NONE:
            break
        pairs[m, 0] = NONE
        pairs[partner, 0] = NONE
        # By expert, since the first exchange moves slots.
        a, c = s.slot[EXPERT, m, pair_m >> SLOT_BITS], s.slot[EXPERT, m, pair_m & low]
        b, d = s.slot[EXPERT, partner, pair_k >> SLOT_BITS], s.slot[EXPERT, partner, pair_k & low]
        for _ in range(2):
            if log.shape[0] > 0:
                write(log, logged, m, a, partner, b)
                logged += 1
            swap(s, m, slot_with(s, m, a), partner, slot_with(s, partner, b))
            a, b = c, d
    return looked, logged


@step(StateType)
def part_duplicates(s: State) -> None:
    """Swap replicas until no swap leaves fewer duplicates, each at the least cost in balance.

    Where no expert has more replicas than there are equal GPUs all of them go: a GPU k without
    expert e exists, and if all of k's experts were on GPU g as well, k would hold one of them
    twice, since g has one expert fewer than slots; handing that one over parts a pair too.
    """
    G = s.gpu.shape[1]
    g = 0
    i = 0
    while g < G:
        if i >= s.gpu[SLOTS, g]:
            g, i = g + 1, 0
            continue
        a = s.slot[EXPERT, g, i]
        best_k = NONE
        best_j = NONE
        soonest = NEVER
        if s.held[HELD, a, g] > 1:
            for k in range(G):
                for j in range(s.gpu[SLOTS, k] if k != g else 0):
                    b = s.slot[EXPERT, k, j]
                    if _new_duplicates(s, a, g, b, k) >= 0 or not may_swap(s, a, g, b, k):
                        continue
                    change = s.cost[NOW, a, 0] - s.cost[NOW, b, 0]
                    time_g = s.time[g, 0] - change * s.gpu[UNIT_TIME, g]
                    time_k = s.time[k, 0] + change * s.gpu[UNIT_TIME, k]
                    if max(time_g, time_k) < soonest:
                        soonest = max(time_g, time_k)
                        best_k, best_j = k, j
        if best_k == NONE:
            i += 1
        else:
            swap(s, g, i, best_k, best_j)
            g, i = 0, 0
