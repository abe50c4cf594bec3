"""Exchange of two replicas between packs that are kept in order of load."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.packs import Packs
from evenload.kernels.ranking import rerank
from evenload.kernels.slots import exchange, fits

Int = NDArray[np.int64]


@kernel
def swap(packs: Packs, m: int, i: int, k: int, j: int) -> None:
    """Exchange slot i of pack m with slot j of pack k."""
    load, bits = packs.load, packs.bits
    change = packs.share[m, i] - packs.share[k, j]
    exchange(packs.share, packs.expert, m, i, k, j)
    old_m = (load[m] << bits) | m
    old_k = (load[k] << bits) | k
    load[m] -= change
    load[k] += change
    rerank(packs.ranking, old_m, (load[m] << bits) | m)
    rerank(packs.ranking, old_k, (load[k] << bits) | k)


@kernel
def best_swap(packs: Packs, m: int, k: int, limit: int) -> tuple:
    """Find the exchange of pack m with pack k that comes nearest to halving their difference.

    With d the share given minus the share got, the heavier of the two becomes
    ``(load(m) + load(k) + |2 d - surplus|) / 2``, so the walk looks for the d nearest to half the
    surplus = load(m) - load(k): from the largest shares of both rows, one step down in the row that
    corrects the sign, at most 2 K steps. An exchange that would put an expert twice into a pack is
    passed by.

    Parameters
    ----------
    limit : int
        Only a distance ``|2 d - surplus|`` below this counts.

    Returns
    -------
    distance, i, j : int
        The distance reached and the two slots; (limit, -1, -1) where nothing is below the limit.
    """
    share = packs.share
    K = share.shape[1]
    surplus = packs.load[m] - packs.load[k]
    i = 0
    j = 0
    best_i = -1
    best_j = -1
    while i < K and j < K:
        distance = 2 * (share[m, i] - share[k, j]) - surplus
        if abs(distance) < limit and fits(packs.expert, m, i, k, j):
            limit = abs(distance)
            best_i = i
            best_j = j
        too_little = distance < 0
        j += too_little
        i += 1 - too_little
    return limit, best_i, best_j
