"""What a placement does with a load: replicas, GPU loads, balancedness, moves.

GPU g has the slots from ``first_slot[g]`` up to ``first_slot[g + 1]``; a slot with -1 holds
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.core.compile import (
    Flag1,
    Float1,
    Float2,
    Float3,
    Int,
    Int1,
    Int2,
    Int3,
    entry,
    read_only,
)


@entry(read_only(Int2), read_only(Flag1), Int2)
def count_replicas(physical_to_logical: Any, living: Any, count: Any) -> Any:
    """Count the slots of each expert, [L, S] -> [L, E], and find one that is filled wrongly.

    A slot holds an expert where it is `living` [S], else -1. Returns the place ``layer * S + slot``
    of the first that does not, where counting ends; -1 if there is none.
    """
    L, S = physical_to_logical.shape
    E = count.shape[1]
    for layer in range(L):
        for e in range(E):
            count[layer, e] = 0
        for slot in range(S):
            e = physical_to_logical[layer, slot]
            if living[slot] and 0 <= e < E:
                count[layer, e] += 1
            elif living[slot] or e != -1:
                return layer * S + slot
    return -1


@entry(read_only(Int2), read_only(Int2), Int3)
def invert(physical_to_logical: Any, rank: Any, logical_to_physical: Any) -> None:
    """List the slots of each expert, padded with -1: [L, S] -> [L, E, X].

    By `rank` [L, S], which replica of its expert each slot is; by slot where that is [0, 0].
    """
    L, S = physical_to_logical.shape
    E, X = logical_to_physical.shape[1], logical_to_physical.shape[2]
    seen = np.empty(E, np.int64)
    for layer in range(L):
        for e in range(E):
            seen[e] = 0
            for x in range(X):
                logical_to_physical[layer, e, x] = -1
        for slot in range(S):
            e = physical_to_logical[layer, slot]
            if e >= 0:
                replica = rank[layer, slot] if rank.size > 0 else seen[e]
                logical_to_physical[layer, e, replica] = slot
                seen[e] += 1


@entry(
    read_only(Float2), read_only(Int2), read_only(Int2), read_only(Float3), read_only(Int3),
    read_only(Int1), read_only(Float1), Float2, Float1,
)  # fmt: skip
def evaluate(
    load: Any, physical_to_logical: Any, count: Any, weights: Any, logical_to_physical: Any,
    first_slot: Any, capacity: Any, gpu_load: Any, balancedness: Any,
) -> None:  # fmt: skip
    """Sum each GPU's slots in slot order, and compare the GPUs.

    Takes the load [L, E], the slots [L, S] and their `count` by expert [L, E]. Replicas get the
    `weights` [L, E, X] of their expert's load, in the order of `logical_to_physical`; all the same
    where that is [0, 0, 0]. `capacity` [G] is the speed of each GPU, 0 for one that is gone.

    Writes `gpu_load` [L, G] and `balancedness` [L]: the least time there could be over the time
    there is, at most 1; where all GPUs are alike that is mean over max load. 1 where a layer is all
    zero.
    """
    L, E = load.shape
    G = capacity.size
    share = np.empty(E + physical_to_logical.shape[1])
    speed = 0.0
    for gpu in range(G):
        speed += capacity[gpu]
    for layer in range(L):
        by_slot = weights.size > 0
        for e in range(E):
            if not by_slot:
                share[e] = load[layer, e] / count[layer, e]
                continue
            for x in range(count[layer, e]):
                slot = logical_to_physical[layer, e, x]
                share[slot] = load[layer, e] * weights[layer, e, x]
        last = 0.0  # when the last GPU is done
        for gpu in range(G):
            total = 0.0
            for slot in range(first_slot[gpu], first_slot[gpu + 1]):
                e = physical_to_logical[layer, slot]
                if e >= 0:
                    total += share[slot if by_slot else e]
            gpu_load[layer, gpu] = total
            if capacity[gpu] > 0.0 and total / capacity[gpu] > last:
                last = total / capacity[gpu]
        balancedness[layer] = 1.0
        if last > 0.0:
            # Divided first, so that loads near the largest float cannot overflow the sum.
            parts = 0.0
            for gpu in range(G):
                parts += gpu_load[layer, gpu] / last
            balancedness[layer] = parts / speed if parts < speed else 1.0


@entry(read_only(Int2), read_only(Int1), read_only(Int2), read_only(Int1), Int, Int1)
def count_arrivals(
    before: Any, before_first: Any, after: Any, after_first: Any, num_experts: Any, arrivals: Any
) -> None:
    """Count the (GPU, expert) pairs present after [L, S'] and absent before [L, S], by layer [L].

    GPUs without slots before hold nothing.
    """
    L = after.shape[0]
    G = after_first.size - 1
    held = np.full(num_experts, np.int64(-1))
    for layer in range(L):
        arrivals[layer] = 0
        for gpu in range(G):
            stamp = layer * G + gpu
            for slot in range(before_first[gpu], before_first[gpu + 1]):
                if before[layer, slot] >= 0:
                    held[before[layer, slot]] = stamp
            for slot in range(after_first[gpu], after_first[gpu + 1]):
                e = after[layer, slot]
                if e >= 0 and held[e] != stamp:
                    held[e] = stamp
                    arrivals[layer] += 1
