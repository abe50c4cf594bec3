"""The search of one layer: descend, disturb and descend again, keep the best.

Iterated local search in the spirit of the iterated greedy. A trial hands a spare replica from one
expert to another, or swaps replicas of the slowest GPU at random, and descends by best swaps; it
stays unless the layer costs more than before.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from evenload.core.compile import Bool, Float, Int, Int1, Int2, step
from evenload.core.grid import random_below
from evenload.core.start import NONE, SLOTS
from evenload.core.state import (
    AWAY,
    COUNT,
    EXPERT,
    HELD,
    State,
    StateType,
    copy_out,
    fill,
    gpu_at,
    hand_over,
    swap,
)
from evenload.core.swaps import (
    descend,
    exchange_pairs,
    may_hand_over,
    may_swap,
    take_back,
    worth,
    write,
)

IntArray = NDArray[np.int64]
Random = NDArray[np.uint64]
RandomType = types.uint64[::1]

PATIENCE = 4  # a search ends when this share of its trials brought nothing
SMALL = 4096  # trials times slots: a search of few slots is cheap, and ends no sooner
LEAST_GAIN = 1e-5
SHAKES = 4  # disturbances that stay, whatever they cost


@step(StateType, Int, Int)
def nth_gpu_with(s: State, e: int, n: int) -> int:
    """Return the n-th of the GPUs that hold an expert, -1 if there are fewer."""
    for g in range(s.gpu.shape[1]):
        if s.held[HELD, e, g] > 0:
            if n == 0:
                return g
            n -= 1
    return NONE


@step(StateType, Bool, RandomType, Int2)
def _disturb(s: State, counts: bool, random: Random, log: IntArray) -> int:
    """Hand one spare replica over, or swap one or two of the slowest GPU's at random.

    Each half the time; only the latter unless `counts`. A handover goes to any expert or to one of
    the slowest GPU, each half the time.

    Returns
    -------
    int
        Rows of the log in use.
    """
    logged = 0
    if s.spare.size == 0 or not counts or random_below(random, 2) == 0:
        for _ in range(1 + random_below(random, 2)):
            m = gpu_at(s, 0, 0)
            k = gpu_at(s, 0, s.gpu.shape[1] - 1 - random_below(random, s.gpu.shape[1] - 1))
            i = random_below(random, s.gpu[SLOTS, m])
            j = random_below(random, s.gpu[SLOTS, k])
            a, b = s.slot[EXPERT, m, i], s.slot[EXPERT, k, j]
            if may_swap(s, a, m, b, k):
                write(log, logged, m, a, k, b)
                logged += 1
                swap(s, m, i, k, j)
        return logged
    place = random_below(random, s.spare.size)
    giver = s.spare[place]
    if random_below(random, 2) == 0:
        last = gpu_at(s, 0, 0)
        taker = s.slot[EXPERT, last, random_below(random, s.gpu[SLOTS, last])]
    else:
        taker = random_below(random, s.expert.shape[1])
    g = nth_gpu_with(s, giver, random_below(random, s.expert[COUNT, giver]))
    if g != NONE and may_hand_over(s, giver, g, taker):
        write(log, 0, g, giver, -1 - place, taker)
        logged = 1
        hand_over(s, place, g, taker)
    return logged


@step(StateType, Int, Int, Float, Int, Int, Bool, RandomType, Int2, Int2, Int1)
def search(
    s: State,
    mean: int,
    goal: int,
    away_price: float,
    trials: int,
    most_pairs: int,
    counts: bool,
    random: Random,
    log: IntArray,
    pairs: IntArray,
    best: IntArray,
) -> int:
    """Try disturbances, and leave the state at the best that was found.

    The first trials are the same whatever their number, so that more of them never end worse. Where
    as many as there are replicas to hand over gained nothing, the layer is disturbed for good, and
    the search goes on from there.

    Parameters
    ----------
    s : State, changed
    mean, goal : int
        As `descend`.
    away_price : float
        Time that one unit of load away from its home costs.
    trials, most_pairs : int
        Disturbances to try, and pairs of GPUs to look at, at most. The search ends sooner at the
        goal, or when a quarter of the trials in a row gained less than 1e-5 of the mean.
    counts : bool
        Whether replica counts may change; else two are exchanged for two as well.
    random : uint64, [1]
        Moves on.
    log : int64, [n, 4]; pairs : int64, [G, K (K - 1) / 2]; scratch
    best : int64, [S], output
        Expert in each slot.

    Returns
    -------
    int
        What the layer costs.
    """
    S, K = best.size, s.slot.shape[2]
    now = worth(s, 0, away_price)
    copy_out(s, best)
    lowest = now  # cost of `best`
    standstill = s.spare.size * s.expert.shape[1] + S  # about as many trials as handovers
    patience = max(trials // PATIENCE, SMALL // S)
    mark = now
    still = 0
    looked = 0
    trial = 0
    while trial < trials and looked < most_pairs:
        if min(now, lowest) <= goal and s.total[AWAY] == 0:
            break
        logged = _disturb(s, counts, random, log)
        more, logged = descend(s, mean, goal, most_pairs, log, logged)
        looked += more + 1
        if not counts:
            more, logged = exchange_pairs(s, mean, goal, most_pairs, log, logged, pairs, K)
            looked += more
        after = worth(s, 0, away_price)
        still = 0 if after < now else still + 1
        if after <= now:
            now = after
        else:
            take_back(s, log, logged)
        if counts and still == standstill:
            if now < lowest:
                lowest = now
                copy_out(s, best)
            else:
                fill(s, best)
            for _ in range(SHAKES):
                _disturb(s, counts, random, log)
            now = worth(s, 0, away_price)
            still = 0
        trial += 1
        if counts and trial % patience == 0:
            if mark - min(now, lowest) < LEAST_GAIN * mean:
                break
            mark = min(now, lowest)
    if now < lowest:
        lowest = now
        copy_out(s, best)
    return lowest
