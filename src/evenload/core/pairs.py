"""Replica counts searched for two slots on each of equal GPUs, where they decide everything.

For given counts the best placement pairs the i-th heaviest replica with the i-th lightest (exchange
argument), so a trial changes two counts, merges the sorted shares anew and looks at the pairs.
Shares are integers of the grid held in float64, where they and their sums are exact.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from evenload.core.apart import all_apart
from evenload.core.compile import Float, Float1, Float2, Int, Int1, Int2, step
from evenload.core.grid import bit_length, random_below, sort_keys
from evenload.core.start import NEVER
from evenload.core.state import PEAK, State, StateType, copy_out, fill
from evenload.core.swaps import part_duplicates

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Of the heaviest pair: the excess over it is what a round lowers. Rounds take turns, since a low
# threshold looks at more pairs than the last ones, and a high one ends lower where many are alike.
THRESHOLDS = (0.997, 0.99)
TOLERANCE = 1.05  # growth of the excess that is let pass
MOST_DRAWS = 8  # a trial, before there seems to be nothing left to draw
PATIENCE = 3  # a search ends when this share of its trials in a row brought nothing
STANDSTILL = 1500  # trials without a gain, after which a round begins at the best counts
UNGUIDED = 8  # one draw in so many is not aimed


@step(Int1, Int1, Int2, Float1)
def list_shares(weight: IntArray, count: IntArray, keys: IntArray, share: FloatArray) -> None:
    """List the shares of all replicas in descending order: [S]; `keys` [2, S] is scratch."""
    n = 0
    for e in range(weight.size):
        each = weight[e] if count[e] == 1 else weight[e] // count[e]
        for _ in range(count[e]):
            keys[0, n] = -each
            n += 1
    sort_keys(keys[0], n, keys[1])
    for i in range(n):
        share[i] = -keys[0, i]


@step(Float1, Float, Float)
def judge_pairs(share: FloatArray, threshold: float, most_excess: float) -> tuple:
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
    place = np.int64(0)
    for i in range(S // 2):
        pair = share[i] + share[S - 1 - i]
        if pair > heaviest:
            heaviest = pair
            place = i
        if pair > threshold:
            excess += (pair - threshold) * (pair - threshold)
            if excess > most_excess:
                break
    return heaviest, excess, place


@step(Float1, Int, Float)
def _end_of_larger(share: FloatArray, start: int, value: float) -> int:
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


@step(Float1, Float1, Float, Int, Float, Int, Float, Int, Float, Int)
def exchange_shares(
    old: FloatArray,
    new: FloatArray,
    out_a: float,
    n_a: int,
    out_b: float,
    n_b: int,
    in_a: float,
    m_a: int,
    in_b: float,
    m_b: int,
) -> None:
    """Merge descending shares anew: n copies of two values leave, m copies of two others come.

    ``n_a + n_b == m_a + m_b``, and the copies that leave are there.
    """
    if out_a < out_b:
        out_a, n_a, out_b, n_b = out_b, n_b, out_a, n_a
    if in_a < in_b:
        in_a, m_a, in_b, m_b = in_b, m_b, in_a, m_a
    i = 0
    j = 0
    for _ in range(4):
        leaving = out_a if n_a > 0 else out_b if n_b > 0 else -1.0
        coming = in_a if m_a > 0 else in_b if m_b > 0 else -1.0
        value = max(leaving, coming)
        if value < 0.0:
            break
        stop = _end_of_larger(old, i, value)
        for place in range(stop - i):
            new[j + place] = old[i + place]
        j += stop - i
        i = stop
        if coming >= leaving:
            m = m_a if m_a > 0 else m_b
            for place in range(m):
                new[j + place] = coming
            j += m
            m_b = m_b if m_a > 0 else 0
            m_a = 0
        else:
            i += n_a if n_a > 0 else n_b
            n_b = n_b if n_a > 0 else 0
            n_a = 0
    for place in range(old.size - i):
        new[j + place] = old[i + place]


@step(Int1, Int1, Int1, Int, Int, Float1, Int, Float, types.uint64[::1])
def _draw(
    weight: IntArray,
    count: IntArray,
    spare: IntArray,
    num_spare: int,
    most: int,
    share: FloatArray,
    place: int,
    heaviest: float,
    random: NDArray[np.uint64],
) -> tuple:
    """Draw a spare replica to give up and an expert to get it, most often aimed at the worst pair.

    Aimed: the taker removes a share at least as heavy as the pair's, or adds one at most as light
    as its partner; and the giver's new share would fit beside the lightest.
    """
    S = share.size
    at = random_below(random, num_spare)
    giver = spare[at]
    taker = random_below(random, weight.size)
    if taker == giver or count[taker] >= most:
        return np.int64(-1), taker
    given_up = weight[giver] // (count[giver] - 1)
    if random_below(random, UNGUIDED) > 0 and given_up + share[S - 1] > heaviest:
        return np.int64(-1), taker
    if random_below(random, UNGUIDED) > 0:
        before = weight[taker] // count[taker]
        after = weight[taker] // (count[taker] + 1)
        removes_heavy = before >= share[place] > after
        if not removes_heavy and after > share[S - 1 - place]:
            return np.int64(-1), taker
    return at, taker


@step(Int1, Int, Int, Float, Int, types.uint64[::1], Int2, Float2, Int1, Int1, Int1)
def search_pair_counts(
    weight: IntArray,
    least: int,
    most: int,
    goal: float,
    trials: int,
    random: NDArray[np.uint64],
    keys: IntArray,
    shares: FloatArray,
    now: IntArray,
    spare: IntArray,
    count: IntArray,
) -> float:
    """Change replica counts until the heaviest pair is light; return its load, never more.

    Parameters
    ----------
    weight : int64, [E]
        Load of each expert on the grid.
    least, most : int
        Fewest and most replicas of one expert.
    goal : float
        Load of the heaviest pair that is good enough.
    trials : int
        Changes of two counts to try at most.
    random : uint64, [1]
        Moves on.
    keys : int64, [2, S]; shares : float64, [2, S]; now : int64, [E]; spare : int64, [S - E]
        Scratch.
    count : int64, [E]
        Replicas of each expert, an even number in all; the start, and the result.
    """
    E = weight.size
    share, other = shares[0], shares[1]
    list_shares(weight, count, keys, share)
    best, _, _ = judge_pairs(share, np.inf, np.inf)
    num_spare = now.size * (1 - least) + spare.size
    if num_spare <= 0:
        return best
    patience = max(trials // PATIENCE, 1)
    trial = np.int64(0)
    last_gain = np.int64(0)
    round_began = np.int64(0)
    rounds = 0
    threshold = 0.0
    excess = 0.0
    place = np.int64(0)
    for _ in range(MOST_DRAWS * trials):
        if trial >= trials or trial - last_gain >= patience or best <= goal:
            break
        if trial - max(round_began, last_gain) >= STANDSTILL or rounds == 0:
            threshold = best * (THRESHOLDS[0] if rounds % 2 == 0 else THRESHOLDS[1])
            n = 0
            for e in range(E):
                now[e] = count[e]
                for _ in range(count[e] - least):
                    spare[n] = e
                    n += 1
            list_shares(weight, count, keys, share)
            _, excess, place = judge_pairs(share, threshold, np.inf)
            round_began = trial
            rounds += 1
        at, taker = _draw(weight, now, spare, num_spare, most, share, place, best, random)
        if at < 0:
            continue
        trial += 1
        giver = spare[at]
        given, taken = now[giver], now[taker]
        exchange_shares(
            share,
            other,
            float(weight[giver] // given),
            given,
            float(weight[taker] // taken),
            taken,
            float(weight[giver] // (given - 1)),
            given - 1,
            float(weight[taker] // (taken + 1)),
            taken + 1,
        )
        let_pass = excess * TOLERANCE
        heaviest, changed, at_place = judge_pairs(other, threshold, let_pass)
        if changed > let_pass:
            continue
        now[giver] -= 1
        now[taker] += 1
        spare[at] = taker
        share, other = other, share
        excess, place = changed, at_place
        if heaviest < best:
            best = heaviest
            last_gain = trial
            for e in range(E):
                count[e] = now[e]
            threshold = best * (THRESHOLDS[0] if rounds % 2 == 1 else THRESHOLDS[1])
            _, excess, place = judge_pairs(share, threshold, np.inf)
    return best


@step(Int1, Int1, Int2, Int1)
def pair_up(weight: IntArray, count: IntArray, keys: IntArray, placed: IntArray) -> tuple:
    """Place the i-th heaviest replica beside the i-th lightest: `placed` [S], `keys` [2, S].

    Returns
    -------
    heaviest : int
        Load of the heaviest pair.
    apart : bool
        Whether no expert is beside itself.
    """
    S = placed.size
    bits = bit_length(weight.size)
    mask = (1 << bits) - 1
    n = 0
    for e in range(weight.size):
        share = weight[e] if count[e] == 1 else weight[e] // count[e]
        for _ in range(count[e]):
            keys[0, n] = (-share << bits) | e
            n += 1
    sort_keys(keys[0], S, keys[1])
    heaviest = np.int64(0)
    apart = True
    for g in range(S // 2):
        more, less = keys[0, g], keys[0, S - 1 - g]
        heaviest = max(heaviest, -(more >> bits) - (less >> bits))
        apart = apart and more != less
        placed[2 * g] = more & mask
        placed[2 * g + 1] = less & mask
    return heaviest, apart


@step(Int1, Int1, Int, StateType, Int2, Int1)
def place_counts(
    weight: IntArray, count: IntArray, best: int, s: State, keys: IntArray, placed: IntArray
) -> int:
    """Place given counts, and return the load of the heaviest GPU.

    Replicas of one expert that paired are parted, unless the pairs are no lighter than `best`. The
    GPU is infinitely heavy where experts do not get to as many GPUs as they need.
    """
    heaviest, apart = pair_up(weight, count, keys, placed)
    if apart or heaviest >= best:
        return heaviest
    fill(s, placed)
    part_duplicates(s)
    if not all_apart(s):
        return NEVER
    copy_out(s, placed)
    return s.total[PEAK]


@step(Int1, Int, Int, Float, StateType, Int2, Int2, Int1, Int1)
def try_all_counts(
    weight: IntArray,
    most: int,
    heaviest: int,
    effort: float,
    s: State,
    keys: IntArray,
    by_expert: IntArray,
    other: IntArray,
    placed: IntArray,
) -> int:
    """Look at all counts that could be better, where they are no more than the effort.

    An expert needs so many replicas that one alone is lighter than the heaviest GPU, which leaves
    few counts of a small layer.

    Parameters
    ----------
    weight, most
        As `search_pair_counts`.
    heaviest : int
        Load of the heaviest GPU of `placed`.
    effort : float
        Counts to look at, at most.
    s : State
        Of this layer; scratch.
    keys : int64, [2, S]; by_expert : int64, [3, E]; other : int64, [S]
        Scratch.
    placed : int64, [S]
        Replaced where there is better.

    Returns
    -------
    int
        Load of the heaviest GPU.
    """
    E = weight.size
    now, least, extra = by_expert[0], by_expert[1], by_expert[2]
    left = placed.size  # slots to hand out beyond what every expert needs
    for e in range(E):
        least[e] = max(min(weight[e] // heaviest + 1, most), s.copies)
        extra[e] = 0
        left -= least[e]
    if left < 0:
        return heaviest
    ways = 1.0
    for i in range(1, left + 1):
        ways *= (E - 1 + i) / i
    if ways > effort:
        return heaviest
    extra[0] = left
    while True:
        legal = True
        for e in range(E):
            now[e] = least[e] + extra[e]
            legal = legal and now[e] <= most
        if legal:
            after = place_counts(weight, now, heaviest, s, keys, other)
            if after < heaviest:
                heaviest = after
                for slot in range(placed.size):
                    placed[slot] = other[slot]
        # The next way to hand `left` out (Nijenhuis and Wilf 1978, NEXCOM).
        e = 0
        while e < E - 1 and extra[e] == 0:
            e += 1
        if e == E - 1:
            return heaviest
        rest = extra[e]
        extra[e] = 0
        extra[0] = rest - 1
        extra[e + 1] += 1
