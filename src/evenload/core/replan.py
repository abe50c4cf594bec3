"""The search from what runs: judged by samples of what the load may be, with a price for moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.apart import keep_apart
from evenload.core.compile import (
    Flag3,
    Float,
    Float1,
    Float3,
    Int,
    Int1,
    Int2,
    calling,
    entry,
    step,
)
from evenload.core.flow import Flow, FlowType
from evenload.core.grid import SEED, random_below
from evenload.core.live import judge, try_live
from evenload.core.search import Random, RandomType, nth_gpu_with
from evenload.core.start import NEVER, NONE, SLOTS, UNIT_TIME
from evenload.core.state import (
    COUNT,
    EXPERT,
    HELD,
    HOME,
    MOVES,
    OLD,
    PEAK,
    WHOLE,
    State,
    StateType,
    copy_out,
    fill,
    gpu_at,
    slot_with,
    swap,
)
from evenload.core.steps import (
    NO_LIMIT,
    best_priced_swap,
    draw_move_to_undo,
    draw_sample,
    hand_over_if,
    handover_peak,
    last_of_others,
    place_of,
    swap_moves,
    swap_peak,
)
from evenload.core.swaps import may_hand_over, may_swap, worth

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

STILL = 2000  # refused trials in a row after which a search ends,
STILL_SHARE = 8  # or this share of its steps if that is more
HEAT = 0.5  # of what the start is above the mean, a step may make worse at most


@step(StateType, Float3, Int1, Int, Int)
def _set_samples(s: State, load: FloatArray, weight: IntArray, bits: int, layer: int) -> None:
    """Put the samples [L, E, M] of a layer on a grid where each adds up to 2**bits, and weigh them.

    A sample without any load counts as even. Where replicas have prices, these tell all.
    """
    E, M = load.shape[1], load.shape[2]
    for e in range(E if s.price.shape[0] > 0 else 0):
        for m in range(M):
            least = s.price[0, e, m]
            for r in range(1, s.price.shape[0]):
                least = min(least, (r + 1) * s.price[r, e, m])
            s.cost[WHOLE, e, m] = least
    if s.price.shape[0] > 0:
        return
    one = float(1 << bits)
    for m in range(M):
        total = 0.0
        for e in range(E):
            total += load[layer, e, m]
        for e in range(E):
            part = load[layer, e, m] / total if total > 0.0 else 1.0 / E
            s.cost[WHOLE, e, m] = np.int64(np.rint(part * one)) * weight[m]


@step(StateType, Int2, Flag3, Int)
def _set_homes(s: State, home: IntArray, old: NDArray[np.uint8], layer: int) -> None:
    """Tell a state where the experts of a layer belong [L, E], and where they were [L, E, G]."""
    for e in range(s.expert.shape[1]):
        s.expert[HOME, e] = home[layer, e]
        for g in range(s.gpu.shape[1]):
            s.held[OLD, e, g] = old[layer, e, g]


@entry(Float3, Int1, Int, Int2, Flag3, StateType, Int2)
def part_copies(
    load: FloatArray,
    weight: IntArray,
    bits: int,
    home: IntArray,
    old: NDArray[np.uint8],
    s: State,
    placed: IntArray,
) -> None:
    """Bring the experts of each layer to as many GPUs or nodes as they need.

    Whatever moves that takes; see `apart.keep_apart`. An entry of its own, so that those compile
    it who need it. Parameters are those of `replan_layers`.
    """
    for layer in range(load.shape[0]):
        _set_samples(s, load, weight, bits, layer)
        _set_homes(s, home, old, layer)
        fill(s, placed[layer])
        keep_apart(s)
        copy_out(s, placed[layer])


@step(StateType, Int, Int, Int1)
def _part_duplicates(s: State, most: int, limit: int, row: IntArray) -> None:
    """Give the second slot of an expert on a GPU to another one, while moves are left.

    None that raises the peak above the limit.
    """
    g = 0
    i = 0
    while g < s.gpu.shape[1]:
        giver = s.slot[EXPERT, g, i]
        best = NONE
        best_is_new = True
        lowest = NEVER
        for taker in range(s.expert.shape[1] if s.held[HELD, giver, g] > 1 else 0):
            if s.held[HELD, taker, g] == 0 and may_hand_over(s, giver, g, taker):
                # One that was there before costs no move, which counts for more than balance.
                peak = handover_peak(s, giver, g, taker, NEVER, row)
                new = s.held[OLD, taker, g] == 0
                better = peak < lowest if new == best_is_new else best_is_new
                if better and peak <= limit:
                    best, best_is_new, lowest = taker, new, peak
        place = place_of(s, giver) if best != NONE else NONE
        if place != NONE and hand_over_if(s, place, g, best, 0, most, lowest, row):
            g, i = 0, 0  # that may have left a move for one before
        elif i + 1 < s.gpu[SLOTS, g]:
            i += 1
        else:
            g, i = g + 1, 0


@step(StateType, RandomType, Int, Int, Int, Int1)
def _undo_a_move(
    s: State, random: Random, price: int, most: int, limit: int, row: IntArray
) -> bool:
    """Bring an expert back to a GPU that held it, in place of one that is new there."""
    m, i, back, place, k = draw_move_to_undo(s, random)
    if place != NONE:
        return hand_over_if(s, place, m, back, price, most, limit, row)
    if m == NONE:
        return False
    e = s.slot[EXPERT, m, i]
    if k < 0 or k == m or not may_swap(s, e, m, back, k):
        return False
    moves = s.total[MOVES] + swap_moves(s, e, m, back, k)
    last_of_others(s, m, k, row)
    cost = swap_peak(s, row, e, m, back, k) + price * moves
    if moves > max(most, s.total[MOVES]) or cost > limit:
        return False
    swap(s, m, i, k, slot_with(s, k, back))
    return True


@step(StateType, FlowType)
def _judge(s: State, flow: Flow) -> None:
    """Judge a state just filled: by even shares, as it is already."""


@step(StateType, FlowType, Int1, RandomType, Int, Int, Int, Int1)
def _try(
    s: State, flow: Flow, until: IntArray, random: Random, price: int, most: int, limit: int,
    row: IntArray,
) -> bool:  # fmt: skip
    """Try one step: three exchanges to two handovers, and where moves cost, one to undo a move.

    An exchange is the best one of the slowest GPU of a drawn sample with a drawn other; a handover
    gives a drawn spare slot to an expert of such a GPU, or to any.
    """
    kind = random_below(random, 5 if price == 0 and most >= NO_LIMIT else 6)
    G = s.gpu.shape[1]
    if kind < 3:
        sample = draw_sample(until, random)
        m = gpu_at(s, sample, 0)
        k = (m + 1 + random_below(random, G - 1)) % G
        cost, i, j = best_priced_swap(s, m, k, sample, price, most, limit, row)
        if i < 0 or cost > limit:
            return False
        swap(s, m, i, k, j)
        return True
    if kind == 5:
        return _undo_a_move(s, random, price, most, limit, row)
    if s.spare.size == 0:
        return False
    place = random_below(random, s.spare.size)
    if random_below(random, 4) > 0:
        last = gpu_at(s, draw_sample(until, random), 0)
        taker = s.slot[EXPERT, last, random_below(random, s.gpu[SLOTS, last])]
    else:
        taker = random_below(random, s.expert.shape[1])
    giver = s.spare[place]
    g = nth_gpu_with(s, giver, random_below(random, s.expert[COUNT, giver]))
    return hand_over_if(s, place, g, taker, price, most, limit, row)


ANNEAL = (StateType, FlowType, Int1, Int, Int, Int, Int, Int, Int, Int1, Int1, RandomType)


@step(*ANNEAL)
def _anneal(
    s: State, flow: Flow, until: IntArray, price: int, most: int, goal: int, steps: int, mean: int,
    heat: int, best: IntArray, row: IntArray, random: Random,
) -> bool:  # fmt: skip
    """Part duplicates, and search from there; the state ends as the best one found.

    Threshold accepting (Dueck and Scheuer 1990): a step may raise the cost by a drawn part of a
    limit that sinks to 0 over the steps. The search ends sooner where 2000 trials in a row, or an
    eighth of all, are refused: of real loads of 40 slots, half of the layers stand still early. To
    end where nothing better is found for 4000 trials lost .3 points: that comes when it has cooled.

    Parameters
    ----------
    until : int64, [M]
        Sums of the weights up to each sample.
    price, most : int
        What a move costs, and the number of moves there may be in the end.
    goal, mean : int
        Peak that is good enough, and peak if the load could be divided at will.
    steps : int
        Steps to try at most.
    heat : int
        What a step may make worse at first, but no more than half of what the start is above mean,
        or above 0 where `State.enough` is set.

    Returns
    -------
    bool
        Whether the moves are no more than there may be; else the state has the duplicates parted
        and nothing else changed.
    """
    found = s.total[MOVES] <= most
    if s.gpu.shape[1] == 1 or most == 0 or steps == 0:
        return found
    _part_duplicates(s, most, NEVER, row)
    _judge(s, flow)
    now = worth(s, price, 0.0)
    lowest = now
    copy_out(s, best)
    least = mean if s.enough[0] == NONE else np.int64(0)
    heat = min(np.int64(HEAT * (s.total[PEAK] - least)), heat)
    cooling = heat // steps
    still = max(steps // STILL_SHARE, STILL)
    if s.enough[0] != NONE or flow.used.shape[0] > 0:
        still = steps  # only where shares are even it was measured that nothing comes later
    taken = np.int64(0)
    for trial in range(steps):
        if trial - taken > still:
            break
        if found and s.total[PEAK] <= goal and (price == 0 or s.total[MOVES] == 0):
            break
        limit = now + cooling * (steps - trial) // 1024 * random_below(random, 1024)
        if _try(s, flow, until, random, price, most, limit, row):
            now = worth(s, price, 0.0)
            taken = trial
            if s.total[MOVES] <= most and (now < lowest or not found):
                lowest = now
                found = True
                copy_out(s, best)
    fill(s, best)
    _judge(s, flow)
    return found


REPLAN = (
    Float3, Int1, Int, Int2, Flag3, Float, Int1, Float, Float, Int, Float, StateType, FlowType,
    Int2, Float1, Int1,
)  # fmt: skip


@entry(*REPLAN)
def replan_layers(
    load: FloatArray,
    weight: IntArray,
    bits: int,
    home: IntArray,
    old: NDArray[np.uint8],
    price: float,
    most: IntArray,
    enough: float,
    goal: float,
    steps: int,
    heat: float,
    s: State,
    flow: Flow,
    placed: IntArray,
    peak: FloatArray,
    moves: IntArray,
) -> None:
    """Improve a placement of each layer under samples of its load, at a price per move.

    Parameters
    ----------
    load : float64, [L, E, M]
        Tokens of each expert in every sample.
    weight : int64, [M]
        What each sample counts; at least 1.
    bits : int
        Bits of the integer grid that hold the load of a sample.
    home : int64, [L, E]
        The only node that may hold the expert, -1 for any.
    old : uint8, [L, E, G]
        Whether the GPU holds the expert already.
    price : float
        What a move has to gain, in the time of the last GPU over the mean.
    most : int64, [L]
        Moves that there may be.
    enough : float
        -1, or the time of a GPU, over the mean, from which on it counts: what is lowered then is
        the time of all GPUs beyond that, and what is said below of the last GPU's is said of this.
    goal : float
        Time of the last GPU, over the mean, that is good enough.
    steps : int
        Steps of one layer.
    heat : float
        What a step may make worse at first, in the time of the last GPU over the mean.
    s : State
        Scratch; its GPUs say slots, speed and node of each, and homes are strict. Where time counts
        its prices are those of the only layer, and `load` and `bits` without effect.
    flow : Flow
        Scratch of `replan_live`.
    placed : int64, [L, S]
        The start, and the result: the slots of the GPUs one after the other.
    peak : float64, [L], output
        Mean over the samples of the last GPU's time, over that of a load divided at will; infinite
        where the start has too many moves, and nothing with fewer was found.
    moves : int64, [L], output
        Experts that are new to their GPU.
    """
    L, _, M = load.shape
    G = s.gpu.shape[1]
    row, best = np.empty(M, np.int64), np.empty(placed.shape[1], np.int64)
    until = np.empty(M, np.int64)
    random = np.empty(1, np.uint64)
    speed = 0.0
    weights = np.int64(0)
    for g in range(G):
        speed += 1.0 / s.gpu[UNIT_TIME, g]
    for m in range(M):
        weights += weight[m]
        until[m] = weights
    for layer in range(L):
        _set_samples(s, load, weight, bits, layer)
        _set_homes(s, home, old, layer)
        mean = (1 << bits) / speed * weights
        if s.price.shape[0] > 0:  # time divided at will: with the best number of replicas of each
            least = np.int64(0)
            for e in range(s.expert.shape[1]):
                for m in range(M):
                    least += s.cost[WHOLE, e, m]
            mean = least / speed
        for m in range(M):
            one = (1 << bits) / speed * weight[m]
            s.enough[m] = NONE if enough < 0.0 else np.int64(enough * one)
        fill(s, placed[layer])
        _judge(s, flow)
        cost = np.int64(min(price * mean, float(s.total[PEAK])))  # no move gains more than all
        random[0] = SEED
        start, start_moves = s.total[PEAK], s.total[MOVES]
        found = _anneal(
            s, flow, until, cost, most[layer], np.int64(goal * mean), steps, np.int64(mean),
            np.int64(heat * mean), best, row, random,
        )  # fmt: skip
        if s.total[PEAK] > start and start_moves <= most[layer]:
            # Parting duplicates has cost more than the search has gained since.
            fill(s, placed[layer])
            _part_duplicates(s, most[layer], start, row)
            _judge(s, flow)
            if s.total[PEAK] > start:  # parted by even shares, which is not what counts
                fill(s, placed[layer])
                _judge(s, flow)
        copy_out(s, placed[layer])
        peak[layer] = s.total[PEAK] / mean if found else np.inf
        moves[layer] = s.total[MOVES]


_anneal_live = step(*ANNEAL)(calling(_anneal, "_anneal_live", _judge=judge, _try=try_live))

# The same search where replicas share as suits a `Flow`: for that of a live split, say.
replan_live = entry(*REPLAN)(
    calling(replan_layers, "replan_live", _judge=judge, _anneal=_anneal_live)
)
