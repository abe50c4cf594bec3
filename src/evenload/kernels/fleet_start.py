"""A first placement on GPUs that may differ: largest share next, longest first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.fleet import NO_HOME
from evenload.kernels.grid import bit_length, relative_grid
from evenload.kernels.replicate import replicate

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Flag = NDArray[np.bool_]

NOWHERE = -1


@kernel
def _best_gpu(weight: int, load: Int, unit_time: Int, free: Int, held: Flag, allowed: Flag) -> int:
    """Return the GPU that would be done first with one more replica, `NOWHERE` if none may."""
    best = NOWHERE
    soonest = np.int64(2**62)
    for g in range(load.size):
        if free[g] == 0 or held[g] or not allowed[g]:
            continue
        time = (load[g] + weight) * unit_time[g]
        if time < soonest:
            soonest = time
            best = g
    return best


@kernel
def _next_replica(weight: Int, count: Int, held: Flag, g: int, lightest: bool) -> int:
    """Return the expert with the largest or the lightest share that a GPU lacks, else of all."""
    for twice in range(2):
        best = -1
        for e in range(weight.size):
            if twice == 0 and held[e, g]:
                continue
            larger = best < 0 or weight[e] * count[best] > weight[best] * count[e]
            lighter = best < 0 or weight[e] * count[best] < weight[best] * count[e]
            if (lightest and lighter) or (not lightest and larger):
                best = e
        if best >= 0:
            return best
    return -1


@kernel
def _fill_up(
    weight: Int, count: Int, held: Flag, free: Int, lightest: bool, placed: Int, end: Int
) -> None:
    """Give each slot that is left to the next expert that its GPU lacks.

    A GPU that holds all experts gets one twice: that is a duplicate that cannot be avoided.
    """
    for g in range(free.size):
        while free[g] > 0:
            best = _next_replica(weight, count, held, g, lightest)
            held[best, g] = True
            count[best] += 1
            free[g] -= 1
            placed[end[g] - free[g] - 1] = best


@kernel
def _place(
    weight: Int, wanted: Int, order: Int, lightest: bool, slots: Int, unit_time: Int, node: Int,
    home: Int, held: Flag, placed: Int,
) -> int:  # fmt: skip
    """Place one layer; return when the last GPU is done."""
    E, G = held.shape
    end = np.cumsum(slots)
    allowed = np.empty(G, np.bool_)
    load = np.zeros(G, np.int64)
    free = slots.copy()
    count = np.zeros(E, np.int64)
    held[:] = False
    for phase in range(2):  # first the replicas at home, then all others
        for e in order:
            if phase == 0 and home[e] == NO_HOME:
                continue
            copies = 1 if phase == 0 else wanted[e] - count[e]
            for g in range(G):
                allowed[g] = phase == 1 or node[g] == home[e]
            share = weight[e] // wanted[e]
            for _ in range(copies):
                g = _best_gpu(share, load, unit_time, free, held[e], allowed)
                if g == NOWHERE:
                    break
                placed[end[g] - free[g]] = e
                free[g] -= 1
                held[e, g] = True
                count[e] += 1
                load[g] += share
    _fill_up(weight, count, held, free, lightest, placed, end)
    return _last_time(weight, count, slots, unit_time, placed)


@kernel
def _last_time(weight: Int, count: Int, slots: Int, unit_time: Int, placed: Int) -> int:
    last = 0
    slot = 0
    for g in range(slots.size):
        load = 0
        for _ in range(slots[g]):
            load += weight[placed[slot]] // count[placed[slot]]
            slot += 1
        last = max(last, load * unit_time[g])
    return last


@kernel
def start_fleet(
    load: Float,
    bits: int,
    slots: Int,
    unit_time: Int,
    node: Int,
    home: Int,
    physical_to_logical: Int,
) -> None:
    """Place each layer's experts on GPUs of any slots and speed.

    Every expert gets its first replica on its home node, where it has one, before the others are
    placed; the experts of a home must fit the node. All go where they are done first, those with
    the largest share first, none twice on a GPU that lacks another expert. Where speeds differ,
    dividing a hot expert evenly leaves too much of it to the slow GPUs: a start with one of each
    expert, and replicas of the lightest in the slots left, is tried too, and the better one taken.

    Parameters
    ----------
    load : float64, [L, E]
        Tokens of each expert.
    bits : int
        Bits of the integer grid that hold one expert's load.
    slots, unit_time, node : int64, [G]
        Slots of each GPU, the time it takes for a unit of load, and its node.
    home : int64, [L, E]
        Node that has to hold a replica of each expert, `NO_HOME` for none.
    physical_to_logical : int64, [L, S], output
        Expert in each slot, the slots of the GPUs one after the other.
    """
    L, E = load.shape
    G = slots.size
    S = physical_to_logical.shape[1]
    expert_bits = bit_length(E)
    weight, wanted, order = np.empty(E, np.int64), np.empty(E, np.int64), np.empty(E, np.int64)
    scratch = np.empty((2, E), np.int64)
    held = np.empty((E, G), np.bool_)
    once, other = np.ones(E, np.int64), np.empty(S, np.int64)
    most = max(G, -(-S // E))
    for layer in range(L):
        relative_grid(load[layer], bits, weight)
        replicate(weight, bits, S, most, expert_bits, scratch, wanted, order)
        placed = physical_to_logical[layer]
        time = _place(
            weight, wanted, order, False, slots, unit_time, node, home[layer], held, placed
        )
        if unit_time.min() == unit_time.max():
            continue
        order = np.argsort(-weight, kind="mergesort")
        if time > _place(
            weight, once, order, True, slots, unit_time, node, home[layer], held, other
        ):
            placed[:] = other
