"""Replicate, pack and swap, one layer after the other: what `solver="local-search"` runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.deduplicate import part
from evenload.kernels.descend import descend
from evenload.kernels.grid import LOAD_BITS, bit_length, load_bits, relative_grid
from evenload.kernels.kick import kick
from evenload.kernels.pack import pack
from evenload.kernels.packs import Packs, empty_packs, rank_packs
from evenload.kernels.pair_swap import pair_descend
from evenload.kernels.replicate import replicate

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@kernel
def _goal(total: int, num_gpus: int, heaviest_share: int, target: float) -> int:
    """Return the load of the heaviest GPU that is good enough, or that nothing can go below."""
    return max(np.int64(total / (num_gpus * target)), heaviest_share)


@kernel
def _refine(packs: Packs, mean: int, goal: int, effort: int) -> None:
    """Go on where swaps of one for one stand still: two for two, then kicks."""
    no_log = np.empty((0, 4), np.int64)
    pairs, _ = pair_descend(packs, mean, goal, effort, no_log, 0)
    kick(packs, mean, goal, effort - pairs)


@kernel
def local_search(
    load: Float,
    num_gpus: int,
    target: float,
    fine_target: float,
    effort: int,
    physical_to_logical: Int,
) -> None:
    """Place each layer's experts: largest share next, longest first, then swaps, then kicks.

    Parameters
    ----------
    load : float64, [L, E]
        Tokens of each expert.
    num_gpus : int
        GPUs G. The K = S / G slots of one are fewer than E.
    target : float
        Balancedness in (0, 1] at which the swaps of a layer stop.
    fine_target : float
        Balancedness at which a layer where swaps stand still is left at that.
    effort : int
        Pairs of GPUs that the exchanges of pairs and the kicks of a layer may look at.
    physical_to_logical : int64, [L, S], output
        Expert in each slot.
    """
    L, E = load.shape
    S = physical_to_logical.shape[1]
    K = S // num_gpus
    expert_bits = bit_length(E)
    bits = min(LOAD_BITS, load_bits(S, num_gpus))
    grid = np.empty(E, np.int64)
    count = np.empty(E, np.int64)
    order = np.empty(E, np.int64)
    scratch = np.empty((2, E), np.int64)
    packs = empty_packs(num_gpus, K)
    tree = np.empty(2 << packs.bits, np.int64)
    no_log = np.empty((0, 4), np.int64)
    most_pairs = 16 * S  # ends a descent that crawls; far beyond what one needs
    for layer in range(L):
        relative_grid(load[layer], bits, grid)
        replicate(grid, bits, S, num_gpus, expert_bits, scratch, count, order)
        apart = pack(grid, count, order, tree, packs)
        rank_packs(packs)
        if not apart:
            part(packs)
        heaviest_share = grid[order[0]] // count[order[0]]
        total = packs.load.sum()
        mean = total // num_gpus
        goal = _goal(total, num_gpus, heaviest_share, target)
        descend(packs, mean, goal, most_pairs, no_log, 0)
        if K > 2 and num_gpus > 1:  # with two slots a GPU, longest first is the best pairing
            goal = _goal(total, num_gpus, heaviest_share, fine_target)
            _refine(packs, mean, goal, effort)
        physical_to_logical[layer] = packs.expert.ravel()
