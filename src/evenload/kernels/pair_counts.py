"""Replica counts searched for two slots a GPU, where they decide everything.

For given counts the best placement pairs the i-th heaviest replica with the i-th lightest (exchange
argument), so a trial changes two counts, merges the sorted shares anew and looks at the pairs.
Shares are integers of the grid held in float64, where they and their sums are exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.random import SEED, random_below

Int = NDArray[np.int64]
Float = NDArray[np.float64]

# Of the heaviest pair: the excess over it is what a round lowers. Rounds take turns, since a low
# threshold looks at more pairs than the last ones, and a high one ends lower where many are alike.
THRESHOLDS = (0.997, 0.99)
TOLERANCE = 1.05  # growth of the excess that is let pass
MOST_DRAWS = 8  # a trial, before there seems to be nothing left to draw
PATIENCE = 3  # a search ends when this share of its trials in a row brought nothing
STANDSTILL = 1500  # trials without a gain, after which a round begins at the best counts
UNGUIDED = 8  # one draw in so many is not aimed


@kernel
def list_shares(weight: Int, count: Int, share: Float) -> None:
    """List the shares of all replicas in descending order: [S]."""
    n = 0
    for e in range(weight.size):
        for _ in range(count[e]):
            share[n] = weight[e] // count[e]
            n += 1
    share[:] = np.sort(share)[::-1]


@kernel
def judge_pairs(share: Float, threshold: float, most_excess: float) -> tuple:
    """Pair descending shares from both ends.

    Returns
    -------
    heaviest, excess : float
        Load of the heaviest pair, and the sum of the squares of what exceeds the threshold; only a
        part of both where the excess is above `most_excess`.
    place : int
        The larger share of the heaviest pair.
    """
    S = share.size
    heaviest = -1.0
    excess = 0.0
    place = 0
    for i in range(S // 2):
        pair = share[i] + share[S - 1 - i]
        if pair > heaviest:
            heaviest = pair
            place = i
        if pair > threshold:
            excess += (pair - threshold) ** 2
            if excess > most_excess:
                break
    return heaviest, excess, place


@kernel
def _end_of_larger(share: Float, start: int, value: float) -> int:
    """Return the first place from `start` on of descending shares that is at most `value`."""
    low = start
    high = share.size
    while low < high:
        middle = (low + high) >> 1
        if share[middle] > value:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _descending(a: float, n: int, b: float, m: int) -> tuple:
    if a < b:
        return b, m, a, n
    return a, n, b, m


@kernel
def exchange_shares(
    old: Float, new: Float, out_a: float, n_a: int, out_b: float, n_b: int,
    in_a: float, m_a: int, in_b: float, m_b: int,
) -> None:  # fmt: skip
    """Merge descending shares anew: n copies of two values leave, m copies of two others come.

    ``n_a + n_b == m_a + m_b``, and the copies that leave are there.
    """
    out_1, n_1, out_2, n_2 = _descending(out_a, n_a, out_b, n_b)
    in_1, m_1, in_2, m_2 = _descending(in_a, m_a, in_b, m_b)
    i = 0
    j = 0
    for _ in range(4):
        leaving = out_1 if n_1 > 0 else out_2 if n_2 > 0 else -1.0
        coming = in_1 if m_1 > 0 else in_2 if m_2 > 0 else -1.0
        value = max(leaving, coming)
        if value < 0.0:
            break
        stop = _end_of_larger(old, i, value)
        for place in range(stop - i):
            new[j + place] = old[i + place]
        j += stop - i
        i = stop
        if coming >= leaving:
            m = m_1 if m_1 > 0 else m_2
            for place in range(m):
                new[j + place] = coming
            j += m
            m_2 = m_2 if m_1 > 0 else 0
            m_1 = 0
        else:
            i += n_1 if n_1 > 0 else n_2
            n_2 = n_2 if n_1 > 0 else 0
            n_1 = 0
    for place in range(old.size - i):
        new[j + place] = old[i + place]


@kernel
def _draw(
    weight: Int, count: Int, spare: Int, most: int, share: Float, place: int, heaviest: float,
    state: NDArray[np.uint64],
) -> tuple:  # fmt: skip
    """Draw a spare replica to give up and an expert to get it, most often aimed at the worst pair.

    Aimed: the taker removes a share at least as heavy as the pair's, or adds one at most as light
    as its partner; and the giver's new share would fit beside the lightest.
    """
    S = share.size
    at = random_below(state, spare.size)
    giver = spare[at]
    taker = random_below(state, weight.size)
    if taker == giver or count[taker] >= most:
        return -1, -1
    given_up = weight[giver] // (count[giver] - 1)
    if random_below(state, UNGUIDED) > 0 and given_up + share[S - 1] > heaviest:
        return -1, -1
    if random_below(state, UNGUIDED) > 0:
        before = weight[taker] // count[taker]
        after = weight[taker] // (count[taker] + 1)
        removes_heavy = before >= share[place] > after
        if not removes_heavy and after > share[S - 1 - place]:
            return -1, -1
    return at, taker


@kernel
def _change(weight: Int, count: Int, giver: int, taker: int, share: Float, other: Float) -> None:
    """List in `other` the shares with a replica of `giver` handed to `taker`."""
    given, taken = count[giver], count[taker]
    exchange_shares(
        share, other, weight[giver] // given, given, weight[taker] // taken, taken,
        weight[giver] // (given - 1), given - 1, weight[taker] // (taken + 1), taken + 1,
    )  # fmt: skip


@kernel
def _begin_round(
    weight: Int, count: Int, threshold: float, now: Int, spare: Int, share: Float
) -> tuple:
    """Set the state of the search to some counts.

    Returns
    -------
    excess : float
    place : int
        As `judge_pairs`.
    """
    now[:] = count
    n = 0
    for e in range(count.size):
        for _ in range(count[e] - 1):
            spare[n] = e
            n += 1
    list_shares(weight, count, share)
    _, excess, place = judge_pairs(share, threshold, np.inf)
    return excess, place


@kernel
def search_pair_counts(weight: Int, most: int, goal: float, trials: int, count: Int) -> float:
    """Change replica counts until the heaviest pair is light; return its load, never more.

    Parameters
    ----------
    weight : int64, [E]
        Load of each expert on the grid.
    most : int
        Most replicas of one expert.
    goal : float
        Load of the heaviest pair that is good enough.
    trials : int
        Changes of two counts to try at most.
    count : int64, [E]
        Replicas of each expert, an even number in all; the start, and the result.
    """
    S = count.sum()
    share, other = np.empty(S), np.empty(S)
    list_shares(weight, count, share)
    best, _, _ = judge_pairs(share, np.inf, np.inf)
    now, spare = np.empty_like(count), np.empty(S - weight.size, np.int64)
    if spare.size == 0:
        return best
    state = np.full(1, SEED)
    patience = max(trials // PATIENCE, 1)
    trial = last_gain = round_began = rounds = 0
    threshold = excess = 0.0
    place = 0
    for _ in range(MOST_DRAWS * trials):
        if trial >= trials or trial - last_gain >= patience or best <= goal:
            break
        if trial - max(round_began, last_gain) >= STANDSTILL or rounds == 0:
            threshold = best * THRESHOLDS[rounds % 2]
            excess, place = _begin_round(weight, count, threshold, now, spare, share)
            round_began = trial
            rounds += 1
        at, taker = _draw(weight, now, spare, most, share, place, best, state)
        if at < 0:
            continue
        trial += 1
        _change(weight, now, spare[at], taker, share, other)
        let_pass = excess * TOLERANCE
        heaviest, changed, at_place = judge_pairs(other, threshold, let_pass)
        if changed > let_pass:
            continue
        now[spare[at]] -= 1
        now[taker] += 1
        spare[at] = taker
        share, other = other, share
        excess, place = changed, at_place
        if heaviest < best:
            best = heaviest
            last_gain = trial
            count[:] = now
            threshold = best * THRESHOLDS[(rounds - 1) % 2]
            _, excess, place = judge_pairs(share, threshold, np.inf)
    return best
