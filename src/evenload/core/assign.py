"""Which replica each active expert of a batch uses, so that the fullest GPU has least to do.

Where GPUs count active experts, this is a flow of whole units. From the fullest GPU a way is
searched, breadth first, that passes experts on to other holders until one has room for one more;
where there is none, the GPUs that were reached hold every replica of what they have, and no choice
gives all of them less. So the first fullest GPU without a way proves the choice to be the best one.

Where experts take different times this is scheduling on restricted machines, which is NP-hard.
There it is longest first, or the choice by count, whichever ends up lower after improvements by one
expert, or by one expert and another that makes room for it.

The aim, fewest active experts on the fullest GPU, is that of METRO (arXiv 2512.09277).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import (
    Bool,
    Float1,
    Float2,
    Int,
    Int1,
    Int2,
    Int3,
    entry,
    read_only,
    step,
)
from evenload.core.start import NONE

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Slots, Ticks, Gpus, Units = read_only(Int3), read_only(Int3), read_only(Int1), read_only(Float1)

QUEUE, EXPERT, REPLICA = range(3)  # of `way`, [3, G]: GPUs in order, and by what each was reached
CHOSEN, LISTED = range(2)  # of `expert`, [2, E]: the replica used, and experts with several


@step(Slots, Int, Gpus, Int2, Int2)
def _set_layer(
    slots: IntArray, layer: int, gpu_of_slot: IntArray, gpu: IntArray, expert: IntArray
) -> int:
    """Write the GPU of each replica [E, X], -1 for none; list the experts with several."""
    n = np.int64(0)
    for e in range(slots.shape[1]):
        for x in range(slots.shape[2]):
            slot = slots[layer, e, x]
            gpu[e, x] = NONE if slot < 0 else gpu_of_slot[slot]
        if slots.shape[2] > 1 and gpu[e, 1] != NONE:
            expert[LISTED, n] = e
            n += 1
    return n


@step(Ticks, Int, Int, Bool, Int)
def _time(ticks: IntArray, layer: int, b: int, by_count: bool, e: int) -> int:
    """Return what an expert takes: 1 if it is active, where experts are counted."""
    return min(ticks[layer, b, e], 1) if by_count else ticks[layer, b, e]


@step(Int2, Units, Int1, Int, Int)
def _least_loaded(gpu: IntArray, unit: FloatArray, load: IntArray, e: int, time: int) -> int:
    """Return the replica whose GPU is done soonest with an expert more; the first of equals."""
    best, soonest = np.int64(0), np.inf
    for x in range(gpu.shape[1]):
        if gpu[e, x] == NONE:
            break
        done = (load[gpu[e, x]] + time) * unit[gpu[e, x]]
        if done < soonest:
            best, soonest = x, done
    return best


@step(Ticks, Int, Int, Bool, Int2, Int2, Int1)
def _weigh(
    ticks: IntArray, layer: int, b: int, by_count: bool, gpu: IntArray, expert: IntArray,
    load: IntArray,
) -> None:  # fmt: skip
    """Add up what each GPU has to do."""
    for g in range(load.size):
        load[g] = 0
    for e in range(gpu.shape[0]):
        load[gpu[e, expert[CHOSEN, e]]] += _time(ticks, layer, b, by_count, e)


@step(Units, Int1)
def _fullest(unit: FloatArray, load: IntArray) -> int:
    """Return the GPU that is done last, the first of equals."""
    last, latest = np.int64(0), -1.0
    for g in range(load.size):
        if load[g] > 0 and load[g] * unit[g] > latest:
            last, latest = g, load[g] * unit[g]
    return last


@step(Ticks, Int, Int, Int2, Int2, Int, Units, Int1, Int2)
def _pass_one_on(
    ticks: IntArray, layer: int, b: int, gpu: IntArray, expert: IntArray, listed: int,
    unit: FloatArray, load: IntArray, way: IntArray,
) -> bool:  # fmt: skip
    """Take an active expert off the fullest GPU; tell whether that was possible."""
    start = _fullest(unit, load)
    latest = load[start] * unit[start]
    for g in range(load.size):
        way[EXPERT, g] = NONE
    way[QUEUE, 0] = start
    n = 0
    end = 1
    while n < end:
        g = way[QUEUE, n]
        n += 1
        for i in range(listed):
            e = expert[LISTED, i]
            if gpu[e, expert[CHOSEN, e]] != g or ticks[layer, b, e] == 0:
                continue
            for x in range(gpu.shape[1]):
                k = gpu[e, x]
                if k == NONE:
                    break
                if k == start or way[EXPERT, k] != NONE:
                    continue
                way[EXPERT, k] = e
                way[REPLICA, k] = x
                if (load[k] + 1) * unit[k] < latest:
                    load[k] += 1
                    load[start] -= 1
                    while k != start:
                        e = way[EXPERT, k]
                        before = gpu[e, expert[CHOSEN, e]]
                        expert[CHOSEN, e] = way[REPLICA, k]
                        k = before
                    return True
                way[QUEUE, end] = k
                end += 1
    return False


@step(Ticks, Int, Int, Int2, Int2, Int, Units, Int1, Int2)
def _by_count(
    ticks: IntArray, layer: int, b: int, gpu: IntArray, expert: IntArray, listed: int,
    unit: FloatArray, load: IntArray, way: IntArray,
) -> None:  # fmt: skip
    """Choose replicas so that the fullest GPU has the fewest active experts."""
    for e in range(gpu.shape[0]):
        expert[CHOSEN, e] = 0
    _weigh(ticks, layer, b, True, gpu, expert, load)
    for i in range(listed):
        e = expert[LISTED, i]
        if ticks[layer, b, e] > 0:
            load[gpu[e, 0]] -= 1
            expert[CHOSEN, e] = _least_loaded(gpu, unit, load, e, 1)
            load[gpu[e, expert[CHOSEN, e]]] += 1
    while _pass_one_on(ticks, layer, b, gpu, expert, listed, unit, load, way):
        pass


@step(Ticks, Int, Int, read_only(Int3), Int2, Int2, Units, Int1)
def _longest_first(
    ticks: IntArray, layer: int, b: int, order: IntArray, gpu: IntArray, expert: IntArray,
    unit: FloatArray, load: IntArray,
) -> None:  # fmt: skip
    """Give every expert in turn, that with most time first, to the GPU that is done soonest."""
    for g in range(load.size):
        load[g] = 0
    for i in range(gpu.shape[0]):
        e = order[layer, b, i]
        expert[CHOSEN, e] = 0
        if ticks[layer, b, e] > 0:
            expert[CHOSEN, e] = _least_loaded(gpu, unit, load, e, ticks[layer, b, e])
        load[gpu[e, expert[CHOSEN, e]]] += ticks[layer, b, e]


@step(Ticks, Int, Int, Int2, Int2, Int, Units, Int1)
def _move_best(
    ticks: IntArray, layer: int, b: int, gpu: IntArray, expert: IntArray, listed: int,
    unit: FloatArray, load: IntArray,
) -> bool:  # fmt: skip
    """Take an expert off the fullest GPU, and perhaps another off where it goes; tell if any."""
    start = _fullest(unit, load)
    least = load[start] * unit[start]
    found = False
    first, first_to, second, second_to = NONE, NONE, NONE, NONE
    for i in range(listed):
        e = expert[LISTED, i]
        time = ticks[layer, b, e]
        if gpu[e, expert[CHOSEN, e]] != start or time == 0:
            continue
        for x in range(gpu.shape[1]):
            k = gpu[e, x]
            if k == NONE:
                break
            if k == start:
                continue
            left, full = (load[start] - time) * unit[start], load[k] + time
            done = max(left, full * unit[k])
            if done < least:
                least, found = done, True
                first, first_to, second = e, x, NONE
            for j in range(listed):
                f = expert[LISTED, j]
                other = ticks[layer, b, f]
                if f == e or gpu[f, expert[CHOSEN, f]] != k or other == 0:
                    continue
                if (full - other) * unit[k] >= least:
                    continue
                for y in range(gpu.shape[1]):
                    h = gpu[f, y]
                    if h == NONE:
                        break
                    if h == k:
                        continue
                    more = load[h] + other - (time if h == start else 0)
                    done = max(more * unit[h], (full - other) * unit[k])
                    done = max(done, left) if h != start else done
                    if done < least:
                        least, found = done, True
                        first, first_to, second, second_to = e, x, f, y
    if found:
        _move(ticks, layer, b, gpu, expert, load, first, first_to)
        if second != NONE:
            _move(ticks, layer, b, gpu, expert, load, second, second_to)
    return found


@step(Ticks, Int, Int, Int2, Int2, Int1, Int, Int)
def _move(
    ticks: IntArray, layer: int, b: int, gpu: IntArray, expert: IntArray, load: IntArray, e: int,
    x: int,
) -> None:  # fmt: skip
    load[gpu[e, expert[CHOSEN, e]]] -= ticks[layer, b, e]
    expert[CHOSEN, e] = x
    load[gpu[e, x]] += ticks[layer, b, e]


@step(Units, Int1)
def _latest(unit: FloatArray, load: IntArray) -> float:
    g = _fullest(unit, load)
    return load[g] * unit[g] if load[g] > 0 else 0.0


@entry(Ticks, Slots, Gpus, Units, Int3, Int2, Float2)
def choose_by_count(
    ticks: IntArray, slots: IntArray, gpu_of_slot: IntArray, unit: FloatArray, chosen: IntArray,
    total: IntArray, latest: FloatArray,
) -> None:  # fmt: skip
    """Choose the replica of each expert so that the fullest GPU has the fewest active experts.

    Parameters
    ----------
    ticks : int64, [L, B, E]
        What each expert takes in every batch; those above 0 are active.
    slots : int64, [L, E, X]
        Slots of each expert, padded with -1.
    gpu_of_slot : int64, [S]
    unit : float64, [G]
        What one active expert takes a GPU, 1 on the fastest; infinite for one that is gone.
    chosen : int64, [L, B, E], output
        Which of its replicas each expert uses; 0 for those that are not active.
    total : int64, [L, G], output
        Active experts of each GPU, over all batches.
    latest : float64, [L, B], output
        What the fullest GPU takes.
    """
    E, X, G = slots.shape[1], slots.shape[2], unit.size
    gpu, expert = np.empty((E, X), np.int64), np.empty((2, E), np.int64)
    load, way = np.empty(G, np.int64), np.empty((3, G), np.int64)
    for layer in range(slots.shape[0]):
        listed = _set_layer(slots, layer, gpu_of_slot, gpu, expert)
        for b in range(ticks.shape[1]):
            _by_count(ticks, layer, b, gpu, expert, listed, unit, load, way)
            latest[layer, b] = _latest(unit, load)
            for e in range(E):
                chosen[layer, b, e] = expert[CHOSEN, e]
            for g in range(G):
                total[layer, g] += load[g]


@entry(Ticks, read_only(Int3), Slots, Gpus, Units, Int3, Int2, Float2)
def choose_by_time(
    ticks: IntArray, order: IntArray, slots: IntArray, gpu_of_slot: IntArray, unit: FloatArray,
    chosen: IntArray, total: IntArray, latest: FloatArray,
) -> None:  # fmt: skip
    """Choose the replica of each expert so that the last GPU is done early.

    Never later than as `choose_by_count` chooses. Parameters are those; `order` [L, B, E] are the
    experts by falling ticks, and `total` and `latest` are in ticks.
    """
    E, X, G = slots.shape[1], slots.shape[2], unit.size
    gpu, expert = np.empty((E, X), np.int64), np.empty((2, E), np.int64)
    load, way = np.empty(G, np.int64), np.empty((3, G), np.int64)
    for layer in range(slots.shape[0]):
        listed = _set_layer(slots, layer, gpu_of_slot, gpu, expert)
        for b in range(ticks.shape[1]):
            _by_count(ticks, layer, b, gpu, expert, listed, unit, load, way)
            _weigh(ticks, layer, b, False, gpu, expert, load)
            while _move_best(ticks, layer, b, gpu, expert, listed, unit, load):
                pass
            latest[layer, b] = _latest(unit, load)
            for e in range(E):
                chosen[layer, b, e] = expert[CHOSEN, e]
            _longest_first(ticks, layer, b, order, gpu, expert, unit, load)
            while _move_best(ticks, layer, b, gpu, expert, listed, unit, load):
                pass
            if _latest(unit, load) < latest[layer, b]:
                latest[layer, b] = _latest(unit, load)
                for e in range(E):
                    chosen[layer, b, e] = expert[CHOSEN, e]
            for e in range(E):
                total[layer, gpu[e, chosen[layer, b, e]]] += ticks[layer, b, e]
