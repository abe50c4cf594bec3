"""How many of an expert's tokens each of its replicas gets, so that the last GPU is done soonest.

For one load, and as exactly as may be, what `flow` finds for the samples of a search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import (
    Float,
    Float1,
    Float2,
    Float3,
    Int,
    Int1,
    Int2,
    Int3,
    entry,
    read_only,
    step,
)
from evenload.core.flow import (
    NEXT,
    OF_GPU,
    PART,
    QUEUE,
    ROOM,
    TIME,
    Flow,
    FlowType,
    join,
    level,
    set_rooms,
    time_for,
)
from evenload.core.start import NEVER, NONE

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

GRID = 2.0**60  # what a layer's loads add up to; a flow is a whole number
SLACK = 44  # bits below a time: far more than rounding, far less than anyone can measure
COUNT, EACH = range(2)  # by expert: its replicas, and what each gets of an even split
COPIES = PART  # of `Flow.slot`, for the first of an expert on a GPU, which stands for all there
STANDS = QUEUE  # of `Flow.scratch`: that slot on each GPU, for one expert at a time
Slots = read_only(Int3)


@step(FlowType, read_only(Int1), read_only(Float1))
def _set_gpus(f: Flow, gpu_of_slot: IntArray, capacity: FloatArray) -> None:
    slot = np.int64(0)
    for g in range(capacity.size):
        f.first[g] = slot
        f.unit[g] = 1.0 / capacity[g]
        while slot < gpu_of_slot.size and gpu_of_slot[slot] == g:
            f.slot[OF_GPU, slot] = g
            slot += 1
    f.first[capacity.size] = slot


@step(FlowType, Slots, Int, Int)
def _join_all(f: Flow, slots: IntArray, layer: int, e: int) -> int:
    """Join the slots of an expert, one on each GPU that holds it; return how many there are."""
    count = np.int64(0)
    while count < slots.shape[2] and slots[layer, e, count] >= 0:
        f.scratch[STANDS, f.slot[OF_GPU, slots[layer, e, count]]] = NONE
        count += 1
    f.some[e] = NONE
    for x in range(count):
        slot = slots[layer, e, x]
        g = f.slot[OF_GPU, slot]
        if f.scratch[STANDS, g] == NONE:
            f.scratch[STANDS, g] = slot
            f.slot[COPIES, slot] = 0
            join(f, slot, e)
        else:
            f.slot[NEXT, slot] = slot
        f.slot[COPIES, f.scratch[STANDS, g]] += 1
    return count


@step(FlowType, Float2, Slots, Int, Float, Int2)
def _set_experts(
    f: Flow, load: FloatArray, slots: IntArray, layer: int, whole: float, expert: IntArray
) -> None:
    """Tell which slots are an expert's, and write loads as integers, the same at every scale.

    They add up to `whole`, but for rounding: each is a multiple of its replicas.
    """
    largest, total = 0.0, 0.0
    for e in range(expert.shape[1]):
        largest = max(largest, load[layer, e])
    for e in range(expert.shape[1]):
        total += load[layer, e] / largest if largest > 0.0 else 0.0
    for e in range(expert.shape[1]):
        count = _join_all(f, slots, layer, e)
        part = load[layer, e] / largest / total if largest > 0.0 else 0.0
        each = np.int64(np.rint(part * whole))
        expert[COUNT, e] = count
        expert[EACH, e] = each if count == 1 else each // count


@step(FlowType, Int2)
def _share_evenly(f: Flow, expert: IntArray) -> None:
    for g in range(f.unit.size):
        f.used[0, g] = 0
    for e in range(expert.shape[1]):
        slot = f.some[e]
        while True:
            f.sent[0, slot] = expert[EACH, e] * f.slot[COPIES, slot]
            f.used[0, f.slot[OF_GPU, slot]] += f.sent[0, slot]
            slot = f.slot[NEXT, slot]
            if slot == f.some[e]:
                break


@step(FlowType, Int)
def _move_directly(f: Flow, e: int) -> None:
    """Move an expert's tokens from GPUs that have too many to others that hold it, in one round."""
    ring, gpu, room = f.slot[NEXT], f.slot[OF_GPU], f.scratch[ROOM]
    first = f.some[e]
    gives = first
    takes = first
    while True:
        excess = min(f.used[0, gpu[gives]] - room[gpu[gives]], f.sent[0, gives])
        if excess <= 0:
            gives = ring[gives]
            if gives == first:
                return
            continue
        free = room[gpu[takes]] - f.used[0, gpu[takes]]
        if free <= 0:
            takes = ring[takes]
            if takes == first:
                return
            continue
        amount = min(excess, free)
        f.sent[0, gives] -= amount
        f.sent[0, takes] += amount
        f.used[0, gpu[gives]] -= amount
        f.used[0, gpu[takes]] += amount


@step(FlowType)
def _least_time(f: Flow) -> int:
    """Return the time of a load divided at will."""
    load = np.int64(0)
    for g in range(f.unit.size):
        f.tight[0, g] = 1 if f.unit[g] < np.inf else 0
        load += f.used[0, g]
    return time_for(f, 0, load)


@step(FlowType, Int2, Int, Int)
def _level_from_even(f: Flow, expert: IntArray, time: int, cut: int) -> bool:
    """Level an even split: first within each expert, all at once, which `level` is slow at."""
    _share_evenly(f, expert)
    set_rooms(f, time)
    for e in range(expert.shape[1]):
        if f.slot[NEXT, f.some[e]] != f.some[e]:
            _move_directly(f, e)
    return level(f, 0, time, cut)


@step(FlowType, Int2)
def _level(f: Flow, expert: IntArray) -> bool:
    """Move no more away from an even split than the best time takes, unless that is too large."""
    _share_evenly(f, expert)
    time = _least_time(f)
    time += (time >> SLACK) + 1
    if not _level_from_even(f, expert, time, NEVER - 1):
        return False
    if f.sample[TIME, 0] > time:
        time = f.sample[TIME, 0]
        _level_from_even(f, expert, time + (time >> SLACK) + 1, NEVER)
    return True


@step(FlowType, Int, Int)
def _is_even(f: Flow, e: int, each: int) -> bool:
    """Whether an expert's replicas get the same; note which slot stands for those of each GPU."""
    even = True
    slot = f.some[e]
    while True:
        f.scratch[STANDS, f.slot[OF_GPU, slot]] = slot
        even = even and f.sent[0, slot] == each * f.slot[COPIES, slot]
        slot = f.slot[NEXT, slot]
        if slot == f.some[e]:
            return even


@step(FlowType, Slots, Int, Int2, Float3)
def _write(f: Flow, slots: IntArray, layer: int, expert: IntArray, weights: FloatArray) -> None:
    """Divide what each GPU gets of an expert among the replicas that it holds."""
    for e in range(expert.shape[1]):
        count, each = expert[COUNT, e], expert[EACH, e]
        even = _is_even(f, e, each)
        for x in range(slots.shape[2]):
            weights[layer, e, x] = 1.0 / count if x < count else 0.0
            if x < count and not even:
                slot = f.scratch[STANDS, f.slot[OF_GPU, slots[layer, e, x]]]
                part = f.sent[0, slot] / f.slot[COPIES, slot]
                weights[layer, e, x] = part / (each * count)


@entry(Float2, Slots, read_only(Int1), read_only(Float1), Float3)
def split(
    load: FloatArray,
    logical_to_physical: IntArray,
    gpu_of_slot: IntArray,
    capacity: FloatArray,
    weights: FloatArray,
) -> None:
    """Find the weights of each expert's replicas that let the last GPU be done soonest.

    Takes the tokens of each expert [L, E], the slots of each [L, E, X], padded with -1 at the end,
    the GPU that each slot is on [S], and the speed of each GPU [G], 0 for one that is gone, which
    holds no expert. Writes the part of its expert's load that each replica gets [L, E, X]; even
    where nothing asks for else.
    """
    E, S, G = load.shape[1], gpu_of_slot.size, capacity.size
    f = Flow(
        np.zeros((5, S), np.int64), np.empty(E, np.int64), np.empty((1, S), np.int64),
        np.empty((1, G), np.int64), np.empty((1, G), np.int64), np.empty((5, 1), np.int64),
        np.empty((1, 0), np.int64), np.zeros((5, G), np.int64), np.empty(0), np.empty(0, np.int64),
        np.empty(G + 1, np.int64), np.empty(G),
    )  # fmt: skip
    expert = np.empty((2, E), np.int64)
    _set_gpus(f, gpu_of_slot, capacity)
    for layer in range(load.shape[0]):
        whole = GRID
        _set_experts(f, load, logical_to_physical, layer, whole, expert)
        while not _level(f, expert):  # slow GPUs have to bear a large part of all load
            whole /= 16.0
            _set_experts(f, load, logical_to_physical, layer, whole, expert)
        _write(f, logical_to_physical, layer, expert, weights)
