"""The slots of packs: `share` and `expert` [G, K], each pack's slots by descending share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Number = NDArray[Any]


@kernel
def replace_slot(share: Number, expert: Int, pack: int, slot: int, weight: Any, e: int) -> None:
    """Put a replica in place of the one in a slot, and keep the pack sorted."""
    K = share.shape[1]
    i = slot
    while i > 0 and share[pack, i - 1] < weight:
        share[pack, i] = share[pack, i - 1]
        expert[pack, i] = expert[pack, i - 1]
        i -= 1
    while i < K - 1 and share[pack, i + 1] > weight:
        share[pack, i] = share[pack, i + 1]
        expert[pack, i] = expert[pack, i + 1]
        i += 1
    share[pack, i] = weight
    expert[pack, i] = e


@kernel
def exchange(share: Number, expert: Int, m: int, i: int, k: int, j: int) -> None:
    """Exchange slot i of pack m with slot j of pack k, and keep both sorted."""
    weight_m, weight_k = share[m, i], share[k, j]
    expert_m, expert_k = expert[m, i], expert[k, j]
    replace_slot(share, expert, m, i, weight_k, expert_k)
    replace_slot(share, expert, k, j, weight_m, expert_m)


@kernel
def sort_packs(share: Number, expert: Int) -> None:
    """Sort each pack's slots by descending share (stable)."""
    G, K = share.shape
    for g in range(G):
        for i in range(1, K):
            weight, e = share[g, i], expert[g, i]
            j = i
            while j > 0 and share[g, j - 1] < weight:
                share[g, j] = share[g, j - 1]
                expert[g, j] = expert[g, j - 1]
                j -= 1
            share[g, j] = weight
            expert[g, j] = e


@kernel
def slot_of(expert: Int, pack: int, wanted: int) -> int:
    """Return the first slot of a pack that holds an expert, or -1."""
    for i in range(expert.shape[1]):
        if expert[pack, i] == wanted:
            return i
    return -1


@kernel
def fits(expert: Int, m: int, i: int, k: int, j: int) -> bool:
    """Whether neither pack would hold an expert twice after slot i of m and j of k change."""
    return slot_of(expert, k, expert[m, i]) < 0 and slot_of(expert, m, expert[k, j]) < 0
