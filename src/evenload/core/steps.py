"""What a step of the search under many samples costs: an exchange, or a slot handed over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import Int, Int1, step
from evenload.core.grid import random_below
from evenload.core.search import Random, RandomType, nth_gpu_with
from evenload.core.start import NEVER, NONE, SLOTS, UNIT_TIME
from evenload.core.state import (
    COUNT,
    EXPERT,
    FEWER,
    HELD,
    MORE,
    MOVES,
    NOW,
    OLD,
    TOP,
    State,
    StateType,
    gpu_at,
    hand_over,
)
from evenload.core.swaps import may_hand_over, may_swap

IntArray = NDArray[np.int64]

NO_LIMIT = 2**40  # moves


@step(StateType, Int, Int, Int, Int)
def swap_moves(s: State, a: int, m: int, b: int, k: int) -> int:
    """Count the moves that exchanging a on GPU m for b on k adds; negative where it undoes some."""
    new = np.int64(s.held[HELD, a, k] == 0) * (1 - s.held[OLD, a, k])
    new += np.int64(s.held[HELD, b, m] == 0) * (1 - s.held[OLD, b, m])
    new -= np.int64(s.held[HELD, a, m] == 1) * (1 - s.held[OLD, a, m])
    new -= np.int64(s.held[HELD, b, k] == 1) * (1 - s.held[OLD, b, k])
    return new


@step(StateType, Int, Int, Int1)
def last_of_others(s: State, m: int, k: int, out: IntArray) -> None:
    """Write when the last GPU but m and k is done in each sample, 0 if there is none: [M].

    Or the time of all but m and k beyond what is enough, where `State.enough` says so.
    """
    if s.enough[0] != NONE or s.gpu.shape[1] < TOP:
        for sample in range(out.size):
            out[sample] = 0
            for g in range(s.gpu.shape[1]):
                if g not in (m, k):
                    out[sample] += max(s.time[g, sample] - s.enough[sample], np.int64(0))
        return
    mask = (1 << s.gpu_bits) - 1
    for sample in range(out.size):  # without branches, which no processor could foretell
        key = s.slowest[sample, 2]
        g = s.slowest[sample, 1] & mask
        key = s.slowest[sample, 1] if (g != m) & (g != k) else key
        g = s.slowest[sample, 0] & mask
        key = s.slowest[sample, 0] if (g != m) & (g != k) else key
        out[sample] = -(key >> s.gpu_bits)


@step(StateType, Int1, Int, Int, Int, Int)
def swap_peak(s: State, others: IntArray, a: int, m: int, b: int, k: int) -> int:
    """Return the peak after an exchange, from what `last_of_others` wrote."""
    unit_m, unit_k = s.gpu[UNIT_TIME, m], s.gpu[UNIT_TIME, k]
    peak = np.int64(0)
    if s.enough[0] != NONE:
        for sample in range(others.size):
            change = s.cost[NOW, a, sample] - s.cost[NOW, b, sample]
            less = s.time[m, sample] - change * unit_m - s.enough[sample]
            more = s.time[k, sample] + change * unit_k - s.enough[sample]
            peak += others[sample] + max(less, np.int64(0)) + max(more, np.int64(0))
        return peak
    if unit_m == 1 and unit_k == 1:  # without products the loop runs in vectors
        for sample in range(others.size):
            change = s.cost[NOW, a, sample] - s.cost[NOW, b, sample]
            less = s.time[m, sample] - change
            more = s.time[k, sample] + change
            last = others[sample]
            last = less if less > last else last
            peak += more if more > last else last
        return peak
    for sample in range(others.size):
        change = s.cost[NOW, a, sample] - s.cost[NOW, b, sample]
        less = s.time[m, sample] - change * unit_m
        more = s.time[k, sample] + change * unit_k
        peak += max(others[sample], less, more)
    return peak


@step(StateType, Int, Int, Int, Int, Int, Int, Int1)
def best_priced_swap(
    s: State, m: int, k: int, sample: int, price: int, most: int, limit: int, others: IntArray
) -> tuple:
    """Find the exchange between two GPUs that costs least, peak and moves together.

    Often many leave another GPU as the last one. Under one sample that is decided by when the later
    of the two is done; under many, what balances the drawn one says little of the others.

    Parameters
    ----------
    m, k : int
        GPUs; m gets lighter in `sample`, and k is not done later there than m was.
    price, most : int
        What a move costs, and the number of moves there may be.
    limit : int
        What it may cost at most.
    others : int64, [M], scratch

    Returns
    -------
    cost, i, j : int
        What is reached, and the two slots, -1 where there is no such exchange.
    """
    last_of_others(s, m, k, others)
    unit_m, unit_k = s.gpu[UNIT_TIME, m], s.gpu[UNIT_TIME, k]
    later, sooner = s.time[m, sample], s.time[k, sample]
    room = (later - sooner) // unit_k
    moves = s.total[MOVES]
    # Most exchanges are told to cost too much by what all samples but the drawn one cost at least.
    known = s.enough[0] == NONE  # else the drawn one is not looked at either
    even = np.int64(known and unit_m == 1 and unit_k == 1)
    rest = np.int64(0)
    for n in range(others.size):
        rest += max(others[n], even * ((s.time[m, n] + s.time[k, n] + 1) >> 1))
    last = others[sample]
    rest -= max(last, even * ((later + sooner + 1) >> 1)) if known else np.int64(0)
    best = limit + 1
    soonest = NEVER
    best_i = NONE
    best_j = NONE
    for i in range(s.gpu[SLOTS, m]):
        a = s.slot[EXPERT, m, i]
        if s.held[HELD, a, k] > 0 and s.held[HELD, a, m] < 2:
            continue
        for j in range(s.gpu[SLOTS, k]):
            b = s.slot[EXPERT, k, j]
            by = s.cost[NOW, a, sample] - s.cost[NOW, b, sample]
            if by <= 0 or by >= room or not may_swap(s, a, m, b, k):
                continue
            after = moves + swap_moves(s, a, m, b, k)
            if after > max(most, moves):
                continue
            end = max(later - by * unit_m, sooner + by * unit_k)
            least = rest + after * price + (max(last, end) if known else np.int64(0))
            if least > best or (least == best and others.size > 1):
                continue
            cost = swap_peak(s, others, a, m, b, k) + after * price
            if others.size > 1:
                end = np.int64(0)
            if cost < best or (cost == best and end < soonest):
                best = cost
                soonest = end
                best_i = i
                best_j = j
    return best, best_i, best_j


@step(StateType, Int, Int, Int)
def handover_moves(s: State, giver: int, g: int, taker: int) -> int:
    """Count the moves that a handover adds; negative where it undoes one."""
    new = np.int64(s.held[HELD, taker, g] == 0) * (1 - s.held[OLD, taker, g])
    return new - np.int64(s.held[HELD, giver, g] == 1) * (1 - s.held[OLD, giver, g])


@step(StateType, Int, Int, Int, Int, Int1)
def handover_peak(s: State, giver: int, gpu: int, taker: int, limit: int, last: IntArray) -> int:
    """Return the peak after a handover; where it is above the limit, any number above that.

    GPUs with other replicas of the giver come first: what they get more is mostly too much.
    `last` [M] is scratch.
    """
    G, M = s.gpu.shape[1], last.size
    copying = s.enough[0] != NONE  # then every GPU counts
    for sample in range(M):
        last[sample] = 0
    for others in range(2):
        for g in range(G):
            give, take = s.held[HELD, giver, g], s.held[HELD, taker, g]
            here = np.int64(g == gpu)
            if (give > here) == others or not (copying or give > 0 or take > 0):
                continue
            for sample in range(M):
                more, fewer = s.cost[MORE, taker, sample], s.cost[FEWER, giver, sample]
                change = take * (more - s.cost[NOW, taker, sample])
                change += give * (fewer - s.cost[NOW, giver, sample]) + here * (more - fewer)
                time = s.time[g, sample] + change * s.gpu[UNIT_TIME, g]
                if copying:
                    last[sample] += max(time - s.enough[sample], np.int64(0))
                else:
                    last[sample] = max(last[sample], time)
        peak = np.int64(0)
        for sample in range(M):
            peak += last[sample]
        if peak > limit or (copying and others):
            return peak
    for sample in range(M):  # GPUs that hold neither: among the slowest, or all are looked at
        known = False
        for place in range(s.slowest.shape[1]):
            g = gpu_at(s, sample, place)
            if g == NONE:
                known = True
                break
            if s.held[HELD, giver, g] == 0 and s.held[HELD, taker, g] == 0:
                last[sample] = max(last[sample], s.time[g, sample])
                known = True
                break
        for g in range(0 if known else G):
            if s.held[HELD, giver, g] == 0 and s.held[HELD, taker, g] == 0:
                last[sample] = max(last[sample], s.time[g, sample])
    peak = np.int64(0)
    for sample in range(M):
        peak += last[sample]
    return peak


@step(Int1, RandomType)
def draw_sample(until: IntArray, random: Random) -> int:
    """Draw a sample as often as its weight says, from the sums of weights up to each: [M]."""
    drawn = random_below(random, until[until.size - 1])
    sample = np.int64(0)
    for n in range(until.size):
        sample += until[n] <= drawn
    return sample


@step(StateType, Int, Int, Int, Int, Int, Int, Int1)
def hand_over_if(
    s: State, place: int, g: int, taker: int, price: int, most: int, limit: int, row: IntArray
) -> bool:
    """Hand a spare replica over unless that costs more than the limit."""
    giver = s.spare[place]
    if g < 0 or not may_hand_over(s, giver, g, taker):
        return False
    moves = s.total[MOVES] + handover_moves(s, giver, g, taker)
    if moves > max(most, s.total[MOVES]):
        return False
    if handover_peak(s, giver, g, taker, limit - price * moves, row) > limit - price * moves:
        return False
    hand_over(s, place, g, taker)
    return True


@step(StateType, Int)
def place_of(s: State, giver: int) -> int:
    """Return where an expert is in the list of spares, -1 if it has one replica only."""
    for place in range(s.spare.size):
        if s.spare[place] == giver:
            return place
    return NONE


@step(StateType, RandomType)
def draw_move_to_undo(s: State, random: Random) -> tuple:
    """Draw how an expert comes back to a GPU that held it, in place of one that is new there.

    Returns
    -------
    m, i : int
        The GPU and the slot of the new one, -1 where the GPU drawn has no such.
    back : int
        The expert that comes back.
    place, k : int
        Of the new one in `State.spare`, where the slot is handed over, and else -1 and a GPU that
        holds the other, to exchange with; -1 for none, and it may be m.
    """
    E, m = s.expert.shape[1], random_below(random, s.gpu.shape[1])
    if s.total[MOVES] == 0:
        return NONE, NONE, NONE, NONE, NONE
    i = NONE
    first = random_below(random, s.gpu[SLOTS, m])
    for n in range(s.gpu[SLOTS, m]):
        slot = (first + n) % s.gpu[SLOTS, m]
        if s.held[OLD, s.slot[EXPERT, m, slot], m] == 0:
            i = slot
            break
    if i == NONE:
        return NONE, NONE, NONE, NONE, NONE
    back = NONE
    first = random_below(random, E)
    for n in range(E):
        e = (first + n) % E
        if s.held[OLD, e, m] > 0 and s.held[HELD, e, m] == 0:
            back = e
            break
    if back == NONE:
        return NONE, NONE, NONE, NONE, NONE
    e = s.slot[EXPERT, m, i]
    if s.expert[COUNT, e] > 1 and random_below(random, 2) == 0:
        return m, i, back, place_of(s, e), NONE
    k = nth_gpu_with(s, back, random_below(random, s.expert[COUNT, back]))
    return m, i, back, NONE, k
