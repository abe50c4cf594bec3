"""Bound by partners: beside a big replica there must be a small one.

Let every GPU have K slots or more, and suppose that a placement keeps every GPU within a limit T.
Take some t < T / 2. A replica of load T - t or more is *big*, one of t / (K - 1) or less *small*.
No GPU has two big ones. Beside a big one there are K - 1 or more with t together at most, so the
lightest of them is small. Hence there are at most as many big replicas as small ones, for all t at
once: Hall's condition for giving each big replica a partner.

It depends on how the experts are cut, which is free: c_e replicas of load w_e / c_e, with sum
c_e = S. With weights u_t >= 0 let f(x) be the sum of u_t over the t for which x is big, less that
over those for which it is small; then sum_e c_e f(w_e / c_e) <= 0. So for any price p

    sum_e min_c c (f(w_e / c) + p)  -  p S  >  0

proves that no counts, hence no placement, keep to the limit. (Duplicates are no exception.) The
left side is concave in (u, p), and multiplicative weights climb it. Whichever weights they stop at,
the inequality is a proof: how far they climb decides how strong the bound is, never whether it
holds. Within f, only t = T - x for the big shares x matter, since nothing becomes big in between.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.bound_shares import Shares, list_shares, rank_shares
from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]

ROUNDING = 1e-9  # how far sums and the order of shares may be off, with room to spare
MOST_SLOTS = 256  # slots of a GPU up to which that is so
STEPS = 100  # of the climb, before it is asked whether it still gets on
MOST_ROUNDS = 8  # of as many steps
PROGRESS = 0.8  # of the best shortfall may be left after a round that got on
AIM = 0.2  # the climb's steps lead a little above zero
LENGTH = 1.5  # of a step, over Polyak's: below 2
LONGEST = 0.5  # most that a step changes a weight by, relative
FLOOR = 1e-3  # part of the weight spread evenly before each climb, so that none is lost
MOST_PRICE = 4.0  # of a slot, over the number of slots: keeps it finite where no weights help
FIRST_STEP = 5e-4  # precision of the limit, relative


@kernel
def _values(weight: Float, value: Float) -> None:
    """Fill in f + sum of the weights, by rank: [B] -> [2 B + 1]; see `bound_shares.rank_shares`."""
    B = weight.size
    value[0] = 0.0
    for i in range(B):
        value[i + 1] = value[i] + weight[i]
    for i in range(B - 1, -1, -1):
        value[2 * B - i] = value[2 * B - i - 1] + weight[i]


@kernel
def _cheapest(shares: Shares, rank: Int, value: Float, price: float, tally: Float) -> tuple:
    """Cut every expert at the least cost; return cost and replicas, and tally these by rank.

    Every expert has a share within the limit, see `_is_too_heavy`.
    """
    tally[:] = 0.0
    cost = 0.0
    replicas = 0.0
    for expert in range(shares.first.size - 1):
        least = np.inf
        chosen = -1
        for i in range(shares.first[expert], shares.first[expert + 1]):
            if rank[i] >= 0 and shares.count[i] * (value[rank[i]] + price) < least:
                least = shares.count[i] * (value[rank[i]] + price)
                chosen = i
        if chosen < 0:  # not reached with finite prices; a number that is none must prove nothing
            return -np.inf, 0.0
        cost += least
        replicas += shares.count[chosen]
        tally[rank[chosen]] += shares.count[chosen]
    return cost, replicas


@kernel
def _climb(tally: Float, shortfall: float, surplus: float, weight: Float, excess: Float) -> float:
    """Take one step, somewhat longer than Polyak's; return the change of the price."""
    B = weight.size
    big = 0.0
    small = 0.0
    largest = 0.0
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


@kernel
def _refutes(shares: Shares, rank: Int, num_slots: int, weight: Float, price: float) -> tuple:
    """Climb until the limit is refuted; return whether it was, and the last price."""
    B = weight.size
    value = np.empty(2 * B + 1)
    tally = np.empty(2 * B + 1)
    excess = np.empty(B)
    lowest, goal = np.inf, np.inf  # shortfalls
    for step in range(STEPS * MOST_ROUNDS):
        if step % STEPS == 0 and step > 0:
            if lowest > goal:
                break
            goal = PROGRESS * lowest
        total = weight.sum()
        weight /= total
        price = max(price / total, 1.0)  # below 1, small replicas would be had for nothing
        price = min(price, MOST_PRICE * num_slots)
        _values(weight, value)
        cost, replicas = _cheapest(shares, rank, value, price - 1.0, tally)
        left = cost - price * num_slots
        if left > ROUNDING * price * num_slots:
            return True, price
        lowest = min(lowest, AIM - left)
        price += _climb(tally, AIM - left, replicas - num_slots, weight, excess)
    return False, price


@kernel
def _carry_over(big: Float, weight: Float, new: Float) -> Float:
    """Take the weights of the nearest big shares, so that the next climb starts where one ended."""
    B = new.size
    carried = np.empty(B)
    k = 0
    for i in range(B):
        while k + 1 < big.size and big[k] > new[i]:
            k += 1
        carried[i] = weight[k] if big.size > 0 else 1.0
    carried += FLOOR * carried.sum() / B + (carried.sum() == 0.0)
    return carried


@kernel
def _is_too_heavy(shares: Shares, rank: Int) -> bool:
    """Whether some expert cannot be cut within the limit."""
    for expert in range(shares.first.size - 1):
        fits = False
        for i in range(shares.first[expert], shares.first[expert + 1]):
            fits = fits or rank[i] >= 0
        if not fits:
            return True
    return False


@kernel
def partner_limit(load: Float, num_slots: int, slots_per_gpu: int, start: float) -> float:
    """Find a limit that no placement keeps the load of every GPU below.

    Parameters
    ----------
    load : float64, [E]
    num_slots : int
        Slots S of all GPUs.
    slots_per_gpu : int
        Fewest slots of a GPU; with 1 there are no partners, and with many too many sums.
    start : float
        Limit that is known already.

    Returns
    -------
    float
        `start` or more.
    """
    if slots_per_gpu < 2 or slots_per_gpu > MOST_SLOTS or start <= 0.0:
        return start
    limit, step = start, FIRST_STEP
    failed = False
    price = 1.2
    big, weight = np.empty(0), np.empty(0)
    while step >= FIRST_STEP:
        tried = limit * (1.0 + step)
        shares = list_shares(load, num_slots - load.size, tried)
        rank = np.empty(shares.size.size, np.int64)
        new = rank_shares(shares.size, tried, slots_per_gpu, rank)
        refuted = _is_too_heavy(shares, rank)
        if not refuted and new.size > 0:
            weight = _carry_over(big, weight, new)
            big = new
            refuted, price = _refutes(shares, rank, num_slots, weight, price)
        limit = tried if refuted else limit
        failed = failed or not refuted
        step *= 0.5 if failed else 4.0
    return max(start, limit * (1.0 - ROUNDING))
