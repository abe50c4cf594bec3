"""Two slots on each of equal GPUs: counts searched, replicas paired from both ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.deduplicate import part
from evenload.kernels.evaluate import count_replicas
from evenload.kernels.grid import LOAD_BITS, load_bits, relative_grid
from evenload.kernels.packs import Packs, empty_packs, heaviest_load, rank_packs
from evenload.kernels.pair_counts import judge_pairs, list_shares, search_pair_counts

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Flags = NDArray[np.uint8]


@kernel
def pair_up(weight: Int, count: Int, packs: Packs) -> None:
    """Place the i-th heaviest replica beside the i-th lightest, then part those of one expert."""
    S = count.sum()
    share = np.empty(S)
    expert = np.empty(S, np.int64)
    n = 0
    for e in range(weight.size):
        for _ in range(count[e]):
            share[n] = -(weight[e] // count[e])
            expert[n] = e
            n += 1
    order = np.argsort(share, kind="mergesort")
    for g in range(S // 2):
        for i in range(2):
            slot = order[g] if i == 0 else order[S - 1 - g]
            packs.share[g, i] = -np.int64(share[slot])
            packs.expert[g, i] = expert[slot]
    rank_packs(packs)
    part(packs)


@kernel
def _list_packs(weight: Int, count: Int, physical_to_logical: Int, packs: Packs) -> None:
    for g in range(packs.load.size):
        for i in range(2):
            e = physical_to_logical[2 * g + i]
            packs.share[g, i] = weight[e] // count[e]
            packs.expert[g, i] = e
    rank_packs(packs)


@kernel
def search_pairs(
    load: Float, goal: Float, trials: int, physical_to_logical: Int, best: Flags
) -> None:
    """Improve a placement with two slots on each GPU, layer by layer.

    Parameters
    ----------
    load : float64, [L, E]
        Tokens of each expert.
    goal : float64, [L]
        Heaviest GPU that is good enough, over the mean.
    trials : int
        Changes of two counts to try for one layer.
    physical_to_logical : int64, [L, S]
        The start, and the result, whose heaviest GPU is never heavier.
    best : uint8, [L], output
        1 where the result is at least as good as any placement with the counts of the start.
    """
    L, E = load.shape
    S = physical_to_logical.shape[1]
    G = S // 2
    bits = min(LOAD_BITS, load_bits(S, G))
    weight = np.empty(E, np.int64)
    share = np.empty(S)
    packs = empty_packs(G, 2)
    for layer in range(L):
        relative_grid(load[layer], bits, weight)
        count = count_replicas(physical_to_logical[layer : layer + 1], E)[0]
        list_shares(weight, count, share)
        optimum = judge_pairs(share, np.inf, np.inf)[0]
        _list_packs(weight, count, physical_to_logical[layer], packs)
        start = heaviest_load(packs)
        mean = packs.load.sum() / G
        search_pair_counts(weight, G, mean * goal[layer], trials, count)
        pair_up(weight, count, packs)
        if heaviest_load(packs) < start:
            physical_to_logical[layer] = packs.expert.ravel()
        best[layer] = min(heaviest_load(packs), start) <= optimum
