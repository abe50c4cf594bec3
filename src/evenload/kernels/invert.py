"""From slots to the replicas of each expert; a slot with -1 holds nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]


@kernel
def rank_by_slot(physical_to_logical: Int, num_experts: int) -> Int:
    """Rank the replicas of each expert by slot: [L, S] -> [L, S]."""
    L, S = physical_to_logical.shape
    rank = np.empty((L, S), np.int64)
    seen = np.zeros(num_experts, np.int64)
    for layer in range(L):
        seen[:] = 0
        for slot in range(S):
            expert = physical_to_logical[layer, slot]
            if expert < 0:
                rank[layer, slot] = -1
                continue
            rank[layer, slot] = seen[expert]
            seen[expert] += 1
    return rank


@kernel
def invert(physical_to_logical: Int, rank: Int, num_experts: int, most: int) -> Int:
    """List the slots of each expert by replica rank, padded with -1: [L, S] -> [L, E, most]."""
    L, S = physical_to_logical.shape
    result = np.full((L, num_experts, most), -1, np.int64)
    for layer in range(L):
        for slot in range(S):
            if physical_to_logical[layer, slot] >= 0:
                result[layer, physical_to_logical[layer, slot], rank[layer, slot]] = slot
    return result
