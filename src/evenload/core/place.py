"""Place every layer: a start, swaps, then replica counts and placement searched together.

The entries of the search of one load; `replan` has that of many samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from evenload.core.bound import quick_time
from evenload.core.compile import Bool, Float, Float1, Float2, Int, Int1, Int2, entry, step
from evenload.core.grid import SEED, bit_length, relative_grid, sort_keys
from evenload.core.pairs import place_counts, search_pair_counts, try_all_counts
from evenload.core.search import search
from evenload.core.start import SLOTS, UNIT_TIME, longest_first, replicate, soonest_done
from evenload.core.state import HOME, PEAK, SHARE, WHOLE, State, StateType, copy_out, fill
from evenload.core.swaps import descend, exchange_pairs, part_duplicates, worth

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LOG_ROWS = 52  # steps of one trial, at most
MANY = 2**62
PAIR_TRIALS = 36  # changes of two counts that cost about as much as one trial
COUNT_TRIALS = 8  # such changes that cost about as much as looking at counts as a whole
ALL_COUNTS = 2**20  # over S**2: counts of a layer that are looked at whatever the effort


class Scratch(NamedTuple):
    """Room to search a layer, since kernels allocate nothing.

    Parameters
    ----------
    by_expert : int64 ndarray, [7, E]
    by_gpu : int64 ndarray, [2, G]
    best, other : int64 ndarray, [S]
    keys : int64 ndarray, [2, S]
    spare : int64 ndarray, [S - E]
    load : float64 ndarray, [E]
    shares : float64 ndarray, [2, S]
    pairs : int64 ndarray, [G, K (K - 1) / 2]
    tree : int64 ndarray, [2 * 2**bits]
    log, no_log : int64 ndarray, [52, 4], [0, 4]
    random : uint64 ndarray, [1]
    """

    by_expert: IntArray
    by_gpu: IntArray
    best: IntArray
    other: IntArray
    keys: IntArray
    spare: IntArray
    load: FloatArray
    shares: FloatArray
    pairs: IntArray
    tree: IntArray
    log: IntArray
    no_log: IntArray
    random: NDArray[np.uint64]

    @classmethod
    def empty(cls, gpu: IntArray, num_experts: int) -> Scratch:
        """Make room to search layers on GPUs [4, G]."""
        G, S, K = gpu.shape[1], int(gpu[SLOTS].sum()), int(gpu[SLOTS].max())
        return cls(
            np.empty((7, num_experts), np.int64),
            np.empty((2, G), np.int64),
            np.empty(S, np.int64),
            np.empty(S, np.int64),
            np.empty((2, S), np.int64),
            np.empty(S - num_experts, np.int64),
            np.empty(num_experts),
            np.empty((2, S)),
            np.empty((G, max(K * (K - 1) // 2, 1)), np.int64),
            np.empty(2 << max((G - 1).bit_length(), 1), np.int64),
            np.empty((LOG_ROWS, 4), np.int64),
            np.empty((0, 4), np.int64),
            np.empty(1, np.uint64),
        )


ScratchType = types.NamedTuple(
    (
        *(Int2, Int2, Int1, Int1, Int2, Int1, Float1, Float2, Int2, Int1, Int2, Int2),
        types.uint64[::1],
    ),
    Scratch,
)
WEIGHT, ORDER = 5, 6  # rows of `Scratch.by_expert` that last as long as a layer


@step(Float1, Int, ScratchType)
def rank_experts(load: FloatArray, bits: int, w: Scratch) -> None:
    """Put a layer on the grid and rank its experts by descending load, equal ones by number.

    A search that calls experts by rank finds the same, whatever the experts are called.

    Parameters
    ----------
    load : float64, [E]
    bits : int
        Bits of the integer grid that hold one expert's load.
    w : Scratch
        Row `WEIGHT` gets the load of each rank, `ORDER` the expert of each rank.
    """
    E = load.size
    weight, order, keys = w.by_expert[WEIGHT], w.by_expert[ORDER], w.by_expert[0]
    relative_grid(load, bits, weight)
    expert_bits = bit_length(E)
    for e in range(E):
        keys[e] = (-weight[e] << expert_bits) | e
    sort_keys(keys, E, w.by_expert[1])
    for r in range(E):
        order[r] = keys[r] & ((1 << expert_bits) - 1)
        weight[r] = -(keys[r] >> expert_bits)


@step(StateType, ScratchType, Int1)
def _set_up(s: State, w: Scratch, home: IntArray) -> None:
    """Tell a state of the experts by rank, and write the rank of each to row 0 of `by_expert`."""
    for r in range(home.size):
        e = w.by_expert[ORDER, r]
        s.cost[WHOLE, r, 0] = w.by_expert[WEIGHT, r]
        s.expert[HOME, r] = home[e]
        w.by_expert[0, e] = r


@step(ScratchType, Int1)
def _by_rank(w: Scratch, placed: IntArray) -> None:
    for slot in range(placed.size):
        w.best[slot] = w.by_expert[0, placed[slot]]


@step(ScratchType, Int1)
def _by_number(w: Scratch, placed: IntArray) -> None:
    for slot in range(placed.size):
        placed[slot] = w.by_expert[ORDER, w.best[slot]]


@step(StateType)
def _mean(s: State) -> float:
    """Return the time of all GPUs if the load could be divided at will."""
    load = 0.0
    speed = 0.0
    for g in range(s.gpu.shape[1]):
        load += s.time[g, 0] / s.gpu[UNIT_TIME, g]
        speed += 1.0 / s.gpu[UNIT_TIME, g]
    return load / speed


@step(ScratchType, Int, Float1, Int1, Int1, Int)
def _bound(
    w: Scratch, num_slots: int, reach: FloatArray, fewest: IntArray, most: IntArray, copies: int
) -> float:
    """Bound the time of the slowest GPU from below, over the mean."""
    total = 0.0
    for r in range(w.load.size):
        w.load[r] = w.by_expert[WEIGHT, r]
        total += w.load[r]
    time = quick_time(w.load, num_slots, reach, fewest, most, copies)
    return time * reach[reach.size - 1] / total


@step(StateType, ScratchType, Float, Float, Float, Int, Int, Bool)
def _search(
    s: State, w: Scratch, mean: float, goal: float, price: float, trials: int, most_pairs: int,
    counts: bool,
) -> None:  # fmt: skip
    """Search from a state, which ends as the best that was found."""
    w.random[0] = SEED
    search(
        s, np.int64(mean), np.int64(goal), price, trials, most_pairs, counts, w.random, w.log,
        w.pairs, w.best,
    )  # fmt: skip
    fill(s, w.best)


@step(StateType, ScratchType, Float, Float, Float, Int, Float, Float)
def _swap(
    s: State, w: Scratch, mean: float, goal: float, price: float, most_pairs: int, target: float,
    fine_target: float,
) -> None:  # fmt: skip
    """Swap until nothing improves; then go on by two for two and by disturbances."""
    whole = np.int64(mean)
    before = worth(s, 0, price)
    copy_out(s, w.best)
    heaviest = np.int64(0)  # with the counts as they are nothing goes below the largest share
    for g in range(s.gpu.shape[1]):
        heaviest = max(heaviest, s.slot[SHARE, g, 0])
    descend(s, whole, max(np.int64(max(mean / target, goal)), heaviest), MANY, w.no_log, 0)
    if worth(s, 0, price) > before:
        fill(s, w.best)  # what that moved away from home costs more than it gained
    good = max(np.int64(max(mean / fine_target, goal)), heaviest)
    if s.total[PEAK] > good and most_pairs > 0:
        before = worth(s, 0, price)
        copy_out(s, w.best)
        looked, _ = exchange_pairs(
            s, whole, good, most_pairs, w.no_log, 0, w.pairs, s.slot.shape[2]
        )
        if worth(s, 0, price) > before:
            fill(s, w.best)
        _search(s, w, mean, good, price, MANY, most_pairs - looked, False)


@entry(
    Float2, Int, Int2, Float, Bool, Int, Int, Float, Float, Float, Float1, Float1, Int1, Int1,
    StateType, ScratchType, Int2, Float2,
)  # fmt: skip
def place_layers(
    load: FloatArray,
    bits: int,
    home: IntArray,
    away_price: float,
    is_begun: bool,
    most_pairs: int,
    trials: int,
    target: float,
    fine_target: float,
    close: float,
    goal: FloatArray,
    reach: FloatArray,
    fewest: IntArray,
    most: IntArray,
    s: State,
    w: Scratch,
    placed: IntArray,
    time: FloatArray,
) -> None:
    """Place each layer so that its slowest GPU is done soonest.

    Largest share next, longest first; swaps until nothing improves, exchanges of two for two and
    disturbances; then, where that is not good enough, trials that change replica counts too.

    Parameters
    ----------
    load : float64, [L, E]
        Tokens of each expert.
    bits : int
        Bits of the integer grid that hold one expert's load.
    home : int64, [L, E]
        Node that has to hold a replica of each expert, -1 for none.
    away_price : float
        What one token costs that is computed away from home, in tokens spread over all GPUs.
    is_begun : bool
        Whether `placed` is the start; without, all GPUs have one speed and as many slots, at most
        E, no expert a home, and one copy will do.
    most_pairs : int
        Pairs of GPUs that the exchanges of two for two and the disturbances of a layer look at.
    trials : int
        Trials of a layer.
    target, fine_target : float
        Balancedness at which swaps stop, and at which a layer is left after them.
    close : float
        Share of the bound at which a layer is good enough.
    goal : float64, [L]
        Time of the slowest GPU that nobody needs to be below, over the mean.
    reach, fewest, most
        See `bound.quick_time`.
    s : State
        Scratch; its GPUs say slots, speed and node of each.
    w : Scratch
    placed : int64, [L, S], output
        Expert in each slot, the slots of the GPUs one after the other.
    time : float64, [L, 2], output
        Time of the slowest GPU, and a bound on it where trials were in question, over that of a
        load divided at will.
    """
    L, E = load.shape
    G, S = s.gpu.shape[1], placed.shape[1]
    speed = 0.0
    for g in range(G):
        speed += 1.0 / s.gpu[UNIT_TIME, g]
    price = away_price / speed
    for layer in range(L):
        rank_experts(load[layer], bits, w)
        _set_up(s, w, home[layer])
        if is_begun:
            _by_rank(w, placed[layer])
            fill(s, w.best)
        else:
            weight, count, order = w.by_expert[WEIGHT], w.by_expert[2], w.by_expert[3]
            replicate(weight, S, 1, max(G, -(-S // E)), w.by_expert, count, order)
            longest_first(weight, count, order, s.gpu, w.tree, w.by_gpu, w.best)
            fill(s, w.best)
            part_duplicates(s)
        mean = _mean(s)
        time[layer, 1] = 1.0
        if G > 1:
            wanted = mean * goal[layer]
            _swap(s, w, mean, wanted, price, most_pairs, target, fine_target)
            if trials > 0 and s.total[PEAK] > max(mean / fine_target, wanted):
                time[layer, 1] = max(_bound(w, S, reach, fewest, most, s.copies), 1.0)
                good = max(mean * time[layer, 1], wanted) / close
                if s.total[PEAK] > good:
                    _search(s, w, mean, good, price, trials, MANY, True)
        copy_out(s, w.best)
        _by_number(w, placed[layer])
        time[layer, 0] = s.total[PEAK] / mean


@entry(Float2, Int, Int2, StateType, ScratchType, Int2)
def start_layers(
    load: FloatArray, bits: int, home: IntArray, s: State, w: Scratch, placed: IntArray
) -> None:
    """Place each layer where every replica is done first, on GPUs of any slots and speed.

    Where speeds differ, dividing a hot expert evenly leaves too much of it to the slow GPUs: a
    start with as few replicas of each as may be, and those of the lightest in the slots left, is
    tried too, and the better one taken. Copies may still lack GPUs or nodes, see
    `replan.part_copies`. Parameters are those of `place_layers`.
    """
    E = load.shape[1]
    S, G = placed.shape[1], s.gpu.shape[1]
    differ = False
    for g in range(G):
        differ = differ or s.gpu[UNIT_TIME, g] != s.gpu[UNIT_TIME, 0]
    weight, count, wanted, order = (
        w.by_expert[WEIGHT], w.by_expert[1], w.by_expert[2], w.by_expert[3],
    )  # fmt: skip
    for layer in range(load.shape[0]):
        rank_experts(load[layer], bits, w)
        _set_up(s, w, home[layer])
        node = s.expert[HOME]
        replicate(weight, S, s.copies, max(G, -(-S // E)), w.by_expert, wanted, order)
        soonest_done(weight, wanted, order, count, s.gpu, node, False, w.by_gpu, w.best)
        fill(s, w.best)
        part_duplicates(s)
        copy_out(s, w.best)
        if differ:
            first = s.total[PEAK]
            for e in range(E):
                wanted[e] = s.copies
                order[e] = e
            soonest_done(weight, wanted, order, count, s.gpu, node, True, w.by_gpu, w.other)
            fill(s, w.other)
            if s.total[PEAK] < first:
                copy_out(s, w.best)
        _by_number(w, placed[layer])


@entry(Float2, Int, Int, Float, Float1, StateType, ScratchType, Int2, Float2)
def place_pairs(
    load: FloatArray,
    bits: int,
    trials: int,
    close: float,
    goal: FloatArray,
    s: State,
    w: Scratch,
    placed: IntArray,
    time: FloatArray,
) -> None:
    """Search the counts of each layer with two slots on each of equal GPUs.

    Parameters are those of `place_layers`; `placed` is the start and `time` tells of it, and it is
    never worse in the end.
    """
    E, S = load.shape[1], placed.shape[1]
    weight, count = w.by_expert[WEIGHT], w.by_expert[1]
    for layer in range(load.shape[0]):
        enough = max(time[layer, 1], goal[layer]) / close
        if time[layer, 0] <= enough:
            continue
        rank_experts(load[layer], bits, w)
        total = 0.0
        for r in range(E):
            s.cost[WHOLE, r, 0] = weight[r]
            w.by_expert[0, w.by_expert[ORDER, r]] = r
            count[r] = 0
            total += weight[r]
        for slot in range(S):
            count[w.by_expert[0, placed[layer, slot]]] += 1
        mean = total / (S // 2)
        w.random[0] = SEED
        search_pair_counts(
            weight, s.copies, S // 2, mean * enough, PAIR_TRIALS * trials, w.random, w.keys,
            w.shares, w.by_expert[2], w.spare, count,
        )  # fmt: skip
        heaviest = place_counts(weight, count, MANY, s, w.keys, w.best)
        if heaviest > mean * enough:
            effort = max(PAIR_TRIALS * trials / COUNT_TRIALS, ALL_COUNTS / (S * S))
            heaviest = try_all_counts(
                weight, S // 2, heaviest, effort, s, w.keys, w.by_expert[2:5],
                w.other, w.best,
            )  # fmt: skip
        if heaviest / mean < time[layer, 0]:
            _by_number(w, placed[layer])
            time[layer, 0] = heaviest / mean
