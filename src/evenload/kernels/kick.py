"""Iterated local search: disturb a layer where descent stands still, descend again, keep the best.

A disturbance is one or two random swaps of the heaviest pack. What makes the heaviest pack no
lighter in the end is taken back swap by swap, so that a step costs what it touches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.descend import descend
from evenload.kernels.packs import Packs, heaviest_load, pack_at
from evenload.kernels.pair_swap import pair_descend
from evenload.kernels.random import SEED, random_below
from evenload.kernels.slots import fits, slot_of
from evenload.kernels.swap import swap

Int = NDArray[np.int64]

MOST_SWAPS = 24  # swaps after one disturbance before it is judged


@kernel
def _disturb(packs: Packs, log: Int, state: NDArray[np.uint64]) -> int:
    G, K = packs.share.shape
    logged = 0
    for _ in range(1 + random_below(state, 2)):
        m = pack_at(packs, -1)
        k = pack_at(packs, random_below(state, G - 1))
        i = random_below(state, K)
        j = random_below(state, K)
        if fits(packs.expert, m, i, k, j):
            log[logged] = (m, packs.expert[m, i], k, packs.expert[k, j])
            logged += 1
            swap(packs, m, i, k, j)
    return logged


@kernel
def _undo(packs: Packs, log: Int, logged: int) -> None:
    for entry in range(logged - 1, -1, -1):
        m, e, k, f = log[entry]
        i = slot_of(packs.expert, m, f)
        j = slot_of(packs.expert, k, e)
        swap(packs, m, i, k, j)


@kernel
def kick(packs: Packs, mean: int, goal: int, most_pairs: int) -> None:
    """Disturb and descend until the goal or the effort is reached; never ends heavier.

    Parameters are those of `descend.descend`; the layer needs at least two packs. Every layer
    draws the same random numbers, so results do not depend on how layers are spread over threads.
    """
    log = np.empty((MOST_SWAPS, 4), np.int64)
    state = np.full(1, SEED)
    best = heaviest_load(packs)
    pairs = 0
    while pairs < most_pairs and best > goal:
        logged = _disturb(packs, log, state)
        looked, logged = descend(packs, mean, goal, most_pairs, log, logged)
        pairs += looked + 1
        looked, logged = pair_descend(packs, mean, goal, most_pairs, log, logged)
        pairs += looked
        now = heaviest_load(packs)
        if now <= best:
            best = now
        else:
            _undo(packs, log, logged)
