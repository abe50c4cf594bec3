"""Which replicas share a GPU of two slots, so that no pair is heavier than a limit.

A replica above half the limit is heavy, every other light. Two light ones may always meet, unless
they are replicas of one expert; two heavy ones never.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]


def lightest_limit(share: Int, count: Int) -> int:
    """Return the least limit under which the replicas can be paired, duplicates allowed.

    The heaviest with the lightest, and so on inwards: by exchange, no pairing is better.
    """
    each = np.sort(np.repeat(share, count))
    return int((each + each[::-1]).max())


def _partners_of_heavy(share: Int, count: Int, heavy: NDArray[np.bool_]) -> Int | None:
    """Choose the light replicas that heavy ones get, [H], or None where they do not suffice.

    H heavy replicas leave G - H pairs of light ones, each with one replica of an expert at most:
    the others have to be partners. The rest are the lightest there are.
    """
    H = int(count[heavy].sum())
    pairs_left = int(count.sum()) // 2 - H
    if pairs_left < 0:
        return None
    forced = np.where(heavy, 0, np.maximum(count - pairs_left, 0))
    missing = H - int(forced.sum())
    if missing < 0:
        return None
    order = np.argsort(share, kind="stable")
    free = np.repeat(order, np.where(heavy, 0, count - forced)[order])
    chosen = np.concatenate([np.repeat(np.arange(share.size), forced), free[:missing]])
    return chosen[np.argsort(share[chosen], kind="stable")]


def pair_apart(share: Int, count: Int, limit: int) -> Int | None:
    """Pair all replicas, none with another of its expert and no pair above the limit.

    Parameters
    ----------
    share : int64 ndarray, [E]
        Weight of one replica of each expert.
    count : int64 ndarray, [E]
        Replicas of each expert; their sum is even.
    limit : int
        Most that a pair may weigh.

    Returns
    -------
    int64 ndarray, [S / 2, 2], or None
        Experts of each pair; None where there is no such pairing.
    """
    heavy = 2 * share > limit
    partner = _partners_of_heavy(share, count, heavy)
    if partner is None:
        return None
    order = np.argsort(-share, kind="stable")
    first = np.repeat(order, np.where(heavy, count, 0)[order])
    if (share[first] + share[partner] > limit).any():
        return None
    left = np.where(heavy, 0, count) - np.bincount(partner, minlength=share.size)
    rest = np.repeat(np.arange(share.size), left)
    half = rest.size // 2  # no expert has more than half of the rest, so half on is another one
    return np.concatenate(
        [np.stack([first, partner], axis=1), np.stack([rest[:half], rest[half:]], axis=1)]
    )


def best_pairs_apart(share: Int, count: Int, most: int) -> tuple[int, Int] | None:
    """Pair apart under the least limit that allows it, or return None where `most` does not.

    Returns
    -------
    limit : int
    pairs : int64 ndarray, [S / 2, 2]
    """
    low, high = lightest_limit(share, count), most
    best = pair_apart(share, count, high)
    if best is None:
        return None
    while low < high:
        middle = (low + high) // 2
        pairs = pair_apart(share, count, middle)
        low, high, best = (middle + 1, high, best) if pairs is None else (low, middle, pairs)
    return high, best
