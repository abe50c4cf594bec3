"""What a placement does with a load: replicas, GPU loads, duplicates, moves."""

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
            count[layer, physical_to_logical[layer, slot]] += 1
    return count


@kernel
def gpu_load(load: Float, physical_to_logical: Int, count: Int, num_gpus: int) -> Float:
    """Sum each GPU's slots in slot order, an expert's load shared evenly: [L, G]."""
    L, S = physical_to_logical.shape
    K = S // num_gpus
    result = np.empty((L, num_gpus))
    for layer in range(L):
        share = load[layer] / count[layer]
        for gpu in range(num_gpus):
            total = 0.0
            for slot in range(gpu * K, (gpu + 1) * K):
                total += share[physical_to_logical[layer, slot]]
            result[layer, gpu] = total
    return result


@kernel
def duplicates(physical_to_logical: Int, num_experts: int, num_gpus: int) -> Int:
    """Count the slots whose expert an earlier slot of the same GPU holds: [L]."""
    L, S = physical_to_logical.shape
    K = S // num_gpus
    last_seen = np.full(num_experts, -1, np.int64)
    result = np.zeros(L, np.int64)
    for layer in range(L):
        for gpu in range(num_gpus):
            stamp = layer * num_gpus + gpu
            for slot in range(gpu * K, (gpu + 1) * K):
                expert = physical_to_logical[layer, slot]
                result[layer] += last_seen[expert] == stamp
                last_seen[expert] = stamp
    return result


@kernel
def moves(before: Int, after: Int, num_experts: int, num_gpus: int) -> Int:
    """Count the (GPU, expert) pairs present after and absent before: [L, S], [L, S'] -> [L]."""
    L, S_after = after.shape
    S_before = before.shape[1]
    K_before, K_after = S_before // num_gpus, S_after // num_gpus
    held = np.full(num_experts, -1, np.int64)
    result = np.zeros(L, np.int64)
    for layer in range(L):
        for gpu in range(num_gpus):
            stamp = layer * num_gpus + gpu
            for slot in range(gpu * K_before, (gpu + 1) * K_before):
                held[before[layer, slot]] = stamp
            for slot in range(gpu * K_after, (gpu + 1) * K_after):
                expert = after[layer, slot]
                if held[expert] != stamp:
                    held[expert] = stamp
                    result[layer] += 1
    return result


@kernel
def balancedness(load_per_gpu: Float) -> Float:
    """Mean over max of each row, 1 where the row is all zero: [L, G] -> [L]."""
    L, G = load_per_gpu.shape
    result = np.ones(L)
    for layer in range(L):
        heaviest = load_per_gpu[layer].max()
        if heaviest > 0.0:
            # Divided first, so that loads near the largest float cannot overflow the sum.
            total = 0.0
            for gpu in range(G):
                total += load_per_gpu[layer, gpu] / heaviest
            result[layer] = min(total / G, 1.0)
    return result
