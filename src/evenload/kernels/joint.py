"""Replicas and placement searched together: what `solver="joint"` runs on every layer.

Iterated local search in the spirit of the iterated greedy: a trial hands a spare replica from one
expert to another, or swaps replicas of the last GPU at random, and descends by best swaps; it
stays unless the last GPU is done later than before. A step costs what it touches. Where trials
stand still, the layer is shaken and searched anew.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.fleet import Fleet, copy_out, fill, new_fleet, time_at
from evenload.kernels.fleet_swap import descend
from evenload.kernels.grid import relative_grid
from evenload.kernels.random import SEED
from evenload.kernels.trial import disturb, redo_count
from evenload.kernels.undo import Undo, forget, new_undo, take_back

Int = NDArray[np.int64]
Float = NDArray[np.float64]
State = NDArray[np.uint64]

MOST_SWAPS = 50  # of one trial
SWAPS_A_GPU = 20  # ends the first descent if it crawls; far beyond what one needs
PATIENCE = 4  # a search ends when this share of its trials brought nothing
SMALL = 4096  # trials times slots: a search of few slots is cheap, and ends no sooner
LEAST_GAIN = 1e-5
SHAKES = 4  # disturbances that stay, whatever they cost


@kernel
def _cost(fleet: Fleet, price: float) -> int:
    """When the last GPU is done, and what the load away from home costs in the same unit."""
    return time_at(fleet, -1) + np.int64(price * fleet.away[0])


@kernel
def _try(
    fleet: Fleet, mean: int, goal: int, price: float, best: int, state: State, undo: Undo
) -> int:
    """Do one trial, and return the cost after it, which is at most `best`."""
    kept, place, giver, taker = disturb(fleet, state, undo)
    kept = descend(fleet, mean, goal, MOST_SWAPS, undo, kept)
    now = _cost(fleet, price)
    if now <= best:
        forget(undo, kept)
        return now
    take_back(undo, kept, fleet)
    if place >= 0:
        redo_count(fleet, place, giver, taker)
    return best


@kernel
def _settle(fleet: Fleet, mean: int, goal: int, price: float, undo: Undo) -> int:
    """Descend from the start, unless what that moves away from home costs more than it gains."""
    before = _cost(fleet, price)
    kept = descend(fleet, mean, goal, SWAPS_A_GPU * fleet.slots.size, undo, 0)
    now = _cost(fleet, price)
    if now <= before:
        forget(undo, kept)
        return now
    take_back(undo, kept, fleet)
    return before


@kernel
def _keep_better(fleet: Fleet, now: int, best: int, kept: Int) -> int:
    """Bring the fleet and the slots kept to the better of the two; return its cost."""
    if now < best:
        copy_out(fleet, kept)
        return now
    fill(fleet, kept)
    return best


@kernel
def _shake(fleet: Fleet, price: float, state: State, undo: Undo) -> int:
    """Disturb a layer where trials stand still, and return the cost after it."""
    for _ in range(SHAKES):
        kept, _, _, _ = disturb(fleet, state, undo)
        forget(undo, kept)
    return _cost(fleet, price)


@kernel
def search(fleet: Fleet, mean: int, goal: int, price: float, trials: int, undo: Undo) -> None:
    """Search from the state of a fleet; the cost is never higher in the end.

    Where as many trials as there are replicas to hand over gained nothing, the layer is disturbed
    for good, and the search goes on from there; the best of these states is the result.

    Parameters
    ----------
    fleet : Fleet
        Changed in place.
    mean, goal : int
        The time of all GPUs if the load could be divided at will, and the time of the last one
        that is good enough.
    price : float
        Time that one unit of load away from its home costs.
    trials : int
        Disturbances to try at most; the search ends sooner at the goal, or when a quarter of them
        in a row gained less than 1e-5 of the mean.
    undo : Undo, scratch
    """
    state = np.full(1, SEED)
    now = _settle(fleet, mean, goal, price, undo)
    if fleet.slots.size == 1:
        return
    S = fleet.slots.sum()
    kept = np.empty(S, np.int64)
    best = now + 1  # cost of the slots kept: none yet
    standstill = fleet.spare.size * fleet.weight.size + S  # about as many trials as handovers
    patience = max(trials // PATIENCE, SMALL // S)
    mark = now
    still = 0
    for trial in range(trials):
        if min(now, best) <= goal and fleet.away[0] == 0:
            break
        before = now
        now = _try(fleet, mean, goal, price, before, state, undo)
        still = 0 if now < before else still + 1
        if still == standstill:
            best = _keep_better(fleet, now, best, kept)
            now = _shake(fleet, price, state, undo)
            still = 0
        if trial % patience == patience - 1:
            if mark - min(now, best) < LEAST_GAIN * mean:
                break
            mark = min(now, best)
    if best < now:
        fill(fleet, kept)


@kernel
def joint(
    load: Float,
    bits: int,
    slots: Int,
    unit_time: Int,
    node: Int,
    home: Int,
    price: float,
    goal: Float,
    trials: int,
    physical_to_logical: Int,
) -> None:
    """Improve a placement of each layer.

    Parameters
    ----------
    load : float64, [L, E]
        Tokens of each expert.
    bits : int
        Bits of the integer grid that hold one expert's load.
    slots, unit_time, node : int64, [G]
        Slots of each GPU, the time it takes for a unit of load, and its node.
    home : int64, [L, E]
        Node that has to hold a replica of each expert, -1 for none.
    price : float
        What one token costs that is computed away from home, in tokens spread over all GPUs.
    goal : float64, [L]
        Time of the last GPU that is good enough, over that of a load divided at will.
    trials : int
        Disturbances of one layer.
    physical_to_logical : int64, [L, S]
        The start, and the result: the slots of the GPUs one after the other.
    """
    L, E = load.shape
    fleet = new_fleet(E, slots, unit_time, node)
    undo = new_undo(slots.size, slots.max())
    speed = 0.0
    for g in range(slots.size):
        speed += 1.0 / unit_time[g]
    for layer in range(L):
        relative_grid(load[layer], bits, fleet.weight)
        fleet.home[:] = home[layer]
        fill(fleet, physical_to_logical[layer])
        mean = fleet.load.sum() / speed
        enough = int(mean * goal[layer])
        search(fleet, int(mean), enough, price / speed, trials, undo)
        copy_out(fleet, physical_to_logical[layer])
