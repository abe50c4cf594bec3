"""Duplicates parted before the search: it makes none, and so would keep what there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel
from evenload.kernels.sampled import NONE, Sampled
from evenload.kernels.sampled_handover import hand_over, handover_peak, may_hand_over
from evenload.kernels.sampled_swap import NEVER

Int = NDArray[np.int64]


@inlined
def place_of(state: Sampled, giver: int) -> int:
    """Return where an expert is in the list of spares, -1 if it has one replica only."""
    for place in range(state.spare.size):
        if state.spare[place] == giver:
            return place
    return NONE


@kernel
def _best_taker(state: Sampled, giver: int, gpu: int, row: Int) -> int:
    """Return the expert that a slot helps most, one that costs no move if there is any."""
    best = NONE
    lowest = NEVER
    best_old = 0
    for taker in range(state.count.size):
        if not may_hand_over(state, giver, gpu, taker):
            continue
        old = state.old[taker, gpu]
        peak = handover_peak(state, giver, gpu, taker, row)
        if old > best_old or (old == best_old and peak < lowest):
            best, best_old, lowest = taker, old, peak
    return best


@kernel
def part_duplicates(state: Sampled, most: int, row: Int) -> None:
    """Give the second slot of an expert on a GPU to another expert, while moves are left."""
    for g in range(state.slots.size):
        for i in range(state.slots[g]):
            giver = state.expert[g, i]
            if state.held[giver, g] < 2:
                continue
            taker = _best_taker(state, giver, g, row)
            if taker == NONE or (state.moves[0] >= most and state.old[taker, g] == 0):
                continue
            state.spare[place_of(state, giver)] = taker
            hand_over(state, giver, g, taker)
