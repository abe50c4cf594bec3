"""One trial of the joint search: disturb a layer, descend, and judge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.fleet import Fleet, gpu_at
from evenload.kernels.fleet_swap import may_swap, swap
from evenload.kernels.handover import hand_over, may_hand_over
from evenload.kernels.random import random_below
from evenload.kernels.undo import Undo, keep

State = NDArray[np.uint64]


@kernel
def _nth_gpu_with(fleet: Fleet, e: int, n: int) -> int:
    """Return the n-th of the GPUs that hold an expert."""
    for g in range(fleet.slots.size):
        if fleet.held[e, g] > 0:
            if n == 0:
                return g
            n -= 1
    return -1


@kernel
def draw_handover(fleet: Fleet, state: State) -> tuple:
    """Draw a spare replica to give up, and an expert to get one: half the time of the last GPU.

    Returns
    -------
    place, gpu, taker : int
        Place of the replica in `fleet.spare`, its GPU and the expert that gets the slot; a place of
        -1 where what was drawn is not allowed.
    """
    place = random_below(state, fleet.spare.size)
    giver = fleet.spare[place]
    if random_below(state, 2) == 0:
        last = gpu_at(fleet, -1)
        taker = fleet.expert[last, random_below(state, fleet.slots[last])]
    else:
        taker = random_below(state, fleet.weight.size)
    gpu = _nth_gpu_with(fleet, giver, random_below(state, fleet.count[giver]))
    if gpu < 0 or not may_hand_over(fleet, giver, gpu, taker):
        return -1, -1, -1
    return place, gpu, taker


@kernel
def swap_at_random(fleet: Fleet, state: State, undo: Undo) -> int:
    """Exchange one or two random pairs of replicas of the last GPU and others.

    Returns
    -------
    int
        GPUs kept in `undo`.
    """
    G = fleet.slots.size
    kept = 0
    for _ in range(1 + random_below(state, 2)):
        m = gpu_at(fleet, -1)
        k = gpu_at(fleet, random_below(state, G - 1))
        i = random_below(state, fleet.slots[m])
        j = random_below(state, fleet.slots[k])
        if may_swap(fleet, m, i, k, j):
            kept = keep(undo, kept, fleet, m)
            kept = keep(undo, kept, fleet, k)
            swap(fleet, m, i, k, j)
    return kept


@kernel
def redo_count(fleet: Fleet, place: int, giver: int, taker: int) -> None:
    """Take the counts of a handover back; the slots are `undo.take_back`'s."""
    fleet.count[giver] += 1
    fleet.count[taker] -= 1
    fleet.spare[place] = giver


@kernel
def disturb(fleet: Fleet, state: State, undo: Undo) -> tuple:
    """Hand one replica over, or swap at random, each half the time.

    Returns
    -------
    kept, place, giver, taker : int
        GPUs kept in `undo`, and the handover for `redo_count`, of place -1 where there was none.
    """
    if fleet.spare.size == 0 or random_below(state, 2) == 0:
        return swap_at_random(fleet, state, undo), -1, -1, -1
    place, gpu, taker = draw_handover(fleet, state)
    if place < 0:
        return 0, -1, -1, -1
    giver = fleet.spare[place]
    kept = hand_over(fleet, giver, gpu, taker, undo, 0)
    fleet.spare[place] = taker
    return kept, place, giver, taker
