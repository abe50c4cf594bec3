"""What a placement does with a load: replicas, GPU loads, duplicates, moves.

GPU g has the slots from `first_slot[g]` up to `first_slot[g + 1]`; a slot with -1 holds nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@kernel
def count_replicas(physical_to_logical: Int, num_experts: int) -> Int:
    """Count the slots of each expert: [L, S] -> [L, E]."""
    L, S = physical_to_logical.shape
    count = np.zeros((L, num_experts), np.int64)
    for layer in range(L):
        for slot in range(S):
            expert = physical_to_logical[layer, slot]
            if expert >= 0:
                count[layer, expert] += 1
    return count


@kernel
def gpu_load(load: Float, physical_to_logical: Int, count: Int, first_slot: Int) -> Float:
    """Sum each GPU's slots in slot order, an expert's load shared evenly: [L, G]."""
    L = load.shape[0]
    G = first_slot.size - 1
    result = np.empty((L, G))
    for layer in range(L):
        share = load[layer] / count[layer]
        for gpu in range(G):
            total = 0.0
            for slot in range(first_slot[gpu], first_slot[gpu + 1]):
                expert = physical_to_logical[layer, slot]
                if expert >= 0:
                    total += share[expert]
            result[layer, gpu] = total
    return result


@kernel
def duplicates(physical_to_logical: Int, num_experts: int, first_slot: Int) -> Int:
    """Count the slots whose expert an earlier slot of the same GPU holds: [L]."""
    L = physical_to_logical.shape[0]
    G = first_slot.size - 1
    last_seen = np.full(num_experts, -1, np.int64)
    result = np.zeros(L, np.int64)
    for layer in range(L):
        for gpu in range(G):
            stamp = layer * G + gpu
            for slot in range(first_slot[gpu], first_slot[gpu + 1]):
                expert = physical_to_logical[layer, slot]
                if expert >= 0:
                    result[layer] += last_seen[expert] == stamp
                    last_seen[expert] = stamp
    return result


@kernel
def moves(before: Int, before_first: Int, after: Int, after_first: Int, num_experts: int) -> Int:
    """Count the (GPU, expert) pairs present after and absent before: [L, S], [L, S'] -> [L]."""
    L = before.shape[0]
    G = before_first.size - 1
    held = np.full(num_experts, -1, np.int64)
    result = np.zeros(L, np.int64)
    for layer in range(L):
        for gpu in range(G):
            stamp = layer * G + gpu
            for slot in range(before_first[gpu], before_first[gpu + 1]):
                if before[layer, slot] >= 0:
                    held[before[layer, slot]] = stamp
            for slot in range(after_first[gpu], after_first[gpu + 1]):
                expert = after[layer, slot]
                if expert >= 0 and held[expert] != stamp:
                    held[expert] = stamp
                    result[layer] += 1
    return result


@kernel
def heaviest_time(load_per_gpu: Float, capacity: Float) -> Float:
    """Return when the last GPU of each layer is done, load over capacity: [L, G] -> [L]."""
    L, G = load_per_gpu.shape
    result = np.zeros(L)
    for layer in range(L):
        for gpu in range(G):
            if capacity[gpu] > 0.0:
                result[layer] = max(result[layer], load_per_gpu[layer, gpu] / capacity[gpu])
    return result


@kernel
def balancedness(load_per_gpu: Float, capacity: Float) -> Float:
    """Return the least time there could be over the time there is: [L, G] -> [L].

    Where all GPUs are alike that is mean over max load; 1 where a layer is all zero.
    """
    L, G = load_per_gpu.shape
    result = np.ones(L)
    heaviest = heaviest_time(load_per_gpu, capacity)
    speed = capacity.sum()
    for layer in range(L):
        if heaviest[layer] > 0.0:
            # Divided first, so that loads near the largest float cannot overflow the sum.
            total = 0.0
            for gpu in range(G):
                total += load_per_gpu[layer, gpu] / heaviest[layer]
            result[layer] = min(total / speed, 1.0)
    return result
