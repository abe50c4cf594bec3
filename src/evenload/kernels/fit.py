"""What runs now, made a whole placement again where GPUs or slots came or went."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]

NONE = -1


@kernel
def _lightest(e: int, row: Int, first: Int, count: Int, load: Float, time: Float, unit: Int) -> int:
    """Return an empty slot for an expert on the GPU that is done first and lacks it, or -1."""
    best = NONE
    soonest = np.inf
    for g in range(unit.size):
        empty = NONE
        lacks = True
        for slot in range(first[g], first[g + 1]):
            lacks = lacks and row[slot] != e
            if row[slot] == NONE and empty == NONE:
                empty = slot
        if empty != NONE and lacks and time[g] < soonest:
            soonest = time[g]
            best = empty
    return best


@kernel
def _spare_slot(row: Int, count: Int, load: Float) -> int:
    """Return the slot of the redundant replica that is missed least, or -1."""
    best = NONE
    for slot in range(row.size):
        e = row[slot]
        if e == NONE or count[e] < 2:
            continue
        if best == NONE or load[e] / (count[e] - 1) < load[row[best]] / (count[row[best]] - 1):
            best = slot
    return best


@kernel
def _busiest_absent(row: Int, start: int, end: int, count: Int, load: Float) -> int:
    """Return the expert with the largest share that a GPU lacks, or of all if it has them all."""
    best = NONE
    best_lacks = False
    for e in range(load.size):
        lacks = True
        for slot in range(start, end):
            lacks = lacks and row[slot] != e
        better = best == NONE or load[e] * count[best] > load[best] * count[e]
        if (lacks and not best_lacks) or (lacks == best_lacks and better):
            best = e
            best_lacks = lacks
    return best


@kernel
def fit(load: Float, slots: Int, unit_time: Int, physical_to_logical: Int) -> None:
    """Fill the empty slots of each layer, experts without a slot first.

    Such an expert goes to the GPU that is done first, and where no slot is empty it takes the slot
    of the redundant replica that is missed least. The slots that remain go to the expert with the
    largest share that their GPU lacks.

    Parameters
    ----------
    load : float64, [L, E]
        Tokens of each expert.
    slots, unit_time : int64, [G]
        Slots of each GPU, and the time that one unit of load takes it.
    physical_to_logical : int64, [L, S]
        What runs, -1 in empty slots, and the result: the slots of the GPUs one after the other.
    """
    L, E = load.shape
    G = slots.size
    first = np.zeros(G + 1, np.int64)
    first[1:] = np.cumsum(slots)
    count = np.empty(E, np.int64)
    time = np.empty(G)
    for layer in range(L):
        row = physical_to_logical[layer]
        count[:] = 0
        for slot in range(row.size):
            if row[slot] != NONE:
                count[row[slot]] += 1
        for g in range(G):
            time[g] = 0.0
            for slot in range(first[g], first[g + 1]):
                if row[slot] != NONE:
                    time[g] += load[layer, row[slot]] / count[row[slot]] * unit_time[g]
        for e in np.argsort(-load[layer], kind="mergesort"):
            if count[e] > 0:
                continue
            slot = _lightest(e, row, first, count, load[layer], time, unit_time)
            if slot == NONE:
                slot = _spare_slot(row, count, load[layer])
                count[row[slot]] -= 1
            row[slot] = e
            count[e] = 1
            g = np.searchsorted(first, slot, side="right") - 1
            time[g] += load[layer, e] * unit_time[g]
        for g in range(G):
            for slot in range(first[g], first[g + 1]):
                if row[slot] == NONE:
                    e = _busiest_absent(row, first[g], first[g + 1], count, load[layer])
                    row[slot] = e
                    count[e] += 1
