"""The GPUs of one layer judged by several loads at once, on the integer grid.

Against `fleet.Fleet`, an expert has one share in every sample of what its load may be, and a GPU
one time in each. What counts is the weighted sum over the samples of the last GPU's time, and a
price for every expert that is new to its GPU; all of it in integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]

TOP = 3  # GPUs remembered of each sample: a swap touches two, so one is left to compare with
NONE = -1


class Sampled(NamedTuple):
    """State of one layer; a tuple, since that is what kernels can take.

    Parameters
    ----------
    expert : int64 ndarray, [G, K]
        Expert of each slot, in no order; K is the most slots of one GPU.
    slots, unit_time, node : int64 ndarray, [G]
        Slots in use of each GPU, the time that one unit of load takes it, and its node.
    home : int64 ndarray, [E]
        The only node that may hold the expert, -1 for any.
    weight : int64 ndarray, [E, M]
        Load of each expert in every sample, times what the sample counts.
    share, share_of_more, share_of_fewer : int64 ndarray, [E, M]
        Load of one of its replicas, weight // count, and what it would be with one replica more and
        one fewer: divisions cost more than all else in a step.
    count : int64 ndarray, [E]
        Replicas of each expert.
    held : int16 ndarray, [E, G]
        Replicas of each expert on each GPU.
    old : uint8 ndarray, [E, G]
        Whether the GPU holds the expert already, so that a replica there is no move.
    spare : int64 ndarray, [S - E]
        Expert of every replica beyond the first of each.
    time : int64 ndarray, [G, M]
        When each GPU is done, times what the sample counts.
    top : int64 ndarray, [M, 3]
        The three GPUs that are done last in each sample, the last one first; -1 where there are
        fewer GPUs.
    sample_weight : int64 ndarray, [M]
        What each sample counts.
    peak, moves : int64 ndarray, [1]
        Sum over the samples of the last GPU's time, and the experts that are new to their GPU.
    """

    expert: Int
    slots: Int
    unit_time: Int
    node: Int
    home: Int
    weight: Int
    share: Int
    share_of_more: Int
    share_of_fewer: Int
    count: Int
    held: NDArray[np.int16]
    old: NDArray[np.uint8]
    spare: Int
    time: Int
    top: Int
    sample_weight: Int
    peak: Int
    moves: Int


@kernel
def new_sampled(
    num_experts: int, num_samples: int, slots: Int, unit_time: Int, node: Int
) -> Sampled:
    """Make room for the state of a layer."""
    G, E, M = slots.size, num_experts, num_samples
    return Sampled(
        np.zeros((G, slots.max()), np.int64),
        slots,
        unit_time,
        node,
        np.full(E, NONE, np.int64),
        np.empty((E, M), np.int64),
        np.empty((E, M), np.int64),
        np.empty((E, M), np.int64),
        np.empty((E, M), np.int64),
        np.zeros(E, np.int64),
        np.zeros((E, G), np.int16),
        np.zeros((E, G), np.uint8),
        np.empty(slots.sum() - E, np.int64),
        np.empty((G, M), np.int64),
        np.empty((M, TOP), np.int64),
        np.empty(M, np.int64),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
    )


@kernel
def set_weights(state: Sampled, load: Float, bits: int) -> None:
    """Put the samples [E, M] on a grid where each adds up to 2**bits, and weigh them.

    A sample without any load counts as even. What each counts must be set already.
    """
    E, M = load.shape
    one = float(1 << bits)
    for m in range(M):
        total = 0.0
        for e in range(E):
            total += load[e, m]
        for e in range(E):
            part = load[e, m] / total if total > 0.0 else 1.0 / E
            state.weight[e, m] = np.int64(np.rint(part * one)) * state.sample_weight[m]


@inlined
def reshare(state: Sampled, e: int) -> None:
    """Bring the share of one replica of an expert up to date with its count."""
    count = state.count[e]
    if count == 1:  # as most experts: divisions are what setting up a layer takes longest with
        for m in range(state.sample_weight.size):
            weight = state.weight[e, m]
            state.share[e, m] = weight
            state.share_of_more[e, m] = weight >> 1
            state.share_of_fewer[e, m] = weight
        return
    for m in range(state.sample_weight.size):
        weight = state.weight[e, m]
        state.share[e, m] = weight // count
        state.share_of_more[e, m] = weight // (count + 1)
        state.share_of_fewer[e, m] = weight // max(count - 1, 1)


@kernel
def fill(state: Sampled, physical_to_logical: Int) -> None:
    """Set the state from a placement, the slots of the GPUs one after the other: int64 [S].

    The samples, their weights, homes and what is old must be set already.
    """
    state.count[:] = 0
    for slot in range(physical_to_logical.size):
        state.count[physical_to_logical[slot]] += 1
    n = 0
    for e in range(state.count.size):
        reshare(state, e)
        for _ in range(state.count[e] - 1):
            state.spare[n] = e
            n += 1
    state.held[:] = 0
    state.time[:] = 0
    state.moves[0] = 0
    slot = 0
    for g in range(state.slots.size):
        for i in range(state.slots[g]):
            e = physical_to_logical[slot]
            state.expert[g, i] = e
            state.moves[0] += state.held[e, g] == 0 and state.old[e, g] == 0
            state.held[e, g] += 1
            for m in range(state.sample_weight.size):
                state.time[g, m] += state.share[e, m] * state.unit_time[g]
            slot += 1
    rank(state)


@kernel
def copy_out(state: Sampled, physical_to_logical: Int) -> None:
    """Write the expert in every slot, the slots of the GPUs one after the other: int64 [S]."""
    slot = 0
    for g in range(state.slots.size):
        for i in range(state.slots[g]):
            physical_to_logical[slot] = state.expert[g, i]
            slot += 1


@kernel
def rank(state: Sampled) -> None:
    """Find the GPUs that are done last in each sample, and add up when they are."""
    for m in range(state.top.shape[0]):
        _rank_sample(state.time, m, state.top)
    _add_up(state)


@inlined
def rank_again(state: Sampled, first: int, second: int) -> None:
    """Do what `rank` does where only two GPUs have changed."""
    time, top = state.time, state.top
    for m in range(top.shape[0]):
        third = top[m, TOP - 1]
        least = time[third, m] if third != NONE else -1
        # The third may be one of the two: then it is among the top, and that is enough to know.
        touched = time[first, m] >= least or time[second, m] >= least
        for place in range(TOP):
            touched = touched or top[m, place] == first or top[m, place] == second
        if touched:
            _rank_sample(time, m, top)
    _add_up(state)


@inlined
def _add_up(state: Sampled) -> None:
    peak = 0
    for m in range(state.top.shape[0]):
        peak += state.time[state.top[m, 0], m]
    state.peak[0] = peak


@kernel
def _rank_sample(time: Int, m: int, top: Int) -> None:
    a, b, c = NONE, NONE, NONE
    ta, tb, tc = -1, -1, -1
    for g in range(time.shape[0]):
        t = time[g, m]
        if t > tc:
            if t > ta:
                a, b, c = g, a, b
                ta, tb, tc = t, ta, tb
            elif t > tb:
                b, c = g, b
                tb, tc = t, tb
            else:
                c = g
                tc = t
    top[m, 0] = a
    top[m, 1] = b
    top[m, 2] = c


@inlined
def slot_with(state: Sampled, gpu: int, expert: int) -> int:
    """Return a slot of a GPU that holds an expert, or -1."""
    found = NONE
    for i in range(state.slots[gpu]):
        if state.expert[gpu, i] == expert:
            found = i
            break
    return found
