"""Exchange of two replicas for two, where no exchange of one for one helps any more.

A GPU with K slots has K (K - 1) / 2 pairs, so two GPUs offer about K**4 / 4 exchanges instead of
K**2: at nine slots a GPU the steps are sixteen times finer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.packs import Packs, heaviest_load, pack_at
from evenload.kernels.slots import slot_of
from evenload.kernels.swap import swap

Int = NDArray[np.int64]

FEWEST_SLOTS = 4  # below, two for two is one for one seen from the other side
SLOT_BITS = 4  # hold a slot's number for K up to 16
SLOT_MASK = (1 << SLOT_BITS) - 1
PAIR_BITS = 2 * SLOT_BITS
PAIR_MASK = (1 << PAIR_BITS) - 1
MOST_SLOTS = 16  # above, one for one is fine enough and the pairs are too many


@kernel
def _list_pairs(share: Int, g: int, pairs: Int) -> None:
    """List the pairs of slots i < j of a pack by descending weight.

    One key holds a pair, ``weight << PAIR_BITS | i << SLOT_BITS | j``. For one i the sums fall with
    j, so each such run is merged into the list from its light end.
    """
    K = share.shape[1]
    listed = 0
    for i in range(K - 2, -1, -1):
        left = listed
        j = K - 1
        place = listed + K - 2 - i
        listed = place + 1
        while left > 0 and j > i:
            new = ((share[g, i] + share[g, j]) << PAIR_BITS) | (i << SLOT_BITS | j)
            old = pairs[left - 1]
            pairs[place] = min(old, new)
            keep = old < new
            left -= keep
            j -= 1 - keep
            place -= 1
        while j > i:
            pairs[place] = ((share[g, i] + share[g, j]) << PAIR_BITS) | (i << SLOT_BITS | j)
            j -= 1
            place -= 1


@kernel
def _fits(expert: Int, m: int, pair_m: int, k: int, pair_k: int) -> bool:
    """Whether neither pack would hold an expert twice after the exchange of both pairs."""
    i, j = pair_m >> SLOT_BITS, pair_m & SLOT_MASK
    s, t = pair_k >> SLOT_BITS, pair_k & SLOT_MASK
    return (
        slot_of(expert, k, expert[m, i]) < 0
        and slot_of(expert, k, expert[m, j]) < 0
        and slot_of(expert, m, expert[k, s]) < 0
        and slot_of(expert, m, expert[k, t]) < 0
    )


@kernel
def _best_pair_swap(packs: Packs, m: int, k: int, pairs: Int, limit: int) -> tuple:
    """Walk over the pairs of m (row 0) and of k (row 1) as `swap.best_swap` walks over slots."""
    n = pairs.shape[1]
    surplus = packs.load[m] - packs.load[k]
    i = 0
    j = 0
    pair_m = -1
    pair_k = -1
    while i < n and j < n:
        distance = 2 * ((pairs[0, i] >> PAIR_BITS) - (pairs[1, j] >> PAIR_BITS)) - surplus
        if abs(distance) < limit and _fits(
            packs.expert, m, pairs[0, i] & PAIR_MASK, k, pairs[1, j] & PAIR_MASK
        ):
            limit = abs(distance)
            pair_m = pairs[0, i] & PAIR_MASK
            pair_k = pairs[1, j] & PAIR_MASK
        too_little = distance < 0
        j += too_little
        i += 1 - too_little
    return limit, pair_m, pair_k


@kernel
def _partner(packs: Packs, mean: int, goal: int, pairs: Int) -> tuple:
    """Search the packs from the lightest up, as `descend` does, for an exchange of two for two."""
    G = packs.ranking.size
    load = packs.load
    m = pack_at(packs, -1)
    second = load[pack_at(packs, G - 2)]
    enough = max(goal, mean + (second - mean) // 2)
    _list_pairs(packs.share, m, pairs[0])
    best = load[m]
    partner = -1
    pair_m = 0
    pair_k = 0
    looked = 0
    for place in range(G - 1):
        k = pack_at(packs, place)
        both = load[m] + load[k]
        if (both + 1) // 2 >= best:
            break
        looked += 1
        _list_pairs(packs.share, k, pairs[1])
        distance, i, j = _best_pair_swap(packs, m, k, pairs, 2 * best - both)
        if i >= 0:
            best = (both + distance) // 2
            partner, pair_m, pair_k = k, i, j
            if best <= enough:
                break
    return partner, pair_m, pair_k, looked


@kernel
def _swap_pairs(
    packs: Packs,
    m: int,
    pair_m: int,
    k: int,
    pair_k: int,
    log: Int,
    logged: int,
) -> int:
    expert = packs.expert
    # By expert, since the first exchange moves slots.
    given = (expert[m, pair_m >> SLOT_BITS], expert[m, pair_m & SLOT_MASK])
    got = (expert[k, pair_k >> SLOT_BITS], expert[k, pair_k & SLOT_MASK])
    for e, f in zip(given, got):  # noqa: B905 - Numba knows no strict=
        if log.shape[0] > 0:
            log[logged] = (m, e, k, f)
            logged += 1
        i, j = slot_of(expert, m, e), slot_of(expert, k, f)
        swap(packs, m, i, k, j)
    return logged


@kernel
def pair_descend(
    packs: Packs,
    mean: int,
    goal: int,
    most_pairs: int,
    log: Int,
    logged: int,
) -> tuple:
    """Exchange two for two until the goal, a standstill, or the end of the effort.

    Does nothing for packs of fewer than FEWEST_SLOTS or more than MOST_SLOTS slots. Parameters and
    results are those of `descend.descend`.
    """
    K = packs.share.shape[1]
    if K < FEWEST_SLOTS or K > MOST_SLOTS:
        return 0, logged
    pairs = np.empty((2, K * (K - 1) // 2), np.int64)
    looked = 0
    while looked < most_pairs and heaviest_load(packs) > goal:
        if log.shape[0] > 0 and logged + 2 > log.shape[0]:
            break
        k, pair_m, pair_k, more = _partner(packs, mean, goal, pairs)
        looked += more
        if k < 0:
            break
        m = pack_at(packs, -1)
        logged = _swap_pairs(packs, m, pair_m, k, pair_k, log, logged)
    return looked, logged
