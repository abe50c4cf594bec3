"""Steps of the search where an expert's tokens are split live, as suits each sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import Int, Int1, step
from evenload.core.flow import LEAST, LIVE_SHARE, TIME, Flow, FlowType, change_if, settle
from evenload.core.grid import random_below
from evenload.core.search import Random, RandomType, nth_gpu_with
from evenload.core.start import FIRST, NEVER, NONE, SLOTS
from evenload.core.state import (
    COUNT,
    EXPERT,
    MOVES,
    PEAK,
    State,
    StateType,
    hand_over,
    slot_with,
    swap,
)
from evenload.core.steps import (
    NO_LIMIT,
    draw_move_to_undo,
    handover_moves,
    handover_peak,
    last_of_others,
    swap_moves,
    swap_peak,
)
from evenload.core.swaps import may_hand_over, may_swap

IntArray = NDArray[np.int64]

DRAW = 1 << 20


@step(StateType, FlowType)
def judge(s: State, f: Flow) -> None:
    """Judge a state just filled by the best split too."""
    s.total[PEAK] = _mixed(f, settle(s, f), s.total[PEAK])


@step(FlowType, Int, Int)
def _mixed(f: Flow, live: int, even: int) -> int:
    share = f.dial[LIVE_SHARE]
    return live if share == 1.0 else np.int64(share * live + (1.0 - share) * even)


@step(StateType, FlowType, Int, Int, Int, Int, Int, Int)
def _change_if(s: State, f: Flow, i: int, a: int, j: int, b: int, even: int, limit: int) -> int:
    """Do what `flow.change_if` does, for a limit of the peak, of which `even` is a part."""
    share = f.dial[LIVE_SHARE]
    if share < 1.0:
        limit = np.int64((limit - (1.0 - share) * even) / share)
    live = change_if(s, f, i, a, j, b, limit)
    return NEVER if live == NEVER else _mixed(f, live, even)


@step(StateType, FlowType, Int, Int, Int, Int, Int, Int, Int, Int1)
def _swap_if(
    s: State, f: Flow, m: int, i: int, k: int, j: int, price: int, most: int, limit: int,
    row: IntArray,
) -> bool:  # fmt: skip
    """Exchange two slots unless that costs more than the limit."""
    a, b = s.slot[EXPERT, m, i], s.slot[EXPERT, k, j]
    if not may_swap(s, a, m, b, k):
        return False
    moves = s.total[MOVES] + swap_moves(s, a, m, b, k)
    if moves > max(most, s.total[MOVES]):
        return False
    even = np.int64(0)
    if f.dial[LIVE_SHARE] < 1.0:
        last_of_others(s, m, k, row)
        even = swap_peak(s, row, a, m, b, k)
    slot, other = s.gpu[FIRST, m] + i, s.gpu[FIRST, k] + j
    peak = _change_if(s, f, slot, b, other, a, even, limit - price * moves)
    if peak == NEVER:
        return False
    swap(s, m, i, k, j)
    s.total[PEAK] = peak
    return True


@step(StateType, FlowType, Int, Int, Int, Int, Int, Int, Int1)
def _hand_over_if(
    s: State, f: Flow, place: int, g: int, taker: int, price: int, most: int, limit: int,
    row: IntArray,
) -> bool:  # fmt: skip
    """Hand a spare replica over unless that costs more than the limit."""
    giver = s.spare[place]
    if g < 0 or not may_hand_over(s, giver, g, taker):
        return False
    moves = s.total[MOVES] + handover_moves(s, giver, g, taker)
    if moves > max(most, s.total[MOVES]):
        return False
    even = np.int64(0)
    if f.dial[LIVE_SHARE] < 1.0:
        even = handover_peak(s, giver, g, taker, NEVER, row)
    slot = s.gpu[FIRST, g] + slot_with(s, g, giver)
    peak = _change_if(s, f, slot, taker, NONE, giver, even, limit - price * moves)
    if peak == NEVER:
        return False
    hand_over(s, place, g, taker)
    s.total[PEAK] = peak
    return True


@step(FlowType, RandomType)
def _draw_sample(f: Flow, random: Random) -> int:
    """Draw a sample as often as its last GPU is later than it has to be."""
    M = f.used.shape[0]
    total = np.int64(0)
    for m in range(M):
        total += f.sample[TIME, m] - f.sample[LEAST, m]
    if total <= 0:
        return random_below(random, M)
    left = np.int64(total * (random_below(random, DRAW) / DRAW))
    for m in range(M):
        left -= f.sample[TIME, m] - f.sample[LEAST, m]
        if left < 0:
            return m
    return M - 1


@step(FlowType, Int, Int, RandomType)
def _draw_gpu(f: Flow, m: int, tight: int, random: Random) -> int:
    """Draw a GPU that is tight in a sample, or one that is not; any where there is none."""
    G = f.used.shape[1]
    first = random_below(random, G)
    for n in range(G):
        g = (first + n) % G
        if f.tight[m, g] == tight:
            return g
    return first


@step(StateType, FlowType, Int1, RandomType, Int, Int, Int, Int1)
def try_live(
    s: State, f: Flow, weight: IntArray, random: Random, price: int, most: int, limit: int,
    row: IntArray,
) -> bool:  # fmt: skip
    """Try one step: three exchanges to two handovers, and where moves cost, one to undo a move.

    What decides when the last GPU is done, in a drawn sample, is the load of experts that only
    tight GPUs hold: mostly a tight GPU exchanges with another, or one of its experts gets a slot.
    """
    kind = random_below(random, 6 if price > 0 or most < NO_LIMIT else 5)
    sample = _draw_sample(f, random)
    if kind < 3:
        m = _draw_gpu(f, sample, 1, random)
        k = _draw_gpu(f, sample, random_below(random, 4) // 3, random)
        if m == k:
            return False
        i, j = random_below(random, s.gpu[SLOTS, m]), random_below(random, s.gpu[SLOTS, k])
        return _swap_if(s, f, m, i, k, j, price, most, limit, row)
    if kind == 5:
        m, i, back, place, k = draw_move_to_undo(s, random)
        if place != NONE:
            return _hand_over_if(s, f, place, m, back, price, most, limit, row)
        if k < 0 or k == m:
            return False
        return _swap_if(s, f, m, i, k, slot_with(s, k, back), price, most, limit, row)
    if s.spare.size == 0:
        return False
    place = random_below(random, s.spare.size)
    taker = random_below(random, s.expert.shape[1])
    if random_below(random, 4) > 0:
        g = _draw_gpu(f, sample, 1, random)
        taker = s.slot[EXPERT, g, random_below(random, s.gpu[SLOTS, g])]
    giver = s.spare[place]
    g = nth_gpu_with(s, giver, random_below(random, s.expert[COUNT, giver]))
    return _hand_over_if(s, f, place, g, taker, price, most, limit, row)
