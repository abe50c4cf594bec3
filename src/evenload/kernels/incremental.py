"""The search over samples with a price per move: what `solver="incremental"` runs on a layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel
from evenload.kernels.random import SEED, random_below
from evenload.kernels.sampled import Sampled, copy_out, fill, new_sampled, set_weights
from evenload.kernels.sampled_repair import part_duplicates
from evenload.kernels.sampled_trial import cost_of, try_handover, try_swap, try_undo

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Flag = NDArray[np.uint8]
State = NDArray[np.uint64]

HEAT = 0.5  # of what the start is above the mean, a step may make worse at most
NO_LIMIT = 2**40  # moves


@inlined
def _try(state: Sampled, random: State, price: int, most: int, limit: int, row: Int) -> bool:
    """Try one step: three exchanges to two handovers, and where moves cost, one to undo a move."""
    kind = random_below(random, 5 if price == 0 and most >= NO_LIMIT else 6)
    if kind < 3:
        return try_swap(state, random, price, most, limit, row)
    if kind == 5:
        return try_undo(state, random, price, most, limit, row)
    return state.spare.size > 0 and try_handover(state, random, price, most, limit, row)


@kernel
def search(
    state: Sampled, price: int, most: int, goal: int, steps: int, mean: int, heat: int, best: Int,
    row: Int,
) -> bool:  # fmt: skip
    """Search from a state, which ends as the best one found.

    Threshold accepting (Dueck and Scheuer 1990): a step may raise the cost by a drawn part of
    a limit that sinks to 0 over the steps.

    Parameters
    ----------
    state : Sampled
        Changed in place.
    price, most : int
        What a move costs, and the number of moves there may be in the end.
    goal : int
        Peak that is good enough.
    steps : int
        Steps to try at most.
    mean : int
        Peak if the load could be divided at will.
    heat : int
        What a step may make worse at first, but no more than half of what the start is above mean.
    best : int64 ndarray, [S], scratch
    row : int64 ndarray, [M], scratch

    Returns
    -------
    bool
        Whether the moves are no more than there may be; else the state is as it was at the start.
    """
    random: State = np.full(1, SEED)
    part_duplicates(state, most, row)
    now = cost_of(state, price)
    lowest = now
    found = state.moves[0] <= most
    copy_out(state, best)
    if state.slots.size == 1 or most == 0 or steps == 0:
        return found
    heat = min(np.int64(HEAT * (state.peak[0] - mean)), heat)
    for step in range(steps):
        if found and state.peak[0] <= goal and (price == 0 or state.moves[0] == 0):
            break
        limit = now + heat // steps * (steps - step) // 1024 * random_below(random, 1024)
        if _try(state, random, price, most, limit, row):
            now = cost_of(state, price)
            if state.moves[0] <= most and (now < lowest or not found):
                lowest = now
                found = True
                copy_out(state, best)
    fill(state, best)
    return found


@kernel
def incremental(
    load: Float,
    sample_weight: Int,
    bits: int,
    slots: Int,
    unit_time: Int,
    node: Int,
    home: Int,
    old: Flag,
    price: float,
    most: Int,
    goal: float,
    steps: int,
    heat: float,
    physical_to_logical: Int,
    peak: Float,
    moves: Int,
) -> None:
    """Improve a placement of each layer under samples of its load, at a price per move.

    Parameters
    ----------
    load : float64, [L, E, M]
        Tokens of each expert in every sample.
    sample_weight : int64, [L, M]
        What each sample counts; at least 1 in all.
    bits : int
        Bits of the integer grid that hold the load of a sample.
    slots, unit_time, node : int64, [G]
        Slots of each GPU, the time it takes for a unit of load, and its node.
    home : int64, [L, E]
        The only node that may hold the expert, -1 for any.
    old : uint8, [L, E, G]
        Whether the GPU holds the expert already.
    price : float
        What a move has to gain, in the time of the last GPU over the mean.
    most : int64, [L]
        Moves that there may be.
    goal : float
        Time of the last GPU, over the mean, that is good enough.
    steps : int
        Steps of one layer.
    heat : float
        What a step may make worse at first, in the time of the last GPU over the mean.
    physical_to_logical : int64, [L, S]
        The start, and the result: the slots of the GPUs one after the other.
    peak : float64, [L], output
        Mean over the samples of the last GPU's time, over that of a load divided at will; infinite
        where the start has too many moves, and nothing with fewer was found.
    moves : int64, [L], output
        Experts that are new to their GPU.
    """
    L, E, M = load.shape
    state = new_sampled(E, M, slots, unit_time, node)
    row = np.empty(M, np.int64)
    best = np.empty(physical_to_logical.shape[1], np.int64)
    speed = 0.0
    for g in range(slots.size):
        speed += 1.0 / unit_time[g]
    for layer in range(L):
        state.sample_weight[:] = sample_weight[layer]
        set_weights(state, load[layer], bits)
        state.home[:] = home[layer]
        state.old[:] = old[layer]
        fill(state, physical_to_logical[layer])
        mean = (1 << bits) / speed * state.sample_weight.sum()
        cost = int(min(price * mean, float(state.peak[0])))  # no move gains more than all
        enough, warmth = int(goal * mean), int(heat * mean)
        found = search(
            state, cost, int(most[layer]), enough, steps, int(mean), warmth, best, row
        )  # fmt: skip
        copy_out(state, physical_to_logical[layer])
        peak[layer] = state.peak[0] / mean if found else np.inf
        moves[layer] = state.moves[0]
