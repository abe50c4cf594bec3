"""How short the straggler's time can be at best: the strongest of several arguments, each a proof.

GPUs are told by what no order of theirs changes: ``reach[m]`` is the most that m of them carry in a
unit of time, the sum of the m largest speeds; ``fewest[m]`` and ``most[m]`` are the sums of the m
smallest and of the m largest numbers of slots; all [G + 1]. All slots are filled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.core.compile import Float, Float1, Float2, Int, Int1, entry, kernel, step
from evenload.core.grid import bit_length, sort_keys

ROUNDING = 1e-9  # how far sums and the order of shares may be off, with room to spare
MOST_SLOTS = 256  # slots of a GPU up to which that is so
EXACT = 6  # numbers of replicas looked at one by one; beyond, in blocks up to twice as many
MOST_A_ROW = 40  # more entries than `EXACT` and the doublings of any number of slots
SHARE_BITS = 40
STEPS = 100  # of the climb, before it is asked whether it still gets on
MOST_ROUNDS = 8  # of as many steps
PROGRESS = 0.8  # of the best shortfall may be left after a round that got on
AIM = 0.2  # the climb's steps lead a little above zero
LENGTH = 1.5  # of a step, over Polyak's: below 2
LONGEST = 0.5  # most that a step changes a weight by, relative
FLOOR = 1e-3  # part of the weight spread evenly before each climb, so that none is lost
MOST_PRICE = 4.0  # of a slot, over the number of slots: keeps it finite where no weights help
FIRST_STEP = 5e-4  # precision of the limit, relative


@kernel(Float1, Int, Float1, Int)
def _share_time(load: Any, num_slots: Any, reach: Any, copies: Any) -> Any:
    """Bound the straggler's time from below by the mean and by the time of single experts.

    *Proof.* All GPUs together carry the total. And the replicas of an expert with load w and c
    replicas are on m <= min(c, G) GPUs, which carry at most ``reach[m]`` in a unit of time, so one
    of them needs ``w / reach[min(c, G)]``, however its tokens are shared. For one speed that is the
    largest share, w / min(c, G) each. It does not rise with c, so handing every spare slot to the
    expert with the largest time makes the largest time as small as the slots allow: with any other
    counts, the expert that is largest here has at most as many replicas as here, or some expert has
    fewer than here, whose time was then the largest before its last slot, and is at least as large.
    (None has fewer than `copies`, with which all begin.)
    """
    E, G = load.size, reach.size - 1
    total, largest = 0.0, 0
    count, time = np.empty(E, np.int64), np.empty(E)
    for e in range(E):
        total += load[e]
        count[e] = min(copies, G)
        time[e] = load[e] / reach[count[e]]
    mean = total / reach[G]
    spare = num_slots - copies * E
    for given in range(spare + 1):
        largest = 0
        for e in range(1, E):
            if time[e] > time[largest]:
                largest = e
        if time[largest] <= mean or count[largest] == G or given == spare:
            break
        count[largest] += 1
        time[largest] = load[largest] / reach[count[largest]]
    return max(mean, time[largest])


@kernel(Float1, Int, Float1, Int1, Int1, Int)
def _hot_set_time(
    load: Any, num_slots: Any, reach: Any, fewest: Any, most: Any, copies: Any
) -> Any:
    """Bound the straggler's time from below by the j heaviest experts and what is beside them.

    *Proof* for any sharing. With R = S - E spare slots, the j heaviest experts H have R + j
    replicas at most, on some m <= min(G, R + j) GPUs. These have at least ``fewest[m]`` slots (and
    at most ``most[m]``, which must be j or more), so all other GPUs have ``S - fewest[m]`` at most,
    and hold no more experts than that. Of the E - j others, at least E - j - (S - ``fewest[m]``) =
    ``fewest[m] - R - j`` = n have no replica there, so that the m GPUs carry all their load,
    however tokens are shared: that of the n lightest experts or more. (As n <= E - j, none of those
    has to be in H.) The m GPUs carry at least the load of H and that of the n lightest, in a time
    of at least that over ``reach[m]``. The smallest such time over m is a bound for every j.

    For even sharing, and `copies` r of every expert at least, R is S - r E, and n is larger:
    ``(fewest[m] - R - r j) / r``. Let another expert have d of its c replicas on the m GPUs, and so
    the part p = d / c of its load. As d = p c <= r p + (c - r), r p is at least d - (c - r). The
    spare replicas c - r of the others sum to R - (c_H - r j), so their parts, each between 0 and 1,
    sum to at least ``(fewest[m] - c_H - R + (c_H - r j)) / r``, where H has c_H replicas.
    """
    E, G = load.size, reach.size - 1
    spare = num_slots - copies * E
    lightest = np.empty(E + 1)
    lightest[0] = 0.0
    for n in range(E):
        lightest[n + 1] = lightest[n] + load[E - 1 - n]
    bound, hot = 0.0, 0.0
    for j in range(1, E + 1):
        hot += load[j - 1]
        least = np.inf
        m = min(G, spare + copies * j)
        while m >= 1 and most[m] >= j and least > bound:
            n = max(0, fewest[m] - spare - copies * j) // copies
            least = min(least, (hot + lightest[n]) / reach[m])
            m -= 1
        bound = max(bound, least)
    return bound


@kernel(Float1, Int, Float1, Int1, Int1, Int)
def quick_time(load: Any, num_slots: Any, reach: Any, fewest: Any, most: Any, copies: Any) -> Any:
    """Bound the straggler's time by mean, largest share and hot sets; loads descend."""
    time = max(
        _share_time(load, num_slots, reach, copies),
        _hot_set_time(load, num_slots, reach, fewest, most, copies),
    )
    return time * (1.0 - ROUNDING)


@entry(Float2, Int, Float1, Int1, Int1, Int, Float1)
def quick_times(
    load: Any, num_slots: Any, reach: Any, fewest: Any, most: Any, copies: Any, time: Any
) -> None:
    """Bound the straggler's time of each row by `quick_time`: [X, E], each descending -> [X]."""
    for row in range(load.shape[0]):
        time[row] = quick_time(load[row], num_slots, reach, fewest, most, copies)


@step(Float1, Int, Int, Float, Int1, Float1, Float1)
def _list_shares(
    load: Any, copies: Any, most: Any, limit: Any, first: Any, count: Any, size: Any
) -> None:
    """List for each expert the numbers of replicas, `copies` to `most`, that a limit allows.

    An entry from ``first[e]`` up to ``first[e + 1]`` says "`count` or more replicas of expert e,
    each with a load of `size` or more". The fewest stand for themselves, larger numbers a to b for
    "a or more replicas of load / b or more". An expert that cannot be cut fine enough has none.
    """
    n = 0
    first[0] = 0
    for e in range(load.size):
        c = np.int64(max(float(copies), np.ceil(min(load[e] / limit, most + 1.0))))
        listed = 0
        while c <= most:
            last = c if listed < EXACT else min(2 * c, most)
            count[n], size[n] = c, load[e] / last
            n += 1
            listed += 1
            c = last + 1
        first[e + 1] = n


@step(Float1, Int, Float, Int, Int1, Float1, Int1, Int1)
def _rank_shares(
    size: Any, n: Any, limit: Any, slots: Any, rank: Any, big: Any, keys: Any, scratch: Any
) -> Any:
    """Find the big shares, above half the limit, and say below which of them each share stands.

    A GPU has K = `slots` slots, at least 2. Of `size`, n shares are ordered to within 1e-12 of the
    limit, ties to the first. Returns how many are big, B, and writes these descending to `big`. The
    `rank` of a share is ``2 * B - i`` for the i-th largest big one, else the first i for which
    ``K - 1`` shares of this size fit beside big share i, B if beside none; -1 above the limit.
    """
    bits = bit_length(n)
    one = float(1 << SHARE_BITS)
    for i in range(n):
        keys[i] = (np.int64(np.rint(min(size[i] / limit, 1.5) * one)) << bits) | i
    sort_keys(keys, n, scratch)
    mask = (1 << bits) - 1
    end = n
    while end > 0 and size[keys[end - 1] & mask] > limit:
        end -= 1
        rank[keys[end] & mask] = -1
    small = end
    while small > 0 and 2.0 * size[keys[small - 1] & mask] > limit:
        small -= 1
    B = end - small
    for i in range(B):
        share = keys[end - 1 - i] & mask
        big[i] = size[share]
        rank[share] = 2 * B - i
    i = 0
    for place in range(small):
        share = keys[place] & mask
        while i < B and limit - big[i] < (slots - 1) * size[share]:
            i += 1
        rank[share] = i
    return B


@step(Int1, Float1, Int1, Float1, Int, Float, Float1, Float1)
def _cut(
    first: Any, count: Any, rank: Any, weight: Any, B: Any, price: Any, value: Any, tally: Any
) -> Any:
    """Cut every expert at the least cost; return cost and replicas, and tally these by rank.

    `value` is f and the sum of the weights, by rank. Every expert has a share within the limit.
    """
    value[0], tally[0] = 0.0, 0.0
    for i in range(B):
        value[i + 1] = value[i] + weight[i]
    for i in range(B - 1, -1, -1):
        value[2 * B - i] = value[2 * B - i - 1] + weight[i]
    for i in range(2 * B + 1):
        tally[i] = 0.0
    cost, replicas = 0.0, 0.0
    for e in range(first.size - 1):
        least, chosen = np.inf, -1
        for i in range(first[e], first[e + 1]):
            if rank[i] >= 0 and count[i] * (value[rank[i]] + price) < least:
                least, chosen = count[i] * (value[rank[i]] + price), i
        if chosen < 0:  # not reached with finite prices; a number that is none must prove nothing
            return -np.inf, 0.0
        cost += least
        replicas += count[chosen]
        tally[rank[chosen]] += count[chosen]
    return cost, replicas


@step(Float1, Int, Float, Float, Float1, Float1)
def _climb(tally: Any, B: Any, shortfall: Any, surplus: Any, weight: Any, excess: Any) -> Any:
    """Take one step, somewhat longer than Polyak's; return the change of the price."""
    big, small, largest = 0.0, 0.0, 0.0
    square = surplus * surplus
    for i in range(B):
        big += tally[2 * B - i]
        small += tally[i]
        excess[i] = big - small
        largest = max(largest, abs(excess[i]))
        square += weight[i] * excess[i] * excess[i]
    if square == 0.0:
        return 0.0
    step = LENGTH * shortfall / square
    if step * largest > LONGEST:
        step = LONGEST / largest
    for i in range(B):
        weight[i] *= 1.0 + step * excess[i]
    return step * surplus


@kernel(Int1, Float1, Int1, Int, Float1, Int, Float)
def _refutes(
    first: Any, count: Any, rank: Any, num_slots: Any, weight: Any, B: Any, price: Any
) -> Any:
    """Climb until the limit is refuted; return whether it was, and the last price."""
    value, tally, excess = np.empty(2 * B + 1), np.empty(2 * B + 1), np.empty(B)
    lowest, goal = np.inf, np.inf  # shortfalls
    for taken in range(STEPS * MOST_ROUNDS):
        if taken % STEPS == 0 and taken > 0:
            if lowest > goal:
                break
            goal = PROGRESS * lowest
        total = 0.0
        for i in range(B):
            total += weight[i]
        for i in range(B):
            weight[i] /= total
        price = max(price / total, 1.0)  # below 1, small replicas would be had for nothing
        price = min(price, MOST_PRICE * num_slots)
        cost, replicas = _cut(first, count, rank, weight, B, price - 1.0, value, tally)
        left = cost - price * num_slots
        if left > ROUNDING * price * num_slots:
            return True, price
        lowest = min(lowest, AIM - left)
        price += _climb(tally, B, AIM - left, replicas - num_slots, weight, excess)
    return False, price


@step(Float1, Int, Float1, Float1, Int, Float1)
def _carry_over(big: Any, B: Any, weight: Any, new: Any, num_new: Any, carried: Any) -> None:
    """Take the weights of the nearest big shares, so that the next climb starts where one ended."""
    k, total = 0, 0.0
    for i in range(num_new):
        while k + 1 < B and big[k] > new[i]:
            k += 1
        carried[i] = weight[k] if B > 0 else 1.0
        total += carried[i]
    for i in range(num_new):
        carried[i] += FLOOR * total / num_new + (1.0 if total == 0.0 else 0.0)


@step(Int1, Int1)
def _is_too_heavy(first: Any, rank: Any) -> Any:
    """Whether some expert cannot be cut within the limit."""
    for e in range(first.size - 1):
        fits = False
        for i in range(first[e], first[e + 1]):
            fits = fits or rank[i] >= 0
        if not fits:
            return True
    return False


@kernel(Float1, Int, Int, Int, Float)
def _partner_limit(load: Any, num_slots: Any, slots: Any, copies: Any, start: Any) -> Any:
    """Find a limit, `start` or more, that no placement keeps the load of every GPU below.

    Beside a big replica there must be a small one. Let every GPU have K slots or more, and suppose
    that a placement keeps every GPU within a limit T. Take some t < T / 2. A replica of load T - t
    or more is *big*, one of t / (K - 1) or less *small*. No GPU has two big ones. Beside a big one
    there are K - 1 or more with t together at most, so the lightest of them is small. Hence there
    are at most as many big replicas as small ones, for all t at once: Hall's condition for giving
    each big replica a partner.

    It depends on how the experts are cut, which is free: c_e replicas of load w_e / c_e, with sum
    c_e = S. With weights u_t >= 0 let f(x) be the sum of u_t over the t for which x is big, less
    that over those for which it is small; then sum_e c_e f(w_e / c_e) <= 0. So for any price p

        sum_e min_c c (f(w_e / c) + p)  -  p S  >  0

    proves that no counts, hence no placement, keep to the limit. (Duplicates are no exception.) The
    left side is concave in (u, p), and multiplicative weights climb it. Whichever weights they stop
    at, the inequality is a proof: how far they climb decides how strong the bound is, never whether
    it holds. Within f, only t = T - x for the big shares x matter, since nothing becomes big in
    between.

    With `slots` K = 1 there are no partners, and with many too many sums.
    """
    if slots < 2 or slots > MOST_SLOTS or start <= 0.0:
        return start
    E = load.size
    n = E * MOST_A_ROW
    first, rank = np.empty(E + 1, np.int64), np.empty(n, np.int64)
    keys, scratch = np.empty(n, np.int64), np.empty(n, np.int64)
    count, size = np.empty(n), np.empty(n)
    big, weight, new, carried = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    B, limit, step, price = 0, start, FIRST_STEP, 1.2
    failed = False
    while step >= FIRST_STEP:
        tried = limit * (1.0 + step)
        most = num_slots - copies * (E - 1)
        _list_shares(load, copies, most, tried, first, count, size)
        num_new = _rank_shares(size, first[E], tried, slots, rank, new, keys, scratch)
        refuted = _is_too_heavy(first, rank)
        if not refuted and num_new > 0:
            _carry_over(big, B, weight, new, num_new, carried)
            big, new, B = new, big, num_new
            weight, carried = carried, weight
            refuted, price = _refutes(first, count, rank, num_slots, weight, B, price)
        limit = tried if refuted else limit
        failed = failed or not refuted
        step *= 0.5 if failed else 4.0
    return max(start, limit * (1.0 - ROUNDING))


@entry(Float2, Int, Float1, Int1, Int, Float1)
def tighten_times(
    load: Any, num_slots: Any, reach: Any, fewest: Any, copies: Any, time: Any
) -> None:
    """Raise the bounds [X] of `quick_times` by partners; slower GPUs count as the fastest."""
    for row in range(load.shape[0]):
        known = time[row] * reach[1]
        limit = _partner_limit(load[row], num_slots, fewest[1], copies, known)
        if limit > known:
            time[row] = limit / reach[1]
