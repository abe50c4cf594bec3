"""Place every layer: a start, swaps, then replica counts and placement searched together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from evenload.core.compile import Bool, Float, Float1, Float2, Int, Int1, Int2, entry, kernel
from evenload.core.grid import SEED, bit_length, relative_grid, sort_keys
from evenload.core.pairs import pair_up, search_pair_counts, try_all_counts
from evenload.core.search import search
from evenload.core.start import SLOTS, UNIT_TIME, start
from evenload.core.state import COUNT, HOME, PEAK, SHARE, WHOLE, State, StateType, copy_out, fill
from evenload.core.swaps import descend, exchange_pairs, part_duplicates, worth

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LOG_ROWS = 52  # steps of one trial, at most
MANY = 2**62
FEW_SLOTS = 64  # with two slots on each GPU it matters up to here that no expert sits beside itself
PAIR_TRIALS = 36  # changes of two counts that cost about as much as one trial
ALL_COUNTS = 4096  # counts of a layer that are looked at whatever the effort


class Scratch(NamedTuple):
    """Room to search a layer, since kernels allocate nothing.

    Parameters
    ----------
    by_expert : int64 ndarray, [7, E]
    by_gpu, keys : int64 ndarray, [2, G]
    best, other : int64 ndarray, [S]
    slot_keys : int64 ndarray, [2, S]
    spare : int64 ndarray, [S - E]
    shares : float64 ndarray, [2, S]
    pairs : int64 ndarray, [2, K (K - 1) / 2]
    tree : int64 ndarray, [2 * 2**bits]
    log, no_log : int64 ndarray, [52, 4], [0, 4]
    random : uint64 ndarray, [1]
    """

    by_expert: IntArray
    by_gpu: IntArray
    keys: IntArray
    best: IntArray
    other: IntArray
    slot_keys: IntArray
    spare: IntArray
    shares: FloatArray
    pairs: IntArray
    tree: IntArray
    log: IntArray
    no_log: IntArray
    random: NDArray[np.uint64]

    @classmethod
    def empty(cls, gpu: IntArray, num_experts: int) -> Scratch:
        """Make room to search layers on GPUs [5, G]."""
        G, S, K = gpu.shape[1], int(gpu[SLOTS].sum()), int(gpu[SLOTS].max())
        return cls(
            np.empty((7, num_experts), np.int64),
            np.empty((2, G), np.int64),
            np.empty((2, G), np.int64),
            np.empty(S, np.int64),
            np.empty(S, np.int64),
            np.empty((2, S), np.int64),
            np.empty(S - num_experts, np.int64),
            np.empty((2, S)),
            np.empty((2, max(K * (K - 1) // 2, 1)), np.int64),
            np.empty(2 << max((G - 1).bit_length(), 1), np.int64),
            np.empty((LOG_ROWS, 4), np.int64),
            np.empty((0, 4), np.int64),
            np.empty(1, np.uint64),
        )


ScratchType = types.NamedTuple(
    (
        *(Int2, Int2, Int2, Int1, Int1, Int2, Int1, Float2, Int2, Int1, Int2, Int2),
        types.uint64[::1],
    ),
    Scratch,
)
WEIGHT, ORDER = 5, 6  # rows of `Scratch.by_expert` that last as long as a layer


@kernel(Float1, Int, ScratchType)
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


@kernel(StateType, ScratchType)
def _start(s: State, w: Scratch) -> None:
    """Fill a state from scratch, with the better of two starts where speeds differ."""
    weight, home = w.by_expert[WEIGHT], s.expert[HOME]
    start(weight, s.gpu, home, w.best.size, False, w.by_expert, w.by_gpu, w.tree, w.best)
    fill(s, w.best, w.keys)
    part_duplicates(s)
    differ = False
    for g in range(s.gpu.shape[1]):
        differ = differ or s.gpu[UNIT_TIME, g] != s.gpu[UNIT_TIME, 0]
    if differ:
        copy_out(s, w.best)
        first = s.total[PEAK]
        start(weight, s.gpu, home, w.best.size, True, w.by_expert, w.by_gpu, w.tree, w.other)
        fill(s, w.other, w.keys)
        if s.total[PEAK] >= first:
            fill(s, w.best, w.keys)


@kernel(StateType, ScratchType, Float, Float, Int1)
def _search_counts(s: State, w: Scratch, mean: float, goal: float, levels: IntArray) -> None:
    """Search the counts of a layer with two slots on each of equal GPUs.

    Every level starts anew and the best is kept, so that a higher one never ends worse.
    """
    E, S = s.expert.shape[1], w.best.size
    weight, count, begun = w.by_expert[WEIGHT], w.by_expert[0], w.by_expert[1]
    most = S // 2
    copy_out(s, w.best)
    lowest = s.total[PEAK]
    for e in range(E):
        begun[e] = s.expert[COUNT, e]
    for level in range(levels.size):
        trials = levels[level]
        w.random[0] = SEED
        for e in range(E):
            count[e] = begun[e]
        heaviest = search_pair_counts(
            weight, most, goal, PAIR_TRIALS * trials, w.random, w.slot_keys, w.shares,
            w.by_expert[2], w.spare, count,
        )  # fmt: skip
        if heaviest > goal:
            effort = max(PAIR_TRIALS * trials, ALL_COUNTS)
            try_all_counts(
                weight, most, heaviest, effort, w.slot_keys, w.shares[0], w.by_expert, count
            )
        pair_up(weight, count, w.slot_keys, w.other)
        fill(s, w.other, w.keys)
        part_duplicates(s)
        if S <= FEW_SLOTS:
            _search(s, w, mean, goal, 0.0, trials, MANY, True, w.other)
        if s.total[PEAK] < lowest:
            lowest = s.total[PEAK]
            copy_out(s, w.best)
    fill(s, w.best, w.keys)


@kernel(StateType, ScratchType, Float, Float, Float, Int, Int, Bool, Int1)
def _search(
    s: State, w: Scratch, mean: float, goal: float, price: float, trials: int, most_pairs: int,
    counts: bool, best: IntArray,
) -> None:  # fmt: skip
    """Search from a state, which ends as the best that was found."""
    w.random[0] = SEED
    search(
        s, np.int64(mean), np.int64(goal), price, trials, most_pairs, counts, w.random, w.log,
        w.pairs, w.keys, best,
    )  # fmt: skip
    fill(s, best, w.keys)


@kernel(StateType, ScratchType, Float, Float, Float, Int, Int1, Float, Float, Bool)
def _place(
    s: State, w: Scratch, mean: float, goal: float, price: float, most_pairs: int,
    levels: IntArray, target: float, close: float, only_pairs: bool,
) -> None:  # fmt: skip
    """Improve the layer of a state."""
    whole = np.int64(mean)
    before = worth(s, 0.0, price)
    copy_out(s, w.best)
    heaviest = np.int64(0)  # with the counts as they are nothing goes below the largest share
    for g in range(s.gpu.shape[1]):
        heaviest = max(heaviest, s.slot[SHARE, g, 0])
    descend(s, whole, max(np.int64(max(mean, goal)), heaviest), MANY, w.no_log, 0)
    if worth(s, 0.0, price) > before:
        fill(s, w.best, w.keys)  # what that moved away from home costs more than it gained
    if not only_pairs:
        good = max(np.int64(max(mean / target, goal)), heaviest)
        looked, _ = exchange_pairs(
            s, whole, good, most_pairs, w.no_log, 0, w.pairs, s.slot.shape[2]
        )
        _search(s, w, mean, good, price, MANY, most_pairs - looked, False, w.best)
    good_time = max(mean, goal) / close
    if levels.size > 0 and s.total[PEAK] > good_time:
        if only_pairs:
            _search_counts(s, w, mean, good_time, levels)
        else:
            _search(s, w, mean, good_time, price, levels[levels.size - 1], MANY, True, w.best)


@entry(
    Float2, Int, Int2, Float, Bool, Int, Int1, Float, Float, Float1, Float1, Int1, Int1, StateType,
    ScratchType, Int2, Float1,
)  # fmt: skip
def place_layers(
    load: FloatArray,
    bits: int,
    home: IntArray,
    away_price: float,
    is_begun: bool,
    most_pairs: int,
    levels: IntArray,
    target: float,
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
    disturbances; then, where that is not good enough, trials that change replica counts too. With
    two slots on each of equal GPUs the counts decide everything and are searched alone.

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
        Whether `placed` is the start.
    most_pairs : int
        Pairs of GPUs that the exchanges of two for two and the disturbances of a layer look at.
    levels : int64, [n]
        Trials of a layer, rising: of each named effort up to the one that is asked for. None leave
        it at swaps.
    target : float
        Balancedness at which a layer is left after swaps.
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
    time : float64, [L], output
        Time of the slowest GPU, over that of a load divided at will.
    """
    L, E = load.shape
    G = s.gpu.shape[1]
    order = w.by_expert[ORDER]
    speed = 0.0
    only_pairs = away_price == 0.0
    for g in range(G):
        speed += 1.0 / s.gpu[UNIT_TIME, g]
        only_pairs = only_pairs and s.gpu[SLOTS, g] == 2 and s.gpu[UNIT_TIME, g] == 1
    for layer in range(L):
        rank_experts(load[layer], bits, w)
        for r in range(E):
            s.cost[WHOLE, r, 0] = w.by_expert[WEIGHT, r]
            s.expert[HOME, r] = home[layer, order[r]]
            w.by_expert[0, order[r]] = r
        if is_begun:
            for slot in range(w.best.size):
                w.best[slot] = w.by_expert[0, placed[layer, slot]]
            fill(s, w.best, w.keys)
        else:
            _start(s, w)
        mean = 0.0
        for g in range(G):
            mean += s.time[g, 0] / s.gpu[UNIT_TIME, g]
        mean /= speed
        if G > 1:
            price = away_price / speed
            _place(
                s, w, mean, mean * goal[layer], price, most_pairs, levels, target, close, only_pairs
            )
        copy_out(s, w.best)
        for slot in range(w.best.size):
            placed[layer, slot] = order[w.best[slot]]
        time[layer] = s.total[PEAK] / mean
