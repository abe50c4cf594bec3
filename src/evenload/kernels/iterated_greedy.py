"""Replicate, pack by iterated greedy, part duplicates: what `solver="iterated-greedy"` runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.deduplicate import has_duplicate, part
from evenload.kernels.descend import descend
from evenload.kernels.grid import LOAD_BITS, bit_length, load_bits, relative_grid
from evenload.kernels.iterated_packing import pack_row
from evenload.kernels.packs import Packs, empty_packs, rank_packs
from evenload.kernels.replicate import replicate

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@kernel
def _part(packs: Packs, pairs: int) -> None:
    """Part duplicates, then mend with swaps that make none what parting did to the balance."""
    rank_packs(packs)
    part(packs)
    mean = packs.load.sum() // packs.load.size
    descend(packs, mean, mean, pairs, np.empty((0, 4), np.int64), 0)


@kernel
def _list_replicas(load: Int, count: Int, order: Int, expert: Int, weight: Float) -> None:
    slot = 0
    for position in range(order.size):
        e = order[position]
        for _ in range(count[e]):
            expert[slot] = e
            weight[slot] = load[e] // count[e]
            slot += 1


@kernel
def iterated_greedy(
    load: Float,
    num_gpus: int,
    num_attempts: int,
    boost: float,
    max_swaps: int,
    target: float,
    physical_to_logical: Int,
) -> None:
    """Place each layer's experts: load float64 [L, E] -> physical_to_logical int64 [L, S].

    The other parameters are those of `evenload.eplb.balanced_packing`; `target` is infinite for
    none. The K = S / G slots of one GPU are fewer than E.
    """
    L, E = load.shape
    S = physical_to_logical.shape[1]
    K = S // num_gpus
    bits = min(LOAD_BITS, load_bits(S, num_gpus))
    expert_bits = bit_length(E)
    grid = np.empty(E, np.int64)
    count = np.empty(E, np.int64)
    order = np.empty(E, np.int64)
    scratch = np.empty((2, E), np.int64)
    replica = np.empty(S, np.int64)
    replica_order = np.empty(S, np.int64)
    weight = np.empty(S, np.float64)
    pack_index = np.empty(S, np.int64)
    rank = np.empty(S, np.int64)
    packs = empty_packs(num_gpus, K)
    slack = 1.0 + 8.0 * np.finfo(np.float64).eps
    for layer in range(L):
        relative_grid(load[layer], bits, grid)
        replicate(grid, bits, S, num_gpus, expert_bits, scratch, count, order)
        _list_replicas(grid, count, order, replica, weight)
        for slot in range(S):
            replica_order[slot] = slot  # listed by descending share
        goal = weight.sum() / (num_gpus * target)
        pack_row(
            weight,
            replica_order,
            num_gpus,
            num_attempts,
            boost,
            max_swaps,
            goal,
            slack,
            pack_index,
            rank,
        )
        for slot in range(S):
            packs.share[pack_index[slot], rank[slot]] = np.int64(weight[slot])
            packs.expert[pack_index[slot], rank[slot]] = replica[slot]
        if has_duplicate(packs.expert):
            _part(packs, max_swaps * num_gpus)
        physical_to_logical[layer] = packs.expert.ravel()
