"""Part two replicas of one expert that share a GPU, at the least cost in balance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.packs import Packs, rank_packs
from evenload.kernels.slots import sort_packs

Int = NDArray[np.int64]


@kernel
def _copies(expert: Int, pack: int, wanted: int) -> int:
    found = 0
    for i in range(expert.shape[1]):
        found += expert[pack, i] == wanted
    return found


@kernel
def _find_duplicate(expert: Int) -> tuple:
    """Return a pack and slot whose expert the pack holds before it, or (-1, -1)."""
    G, K = expert.shape
    last_seen = np.full(expert.max() + 1, -1, np.int64)
    for g in range(G):
        for i in range(K):
            if last_seen[expert[g, i]] == g:
                return g, i
            last_seen[expert[g, i]] = g
    return -1, -1


@kernel
def has_duplicate(expert: Int) -> bool:
    """Whether a pack holds an expert twice."""
    return _find_duplicate(expert)[0] >= 0


@kernel
def _best_exchange(share: Int, expert: Int, load: Int, g: int, i: int) -> tuple:
    """Find the slot that slot i of pack g should change places with, to have fewer duplicates."""
    G, K = expert.shape
    lightest = np.int64(2**62)
    best_k = -1
    best_j = -1
    for k in range(G):
        if k == g or _copies(expert, k, expert[g, i]) > 0:
            continue
        for j in range(K):
            new_in_g = _copies(expert, g, expert[k, j]) > 0
            old_in_k = _copies(expert, k, expert[k, j]) > 1
            if new_in_g and not old_in_k:
                continue
            change = share[g, i] - share[k, j]
            heavier = max(load[g] - change, load[k] + change)
            if heavier < lightest:
                lightest = heavier
                best_k = k
                best_j = j
    return best_k, best_j


@kernel
def deduplicate(packs: Packs) -> None:
    """Exchange slots until no pack holds an expert twice.

    Where no expert has more replicas than there are packs it always succeeds: a pack k without
    expert e exists, and if all of k's experts were in pack g as well, k would hold one of them
    twice, since g has one expert fewer than slots; handing that one over parts a pair too.

    Parameters
    ----------
    packs : Packs
        Slots and loads are changed in place; they need not be sorted and are not afterwards, and
        the ranking is left as it was.
    """
    share, expert, load = packs.share, packs.expert, packs.load
    while True:
        g, i = _find_duplicate(expert)
        if g < 0:
            return
        k, j = _best_exchange(share, expert, load, g, i)
        if k < 0:  # more replicas than packs: cannot be helped
            return
        change = share[g, i] - share[k, j]
        load[g] -= change
        load[k] += change
        share[g, i], share[k, j] = share[k, j], share[g, i]
        expert[g, i], expert[k, j] = expert[k, j], expert[g, i]


@kernel
def part(packs: Packs) -> None:
    """Part all duplicates of a layer, and bring its slots and ranking in order."""
    deduplicate(packs)
    sort_packs(packs.share, packs.expert)
    rank_packs(packs)
